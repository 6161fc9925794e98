# SPDX-License-Identifier: Apache-2.0
"""What was asked, what was acknowledged to whom, and what must be true because of it.

No I/O, and nothing of the charms: the rules here are those of the pages, told a second time.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

MAX_TOGETHER_GIB = 10
"""More than this is never asked for: it fits the smallest storage, wherever shares are."""
ANYONE = "0.0.0.0/0"


@dataclass
class Client:
    """An application that asks for a share, and the machines on which it mounts it."""

    name: str
    application: str
    """The name of nfs-client in the model of the server."""
    principal: str
    share_name: str
    model: str = ""
    """The model that it is of, if that is not the server's."""
    size: int = 1
    allowlist: str = ""
    is_integrated: bool = False
    since: int = 0
    """The number of its integration."""
    units: dict[str, str] = field(default_factory=dict[str, str])
    """Addresses by unit of the principal."""


@dataclass
class Share:
    """A share, from the moment it is made until its data is gone for good."""

    id: str
    name: str
    model: str
    size: int
    owner: str = ""
    """The client that asked first; empty where the rules don't say whose it is now."""
    is_by_hand: bool = False
    granted: set[str] = field(default_factory=set[str])
    """Addresses that an action let in."""
    storage: str = ""
    """The storage instance that it was found on."""
    acked: dict[str, int] = field(default_factory=dict[str, int])
    """Records that were acknowledged as synced, by file."""
    end: Literal["", "forgotten", "deleted", "purged"] = ""
    """Deleted: it is kept, and can be restored."""

    def file(self, writer: str) -> str:
        """Return the name of the file of whoever writes to it."""
        return f"records.{self.id}.{writer.replace('/', '_')}"


@dataclass
class Ledger:
    """All that the judge knows of a model."""

    clients: dict[str, Client] = field(default_factory=dict[str, Client])
    servers: dict[str, str] = field(default_factory=dict[str, str])
    """Server units, with the storage instance that each has; empty for none."""
    detached: list[str] = field(default_factory=list[str])
    """Storage instances that no unit has."""
    shares: list[Share] = field(default_factory=list[Share])
    excused: set[str] = field(default_factory=set[str])
    """Units whose program may fail: what it works on was taken away. Until it is started anew."""
    full: set[str] = field(default_factory=set[str])
    """Shares on which programs may be told ENOSPC."""
    names: int = 0
    """How many names of shares were thought of."""
    second: str = ""
    """The server unit on whose machine a second server was deployed."""
    seconds: int = 0
    """How many of them there were."""
    has_charms_before: bool = False
    errors: dict[str, int] = field(default_factory=dict[str, int])
    """How many errors of the programs on each file were looked at."""
    integrations: int = 0
    """How many of them there were."""
    jumps: int = 0
    """How often a clock was set to another day."""
    tries: int = 0
    """How often somebody tried to mount what he may not."""

    # What is

    @property
    def live(self) -> list[Share]:
        """The shares that exist."""
        return [share for share in self.shares if not share.end]

    def find(self, model: str, name: str) -> Share | None:
        """Return the share of that name that applications of a model get."""
        return next((s for s in self.live if (s.model, s.name) == (model, name)), None)

    def kept(self, model: str, name: str) -> Share | None:
        """Return the deleted share that has a name still: while a unit has it."""
        return next(
            (
                s
                for s in self.shares
                if (s.end, s.model, s.name) == ("deleted", model, name) and self.is_served(s)
            ),
            None,
        )

    def share_of(self, client: Client) -> Share | None:
        """Return the share that a client has because it is integrated."""
        return self.find(client.model, client.share_name) if client.is_integrated else None

    def askers(self, share: Share) -> list[Client]:
        """Return the clients whose integration asks for a share."""
        return [client for client in self.clients.values() if self.share_of(client) is share]

    def is_served(self, share: Share) -> bool:
        """Whether a unit has the storage that the share is on, as far as that is known."""
        return not share.storage or share.storage in self.servers.values()

    def older(self, model: str, name: str) -> Share | None:
        """Return a share of a name that was forgotten and that a unit has."""
        return next(
            (
                s
                for s in self.shares
                if (s.end, s.model, s.name) == ("forgotten", model, name)
                and s.storage in self.servers.values()
            ),
            None,
        )

    def mounts(self) -> dict[str, Share]:
        """Return what must be mounted on the machine of each unit of a principal."""
        return {
            unit: share
            for client in self.clients.values()
            if (share := self.share_of(client)) and self.is_served(share)
            for unit in client.units
        }

    def room(self) -> int:
        """Return the GiB that may be asked for still."""
        kept = sum(share.size for share in self.shares if share.end != "purged")
        told = [it for it in self.clients.values() if it.is_integrated and not self.share_of(it)]
        return MAX_TOGETHER_GIB - kept - sum(max(0, client.size) for client in told)

    # Who may mount it

    def must_admit(self, share: Share) -> set[str]:
        """Return who has to be able to mount a share."""
        owner = self.clients.get(share.owner)
        own = [owner.allowlist] if owner and self.share_of(owner) is share else []
        units = {it for client in self.askers(share) for it in client.units.values()}
        return units | share.granted | _addresses(own)

    def may_admit(self, share: Share) -> set[str]:
        """Return who may be able to mount it: more, where the rules don't say whose it is."""
        lists = [] if share.owner else [client.allowlist for client in self.askers(share)]
        return self.must_admit(share) | _addresses(lists)

    # What is asked

    def is_owner(self, client: Client) -> bool:
        """Whether the client's share is its own."""
        share = self.share_of(client)
        return share is not None and share.owner == client.name

    def is_alone(self, client: Client) -> bool:
        """Whether the client's share is its own and nobody else asks for it."""
        share = self.share_of(client)
        return self.is_owner(client) and share is not None and len(self.askers(share)) == 1

    def is_granted_all(self, client: Client) -> bool:
        """Whether the client has all that it asks for, by whatever rule."""
        share = self.share_of(client)
        if share is None or not self.is_served(share) or share.size != client.size:
            return False
        return self.is_owner(client) or not client.allowlist

    def integrate(self, client: Client) -> Share | None:
        """Note that a client is integrated, and asks."""
        self.integrations += 1
        client.since = self.integrations
        return self.ask(client)

    def ask(self, client: Client) -> Share | None:
        """Note that an integrated client asks for its name; the share is made if need be.

        None is while a deleted one has the name.
        """
        client.is_integrated = True
        share = self.find(client.model, client.share_name)
        if share is None and (share := self.older(client.model, client.share_name)):
            share.end, share.owner = "", client.name  # Its image came back before a new one.
        elif share is None and not self.kept(client.model, client.share_name):
            share = self.make(client.share_name, client.size, client.model)
            share.owner = client.name
        elif share and not share.is_by_hand and self.askers(share) == [client]:
            share.owner = client.name  # Whoever it was before does not ask any more.
        return share

    def _ask_again(self) -> None:
        """Note that names may be free which clients ask for."""
        for client in sorted(self.clients.values(), key=lambda it: it.since):
            if client.is_integrated and not self.share_of(client):
                self.ask(client)

    def make(self, name: str, size: int, model: str = "") -> Share:
        """Note that a share was made."""
        share = Share(f"s{len(self.shares)}", name, model, size)
        self.shares.append(share)
        return share

    def is_size_known(self, share: Share) -> bool:
        """Whether the rules say how large a share is."""
        return bool(share.owner) or all(it.size == share.size for it in self.askers(share))

    def leave(self, client: Client) -> None:
        """Note that a client does not ask for its share any more."""
        share = self.share_of(client)
        client.is_integrated = False
        if share and share.owner == client.name and self.askers(share):
            share.owner = ""

    def new_name(self) -> str:
        """Think of a name that no share ever had."""
        self.names += 1
        return f"n{self.names}"

    # What is taken away

    def purge(self, share: Share) -> None:
        """Note that a deleted share is gone for good."""
        share.end = "purged"
        self._ask_again()

    def restore(self, share: Share, name: str) -> None:
        """Note that a deleted share is a share again: of its owner, if that one asks for it."""
        share.end, share.name = "", name
        askers = sorted(self.askers(share), key=lambda it: it.since)
        if share.owner and askers and share.owner not in [it.name for it in askers]:
            share.owner = askers[0].name
        self._ask_again()

    def excuse(self, share: Share) -> None:
        """Allow the programs on a share to fail."""
        self.excused.update(unit for client in self.askers(share) for unit in client.units)

    def lose(self, server: str) -> list[Share]:
        """Note that a server unit is gone and its storage is kept; the shares on it."""
        return self._detach(self.servers.pop(server))

    def detach(self, server: str) -> list[Share]:
        """Note that a server unit has its storage no more; the shares on it."""
        storage, self.servers[server] = self.servers[server], ""
        return self._detach(storage)

    def _detach(self, storage: str) -> list[Share]:
        if not storage:
            return []
        self.detached.append(storage)
        taken = [share for share in self.live if share.storage == storage]
        for share in taken:
            self.excuse(share)
        self._ask_again()
        return taken

    def attach(self, server: str, storage: str) -> None:
        """Note that a server unit has a storage."""
        if storage in self.detached:
            self.detached.remove(storage)
        self.servers[server] = storage

    # What was acknowledged

    def acknowledge(self, file: str, count: int) -> None:
        """Note that a file has so many synced records."""
        share = self.by_file(file)
        if share:
            share.acked[file] = max(count, share.acked.get(file, 0))

    def by_file(self, file: str) -> Share | None:
        """Return the share whose file this is."""
        identity = file.split(".")[1]
        return next((share for share in self.shares if share.id == identity), None)

    def missing(self, found: dict[str, dict[str, int]]) -> list[str]:
        """Return what was acknowledged and is not there.

        Args:
            found: by server unit, records of each file; no unit, no knowledge.
        """
        wrong: list[str] = []
        for share in self.shares:
            units = [unit for unit, it in self.servers.items() if it == share.storage and it]
            if share.end == "purged" or not share.storage or not set(units) & found.keys():
                continue
            for file, acked in share.acked.items():
                count = found[units[0]].get(file)
                if count is None or count < acked:
                    what = "no such file" if count is None else f"{count} records"
                    wrong.append(
                        f"share {share.name} ({share.id}) on {units[0]}: {file}:"
                        f" {acked} acknowledged, {what}"
                    )
        return wrong

    def lingering(self, found: dict[str, dict[str, int]]) -> list[str]:
        """Return what is there still of shares that are gone for good."""
        purged = {share.id for share in self.shares if share.end == "purged"}
        return [
            f"{unit} has {file}, of a share that was purged"
            for unit, files in found.items()
            for file in files
            if file.split(".")[1] in purged
        ]


def _addresses(allowlists: Iterable[str]) -> set[str]:
    return {it.strip() for text in allowlists for it in text.split(",") if it.strip()}

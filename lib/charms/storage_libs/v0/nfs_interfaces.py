# SPDX-License-Identifier: Apache-2.0
"""Library for the two sides of the `nfs_share` interface: one asks for a share, one gives it.

The requiring side (a client) names the share it wants, its size, and who besides its own units may
mount it. The providing side (a server) answers with an endpoint, or with the reason why not. Names
and wire format are those of the library published in 2023; the code is new. What either side finds
in a databag is data, good or bad: bad data is a value with a reason in it, never an exception.

Edit ``lib/charms/storage_libs/v0/nfs_interfaces.py`` at the top of the repository; the copies in
the charms are made from it (``./dev vendor``).

## Getting started: the requiring side

A charm that reconciles asks `shares()` in every hook, and never misses, repeats or confuses an
event. `request_share` may be called every time too: it writes when something differs, and only on
the leader.

```python
import ops
from charms.storage_libs.v0.nfs_interfaces import NFSRequires


class ReaderCharm(ops.CharmBase):
    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self.nfs_share = NFSRequires(self, "nfs-share")
        for event in (
            self.on["nfs-share"].relation_created,
            self.on.leader_elected,  # Who leads now may be the first that can ask.
            self.on.upgrade_charm,
        ):
            framework.observe(event, self._request)
        framework.observe(self.on.collect_unit_status, self._on_collect_status)

    def _request(self, _: ops.EventBase) -> None:
        for relation in self.nfs_share.integrations:
            self.nfs_share.request_share(relation.id, name="reader", size=1)

    def _on_collect_status(self, event: ops.CollectStatusEvent) -> None:
        event.add_status(self._status())

    def _status(self) -> ops.StatusBase:  # Asked in every hook, with a server and without.
        share = next(iter(self.nfs_share.shares()), None)
        if share is None:
            return ops.BlockedStatus("Missing relation: nfs-share")
        if share.error:  # An endpoint that was granted before is still good.
            return ops.BlockedStatus(f"nfs-server: {share.error}")
        if share.endpoint and share.is_admitted:
            return ops.ActiveStatus(f"mount -t nfs {share.endpoint.source}")
        return ops.WaitingStatus("Waiting for nfs-server")


if __name__ == "__main__":
    ops.main(ReaderCharm)
```

Or by events, each unit for itself. The library remembers what it told, where a charm uses `on`:

- `server_connected`: a server is there and nothing has been asked of it; ask now (leader only).
- `mount_share`: `event.endpoint` is there to be mounted, and this unit may mount it.
- `umount_share`: `event.endpoint` must be unmounted: it moved, was withdrawn, the integration was
  removed, or this unit is leaving it. A moved endpoint gives `umount_share`, then `mount_share`.
- `share_refused`: the server said no; `event.error` says why.
- `share_changed`: the share stays where it is, and has another size; or a refusal was withdrawn.
  `shares()` has both.

## Getting started: the providing side

```python
import ops
from charms.storage_libs.v0.nfs_interfaces import Endpoint, NFSProvides, ShareRequest


class WriterCharm(ops.CharmBase):
    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self.nfs_share = NFSProvides(self, "nfs-share")
        relation = self.on["nfs-share"]
        for event in (
            relation.relation_changed,
            relation.relation_departed,
            relation.relation_broken,
            self.on.leader_elected,  # The last leader may not have answered.
        ):
            framework.observe(event, self._reconcile)
        framework.observe(self.on.collect_unit_status, self._on_collect_status)

    def _reconcile(self, _: ops.EventBase) -> None:
        for request in self.nfs_share.requests():
            if request.error:
                # A slip in a request takes nobody's data away: what was granted stays.
                self.nfs_share.refuse(request.integration_id, request.error)
            elif not request.size.is_limited:
                self.nfs_share.refuse(request.integration_id, "a size is needed here")
            else:
                self.nfs_share.answer(
                    request.integration_id,
                    endpoint=self._serve(request),
                    size=request.size,
                    admitted=request.networks,
                    name=request.name,
                )

    def _serve(self, request: ShareRequest) -> Endpoint:
        # Make a share of request.size.gib GiB, and export it to request.networks alone, here.
        # This one gives each application its own, whatever name it requests.
        binding = self.model.get_binding("nfs-share")
        assert binding
        return Endpoint(str(binding.network.ingress_address), f"/srv/nfs/{request.application}")

    def _on_collect_status(self, event: ops.CollectStatusEvent) -> None:
        event.add_status(ops.ActiveStatus())


if __name__ == "__main__":
    ops.main(WriterCharm)
```

Or by events, on the leader:

- `share_requested`: `event.name`, `event.size`, `event.allowlist` were asked for, or changed, or
  units came or went. A new leader is told of every request again: be idempotent.
- `share_released`: the integration is gone, or asks for nothing any more. It does not come where
  the leader is lost in that moment: who leads next knows of no such request. A charm that must not
  miss it compares `requests()` with what it has.

A unit that leaves an integration (it is being removed) is told as if the integration were gone.

## The keys on the wire

Plain strings in the application databags. Who doesn't know a key ignores it.

| side | key | meaning |
| --- | --- | --- |
| requires | `name` | name of the share; the same name asked of the same server is the same data |
| requires | `allowlist` | addresses and networks that may mount, with commas between them |
| requires | `size` | whole GiB; `-1`, or no such key: no limit but the server's storage |
| requires | `owner` | `uid:gid`, in numbers, of the share's root directory |
| requires | `mode` | its mode: three or four octal digits, from `0000` to `3777` |
| requires | `squash` | whose files users of clients write (exports(5)): `none`, `root`, `all` |
| requires | `access` | `ro`: these units, and the allowlist, may only read |
| provides | `endpoint` | `nfs://host[:port]/path`, or `host:/path`; IPv6 stands in brackets |
| provides | `size` | GiB granted, `-1`: no limit; no such key: not said |
| provides | `error` | why the request as it stands is refused; an endpoint beside it is good |
| provides | `allowlist` | who may mount by now, `127.0.0.1`: nobody; no such key: not said |
| provides | `answers` | the endpoint, a blank, and the name that it was granted for |
| provides | `owner` | of what was requested, what is granted; no such key: not said |
| provides | `mode` | the same |
| provides | `squash` | the same |
| provides | `access` | `ro`: the server lets none of the units write |

In an `allowlist`, `0.0.0.0`, `0.0.0.0/0`, `::` and `::/0` are anyone. The requesting units may
always mount. Where nobody else may, this library writes `127.0.0.1`, from where nobody comes: a
server written with 0.3 fails in its hooks where the key is missing.

Without `owner`, `mode`, `squash` and `access` all is as the server has it. Owner and mode are set
when they are requested, and when the request changes; what is changed afterwards by others stays.
A server that doesn't know these keys (0.7 and before) ignores them, and its answer
(`Share.permissions`) has none of them.

## Testing your charm

The other side is its databag, so that `ops.testing` is all that is needed:

```python
from charm import ReaderCharm
from ops.testing import ActiveStatus, BlockedStatus, Context, Relation, State, WaitingStatus

META = {"name": "reader", "requires": {"nfs-share": {"interface": "nfs_share"}}}


def test_the_share_is_requested_and_used():
    context = Context(ReaderCharm, meta=META)
    server = Relation("nfs-share")
    state = context.run(
        context.on.relation_created(server), State(leader=True, relations={server})
    )
    assert state.get_relation(server.id).local_app_data["name"] == "reader"
    assert state.unit_status == WaitingStatus("Waiting for nfs-server")

    granted = {"endpoint": "nfs://10.0.0.1/srv/nfs/reader", "size": "1"}
    own = {"egress-subnets": "10.0.0.7/32"}
    for answer, status in (
        (granted, ActiveStatus("mount -t nfs 10.0.0.1:/srv/nfs/reader")),
        (granted | {"allowlist": "10.0.0.8"}, WaitingStatus("Waiting for nfs-server")),
        ({"error": "1G requested, 0G free"}, BlockedStatus("nfs-server: 1G requested, 0G free")),
    ):
        server = Relation("nfs-share", remote_app_data=answer, local_unit_data=own)
        state = context.run(context.on.relation_changed(server), State(relations={server}))
        assert state.unit_status == status
```

## Differences from 0.3

For charms that were written with the library of 2023:

- The events are told of changes too: an endpoint that moved, another size, a refusal, a unit that
  may mount later. `umount_share` comes when the share goes, and never because one of several
  units of the server departed. `share_requested` comes again for each change of a request.
- `event.unit` is None, as the data is the application's: use `event.app` and `event.relation`.
- `request_share` raises ValueError for what the interface doesn't allow, and `set_endpoint` for
  what is no endpoint, such as `nfs://None/…`.
- Without an `allowlist` the requesting units alone may mount. 0.3 asked for `0.0.0.0`, anyone.
- `request_share` takes `owner`, `mode`, `squash` and `access`. A server with 0.3 ignores them.
- `server_connected` comes to the leader alone, until it has asked.
- Nothing is kept in databags: the key `cache` is ignored, and removed from our own.
- It needs Python 3.10, as ops 3 does. 0.3 ran on 3.8.
"""

import hashlib
import ipaddress
import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import ops

# The unique Charmhub library identifier, never change it
LIBID = "e70144cb4196455ca4436bec5d1e6a36"

# Increment this major API version when introducing breaking changes
LIBAPI = 0

# Increment this PATCH version before using `charmcraft publish-lib` or reset
# to 0 if you are raising the major API version
LIBPATCH = 10

logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_E = TypeVar("_E", bound="_Events")
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

DEFAULT_PORT = 2049
"""The port of NFS (RFC 7530, section 3.1)."""

ANYONE: tuple[Network, ...] = (
    ipaddress.IPv4Network("0.0.0.0/0"),
    ipaddress.IPv6Network("::/0"),
)
"""The networks that `0.0.0.0`, `0.0.0.0/0`, `::` and `::/0` in an allowlist stand for."""

# What is written for an allowlist of nobody: an empty value is no key, Juju removes it.
_NOBODY = "127.0.0.1"
# exportfs reads every entry of every share at each change, and an operator reads them too.
MAX_ALLOWLIST_ENTRIES = 1000
# A share's name is shown in status messages; and it must not be able to pass for something else
# there, or in a file, by look-alike letters, direction marks or line ends.
_NAME = re.compile(r"[A-Za-z0-9/._:@+-]{1,128}")
_SIZE = re.compile(r"-?[0-9]{1,12}")
_OWNER = re.compile(r"([0-9]{1,10}):([0-9]{1,10})")
# Programs take larger ones for negative numbers: exportfs is one (systemd, UIDS-GIDS).
_MAX_ID = 2**31 - 1
# On a directory the set-user-ID bit has no meaning; the other two have (inode(7)).
_MODE = re.compile(r"[0-3]?[0-7]{3}")
SQUASHES = ("none", "root", "all")
"""Whose files users of clients write: each user's own; so but for root's; one user's."""
READ_ONLY = "ro"
_HOST_NAME = re.compile(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,62})(\.[A-Za-z0-9-]{1,63})*")
_BEFORE_PATH = r"(\[(?P<ipv6>[^\]]*)\]|(?P<host>[^:/\[\]]*))"
_URL = re.compile(rf"nfs://{_BEFORE_PATH}(:(?P<port>[0-9]{{1,5}}))?(?P<path>/.*)")
_SOURCE = re.compile(rf"{_BEFORE_PATH}:(?P<path>/(?!/).*)")
# It ends up in a mount's source, which stands in unit files: no blank, quote, percent sign, comma
# or control character.
_PATH = re.compile(r"(/[A-Za-z0-9._~@:+-]+)+/?|/")
_SLASHES = re.compile("/+")
_BETWEEN = re.compile(r"[,\s]+")
_MAX_PATH = 1024
_MAX_ERROR = 200
_MAX_SHOWN = 60


@dataclass(frozen=True)
class Endpoint:
    """Where a share is to be had: a host, an absolute path there, a TCP port."""

    host: str
    """A name, an IPv4 address, or an IPv6 address (without brackets)."""
    path: str
    port: int = DEFAULT_PORT

    def __post_init__(self) -> None:
        """Check it: what can't be written can't be made.

        Raises:
            ValueError: a part of it is not valid; the message says which.
        """
        if self.host == "None":  # It is what Python makes of an address that isn't there.
            raise ValueError("endpoint host 'None': who wrote it knew no address")
        if not _is_host(self.host):
            raise ValueError(f"endpoint host {_shown(self.host)}: not a host name or IP address")
        is_plain = len(self.path) <= _MAX_PATH and _PATH.fullmatch(self.path)
        if not is_plain or ".." in self.path.split("/"):
            raise ValueError(f"endpoint path {_shown(self.path)}: not a plain absolute path")
        if not 0 < self.port < 2**16:
            raise ValueError(f"endpoint port {self.port}: not one of 1 to 65535")

    @classmethod
    def parse(cls, text: str) -> "Endpoint":
        """Read `nfs://host[:port]/path`, or `host:/path`; an IPv6 address stands in brackets.

        Blanks around it and around the host count for nothing. Several slashes are one:
        `nfs://host//path` is how RFC 2224 writes an absolute path.

        Raises:
            ValueError: it is neither; the message says what is wrong.
        """
        match = _URL.fullmatch(text.strip()) or _SOURCE.fullmatch(text.strip())
        if not match:
            raise ValueError(f"endpoint {_shown(text)}: not of the form nfs://host[:port]/path")
        host = match["host"].strip() if match["ipv6"] is None else _parse_ipv6(match["ipv6"])
        path = _SLASHES.sub("/", match["path"])
        return cls(host, path, int(match.groupdict().get("port") or DEFAULT_PORT))

    def __str__(self) -> str:
        """Write it as the interface does: `nfs://host[:port]/path`."""
        port = "" if self.port == DEFAULT_PORT else f":{self.port}"
        return f"nfs://{self._bracketed}{port}{self.path}"

    @property
    def source(self) -> str:
        """Write it as mount(8) wants it: `host:/path`. The port is a mount option (nfs(5))."""
        return f"{self._bracketed}:{self.path}"

    @property
    def _bracketed(self) -> str:
        return f"[{self.host}]" if ":" in self.host else self.host


def _is_host(text: str) -> bool:
    if ":" not in text:
        return _HOST_NAME.fullmatch(text) is not None
    try:
        _parse_ipv6(text)
    except ValueError:
        return False
    return True


def _parse_ipv6(text: str) -> str:
    """Write an IPv6 address the usual way."""
    try:
        if "%" in text:  # A zone (fe80::1%eth0) names an interface of the machine that wrote it.
            raise ValueError
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        raise ValueError(f"endpoint host {_shown(text)}: not an IPv6 address") from None


@dataclass(frozen=True, order=True)
class Size:
    """The size of a share: unknown < 1 GiB < 2 GiB < … < no limit."""

    gib: int = 0

    @classmethod
    def of(cls, gib: int | None) -> "Size":
        """Take a size in GiB, as `request_share` and `parse_size` have it: None is no limit."""
        return NO_LIMIT if gib is None else cls(gib)

    @property
    def plain(self) -> int | None:
        """Give back what `of` takes: None is no limit, 0 unknown."""
        return self.gib if self.is_limited else None

    @property
    def is_limited(self) -> bool:
        """Whether it is a number of GiB, or unknown."""
        return self != NO_LIMIT

    @property
    def is_known(self) -> bool:
        """Whether anything is known of it."""
        return self != UNKNOWN

    def __str__(self) -> str:
        """Write it as an operator reads it."""
        if not self.is_known:
            return "unknown"
        return f"{self.gib}G" if self.is_limited else "no limit"


@dataclass(frozen=True)
class Permissions:
    """Who owns a share and may write to it, as requested or granted; what is empty isn't said."""

    owner: str = ""
    """`uid:gid` of its root directory, in numbers."""
    mode: str = ""
    """Mode of its root directory, four octal digits."""
    squash: str = ""
    """One of `SQUASHES` (exports(5))."""
    access: str = ""
    """`READ_ONLY`; else writing is allowed."""

    @classmethod
    def parse(cls, data: Mapping[str, str], problems: list[str]) -> "Permissions":
        """Read them by their names; what can't be read is empty, and the reason noted."""
        return cls(
            **{
                key: _try(parse, text, "", problems)
                for key, parse in PERMISSIONS.items()
                if (text := data.get(key, ""))
            }
        )

    def items(self) -> dict[str, str]:
        """Give what `parse` takes: all of them, by their names."""
        return {key: str(getattr(self, key)) for key in PERMISSIONS}


UNSAID = Permissions()
"""None are requested, or granted."""

UNKNOWN = Size(0)
NO_LIMIT = Size(2**63 - 1)
"""No limit but the server's storage."""


@dataclass(frozen=True)
class Share:
    """What the server says to a request: the endpoint, the reason why not, or nothing yet."""

    integration_id: int
    endpoint: Endpoint | None = None
    size: Size = UNKNOWN
    """What is granted; unknown where the server doesn't say."""
    error: str = ""
    """Why the request as it stands is refused; an older grant may still have its endpoint."""
    is_admitted: bool = True
    """Whether this unit may mount by now: a server learns of the units one by one. True where it
    doesn't say whom it admits."""
    permissions: Permissions = UNSAID
    """What is granted of those that were requested, in the server's words."""
    name: str = ""
    """The name that the endpoint was granted for: after a change of the request, that may be the
    one before. Empty where the server doesn't say (0.8 and before)."""


@dataclass(frozen=True)
class ShareRequest:
    """What a client application asks for.

    Where a part of it can't be read, `error` says which and what is allowed, and the part is
    empty: a share that exists can go on being served to `networks`, so that a slip in one value
    doesn't take the data away. Nothing is to be made or resized for such a request.
    """

    integration_id: int
    application: str
    name: str
    """Empty if it can't be read."""
    size: Size
    """Unknown if it can't be read."""
    allowlist: tuple[Network, ...]
    """Who may mount besides the requesting units. Sorted, each once."""
    clients: tuple[Network, ...]
    """The addresses from which Juju says the requesting units come. Sorted, each once."""
    error: str = ""
    permissions: Permissions = UNSAID

    @property
    def networks(self) -> tuple[Network, ...]:
        """All that may mount."""
        return sorted_networks({*self.allowlist, *self.clients})


def parse_name(text: str) -> str:
    """Check the name of a share and return it.

    Raises:
        ValueError: it is no valid name; the message says what is.
    """
    if not _NAME.fullmatch(text):
        raise ValueError(
            f"share name {_shown(text)}: use 1 to 128 letters, digits and characters of /._:@+-"
        )
    if ".." in text.split("/"):
        raise ValueError(f"share name {_shown(text)}: '..' is not allowed in it")
    return text


def parse_size(text: str) -> int | None:
    """Read a size in whole GiB; None, no limit, for "-1" and for none given.

    Raises:
        ValueError: it is no such size; the message says what is.
    """
    plain = text.strip()
    size = int(plain) if _SIZE.fullmatch(plain) else -1 if not text else 0
    if size < -1 or size == 0:
        raise ValueError(f"size {_shown(text)}: use whole gigabytes from 1, or -1 for no limit")
    return None if size == -1 else size


def parse_owner(text: str) -> str:
    """Read an owner, `uid:gid`, and return it without leading zeros.

    Raises:
        ValueError: it is none; the message says what is.
    """
    match = _OWNER.fullmatch(text.strip())
    ids = [int(number) for number in match.groups()] if match else []
    if not ids or max(ids) > _MAX_ID:
        raise ValueError(
            f"owner {_shown(text)}: use uid:gid, two numbers up to {_MAX_ID}, such as 1000:1000"
        )
    return f"{ids[0]}:{ids[1]}"


def parse_mode(text: str) -> str:
    """Read the mode of a directory and return it with four octal digits.

    Raises:
        ValueError: it is none; the message says what is.
    """
    if not _MODE.fullmatch(text.strip()):
        raise ValueError(
            f"mode {_shown(text)}: use three or four octal digits up to 3777, such as 0770"
        )
    return text.strip().zfill(4)


def parse_squash(text: str) -> str:
    """Check a squash and return it.

    Raises:
        ValueError: it is none; the message says what is.
    """
    if text.strip() not in SQUASHES:
        raise ValueError(f"squash {_shown(text)}: use {', '.join(SQUASHES)}")
    return text.strip()


def parse_access(text: str) -> str:
    """Check an access and return it: there is one.

    Raises:
        ValueError: it is none; the message says what is.
    """
    if text.strip() != READ_ONLY:
        raise ValueError(f"access {_shown(text)}: use {READ_ONLY}, or nothing to read and write")
    return READ_ONLY


PERMISSIONS: Mapping[str, Callable[[str], str]] = {
    "owner": parse_owner,
    "mode": parse_mode,
    "squash": parse_squash,
    "access": parse_access,
}
"""How each of a `Permissions` is read, by its key on the wire."""


def parse_allowlist(text: str) -> tuple[Network, ...]:
    """Read a list of IP addresses and networks; commas or blanks are between them.

    Raises:
        ValueError: an entry is neither, or there are too many; the message names it.
    """
    count = len(_items(text))
    if count > MAX_ALLOWLIST_ENTRIES:
        raise ValueError(
            f"allowlist: {count} entries, more than the {MAX_ALLOWLIST_ENTRIES} allowed"
        )
    return _parse_networks(text)


def _items(text: str) -> list[str]:
    return [item for item in _BETWEEN.split(text) if item]


def _parse_networks(text: str) -> tuple[Network, ...]:
    return sorted_networks({it for item in _items(text) for it in _parse_network(item)})


def _parse_network(item: str) -> tuple[Network, ...]:
    try:
        if "%" in item:
            raise ValueError
        network = ipaddress.ip_network(item, strict=False)
    except ValueError:
        raise ValueError(
            f"allowlist entry {_shown(item)}: use an IP address or network such as 10.0.0.0/24"
        ) from None
    if network.network_address.is_unspecified and network.prefixlen in {0, network.max_prefixlen}:
        return ANYONE
    return (network,)


def sorted_networks(networks: Iterable[Network]) -> tuple[Network, ...]:
    """Sort networks, IPv4 before IPv6."""
    return tuple(sorted(networks, key=lambda n: (n.version, int(n.network_address), n.prefixlen)))


def _shown(text: str) -> str:
    """Show hostile text in a message: on one line, escaped, not too long."""
    shown = ascii(text[:_MAX_SHOWN])
    return shown if len(shown) <= _MAX_SHOWN else shown[: _MAX_SHOWN - 3] + "..."


class _ShareEvent(ops.RelationEvent):
    """An event that carries one text through a deferral."""

    def __init__(
        self,
        handle: ops.Handle,
        relation: ops.Relation,
        app: ops.Application | None = None,
        unit: ops.Unit | None = None,
        text: str = "",
    ):
        super().__init__(handle, relation, app=app, unit=unit)
        self._text = text

    def snapshot(self) -> dict[str, Any]:
        """Save it for a deferral."""
        return {**super().snapshot(), "text": self._text}

    def restore(self, snapshot: dict[str, Any]) -> None:
        """Bring it back after a deferral."""
        super().restore(snapshot)
        self._text = snapshot["text"]


class ServerConnectedEvent(ops.RelationEvent):
    """A server is integrated, and nothing has been asked of it yet (leader only)."""


class MountShareEvent(_ShareEvent):
    """The share is there to be mounted."""

    @property
    def endpoint(self) -> str:
        """Where it is: `nfs://host[:port]/path`, checked."""
        return self._text


class UmountShareEvent(_ShareEvent):
    """The share must be unmounted: it goes, or this unit does."""

    @property
    def endpoint(self) -> str:
        """Where it was, also when the databag doesn't say any more."""
        return self._text


class ShareRefusedEvent(_ShareEvent):
    """The server refuses the request as it stands."""

    @property
    def error(self) -> str:
        """Why."""
        return self._text


class ShareChangedEvent(ops.RelationEvent):
    """The share has another size, or a refusal was withdrawn; `shares()` has both."""


class _RequestEvent(ops.RelationEvent):
    """An event about a request; reads what stands in the client's databag now."""

    def _get(self, key: str) -> str | None:
        return _remote_data(self.relation).get(key)

    @property
    def name(self) -> str | None:
        """Name of the share."""
        return self._get("name")

    @property
    def allowlist(self) -> str | None:
        """Comma-separated addresses and networks that may mount besides the requesting units."""
        return self._get("allowlist")

    @property
    def size(self) -> str | None:
        """Size in GiB; `-1`, or none, for no limit."""
        return self._get("size")


class ShareRequestedEvent(_RequestEvent):
    """A client asks for a share, or asks for something else than before."""


class ShareReleasedEvent(_RequestEvent):
    """A client asks for its share no more."""


class _Events(ops.ObjectEvents):
    """Events that the library emits, and remembers what it told, where a charm observes them."""

    def __get__(self: _E, emitter: ops.Object | None, emitter_type: type[ops.Object]) -> _E:
        if isinstance(emitter, _Interface):
            emitter.is_observed = True
        return super().__get__(emitter, emitter_type)


class _RequiresEvents(_Events):
    server_connected = ops.EventSource(ServerConnectedEvent)
    mount_share = ops.EventSource(MountShareEvent)
    umount_share = ops.EventSource(UmountShareEvent)
    share_refused = ops.EventSource(ShareRefusedEvent)
    share_changed = ops.EventSource(ShareChangedEvent)


class _ProvidesEvents(_Events):
    share_requested = ops.EventSource(ShareRequestedEvent)
    share_released = ops.EventSource(ShareReleasedEvent)


def _remote_data(relation: ops.Relation) -> dict[str, str]:
    """Read what the other application says, without an older peer's bookkeeping."""
    if relation.app is None:  # pyright: ignore[reportUnnecessaryComparison]  # Juju may not say.
        return {}
    return {key: value for key, value in relation.data[relation.app].items() if key != "cache"}


class _Interface(ops.Object):
    """What both sides share."""

    # What this unit was last told of, by integration: for the events alone, which are about
    # change, and kept by ops on this unit. Nothing of it goes into relation data.
    _seen = ops.StoredState()

    def __init__(self, charm: ops.CharmBase, integration_name: str):
        super().__init__(charm, integration_name)
        self.charm = charm
        self.app = charm.app
        self.unit = charm.unit
        self.integration_name = integration_name
        self.is_observed = False
        self._told: dict[str, dict[str, str]] = {}
        relation_events = charm.on[integration_name]
        for event in (
            relation_events.relation_created,
            relation_events.relation_joined,
            relation_events.relation_changed,
            relation_events.relation_departed,
            relation_events.relation_broken,
            charm.on.leader_elected,
            charm.on.upgrade_charm,
        ):
            self.framework.observe(event, self._on_event)

    def _on_event(self, event: ops.EventBase) -> None:
        if not isinstance(event, ops.RelationEvent):
            for relation in self.integrations:
                is_upgrade = isinstance(event, ops.UpgradeCharmEvent)
                self._drop_cache(relation, is_upgrade=is_upgrade)
        if self.is_observed:
            self._tell(event)

    def _tell(self, event: ops.EventBase) -> None:
        """Emit what is new, and remember it."""
        self._seen.set_default(told={})
        told = cast("Mapping[str, Mapping[str, str]]", self._seen.told)
        self._told = {key: dict(value) for key, value in told.items()}
        before = dict(self._told)
        if isinstance(event, ops.RelationDepartedEvent) and event.departing_unit == self.unit:
            self._notice_gone(event.relation)
        elif isinstance(event, ops.RelationEvent):
            # Of this one alone: this unit may have left another that is not broken yet.
            if event.relation.active:
                self._notice(event.relation)
        else:
            for relation in self.integrations:
                self._notice(relation)
        for relation_id in self._gone():
            if relation := self.model.get_relation(self.integration_name, relation_id):
                self._notice_gone(relation)
        if self._told != before:  # At once: with a thousand integrations, each write takes long.
            self._seen.told = self._told

    def _gone(self) -> set[int]:
        """Integrations broken by this event, or by one whose hook was skipped (juju resolved)."""
        return {int(key) for key in self._told} - {relation.id for relation in self.integrations}

    def _drop_cache(self, relation: ops.Relation, *, is_upgrade: bool) -> None:
        """Remove what an older revision of this library kept in our databags."""
        if is_upgrade:
            relation.data[self.unit].pop("cache", None)
        if self.unit.is_leader():
            relation.data[self.app].pop("cache", None)

    def _notice(self, relation: ops.Relation) -> None:
        raise NotImplementedError

    def _notice_gone(self, relation: ops.Relation) -> None:
        raise NotImplementedError

    def _recall(self, relation: ops.Relation) -> dict[str, str]:
        return self._told.get(str(relation.id), {})

    def _remember(self, relation: ops.Relation, told: dict[str, str]) -> None:
        if told:
            self._told[str(relation.id)] = told
        else:
            self._told.pop(str(relation.id), None)

    @property
    def integrations(self) -> list[ops.Relation]:
        """The integrations that are there; not one that is being removed."""
        return [r for r in self.model.relations[self.integration_name] if r.active]

    def fetch_data(self) -> dict[int, dict[str, str]]:
        """Read what the other applications say, raw, by integration ID."""
        return {relation.id: _remote_data(relation) for relation in self.integrations}

    def _publish(self, integration_id: int, data: Mapping[str, str]) -> None:
        """Make keys of our application databag so; an empty value removes its key.

        ops compares first, and writes nothing where nothing differs.
        """
        if relation := self._led(integration_id):
            relation.data[self.app].update(data)

    def _led(self, integration_id: int) -> ops.Relation | None:
        """Find an integration to read or write our application databag of; only a leader can."""
        relations = self.model.relations[self.integration_name]
        found = (it for it in relations if it.id == integration_id and it.active)
        return next(found, None) if self.unit.is_leader() else None


class NFSRequires(_Interface):
    """The side that wants a share."""

    on = _RequiresEvents()  # pyright: ignore[reportAssignmentType]  # As ops documents it.

    def shares(self) -> tuple[Share, ...]:
        """Read what the servers say, one share per integration; bad data is its `error`."""
        return tuple(self._read(relation) for relation in self.integrations)

    def _read(self, relation: ops.Relation) -> Share:
        data = _remote_data(relation)
        problems: list[str] = []
        text = data.get("endpoint", "")
        endpoint = _try(Endpoint.parse, text, None, problems) if text else None
        size = _try(_parse_granted, data.get("size", ""), UNKNOWN, problems)
        admitted = _try(_parse_networks, data.get("allowlist", ""), (), problems)
        own = _addresses(relation.data[self.unit], self.unit.name)
        is_admitted = not (own and admitted) or any(is_in(network, admitted) for network in own)
        # In the server's words: they are compared with what was requested, and nothing else.
        granted = Permissions(**{key: data.get(key, "") for key in PERMISSIONS})
        # Beside another endpoint, written by a server of before 0.9, it says nothing.
        answered, _, name = data.get("answers", "").partition(" ")
        is_named = text and answered == text
        name = _try(parse_name, name, "", problems) if is_named else ""
        error = _one_line(data.get("error", "")) or next(iter(problems), "")
        return Share(relation.id, endpoint, size, error, is_admitted, granted, name)

    def request_share(
        self,
        integration_id: int,
        name: str,
        allowlist: str | Sequence[str] | None = None,
        size: int | None = None,
        *,
        owner: str = "",
        mode: str = "",
        squash: str = "",
        access: str = "",
    ) -> None:
        """Ask for a share, or for a change of what was asked; does nothing but on the leader.

        Args:
            integration_id: the integration with the server.
            name: name of the share. Who asks the same server for the same name gets the same data.
            allowlist: addresses and networks that may mount besides this application's units. They
                are sent as they stand here, with commas between them.
            size: GiB; None or -1: no limit but the server's storage.
            owner: `uid:gid`, in numbers, of the share's root directory.
            mode: its mode, in octal digits.
            squash: one of `SQUASHES`.
            access: `READ_ONLY`: this application's units and the allowlist may only read.

        Of the last four, what is empty is not requested: it is as the server has it.

        Raises:
            ValueError: an argument is not what the interface allows; the message says which.
        """
        entries = ",".join([allowlist] if isinstance(allowlist, str) else allowlist or [])
        wanted = "-1" if size is None else str(size)
        parse_allowlist(entries)
        parse_size(wanted)
        asked = {"owner": owner, "mode": mode, "squash": squash, "access": access}
        self._publish(
            integration_id,
            {
                "name": parse_name(name),
                "allowlist": ",".join(_items(entries)) or _NOBODY,
                "size": wanted,
                **{key: PERMISSIONS[key](text) if text else "" for key, text in asked.items()},
            },
        )

    def _notice(self, relation: ops.Relation) -> None:
        share, before = self._read(relation), self._recall(relation)
        mounted, refused = before.get("endpoint", ""), before.get("error", "")
        # One that can't be read is not one that was withdrawn.
        is_said = bool(_remote_data(relation).get("endpoint"))
        endpoint, size = str(share.endpoint or (mounted if is_said else "")), str(share.size)
        if mounted and mounted != endpoint:
            self.on.umount_share.emit(relation, app=relation.app, text=mounted)
            mounted = ""
        is_new = bool(endpoint) and not mounted and share.is_admitted
        if is_new:
            self.on.mount_share.emit(relation, app=relation.app, text=endpoint)
            mounted = endpoint
        if share.error and share.error != refused:
            self.on.share_refused.emit(relation, app=relation.app, text=share.error)
        is_resized = mounted and before.get("size", size) != size
        if not is_new and (is_resized or (refused and not share.error)):
            self.on.share_changed.emit(relation, app=relation.app)
        if self.unit.is_leader() and not relation.data[self.app].get("name"):
            self.on.server_connected.emit(relation, app=relation.app)
        now = {"endpoint": mounted, "error": share.error, "size": size}
        self._remember(relation, now if mounted or share.error else {})

    def _notice_gone(self, relation: ops.Relation) -> None:
        if endpoint := self._recall(relation).get("endpoint"):
            self.on.umount_share.emit(relation, app=relation.app, text=endpoint)
        self._remember(relation, {})


class NFSProvides(_Interface):
    """The side that has shares to give."""

    on = _ProvidesEvents()  # pyright: ignore[reportAssignmentType]  # As ops documents it.

    def requests(self) -> tuple[ShareRequest, ...]:
        """Read what the clients ask for, by integration ID; who hasn't asked yet is left out."""
        relations = sorted(self.integrations, key=lambda relation: relation.id)
        return tuple(request for relation in relations if (request := self._read(relation)))

    def _read(self, relation: ops.Relation) -> ShareRequest | None:
        data = _remote_data(relation)
        if "name" not in data:
            return None
        problems: list[str] = []
        return ShareRequest(
            integration_id=relation.id,
            application=relation.app.name,
            name=_try(parse_name, data["name"], "", problems),
            size=_try(_parse_asked, data.get("size", ""), UNKNOWN, problems),
            allowlist=_try(_parse_others, data.get("allowlist", ""), (), problems),
            clients=client_networks(relation),
            permissions=Permissions.parse(data, problems),
            error="; ".join(problems),
        )

    def answered(self, integration_id: int) -> Share:
        """Read what the client was told. On the leader; nothing elsewhere."""
        relation = self._led(integration_id)
        data = relation.data[self.app] if relation else dict[str, str]()
        return Share(
            integration_id,
            _try(Endpoint.parse, data.get("endpoint", ""), None, []),
            _try(_parse_granted, data.get("size", ""), UNKNOWN, []),
            data.get("error", ""),
            permissions=Permissions.parse(data, []),
        )

    def refusals(self) -> tuple[tuple[str, str], ...]:
        """Read what was refused: names of client applications, and why. On the leader."""
        answers = ((r.app.name, r.data[self.app].get("error", "")) for r in self.integrations)
        return tuple((name, error) for name, error in answers if error)

    def answer(
        self,
        integration_id: int,
        *,
        endpoint: Endpoint | None = None,
        size: Size = UNKNOWN,
        error: str = "",
        admitted: Iterable[Network] | None = None,
        permissions: Permissions = UNSAID,
        name: str = "",
    ) -> None:
        """Say all that is to be said to a client; what is not given is withdrawn. On the leader.

        Args:
            integration_id: the integration with the client.
            endpoint: where the share is.
            size: what is granted.
            error: why the request as it stands is refused. An endpoint granted before may stay.
            admitted: who may mount by now; none in it: nobody. Units that are not among them wait
                until they are; where nothing is said (None) they try at once.
            permissions: what is granted of those that were requested.
            name: for which the endpoint was granted. Empty: what was said of that stays, as for a
                request whose name can't be read.
        """
        if not name and (relation := self._led(integration_id)):
            name = relation.data[self.app].get("answers", "").partition(" ")[2]
        nobody = _NOBODY if endpoint and admitted is not None else ""
        self._publish(
            integration_id,
            {
                "endpoint": str(endpoint) if endpoint else "",
                "answers": f"{endpoint} {name}" if endpoint and name else "",
                "size": _written(size),
                "error": _one_line(error),
                "allowlist": ",".join(map(str, admitted or ())) or nobody,
                **permissions.items(),
            },
        )

    def refuse(self, integration_id: int, error: str) -> None:
        """Say why a request is refused; what was granted before stays. On the leader."""
        self._publish(integration_id, {"error": _one_line(error)})

    def set_endpoint(self, integration_id: int, endpoint: str) -> None:
        """Grant a request: set where the share is, and take back a refusal. On the leader.

        Raises:
            ValueError: the endpoint is not of the form nfs://host[:port]/path.
        """
        self.answer(integration_id, endpoint=Endpoint.parse(endpoint))

    def _notice(self, relation: ops.Relation) -> None:
        # Who doesn't lead forgets, and is told of every request anew when it leads again.
        request = self._read(relation) if self.unit.is_leader() else None
        if request is None:
            self._notice_gone(relation)
            return
        now = {"request": hashlib.sha256(repr(request).encode()).hexdigest()}
        if now != self._recall(relation):
            self.on.share_requested.emit(relation, app=relation.app)
        self._remember(relation, now)

    def _notice_gone(self, relation: ops.Relation) -> None:
        if self._recall(relation) and self.unit.is_leader():
            self.on.share_released.emit(relation, app=relation.app)
        self._remember(relation, {})


def _parse_asked(text: str) -> Size:
    return Size.of(parse_size(text))


def _parse_granted(text: str) -> Size:
    return Size.of(parse_size(text)) if text else UNKNOWN


def _parse_others(text: str) -> tuple[Network, ...]:
    nobody = ipaddress.ip_network(_NOBODY)
    return tuple(network for network in parse_allowlist(text) if network != nobody)


def _written(size: Size) -> str:
    """Write a size that is granted; one that is unknown has no key."""
    if not size.is_known:
        return ""
    return str(size.gib) if size.is_limited else "-1"


def _try(parse: Callable[[str], _T], text: str, default: _T, problems: list[str]) -> _T:
    try:
        return parse(text)
    except ValueError as problem:
        problems.append(str(problem))
        return default


def client_networks(
    relation: ops.Relation, units: Iterable[ops.Unit] | None = None
) -> tuple[Network, ...]:
    """Find the addresses of units on the other side of an integration, of any interface.

    Args:
        relation: the integration.
        units: some of its units, or the one that departs; all of them where none are given.
    """
    return sorted_networks(
        {
            it
            for unit in (relation.units if units is None else units)
            for it in _addresses(relation.data[unit], unit.name)
        }
    )


def _addresses(data: Mapping[str, str], unit: str) -> tuple[Network, ...]:
    """The addresses of a unit, as Juju gives them in its databag.

    `egress-subnets` is where traffic comes from, cross-model too; the other keys are what older
    Juju versions have (Juju docs, network-get).
    """
    keys = ("egress-subnets", "ingress-address", "private-address")
    text = next((data[key] for key in keys if data.get(key)), "")
    try:
        return parse_allowlist(text)
    except ValueError as problem:
        # Its charm wrote it there: Juju itself writes addresses. Nobody gets in by it.
        logger.warning("unit %s has no usable address: %s", unit, problem)
        return ()


def is_in(network: Network, others: Iterable[Network]) -> bool:
    """Whether a network lies in one of others."""
    return any(
        network.version == other.version
        and network.prefixlen >= other.prefixlen
        and network.network_address in other
        for other in others
    )


def _one_line(text: str) -> str:
    """Make text fit for a status message: printable, on one line, of bounded length."""
    plain = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return plain if len(plain) <= _MAX_ERROR else plain[: _MAX_ERROR - 3] + "..."

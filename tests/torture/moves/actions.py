# SPDX-License-Identifier: Apache-2.0
"""The actions of the server, in any order."""

import asyncio
import re
import shlex
from typing import Any

from tests.torture.ledger import Ledger
from tests.torture.machines import OUTSIDER, SERVER, Machines, Outcome
from tests.torture.moves.candidates import deleted, share_by_id, shares, unit_of
from tests.torture.moves.machines import hooks
from tests.torture.steps import IDLE_TIMEOUT_S, TOLD_TIMEOUT_S, move

MAX_SIZE = 3
OPERATORS_RECORDS = 20


def _completed(outcome: Outcome, what: str) -> None:
    assert outcome.completed or outcome.was_killed, f"{what}: {outcome.message}"


@move(
    lambda it: [(size, by) for size in (1, 2) for by in ("", OUTSIDER) if it.room() >= size],
    weight=2,
)
async def create_share(machines: Machines, ledger: Ledger, size: int, allowlist: str) -> None:
    """A share by hand, on which the operator puts data on the server."""
    share = ledger.make(ledger.new_name(), size)
    share.is_by_hand, share.granted = True, {allowlist} - {""}
    outcome = await machines.act(
        await machines.leader(), "create-share", share=share.name, size=size, allowlist=allowlist
    )
    _completed(outcome, f"create-share {share.name}")
    async with asyncio.timeout(TOLD_TIMEOUT_S):
        while not (found := _place(await machines.listed(share.name))):
            await asyncio.sleep(0.5)
    await machines.idle(IDLE_TIMEOUT_S)
    unit, path = found
    file = share.file("operator")
    await machines.write_on_server(unit, path, file, OPERATORS_RECORDS)
    ledger.acknowledge(file, OPERATORS_RECORDS)
    share.storage = ledger.servers[unit]


def _place(listed: Any) -> tuple[str, str] | None:
    """Return unit and path of a share that list-shares lists, by whatever keys."""
    words = [str(it) for it in listed.values()]
    units = [it for it in words if re.fullmatch(rf"{SERVER}/\d+", it)]
    paths = [it for it in words if re.fullmatch(r"/\S+/\S+", it) and it != listed.get("name")]
    return (units[0], paths[0]) if units and paths else None


@move(
    lambda it: (
        shares(
            it,
            lambda s: s.is_by_hand and not it.askers(s) and it.is_served(s) and s.size < MAX_SIZE,
        )
        if it.room() > 0
        else []
    )
)
async def resize_share(machines: Machines, ledger: Ledger, identity: str) -> None:
    share = share_by_id(ledger, identity)
    share.size += 1
    leader = await machines.leader()
    outcome = await machines.act(leader, "resize-share", share=share.name, size=share.size)
    _completed(outcome, f"resize-share {share.name} {share.size}")


@move(lambda it: shares(it, lambda s: it.is_served(s) and OUTSIDER not in s.granted))
async def grant_access(machines: Machines, ledger: Ledger, identity: str) -> None:
    share = share_by_id(ledger, identity)
    share.granted.add(OUTSIDER)
    leader = await machines.leader()
    outcome = await machines.act(leader, "grant-access", share=share.name, allowlist=OUTSIDER)
    _completed(outcome, f"grant-access {share.name}")


@move(lambda it: shares(it, lambda s: it.is_served(s) and OUTSIDER in s.granted))
async def revoke_access(machines: Machines, ledger: Ledger, identity: str) -> None:
    share = share_by_id(ledger, identity)
    share.granted.discard(OUTSIDER)
    leader = await machines.leader()
    outcome = await machines.act(leader, "revoke-access", share=share.name, allowlist=OUTSIDER)
    _completed(outcome, f"revoke-access {share.name}")


@move(lambda it: shares(it, lambda s: bool(s.storage) and it.is_served(s)), weight=4)
async def delete_share(machines: Machines, ledger: Ledger, identity: str) -> None:
    """Refused while somebody asks for it; else it is kept, and has its name and its data."""
    share = share_by_id(ledger, identity)
    outcome = await machines.act(
        unit_of(ledger, share), "delete-share", share=share.name, confirm=share.name
    )
    if ledger.askers(share):
        assert not outcome.completed, f"delete-share {share.name}: it is asked for"
        return
    _completed(outcome, f"delete-share {share.name}")
    share.end = "deleted"


@move(lambda it: [(*its, other) for its in deleted(it) for other in (0, 1)], weight=4)
async def restore_share(machines: Machines, ledger: Ledger, identity: str, other: int) -> None:
    """Under its name, refused where another has that; or under another name."""
    share = share_by_id(ledger, identity)
    name = ledger.new_name() if other else share.name
    outcome = await machines.act(
        unit_of(ledger, share), "restore-share", share=share.name, name=name
    )
    if ledger.find(share.model, name):
        assert not outcome.completed, f"restore-share {name}: there is one of that name"
        return
    _completed(outcome, f"restore-share {share.name} as {name}")
    ledger.restore(share, name)


@move(deleted)
async def purge_share(machines: Machines, ledger: Ledger, identity: str) -> None:
    """Its data is gone, for good, and its name is free."""
    share = share_by_id(ledger, identity)
    outcome = await machines.act(
        unit_of(ledger, share), "purge-share", share=share.name, confirm=share.name
    )
    _completed(outcome, f"purge-share {share.name}")
    ledger.purge(share)


# The count of what is kept, as a machine writes it that ran for all of its days.
PASSED = """
import glob, json, os, sys
for path in glob.glob("/var/lib/juju/storage/*/*/*.json"):
    said = json.load(open(path))
    if os.path.exists(path.removesuffix("json") + "deleted") and said["name"] == sys.argv[1]:
        said["deleted"]["counted_s"] = said["deleted"]["keep_s"]
        with open(path + ".new", "w") as file:
            json.dump(said, file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(path + ".new", path)
"""


@move(deleted)
async def let_its_day_pass(machines: Machines, ledger: Ledger, identity: str) -> None:
    """An event ends what was kept for its days."""
    share = share_by_id(ledger, identity)
    command = f"python3 -c {shlex.quote(PASSED)} {shlex.quote(share.name)}; sync"
    await machines.run(unit_of(ledger, share), command)
    await hooks(machines, ledger)
    await machines.idle(IDLE_TIMEOUT_S)
    ledger.purge(share)


@move(lambda it: shares(it, lambda s: bool(s.storage)))
async def forget_share(machines: Machines, ledger: Ledger, identity: str) -> None:
    """Refused unless it is lost; then whoever asks for it gets a new one."""
    share = share_by_id(ledger, identity)
    leader = await machines.leader()
    outcome = await machines.act(leader, "forget-share", share=share.name, confirm=share.name)
    if ledger.is_served(share):
        assert not outcome.completed, f"forget-share {share.name}: it is there"
        return
    if ledger.older(share.model, share.name):
        assert not outcome.completed, f"forget-share {share.name}: an older one is there"
        return
    _completed(outcome, f"forget-share {share.name}")
    askers = ledger.askers(share)
    share.end = "forgotten"
    for client in askers:
        ledger.ask(client)


@move(
    lambda it: [
        (*s, visited)
        for s in shares(it, lambda s: bool(s.storage) and it.is_served(s))
        for visited in (0, 1)
    ]
)
async def check_share(machines: Machines, ledger: Ledger, identity: str, visited: int) -> None:
    """With a shell in its directory on the server, perhaps: then it may be refused."""
    share = share_by_id(ledger, identity)
    server = unit_of(ledger, share)
    place = _place(await machines.listed(share.name))
    if visited and place:
        command = f"systemd-run --quiet --unit=visit --working-directory={place[1]} sleep 600"
        await machines.run(server, command)
    outcome = await machines.act(server, "check-share", share=share.name)
    if visited:
        await machines.run(server, "systemctl stop visit; systemctl reset-failed visit || true")
    if not visited and not ledger.askers(share):
        _completed(outcome, f"check-share {share.name}")


@move(lambda it: [(unit,) for unit in it.servers], weight=1)
async def list_shares(machines: Machines, ledger: Ledger, unit: str) -> None:
    outcome = await machines.act(unit, "list-shares")
    _completed(outcome, "list-shares")
    said = [str(it["name"]) for it in outcome.results.values() if isinstance(it, dict)]
    said += [name.partition("@")[0] + "@" for name in said if "@" in name]
    for share in ledger.live:
        name = f"{share.name}@" if share.model else share.name  # And the UUID of the model.
        assert outcome.was_killed or name in said, f"list-shares has no {name}: {said}"
    for (identity,) in deleted(ledger):
        name = share_by_id(ledger, str(identity)).name
        assert outcome.was_killed or name in said, f"list-shares has no deleted {name}: {said}"

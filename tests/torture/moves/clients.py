# SPDX-License-Identifier: Apache-2.0
"""What an operator does with clients."""

import asyncio

from tests.torture.ledger import ANYONE, Client, Ledger, Share
from tests.torture.machines import OUTSIDER, Machines
from tests.torture.moves.candidates import (
    clients,
    is_integrated,
    is_served,
    may_go,
    shares,
    unit_of,
)
from tests.torture.steps import IDLE_TIMEOUT_S, TOLD_TIMEOUT_S, move

MAX_SIZE = 3
LATE_S = 3.0
"""After so long a program ends whose share is taken away in order."""


@move(lambda it: clients(it, lambda ledger, client: _can_ask(ledger, client)), weight=8)
async def integrate(machines: Machines, ledger: Ledger, name: str) -> None:
    client = ledger.clients[name]
    share = _known(ledger, client, client.share_name)
    if share and share.size != client.size:
        client.size = share.size
        await machines.configure(client.application, size=client.size)
    await machines.integrate(client)
    ledger.integrate(client)


def _known(ledger: Ledger, client: Client, name: str) -> Share | None:
    """Return the share of a name, or the deleted one that has it still."""
    return ledger.find(client.model, name) or ledger.kept(client.model, name)


def _can_ask(ledger: Ledger, client: Client) -> bool:
    is_there = ledger.find(client.model, client.share_name) is not None
    return not client.is_integrated and (is_there or ledger.room() >= client.size > 0)


@move(lambda it: [(*c, late) for c in clients(it, is_integrated, may_go) for late in (0, 1)])
async def remove_relation(machines: Machines, ledger: Ledger, name: str, late: int) -> None:
    """The programs on it end before, or are told to end a little later: in order all the same."""
    client = ledger.clients[name]
    if not late:
        await machines.stop_writing(*client.units)
    await machines.separate(client)
    if late:
        await asyncio.sleep(LATE_S)  # Time in which a client must not be cut off.
        await machines.stop_writing(*client.units)
    ledger.leave(client)


@move(
    lambda it: clients(it, is_served, lambda ledger, client: ledger.is_alone(client)),
    weight=1,
    has_fate=False,
)
async def leave_in_use(machines: Machines, ledger: Ledger, name: str) -> None:
    """An integration is removed under programs that go on; the data is not to be deleted then."""
    client = ledger.clients[name]
    share = ledger.share_of(client)
    assert share
    await machines.separate(client)
    await machines.idle(IDLE_TIMEOUT_S)
    if share.storage and (share.id,) in shares(ledger, lambda _: True):
        server = unit_of(ledger, share)
        outcome = await machines.act(server, "delete-share", share=share.name, confirm=share.name)
        assert not outcome.completed, f"{share.name} was deleted under a client that has it open"
    ledger.excuse(share)
    await machines.stop_writing(*client.units, kill=True)
    ledger.leave(client)


def _can_grow(ledger: Ledger, client: Client) -> bool:
    is_all = ledger.is_owner(client) and ledger.is_granted_all(client)
    return is_all and client.size < MAX_SIZE and ledger.room() > 0


@move(lambda it: clients(it, _can_grow), weight=3)
async def grow(machines: Machines, ledger: Ledger, name: str) -> None:
    client = ledger.clients[name]
    share = ledger.share_of(client)
    assert share
    client.size += 1
    share.size = client.size
    await machines.configure(client.application, size=client.size)


def _is_whole(ledger: Ledger, client: Client) -> bool:
    return ledger.is_owner(client) and ledger.is_granted_all(client)


@move(
    lambda it: [
        (*c, size)
        for c in clients(it, _is_whole)
        for size in (it.clients[str(c[0])].size - 1, 1000)
        if size
    ],
    has_fate=False,
)
async def ask_what_is_refused(machines: Machines, ledger: Ledger, name: str, size: int) -> None:
    """Less than there is, or more than fits: it is refused, and all stays as it is."""
    client = ledger.clients[name]
    await machines.configure(client.application, size=size)
    unit = machines.subordinate(next(iter(client.units)))
    await machines.until(lambda: machines.status_of(unit)[0] == "blocked", TOLD_TIMEOUT_S)
    await machines.configure(client.application, size=client.size)


async def _rename(machines: Machines, ledger: Ledger, client: Client, name: str) -> None:
    await machines.stop_writing(*client.units)
    target = _known(ledger, client, name)
    is_integrated = client.is_integrated
    ledger.leave(client)
    client.share_name, client.size = name, target.size if target else 1
    await machines.configure(client.application, share_name=name, size=client.size)
    if is_integrated:
        ledger.ask(client)


@move(lambda it: clients(it, may_go) if it.room() > 0 else [])
async def rename_to_new(machines: Machines, ledger: Ledger, name: str) -> None:
    await _rename(machines, ledger, ledger.clients[name], ledger.new_name())


@move(
    lambda it: [
        (client.name, name)
        for client in it.clients.values()
        for name in sorted(
            {share.name for share in it.shares if share.end in ("", "deleted")}
            - {client.share_name}
        )
        if may_go(it, client) and (it.find(client.model, name) or it.room() > 0)
    ],
    weight=3,
)
async def rename_to_known(machines: Machines, ledger: Ledger, name: str, share: str) -> None:
    """To the name of a share that exists: a client of another model gets one of its own."""
    await _rename(machines, ledger, ledger.clients[name], share)


def _is_later(ledger: Ledger, client: Client) -> bool:
    share = ledger.share_of(client)
    return share is not None and share.owner not in ("", client.name)


@move(lambda it: clients(it, _is_later, is_served), weight=6)
async def ask_for_all(machines: Machines, ledger: Ledger, name: str) -> None:
    """Who came later asks for no limit and for anyone to be let in: it changes nothing."""
    client = ledger.clients[name]
    client.allowlist, client.size = ANYONE, -1
    await machines.configure(client.application, allowlist=ANYONE, size=-1)


@move(
    lambda it: clients(it, lambda _, client: client.size < 0 or bool(client.allowlist)), weight=3
)
async def ask_for_no_more(machines: Machines, ledger: Ledger, name: str) -> None:
    client = ledger.clients[name]
    share = _known(ledger, client, client.share_name)
    client.allowlist, client.size = "", share.size if share else 1
    await machines.configure(client.application, allowlist="", size=client.size)


@move(lambda it: clients(it, _is_whole))
async def admit_outsider(machines: Machines, ledger: Ledger, name: str) -> None:
    client = ledger.clients[name]
    client.allowlist = OUTSIDER
    await machines.configure(client.application, allowlist=OUTSIDER)


@move(lambda it: clients(it, lambda _, client: len(client.units) < 2), has_fate=False)
async def add_client_unit(machines: Machines, ledger: Ledger, name: str) -> None:
    client = ledger.clients[name]
    unit = await machines.add_unit(client.principal)
    await machines.idle(IDLE_TIMEOUT_S)
    await machines.install(unit)
    client.units[unit] = machines.address(unit)


@move(lambda it: clients(it, lambda _, client: len(client.units) > 1))
async def remove_client_unit(machines: Machines, ledger: Ledger, name: str) -> None:
    client = ledger.clients[name]
    unit = list(client.units)[-1]
    await machines.stop_writing(unit)
    await machines.note_acknowledged(ledger, unit)
    await machines.ask("remove_unit", name=unit)
    await machines.gone(unit)
    del client.units[unit]
    ledger.excused.discard(unit)


@move(lambda it: clients(it, is_served), has_fate=False)
async def fill(machines: Machines, ledger: Ledger, name: str) -> None:
    """A client fills its share to the last byte, and makes room again."""
    client = ledger.clients[name]
    share = ledger.share_of(client)
    assert share
    ledger.full.add(share.id)
    free = "$(df --block-size=1M --output=avail /data | tail -n 1)"
    await machines.run(
        next(iter(client.units)),
        f"cd /data && fallocate -l {free}M filler; ! dd if=/dev/zero of=filler2 bs=64k conv=fsync"
        " count=8192 2> /tmp/said && grep -q 'No space left' /tmp/said && rm -f filler filler2",
        timeout=180,
    )

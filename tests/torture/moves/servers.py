# SPDX-License-Identifier: Apache-2.0
"""What an operator does with servers."""

from tests.torture.ledger import Ledger, Share
from tests.torture.machines import CLIENT, SECOND, SERVER, Machines
from tests.torture.moves.candidates import free_servers
from tests.torture.steps import IDLE_TIMEOUT_S, move

MAX_SERVERS = 4


@move(lambda it: [(unit,) for unit in it.servers])
async def lead(machines: Machines, ledger: Ledger, unit: str) -> None:
    await machines.ask("lead", name=unit)


async def _new_server(machines: Machines, ledger: Ledger, *attach: str) -> None:
    unit = await machines.add_unit(SERVER, *attach)
    await machines.idle(IDLE_TIMEOUT_S)
    await machines.install(unit)
    ledger.attach(unit, await machines.storage_of(unit))


@move(lambda it: [()] if len(it.servers) < MAX_SERVERS else [], weight=1)
async def add_server(machines: Machines, ledger: Ledger) -> None:
    await _new_server(machines, ledger)


@move(
    lambda it: [(storage,) for storage in it.detached if len(it.servers) < MAX_SERVERS], weight=6
)
async def add_server_with_storage(machines: Machines, ledger: Ledger, storage: str) -> None:
    """A storage of a unit that is gone comes back with a new one."""
    await _new_server(machines, ledger, storage)


async def _take_away(machines: Machines, ledger: Ledger, taken: list[Share]) -> None:
    """Kill the programs on shares that nobody has now."""
    units = {unit for share in taken for it in ledger.askers(share) for unit in it.units}
    await machines.stop_writing(*sorted(units), kill=True)


async def _end_programs(machines: Machines, ledger: Ledger, server: str) -> None:
    """End the programs on the shares of a server in order."""
    storage = ledger.servers[server]
    units = [unit for unit, share in ledger.mounts().items() if share.storage == storage]
    await machines.stop_writing(*units)


@move(free_servers, weight=1)
async def remove_server(machines: Machines, ledger: Ledger, unit: str) -> None:
    await _end_programs(machines, ledger, unit)
    await machines.ask("remove_unit", name=unit)
    await machines.gone(unit)
    ledger.lose(unit)


@move(free_servers, weight=1, has_fate=False)
async def lose_server(machines: Machines, ledger: Ledger, unit: str) -> None:
    await machines.ask("power_cut", machine=unit)
    await machines.ask("lose_unit", name=unit)
    await _take_away(machines, ledger, ledger.lose(unit))


@move(lambda it: [its for its in free_servers(it) if it.servers[str(its[0])]], weight=1)
async def detach_storage(machines: Machines, ledger: Ledger, unit: str) -> None:
    await _end_programs(machines, ledger, unit)
    storage = ledger.servers[unit]
    await machines.ask("detach_storage", identity=storage)
    await machines.detached(storage)
    ledger.detach(unit)


@move(
    lambda it: [
        (u, storage) for storage in it.detached for u, has in it.servers.items() if not has
    ],
    weight=6,
)
async def attach_storage(machines: Machines, ledger: Ledger, unit: str, storage: str) -> None:
    await machines.ask("attach_storage", unit_name=unit, identity=storage)
    ledger.attach(unit, storage)


@move(lambda it: [(4,), (16,)], weight=1)
async def set_threads(machines: Machines, ledger: Ledger, count: int) -> None:
    await machines.configure(SERVER, threads=count)


@move(
    lambda it: [(unit,) for unit in it.servers] if not it.second else [], weight=1, has_fate=False
)
async def deploy_second_server(machines: Machines, ledger: Ledger, unit: str) -> None:
    """Another nfs-server on a machine that has one: it has nothing to do there, and says so."""
    await machines.deploy_second(unit)
    ledger.second = unit
    await machines.idle(IDLE_TIMEOUT_S)
    status, _ = machines.status_of(f"{SECOND}/{ledger.seconds}")
    assert status == "blocked", f"the second server on a machine is {status}"


@move(lambda it: [()] if it.second else [], weight=4, has_fate=False)
async def remove_second_server(machines: Machines, ledger: Ledger) -> None:
    await machines.ask("remove_application", name=SECOND)
    await machines.until(lambda: not machines.units_of(SECOND), IDLE_TIMEOUT_S)
    ledger.second = ""
    ledger.seconds += 1


def _is_of_old_rules(ledger: Ledger) -> bool:
    """Whether the commit before would do with the shares as the rules are now.

    It knows no models, and would make another share for an application of another one. Nor does it
    know of deleted shares that have their names still.
    """
    told = [it for it in ledger.clients.values() if it.is_integrated and not ledger.share_of(it)]
    return not told and all(not it.model and len(ledger.askers(it)) < 2 for it in ledger.live)


@move(
    lambda it: [()] if it.has_charms_before and _is_of_old_rules(it) else [],
    has_fate=False,
)
async def refresh_to_before_and_back(machines: Machines, ledger: Ledger) -> None:
    for charms in (machines.before, machines.charms):
        await machines.refresh(SERVER, charms[SERVER])
        await machines.idle(IDLE_TIMEOUT_S)
        for client in ledger.clients.values():
            await machines.refresh(client.application, charms[CLIENT])
        await machines.idle(IDLE_TIMEOUT_S)

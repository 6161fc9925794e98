# SPDX-License-Identifier: Apache-2.0
"""What fate does to machines."""

import asyncio

from tests.torture.ledger import Ledger
from tests.torture.machines import SERVER, Machines
from tests.torture.steps import Arguments, move

YEAR_S = 366 * 24 * 60 * 60
# A program that was killed can hold a lock on a file of a server that is gone. Not even SIGKILL
# ends it, and systemd waits 90 s after each signal.
SHUTDOWN_TIMEOUT_S = 300.0


def _client_units(ledger: Ledger) -> list[Arguments]:
    return [(unit,) for client in ledger.clients.values() for unit in client.units]


@move(_client_units, weight=1, has_fate=False)
async def reboot_client(machines: Machines, ledger: Ledger, unit: str) -> None:
    await machines.stop_writing(unit)
    await machines.ask("reboot", machine=unit, timeout_s=SHUTDOWN_TIMEOUT_S)


@move(_client_units, has_fate=False)
async def cut_client(machines: Machines, ledger: Ledger, unit: str) -> None:
    await machines.cut(unit)


@move(lambda it: [(unit, s) for unit in it.servers for s in (0, 5)], has_fate=False)
async def cut_server(machines: Machines, ledger: Ledger, unit: str, seconds: int) -> None:
    await machines.ask("power_cut", machine=unit)
    await asyncio.sleep(seconds)  # That long it has no power.
    await machines.ask("boot", machine=unit)


@move(lambda it: [(unit,) for unit in it.servers], weight=1, has_fate=False)
async def reboot_server(machines: Machines, ledger: Ledger, unit: str) -> None:
    await machines.ask("reboot", machine=unit)


@move(lambda it: [(unit, s) for unit in it.servers for s in (2, 8)], has_fate=False)
async def unplug_server(machines: Machines, ledger: Ledger, unit: str, seconds: int) -> None:
    await machines.ask("unplug", machine=unit)
    await asyncio.sleep(seconds)  # That long nobody reaches it.
    await machines.ask("plug", machine=unit)


@move(lambda it: [(unit, years) for unit in it.servers for years in (1, -1)], has_fate=False)
async def jump_clock(machines: Machines, ledger: Ledger, unit: str, years: int) -> None:
    """A machine's clock is set to another year: nothing that is kept ends by that."""
    await machines.run(unit, f"date --set=@$(($(date +%s) + {years * YEAR_S}))")
    await hooks(machines, ledger)


async def hooks(machines: Machines, ledger: Ledger) -> None:
    """Have all servers run a hook that looks at everything."""
    ledger.jumps += 1
    await machines.configure(SERVER, keep_deleted=7 + ledger.jumps % 2)

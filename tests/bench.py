# SPDX-License-Identifier: Apache-2.0
"""Measures, on machines of the sandbox, what the charms cost where there is nothing to do.

A dispatch of update-status of nfs-server, of nfs-client, and of an empty ops charm on the same
machine, in turn. What counts is the ratio: seconds are those of a slow machine.
"""

import asyncio
import statistics
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from sandbox import images
from sandbox.libjuju import Model
from sandbox.ops_test import Dispatch, RunningModel, Substrate, running_model
from tests.integration.story import APP, CLIENT, PACKAGES, SERVER

TENANT = "tenant"
ROUNDS = 10
MAX_RATIO = 1.5


async def main() -> int:
    """Measure and print; the exit status says whether the target was met."""
    image = await images.build(PACKAGES, print)
    with tempfile.TemporaryDirectory() as directory:
        async with running_model("bench", image, Path(directory)) as running:
            await _deploy(running)
            found = await _measure(running)
    return _report(found)


async def _deploy(running: RunningModel) -> None:
    model, build = running.ops_test.model, running.ops_test.build_charm
    app = await build("tests/integration/charms/any-app")
    await model.deploy(await build("charms/nfs-server"), application_name=SERVER)
    await model.deploy(app, application_name=APP)
    await model.deploy(
        await build("charms/nfs-client"),
        application_name=CLIENT,
        num_units=0,
        config={"mountpoint": "/data", "size": 1},
    )
    await model.deploy(app, application_name=TENANT, to=_machine(model, f"{SERVER}/0"))
    await model.integrate(f"{CLIENT}:juju-info", f"{APP}:juju-info")
    await model.integrate(f"{CLIENT}:nfs-share", f"{SERVER}:nfs-share")
    await model.wait_for_idle(status="active", timeout=900, idle_period=1)


def _machine(model: Model, unit: str) -> str:
    machine = model.units[unit].machine
    assert machine is not None
    return machine.id


async def _measure(running: RunningModel) -> Mapping[str, list[Dispatch]]:
    """Collect the dispatches of update-status of each unit, the first two left out."""
    units = [f"{app}/0" for app in (SERVER, TENANT, CLIENT, APP)]
    async with running.ops_test.fast_forward("1s"):
        while True:
            found = {unit: await _dispatches(running.substrate, unit) for unit in units}
            if all(len(dispatches) >= ROUNDS for dispatches in found.values()):
                return found
            await asyncio.sleep(1)


async def _dispatches(substrate: Substrate, unit: str) -> list[Dispatch]:
    return [it for it in await substrate.hooks(unit) if it["hook"] == "update-status"][2:]


def _report(found: Mapping[str, list[Dispatch]]) -> int:
    medians = {u: statistics.median(it["seconds"] for it in done) for u, done in found.items()}
    for unit, done in found.items():
        print(
            f"{unit:14} update-status: {medians[unit]:.2f} s (median of {len(done)}),"
            f" {done[-1]['commands']} hook commands"
        )
    ratios = {
        SERVER: medians[f"{SERVER}/0"] / medians[f"{TENANT}/0"],
        CLIENT: medians[f"{CLIENT}/0"] / medians[f"{APP}/0"],
    }
    for app, ratio in ratios.items():
        met = "met" if ratio <= MAX_RATIO else "MISSED"
        print(f"{app}: {ratio:.2f} times an empty charm (target: {MAX_RATIO}, {met})")
    return 0 if all(ratio <= MAX_RATIO for ratio in ratios.values()) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

# SPDX-License-Identifier: Apache-2.0
"""The pair from end to end, in the words of pytest-operator and python-libjuju.

On Juju 3.6 these are the real ones; python-libjuju can't speak to Juju 4. In the sandbox
stand_in.py has their calls that are used here.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from story import APP, CLIENT, MOUNT, SERVER

pytestmark = [
    pytest.mark.bare,
    pytest.mark.needs("libjuju"),
    pytest.mark.asyncio(loop_scope="module"),
    # python-libjuju leaves connections open.
    pytest.mark.filterwarnings("default"),
]
CONSTRAINTS = {"virt-type": "virtual-machine", "mem": 2048, "root-disk": 12288}
DEPLOY_TIMEOUT_S = 1800
TIMEOUT_S = 600
UNITS = f"{APP}/0", f"{APP}/1"


async def _run(ops_test: Any, unit: str, command: str) -> str:
    """Run a command on a unit's machine; its output. It must succeed."""
    action = await ops_test.model.units[unit].run(command, timeout=300, block=True)
    results = action.results
    assert results["return-code"] == 0, (unit, command, results)
    return results.get("stdout", "").strip()


async def _until(ops_test: Any, unit: str, command: str) -> None:
    await _run(ops_test, unit, f"timeout 240 sh -c 'until {command}; do sleep 1; done'")


@pytest.mark.incremental
async def test_deploy(ops_test: Any, charms: Mapping[str, Path]):
    model = ops_test.model
    await model.deploy(charms[SERVER], application_name=SERVER, constraints=CONSTRAINTS)
    await model.deploy(
        charms[APP], application_name=APP, num_units=len(UNITS), constraints=CONSTRAINTS
    )
    config = {"mountpoint": MOUNT, "size": "1"}
    await model.deploy(charms[CLIENT], application_name=CLIENT, num_units=0, config=config)
    await model.integrate(f"{CLIENT}:juju-info", f"{APP}:juju-info")
    await model.integrate(f"{CLIENT}:nfs-share", f"{SERVER}:nfs-share")
    await model.wait_for_idle(
        apps=[SERVER, APP, CLIENT], status="active", timeout=DEPLOY_TIMEOUT_S
    )


@pytest.mark.incremental
async def test_each_unit_has_the_share(ops_test: Any):
    for unit in UNITS:
        assert await _run(ops_test, unit, f"findmnt --noheadings --output FSTYPE {MOUNT}") == (
            "nfs4"
        )


async def test_what_one_writes_the_other_reads(ops_test: Any):
    await _run(ops_test, UNITS[0], f"echo kept > {MOUNT}/file && sync {MOUNT}/file")
    assert await _run(ops_test, UNITS[1], f"cat {MOUNT}/file") == "kept"


async def test_it_grows(ops_test: Any):
    await ops_test.model.applications[CLIENT].set_config({"size": "2"})
    size = f"df --block-size=1M --output=size {MOUNT} | tail -n 1"
    for unit in UNITS:
        await _until(ops_test, unit, f"[ $({size}) -gt 1900 ]")


async def test_too_much_is_refused(ops_test: Any):
    model = ops_test.model
    await model.applications[CLIENT].set_config({"size": "100000"})
    refused = f"{SERVER}: share "
    await model.block_until(
        lambda: all(
            it.workload_status == "blocked" and it.workload_status_message.startswith(refused)
            for name, it in model.units.items()
            if name.startswith(f"{CLIENT}/")
        ),
        timeout=TIMEOUT_S,
    )
    assert await _run(ops_test, UNITS[1], f"cat {MOUNT}/file") == "kept"
    await model.applications[CLIENT].set_config({"size": "2"})
    await model.wait_for_idle(apps=[SERVER, CLIENT], status="active", timeout=TIMEOUT_S)


async def test_the_server_reboots(ops_test: Any):
    boot_id = "cat /proc/sys/kernel/random/boot_id"
    before = await _run(ops_test, f"{SERVER}/0", boot_id)
    # The connection ends with the machine, so that the exit status says nothing.
    await ops_test.juju("ssh", f"{SERVER}/0", "sudo reboot")
    async with asyncio.timeout(TIMEOUT_S):
        while (await ops_test.juju("ssh", f"{SERVER}/0", boot_id))[1].strip() in ("", before):
            await asyncio.sleep(1)
    # Until the server lets them write, they wait.
    write = f"echo again > {MOUNT}/$(hostname) && cat {MOUNT}/file"
    answers = await asyncio.gather(*(_run(ops_test, unit, write) for unit in UNITS))
    assert answers == ["kept", "kept"]


async def test_what_is_removed_leaves_the_data(ops_test: Any):
    await ops_test.model.remove_application(CLIENT, block_until_done=True)
    for unit in UNITS:
        await _run(ops_test, unit, f"! findmnt {MOUNT} && ! test -e {MOUNT}")
    assert await _run(ops_test, f"{SERVER}/0", "exportfs -v") == ""
    assert await _run(ops_test, f"{SERVER}/0", "cat /srv/nfs/*/file") == "kept"

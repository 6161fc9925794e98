# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the suite on Juju, whose machines are LXD's, on this computer."""

import asyncio
import secrets
from collections.abc import AsyncGenerator, Mapping
from typing import Any, NoReturn

import pytest
import pytest_asyncio

from sandbox.machines import Result

BOOT_TIMEOUT_S = 300.0


async def lxc(*arguments: str, timeout: float = 60.0) -> Result:
    """Run LXD's command."""
    process = await asyncio.create_subprocess_exec(
        "/snap/bin/lxc",
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(timeout):
            stdout, stderr = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Result(returncode=process.returncode, stdout=stdout.decode(), stderr=stderr.decode())


async def lxc_must(*arguments: str, timeout: float = BOOT_TIMEOUT_S) -> None:
    result = await lxc(*arguments, timeout=timeout)
    assert result.returncode == 0, f"lxc {' '.join(arguments)}: {result.stderr}"


async def wait_for_boot(instance: str) -> None:
    async with asyncio.timeout(BOOT_TIMEOUT_S):
        # LXD's own agent in the machine starts late; until then, every command fails.
        while (await lxc("exec", instance, "--", "true")).returncode != 0:
            await asyncio.sleep(1)
    await lxc("exec", instance, "--", "systemctl", "is-system-running", "--wait", timeout=600)


class Bystander:
    """A machine that is not in the model, on the same network."""

    def __init__(self, instance: str):
        self.instance = instance

    async def run(self, command: str, timeout: float = 60) -> Result:
        return await lxc("exec", self.instance, "--", "/bin/sh", "-c", command, timeout=timeout)


class Substrate:
    """The methods of ``sandbox.ops_test.Substrate``, through LXD."""

    def __init__(self, model: Any):
        self._model = model
        self.bystanders: list[Bystander] = []

    def _instance(self, unit: str) -> str:
        return self._model.units[unit].machine.safe_data["instance-id"]

    async def run(self, unit: str, command: str, timeout: float = 60) -> Result:
        return await Bystander(self._instance(unit)).run(command, timeout)

    async def reboot(self, unit: str) -> None:
        await lxc_must("restart", self._instance(unit))
        await wait_for_boot(self._instance(unit))

    async def power_cut(self, unit: str) -> None:
        await lxc_must("stop", "--force", self._instance(unit))

    async def boot(self, unit: str) -> None:
        await lxc_must("start", self._instance(unit))
        await wait_for_boot(self._instance(unit))

    async def bystander(self) -> Bystander:
        bystander = Bystander(f"bystander-{secrets.token_hex(2)}")
        self.bystanders.append(bystander)
        await lxc_must("launch", "ubuntu:24.04", bystander.instance, "--vm", timeout=600)
        await wait_for_boot(bystander.instance)
        return bystander

    async def unplug(self, unit: str) -> NoReturn:
        pytest.skip("a machine of LXD without its network is lost to Juju too")

    async def plug(self, unit: str) -> NoReturn:
        pytest.skip("a machine of LXD without its network is lost to Juju too")

    async def kill_hook(self, unit: str, *at_exec: int) -> NoReturn:
        pytest.skip("Juju has no way to kill a hook at a given command")

    async def hooks(self, unit: str) -> NoReturn:
        pytest.skip("Juju does not tell how many hook commands a hook ran, and for how long")


@pytest_asyncio.fixture(scope="module")
async def substrate(ops_test: Any) -> AsyncGenerator[Substrate, None]:
    offered = Substrate(ops_test.model)
    yield offered
    for bystander in offered.bystanders:
        await lxc_must("delete", "--force", bystander.instance)


@pytest.fixture(scope="session")
def deploy_options() -> Mapping[str, Any]:
    """What ``Model.deploy`` needs beside the charm to get a machine that can serve NFS."""
    return {"constraints": "virt-type=virtual-machine mem=2G root-disk=20G"}

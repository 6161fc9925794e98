# SPDX-License-Identifier: Apache-2.0
"""Juju's machines: where units are placed, and what Juju's own interface has no word for.

For both substrates on Juju, whichever library speaks to the controller: nothing here asks more of
``ops_test`` than its ``model`` and its ``juju`` command.
"""

import asyncio
import json
import secrets
import shlex
from collections.abc import AsyncGenerator, Collection, Sequence
from pathlib import Path
from typing import Any, Literal, NoReturn

import pytest
import pytest_asyncio

from sandbox.machines import Result
from sandbox.operations import Remote
from sandbox.status import Status, units

CONSTRAINTS = {"virt-type": "virtual-machine", "mem": "2G", "root-disk": "10G"}
"""Of a new machine that can serve NFS; a container of LXD can't."""

LXC = "/snap/bin/lxc"
BOOT_TIMEOUT_S = 300.0
CONNECT_TIMEOUT_S = 10
REMOVAL_TIMEOUT_S = 600.0

# What a command of the shell prints first, to be told from what ssh says when it can't connect.
_CONNECTED = "connected:"


def given_machines(config: pytest.Config) -> list[str]:
    """Return the machines that ``--machines`` names."""
    given: str | None = config.getoption("--machines")
    return given.split(",") if given else []


def free_machines(given: Sequence[str], used: Collection[str], count: int) -> list[str]:
    """Return the first machines that have no unit yet, one for each unit that is to be placed."""
    free = [machine for machine in given if machine not in used]
    if len(free) < count:
        pytest.fail(
            f"{count} units are to be placed, and of --machines {','.join(given)} only"
            f" {len(free)} have none: add machines to the model and name them too"
        )
    return free[:count]


async def finished(*command: str, timeout: float) -> Result:
    """Run a command on this computer to its end."""
    process = await asyncio.create_subprocess_exec(
        *command,
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


async def lxc(*arguments: str, timeout: float = BOOT_TIMEOUT_S) -> None:
    """Run LXD's command; it must succeed."""
    result = await finished(LXC, *arguments, timeout=timeout)
    assert result.returncode == 0, f"lxc {' '.join(arguments)}: {result.stderr}"


class Bystander:
    """An instance of LXD: a unit's machine, or one beside the model, on the same network."""

    def __init__(self, instance: str):
        self.instance = instance

    async def run(self, command: str, timeout: float = 60) -> Result:
        return await finished(
            *(LXC, "exec", self.instance, "--", "/bin/sh", "-c", command),
            timeout=timeout,
        )

    async def wait_for_boot(self) -> None:
        async with asyncio.timeout(BOOT_TIMEOUT_S):
            # LXD's own agent in the machine starts late; until then, every command fails.
            while (await self.run("true")).returncode != 0:
                await asyncio.sleep(1)
        await self.run("systemctl is-system-running --wait", timeout=BOOT_TIMEOUT_S)


class Substrate:
    """The methods of ``sandbox.ops_test.Substrate`` that machines of Juju can have."""

    def __init__(self, ops_test: Any):
        self._ops_test = ops_test

    async def status(self) -> Status:
        _, stdout, _ = await self._ops_test.juju("status", "--format=json", check=True)
        return json.loads(stdout)

    async def unplug(self, unit: str) -> NoReturn:
        pytest.skip("a machine without its network is lost to Juju too")

    async def plug(self, unit: str) -> NoReturn:
        pytest.skip("a machine without its network is lost to Juju too")

    async def kill_hook(self, unit: str, *at_exec: int) -> NoReturn:
        pytest.skip("Juju has no way to kill a hook at a given command")

    async def lose_unit(self, unit: str) -> NoReturn:
        pytest.skip("the power of Juju's machines is not the suite's to take for good")

    async def deploy_elsewhere(
        self, model: str, charm: Path, name: str, num_units: int = 1, **config: object
    ) -> NoReturn:
        pytest.skip("the suite has one model")

    async def integrate_many(
        self, unit: str, endpoint: str, charm: Path, remotes: Sequence[Remote]
    ) -> NoReturn:
        pytest.skip("Juju makes no integration without its hooks")

    async def run_hook(
        self, unit: str, hook: Literal["leader-elected", "update-status"]
    ) -> NoReturn:
        pytest.skip("Juju runs its hooks when it likes")

    async def lead(self, unit: str) -> NoReturn:
        pytest.skip("Juju's units choose their leader themselves")

    async def hooks(self, unit: str) -> NoReturn:
        pytest.skip("Juju does not tell how many hook commands a hook ran, and for how long")


class LxdMachines(Substrate):
    """Virtual machines of LXD, on this computer."""

    def __init__(self, ops_test: Any):
        super().__init__(ops_test)
        self._instances: dict[str, Bystander] = {}
        self.bystanders: list[Bystander] = []

    async def _instance(self, unit: str) -> Bystander:
        """Return a unit's machine. Asked of Juju once: a unit never moves."""
        if unit not in self._instances:
            status = await self.status()
            machine = status["machines"][units(status)[unit]["machine"]]
            self._instances[unit] = Bystander(machine.get("instance-id", ""))
        return self._instances[unit]

    async def run(self, unit: str, command: str, timeout: float = 60) -> Result:
        return await (await self._instance(unit)).run(command, timeout)

    async def reboot(self, unit: str) -> None:
        machine = await self._instance(unit)
        await lxc("restart", machine.instance)
        await machine.wait_for_boot()

    async def power_cut(self, unit: str) -> None:
        await lxc("stop", "--force", (await self._instance(unit)).instance)

    async def boot(self, unit: str) -> None:
        machine = await self._instance(unit)
        await lxc("start", machine.instance)
        await machine.wait_for_boot()

    async def bystander(self) -> Bystander:
        bystander = Bystander(f"bystander-{secrets.token_hex(2)}")
        self.bystanders.append(bystander)
        await lxc("launch", "ubuntu:24.04", bystander.instance, "--vm", timeout=600)
        await bystander.wait_for_boot()
        return bystander

    async def clean_up(self) -> None:
        for bystander in self.bystanders:
            await lxc("delete", "--force", bystander.instance)


class GivenMachines(Substrate):
    """Machines that were in the model before, reached with ``juju ssh``, wherever they are."""

    async def run(self, unit: str, command: str, timeout: float = 60) -> Result:
        command = f"echo {_CONNECTED}; {command}"
        options = ["-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_TIMEOUT_S}"]
        async with asyncio.timeout(timeout):
            returncode, stdout, stderr = await self._ops_test.juju(
                "ssh", unit, *options, f"sudo /bin/sh -c {shlex.quote(command)}"
            )
        connected, _, said = stdout.partition("\n")
        if connected.strip() != _CONNECTED:
            raise ConnectionError(
                f"juju ssh {unit}: {stderr.strip()}; Juju 4 knows only keys that it was told:"
                " juju add-ssh-key"
            )
        return Result(returncode=returncode, stdout=said, stderr=stderr)

    async def reboot(self, unit: str) -> None:
        before = await self._boot_id(unit)
        await self.run(unit, "systemctl --no-block reboot")
        async with asyncio.timeout(BOOT_TIMEOUT_S):
            while await self._boot_id(unit) in (before, None):
                await asyncio.sleep(1)
        await self.run(unit, "systemctl is-system-running --wait", timeout=BOOT_TIMEOUT_S)

    async def _boot_id(self, unit: str) -> str | None:
        """Return what is different after each boot (random(4)), or None while it is down."""
        try:
            return (await self.run(unit, "cat /proc/sys/kernel/random/boot_id")).stdout
        except (ConnectionError, TimeoutError):
            return None

    async def power_cut(self, unit: str) -> NoReturn:
        pytest.skip("the power of a machine that was given is not the suite's to cut")

    async def boot(self, unit: str) -> NoReturn:
        pytest.skip("the power of a machine that was given is not the suite's to cut")

    async def bystander(self) -> NoReturn:
        pytest.skip("of machines that were given, all are in the model")

    async def clean_up(self) -> None:
        """Remove what this module of tests deployed: the next one is given the same model."""
        model = self._ops_test.model
        for name in list(model.applications):
            await model.remove_application(name, destroy_storage=True)
        await model.block_until(lambda: not model.applications, timeout=REMOVAL_TIMEOUT_S)


@pytest_asyncio.fixture(scope="module")
async def substrate(
    request: pytest.FixtureRequest, ops_test: Any
) -> AsyncGenerator[LxdMachines | GivenMachines, None]:
    config = request.config
    offered = GivenMachines(ops_test) if given_machines(config) else LxdMachines(ops_test)
    yield offered
    if isinstance(offered, LxdMachines) or not config.getoption("--keep-models"):
        await offered.clean_up()

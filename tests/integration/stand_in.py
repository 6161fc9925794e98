# SPDX-License-Identifier: Apache-2.0
"""pytest-operator's ops_test for test_pair.py where Juju is the sandbox's, over its command.

It has the calls of that module and no others, by the names and parameters of python-libjuju;
tests/suite/test_stand_in.py holds them against the real classes.
"""

import asyncio
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jubilant
import pytest
from jubilant.statustypes import AppStatus, UnitStatus

from story import units

POLL_S = 0.5
COMMAND_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Action:
    """Stands for ``juju.action.Action``, of one that has ended."""

    status: str
    results: Mapping[str, Any]


@dataclass(frozen=True)
class Unit:
    """Stands for ``juju.unit.Unit``."""

    name: str
    _status: UnitStatus
    _juju: jubilant.Juju

    @property
    def workload_status(self) -> str:
        """The status that the charm has set."""
        return self._status.workload_status.current

    @property
    def workload_status_message(self) -> str:
        """What it says with it."""
        return self._status.workload_status.message

    async def run(self, command: str, timeout: float | None = None, block: bool = False) -> Action:
        """Run a command in a hook context of the unit, to its end."""
        assert block, "the stand-in always waits: say block=True"
        try:
            task = await asyncio.to_thread(
                self._juju.exec, command, unit=self.name, wait=timeout or COMMAND_TIMEOUT_S
            )
        except jubilant.TaskError as error:
            task = error.task
        shown = {"return-code": task.return_code, "stdout": task.stdout, "stderr": task.stderr}
        return Action(task.status, {**task.results, **shown})


@dataclass(frozen=True)
class Application:
    """Stands for ``juju.application.Application``."""

    name: str
    _status: AppStatus
    _juju: jubilant.Juju

    async def set_config(self, config: Mapping[str, str]) -> None:
        """Set options; the values are strings, as libjuju wants them."""
        assert all(isinstance(value, str) for value in config.values()), config
        await asyncio.to_thread(self._juju.config, self.name, config)


@dataclass(frozen=True)
class Model:
    """Stands for ``juju.model.Model``."""

    _juju: jubilant.Juju

    @property
    def applications(self) -> dict[str, Application]:
        """The applications by name."""
        found = self._juju.status().apps.items()
        return {name: Application(name, it, self._juju) for name, it in found}

    @property
    def units(self) -> dict[str, Unit]:
        """The units by name, subordinates too."""
        found = units(self._juju.status()).items()
        return {name: Unit(name, it, self._juju) for name, it in found}

    async def deploy(
        self,
        entity_url: str | Path,
        application_name: str | None = None,
        config: Mapping[str, Any] | None = None,
        constraints: Mapping[str, Any] | None = None,
        num_units: int = 1,
    ) -> None:
        """Deploy a packed charm. The sandbox has one kind of machine: constraints choose none."""
        await asyncio.to_thread(
            self._juju.deploy,
            entity_url,
            application_name,
            config=config,
            constraints=constraints,
            num_units=num_units or 1,
        )

    async def integrate(self, relation1: str, relation2: str) -> None:
        """Relate two applications."""
        await asyncio.to_thread(self._juju.integrate, relation1, relation2)

    async def wait_for_idle(
        self, apps: list[str] | None = None, timeout: float | None = 600, status: str | None = None
    ) -> None:
        """Wait until the units of applications are in a status and have nothing to do."""

        def is_idle(found: jubilant.Status) -> bool:
            its = [
                it for name, it in units(found).items() if name.partition("/")[0] in (apps or ())
            ]
            return all(app in found.apps for app in apps or ()) and all(
                it.juju_status.current == "idle" and it.workload_status.current == status
                for it in its
            )

        await asyncio.to_thread(
            self._juju.wait, is_idle, error=jubilant.any_error, delay=POLL_S, timeout=timeout
        )

    async def block_until(
        self, *conditions: Callable[[], bool], timeout: float | None = None
    ) -> None:
        """Wait until every condition holds."""
        deadline = time.monotonic() + (timeout or COMMAND_TIMEOUT_S)
        while not all(condition() for condition in conditions):
            if time.monotonic() > deadline:
                raise TimeoutError(self._juju.cli("status"))
            await asyncio.sleep(POLL_S)

    async def remove_application(self, app_name: str, block_until_done: bool = False) -> None:
        """Remove an application and its units."""
        await asyncio.to_thread(self._juju.remove_application, app_name)
        if block_until_done:
            await self.block_until(lambda: app_name not in self.applications)


@dataclass(frozen=True)
class OpsTest:
    """Stands for ``pytest_operator.plugin.OpsTest``."""

    model: Model
    _juju: jubilant.Juju

    async def juju(self, *args: str) -> tuple[int | None, str, str]:
        """Run a command of Juju on the model."""
        command = [self._juju.cli_binary, args[0], "--model", str(self._juju.model), *args[1:]]
        done = await asyncio.to_thread(
            subprocess.run, command, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S
        )
        return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def ops_test(model: tuple[jubilant.Juju, object]) -> OpsTest:
    return OpsTest(Model(model[0]), model[0])

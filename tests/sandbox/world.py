# SPDX-License-Identifier: Apache-2.0
"""A controller with machines that are namespaces of this computer, with a real agent in each.

The dispatch of the charms here sources a shell script named after the hook (or unit and hook)
from a directory, if the test has put one there.
"""

import asyncio
import os
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from sandbox.controller.controller import Controller
from sandbox.machines import machines
from sandbox.rules.status import units

WAIT_S = 30.0
REPOSITORY = Path(__file__).resolve().parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="namespaces are made by root")
DISPATCH = """#!/bin/sh
hook=$(basename "${JUJU_DISPATCH_PATH}")
unit=$(echo "$JUJU_UNIT_NAME" | tr / -)
for script in "%(scripts)s/$hook" "%(scripts)s/$unit.$hook"; do
    [ ! -e "$script" ] || . "$script"
done
"""


class DirectoryMachine(machines.Machine):
    """A machine of a few processes, for which /var/lib is a directory."""

    def __init__(self, name: str, root: Path):
        super().__init__(name, root / "none.img", root)
        # Of this process alone: other tests may run beside it.
        pid = os.getpid()
        self.address = f"127.{pid >> 7 & 0x7F}.{pid & 0x7F}.{self.address.rpartition('.')[2]}"
        self.root = root / name
        self.boots = 0
        self.is_cut = False

    async def boot(self):
        if not self.boots:
            (self.root / "juju").mkdir(parents=True)
            os.link(self.root.parent / "hook_command", self.root / "hook_command")
        self.boots += 1
        self.is_cut = False
        await super().boot()

    async def _add_tap(self):
        """It is on the loopback of this computer, and so are all others."""

    async def _change_unplugged(self, *verbs: str):
        pass

    async def shutdown(self, timeout_s=0.0):
        await self.power_cut()

    async def power_cut(self):
        self.is_cut = True
        await super().power_cut()

    @property
    def is_running(self):
        # The end of a process ends its connections. A machine says nothing more.
        return super().is_running and not self.is_cut

    def _command_line(self):
        serve = f"from sandbox.machine import agent; agent.main('{self.address}')"
        return [
            *("/usr/bin/env", "--unset=LD_PRELOAD", f"--chdir={REPOSITORY}"),
            *("/usr/bin/unshare", "--pid", "--mount-proc", "--fork", "--kill-child"),
            *("/bin/sh", "-ec", 'mount --bind "$0" /var/lib && exec "$@"', str(self.root)),
            *(sys.executable, "-c", serve),
        ]


@dataclass
class World:
    controller: Controller
    root: Path
    machines: dict[str, DirectoryMachine]

    def charm(self, name: str, metadata: str, **files: str) -> str:
        path = self.root / f"{name}.charm"
        dispatch = DISPATCH % {"scripts": self.root / "scripts"}
        with zipfile.ZipFile(path, "w") as packed:
            packed.writestr("metadata.yaml", f"{{name: {name}, {metadata}}}")
            for file, text in {"dispatch": dispatch, **files}.items():
                info = zipfile.ZipInfo(file)
                info.external_attr = (0o100755 if file == "dispatch" else 0o100644) << 16
                packed.writestr(info, text)
        return str(path)

    def script(self, hook: str, text: str) -> None:
        (self.root / "scripts" / hook).write_text(text)

    def unit(self, name: str) -> dict:
        found = units(self.controller.status())
        return found[name]["status"] if name in found else {}

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(WAIT_S):
            while not condition():
                await asyncio.sleep(0.01)

    async def idle(self, *units: str) -> None:
        await self.until(
            lambda: all(
                self.unit(u).get("juju-status", {}).get("current") == "idle" for u in units
            )
        )

    async def deployed(self, metadata: str = "", num_units: int = 1, **files: str) -> None:
        """Deploy a charm with an action `act` as `a`, and wait until its units have started."""
        charm = self.charm("a", metadata, **{"actions.yaml": "act: {}", **files})
        self.controller.deploy(charm, "a", num_units=num_units)
        await self.idle(*(f"a/{number}" for number in range(num_units)))

    def ran(self, unit: str) -> list[tuple[str, int]]:
        return [(h["hook"], h["returncode"]) for h in self.controller.hooks(unit)]

    def file(self, machine: str, path: str) -> Path:
        return self.root / machine / "juju" / path

    async def act(self, unit: str, name: str, **params: object) -> dict:
        return await self.controller.wait_action(
            self.controller.enqueue_action(unit, name, params)
        )

    async def execute(self, unit: str, command: str) -> dict:
        found = await self.controller.wait_action(self.controller.enqueue_exec(unit, command))
        assert found["status"] == "completed"
        return found["results"]


class Tasks:
    """A stand-in for asyncio.TaskGroup that ends: what a task has raised is raised then."""

    def __init__(self):
        self._tasks: list[asyncio.Task] = []

    def create_task(self, coroutine):
        self._tasks.append(asyncio.create_task(coroutine))
        return self._tasks[-1]

    async def end(self):
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            if isinstance(result, Exception):
                raise result

# SPDX-License-Identifier: Apache-2.0
"""What Juju has no word for: the power and the network of machines, and a machine beside them.

Not all can be had everywhere. A test says what it needs, `@pytest.mark.needs("power")`, and is
skipped before it begins where the machines don't offer it:

    power     power_cut, boot
    network   unplug, plug
    outsider  a machine outside the model
    disks     storage of a size of its own, which can be attached to another machine
    hooks     the history of hooks, killing one, choosing a leader (the sandbox's alone)
    ssh       ssh itself, which can forward a port (the sandbox's alone)
    revisions earlier commits, packed for these machines (the sandbox's alone, with git's history)
"""

import asyncio
import secrets
import subprocess
import time
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import jubilant

from sandbox.controller import controller
from sandbox.controller.client import RunDirectory, ask
from sandbox.controller.uniter import Dispatch
from sandbox.machines import images
from tests.integration.revisions import PACKAGES

SANDBOX_JUJU = Path(__file__).resolve().parent.parent.parent / "sandbox" / "bin" / "juju"
LXC = "/snap/bin/lxc"
OUTSIDER_BASE = "ubuntu:24.04"
COMMAND_TIMEOUT_S = 120.0
BOOT_TIMEOUT_S = 600.0
POLL_S = 1.0


@dataclass(frozen=True)
class Outsider:
    """A machine outside the model, on the same network."""

    run: Callable[[str], tuple[int, str]]
    """Runs a shell command as root; exit status and all that it printed."""


@dataclass(frozen=True)
class SandboxMachines:
    """Machines of the sandbox."""

    directory: RunDirectory
    offers = frozenset({"power", "network", "outsider", "disks", "hooks", "ssh"})

    def reboot(self, unit: str) -> None:
        """Reboot a unit's machine in good order; it is up again afterwards."""
        self.ask("reboot", machine=unit)

    def power_cut(self, unit: str) -> None:
        """Take the power from a unit's machine, at once."""
        self.ask("power_cut", machine=unit)

    def boot(self, unit: str) -> None:
        """Boot a machine that has no power."""
        self.ask("boot", machine=unit)

    def unplug(self, unit: str) -> None:
        """Cut a unit's machine off from all other machines."""
        self.ask("unplug", machine=unit)

    def plug(self, unit: str) -> None:
        """Connect it again."""
        self.ask("plug", machine=unit)

    def outsider(self) -> Outsider:
        """Boot a machine that is not in the model."""
        name = str(self.ask("add_bystander"))

        def run(command: str) -> tuple[int, str]:
            found = cast(
                "dict[str, Any]",
                self.ask("ssh", machine=name, command=command, timeout_s=COMMAND_TIMEOUT_S),
            )
            return found["returncode"], (found["stdout"] + found["stderr"]).strip()

        return Outsider(run)

    def lead(self, unit: str) -> None:
        """Make a unit the leader of its application."""
        self.ask("lead", name=unit)

    def kill_hook(self, unit: str, *at_exec: int) -> None:
        """Let the unit's next dispatches be killed, each at the exec that a number names (from 1).

        The first one that ends before it makes so many execs ends the series.
        """
        self.ask("kill_hook", unit=unit, at_exec=at_exec)

    def hooks(self, unit: str) -> list[Dispatch]:
        """Return the hooks and actions that a unit ran so far, the first one first."""
        return cast("list[Dispatch]", self.ask("hooks", unit=unit))

    def ssh(self, address: str) -> list[str]:
        """Return the words that reach a machine by ssh, as root, from within its network."""
        return [*self.directory.ssh(), f"root@{address}"]

    def close(self) -> None:
        """All ends with the model."""

    def ask(self, method: str, **params: object) -> object:
        """Ask the controller.

        Raises:
            ControllerError: it refused.
        """
        return ask(self.directory, method, answer_timeout_s=BOOT_TIMEOUT_S, **params)


@dataclass(frozen=True)
class LxdMachines:
    """Virtual machines of LXD, on this computer."""

    juju: jubilant.Juju
    offers = frozenset({"power", "outsider", "disks"})
    outsiders: list[str] = field(default_factory=list[str])

    def reboot(self, unit: str) -> None:
        """Reboot a unit's machine in good order; it is up again afterwards."""
        instance = self._instance(unit)
        lxc("restart", instance)
        _wait_for_boot(instance)

    def power_cut(self, unit: str) -> None:
        """Take the power from a unit's machine, at once."""
        lxc("stop", "--force", self._instance(unit))

    def boot(self, unit: str) -> None:
        """Boot a machine that has no power."""
        instance = self._instance(unit)
        lxc("start", instance)
        _wait_for_boot(instance)

    def outsider(self) -> Outsider:
        """Boot a machine that is not in the model."""
        name = f"outsider-{secrets.token_hex(2)}"
        self.outsiders.append(name)
        lxc("launch", OUTSIDER_BASE, name, "--vm")
        _wait_for_boot(name)
        return Outsider(lambda command: _in_instance(name, command))

    def close(self) -> None:
        """Delete what is not the model's."""
        for name in self.outsiders:
            lxc("delete", "--force", name)

    def _instance(self, unit: str) -> str:
        status = self.juju.status()
        return status.machines[machine_of(status, unit)].instance_id


@dataclass(frozen=True)
class GivenMachines:
    """Machines that were there before, reached with `juju ssh`, wherever they are."""

    juju: jubilant.Juju
    offers: Collection[str] = ()

    def reboot(self, unit: str) -> None:
        """Reboot a unit's machine in good order; it is up again afterwards."""
        before = self._boot_id(unit)
        self.juju.ssh(unit, "sudo systemctl --no-block reboot")
        deadline = time.monotonic() + BOOT_TIMEOUT_S
        while self._boot_id(unit) in (before, ""):
            assert time.monotonic() < deadline, f"{unit} does not come back"
            time.sleep(POLL_S)

    def close(self) -> None:
        """Nothing is there that the model does not end."""

    def _boot_id(self, unit: str) -> str:
        """Return what is different after each boot (random(4)); empty while it is down."""
        try:
            return self.juju.ssh(unit, "cat /proc/sys/kernel/random/boot_id")
        except jubilant.CLIError:
            return ""


@contextmanager
def sandbox_model(
    name: str,
    say: Callable[[str], None],
    *,
    base: str | None = None,
    juju: str = "3.6",
    installed: Sequence[str] = (),
    keep: bool = False,
) -> Generator[tuple[jubilant.Juju, SandboxMachines], None, None]:
    """Start a model of the sandbox, which builds its disk first if need be; end it afterwards.

    Args:
        name: the model's.
        say: told how the disk gets on, which takes a while once.
        base: the Debian of its machines; by default, this computer's.
        juju: whose ways it follows.
        installed: the packages that its machines have already, of those that charms install.
        keep: whether it is left running.
    """
    image = asyncio.run(images.build(PACKAGES, say, base, installed))
    with controller.start(name=name, base=image, juju=juju, keep=keep) as directory:
        yield jubilant.Juju(model=name, cli_binary=SANDBOX_JUJU), SandboxMachines(directory)


def machine_of(status: jubilant.Status, unit: str) -> str:
    """Return the number of a unit's machine, which is that of a subordinate's principal."""
    for app in status.apps.values():
        for name, found in app.units.items():
            if unit in (name, *found.subordinates):
                return found.machine
    raise KeyError(unit)


def lxc(*arguments: str) -> None:
    """Run LXD's command; it must succeed."""
    subprocess.run([LXC, *arguments], check=True, timeout=BOOT_TIMEOUT_S)


def _in_instance(name: str, command: str) -> tuple[int, str]:
    done = subprocess.run(
        [LXC, "exec", name, "--", "/bin/sh", "-c", command],
        check=False,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
    )
    return done.returncode, (done.stdout + done.stderr).strip()


def _wait_for_boot(name: str) -> None:
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    # LXD's own agent in the machine starts late; until then, every command fails.
    while _in_instance(name, "true")[0]:
        assert time.monotonic() < deadline, f"{name} does not boot"
        time.sleep(POLL_S)
    _in_instance(name, "timeout 100 systemctl is-system-running --wait")

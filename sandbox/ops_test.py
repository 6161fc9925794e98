# SPDX-License-Identifier: Apache-2.0
"""Stand-in for pytest-operator's OpsTest, and what a sandbox can do to machines beyond Juju.

``running_model`` starts a controller and gives both; it ends with everything gone.
"""

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn, TypedDict, cast

import pytest
import yaml

from sandbox import controller, images, juju_command
from sandbox.client import RUN, Client, RunDirectory
from sandbox.libjuju import Model, View
from sandbox.machines import Result
from sandbox.operations import Remote
from sandbox.status import table

CHARMS = Path(__file__).resolve().parent.parent / ".cache" / "charms"
"""Where ``./dev pack`` leaves the packed charms; those for another base, in a directory."""

_POLL_S = 0.2
_INTERVAL = "update-status-hook-interval"
_log = logging.getLogger(__name__)


class LogLine(TypedDict):
    """A line of the debug log."""

    time: str
    unit: str
    level: str
    logger: str
    message: str


class Dispatch(TypedDict):
    """One hook or action that a unit ran: its hook commands, and what it asked repeatedly."""

    hook: str
    returncode: int
    seconds: float
    commands: int
    repeated: list[str]


class OpsTest:
    """The stand-in for ``pytest_operator.plugin.OpsTest``: one model, in the sandbox."""

    def __init__(
        self, view: View, tmp_path: Path, *, keep: bool = False, base: str | None = None
    ) -> None:
        """Offer the model that ``view`` sees, on machines of a base, by default the host's."""
        self._view = view
        self._tmp_path = tmp_path
        self._keep = keep
        self._base = base or images.host_release()
        self._model = Model(view)
        self.aborted = False

    @property
    def model(self) -> Model:
        """The model."""
        return self._model

    @property
    def model_name(self) -> str:
        """The model's name."""
        return self._model.name

    @property
    def tmp_path(self) -> Path:
        """A directory for this model's files."""
        return self._tmp_path

    @property
    def keep_model(self) -> bool:
        """Whether the model stays when the tests are over."""
        return self._keep

    async def build_charm(
        self,
        charm_path: str | Path,
        bases_index: int | None = None,
        verbosity: Literal["quiet", "brief", "verbose", "debug", "trace"] | None = None,
        return_all: Literal[False] = False,
    ) -> Path:
        """Return the charm that ``./dev pack`` packed; pytest-operator would pack it now."""
        source = yaml.safe_load((Path(charm_path) / "charmcraft.yaml").read_text())
        charms = CHARMS if self._base == images.host_release() else CHARMS / self._base
        packed = sorted(charms.glob(f"{source['name']}_*.charm"))
        if len(packed) != 1:
            found = ", ".join(path.name for path in packed) or "nothing"
            raise FileNotFoundError(
                f"expected one packed {source['name']} in {charms}, found {found}:"
                f" run ./dev pack --base {self._base}"
            )
        return packed[0]

    async def run(
        self,
        *cmd: str,
        cwd: os.PathLike[str] | None = None,
        check: bool = False,
        fail_msg: str | None = None,
        stdin: bytes | None = None,
    ) -> tuple[int | None, str, str]:
        """Run a command on this computer."""
        process = await asyncio.create_subprocess_exec(
            *cmd,
            cwd=cwd,
            stdin=None if stdin is None else asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        stdout, stderr = (part.decode() for part in await process.communicate(stdin))
        if check and process.returncode != 0:
            failure = fail_msg or f"Command {list(cmd)} failed"
            raise AssertionError(f"{failure} ({process.returncode}): {(stderr or stdout).strip()}")
        return process.returncode, stdout, stderr

    async def juju(self, *args: str, **kwargs: object) -> tuple[int | None, str, str]:
        """Answer what ``juju_command`` can, and ``juju debug-log``."""
        if args[:1] == ("debug-log",):
            return 0, await self._debug_log(), ""
        try:
            return 0, await juju_command.run(self._view, args), ""
        except juju_command.CommandError as error:
            return 1, "", f"ERROR {error}\n"
        except juju_command.UsageError as error:
            command = " ".join(args)
            return 2, "", f"ERROR the sandbox has no juju {command} ({error}): test that on Juju\n"

    @asynccontextmanager
    async def fast_forward(
        self, fast_interval: str = "10s", slow_interval: str | None = None
    ) -> AsyncGenerator[None, None]:
        """Let update-status fire more often for a while."""
        before: str = vars((await self.model.get_config())[_INTERVAL])["value"]
        await self.model.set_config({_INTERVAL: fast_interval})
        try:
            yield
        finally:
            await self.model.set_config({_INTERVAL: slow_interval or before})

    async def log_model(self) -> None:
        """Log the status and the errors of the debug log."""
        _log.info("Model status:\n\n%s", table(await self._view.refresh()))
        _log.info("Juju error logs:\n\n%s", await self._debug_log("ERROR"))

    def abort(self, *args: str, **kwargs: bool) -> NoReturn:
        """Fail this test, and let those after it not run."""
        self.aborted = True
        pytest.fail(" ".join(args), **kwargs)

    async def _debug_log(self, *levels: str) -> str:
        lines = cast("list[LogLine]", await self._view.ask("log"))
        return "".join(f"{log_line(it)}\n" for it in lines if not levels or it["level"] in levels)


@dataclass(frozen=True)
class Bystander:
    """A machine beside the model: no agent of any unit, unknown to the controller's status."""

    machine: str
    _view: View

    async def run(self, command: str, timeout: float = 60) -> Result:
        """Run a shell command on it as root."""
        return await _run(self._view, self.machine, command, timeout)


@dataclass(frozen=True)
class Substrate:
    """What can be done to the machines that Juju's own interface has no word for."""

    _view: View

    async def run(self, unit: str, command: str, timeout: float = 60) -> Result:
        """Run a shell command on a unit's machine as root, whatever the unit's agent does."""
        return await _run(self._view, unit, command, timeout)

    async def reboot(self, unit: str) -> None:
        """Reboot a unit's machine in good order; it is up again afterwards."""
        await self._view.change("reboot", machine=self._machine(unit))

    async def power_cut(self, unit: str) -> None:
        """Take the power from a unit's machine, at once."""
        await self._view.change("power_cut", machine=self._machine(unit))

    async def boot(self, unit: str) -> None:
        """Boot a machine that has no power."""
        await self._view.change("boot", machine=self._machine(unit))

    async def unplug(self, unit: str) -> None:
        """Cut a unit's machine off from all other machines."""
        await self._view.change("unplug", machine=self._machine(unit))

    async def plug(self, unit: str) -> None:
        """Connect it again."""
        await self._view.change("plug", machine=self._machine(unit))

    async def bystander(self) -> Bystander:
        """Boot a machine that is not in the model."""
        return Bystander(str(await self._view.ask("add_bystander")), self._view)

    async def lose_unit(self, unit: str) -> None:
        """Take the power from a unit's machine for good, and remove the unit by force."""
        await self.power_cut(unit)
        await self._view.change("lose_unit", unit=unit)

    async def deploy_elsewhere(
        self, model: str, charm: Path, name: str, num_units: int = 1, **config: object
    ) -> None:
        """Deploy an application of another model; what it is integrated with here was offered.

        One that consumes an offer is named as Juju names it in the model of the offer: `remote-`
        and 32 hexadecimal digits. The other model sees the application that it consumes by the
        name that it has here.
        """
        await self._view.change(
            "deploy",
            charm=str(charm.resolve()),
            application=name,
            num_units=num_units,
            config=config,
            other_model=model,
        )

    async def lead(self, unit: str) -> None:
        """Make a unit the leader of its application."""
        await self._view.change("lead", unit=unit)

    async def integrate_many(
        self, unit: str, endpoint: str, charm: Path, remotes: Sequence[Remote]
    ) -> None:
        """Integrate a unit with applications all at once, of one unit each, on no machine that is.

        The unit's agent holds the hooks of these integrations for run; nobody ran them. So the
        unit's charm meets them all in its next hook.
        """
        await self._view.change(
            "integrate_many",
            unit=unit,
            endpoint=endpoint,
            charm=str(charm.resolve()),
            remotes=remotes,
        )

    async def run_hook(
        self, unit: str, hook: Literal["leader-elected", "update-status"]
    ) -> Dispatch:
        """Let a unit that is idle run a hook that may come at any time; return its dispatch."""
        before = len(await self.hooks(unit))
        await self._view.ask("due", unit=unit, hook=hook)
        while True:
            for done in (await self.hooks(unit))[before:]:
                if done["hook"] == hook:
                    return done
            await asyncio.sleep(_POLL_S)

    async def kill_hook(self, unit: str, *at_exec: int) -> None:
        """Let the unit's next dispatches be killed, each at the exec that a number names (from 1).

        A killed hook is run again at once: that is the next dispatch. The first one that ends
        before it makes so many execs ends the series.
        """
        await self._view.ask("kill_hook", unit=unit, at_exec=at_exec)

    async def hooks(self, unit: str) -> list[Dispatch]:
        """Return the hooks and actions that the unit ran so far, the first one first."""
        return cast("list[Dispatch]", await self._view.ask("hooks", unit=unit))

    def _machine(self, unit: str) -> str:
        """Return the number of the unit's machine."""
        return self._view.units[unit]["machine"]


@dataclass(frozen=True)
class RunningModel:
    """A model in the sandbox."""

    ops_test: OpsTest
    substrate: Substrate
    directory: RunDirectory


@asynccontextmanager
async def running_model(
    name: str,
    image: Path,
    tmp_path: Path,
    *,
    base: str | None = None,
    juju: str = "3.6",
    keep: bool = False,
) -> AsyncGenerator[RunningModel, None]:
    """Start a model whose machines boot ``image``; end it afterwards, unless it is to be kept."""
    directory = RunDirectory(RUN / name)
    async with (
        controller.start(name=name, base=image, juju=juju, keep=keep),
        connected(directory, tmp_path, base=base, keep=keep) as model,
    ):
        yield model


@asynccontextmanager
async def connected(
    directory: RunDirectory, tmp_path: Path, *, base: str | None = None, keep: bool = True
) -> AsyncGenerator[RunningModel, None]:
    """Connect to a model that runs already."""
    client = await Client.connect(directory)
    view = View(client)
    await view.refresh()
    watching = asyncio.create_task(view.watch())
    try:
        ops_test = OpsTest(view, tmp_path, base=base, keep=keep)
        yield RunningModel(ops_test, Substrate(view), directory)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await client.close()


def log_line(line: LogLine) -> str:
    """Return a line as ``juju debug-log`` prints it."""
    return f"{line['unit']}: {line['time']} {line['level']} {line['logger']} {line['message']}"


async def _run(view: View, where: str, command: str, timeout: float) -> Result:
    answer = await view.ask("ssh", machine=where, command=command, timeout_s=timeout)
    result = cast("Mapping[str, object]", answer)
    return Result(
        returncode=cast("int", result["returncode"]),
        stdout=str(result["stdout"]),
        stderr=str(result["stderr"]),
    )

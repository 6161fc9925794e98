# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the suite on Juju 4 (3.6 too), with jubilant.

The tests speak python-libjuju, which Juju 4 does not understand. The sandbox has stand-ins for its
classes that ask a controller; here they ask ``Controller``, which runs the `juju` command.
"""

import asyncio
import itertools
import json
import logging
import secrets
import zipfile
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import jubilant
import pytest
import pytest_asyncio
import pytest_operator.plugin
import yaml

from juju_machines import CONSTRAINTS, free_machines, given_machines
from sandbox import ops_test as sandbox_ops_test
from sandbox.client import ControllerError
from sandbox.libjuju import ActionResult, ConfigOption, StoredItem, View
from sandbox.status import Status, units

ACTION_TIMEOUT_S = 600.0
WATCH_INTERVAL_S = 2.0

_log = logging.getLogger(__name__)


class Controller:
    """Answers as the sandbox's controller does, for one model of Juju. Its methods are public."""

    def __init__(self, juju: jubilant.Juju, machines: Sequence[str] = ()):
        self._juju = juju
        self._machines = machines
        self._ids = itertools.count(1)
        self._tasks: dict[str, asyncio.Task[jubilant.Task]] = {}

    @property
    def model(self) -> str:
        return self._juju.model or ""

    async def call(self, method: str, **params: Any) -> object:
        """Do what a method's name says; what Juju refuses is raised with its own words."""
        try:
            return await getattr(self, method)(**params)
        except jubilant.CLIError as error:
            raise ControllerError(error.stderr.strip().removeprefix("ERROR ")) from error

    async def _asked(self, *words: str) -> Any:
        """Return what a command of Juju prints as JSON."""
        return json.loads(await asyncio.to_thread(self._juju.cli, *words, "--format=json") or "{}")

    async def status(self) -> Status:
        return await self._asked("status")

    async def deploy(
        self,
        charm: str,
        application: str,
        num_units: int,
        config: Mapping[str, Any],
        storage: Mapping[str, str],
        to: Sequence[str] | None,
    ) -> None:
        options: dict[str, Any] = {}
        # Of a subordinate's units and machines, Juju's command will hear nothing, not even none.
        if not _is_subordinate(Path(charm)):
            to = to or await self._places(num_units)
            constraints = None if to else CONSTRAINTS
            options = {"num_units": num_units, "to": to, "constraints": constraints}
        await asyncio.to_thread(
            self._juju.deploy, charm, application, config=config, storage=storage, **options
        )

    async def add_unit(
        self, application: str, count: int, to: Sequence[str] | None, attach: Sequence[str] = ()
    ) -> list[str]:
        before = units(await self.status())
        to = to or await self._places(count)
        await asyncio.to_thread(
            self._juju.add_unit, application, num_units=count, to=to, attach_storage=attach
        )
        after = units(await self.status())
        return [
            name
            for name, unit in after.items()
            if name not in before and unit["application"] == application
        ]

    async def add_machine(self) -> str:
        before = await self.status()
        await asyncio.to_thread(self._juju.add_machine, constraints=CONSTRAINTS)
        after = await self.status()
        (added,) = after["machines"].keys() - before["machines"].keys()
        return added

    async def _places(self, count: int) -> list[str] | None:
        if not self._machines:
            return None
        used = {unit["machine"] for unit in units(await self.status()).values()}
        return free_machines(self._machines, used, count)

    async def remove_unit(self, units: Sequence[str], destroy_storage: bool = False) -> None:
        await asyncio.to_thread(self._juju.remove_unit, *units, destroy_storage=destroy_storage)

    async def remove_application(self, application: str, destroy_storage: bool = False) -> None:
        await asyncio.to_thread(
            self._juju.remove_application, application, destroy_storage=destroy_storage
        )

    async def integrate(self, a: str, b: str) -> None:
        await asyncio.to_thread(self._juju.integrate, a, b)

    async def remove_relation(self, a: str, b: str) -> None:
        await asyncio.to_thread(self._juju.remove_relation, a, b)

    async def set_config(self, application: str, values: Mapping[str, str]) -> None:
        await asyncio.to_thread(self._juju.config, application, values)

    async def reset_config(self, application: str, keys: Sequence[str]) -> None:
        await asyncio.to_thread(self._juju.config, application, reset=keys)

    async def get_config(self, application: str) -> dict[str, ConfigOption]:
        return (await self._asked("config", application))["settings"]

    async def set_model_config(self, values: Mapping[str, str]) -> None:
        await asyncio.to_thread(self._juju.model_config, values)

    async def refresh(self, application: str, charm: str) -> None:
        await asyncio.to_thread(self._juju.refresh, application, path=charm)

    async def resolved(self, unit: str, retry: bool) -> None:
        options = [] if retry else ["--no-retry"]
        await asyncio.to_thread(self._juju.cli, "resolved", *options, unit)

    async def list_actions(self, application: str) -> dict[str, dict[str, object]]:
        return await self._asked("actions", application, "--schema")

    async def enqueue_action(self, unit: str, name: str, params: Mapping[str, object]) -> str:
        return self._begin(self._juju.run, unit, name, params, wait=ACTION_TIMEOUT_S)

    async def enqueue_exec(self, unit: str, command: str, timeout_s: float) -> str:
        return self._begin(self._juju.exec, command, unit=unit, wait=timeout_s)

    def _begin(self, run: Callable[..., jubilant.Task], *args: Any, **kwargs: Any) -> str:
        identity = str(next(self._ids))
        self._tasks[identity] = asyncio.create_task(_ended(run, *args, **kwargs))
        return identity

    async def wait_action(self, id: str) -> ActionResult:  # noqa: A002  Juju's name for it.
        task = await self._tasks.pop(id)
        output = {"return-code": task.return_code, "stdout": task.stdout, "stderr": task.stderr}
        return {
            "status": task.status,
            "results": task.results | {key: value for key, value in output.items() if value != ""},
            "message": task.message,
        }

    async def ssh(self, machine: str, command: str, timeout_s: float) -> dict[str, object]:
        """Run a command as root with `juju exec`, which needs no key on the machine."""
        task = await _ended(self._juju.exec, command, machine=machine, wait=timeout_s)
        return {"returncode": task.return_code, "stdout": task.stdout, "stderr": task.stderr}

    async def storage(self) -> list[StoredItem]:
        found = (await self._asked("storage")).get("storage", {})
        return [_stored(name, item) for name, item in found.items()]

    async def attach_storage(self, unit: str, id: str) -> None:  # noqa: A002  Juju's name for it.
        await asyncio.to_thread(self._juju.cli, "attach-storage", unit, id)

    async def detach_storage(self, id: str) -> None:  # noqa: A002  Juju's name for it.
        await asyncio.to_thread(self._juju.cli, "detach-storage", id)


def _is_subordinate(charm: Path) -> bool:
    with zipfile.ZipFile(charm) as packed:
        return bool(yaml.safe_load(packed.read("metadata.yaml")).get("subordinate"))


async def _ended(run: Callable[..., jubilant.Task], *args: Any, **kwargs: Any) -> jubilant.Task:
    """Run an action or a command to its end. One that fails has ended, too."""
    try:
        return await asyncio.to_thread(run, *args, **kwargs)
    except jubilant.TaskError as failed:
        return failed.task


def _stored(name: str, item: Mapping[str, Any]) -> StoredItem:
    attachments = (item.get("attachments") or {}).get("units") or {}
    owner, attachment = next(iter(attachments.items()), (None, {}))
    return {
        "id": name,
        "owner": owner,
        "location": attachment.get("location", ""),
        "status": item["status"]["current"],
    }


class OpsTest(sandbox_ops_test.OpsTest):
    """The sandbox's OpsTest, but for what `juju` and charmcraft do here."""

    def __init__(self, view: View, tmp_path: Path, charmcraft: Sequence[str], *, keep: bool):
        super().__init__(view, tmp_path, keep=keep)
        self._charmcraft = charmcraft

    async def build_charm(
        self,
        charm_path: str | Path,
        bases_index: int | None = None,
        verbosity: Literal["quiet", "brief", "verbose", "debug", "trace"] | None = None,
        return_all: Literal[False] = False,
    ) -> Path:
        """Pack a charm, as pytest-operator does."""
        output = self.tmp_path / Path(charm_path).name
        output.mkdir(exist_ok=True)
        pack = ["charmcraft", "pack", f"--output={output}", *self._charmcraft]
        await self.run(*pack, cwd=Path(charm_path), check=True)
        (charm,) = output.glob("*.charm")
        return charm

    async def juju(self, *args: str, **kwargs: Any) -> tuple[int | None, str, str]:
        """Run a command of Juju on the model."""
        environment = ["/usr/bin/env", f"JUJU_MODEL={self._view.client.model}"]
        return await self.run(*environment, "juju", *args, **kwargs)

    async def log_model(self) -> None:
        """Log the status and the errors of the debug log."""
        errors = ["debug-log", "--replay", "--no-tail", "--level=ERROR"]
        for command in (["status"], errors):
            _, stdout, _ = await self.juju(*command)
            _log.info("juju %s:\n\n%s", " ".join(command), stdout)


@pytest_asyncio.fixture(scope="module")
async def ops_test(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[OpsTest, None]:
    config = request.config
    juju, is_ours = _model(config, request.module.__name__.rpartition(".")[-1])
    view = View(Controller(juju, given_machines(config)))
    await view.refresh()
    watching = asyncio.create_task(view.watch(WATCH_INTERVAL_S))
    keep: bool = config.getoption("--keep-models") or not is_ours
    charmcraft: list[str] = config.option.charmcraft_args
    offered = OpsTest(view, tmp_path_factory.mktemp("juju4"), charmcraft, keep=keep)
    # Where pytest-operator's marker abort_on_fail looks whether a test may run.
    pytest_operator.plugin.OpsTest._instance = cast("Any", offered)
    yield offered
    pytest_operator.plugin.OpsTest._instance = None
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    await offered.log_model()
    if not keep:
        juju.destroy_model(view.client.model, destroy_storage=True, force=True)


def _model(config: pytest.Config, module: str) -> tuple[jubilant.Juju, bool]:
    """Return the model that ``--model`` names or a new one, and whether it is new."""
    controller: str | None = config.getoption("--controller")
    given: str | None = config.getoption("--model")
    name = given or f"{module.replace('_', '-')}-{secrets.token_hex(2)}"
    juju = jubilant.Juju(model=f"{controller}:{name}" if controller else name)
    if given and _exists(juju):
        return juju, False
    juju.add_model(name, config.getoption("--cloud"), controller=controller)
    return juju, True


def _exists(juju: jubilant.Juju) -> bool:
    try:
        juju.cli("show-model", juju.model or "", include_model=False)
    except jubilant.CLIError:
        return False
    return True


@pytest.fixture(scope="session")
def deploy_options() -> Mapping[str, Any]:
    """What ``Model.deploy`` needs beside the charm: here, ``Controller.deploy`` knows it."""
    return {}

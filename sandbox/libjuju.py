# SPDX-License-Identifier: Apache-2.0
"""Stand-ins for python-libjuju's Model, Application, Unit, Machine, Action and Relation.

They have libjuju's names, signatures and errors, and speak to a sandbox's controller, or to what
answers like one (``tests/integration/juju4_substrate.py``). Only what an integration suite uses
is here; what the sandbox can't do raises NotImplementedError. Where they differ from libjuju on
purpose, the docstring says so. ``tests/sandbox/test_ops_test.py`` holds them against the real
classes.
"""

import asyncio
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypedDict, cast

from juju.client.client import (
    ConfigValue,
    EntityStatus,
    FullStatus,
    StorageAttachmentDetails,
)
from juju.errors import (
    JujuAPIError,
    JujuApplicationConfigError,
    JujuError,
    JujuModelConfigError,
)
from juju.exceptions import DeadEntityException

from sandbox.client import ControllerError, ControllerGoneError
from sandbox.connection import Client
from sandbox.idle import Settling
from sandbox.status import (
    ApplicationStatus,
    MachineStatus,
    PlacedUnit,
    State,
    Status,
    UnitStatus,
    address,
    table,
    units,
)

_WATCH_INTERVAL_S = 0.2
_WATCH_PAUSE = 10
_EXEC_TIMEOUT_S = 300.0
"""Limit of a command that came without one; libjuju has none."""

_MODEL_CONFIG = {"update-status-hook-interval": "5m", "automatically-retry-hooks": "true"}


class ActionResult(TypedDict):
    """How an action ended."""

    status: str
    results: dict[str, object]
    message: str


class ConfigOption(TypedDict):
    """An application's option and its value."""

    value: object
    default: object
    type: str
    source: str
    description: str


class StoredItem(TypedDict):
    """A storage instance, as the controller lists it."""

    id: str
    owner: str | None
    location: str
    status: str


class Asked(Protocol):
    """What answers a view's questions: the client of a sandbox's controller, for one."""

    @property
    def model(self) -> str:
        """The model's name."""
        ...

    async def call(self, method: str, **params: object) -> object:
        """Ask, or raise ControllerError."""
        ...


class View:
    """What a controller's model looks like, kept up to date."""

    def __init__(self, client: Asked) -> None:
        """See through ``client``; ``refresh`` must be awaited before anything is seen."""
        self.client = client
        self.status = Status(model={"name": client.model}, machines={}, applications={})

    @property
    def units(self) -> dict[str, PlacedUnit]:
        """The units by name, subordinates too."""
        return units(self.status)

    async def refresh(self) -> Status:
        """Look again."""
        self.status = cast("Status", await self.client.call("status"))
        return self.status

    async def watch(self, interval_s: float = _WATCH_INTERVAL_S) -> None:
        """Look again and again, as libjuju's watcher does, until the controller is gone."""
        while True:
            begun = time.monotonic()
            try:
                await self.refresh()
            except ControllerError:
                # Whoever asks next is told.
                return
            # A model of a thousand applications must not spend its time on being watched.
            await asyncio.sleep(max(interval_s, _WATCH_PAUSE * (time.monotonic() - begun)))

    async def ask(self, method: str, **params: object) -> object:
        """Ask the controller; what it refuses is raised as libjuju raises it."""
        try:
            return await self.client.call(method, **params)
        except ControllerGoneError:
            raise
        except ControllerError as error:
            details: dict[str, object] = {"error": str(error), "response": {}, "request-id": 0}
            raise JujuAPIError(details) from error

    async def change(self, method: str, **params: object) -> object:
        """Ask for a change, and see what it did."""
        result = await self.ask(method, **params)
        await self.refresh()
        return result

    def timeout(self, what: str, busy: Sequence[str] = ()) -> TimeoutError:
        """Return the error for having waited in vain."""
        lines = "\n  ".join([f"Timed out waiting for {what}:", *busy])
        return TimeoutError(f"{lines}\n\n{table(self.status)}")


class Model:
    """The stand-in for ``juju.model.Model``: a view of the controller's model, kept up to date."""

    def __init__(self, view: View) -> None:
        """Show what ``view`` sees."""
        self._view = view
        self._config = dict(_MODEL_CONFIG)

    @property
    def name(self) -> str:
        """The model's name."""
        return self._view.status["model"]["name"]

    @property
    def applications(self) -> dict[str, "Application"]:
        """The applications by name."""
        return {name: Application(name, self._view) for name in self._view.status["applications"]}

    @property
    def units(self) -> dict[str, "Unit"]:
        """The units by name, subordinates too."""
        return {name: Unit(name, self._view) for name in self._view.units}

    @property
    def machines(self) -> dict[str, "Machine"]:
        """The machines by number."""
        return {name: Machine(name, self._view) for name in self._view.status["machines"]}

    @property
    def relations(self) -> list["Relation"]:
        """The relations, as the status shows them."""
        return _relations(self._view.status)

    async def deploy(
        self,
        entity_url: str | Path,
        application_name: str | None = None,
        bind: Mapping[str, str] | None = None,
        channel: str | None = None,
        config: Mapping[str, object] | None = None,
        constraints: object = None,
        force: bool = False,
        num_units: int = 1,
        overlays: Sequence[str] = (),
        base: str | None = None,
        resources: Mapping[str, str] | None = None,
        series: str | None = None,
        revision: int | None = None,
        storage: Mapping[str, str | Mapping[str, object]] | None = None,
        to: str | Sequence[str] | None = None,
        devices: object = None,
        trust: bool = False,
        attach_storage: Sequence[str] = (),
    ) -> "Application":
        """Deploy a packed charm.

        ``constraints``, ``base`` and ``series`` choose among machines; the sandbox has one kind,
        and ignores them.
        """
        _refuse(
            bind=bind,
            channel=channel,
            force=force,
            overlays=overlays,
            resources=resources,
            revision=revision,
            devices=devices,
            trust=trust,
            attach_storage=attach_storage,
        )
        charm = _local_charm(entity_url)
        name = application_name or charm.name.partition("_")[0].removesuffix(".charm")
        await self._view.change(
            "deploy",
            charm=str(charm),
            application=name,
            num_units=num_units,
            config=dict(config or {}),
            storage={label: _storage(value) for label, value in (storage or {}).items()},
            to=_placement(to),
        )
        return Application(name, self._view)

    async def integrate(self, relation1: str, relation2: str) -> "Relation":
        """Relate two applications; one that is there already is returned."""
        try:
            await self._view.change("integrate", a=relation1, b=relation2)
        except JujuAPIError as error:
            if "already exists" not in str(error):
                raise
        return next(found for found in self.relations if found.matches(relation1, relation2))

    async def wait_for_idle(
        self,
        apps: Iterable[str] | None = None,
        raise_on_error: bool = True,
        raise_on_blocked: bool = False,
        wait_for_active: bool = False,
        timeout: float | None = 10 * 60,
        idle_period: float = 15,
        check_freq: float = 0.5,
        status: str | None = None,
        wait_for_at_least_units: int | None = None,
        wait_for_exact_units: int | None = None,
    ) -> None:
        """Wait until the applications' units have been idle, and in ``status``, for a while.

        libjuju waits the whole ``idle_period``, as more may be coming. In the sandbox nothing more
        comes once every unit of the model is idle, so half a second of that is enough.
        """
        if wait_for_active:
            message = "wait_for_active is deprecated; use status"
            warnings.warn(message, DeprecationWarning, stacklevel=2)
            status = "active"
        names = _names(apps) if apps is not None else []
        names = names or list(self.applications)
        if wait_for_exact_units is not None and wait_for_exact_units < 0:
            raise ValueError(f"wait_for_exact_units can't be negative: {wait_for_exact_units}")
        fatal = {"error": raise_on_error, "blocked": raise_on_blocked}
        settling = Settling(
            fatal=[name for name, raises in fatal.items() if raises],
            wanted=status,
            at_least=wait_for_at_least_units,
            exactly=wait_for_exact_units,
            period_s=idle_period,
        )
        started = time.monotonic()
        while busy := settling.busy(names, await self._view.refresh(), time.monotonic()):
            if timeout is not None and time.monotonic() - started > timeout:
                raise self._view.timeout("model", busy)
            await asyncio.sleep(check_freq)

    async def block_until(
        self,
        *conditions: Callable[[], bool],
        timeout: float | None = None,
        wait_period: float = 0.5,
    ) -> None:
        """Wait until every condition holds."""
        started = time.monotonic()
        await self._view.refresh()
        while not all(condition() for condition in conditions):
            if timeout is not None and time.monotonic() - started > timeout:
                raise self._view.timeout("conditions")
            await asyncio.sleep(wait_period)
            await self._view.refresh()

    async def add_machine(
        self,
        spec: str | None = None,
        constraints: object = None,
        disks: object = None,
        series: str | None = None,
    ) -> "Machine":
        """Boot a machine; as in ``deploy``, constraints and series choose nothing here."""
        _refuse(spec=spec, disks=disks)
        return Machine(str(await self._view.change("add_machine")), self._view)

    async def destroy_unit(
        self,
        unit_id: str,
        destroy_storage: bool = False,
        dry_run: bool = False,
        force: bool = False,
        max_wait: float | None = None,
    ) -> None:
        """Remove a unit."""
        await self.destroy_units(
            unit_id,
            destroy_storage=destroy_storage,
            dry_run=dry_run,
            force=force,
            max_wait=max_wait,
        )

    async def destroy_units(
        self,
        *unit_names: str,
        destroy_storage: bool = False,
        dry_run: bool = False,
        force: bool = False,
        max_wait: float | None = None,
    ) -> None:
        """Remove several units."""
        _refuse(dry_run=dry_run, force=force, max_wait=max_wait)
        await self._view.change(
            "remove_unit", units=list(unit_names), destroy_storage=destroy_storage
        )

    async def remove_application(
        self,
        app_name: str,
        block_until_done: bool = False,
        force: bool = False,
        destroy_storage: bool = False,
        no_wait: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Remove an application and its units."""
        if app_name not in self.applications:
            raise JujuError(f"no application {app_name}; there are: {list(self.applications)}")
        application = self.applications[app_name]
        await application.destroy(destroy_storage=destroy_storage, force=force, no_wait=no_wait)
        if block_until_done:
            await self.block_until(lambda: app_name not in self.applications, timeout=timeout)

    async def get_config(self) -> dict[str, ConfigValue]:
        """Return the model's settings that the sandbox has."""
        return {key: _config_value(value) for key, value in self._config.items()}

    async def set_config(self, config: Mapping[str, str | ConfigValue]) -> None:
        """Change the model's settings; the values are strings, as libjuju wants them."""
        values: dict[str, str] = {}
        for key, value in config.items():
            plain = value if isinstance(value, str) else getattr(value, "value", None)
            if not isinstance(plain, str):
                raise JujuModelConfigError(
                    config, (key, value), f"{key}: expected a string, found {value!r}"
                )
            values[key] = plain
        await self._view.change("set_model_config", values=values)
        self._config |= values

    async def get_status(
        self, filters: Sequence[str] | None = None, utc: bool = False
    ) -> FullStatus:
        """Return the status as libjuju's own object."""
        _refuse(filters=filters, utc=utc)
        return _full_status(await self._view.refresh())

    async def list_storage(
        self, filesystem: bool = False, volume: bool = False
    ) -> list[dict[str, object]]:
        """Return the storage instances, with libjuju's keys that the sandbox knows."""
        _refuse(filesystem=filesystem, volume=volume)
        stored = cast("list[StoredItem]", await self._view.ask("storage"))
        return [_storage_details(item) for item in stored]


@dataclass(frozen=True)
class Relation:
    """The stand-in for ``juju.relation.Relation``: two ends, ``application:endpoint``."""

    ends: tuple[str, str]

    def matches(self, *specs: str) -> bool:
        """Whether each of ``application`` or ``application:endpoint`` is an end of it."""
        return all(
            any(end == spec or end.startswith(f"{spec}:") for end in self.ends) for spec in specs
        )


@dataclass(repr=False)
class _Entity:
    """A thing in the model, found anew by its name whenever it is asked something."""

    entity_id: str
    _view: View

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.entity_id}>"

    def _dead(self) -> DeadEntityException:
        return DeadEntityException(f"{self!r} is no longer in the model")


class Application(_Entity):
    """The stand-in for ``juju.application.Application``."""

    @property
    def name(self) -> str:
        """The application's name."""
        return self.entity_id

    @property
    def units(self) -> list["Unit"]:
        """Its units."""
        found = self._view.units.items()
        return [Unit(name, self._view) for name, it in found if it["application"] == self.name]

    @property
    def subordinate_units(self) -> list["Unit"]:
        """Its units, if it is a subordinate."""
        return [unit for unit in self.units if unit.is_subordinate]

    @property
    def relations(self) -> list[Relation]:
        """The relations that it is in."""
        return [found for found in _relations(self._view.status) if found.matches(self.name)]

    @property
    def status(self) -> str:
        """The application's status, as the leader set it or as its units have it."""
        return self._data["application-status"]["current"]

    @property
    def status_message(self) -> str:
        """What the leader says to it."""
        return self._data["application-status"].get("message", "")

    @property
    def workload_version(self) -> str:
        """The version that the charm gave."""
        return self._data.get("version", "")

    async def get_status(self) -> str:
        """Return the application's status."""
        await self._view.refresh()
        return self.status

    async def add_unit(
        self,
        count: int = 1,
        to: str | Sequence[str] | None = None,
        attach_storage: Sequence[str] = (),
    ) -> list["Unit"]:
        """Add units, each on a new machine unless ``to`` names machines."""
        names = await self._view.change(
            "add_unit",
            application=self.name,
            count=count,
            to=_placement(to),
            attach=list(attach_storage),
        )
        return [Unit(name, self._view) for name in cast("list[str]", names)]

    add_units = add_unit

    async def destroy_unit(self, *unit_names: str) -> None:
        """Remove units by name."""
        await self._view.change("remove_unit", units=list(unit_names))

    destroy_units = destroy_unit

    async def destroy(
        self, destroy_storage: bool = False, force: bool = False, no_wait: bool = False
    ) -> None:
        """Remove the application and its units."""
        _refuse(force=force, no_wait=no_wait)
        await self._view.change(
            "remove_application", application=self.name, destroy_storage=destroy_storage
        )

    remove = destroy

    async def destroy_relation(
        self, local_relation: str, remote_relation: str, block_until_done: bool = False
    ) -> None:
        """Remove the relation from an endpoint of this application to another's."""
        local = local_relation if ":" in local_relation else f"{self.name}:{local_relation}"
        await self._view.change("remove_relation", a=local, b=remote_relation)
        while block_until_done and any(
            found.matches(local, remote_relation) for found in self.relations
        ):
            await asyncio.sleep(_WATCH_INTERVAL_S)
            await self._view.refresh()

    remove_relation = destroy_relation

    async def get_config(self) -> dict[str, ConfigOption]:
        """Return the options with their values."""
        options = await self._view.ask("get_config", application=self.name)
        return cast("dict[str, ConfigOption]", options)

    async def set_config(self, config: Mapping[str, object]) -> None:
        """Set options, to strings or to what ``get_config`` gave, as libjuju does."""
        values: dict[str, str] = {}
        for key, value in config.items():
            if isinstance(value, str):
                values[key] = value
            elif not isinstance(value, Mapping):
                raise JujuApplicationConfigError(config, (key, value))
            elif option := cast("Mapping[str, object]", value).get("value"):
                values[key] = str(option)
        await self._view.change("set_config", application=self.name, values=values)

    async def reset_config(self, to_default: Sequence[str]) -> None:
        """Give options their defaults again."""
        await self._view.change("reset_config", application=self.name, keys=list(to_default))

    async def refresh(
        self,
        channel: str | None = None,
        force: bool = False,
        force_series: bool = False,
        force_units: bool = False,
        path: str | Path | None = None,
        resources: Mapping[str, str] | None = None,
        revision: int | None = None,
        switch: str | None = None,
    ) -> None:
        """Replace the charm by the packed one at ``path``."""
        _refuse(
            channel=channel,
            force=force,
            force_series=force_series,
            force_units=force_units,
            resources=resources,
            revision=revision,
            switch=switch,
        )
        if path is None:
            raise JujuError("the sandbox has packed charms only: refresh(path=…)")
        charm = _local_charm(path)
        await self._view.change("refresh", application=self.name, charm=str(charm))

    async def get_actions(self, schema: bool = False) -> dict[str, str]:
        """Return the actions' descriptions by name."""
        _refuse(schema=schema)
        found = await self._view.ask("list_actions", application=self.name)
        actions = cast("dict[str, dict[str, object]]", found)
        return {name: str(action.get("description", "")) for name, action in actions.items()}

    @property
    def _data(self) -> ApplicationStatus:
        try:
            return self._view.status["applications"][self.name]
        except KeyError as error:
            raise self._dead() from error


class Unit(_Entity):
    """The stand-in for ``juju.unit.Unit``."""

    @property
    def name(self) -> str:
        """The unit's name."""
        return self.entity_id

    @property
    def agent_status(self) -> str:
        """What the unit's agent is doing: ``idle``, ``executing``."""
        return self._data["status"]["juju-status"]["current"]

    @property
    def agent_status_message(self) -> str:
        """What exactly it is doing."""
        return self._data["status"]["juju-status"].get("message", "")

    @property
    def workload_status(self) -> str:
        """The status that the charm set, or ``error``."""
        return self._data["status"]["workload-status"]["current"]

    @property
    def workload_status_message(self) -> str:
        """What the charm says to it."""
        return self._data["status"]["workload-status"].get("message", "")

    @property
    def is_subordinate(self) -> bool:
        """Whether it lives beside another unit."""
        return bool(self.principal_unit)

    @property
    def principal_unit(self) -> str:
        """The name of the unit beside which it lives, or the empty string."""
        return self._data["principal"]

    @property
    def public_address(self) -> str | None:
        """Its address, once it has one."""
        return self._data["status"].get("public-address") or None

    @property
    def machine(self) -> "Machine | None":
        """The machine that it is on, once it has one."""
        machine = self._data["machine"]
        return Machine(machine, self._view) if machine in self._view.status["machines"] else None

    def get_subordinates(self) -> list["Unit"]:
        """Return the units that live beside it."""
        found = self._view.units.items()
        return [Unit(name, self._view) for name, it in found if it["principal"] == self.name]

    async def get_public_address(self) -> str | None:
        """Return its address, once it has one."""
        return self.public_address

    async def is_leader_from_status(self) -> bool:
        """Whether it leads its application."""
        await self._view.refresh()
        placed = self._view.units.get(self.name)
        return placed is not None and placed["status"].get("leader", False)

    async def destroy(
        self,
        destroy_storage: bool = False,
        dry_run: bool = False,
        force: bool = False,
        max_wait: float | None = None,
    ) -> None:
        """Remove the unit."""
        _refuse(dry_run=dry_run, force=force, max_wait=max_wait)
        await self._view.change("remove_unit", units=[self.name], destroy_storage=destroy_storage)

    remove = destroy

    async def resolved(self, retry: bool = False) -> None:
        """Say that the error of its hook is resolved."""
        await self._view.change("resolved", unit=self.name, retry=retry)

    async def attach_storage(self, storage_ids: Sequence[str] = ()) -> None:
        """Attach existing storage."""
        if not storage_ids:
            raise JujuError(f"Expected a storage ID to be attached to unit {self.name}")
        for storage in storage_ids:
            await self._view.change("attach_storage", unit=self.name, id=storage)

    async def detach_storage(self, *storage_ids: str, force: bool = False) -> None:
        """Detach storage."""
        _refuse(force=force)
        if not storage_ids:
            raise JujuError("Expected at least one storage ID")
        for storage in storage_ids:
            await self._view.change("detach_storage", id=storage)

    async def run(
        self, command: str, timeout: float | None = None, block: bool = False
    ) -> "Action":
        """Begin a shell command in a hook context, as ``juju exec`` does, as root."""
        identity = await self._view.ask(
            "enqueue_exec",
            unit=self.name,
            command=command,
            timeout_s=timeout or _EXEC_TIMEOUT_S,
        )
        action = Action(str(identity), self._view)
        return await action.wait() if block else action

    async def run_action(self, action_name: str, **params: object) -> "Action":
        """Begin an action of the charm."""
        known = await self._view.ask("list_actions", application=self._data["application"])
        if action_name not in cast("dict[str, object]", known):
            raise ValueError(f"Action `{action_name}` not found on {self.name}")
        identity = await self._view.ask(
            "enqueue_action", unit=self.name, name=action_name, params=params
        )
        return Action(str(identity), self._view)

    async def ssh(
        self,
        command: str,
        user: str = "ubuntu",
        proxy: bool = False,
        ssh_opts: str | Sequence[str] | None = None,
    ) -> str:
        """Run a shell command on its machine; see ``Machine.ssh``."""
        return await self._its_machine().ssh(command, user, proxy, ssh_opts)

    async def scp_to(
        self,
        source: str | Path,
        destination: str,
        user: str = "ubuntu",
        proxy: bool = False,
        scp_opts: str | Sequence[str] = "",
    ) -> None:
        """Copy to its machine; see ``Machine.scp_to``."""
        await self._its_machine().scp_to(source, destination, user, proxy, scp_opts)

    async def scp_from(
        self,
        source: str,
        destination: str | Path,
        user: str = "ubuntu",
        proxy: bool = False,
        scp_opts: str | Sequence[str] = "",
    ) -> None:
        """Copy from its machine; see ``Machine.scp_from``."""
        await self._its_machine().scp_from(source, destination, user, proxy, scp_opts)

    def _its_machine(self) -> "Machine":
        machine = self.machine
        if machine is None:
            raise JujuError(f"{self.name} has no machine yet")
        return machine

    @property
    def _data(self) -> PlacedUnit:
        try:
            return self._view.units[self.name]
        except KeyError as error:
            raise self._dead() from error


class Machine(_Entity):
    """The stand-in for ``juju.machine.Machine``."""

    @property
    def id(self) -> str:
        """The machine's number."""
        return self.entity_id

    @property
    def status(self) -> str:
        """How the machine itself is: ``pending`` or ``running``."""
        return self._instance["current"]

    @property
    def status_message(self) -> str:
        """What there is to say to that."""
        return self._instance.get("message", "")

    @property
    def agent_status(self) -> str:
        """How the machine's agent is: ``pending``, ``started``, ``down``."""
        return self._data["juju-status"]["current"]

    @property
    def hostname(self) -> str | None:
        """The name that it gives itself."""
        return self._data.get("hostname")

    @property
    def addresses(self) -> list[dict[str, str]]:
        """Its addresses, with Juju's keys."""
        return [
            {
                "value": address,
                "type": "ipv6" if ":" in address else "ipv4",
                "scope": "local-cloud",
            }
            for address in self._data.get("ip-addresses") or []
        ]

    @property
    def dns_name(self) -> str | None:
        """The address to reach it at, once it has one."""
        return address(self._data)

    async def ssh(
        self,
        command: str,
        user: str = "ubuntu",
        proxy: bool = False,
        ssh_opts: str | Sequence[str] | None = None,
        wait_for_active: bool = False,
        timeout: float | None = None,
    ) -> str:
        """Run a shell command on the machine and return its output.

        Everybody is root here, whatever ``user`` says. libjuju repeats a failing command for 20 s
        before it raises JujuError; here that comes at once.
        """
        _refuse(proxy=proxy, ssh_opts=ssh_opts)
        answer = await self._view.ask(
            "ssh", machine=self.id, command=command, timeout_s=timeout or _EXEC_TIMEOUT_S
        )
        result = cast("Mapping[str, object]", answer)
        if result["returncode"] != 0:
            raise JujuError(
                f"command failed on machine {self.id}: {command}\n"
                f"exit status {result['returncode']}: {result['stderr'] or result['stdout']}"
            )
        return str(result["stdout"])

    async def scp_to(
        self,
        source: str | Path,
        destination: str,
        user: str = "ubuntu",
        proxy: bool = False,
        scp_opts: str | Sequence[str] = "",
        wait_for_active: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Copy to the machine, as root whatever ``user`` says."""
        _refuse(proxy=proxy)
        await self._scp(scp_opts, str(source), f"root@{self._scp_host}:{destination}", timeout)

    async def scp_from(
        self,
        source: str,
        destination: str | Path,
        user: str = "ubuntu",
        proxy: bool = False,
        scp_opts: str | Sequence[str] = "",
        wait_for_active: bool = False,
        timeout: float | None = None,
    ) -> None:
        """Copy from the machine, as root whatever ``user`` says."""
        _refuse(proxy=proxy)
        await self._scp(scp_opts, f"root@{self._scp_host}:{source}", str(destination), timeout)

    async def _scp(
        self, options: str | Sequence[str], source: str, destination: str, timeout: float | None
    ) -> None:
        words = options.split() if isinstance(options, str) else options
        client = self._view.client
        if not isinstance(client, Client):
            raise NotImplementedError("only machines of the sandbox are copied to: use ssh")
        process = await asyncio.create_subprocess_exec(
            *client.directory.ssh("/usr/bin/scp"),
            *("-q", "-B", *words, source, destination),
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(timeout or _EXEC_TIMEOUT_S):
                _, stderr = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise JujuError(f"can't copy {source} to {destination}: {stderr.decode().strip()}")

    @property
    def _scp_host(self) -> str:
        host = self.dns_name
        if host is None:
            raise JujuError(f"machine {self.id} has no address yet")
        return f"[{host}]" if ":" in host else host

    @property
    def _instance(self) -> State:
        return self._data.get("machine-status", self._data["juju-status"])

    @property
    def _data(self) -> MachineStatus:
        try:
            return self._view.status["machines"][self.id]
        except KeyError as error:
            raise self._dead() from error


@dataclass(repr=False)
class Action(_Entity):
    """The stand-in for ``juju.action.Action``: an action or a command that was begun."""

    results: dict[str, object] = field(default_factory=dict[str, object])
    message: str = ""
    _status: str = "pending"

    @property
    def id(self) -> str:
        """The action's number."""
        return self.entity_id

    @property
    def status(self) -> str:
        """``pending`` until it was waited for; then ``completed`` or ``failed``."""
        return self._status

    async def fetch_output(self) -> None:
        """Wait for the end of it, and take over how it ended."""
        ended = cast("ActionResult", await self._view.change("wait_action", id=self.id))
        self.results = ended["results"]
        self.message = ended.get("message") or ""
        self._status = ended["status"]

    async def wait(self) -> "Action":
        """Wait for the end of it."""
        if not self.results:
            await self.fetch_output()
        return self


def _refuse(**arguments: object) -> None:
    """Raise for arguments that ask for what the sandbox hasn't got."""
    given = [name for name, value in arguments.items() if value]
    if given:
        raise NotImplementedError(f"the sandbox has no {', '.join(given)}: test that on Juju")


def _names(apps: Iterable[str]) -> list[str]:
    if isinstance(apps, str):
        raise TypeError(f"apps must be a list of names, got {apps!r}")
    return list(apps)


def _local_charm(path: str | Path) -> Path:
    charm = Path(str(path).removeprefix("local:"))
    if not charm.is_file():
        raise JujuError(f"no packed charm at {charm}: the sandbox deploys .charm files only")
    return charm.resolve()


def _placement(to: str | Sequence[str] | None) -> list[str] | None:
    if to is None:
        return None
    return [to] if isinstance(to, str) else list(to)


def _storage(value: str | Mapping[str, object]) -> str:
    """Return libjuju's storage constraints (size in MiB) as Juju's directive."""
    if isinstance(value, str):
        return value
    size = f"{value['size']}M" if "size" in value else None
    parts = (value.get("pool"), value.get("count"), size)
    return ",".join(str(part) for part in parts if part)


def _relations(status: Status) -> list[Relation]:
    """Return the relations, each found from both of its ends in the status.

    The status names an application's endpoint and the application at the other end, but not the
    endpoint there: that is one of the same interface which names this application in its turn.
    """
    ends = [
        (f"{name}:{endpoint}", name, other["related-application"], other.get("interface", ""))
        for name, application in status["applications"].items()
        for endpoint, others in (application.get("relations") or {}).items()
        for other in others
    ]
    pairs = {
        (min(one, two), max(one, two))
        for one, name, related, interface in ends
        for two, other, back, same in ends
        if related == other
        and back == name
        and interface == same
        and (one != two or name == related)
    }
    return [Relation(pair) for pair in sorted(pairs)]


def _config_value(value: str) -> ConfigValue:
    return ConfigValue(source="model", value=value)


def _full_status(status: Status) -> FullStatus:
    """Return the status as libjuju's object, from what the API would have sent."""
    found = FullStatus.from_json(
        {
            "applications": {
                name: {
                    "charm": application["charm"],
                    "exposed": application.get("exposed", False),
                    "status": _api_state(application["application-status"]),
                    "subordinate-to": application.get("subordinate-to") or [],
                    "units": _api_units(application.get("units")),
                    "workload-version": application.get("version", ""),
                }
                for name, application in status["applications"].items()
            },
            "machines": {
                name: {
                    "agent-status": _api_state(machine["juju-status"]),
                    "instance-status": _api_state(
                        machine.get("machine-status", machine["juju-status"])
                    ),
                    "dns-name": machine.get("dns-name"),
                    "hostname": machine.get("hostname"),
                    "instance-id": machine.get("instance-id"),
                    "ip-addresses": machine.get("ip-addresses") or [],
                }
                for name, machine in status["machines"].items()
            },
        }
    )
    return cast("FullStatus", found)


def _api_units(found: Mapping[str, UnitStatus] | None) -> dict[str, object]:
    return {
        name: {
            "agent-status": _api_state(unit["juju-status"]),
            "workload-status": _api_state(unit["workload-status"]),
            "leader": unit.get("leader", False),
            "machine": unit.get("machine", ""),
            "opened-ports": unit.get("open-ports") or [],
            "public-address": unit.get("public-address", ""),
            "subordinates": _api_units(unit.get("subordinates")),
        }
        for name, unit in (found or {}).items()
    }


def _api_state(state: State) -> dict[str, object]:
    return {
        "status": state["current"],
        "info": state.get("message", ""),
        "since": state.get("since", ""),
        "data": {},
    }


def _storage_details(item: StoredItem) -> dict[str, object]:
    tag = f"storage-{item['id'].replace('/', '-')}"
    owner = f"unit-{item['owner'].replace('/', '-')}" if item["owner"] else ""
    return {
        "storage-tag": tag,
        "owner-tag": owner,
        "status": EntityStatus(status=item["status"], info="", data={}),
        "attachments": {
            owner: StorageAttachmentDetails(
                storage_tag=tag, unit_tag=owner, location=item["location"]
            )
        }
        if owner
        else {},
    }

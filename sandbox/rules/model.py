# SPDX-License-Identifier: Apache-2.0
"""What Juju's database holds of one model, and each unit agent's own record. No I/O.

The sandbox is not Juju; these are the parts of Juju's state that decide which hooks run and
what a charm sees in them.
"""

import hashlib
import json
import random
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, TypeVar

from sandbox.rules.charm import Charm, Endpoint, Value

Life = Literal["alive", "dying"]
Profile = Literal["3.6", "4.0"]
_Item = TypeVar("_Item")

INTERVAL = "update-status-hook-interval"
RETRIES = "automatically-retry-hooks"
DEFAULT_CONFIG = {RETRIES: "true", "logging-config": "<root>=INFO", INTERVAL: "5m"}
"""The model's options, those that the sandbox has."""


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


@dataclass(frozen=True)
class Status:
    """A status, its message, and since when."""

    status: str
    message: str = ""
    since: str = field(default_factory=_now)


@dataclass(frozen=True)
class Hook:
    """One hook to run. `seen` is what its commit records as seen: a version or a hash."""

    kind: str
    relation_id: int | None = None
    endpoint: str = ""
    remote_app: str = ""
    remote_unit: str = ""
    departing_unit: str = ""
    storage_id: str = ""
    seen: str | int = 0

    @property
    def name(self) -> str:
        """The hook's name as the charm sees it, such as `nfs-share-relation-changed`."""
        prefix = self.endpoint or self.storage_id.partition("/")[0]
        return f"{prefix}-{self.kind}" if prefix else self.kind


@dataclass
class RelationState:
    """What a unit's agent remembers of a relation: the versions its hooks have seen."""

    is_created: bool = False
    members: dict[str, int] = field(default_factory=dict[str, int])
    app_version: int = 0
    changed_pending: str = ""


@dataclass
class LocalState:
    """What a unit's agent remembers of itself.

    `pending` is a hook that was begun and not committed: it runs before any other, once somebody
    has seen to it when `has_failed`. `queued` is the kind of hook that must come next.
    """

    charm_version: int | None = None
    is_installed: bool = False
    is_started: bool = False
    is_stopped: bool = False
    is_removed: bool = False
    is_leader: bool = False
    config_seen: str = ""
    queued: str = ""
    pending: Hook | None = None
    has_failed: bool = False
    is_rebooted: bool = False
    wants_update_status: bool = False
    relations: dict[int, RelationState] = field(default_factory=dict[int, RelationState])
    storage: set[str] = field(default_factory=set[str])


@dataclass
class Memory:
    """What a unit's agent has in memory alone: it is empty when the agent starts anew.

    `settings` are databags of other units, by relation and unit. One that is a member of the
    relation is read once, and again only after a joined or changed hook of its own
    (internal/worker/uniter/runner/context/cache.go).
    """

    settings: dict[tuple[int, str], dict[str, str]] = field(
        default_factory=dict[tuple[int, str], dict[str, str]]
    )
    has_seen_leader_settings: bool = False


@dataclass
class Machine:
    """A machine of the model. `is_heard`: its agents' word reaches the controller."""

    id: str
    address: str
    status: Status = field(default_factory=lambda: Status("pending"))
    is_heard: bool = True


@dataclass
class Unit:
    """A unit: what the controller knows of it, and its agent's own state."""

    name: str
    app: str
    machine: str
    principal: str = ""
    life: Life = "alive"
    local: LocalState = field(default_factory=LocalState)
    memory: Memory = field(default_factory=Memory)
    hooks_begun: int = 0
    status: Status = field(default_factory=lambda: Status("waiting", "waiting for machine"))
    is_status_set_by_charm: bool = False
    agent_status: Status = field(default_factory=lambda: Status("allocating"))
    ports: set[str] = field(default_factory=set[str])

    @property
    def number(self) -> int:
        """The unit's number within its application."""
        return int(self.name.rpartition("/")[2])

    @property
    def tag(self) -> str:
        """The unit's name in paths: `unit-nfs-server-0`."""
        return "unit-" + self.name.replace("/", "-")

    @property
    def displayed_status(self) -> Status:
        """The workload status, or the error that hides it."""
        pending = self.local.pending
        if pending and self.local.has_failed:
            return Status("error", f'hook failed: "{pending.name}"', self.agent_status.since)
        return self.status


@dataclass(frozen=True)
class StorageDirective:
    """What `--storage` asked for: `pool` is "rootfs" (a directory) or "disk"; size in MiB."""

    pool: str
    size_mib: int


@dataclass
class Storage:
    """A storage instance. `life` is that of its attachment to `owner`."""

    id: str
    pool: str
    size_mib: int
    location: str
    owner: str | None
    life: Life = "alive"
    is_provisioned: bool = False

    @property
    def name(self) -> str:
        """The name of the storage in the charm's metadata."""
        return self.id.partition("/")[0]


@dataclass
class Application:
    """An application."""

    name: str
    charm: Charm
    charm_version: int = 1
    life: Life = "alive"
    settings: dict[str, Value] = field(default_factory=dict[str, Value])
    storage: dict[str, StorageDirective] = field(default_factory=dict[str, StorageDirective])
    leader: str = ""
    status: Status | None = None
    workload_version: str = ""
    other_model: str = ""
    """The model that it is of, if that is another: it consumes an offer of this one."""

    def config(self) -> dict[str, Value]:
        """Return the options that are set or have a default."""
        defaults = {k: o.default for k, o in self.charm.options.items() if o.default is not None}
        return defaults | self.settings


@dataclass
class Bag:
    """One databag. `version` goes up with each change, and is 0 while nothing was written."""

    data: dict[str, str] = field(default_factory=dict[str, str])
    version: int = 0

    def update(self, changes: Mapping[str, str]) -> None:
        """Apply `changes` (an empty value deletes); nothing happens if nothing differs."""
        changed = {k: v for k, v in (self.data | dict(changes)).items() if v}
        if changed != self.data:
            self.data = changed
            self.version += 1


@dataclass
class Relation:
    """A relation. A peer relation has one endpoint, any other two."""

    id: int
    endpoints: Mapping[str, Endpoint]
    life: Life = "alive"
    app_bags: dict[str, Bag] = field(default_factory=dict[str, Bag])
    # Databags stay readable after their unit has left, until the relation is gone.
    unit_bags: dict[str, Bag] = field(default_factory=dict[str, Bag])
    in_scope: set[str] = field(default_factory=set[str])

    @property
    def is_peer(self) -> bool:
        """Whether this relation is among the units of one application."""
        return len(self.endpoints) == 1

    @property
    def is_container(self) -> bool:
        """Whether this relation joins a subordinate unit to its own principal only."""
        return any(e.scope == "container" for e in self.endpoints.values())

    @property
    def key(self) -> str:
        """The relation's name in messages, the requirer first."""
        ends = sorted(self.endpoints.items(), key=lambda end: end[1].role != "requires")
        return " ".join(f"{app}:{endpoint.name}" for app, endpoint in ends)

    def remote_app(self, app: str) -> str:
        """Return the application at the other end; a peer relation's is its own."""
        return next((other for other in self.endpoints if other != app), app)


@dataclass
class Model:
    """One model. `seed` makes the order of what Juju keeps in Go's maps, which have none."""

    name: str
    juju: Profile = "3.6"
    seed: int = 0
    config: dict[str, str] = field(default_factory=lambda: dict(DEFAULT_CONFIG))
    uuid: str = field(default_factory=lambda: str(uuid.uuid4()))
    applications: dict[str, Application] = field(default_factory=dict[str, Application])
    units: dict[str, Unit] = field(default_factory=dict[str, Unit])
    machines: dict[str, Machine] = field(default_factory=dict[str, Machine])
    relations: dict[int, Relation] = field(default_factory=dict[int, Relation])
    storage: dict[str, Storage] = field(default_factory=dict[str, Storage])
    next_machine: int = 0
    next_relation: int = 0
    next_storage: int = 0
    next_unit: dict[str, int] = field(default_factory=dict[str, int])

    def units_of(self, app: str) -> list[Unit]:
        """Return an application's units by number."""
        units = (unit for unit in self.units.values() if unit.app == app)
        return sorted(units, key=lambda unit: unit.number)

    def subordinates_of(self, unit: Unit) -> list[Unit]:
        """Return the subordinate units that live beside a principal."""
        return [other for other in self.units.values() if other.principal == unit.name]

    def is_leader(self, unit: Unit) -> bool:
        """Say whether the unit leads its application."""
        return self.applications[unit.app].leader == unit.name

    def identity(self, app: str) -> tuple[str, str]:
        """Return name and uuid of the model that an application is of."""
        name = self.applications[app].other_model
        if not name:
            return self.name, self.uuid
        return name, str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}.{self.uuid}"))

    def address(self, unit: Unit) -> str:
        """Return the address of the unit's machine."""
        return self.machines[unit.machine].address

    def storage_of(self, unit: Unit) -> list[Storage]:
        """Return the storage that is attached to a unit, or is being attached."""
        return [
            storage for _, storage in sorted(self.storage.items()) if storage.owner == unit.name
        ]

    def relations_of(self, unit: Unit) -> Iterator[Relation]:
        """Give the relations a unit may take part in.

        Of a container scoped relation those units take part that are one another's principal
        and subordinate: a unit of the subordinate on another application's machine does not.
        """
        for relation in [it for it in self.relations.values() if unit.app in it.endpoints]:
            principal = self.units.get(unit.principal)
            other_app = relation.remote_app(unit.app)
            if not (relation.is_container and principal) or principal.app == other_app:
                yield relation

    def members(self, relation: Relation, unit: Unit) -> dict[str, int]:
        """Return the units of the other side that `unit` can see, with their bags' versions."""
        return {
            name: relation.unit_bags[name].version
            for name in sorted(relation.in_scope)
            if name != unit.name and self._can_see(relation, unit, self.units[name])
        }

    def _can_see(self, relation: Relation, unit: Unit, other: Unit) -> bool:
        if other.app != relation.remote_app(unit.app):
            return False
        # Seen on 4.0.15: a subordinate there joins every unit of its principal's application.
        is_private = relation.is_container and self.juju == "3.6"
        return not is_private or unit.name == other.principal or other.name == unit.principal

    def shuffled(self, unit: Unit, items: Iterable[_Item]) -> list[_Item]:
        """Return `items` in an order that is a new one for each hook of the unit."""
        found = list(items)
        random.Random(f"{self.seed} {unit.name} {unit.hooks_begun}").shuffle(found)  # noqa: S311
        return found

    def config_hash(self, unit: Unit) -> str:
        """Return a hash of what config-changed tells a unit of. Addresses do not change here."""
        known = self.applications[unit.app].config()
        return hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()


def port_order(port: str) -> tuple[str, int]:
    """Return protocol and number of a port; Juju sorts by these (core/network/portrange.go)."""
    number, _, protocol = port.partition("/")
    return protocol, int(number)

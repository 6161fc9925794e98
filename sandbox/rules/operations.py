# SPDX-License-Identifier: Apache-2.0
"""What Juju's clients can do to a model, and what follows of it without any hook. No I/O.

The checks and their messages are Juju's as far as a test or an operator would meet them.
"""

import re
import uuid
from collections.abc import Mapping, Sequence
from typing import TypedDict

from sandbox.rules import charm as charms
from sandbox.rules.charm import Charm, Endpoint, Value
from sandbox.rules.model import (
    Application,
    Bag,
    LocalState,
    Machine,
    Model,
    Relation,
    RelationState,
    Status,
    Storage,
    StorageDirective,
    Unit,
)

APPLICATION_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]*[a-z][a-z0-9]*)*")
DEFAULT_SIZE_MIB = 1024
STORAGE_ROOT = "/var/lib/juju/storage"


class OperationError(Exception):
    """The operation is refused; the message is such as Juju gives."""


class Remote(TypedDict):
    """An application of one unit, the model that it is of if that is another, and its databags."""

    application: str
    other_model: str
    app_data: dict[str, str]
    unit_data: dict[str, str]


def application(model: Model, name: str) -> Application:
    """Find an application."""
    if name not in model.applications:
        raise OperationError(f'application "{name}" not found')
    return model.applications[name]


def unit(model: Model, name: str) -> Unit:
    """Find a unit."""
    if name not in model.units:
        known = ", ".join(model.units) or "none"
        raise OperationError(f'unit "{name}" not found (units: {known})')
    return model.units[name]


def deploy(
    model: Model,
    charm: Charm,
    name: str,
    *,
    num_units: int | None = None,
    config: Mapping[str, str] | None = None,
    storage: Mapping[str, str] | None = None,
    to: str = "",
    other_model: str = "",
) -> None:
    """Deploy a charm as an application; of another model, if one is named.

    One that consumes an offer has in this model the name that Juju gives to it there.
    """
    if not APPLICATION_NAME.fullmatch(name):
        raise OperationError(f'invalid application name "{name}"')
    if name in model.applications:
        raise OperationError(f'cannot add application "{name}": application already exists')
    if num_units is None:
        num_units = 0 if charm.is_subordinate else 1
    if charm.is_subordinate and (num_units or to):
        raise OperationError("subordinate application must be deployed without units")
    settings = _converted(charm, config or {})
    directives = _directives(charm, storage or {})
    _check_placement(model, num_units, to)
    model.applications[name] = Application(
        name, charm, settings=settings, storage=directives, other_model=other_model
    )
    _add_peer_relations(model, name)
    if num_units:
        add_unit(model, name, num_units, to)


def _add_peer_relations(model: Model, name: str) -> None:
    existing = {
        endpoint.name
        for relation in model.relations.values()
        if relation.is_peer
        for app, endpoint in relation.endpoints.items()
        if app == name
    }
    for endpoint in model.applications[name].charm.endpoints.values():
        if endpoint.role == "peers" and endpoint.name not in existing:
            _add_relation(model, {name: endpoint})


def _directives(charm: Charm, wanted: Mapping[str, str]) -> dict[str, StorageDirective]:
    for name in wanted:
        if name not in charm.storage:
            raise OperationError(f'charm "{charm.name}" has no store called "{name}"')
    return {name: _directive(name, wanted.get(name, "")) for name in charm.storage}


def _directive(name: str, text: str) -> StorageDirective:
    """Read "pool,count,size" in any order, each part optional, as Juju does."""
    pool, count, size = "", 1, 0
    for part in filter(None, text.split(",")):
        if part.isdecimal():
            count = int(part)
        elif part[0].isdigit():
            size = _size_mib(part)
        else:
            pool = part
    if count != 1:
        raise OperationError(
            f'storage "{name}": {count} instances specified, between 1 and 1 are possible'
        )
    # A size alone asks for a disk of its own; "rootfs" or nothing for a directory.
    is_directory = pool == "rootfs" or not (pool or size)
    return StorageDirective("rootfs" if is_directory else "disk", size or DEFAULT_SIZE_MIB)


def _size_mib(text: str) -> int:
    """Read a size such as "10G", "512M" or "1.5T" (binary multiples, as Juju's) into MiB."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([MGTPE])?(?:i?B)?", text)
    if not found:
        raise OperationError(f'invalid size "{text}": use a number and M, G, T, P or E')
    return int(float(found[1]) * 1024 ** "MGTPE".index(found[2] or "M"))


def _converted(charm: Charm, values: Mapping[str, str]) -> dict[str, Value]:
    for name in values:
        if name not in charm.options:
            raise OperationError(f'unknown option "{name}"')
    return {name: charm.options[name].convert(value) for name, value in values.items()}


def add_machine(model: Model) -> Machine:
    """Add a machine; ids count up and are never used again."""
    number = model.next_machine
    model.next_machine += 1
    added = Machine(str(number), f"10.77.0.{10 + number}")
    model.machines[added.id] = added
    return added


def _check_placement(model: Model, count: int, to: str) -> None:
    if to and to not in model.machines:
        raise OperationError(f"machine {to} not found")
    if to and count != 1:
        raise OperationError("the sandbox places one unit at a time")


def add_unit(
    model: Model,
    app: str,
    count: int = 1,
    to: str = "",
    attach: Sequence[str] = (),
) -> list[str]:
    """Add units to a principal application, each on a new machine or as `to` says.

    A unit with detached disks to `attach` gets those in place of new storage.
    """
    found = application(model, app)
    if found.charm.is_subordinate:
        raise OperationError(f'cannot add unit to subordinate application "{app}"')
    if found.life == "dying":
        raise OperationError(f'cannot add unit to application "{app}": application is not alive')
    if attach and count != 1:
        raise OperationError("AttachStorage is non-empty, but NumUnits is not 1")
    for identity in attach:
        _check_detached(model, identity)
    _check_placement(model, count, to)
    return [
        _new_unit(model, found, to or add_machine(model).id, attach=attach).name
        for _ in range(count)
    ]


def _new_unit(
    model: Model,
    app: Application,
    place: str,
    principal: str = "",
    attach: Sequence[str] = (),
) -> Unit:
    # A number is never used again, not even by another application of the same name.
    number = model.next_unit.get(app.name, 0)
    model.next_unit[app.name] = number + 1
    added = Unit(f"{app.name}/{number}", app.name, place, principal)
    model.units[added.name] = added
    for identity in attach:
        attach_storage(model, added.name, identity)
    there = {found.name for found in model.storage_of(added)}
    for name, directive in app.storage.items():
        if name not in there:
            _add_storage(model, name, directive, added)
    return added


def _add_storage(model: Model, name: str, directive: StorageDirective, owner: Unit) -> None:
    identity = f"{name}/{model.next_storage}"
    model.next_storage += 1
    location = _storage_location(model, identity)
    model.storage[identity] = Storage(
        identity, directive.pool, directive.size_mib, location, owner.name
    )


def _storage_location(model: Model, identity: str) -> str:
    """Return where a storage instance is mounted, from when it is attached.

    3.6: state/filesystem.go. 4.0: the last part is the attachment's own UUID
    (domain/storageprovisioning/service/filesystem.go).
    """
    return f"{STORAGE_ROOT}/{identity if model.juju == '3.6' else uuid.uuid4()}"


def remove_unit(model: Model, name: str) -> None:
    """Begin to remove a principal unit."""
    found = unit(model, name)
    if found.principal:
        raise OperationError(f'cannot destroy unit "{name}": unit is a subordinate')
    found.life = "dying"


def lose_unit(model: Model, name: str) -> None:
    """Remove a unit whose machine has no power, as `juju remove-unit --force` does.

    It goes with its subordinates: no hook of theirs ever runs.
    """
    lost = unit(model, name)
    if model.machines[lost.machine].status.status != "down":
        raise OperationError(f'machine {lost.machine} of "{name}" is up: take its power first')
    for found in [*model.subordinates_of(lost), lost]:
        for released in model.storage_of(found):
            release_storage(model, released)
        _remove_unit(model, found)


def remove_application(model: Model, name: str) -> None:
    """Begin to remove an application with its units and relations."""
    application(model, name).life = "dying"
    for found in model.units_of(name):
        found.life = "dying"
    for relation in model.relations.values():
        if name in relation.endpoints:
            relation.life = "dying"


def integrate(model: Model, a: str, b: str) -> int:
    """Relate two applications, each given as "app" or "app:endpoint"; return the relation's id."""
    ends = _infer(model, a, b)
    key = Relation(0, ends).key
    for other in model.relations.values():
        if other.endpoints == ends:
            if other.life == "dying":
                raise OperationError(
                    f'cannot add relation "{key}": relation {key} is dying, but not yet removed'
                )
            raise OperationError(
                f'cannot add relation "{key}": relation {key} already exists (already exists)'
            )
    for app, endpoint in ends.items():
        _check_can_relate(model, key, app, endpoint)
    return _add_relation(model, ends).id


def _check_can_relate(model: Model, key: str, app: str, endpoint: Endpoint) -> None:
    if application(model, app).life == "dying":
        raise OperationError(f'cannot add relation "{key}": application "{app}" is not alive')
    used = sum(r.endpoints.get(app) == endpoint for r in model.relations.values())
    if endpoint.limit is not None and used >= endpoint.limit:
        raise OperationError(
            f'cannot add relation "{key}": establishing a new relation for {app}:{endpoint.name} '
            f"would exceed its maximum relation limit of {endpoint.limit} (quota limit exceeded)"
        )


def _add_relation(model: Model, ends: Mapping[str, Endpoint]) -> Relation:
    relation = Relation(model.next_relation, ends, app_bags={app: Bag() for app in ends})
    model.next_relation += 1
    model.relations[relation.id] = relation
    return relation


def _infer(model: Model, a: str, b: str) -> dict[str, Endpoint]:
    """Find the one pair of endpoints that `a` and `b` can mean."""
    app_a, ends_a = _candidates(model, a)
    app_b, ends_b = _candidates(model, b)
    if app_a == app_b:
        raise OperationError("relating an application to itself is not supported by the sandbox")
    pairs = [(x, y) for x in ends_a for y in ends_b if _can_join(model, app_a, x, app_b, y)]
    if not pairs:
        raise OperationError("no relations found")
    if model.juju == "3.6" and len(pairs) > 1:
        # An endpoint the charm declares is preferred to the implicit juju-info (state/state.go).
        # Not so in 4.0: inferEndpoints in domain/relation/state/relation.go.
        explicit = [pair for pair in pairs if not any(end.is_implicit for end in pair)]
        pairs = explicit if len(explicit) == 1 else pairs
    if len(pairs) > 1:
        keys = sorted(f'"{Relation(0, {app_a: x, app_b: y}).key}"' for x, y in pairs)
        raise OperationError(f'ambiguous relation: "{a} {b}" could refer to {"; ".join(keys)}')
    return {app_a: pairs[0][0], app_b: pairs[0][1]}


def _candidates(model: Model, text: str) -> tuple[str, list[Endpoint]]:
    name, colon, endpoint_name = text.partition(":")
    charm = application(model, name).charm
    if colon:
        endpoint = charm.endpoint(endpoint_name)
        if endpoint is None:
            raise OperationError(f'application "{name}" has no "{endpoint_name}" relation')
        return name, [endpoint]
    own = list(charm.endpoints.values())
    return name, own if "juju-info" in charm.endpoints else [*own, charms.JUJU_INFO]


def _can_join(model: Model, app_a: str, a: Endpoint, app_b: str, b: Endpoint) -> bool:
    if a.interface != b.interface or {a.role, b.role} != {"provides", "requires"}:
        return False
    if "container" in (a.scope, b.scope):
        # A container scoped relation needs a principal and a subordinate.
        kinds = {model.applications[app].charm.is_subordinate for app in (app_a, app_b)}
        return kinds == {True, False}
    return True


def integrate_many(
    model: Model, app: str, endpoint: str, charm: Charm, remotes: Sequence[Remote]
) -> Machine:
    """Integrate an application with others, each of one unit, all on one machine that is down."""
    place = add_machine(model)
    place.status = Status("down")
    relations: list[Relation] = []
    for it in remotes:
        name = it["application"]
        deploy(model, charm, name, to=place.id, other_model=it["other_model"])
        [added] = model.units_of(name)
        # As if its machine had been up.
        added.local.charm_version, added.local.is_installed = 1, True
        relations.append(model.relations[integrate(model, f"{app}:{endpoint}", name)])
    settle(model)
    for it, relation in zip(remotes, relations, strict=True):
        name = it["application"]
        relation.app_bags[name].update(it["app_data"])
        relation.unit_bags[model.applications[name].leader].update(it["unit_data"])
    return place


def remove_relation(model: Model, a: str, b: str) -> None:
    """Begin to remove a relation; each unit in it runs its departed and broken hooks."""
    (app_a, ends_a), (app_b, ends_b) = _candidates(model, a), _candidates(model, b)
    found = [
        relation
        for relation in model.relations.values()
        if not relation.is_peer
        and relation.endpoints.get(app_a) in ends_a
        and relation.endpoints.get(app_b) in ends_b
    ]
    if len(found) != 1:
        keys = "; ".join(f'"{relation.key}"' for relation in found)
        reason = f"could refer to {keys}" if found else "not found"
        raise OperationError(f'relation "{a} {b}" {reason}')
    found[0].life = "dying"


def set_config(model: Model, name: str, values: Mapping[str, str]) -> None:
    """Set config options."""
    found = application(model, name)
    found.settings |= _converted(found.charm, values)


def get_config(model: Model, name: str) -> dict[str, dict[str, Value]]:
    """Return each option that has a value, as `juju config` shows it."""
    found = application(model, name)
    return {
        name: {"value": value, "type": found.charm.options[name].type}
        for name, value in found.config().items()
    }


def refresh(model: Model, name: str, charm: Charm) -> None:
    """Give an application another revision of its charm."""
    found = application(model, name)
    if charm.is_subordinate != found.charm.is_subordinate:
        raise OperationError(
            f'cannot upgrade application "{name}" to charm "{charm.name}": '
            "cannot change an application's subordinacy"
        )
    for relation in model.relations.values():
        end = relation.endpoints.get(name)
        if end and not end.is_implicit and charm.endpoints.get(end.name) != end:
            raise OperationError(
                f'cannot upgrade application "{name}" to charm "{charm.name}": '
                f'would break relation "{relation.key}"'
            )
    if missing := set(found.charm.storage) - set(charm.storage):
        raise OperationError(
            f'cannot upgrade application "{name}" to charm "{charm.name}": '
            f"storage {', '.join(sorted(missing))} removed"
        )
    found.charm = charm
    found.charm_version += 1
    found.settings = {k: v for k, v in found.settings.items() if k in charm.options}
    found.storage = _directives(charm, {}) | found.storage
    _add_peer_relations(model, name)


def storage(model: Model, identity: str) -> Storage:
    """Find a storage instance."""
    if identity not in model.storage:
        raise OperationError(f'storage "{identity}" not found')
    return model.storage[identity]


def detach_storage(model: Model, identity: str) -> None:
    """Begin to detach a disk from its unit."""
    found = storage(model, identity)
    if found.owner is None:
        raise OperationError(f'storage "{identity}" is not attached')
    if found.pool == "rootfs":
        raise OperationError(
            f'storage "{identity}" cannot be detached: it is a directory of its machine; '
            "deploy with a size (a disk) instead"
        )
    found.life = "dying"


def _check_detached(model: Model, identity: str) -> None:
    owner = storage(model, identity).owner
    if owner is not None:
        raise OperationError(f'storage "{identity}" is already attached to {owner}')


def attach_storage(model: Model, unit_name: str, identity: str) -> None:
    """Attach a detached disk to a unit."""
    found, owner = storage(model, identity), unit(model, unit_name)
    _check_detached(model, identity)
    charm = model.applications[owner.app].charm
    if found.name not in charm.storage:
        raise OperationError(f'charm storage "{found.name}" not found')
    if any(other.name == found.name for other in model.storage_of(owner)):
        raise OperationError(
            f'charm "{charm.name}" store "{found.name}": at most 1 instances supported'
        )
    found.location = _storage_location(model, identity)
    found.owner, found.life, found.is_provisioned = unit_name, "alive", False


def lead(model: Model, name: str) -> None:
    """Make a unit the leader of its application, as when the leader's lease has run out."""
    found = unit(model, name)
    if found.life != "alive":
        raise OperationError(f"{name} is dying, it can't lead")
    model.applications[found.app].leader = name


def expire_leases(model: Model, place: str) -> None:
    """Let a machine's leaders lose the lead: nothing has been heard of them for a lease."""
    for app in model.applications.values():
        if (leader := model.units.get(app.leader)) and leader.machine == place:
            app.leader = ""


def settle(model: Model) -> None:
    """Do what needs no hook, until nothing is left of it.

    Units enter and leave relations, subordinates come and go, what has finished dying goes, and
    leaders are chosen.
    """
    steps = (
        _doom_subordinates,
        _enter_scopes,
        _leave_scopes,
        _drop_storage,
        _remove_units,
        _remove_relations,
        _remove_applications,
        _choose_leaders,
        _resign,
    )
    while any(step(model) for step in steps):
        pass


def _doom_subordinates(model: Model) -> bool:
    """Subordinates die with their principal, or with the last relation to it."""
    doomed = [
        found
        for found in model.units.values()
        if found.principal and found.life == "alive" and not _has_reason(model, found)
    ]
    for found in doomed:
        found.life = "dying"
    return bool(doomed)


def _has_reason(model: Model, subordinate: Unit) -> bool:
    return model.units[subordinate.principal].life == "alive" and any(
        relation.is_container and relation.life == "alive"
        for relation in model.relations_of(subordinate)
    )


def _enter_scopes(model: Model) -> bool:
    changed = False
    for found in list(model.units.values()):
        if found.life == "dying" or not found.local.is_installed:
            continue
        for relation in model.relations_of(found):
            if relation.life == "alive" and found.name not in relation.in_scope:
                changed |= _enter_scope(model, relation, found)
    return changed


def _enter_scope(model: Model, relation: Relation, entering: Unit) -> bool:
    """Let a unit into a relation; False while its old subordinate is still dying."""
    other = model.applications[relation.remote_app(entering.app)]
    if relation.is_container and not entering.principal:
        present = [u for u in model.subordinates_of(entering) if u.app == other.name]
        if any(found.life == "dying" for found in present):
            return False
        if not present:
            _new_unit(model, other, entering.machine, entering.name)
    address = model.address(entering)
    data = {"ingress-address": address, "egress-subnets": f"{address}/32"}
    if model.juju == "3.6":
        data["private-address"] = address
    relation.unit_bags[entering.name] = Bag(data, 1)
    relation.in_scope.add(entering.name)
    entering.local.relations[relation.id] = RelationState()
    return True


def leave_scope(relation: Relation, leaving: Unit) -> None:
    """Take a unit out of a relation; its databag stays until the relation is gone."""
    relation.in_scope.discard(leaving.name)
    del leaving.local.relations[relation.id]


def _leave_scopes(model: Model) -> bool:
    """Leave what ends without relation-broken: implicit endpoints and peer relations."""
    changed = False
    for relation in model.relations.values():
        for name in sorted(relation.in_scope):
            found = model.units[name]
            if "alive" == relation.life == found.life or found.local.pending:
                continue
            state = found.local.relations[relation.id]
            is_quiet = not state.members and not state.changed_pending
            if relation.endpoints[found.app].is_implicit or (relation.is_peer and is_quiet):
                leave_scope(relation, found)
                changed = True
    return changed


def _drop_storage(model: Model) -> bool:
    """Let go of storage whose unit is dying, or that is detached, before it was ever attached."""
    changed = False
    for found in list(model.storage.values()):
        owner = model.units.get(found.owner or "")
        if owner is None or owner.local.pending:
            continue
        is_ending = found.life == "dying" or owner.life == "dying"
        if is_ending and found.id not in owner.local.storage:
            release_storage(model, found)
            changed = True
    return changed


def release_storage(model: Model, released: Storage) -> None:
    """Detach storage from its unit: a disk is kept for another, a directory goes with its unit."""
    released.owner, released.life, released.is_provisioned = None, "alive", False
    if released.pool == "rootfs":
        del model.storage[released.id]


def _is_finished(model: Model, found: Unit) -> bool:
    local: LocalState = found.local
    if found.life == "alive" or local.pending or model.subordinates_of(found):
        return False
    return local.is_removed or not (local.is_installed or local.storage)


def _remove_units(model: Model) -> bool:
    finished = [found for found in model.units.values() if _is_finished(model, found)]
    for found in finished:
        _remove_unit(model, found)
    return bool(finished)


def _remove_unit(model: Model, found: Unit) -> None:
    del model.units[found.name]
    if model.is_leader(found):
        model.applications[found.app].leader = ""
    for relation in model.relations.values():
        relation.in_scope.discard(found.name)
    if not any(other.machine == found.machine for other in model.units.values()):
        # Juju too removes a machine with the last unit on it.
        del model.machines[found.machine]


def _remove_relations(model: Model) -> bool:
    gone = [r for r in model.relations.values() if r.life == "dying" and not r.in_scope]
    for relation in gone:
        del model.relations[relation.id]
    return bool(gone)


def _remove_applications(model: Model) -> bool:
    gone = [
        app.name
        for app in model.applications.values()
        if app.life == "dying"
        and not model.units_of(app.name)
        and not any(app.name in relation.endpoints for relation in model.relations.values())
    ]
    for name in gone:
        del model.applications[name]
    return bool(gone)


def _choose_leaders(model: Model) -> bool:
    """Leadership stays where it is until its unit is gone, or its lease: who is dying leads too.

    It is the dead whose lead is revoked (apiserver/common/leadership.go; in 4.0 domain/removal).
    In Juju whoever claims it first leads then; here it is the lowest unit, a live one if there is.
    """
    changed = False
    for app in model.applications.values():
        heard = [u for u in model.units_of(app.name) if model.machines[u.machine].is_heard]
        if heard and not app.leader:
            app.leader = min(heard, key=lambda found: (found.life == "dying", found.number)).name
            changed = True
    return changed


def _resign(model: Model) -> bool:
    """Agents that do not lead any more, or are to go, note it (leadership/resolver.go)."""
    deposed = [
        found
        for found in model.units.values()
        if found.local.is_leader
        and (found.life == "dying" or not model.is_leader(found))
        and model.machines[found.machine].is_heard
    ]
    for found in deposed:
        found.local.is_leader = False
    return bool(deposed)


def set_status(found: Unit, status: str, message: str = "") -> None:
    """Set a unit's workload status unless it has it already."""
    if (found.status.status, found.status.message) != (status, message):
        found.status = Status(status, message)

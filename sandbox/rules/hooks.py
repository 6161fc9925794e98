# SPDX-License-Identifier: Apache-2.0
"""Which hook a unit runs next, and what is different once it has run. No I/O.

The order is that of Juju's unit agent (internal/worker/uniter: resolver.go, relation/resolver.go,
storage/resolver.go), not that of its documentation where the two differ. What is in no order
there, since it is gone through as a map of Go, comes in an order of the model's seed.
"""

from dataclasses import replace

from sandbox.rules import operations
from sandbox.rules.model import (
    Hook,
    Memory,
    Model,
    Relation,
    RelationState,
    Status,
    Unit,
)


def next_hook(model: Model, unit: Unit) -> Hook | None:
    """Return the next hook of a unit, None when it has nothing to do.

    A hook that has failed waits: `has_failed` is for the controller to clear (retry), or to end
    with `skip`.
    """
    local = unit.local
    if local.is_removed or (local.pending and local.has_failed):
        return None
    if local.pending:
        return local.pending
    if local.queued:
        is_config = local.queued == "config-changed"
        return _config_changed(model, unit) if is_config else Hook(local.queued)
    return (
        _reboot(unit)
        or _created(model, unit)
        or _leadership(model, unit)
        or _storage(model, unit)
        or (_dying(model, unit) if unit.life == "dying" else _alive(model, unit))
    )


def _reboot(unit: Unit) -> Hook | None:
    local = unit.local
    is_running = local.is_started and not local.is_stopped
    return Hook("start") if local.is_rebooted and is_running else None


def _created(model: Model, unit: Unit) -> Hook | None:
    if not unit.local.is_installed or unit.life == "dying":
        return None
    for relation, state in _explicit_relations(model, unit):
        if relation.life == "alive" and not state.is_created:
            return Hook(
                "relation-created",
                relation.id,
                relation.endpoints[unit.app].name,
                relation.remote_app(unit.app),
            )
    return None


def _explicit_relations(model: Model, unit: Unit) -> list[tuple[Relation, RelationState]]:
    """Return the relations the unit is in and runs hooks for, in no order: not implicit ones."""
    return [
        (relation, unit.local.relations[relation.id])
        for relation in model.shuffled(unit, model.relations_of(unit))
        if relation.id in unit.local.relations and not relation.endpoints[unit.app].is_implicit
    ]


def _leadership(model: Model, unit: Unit) -> Hook | None:
    """Follow NextOp of leadership/resolver.go.

    In 3.6 whoever does not lead, a deposed leader too, runs leader-settings-changed once after
    each start of its agent. A new leader among others is no reason; in 4.0 there is none.
    """
    local = unit.local
    if not local.is_installed or local.is_leader:
        return None
    if model.is_leader(unit) and unit.life == "alive":
        return Hook("leader-elected")
    is_due = not (local.is_stopped or unit.memory.has_seen_leader_settings)
    return Hook("leader-settings-changed") if is_due and model.juju == "3.6" else None


def _storage(model: Model, unit: Unit) -> Hook | None:
    for storage in model.shuffled(unit, model.storage_of(unit)):
        is_attached = storage.id in unit.local.storage
        is_ending = storage.life == "dying" or unit.life == "dying"
        if is_ending and is_attached:
            return Hook("storage-detaching", storage_id=storage.id)
        if storage.is_provisioned and not is_ending and not is_attached:
            return Hook("storage-attached", storage_id=storage.id)
    return None


def _dying(model: Model, unit: Unit) -> Hook | None:
    if hook := _relations(model, unit):
        return hook
    if unit.local.is_started and not unit.local.is_stopped:
        return Hook("stop")
    return Hook("remove") if unit.local.is_installed else None


def _alive(model: Model, unit: Unit) -> Hook | None:
    local = unit.local
    if not local.is_installed:
        is_waiting = any(it.id not in local.storage for it in model.storage_of(unit))
        return None if is_waiting else Hook("install")
    if local.charm_version != model.applications[unit.app].charm_version:
        return Hook("upgrade-charm")
    config = _config_changed(model, unit)
    if config.seen != local.config_seen:
        return config
    if hook := _relations(model, unit):
        return hook
    return Hook("update-status") if local.wants_update_status else None


def _config_changed(model: Model, unit: Unit) -> Hook:
    return Hook("config-changed", seen=model.config_hash(unit))


def _relations(model: Model, unit: Unit) -> Hook | None:
    relations = _explicit_relations(model, unit)
    # Peers come last, so that the hooks of the others still find them (relation/resolver.go).
    for relation, state in sorted(relations, key=lambda found: found[0].is_peer):
        if hook := _relation_hook(model, unit, relation, state):
            return hook
    return None


def _relation_hook(
    model: Model, unit: Unit, relation: Relation, state: RelationState
) -> Hook | None:
    """Follow nextHookForRelation (relation/resolver.go) step by step."""
    is_ending = "dying" in (relation.life, unit.life)
    remote_app = relation.remote_app(unit.app)
    base = Hook("", relation.id, relation.endpoints[unit.app].name, remote_app)
    members = {} if is_ending else model.members(relation, unit)
    if pending := state.changed_pending:
        seen = members.get(pending, 0)
        return replace(base, kind="relation-changed", remote_unit=pending, seen=seen)
    for name in sorted(state.members.keys() - members.keys()):
        is_own = "dying" in (unit.life, model.applications[unit.app].life)
        departing = unit.name if is_own else name
        return replace(base, kind="relation-departed", remote_unit=name, departing_unit=departing)
    if is_ending:
        return None if relation.is_peer else replace(base, kind="relation-broken")
    version = relation.app_bags[remote_app].version
    if version != state.app_version:
        return replace(base, kind="relation-changed", seen=version)
    for name in sorted(members.keys() - state.members.keys()):
        return replace(base, kind="relation-joined", remote_unit=name, seen=members[name])
    for name in sorted(members):
        if members[name] != state.members[name]:
            return replace(base, kind="relation-changed", remote_unit=name, seen=members[name])
    return None


def pass_over_relations(model: Model, unit: Unit) -> None:
    """Note the hooks of relations that are due as run, though nobody ran them."""
    while (hook := next_hook(model, unit)) and hook.relation_id is not None:
        commit(model, unit, hook)


_STATUS_BEFORE = {
    "install": "installing charm software",
    "stop": "stopping charm software",
    "remove": "cleaning up prior to charm deletion",
}


def begin(model: Model, unit: Unit, hook: Hook) -> None:
    """Note that a hook begins: if it is not committed, it runs again before any other."""
    local = unit.local
    local.pending, local.has_failed = hook, False
    if local.charm_version is None or hook.kind == "upgrade-charm":
        # The charm's files were put in place for this hook.
        local.charm_version = model.applications[unit.app].charm_version
    unit.hooks_begun += 1
    message = _STATUS_BEFORE.get(hook.kind)
    if message and not (hook.kind == "install" and unit.is_status_set_by_charm):
        operations.set_status(unit, "maintenance", message)
    whose = f" for {hook.remote_unit}" if hook.remote_unit else ""
    unit.agent_status = Status("executing", f"running {hook.name} hook{whose}")


def is_moot(model: Model, unit: Unit, hook: Hook) -> bool:
    """Whether a hook is committed and not run: the lead is lost (Prepare of runhook.go)."""
    return hook.kind == "leader-elected" and not model.is_leader(unit)


def start_agent(unit: Unit, *, is_cut: bool) -> None:
    """Note that the unit's agent starts anew as its machine boots, `is_cut` after a power cut.

    A hook whose end the agent did not see has failed then (nextOpHookError, uniter/resolver.go).
    One that was ended with the machine, in order, is run again (ErrTerminated, runhook.go).
    """
    unit.local.has_failed |= is_cut and unit.local.pending is not None
    unit.local.is_rebooted |= unit.local.is_started
    unit.memory = Memory()


def commit(model: Model, unit: Unit, hook: Hook) -> None:
    """Note that a hook succeeded (or is skipped), with what follows for the model."""
    local = unit.local
    local.pending, local.has_failed = None, False
    if hook.kind == local.queued:
        local.queued = ""
    if hook.relation_id is not None:
        _commit_in_relation(model.relations[hook.relation_id], unit, hook)
        return
    match hook.kind:
        case "storage-attached":
            local.storage.add(hook.storage_id)
        case "storage-detaching":
            local.storage.remove(hook.storage_id)
            operations.release_storage(model, model.storage[hook.storage_id])
        case "install":
            local.is_installed = True
        case "leader-elected":
            local.is_leader = True
        case "leader-settings-changed":
            unit.memory.has_seen_leader_settings = True
        case "upgrade-charm":
            local.queued = "config-changed"
        case "config-changed":
            local.config_seen = str(hook.seen)
            local.queued = "" if local.is_started else "start"
        case "start":
            local.is_started, local.is_rebooted = True, False
            if not unit.is_status_set_by_charm:
                operations.set_status(unit, "unknown")
        case "stop":
            local.is_stopped = True
            operations.set_status(unit, "maintenance")
        case "remove":
            local.is_removed = True
            operations.set_status(unit, "terminated")
        case "update-status":
            local.wants_update_status = False
        case _:
            raise ValueError(f"not a hook: {hook.kind}")


def _commit_in_relation(relation: Relation, unit: Unit, hook: Hook) -> None:
    state, remote, seen = unit.local.relations[relation.id], hook.remote_unit, int(hook.seen)
    match hook.kind:
        case "relation-created":
            state.is_created = True
        case "relation-joined":
            state.members[remote], state.changed_pending = seen, remote
        case "relation-changed" if remote:
            state.members[remote], state.changed_pending = seen, ""
        case "relation-changed":
            state.app_version = seen
        case "relation-departed":
            state.members.pop(remote, None)
        case _:  # relation-broken
            operations.leave_scope(relation, unit)

# SPDX-License-Identifier: Apache-2.0
"""What `juju status --format=json` tells of a model."""

from datetime import UTC, datetime
from typing import Any

from sandbox.rules.model import Application, Model, Status, Unit, port_order
from sandbox.rules.status import Status as FullStatus

# Of its units' statuses an application shows the one that most needs attention.
_SEVERITY = (
    "error",
    "blocked",
    "waiting",
    "maintenance",
    "terminated",
    "active",
    "unknown",
)


def full_status(model: Model, juju_version: str) -> FullStatus:
    """Return the status of a model."""
    description: dict[str, object] = {
        "name": model.name,
        "type": "iaas",
        "controller": "sandbox",
        "cloud": "sandbox",
        "version": juju_version,
    }
    if model.juju == "3.6":
        description["sla"] = "unsupported"
    return {
        "model": description,
        "machines": {name: _machine(model, name) for name in model.machines},
        "applications": {
            name: _application(model, app) for name, app in sorted(model.applications.items())
        },
        "controller": {"timestamp": datetime.now(UTC).strftime("%H:%M:%SZ")},
    }


def _state(status: Status) -> dict[str, str]:
    since = datetime.strptime(status.since, "%Y-%m-%d %H:%M:%S%z").strftime("%d %b %Y %H:%M:%SZ")
    return {"current": status.status, "message": status.message, "since": since}


def _machine(model: Model, name: str) -> dict[str, object]:
    machine = model.machines[name]
    return {
        "juju-status": _state(machine.status),
        "dns-name": machine.address,
        "instance-id": f"sandbox-{name}",
    }


def _application(model: Model, app: Application) -> dict[str, object]:
    status: dict[str, object] = {
        "charm": f"local:{app.charm.name}-{app.charm_version - 1}",
        "charm-origin": "local",
        "charm-name": app.charm.name,
        "charm-rev": app.charm_version - 1,
        "exposed": False,
        "application-status": _state(_application_status(model, app)),
        "relations": _relations(model, app),
        "version": app.workload_version,
    }
    if app.life == "dying":
        status["life"] = "dying"
    if app.charm.is_subordinate:
        containers = [r for r in model.relations.values() if r.is_container]
        principals = {r.remote_app(app.name) for r in containers if app.name in r.endpoints}
        status["subordinate-to"] = sorted(principals)
    else:
        status["units"] = {u.name: _unit(model, u) for u in model.units_of(app.name)}
    return status


def _application_status(model: Model, app: Application) -> Status:
    """Return what the leader set, or what is derived from the units."""
    if app.status:
        return app.status
    statuses = [_workload_status(model, unit) for unit in model.units_of(app.name)]
    return min(statuses, key=lambda s: _SEVERITY.index(s.status), default=Status("unknown"))


def _relations(model: Model, app: Application) -> dict[str, list[dict[str, str]]]:
    found: dict[str, list[dict[str, str]]] = {}
    for relation in model.relations.values():
        if app.name in relation.endpoints:
            endpoint = relation.endpoints[app.name]
            related = {
                "related-application": relation.remote_app(app.name),
                "interface": endpoint.interface,
                "scope": "container" if relation.is_container else "global",
            }
            found.setdefault(endpoint.name, []).append(related)
    return found


def _is_lost(model: Model, unit: Unit) -> bool:
    return model.machines[unit.machine].status.status == "down"


def _workload_status(model: Model, unit: Unit) -> Status:
    if _is_lost(model, unit):
        return Status("unknown", f"agent lost, see 'juju show-status-log {unit.name}'")
    return unit.displayed_status


def _agent_status(model: Model, unit: Unit) -> Status:
    if _is_lost(model, unit):
        return Status("lost", "agent is not communicating with the server")
    return unit.agent_status


def _unit(model: Model, unit: Unit) -> dict[str, Any]:
    status: dict[str, Any] = {
        "workload-status": _state(_workload_status(model, unit)),
        "juju-status": _state(_agent_status(model, unit)),
        "machine": unit.machine,
        "open-ports": sorted(unit.ports, key=port_order),
        "public-address": model.address(unit),
    }
    if model.is_leader(unit):
        status["leader"] = True
    if subordinates := model.subordinates_of(unit):
        status["subordinates"] = {other.name: _unit(model, other) for other in subordinates}
    return status

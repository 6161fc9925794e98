# SPDX-License-Identifier: Apache-2.0
"""What ``juju status --format=json`` answers, and the table that ``juju status`` makes of it."""

from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict


class State(TypedDict):
    """A status, since when, and what there is to say to it."""

    current: str
    message: NotRequired[str]
    since: NotRequired[str]


RelatedApplication = TypedDict(
    "RelatedApplication",
    {"related-application": str, "interface": NotRequired[str], "scope": NotRequired[str]},
)
MachineStatus = TypedDict(
    "MachineStatus",
    {
        "juju-status": State,
        "machine-status": NotRequired[State],
        "hostname": NotRequired[str],
        "dns-name": NotRequired[str],
        "ip-addresses": NotRequired[list[str]],
        "instance-id": NotRequired[str],
        "base": NotRequired[dict[str, str]],
    },
)
UnitStatus = TypedDict(
    "UnitStatus",
    {
        "workload-status": State,
        "juju-status": State,
        "leader": NotRequired[bool],
        "machine": NotRequired[str],
        "open-ports": NotRequired[list[str]],
        "public-address": NotRequired[str],
        "subordinates": NotRequired[dict[str, "UnitStatus"]],
    },
)
ApplicationStatus = TypedDict(
    "ApplicationStatus",
    {
        "charm": str,
        "charm-origin": NotRequired[str],
        "charm-name": NotRequired[str],
        "charm-rev": NotRequired[int],
        "exposed": NotRequired[bool],
        "application-status": State,
        "relations": NotRequired[dict[str, list[RelatedApplication]]],
        "subordinate-to": NotRequired[list[str]],
        "units": NotRequired[dict[str, UnitStatus]],
        "version": NotRequired[str],
        "life": NotRequired[str],
    },
)


ModelDescription = TypedDict(
    "ModelDescription",
    {
        "name": str,
        "type": NotRequired[str],
        "controller": NotRequired[str],
        "cloud": NotRequired[str],
        "version": NotRequired[str],
        "sla": NotRequired[str],
        "model-status": NotRequired[State],
    },
)


class Status(TypedDict):
    """The status of a model."""

    model: ModelDescription
    machines: dict[str, MachineStatus]
    applications: dict[str, ApplicationStatus]
    relations: NotRequired[list[dict[str, str]]]
    controller: NotRequired[dict[str, str]]


class PlacedUnit(TypedDict):
    """A unit, and where it stands among the others."""

    application: str
    principal: str
    machine: str
    status: UnitStatus


def units(status: Status) -> dict[str, PlacedUnit]:
    """Return every unit of the model by its name, subordinates after their principals."""
    found: dict[str, PlacedUnit] = {}
    for application in status["applications"].values():
        for name, unit in sorted((application.get("units") or {}).items(), key=_unit_order):
            machine = unit.get("machine", "")
            found[name] = _placed(name, "", machine, unit)
            for subordinate, its in sorted((unit.get("subordinates") or {}).items()):
                found[subordinate] = _placed(subordinate, name, machine, its)
    return found


def address(machine: MachineStatus) -> str | None:
    """Return where a machine can be reached, once it has an address."""
    return machine.get("dns-name") or next(iter(machine.get("ip-addresses") or []), None)


def table(status: Status) -> str:
    """Return the model as ``juju status`` prints it."""
    placed = units(status)
    model_titles, model_row = zip(*_model_cells(status).items(), strict=True)
    sections = [
        columns(model_titles, [model_row]),
        columns(
            ["App", "Version", "Status", "Scale", "Charm", "Channel", "Rev", "Exposed", "Message"],
            [_application_row(name, status, placed) for name in sorted(status["applications"])],
            right=(3, 6),
        ),
        columns(
            ["Unit", "Workload", "Agent", "Machine", "Public address", "Ports", "Message"],
            [_unit_row(name, unit) for name, unit in placed.items()],
        ),
        columns(
            ["Machine", "State", "Address", "Inst id", "Base", "AZ", "Message"],
            [_machine_row(name, machine) for name, machine in status["machines"].items()],
        ),
    ]
    return "\n\n".join(section for section in sections if section)


def _placed(name: str, principal: str, machine: str, unit: UnitStatus) -> PlacedUnit:
    return PlacedUnit(
        application=name.partition("/")[0],
        principal=principal,
        machine=machine or unit.get("machine", ""),
        status=unit,
    )


def _unit_order(item: tuple[str, object]) -> int:
    """Sort a/10 after a/9."""
    return int(item[0].partition("/")[2])


def _model_cells(status: Status) -> dict[str, str]:
    model = status["model"]
    cells = {
        "Model": model["name"],
        "Controller": model.get("controller", ""),
        "Cloud/Region": model.get("cloud", ""),
        "Version": model.get("version", ""),
        "SLA": model.get("sla", ""),
        "Timestamp": status.get("controller", {}).get("timestamp", ""),
    }
    optional = ("SLA", "Timestamp")
    return {title: cell for title, cell in cells.items() if cell or title not in optional}


def _application_row(name: str, status: Status, placed: Mapping[str, PlacedUnit]) -> list[str]:
    application = status["applications"][name]
    state = application["application-status"]
    scale = sum(unit["application"] == name for unit in placed.values())
    return [
        name,
        application.get("version", ""),
        state["current"],
        str(scale),
        application.get("charm-name", application["charm"]),
        "",
        str(application.get("charm-rev", 0)),
        "yes" if application.get("exposed") else "no",
        state.get("message", ""),
    ]


def _unit_row(name: str, unit: PlacedUnit) -> list[str]:
    status = unit["status"]
    agent = status["juju-status"]
    message = status["workload-status"].get("message", "")
    doing = ""
    if agent["current"] == "executing":
        # As Juju shows it: "running install hook" becomes (install), before what the charm says.
        doing = agent.get("message", "").removeprefix("running ").removesuffix(" hook")
    return [
        ("  " if unit["principal"] else "") + name + ("*" if status.get("leader") else ""),
        status["workload-status"]["current"],
        agent["current"],
        "" if unit["principal"] else unit["machine"],
        status.get("public-address", ""),
        ",".join(status.get("open-ports") or []),
        f"({doing}) {message}".rstrip() if doing else message,
    ]


def _machine_row(name: str, machine: MachineStatus) -> list[str]:
    base = machine.get("base") or {}
    return [
        name,
        machine["juju-status"]["current"],
        address(machine) or "",
        machine.get("instance-id", ""),
        "@".join(base[key] for key in ("name", "channel") if key in base),
        "",
        machine.get("machine-status", State(current="")).get("message", ""),
    ]


def columns(
    titles: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()
) -> str:
    """Return rows under their titles, two spaces between columns; nothing when there is no row.

    The columns with the numbers of ``right`` are aligned right.
    """
    if not rows:
        return ""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if number in right else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [titles, *rows]
    )

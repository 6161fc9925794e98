# SPDX-License-Identifier: Apache-2.0
"""What ``juju status --format=json`` answers, and the table that ``juju status`` makes of it."""

from collections.abc import Iterator, Mapping, Sequence
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
        "charm-name": NotRequired[str],
        "charm-rev": NotRequired[int],
        "exposed": NotRequired[bool],
        "application-status": State,
        "relations": NotRequired[dict[str, list[RelatedApplication]]],
        "subordinate-to": NotRequired[list[str]],
        "units": NotRequired[dict[str, UnitStatus]],
        "version": NotRequired[str],
    },
)


class ModelDescription(TypedDict):
    """What the model is called and where it runs."""

    name: str
    controller: NotRequired[str]
    cloud: NotRequired[str]
    version: NotRequired[str]


class Status(TypedDict):
    """The status of a model."""

    model: ModelDescription
    machines: dict[str, MachineStatus]
    applications: dict[str, ApplicationStatus]


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
    sections = [
        _columns(["Model", "Controller", "Cloud", "Version"], [_model_row(status["model"])]),
        _columns(
            ["App", "Version", "Status", "Scale", "Charm", "Rev", "Exposed", "Message"],
            [_application_row(name, status, placed) for name in sorted(status["applications"])],
        ),
        _columns(
            ["Unit", "Workload", "Agent", "Machine", "Public address", "Ports", "Message"],
            [_unit_row(name, unit) for name, unit in placed.items()],
        ),
        _columns(
            ["Machine", "State", "Address", "Inst id", "Base", "Message"],
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


def _model_row(model: ModelDescription) -> list[str]:
    return [
        model["name"],
        model.get("controller", ""),
        model.get("cloud", ""),
        model.get("version", ""),
    ]


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
        machine.get("machine-status", State(current="")).get("message", ""),
    ]


def _columns(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows under their titles, two spaces between columns; nothing when there is no row."""
    if not rows:
        return ""
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    return "\n".join(_padded([titles, *rows], widths))


def _padded(rows: Sequence[Sequence[str]], widths: Sequence[int]) -> Iterator[str]:
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        yield "  ".join(cells).rstrip()

# SPDX-License-Identifier: Apache-2.0
"""What full_status.py tells of a model, as ``juju status`` prints it."""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

Status = dict[str, Any]
"""As ``juju status --format=json`` has it; made by full_status.py."""


class PlacedUnit(TypedDict):
    """A unit, and where it stands among the others."""

    application: str
    principal: str
    machine: str
    status: dict[str, Any]


def units(status: Status) -> dict[str, PlacedUnit]:
    """Return every unit of the model by its name, subordinates after their principals."""
    found: dict[str, PlacedUnit] = {}
    for application in status["applications"].values():
        for name, unit in application.get("units", {}).items():
            found[name] = _placed(name, "", unit)
            for subordinate, its in unit.get("subordinates", {}).items():
                found[subordinate] = _placed(subordinate, name, its)
    return found


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


def _placed(name: str, principal: str, unit: dict[str, Any]) -> PlacedUnit:
    application = name.partition("/")[0]
    return PlacedUnit(
        application=application, principal=principal, machine=unit["machine"], status=unit
    )


def _model_cells(status: Status) -> dict[str, str]:
    model = status["model"]
    return {
        "Model": model["name"],
        "Controller": model["controller"],
        "Cloud/Region": model["cloud"],
        "Version": model["version"],
        **({"SLA": model["sla"]} if "sla" in model else {}),
        "Timestamp": status["controller"]["timestamp"],
    }


def _application_row(name: str, status: Status, placed: Mapping[str, PlacedUnit]) -> list[str]:
    application = status["applications"][name]
    state = application["application-status"]
    scale = sum(unit["application"] == name for unit in placed.values())
    return [
        name,
        application["version"],
        state["current"],
        str(scale),
        application["charm-name"],
        "",
        str(application["charm-rev"]),
        "no",
        state["message"],
    ]


def _unit_row(name: str, unit: PlacedUnit) -> list[str]:
    status = unit["status"]
    agent = status["juju-status"]
    message = status["workload-status"]["message"]
    doing = ""
    if agent["current"] == "executing":
        # As Juju shows it: "running install hook" becomes (install), before what the charm says.
        doing = agent["message"].removeprefix("running ").removesuffix(" hook")
    return [
        ("  " if unit["principal"] else "") + name + ("*" if status.get("leader") else ""),
        status["workload-status"]["current"],
        agent["current"],
        "" if unit["principal"] else unit["machine"],
        status["public-address"],
        ",".join(status["open-ports"]),
        f"({doing}) {message}".rstrip() if doing else message,
    ]


def _machine_row(name: str, machine: Mapping[str, Any]) -> list[str]:
    state = machine["juju-status"]
    where = [machine["dns-name"], machine["instance-id"], "", ""]
    return [name, state["current"], *where, state["message"]]


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

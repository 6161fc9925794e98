# SPDX-License-Identifier: Apache-2.0
"""The peer relation: what is decided of the shares, and what each unit says, as JSON.

Application databag, written by the leader: `shares`, a placement by name of the share; `deleted`,
the UUIDs of those that were deleted last. Unit databag, `report`: written by each unit for itself.
"""

from collections.abc import Collection

import ops
from ops import hookcmds

import records
from values import Placement, Placements, Report


class Peers:
    """The databags of the peer relation, as values."""

    def __init__(self, charm: ops.CharmBase):
        self._app = charm.app
        self._unit = charm.unit
        self._model = charm.model

    @property
    def _relation(self) -> ops.Relation | None:
        return self._model.get_relation("peers")

    @property
    def is_there(self) -> bool:
        """Whether the relation is: not before it is created, nor once this unit has left it."""
        return self._relation is not None

    @property
    def units(self) -> set[str]:
        """Names of the other units that are there, as far as this one has seen."""
        return {unit.name for unit in self._relation.units} if self._relation else set()

    def read_placements(self) -> dict[str, Placement]:
        """Read what the leader has decided."""
        return records.read_placements(self._get(self._app, "shares"))

    def write_placements(self, placements: Placements) -> None:
        """Say what has been decided; ops writes nothing where nothing differs. On the leader."""
        self._set(self._app, "shares", records.write_placements(placements))

    def read_gone(self) -> tuple[str, ...]:
        """Read which shares were deleted last: their UUIDs."""
        return records.read_uuids(self._get(self._app, "deleted").get("uuids"))

    def write_gone(self, uuids: Collection[str]) -> None:
        """Say which shares were deleted last. On the leader."""
        if uuids:
            self._set(self._app, "deleted", {"uuids": [*uuids]})

    def read_reports(self) -> dict[str, Report]:
        """Read what the units say, this one's own as it was said last."""
        units = {self._unit, *self._relation.units} if self._relation else set[ops.Unit]()
        return {unit.name: records.REPORT.read(self._get(unit, "report")) for unit in units}

    def write_report(self, report: Report) -> None:
        """Say what this unit has; ops writes nothing where nothing differs."""
        self._set(self._unit, "report", records.REPORT.write(report))

    def _get(self, who: ops.Application | ops.Unit, key: str) -> dict[str, object]:
        return records.parse(self._relation.data[who].get(key, "") if self._relation else "")

    def _set(self, who: ops.Application | ops.Unit, key: str, plain: dict[str, object]) -> None:
        if self._relation:
            self._relation.data[who].update({key: records.dump(plain)})


def read_goal() -> dict[str, str]:
    """Ask Juju which units the application has or is to have, and their status: "dying", say.

    Unlike the peer relation, it knows all of them at once (Juju docs, goal-state).
    """
    return {unit: goal.status for unit, goal in hookcmds.goal_state().units.items()}

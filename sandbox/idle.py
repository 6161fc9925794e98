# SPDX-License-Identifier: Apache-2.0
"""Decides when ``wait_for_idle`` is over, by python-libjuju's rules."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from juju.errors import (
    JujuAgentError,
    JujuAppError,
    JujuError,
    JujuMachineError,
    JujuUnitError,
)

from sandbox.status import PlacedUnit, Status, UnitStatus, units

_SETTLED_S = 0.5
"""How long every unit of the model must be idle before nothing more can come."""

_ERRORS: Mapping[str, type[JujuError]] = {
    "Machine": JujuMachineError,
    "Agent": JujuAgentError,
    "Unit": JujuUnitError,
    "App": JujuAppError,
}
"""What is raised for which kind of thing; the first one goes first."""


@dataclass
class Settling:
    """Tells, status by status, what still keeps applications from being idle for long enough.

    ``fatal`` statuses are raised, the first one first. With ``at_least``, that many units are
    enough; with ``exactly``, each application must have that many.
    """

    fatal: Sequence[str]
    wanted: str | None
    at_least: int | None
    exactly: int | None
    period_s: float
    _ready: set[str] = field(default_factory=set[str])
    _idle_since: dict[str, float] = field(default_factory=dict[str, float])
    _settled_since: float | None = None
    _troubled: dict[tuple[str, str], list[str]] = field(
        default_factory=dict[tuple[str, str], list[str]]
    )

    def busy(self, names: Sequence[str], status: Status, now: float) -> list[str]:
        """Return what is not idle yet; nothing means that all is.

        Raises:
            JujuError: of the kind that fits, when something has a fatal status.
        """
        placed = units(status)
        self._see(placed, now)
        self._troubled.clear()
        busy: list[str] = []
        for name in names:
            if name not in status["applications"]:
                busy.append(f"{name} (missing)")
                continue
            current = status["applications"][name]["application-status"]["current"]
            self._is_fatal("App", name, current)
            its = {unit: it for unit, it in placed.items() if it["application"] == name}
            if lacking := self._lacking(name, len(its)):
                busy.append(lacking)
                continue
            if self.exactly is None and self.at_least and len(self._ready) >= self.at_least:
                # As in libjuju: enough units are ready, whatever the rest does.
                break
            fits = not self.wanted or bool(self.at_least) or current == self.wanted
            busy += [
                _described(unit, it["status"])
                for unit, it in its.items()
                if not self._is_in_trouble(unit, it, status)
                and not self._is_idle(unit, it["status"], fits, now)
            ]
        self._raise_for_troubled()
        return busy

    def _lacking(self, name: str, count: int) -> str | None:
        if self.exactly is not None:
            if count != self.exactly:
                return f"{name} (waiting for exactly {self.exactly} units, current: {count})"
            return None
        needed = 1 if self.at_least is None else self.at_least
        return f"{name} (not enough units yet: {count}/{needed})" if count < needed else None

    def _is_idle(self, name: str, unit: UnitStatus, fits: bool, now: float) -> bool:
        """Whether a unit is as wanted and was so for long enough."""
        workload = unit["workload-status"]["current"]
        if not fits or workload != (self.wanted or workload) or not _agent_is_idle(unit):
            self._idle_since.pop(name, None)
            return False
        self._ready.add(name)
        since = self._idle_since.setdefault(name, now)
        settled = self._settled_since is not None and now - self._settled_since >= _SETTLED_S
        return settled or now - since >= self.period_s

    def _see(self, placed: Mapping[str, PlacedUnit], now: float) -> None:
        """Note since when nothing goes on in the whole model. A failed hook will be retried."""
        every = [unit["status"] for unit in placed.values()]
        if all(_agent_is_idle(it) and it["workload-status"]["current"] != "error" for it in every):
            self._settled_since = now if self._settled_since is None else self._settled_since
        else:
            self._settled_since = None

    def _is_in_trouble(self, name: str, unit: PlacedUnit, status: Status) -> bool:
        """Whether a unit, or what it stands on, has a fatal status."""
        currents = [
            ("Agent", name, unit["status"]["juju-status"]["current"]),
            ("Unit", name, unit["status"]["workload-status"]["current"]),
        ]
        machine = status["machines"].get(unit["machine"])
        if machine and "machine-status" in machine:
            currents.insert(0, ("Machine", unit["machine"], machine["machine-status"]["current"]))
        return any(self._is_fatal(*current) for current in currents)

    def _is_fatal(self, kind: str, name: str, current: str) -> bool:
        if current not in self.fatal:
            return False
        self._troubled.setdefault((current, kind), []).append(name)
        return True

    def _raise_for_troubled(self) -> None:
        for current in self.fatal:
            for kind, error in _ERRORS.items():
                if names := self._troubled.get((current, kind)):
                    plural = "s" if len(names) > 1 else ""
                    raise error(f"{kind}{plural} in {current}: {', '.join(names)}")


def _agent_is_idle(unit: UnitStatus) -> bool:
    return unit["juju-status"]["current"] == "idle"


def _described(name: str, unit: UnitStatus) -> str:
    workload = unit["workload-status"]
    agent = unit["juju-status"]["current"]
    return f"{name} [{agent}] {workload['current']}: {workload.get('message', '')}"

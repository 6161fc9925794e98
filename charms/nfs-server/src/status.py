# SPDX-License-Identifier: Apache-2.0
"""The unit's status, from facts alone: no I/O."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import ops

from placement import NOT_HERE
from shares import share_id


@dataclass(frozen=True)
class Facts:
    """What an operator has to know of this unit."""

    unit: str
    is_installed: bool = True
    is_running: bool = True
    has_storage: bool = True
    problems: Mapping[str, str] = field(default_factory=dict[str, str])
    """What is wrong with images, by share."""
    undone: tuple[str, ...] = ()
    """Shares that were to be made or grown, and were not."""
    lost: tuple[str, ...] = ()
    """Shares that are placed here and have no image here."""
    strays: Mapping[str, str] = field(default_factory=dict[str, str])
    """Shares that have an image here too; and the unit on which they are."""
    foreign: tuple[str, ...] = ()
    """Names of image files that are not shares of this application."""
    gone: Mapping[str, str] = field(default_factory=dict[str, str])
    """Shares of units that are gone, and the unit."""


def app_status(refusals: Iterable[tuple[str, str]], facts: Facts) -> ops.StatusBase:
    """Decide the application's status: what it lost; or what it refuses to whom.

    That is not blocked: the clients' units are, and say why.
    """
    for name, unit in sorted(facts.gone.items()):
        return ops.BlockedStatus(
            f"share {name} was on {unit}, which is gone: attach its storage, or run forget-share"
        )
    reasons = [f"{client}: {reason}" for client, reason in sorted(refusals)]
    return ops.ActiveStatus("Refused to " + "; ".join(reasons) if reasons else "")


def unit_status(facts: Facts) -> ops.StatusBase:
    """Decide the status: the first thing that keeps the unit from its work."""
    if not facts.is_installed:
        return ops.MaintenanceStatus("Installing the NFS server")
    if not facts.has_storage:
        return ops.BlockedStatus(
            f"No storage: juju add-storage {facts.unit} shares, or attach-storage"
        )
    if not facts.is_running:
        return ops.BlockedStatus("The NFS server does not run: see journalctl -u nfs-server")
    for name, problem in sorted(facts.problems.items()):
        return ops.BlockedStatus(
            f"share {name}: {problem}: see journalctl -u '*{share_id(name)}*'"
        )
    for name in facts.lost:
        return ops.BlockedStatus(f"share {name}: {NOT_HERE}")
    for name in sorted(facts.undone):
        return ops.BlockedStatus(f"share {name}: could not be made or grown: see juju debug-log")
    for name, unit in sorted(facts.strays.items()):
        return ops.BlockedStatus(
            f"share {name} is on {unit}, another image of it is here: move it off the storage"
        )
    if facts.foreign:
        names = ", ".join(facts.foreign[:3])
        return ops.BlockedStatus(
            f"Not shares of this application, move them off the storage: {names}"
        )
    return ops.ActiveStatus()

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
    was_installed: bool = True
    """Whether the package was there once."""
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
    bad_setting: str = ""
    """Which option is not allowed, and what is."""
    strangers: tuple[tuple[str, str], ...] = ()
    """Path and host of what another hand exports of the shares."""
    space: str = ""
    """What there is to say of scarce room."""
    is_short_of_space: bool = False
    """Whether that is grave."""


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
    if not facts.is_installed and facts.was_installed:
        return ops.BlockedStatus(
            "The package nfs-kernel-server was removed and can't be installed: see juju debug-log"
        )
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
    if facts.strangers:
        path, host = facts.strangers[0]
        return ops.BlockedStatus(
            f"{path} is exported to {host} by another hand: take it out of /etc/exports.d/"
        )
    if facts.bad_setting:
        return ops.BlockedStatus(facts.bad_setting)
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
    if facts.is_short_of_space:
        return ops.BlockedStatus(facts.space)
    return ops.ActiveStatus(facts.space)

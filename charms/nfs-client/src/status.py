# SPDX-License-Identifier: Apache-2.0
"""What the unit says of itself: a pure function of facts. No I/O."""

from dataclasses import dataclass
from datetime import datetime, timezone

import ops

from charms.storage_libs.v0.nfs_interfaces import Permissions, Size
from plan import OwnedMount, WantedMount
from trouble import Noted, Trouble


@dataclass(frozen=True)
class InUse:
    """A mount that should go, for good or to come back, and can't, since somebody is using it."""

    mountpoint: str
    users: tuple[str, ...] = ()
    """Processes, such as "postgres (812)"; empty where they could not be found out."""
    obstacle: str = ""
    """Why it is not even tried, and what to do."""


@dataclass(frozen=True)
class Facts:
    """All that the unit's status depends on."""

    unit: str
    """Name of our own unit."""
    server: str = ""
    """Name of the server's application; empty: none is integrated."""
    unsupported: str = ""
    """Why nothing can be mounted on this machine at all."""
    lacking: str = ""
    """A package that was not installed, though it could be used."""
    problems: tuple[str, ...] = ()
    """What is wrong with the options."""
    refusal: str = ""
    """Why the server refuses the request."""
    obstacle: str = ""
    """Why nothing can be mounted at the mount point."""
    in_use: tuple[InUse, ...] = ()
    left: tuple[str, ...] = ()
    """What could not be done, or undone, of mounts, and why."""
    is_leaving: bool = False
    """Whether our unit is being removed."""
    wanted: WantedMount | None = None
    kept: OwnedMount | None = None
    """What is left as it is, with something wrong: what is wanted can't be known now."""
    is_mounted: bool = False
    """Whether what is wanted is mounted, with the wanted flags."""
    is_there: bool = False
    """Whether it is mounted with whatever flags."""
    noted: Noted | None = None
    """What is wrong with what is wanted, or mounted."""
    stale_users: tuple[str, ...] = ()
    """Processes that use what is stale."""
    failure: str = ""
    """What mount(8) said when it failed."""
    shortfall: str = ""
    """What the share has of the size that was requested, where it has less."""
    ungranted: tuple[str, ...] = ()
    """The options which the server does not say that it grants."""


# A message has to fit a line of `juju status`.
_MAX_USERS = 5
LEAVING = "Leaving: "


def status(facts: Facts) -> ops.StatusBase:
    """Decide the unit's status."""
    in_use = [
        f"{mount.mountpoint} is to be unmounted, in use by {_name(mount.users)}"
        for mount in facts.in_use
        if not mount.obstacle
    ]
    left = [mount.obstacle for mount in facts.in_use if mount.obstacle]
    left += facts.left
    if facts.is_leaving:
        said = "; ".join([*in_use, *left])
        return ops.MaintenanceStatus(LEAVING + (said or "this unit has nothing mounted any more"))
    if facts.unsupported:
        return ops.BlockedStatus(facts.unsupported)
    if facts.lacking:
        return ops.BlockedStatus(
            f"{facts.lacking} can't be installed, trying again: see juju debug-log"
        )
    blocked = list(facts.problems)
    if not facts.server:
        blocked.append(
            f"Missing relation: run `juju integrate {facts.unit.partition('/')[0]}:nfs-share"
            " nfs-server`, or another application that provides nfs_share"
        )
    if facts.refusal:
        blocked.append(f"{facts.server}: {facts.refusal}")
    if facts.obstacle:
        blocked.append(facts.obstacle)
    blocked += left
    if blocked:
        return ops.BlockedStatus("; ".join(blocked + in_use))
    if in_use:
        return ops.WaitingStatus("; ".join(in_use))
    if facts.noted and (there := facts.wanted or facts.kept):
        return _trouble_status(facts, facts.noted, there)
    if facts.wanted is None:
        return ops.WaitingStatus(
            f"Waiting for {facts.server} to grant the share: if it takes long, see"
            f" `juju status {facts.server}`"
        )
    return _mount_status(facts, facts.wanted)


def _name(users: tuple[str, ...]) -> str:
    names = ", ".join(users[:_MAX_USERS]) or "a process"
    more = len(users) - _MAX_USERS
    return names + (f" and {more} more" if more > 0 else "")


def _mount_status(facts: Facts, wanted: WantedMount) -> ops.StatusBase:
    if facts.is_mounted and facts.shortfall:
        return ops.WaitingStatus(f"{facts.server}: {facts.shortfall}")
    if facts.is_mounted and facts.ungranted:
        return ops.ActiveStatus(f"{facts.server} does not grant {', '.join(facts.ungranted)}")
    if facts.is_mounted:
        return ops.ActiveStatus()
    return ops.WaitingStatus(
        f"Mounting {wanted.endpoint} on {wanted.mountpoint}"
        + (f" failed, trying again: {facts.failure}" if facts.failure else "")
    )


def _trouble_status(
    facts: Facts, noted: Noted, wanted: WantedMount | OwnedMount
) -> ops.StatusBase:
    since = show_time(noted.since_s)
    if noted.trouble is Trouble.HELD:
        return ops.BlockedStatus(
            f"{wanted.mountpoint} was unmounted by force-umount {since}: run"
            f" `juju run {facts.unit} remount`"
        )
    if noted.trouble is Trouble.STALE:
        return ops.WaitingStatus(
            f"{wanted.mountpoint} is stale since {since}, {facts.server} has another file system"
            f" there; to mount it again, stop what uses it: {_name(facts.stale_users)}"
        )
    if noted.trouble is Trouble.DENIED:
        return ops.WaitingStatus(
            f"{facts.server} refuses this machine since {since}:"
            f" what uses {wanted.mountpoint} gets errors"
        )
    if facts.is_there:
        return ops.WaitingStatus(
            f"{facts.server} has not answered since {since}: what uses {wanted.mountpoint} waits"
        )
    return ops.WaitingStatus(
        f"{facts.server} is unreachable since {since}: no answer from {wanted.endpoint.host}"
        f" on TCP port {wanted.endpoint.port}"
    )


def show_time(since_s: float) -> str:
    """Write a time as an operator reads it, wherever the machine is."""
    return datetime.fromtimestamp(since_s, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def find_ungranted(asked: Permissions, granted: Permissions) -> tuple[str, ...]:
    """Name the options that are set and that the server's answer doesn't repeat."""
    said = granted.items()
    return tuple(
        "read-only" if key == "access" else key
        for key, text in asked.items().items()
        if text and text != said[key]
    )


def find_shortfall(asked: Size, granted: Size) -> str:
    """Say how much less was granted than asked; who sets no limit takes the share as it is."""
    if not asked.is_limited or not granted.is_known or granted >= asked:
        return ""
    return f"{asked} requested, the share has {granted}"

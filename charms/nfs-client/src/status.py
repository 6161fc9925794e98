# SPDX-License-Identifier: Apache-2.0
"""What the unit says of itself: a pure function of facts. No I/O."""

from dataclasses import dataclass

import ops

from plan import WantedMount


@dataclass(frozen=True)
class InUse:
    """A mount that should go and can't, since somebody is using it."""

    mountpoint: str
    users: tuple[str, ...] = ()
    """Processes, such as "postgres (812)"; empty where they could not be found out."""


@dataclass(frozen=True)
class Facts:
    """All that the unit's status depends on."""

    application: str
    """Name of our own application."""
    server: str = ""
    """Name of the server's application; empty: none is integrated."""
    problems: tuple[str, ...] = ()
    """What is wrong with the options."""
    refusal: str = ""
    """Why the server refuses the request."""
    obstacle: str = ""
    """Why nothing can be mounted at the mount point."""
    in_use: tuple[InUse, ...] = ()
    wanted: WantedMount | None = None
    is_mounted: bool = False
    """Whether what is wanted is mounted, with the wanted flags."""
    is_reachable: bool = True
    failure: str = ""
    """What mount(8) said when it failed."""


# A message has to fit a line of `juju status`.
_MAX_USERS = 5


def status(facts: Facts) -> ops.StatusBase:
    """Decide the unit's status."""
    blocked = list(facts.problems)
    if not facts.server:
        blocked.append(
            f"Missing relation: run `juju integrate {facts.application} nfs-server`, or another"
            " application that provides nfs_share"
        )
    if facts.refusal:
        blocked.append(f"{facts.server}: {facts.refusal}")
    if facts.obstacle:
        blocked.append(facts.obstacle)
    in_use = [_describe(mount) for mount in facts.in_use]
    if blocked:
        return ops.BlockedStatus("; ".join(blocked + in_use))
    if in_use:
        return ops.WaitingStatus("; ".join(in_use))
    if facts.wanted is None:
        return ops.WaitingStatus(f"Waiting for {facts.server} to grant the share")
    return _mount_status(facts, facts.wanted)


def _describe(mount: InUse) -> str:
    names = ", ".join(mount.users[:_MAX_USERS]) or "a process"
    more = len(mount.users) - _MAX_USERS
    return f"{mount.mountpoint} is to be unmounted, in use by {names}" + (
        f" and {more} more" if more > 0 else ""
    )


def _mount_status(facts: Facts, wanted: WantedMount) -> ops.StatusBase:
    if facts.is_mounted:
        return ops.ActiveStatus()
    if not facts.is_reachable:
        return ops.WaitingStatus(
            f"{facts.server} is unreachable: no answer from {wanted.endpoint.host}"
            f" on TCP port {wanted.endpoint.port}"
        )
    return ops.WaitingStatus(
        f"Mounting {wanted.endpoint} on {wanted.mountpoint}"
        + (f" failed, trying again: {facts.failure}" if facts.failure else "")
    )

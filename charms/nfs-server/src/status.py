# SPDX-License-Identifier: Apache-2.0
"""What a run left, and the statuses of the unit and of the application that follow: no I/O."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import ops

import room
from placement import NOT_HERE, Snapshot
from plan import Plan
from values import Answer, Export, Request, is_open, share_id

# status-set takes it as one argument, of 128 KiB at most (MAX_ARG_STRLEN of execve(2)); else the
# hook fails. An argument is in UTF-8, and nobody reads as much.
_MAX_MESSAGE = 10_000


@dataclass(frozen=True)
class Outcome:
    """What the unit is left with."""

    is_leaving: bool = False
    other_unit: str = ""
    """The unit of another nfs-server that has this machine."""
    not_set: str = ""
    """Why no settings are in force, by which anything could be done."""
    not_installed: str = ""
    """Why the NFS server is not installed."""
    not_opened: str = ""
    """Why Juju does not open its ports: another unit on the machine has one of them."""
    is_claimed: bool = True
    """Whether this machine is this unit's: what else is not opened stops nothing then."""
    awaited: str = ""
    """The directory of its storage, which had shares and is not mounted yet."""
    unreadable: str = ""
    """Why its storage can't be read."""
    has_storage: bool = True
    is_running: bool = True
    not_as_set: str = ""
    """Why the NFS server does not run as it is set."""
    bad_setting: str = ""
    """Which option is not allowed, and what is."""
    not_mounted: str = ""
    """Why the machine takes no mounts of shares."""
    exported: Mapping[str, Export] | None = None
    """What is exported for sure. None: what was so before."""
    not_exported: str = ""
    """Why the exports could not be put in place."""
    not_monitored: str = ""
    """Why the exporter does not run, which a collector was promised."""
    failures: Mapping[str, str] = field(default_factory=dict[str, str])
    """Why work on shares failed."""
    snapshot: Snapshot | None = None
    plan: Plan | None = None
    unexpected: tuple[tuple[str, str], ...] = ()
    """Path and host of exports of shares that the charm did not make."""
    answers: tuple[tuple[Request, Answer], ...] = ()
    """What clients are told. On the leader."""

    @property
    def has_machine(self) -> bool:
        """Whether the NFS server of this machine is this unit's."""
        lacks = self.other_unit or self.not_set or self.not_installed
        return self.is_claimed and not lacks

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing left to do, and nothing that may mend by itself.

        What is refused stays so until an event, or until there is more room.
        """
        snapshot, plan = self.snapshot, self.plan
        if snapshot is None or plan is None:
            return False
        is_serving = self.has_machine and self.has_storage and self.is_running
        unit = self.not_opened, self.bad_setting, self.not_as_set, self.not_monitored
        failed = self.not_mounted, self.not_exported, self.failures, self.unexpected
        planned = plan.work, plan.missing, plan.misplaced, plan.copies, plan.unused, plan.expired
        problems = [image.problem for image in plan.images.values()]
        found = snapshot.found
        uncounted = [it for it in found.deleted.values() if it.is_count_old]
        there = uncounted, found.restored, found.foreign, plan.returned
        left = *unit, *failed, *planned, *problems, *there
        return is_serving and not any(left)


def unit_status(outcome: Outcome) -> ops.StatusBase:
    """Decide the unit's status: the first thing that keeps it from its work."""
    if outcome.is_leaving:
        return ops.MaintenanceStatus("Leaving: the images of its shares stay on its storage")
    if outcome.awaited:
        return ops.WaitingStatus(
            f"Waiting for the storage of its shares, which is not mounted on {outcome.awaited}"
        )
    for reason in _reasons(outcome):
        return ops.BlockedStatus(reason)
    if outcome.snapshot is None:
        return ops.MaintenanceStatus("Installing the NFS server")
    images, storage = outcome.snapshot.found.images.values(), outcome.snapshot.storage
    remark = room.remark(storage, tuple(images), outcome.snapshot.found.deleted_images)
    if room.is_short(storage, images):
        return ops.BlockedStatus(remark)
    return ops.ActiveStatus(remark)


def _reasons(outcome: Outcome) -> Iterator[str]:
    """Say what an operator has to see to, the gravest first."""
    if outcome.unreadable:
        yield outcome.unreadable
        return
    if outcome.other_unit:
        yield (
            f"{outcome.other_unit} serves this machine, which can have one nfs-server: remove this"
            " unit, or deploy it to another machine"
        )
        return
    if reason := outcome.not_set or outcome.not_installed:
        yield reason
        return
    not_opened = f"A port is another unit's: {outcome.not_opened}: move one of the two elsewhere"
    if not outcome.is_claimed:
        yield not_opened
    if outcome.snapshot is None or outcome.plan is None:
        return
    if not outcome.has_storage:
        yield f"No storage: juju add-storage {outcome.snapshot.unit} shares, or attach-storage"
        return
    if not outcome.is_running:
        yield "The NFS server does not run: see journalctl -u nfs-server"
    elif outcome.not_as_set:
        yield f"The NFS server does not run as it is set: {outcome.not_as_set}"
    yield from _reasons_of_shares(outcome, outcome.snapshot, outcome.plan)
    if foreign := outcome.snapshot.found.foreign_names:
        names = ", ".join(foreign[:3])
        yield f"Not shares of this application, move them off the storage: {names}"
    if outcome.not_monitored:
        yield f"Metrics are not served: {outcome.not_monitored}"
    if outcome.not_opened:
        yield not_opened


def _reasons_of_shares(outcome: Outcome, snapshot: Snapshot, plan: Plan) -> Iterator[str]:
    for name, image in sorted(plan.images.items()):
        if image.problem:
            yield f"share {name}: {image.problem}: see journalctl -u '*{share_id(name)}*'"
    for name in plan.missing:
        yield f"share {name}: {NOT_HERE}"
    for path, host in outcome.unexpected:
        yield f"{path} is exported to {host}, not by this charm: take it out of /etc/exports.d/"
    if outcome.bad_setting:
        yield outcome.bad_setting
    if outcome.not_mounted:
        yield outcome.not_mounted
    if outcome.not_exported:
        yield f"The exports could not be changed: {outcome.not_exported}"
    yield from (reason for _, reason in sorted(outcome.failures.items()))
    for name in plan.misplaced:
        unit = snapshot.placements[name].unit
        yield f"share {name} is on {unit}, another image of it is here: move it off the storage"
    yield from plan.returned.values()
    for image in plan.copies:
        yield f"{image.path.name} is a copy of a share's image: move it off the storage"


def app_status(outcome: Outcome) -> ops.StatusBase:
    """Decide the application's status: what it lost; or what it refuses to whom, and what is open.

    A refusal is not blocked: the clients' units are, and say why.
    """
    snapshot = outcome.snapshot
    if snapshot is None:
        return ops.ActiveStatus()
    for name, it in sorted(snapshot.placements.items()):
        if it.uuid and it.unit not in snapshot.present:
            return ops.BlockedStatus(
                f"share {name} was on {it.unit}, which is gone: attach its storage, or run"
                " forget-share"
            )
    message = "; ".join(_remarks(outcome, snapshot))
    if len(message) > _MAX_MESSAGE:
        message = (
            f"{message[:_MAX_MESSAGE]}…; for the rest see list-shares and the clients' statuses"
        )
    return ops.ActiveStatus(message)


def _remarks(outcome: Outcome, snapshot: Snapshot) -> Iterator[str]:
    """Say what is refused to whom, what is open or shared, and what clients can't do."""
    refused = sorted(
        f"{it.application}: {told.error}" for it, told in outcome.answers if told.error
    )
    if refused:
        yield "Refused to " + "; ".join(refused)
    for name, share in sorted(snapshot.wanted.items()):
        if is_open(share.networks):
            yield f"share {name} is open to all"
        if len(share.applications) > 1:
            yield f"share {name} is shared by {', '.join(share.applications)}"
    yield from sorted({it.remark for it in snapshot.requests if it.remark})

# SPDX-License-Identifier: Apache-2.0
"""From what is requested to what is: reads both sides once, decides, makes it so, says it.

What fails is returned with its reason, a share's failure with its share: it is no reason not to
serve the others.
"""

import contextlib
import logging
from collections.abc import Collection, Generator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import ops

import claim
import deleted
import exports
import images
import monitoring
import mounts
import nfs
import placement
import plan
import room
import settings
import settled
from charms.storage_libs.v0.nfs_interfaces import Network
from cos_agent import CosAgent
from monitoring import Facts, ShareFacts
from placement import Snapshot
from plan import Plan, Use
from reading import Reader
from values import (
    Answer,
    DeletedShare,
    Export,
    Image,
    Placements,
    Request,
    share_directory,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What the unit is left with."""

    is_leaving: bool = False
    other_unit: str = ""
    """The unit of another nfs-server that has this machine."""
    not_installed: str = ""
    """Why the NFS server is not installed."""
    not_opened: str = ""
    """Why Juju does not open its ports: another unit on the machine has one of them."""
    has_storage: bool = True
    is_running: bool = True
    not_as_set: str = ""
    """Why the NFS server does not run as it is set."""
    bad_setting: str = ""
    """Which option is not allowed, and what is."""
    not_mounted: str = ""
    """Why the machine takes no mounts of shares."""
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
        return not (self.other_unit or self.not_installed or self.not_opened)

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing left to do, and nothing that may mend by itself.

        What is refused stays so until an event, or until there is more room.
        """
        snapshot, plan = self.snapshot, self.plan
        if snapshot is None or plan is None or not (self.has_storage and self.is_running):
            return False
        unit = self.other_unit, self.not_installed, self.not_opened, self.not_monitored
        settings = self.bad_setting, self.not_as_set
        failed = self.not_mounted, self.not_exported, self.failures, self.unexpected
        planned = plan.work, plan.missing, plan.misplaced, plan.unused, plan.expired
        noted = [it for it in snapshot.found.deleted.values() if it.is_count_old]
        is_bad = any(image.problem for image in plan.images.values())
        left = *unit, *settings, *failed, *planned, noted, snapshot.found.restored
        left = *left, snapshot.found.foreign, is_bad
        return not any(left)


class Reconciler:
    """Makes the machine and the databags be as they are to be."""

    def __init__(self, charm: ops.CharmBase, reader: Reader):
        self._unit = charm.unit
        self._charm_directory = charm.charm_dir
        self._collector = CosAgent(charm)
        self.reader = reader
        self.outcome: Outcome | None = None
        """What the last run in this hook left; None: there was none."""

    def install(self) -> Outcome:
        """Have the NFS server installed, if this machine is to be this unit's."""
        outcome = Outcome(other_unit=self.reader.other_unit)
        if not outcome.other_unit and not nfs.is_installed():
            outcome = replace(outcome, not_installed=self._install())
        if not outcome.other_unit and not outcome.not_installed:
            outcome = replace(outcome, not_opened=self._take_machine())
        self.outcome = outcome
        return outcome

    def _take_machine(self) -> str:
        """Have this machine be this unit's; say why it can't be yet."""
        if not claim.take(self.reader.claim):
            return ""
        if reason := self._open_ports():
            claim.release(self.reader.claim)  # Another unit has them: the next event tries again.
        return reason

    def _install(self) -> str:
        """Install the NFS server; why it could not be."""
        if reason := nfs.find_refusal():
            return reason
        try:
            version = nfs.install(self.reader.settings)
        except nfs.NfsError as error:
            logger.error("%s", error)
            return f"{nfs.PACKAGE} can't be installed, trying again: see juju debug-log"
        self._unit.set_workload_version(version)
        return ""

    def open_ports(self) -> None:
        """Declare to Juju the ports that are served, if this machine is this unit's."""
        if self.outcome and not self.reader.other_unit:
            self.outcome = replace(self.outcome, not_opened=self._open_ports())
            if self.outcome.not_opened:
                settled.forget()

    def _open_ports(self) -> str:
        """Declare the ports; say why Juju refuses that: another unit on the machine has them."""
        more = nfs.NFSV3_PORTS if self.reader.settings.nfsv3 else ()
        also = (ops.Port(protocol, port) for port in more for protocol in ("tcp", "udp"))
        try:
            self._unit.set_ports(nfs.PORT, *also)
        except ops.ModelError as error:
            logger.error("%s", error)
            return str(error).strip().removeprefix("ERROR ")
        return ""

    def place(self, placements: Placements) -> Outcome:
        """Decide placements by an action, and make them so. On the leader."""
        self.reader.peers.write_placements(placements)
        return self.run()

    def run(self, leaving: Collection[Network] = ()) -> Outcome:
        """Make the machine and the databags be as they are to be.

        Args:
            leaving: the addresses of a client's unit that leaves: it gets the time to unmount.
        """
        settled.forget()
        self.reader.forget()
        # What is to be undone by a unit that leaves was undone when its storage went.
        self.outcome = Outcome(is_leaving=self.reader.is_leaving)
        if self.outcome.is_leaving or not self.reader.peers.is_there:
            return self.outcome
        outcome = self.install()
        if outcome.has_machine:
            outcome = self._ensure(outcome, leaving)
        outcome = self._say(outcome)
        self.outcome = replace(outcome, not_monitored=self._ensure_monitoring(outcome))
        if self.outcome.is_settled:
            settled.note(self.reader)
        return self.outcome

    def _ensure(self, outcome: Outcome, leaving: Collection[Network]) -> Outcome:
        """Make the machine be as it is to be."""
        directory = self.reader.directory
        outcome = replace(
            outcome,
            has_storage=directory is not None,
            bad_setting=self.reader.bad_setting,
            not_as_set=self._ensure_service(),
            is_running=nfs.is_running(),
        )
        if not directory:
            return outcome
        images.remove_unfinished(directory)
        failures: dict[str, str] = {}
        not_mounted = self._ensure_images(directory, failures)
        self._set_permissions(failures)
        served = self._note_served(failures)
        not_exported = self._export(served, leaving)
        return replace(
            outcome,
            failures=failures,
            not_mounted=not_mounted,
            not_exported=not_exported,
            unexpected=tuple(exports.unexpected(served)),
        )

    def _ensure_service(self) -> str:
        """Have the NFS server run as it is set; say why it doesn't."""
        try:
            settings.keep(self.reader.settings)
            nfs.write_configuration(self.reader.settings)
            nfs.ensure_running(self.reader.settings)
        except (nfs.NfsError, OSError) as error:
            logger.error("%s", error)
            return str(error)
        return ""

    def _ensure_images(self, directory: Path, failures: dict[str, str]) -> str:
        """Have this unit's images whole and mounted; make, grow and take back.

        Returns:
            Why nothing can be mounted.
        """
        snapshot, decided = self.reader.read()
        is_changed = self._keep_deleted(directory, snapshot, decided)
        is_mounted, not_mounted = _mount(directory, decided)
        is_changed |= is_mounted
        for image in decided.images.values():
            if image.lacks_space:
                logger.warning("share %s: some of its space was freed: reserving it", image.name)
                with _noting({}, image.name):  # It is its `problem`.
                    images.reserve(image)
                is_changed = True  # There is less room now.
        for image in decided.unused:
            is_changed |= _take_back(image)
        if is_changed:
            _, decided = self._read_again()
        for work in decided.work:
            with _noting(failures, work.name):
                if image := decided.images.get(work.name):
                    images.grow(image, work)
                else:
                    images.make(directory, work, self.reader.application)
        if decided.work:
            _, not_mounted = _mount(directory, self._read_again()[1])
            self.reader.forget()
        return not_mounted

    def _set_permissions(self, failures: dict[str, str]) -> None:
        """Give shares the owner and mode that are asked for, before clients see them."""
        _, decided = self.reader.read()
        for name, asked in decided.permissions.items():
            with _noting(failures, name):
                images.set_permissions(decided.images[name], asked)
        if decided.permissions:
            self.reader.forget()

    def _keep_deleted(self, directory: Path, snapshot: Snapshot, decided: Plan) -> bool:
        """Count how long deleted shares are kept, and end what is past; say if any of it was."""
        found, application = snapshot.found, self.reader.application
        deleted.remove_unfinished(directory, application, found)
        recorded = {it.restored for it in self.reader.recorded.values()}
        taken_back = [it for it in found.restored.values() if it.deletion in recorded]
        for restored in taken_back:
            deleted.forget(restored)
        uncounted = [
            it for it in found.deleted.values() if it.is_count_old and it not in decided.expired
        ]
        for share in uncounted:
            with _noting({}, share.image.name):  # It is kept for longer then.
                deleted.count(share, application)
        ended = [_end(it) for it in decided.expired]
        return any(ended) or bool(taken_back or uncounted)

    def _read_again(self) -> tuple[Snapshot, Plan]:
        self.reader.forget()
        return self.reader.read()

    def _note_served(self, failures: dict[str, str]) -> list[Export]:
        """Note, before the first export, that there may be data in images from now on.

        Returns:
            What can be exported.
        """
        _, decided = self.reader.read()
        served: list[Export] = []
        for name, export in decided.exports.items():
            with _noting(failures, name):
                if not decided.images[name].is_served:
                    images.note_served(decided.images[name])
                served.append(export)
        return served

    def _export(self, served: Collection[Export], leaving: Collection[Network]) -> str:
        """Export shares, to nobody else; say why that failed."""
        if leaving and exports.unexpected(served):
            nfs.wait_for_clients_to_leave(leaving)
        try:
            exports.ensure(served, self.reader.settings.squash)
        except exports.ExportsError as error:
            logger.error("%s", error)
            return str(error)
        return ""

    def _say(self, outcome: Outcome) -> Outcome:
        """Tell the other units what is here; as the leader, tell all what is decided."""
        reader = self.reader
        snapshot, decided = reader.read()
        addresses = {
            it.integration_id: address
            for it in snapshot.requests
            if it.share in decided.images
            and (address := reader.clients.address(it.integration_id))
        }
        report = replace(plan.report(snapshot, decided, outcome.failures), addresses=addresses)
        reader.peers.write_report(report)
        snapshot = snapshot.with_report(report)
        reader.keep(snapshot, decided)
        answers: tuple[tuple[Request, Answer], ...] = ()
        if reader.is_leader:
            reader.peers.write_placements(snapshot.placements)
            reader.peers.write_gone(snapshot.gone)
            answers = tuple((it, self._answer(it, snapshot)) for it in snapshot.requests)
        return replace(outcome, snapshot=snapshot, plan=decided, answers=answers)

    def _ensure_monitoring(self, outcome: Outcome) -> str:
        """Have the exporter run while there is a collector; say why it doesn't."""
        reason = ""
        try:
            if outcome.has_machine and self._collector.is_there:
                facts = _facts(self.reader.directory, *self.reader.read())
                monitoring.ensure(facts, self._charm_directory)
            elif outcome.has_machine:
                monitoring.remove()
        except monitoring.MonitoringError as error:
            logger.error("%s", error)
            reason = str(error)
        # Another's exporter would be taken for this unit's.
        is_served = outcome.has_machine and not reason
        self._collector.publish(f"{monitoring.ADDRESS}:{monitoring.PORT}" if is_served else "")
        return reason

    def _answer(self, request: Request, snapshot: Snapshot) -> Answer:
        clients = self.reader.clients
        told = clients.answered(request.integration_id)
        answer = placement.answer(request, snapshot, told)
        if answer is not told:
            clients.answer(request.integration_id, answer)
        return answer


def _facts(directory: Path | None, snapshot: Snapshot, decided: Plan) -> Facts:
    """Say what the exporter can't read for itself."""
    if not directory:
        return Facts()
    wanted = snapshot.wanted
    return Facts(
        storage=str(directory),
        reserve_bytes=room.reserve_bytes(snapshot.storage),
        allocated_bytes=room.allocated_bytes(snapshot.found.all_images),
        is_on_root=snapshot.storage.is_root,
        shares=tuple(
            ShareFacts(
                name=name,
                where=str(share_directory(name)),
                image=str(images.image_path(directory, name)),
                applications=",".join(wanted[name].applications if name in wanted else ()),
                is_sparse=name in decided.images and decided.images[name].is_sparse,
                is_requested=name in decided.exports,
            )
            for name in sorted({*decided.images, *decided.missing})
        ),
    )


def _mount(directory: Path, decided: Plan) -> tuple[bool, str]:
    """Have images mounted; whether that changed anything, and why it can't be done."""
    try:
        return mounts.ensure_mounted(directory, decided.images.values()), ""
    except mounts.MountsError as error:
        logger.error("%s", error)
        return False, str(error)


def _take_back(image: Image) -> bool:
    """Delete an image that was made for a share that is elsewhere after all."""
    use = Use(is_unused=True, is_empty=images.is_empty(image))
    if reason := plan.why_keep(image, use):
        logger.warning("%s, so it is kept though the share is elsewhere", reason)
        return False
    with _noting({}, image.name):
        # Its share was placed here for a moment, and nobody has mounted or filled it.
        mounts.unmount(image, exports.flush)
        images.delete(image)
        return True
    return False


def _end(share: DeletedShare) -> bool:
    """Delete the image of a share that was deleted as many days ago as it is kept."""
    users = tuple(f"in use here by {it}" for it in mounts.users(share.image))
    if reason := plan.why_keep(share.image, Use(is_expired=True, clients=users)):
        logger.warning("%s", reason)
        return False
    with _noting({}, share.image.name):
        images.delete(share.image)
        logger.info("share %s: deleted, and kept until %s", share.image.name, share.day)
        return True
    return False


@contextlib.contextmanager
def _noting(failures: dict[str, str], name: str) -> Generator[None, None, None]:
    """Go on where something fails with a share's image, and note why."""
    try:
        yield
    except (images.ImagesError, mounts.MountsError) as error:
        logger.error("%s", error)
        failures[name] = str(error)

# SPDX-License-Identifier: Apache-2.0
"""From what is requested to what is: reads both sides once, decides, makes it so, says it.

What fails is returned with its reason, a share's failure with its share: it is no reason not to
serve the others.
"""

import contextlib
import functools
import hashlib
import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import ops

import claim
import exports
import images
import nfs
import peers
import placement
import plan
import room
import settings
from charms.storage_libs.v0.nfs_interfaces import Network
from clients import Clients
from nfs_charms import machine
from plan import Plan, Snapshot, Use
from settings import Settings
from values import (
    Answer,
    Export,
    Image,
    Placements,
    Report,
    Request,
    Storage,
    Work,
    share_directory,
)

logger = logging.getLogger(__name__)

# How long clients that leave may take to unmount before their access is taken away. Juju runs the
# hooks of the two sides up to half a minute apart.
LEAVE_TIMEOUT_S = 60.0

SETTLED = Path("/run/nfs-server-charm/settled")


class RefusedError(Exception):
    """Something can't be done as it was asked for; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """What the unit is left with."""

    unit: str
    is_leaving: bool = False
    other_unit: str = ""
    """The unit of another nfs-server that has this machine."""
    not_installed: str = ""
    """Why the NFS server is not installed."""
    has_storage: bool = True
    is_running: bool = True
    bad_setting: str = ""
    """Which option is not allowed, and what is."""
    not_mounted: str = ""
    """Why the machine takes no mounts of shares."""
    not_exported: str = ""
    """Why the exports could not be put in place."""
    failures: Mapping[str, str] = field(default_factory=dict[str, str])
    """Why work on shares failed."""
    snapshot: Snapshot | None = None
    plan: Plan | None = None
    unexpected: tuple[tuple[str, str], ...] = ()
    """Path and host of exports of shares that the charm did not make."""
    answers: tuple[tuple[Request, Answer], ...] = ()
    """What clients are told. On the leader."""

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing left to do, and nothing that may mend by itself."""
        if (
            self.snapshot is None
            or self.plan is None
            or not (self.has_storage and self.is_running)
        ):
            return False
        plan, images = self.plan, self.plan.images.values()
        reasons = self.other_unit, self.not_installed, self.bad_setting, self.not_mounted
        wrong = (
            self.not_exported,
            self.failures,
            self.unexpected,
            plan.work,
            plan.refusals,
            plan.missing,
        )
        found = plan.misplaced, plan.unused, self.snapshot.found.foreign
        is_pending = any(answer.error or not answer.endpoint for _, answer in self.answers)
        is_bad = any(image.problem for image in images)
        return not (any(reasons) or any(wrong) or any(found) or is_pending or is_bad)


class Reconciler:
    """The one who knows both sides, Juju's and the machine's."""

    def __init__(self, charm: ops.CharmBase):
        self._charm = charm
        self._model = charm.model
        self._unit = charm.unit.name
        self._peers = peers.Peers(charm)
        self._clients = Clients(charm)
        self._claim = claim.Claim(self._unit, charm.model.uuid, str(charm.charm_dir))
        self._read: tuple[Snapshot, Plan] | None = None
        self.outcome: Outcome | None = None
        """What the last run in this hook left; None: there was none."""

    # -- Reading

    @property
    def settings(self) -> Settings:
        """The operator's settings if they are good, else the last that were."""
        return self._settings[0]

    @functools.cached_property
    def _settings(self) -> tuple[Settings, str]:
        """The settings that are in force, and what is wrong with the operator's."""
        try:
            return settings.parse(self._charm.config), ""
        except settings.SettingsError as error:
            logger.error("%s", error)  # The status says it too.
            return settings.read_in_force(), str(error)

    @functools.cached_property
    def _goal(self) -> dict[str, str]:
        return peers.read_goal()

    @property
    def is_leaving(self) -> bool:
        """Whether this unit is being removed."""
        return self._goal.get(self._unit) == "dying"

    @property
    def directory(self) -> Path | None:
        """Where the shares are: this unit's storage. None while it has none, or may serve none."""
        if claim.find_other(self._claim):
            return None
        attached = self._model.storages["shares"]
        return attached[0].location if attached else None

    @property
    def application(self) -> str:
        """What stands beside each image as its application: no other has the same."""
        return f"{self._model.uuid}/{self._charm.app.name}"

    def why_not_ready(self) -> str:
        """Say why nothing can be done on this unit; empty: it can."""
        if not self._peers.is_there:
            return f"{self._unit} is not ready: see juju status"
        if other := claim.find_other(self._claim):
            return f"{other} serves this machine"
        return "" if nfs.is_installed() else "the NFS server is not installed: see juju status"

    def read(self) -> tuple[Snapshot, Plan]:
        """Read what is asked, decided and here; as the leader, decide."""
        if self._read is None:
            snapshot = self._take_snapshot()
            decided = plan.decide(snapshot, exports.MAX_ENTRIES)
            said = snapshot.reports.get(self._unit, Report())
            # What failed in an earlier hook, and is still to be done.
            failures = {
                work.name: share.refusal
                for work in decided.work
                if (share := said.shares.get(work.name)) and share.refusal
            }
            own = replace(plan.report(snapshot, decided, failures), addresses=said.addresses)
            reports = {**snapshot.reports, self._unit: own}
            self._read = replace(snapshot, reports=reports), decided
        return self._read

    def _read_again(self) -> tuple[Snapshot, Plan]:
        """Read anew, after work was done."""
        self._read = None
        return self.read()

    def _take_snapshot(self) -> Snapshot:
        directory = self.directory
        reports = self._peers.read_reports()
        committed = self._peers.read_placements()
        snapshot = Snapshot(
            unit=self._unit,
            requests=self._clients.requests(self.settings),
            placements=committed,
            committed=committed,
            reports=reports,
            present={self._unit, *self._alive(), *self._peers.units},
            storage=self._read_storage(directory) if directory else Storage(),
        )
        if directory:
            snapshot = replace(snapshot, found=images.read(directory, self.application))
        snapshot = replace(snapshot, deleted=_still_placed(snapshot))
        if self._charm.unit.is_leader():
            return self._decide(snapshot)
        return replace(snapshot, requests=placement.resolve(snapshot.requests, committed))

    def _read_storage(self, directory: Path) -> Storage:
        storage = images.read_storage(directory)
        # What is overcommitted could fill the machine's root disk.
        ratio = 1.0 if storage.is_root else self.settings.overcommit_ratio
        return replace(storage, overcommit_ratio=ratio)

    def _decide(self, snapshot: Snapshot) -> Snapshot:
        """Decide where shares are to be. On the leader."""
        reports = {**snapshot.reports, self._unit: plan.first_report(snapshot)}
        answered = {
            it.integration_id: self._clients.answered(it.integration_id)
            for it in snapshot.requests
        }
        placements = placement.without_deleted(snapshot.committed, reports)
        placements = placement.note_unreadable(placements, snapshot.requests, answered)
        placements = placement.note_guests(placements, snapshot.requests, answered)
        requests = placement.resolve(snapshot.requests, placements)
        placements = placement.assign(requests, placements)
        wanted = placement.wanted(requests, placements)
        decision = placement.decide(placements, wanted, reports)
        return replace(
            snapshot,
            requests=requests,
            placements=decision.placements,
            refusals=decision.refusals,
            committed=self._commit(snapshot.committed, decision.placements),
        )

    def _commit(self, committed: Placements, decided: Placements) -> Placements:
        """Say which placements no other unit can come to decide otherwise.

        What a leader decides is lost if its hook fails, and another may lead then. Where there is
        no other, one hook is enough.
        """
        is_alone = not self._peers.units and self._alive() == [self._unit]
        return decided if is_alone else committed

    def _alive(self) -> list[str]:
        """Name the units that the application is to have; its peers may know dying ones."""
        return [unit for unit, status in self._goal.items() if status != "dying"]

    # -- Making it so

    def install(self) -> Outcome:
        """Have the NFS server installed, if this machine is to be this unit's."""
        outcome = Outcome(self._unit, other_unit=claim.find_other(self._claim))
        if not outcome.other_unit and not nfs.is_installed():
            outcome = replace(outcome, not_installed=self._install())
        if not outcome.other_unit and not outcome.not_installed and claim.take(self._claim):
            self.open_ports()
        self.outcome = outcome
        return outcome

    def _install(self) -> str:
        """Install the NFS server; why it could not be."""
        if reason := nfs.find_refusal():
            return reason
        try:
            version = nfs.install(self.settings)
        except nfs.NfsError as error:
            logger.error("%s", error)
            return f"{nfs.PACKAGE} can't be installed, trying again: see juju debug-log"
        self._charm.unit.set_workload_version(version)
        return ""

    def open_ports(self) -> None:
        """Declare to Juju the ports that are served, if this machine is this unit's."""
        if claim.find_other(self._claim):
            return
        more = nfs.NFSV3_PORTS if self.settings.nfsv3 else ()
        also = (ops.Port(protocol, port) for port in more for protocol in ("tcp", "udp"))
        self._charm.unit.set_ports(nfs.PORT, *also)

    def run(self, leaving: Collection[Network] = ()) -> Outcome:
        """Make the machine and the databags be as they are to be.

        Args:
            leaving: the addresses of a client's unit that leaves: it gets the time to unmount.
        """
        SETTLED.unlink(missing_ok=True)
        self._read = None
        self.outcome = Outcome(self._unit)
        if self.is_leaving:  # What is to be undone was undone when its storage went.
            self.outcome = replace(self.outcome, is_leaving=True)
        if self.is_leaving or not self._peers.is_there:
            return self.outcome
        outcome = self.install()
        if not outcome.other_unit and not outcome.not_installed:
            outcome = self._ensure(outcome, leaving)
        self.outcome = self._say(outcome)
        if self.outcome.is_settled:
            with contextlib.suppress(OSError):  # Where it can't be kept, the next hook does more.
                machine.write_atomically(SETTLED, self._fingerprint(), mode=0o600)
        return self.outcome

    def _ensure(self, outcome: Outcome, leaving: Collection[Network]) -> Outcome:
        """Make the machine be as it is to be."""
        outcome = replace(
            outcome,
            has_storage=self.directory is not None,
            bad_setting=self._settings[1],
            is_running=self._ensure_service(),
        )
        if not self.directory:
            return outcome
        images.remove_unfinished(self.directory)
        failures, not_mounted = self._ensure_images(self.directory)
        _, decided = self.read()
        unserved = self._note_served(decided.images, decided.exports)
        failures |= unserved
        served = [it for name, it in decided.exports.items() if name not in unserved]
        not_exported = self._export(served, leaving)
        unexpected = tuple(exports.unexpected(served))
        return replace(
            outcome,
            failures=failures,
            not_mounted=not_mounted,
            not_exported=not_exported,
            unexpected=unexpected,
        )

    def _ensure_service(self) -> bool:
        """Have the NFS server run as it is set; say whether it runs."""
        try:
            settings.keep(self.settings)
            nfs.write_configuration(self.settings)
            nfs.ensure_running(self.settings)
        except (nfs.NfsError, OSError) as error:
            logger.error("%s", error)
        return nfs.is_running()

    def _ensure_images(self, directory: Path) -> tuple[dict[str, str], str]:
        """Have this unit's images whole and mounted; make, grow and take back.

        Returns:
            Which shares' work failed, and why; and why nothing can be mounted.
        """
        _, decided = self.read()
        is_changed, not_mounted = self._mount(directory, decided)
        for image in decided.images.values():
            if not image.is_sparse and image.allocated_bytes < image.file_bytes:
                logger.warning("share %s: some of its space was freed: reserving it", image.name)
                _try(image.name, images.reserve, image)  # Else it is its `problem`.
                is_changed = True  # There is less room now.
        for image in decided.unused:
            is_changed |= self._take_back(image)
        if is_changed:
            _, decided = self._read_again()
        failures: dict[str, str] = {}
        for work in decided.work:
            failures |= self._do(directory, work, decided.images.get(work.name))
        if decided.work:
            _, not_mounted = self._mount(directory, self._read_again()[1])
            self._read_again()
        return failures, not_mounted

    def _mount(self, directory: Path, decided: Plan) -> tuple[bool, str]:
        """Have images mounted; whether that changed anything, and why it can't be done."""
        try:
            return images.ensure_mounted(directory, decided.images.values()), ""
        except images.ImagesError as error:
            logger.error("%s", error)
            return False, str(error)

    def _do(self, directory: Path, work: Work, image: Image | None) -> dict[str, str]:
        if image:
            return _try(work.name, images.grow, image, work)
        return _try(work.name, images.make, directory, work, self.application)

    def _take_back(self, image: Image) -> bool:
        """Delete an image that was made for a share that is elsewhere after all."""
        use = Use(is_unused=True, is_empty=images.is_empty(image))
        if reason := plan.why_keep(image, use):
            logger.warning("%s, so it is kept though the share is elsewhere", reason)
            return False
        # Its share was placed here for a moment, and nobody has mounted or filled it.
        return not _try(image.name, images.delete, image, exports.flush)

    def _note_served(self, own: Mapping[str, Image], names: Iterable[str]) -> dict[str, str]:
        """Note, before the first export, that there may be data in images from now on."""
        failures: dict[str, str] = {}
        for name in names:
            if not own[name].is_served:
                failures |= _try(name, images.note_served, own[name])
        return failures

    def _export(self, served: Collection[Export], leaving: Collection[Network]) -> str:
        """Export shares, to nobody else; say why that failed."""
        if leaving and exports.unexpected(served):
            nfs.wait_for_clients_to_leave(LEAVE_TIMEOUT_S, leaving)
        try:
            exports.ensure(served, self.settings.squash)
        except exports.ExportsError as error:
            logger.error("%s", error)
            return str(error)
        return ""

    # -- Saying what is

    def _say(self, outcome: Outcome) -> Outcome:
        """Tell the other units what is here; as the leader, tell all what is decided."""
        snapshot, decided = self.read()
        addresses = {
            it.integration_id: address
            for it in snapshot.requests
            if it.share in decided.images and (address := self._clients.address(it.integration_id))
        }
        report = replace(plan.report(snapshot, decided, outcome.failures), addresses=addresses)
        self._peers.write_report(report)
        snapshot = replace(snapshot, reports={**snapshot.reports, self._unit: report})
        outcome = replace(outcome, snapshot=snapshot, plan=decided)
        self._read = snapshot, decided
        if not self._charm.unit.is_leader():
            return outcome
        self._peers.write_placements(snapshot.placements)
        told = placement.Told(
            snapshot.placements, snapshot.refusals, snapshot.reports, snapshot.present
        )
        answers = tuple((it, self._answer(it, told)) for it in snapshot.requests)
        return replace(outcome, answers=answers)

    def _answer(self, request: Request, told: placement.Told) -> Answer:
        answered = self._clients.answered(request.integration_id)
        answer = placement.answer(request, told, answered)
        self._clients.answer(request.integration_id, answer)
        return answer

    # -- Nothing to do

    def is_settled(self) -> bool:
        """Whether the machine is as the last run left it, with nothing left to do.

        Juju tells of all else by events, and reading a thousand integrations takes long.
        """
        return machine.read_file(SETTLED) == self._fingerprint().encode()

    def _fingerprint(self) -> str:
        """Describe what of the machine the charm looks after."""
        found, remark = None, ""
        if directory := self.directory:
            found = images.read(directory, self.application)
            remark = room.remark(self._read_storage(directory), found.images.values())
        # What is written to shares changes what sparse images take; that says `remark`.
        taken = [
            replace(it, allocated_bytes=0) if it.is_sparse else it
            for it in (found.images.values() if found else ())
        ]
        stamps = [(str(path), machine.stamp(path)) for path in self._files()]
        facts = (directory, taken, found and found.foreign, remark, nfs.read_state(), stamps)
        return hashlib.sha256(repr(facts).encode(errors="surrogateescape")).hexdigest()

    def _files(self) -> Iterable[Path]:
        return (*images.files(), *nfs.files(), exports.EXPORTS, exports.ETAB)

    # -- What operators do by actions

    def place(self, placements: Placements) -> Outcome:
        """Decide placements by an action, and make them so. On the leader."""
        self._peers.write_placements(placements)
        return self.run()

    def delete_share(self, image: Image, *, ignore_nfsv3: bool) -> None:
        """Delete a share, as an operator confirmed; also if clients have it by NFSv3, if told.

        Raises:
            RefusedError: somebody has it.
            ImagesError: it is in use on this machine.
        """
        snapshot, decided = self.read()
        wanted = snapshot.wanted.get(image.name)
        use = Use(
            is_confirmed=True,
            applications=wanted.applications if wanted else (),
            clients=_find_clients(image, decided, ignore_nfsv3=ignore_nfsv3),
        )
        if reason := plan.why_keep(image, use):
            raise RefusedError(reason)
        self._refuse_if_used_here(image)
        others = [it for it in decided.exports.values() if it.name != image.name]
        exports.ensure(others, self.settings.squash)
        try:
            # An operator confirmed it, and nobody has it any more.
            images.delete(image, exports.flush)
            own = snapshot.reports.get(self._unit, Report())
            self._peers.write_report(replace(own, deleted=(*own.deleted, image.uuid)))
        finally:
            self.run()

    def check_share(self, image: Image, *, repair: bool) -> tuple[bool, str]:
        """Check the file system of a share, while its clients wait.

        Returns:
            Whether it is in order now, and what e2fsck said.

        Raises:
            RefusedError: a client would get an error, not just wait.
            ImagesError: it is in use on this machine, or the check did not end.
        """
        _, decided = self.read()
        self._refuse_if_used_here(image)
        holders = nfs.holders(share_directory(image.name))
        # The server forgets what they have open, and they open it again: locks would be lost.
        losers = [f"{it.address} holds a lock" for it in holders if it.has_locks]
        losers += [
            f"{it.address} has files of other shares open" for it in holders if it.is_elsewhere
        ]
        if reason := plan.why_busy(image.name, losers):
            raise RefusedError(reason)
        try:
            exports.ensure(decided.exports.values(), self.settings.squash, paused={image.name})
            nfs.expire(holders)  # They come back, wait, and get back what they had open.
            images.unmount(image, exports.flush)
            return images.check(image, repair=repair)
        finally:
            self.run()  # Mounts and exports it again.

    def _refuse_if_used_here(self, image: Image) -> None:
        if users := images.users(image):
            raise RefusedError(
                f"share {image.name} is in use on this machine by {', '.join(users)}: end that"
            )

    # -- Leaving

    def leave_storage(self) -> None:
        """Leave no export and no mount, when the storage goes; every image stays."""
        if claim.find_other(self._claim):
            return
        self._withdraw()
        if self.is_leaving:  # Juju may run no further hook.
            self.leave_machine()
        if self._peers.is_there:
            # The leader has to know that its shares are not here before another unit has them.
            self._peers.write_report(Report())

    def leave_machine(self) -> None:
        """Leave nothing of the charm behind, but for the images."""
        if claim.find_other(self._claim):
            return
        self._withdraw()  # Already done, unless Juju didn't wait for the storage.
        if nfs.is_installed():
            _undo(exports.remove)
        _undo(nfs.remove, is_used_by_others=bool(exports.read_table()))
        claim.release(self._claim)

    def _withdraw(self) -> None:
        """Leave no export and no mount; clients get the time to unmount before."""
        SETTLED.unlink(missing_ok=True)
        mounted = images.mounted()
        if mounted:
            nfs.wait_for_clients_to_leave(LEAVE_TIMEOUT_S)
        if nfs.is_installed():
            _undo(exports.ensure, (), "none")
        for where in mounted:  # Who had the time and stayed would keep the storage busy.
            nfs.expire(nfs.holders(where))
        for failure in images.unmount_all(exports.flush):
            logger.warning("%s", failure)


def _try(share: str, act: Callable[..., object], *arguments: object) -> dict[str, str]:
    """Do something to a share's image; the reason by its name if that failed, else nothing."""
    try:
        act(*arguments)
    except images.ImagesError as error:
        logger.error("%s", error)
        return {share: str(error)}
    return {}


def _undo(act: Callable[..., object], *arguments: object, **options: object) -> None:
    """Undo something on a machine that is left: nobody would be helped by a hook that fails."""
    try:
        act(*arguments, **options)
    except (exports.ExportsError, nfs.NfsError) as error:
        logger.warning("%s", error)


def connected(name: str, decided: Plan) -> list[str]:
    """Find the connected clients that may mount a share: which of theirs they did isn't told."""
    networks = decided.exports[name].networks if name in decided.exports else ()
    return [str(it) for it in nfs.read_clients() if any(it in network for network in networks)]


def _find_clients(image: Image, decided: Plan, *, ignore_nfsv3: bool) -> tuple[str, ...]:
    """Find the clients that have a share, and how."""
    where = share_directory(image.name)
    by_nfsv3 = () if ignore_nfsv3 else nfs.nfsv3_clients(where)
    return (
        *(f"{it} is connected" for it in connected(image.name, decided)),
        *(f"{it.address} has files of it open" for it in nfs.holders(where)),
        *(
            f"{it} mounted it by NFSv3 (ignore-nfsv3=true if it did not unmount)"
            for it in by_nfsv3
        ),
    )


def _still_placed(snapshot: Snapshot) -> tuple[str, ...]:
    """Find which shares this unit deleted, of those that are not here and should be."""
    here = {image.uuid for image in snapshot.found.images.values()}
    missing = {it.uuid for it in snapshot.committed.values() if it.unit == snapshot.unit} - here
    said = snapshot.reports.get(snapshot.unit, Report()).deleted
    return tuple(uuid for uuid in said if uuid in missing)

# SPDX-License-Identifier: Apache-2.0
"""From what is requested to what is: reads both sides once, decides, makes it so, says it.

What fails is returned with its reason.
"""

import logging
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import ops

import claim
import exports
import images
import monitoring
import nfs
import placement
import plan
import provisioning
import room
import settings
import settled
from charms.storage_libs.v0.nfs_interfaces import Network
from cos_agent import CosAgent
from leaving import withdraw
from monitoring import Facts, ShareFacts
from placement import Snapshot
from plan import Plan
from reading import Reader
from status import Outcome
from values import Answer, Export, Placements, Request, share_directory

logger = logging.getLogger(__name__)


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
        outcome = Outcome(other_unit=self.reader.other_unit, not_set=self.reader.not_set)
        if outcome.has_machine and not (nfs.is_running() or claim.is_held(self.reader.claim)):
            outcome = replace(outcome, not_installed=nfs.find_refusal())
        if outcome.has_machine and not nfs.is_installed():
            outcome = replace(outcome, not_installed=self._install())
        if outcome.has_machine:
            outcome = self._take_machine(outcome)
        self.outcome = outcome
        return outcome

    def _take_machine(self, outcome: Outcome) -> Outcome:
        """Have this machine be this unit's, if its ports are; those of NFSv3 may be refused later.

        In each hook, as Juju drops what a hook declared that was killed.
        """
        reason = self._open_ports()
        if not reason:
            if not claim.is_held(self.reader.claim):  # Not what another has left.
                if not claim.is_free():
                    withdraw()  # Its unit is gone, and would be served to others' clients.
                settings.keep(self.reader.settings)
            claim.take(self.reader.claim)
        is_held = claim.is_held(self.reader.claim)
        return replace(outcome, not_opened=reason, is_claimed=is_held)

    def _install(self) -> str:
        """Install the NFS server; why it could not be."""
        try:
            version = nfs.install(self.reader.settings)
        except nfs.NfsError as error:
            logger.error("%s", error)
            return f"{nfs.PACKAGE} can't be installed, trying again: see juju debug-log"
        self._unit.set_workload_version(version)
        return ""

    def _open_ports(self) -> str:
        """Declare the ports that are served; say why Juju refuses: another unit here has them."""
        more = nfs.NFSV3_PORTS if self.reader.settings.nfsv3 else ()
        also = (ops.Port(protocol, port) for port in more for protocol in ("tcp", "udp"))
        try:
            self._unit.set_ports(nfs.PORT, *also)
        except ops.ModelError as error:
            logger.error("%s", error)
            return str(error).strip().removeprefix("ERROR ")
        return ""

    def place(self, placements: Placements) -> Outcome:
        """Decide placements by an action, which has only looked so far, and make them so.

        On the leader.
        """
        self.reader.peers.write_placements(placements)
        self.reader.forget_decisions()
        return self._run()

    def run(self, leaving: Collection[Network] = ()) -> Outcome:
        """Make the machine and the databags be as they are to be.

        Args:
            leaving: the addresses of a client's unit that leaves: it gets the time to unmount.
        """
        self.reader.forget()
        return self._run(leaving)

    def _run(self, leaving: Collection[Network] = ()) -> Outcome:
        settled.forget()
        # What is to be undone by a unit that leaves was undone when its storage went.
        self.outcome = Outcome(is_leaving=self.reader.is_leaving)
        if self.outcome.is_leaving or not self.reader.peers.is_there:
            return self.outcome
        # What is exported stays so: clients wait for what is not mounted (exports(5)).
        if awaited := self.reader.awaited:
            self.outcome = Outcome(awaited=str(awaited))
        elif reason := self.reader.unreadable:
            self.outcome = Outcome(unreadable=reason)
        if self.outcome.awaited or self.outcome.unreadable:
            self.reader.peers.write_report(replace(self.reader.said, is_unable=True))
            return self.outcome
        outcome = self.install()
        if outcome.not_set:
            return outcome
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
        failures: dict[str, str] = {}
        not_mounted = provisioning.ensure_images(self.reader, directory, failures)
        provisioning.set_permissions(self.reader, failures)
        served = provisioning.note_served(self.reader, failures)
        not_exported = self._export(served, leaving)
        return replace(
            outcome,
            failures=failures,
            not_mounted=not_mounted,
            exported=None if not_exported else {it.name: it for it in served},
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

    def _export(self, served: Collection[Export], leaving: Collection[Network]) -> str:
        """Export shares, to nobody else; say why that failed."""
        if leaving and exports.unexpected(served):
            nfs.wait_for_clients_to_leave(leaving)
        covered = self.reader.read()[1].covered
        try:
            exports.ensure(served, self.reader.settings.squash, paused=covered)
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
        report = plan.report(
            snapshot, decided, outcome.failures, outcome.exported, outcome.not_exported
        )
        report = replace(report, addresses=addresses)
        reader.peers.write_report(report)
        snapshot = snapshot.with_report(report)
        reader.keep(snapshot, decided)
        answers: tuple[tuple[Request, Answer], ...] = ()
        if reader.is_leader:
            reader.peers.write_placements(snapshot.placements)
            reader.peers.write_gone(snapshot.gone)
            answers = tuple((it, self._answer(it, snapshot)) for it in snapshot.requests)
            for integration_id in reader.clients.released(snapshot.requests):
                reader.clients.answer(integration_id, Answer())
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
                applications=",".join(snapshot.applications(name)),
                is_sparse=name in decided.images and decided.images[name].is_sparse,
                is_requested=name in decided.exports,
            )
            for name in sorted({*decided.images, *decided.missing})
        ),
    )

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The nfs-server charm: what is asked -> what follows -> images, exports, answers and status."""

import functools
import logging
from dataclasses import replace
from pathlib import Path

import ops

import exports
import filesystem
import images
import nfs
import placement
import settings
import shares
from actions import Actions
from charms.storage_libs.v0.nfs_interfaces import NFSProvides, Share, ShareRequest
from filesystem import Filesystem
from peers import Peers
from placement import Answer, Decision, Placements, Report
from status import Facts, app_status, unit_status
from world import World, first_report

logger = logging.getLogger(__name__)

# How long a unit that goes waits for the clients to unmount by themselves, as they do when their
# integration is removed at the same time.
LEAVE_TIMEOUT_S = 30.0


class NfsServerCharm(ops.CharmBase):
    """Serve shares to the applications that ask for them."""

    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self.peers = Peers(self)
        self._nfs_share = NFSProvides(self, "nfs-share")
        self._actions = Actions(self)
        peers, storage = self.on["peers"], self.on["shares"]
        framework.observe(self.on.install, self._on_install)
        framework.observe(self.on.config_changed, self._on_config_changed)
        for event in (
            self.on.start,
            self.on.upgrade_charm,
            self.on.leader_elected,
            self.on.update_status,
            *(
                event
                for clients in (self.on["nfs-share"], self.on[filesystem.ENDPOINT])
                for event in (
                    clients.relation_created,
                    clients.relation_joined,
                    clients.relation_changed,
                    clients.relation_departed,
                    clients.relation_broken,
                )
            ),
            peers.relation_created,
            peers.relation_joined,
            peers.relation_changed,
            peers.relation_departed,
            storage.storage_attached,
        ):
            framework.observe(event, self._on_event)
        framework.observe(storage.storage_detaching, self._on_storage_detaching)
        framework.observe(self.on.stop, self._on_stop)
        framework.observe(self.on.collect_unit_status, self._on_collect_unit_status)
        framework.observe(self.on.collect_app_status, self._on_collect_app_status)

    def _on_install(self, _: ops.InstallEvent) -> None:
        self.unit.status = ops.MaintenanceStatus("Installing the NFS server")
        self.unit.set_workload_version(nfs.install(self.in_force))
        self._set_ports()

    def _on_config_changed(self, event: ops.ConfigChangedEvent) -> None:
        self._on_event(event)
        self._set_ports()

    def _set_ports(self) -> None:
        more = nfs.NFSV3_PORTS if self.in_force.nfsv3 else ()
        also = (ops.Port(protocol, port) for port in more for protocol in ("tcp", "udp"))
        self.unit.set_ports(nfs.PORT, *also)

    @property
    def in_force(self) -> settings.Settings:
        """The operator's settings if they are good, else the last that were."""
        return self._settings[0]

    @functools.cached_property
    def _settings(self) -> tuple[settings.Settings, str]:
        """The settings that are in force, and what is wrong with the operator's."""
        try:
            return settings.parse(self.config), ""
        except settings.SettingsError as error:
            logger.error("%s", error)  # The status says it too.
            return settings.read_in_force(), str(error)

    def _on_event(self, event: ops.EventBase) -> None:
        # A storage may be attached before install; after it, the package was removed.
        is_early = isinstance(event, ops.StorageAttachedEvent)
        if self.peers.is_there and not nfs.is_installed() and not is_early:
            self._install_again()
        self.reconcile()

    def reconcile(self) -> None:
        """Make the machine and the databags be as they are to be."""
        if not (self.peers.is_there and nfs.is_installed()):
            return  # Before install, or while this unit goes; the status says so.
        world = self.read_world()
        if directory := self.storage_directory():
            self._ensure_service()
            images.remove_leftovers(directory)
            if self._ensure_images(directory, world):
                world = self.read_world()
            self._export(directory, world)
        self._say(world)

    def _install_again(self) -> None:
        logger.warning("the package %s is gone: installing it again", nfs.PACKAGE)
        try:
            nfs.install(self.in_force)
        except nfs.NfsError as error:
            logger.error("%s", error)  # The status follows from what is there.

    def _ensure_service(self) -> None:
        """Put the NFS server right; one that does not start is no reason not to go on."""
        wanted = self.in_force
        settings.keep(wanted)
        nfs.write_configuration(wanted)
        try:
            nfs.ensure_running(wanted)
        except nfs.NfsError as error:
            logger.error("%s", error)  # The status follows from what is there.

    def _ensure_images(self, directory: Path, world: World) -> bool:
        """Have this unit's images whole and mounted; make, grow and remove what is to be."""
        changed = images.ensure_mounted(directory, world.own_images.values())
        if images.ensure_reserved(directory, world.own_images.values()):
            changed, world = True, self.read_world()  # There is less room now.
        for image in world.leftovers:
            images.delete(directory, image, nfs.release)
        for work in world.plan.work:
            self._do(directory, work, world.own_images.get(work.name))
        if world.plan.work:
            images.ensure_mounted(directory, self.read_world().own_images.values())
        return changed or bool(world.leftovers or world.plan.work)

    def _do(self, directory: Path, work: shares.Work, image: shares.Image | None) -> None:
        """Make or grow an image. One that fails is no reason not to serve the others."""
        try:
            if image:
                images.grow(directory, image, work.size)
            else:
                images.make(directory, work, self.application)
        except images.ImagesError as error:
            logger.error("%s", error)  # The status follows from what is there.

    def _export(self, directory: Path, world: World) -> None:
        for name in world.exports:
            if not world.own_images[name].is_served:
                images.note_served(directory, world.own_images[name])
        exports.ensure(world.exports.values(), self.in_force.squash)

    def _say(self, world: World) -> None:
        """Tell the other units what is here; as the leader, tell all what is decided."""
        report = replace(world.report, addresses=self._addresses(world))
        leads = self.unit.is_leader()
        if self.peers.units or not leads:
            self.peers.write_report(report)
        if not leads:
            return
        self.peers.write_placements(world.decision.placements)
        for request, answer in self._answers(world, report):
            if relation := self._filesystem_relation(request):
                self._filesystem.answer(relation, answer)
                continue
            self._nfs_share.answer(
                request.integration_id,
                endpoint=answer.endpoint,
                size=answer.size,
                error=answer.error,
                admitted=answer.admitted,
            )

    def _answers(self, world: World, report: Report) -> list[tuple[ShareRequest, Answer]]:
        """Decide what each client is to be told. On the leader."""
        reports = {**self.peers.read_reports(), self.unit.name: report}
        return [
            (request, placement.answer(request, world.decision, reports, self._told(request)))
            for request in world.requests
        ]

    def _told(self, request: ShareRequest) -> Share:
        if relation := self._filesystem_relation(request):
            return self._filesystem.answered(relation)
        return self._nfs_share.answered(request.integration_id)

    @functools.cached_property
    def _filesystem(self) -> Filesystem:
        return Filesystem(self, self.in_force.filesystem_share, self.in_force.filesystem_size)

    def _filesystem_relation(self, request: ShareRequest) -> ops.Relation | None:
        """Find the integration of a request, if it is of that endpoint."""
        found = (r for r in self._filesystem.integrations if r.id == request.integration_id)
        return next(found, None)

    def _addresses(self, world: World) -> dict[int, str]:
        """Find where the clients reach this unit whose share is here."""
        found: dict[int, str] = {}
        for request in world.requests:
            relation = self._filesystem_relation(request) or self.model.get_relation(
                "nfs-share", request.integration_id
            )
            if relation and request.name in world.own_images:
                binding = self.model.get_binding(relation)
                address = binding.network.ingress_address if binding else None
                found |= {request.integration_id: str(address)} if address else {}
        return found

    @property
    def application(self) -> str:
        """What stands beside each image as its application: no other has the same."""
        return f"{self.model.uuid}/{self.app.name}"

    def storage_directory(self) -> Path | None:
        """Where Juju has put this unit's storage; None while there is none."""
        attached = self.model.storages["shares"]
        return attached[0].location if attached else None

    def read_world(self) -> World:
        """Read what is asked, decided and here; as the leader, decide."""
        directory = self.storage_directory()
        found = images.read(directory, self.application) if directory else images.Found({}, ())
        storage = images.read_storage(directory) if directory else shares.Storage(0, 0)
        storage = replace(storage, overcommit_ratio=self.in_force.overcommit_ratio)
        requests = (*self._nfs_share.requests(), *self._filesystem.requests())
        committed = self.peers.read_placements()
        deleted = self._read_deleted(found, committed)
        if not self.unit.is_leader():
            requests = placement.with_names(requests, committed)
            decision = Decision(committed, {})
        else:
            own = first_report(found, storage, deleted)
            reports = {**self.peers.read_reports(), self.unit.name: own}
            told = {request.integration_id: self._told(request) for request in requests}
            placements = placement.without_deleted(committed, reports)
            placements = placement.note_slips(placements, requests, told)
            requests = placement.with_names(requests, placements)
            wanted = placement.wanted(requests, placements)
            decision = placement.decide(placements, wanted, reports)
        return World(
            unit=self.unit.name,
            requests=requests,
            found=found,
            storage=storage,
            deleted=deleted,
            decision=decision,
            confirmed=self._confirmed(committed, decision.placements),
        )

    def _read_deleted(self, found: images.Found, committed: Placements) -> tuple[str, ...]:
        """Read which shares this unit deleted, of those that are not here and should be."""
        here = {image.uuid for image in found.images.values()}
        missing = {
            it.uuid for it in committed.values() if it.owner == self.unit.name and it.uuid
        } - here
        if not missing:
            return ()
        return tuple(uuid for uuid in self.peers.read_own_report().deleted if uuid in missing)

    def _confirmed(self, committed: Placements, decided: Placements) -> Placements:
        """Say which placements no other unit can come to decide otherwise.

        What a leader decides is lost if its hook fails, and another may lead then. Where there is
        no other, one hook is enough.
        """
        is_alone = decided != committed and not self.peers.units and self.app.planned_units() == 1
        return decided if is_alone else committed

    def _on_storage_detaching(self, _: ops.EventBase) -> None:
        self._withdraw_shares()
        # Its shares are not here any more; the leader has to know before another unit has them.
        self.peers.write_report(Report())

    def _withdraw_shares(self) -> None:
        """Leave no export and no mount; every image stays."""
        if images.is_any_mounted():
            nfs.wait_for_clients_to_leave(LEAVE_TIMEOUT_S)
        if nfs.is_installed():
            exports.ensure((), "none")
        images.unmount_all(nfs.release)

    def _on_stop(self, _: ops.StopEvent) -> None:
        self._withdraw_shares()  # Already done, unless Juju didn't wait for the storage.
        if nfs.is_installed():
            exports.remove()
        nfs.remove(is_used_by_others=bool(exports.read_table()))

    def _on_collect_unit_status(self, event: ops.CollectStatusEvent) -> None:
        event.add_status(unit_status(self._facts))

    def _on_collect_app_status(self, event: ops.CollectStatusEvent) -> None:
        # Of two that are equally grave the first one counts.
        refusals = (*self._nfs_share.refusals(), *self._filesystem_refusals())
        event.add_status(app_status(refusals, self._facts))
        event.add_status(unit_status(self._facts))

    def _filesystem_refusals(self) -> list[tuple[str, str]]:
        """Find what is refused to clients that can't be told."""
        if not self._filesystem.integrations:
            return []
        world = self.read_world()
        report = replace(world.report, addresses=self._addresses(world))
        return [
            (request.application, answer.error)
            for request, answer in self._answers(world, report)
            if answer.error and self._filesystem_relation(request)
        ]

    @functools.cached_property
    def _facts(self) -> Facts:
        directory = self.storage_directory()
        facts = Facts(
            unit=self.unit.name,
            is_installed=nfs.is_installed(),
            was_installed=nfs.was_installed(),
            is_running=nfs.is_running(),
            has_storage=directory is not None,
            bad_setting=self._settings[1],
        )
        if directory is None or not facts.is_installed:
            return facts
        world = self.read_world()
        placements = world.decision.placements
        return replace(
            facts,
            problems={i.name: i.problem for i in world.own_images.values() if i.problem},
            undone=tuple(sorted(world.undone)),
            lost=world.lost,
            strays={name: placements[name].owner for name in world.strays},
            foreign=world.foreign,
            gone=self._gone(placements),
            strangers=tuple(exports.strangers(world.exports.values())),
            space=shares.space_warning(world.storage, world.found.images.values()),
            is_short_of_space=shares.is_short(world.storage, world.found.images.values()),
        )

    def _gone(self, placements: Placements) -> dict[str, str]:
        """Find the shares whose unit is gone, and that unit."""
        there = {self.unit.name, *self.peers.units}
        return {n: it.owner for n, it in placements.items() if it.uuid and it.owner not in there}


if __name__ == "__main__":
    ops.main(NfsServerCharm)

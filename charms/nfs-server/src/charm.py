#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The nfs-server charm: what is asked -> what follows -> images, exports, answers and status."""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

import ops

import exports
import images
import nfs
import shares
from charms.storage_libs.v0.nfs_interfaces import Endpoint, NFSProvides, ShareRequest
from status import Facts, app_status, unit_status

logger = logging.getLogger(__name__)

# How long a unit that goes waits for the clients to unmount by themselves, as they do when their
# integration is removed at the same time.
LEAVE_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class World:
    """All that a decision rests on, read at one moment."""

    requests: tuple[ShareRequest, ...]
    found: images.Found
    storage: shares.Storage
    published: frozenset[str]

    @property
    def plan(self) -> shares.Plan:
        """What follows."""
        return shares.plan(self.requests, self.found.images, self.storage, self.published)

    @property
    def exports(self) -> dict[str, shares.Export]:
        """What is to be exported, by share."""
        found = shares.exports(self.requests, self.found.images)
        return {export.name: export for export in found}


class NfsServerCharm(ops.CharmBase):
    """Serve shares to the applications that ask for them."""

    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self._nfs_share = NFSProvides(self, "nfs-share")
        relation, storage = self.on["nfs-share"], self.on["shares"]
        framework.observe(self.on.install, self._on_install)
        for event in (
            self.on.config_changed,
            self.on.start,
            self.on.upgrade_charm,
            self.on.leader_elected,
            self.on.update_status,
            relation.relation_created,
            relation.relation_joined,
            relation.relation_changed,
            relation.relation_departed,
            relation.relation_broken,
            storage.storage_attached,
        ):
            framework.observe(event, self._reconcile)
        framework.observe(storage.storage_detaching, self._withdraw_shares)
        framework.observe(self.on.stop, self._on_stop)
        framework.observe(self.on.list_shares_action, self._on_list_shares)
        framework.observe(self.on.collect_unit_status, self._on_collect_unit_status)
        framework.observe(self.on.collect_app_status, self._on_collect_app_status)

    def _on_install(self, _: ops.InstallEvent) -> None:
        self.unit.status = ops.MaintenanceStatus("Installing the NFS server")
        nfs.install()
        self.unit.set_workload_version(nfs.version())
        self.unit.set_ports(nfs.PORT)

    def _reconcile(self, _: ops.EventBase) -> None:
        directory = self._storage_directory()
        if directory is None or not nfs.is_installed():
            return  # Before install, or after the storage went; the status says so.
        nfs.write_configuration()
        nfs.ensure_running()
        images.remove_leftovers(directory)
        found = images.read(directory).images.values()
        images.ensure_mounted(directory, found)
        images.ensure_reserved(directory, found)
        world = self._read_world(directory)
        if world.plan.work:
            self._do(directory, world)
            world = self._read_world(directory)
        exports.ensure(world.exports.values())
        self._answer(world)

    def _storage_directory(self) -> Path | None:
        """Where Juju has put this unit's storage; None while there is none."""
        attached = self.model.storages["shares"]
        return attached[0].location if attached else None

    def _read_world(self, directory: Path) -> World:
        requests = self._nfs_share.requests()
        return World(
            requests=requests,
            found=images.read(directory),
            storage=images.read_storage(directory),
            published=frozenset(r.name for r in requests if self._has_endpoint(r)),
        )

    def _has_endpoint(self, request: ShareRequest) -> bool:
        """Whether this client was given an endpoint of the share that it asks for now."""
        endpoint = self._nfs_share.answered(request.integration_id)
        return endpoint is not None and endpoint.path == str(shares.share_directory(request.name))

    def _do(self, directory: Path, world: World) -> None:
        """Make and grow images. One that fails is no reason not to serve the others."""
        for work in world.plan.work:
            image = world.found.images.get(work.name)
            try:
                if image:
                    images.grow(directory, image, work.size)
                elif self.unit.is_leader():
                    images.make(directory, work)
            except images.ImagesError as error:
                logger.error("%s", error)  # The status follows from what is there.
        images.ensure_mounted(directory, images.read(directory).images.values())

    def _answer(self, world: World) -> None:
        """Tell each client where its share is, or why it isn't."""
        plan = world.plan
        failed = {
            w.name: f"share {w.name}: nfs-server could not make or grow it" for w in plan.work
        }
        for request in world.requests:
            image = world.found.images.get(request.name)
            export = world.exports.get(request.name)
            problem = f"share {request.name}: {image.problem}" if image and image.problem else ""
            reasons = (
                request.error,
                plan.refusals.get(request.name),
                failed.get(request.name),
                problem,
            )
            self._nfs_share.answer(
                request.integration_id,
                endpoint=self._endpoint(request, world),
                size=image.size if image else None,
                error="; ".join(reason for reason in reasons if reason),
                admitted=export.networks if export else (),
            )

    def _endpoint(self, request: ShareRequest, world: World) -> Endpoint | None:
        image = world.found.images.get(request.name)
        if not (image and image.is_mounted and request.name in world.exports):
            # What was published stays so while the image is lost or not mounted: to withdraw it
            # would make clients unmount, and a lost share pass for a new one at the next event.
            is_published = request.name in world.published
            return self._nfs_share.answered(request.integration_id) if is_published else None
        relation = self.model.get_relation("nfs-share", request.integration_id)
        binding = self.model.get_binding(relation) if relation else None
        address = binding.network.ingress_address if binding else None
        path = str(shares.share_directory(request.name))
        return Endpoint(str(address), path) if address else None

    def _withdraw_shares(self, _: ops.EventBase) -> None:
        """Leave no export and no mount; every image stays."""
        if images.is_any_mounted():
            nfs.wait_for_clients_to_leave(LEAVE_TIMEOUT_S)
        if nfs.is_installed():
            exports.ensure(())
        images.unmount_all(nfs.release)

    def _on_stop(self, event: ops.StopEvent) -> None:
        self._withdraw_shares(event)  # Already done, unless Juju didn't wait for the storage.
        if nfs.is_installed():
            exports.remove()
        nfs.remove(is_used_by_others=bool(exports.read_table()))

    def _on_list_shares(self, event: ops.ActionEvent) -> None:
        directory = self._storage_directory()
        if directory is None:
            event.fail(f"{self.unit.name} has no storage, so it has no shares")
            return
        world = self._read_world(directory)
        results = {
            shares.share_id(name).replace("_", "-"): _describe(image, world.exports.get(name))
            for name, image in world.found.images.items()
        }
        event.set_results({"count": len(results), **results})

    def _on_collect_unit_status(self, event: ops.CollectStatusEvent) -> None:
        event.add_status(unit_status(self._read_facts()))

    def _on_collect_app_status(self, event: ops.CollectStatusEvent) -> None:
        # Of two that are equally grave the first one counts.
        event.add_status(app_status(self._nfs_share.refusals()))
        event.add_status(unit_status(self._read_facts()))

    def _read_facts(self) -> Facts:
        directory = self._storage_directory()
        facts = Facts(
            unit=self.unit.name,
            is_installed=nfs.is_installed(),
            is_running=nfs.is_running(),
            has_storage=directory is not None,
        )
        if directory is None or not facts.is_installed:
            return facts
        world = self._read_world(directory)
        return replace(
            facts,
            problems={i.name: i.problem for i in world.found.images.values() if i.problem},
            undone=tuple(work.name for work in world.plan.work) if self.unit.is_leader() else (),
            foreign=tuple(path.name for path in world.found.foreign),
        )


def _describe(image: shares.Image, export: shares.Export | None) -> dict[str, str]:
    """Describe a share to an operator; action results are texts."""
    used, free = images.usage(image)
    state = image.problem or ("exported" if export else "kept")
    return {
        "name": image.name,
        "state": state,
        "size": "no limit" if image.size is None else f"{image.size}G",
        "used-bytes": str(used),
        "free-bytes": str(free),
        "path": str(shares.share_directory(image.name)),
        "allowlist": " ".join(exports.host(n) for n in export.networks) if export else "",
    }


if __name__ == "__main__":
    ops.main(NfsServerCharm)

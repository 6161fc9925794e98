#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The nfs-server charm: Juju's side. Each event leads to one run of the reconciler."""

import ops

import ballast
import clients
import cos_agent
import deleted
import leaving
import monitoring
import nfs
import settled
import status
from actions import Actions
from charms.storage_libs.v0.nfs_interfaces import client_networks
from reading import Reader
from reconciler import Reconciler


class NfsServerCharm(ops.CharmBase):
    """Serve shares to the applications that ask for them."""

    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self._reader = Reader(self)
        self._server = Reconciler(self, self._reader)
        self._actions = Actions(self, self._server)
        storage = self.on["shares"]
        framework.observe(self.on.install, self._on_install)
        framework.observe(self.on.upgrade_charm, self._on_upgrade_charm)
        framework.observe(self.on.update_status, self._on_update_status)
        peers, collector = self.on["peers"], self.on[cos_agent.ENDPOINT]
        for event in (
            self.on.start,
            self.on.config_changed,
            self.on.leader_elected,
            peers.relation_created,
            peers.relation_joined,
            peers.relation_changed,
            peers.relation_departed,
            collector.relation_created,
            collector.relation_changed,
            collector.relation_broken,
        ):
            framework.observe(event, self._on_event)
        for endpoint in clients.ENDPOINTS:
            relation = self.on[endpoint]
            framework.observe(relation.relation_created, self._on_event)
            framework.observe(relation.relation_joined, self._on_event)
            framework.observe(relation.relation_changed, self._on_event)
            framework.observe(relation.relation_departed, self._on_client_departed)
            framework.observe(relation.relation_broken, self._on_event)
        framework.observe(storage.storage_attached, self._on_storage_attached)
        framework.observe(storage.storage_detaching, self._on_storage_detaching)
        framework.observe(self.on.stop, self._on_stop)
        framework.observe(self.on.collect_unit_status, self._on_collect_unit_status)
        framework.observe(self.on.collect_app_status, self._on_collect_app_status)
        framework.observe(framework.on.commit, self._on_commit)

    def _on_install(self, _: ops.InstallEvent) -> None:
        self.unit.status = ops.MaintenanceStatus("Installing the NFS server")
        self._server.install()

    def _on_upgrade_charm(self, event: ops.UpgradeCharmEvent) -> None:
        if version := nfs.read_version():
            self.unit.set_workload_version(version)
        self._on_event(event)

    def _on_update_status(self, event: ops.UpdateStatusEvent) -> None:
        if not settled.is_settled(self._reader):
            self._on_event(event)

    def _on_storage_attached(self, event: ops.StorageAttachedEvent) -> None:
        if self._reader.directory:
            deleted.resume()
        if nfs.is_installed():  # Else `install` comes next.
            self._on_event(event)

    def _on_client_departed(self, event: ops.RelationDepartedEvent) -> None:
        unit = event.departing_unit
        is_clients = unit is not None and unit.app != self.app
        self._server.run(client_networks(event.relation, [unit]) if unit and is_clients else ())

    def _on_event(self, _: ops.EventBase) -> None:
        self._server.run()

    def _on_storage_detaching(self, _: ops.StorageDetachingEvent) -> None:
        leaving.leave_storage(self._reader)

    def _on_stop(self, _: ops.StopEvent) -> None:
        leaving.leave_machine(self._reader)

    # A hook or an action that did not look leaves the statuses as they are.

    def _on_collect_unit_status(self, event: ops.CollectStatusEvent) -> None:
        if outcome := self._server.outcome:
            event.add_status(status.unit_status(outcome))

    def _on_collect_app_status(self, event: ops.CollectStatusEvent) -> None:
        if outcome := self._server.outcome:
            # Of two that are equally grave the first one counts.
            event.add_status(status.app_status(outcome))
            event.add_status(status.unit_status(outcome))

    def _on_commit(self, _: ops.CommitEvent) -> None:
        if not self._reader.other_unit:
            monitoring.note_hook()


if __name__ == "__main__":
    ballast.release()
    try:
        ops.main(NfsServerCharm)
    finally:
        ballast.keep()

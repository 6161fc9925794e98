#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The logbook charm: its service runs where its share is mounted, and nowhere else."""

import ops

import logbook
from charms.storage_libs.v0.nfs_interfaces import NFSRequires, Share, parse_size


class LogbookCharm(ops.CharmBase):
    """From every event to the same question: is the share there, and may this unit mount it?"""

    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self.nfs_share = NFSRequires(self, "nfs-share")
        relation = self.on["nfs-share"]
        framework.observe(self.on.install, self._on_install)
        for event in (
            self.on.config_changed,
            self.on.leader_elected,
            self.on.start,
            self.on.update_status,
            self.on.upgrade_charm,
            relation.relation_created,
            relation.relation_changed,
            relation.relation_broken,
        ):
            framework.observe(event, self._reconcile)
        framework.observe(relation.relation_departed, self._on_departed)
        framework.observe(self.on.stop, self._on_stop)
        framework.observe(self.on.collect_unit_status, self._on_collect_status)

    def _on_install(self, _: ops.InstallEvent) -> None:
        self.unit.status = ops.MaintenanceStatus("Installing the NFS client")
        logbook.install()

    def _reconcile(self, _: ops.EventBase) -> None:
        if not self._find_problem():
            for relation in self.nfs_share.integrations:
                self.nfs_share.request_share(
                    relation.id, name=self.app.name, size=int(self.config["size"])
                )
        share = self._read_share()
        if share is None or not share.endpoint:
            logbook.stop()
        elif share.is_admitted:
            logbook.start(share.endpoint.source, share.endpoint.port)

    def _on_departed(self, event: ops.RelationDepartedEvent) -> None:
        if event.departing_unit == self.unit:  # This one is being removed.
            logbook.stop()

    def _on_stop(self, _: ops.StopEvent) -> None:
        logbook.stop()

    def _read_share(self) -> Share | None:
        return next(iter(self.nfs_share.shares()), None)

    def _find_problem(self) -> str:
        try:
            parse_size(str(self.config["size"]))
        except ValueError as error:
            return str(error)
        return ""

    def _on_collect_status(self, event: ops.CollectStatusEvent) -> None:
        event.add_status(self._status())

    def _status(self) -> ops.StatusBase:
        share = self._read_share()
        if problem := self._find_problem():
            return ops.BlockedStatus(problem)
        if share is None:
            return ops.BlockedStatus("Missing relation: nfs-share")
        if share.error:  # What was granted before is still used.
            return ops.BlockedStatus(f"nfs-server: {share.error}")
        if not share.endpoint or not share.is_admitted:
            return ops.WaitingStatus("Waiting for nfs-server to grant the share")
        if not logbook.is_running():
            return ops.WaitingStatus(f"Mounting {share.endpoint} failed, trying again")
        return ops.ActiveStatus()


if __name__ == "__main__":
    ops.main(LogbookCharm)

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""An application with a share of its own: its service runs where the share is mounted.

systemd orders the two (RequiresMountsFor=), so that it is the same after a reboot, with no hook.
"""

import subprocess
from pathlib import Path

import ops

from charms.storage_libs.v0.nfs_interfaces import Endpoint, NFSRequires, Share

UNITS = Path("/etc/systemd/system")
MOUNT_UNIT, SERVICE = "srv-own.mount", "own-share.service"

MOUNT = """\
[Unit]
Wants=network-online.target
After=network-online.target
[Mount]
What={source}
Where=/srv/own
Type=nfs
Options=hard,_netdev,retry=0,nosuid,nodev,port={port}
TimeoutSec=15
[Install]
WantedBy=remote-fs.target
"""
APPLICATION = """\
[Unit]
RequiresMountsFor=/srv/own
[Service]
ExecStart=/bin/sh -c 'echo started >> /srv/own/log && exec /usr/bin/sleep infinity'
[Install]
WantedBy=multi-user.target srv-own.mount
"""


class OwnShare(ops.CharmBase):
    """Asks for a share, mounts it, and then runs its application."""

    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self.nfs_share = NFSRequires(self, "nfs-share")
        relation = self.on["nfs-share"]
        framework.observe(self.on.install, self._on_install)
        for event in (relation.relation_created, relation.relation_changed, self.on.update_status):
            framework.observe(event, self._reconcile)
        framework.observe(relation.relation_broken, self._on_broken)
        framework.observe(self.on.collect_unit_status, self._on_collect_status)

    def _on_install(self, _: ops.EventBase) -> None:
        _run("apt-get", "update")
        _run("apt-get", "--yes", "install", "--no-install-recommends", "nfs-common")

    def _reconcile(self, _: ops.EventBase) -> None:
        for relation in self.nfs_share.integrations:
            self.nfs_share.request_share(relation.id, name="own", size=1)
        share = self._share()
        if share and share.endpoint and share.is_admitted and not _is_running():
            _start(share.endpoint)

    def _on_broken(self, _: ops.EventBase) -> None:
        # Without the application nobody uses the share, so that it can be unmounted.
        _run("systemctl", "disable", "--now", SERVICE)
        _run("systemctl", "disable", "--now", MOUNT_UNIT)

    def _share(self) -> Share | None:
        return next(iter(self.nfs_share.shares()), None)

    def _on_collect_status(self, event: ops.CollectStatusEvent) -> None:
        share = self._share()
        if share is None:
            event.add_status(ops.BlockedStatus("Missing relation: nfs-share"))
        elif share.error:
            event.add_status(ops.BlockedStatus(f"nfs-server: {share.error}"))
        elif not _is_running():
            event.add_status(ops.WaitingStatus("Waiting for the share"))
        event.add_status(ops.ActiveStatus())


def _start(endpoint: Endpoint) -> None:
    (UNITS / MOUNT_UNIT).write_text(MOUNT.format(source=endpoint.source, port=endpoint.port))
    (UNITS / SERVICE).write_text(APPLICATION)
    _run("systemctl", "daemon-reload")
    _run("systemctl", "enable", "--now", MOUNT_UNIT)
    _run("systemctl", "enable", "--now", SERVICE)


def _is_running() -> bool:
    command = ["/usr/bin/systemctl", "is-active", "--quiet", SERVICE]
    return subprocess.run(command, check=False, timeout=60).returncode == 0


def _run(program: str, *arguments: str) -> None:
    subprocess.run([f"/usr/bin/{program}", *arguments], check=True, timeout=300)


if __name__ == "__main__":
    ops.main(OwnShare)

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The nfs-client charm: has a share mounted on the machine of its principal unit."""

import logging

import ops

import mounts
from charms.storage_libs.v0.nfs_interfaces import NFSRequires, Share
from config import Config, InvalidConfig, parse_config
from plan import OwnedMount, Plan, decide
from status import Facts, InUse, status

logger = logging.getLogger(__name__)

NFS_SHARE = "nfs-share"


class NfsClientCharm(ops.CharmBase):
    """From every event to the same question: what should be mounted, and is it?"""

    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self.nfs_share = NFSRequires(self, NFS_SHARE)
        relation = self.on[NFS_SHARE]
        framework.observe(self.on.install, self._on_install)
        framework.observe(self.on.upgrade_charm, self._on_install)
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
        ):
            framework.observe(event, self._reconcile)
        framework.observe(self.on.stop, self._on_stop)
        framework.observe(self.on.collect_unit_status, self._on_collect_unit_status)

    def _on_install(self, _: ops.EventBase) -> None:
        self.unit.set_workload_version(mounts.install())

    def _reconcile(self, _: ops.EventBase) -> None:
        config = parse_config(self.config)
        share = self._read_share()
        owned = mounts.read_owned(self.unit.name)
        if share and isinstance(config, Config):
            self.nfs_share.request_share(share.integration_id, config.share_name, size=config.size)
        self._apply(decide(self.unit.name, config, share, owned), owned)

    def _apply(self, plan: Plan, owned: tuple[OwnedMount, ...]) -> None:
        """Make it so, as far as it goes; what is in the way is a fact for the status."""
        if plan.keep or (plan.wanted and mounts.find_obstacle(plan.wanted)):
            return
        others = [mount for mount in owned if not mount.serves(plan.wanted)]
        are_gone = [mounts.unmount(mount) for mount in others]
        if plan.wanted and all(are_gone):
            mounts.ensure_mounted(plan.wanted)

    def _on_stop(self, _: ops.StopEvent) -> None:
        """Leave nothing behind, or what is in use; a unit that goes must not be held up by it."""
        try:
            for mount in mounts.read_owned(self.unit.name):
                if not mounts.unmount(mount):
                    # There will be nobody to try again. Mounted by the unit file at every boot, it
                    # would be a mount that belongs to nobody.
                    mounts.abandon(mount)
                    logger.warning(
                        "%s is in use and stays mounted; when it is free, run: umount %s",
                        mount.mountpoint,
                        mount.mountpoint,
                    )
        except mounts.MountsError as error:
            logger.warning("%s", error)

    def _read_share(self) -> Share | None:
        """Read what the server says. While one relation replaces another there can be two."""
        return min(self.nfs_share.shares(), key=lambda share: share.integration_id, default=None)

    def _on_collect_unit_status(self, event: ops.CollectStatusEvent) -> None:
        event.add_status(status(self._read_facts()))

    def _read_facts(self) -> Facts:
        config = parse_config(self.config)
        share = self._read_share()
        owned = mounts.read_owned(self.unit.name)
        plan = decide(self.unit.name, config, share, owned)
        wanted = plan.wanted
        obstacle = mounts.find_obstacle(wanted) if wanted else ""
        in_use = () if plan.keep or obstacle else self._find_in_use(plan, owned)
        is_mounted = wanted is not None and mounts.is_mounted(wanted)
        missing = None if is_mounted or obstacle or in_use else wanted
        is_reachable = missing is None or mounts.is_reachable(missing.endpoint)
        return Facts(
            application=self.app.name,
            server=self._server_name(share),
            problems=config.problems if isinstance(config, InvalidConfig) else (),
            refusal=share.error if share else "",
            obstacle=obstacle,
            in_use=in_use,
            wanted=wanted,
            is_mounted=is_mounted,
            is_reachable=is_reachable,
            failure=mounts.read_failure(missing) if missing and is_reachable else "",
        )

    def _find_in_use(self, plan: Plan, owned: tuple[OwnedMount, ...]) -> tuple[InUse, ...]:
        return tuple(
            InUse(mount.mountpoint, mounts.find_users(mount.mountpoint))
            for mount in owned
            if not mount.serves(plan.wanted) and mounts.is_still_mounted(mount)
        )

    def _server_name(self, share: Share | None) -> str:
        relation = share and self.model.get_relation(NFS_SHARE, share.integration_id)
        return relation.app.name if relation else ""


if __name__ == "__main__":  # pragma: no cover
    ops.main(NfsClientCharm)

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The nfs-client charm: has a share mounted on the machine of its principal unit."""

import logging
from collections.abc import Callable
from dataclasses import asdict, replace

import ops

import kernel
import mounts
import obstacles
import probe
import records
import trouble
from charms.storage_libs.v0.nfs_interfaces import NFSRequires, Share, Size
from config import Config, InvalidConfig, own_share_name, parse_config
from nfs_charms import machine
from plan import OwnedMount, Plan, WantedMount, decide, name_unnamed
from status import LEAVING, Facts, InUse, find_shortfall, find_ungranted, show_time, status
from trouble import Trouble

logger = logging.getLogger(__name__)

NFS_SHARE = "nfs-share"

# In our application's databag: the name that is requested, if an operator gave it. Servers ignore
# it; for the leader it tells such a name from the default of earlier revisions.
NAMED = "named"


class NfsClientCharm(ops.CharmBase):
    """From every event to the same question: what should be mounted, and is it?"""

    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self.nfs_share = NFSRequires(self, NFS_SHARE)
        self._leaves_now = False
        self._left: list[str] = []
        self._has_looked = False
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
            relation.relation_broken,
        ):
            framework.observe(event, self._reconcile)
        framework.observe(relation.relation_departed, self._on_departed)
        framework.observe(self.on.stop, self._on_stop)
        framework.observe(self.on.remove, self._on_stop)
        framework.observe(self.on.show_mount_action, self._on_show_mount)
        framework.observe(self.on.remount_action, self._on_remount)
        framework.observe(self.on.force_umount_action, self._on_force_umount)
        framework.observe(self.on.collect_unit_status, self._on_collect_unit_status)

    def _on_install(self, _: ops.EventBase) -> None:
        self._has_looked = True
        # Here, as only a hook that installs should take the time.
        from nfs_charms import packages

        if not mounts.is_installed():
            if kernel.find_refusal():
                return
            self.unit.status = ops.MaintenanceStatus(f"Installing {mounts.PACKAGE}")
        try:
            version = packages.install(mounts.PACKAGE)
        except packages.PackagesError as error:
            logger.error("%s", error)
            return
        self.unit.set_workload_version(version)

    def _reconcile(self, event: ops.EventBase) -> None:
        self._has_looked = True
        # One has just tried, the other may be of a unit that goes.
        is_no_time = isinstance(event, ops.UpgradeCharmEvent | ops.RelationBrokenEvent)
        if not mounts.is_installed() and not is_no_time:
            self._on_install(event)  # What was in the way of it may be gone.
        owned = records.read_owned(self.unit.name)
        self._ask(owned)  # Other units may be able to mount it.
        if mounts.is_installed():
            self._apply(self._decide(owned), owned)

    def _ask(self, owned: tuple[OwnedMount, ...]) -> None:
        config, share = parse_config(self.config), self._read_share()
        if share and isinstance(config, Config):
            name = config.share_name or self._name_unnamed(share, owned)
            asked = config.permissions.items()
            self.nfs_share.request_share(
                share.integration_id, name, config.allowlist, config.size, **asked
            )
            if self.unit.is_leader():
                self._relation(share).data[self.app][NAMED] = config.share_name

    def _decide(self, owned: tuple[OwnedMount, ...]) -> Plan:
        share = self._read_share()
        said = self.nfs_share.fetch_data()[share.integration_id] if share else {}
        unnamed = self._name_unnamed(share, owned) if share else ""
        return decide(self.unit.name, parse_config(self.config), unnamed, share, said, owned)

    def _name_unnamed(self, share: Share, owned: tuple[OwnedMount, ...]) -> str:
        own = own_share_name(self.model.name, self.app.name)
        # Juju lets nobody but the leader read what its own application says.
        before = share.name
        if self.unit.is_leader():
            said = self._relation(share).data[self.app]
            name = said.get("name", "")
            before = "" if name == said.get(NAMED) else name
        return name_unnamed(own, before, share.endpoint, owned)

    def _apply(self, plan: Plan, owned: tuple[OwnedMount, ...]) -> None:
        """Make it so, as far as it goes; what is in the way is a fact for the status."""
        if plan.keep:
            for mount in owned:
                mounts.note_trouble(mount)
        if plan.keep or _find_obstacle(plan.wanted, owned):
            return
        others = [mount for mount in owned if not mount.serves(plan.wanted)]
        # Another place or share is the whole application's wish; none may be this unit's alone.
        undo = mounts.unmount if plan.wanted else self._leave
        are_gone = [self._try(undo, mount) for mount in others]
        # Once more: what one of them held or hid can be seen now.
        if plan.wanted and all(are_gone) and not (others and _find_obstacle(plan.wanted)):
            try:
                mounts.ensure_mounted(plan.wanted)
            except mounts.MountsError as error:
                self._note_left(str(error))

    def _leave(self, mount: OwnedMount) -> bool:
        return mounts.leave(mount, self.unit.name)

    def _try(self, act: Callable[[OwnedMount], bool | None], mount: OwnedMount) -> bool:
        """Do something to a mount as far as the machine lets us: no hook is held up by it."""
        try:
            return bool(act(mount))
        except mounts.MountsError as error:
            self._note_left(str(error))
            return False

    def _note_left(self, text: str) -> None:
        logger.warning("%s", text)
        self._left.append(text)

    def _on_departed(self, event: ops.RelationDepartedEvent) -> None:
        """Unmount if it is us who leave; what a server does that loses a unit, its data says."""
        if event.departing_unit == self.unit:
            self._leaves_now = self._has_looked = True
            self._apply(Plan(), records.read_owned(self.unit.name))

    def _on_stop(self, event: ops.StopEvent | ops.RemoveEvent) -> None:
        """Leave nothing behind, or what is in use."""
        owned = records.read_owned(self.unit.name)
        self._leaves_now = True
        # Of what `stop` left in use, `remove` knows nothing any more: what was said stays.
        self._has_looked = bool(owned) or isinstance(event, ops.StopEvent)
        for mount in owned:
            is_ours_alone = not mount.others(self.unit.name)
            has_left = self._try(self._leave, mount)
            if not has_left and is_ours_alone and mounts.is_still_mounted(mount):
                # There will be nobody to try again. Mounted by the unit file at every boot, it
                # would be a mount that belongs to nobody.
                self._try(mounts.abandon, mount)
                where = mount.mountpoint
                self._note_left(
                    obstacles.why_left(mount)
                    or f"{where} is in use and stays mounted; when it is free, run: umount {where}"
                )
        mounts.finish_removal()

    def _on_show_mount(self, event: ops.ActionEvent) -> None:
        owned = records.read_owned(self.unit.name)
        if owned:
            event.set_results(_describe(owned[0]))
        else:
            event.fail(f"{self.unit.name} has no mount: {self._status().message}")

    def _on_remount(self, event: ops.ActionEvent) -> None:
        self._has_looked = True
        try:
            self._remount(event)
        except mounts.MountsError as error:
            event.fail(str(error))

    def _remount(self, event: ops.ActionEvent) -> None:
        owned = records.read_owned(self.unit.name)
        wanted = self._decide(owned).wanted
        if wanted is None or any(not mount.serves(wanted) for mount in owned):
            event.fail(f"There is nothing to remount: {self._status().message}")
        elif obstacle := obstacles.find_obstacle(wanted):
            event.fail(obstacle)
        elif not mounts.remount(wanted):
            users = ", ".join(machine.find_users(wanted.mountpoint)) or "a process"
            event.fail(
                f"{wanted.mountpoint} is in use by {users}: stop that and run remount again, or"
                " run force-umount first"
            )
        elif not mounts.is_mounted(wanted):
            event.fail(f"Not mounted yet, it is tried until it is: {self._status().message}")
        else:
            event.set_results({"mountpoint": wanted.mountpoint, "state": "mounted"})

    def _on_force_umount(self, event: ops.ActionEvent) -> None:
        self._has_looked = True
        mountpoint = event.params["mountpoint"]
        mounted = {
            mount.mountpoint: mount
            for mount in records.read_owned(self.unit.name)
            if mounts.is_still_mounted(mount)
        }
        if mountpoint not in mounted:
            known = ", ".join(mounted) or "none"
            event.fail(f"{mountpoint[:40]!a} is no mount of {self.unit.name}: it has {known}")
            return
        users = machine.find_users(mountpoint)
        try:
            mounts.force_unmount(mounted[mountpoint])
        except mounts.MountsError as error:
            event.fail(str(error))
            return
        event.set_results({"mountpoint": mountpoint, "state": "held", "users": ", ".join(users)})

    def _read_share(self) -> Share | None:
        """Read what the server says. While one relation replaces another there can be two.

        Another unit of the machine may have the new one's mounted already.
        """
        mounted = {mount.endpoint for mount in records.read_owned(self.unit.name)}
        shares = self.nfs_share.shares()
        share = min(
            shares, key=lambda it: (it.endpoint not in mounted, it.integration_id), default=None
        )
        # A server that goes loses its units first. What it says then lets nobody in any more.
        is_going = share is not None and not self._relation(share).units
        return replace(share, is_admitted=False) if share and is_going else share

    def _relation(self, share: Share) -> ops.Relation:
        relations = self.nfs_share.integrations
        return next(it for it in relations if it.id == share.integration_id)

    def _on_collect_unit_status(self, event: ops.CollectStatusEvent) -> None:
        if self._has_looked:  # Else what could not be done is not known: the status stays.
            event.add_status(self._status())

    def _status(self) -> ops.StatusBase:
        if self._is_leaving():
            owned = records.read_owned(self.unit.name)
            in_use = self._find_in_use(Plan(), owned)
            left = tuple(self._left)
            return status(Facts(self.unit.name, is_leaving=True, in_use=in_use, left=left))
        if mounts.is_installed():
            return status(self._read_facts())
        unsupported = kernel.find_refusal()
        return status(Facts(self.unit.name, unsupported=unsupported, lacking=mounts.PACKAGE))

    def _read_facts(self) -> Facts:
        config = parse_config(self.config)
        share = self._read_share()
        owned = records.read_owned(self.unit.name)
        plan = self._decide(owned)
        wanted = plan.wanted
        obstacle = _find_obstacle(wanted, owned)
        in_use = () if plan.keep or obstacle else self._find_in_use(plan, owned)
        is_mounted = wanted is not None and mounts.is_mounted(wanted)
        left = [it for it in owned if plan.keep and mounts.is_still_mounted(it)]
        kept = next((it for it in left if trouble.read(it.mountpoint)), None)
        shown = wanted or kept
        noted = trouble.read(shown.mountpoint) if shown and not obstacle and not in_use else None
        is_stale = noted is not None and noted.trouble is Trouble.STALE
        is_failing = not (is_mounted or obstacle or in_use or noted)
        asked = Size.of(config.size if isinstance(config, Config) else None)
        return Facts(
            unit=self.unit.name,
            unsupported=kernel.find_refusal() if is_failing and wanted else "",
            server=self._relation(share).app.name if share else "",
            problems=config.problems if isinstance(config, InvalidConfig) else (),
            refusal=share.error if share else "",
            obstacle=obstacle,
            in_use=in_use,
            left=tuple(self._left),
            wanted=wanted,
            kept=kept,
            is_mounted=is_mounted,
            is_there=any(
                mount.serves(shown) and mounts.is_still_mounted(mount) for mount in owned
            ),
            noted=noted,
            stale_users=machine.find_users(shown.mountpoint) if shown and is_stale else (),
            failure=mounts.read_failure(wanted) if wanted and is_failing else "",
            shortfall=find_shortfall(asked, share.size) if share else "",
            ungranted=(
                find_ungranted(config.permissions, share.permissions)
                if share and isinstance(config, Config)
                else ()
            ),
        )

    def _find_in_use(self, plan: Plan, owned: tuple[OwnedMount, ...]) -> tuple[InUse, ...]:
        return tuple(
            InUse(
                mount.mountpoint,
                machine.find_users(mount.mountpoint),
                obstacles.why_left(mount),
            )
            for mount in owned
            if not mount.serves(plan.wanted)
            and (plan.wanted or not mount.others(self.unit.name))
            and mounts.is_still_mounted(mount)
        )

    def _is_leaving(self) -> bool:
        """Whether this unit is being removed: after the first event of it, its own status says."""
        share = self._read_share()
        may_be = share is None or not share.is_admitted
        return self._leaves_now or (may_be and self.unit.status.message.startswith(LEAVING))


def _find_obstacle(wanted: WantedMount | None, owned: tuple[OwnedMount, ...] = ()) -> str:
    """Say what is in the way of a mount; our own mounts above or below it go first, unasked."""
    if wanted is None or any(mount.is_around(wanted) for mount in owned):
        return ""
    return obstacles.find_obstacle(wanted)


def _describe(owned: OwnedMount) -> dict[str, str]:
    """Describe a mount to an operator; action results are texts."""
    described = {
        "mountpoint": owned.mountpoint,
        "share": owned.share,
        "source": owned.endpoint.source,
    }
    mounted = machine.mounted_at(owned.mountpoint)
    noted = trouble.read(owned.mountpoint)
    since = f" since {show_time(noted.since_s)}" if noted else ""
    if mounted is None:
        state = noted.trouble.state if noted else "not mounted"
        return {**described, "state": state + since}
    described["options"] = ",".join(sorted(mounted.options))
    answer = probe.ask(owned.mountpoint)
    if isinstance(answer, Trouble):
        return {**described, "state": answer.state + since}
    figures = {name.replace("_", "-"): str(number) for name, number in asdict(answer).items()}
    return {**described, "state": "mounted", **figures}


if __name__ == "__main__":  # pragma: no cover
    ops.main(NfsClientCharm)

# SPDX-License-Identifier: Apache-2.0
"""NFS mounts of this machine, as systemd mount units. No ops here.

What is mounted is read from /proc/self/mountinfo. A mount point is never touched while something
may be mounted on it, since a dead NFS server would hold whoever does: but see `probe`.
"""

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Mapping
from pathlib import Path

import obstacles
import probe
import records
import trouble
from charms.storage_libs.v0.nfs_interfaces import DEFAULT_PORT, Endpoint
from nfs_charms import machine
from plan import OwnedMount, WantedMount
from trouble import Trouble

logger = logging.getLogger(__name__)

PACKAGE = "nfs-common"
"""What mounting NFS takes. It is never removed: others may use it."""
MOUNT_NFS = Path("/usr/sbin/mount.nfs")
UMOUNT = "/usr/bin/umount"
JOURNALCTL = "/usr/bin/journalctl"
WANTS_DIRECTORY = "remote-fs.target.wants"

CONNECT_TIMEOUT_S = 3.0
# The mount unit has TimeoutSec=15, and as long again for a mount(8) that doesn't heed SIGTERM.
START_TIMEOUT_S = 40.0
UMOUNT_TIMEOUT_S = 15.0
JOURNAL_TIMEOUT_S = 10.0

_TEMPLATES = Path(__file__).with_name("templates")


class MountsError(Exception):
    """The machine did not do what mounting or unmounting takes; the message says what."""


def is_installed() -> bool:
    """Whether the package is there; runs no command."""
    return MOUNT_NFS.exists()


def ensure_mounted(wanted: WantedMount) -> bool:
    """Have a share mounted, now and after every boot; say whether that took a change.

    Nothing else of ours may be mounted there, and nothing may be in the way (`find_obstacle`).
    Where the server doesn't answer, or refuses, systemd keeps trying. What has become stale is
    mounted anew, if nobody uses it. What is wrong in the end is noted (`trouble`).

    Raises:
        MountsError: systemd doesn't take the units.
    """
    changed = _ensure_enabled(wanted)
    if is_held(wanted.mountpoint):
        return changed
    found = _find_trouble(wanted)
    if found is Trouble.STALE and _umount(wanted.mountpoint):
        found = _find_trouble(wanted)
    if not is_mounted(wanted):
        _start(wanted, is_answering=found is None)
        changed = True
    trouble.note(wanted.mountpoint, found)
    return changed


def _ensure_enabled(wanted: WantedMount) -> bool:
    name = machine.mount_unit_name(wanted.mountpoint)
    try:
        changed = machine.ensure_units(_render_units(wanted))
        if not (machine.UNIT_DIRECTORY / WANTS_DIRECTORY / name).is_symlink():
            machine.systemctl("enable", "--no-reload", name)
            changed = True
    except machine.CommandError as error:
        raise MountsError(f"{wanted.mountpoint}: can't set up the mount unit: {error}") from error
    return changed


def is_held(mountpoint: str) -> bool:
    """Whether a share is to stay unmounted, since it was unmounted by force."""
    noted = trouble.read(mountpoint)
    is_forced = noted is not None and noted.trouble is Trouble.HELD
    return is_forced and machine.mounted_at(mountpoint) is None


def _find_trouble(wanted: WantedMount) -> Trouble | None:
    """Find out whether the server answers: by what is mounted, or before it is, by TCP."""
    if machine.mounted_at(wanted.mountpoint) is None:
        return None if is_reachable(wanted.endpoint) else Trouble.SILENT
    answer = probe.ask(wanted.mountpoint)
    return answer if isinstance(answer, Trouble) else None


def _render_units(wanted: WantedMount) -> dict[str, str]:
    mount_unit = machine.mount_unit_name(wanted.mountpoint)
    retry_unit = _retry_unit_name(wanted.mountpoint)
    port = "" if wanted.endpoint.port == DEFAULT_PORT else f",port={wanted.endpoint.port}"
    values = {
        "unit": wanted.unit,
        "share": wanted.share,
        "named": "yes" if wanted.is_named else "no",
        "endpoint": str(wanted.endpoint),
        "source": wanted.endpoint.source,
        "mountpoint": wanted.mountpoint,
        # mount.nfs takes the newest minor version that the server has, and never NFSv3 (nfs(5)).
        "options": f"hard,_netdev,retry=0,vers=4{port},{','.join(wanted.flags)}",
        "made_directory": _find_made_directory(wanted),
        "mount_unit": mount_unit,
        "retry_unit": retry_unit,
    }
    # The record comes last, so that where it is, the other is too.
    return {
        retry_unit: _render("retry.service.j2", retry_unit, values),
        mount_unit: _render("nfs.mount.j2", mount_unit, values),
    }


def _render(template: str, unit: str, values: Mapping[str, str]) -> str:
    return machine.render(_TEMPLATES / template, machine.UNIT_DIRECTORY / unit, **values)


def _retry_unit_name(mountpoint: str) -> str:
    return f"nfs-client-retry-{machine.mount_unit_name(mountpoint).removesuffix('.mount')}.service"


def _find_made_directory(wanted: WantedMount) -> str:
    """Find which directory systemd makes for the mount point (systemd.mount(5)), or has made."""
    owned = records.read(records.unit_file(wanted.mountpoint))
    if owned and (owned.made_directory or machine.mounted_at(wanted.mountpoint)):
        return owned.made_directory
    way = obstacles.way_to(wanted.mountpoint)
    return str(next((path for path in way if not os.path.lexists(path)), ""))


def _start(wanted: WantedMount, *, is_answering: bool) -> None:
    """Mount, or remount with other flags. That it fails is a fact, told by `read_failure`."""
    name = machine.mount_unit_name(wanted.mountpoint)
    is_there = machine.mounted_at(wanted.mountpoint) is not None
    try:
        if is_answering:
            machine.systemctl("reload" if is_there else "start", name, timeout_s=START_TIMEOUT_S)
        elif not is_there:
            machine.systemctl("start", "--no-block", name)
    except machine.CommandError as error:
        logger.warning("%s", error)


def is_mounted(wanted: WantedMount) -> bool:
    """Whether a share is mounted as wanted."""
    mounted = machine.mounted_at(wanted.mountpoint)
    return (
        mounted is not None
        and records.is_from(mounted, wanted.endpoint)
        and ("ro" in wanted.flags) == ("ro" in mounted.options)
        and all(
            (flag in wanted.flags) == (flag in mounted.options)
            for flag in ("nosuid", "nodev", "noexec")
        )
    )


def is_reachable(endpoint: Endpoint) -> bool:
    """Whether something accepts TCP connections at an endpoint, within `CONNECT_TIMEOUT_S`."""
    answered = threading.Event()

    def connect() -> None:
        address = (endpoint.host, endpoint.port)
        with contextlib.suppress(OSError), socket.create_connection(address, CONNECT_TIMEOUT_S):
            answered.set()

    # In a thread that nobody waits for: there is no deadline to looking up a name.
    prober = threading.Thread(target=connect, daemon=True)
    prober.start()
    prober.join(CONNECT_TIMEOUT_S)
    return answered.is_set()


def read_failure(wanted: WantedMount) -> str:
    """Read what mount(8) said last of a mount that fails; empty: nothing."""
    name = machine.mount_unit_name(wanted.mountpoint)
    try:
        # It is tried more than once a minute; what is older is about something else.
        text = machine.run(
            JOURNALCTL, "--since=-60s", "--unit", name, "--output", "cat", "--no-pager",
            timeout_s=JOURNAL_TIMEOUT_S,
        )  # fmt: skip
    except machine.CommandError as error:
        logger.warning("can't read why %s is not mounted: %s", wanted.mountpoint, error)
        return ""
    said = [line for line in text.splitlines() if line.startswith("mount")]
    return said[-1] if said else ""


def unmount(owned: OwnedMount) -> bool:
    """Unmount a share if nobody uses it, and undo what was done for it; say whether it is gone.

    Raises:
        MountsError: the units can't be removed.
    """
    if is_still_mounted(owned) and not _umount(owned.mountpoint):
        return False
    _forget(owned, stop_mount=machine.mounted_at(owned.mountpoint) is None)
    return True


def is_still_mounted(owned: OwnedMount) -> bool:
    """Whether a mount that the charm made is there."""
    mounted = machine.mounted_at(owned.mountpoint)
    return mounted is not None and records.is_from(mounted, owned.endpoint)


def remount(wanted: WantedMount) -> bool:
    """Mount a share anew, also after `force_unmount`; say whether nobody's use was in the way.

    Raises:
        MountsError: systemd doesn't take the units.
    """
    if machine.mounted_at(wanted.mountpoint) and not _umount(wanted.mountpoint):
        return False
    trouble.note(wanted.mountpoint, None)
    ensure_mounted(wanted)
    return True


def force_unmount(owned: OwnedMount) -> None:
    """Unmount a share whoever uses it, also of a dead server; it stays so until `remount`.

    What was not written yet is lost, and who has files open on it gets errors (umount(8), --force
    and --lazy).

    Raises:
        MountsError: it is mounted all the same.
    """
    # First: after the other, a hook that comes between would mount it again.
    trouble.note(owned.mountpoint, Trouble.HELD)
    if not _umount(owned.mountpoint, "--force", "--lazy"):
        raise MountsError(f"{owned.mountpoint}: the kernel does not unmount it")


def _umount(mountpoint: str, *options: str) -> bool:
    """Unmount, without options only if nobody uses it; works on a dead server. Say if it is gone.

    The options (umount(8)) leave out what would wait for a dead server, looking at the mount point
    and telling the server, and leave umount2(2), which refuses a mount in use (EBUSY). Only the
    kernel can tell: a process that waits in open(2) for a dead server has nothing open in /proc.
    """
    try:
        machine.run(
            UMOUNT, *options, "--internal-only", "--no-canonicalize", mountpoint,
            timeout_s=UMOUNT_TIMEOUT_S,
        )  # fmt: skip
    except machine.CommandError as error:
        logger.warning("%s", error)
    return machine.mounted_at(mountpoint) is None


def abandon(owned: OwnedMount) -> None:
    """Forget a mount that is in use: it stays until it is unmounted by hand, or the machine boots.

    Raises:
        MountsError: the units can't be removed.
    """
    _forget(owned, stop_mount=False)


def _forget(owned: OwnedMount, *, stop_mount: bool) -> None:
    """Undo what `ensure_mounted` did, the record last.

    Stopping the mount unit ends a mount(8) that is under way. It must not be done while anything
    is mounted: for the machine's shutdown, the unit unmounts by force.
    """
    mount_unit = machine.mount_unit_name(owned.mountpoint)
    retry_unit = _retry_unit_name(owned.mountpoint)
    try:
        # In this order: a mount stopped while it is tried has failed, and starts the other.
        for name in [mount_unit, retry_unit] if stop_mount else [retry_unit]:
            if (machine.UNIT_DIRECTORY / name).exists():
                machine.systemctl("stop", name, timeout_s=START_TIMEOUT_S)
        machine.systemctl("disable", "--no-reload", mount_unit)
        _remove_made_directories(owned)
        trouble.note(owned.mountpoint, None)
        machine.remove_units([retry_unit, mount_unit])
    except (machine.CommandError, OSError) as error:
        raise MountsError(f"{owned.mountpoint}: can't remove the mount unit: {error}") from error


def _remove_made_directories(owned: OwnedMount) -> None:
    """Remove the directories that were made for a mount point, if they are empty and no mounts."""
    if not owned.made_directory or machine.mounted_at(owned.mountpoint):
        return
    if obstacles.find_remote_parent(owned.mountpoint):  # Mounted since: it may be dead by now.
        return
    made = Path(owned.made_directory)
    ours = [path for path in obstacles.way_to(owned.mountpoint) if path.is_relative_to(made)]
    for path in reversed(ours):
        try:
            path.rmdir()
        except FileNotFoundError:
            continue
        except OSError as error:  # Not empty, or another mount.
            logger.info("%s stays: %s", path, error)
            return

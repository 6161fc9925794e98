# SPDX-License-Identifier: Apache-2.0
"""NFS mounts of this machine, as systemd mount units. No ops here.

A unit file that the charm wrote is the record of a mount: whose it is, and what was made for it.
It is there before anything is done, and goes when all is undone, so a killed hook leaves nothing
unknown. What is mounted is read from /proc/self/mountinfo. A mount point is never touched while
something may be mounted on it: a dead NFS server would hold whoever does.
"""

import contextlib
import logging
import os
import re
import socket
import stat
import sys
import threading
from pathlib import Path

from charmlibs import apt

from charms.storage_libs.v0 import machine
from charms.storage_libs.v0.nfs_interfaces import DEFAULT_PORT, Endpoint
from plan import OwnedMount, WantedMount

logger = logging.getLogger(__name__)

PACKAGE = "nfs-common"
UMOUNT = "/usr/bin/umount"
JOURNALCTL = "/usr/bin/journalctl"
GENERATED_UNITS = Path("/run/systemd/generator")  # From /etc/fstab (systemd-fstab-generator(8)).
WANTS_DIRECTORY = "remote-fs.target.wants"

PROBE_TIMEOUT_S = 3.0
# The mount unit has TimeoutSec=15, and as long again for a mount(8) that doesn't heed SIGTERM.
START_TIMEOUT_S = 40.0
UMOUNT_TIMEOUT_S = 15.0
FIND_USERS_TIMEOUT_S = 10.0
JOURNAL_TIMEOUT_S = 10.0

_REMOTE_FSTYPE = re.compile(
    r"nfs4?|cifs|smb3|ceph|lustre|glusterfs|gpfs|beegfs|afs|9p|autofs|fuse.*"
)
_FIND_USERS = Path(__file__).with_name("processes.py")

_TEMPLATES = Path(__file__).with_name("templates")


class MountsError(Exception):
    """The machine did not do what mounting or unmounting takes; the message says what."""


def install() -> str:
    """Install what mounting NFS takes, if it isn't there, and return its version."""
    package = apt.add_package(PACKAGE)
    return package.version.number


def read_owned(unit: str) -> tuple[OwnedMount, ...]:
    """Read which mounts a Juju unit has on this machine."""
    paths = sorted(machine.UNIT_DIRECTORY.glob("*.mount"))
    return tuple(owned for path in paths if (owned := _read_record(path, unit)))


def _read_record(path: Path, unit: str) -> OwnedMount | None:
    """Read a mount unit that was written for a Juju unit; None: it is somebody else's."""
    if path.is_symlink() or not path.is_file():
        return None
    text = path.read_text(errors="replace")
    settings = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    if "\n[X-Juju]\n" not in text or settings.get("Unit") != unit:
        return None
    try:
        return OwnedMount(
            mountpoint=settings["Where"],
            share=settings["Share"],
            endpoint=Endpoint.parse(settings["Endpoint"]),
            made_directory=settings["MadeDirectory"],
        )
    except (KeyError, ValueError) as error:
        # What it says can't be trusted any more: it counts as somebody else's, and is not touched.
        logger.warning("%s was changed by hand: unmount it, and remove it (%s)", path, error)
        return None


def find_obstacle(wanted: WantedMount) -> str:
    """Say what keeps a share from being mounted, and what to do; empty: nothing does."""
    mountpoint = wanted.mountpoint
    unit_file = machine.UNIT_DIRECTORY / machine.mount_unit_name(mountpoint)
    owned = _read_record(unit_file, wanted.unit)
    mounted = machine.mounted_at(mountpoint)
    if mounted and owned and _is_from(mounted, owned.endpoint):
        return ""
    choose = "or choose another mountpoint"
    if mounted:
        return f"{mountpoint}: {mounted.source} is mounted there already, unmount it {choose}"
    if owned is None and os.path.lexists(unit_file):
        return f"{mountpoint}: {unit_file} is not this unit's, remove it {choose}"
    if (GENERATED_UNITS / unit_file.name).exists():
        return f"{mountpoint}: /etc/fstab has an entry for it, remove that {choose}"
    problem = _find_remote_parent(mountpoint) or _find_bad_directory(mountpoint)
    return problem and f"{problem} {choose}"


def _find_remote_parent(mountpoint: str) -> str:
    for mounted in machine.read_mounts():
        is_parent = mounted.where != "/" and mountpoint.startswith(mounted.where + "/")
        if is_parent and _REMOTE_FSTYPE.fullmatch(mounted.fstype):
            return f"{mountpoint}: lies in {mounted.source} on {mounted.where}, unmount that"
    return ""


def _find_bad_directory(mountpoint: str) -> str:
    """Look at the way to a mount point that no remote file system is on."""
    for path in _way_to(mountpoint):
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            return ""
        if stat.S_ISLNK(mode):  # systemd refuses it, and it may lead anywhere.
            return f"{mountpoint}: {path} is a symbolic link, use the path it leads to"
        if not stat.S_ISDIR(mode):
            return f"{mountpoint}: {path} is not a directory, move it away"
    with os.scandir(mountpoint) as entries:
        if any(entries):
            return f"{mountpoint}: the directory is not empty, move its contents away"
    return ""


def _way_to(mountpoint: str) -> list[Path]:
    """All directories on the way to a mount point, and itself: /a, /a/b, /a/b/c."""
    path = Path(mountpoint)
    return [*reversed(path.parents[:-1]), path]


def ensure_mounted(wanted: WantedMount) -> bool:
    """Have a share mounted, now and after every boot; say whether that took a change.

    Nothing else of ours may be mounted there, and nothing may be in the way (`find_obstacle`).
    Where the server doesn't answer, or refuses, systemd keeps trying.

    Raises:
        MountsError: systemd doesn't take the units.
    """
    name = machine.mount_unit_name(wanted.mountpoint)
    try:
        changed = machine.ensure_units(_render_units(wanted))
        if not (machine.UNIT_DIRECTORY / WANTS_DIRECTORY / name).is_symlink():
            machine.systemctl("enable", "--no-reload", name)
            changed = True
    except machine.CommandError as error:
        raise MountsError(f"{wanted.mountpoint}: can't set up the mount unit: {error}") from error
    if is_mounted(wanted):
        return changed
    _start(wanted.endpoint, name, is_there=machine.mounted_at(wanted.mountpoint) is not None)
    return True


def _render_units(wanted: WantedMount) -> dict[str, str]:
    mount_unit = machine.mount_unit_name(wanted.mountpoint)
    retry_unit = _retry_unit_name(wanted.mountpoint)
    port = "" if wanted.endpoint.port == DEFAULT_PORT else f",port={wanted.endpoint.port}"
    values = {
        "unit": wanted.unit,
        "share": wanted.share,
        "endpoint": str(wanted.endpoint),
        "source": wanted.endpoint.source,
        "mountpoint": wanted.mountpoint,
        "options": f"hard,_netdev,retry=0{port},{','.join(wanted.flags)}",
        "made_directory": _find_made_directory(wanted),
        "mount_unit": mount_unit,
        "retry_unit": retry_unit,
    }
    # The record comes last, so that where it is, the other is too.
    return {
        retry_unit: machine.render(_TEMPLATES / "retry.service.j2", **values),
        mount_unit: machine.render(_TEMPLATES / "nfs.mount.j2", **values),
    }


def _retry_unit_name(mountpoint: str) -> str:
    return f"nfs-client-retry-{machine.mount_unit_name(mountpoint).removesuffix('.mount')}.service"


def _find_made_directory(wanted: WantedMount) -> str:
    """Find which directory systemd makes for the mount point (systemd.mount(5)), or has made."""
    record = machine.UNIT_DIRECTORY / machine.mount_unit_name(wanted.mountpoint)
    owned = _read_record(record, wanted.unit)
    if owned and (owned.made_directory or machine.mounted_at(wanted.mountpoint)):
        return owned.made_directory
    missing = (path for path in _way_to(wanted.mountpoint) if not os.path.lexists(path))
    return str(next(missing, ""))


def _start(endpoint: Endpoint, name: str, *, is_there: bool) -> None:
    """Mount, or remount with other flags. That it fails is a fact, told by `read_failure`."""
    try:
        if is_reachable(endpoint):
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
        and _is_from(mounted, wanted.endpoint)
        and ("ro" in wanted.flags) == ("ro" in mounted.options)
        and all(
            (flag in wanted.flags) == (flag in mounted.options)
            for flag in ("nosuid", "nodev", "noexec")
        )
    )


def _is_from(mounted: machine.Mounted, endpoint: Endpoint) -> bool:
    # The kernel shows the source without a slash at its end.
    source = endpoint.source.rstrip("/")
    return mounted.fstype in ("nfs", "nfs4") and mounted.source.rstrip("/") == source


def is_reachable(endpoint: Endpoint) -> bool:
    """Whether something accepts TCP connections at an endpoint, within `PROBE_TIMEOUT_S`."""
    answered = threading.Event()

    def connect() -> None:
        address = (endpoint.host, endpoint.port)
        with contextlib.suppress(OSError), socket.create_connection(address, PROBE_TIMEOUT_S):
            answered.set()

    # In a thread that nobody waits for: there is no deadline to looking up a name.
    prober = threading.Thread(target=connect, daemon=True)
    prober.start()
    prober.join(PROBE_TIMEOUT_S)
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


def find_users(mountpoint: str) -> tuple[str, ...]:
    """Find the processes that use a mount, as "name (pid)"; empty also if it takes too long."""
    try:
        found = machine.run(
            sys.executable, "-I", "-S", str(_FIND_USERS), mountpoint,
            timeout_s=FIND_USERS_TIMEOUT_S,
        )  # fmt: skip
    except machine.CommandError as error:
        logger.warning("can't find out who uses %s: %s", mountpoint, error)
        return ()
    return tuple(found.splitlines())


def unmount(owned: OwnedMount) -> bool:
    """Unmount a share if nobody uses it, and undo what was done for it; say whether it is gone.

    Raises:
        MountsError: systemd doesn't let go of the units.
    """
    if is_still_mounted(owned):
        _umount(owned.mountpoint)
    if is_still_mounted(owned):
        return False
    _forget(owned, stop_mount=machine.mounted_at(owned.mountpoint) is None)
    return True


def is_still_mounted(owned: OwnedMount) -> bool:
    """Whether a mount that the charm made is there."""
    mounted = machine.mounted_at(owned.mountpoint)
    return mounted is not None and _is_from(mounted, owned.endpoint)


def _umount(mountpoint: str) -> None:
    """Unmount if nobody uses it, never by force; works on a dead server too.

    The options (umount(8)) leave out what would wait for a dead server, looking at the mount point
    and telling the server, and leave umount2(2), which refuses a mount in use (EBUSY). Only the
    kernel can tell: a process that waits in open(2) for a dead server has nothing open in /proc.
    """
    try:
        machine.run(
            UMOUNT, "--internal-only", "--no-canonicalize", mountpoint, timeout_s=UMOUNT_TIMEOUT_S
        )
    except machine.CommandError as error:
        logger.warning("%s", error)


def abandon(owned: OwnedMount) -> None:
    """Forget a mount that is in use: it stays until it is unmounted by hand, or the machine boots.

    Raises:
        MountsError: systemd doesn't let go of the units.
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
        machine.remove_units([retry_unit, mount_unit])
    except machine.CommandError as error:
        raise MountsError(f"{owned.mountpoint}: can't remove the mount unit: {error}") from error


def _remove_made_directories(owned: OwnedMount) -> None:
    """Remove the directories that were made for a mount point, if they are empty and no mounts."""
    if not owned.made_directory or machine.mounted_at(owned.mountpoint):
        return
    if _find_remote_parent(owned.mountpoint):  # Mounted since: it may be dead by now.
        return
    made = Path(owned.made_directory)
    ours = [path for path in _way_to(owned.mountpoint) if path.is_relative_to(made)]
    for path in reversed(ours):
        try:
            path.rmdir()
        except FileNotFoundError:
            continue
        except OSError as error:  # Not empty, or another mount.
            logger.info("%s stays: %s", path, error)
            return

# SPDX-License-Identifier: Apache-2.0
"""NFS mounts of this machine, as systemd mount units. No ops here.

What is mounted is read from /proc/self/mountinfo. A mount point is never touched while something
may be mounted on it, since a dead NFS server would hold whoever does: but see `probe`.
"""

import contextlib
import logging
import os
import re
import socket
import threading
from collections.abc import Mapping
from pathlib import Path

import obstacles
import probe
import records
import trouble
from charms.storage_libs.v0.nfs_interfaces import DEFAULT_PORT, Endpoint, parse_name
from nfs_charms import machine
from plan import OwnedMount, WantedMount, application
from trouble import Trouble

logger = logging.getLogger(__name__)

PACKAGE = "nfs-common"
"""What mounting NFS takes. It is never removed: others may use it."""
MOUNT_NFS = Path("/usr/sbin/mount.nfs")
MOUNT = "/usr/bin/mount"
UMOUNT = "/usr/bin/umount"
SYSTEMD_RUN = "/usr/bin/systemd-run"
CHATTR = "/usr/bin/chattr"
JOURNALCTL = "/usr/bin/journalctl"
WANTS_DIRECTORY = "remote-fs.target.wants"

CONNECT_TIMEOUT_S = 3.0
# The mount unit has TimeoutSec=15, and as long again for a mount(8) that doesn't heed SIGTERM.
START_TIMEOUT_S = 40.0
UMOUNT_TIMEOUT_S = 15.0
JOURNAL_TIMEOUT_S = 10.0
CHATTR_TIMEOUT_S = 10.0

_HELPERS = ("retry", "check", "umount")
_TEMPLATES = Path(__file__).with_name("templates")


class MountsError(Exception):
    """The machine did not do what mounting or unmounting takes; the message says what."""


def is_installed() -> bool:
    """Whether the package is there, and whole; runs no command."""
    return MOUNT_NFS.exists() and not machine.installing(PACKAGE).exists()


def ensure_mounted(wanted: WantedMount) -> bool:
    """Have a share mounted, now and after every boot; say whether that took a change.

    Nothing else of ours may be mounted there, and nothing may be in the way (`find_obstacle`).
    Where the server doesn't answer, or refuses, systemd keeps trying. What has become stale is
    mounted anew, if nobody uses it. What is wrong in the end is noted (`trouble`).

    Raises:
        MountsError: systemd doesn't take the units, or a program writes to what may only be read.
    """
    changed = _ensure_enabled(wanted)
    if changed and machine.mounted_at(wanted.mountpoint):
        _start_umount_unit(wanted.mountpoint)
    if is_held(wanted.mountpoint):
        return changed
    found = _find_trouble(wanted)
    if found is Trouble.STALE and _umount(wanted.mountpoint):
        found = _find_trouble(wanted)
    trouble.note(wanted.mountpoint, found)
    if is_mounted(wanted):
        return changed
    _start(wanted, is_answering=found is None)
    return True


def _ensure_enabled(wanted: WantedMount) -> bool:
    name = machine.mount_unit_name(wanted.mountpoint)
    with machine.failing_as(MountsError, f"{wanted.mountpoint}: can't set up the mount unit"):
        changed = machine.ensure_units(_render_units(wanted))
        _ensure_directory(wanted.mountpoint)
        if not (machine.UNIT_DIRECTORY / WANTS_DIRECTORY / name).is_symlink():
            machine.systemctl("enable", "--no-reload", name)
            changed = True
    return changed


def _start_umount_unit(mountpoint: str) -> None:
    """Start the unit that unmounts at shutdown, where an earlier revision mounted, without it."""
    with machine.failing_as(MountsError, f"{mountpoint}: can't set up the mount unit"):
        machine.systemctl("start", _helper_unit_names(mountpoint)[-1])


def _ensure_directory(mountpoint: str) -> None:
    """Make the directories that `_find_made_directory` names, so that nothing is written there.

    What is written beneath a mount is hidden by it. Not even root writes into the immutable mount
    point (chattr(1)); a mount covers that. Another's directory stays as it is: the check unit, and
    `find_obstacle`, look whether something is in it.
    """
    owned = records.read(records.unit_file(mountpoint))
    if owned is None or not owned.made_directory or machine.mounted_at(mountpoint):
        return
    for path in _made_directories(owned):
        if not path.exists():
            path.mkdir()
            path.chmod(0o755)  # The umask may have taken bits away.
    _change_flag("+i", mountpoint)


def _made_directories(owned: OwnedMount) -> list[Path]:
    made = Path(owned.made_directory)
    return [path for path in obstacles.way_to(owned.mountpoint) if path.is_relative_to(made)]


def _change_flag(flag: str, directory: str, *before: str) -> None:
    """Change a directory's attribute, by a command that may have others before it."""
    try:
        machine.run(*before, CHATTR, flag, directory, timeout_s=CHATTR_TIMEOUT_S)
    except (machine.CommandError, OSError) as error:  # Not every file system has attributes.
        logger.info("%s", error)


def is_held(mountpoint: str) -> bool:
    """Whether a share is to stay unmounted, since it was unmounted by force."""
    noted = trouble.read(mountpoint)
    is_forced = noted is not None and noted.trouble is Trouble.HELD
    return is_forced and machine.mounted_at(mountpoint) is None


def _find_trouble(wanted: WantedMount) -> Trouble | None:
    """Find out whether the server answers: by what is mounted, or before it is, by TCP."""
    if machine.mounted_at(wanted.mountpoint) is None:
        return None if is_reachable(wanted.endpoint) else Trouble.SILENT
    return _ask(wanted.mountpoint)


def _ask(mountpoint: str) -> Trouble | None:
    answer = probe.ask(mountpoint)
    return answer if isinstance(answer, Trouble) else None


def note_trouble(owned: OwnedMount) -> None:
    """Note what is wrong with a mount that is left as it is."""
    if is_still_mounted(owned):
        trouble.note(owned.mountpoint, _ask(owned.mountpoint))


def _render_units(wanted: WantedMount) -> dict[str, str]:
    mount_unit = machine.mount_unit_name(wanted.mountpoint)
    retry_unit, check_unit, umount_unit = _helper_unit_names(wanted.mountpoint)
    port = "" if wanted.endpoint.port == DEFAULT_PORT else f",port={wanted.endpoint.port}"
    is_elsewhere = any(
        it.endpoint == wanted.endpoint and it.mountpoint != wanted.mountpoint
        for it in records.read_all()
    )
    # Else who mounts the share on this machine later, to write, has a read-only superblock too.
    cache = ",nosharecache" if "ro" in wanted.flags else ""
    values = {
        "application": application(wanted.unit),
        "units": " ".join(sorted({wanted.unit, *wanted.others})),
        "is_alone": "no" if is_elsewhere else "yes",
        "share": parse_name(wanted.share),  # Another text could be more than one line of a unit.
        "named": "yes" if wanted.is_named else "no",
        "endpoint": str(wanted.endpoint),
        "source": wanted.endpoint.source,
        "mountpoint": wanted.mountpoint,
        "parent": str(Path(wanted.mountpoint).parent),
        # mount.nfs takes the newest minor version that the server has, and never NFSv3 (nfs(5)).
        "options": f"hard,_netdev,retry=0,vers=4{port},{','.join(wanted.flags)}{cache}",
        "made_directory": _find_made_directory(wanted),
        "mount_unit": mount_unit,
        "retry_unit": retry_unit,
        "check_unit": check_unit,
        "umount_unit": umount_unit,
        "trouble": str(trouble.path(wanted.mountpoint)),
    }
    record = {mount_unit: _render("nfs.mount.j2", mount_unit, values)}
    others = {
        retry_unit: _render("retry.service.j2", retry_unit, values),
        check_unit: _render("check.service.j2", check_unit, values),
        umount_unit: _render("umount.service.j2", umount_unit, values),
    }
    # First, so that what is there of the others is known by it; but one that is mounted at boot
    # needs them.
    is_new = records.read(records.unit_file(wanted.mountpoint)) is None
    return {**record, **others} if is_new else {**others, **record}


def _render(template: str, unit: str, values: Mapping[str, str]) -> str:
    return machine.render(_TEMPLATES / template, machine.UNIT_DIRECTORY / unit, **values)


def _helper_unit_names(mountpoint: str) -> tuple[str, str, str]:
    """Name the units that try again, look whether the mount would hide something, and unmount."""
    name = machine.mount_unit_name(mountpoint).removesuffix(".mount")
    retry, check, umount = (f"nfs-client-{it}-{name}.service" for it in _HELPERS)
    return retry, check, umount


def _find_made_directory(wanted: WantedMount) -> str:
    """Find which directory has to be made for the mount point, the topmost, or has been made.

    One above that was made for another mount counts too: who goes last of the two removes it.
    """
    owned = records.read(records.unit_file(wanted.mountpoint))
    if owned and (owned.made_directory or machine.mounted_at(wanted.mountpoint)):
        return owned.made_directory
    way = obstacles.way_to(wanted.mountpoint)
    first = next((path for path in way if not os.path.lexists(path)), None)
    if first is None:
        return ""
    made = {path for other in records.read_all() for path in _made_directories(other)}
    while first.parent in made:
        first = first.parent
    return str(first)


def _start(wanted: WantedMount, *, is_answering: bool) -> None:
    """Mount, or remount with other flags. That it fails is a fact, told by `read_failure`.

    Raises:
        MountsError: see `_remount_this_one`.
    """
    name = machine.mount_unit_name(wanted.mountpoint)
    is_there = machine.mounted_at(wanted.mountpoint) is not None
    try:
        if not is_there:
            how = () if is_answering else ("--no-block",)
            machine.systemctl("start", *how, name, timeout_s=START_TIMEOUT_S)
        elif is_answering and "ro" in wanted.flags:
            _remount_this_one(wanted)
        elif is_answering:
            machine.systemctl("reload", name, timeout_s=START_TIMEOUT_S)
    except machine.CommandError as error:
        logger.warning("%s", error)


def _remount_this_one(wanted: WantedMount) -> None:
    """Give a mount other flags (mount(8), `remount,bind`).

    A plain remount is of the superblock, which all mounts of a share on a machine have in common,
    and would make all of them read-only.

    Raises:
        MountsError: a program has a file open for writing.
    """
    options = ",".join(["remount", "bind", *wanted.flags])
    try:
        machine.run(
            MOUNT, "--no-canonicalize", "--options", options,
            wanted.endpoint.source, wanted.mountpoint,
            timeout_s=UMOUNT_TIMEOUT_S,
        )  # fmt: skip
    except machine.CommandError as error:
        said = f"{wanted.mountpoint} can't be made read-only: stop what writes there"
        raise MountsError(f"{said} ({error.output})") from error


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


def leave(owned: OwnedMount, unit: str) -> bool:
    """Leave a mount to the other units that have it, and unmount it if there are none.

    Raises:
        MountsError: the units can't be removed, or written.
    """
    others = owned.others(unit)
    if not others:
        return unmount(owned)
    path = records.unit_file(owned.mountpoint)
    with machine.failing_as(MountsError, f"{owned.mountpoint}: can't set up the mount unit"):
        text = re.sub("^Unit=.*$", f"Unit={' '.join(others)}", path.read_text(), flags=re.M)
        machine.ensure_units({path.name: text})
    return True


def unmount(owned: OwnedMount) -> bool:
    """Unmount a share if nobody uses it, and undo what was done for it; say whether it is gone.

    It stays where others than root can change the way to it (`find_bad_way`), and so what it leads
    to, until an operator unmounts it.

    Raises:
        MountsError: the units can't be removed.
    """
    if is_still_mounted(owned) and (
        obstacles.find_bad_way(owned.mountpoint) or not _umount(owned.mountpoint)
    ):
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
    """Unmount a share whoever uses it, also of a dead server; it stays so: see `Trouble.HELD`.

    What was not written yet is lost, and who has files open on it gets errors (umount(8), --force
    and --lazy). Where it is mounted elsewhere on the machine too, those have nothing to do with
    it: it disappears here, and what waits for the server goes on waiting.

    Raises:
        MountsError: it is mounted all the same, or others than root can change the way to it.
    """
    if bad := obstacles.find_bad_way(owned.mountpoint):
        raise MountsError(f"{bad.cause}: run `umount {owned.mountpoint}`")
    # First: after the other, a hook that comes between would mount it again.
    trouble.note(owned.mountpoint, Trouble.HELD)
    force = ["--force"] if _has_own_superblock(owned) else []
    if not _umount(owned.mountpoint, *force, "--lazy"):
        raise MountsError(f"{owned.mountpoint}: the kernel does not unmount it")


def _has_own_superblock(owned: OwnedMount) -> bool:
    """Whether a share is mounted nowhere else: --force ends all that waits for its server."""
    mounted = machine.mounted_at(owned.mountpoint)
    return mounted is not None and all(
        it.where == owned.mountpoint for it in machine.read_mounts() if it.device == mounted.device
    )


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


def finish_removal() -> None:
    """Have systemd forget units whose files a killed hook has removed, with their records."""
    with contextlib.suppress(machine.CommandError):  # Nobody comes after.
        machine.ensure_units({})


def _forget(owned: OwnedMount, *, stop_mount: bool) -> None:
    """Undo what `ensure_mounted` did, the record last.

    Stopping the mount unit ends a mount(8) that is under way. It must not be done while anything
    is mounted: for the machine's shutdown, the unit unmounts by force.
    """
    mount_unit = machine.mount_unit_name(owned.mountpoint)
    retry_unit, check_unit, umount_unit = _helper_unit_names(owned.mountpoint)
    with machine.failing_as(MountsError, f"{owned.mountpoint}: can't remove the mount unit"):
        # In this order: a mount stopped while it is tried has failed, and starts the other.
        stopped = [mount_unit, retry_unit] if stop_mount else [retry_unit]
        for name in [*stopped, umount_unit]:
            if (machine.UNIT_DIRECTORY / name).exists():
                machine.systemctl("stop", name, timeout_s=START_TIMEOUT_S)
        machine.systemctl("disable", "--no-reload", mount_unit)
        _remove_made_directories(owned)
        trouble.note(owned.mountpoint, None)
        machine.remove_units([retry_unit, check_unit, umount_unit, mount_unit])


def _remove_made_directories(owned: OwnedMount) -> None:
    """Remove the directories that were made for a mount point, if they are empty and no mounts."""
    where = owned.mountpoint
    # A remote file system that was mounted since may be dead by now.
    if not owned.made_directory or obstacles.find_remote_parent(where):
        return
    if bad := obstacles.find_bad_way(where):
        said = "%s: %s stays; to remove it, run `chattr -i %s` first"
        logger.warning(said, bad.cause, where, where)
        return
    if machine.mounted_at(where):
        # The parent once more, without what is mounted in it: /mnt is so for this command alone.
        parent, name = os.path.split(where)
        beneath = f"--property=BindPaths={parent}:/mnt:norbind"
        _change_flag("-i", f"/mnt/{name}", SYSTEMD_RUN, "--quiet", "--wait", "--collect", beneath)
        return
    if os.path.lexists(where):
        _change_flag("-i", where)
    for path in reversed(_made_directories(owned)):
        try:
            path.rmdir()
        except FileNotFoundError:
            continue
        except OSError as error:  # Not empty, or another mount.
            logger.info("%s stays: %s", path, error)
            return

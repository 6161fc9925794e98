# SPDX-License-Identifier: Apache-2.0
"""What keeps a share from being mounted where it is wanted. Changes nothing. No ops here."""

import contextlib
import grp
import os
import pwd
import re
import stat
from dataclasses import dataclass
from os import lstat
from pathlib import Path

import records
from nfs_charms import machine
from plan import OwnedMount, WantedMount, application

AUTOMOUNT = Path("/usr/sbin/automount")
AUTOFS_MAPS = Path("/etc")  # In auto.*, on Debian and Ubuntu.
GENERATED_UNITS = Path("/run/systemd/generator")  # From /etc/fstab (systemd-fstab-generator(8)).

_REMOTE_FSTYPE = re.compile(
    r"nfs4?|cifs|smb3|ceph|lustre|glusterfs|gpfs|beegfs|afs|9p|autofs|fuse.*"
)


@dataclass(frozen=True)
class BadWay:
    """What is wrong with a directory on the way to a mount point, and how it is mended."""

    cause: str
    mends: tuple[str, ...] = ()


def find_obstacle(wanted: WantedMount) -> str:
    """Say what keeps a share from being mounted, and what to do; empty: nothing does."""
    mountpoint = wanted.mountpoint
    unit_file = records.unit_file(mountpoint)
    owned = records.read(unit_file)
    if owned and owned.application != application(wanted.unit):
        owned = None
    mounted = machine.mounted_at(mountpoint)
    if mounted and owned and records.is_from(mounted, owned.endpoint):
        return _say(find_bad_way(mountpoint))
    if neighbour := _find_neighbour(wanted):
        return (
            f"{mountpoint}: {neighbour.application} has {neighbour.mountpoint} for its share"
            f" ({records.unit_file(neighbour.mountpoint)}), choose another mountpoint"
        )
    choose = "or choose another mountpoint"
    if autofs_map := _find_autofs_map(mountpoint):
        mend = "take it out and `systemctl reload autofs`"
        return f"{mountpoint}: autofs has it in {autofs_map}, {mend} {choose}"
    if mounted:
        return f"{mountpoint}: {mounted.source} is mounted there already, unmount it {choose}"
    if owned is None and os.path.lexists(unit_file):
        return f"{mountpoint}: {unit_file} is not this unit's, remove it {choose}"
    if (GENERATED_UNITS / unit_file.name).exists():
        return f"{mountpoint}: /etc/fstab has an entry for it, remove that {choose}"
    if problem := find_remote_parent(mountpoint):
        return f"{problem} {choose}"
    return _say(find_bad_way(mountpoint) or _find_bad_directory(mountpoint))


def _say(bad: BadWay | None) -> str:
    if bad is None:
        return ""
    return ", ".join([bad.cause, " or ".join([*bad.mends, "choose another mountpoint"])])


def _find_neighbour(wanted: WantedMount) -> OwnedMount | None:
    """Find another application's mount at, above or below the mount point, mounted now or not."""
    ours = application(wanted.unit)
    others = (owned for owned in records.read_all() if owned.application != ours)
    here = wanted.mountpoint
    return next((it for it in others if it.mountpoint == here or it.is_around(wanted)), None)


def _find_autofs_map(mountpoint: str) -> str:
    """Name the map by which autofs mounts there, as the retired nfs-client had it; empty: none."""
    for mounted in machine.read_mounts():  # systemd's own automounts have no map.
        is_there = (mounted.where, mounted.fstype) == (mountpoint, "autofs")
        if is_there and mounted.source.startswith("/"):
            return mounted.source
    maps = sorted(AUTOFS_MAPS.glob("auto.*")) if AUTOMOUNT.exists() else []
    return next((str(path) for path in maps if path.is_file() and _has_key(path, mountpoint)), "")


def _has_key(autofs_map: Path, mountpoint: str) -> bool:
    """Whether a map has a mount point, with or without a slash at its end (autofs(5))."""
    lines = autofs_map.read_text(errors="replace").splitlines()
    return any(
        line.split(maxsplit=1)[0].rstrip("/") == mountpoint for line in lines if line.strip()
    )


def find_remote_parent(mountpoint: str) -> str:
    """Say which remote file system a mount point lies in; empty: none."""
    for mounted in machine.read_mounts():
        is_parent = mounted.where != "/" and mountpoint.startswith(mounted.where + "/")
        if is_parent and _REMOTE_FSTYPE.fullmatch(mounted.fstype):
            return f"{mountpoint}: lies in {mounted.source} on {mounted.where}, unmount that"
    return ""


def find_bad_way(mountpoint: str) -> BadWay | None:
    """Find what is wrong above a mount point: what others than root can change, or no directory.

    Who can change a directory can put a symbolic link into it at any time, as mount(8) runs too,
    and have a share mounted on one of the system's. It is looked at from the top down, so that
    root alone can change what was seen. (Entries of an ACL are within the bits of the group,
    acl(5).) The mount point's own directory may be a user's: its owner can't exchange it.
    """
    if find_remote_parent(mountpoint):
        return None
    for path in [Path("/"), *way_to(mountpoint)[:-1]]:
        try:
            status = lstat(path)
        except FileNotFoundError:  # systemd or the charm makes it, in root's directory.
            return None
        bad = _find_other_kind(path, status.st_mode) or _find_other_owner(path, status)
        if bad:
            return BadWay(f"{mountpoint}: {bad.cause}", bad.mends)
    return None


def why_left(owned: OwnedMount) -> str:
    """Say why a mount is not even tried to be unmounted, and what to do; empty: it is tried."""
    bad, where = find_bad_way(owned.mountpoint), owned.mountpoint
    if bad is None:
        return ""
    if owned.made_directory:  # It is immutable, and stays so too.
        return f"{bad.cause}: run `umount {where} && chattr -i {where}`"
    return f"{bad.cause}: run `umount {where}`"


def _find_other_kind(path: Path, mode: int) -> BadWay | None:
    if stat.S_ISLNK(mode):  # systemd refuses it, and it may lead anywhere.
        return BadWay(f"{path} is a symbolic link", ("use the path it leads to",))
    if not stat.S_ISDIR(mode):
        return BadWay(f"{path} is not a directory", ("move it away",))
    return None


def _find_other_owner(path: Path, status: os.stat_result) -> BadWay | None:
    if status.st_uid != 0:
        return BadWay(f"{_name_user(status.st_uid)} can change {path}", ("`chown root` it",))
    if status.st_mode & stat.S_IWOTH:
        # In /tmp, nobody renames what root has made; but what isn't there yet, anybody makes.
        mends = () if status.st_mode & stat.S_ISVTX else ("`chmod o-w` it",)
        return BadWay(f"everyone can change {path}", mends)
    if status.st_mode & stat.S_IWGRP:
        return BadWay(f"group {_name_group(status.st_gid)} can change {path}", ("`chmod g-w` it",))
    return None


def _name_user(number: int) -> str:
    with contextlib.suppress(KeyError):
        return f"{pwd.getpwuid(number).pw_name} (uid {number})"
    return f"uid {number}"


def _name_group(number: int) -> str:
    with contextlib.suppress(KeyError):
        return f"{grp.getgrgid(number).gr_name} (gid {number})"
    return f"gid {number}"


def _find_bad_directory(mountpoint: str) -> BadWay | None:
    """Look at the directory of a mount point that nothing is mounted on."""
    path = Path(mountpoint)
    try:
        bad = _find_other_kind(path, lstat(path).st_mode)
    except FileNotFoundError:
        return None
    if bad:
        return BadWay(f"{mountpoint}: {bad.cause}", bad.mends)
    with os.scandir(mountpoint) as entries:
        if any(entries):
            mends = ("move its contents away",)
            return BadWay(f"{mountpoint}: the directory is not empty", mends)
    return None


def way_to(mountpoint: str) -> list[Path]:
    """All directories on the way to a mount point, and itself: /a, /a/b, /a/b/c."""
    path = Path(mountpoint)
    return [*reversed(path.parents[:-1]), path]

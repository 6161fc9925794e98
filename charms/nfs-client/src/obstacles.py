# SPDX-License-Identifier: Apache-2.0
"""What keeps a share from being mounted where it is wanted. Changes nothing. No ops here."""

import os
import re
import stat
from pathlib import Path

import records
from nfs_charms import machine
from plan import OwnedMount, WantedMount

GENERATED_UNITS = Path("/run/systemd/generator")  # From /etc/fstab (systemd-fstab-generator(8)).

_REMOTE_FSTYPE = re.compile(
    r"nfs4?|cifs|smb3|ceph|lustre|glusterfs|gpfs|beegfs|afs|9p|autofs|fuse.*"
)


def find_obstacle(wanted: WantedMount) -> str:
    """Say what keeps a share from being mounted, and what to do; empty: nothing does."""
    mountpoint = wanted.mountpoint
    unit_file = records.unit_file(mountpoint)
    owned = records.read(unit_file)
    if owned and owned.unit != wanted.unit:
        owned = None
    mounted = machine.mounted_at(mountpoint)
    if mounted and owned and records.is_from(mounted, owned.endpoint):
        return ""
    if neighbour := _find_neighbour(wanted):
        return (
            f"{mountpoint}: {neighbour.unit} has {neighbour.mountpoint} for its share"
            f" ({records.unit_file(neighbour.mountpoint)}), choose another mountpoint"
        )
    choose = "or choose another mountpoint"
    if mounted:
        return f"{mountpoint}: {mounted.source} is mounted there already, unmount it {choose}"
    if owned is None and os.path.lexists(unit_file):
        return f"{mountpoint}: {unit_file} is not this unit's, remove it {choose}"
    if (GENERATED_UNITS / unit_file.name).exists():
        return f"{mountpoint}: /etc/fstab has an entry for it, remove that {choose}"
    problem = find_remote_parent(mountpoint) or _find_bad_directory(mountpoint)
    return problem and f"{problem} {choose}"


def _find_neighbour(wanted: WantedMount) -> OwnedMount | None:
    """Find another unit's mount at, above or below the mount point, mounted now or not."""
    others = (owned for owned in records.read_all() if owned.unit != wanted.unit)
    return next((other for other in others if _is_in_the_way(other, wanted.mountpoint)), None)


def _is_in_the_way(other: OwnedMount, mountpoint: str) -> bool:
    theirs, ours = Path(other.mountpoint), Path(mountpoint)
    return theirs.is_relative_to(ours) or ours.is_relative_to(theirs)


def find_remote_parent(mountpoint: str) -> str:
    """Say which remote file system a mount point lies in; empty: none."""
    for mounted in machine.read_mounts():
        is_parent = mounted.where != "/" and mountpoint.startswith(mounted.where + "/")
        if is_parent and _REMOTE_FSTYPE.fullmatch(mounted.fstype):
            return f"{mountpoint}: lies in {mounted.source} on {mounted.where}, unmount that"
    return ""


def _find_bad_directory(mountpoint: str) -> str:
    """Look at the way to a mount point that no remote file system is on."""
    for path in way_to(mountpoint):
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


def way_to(mountpoint: str) -> list[Path]:
    """All directories on the way to a mount point, and itself: /a, /a/b, /a/b/c."""
    path = Path(mountpoint)
    return [*reversed(path.parents[:-1]), path]

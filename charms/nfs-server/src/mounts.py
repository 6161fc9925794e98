# SPDX-License-Identifier: Apache-2.0
"""Mounts of images, as systemd mount units: now, and at every boot before the NFS server. No ops.

Each image is checked by a unit of its own before it is mounted. udev tells the loop devices of
images from others.
"""

import contextlib
import fcntl
import functools
import logging
import os
import stat
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import kernel
from images import BEING_CHECKED, LOCKED
from nfs_charms import machine
from values import EXPORT_ROOT, Image, share_directory, share_id

UDEVADM = "/usr/bin/udevadm"
UMOUNT = "/usr/bin/umount"

# e2fsck -p and the replay of a journal come before the mount.
MOUNT_TIMEOUT_S = 300.0
UMOUNT_TRIES = 5
UMOUNT_PAUSE_S = 1.0

UDEV_RULES = Path("/etc/udev/rules.d/61-nfs-share-loop.rules")
FSCK_UNIT = "nfs-share-fsck@.service"
WANTS_DIRECTORY = "nfs-server.service.wants"
# How the unit files of all revisions begin.
WRITTEN = b"# Written by the nfs-server charm"
# nfsd walks to a share as this user and group, whoever mounts it (set_pseudofs_security() in
# nfs-utils' support/export/v4root.c, exports(5) on anonuid).
ANONYMOUS = 65534
EXPORT_ROOT_MODE = 0o710

LOOP_CONTROL = Path("/dev/loop-control")
LOOP_CTL_REMOVE = 0x4C81

TEMPLATES = Path(__file__).parent / "templates"

logger = logging.getLogger(__name__)


class MountsError(Exception):
    """The machine did not do what mounting or unmounting takes; the message says what."""


def files() -> tuple[Path, ...]:
    """Find what of systemd's and udev's files is for shares, and where these are mounted."""
    units = machine.UNIT_DIRECTORY
    found = [*units.glob("srv-nfs-*.mount"), *(units / WANTS_DIRECTORY).glob("srv-nfs-*.mount")]
    return (*sorted(found), units / FSCK_UNIT, UDEV_RULES, EXPORT_ROOT)


def ensure_mounted(directory: Path, images: Collection[Image]) -> bool:
    """Mount images, now and at every boot before the NFS server; say if that changed anything.

    One that doesn't mount (its file system is damaged) is logged, and reported as its `problem`;
    it is no reason not to serve the others.

    Raises:
        MountsError: the machine did not take the units or rules.
    """
    for image in images:
        if not image.is_mounted and (machine.UNIT_DIRECTORY / _unit(image)).exists():
            logger.warning("share %s was not mounted: mounting it", image.name)
    with machine.failing_as(MountsError, "shares can't be mounted"):
        changed = _ensure_closed()
        changed |= _ensure_rules(directory, images)
        changed |= machine.ensure_units(_render_units(directory, images))
    missing = [
        _unit(image)
        for image in images
        if image.problem != BEING_CHECKED and not (image.is_mounted and _is_enabled(_unit(image)))
    ]
    if missing:
        _remove_untrimmable()
        try:
            options = ("--now", "--no-reload")
            machine.systemctl("enable", *options, *missing, timeout_s=MOUNT_TIMEOUT_S)
        except machine.CommandError as error:
            logger.error("not every image could be mounted: %s", error)
    return changed or bool(missing)


def _remove_untrimmable() -> None:
    """Remove free loop devices that reserved shares had, as sparse ones may get them.

    That they trim nothing stays set since Linux 6.9, and the kernel takes no other value. The next
    mount makes a new device (loop(4), LOOP_CTL_GET_FREE).
    """
    for device in kernel.LOOP_DEVICES.glob("loop*"):
        queue = device / "queue"
        could = int(kernel.read(queue / "discard_max_hw_bytes") or 0)
        does = int(kernel.read(queue / "discard_max_bytes") or 0)
        if could and not does and not (device / "loop").exists():
            with contextlib.suppress(OSError), LOOP_CONTROL.open("rb") as control:  # Used again.
                fcntl.ioctl(control, LOOP_CTL_REMOVE, int(device.name.removeprefix("loop")))


def _ensure_closed() -> bool:
    """Keep users of this machine, whose UIDs clients have too, out of the shares.

    Who mounts a share over NFSv4 walks there from the root directory, as the anonymous group.
    """
    EXPORT_ROOT.mkdir(mode=EXPORT_ROOT_MODE, parents=True, exist_ok=True)
    status = EXPORT_ROOT.stat()
    found = status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)
    if found == (0, ANONYMOUS, EXPORT_ROOT_MODE):
        return False
    os.chown(EXPORT_ROOT, 0, ANONYMOUS)
    EXPORT_ROOT.chmod(EXPORT_ROOT_MODE)
    return True


def _ensure_rules(directory: Path, images: Iterable[Image]) -> bool:
    """Have udev tell loop devices of images from others; say if that changed anything."""
    sparse = sorted(str(image.path) for image in images if image.is_sparse)
    template = TEMPLATES / "loop.rules.j2"
    rules = machine.render(template, UDEV_RULES, directory=str(directory), sparse=sparse)
    changed = machine.write_atomically(UDEV_RULES, rules)
    if changed:  # By itself, udev looks for new rules every 3 s only.
        machine.run(UDEVADM, "control", "--reload")
    return changed


def _render_units(directory: Path, images: Iterable[Image]) -> dict[str, str]:
    units = {_unit(image): _render_mount(image) for image in images}
    units[FSCK_UNIT] = machine.render(
        TEMPLATES / "nfs-share-fsck@.service.j2",
        machine.UNIT_DIRECTORY / FSCK_UNIT,
        directory=str(directory),
        flock=LOCKED,
    )
    return units


def _is_enabled(unit: str) -> bool:
    return (machine.UNIT_DIRECTORY / WANTS_DIRECTORY / unit).is_symlink()


def _unit(image: Image) -> str:
    return machine.mount_unit_name(share_directory(image.name))


@functools.cache  # Most are the same after work as before it.
def _render_mount(image: Image) -> str:
    return machine.render(
        TEMPLATES / "share.mount.j2",
        machine.UNIT_DIRECTORY / _unit(image),
        name=image.name,
        id=share_id(image.name),
        discard=",discard" if image.is_sparse else "",
        directory=str(image.path.parent),
        where=str(share_directory(image.name)),
    )


def users(image: Image) -> tuple[str, ...]:
    """Name what of this machine uses a share: processes, as "name (pid)", and other mounts.

    An e2fsck of what is mounted elsewhere would tell of a file system that is being written to.
    """
    where = share_directory(image.name)
    backing_files = kernel.read_backing_files()
    others = (it for it in machine.read_mounts() if it.where != str(where))
    elsewhere = (it.where for it in others if backing_files.get(it.source) == str(image.path))
    found = _find_users(where) if image.is_mounted else ()
    return (*found, *(f"the mount {it}" for it in elsewhere))


def _find_users(where: Path) -> tuple[str, ...]:
    """Find who stays in a share: rpc.mountd opens each for a moment when it is asked for it."""
    found = machine.find_users(where)
    if not found:
        return ()
    time.sleep(UMOUNT_PAUSE_S)
    still = machine.find_users(where)
    return tuple(user for user in found if user in still)


def unmount(image: Image, flush: Callable[[], None]) -> None:
    """Unmount an image that is not exported any more, and take its unit away.

    Args:
        image: one that may be mounted.
        flush: makes the NFS server forget what it has cached of exports.

    Raises:
        MountsError: it is in use, by whom if that is a process of this machine; or systemd did
            not take it.
    """
    where = share_directory(image.name)
    if reason := _unmount([where], flush).get(where):
        raise MountsError(f"share {image.name}: {reason}")
    with machine.failing_as(MountsError, f"share {image.name}"):
        _remove_units([_unit(image)])
    _remove_directory(where)


def mounted() -> set[Path]:
    """Find where shares are mounted on this machine, each from the image of that name."""
    backing_files = kernel.read_backing_files()
    return {
        where
        for mount in machine.read_mounts()
        if (where := Path(mount.where)).parent == EXPORT_ROOT
        and Path(backing_files.get(mount.source, "")).name.startswith(f"{where.name}.img")
    }


def unmount_all(flush: Callable[[], None]) -> tuple[str, ...]:
    """Unmount every share and take all units and rules away. The images stay.

    What is there is known from the machine itself: the storage may be gone already.

    Args:
        flush: makes the NFS server forget what it has cached of exports.

    Returns:
        What could not be done, such as a share that is in use and stays mounted, until the next
        boot at most.
    """
    units = {
        path.name
        for path in machine.UNIT_DIRECTORY.glob("srv-nfs-*.mount")
        if (machine.read_file(path) or b"").startswith(WRITTEN)  # Else it is somebody else's.
    }
    units |= {machine.mount_unit_name(where) for where in mounted()}
    places = mounted() | {EXPORT_ROOT / Path(unit).stem.removeprefix("srv-nfs-") for unit in units}
    failures = list(_unmount(sorted(places), flush).values())
    try:
        with machine.failing_as(MountsError, "shares' units stay"):
            _remove_units(sorted(units), FSCK_UNIT)
            UDEV_RULES.unlink(missing_ok=True)
    except MountsError as error:
        failures.append(str(error))
    for where in places:
        _remove_directory(where)
    with contextlib.suppress(OSError):  # There are others' files in it.
        EXPORT_ROOT.rmdir()
    return tuple(failures)


def _remove_units(units: Collection[str], *others: str) -> None:
    """Take mount units away, with what systemd still knows of them and of their checks."""
    in_use = {machine.mount_unit_name(where) for where in mounted()}
    checks = [_fsck_unit(unit) for unit in units if unit not in in_use]
    if checks:
        _stop_checks(checks)
    links = [f"{WANTS_DIRECTORY}/{unit}" for unit in units]
    machine.remove_units([*links, *units, *checks, *others])


def _stop_checks(checks: Collection[str]) -> None:
    """Stop checks, which count as done until then: the next mount would go without.

    What has failed is forgotten: it has no unit of ours any more.
    """
    try:
        machine.systemctl("stop", *checks)
    except machine.CommandError:
        # Without the template, systemd knows only those that have run.
        if (machine.UNIT_DIRECTORY / FSCK_UNIT).exists():
            raise
    # As patterns: it is an error to name one that systemd has forgotten already (systemctl(1)).
    machine.systemctl(
        "reset-failed", *(check.replace(".service", "*.service") for check in checks)
    )


def _fsck_unit(mount_unit: str) -> str:
    return FSCK_UNIT.replace("@", f"@{Path(mount_unit).stem.removeprefix('srv-nfs-')}")


def _remove_directory(where: Path) -> None:
    try:
        where.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:  # Still mounted, or somebody put files there, below the mount.
        logger.warning("%s stays: %s", where, error)


def _unmount(places: Collection[Path], flush: Callable[[], None]) -> dict[Path, str]:
    """Unmount what is mounted at some places; say why what stays mounted does.

    Busy are, for a moment, files in nfsd's cache, and for as long as they like, processes of this
    machine.
    """
    failures: dict[Path, str] = {}
    used: dict[Path, str] = {}
    left = list(places)
    for attempt in range(UMOUNT_TRIES):
        if attempt:
            time.sleep(UMOUNT_PAUSE_S)
            flush()
        failures = {where: reason for where in left if (reason := _try_to_unmount(where))}
        if not attempt:
            users = {where: _find_users(where) for where in failures}
            used = {where: f"in use here by {', '.join(by)}" for where, by in users.items() if by}
        left = [where for where in failures if where not in used]
        if not left:
            break
    return {where: f"{where} stays mounted: {why}" for where, why in (failures | used).items()}


def _try_to_unmount(where: Path) -> str:
    """Unmount all that is mounted at a place; say why not, else nothing."""
    while machine.mounted_at(where):
        try:
            machine.run(UMOUNT, str(where))
        except machine.CommandError as error:
            return str(error)
    return ""

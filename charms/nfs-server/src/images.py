# SPDX-License-Identifier: Apache-2.0
"""Images: a share is an ext4 file system in a file on the unit's storage, mounted through a loop.

An image `ID.img` has its identity beside it in `ID.json`; what lacks one, or has that of another
file system or application, is not a share of ours and is never touched. An image is made under a
temporary name and renamed, so a name that ends in `.img` is a whole file system. Nothing here
formats an image that exists, and `delete` alone deletes one. No ops.
"""

import json
import logging
import os
import secrets
import struct
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import files
from nfs_charms import machine
from charms.storage_libs.v0.nfs_interfaces import parse_name
from shares import EXPORT_ROOT, GIB, Image, Storage, Work, share_directory, share_id

FALLOCATE = "/usr/bin/fallocate"
MKFS = "/usr/sbin/mkfs.ext4"
DEBUGFS = "/usr/sbin/debugfs"
LOSETUP = "/usr/sbin/losetup"
UDEVADM = "/usr/bin/udevadm"
RESIZE2FS = "/usr/sbin/resize2fs"
UMOUNT = "/usr/bin/umount"
E2FSCK = "/usr/sbin/e2fsck"

IMAGE_TIMEOUT_S = 300.0
# e2fsck -p and the replay of a journal come before the mount.
MOUNT_TIMEOUT_S = 300.0
CHECK_TIMEOUT_S = 3600.0
UMOUNT_TRIES = 5
UMOUNT_PAUSE_S = 1.0

LOOP_DEVICES = Path("/sys/block")
EXT4_STATE = Path("/sys/fs/ext4")
UDEV_RULES = Path("/etc/udev/rules.d/61-nfs-share-loop.rules")
FSCK_UNIT = "nfs-share-fsck@.service"
WANTS_DIRECTORY = "nfs-server.service.wants"

TEMPLATES = Path(__file__).parent / "templates"

logger = logging.getLogger(__name__)


class ImagesError(Exception):
    """An image could not be made, grown or unmounted; the message says which and why."""


@dataclass(frozen=True)
class Identity:
    """What an image is, kept beside it."""

    name: str
    uuid: str
    is_limited: bool
    application: str = ""
    """Whose it is. Empty, as older revisions wrote it: of whoever has the storage."""
    is_served: bool = True
    """Whether a client may ever have written to it."""
    is_overcommitted: bool = False


@dataclass(frozen=True)
class Found:
    """What is on a storage."""

    images: dict[str, Image]
    """The shares, by name."""
    foreign: tuple[Path, ...]
    """Image files that are no shares of ours: no identity beside them, or one of another."""


def read(directory: Path, application: str) -> Found:
    """Look at a storage for an application's images.

    Reads files only: runs no command, changes nothing.
    """
    mounts = {mount.where: mount for mount in machine.read_mounts()}
    loops = _loop_devices()
    images: dict[str, Image] = {}
    foreign: list[Path] = []
    for path in sorted(directory.glob("*.img")):
        uuid_there, filesystem_bytes = _read_superblock(path)
        identity = _read_identity(path)
        if not (
            identity and identity.uuid == uuid_there and identity.application in {"", application}
        ):
            foreign.append(path)
            continue
        mount = mounts.get(str(share_directory(identity.name)))
        loop = loops.get(str(path))
        images[identity.name] = _inspect(path, filesystem_bytes, identity, mount, loop)
    return Found(images, tuple(foreign))


def image_path(directory: Path, name: str) -> Path:
    """Where the image of a share is kept."""
    return directory / f"{share_id(name)}.img"


def read_storage(directory: Path) -> Storage:
    """Read how much room the storage has."""
    status = os.statvfs(directory)
    return Storage(status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize)


def _inspect(
    path: Path,
    filesystem_bytes: int,
    identity: Identity,
    mount: machine.Mounted | None,
    loop: str | None,
) -> Image:
    status = path.stat()
    is_mounted = mount is not None and mount.source == loop
    is_sparse = identity.is_overcommitted or not identity.is_limited
    problem = ""
    if mount is not None and not is_mounted:
        problem = f"{mount.source} is mounted at {mount.where}"
    elif mount is None:
        problem = "not mounted"
    elif "ro" in mount.options or _error_count(mount.source):
        problem = "its file system has errors"
    elif not is_sparse and status.st_blocks * 512 < status.st_size:
        problem = "its space is not reserved, the storage is full"
    return Image(
        name=identity.name,
        uuid=identity.uuid,
        file_bytes=status.st_size,
        filesystem_bytes=filesystem_bytes,
        allocated_bytes=status.st_blocks * 512,
        is_limited=identity.is_limited,
        is_overcommitted=identity.is_overcommitted,
        is_mounted=is_mounted,
        is_served=identity.is_served,
        problem=problem,
    )


def _read_identity(image: Path) -> Identity | None:
    """Read what stands beside an image; None if that isn't whole, or of another file."""
    text = machine.read_file(image.with_suffix(".json"))
    if text is None:
        return None
    try:
        identity = Identity(**json.loads(text))
        is_ours = share_id(parse_name(identity.name)) == image.stem
    except (ValueError, TypeError):
        return None
    return identity if is_ours else None


def _read_superblock(image: Path) -> tuple[str, int]:
    """Read UUID and length of an ext4 file system from its superblock; "", 0 if there is none.

    Layout: Documentation/filesystems/ext4/super.rst.
    """
    descriptor = os.open(image, os.O_RDONLY | os.O_CLOEXEC)
    try:
        superblock = os.pread(descriptor, 1024, 1024).ljust(1024, b"\0")
    finally:
        os.close(descriptor)
    (magic,) = struct.unpack_from("<H", superblock, 0x38)
    if magic != 0xEF53:
        return "", 0
    (blocks_low,) = struct.unpack_from("<I", superblock, 0x4)
    (log_block_size,) = struct.unpack_from("<I", superblock, 0x18)
    (blocks_high,) = struct.unpack_from("<I", superblock, 0x150)
    length = ((blocks_high << 32) + blocks_low) << (10 + log_block_size)
    return str(uuid.UUID(bytes=superblock[0x68:0x78])), length


def _loop_devices() -> dict[str, str]:
    """Read which loop device is attached to which file; their numbers change at every boot."""
    loops = [name for name in os.listdir(LOOP_DEVICES) if name.startswith("loop")]
    files = {loop: machine.read_file(LOOP_DEVICES / loop / "loop/backing_file") for loop in loops}
    return {os.fsdecode(it).rstrip("\n"): f"/dev/{loop}" for loop, it in files.items() if it}


def _error_count(device: str) -> int:
    return int(machine.read_file(EXT4_STATE / Path(device).name / "errors_count") or 0)


def remove_leftovers(directory: Path) -> bool:
    """Remove what a killed hook had begun to make; say whether there was any."""
    leftovers = list(directory.glob("*.img.*.tmp"))
    for path in leftovers:
        path.unlink()
    return bool(leftovers)


def make(directory: Path, work: Work, application: str) -> None:
    """Make the image of a new share of an application.

    A killed hook leaves a temporary file at most; the name is another each time, since a command
    of the killed hook may still be writing to it.

    Raises:
        ImagesError: it could not be made, and nothing of it stays; or its file is there already.
    """
    image = image_path(directory, work.name)
    if os.path.lexists(image):
        raise ImagesError(
            f"share {work.name}: {image} is there and is no share of this application, so it is "
            "not touched: mend its .json file, or move it off the storage"
        )
    temporary = image.with_name(f"{image.name}.{secrets.token_hex(4)}.tmp")
    identity = Identity(
        work.name,
        str(uuid.uuid4()),
        is_limited=work.size is not None,
        application=application,
        is_served=False,
        is_overcommitted=work.is_overcommitted,
    )
    temporary.touch(mode=0o600, exist_ok=False)  # Clients' data: not for users of this machine.
    try:
        _set_length(temporary, work.size, directory, is_sparse=work.is_sparse)
        _format(temporary, identity, is_sparse=work.is_sparse)
        _sync(temporary)
    except (machine.CommandError, OSError) as error:
        temporary.unlink(missing_ok=True)
        raise ImagesError(f"share {work.name}: {error}") from error
    _write_identity(image, identity)
    temporary.rename(image)
    machine.sync_directory(directory)


def _set_length(path: Path, size: int | None, directory: Path, *, is_sparse: bool) -> None:
    """Make a file as long as the share: reserved on the storage unless it is sparse.

    fallocate(1) and not os.posix_fallocate: where the storage can't reserve, that would write
    every block, and this says so.
    """
    # Without a limit it is as long as the storage.
    gib = read_storage(directory).total_bytes // GIB if size is None else size
    if is_sparse:
        with path.open("ab") as file:
            file.truncate(max(gib * GIB, path.stat().st_size))
    else:
        length = str(gib * GIB)
        machine.run(FALLOCATE, "--length", length, str(path), timeout_s=IMAGE_TIMEOUT_S)


def _format(path: Path, identity: Identity, *, is_sparse: bool) -> None:
    # mke2fs discards by default, which would give the reserved blocks back; so would the kernel's
    # lazy zeroing of inode tables later, through the loop device. -m 0: no blocks kept for root.
    # A sparse image reads as zeros already, so nothing has to be zeroed, and takes no room.
    zeroing = "nodiscard,lazy_itable_init=0,lazy_journal_init=0"
    if is_sparse:
        zeroing = "lazy_itable_init=1,lazy_journal_init=1"
    extended = f"root_owner=0:0,{zeroing}"
    label = share_id(identity.name)[:16]
    options = ["-q", "-F", "-m", "0", "-U", identity.uuid, "-L", label, "-E", extended]
    machine.run(MKFS, *options, str(path), timeout_s=IMAGE_TIMEOUT_S)
    # An empty share is empty: databases refuse a directory that isn't. e2fsck makes it anew
    # when it needs one.
    machine.run(DEBUGFS, "-w", "-R", "rmdir lost+found", str(path))


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _write_identity(image: Path, identity: Identity) -> None:
    text = json.dumps(asdict(identity)) + "\n"
    machine.write_atomically(image.with_suffix(".json"), text, mode=0o600)


def note_served(directory: Path, image: Image) -> None:
    """Note beside an image, before its first export, that there may be data in it from now on.

    Raises:
        ImagesError: its identity can't be read any more.
    """
    _change_identity(directory, image, is_served=True)


def _change_identity(directory: Path, image: Image, **changes: bool) -> None:
    path = image_path(directory, image.name)
    identity = _read_identity(path)
    if identity is None:
        raise ImagesError(f"share {image.name}: {path.with_suffix('.json')} can't be read")
    _write_identity(path, replace(identity, **changes))


def grow(directory: Path, image: Image, size: int | None) -> None:
    """Grow a mounted image, and the file system in it, while clients use it.

    Every step can be repeated: after a cut the next run finds a file longer than its file system.

    Raises:
        ImagesError: it could not be grown; the share is as it was.
    """
    path = image_path(directory, image.name)
    loop = _loop_devices().get(str(path))
    if loop is None:
        raise ImagesError(f"share {image.name}: {path} is not mounted, so it can't grow")
    is_sparse = image.is_sparse or size is None
    if size is None and image.is_limited:
        _change_identity(directory, image, is_limited=False)
    try:
        _set_length(path, size, directory, is_sparse=is_sparse)
        _sync(path)
        machine.run(LOSETUP, "--set-capacity", loop)
        machine.run(RESIZE2FS, loop, timeout_s=IMAGE_TIMEOUT_S)
        if not is_sparse:
            # The kernel's zeroing of new inode tables gives some reserved blocks back.
            _set_length(path, size, directory, is_sparse=False)
    except (machine.CommandError, OSError) as error:
        raise ImagesError(f"share {image.name}: {error}") from error


def ensure_reserved(directory: Path, images: Iterable[Image]) -> bool:
    """Reserve again what was given back (fstrim, a copy of the image); say if there was any.

    Where the storage has no room for it, that is logged, and reported as the image's `problem`.
    """
    short = [i for i in images if not i.is_sparse and i.allocated_bytes < i.file_bytes]
    for image in short:
        logger.warning("share %s: some of its space was given back: reserving it", image.name)
        path = image_path(directory, image.name)
        try:
            _set_length(path, image.file_bytes // GIB, directory, is_sparse=False)
        except machine.CommandError as error:
            logger.error("share %s: %s", image.name, error)
    return bool(short)


def ensure_mounted(directory: Path, images: Iterable[Image]) -> bool:
    """Mount images, now and at every boot before the NFS server; say if that changed anything.

    One that doesn't mount (its file system is damaged) is logged, and reported as its `problem`;
    it is no reason not to serve the others.

    Raises:
        CommandError: systemd did not read the units.
    """
    images = list(images)
    changed = _ensure_rules(directory, images)
    units = {_unit(image): _render_mount(directory, image) for image in images}
    fsck_template = TEMPLATES / "nfs-share-fsck@.service.j2"
    units[FSCK_UNIT] = files.render(fsck_template, directory=str(directory))
    wrong = {
        name: text
        for name, text in units.items()
        if not machine.is_file_with(machine.UNIT_DIRECTORY / name, text)
    }
    _warn_of_another_hand(images, wrong)
    changed |= machine.ensure_units(wrong)
    missing = [_unit(i) for i in images if not i.is_mounted or not _is_enabled(_unit(i))]
    if missing:
        try:
            options = ("--now", "--no-reload")
            machine.systemctl("enable", *options, *missing, timeout_s=MOUNT_TIMEOUT_S)
        except machine.CommandError as error:
            logger.error("not every image could be mounted: %s", error)
    return changed or bool(missing)


def _ensure_rules(directory: Path, images: Iterable[Image]) -> bool:
    """Have udev tell loop devices of images from others; say if that changed anything."""
    sparse = sorted(str(image_path(directory, image.name)) for image in images if image.is_sparse)
    rules = files.render(TEMPLATES / "loop.rules.j2", directory=str(directory), sparse=sparse)
    files.warn_if_touched(UDEV_RULES, rules)
    changed = machine.write_atomically(UDEV_RULES, rules)
    if changed:  # By itself, udev looks for new rules every 3 s only.
        machine.run(UDEVADM, "control", "--reload")
    return changed


def _warn_of_another_hand(images: Iterable[Image], wrong: Mapping[str, str]) -> None:
    """Log what is not as the charm left it, before it is put right."""
    for name, text in wrong.items():
        files.warn_if_touched(machine.UNIT_DIRECTORY / name, text)
    for image in images:
        unit = machine.UNIT_DIRECTORY / _unit(image)
        if image.is_mounted and unit.name in wrong and not unit.exists():
            logger.warning("%s was removed, and is written again", unit)
        elif not image.is_mounted and unit.exists():
            logger.warning("share %s was not mounted: mounting it", image.name)


def _is_enabled(unit: str) -> bool:
    return (machine.UNIT_DIRECTORY / WANTS_DIRECTORY / unit).is_symlink()


def _unit(image: Image) -> str:
    return machine.mount_unit_name(share_directory(image.name))


def _render_mount(directory: Path, image: Image) -> str:
    return files.render(
        TEMPLATES / "share.mount.j2",
        name=image.name,
        id=share_id(image.name),
        discard=",discard" if image.is_sparse else "",
        directory=str(directory),
        where=str(share_directory(image.name)),
    )


@dataclass(frozen=True)
class Usage:
    """What is used and free in a share; all 0 while it is not mounted."""

    used_bytes: int = 0
    free_bytes: int = 0
    used_inodes: int = 0
    free_inodes: int = 0


def usage(image: Image) -> Usage:
    """Read what is used and free in a share."""
    if not image.is_mounted:
        return Usage()
    status = os.statvfs(share_directory(image.name))
    return Usage(
        used_bytes=(status.f_blocks - status.f_bfree) * status.f_frsize,
        free_bytes=status.f_bavail * status.f_frsize,
        used_inodes=status.f_files - status.f_ffree,
        free_inodes=status.f_favail,
    )


def unmount(image: Image, release: Callable[[], None]) -> None:
    """Unmount an image that is not exported any more, and take its unit away.

    Args:
        image: one that may be mounted.
        release: makes the NFS server let go of what is not exported any more.

    Raises:
        ImagesError: it is in use.
        CommandError: systemd did not read the units.
    """
    _remove_unit(_unit(image), share_directory(image.name), release)


def delete(directory: Path, image: Image, release: Callable[[], None]) -> None:
    """Delete an image that is not exported any more, with all that is in it.

    Raises:
        ImagesError: it is in use.
        CommandError: systemd did not read the units.
    """
    unmount(image, release)
    path = image_path(directory, image.name)
    path.unlink(missing_ok=True)
    path.with_suffix(".json").unlink(missing_ok=True)
    machine.sync_directory(directory)


def check(directory: Path, image: Image, *, repair: bool) -> tuple[bool, str]:
    """Check an unmounted image with e2fsck(8): first what is safe to repair, then all.

    Returns:
        Whether its file system is in order now, and what e2fsck said.

    Raises:
        ImagesError: e2fsck did not come to an end.
    """
    path = str(image_path(directory, image.name))
    is_clean, said = _run_e2fsck(path, "-n")
    for option in ("-p", "-y") if repair else ():
        if not is_clean:
            said = _run_e2fsck(path, option)[1]
            is_clean = _run_e2fsck(path, "-n")[0]
    return is_clean, said


def _run_e2fsck(path: str, option: str) -> tuple[bool, str]:
    try:
        return True, machine.run(E2FSCK, "-f", option, path, timeout_s=CHECK_TIMEOUT_S)
    except machine.CommandTimeoutError as error:
        raise ImagesError(str(error)) from error
    except machine.CommandError as error:
        return False, error.stdout


def is_any_mounted() -> bool:
    """Whether any share is mounted on this machine."""
    return any(Path(mount.where).parent == EXPORT_ROOT for mount in machine.read_mounts())


def unmount_all(release: Callable[[], None]) -> None:
    """Unmount every share and take all units and rules away. The images stay.

    What is there is known from the machine itself: the storage may be gone already.

    Args:
        release: makes the NFS server let go of what is not exported any more.

    Raises:
        ImagesError: one is in use.
        CommandError: systemd did not read the units.
    """
    for unit in sorted(machine.UNIT_DIRECTORY.glob("srv-nfs-*.mount")):
        _remove_unit(unit.name, EXPORT_ROOT / unit.stem.removeprefix("srv-nfs-"), release)
    machine.remove_units([FSCK_UNIT])
    UDEV_RULES.unlink(missing_ok=True)


def _remove_unit(unit: str, where: Path, release: Callable[[], None]) -> None:
    _unmount(where, release)
    machine.remove_units([f"{WANTS_DIRECTORY}/{unit}", unit])
    _remove_directory(where)


def _remove_directory(where: Path) -> None:
    try:
        where.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:  # Somebody put files there, below the mount.
        logger.warning("%s stays: %s", where, error)


def _unmount(where: Path, release: Callable[[], None]) -> None:
    failure: machine.CommandError | None = None
    for attempt in range(UMOUNT_TRIES):
        if machine.mounted_at(where) is None:
            return
        if attempt:
            release()
            time.sleep(UMOUNT_PAUSE_S)
        try:
            machine.run(UMOUNT, str(where))
        except machine.CommandError as error:
            failure = error
    if machine.mounted_at(where) is not None:
        raise ImagesError(f"{where} can't be unmounted: {failure}") from failure

# SPDX-License-Identifier: Apache-2.0
"""Images: a share is an ext4 file system in a file on the unit's storage, mounted through a loop.

An image `ID.img` has its identity beside it in `ID.json`; what lacks one, or has that of another
file system or application, is foreign and never touched. An image is made under a temporary name
and gets its own when it is whole, so a regular file whose name ends in `.img` is a whole file
system. Nothing here formats an image that exists, and `delete` alone deletes one, also of a
deleted share. No ops.
"""

import contextlib
import errno
import logging
import os
import re
import secrets
import stat
import struct
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import kernel
import records
from charms.storage_libs.v0.nfs_interfaces import UNSAID, Permissions
from kernel import Space
from nfs_charms import machine
from records import Field, Record
from values import (
    GIB,
    Found,
    Image,
    Storage,
    Work,
    parse_share_name,
    share_directory,
    share_id,
)

FALLOCATE = "/usr/bin/fallocate"
FLOCK = "/usr/bin/flock"
MKFS = "/usr/sbin/mkfs.ext4"
DEBUGFS = "/usr/sbin/debugfs"
LOSETUP = "/usr/sbin/losetup"
RESIZE2FS = "/usr/sbin/resize2fs"
E2FSCK = "/usr/sbin/e2fsck"

# One e2fsck at a time has an image, also one whose hook was killed: it inherits the lock. 1 would
# be e2fsck's own word for "errors corrected".
LOCKED = (FLOCK, "--nonblock", "--conflict-exit-code", "75")

IMAGE_TIMEOUT_S = 300.0
# For all runs of e2fsck that a check takes.
CHECK_TIMEOUT_S = 3600.0

LOCKS = Path("/proc/locks")
# On the root disk: which storage was seen mounted.
MOUNTED = Path("/var/lib/nfs-server-charm/mounted")
# What `make` calls an image that isn't whole yet. Copies that people make have other names.
_UNFINISHED = re.compile(r"[a-z0-9_]+\.img\.[0-9a-f]{8}\.tmp")

BEING_CHECKED = "being checked"

# What was set last of its owner and mode, kept in the root directory of a share: so it is the
# image's, wherever that goes, and no other revision trips over it. Clients have no way to such an
# attribute (xattr(7)).
ROOT_ATTRIBUTE = "trusted.nfs-server"

logger = logging.getLogger(__name__)


class ImagesError(Exception):
    """Work on an image failed; the message says which and why."""


@dataclass(frozen=True)
class Identity:
    """What an image is, kept beside it."""

    name: str = ""
    uuid: str = ""
    is_limited: bool = True
    application: str = ""
    """Whose it is. Empty, as older revisions wrote it: of whoever has the storage."""
    is_served: bool = True
    """Whether a client may ever have written to it."""
    is_overcommitted: bool = False
    extra: Mapping[str, object] = field(default_factory=dict[str, object])
    """What another revision of the charm keeps here."""

    def is_of(self, application: str) -> bool:
        """Whether the image is an application's."""
        return self.application in {"", application}


# All of it is always written, and no more: the first revision reads nothing else.
_IDENTITY = Record(
    Identity,
    name=Field("name", parse_share_name),
    uuid=Field("uuid", records.text),
    is_limited=Field("is_limited", records.flag),
    application=Field("application", records.text),
    is_served=Field("is_served", records.flag),
    is_overcommitted=Field("is_overcommitted", records.flag),
)


def read(directory: Path, application: str) -> Found:
    """Look at a storage for an application's images.

    Reads regular files only: runs no command, changes nothing, and fails on nothing.
    """
    mounts = {mount.where: mount for mount in machine.read_mounts()}
    backing_files = kernel.read_backing_files()
    images: dict[str, Image] = {}
    foreign: list[Path] = []
    for path in sorted(directory.glob("*.img")):
        try:
            _, image = identify(path, path.stem, application)
            images[image.name] = _with_mount(image, mounts, backing_files)
        except (OSError, ValueError):
            foreign.append(path)
    return Found(images, tuple(foreign))


def note_mounted(directory: Path) -> None:
    """Note that a storage is mounted, if it is: a directory of the root disk never is."""
    if machine.mounted_at(directory):
        with contextlib.suppress(OSError):  # On a full disk the next hook does it.
            machine.write_atomically(MOUNTED, f"{directory}\n")


def is_awaited(directory: Path) -> bool:
    """Whether a storage was seen mounted and isn't now: what is in its directory lies beneath."""
    noted = machine.read_file(MOUNTED) == f"{directory}\n".encode()
    return noted and machine.mounted_at(directory) is None


def find_fault(directory: Path) -> str:
    """Say why a storage can't be read, as one whose disk is gone; empty: it can.

    A directory may be in the kernel's cache, and nothing of the files.
    """
    try:
        for name in os.listdir(directory):
            if name.endswith((".img", ".json", ".deleted")):
                _fail_if_broken(directory / name)
        os.statvfs(directory)
    except OSError as error:
        what = error.filename or directory
        return f"{what} can't be read ({error.strerror}): see dmesg, and mend or remove it"
    return ""


def _fail_if_broken(path: Path) -> None:
    """Fail if the disk gives errors of a file; that it is no file says nothing of the disk."""
    try:
        if path.suffix == ".json":
            machine.read_file(path)
        else:
            _read_superblock_bytes(path)
    except OSError as error:
        if error.errno in {errno.EIO, errno.EUCLEAN, errno.EBADMSG}:
            raise OSError(error.errno, error.strerror, str(path)) from error


def forget_mounted() -> None:
    """Await no storage any more: it was detached."""
    MOUNTED.unlink(missing_ok=True)


def image_path(directory: Path, name: str) -> Path:
    """Where the image of a share is kept."""
    return directory / f"{share_id(name)}.img"


def read_storage(directory: Path, overcommit_ratio: float) -> Storage:
    """Read how much room the storage has."""
    space = kernel.space(os.statvfs(directory))
    is_root = directory.stat().st_dev == Path("/").stat().st_dev
    return Storage(
        space.size_bytes,
        space.available_bytes,
        is_root=is_root,
        # What is overcommitted could fill the machine's root disk.
        overcommit_ratio=1.0 if is_root else overcommit_ratio,
    )


def identify(path: Path, stem: str, application: str) -> tuple[Identity, Image]:
    """Read whose image a file is, and describe it, but for its mount.

    Args:
        path: the file.
        stem: the `share_id` of the share that it is to be of.
        application: the one that it is to be of.

    Raises:
        OSError, ValueError: it is none of this application's.
    """
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a regular file")
    uuid_there, filesystem_bytes = _read_superblock(path)
    identity = read_identity(path, stem)
    if not identity or identity.uuid != uuid_there:
        raise ValueError("no identity of its own")
    if not identity.is_of(application):
        raise ValueError("another application's")
    return identity, Image(
        name=identity.name,
        uuid=identity.uuid,
        path=path,
        file_bytes=status.st_size,
        filesystem_bytes=filesystem_bytes,
        allocated_bytes=status.st_blocks * 512,
        is_limited=identity.is_limited,
        is_overcommitted=identity.is_overcommitted,
        is_served=identity.is_served,
    )


def _with_mount(
    image: Image, mounts: Mapping[str, machine.Mounted], backing_files: Mapping[str, str]
) -> Image:
    """Say whether an image is mounted, and what is wrong with it."""
    mount = mounts.get(str(share_directory(image.name)))
    if mount and backing_files.get(mount.source) == str(image.path):
        image = replace(image, is_mounted=True, permissions=_read_permissions(image.name))
    is_covered = mount is not None and not image.is_mounted
    return replace(image, is_covered=is_covered, problem=_find_problem(image, mount))


def _read_permissions(name: str) -> Permissions:
    """Read owner and mode that were set last as they were requested."""
    with contextlib.suppress(OSError):  # None were.
        text = os.getxattr(share_directory(name), ROOT_ATTRIBUTE).decode(errors="replace")
        owner, _, mode = text.partition(" ")
        return Permissions.parse({"owner": owner, "mode": mode}, [])
    return UNSAID


def _find_problem(image: Image, mount: machine.Mounted | None) -> str:
    if mount is None:
        return BEING_CHECKED if _is_locked(image.path) else "not mounted"
    if not image.is_mounted:
        return f"{mount.source} is mounted at {mount.where}"
    if "ro" in mount.options or kernel.count_errors(mount.source):
        return "its file system has errors"
    if image.lacks_space:
        return "its space is not reserved, the storage is full"
    return ""


def _is_locked(path: Path) -> bool:
    """Whether a process has an image to itself (flock(2), proc_locks(5)); takes no lock itself."""
    status = path.stat()
    device = kernel.device_name(status.st_dev)
    return re.search(rf"FLOCK .* {device}:{status.st_ino} ", LOCKS.read_text()) is not None


def read_identity(image: Path, stem: str) -> Identity | None:
    """Read what stands beside an image; None if that isn't whole, or of another share."""
    plain = records.parse(machine.read_file(image.with_suffix(".json")) or b"")
    identity = _IDENTITY.read(plain)
    # All that is there has to be understood, or kept: what can't be read might say whose it is.
    is_whole = plain.items() <= _IDENTITY.write(identity, is_whole=True).items()
    return identity if is_whole and share_id(identity.name) == stem else None


def _read_superblock(image: Path) -> tuple[str, int]:
    """Read UUID and length of an ext4 file system from its superblock; "", 0 if there is none.

    Layout: Documentation/filesystems/ext4/super.rst.
    """
    superblock = _read_superblock_bytes(image)
    (magic,) = struct.unpack_from("<H", superblock, 0x38)
    (log_block_size,) = struct.unpack_from("<I", superblock, 0x18)
    if magic != 0xEF53 or log_block_size > 6:  # Blocks of 64 KiB are the largest.
        return "", 0
    (blocks_low,) = struct.unpack_from("<I", superblock, 0x4)
    (blocks_high,) = struct.unpack_from("<I", superblock, 0x150)
    length = ((blocks_high << 32) + blocks_low) << (10 + log_block_size)
    return str(uuid.UUID(bytes=superblock[0x68:0x78])), length


def _read_superblock_bytes(image: Path) -> bytes:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(image, flags)
    try:
        return os.pread(descriptor, 1024, 1024).ljust(1024, b"\0")
    finally:
        os.close(descriptor)


def remove_unfinished(directory: Path) -> bool:
    """Remove what a killed hook had begun to make; say if there was any, which took room."""
    is_changed = False
    for path in directory.glob("*.img.*.tmp"):
        try:
            if _UNFINISHED.fullmatch(path.name) and stat.S_ISREG(path.lstat().st_mode):
                path.unlink()
                is_changed = True
        except OSError as error:
            logger.warning("%s stays: %s", path, error)
    return is_changed


def make(directory: Path, work: Work, application: str) -> Image:
    """Make the image of a new share of an application; it is to be mounted yet.

    A killed hook leaves a temporary file at most; the name is another each time, since a command
    of the killed hook may still be writing to it.

    Raises:
        ImagesError: it could not be made, and nothing of it stays; or its file is there already.
    """
    image = image_path(directory, work.name)
    _refuse_if_there(image, work.name)
    temporary = image.with_name(f"{image.name}.{secrets.token_hex(4)}.tmp")
    identity = Identity(
        work.name,
        str(uuid.uuid4()),
        is_limited=work.is_limited,
        application=application,
        is_served=False,
        is_overcommitted=work.is_overcommitted,
    )
    with machine.failing_as(ImagesError, f"share {work.name}"):
        try:
            _write_image(temporary, work, identity)
            _refuse_if_there(image, work.name)  # Put there meanwhile: that may take minutes.
            write_identity(image, identity)
            os.link(temporary, image)  # Not renamed: that would replace what is there.
        except (machine.CommandError, OSError, ImagesError):
            temporary.unlink(missing_ok=True)
            remove_identity(image, identity.uuid)
            raise
        temporary.unlink()
        machine.sync(directory)
        return identify(image, image.stem, application)[1]


def _refuse_if_there(image: Path, name: str) -> None:
    if os.path.lexists(image):
        raise ImagesError(
            f"share {name}: {image} is no share of this application, and not touched: mend its"
            " .json file, or move it off the storage"
        )


def _write_image(path: Path, work: Work, identity: Identity) -> None:
    path.touch(mode=0o600, exist_ok=False)  # Clients' data: not for users of this machine.
    _set_length(path, work.gib, is_sparse=work.is_sparse)
    _format(path, identity, is_sparse=work.is_sparse)
    machine.sync(path)


def _set_length(path: Path, gib: int, *, is_sparse: bool) -> None:
    """Make a file as long as the share: reserved on the storage unless it is sparse.

    fallocate(1) and not os.posix_fallocate: where the storage can't reserve, that would write
    every block, and this says so.
    """
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


def write_identity(image: Path, identity: Identity) -> None:
    """Write what an image is beside it, whether it is there yet or not."""
    text = records.dump(_IDENTITY.write(identity, is_whole=True)) + "\n"
    machine.write_atomically(image.with_suffix(".json"), text, mode=0o600)


def remove_identity(image: Path, uuid: str) -> None:
    """Remove what an image is, if it has that UUID and is not there itself."""
    if os.path.lexists(image):
        return
    identity = read_identity(image, image.stem)
    if identity and identity.uuid == uuid:
        image.with_suffix(".json").unlink()


def note_served(image: Image) -> None:
    """Note beside an image, before its first export, that there may be data in it from now on.

    Raises:
        ImagesError: it could not be noted.
    """
    with machine.failing_as(ImagesError, f"share {image.name}"):
        _change_identity(image, is_served=True)


def _change_identity(image: Image, **changes: bool) -> None:
    identity = read_identity(image.path, image.path.stem)
    if identity is None:
        raise ImagesError(f"share {image.name}: {image.path.with_suffix('.json')} can't be read")
    write_identity(image.path, replace(identity, **changes))


def grow(image: Image, work: Work) -> Image:
    """Grow a mounted image, and the file system in it, while clients use it.

    Every step can be repeated: after a cut the next run finds a file longer than its file system.
    A limit that goes away is noted first: what is longer than reserved must not count as reserved.

    Returns:
        The image as it is to be mounted: that may be sparse now.

    Raises:
        ImagesError: it could not be grown; the share is as it was.
    """
    path = image.path
    mount = machine.mounted_at(share_directory(image.name))
    if mount is None or kernel.read_backing_files().get(mount.source) != str(path):
        raise ImagesError(f"share {image.name}: {path} is not mounted, so it can't grow")
    is_sparse = image.is_sparse or not work.is_limited
    with machine.failing_as(ImagesError, f"share {image.name}"):
        if image.is_limited and not work.is_limited:
            _change_identity(image, is_limited=False)
        try:
            _set_length(path, work.gib, is_sparse=is_sparse)
        except machine.CommandError:
            # What fallocate got before the storage was full. No loop device knows of it yet.
            os.truncate(path, image.file_bytes)
            raise
        machine.sync(path)
        machine.run(LOSETUP, "--set-capacity", mount.source)
        machine.run(RESIZE2FS, mount.source, timeout_s=IMAGE_TIMEOUT_S)
        if not is_sparse:
            # The kernel's zeroing of new inode tables gives some reserved blocks back.
            _set_length(path, work.gib, is_sparse=False)
    return replace(image, is_limited=work.is_limited)


def set_permissions(image: Image, asked: Permissions) -> None:
    """Give the root directory of a mounted share owner and mode, of what was not set so before.

    Nothing below it is touched. What is asked is noted last: after a cut it is set once more.

    Raises:
        ImagesError: it could not be done.
    """
    before = image.permissions
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with machine.failing_as(ImagesError, f"share {image.name}"):
        root = os.open(share_directory(image.name), flags)
        try:
            if asked.owner and asked.owner != before.owner:
                uid, gid = map(int, asked.owner.split(":"))
                os.fchown(root, uid, gid)
            if asked.mode and asked.mode != before.mode:
                os.fchmod(root, int(asked.mode, 8))
            os.fsync(root)
            os.setxattr(root, ROOT_ATTRIBUTE, f"{asked.owner} {asked.mode}".encode())
            os.fsync(root)
        finally:
            os.close(root)


def reserve(image: Image) -> None:
    """Reserve again what was given back (fstrim, a copy of the image).

    Raises:
        ImagesError: the storage has no room for it.
    """
    with machine.failing_as(ImagesError, f"share {image.name}"):
        _set_length(image.path, image.file_bytes // GIB, is_sparse=False)


@dataclass(frozen=True)
class Usage:
    """What is used and free in a share, and whose it is; nothing while it is not mounted."""

    space: Space = field(default_factory=Space)
    owner: str = ""
    """`uid:gid` of its root directory."""
    mode: str = ""
    """Mode of its root directory, four octal digits."""


def usage(image: Image) -> Usage:
    """Read what is used and free in a share."""
    if not image.is_mounted:
        return Usage()
    root = share_directory(image.name).stat()
    return Usage(
        kernel.space(os.statvfs(share_directory(image.name))),
        owner=f"{root.st_uid}:{root.st_gid}",
        mode=f"{stat.S_IMODE(root.st_mode):04o}",
    )


def is_empty(image: Image) -> bool:
    """Whether there is provably nothing in a share; False where that can't be said.

    What is not mounted is read by debugfs(8), if its file system is clean: in a journal that is
    still to be replayed there may be more. Clients may fill a share as soon as this has looked.
    """
    try:
        if image.is_mounted:
            with os.scandir(share_directory(image.name)) as entries:
                return next(entries, None) is None
        return _is_clean(image.path) and _list_root(image.path) == {".", ".."}
    except (machine.CommandError, OSError):
        return False


def _is_clean(path: Path) -> bool:
    """Whether a file system was unmounted in order (Documentation/filesystems/ext4/super.rst)."""
    superblock = _read_superblock_bytes(path)
    (state,) = struct.unpack_from("<H", superblock, 0x3A)
    (incompatible,) = struct.unpack_from("<I", superblock, 0x60)
    needs_recovery = incompatible & 0x4
    return state == 1 and not needs_recovery  # 1: unmounted, and no errors were met.


def _list_root(path: Path) -> set[str]:
    # One line an entry: "/inode/mode/user/group/name/size/".
    lines = machine.run(DEBUGFS, "-R", "ls -p /", str(path)).split("\n")
    return {line.split("/")[5] if line.count("/") >= 7 else line for line in lines if line}


def delete(image: Image) -> None:
    """Delete an image that is not mounted any more, with all that is in it.

    Raises:
        ImagesError: it can't be deleted.
    """
    with machine.failing_as(ImagesError, f"share {image.name}"):
        image.path.unlink(missing_ok=True)
        image.path.with_suffix(".json").unlink(missing_ok=True)
        machine.sync(image.path.parent)


def check(image: Image, *, repair: bool) -> tuple[bool, str]:
    """Check an unmounted image with e2fsck(8): first what is safe to repair, then all.

    Returns:
        Whether its file system is in order now, and what e2fsck said.

    Raises:
        ImagesError: e2fsck did not come to an end, or another one is checking it; or the image is
            cut off, which e2fsck only warns of, and does not mend.
    """
    path = image.path
    if image.file_bytes < image.filesystem_bytes:
        raise ImagesError(
            f"share {image.name}: its image is cut off after {image.file_bytes} bytes:"
            f" truncate --size={image.filesystem_bytes} {path}, then use repair=true"
        )
    deadline = time.monotonic() + CHECK_TIMEOUT_S
    is_clean, said = _run_e2fsck(path, "-n", deadline)
    # Twice: with a superblock that had to be taken from its copy, the first run leaves errors.
    for option in ("-p", "-y", "-y") if repair else ():
        if not is_clean:
            said = _run_e2fsck(path, option, deadline)[1]
            is_clean = _run_e2fsck(path, "-n", deadline)[0]
    return is_clean, said


def _run_e2fsck(path: Path, option: str, deadline: float) -> tuple[bool, str]:
    command = (*LOCKED, str(path), E2FSCK, "-f", option, str(path))
    try:
        return True, machine.run(*command, timeout_s=max(1.0, deadline - time.monotonic()))
    except machine.CommandTimeoutError as error:
        raise ImagesError(f"{error}; until e2fsck has ended the share stays unmounted") from error
    except machine.CommandError as error:
        if error.stdout:
            return False, error.stdout
        # It said nothing of a file system, so it has not looked at one.
        what = "it is being checked already" if _is_locked(path) else str(error)
        raise ImagesError(f"{path}: {what}") from error

# SPDX-License-Identifier: Apache-2.0
"""Shares as values, and the rules: what is asked, what is there, what to do. No I/O, no ops."""

import functools
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from charms.storage_libs.v0.nfs_interfaces import Network

GIB = 2**30

EXPORT_ROOT = Path("/srv/nfs")
"""Where shares are mounted on the server, one directory each."""

# What is never given away, so that the storage itself always has room: a full file system under
# a sparse image turns the clients' writes into I/O errors (mkfs.ext4(8) can't promise otherwise).
MIN_RESERVE_BYTES = GIB
RESERVE_SHARE = 0.02
# Above it, the status says that room gets scarce.
PROMISED_WARNING_SHARE = 0.9


@functools.cache
def share_id(name: str) -> str:
    """Make the name of a share's files and directory: readable, and never that of another share.

    Only [a-z0-9_], so that it stands unescaped in /etc/exports and in the names of systemd units.
    """
    readable = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:24]
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{readable}_{digest}" if readable else digest


def share_directory(name: str) -> Path:
    """Where a share is mounted on the server: the path in its endpoint."""
    return EXPORT_ROOT / share_id(name)


@dataclass(frozen=True)
class Image:
    """A share that has its image on this unit's storage."""

    name: str
    uuid: str
    """UUID of the file system, and `fsid` of the export."""
    file_bytes: int
    """Length of the image file."""
    filesystem_bytes: int
    """Length of the file system in it: less than the file's after a cut in mid-grow."""
    allocated_bytes: int
    """What the file really takes of the storage."""
    is_limited: bool
    """Whether it has a size; else its limit is the storage."""
    is_overcommitted: bool = False
    """Whether it was made while more was promised than there is."""
    is_mounted: bool = False
    is_served: bool = True
    """Whether a client may ever have written to it: it was exported, or is of unknown past."""
    problem: str = ""
    """What is wrong with it, for the operator; empty when nothing is."""

    @property
    def is_sparse(self) -> bool:
        """Whether it takes room only as it is filled; else all of it is reserved."""
        return self.is_overcommitted or not self.is_limited

    @property
    def size(self) -> int | None:
        """GiB that clients were promised and have; None: no limit."""
        return self.filesystem_bytes // GIB if self.is_limited else None


@dataclass(frozen=True)
class Storage:
    """The file system that holds the images, in bytes."""

    total_bytes: int
    free_bytes: int
    overcommit_ratio: float = 1.0
    """How much may be promised of each byte that there is."""

    @property
    def reserve_bytes(self) -> int:
        """What is never given away."""
        return max(MIN_RESERVE_BYTES, int(self.total_bytes * RESERVE_SHARE))

    @property
    def available_bytes(self) -> int:
        """What may really be taken: all that is free but the reserve."""
        return max(0, self.free_bytes - self.reserve_bytes)

    @property
    def is_overcommitted(self) -> bool:
        """Whether more is promised than there is: what is made now is sparse."""
        return self.overcommit_ratio > 1

    def promised_bytes(self, images: Iterable[Image]) -> int:
        """Count what is promised: a share with a size is all of it, one without what it takes."""
        return sum(max(i.allocated_bytes, i.file_bytes if i.is_limited else 0) for i in images)

    def promisable_bytes(self, images: Iterable[Image]) -> int:
        """Count what may be promised in all: others' files on the storage are not the shares'."""
        taken = sum(image.allocated_bytes for image in images)
        return int(self.overcommit_ratio * (self.available_bytes + taken))


@dataclass
class Room:
    """What a storage has left to give, while a plan is made."""

    unpromised_bytes: int
    unreserved_bytes: int

    @classmethod
    def of(cls, storage: Storage, images: Iterable[Image]) -> "Room":
        """Find what a storage has left."""
        images = tuple(images)
        unpromised = storage.promisable_bytes(images) - storage.promised_bytes(images)
        return cls(max(0, unpromised), storage.available_bytes)

    def lacks(self, image: Image | None, work: "Work") -> int | None:
        """Find how many whole GiB are free, if they are too few for an image made or grown."""
        promise, reserve = needed_bytes(image, work)
        if promise > self.unpromised_bytes:
            return self.unpromised_bytes // GIB
        return self.unreserved_bytes // GIB if reserve > self.unreserved_bytes else None

    def give(self, image: Image | None, work: "Work") -> None:
        """Count an image as made or grown."""
        promise, reserve = needed_bytes(image, work)
        # What has no limit is promised nothing; see needed_bytes().
        self.unpromised_bytes -= 0 if work.size is None else promise
        self.unreserved_bytes -= 0 if work.is_sparse else reserve


def free(storage: Storage, images: Iterable[Image]) -> int:
    """Find how many GiB may still be promised."""
    return Room.of(storage, images).unpromised_bytes // GIB


@dataclass(frozen=True)
class Export:
    """One share and who may mount it."""

    name: str
    uuid: str
    networks: tuple[Network, ...]

    @property
    def path(self) -> Path:
        """The directory that is exported."""
        return share_directory(self.name)


@dataclass(frozen=True)
class Wanted:
    """What a share shall be."""

    size: int | None
    """GiB at least; None: no limit; 0: as it is, and not to be made."""
    networks: tuple[Network, ...] = ()
    """Who may mount it."""


@dataclass(frozen=True)
class Work:
    """An image to be made, or grown, to `size` GiB (None: no limit)."""

    name: str
    size: int | None
    is_overcommitted: bool = False

    @property
    def is_sparse(self) -> bool:
        """Whether it takes room only as it is filled."""
        return self.is_overcommitted or self.size is None


@dataclass(frozen=True)
class Plan:
    """What follows from what is wanted and what is there."""

    work: tuple[Work, ...]
    refusals: Mapping[str, str]
    """Why a share can't be as it is asked for, by share. It may exist all the same."""


def is_less(size: int | None, other: int | None) -> bool:
    """Compare two sizes; None, no limit, is more than any."""
    return size is not None and (other is None or size < other)


def largest(sizes: Iterable[int | None]) -> int | None:
    """Find the largest of some sizes."""
    found = list(sizes)
    limited = [size for size in found if size is not None]
    return None if len(limited) < len(found) else max(limited)


def shown(size: int | None) -> str:
    """Write a size as an operator reads it."""
    return "no limit" if size is None else f"{size}G"


def plan(wanted: Mapping[str, Wanted], images: Mapping[str, Image], storage: Storage) -> Plan:
    """Decide which images to make and to grow, and what to refuse.

    Args:
        wanted: the shares that are this unit's to make and to grow, in the order of precedence.
        images: what this unit has of them, by name of the share.
        storage: the room there is.
    """
    work: list[Work] = []
    refusals: dict[str, str] = {}
    room = Room.of(storage, images.values())
    for name, share in wanted.items():
        image = images.get(name)
        size = largest([share.size, image.size if image else 0])  # It never shrinks.
        if size == 0 or (image and _has_size(image, size, storage)):
            continue
        asked = Work(name, size, (image or storage).is_overcommitted)
        if (free := room.lacks(image, asked)) is not None:
            refusals[name] = f"share {name}: {shown(size)} asked, {free}G free"
        else:
            work.append(asked)
            room.give(image, asked)
    return Plan(tuple(work), refusals)


def needed_bytes(image: Image | None, work: Work) -> tuple[int, int]:
    """How many bytes a share takes beyond what it has: of what is promised, of what is there.

    One without a limit takes them as it is written to. What is sparse is not begun with less
    than 1 GiB.
    """
    begun = 0 if image else GIB
    if work.size is None:
        return begun, begun
    length, allocated = work.size * GIB, image.allocated_bytes if image else 0
    # What is over the size (extents' own blocks) gives no credit.
    promise = max(0, length - max(allocated, image.file_bytes if image else 0))
    return promise, begun if work.is_sparse else max(0, length - allocated)


def _has_size(image: Image, size: int | None, storage: Storage) -> bool:
    """Whether nothing is to be done; without a limit it is as large as the storage."""
    is_long_enough = size is not None or image.file_bytes >= storage.total_bytes // GIB * GIB
    is_whole = image.filesystem_bytes == image.file_bytes
    return image.size == size and is_whole and is_long_enough


def is_short(storage: Storage, images: Iterable[Image]) -> bool:
    """Whether the reserve is broken into while clients' writes take room from the storage."""
    return any(i.is_sparse for i in images) and storage.free_bytes < storage.reserve_bytes


def space_warning(storage: Storage, images: Iterable[Image]) -> str:
    """Say that room gets scarce, before it is gone; empty while there is enough."""
    images = tuple(images)
    free, promised = storage.free_bytes, storage.promised_bytes(images)
    promisable = storage.promisable_bytes(images)
    # What is reserved can't be short of it; what is sparse can.
    if any(image.is_sparse for image in images) and free < 2 * storage.reserve_bytes:
        return (
            f"Only {free / GIB:.1f}G of the storage are free, and when none is, writing to shares"
            " fails: add storage, or delete files in shares"
        )
    if images and promised > PROMISED_WARNING_SHARE * promisable:
        return f"{promised / GIB:.0f}G of {promisable / GIB:.0f}G are promised to shares"
    return ""


def exports(wanted: Mapping[str, Wanted], images: Mapping[str, Image]) -> tuple[Export, ...]:
    """Find what is exported: each share that is here, to all that may mount it."""
    return tuple(
        Export(name, images[name].uuid, share.networks)
        for name, share in sorted(wanted.items())
        if name in images and share.networks
    )

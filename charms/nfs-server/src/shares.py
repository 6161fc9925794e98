# SPDX-License-Identifier: Apache-2.0
"""Shares as values, and the rules: what is asked, what is there, what to do. No I/O, no ops."""

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from charms.storage_libs.v0.nfs_interfaces import Network, ShareRequest

GIB = 2**30

EXPORT_ROOT = Path("/srv/nfs")
"""Where shares are mounted on the server, one directory each."""

# What is never given away, so that the storage itself always has room: a full file system under
# a sparse image turns the clients' writes into I/O errors (mkfs.ext4(8) can't promise otherwise).
MIN_RESERVE_BYTES = GIB
RESERVE_SHARE = 0.02


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
    """Whether it has a size; else it is sparse, and its limit is the storage."""
    is_mounted: bool = False
    problem: str = ""
    """What is wrong with it, for the operator; empty when nothing is."""

    @property
    def size(self) -> int | None:
        """GiB that clients were promised and have; None: no limit."""
        return self.filesystem_bytes // GIB if self.is_limited else None


@dataclass(frozen=True)
class Storage:
    """The file system that holds the images, in bytes."""

    total_bytes: int
    free_bytes: int

    @property
    def available_bytes(self) -> int:
        """What may be given to shares: all that is free but the reserve."""
        reserve = max(MIN_RESERVE_BYTES, int(self.total_bytes * RESERVE_SHARE))
        return max(0, self.free_bytes - reserve)


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
class Work:
    """An image to be made, or grown, to `size` GiB (None: no limit)."""

    name: str
    size: int | None


@dataclass(frozen=True)
class Plan:
    """What follows from what is asked and what is there."""

    work: tuple[Work, ...]
    refusals: Mapping[str, str]
    """Why a share can't be as it is asked for, by share. It may exist all the same."""


def wanted_size(requests: Iterable[ShareRequest]) -> int | None:
    """Find the size of a share from all that ask for it: the largest; None: no limit."""
    sizes = [request.size for request in requests]
    limited = [size for size in sizes if size is not None]
    return None if len(limited) < len(sizes) else max(limited)


def by_name(requests: Iterable[ShareRequest]) -> dict[str, list[ShareRequest]]:
    """Group requests by the share they ask for, in the order of their integrations."""
    groups: dict[str, list[ShareRequest]] = {}
    for request in sorted(requests, key=lambda request: request.integration_id):
        groups.setdefault(request.name, []).append(request)
    return groups


def plan(
    requests: Iterable[ShareRequest],
    images: Mapping[str, Image],
    storage: Storage,
    published: frozenset[str],
) -> Plan:
    """Decide which images to make and to grow, and what to refuse.

    Args:
        requests: what the clients ask for.
        images: what this unit has, by name of the share.
        storage: the room there is.
        published: shares that clients were given an endpoint of before. One of them that has no
            image here is lost, or elsewhere: it is never made anew and empty.
    """
    work: list[Work] = []
    refusals: dict[str, str] = {}
    available = storage.available_bytes
    # A request with an error in it asks for nothing new; see ShareRequest.
    for name, group in by_name(r for r in requests if not r.error).items():
        image, size = images.get(name), wanted_size(group)
        needed = needed_bytes(image, size)
        if image is None and name in published:
            refusals[name] = (
                f"share {name}: its image is not here; attach the storage that holds it"
            )
        elif image is not None and _is_smaller(size, image):
            refusals[name] = (
                f"share {name}: {_shown(size)} asked, it has {_shown(image.size)}; "
                "a share never shrinks"
            )
        elif image is not None and _has_size(image, size, storage):
            continue
        elif needed > available:
            refusals[name] = f"share {name}: {_shown(size)} asked, {available // GIB}G free"
        else:
            work.append(Work(name, size))
            if size is not None:  # What has no limit is promised nothing; see needed_bytes().
                available -= needed
    return Plan(tuple(work), refusals)


def needed_bytes(image: Image | None, size: int | None) -> int:
    """How many bytes of the storage a share of `size` GiB takes beyond those it has.

    One without a limit takes them as it is written to; it is not begun with less than 1 GiB.
    """
    if size is None:
        return 0 if image else GIB
    # What is over the size (extents' own blocks) gives no credit.
    return max(0, size * GIB - (image.allocated_bytes if image else 0))


def _is_smaller(size: int | None, image: Image) -> bool:
    return size is not None and (image.size is None or size < image.size)


def _has_size(image: Image, size: int | None, storage: Storage) -> bool:
    """Whether nothing is to be done; without a limit it is as large as the storage."""
    is_long_enough = size is not None or image.file_bytes >= storage.total_bytes // GIB * GIB
    is_whole = image.filesystem_bytes == image.file_bytes
    return image.size == size and is_whole and is_long_enough


def _shown(size: int | None) -> str:
    return "no limit" if size is None else f"{size}G"


def exports(requests: Iterable[ShareRequest], images: Mapping[str, Image]) -> tuple[Export, ...]:
    """Find what is exported: each share that is asked for, to all that may mount it."""
    found: list[Export] = []
    for name, group in by_name(requests).items():
        networks = {network for request in group for network in request.networks}
        if name in images and networks:
            ordered = sorted(networks, key=lambda n: (n.version, n))  # pyright: ignore
            found.append(Export(name, images[name].uuid, tuple(ordered)))
    return tuple(sorted(found, key=lambda export: export.name))

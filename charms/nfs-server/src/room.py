# SPDX-License-Identifier: Apache-2.0
"""Room on a storage: what is allocated to shares, and what is left. No I/O, no ops.

Every share is allocated its whole length when it is made, and no more is allocated than there is
beside the reserve. So a client that fills its share can't take the reserve, hook or no hook. A
share without a limit is allocated all that is left. `overcommit-ratio` above 1 gives that up.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from charms.storage_libs.v0.nfs_interfaces import Size
from values import GIB, Image, Storage, Wanted, Work

# What is never allocated: for the storage's own needs, and those of the machine on its root disk.
MIN_RESERVE_BYTES = GIB
RESERVE_SHARE = 0.02
# Above it, the status says that room gets scarce.
ALLOCATED_WARNING_SHARE = 0.9


def reserve_bytes(storage: Storage) -> int:
    """Find what is never allocated."""
    return max(MIN_RESERVE_BYTES, int(storage.total_bytes * RESERVE_SHARE))


def _available_bytes(storage: Storage) -> int:
    """Find what may really be taken: all that is free but the reserve."""
    return max(0, storage.free_bytes - reserve_bytes(storage))


def allocated_bytes(images: Iterable[Image]) -> int:
    """Count what is allocated to shares."""
    return sum(max(image.allocated_bytes, image.file_bytes) for image in images)


def allocatable_bytes(storage: Storage, images: Iterable[Image]) -> int:
    """Count what may be allocated in all: others' files on the storage are not the shares'."""
    taken = sum(image.allocated_bytes for image in images)
    return int(storage.overcommit_ratio * (_available_bytes(storage) + taken))


@dataclass
class _Room:
    """What a storage has left, while work is planned."""

    unallocated_bytes: int
    untaken_bytes: int

    def lacks(self, image: Image | None, work: Work) -> bool:
        """Say whether there is too little for an image to be made or grown."""
        allocated, taken = needed_bytes(image, work)
        return allocated > self.unallocated_bytes or taken > self.untaken_bytes

    def give(self, image: Image | None, work: Work) -> None:
        """Count an image as made or grown."""
        allocated, taken = needed_bytes(image, work)
        self.unallocated_bytes -= allocated
        self.untaken_bytes -= 0 if work.is_sparse else taken

    @property
    def left_gib(self) -> int:
        """Whole GiB that are left."""
        return min(self.unallocated_bytes, self.untaken_bytes) // GIB


def _room(storage: Storage, images: Collection[Image]) -> _Room:
    unallocated = allocatable_bytes(storage, images) - allocated_bytes(images)
    return _Room(max(0, unallocated), _available_bytes(storage))


def left_gib(storage: Storage, images: Collection[Image]) -> int:
    """Find how many whole GiB may still be allocated, and are there to be taken."""
    return _room(storage, images).left_gib


def free_gib(storage: Storage, images: Collection[Image]) -> int:
    """Find how many GiB a new share may have: none where a share takes all that is left."""
    if any(not image.is_limited for image in images):
        return 0
    room = _room(storage, images)
    if storage.overcommit_ratio > 1:  # It is sparse, and begun with 1 GiB.
        return room.unallocated_bytes // GIB if room.untaken_bytes >= GIB else 0
    return room.left_gib


def reservable(storage: Storage, images: Iterable[Image]) -> tuple[Image, ...]:
    """Find the images that lack space which can be reserved again: not out of the reserve."""
    found: list[Image] = []
    left = _available_bytes(storage)
    for image in images:
        lacking = image.file_bytes - image.allocated_bytes
        if image.lacks_space and lacking <= left:
            found.append(image)
            left -= lacking
    return tuple(found)


def needed_bytes(image: Image | None, work: Work) -> tuple[int, int]:
    """How many bytes a share takes beyond what it has: of what is allocated, of what is there.

    What is sparse takes them as it is written to, and is not begun with less than 1 GiB.
    """
    length, taken = work.gib * GIB, image.allocated_bytes if image else 0
    # What is over the size (extents' own blocks) gives no credit.
    allocated = max(0, length - max(taken, image.file_bytes if image else 0))
    begun = 0 if image else GIB
    return allocated, begun if work.is_sparse else max(0, length - taken)


def plan_work(
    wanted: Mapping[str, Wanted],
    images: Mapping[str, Image],
    storage: Storage,
    deleted: Collection[Image] = (),
) -> tuple[tuple[Work, ...], dict[str, str]]:
    """Decide which images to make and to grow, and what to refuse.

    Args:
        wanted: the shares that are this unit's to make and to grow, in the order of precedence.
        images: what this unit has of them, by name of the share.
        storage: the room there is.
        deleted: images of deleted shares, which have their room until they go.

    Returns:
        The work, and why a share can't be as it is requested. It may exist all the same.
    """
    work: list[Work] = []
    refusals: dict[str, str] = {}
    room = _room(storage, (*images.values(), *deleted))
    sizes = {name: _size(share, images.get(name)) for name, share in wanted.items()}
    # What has no limit takes what the others leave.
    for name, size in sorted(sizes.items(), key=lambda item: not item[1].is_limited):
        image = images.get(name)
        needed = _work(name, size, image, storage, room)
        if not size.is_known or needed is None:
            continue
        if is_unbounded(size, is_on_root=storage.is_root) or room.lacks(image, needed):
            refusals[name] = refusal(
                name,
                size,
                room.left_gib,
                is_on_root=storage.is_root,
                has_deleted=bool(deleted),
            )
        else:
            work.append(needed)
            room.give(image, needed)
    return tuple(work), refusals


def _size(share: Wanted, image: Image | None) -> Size:
    return max(share.size, image.size) if image else share.size  # It never shrinks.


def _work(
    name: str, size: Size, image: Image | None, storage: Storage, room: _Room
) -> Work | None:
    """Find what has to be done for a share to have its size; None: nothing."""
    is_overcommitted = (
        image.is_overcommitted if image else storage.overcommit_ratio > 1 and not storage.is_root
    )
    if image and not image.is_limited and storage.is_root:
        return None  # Of an older revision. It is left as it is.
    gib = size.gib if size.is_limited else _rest_gib(image, storage, room)
    if (
        image
        and image.is_limited == size.is_limited
        and image.filesystem_bytes == image.file_bytes >= gib * GIB
    ):
        return None
    return Work(name, gib, size.is_limited, is_overcommitted)


def _rest_gib(image: Image | None, storage: Storage, room: _Room) -> int:
    """Find how long an image without a limit is to be: what it has, and all that is left."""
    has = max(image.file_bytes, image.allocated_bytes) if image else 0
    longest = max(storage.total_bytes, has)
    return max(1, min(has + room.unallocated_bytes, longest) // GIB)


def is_unbounded(size: Size, *, is_on_root: bool) -> bool:
    """Whether nothing would keep clients from filling the machine's root disk."""
    return is_on_root and not size.is_limited


def refusal(
    name: str, size: Size, free: int, *, is_on_root: bool, has_deleted: bool = False
) -> str:
    """Say why a share can't have a size where `free` GiB are left."""
    if is_unbounded(size, is_on_root=is_on_root):
        return (
            f"share {name}: no limit requested, but the shares are on the root disk: request a"
            " size, or give nfs-server a storage"
        )
    said = f"share {name}: {size} requested, {free}G free"
    return f"{said}; purge-share makes room: see list-shares" if has_deleted else said


def shrinking(name: str, requested: Size, has: Size) -> str:
    """Say why a share can't have less than it has."""
    return f"share {name}: {requested} requested, it has {has}; a share never shrinks"


def is_short(storage: Storage, images: Iterable[Image]) -> bool:
    """Whether the reserve is broken into while clients' writes take room from the storage."""
    takes_room = any(it.is_sparse and it.allocated_bytes < it.file_bytes for it in images)
    return takes_room and storage.free_bytes < reserve_bytes(storage)


def remark(storage: Storage, shares: Collection[Image], deleted: Collection[Image] = ()) -> str:
    """Say what an operator should know of the room, before it is gone; empty: nothing."""
    images = (*shares, *deleted)
    allocated, allocatable = allocated_bytes(images), allocatable_bytes(storage, images)
    really = allocatable_bytes(replace(storage, overcommit_ratio=1.0), images)
    # What is reserved can't be short of it; what is sparse can.
    is_sparse = any(image.is_sparse for image in images) and allocated > really
    if is_sparse and storage.free_bytes < 2 * reserve_bytes(storage):
        said = (
            f"Only {storage.free_bytes / GIB:.1f}G of the storage are free, and when none is,"
            " writing to shares fails: delete files in shares, or enlarge it"
        )
        return f"{said}, or run purge-share" if deleted else said
    is_all_taken = any(not image.is_limited for image in shares)
    if not is_all_taken and allocated > ALLOCATED_WARNING_SHARE * allocatable:
        said = f"{allocated / GIB:.0f}G of {allocatable / GIB:.0f}G are allocated to shares"
        kept_gib = allocated_bytes(deleted) / GIB
        more = f"{said}; {kept_gib:.0f}G of it to deleted ones: purge-share makes room"
        return more if deleted else said
    return "Shares are on the root disk" if storage.is_root else ""

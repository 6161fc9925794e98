# SPDX-License-Identifier: Apache-2.0
"""Deleted shares: their images stay on the storage for some days, and can be restored.

The image of a deleted share is `ID.UUID.deleted`, with its identity beside it in `ID.UUID.json`,
and in that, how long it is to be kept, how long it was, and what was decided of the share. It is
one rename that deletes a share or restores it; what is written before is of no meaning without.
Older revisions of the charm look at no such file. No ops.

Time is counted while the machine runs, in seconds of its boots (clock_gettime(2),
CLOCK_MONOTONIC), and not read from the clock, which may be set to any day. What nobody counted,
because the machine was off or suspended or the storage nowhere, is kept longer: the count goes on
when the storage is attached.
"""

import contextlib
import errno
import os
import re
import secrets
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import images
import records
from images import Identity, ImagesError
from nfs_charms import machine
from records import Field, Record
from settings import MAX_KEEP_DELETED_DAYS
from values import DeletedShare, Found, Image, Placement, Restored, parse_share_name

DAY_S = 24 * 60 * 60
MAX_KEEP_S = MAX_KEEP_DELETED_DAYS * DAY_S
# What a boot may lose of the count.
COUNT_EVERY_S = 60 * 60
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
# Gone with the boot whose seconds are in it.
ATTACHED = Path("/run/nfs-server-charm/attached")
# The key in an identity.
_KEY = "deleted"
_NAME = re.compile(r"[a-z0-9_]+\.[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.(deleted|json)")


@dataclass(frozen=True)
class _Deletion:
    """What stands beside the image of a deleted share, besides its identity."""

    name: str = ""
    """That of this deletion, which no other one has."""
    share: str = ""
    """The share that it was; or is to become again, or has become."""
    keep_s: int = 0
    """For how long it is kept."""
    counted_s: int = 0
    """For how long it was kept when that was last written."""
    boot: str = ""
    """The boot in which that was."""
    seen_s: int = 0
    """And when, since that boot."""
    placement: Placement = field(default_factory=Placement)
    extra: Mapping[str, object] = field(default_factory=dict[str, object])

    def counted(self) -> "_Deletion":
        """Count the time that has passed in this boot; of another one nothing is known."""
        boot, now_s = _now()
        since_s = max(self.seen_s, _attached_s())
        passed_s = now_s - since_s if boot == self.boot else 0
        counted_s = self.counted_s + max(0, passed_s)
        return replace(self, counted_s=counted_s, boot=boot, seen_s=now_s)


_DELETION = Record(
    _Deletion,
    name=Field("name", records.text),
    share=Field("share", parse_share_name),
    keep_s=Field("keep_s", records.number),
    counted_s=Field("counted_s", records.number),
    boot=Field("boot", records.text),
    seen_s=Field("seen_s", records.number),
    placement=Field("placement", records.PLACEMENT.read, records.PLACEMENT.write),
)
# A placement that can't be read is none.
_NEEDED = ("name", "share", "keep_s", "counted_s", "boot", "seen_s")


def _now() -> tuple[str, int]:
    """Tell the time: which boot it is, and for how many seconds the machine has run since."""
    return BOOT_ID.read_text().strip(), int(time.clock_gettime(time.CLOCK_MONOTONIC))


def read(directory: Path, application: str, found: Found) -> Found:
    """Look at a storage for an application's deleted shares, besides the images found there.

    Reads regular files only: runs no command, changes nothing, and fails on nothing.
    """
    kept: dict[str, DeletedShare] = {}
    restored: dict[str, Restored] = {}
    foreign: list[Path] = []
    for path in _files(directory, ".deleted"):
        try:
            share = _read_deleted(path, application)
            if kept.setdefault(share.image.name, share) is not share:
                raise ValueError("another one of that name is kept")
        except (OSError, ValueError):
            foreign.append(path)
    for path in _files(directory, ".json"):
        with contextlib.suppress(OSError, ValueError):
            restored |= _read_restored(path, application, found)
    return replace(found, deleted=kept, restored=restored, foreign=(*found.foreign, *foreign))


def _files(directory: Path, suffix: str) -> list[Path]:
    """Find the images of deleted shares by their names, or what stands beside them."""
    with os.scandir(directory) as entries:
        names = [it.name for it in entries if it.name.endswith(suffix)]
    return [directory / name for name in sorted(names) if _NAME.fullmatch(name)]


def _read_deleted(path: Path, application: str) -> DeletedShare:
    """Read a deleted share.

    Raises:
        OSError, ValueError: it is none of this application's.
    """
    stem, _, there = path.stem.partition(".")
    identity, image = images.identify(path, stem, application)
    if identity.uuid != there:
        raise ValueError("another one's name")
    deletion = _read_deletion(identity)
    now = deletion.counted()
    left_s = deletion.keep_s - now.counted_s
    is_old = deletion.boot != now.boot or now.seen_s - deletion.seen_s >= COUNT_EVERY_S
    return DeletedShare(
        image,
        deletion=deletion.name,
        day=_day(left_s),
        is_past=left_s <= 0,
        is_count_old=is_old,
    )


def _day(left_s: int) -> str:
    """Name the day, in UTC, that is in so many seconds."""
    now = datetime.now(timezone.utc)
    return (now + timedelta(seconds=max(0, left_s))).date().isoformat()


def _read_deletion(identity: Identity) -> _Deletion:
    """Read how long a share is to be kept.

    Raises:
        ValueError: not all of that is there; what is missing must not count as nothing.
    """
    plain = records.members(identity.extra.get(_KEY))
    deletion = _DELETION.read(plain)
    whole = _DELETION.write(deletion, is_whole=True)
    is_whole = all(plain.get(key) == whole[key] for key in _NEEDED)
    if not is_whole or not deletion.name or not 0 < deletion.keep_s <= MAX_KEEP_S:
        raise ValueError("no deletion")
    return deletion


def _read_record(path: Path, application: str) -> tuple[Identity, _Deletion]:
    """Read what stands beside the image of a deleted share, or is left of one.

    Raises:
        OSError, ValueError: it is none of this application's.
    """
    identity = images.read_identity(path, path.stem.partition(".")[0])
    if not identity or not identity.is_of(application):
        raise ValueError("another application's")
    return identity, _read_deletion(identity)


def _read_restored(path: Path, application: str, found: Found) -> dict[str, Restored]:
    """Read what is left of a deletion whose share is a share again."""
    if os.path.lexists(path.with_suffix(".deleted")):
        return {}
    identity, deletion = _read_record(path, application)
    image = found.images.get(deletion.share)
    if image is None or image.uuid != identity.uuid:
        return {}
    return {image.name: Restored(image.uuid, deletion.name, deletion.placement, path)}


def keep(image: Image, placement: Placement, keep_s: int) -> str:
    """Keep the image of a deleted share, which is not mounted any more, for so many seconds.

    Returns:
        The day on which it goes, as it looks now.

    Raises:
        ImagesError: it can't be kept, and is as it was.
    """
    kept = image.path.with_name(f"{image.path.stem}.{image.uuid}.deleted")
    with _failing(image.name):
        _refuse_if_there(kept)
        identity = images.read_identity(image.path, image.path.stem)
        if identity is None:
            raise ValueError(f"{image.path.with_suffix('.json')} can't be read")
        deletion = _Deletion(secrets.token_hex(8), image.name, keep_s, placement=placement)
        _forget_earlier(kept, image.uuid)
        try:
            _write(kept, identity, deletion.counted())
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            raise ValueError(
                "the storage is full: run purge-share, or set keep-deleted=0 and try again"
            ) from error
        _rename(image.path, kept)
        image.path.with_suffix(".json").unlink(missing_ok=True)
        machine.sync(kept.parent)
    return _day(keep_s)


def _forget_earlier(kept: Path, uuid: str) -> None:
    """Remove what is left of earlier deletions of a share, under the names that it had.

    It is a share that the leader has recorded, so each was taken back.
    """
    for path in _files(kept.parent, f".{uuid}.json"):
        if path != kept.with_suffix(".json") and not os.path.lexists(path.with_suffix(".deleted")):
            path.unlink()


def restore(share: DeletedShare, name: str, application: str) -> None:
    """Make a deleted share a share again, perhaps of another name. It is not mounted yet.

    Raises:
        ImagesError: it can't be restored, and is as it was.
    """
    kept = share.image.path
    image = images.image_path(kept.parent, name)
    with _failing(name):
        _refuse_if_there(image)
        identity, deletion = _read_record(kept.with_suffix(".json"), application)
        _write(kept, identity, replace(deletion, share=name))
        extra = {key: value for key, value in identity.extra.items() if key != _KEY}
        images.write_identity(image, replace(identity, name=name, extra=extra))
        _rename(kept, image)


def resume() -> None:
    """Go on counting from now: the storage was attached, and the time stood still before.

    Not written on the storage, which may be full.
    """
    machine.write_atomically(ATTACHED, f"{_now()[1]}\n")


def _attached_s() -> int:
    """Tell when in this boot the storage was attached; 0: before it."""
    try:
        return int(ATTACHED.read_text())
    except FileNotFoundError:
        return 0


def count(share: DeletedShare, application: str) -> None:
    """Write for how long a deleted share was kept.

    Raises:
        ImagesError: it can't be written; it is counted from what was written before.
    """
    kept = share.image.path
    with _failing(share.image.name):
        identity, deletion = _read_record(kept.with_suffix(".json"), application)
        _write(kept, identity, deletion.counted())


def _refuse_if_there(path: Path) -> None:
    if os.path.lexists(path):
        raise ValueError(f"{path} is there: move it off the storage")


def _rename(path: Path, to: Path) -> None:
    """Delete or restore a share."""
    path.rename(to)
    machine.sync(to.parent)


def _write(kept: Path, identity: Identity, deletion: _Deletion) -> None:
    plain = _DELETION.write(deletion, is_whole=True)
    images.write_identity(kept, replace(identity, extra={**identity.extra, _KEY: plain}))


@contextlib.contextmanager
def _failing(name: str) -> Generator[None, None, None]:
    with machine.failing_as(ImagesError, f"share {name}"):
        try:
            yield
        except ValueError as error:
            raise ImagesError(f"share {name}: {error}") from error


def remove_unfinished(directory: Path, application: str) -> None:
    """Remove what a killed hook or action has left beside images: none of them is touched."""
    for path in _files(directory, ".json"):
        with contextlib.suppress(OSError, ValueError):
            identity, deletion = _read_record(path, application)
            # Where that image is not, it may come back, and is nobody's without its record.
            if os.path.lexists(path.with_suffix(".deleted")):
                for name in {identity.name, deletion.share}:
                    images.remove_identity(images.image_path(directory, name), identity.uuid)


def forget(restored: Restored) -> None:
    """Remove what is left of a deletion whose share is recorded as a share again."""
    with contextlib.suppress(OSError):  # The next hook tries again.
        restored.record.unlink()

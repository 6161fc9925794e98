# SPDX-License-Identifier: Apache-2.0
"""Makes a unit's images be as they are to be: mounted, made, grown, taken back. No ops.

What fails is noted with its share, and no reason not to serve the others.
"""

import contextlib
import logging
from collections.abc import Generator, Mapping
from pathlib import Path

import deleted
import exports
import images
import mounts
import plan
import room
from placement import Snapshot
from plan import Plan, Use
from reading import Reader
from values import DeletedShare, Export, Image

logger = logging.getLogger(__name__)


def ensure_images(reader: Reader, directory: Path, failures: dict[str, str]) -> str:
    """Have this unit's images whole and mounted; make, grow and take back.

    Returns:
        Why nothing can be mounted.
    """
    images.note_mounted(directory)
    if images.remove_unfinished(directory):
        reader.forget()
    snapshot, decided = reader.read()
    is_changed = _keep_deleted(reader, directory, snapshot, decided)
    is_mounted, not_mounted = _mount(directory, decided.images)
    is_changed |= is_mounted
    for image in room.reservable(snapshot.storage, decided.images.values()):
        logger.warning("share %s: some of its space was freed: reserving it", image.name)
        with _noting({}, image.name):  # It is its `problem`.
            images.reserve(image)
        is_changed = True  # There is less room now.
    for image in decided.unused:
        is_changed |= _delete_unused(image)
    if is_changed:
        _, decided = reader.read(anew=True)
    there = {**decided.images}
    for work in decided.work:
        with _noting(failures, work.name):
            if image := there.get(work.name):
                there[work.name] = images.grow(image, work)
            else:
                there[work.name] = images.make(directory, work, reader.application)
    if decided.work:
        _, not_mounted = _mount(directory, there)
        reader.forget()
    return not_mounted


def _keep_deleted(reader: Reader, directory: Path, snapshot: Snapshot, decided: Plan) -> bool:
    """Count how long deleted shares are kept, and delete what is past; say if any of it was."""
    found, application = snapshot.found, reader.application
    deleted.remove_unfinished(directory, application)
    recorded = {it.restored for it in reader.recorded.values()}
    taken_back = [it for it in found.restored.values() if it.deletion in recorded]
    for restored in taken_back:
        deleted.forget(restored)
    uncounted = [
        it for it in found.deleted.values() if it.is_count_old and it not in decided.expired
    ]
    for share in uncounted:
        with _noting({}, share.image.name):  # It is kept for longer then.
            deleted.count(share, application)
    ended = [_delete_expired(it) for it in decided.expired]
    return any(ended) or bool(taken_back or uncounted)


def _mount(directory: Path, there: Mapping[str, Image]) -> tuple[bool, str]:
    """Have images mounted; whether that changed anything, and why it can't be done."""
    try:
        return mounts.ensure_mounted(directory, there.values()), ""
    except mounts.MountsError as error:
        logger.error("%s", error)
        return False, str(error)


def _delete_unused(image: Image) -> bool:
    """Delete an image that was made for a share that is elsewhere after all."""
    use = Use(is_unused=True, is_empty=images.is_empty(image))
    if reason := plan.why_keep(image, use):
        logger.warning("%s, so it is kept though the share is elsewhere", reason)
        return False
    with _noting({}, image.name):
        # Its share was placed here for a moment, and nobody has mounted or filled it.
        mounts.unmount(image, exports.flush)
        images.delete(image)
        return True
    return False


def _delete_expired(share: DeletedShare) -> bool:
    """Delete the image of a share that was deleted as many days ago as it is kept."""
    users = tuple(f"in use here by {it}" for it in mounts.users(share.image))
    if reason := plan.why_keep(share.image, Use(is_expired=True, clients=users)):
        logger.warning("%s", reason)
        return False
    with _noting({}, share.image.name):
        images.delete(share.image)
        logger.info("share %s: deleted, and kept until %s", share.image.name, share.day)
        return True
    return False


def set_permissions(reader: Reader, failures: dict[str, str]) -> None:
    """Give shares the owner and mode that are asked for, before clients see them."""
    _, decided = reader.read()
    for name, asked in decided.permissions.items():
        with _noting(failures, name):
            images.set_permissions(decided.images[name], asked)
    if decided.permissions:
        reader.forget()


def note_served(reader: Reader, failures: dict[str, str]) -> list[Export]:
    """Note, before the first export, that there may be data in images from now on.

    Returns:
        What can be exported.
    """
    _, decided = reader.read()
    served: list[Export] = []
    for name, export in decided.exports.items():
        with _noting(failures, name):
            if not decided.images[name].is_served:
                images.note_served(decided.images[name])
            served.append(export)
    return served


@contextlib.contextmanager
def _noting(failures: dict[str, str], name: str) -> Generator[None, None, None]:
    """Go on where something fails with a share's image, and note why."""
    try:
        yield
    except (images.ImagesError, mounts.MountsError) as error:
        logger.error("%s", error)
        failures[name] = str(error)

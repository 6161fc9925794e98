# SPDX-License-Identifier: Apache-2.0
"""One share taken out of service by an operator: to delete it, or to check its file system.

And what becomes of one that was deleted.
"""

from dataclasses import replace

import deleted
import exports
import images
import mounts
import nfs
import plan
from nfs import Holder
from plan import Plan, Use
from reconciler import Reconciler
from values import DeletedShare, Image, share_directory


class RefusedError(Exception):
    """Something can't be done as it was asked for; the message says why."""


def delete_share(server: Reconciler, image: Image, *, ignore_nfsv3: bool) -> str:
    """Delete a share, as an operator confirmed; also if clients have it by NFSv3, if told.

    Returns:
        The day until which it can be restored; empty: it can't.

    Raises:
        RefusedError: somebody has it.
        MountsError: it is in use on this machine.
        ImagesError: it can't be deleted.
        ExportsError: its access can't be taken away.
    """
    reader = server.reader
    snapshot, decided = reader.read()
    use = Use(
        is_confirmed=True,
        applications=snapshot.applications(image.name),
        clients=_find_clients(image, decided, ignore_nfsv3=ignore_nfsv3),
    )
    if reason := plan.why_keep(image, use):
        raise RefusedError(reason)
    keep_s = reader.settings.keep_deleted_days * deleted.DAY_S
    if keep_s and image.name in snapshot.found.deleted:
        raise RefusedError(
            f"share {image.name}: an earlier one is kept: run purge-share, or restore-share with"
            " another name, first"
        )
    _refuse_if_used_here(image)
    others = [it for it in decided.exports.values() if it.name != image.name]
    try:
        exports.ensure(others, reader.settings.squash, paused=decided.covered)
        nfs.expire(filter(_is_gone, nfs.holders(share_directory(image.name))))
        # An operator confirmed it, and nobody has it any more.
        mounts.unmount(image, exports.flush)
        day = ""
        if keep_s:
            day = deleted.keep(image, snapshot.placement(image.name), keep_s)
        else:
            images.delete(image)
        own = snapshot.own_report
        reader.peers.write_report(replace(own, deleted=(*own.deleted, image.uuid)))
        return day
    finally:
        server.run()


def restore_share(server: Reconciler, share: DeletedShare, name: str) -> None:
    """Have a deleted share be a share again, under its name or another.

    Raises:
        RefusedError: the name is another's; or somebody on this machine uses the image.
        ImagesError: it can't be restored.
    """
    snapshot, _ = server.reader.read()
    before, placed = share.image.name, snapshot.placement(name)
    is_recorded = all(it.uuid != share.image.uuid for it in snapshot.committed.values())
    if name != before and not is_recorded:
        raise RefusedError(f"share {before}: its deletion is not recorded yet: try again")
    if name in snapshot.found.images or (placed.unit and placed.uuid != share.image.uuid):
        raise RefusedError(f"share {name} exists: give the deleted one another name, name=/other")
    if name != before and any(name in it.restorable for it in snapshot.reports.values()):
        raise RefusedError(f"share {name}: a deleted one has that name: use another, name=/other")
    _refuse_if_used_here(share.image)
    try:
        deleted.restore(share, name, server.reader.application)
    finally:
        server.run()


def purge_share(server: Reconciler, share: DeletedShare) -> None:
    """Delete what is kept of a deleted share, as an operator confirmed.

    Raises:
        RefusedError: somebody on this machine uses the image.
        ImagesError: it can't be deleted.
    """
    if reason := plan.why_keep(share.image, Use(is_confirmed=True)):
        raise RefusedError(reason)
    _refuse_if_used_here(share.image)
    try:
        # What is kept says alone that it was deleted, if delete-share was killed.
        snapshot, _ = server.reader.read()
        server.reader.peers.write_report(snapshot.own_report)
        images.delete(share.image)
    finally:
        server.run()


def check_share(server: Reconciler, image: Image, *, repair: bool) -> tuple[bool, str]:
    """Check the file system of a share, while its clients wait.

    Returns:
        Whether it is in order now, and what e2fsck said.

    Raises:
        RefusedError: a client would get an error, not just wait.
        MountsError: it is in use on this machine.
        ImagesError: the check did not end.
        ExportsError: its clients can't be made to wait.
    """
    _, decided = server.reader.read()
    _refuse_if_used_here(image)
    _find_holders(image)
    squash = server.reader.settings.squash
    try:
        paused = image.name, *decided.covered
        exports.ensure(decided.exports.values(), squash, paused=paused)
        # Until then they could lock more. They come back, wait, and get back what they had open.
        nfs.expire(_find_holders(image))
        mounts.unmount(image, exports.flush)
        return images.check(image, repair=repair)
    finally:
        server.run()  # Mounts and exports it again.


def _find_holders(image: Image) -> tuple[Holder, ...]:
    """Find the clients that have files of a share open, and lose nothing if they open them again.

    Raises:
        RefusedError: one would lose a lock.
    """
    holders = nfs.holders(share_directory(image.name))
    losers = [f"{it.address} holds a lock" for it in holders if it.has_locks and not it.is_silent]
    losers += [f"{it.address} has files of other shares open" for it in holders if it.is_elsewhere]
    if reason := plan.why_busy(image.name, losers):
        raise RefusedError(reason)
    return holders


def _refuse_if_used_here(image: Image) -> None:
    if users := mounts.users(image):
        raise RefusedError(
            f"share {image.name} is in use on this machine by {', '.join(users)}: end that"
        )


def connected(name: str, decided: Plan) -> list[str]:
    """Find the connected clients that may mount a share: which of theirs they did isn't told."""
    networks = decided.exports[name].networks if name in decided.exports else ()
    return [str(it) for it in nfs.read_clients(networks)]


def _is_gone(holder: Holder) -> bool:
    """Whether a client is silent, and would lose nothing of other shares."""
    return holder.is_silent and not holder.is_elsewhere


def _find_clients(image: Image, decided: Plan, *, ignore_nfsv3: bool) -> tuple[str, ...]:
    """Find the clients that have a share, and how."""
    where = share_directory(image.name)
    by_nfsv3 = () if ignore_nfsv3 else nfs.nfsv3_clients(where)
    return (
        *(f"{it} is connected" for it in connected(image.name, decided)),
        *(f"{it.address} has files of it open" for it in nfs.holders(where) if not _is_gone(it)),
        *(f"{it} has it by NFSv3 (ignore-nfsv3=true if not)" for it in by_nfsv3),
    )

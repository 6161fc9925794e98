# SPDX-License-Identifier: Apache-2.0
"""One unit's rules: what it has to make, to serve and to take away; and what it says. No I/O.

Two questions are answered here and nowhere else: may this image be deleted (`why_keep`), and
which image is the share of a name (`Plan.images`).
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import placement
import room
from charms.storage_libs.v0.nfs_interfaces import Network, Permissions, sorted_networks
from placement import Snapshot
from values import (
    DeletedReport,
    DeletedShare,
    Export,
    Image,
    Placement,
    Placements,
    Report,
    ShareReport,
    Wanted,
    Work,
)

Access = tuple[tuple[Network, ...], tuple[Network, ...], str]
"""Who may mount a share, who of them may only read, and whose files they write."""


@dataclass(frozen=True)
class Plan:
    """What follows for the unit."""

    images: Mapping[str, Image]
    """The images here that are the shares of their names."""
    work: tuple[Work, ...]
    """What is to be made and to be grown."""
    refusals: Mapping[str, str]
    """Why shares of this unit can't be as large as they are requested by whose they are."""
    unused: tuple[Image, ...]
    """Made here for shares that are other images for sure, and never exported."""
    misplaced: tuple[str, ...]
    """Shares that are elsewhere and of which another image is here."""
    missing: tuple[str, ...]
    """Shares that were made here, and whose images are not here any more."""
    exports: Mapping[str, Export]
    too_many: Mapping[str, str] = field(default_factory=dict[str, str])
    """Why not all clients are admitted that are requested by whose shares are."""
    left_out: Mapping[str, str] = field(default_factory=dict[str, str])
    """Why not all clients are admitted that others request shares for."""
    permissions: Mapping[str, Permissions] = field(default_factory=dict[str, Permissions])
    """Owner and mode of shares that are asked for and were not set so before."""
    copies: tuple[Image, ...] = ()
    """Copies of images that are shares, which are on this storage or another."""
    returned: Mapping[str, str] = field(default_factory=dict[str, str])
    """Shares that were deleted, and whose images have come back from elsewhere: what to do."""
    expired: tuple[DeletedShare, ...] = ()
    """Deleted shares that were kept for as long as they were to be."""

    @property
    def covered(self) -> tuple[str, ...]:
        """Shares in whose place something else is mounted, which would be served instead."""
        return tuple(name for name, image in self.images.items() if image.is_covered)


def decide(snapshot: Snapshot, max_entries: int) -> Plan:
    """Decide what a unit has to do, exporting to so many clients and networks at most."""
    unit, placements, found = snapshot.unit, snapshot.placements, snapshot.found.images
    wanted = snapshot.wanted
    returned = _returned(snapshot)
    images = {
        name: image
        for name, image in found.items()
        if placement.is_placed(placements.get(name), unit, image.uuid) and name not in returned
    }
    others = [image for name, image in sorted(found.items()) if name not in images]
    own = {
        name: share
        for name, share in wanted.items()
        if (it := placements.get(name)) and it.unit == unit and (not it.uuid or name in images)
    }
    deleted = snapshot.found.deleted_images
    work, refusals = room.plan_work(own, images, snapshot.storage, deleted)
    exports, too_many, left_out = _exports(snapshot, images, max_entries)
    return Plan(
        images=images,
        work=work,
        refusals=refusals,
        too_many=too_many,
        left_out=left_out,
        unused=tuple(it for it in others if _is_unused(it, snapshot)),
        misplaced=tuple(
            it.name
            for it in others
            if placement.is_misplaced(placements.get(it.name), unit, it.uuid)
        ),
        copies=tuple(it for it in others if _is_copy(it, snapshot)),
        returned=returned,
        missing=tuple(
            name
            for name, it in sorted(placements.items())
            if it.unit == unit and it.uuid not in {"", *snapshot.deleted} and name not in images
        ),
        exports=exports,
        permissions=dict(_permissions(placements, images)),
        expired=tuple(
            it
            for it in snapshot.found.deleted.values()
            if it.is_past and not _is_share(it.image, snapshot)
        ),
    )


def _permissions(
    placements: Placements, images: Mapping[str, Image]
) -> Iterator[tuple[str, Permissions]]:
    """Find what is asked anew: what clients change after it was set stays as they have it."""
    for name, image in images.items():
        asked = placements[name].permissions
        asked = Permissions(owner=asked.owner, mode=asked.mode)
        if image.is_mounted and asked != image.permissions:
            yield name, asked


def _is_share(image: Image, snapshot: Snapshot) -> bool:
    """Whether an image is a share by any word of the leader's."""
    shares = (*snapshot.placements.values(), *snapshot.committed.values())
    return any(it.uuid == image.uuid for it in shares)


def _returned(snapshot: Snapshot) -> dict[str, str]:
    """Find the images of shares that were deleted and not restored since, and say what to do."""
    found, gone, placements = snapshot.found, snapshot.gone, snapshot.placements
    return {
        name: f"share {name}: deleted, and its image is on {snapshot.unit} again: run"
        " restore-share or purge-share there"
        for name, image in found.images.items()
        if image.uuid in gone and not _is_share(image, snapshot)
        if not (name in found.restored and found.restored[name].deletion not in gone)
        if not placement.is_misplaced(placements.get(name), snapshot.unit, image.uuid)
    }


def _is_copy(image: Image, snapshot: Snapshot) -> bool:
    """Whether the file system of an image is a share's that is somewhere else, as is said there.

    Else the image may be the share itself, come with its storage.
    """
    for name, it in snapshot.placements.items():
        if it.uuid == image.uuid and (name, it.unit) != (image.name, snapshot.unit):
            is_here = it.unit == snapshot.unit
            said = snapshot.found.images.get(name) if is_here else snapshot.reported(name)
            return said is not None and said.uuid == image.uuid
    return False


def _is_unused(image: Image, snapshot: Snapshot) -> bool:
    """Whether its share is another image for sure: while none is committed, it may become it."""
    is_another = snapshot.committed.get(image.name, Placement()).uuid != ""
    return is_another and not (_is_share(image, snapshot) or image.is_served)


def _exports(
    snapshot: Snapshot, images: Mapping[str, Image], max_entries: int
) -> tuple[dict[str, Export], dict[str, str], dict[str, str]]:
    """Find what is exported, and what is not, as exportfs would take too long with it.

    What is exported stays so, whatever is requested for other shares.

    Returns:
        The exports; why what whose a share is requests is not; why what others do.
    """
    wanted = {
        name: share
        for name, share in snapshot.wanted.items()
        if name in images and _is_committed(images[name], snapshot) and share.networks
    }
    kept = {name: _kept(snapshot, images[name], share) for name, share in wanted.items()}
    # Of an older revision, which knew no limit, there may be more.
    left = max(0, max_entries - sum(map(len, kept.values())))
    exports: dict[str, Export] = {}
    refusals: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for name, share in wanted.items():
        networks, readers = share.networks, share.readers
        if (more := len(networks) - len(kept[name])) > left and share.own_networks:
            # Others that have a share must not keep it from whose it is.
            left_out[name] = too_many(name, more, max_entries)
            own = [(it, it in share.own_readers) for it in share.own_networks]
            networks, readers = placement.divide([*own, *_with_rights(kept[name], share)])
        if (more := len(networks) - len(kept[name])) > left:
            refusals[name] = too_many(name, more, max_entries)
            networks, more = kept[name], 0
            readers = tuple(it for it, is_reading in _with_rights(networks, share) if is_reading)
        left -= more
        if networks:
            permissions = snapshot.placement(name).permissions
            exports[name] = Export(name, images[name].uuid, networks, readers, permissions)
    return dict(sorted(exports.items())), refusals, left_out


def _kept(snapshot: Snapshot, image: Image, share: Wanted) -> tuple[Network, ...]:
    """Find to whom a share is exported by now, as this unit said last, and is to be still.

    It may take other networks to say so. It takes no more of them: that would be a request.
    """
    said = snapshot.own_report.shares.get(image.name, ShareReport())
    if said.uuid != image.uuid:
        return ()
    exported = {*placement.without(said.networks, said.readers), *said.readers}
    if exported == {*share.networks}:
        return share.networks
    still = {it for it in share.networks if _is_within(it, exported)}
    grown = {*share.networks} - still
    still |= {it for it in exported if _is_within(it, grown)}
    same = exported & {*share.networks}
    others = sorted_networks(still - same)
    return sorted_networks({*same, *others[: len(exported) - len(same)]})


def _with_rights(networks: Iterable[Network], share: Wanted) -> list[tuple[Network, bool]]:
    """Say of each of a share's networks, or part of one, whether it may only read."""
    readers = {*share.readers}
    writers = {*share.networks} - readers
    return [(it, _is_within(it, readers) and not _is_within(it, writers)) for it in networks]


def _is_within(network: Network, others: Collection[Network]) -> bool:
    """Whether a network is one of others or lies in one, of which there may be thousands."""
    lengths = range(network.prefixlen, -1, -1)
    return any(network.supernet(new_prefix=length) in others for length in lengths)


def _is_committed(image: Image, snapshot: Snapshot) -> bool:
    return snapshot.committed.get(image.name, Placement()).uuid == image.uuid


def too_many(name: str, count: int, max_entries: int) -> str:
    """Say that a share has so many addresses and networks more than can be exported."""
    return (
        f"share {name}: {count} more addresses and networks, and nfs-server exports to"
        f" {max_entries} at most: use networks instead of addresses"
    )


@dataclass(frozen=True)
class Use:
    """What speaks for and against an image being deleted."""

    is_confirmed: bool = False
    """An operator ran delete-share or purge-share and confirmed it."""
    is_expired: bool = False
    """It is one of `Plan.expired`."""
    is_unused: bool = False
    """It is one of `Plan.unused`."""
    is_empty: bool = False
    """Its file system was looked into, and holds nothing."""
    applications: tuple[str, ...] = ()
    """Which ask for it."""
    clients: tuple[str, ...] = ()
    """Which are connected and may mount it, or hold files of it open, or mounted it by NFSv3."""


def why_keep(image: Image, use: Use) -> str:
    """Say why an image must not be deleted; empty if it may. The one place where that is decided.

    An event may only take back what the charm made and nobody can have used, and end what an
    operator deleted as many days ago as it is kept. All else takes an operator's word, and that
    nobody has the share.
    """
    if not (use.is_confirmed or use.is_expired):
        is_nobodys = use.is_unused and use.is_empty and not image.is_served
        return "" if is_nobodys else f"share {image.name}: it may hold data"
    if use.applications:
        applications = ", ".join(use.applications)
        return f"share {image.name} is requested by {applications}: remove that integration first"
    return why_busy(image.name, use.clients)


def why_busy(name: str, clients: Iterable[str]) -> str:
    """Say which clients keep a share from being taken away; empty: none does."""
    if not (clients := tuple(clients)):
        return ""
    return (
        f"share {name}: {', '.join(clients)}; unmount it there, or end its access and what uses it"
    )


def deleted_here(snapshot: Snapshot) -> tuple[str, ...]:
    """Find which shares this unit deleted, of those that are not here and should be: their UUIDs.

    Of an action that was killed, what it kept says so.
    """
    here = {image.uuid for image in snapshot.found.images.values()}
    missing = {it.uuid for it in snapshot.committed.values() if it.unit == snapshot.unit} - here
    kept = (image.uuid for image in snapshot.found.deleted_images)
    said = dict.fromkeys((*snapshot.own_report.deleted, *kept))
    return tuple(uuid for uuid in said if uuid in missing)


def failed_before(snapshot: Snapshot, plan: Plan) -> dict[str, str]:
    """Find why work failed in an earlier hook that is still to be done."""
    said = snapshot.own_report.shares
    left = [*(work.name for work in plan.work), *plan.permissions]
    return {name: said[name].refusal for name in left if name in said and said[name].refusal}


def report(
    snapshot: Snapshot,
    plan: Plan,
    failures: Mapping[str, str],
    exported: Mapping[str, Export] | None,
    not_exported: str = "",
) -> Report:
    """Say what this unit has, but for its addresses.

    Args:
        snapshot: what the unit read, after it did its work.
        plan: what followed from it.
        failures: why work on shares failed.
        exported: what is exported for sure. None: what this unit said last.
        not_exported: why that is not what was planned.
    """
    first = first_report(snapshot)
    names = {*first.shares, *plan.refusals, *plan.too_many, *failures}
    shares = {name: _share_report(name, snapshot, plan, failures) for name in sorted(names)}
    for name, share in shares.items():
        if name in plan.images and plan.images[name].is_mounted:
            said = _said(name, share, snapshot)
            access = said if exported is None else _access(exported.get(name))
            is_planned = not not_exported or access == _access(plan.exports.get(name))
            error = "" if is_planned else f"share {name}: {not_exported}"
            shares[name] = _with_access(share, access, error)
    return replace(first, shares=shares, foreign=snapshot.found.foreign_names)


def _share_report(
    name: str, snapshot: Snapshot, plan: Plan, failures: Mapping[str, str]
) -> ShareReport:
    image = snapshot.found.images.get(name)
    reasons = (it.get(name, "") for it in (plan.refusals, plan.too_many, failures))
    refusal = placement.joined(*reasons)
    if image is None:
        return ShareReport(refusal=refusal)
    if name not in plan.images:
        return ShareReport(image.uuid, image.size, plan.returned.get(name, ""))
    return ShareReport(
        image.uuid,
        image.size,
        refusal,
        f"share {name}: {image.problem}" if image.problem else "",
        permissions=image.permissions,
        left_out=plan.left_out.get(name, ""),
    )


def _access(export: Export | None) -> Access:
    """Say who may mount a share, in as few words as it takes: not each by what it may do."""
    if export is None:
        return (), (), ""
    return placement.collapsed(export.networks), export.readers, export.permissions.squash


def _said(name: str, share: ShareReport, snapshot: Snapshot) -> Access:
    """Find what this unit said last of who may mount a share, perhaps under another name."""
    shares = snapshot.own_report.shares
    for said in (shares.get(name, ShareReport()), *shares.values()):
        if said.uuid == share.uuid:
            return said.networks, said.readers, said.permissions.squash
    return (), (), ""


def _with_access(share: ShareReport, access: Access, error: str) -> ShareReport:
    networks, readers, squash = access
    return replace(
        share,
        networks=networks,
        readers=readers,
        permissions=replace(share.permissions, squash=squash),
        error=placement.joined(share.error, error),
    )


def first_report(snapshot: Snapshot) -> Report:
    """Say what a unit has, before it is decided what it is to have."""
    images = snapshot.found.images
    returned = _returned(snapshot)
    shares = {
        name: ShareReport(image.uuid, image.size, returned.get(name, ""))
        for name, image in images.items()
    }
    known = {*snapshot.deleted, *(image.uuid for image in images.values())}
    missing = report_of_missing(snapshot.unit, snapshot.committed, known)
    return Report(
        free=room.free_gib(snapshot.storage, snapshot.found.all_images),
        is_on_root=snapshot.storage.is_root,
        is_unable=snapshot.is_unable,
        shares={**missing, **shares},
        deleted=snapshot.deleted,
        restorable={
            name: DeletedReport(it.image.uuid, it.image.size, it.day, it.deletion)
            for name, it in snapshot.found.deleted.items()
        },
        restored=snapshot.found.restored,
    )


def report_of_missing(
    unit: str, placements: Placements, known: Collection[str]
) -> dict[str, ShareReport]:
    """Say of the shares that were made on a unit that their images are not here.

    Args:
        unit: whose shares.
        placements: what the leader has decided.
        known: UUIDs of those of which something else is said.
    """
    return {
        name: ShareReport()
        for name, it in placements.items()
        if it.unit == unit and it.uuid not in {"", *known}
    }

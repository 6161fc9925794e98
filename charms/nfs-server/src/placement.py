# SPDX-License-Identifier: Apache-2.0
"""Which unit has which share: values, and the rules of several units. No I/O, no ops.

The leader decides, from what its units report; what it has decided is committed with its hook. A
unit makes the shares that are placed on it, and exports one only once the leader has recorded
which image it is (its UUID). Until then a placement may still change, for nobody can have written
to the image. From then on it follows the image, wherever that is, and nothing else.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from charms.storage_libs.v0.nfs_interfaces import (
    Endpoint,
    Network,
    Share,
    ShareRequest,
    sorted_networks,
)
from shares import Wanted, is_less, largest, share_directory, shown

NOT_HERE = "its image is not here; attach the storage that holds it"


@dataclass(frozen=True)
class Placement:
    """What is decided of one share."""

    owner: str = ""
    """The unit that has it; empty while no unit has room."""
    uuid: str = ""
    """That of its image, once the owner has reported it: the share was made."""
    by_hand: bool = False
    """It was created by an action, and exists without an integration."""
    size: int | None = 0
    """GiB that an action gave it, the least that it must have; None: no limit."""
    grants: tuple[Network, ...] = ()
    """Who may mount it by an action."""
    slips: tuple[int, ...] = ()
    """Integrations that have it, and whose request names nothing that can be read now."""


@dataclass(frozen=True)
class ShareReport:
    """What a unit says of one share."""

    uuid: str = ""
    """That of its image; empty: it is not here (yet)."""
    size: int | None = 0
    """GiB; None: no limit."""
    error: str = ""
    """Why it is not as it was asked for."""
    networks: tuple[Network, ...] = ()
    """To whom it is exported by now."""


@dataclass(frozen=True)
class Report:
    """What a unit says to the others."""

    free: int = 0
    """GiB that it can still promise."""
    shares: Mapping[str, ShareReport] = field(default_factory=dict[str, ShareReport])
    addresses: Mapping[int, str] = field(default_factory=dict[int, str])
    """Where the clients of each integration reach it, for those whose share it has."""
    foreign: tuple[str, ...] = ()
    """Names of image files on its storage that are no shares of this application."""
    deleted: tuple[str, ...] = ()
    """UUIDs of the shares that it has deleted and that still have a placement."""


@dataclass(frozen=True)
class Decision:
    """Where shares are to be, and why some are nowhere."""

    placements: Mapping[str, Placement]
    refusals: Mapping[str, str]


@dataclass(frozen=True)
class Answer:
    """What a client is told."""

    endpoint: Endpoint | None = None
    size: int | None = None
    error: str = ""
    admitted: tuple[Network, ...] = ()


Placements = Mapping[str, Placement]
Reports = Mapping[str, Report]


def without_deleted(placements: Placements, reports: Reports) -> dict[str, Placement]:
    """Leave out the shares that their units have deleted."""
    return {
        name: it
        for name, it in placements.items()
        if it.uuid not in _report(reports, it.owner).deleted
    }


def note_slips(
    placements: Placements, requests: Iterable[ShareRequest], told: Mapping[int, Share]
) -> dict[str, Placement]:
    """Note which share the clients have whose request names none that can be read.

    The leader knows it from the endpoint that they were given; the other units can't read that.
    """
    slips: dict[str, list[int]] = {}
    for request in requests:
        endpoint = told[request.integration_id].endpoint
        if endpoint and not request.name:
            slips.setdefault(endpoint.path, []).append(request.integration_id)
    return {
        name: replace(placement, slips=tuple(slips.get(str(share_directory(name)), ())))
        for name, placement in placements.items()
    }


def with_names(
    requests: Iterable[ShareRequest], placements: Placements
) -> tuple[ShareRequest, ...]:
    """Give requests that name no share the one that they have."""
    names = {it: name for name, placement in placements.items() for it in placement.slips}
    return tuple(
        request if request.name else replace(request, name=names.get(request.integration_id, ""))
        for request in requests
    )


def wanted(requests: Iterable[ShareRequest], placements: Placements) -> dict[str, Wanted]:
    """Find what each share shall be: by all that ask for it, and by hand.

    In the order in which they get room: that of the integrations, then those made by hand.
    """
    groups: dict[str, list[ShareRequest]] = {}
    for request in sorted(requests, key=lambda request: request.integration_id):
        if request.name:
            groups.setdefault(request.name, []).append(request)
    found: dict[str, Wanted] = {}
    for name in [*groups, *sorted(placements.keys() - groups.keys())]:
        group, placement = groups.get(name, []), placements.get(name, Placement())
        # A request with an error in it asks for nothing new; see ShareRequest.
        sizes = [placement.size, *(request.size for request in group if not request.error)]
        networks = {it for request in group for it in request.networks}
        found[name] = Wanted(largest(sizes), sorted_networks(networks.union(placement.grants)))
    return found


def decide(placements: Placements, shares: Mapping[str, Wanted], reports: Reports) -> Decision:
    """Decide which unit has which share.

    Args:
        placements: what was decided before.
        shares: what is wanted, in the order in which they get room.
        reports: what each unit that is there says, the leader's own included.
    """
    after: dict[str, Placement] = {}
    refusals: dict[str, str] = {}
    room = {unit: report.free for unit, report in sorted(reports.items(), key=_by_number)}
    holders = _holders(reports)
    for name in [*shares, *sorted(holders.keys() - shares.keys())]:
        before = placements.get(name, Placement())
        placement = _follow(before, holders.get(name, {}))
        size = shares[name].size if name in shares else 0
        if not placement.uuid:
            placement, refusals[name] = _place(name, size, placement, room)
        _promise(size, placement, _report(reports, placement.owner).shares.get(name), room)
        if placement.owner or placement.by_hand:
            after[name] = placement
    return Decision(after, {name: reason for name, reason in refusals.items() if reason})


def _by_number(item: tuple[str, object]) -> tuple[str, int]:
    app, _, number = item[0].partition("/")
    return app, int(number)


def _report(reports: Reports, unit: str) -> Report:
    return reports.get(unit, Report())


def _holders(reports: Reports) -> dict[str, dict[str, str]]:
    """Find which units have an image of each share: its UUID by unit, the lowest unit first."""
    found: dict[str, dict[str, str]] = {}
    for unit, report in sorted(reports.items(), key=_by_number):
        for name, share in report.shares.items():
            if share.uuid:
                found.setdefault(name, {})[unit] = share.uuid
    return found


def _follow(placement: Placement, holders: Mapping[str, str]) -> Placement:
    """Place a share where its image is; one without an image yet, where one of its name is."""
    there = [unit for unit, uuid in holders.items() if placement.uuid in {"", uuid}]
    if not there:
        return placement
    owner = placement.owner if placement.owner in there else there[0]
    return replace(placement, owner=owner, uuid=holders[owner])


def _place(
    name: str, size: int | None, placement: Placement, room: Mapping[str, int]
) -> tuple[Placement, str]:
    """Place a share that isn't made yet: it stays while there is room, else it goes to the most.

    Returns:
        The placement, without owner if there is room nowhere; and the reason of that.
    """
    if size == 0:
        return replace(placement, owner=""), ""
    needed = 1 if size is None else size  # See shares.needed_bytes().
    if room.get(placement.owner, 0) >= needed:
        return placement, ""
    roomiest = max(room, key=lambda unit: room[unit])  # The first of equals: the lowest.
    if room[roomiest] >= needed:
        return replace(placement, owner=roomiest), ""
    reason = f"share {name}: {shown(size)} asked, {room[roomiest]}G free"
    return replace(placement, owner=""), reason


def _promise(
    size: int | None, placement: Placement, there: ShareReport | None, room: dict[str, int]
) -> None:
    """Take from a unit's room what a share on it has still to get, if that fits."""
    is_lost = placement.uuid and not (there and there.uuid == placement.uuid)
    has = there.size if there else 0
    if is_lost or placement.owner not in room or size is None or has is None:
        return
    needed = max(0, size - has)
    if needed <= room[placement.owner]:
        room[placement.owner] -= needed


def why_lost(name: str, placement: Placement, reports: Reports) -> str:
    """Say why a share that was made can't be served; empty if its image is where it is placed."""
    if not placement.uuid:
        return ""
    if placement.owner not in reports:
        return f"share {name} was on {placement.owner}, which is gone"
    if _held(name, placement, reports) is None:
        return f"share {name}: {NOT_HERE}"
    return ""


def _held(name: str, placement: Placement, reports: Reports) -> ShareReport | None:
    share = _report(reports, placement.owner).shares.get(name)
    return share if share and share.uuid and share.uuid == placement.uuid else None


def answer(request: ShareRequest, decision: Decision, reports: Reports, told: Share) -> Answer:
    """Decide what a client is told.

    What it was given stays while the share is lost or not mounted: to withdraw the endpoint would
    make the client unmount, and a lost share pass for a new one at the next event.
    """
    name = request.name
    placement = decision.placements.get(name, Placement())
    path = str(share_directory(name)) if name else ""
    had = told if told.endpoint and told.endpoint.path == path and placement.uuid else None
    endpoint = had.endpoint if had else None
    share = _held(name, placement, reports)
    if share is None:
        failed = _report(reports, placement.owner).shares.get(name, ShareReport()).error
        reasons = (decision.refusals.get(name, ""), why_lost(name, placement, reports) or failed)
        return Answer(endpoint, had.size if had else None, _joined(request.error, *reasons))
    address = _report(reports, placement.owner).addresses.get(request.integration_id)
    if address and share.networks:
        endpoint = Endpoint(address, path)
    size, shrink = _granted(request, share, had)
    error = _joined(request.error, shrink, share.error)
    return Answer(endpoint, size, error, share.networks)


def _granted(
    request: ShareRequest, share: ShareReport, had: Share | None
) -> tuple[int | None, str]:
    """Find the size that a client has been granted, and why not the one that it asks for.

    To ask for less than the share has is no fault: another may have asked for more. To ask for
    less than oneself was granted is.
    """
    asked = request.size
    if request.error:  # It may not be what is meant.
        asked = had.size if had else share.size
    if had and is_less(asked, had.size):
        reason = (
            f"share {request.name}: {shown(asked)} asked, it has {shown(share.size)}; "
            "a share never shrinks"
        )
        return (share.size if is_less(share.size, had.size) else had.size), reason
    return (share.size if is_less(share.size, asked) else asked), ""


def _joined(*reasons: str) -> str:
    return "; ".join(reason for reason in reasons if reason)


def strays(placements: Placements, reports: Reports) -> dict[str, Sequence[str]]:
    """Find images that are not where their share is placed: names of shares, by unit."""
    return {
        unit: [
            name
            for name, share in sorted(report.shares.items())
            if share.uuid and not is_placed(placements.get(name), unit, share.uuid)
        ]
        for unit, report in reports.items()
    }


def is_placed(placement: Placement | None, unit: str, uuid: str) -> bool:
    """Whether this image, on this unit, is the share; or will be, once the leader knows it."""
    return placement is not None and placement.owner == unit and placement.uuid in {"", uuid}

# SPDX-License-Identifier: Apache-2.0
"""The leader's rules: whose a share is, which unit has it, what its clients are told. No I/O.

The leader decides, from what its units report; what it has decided is committed with its hook. A
unit makes the shares that are placed on it, and exports one only once the leader has recorded
which image it is (its UUID). Until then a placement may still change, for nobody can have written
to the image. From then on it follows the image, wherever that is, and nothing else.
"""

import bisect
import functools
import ipaddress
import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import room
from charms.storage_libs.v0.nfs_interfaces import (
    READ_ONLY,
    UNKNOWN,
    UNSAID,
    Endpoint,
    Network,
    Permissions,
    Size,
    is_in,
    sorted_networks,
)
from values import (
    Answer,
    Found,
    Placement,
    Placements,
    Report,
    Reports,
    Request,
    ShareReport,
    Storage,
    Wanted,
    is_open,
    share_directory,
    share_name_of,
)

NOT_HERE = "its image is not here; attach the storage that holds it"
# Of how many deleted shares it is known that they were. A report that came before the deletion is
# read again until that unit's next peers-relation-changed, which a new leader has at once.
_MOST_GONE = 100
# How many addresses the units of an application may come from, to be let into a share that is
# another's: a charm writes its units' databags itself, and must not open it to the world.
_MOST_CLIENTS = {4: 2**24, 6: 2**96}
# More than a unit exports to (`exports.MAX_ENTRIES`), so that a share with as many is refused. An
# address left out of a large network of IPv6 makes more than a hundred parts of it.
_MOST_PARTS = 5000


@dataclass(frozen=True)
class Snapshot:
    """All that a unit's decisions rest on, read at one moment, and what the leader decides."""

    unit: str
    requests: tuple[Request, ...] = ()
    placements: Placements = field(default_factory=dict[str, Placement])
    """Where shares are to be; on the leader with what it decides in this hook."""
    refusals: Mapping[str, str] = field(default_factory=dict[str, str])
    """Why shares are nowhere. On the leader."""
    committed: Placements = field(default_factory=dict[str, Placement])
    """Where they are for sure: what no other unit can come to decide otherwise."""
    reports: Reports = field(default_factory=dict[str, Report])
    """What the units say, this one's as it was said last."""
    present: Collection[str] = ()
    """The units that the application has, or is to have."""
    found: Found = field(default_factory=Found)
    storage: Storage = field(default_factory=Storage)
    is_unable: bool = False
    """Whether this unit serves nothing, see `Report`."""
    deleted: tuple[str, ...] = ()
    """UUIDs of the shares that this unit has deleted and that still have a placement."""
    gone: tuple[str, ...] = ()
    """UUIDs of the shares that were deleted last: what units reported before does not count."""

    @functools.cached_property
    def wanted(self) -> dict[str, Wanted]:
        """What each share shall be, wherever it is."""
        return wanted(self.requests, self.placements)

    def placement(self, name: str) -> Placement:
        """Where a share is to be, and what else is decided of it."""
        return self.placements.get(name, Placement())

    def reported(self, name: str) -> ShareReport:
        """What the unit says of a share that is to have it."""
        report = _report(self.reports, self.placement(name).unit)
        return report.shares.get(name, ShareReport())

    def applications(self, name: str) -> tuple[str, ...]:
        """Name the applications that request a share, its own first."""
        return self.wanted[name].applications if name in self.wanted else ()

    @property
    def own_report(self) -> Report:
        """What this unit says."""
        return _report(self.reports, self.unit)

    def with_report(self, report: Report) -> "Snapshot":
        """Have this unit say something else."""
        return replace(self, reports={**self.reports, self.unit: report})


@dataclass(frozen=True)
class Decision:
    """Where shares are to be, and why some are nowhere."""

    placements: Placements
    refusals: Mapping[str, str] = field(default_factory=dict[str, str])


def lead(
    snapshot: Snapshot, own: Report, answered: Mapping[int, Answer], *, is_alone: bool
) -> Snapshot:
    """Decide, as the leader, whose each share is and where it is to be.

    Args:
        snapshot: what the leader has read.
        own: what its unit has now.
        answered: what clients were told last, by integration.
        is_alone: whether no other unit can come to decide otherwise. What a leader decides is lost
            if its hook fails, and another may lead then; where there is no other, one hook is
            enough.
    """
    reports = snapshot.with_report(own).reports
    placements = without_deleted(snapshot.committed, reports)
    gone = note_gone(snapshot.gone, snapshot.committed, placements)
    placements, gone = take_back(placements, reports, gone)
    placements = note_guests(placements, snapshot.requests, answered)
    placements = note_unreadable(placements, snapshot.requests, answered)
    requests = resolve(snapshot.requests, placements)
    placements = assign(requests, placements)
    decision = decide(placements, wanted(requests, placements), reports, gone)
    placements = {n: replace(it, knows_models=True) for n, it in decision.placements.items()}
    return replace(
        snapshot,
        requests=requests,
        placements=placements,
        refusals=decision.refusals,
        gone=gone,
        committed=placements if is_alone else snapshot.committed,
    )


def without_deleted(placements: Placements, reports: Reports) -> dict[str, Placement]:
    """Leave out the shares that their units have deleted."""
    return {
        name: it
        for name, it in placements.items()
        if not _is_deleted(it, _report(reports, it.unit))
    }


def _is_deleted(placement: Placement, report: Report) -> bool:
    """Whether a unit says that it deleted a share, and that was not taken back since."""
    kept = report.restorable.values()
    taken_back = {it.uuid for it in kept if it.deletion and it.deletion == placement.restored}
    return placement.uuid in {*report.deleted} - taken_back


def note_gone(gone: Sequence[str], before: Placements, after: Placements) -> tuple[str, ...]:
    """Note which shares have no placement any more since their units deleted them."""
    more = [it.uuid for name, it in before.items() if name not in after]
    return (*gone, *more)[-_MOST_GONE:]


def take_back(
    placements: Placements, reports: Reports, gone: Sequence[str]
) -> tuple[dict[str, Placement], tuple[str, ...]]:
    """Place the shares that their units restored, as they were when they were deleted.

    A deletion is taken back once: a report that says so may be older than the next one.

    Returns:
        The placements, and what is gone.
    """
    after, still_gone = dict(placements), list(gone)
    for unit, report in sorted(reports.items(), key=_by_number):
        for name, it in sorted(report.restored.items()):
            before = after.get(name, Placement())
            is_new, there = it.deletion not in still_gone, report.shares.get(name, ShareReport())
            if before.uuid and before.uuid == it.uuid:  # Nobody has missed it.
                after[name] = replace(before, restored=it.deletion)
            elif is_new and not before.uuid and there.uuid == it.uuid:
                placed = replace(it.placement, unit=unit, uuid=it.uuid, restored=it.deletion)
                after[name] = placed
            else:
                continue
            if is_new:
                still_gone = [uuid for uuid in still_gone if uuid != it.uuid] + [it.deletion]
    return after, tuple(still_gone[-_MOST_GONE:])


def note_unreadable(
    placements: Placements, requests: Iterable[Request], answered: Mapping[int, Answer]
) -> dict[str, Placement]:
    """Note which share the clients have whose request names none that can be read.

    The leader knows it from the endpoint that they were given; the other units can't read that.
    """
    unreadable: dict[str, list[Request]] = {}
    for request in requests:
        endpoint = answered[request.integration_id].endpoint
        if endpoint and not request.share:
            unreadable.setdefault(endpoint.path, []).append(request)
    return {
        name: replace(
            it,
            unreadable=tuple(
                request.integration_id
                for request in unreadable.get(str(share_directory(name)), ())
                if _may_keep(request, name, it)
            ),
        )
        for name, it in placements.items()
    }


def _may_keep(request: Request, name: str, placement: Placement) -> bool:
    """Whether a share is of an application's model, or has been granted to the application."""
    is_of_model = not request.model or name.endswith(f"@{request.model}")
    return is_of_model or request.application in placement.guests


def note_guests(
    placements: Placements, requests: Iterable[Request], answered: Mapping[int, Answer]
) -> dict[str, Placement]:
    """Let applications of other models keep the share that they had of an older revision.

    It knew no models. Since this one does, what an operator takes back stays taken back.
    """
    after = dict(placements)
    older = {str(share_directory(name)): name for name in after if not after[name].knows_models}
    for request in requests:
        endpoint = answered[request.integration_id].endpoint
        name = older.get(endpoint.path, "") if endpoint else ""
        # Whose request can't be read keeps what it has.
        if name and request.model and request.share in {"", share_name_of(request.model, name)}:
            guests = {*after[name].guests, request.application}
            after[name] = replace(after[name], guests=tuple(sorted(guests)))
            own = request.application.rpartition("@")[0]
            if own and own == after[name].application:  # As it was called by that one.
                after[name] = replace(after[name], application=request.application)
    return after


def resolve(requests: Iterable[Request], placements: Placements) -> tuple[Request, ...]:
    """Give each request the share that it is for: by an action's word, or what it has."""
    names = {it: name for name, placement in placements.items() for it in placement.unreadable}
    guests = {
        (application, name): name
        for name, placement in placements.items()
        for application in placement.guests
    }
    return tuple(
        replace(
            request,
            share=guests.get((request.application, request.share.rpartition("@")[0]))
            or request.share
            or names.get(request.integration_id, ""),
        )
        for request in requests
    )


def assign(requests: Iterable[Request], placements: Placements) -> dict[str, Placement]:
    """Note whose each share is: it stays with who asked for it first, while that one asks.

    And what that one says of its owner, mode and squash.
    """
    after = dict(placements)
    for name, group in _by_share(requests).items():
        before = placements.get(name, Placement())
        if heir := _find_heir(before, [request.application for request in group]):
            before = replace(before, application=heir, is_inherited=before.uuid != "")
        has_size = any(it.size.is_limited for it in group if is_owners(it, before))
        said = [it.permissions for it in group if is_owners(it, before) and not it.error]
        after[name] = replace(
            before,
            is_inherited=before.is_inherited and not has_size,
            permissions=replace(said[0], access="") if said else before.permissions,
            reading=tuple(it.integration_id for it in group if _asks_to_read(it, before)),
        )
    return after


def _find_heir(placement: Placement, applications: Collection[str]) -> str:
    """Find whose a share becomes, of those that request it; empty: it stays whose it is.

    What another model has by an action's word is never its own: but of an older revision, which
    noted neither, somebody has to have it.
    """
    if placement.application in applications or (
        placement.is_manual and not placement.application
    ):
        return ""
    is_older = not (placement.application or placement.knows_models)
    guests = () if is_older else placement.guests
    return next((it for it in applications if it not in guests), "")


def is_owners(request: Request, placement: Placement) -> bool:
    """Whether a request is of the application whose share it is."""
    return request.application == placement.application


def _is_reading(request: Request, placement: Placement) -> bool:
    """Whether those that a request lets in may only read, by its word or an action's."""
    return request.application in placement.readers or _asks_to_read(request, placement)


def _asks_to_read(request: Request, placement: Placement) -> bool:
    is_said = request.permissions.access == READ_ONLY
    if request.error:  # It may say so, and can't be read: it stays as it was.
        return is_said or request.integration_id in placement.reading
    return is_said


def wanted(requests: Iterable[Request], placements: Placements) -> dict[str, Wanted]:
    """Find what each share shall be: by whose it is, who shares it, and by actions.

    In the order in which they get room: that of the integrations, then those made by actions.
    """
    groups = _by_share(requests)
    return {
        name: _wanted(placements.get(name, Placement()), groups.get(name, []))
        for name in [*groups, *sorted(placements.keys() - groups.keys())]
    }


def _by_share(requests: Iterable[Request]) -> dict[str, list[Request]]:
    """Group requests by the share that they are for, in the order of the integrations."""
    groups: dict[str, list[Request]] = {}
    for request in sorted(requests, key=lambda request: request.integration_id):
        if request.share:
            groups.setdefault(request.share, []).append(request)
    return groups


def _wanted(placement: Placement, requests: Collection[Request]) -> Wanted:
    """Take size and allowlist from whose share it is; of the others, their units alone."""
    owners = [it for it in requests if is_owners(it, placement)]
    sizes = [it.size for it in owners]
    if placement.is_inherited:  # Its limit was another's word, and the default takes none away.
        sizes = [size for size in sizes if size.is_limited]
    guests = [it for it in requests if not is_owners(it, placement)]
    own = [(it, str(it) in placement.readers) for it in placement.grants]
    own += [
        (network, _is_reading(it, placement))
        for it in owners
        for network in admitted(it, placement)
    ]
    others = [
        (network, _is_reading(it, placement))
        for it in guests
        for network in admitted(it, placement)
    ]
    networks, readers = divide([*own, *others])
    own_networks, own_readers = divide(own) if others else (networks, readers)
    return Wanted(
        size=max([placement.size, *sizes]),
        networks=networks,
        own_networks=own_networks,
        applications=tuple(dict.fromkeys(it.application for it in (*owners, *guests))),
        readers=readers,
        own_readers=own_readers,
    )


def admitted(request: Request, placement: Placement) -> tuple[Network, ...]:
    """Find whom a request lets in; if the share is another's, its units alone, if they are few."""
    if is_owners(request, placement):
        return (*request.allowlist, *request.clients)
    return request.clients if _are_few(request.clients) else ()


def divide(
    rights: Collection[tuple[Network, bool]],
) -> tuple[tuple[Network, ...], tuple[Network, ...]]:
    """Give each address one right, the stronger one where it has both.

    Args:
        rights: networks, and whether they may only read.

    Returns:
        All of them, none in another but for anyone's; and those of them that may only read.
    """
    writers = collapsed({network for network, is_reading in rights if not is_reading})
    readers = collapsed({network for network, is_reading in rights if is_reading})
    if not readers:
        return writers, ()
    readers = tuple(itertools.islice(without(readers, writers), _MOST_PARTS))
    return sorted_networks({*writers, *readers}), readers


def without(networks: Iterable[Network], others: Sequence[Network]) -> Iterator[Network]:
    """Leave others out of networks, both collapsed, in as few parts as it takes.

    Anyone's stays whole: mountd looks at it last, and it is one word for both versions.
    """
    if is_open(others):
        return
    begins = [(other.version, int(other[0])) for other in others]
    for network in networks:
        if network.prefixlen == 0 or not others:
            yield network
            continue
        begin = max(0, bisect.bisect_right(begins, (network.version, int(network[0]))) - 1)
        end = bisect.bisect_right(begins, (network.version, int(network[-1])))
        left, last = int(network[0]), int(network[-1])
        for other in others[begin:end]:
            if other.version == network.version and int(other[-1]) >= left:
                yield from _parts(network.version, left, int(other[0]) - 1)
                left = int(other[-1]) + 1
        yield from _parts(network.version, left, last)


def _parts(version: int, first: int, last: int) -> Iterator[Network]:
    """Write addresses, the last one included, as networks; none, if the first comes after it."""
    if first > last:
        return iter(())
    if version == 4:
        ends = ipaddress.IPv4Address(first), ipaddress.IPv4Address(last)
        return ipaddress.summarize_address_range(*ends)
    return ipaddress.summarize_address_range(
        ipaddress.IPv6Address(first), ipaddress.IPv6Address(last)
    )


def _are_few(networks: Iterable[Network]) -> bool:
    counts = dict.fromkeys(_MOST_CLIENTS, 0)
    for network in collapsed(networks):
        counts[network.version] += network.num_addresses
    return all(counts[version] <= most for version, most in _MOST_CLIENTS.items())


def collapsed(networks: Iterable[Network]) -> tuple[Network, ...]:
    """Leave out networks that others hold, and join neighbours: exportfs is slow with many."""
    return _collapsed(frozenset(networks))


@functools.cache
def _collapsed(networks: frozenset[Network]) -> tuple[Network, ...]:
    """Do it once for the same ones: with hundreds of shares it would be most of a hook."""
    ipv4 = [it for it in networks if isinstance(it, ipaddress.IPv4Network)]
    ipv6 = [it for it in networks if isinstance(it, ipaddress.IPv6Network)]
    return sorted_networks(
        {*ipaddress.collapse_addresses(ipv4), *ipaddress.collapse_addresses(ipv6)}
    )


def decide(
    placements: Placements,
    shares: Mapping[str, Wanted],
    reports: Reports,
    gone: Collection[str] = (),
) -> Decision:
    """Decide which unit has which share.

    Args:
        placements: what was decided before.
        shares: what is wanted, in the order in which they get room.
        reports: what each unit that is there says, the leader's own included.
        gone: UUIDs of shares that were deleted, whatever is reported.
    """
    after: dict[str, Placement] = {}
    refusals: dict[str, str] = {}
    able = [it for it in sorted(reports.items(), key=_by_number) if not it[1].is_unable]
    free = {unit: report.free for unit, report in able}
    holders = _holders(reports, placements, gone)
    not_free = _names_not_free(reports, gone)
    for name in [*shares, *sorted(holders.keys() - shares.keys())]:
        before = placements.get(name, Placement())
        placement = _follow(before, holders.get(name, {}))
        size = shares[name].size if name in shares else UNKNOWN
        if not placement.uuid and not placement.unit and name in not_free:
            refusals[name] = not_free[name]
        elif not placement.uuid:
            placement, refusals[name] = _place(name, size, placement, free, reports)
        _allocate(name, size, placement, reports, free)
        is_awaited = size.is_known and bool(placement.grants or placement.guests)
        if placement.unit or placement.is_manual or is_awaited:
            after[name] = placement
    return Decision(after, {name: reason for name, reason in refusals.items() if reason})


def _by_number(item: tuple[str, object]) -> tuple[str, int]:
    app, _, number = item[0].partition("/")
    return app, int(number)


def _report(reports: Reports, unit: str) -> Report:
    return reports.get(unit, Report())


def _holders(
    reports: Reports, placements: Placements, gone: Collection[str]
) -> dict[str, dict[str, str]]:
    """Find which units have an image of each share: its UUID by unit, the lowest unit first.

    A unit that reports an image by the name that it had before a deletion has more to say.
    """
    found: dict[str, dict[str, str]] = {}
    names = {it.uuid: name for name, it in placements.items()}
    for unit, report in sorted(reports.items(), key=_by_number):
        for name, share in report.shares.items():
            is_named = names.get(share.uuid, name) == name
            if share.uuid and share.uuid not in gone and is_named:
                found.setdefault(name, {})[unit] = share.uuid
    return found


def _names_not_free(reports: Reports, gone: Collection[str]) -> dict[str, str]:
    """Find the names under which no share is to be made now, and why; empty: wait.

    A unit that reports an image of a deleted share has more to say: whether it keeps that, or
    that it came back.
    """
    late = {
        name: share.refusal
        for report in reports.values()
        for name, share in report.shares.items()
        if share.uuid in gone
    }
    kept = {
        name: f"share {name}: deleted, and kept on {unit}: run restore-share or purge-share there"
        for unit, report in sorted(reports.items(), key=_by_number)
        for name in report.restorable
    }
    return late | kept


def _follow(placement: Placement, holders: Mapping[str, str]) -> Placement:
    """Place a share where its image is; one without an image yet, where one of its name is."""
    there = [unit for unit, uuid in holders.items() if placement.uuid in {"", uuid}]
    if not there:
        return placement
    unit = placement.unit if placement.unit in there else there[0]
    return replace(placement, unit=unit, uuid=holders[unit])


def _place(
    name: str, size: Size, placement: Placement, free: Mapping[str, int], reports: Reports
) -> tuple[Placement, str]:
    """Place a share that isn't made yet: it stays while there is room, else it goes to the most.

    Returns:
        The placement, without unit if there is room nowhere; and the reason of that.
    """
    if not (size.is_known and free):  # Or no unit is ready yet.
        return replace(placement, unit=""), ""
    needed = size.gib if size.is_limited else 1
    fit = [
        unit
        for unit, gib in free.items()
        if gib >= needed and not room.is_unbounded(size, is_on_root=reports[unit].is_on_root)
    ]
    if placement.unit in fit:
        return placement, ""
    if fit:  # The first of equals: the lowest.
        return replace(placement, unit=max(fit, key=lambda unit: free[unit])), ""
    is_on_root = all(report.is_on_root for report in reports.values())
    has_deleted = any(report.restorable for report in reports.values())
    reason = room.refusal(
        name, size, max(free.values()), is_on_root=is_on_root, has_deleted=has_deleted
    )
    return replace(placement, unit=""), reason


def _allocate(
    name: str, size: Size, placement: Placement, reports: Reports, free: dict[str, int]
) -> None:
    """Take from a unit's room what a share on it has still to get, if it can have that."""
    report = _report(reports, placement.unit)
    is_lost = is_missing(name, placement, reports)
    is_refused = room.is_unbounded(size, is_on_root=report.is_on_root)
    if is_lost or is_refused or placement.unit not in free:
        return
    if not size.is_limited:
        free[placement.unit] = 0
        return
    has = report.shares.get(name, ShareReport()).size
    needed = max(0, size.gib - has.gib)
    if needed <= free[placement.unit]:
        free[placement.unit] -= needed


def why_lost(name: str, snapshot: Snapshot) -> str:
    """Say why a share that was made can't be served; empty if nothing is known against it."""
    placement, reports = snapshot.placement(name), snapshot.reports
    if not placement.uuid:
        return ""
    if placement.unit not in snapshot.present:
        return f"share {name} was on {placement.unit}, which is gone"
    return f"share {name}: {NOT_HERE}" if is_missing(name, placement, reports) else ""


def is_missing(name: str, placement: Placement, reports: Reports) -> bool:
    """Whether the unit of a share says that its image is not there.

    A report is read as it was at that unit's last peers-relation-changed: one that doesn't name
    the share may be older than the image.
    """
    is_said = name in _report(reports, placement.unit).shares
    return bool(placement.uuid) and is_said and held(name, placement, reports) is None


def is_renamed(name: str, placement: Placement, reports: Reports) -> bool:
    """Whether the unit of a share says that it has its image under another name."""
    shares = _report(reports, placement.unit).shares
    return any(it.uuid == placement.uuid for other, it in shares.items() if other != name)


def held(name: str, placement: Placement, reports: Reports) -> ShareReport | None:
    """Find what the unit says that has the image of a share; None if it says nothing."""
    share = _report(reports, placement.unit).shares.get(name)
    return share if share and share.uuid and share.uuid == placement.uuid else None


def answer(request: Request, snapshot: Snapshot, answered: Answer) -> Answer:
    """Decide what a client is told.

    What it was given stays while the share is lost or not mounted: to withdraw the endpoint would
    make the client unmount, and a lost share pass for a new one at the next event. Where there is
    nothing to tell, it is `answered` itself.
    """
    name, reports = request.share, snapshot.reports
    placement = snapshot.placement(name)
    path = str(share_directory(name)) if name else ""
    is_same = answered.endpoint and answered.endpoint.path == path and placement.uuid
    before = answered if is_same else Answer()
    share = held(name, placement, reports)
    if share is None:
        failed = why_lost(name, snapshot) or snapshot.reported(name).refusal
        error = joined(request.error, snapshot.refusals.get(name, ""), failed)
        if is_same and not error:
            return answered  # Nothing is heard of it yet.
        return Answer(before.endpoint, before.size, error)
    address = _report(reports, placement.unit).addresses.get(request.integration_id)
    endpoint = Endpoint(address, path) if address and share.networks else before.endpoint
    size, shrunk = _granted(request, share, before)
    if is_owners(request, placement):
        refused = joined(shrunk, share.refusal)
    else:
        refused = _refused_to_guest(request, placement, share) or shrunk
    error = joined(request.error, refused, share.error)
    permissions = _granted_permissions(request, snapshot.wanted.get(name), share)
    return Answer(endpoint, size, error, share.networks, permissions)


def _granted_permissions(
    request: Request, wanted: Wanted | None, share: ShareReport
) -> Permissions:
    """Find what is in force of the permissions that a client requests."""
    # What else it says may be meant for what can't be read: it isn't answered.
    asked = (UNSAID if request.error else request.permissions).items()
    there = share.permissions.items()
    if asked["access"] and wanted and share.readers == wanted.readers:
        writers = {*wanted.networks} - {*wanted.readers}
        is_writing = any(
            other.prefixlen == 0 or it.overlaps(other)
            for it in request.clients
            for other in writers
        )
        there["access"] = "" if is_writing else READ_ONLY
    return Permissions(**{key: text for key, text in there.items() if asked[key]})


def _granted(request: Request, share: ShareReport, before: Answer) -> tuple[Size, str]:
    """Find the size that a client has been granted, and why not the one that it requests.

    To request less than the share has is no fault: another may have requested more. To request
    less than oneself was granted is, unless that share is lost and this is another one.
    """
    has = before.size if before.size.is_known else share.size
    requested = request.size if request.size.is_known else has
    if before.size.is_known and requested < min(before.size, share.size):
        reason = room.shrinking(request.share, requested, share.size)
        return min(share.size, before.size), reason
    return min(share.size, requested), ""


def _refused_to_guest(request: Request, placement: Placement, share: ShareReport) -> str:
    """Say what an application can't have of a share that is another's; empty: nothing."""
    owner = placement.application or "the operator (create-share)"
    # No limit is what requests have that say nothing of a size: it takes what there is.
    if request.size.is_limited and request.size > share.size:
        return (
            f"share {request.share} belongs to {owner} and has {share.size}: {request.size}"
            " requested by another is not granted"
        )
    if not _are_few(request.clients):
        return (
            f"share {request.share} belongs to {owner}: clients from so many addresses are not"
            " admitted"
        )
    if share.left_out and not all(is_in(it, share.networks) for it in request.clients):
        return share.left_out
    has = placement.permissions.items()
    for key, text in replace(request.permissions, access="").items().items():
        if text not in {"", has[key]}:
            return (
                f"share {request.share} belongs to {owner}: {key} {text} requested by another is"
                " not granted"
            )
    outside = [it for it in request.allowlist if not is_in(it, share.networks)]
    if outside:
        return f"share {request.share} belongs to {owner}: another's allowlist is not granted"
    return ""


def joined(*reasons: str) -> str:
    """Say several reasons; those that are empty are none."""
    return "; ".join(reason for reason in reasons if reason)


def misplaced(placements: Placements, unit: str, report: Report) -> list[str]:
    """Name the shares of which a unit has another image than the one that is the share."""
    return [
        name
        for name, share in sorted(report.shares.items())
        if share.uuid and is_misplaced(placements.get(name), unit, share.uuid)
    ]


def is_placed(placement: Placement | None, unit: str, uuid: str) -> bool:
    """Whether this image, on this unit, is the share; or will be, once the leader knows it."""
    return placement is not None and placement.unit == unit and placement.uuid in {"", uuid}


def is_misplaced(placement: Placement | None, unit: str, uuid: str) -> bool:
    """Whether this image, on this unit, is another one than the share of its name.

    The share itself, come with its storage, is not: the leader places it here in its next hook.
    """
    return (
        placement is not None and placement.uuid != uuid and not is_placed(placement, unit, uuid)
    )

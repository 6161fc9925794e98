# SPDX-License-Identifier: Apache-2.0
"""What an operator does by actions: `juju run`. Each refusal says what is wrong and what to do."""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import ops

import deleted
import exports
import images
import maintenance
import mounts
import placement
import room
from charms.storage_libs.v0.nfs_interfaces import (
    MAX_ALLOWLIST_ENTRIES,
    PERMISSIONS,
    Endpoint,
    Network,
    Permissions,
    Size,
    parse_access,
    parse_allowlist,
    parse_size,
    sorted_networks,
)
from maintenance import RefusedError
from placement import Snapshot
from plan import Plan, decide, too_many
from reconciler import Reconciler
from values import (
    DeletedReport,
    DeletedShare,
    Image,
    Placement,
    ShareReport,
    is_open,
    is_remote,
    parse_share_name,
    share_directory,
    share_id,
)

_T = TypeVar("_T")
Params = Mapping[str, Any]
Results = dict[str, Any]


class Actions(ops.Object):
    """The actions of the charm. Each is done on one unit: on the leader, or where the share is."""

    def __init__(self, charm: ops.CharmBase, server: Reconciler):
        super().__init__(charm, "actions")
        self._charm = charm
        self._server = server
        self._reader = server.reader
        self._anywhere: Mapping[str, Callable[[Params], Results]] = {
            "list-shares": self._list_shares,
            "check-share": self._check_share,
            "delete-share": self._delete_share,
            "restore-share": self._restore_share,
            "purge-share": self._purge_share,
        }
        self._on_leader: Mapping[str, Callable[[Params], Results]] = {
            "create-share": self._create_share,
            "resize-share": self._resize_share,
            "grant-access": self._grant_access,
            "revoke-access": self._revoke_access,
            "forget-share": self._forget_share,
        }
        for name in [*self._anywhere, *self._on_leader]:
            self.framework.observe(charm.on[name].action, self._on_action)

    def _on_action(self, event: ops.ActionEvent) -> None:
        name = event.handle.kind.removesuffix("_action").replace("_", "-")
        try:
            event.set_results(self._do(name, event.params))
        except (
            RefusedError,
            images.ImagesError,
            mounts.MountsError,
            exports.ExportsError,
        ) as error:
            event.fail(str(error))

    def _do(self, name: str, params: Params) -> Results:
        if reason := self._reader.why_not_ready():
            raise RefusedError(reason)
        if name in self._on_leader and not self._reader.is_leader:
            leader = f"{self._charm.app.name}/leader"
            raise RefusedError(f"run it on the leader: juju run {leader} {name} …")
        act = self._anywhere.get(name) or self._on_leader[name]
        return act(params)

    def _list_shares(self, _: Params) -> Results:
        snapshot, plan = self._reader.read()
        names = sorted({*snapshot.placements, *snapshot.found.images})
        results: Results = {_key(name): self._describe(name, snapshot, plan) for name in names}
        results["count"] = len(names)
        for unit, report in sorted(snapshot.reports.items()):
            on = f"on-{unit.replace('/', '-')}"
            results |= {
                f"deleted-{_key(name)}-{on}": _describe_deleted(name, unit, it)
                for name, it in sorted(report.restorable.items())
            }
            misplaced = placement.misplaced(snapshot.placements, unit, report)
            found = {
                f"storage-{on}": "root disk" if report.is_on_root else "",
                f"misplaced-{on}": " ".join(misplaced),
                f"foreign-{on}": " ".join(report.foreign),
            }
            results |= {key: value for key, value in found.items() if value}
        return results

    def _create_share(self, params: Params) -> Results:
        name = _parsed(parse_share_name, params["share"])
        size = Size.of(_parsed(parse_size, str(params["size"])))
        snapshot, _ = self._reader.read()
        before = snapshot.placement(name)
        if before.uuid and (has := _made(name, snapshot).size) != size:
            raise RefusedError(f"share {name} exists, it has {has}: use resize-share")
        permissions = _permissions(before, params)
        if permissions != before.permissions:
            _refuse_if_requested(name, snapshot)
        after = _granted(before, params)
        after = replace(after, is_manual=True, size=size, permissions=permissions)
        return self._change(name, after)

    def _resize_share(self, params: Params) -> Results:
        name = _parsed(parse_share_name, params["share"])
        size = Size.of(_parsed(parse_size, str(params["size"])))
        snapshot, _ = self._reader.read()
        before, there = _placed(name, snapshot), _made(name, snapshot)
        if size < there.size:
            raise RefusedError(room.shrinking(name, size, there.size))
        report = snapshot.reports[before.unit]
        # An application may request more: then that is what the share is to have.
        most = max(size, snapshot.wanted[name].size)
        is_short = most.is_limited and most.gib - there.size.gib > report.free
        if is_short or room.is_unbounded(most, is_on_root=report.is_on_root):
            reason = room.refusal(
                name,
                most,
                report.free,
                is_on_root=report.is_on_root,
                has_deleted=bool(report.restorable),
            )
            raise RefusedError(reason)
        return self._change(name, replace(before, size=size))

    def _grant_access(self, params: Params) -> Results:
        name = _parsed(parse_share_name, params["share"])
        before = _placed(name, self._reader.read()[0])
        application = params.get("application", "")
        if bool(application) == bool(params.get("allowlist", "")):
            raise RefusedError("name an allowlist or an application, one of the two")
        if application:
            return self._change(name, _with_guest(before, application, params))
        return self._change(name, _granted(before, params))

    def _revoke_access(self, params: Params) -> Results:
        snapshot, _ = self._reader.read()
        before = _placed(name := _parsed(parse_share_name, params["share"]), snapshot)
        revoked = _parsed(parse_allowlist, params.get("allowlist", ""))
        application = params.get("application", "")
        after = replace(
            before,
            grants=tuple(it for it in before.grants if it not in revoked),
            guests=tuple(it for it in before.guests if it != application),
            readers=tuple(
                it for it in before.readers if it not in {application, *map(str, revoked)}
            ),
        )
        # Whatever is refused of the share: access that is taken away is not kept for that.
        outcome = self._server.place({**snapshot.placements, name: after})
        _refuse(outcome.not_exported)
        results = self._describe(name, *self._reader.read())
        still = _still_allowed(revoked, name, after, snapshot)
        return {**results, "still-allowed": "; ".join(still)}

    def _forget_share(self, params: Params) -> Results:
        name = _confirmed(params)
        snapshot, _ = self._reader.read()
        before = _placed(name, snapshot)
        # What its unit said last may be older than the share: it has it, until it says otherwise.
        is_renamed = placement.is_renamed(name, before, snapshot.reports)
        if before.uuid and not (is_renamed or placement.why_lost(name, snapshot)):
            raise RefusedError(
                f"share {name} is on {before.unit}: use delete-share to delete its data"
            )
        for unit, report in sorted(snapshot.reports.items()):
            if name in report.shares and report.shares[name].uuid:
                raise RefusedError(  # It would be the share.
                    f"share {name}: another image of it is on {unit}: move it off the storage"
                    " first"
                )
        self._server.place({n: it for n, it in snapshot.placements.items() if n != name})
        requested_by = ", ".join(snapshot.applications(name))
        return {"name": name, "state": "forgotten", "requested-by": requested_by}

    def _delete_share(self, params: Params) -> Results:
        image = self._own(_confirmed(params))
        day = maintenance.delete_share(
            self._server, image, ignore_nfsv3=bool(params.get("ignore-nfsv3"))
        )
        return {"name": image.name, "state": "deleted", **({"kept-until": day} if day else {})}

    def _restore_share(self, params: Params) -> Results:
        share = self._own_deleted(_parsed(parse_share_name, params["share"]))
        name = _parsed(parse_share_name, params.get("name", "") or share.image.name)
        maintenance.restore_share(self._server, share, name)
        snapshot, plan = self._reader.read()
        image = snapshot.found.images[name]
        # It is mounted once the leader has placed it.
        problem = image.problem if name in plan.images else ""
        return {
            "name": name,
            "state": problem or "restored",
            "size": str(image.size),
            "uuid": image.uuid,
        }

    def _purge_share(self, params: Params) -> Results:
        share = self._own_deleted(_confirmed(params))
        maintenance.purge_share(self._server, share)
        return {"name": share.image.name, "state": "purged", "uuid": share.image.uuid}

    def _check_share(self, params: Params) -> Results:
        image = self._own(_parsed(parse_share_name, params["share"]))
        repair = bool(params.get("repair"))
        is_clean, said = maintenance.check_share(self._server, image, repair=repair)
        state = "clean" if is_clean else "has errors; repair=true repairs them"
        return {"name": image.name, "state": state, "e2fsck": said}

    def _change(self, name: str, after: Placement) -> Results:
        """Decide something of a share by an action, if it can be, and make it so.

        Nothing is recorded of what is to be refused: it would be done as soon as it can be. What
        was wrong before has nothing to do with it.
        """
        snapshot, plan = self._reader.read()
        before = snapshot.reported(name)
        changed = {**snapshot.placements, name: after}
        wanted = placement.wanted(snapshot.requests, changed)
        count = len(wanted[name].own_networks)
        had = len(snapshot.wanted[name].own_networks) if name in snapshot.wanted else 0
        if count > max(had, exports.MAX_ENTRIES):  # Else nobody could mount it any more.
            raise RefusedError(too_many(name, count, exports.MAX_ENTRIES))
        decision = placement.decide(changed, wanted, snapshot.reports, snapshot.gone)
        _refuse(decision.refusals.get(name, ""))
        planned = decide(replace(snapshot, placements=decision.placements), exports.MAX_ENTRIES)
        refusal = planned.refusals.get(name, "")
        _refuse("" if refusal == plan.refusals.get(name) else refusal)
        if count > had:
            _refuse(planned.too_many.get(name, ""))
        outcome = self._server.place(decision.placements)
        snapshot, plan = self._reader.read()
        report = snapshot.reported(name)
        _refuse("" if before.refusal else report.refusal)
        _refuse("" if before.error else report.error)
        failure = outcome.failures.get(name, "")
        _refuse("" if failure in before.refusal else failure)
        _refuse(outcome.not_exported)
        return self._describe(name, snapshot, plan)

    def _own(self, name: str) -> Image:
        """Find the image of a share, which has to be on this unit."""
        snapshot, plan = self._reader.read()
        _made(name, snapshot)
        unit = snapshot.placements[name].unit
        if unit != snapshot.unit:
            raise RefusedError(f"share {name} is on {unit}: run it there")
        return plan.images[name]

    def _own_deleted(self, name: str) -> DeletedShare:
        """Find a deleted share, which has to be kept on this unit."""
        snapshot, plan = self._reader.read()
        if name in plan.returned and name not in snapshot.found.deleted:
            # It is a deleted share as others, once it is kept as one.
            deleted.keep(snapshot.found.images[name], Placement(), deleted.MAX_KEEP_S)
            self._reader.forget()
            snapshot, _ = self._reader.read()
        if name in snapshot.found.deleted:
            return snapshot.found.deleted[name]
        for unit, report in sorted(snapshot.reports.items()):
            if name in report.restorable:
                raise RefusedError(f"share {name}: deleted, and kept on {unit}: run it there")
        raise RefusedError(f"there is no deleted share {name}: see list-shares")

    def _describe(self, name: str, snapshot: Snapshot, plan: Plan) -> Results:
        """Describe a share to an operator; what only its own unit knows, on that alone."""
        placed, report = snapshot.placement(name), snapshot.reported(name)
        image = plan.images.get(name)
        return {
            "name": name,
            "unit": placed.unit,
            "applications": ", ".join(snapshot.applications(name)),
            "state": plan.returned.get(name) or _state(name, snapshot),
            "size": str(report.size),
            "path": str(share_directory(name)),
            "allowlist": " ".join(exports.hosts(report.networks)),
            "read-only": " ".join(exports.hosts(report.readers)),
            "squash": placed.permissions.squash or self._reader.settings.squash,
            "granted-by-action": " ".join(_describe_grants(placed)),
            **(self._describe_here(image, plan) if image else {}),
        }

    def _describe_here(self, image: Image, plan: Plan) -> Results:
        usage = images.usage(image)
        space = usage.space
        address = self._reader.clients.address_for_others()
        path = str(share_directory(image.name))
        return {
            "mount": f"mount -t nfs {Endpoint(address, path).source} /mnt" if address else "",
            "used-bytes": str(space.used_bytes),
            "free-bytes": str(space.available_bytes),
            "used-inodes": str(space.used_inodes),
            "free-inodes": str(space.inodes - space.used_inodes),
            "owner": usage.owner,
            "mode": usage.mode,
            "clients": " ".join(maintenance.connected(image.name, plan)),
        }


def _refuse(reason: str) -> None:
    """Refuse for a reason; empty: there is none."""
    if reason:
        raise RefusedError(reason)


def _describe_grants(placed: Placement) -> list[str]:
    """Name who was let in by actions, as exports(5) writes who may only read."""
    granted = [(str(it), exports.host(it)) for it in placed.grants]
    granted += [(it, it) for it in placed.guests]
    return [f"{shown}(ro)" if it in placed.readers else shown for it, shown in granted]


def _describe_deleted(name: str, unit: str, share: DeletedReport) -> Results:
    return {
        "name": name,
        "unit": unit,
        "state": "deleted",
        "size": str(share.size),
        "uuid": share.uuid,
        "kept-until": share.day,
    }


def _state(name: str, snapshot: Snapshot) -> str:
    report = snapshot.reported(name)
    refusal = report.refusal or snapshot.refusals.get(name, "")
    if reason := placement.why_lost(name, snapshot) or report.error or refusal:
        return reason
    if not report.uuid:
        return "not made yet"
    if is_open(report.networks):
        return "open to all"
    return "exported" if report.networks else "kept"


def _key(name: str) -> str:
    return share_id(name).replace("_", "-")  # Juju wants keys of [a-z0-9-].


def _parsed(parse: Callable[[str], _T], text: str) -> _T:
    try:
        return parse(text)
    except ValueError as error:
        raise RefusedError(str(error)) from error


def _confirmed(params: Params) -> str:
    name = _parsed(parse_share_name, params["share"])
    if params["confirm"] != name:
        raise RefusedError(f"confirm: type the name of the share again, confirm={name}")
    return name


def _placed(name: str, snapshot: Snapshot) -> Placement:
    if name not in snapshot.placements:
        raise RefusedError(f"there is no share {name}: see list-shares")
    return snapshot.placements[name]


def _made(name: str, snapshot: Snapshot) -> ShareReport:
    """Find what is reported of a share, which has to be served."""
    report = placement.held(name, _placed(name, snapshot), snapshot.reports)
    lost = placement.why_lost(name, snapshot)
    if lost or report is None:
        raise RefusedError(lost or f"share {name} is not made yet: see list-shares")
    return report


def _permissions(before: Placement, params: Params) -> Permissions:
    """Take those that an action names; the others stay as they are."""
    said = {
        key: _parsed(parse, text)
        for key, parse in PERMISSIONS.items()
        if key != "access" and (text := params.get(key, ""))
    }
    return replace(before.permissions, **said)


def _refuse_if_requested(name: str, snapshot: Snapshot) -> None:
    """Leave a share's owner, mode and squash to the application that has it, while it asks."""
    placed = snapshot.placement(name)
    for request in snapshot.requests:
        if request.share == name and placement.is_owners(request, placed):
            raise RefusedError(
                f"share {name} belongs to {placed.application}: that one requests its owner, mode"
                " and squash"
            )


def _with_readers(before: Placement, granted: Collection[str], params: Params) -> Placement:
    """Let those whom an action grants only read, or write too, as it says."""
    is_reading = bool(params.get("access") and _parsed(parse_access, params["access"]))
    others = {*before.readers}.difference(granted)
    return replace(before, readers=tuple(sorted(others.union(granted if is_reading else ()))))


def _granted(before: Placement, params: Params) -> Placement:
    """Add networks to those that an action has granted before."""
    networks = _parsed(parse_allowlist, params.get("allowlist", ""))
    grants = {*before.grants, *networks}
    if len(grants) > MAX_ALLOWLIST_ENTRIES:
        raise RefusedError(
            f"allowlist: {len(grants)} entries granted by actions, more than the"
            f" {MAX_ALLOWLIST_ENTRIES} allowed: grant networks instead of addresses"
        )
    after = replace(before, grants=sorted_networks(grants))
    return _with_readers(after, [*map(str, networks)], params)


def _with_guest(before: Placement, application: str, params: Params) -> Placement:
    """Let an application of another model have this share under the name that it requests."""
    if not is_remote(application):
        raise RefusedError(
            f"application {application[:60]!a}: name one of another model, as list-shares does"
        )
    after = replace(before, guests=tuple(sorted({*before.guests, application})))
    return _with_readers(after, [application], params)


def _still_allowed(
    networks: Iterable[Network], name: str, after: Placement, snapshot: Snapshot
) -> list[str]:
    """Find who of some networks may still mount a share, and why."""
    granted = [(it, "by an action") for it in after.grants] + [
        (it, f"by {request.application}")
        for request in snapshot.requests
        if request.share == name
        for it in placement.admitted(request, after)
    ]
    return [
        f"{exports.host(it)} {why}"
        for it, why in granted
        if any(it.overlaps(other) for other in networks)
    ]

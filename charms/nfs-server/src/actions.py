# SPDX-License-Identifier: Apache-2.0
"""What an operator does by hand: `juju run`. Each refusal says what is wrong and what to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import ops

import exports
import images
import nfs
import placement
from charms.storage_libs.v0.nfs_interfaces import (
    MAX_ALLOWLIST_ENTRIES,
    Network,
    parse_allowlist,
    parse_name,
    parse_size,
    sorted_networks,
)
from placement import Placement, Report, ShareReport
from shares import Image, is_less, share_directory, share_id, shown

if TYPE_CHECKING:
    from pathlib import Path

    from charm import NfsServerCharm
    from world import World

_T = TypeVar("_T")
Params = Mapping[str, Any]
Results = dict[str, Any]


class RefusedError(Exception):
    """An action can't be done as it was asked for; the message says why."""


class Actions(ops.Object):
    """The actions of the charm. Each is done on one unit: on the leader, or where the share is."""

    def __init__(self, charm: NfsServerCharm):
        super().__init__(charm, "actions")
        self._charm = charm
        self._anywhere: Mapping[str, Callable[[World, Params], Results]] = {
            "list-shares": self._list_shares,
            "check-share": self._check_share,
            "delete-share": self._delete_share,
        }
        self._on_leader: Mapping[str, Callable[[World, Params], Results]] = {
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
        except (RefusedError, images.ImagesError) as error:
            event.fail(str(error))

    def _do(self, name: str, params: Params) -> Results:
        if not (self._charm.peers.is_there and nfs.is_installed()):
            raise RefusedError(f"{self._charm.unit.name} is not ready: see juju status")
        if name in self._on_leader and not self._charm.unit.is_leader():
            leader = f"{self._charm.app.name}/leader"
            raise RefusedError(f"run it on the leader: juju run {leader} {name} …")
        act = self._anywhere.get(name) or self._on_leader[name]
        return act(self._charm.read_world(), params)

    def _list_shares(self, world: World, _: Params) -> Results:
        reports = self._reports(world)
        names = sorted({*world.decision.placements, *world.found.images})
        results: Results = {_key(name): self._describe(name, world) for name in names}
        results["count"] = len(names)
        strays = placement.strays(world.decision.placements, reports)
        for unit, report in sorted(reports.items()):
            if strays[unit]:
                results[f"strays-on-{unit.replace('/', '-')}"] = " ".join(strays[unit])
            if report.foreign:
                results[f"foreign-on-{unit.replace('/', '-')}"] = " ".join(report.foreign)
        return results

    def _create_share(self, world: World, params: Params) -> Results:
        name, size = _parsed(parse_name, params["share"]), _parsed(parse_size, str(params["size"]))
        before = world.decision.placements.get(name, Placement())
        if before.uuid and (has := self._made(name, world).size) != size:
            raise RefusedError(f"share {name} exists, it has {shown(has)}: use resize-share")
        after = replace(before, by_hand=True, size=size, grants=_with(before, params))
        return self._change(world, name, after)

    def _resize_share(self, world: World, params: Params) -> Results:
        name, size = _parsed(parse_name, params["share"]), _parsed(parse_size, str(params["size"]))
        before, there = _placed(name, world), self._made(name, world)
        if is_less(size, there.size):
            raise RefusedError(
                f"share {name}: {shown(size)} asked, it has {shown(there.size)}; "
                "a share never shrinks"
            )
        free = self._reports(world)[before.owner].free
        if size is not None and there.size is not None and size - there.size > free:
            raise RefusedError(f"share {name}: {shown(size)} asked, {free}G free")
        return self._change(world, name, replace(before, size=size))

    def _grant_access(self, world: World, params: Params) -> Results:
        name = _parsed(parse_name, params["share"])
        before = _placed(name, world)
        return self._change(world, name, replace(before, grants=_with(before, params)))

    def _revoke_access(self, world: World, params: Params) -> Results:
        name = _parsed(parse_name, params["share"])
        before, revoked = _placed(name, world), _parsed(parse_allowlist, params["allowlist"])
        after = replace(before, grants=tuple(it for it in before.grants if it not in revoked))
        still = _still_allowed(revoked, name, after, world)
        return {**self._change(world, name, after), "still-allowed": "; ".join(still)}

    def _forget_share(self, world: World, params: Params) -> Results:
        name = _confirmed(params)
        before = _placed(name, world)
        report = self._reports(world).get(before.owner, Report())
        if report.shares.get(name, ShareReport()).uuid:
            raise RefusedError(
                f"share {name} is on {before.owner}: use delete-share to delete its data"
            )
        placements = {n: it for n, it in world.decision.placements.items() if n != name}
        self._charm.peers.write_placements(placements)
        self._charm.reconcile()
        return {"name": name, "state": "forgotten", "wanted-by": _clients(name, world)}

    def _delete_share(self, world: World, params: Params) -> Results:
        image = self._own(_confirmed(params), world)
        if clients := _clients(image.name, world):
            raise RefusedError(
                f"share {image.name} is wanted by {clients}: remove that integration first"
            )
        directory = self._unexport_and_unmount(image, world)
        images.delete(directory, image, nfs.release)
        own = self._charm.peers.read_own_report()
        self._charm.peers.write_report(replace(own, deleted=(*own.deleted, image.uuid)))
        self._charm.reconcile()
        return {"name": image.name, "state": "deleted"}

    def _check_share(self, world: World, params: Params) -> Results:
        image = self._own(_parsed(parse_name, params["share"]), world)
        directory = self._unexport_and_unmount(image, world)
        try:
            is_clean, said = images.check(directory, image, repair=bool(params.get("repair")))
        finally:
            self._charm.reconcile()  # Mounts and exports it again.
        state = "clean" if is_clean else "has errors; repair=true repairs them"
        return {"name": image.name, "state": state, "e2fsck": said}

    def _change(self, world: World, name: str, after: Placement) -> Results:
        """Decide something of a share by hand, if it can be, and make it so."""
        wanted = placement.wanted(
            world.requests, changed := {**world.decision.placements, name: after}
        )
        decision = placement.decide(changed, wanted, self._reports(world))
        if reason := decision.refusals.get(name):
            raise RefusedError(reason)
        self._charm.peers.write_placements(decision.placements)
        self._charm.reconcile()
        world = self._charm.read_world()
        if error := self._report_of(name, world).error:
            raise RefusedError(error)
        return self._describe(name, world)

    def _unexport_and_unmount(self, image: Image, world: World) -> Path:
        """Take a share away from the clients that may mount it, unless one is connected.

        Returns:
            The directory of its image.
        """
        directory = self._charm.storage_directory()
        assert directory, "an image of this unit lies on its storage"  # noqa: S101 - for pyright.
        connected = _connected(image.name, world)
        if connected:
            raise RefusedError(
                f"share {image.name}: {', '.join(connected)} is connected; "
                "unmount it there, or take its access away first"
            )
        others = (it for it in world.exports.values() if it.name != image.name)
        exports.ensure(others, self._charm.in_force.squash)
        images.unmount(image, nfs.release)
        return directory

    def _reports(self, world: World) -> dict[str, Report]:
        return {**self._charm.peers.read_reports(), world.unit: world.report}

    def _report_of(self, name: str, world: World) -> ShareReport:
        owner = world.decision.placements.get(name, Placement()).owner
        report = self._reports(world).get(owner, Report())
        return report.shares.get(name, ShareReport())

    def _made(self, name: str, world: World) -> ShareReport:
        """Find what is reported of a share, which has to be served."""
        before = _placed(name, world)
        if reason := placement.why_lost(name, before, self._reports(world)):
            raise RefusedError(reason)
        if not before.uuid:
            raise RefusedError(f"share {name} is not made yet: see list-shares")
        return self._report_of(name, world)

    def _own(self, name: str, world: World) -> Image:
        """Find the image of a share, which has to be on this unit."""
        self._made(name, world)
        owner = world.decision.placements[name].owner
        if owner != world.unit:
            raise RefusedError(f"share {name} is on {owner}: run it there")
        return world.own_images[name]

    def _describe(self, name: str, world: World) -> Results:
        """Describe a share to an operator; what only its own unit knows, on that alone."""
        placed = world.decision.placements.get(name, Placement())
        report = self._report_of(name, world)
        image = world.own_images.get(name)
        return {
            "name": name,
            "owner": placed.owner,
            "state": _state(name, placed, report, self._reports(world)),
            "size": shown(report.size),
            "path": str(share_directory(name)),
            "allowlist": _hosts(report.networks),
            "allowlist-by-hand": _hosts(placed.grants),
            **(_describe_use(image, world) if image else {}),
        }


def _describe_use(image: Image, world: World) -> Results:
    usage = images.usage(image)
    return {
        "used-bytes": str(usage.used_bytes),
        "free-bytes": str(usage.free_bytes),
        "used-inodes": str(usage.used_inodes),
        "free-inodes": str(usage.free_inodes),
        "clients": " ".join(_connected(image.name, world)),
    }


def _state(
    name: str, placed: Placement, report: ShareReport, reports: Mapping[str, Report]
) -> str:
    if reason := placement.why_lost(name, placed, reports) or report.error:
        return reason
    if not report.uuid:
        return "not made yet"
    return "exported" if report.networks else "kept"


def _key(name: str) -> str:
    return share_id(name).replace("_", "-")  # Juju wants keys of [a-z0-9-].


def _hosts(networks: Iterable[Network]) -> str:
    return " ".join(dict.fromkeys(map(exports.host, networks)))


def _parsed(parse: Callable[[str], _T], text: str) -> _T:
    try:
        return parse(text)
    except ValueError as error:
        raise RefusedError(str(error)) from error


def _confirmed(params: Params) -> str:
    name = _parsed(parse_name, params["share"])
    if params["confirm"] != name:
        raise RefusedError(f"confirm: type the name of the share again, confirm={name}")
    return name


def _placed(name: str, world: World) -> Placement:
    if name not in world.decision.placements:
        raise RefusedError(f"there is no share {name}: see list-shares")
    return world.decision.placements[name]


def _with(before: Placement, params: Params) -> tuple[Network, ...]:
    """Add networks to those that an action has granted before."""
    grants = {*before.grants, *_parsed(parse_allowlist, params.get("allowlist", ""))}
    if len(grants) > MAX_ALLOWLIST_ENTRIES:
        raise RefusedError(
            f"allowlist: {len(grants)} entries by hand, "
            f"more than the {MAX_ALLOWLIST_ENTRIES} allowed: grant networks instead of addresses"
        )
    return sorted_networks(grants)


def _clients(name: str, world: World) -> str:
    """Name the applications that ask for a share."""
    return ", ".join(sorted({it.application for it in world.requests if it.name == name}))


def _still_allowed(
    networks: Iterable[Network], name: str, after: Placement, world: World
) -> list[str]:
    """Find who of some networks may still mount a share, and why."""
    granted = [(it, "by hand") for it in after.grants] + [
        (it, f"by {request.application}")
        for request in world.requests
        if request.name == name
        for it in request.networks
    ]
    return [
        f"{exports.host(it)} {why}"
        for it, why in granted
        if any(it.version == other.version and it.overlaps(other) for other in networks)
    ]


def _connected(name: str, world: World) -> list[str]:
    """Find the connected clients that may mount a share: which of theirs they did isn't told."""
    networks = world.exports[name].networks if name in world.exports else ()
    clients = nfs.read_clients()
    return [str(client) for client in clients if any(client in network for network in networks)]

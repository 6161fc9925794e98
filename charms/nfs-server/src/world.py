# SPDX-License-Identifier: Apache-2.0
"""All that a unit's decisions rest on, read at one moment, and what follows. No I/O, no ops."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import placement
import shares
from charms.storage_libs.v0.nfs_interfaces import ShareRequest
from images import Found
from placement import Decision, Placement, Report, ShareReport


@dataclass(frozen=True)
class World:
    """What is asked, what is decided, what is here."""

    unit: str
    requests: tuple[ShareRequest, ...]
    found: Found
    storage: shares.Storage
    deleted: tuple[str, ...]
    """UUIDs of the shares that this unit has deleted and that still have a placement."""
    decision: Decision
    """Where shares are to be; on the leader with what it decides in this hook."""
    confirmed: Mapping[str, Placement]
    """Where they are for sure: what the leader has committed."""

    @functools.cached_property
    def wanted(self) -> dict[str, shares.Wanted]:
        """What each share shall be, wherever it is."""
        return placement.wanted(self.requests, self.decision.placements)

    @functools.cached_property
    def own_images(self) -> dict[str, shares.Image]:
        """The images here that are the shares of their names."""
        placements = self.decision.placements
        return {
            name: image
            for name, image in self.found.images.items()
            if placement.is_placed(placements.get(name), self.unit, image.uuid)
        }

    @property
    def leftovers(self) -> tuple[shares.Image, ...]:
        """Images that were made here for shares that are elsewhere after all; they are empty."""
        others = self.decision.placements.keys() - self.own_images.keys()
        found = self.found.images
        return tuple(found[name] for name in sorted(others & found.keys()) if self._is_new(name))

    def _is_new(self, name: str) -> bool:
        return not self.found.images[name].is_served

    @property
    def strays(self) -> tuple[str, ...]:
        """Names of shares that are elsewhere and have an image here too, with data in it."""
        placements, found = self.decision.placements, self.found.images
        others = placements.keys() & found.keys() - self.own_images.keys()
        # The share itself, come with its storage, is the leader's to place here.
        return tuple(n for n in sorted(others) if placements[n].uuid != found[n].uuid)

    @property
    def lost(self) -> tuple[str, ...]:
        """Shares that were made here, and have no image here any more."""
        return tuple(
            sorted(
                name
                for name, it in self.decision.placements.items()
                if it.owner == self.unit
                and it.uuid not in {"", *self.deleted}
                and name not in self.own_images
            )
        )

    @functools.cached_property
    def plan(self) -> shares.Plan:
        """What this unit has to make and to grow."""
        own = {
            name: self.wanted[name]
            for name, it in self.decision.placements.items()
            if it.owner == self.unit and (not it.uuid or name in self.own_images)
        }
        in_order = {name: share for name, share in self.wanted.items() if name in own}
        return shares.plan(in_order, self.own_images, self.storage)

    @functools.cached_property
    def undone(self) -> frozenset[str]:
        """Shares that are to be made or grown here."""
        return frozenset(work.name for work in self.plan.work)

    @functools.cached_property
    def exports(self) -> dict[str, shares.Export]:
        """What this unit is to export, by share."""
        sure = {
            name: image
            for name, image in self.own_images.items()
            if self.confirmed.get(name, Placement()).uuid == image.uuid
        }
        return {export.name: export for export in shares.exports(self.wanted, sure)}

    @property
    def report(self) -> Report:
        """What this unit says to the others, but for its addresses."""
        names = {*self.found.images, *self.plan.refusals, *self.undone}
        return Report(
            free=shares.free(self.storage, self.found.images.values()),
            shares={name: self._share_report(name) for name in sorted(names)},
            foreign=self.foreign,
            deleted=self.deleted,
        )

    @property
    def foreign(self) -> tuple[str, ...]:
        """Names of the image files here that are no shares of this application."""
        # They may hold anything that a file system takes.
        return tuple(ascii(path.name)[1:-1] for path in self.found.foreign)

    def _share_report(self, name: str) -> ShareReport:
        image = self.found.images.get(name)
        failed = f"share {name}: nfs-server could not make or grow it"
        reasons = [self.plan.refusals.get(name, ""), failed if name in self.undone else ""]
        if image is None or name not in self.own_images:
            error = "; ".join(filter(None, reasons))
            return ShareReport(image.uuid, image.size) if image else ShareReport(error=error)
        if image.problem:
            reasons.append(f"share {name}: {image.problem}")
        is_exported = image.is_mounted and name in self.exports
        networks = self.exports[name].networks if is_exported else ()
        return ShareReport(image.uuid, image.size, "; ".join(filter(None, reasons)), networks)


def first_report(found: Found, storage: shares.Storage, deleted: tuple[str, ...]) -> Report:
    """Say what a unit has, before it is decided what it is to have."""
    return Report(
        free=shares.free(storage, found.images.values()),
        shares={name: ShareReport(image.uuid, image.size) for name, image in found.images.items()},
        deleted=deleted,
    )

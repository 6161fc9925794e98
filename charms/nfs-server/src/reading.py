# SPDX-License-Identifier: Apache-2.0
"""Reads both sides once, Juju's and the machine's, and decides what follows; changes nothing."""

import functools
from dataclasses import replace
from pathlib import Path

import ops

import claim
import deleted
import exports
import images
import nfs
import peers
import placement
import plan
import settings
from clients import Clients
from placement import Snapshot
from plan import Plan
from settings import Settings
from values import Found, Placements, Report, Storage


class Reader:
    """The one who knows both sides: what is asked, decided and here."""

    def __init__(self, charm: ops.CharmBase):
        self._charm = charm
        self._model = charm.model
        self.unit = charm.unit.name
        self.peers = peers.Peers(charm)
        self.clients = Clients(charm)
        self.claim = claim.Claim(self.unit, charm.model.uuid, str(charm.charm_dir))
        self._read: tuple[Snapshot, Plan] | None = None
        self._machine: tuple[Storage, Found] | None = None
        self._recorded: Placements | None = None

    @property
    def settings(self) -> Settings:
        """The operator's settings if they are good, else the last that were."""
        return self._settings[0] or Settings()

    @property
    def bad_setting(self) -> str:
        """Which of the operator's settings is not allowed, and what is; empty: they are good."""
        return self._settings[1]

    @property
    def not_set(self) -> str:
        """Why no settings are in force: none were good yet; empty: some are."""
        return "" if self._settings[0] else self._settings[1]

    @functools.cached_property
    def _settings(self) -> tuple[Settings | None, str]:
        found, bad = settings.read(self._charm.config)
        # What another unit left on this machine is in force for nobody.
        return (None, bad) if bad and not self.has_machine else (found, bad)

    @property
    def has_machine(self) -> bool:
        """Whether what of an nfs-server is on this machine is this unit's.

        Also where it has not claimed it: since an older revision did not, or as it could not yet.
        """
        return claim.is_held(self.claim) or (claim.is_free() and nfs.is_configured())

    @property
    def recorded(self) -> Placements:
        """The placements as they were read first in this hook: no failure takes them back."""
        return self._recorded or {}

    @functools.cached_property
    def _goal(self) -> dict[str, str]:
        return peers.read_goal()

    @property
    def is_leader(self) -> bool:
        """Whether this unit leads the application."""
        return self._charm.unit.is_leader()

    @property
    def is_leaving(self) -> bool:
        """Whether this unit is being removed."""
        return self._goal.get(self.unit) == "dying"

    @property
    def other_unit(self) -> str:
        """The unit of another nfs-server that has this machine; empty: it is this one's."""
        return claim.find_other(self.claim)

    @property
    def directory(self) -> Path | None:
        """Where the shares are: this unit's storage. None while it has none, or may serve none."""
        if self.other_unit:
            return None
        attached = self._model.storages["shares"]
        return attached[0].location if attached else None

    @property
    def awaited(self) -> Path | None:
        """The storage, where Juju has not mounted it yet; None: it is there.

        After a boot hooks may come before it (juju/juju#21135). What is beneath the mount is on
        the root disk.
        """
        directory = self.directory if self.has_machine else None
        return directory if directory and images.is_awaited(directory) else None

    @property
    def unreadable(self) -> str:
        """Why this unit's storage can't be read, if it can't: what is on it is not known then."""
        return images.find_fault(self.directory) if self.directory else ""

    @property
    def application(self) -> str:
        """What stands beside each image as its application: no other has the same."""
        return f"{self._model.uuid}/{self._charm.app.name}"

    def why_not_ready(self) -> str:
        """Say why nothing can be done on this unit; empty: it can."""
        if not self.peers.is_there:
            return f"{self.unit} is not ready: see juju status"
        if other := self.other_unit:
            return f"{other} serves this machine"
        if self.not_set:
            return self.not_set
        if not nfs.is_installed():
            return "the NFS server is not installed: see juju status"
        if awaited := self.awaited:
            return f"{awaited} is not mounted yet: see juju status"
        return self.unreadable

    def read(self, *, anew: bool = False) -> tuple[Snapshot, Plan]:
        """Read what is asked, decided and here, anew after work; as the leader, decide."""
        if anew:
            self.forget()
        if self._read is None:
            snapshot = self._take_snapshot()
            decided = plan.decide(snapshot, exports.MAX_ENTRIES)
            report = plan.report(snapshot, decided, plan.failed_before(snapshot, decided), None)
            report = replace(report, addresses=snapshot.own_report.addresses)
            self._read = snapshot.with_report(report), decided
        return self._read

    def keep(self, snapshot: Snapshot, decided: Plan) -> None:
        """Have this as what was read."""
        self._read = snapshot, decided

    def forget(self) -> None:
        """Read anew next time."""
        self._read = self._machine = None

    def forget_decisions(self) -> None:
        """Decide anew next time, of the same machine."""
        self._read = None

    @property
    def said(self) -> Report:
        """What this unit has said last."""
        return self.peers.read_reports()[self.unit]

    def read_storage(self) -> tuple[Storage, Found]:
        """Look at this unit's storage, and at the shares on it; nothing while it has none."""
        directory, application = self.directory, self.application
        if not directory:
            return Storage(), Found()
        storage = images.read_storage(directory, self.settings.overcommit_ratio)
        found = deleted.read(directory, application, images.read(directory, application))
        return storage, found

    def _take_snapshot(self) -> Snapshot:
        if self._machine is None:
            self._machine = self.read_storage()
        storage, found = self._machine
        committed = self.peers.read_placements()
        if self._recorded is None:
            self._recorded = committed
        snapshot = Snapshot(
            unit=self.unit,
            requests=self.clients.requests(self.settings),
            placements=committed,
            committed=committed,
            reports=self.peers.read_reports(),
            gone=self.peers.read_gone(),
            present={self.unit, *self._alive(), *self.peers.units},
            found=found,
            storage=storage,
            is_unable=not (nfs.is_installed() and claim.is_held(self.claim)),
        )
        snapshot = replace(snapshot, deleted=plan.deleted_here(snapshot))
        if not self.is_leader:
            return replace(snapshot, requests=placement.resolve(snapshot.requests, committed))
        answered = {
            it.integration_id: self.clients.answered(it.integration_id) for it in snapshot.requests
        }
        is_alone = not self.peers.units and self._alive() == [self.unit]
        return placement.lead(snapshot, plan.first_report(snapshot), answered, is_alone=is_alone)

    def _alive(self) -> list[str]:
        """Name the units that the application is to have; its peers may know dying ones."""
        return [unit for unit, status in self._goal.items() if status != "dying"]

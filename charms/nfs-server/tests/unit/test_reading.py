# SPDX-License-Identifier: Apache-2.0
"""What a unit takes for sure, for pending and for failed, of what it reads."""

from dataclasses import replace
from typing import Any

import ops
import pytest
from fake_machine import FakeMachine
from ops import hookcmds
from test_actions import do, plain, results
from test_charm import PEERS, Context, client, state

import peers
from charms.storage_libs.v0.nfs_interfaces import Size
from values import Placement

OTHER = "nfs-server/1"


def test_a_new_unit_knows_its_peers_not_yet(machine: FakeMachine, context: Context):
    machine.goal = {machine.unit: "waiting", OTHER: "active"}
    peer = replace(PEERS, local_app_data=plain({"/data": Placement(OTHER, "u1")}), peers_data={})
    now = replace(state(leader=False), relations={peer})
    do(context, now, "list-shares")
    (share,) = [it for it in results(context).values() if isinstance(it, dict)]
    assert share["state"] == "not made yet"


def test_who_may_lose_the_lead_exports_only_what_is_committed(
    machine: FakeMachine, context: Context
):
    """Another unit is to come, or is there and not seen yet: it may decide otherwise."""
    machine.goal = {machine.unit: "active", OTHER: "waiting"}
    now = context.run(context.on.relation_changed(c := client()), state(c))
    assert machine.sizes() == {"/data": 10}
    assert machine.exported == {}
    context.run(context.on.config_changed(), now)
    assert machine.may_mount() == {"/data": {"10.0.1.1"}}


def test_what_is_pending_has_not_failed(machine: FakeMachine, context: Context):
    """list-shares between the placement of a share and the hook that makes it."""
    placed = {"/data": Placement(machine.unit, is_manual=True, size=Size(10))}
    now = replace(state(leader=False), relations={replace(PEERS, local_app_data=plain(placed))})
    out = do(context, now, "list-shares")
    assert out.unit_status == ops.UnknownStatus()  # As it was.
    (share,) = [it for it in results(context).values() if isinstance(it, dict)]
    assert share["state"] == "not made yet"


def test_an_action_that_looks_leaves_the_status(machine: FakeMachine, context: Context):
    machine.failing = {"/data"}
    now = context.run(context.on.relation_changed(c := client()), state(c))
    out = do(context, now, "list-shares")
    assert out.unit_status == now.unit_status == ops.BlockedStatus("share /data: it failed")
    (share,) = [it for it in results(context).values() if isinstance(it, dict)]
    assert share["state"] == "share /data: it failed"


def test_the_goal_is_read_as_juju_gives_it(monkeypatch: pytest.MonkeyPatch):
    since = "2026-11-24 10:00:00Z"
    units: dict[str, Any] = {
        "nfs-server/0": {"status": "active", "since": since},
        OTHER: {"status": "dying", "since": since},
    }
    given = hookcmds.GoalState._from_dict({"units": units, "relations": {}})
    monkeypatch.setattr(hookcmds, "goal_state", lambda: given)
    assert peers.read_goal() == {"nfs-server/0": "active", OTHER: "dying"}

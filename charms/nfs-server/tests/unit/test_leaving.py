# SPDX-License-Identifier: Apache-2.0
"""What a unit leaves when its storage goes, and when it goes itself."""

from dataclasses import replace

import ops
import pytest
from fake_machine import FakeMachine
from test_charm import SHARES, Context, client, relation_in, state

import claim
from values import share_directory


@pytest.mark.parametrize("is_peer", [True, False])
def test_a_unit_that_leaves_does_nothing_more(
    machine: FakeMachine, context: Context, is_peer: bool
):
    now = context.run(context.on.relation_changed(c := client()), state(c))
    machine.goal = {machine.unit: "dying"}
    now = context.run(context.on.storage_detaching(SHARES), now)
    # Juju may run no further hook.
    assert not machine.has_exports_file
    assert not machine.is_configured
    there = relation_in(now, 1)
    relations = now.relations if is_peer else {there}
    now = replace(now, storages=set(), relations=relations)
    machine.changes.clear()
    for event in (
        context.on.relation_departed(there, remote_unit=0),
        context.on.relation_broken(there),
        context.on.config_changed(),
    ):
        out = context.run(event, now)
        assert machine.changes == []
        assert out.relations == now.relations
        if is_peer:
            assert out.unit_status == ops.MaintenanceStatus(
                "Leaving: the images of its shares stay on its storage"
            )
    machine.is_configured = True  # As where that failed.
    context.run(context.on.stop(), now)
    assert not machine.is_configured
    assert not claim.CLAIM.exists()


def test_removal_ends_whoever_uses_a_share(machine: FakeMachine, context: Context):
    now = context.run(context.on.relation_changed(c := client()), state(c))
    machine.busy = {"/data"}
    machine.goal = {machine.unit: "dying"}
    context.run(context.on.storage_detaching(SHARES), now)
    context.run(context.on.stop(), replace(now, storages=set()))
    assert machine.mounted == {"/data"}
    said = f"{share_directory('/data')} stays mounted"
    assert any(said in log.message for log in context.juju_log)

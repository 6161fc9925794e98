# SPDX-License-Identifier: Apache-2.0
"""update-status: nothing is read where nothing happened."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_machine import FakeMachine
from test_charm import SHARES, Context, answers, client, state

import peers
import settled


@pytest.mark.parametrize("size", ["10", pytest.param("1000", id="refused")])
def test_nothing_is_read_when_nothing_happened(
    machine: FakeMachine, context: Context, monkeypatch: pytest.MonkeyPatch, size: str
):
    now = context.run(context.on.relation_changed(c := client(size=size)), state(c))

    def refuse(*_: object) -> None:
        pytest.fail("update-status of a machine that is as it was")

    monkeypatch.setattr(peers, "read_goal", refuse)
    out = context.run(context.on.update_status(), now)
    assert out.unit_status == now.unit_status
    assert out.relations == now.relations


@pytest.mark.parametrize(
    "happens",
    [
        lambda machine: machine.mounted.clear(),
        lambda machine: setattr(machine, "is_running", False),
        lambda machine: setattr(machine, "foreign", (Path("/x.img"),)),
        lambda machine: machine.add("/data", 5),
        lambda machine: setattr(machine, "foreign", (Path("/y.deleted"),)),
    ],
)
def test_update_status_sees_what_happened(machine: FakeMachine, context: Context, happens: Any):
    now = context.run(context.on.relation_changed(c := client()), state(c))
    happens(machine)
    assert context.run(context.on.update_status(), now).unit_status != now.unit_status or (
        machine.mounted == {"/data"} and machine.is_running
    )
    assert not settled.SETTLED.exists() or machine.is_running


def test_update_status_ends_what_is_past(machine: FakeMachine, context: Context):
    now = context.run(context.on.config_changed(), state())
    now = context.run(context.on.action("create-share", params={"share": "/a", "size": 1}), now)
    gone = {"share": "/a", "confirm": "/a"}
    now = context.run(context.on.action("delete-share", params=gone), now)
    now = context.run(context.on.update_status(), now)
    machine.changes.clear()
    machine.deleted["/a"] = replace(machine.deleted["/a"], day="2027-12-05")
    now = context.run(context.on.update_status(), now)
    assert machine.changes == []  # The clock alone says nothing.
    machine.deleted["/a"] = replace(machine.deleted["/a"], is_count_old=True)
    now = context.run(context.on.update_status(), now)
    assert machine.changes == ["/a counted"]
    machine.busy = {"/a"}
    machine.deleted["/a"] = replace(machine.deleted["/a"], is_past=True)
    now = context.run(context.on.update_status(), now)
    assert list(machine.deleted) == ["/a"]
    machine.busy = set()
    now = context.run(context.on.update_status(), now)
    assert (machine.deleted, machine.changes) == ({}, ["/a counted", "/a purged"])


def test_a_storage_that_comes_back_late_keeps_what_was_deleted(
    machine: FakeMachine, context: Context
):
    """Days after, on a machine that ran all the time."""
    now = context.run(context.on.config_changed(), state())
    now = context.run(context.on.action("create-share", params={"share": "/a", "size": 1}), now)
    gone = {"share": "/a", "confirm": "/a"}
    now = context.run(context.on.action("delete-share", params=gone), now)
    now = context.run(context.on.storage_detaching(SHARES), now)
    machine.deleted["/a"] = replace(machine.deleted["/a"], is_past=True)
    context.run(context.on.storage_attached(SHARES), now)
    assert list(machine.deleted) == ["/a"]


def test_a_share_without_limit_grows_with_the_storage(machine: FakeMachine, context: Context):
    machine.others_gib = 50
    asking = client(size="-1")
    now = context.run(context.on.relation_changed(asking), state(asking))
    before = machine.on_storage["/data"].file_bytes
    machine.others_gib = 0
    context.run(context.on.update_status(), now)
    assert machine.on_storage["/data"].file_bytes > before


def test_what_was_refused_is_granted_when_there_is_room(machine: FakeMachine, context: Context):
    machine.others_gib = 90
    now = context.run(context.on.relation_changed(c := client()), state(c))
    assert "10G requested" in answers(now)[1]["error"]
    machine.others_gib = 0
    now = context.run(context.on.update_status(), now)
    assert answers(now)[1]["size"] == "10"
    assert "error" not in answers(now)[1]

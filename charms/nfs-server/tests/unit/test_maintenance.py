# SPDX-License-Identifier: Apache-2.0
"""Shares that are deleted and checked by actions, and what their clients lose by it: nothing."""

from dataclasses import replace
from typing import Any

import pytest
from fake_machine import FakeExports, FakeImages, FakeMachine, FakeMounts
from ops import testing
from test_actions import do, refused
from test_charm import HOLDER, PEERS, Context, client, relation_in, state

import images


def kept(context: Context) -> testing.State:
    """A share whose client has left."""
    now = context.run(context.on.relation_changed(c := client()), state(c))
    now = context.run(context.on.relation_broken(relation_in(now, 1)), now)
    return replace(now, relations={now.get_relation(PEERS.id)})


def test_delete_share_with_a_file_open_on_a_client(machine: FakeMachine, context: Context):
    now = kept(context)
    machine.holders = {"/data": (HOLDER,)}
    said = refused(context, now, "delete-share", share="/data", confirm="/data")
    assert said.startswith("share /data: 10.0.1.1 has files of it open; ")
    assert machine.sizes() == {"/data": 10}
    assert machine.holders == {"/data": (HOLDER,)}  # Nobody is cut off by trying.


def test_delete_share_takes_nothing_of_other_clients(machine: FakeMachine, context: Context):
    now = kept(context)
    machine.holders = {"/logs": (HOLDER,)}
    do(context, now, "delete-share", share="/data", confirm="/data")
    assert machine.holders == {"/logs": (HOLDER,)}
    assert machine.on_storage == {}


def test_delete_share_of_a_client_that_is_gone(machine: FakeMachine, context: Context):
    """A machine that lost power closes nothing, and the kernel keeps its files open for a day."""
    now = kept(context)
    gone = replace(HOLDER, is_silent=True)
    machine.holders = {"/data": (replace(gone, is_elsewhere=True),)}
    said = refused(context, now, "delete-share", share="/data", confirm="/data")
    assert said.startswith("share /data: 10.0.1.1 has files of it open; ")
    machine.holders = {"/data": (gone,)}
    do(context, now, "delete-share", share="/data", confirm="/data")
    assert machine.on_storage == {}
    assert machine.holders == {"/data": ()}  # Else its files would keep the image busy.


def test_delete_share_that_is_opened_since_it_looked(
    machine: FakeMachine, context: Context, monkeypatch: pytest.MonkeyPatch
):
    now, ensure = kept(context), FakeExports.ensure

    def open_meanwhile(*args: Any, **kwargs: Any) -> bool:
        machine.holders = {"/data": (HOLDER,)}
        return ensure(*args, **kwargs)

    monkeypatch.setattr(FakeExports, "ensure", open_meanwhile)
    assert "target is busy" in refused(
        context, now, "delete-share", share="/data", confirm="/data"
    )
    assert machine.holders == {"/data": (HOLDER,)}
    assert machine.sizes() == {"/data": 10}


def test_check_share_of_a_client_that_is_gone(machine: FakeMachine, context: Context):
    now = context.run(context.on.relation_changed(c := client()), state(c))
    machine.holders = {"/data": (replace(HOLDER, is_silent=True),)}
    do(context, now, "check-share", share="/data")
    assert machine.mounted == {"/data"}


def test_delete_share_that_is_mounted_by_nfsv3(machine: FakeMachine, context: Context):
    now = kept(context)
    machine.nfsv3 = {"/data": ("10.0.1.1",)}
    there = {"share": "/data", "confirm": "/data"}
    said = refused(context, now, "delete-share", **there)
    assert "10.0.1.1 has it by NFSv3 (ignore-nfsv3=true if not)" in said
    do(context, now, "delete-share", **there, **{"ignore-nfsv3": True})
    assert machine.on_storage == {}


@pytest.mark.parametrize(
    ("holder", "why"),
    [
        (HOLDER, "10.0.1.1 holds a lock"),
        (
            replace(HOLDER, has_locks=False, is_elsewhere=True),
            "10.0.1.1 has files of other shares open",
        ),
    ],
)
def test_check_share_makes_no_client_lose_anything(
    machine: FakeMachine, context: Context, holder: Any, why: str
):
    now = context.run(context.on.relation_changed(c := client()), state(c))
    machine.holders = {"/data": (holder,)}
    machine.changes.clear()
    assert why in refused(context, now, "check-share", share="/data")
    assert machine.changes == []
    assert machine.holders == {"/data": (holder,)}


def test_check_share_takes_no_lock_that_came_since_it_looked(
    machine: FakeMachine, context: Context, monkeypatch: pytest.MonkeyPatch
):
    """exportfs takes a while, and until then clients go on."""
    now = context.run(context.on.relation_changed(c := client()), state(c))
    machine.holders = {"/data": (replace(HOLDER, has_locks=False),)}
    ensure = FakeExports.ensure

    def lock_meanwhile(*args: Any, paused: Any = (), **kwargs: Any) -> bool:
        if paused:
            machine.holders = {"/data": (HOLDER,)}
        return ensure(*args, paused=paused, **kwargs)

    monkeypatch.setattr(FakeExports, "ensure", lock_meanwhile)
    assert "10.0.1.1 holds a lock" in refused(context, now, "check-share", share="/data")
    assert machine.holders == {"/data": (HOLDER,)}
    assert (machine.mounted, machine.paused) == ({"/data"}, set())


def test_check_share_that_does_not_end_gives_the_share_back(
    machine: FakeMachine, context: Context
):
    now = context.run(context.on.relation_changed(c := client()), state(c))
    machine.holders = {"/data": (replace(HOLDER, has_locks=False),)}
    do(context, now, "check-share", share="/data")
    assert (machine.mounted, machine.paused) == ({"/data"}, set())
    assert machine.may_mount() == {"/data": {"10.0.1.1"}}
    machine.busy = {"/data"}
    assert "bash (812)" in refused(context, now, "check-share", share="/data")
    assert (machine.mounted, machine.paused) == ({"/data"}, set())


def test_check_share_that_fails_gives_the_share_back(
    machine: FakeMachine, context: Context, monkeypatch: pytest.MonkeyPatch
):
    now = context.run(context.on.relation_changed(c := client()), state(c))

    def fail(*_: object, **__: object) -> None:
        raise images.ImagesError("share /data: e2fsck: not done after 3600 s")

    monkeypatch.setattr(FakeImages, "check", fail)
    assert "not done" in refused(context, now, "check-share", share="/data")
    assert (machine.mounted, machine.paused) == ({"/data"}, set())
    assert machine.may_mount() == {"/data": {"10.0.1.1"}}


def test_delete_share_that_stays_mounted_keeps_it(
    machine: FakeMachine, context: Context, monkeypatch: pytest.MonkeyPatch
):
    now = kept(context)
    machine.busy = {"/data"}
    monkeypatch.setattr(FakeMounts, "users", lambda *_: ())  # Who came after the look.
    said = refused(context, now, "delete-share", share="/data", confirm="/data")
    assert said == "target is busy"
    assert machine.sizes() == {"/data": 10}

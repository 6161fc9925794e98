# SPDX-License-Identifier: Apache-2.0
"""What Juju and the machine are left with: others' shares, other models, other servers, hooks.

The rules themselves are in the tests of plan, placement and room.
"""

from collections.abc import Collection
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import ops
import pytest
from fake_machine import FakeExports, FakeMachine
from ops import testing
from test_actions import do, placements, plain, refused, results, with_peers
from test_charm import (
    ENDPOINT,
    PEERS,
    SHARES,
    Context,
    admitted,
    answers,
    client,
    configured,
    relation_in,
    saying,
    state,
    with_answer,
)

import charm
import claim
import nfs
from charms.storage_libs.v0.nfs_interfaces import Size, parse_allowlist
from values import Placement, Report, share_id

OTHER = "nfs-server/1"
REMOTE = "remote-" + "ab" * 16
MODEL = "11111111-2222-3333-4444-555555555555"


def remote(relation: testing.Relation, model: str = MODEL) -> testing.Relation:
    """A client of another model."""
    return replace(relation, remote_app_name=REMOTE, remote_model_uuid=model)


# -- Deleting


@pytest.mark.parametrize("is_filled", [True, False])
@pytest.mark.parametrize("leader", [True, False])
def test_a_share_that_comes_with_its_storage_is_never_deleted(
    machine: FakeMachine, context: Context, is_filled: bool, leader: bool
):
    """Made by create-share for nobody yet, its unit removed, its storage attached here."""
    machine.add("/hand", 10, is_served=False)
    machine.mounted.clear()
    machine.filled = {"/hand"} if is_filled else set()
    there = machine.on_storage["/hand"]
    placed = {"/hand": Placement("nfs-server/7", there.uuid, is_manual=True, size=Size(10))}
    machine.goal = {machine.unit: "active", OTHER: "active"}
    peer = replace(PEERS, local_app_data=plain(placed), peers_data={1: {}})
    now = replace(state(leader=leader), relations={peer}, planned_units=2)
    context.run(context.on.storage_attached(SHARES), now)
    assert machine.on_storage == {"/hand": there}


@pytest.mark.parametrize("why", ["", "filled", "busy"])
def test_what_was_made_for_nothing_goes_only_if_it_is_empty(
    machine: FakeMachine, context: Context, why: str
):
    machine.add("/data", 10, is_served=False)
    machine.filled = {"/data"} if why == "filled" else set()
    machine.busy = {"/data"} if why == "busy" else set()
    machine.goal = {machine.unit: "active", OTHER: "active"}
    peer = replace(
        PEERS, local_app_data=plain({"/data": Placement(OTHER, "u1")}), peers_data={1: {}}
    )
    out = context.run(context.on.config_changed(), replace(state(leader=False), relations={peer}))
    assert set(machine.on_storage) == ({"/data"} if why else set())
    assert out.unit_status == (
        ops.BlockedStatus(
            f"share /data is on {OTHER}, another image of it is here: move it off the storage"
        )
        if why
        else ops.ActiveStatus()
    )


# -- Where shares are


@pytest.mark.parametrize("leader", [True, False])
def test_a_hook_before_the_storage_is_mounted_changes_nothing(
    machine: FakeMachine, context: Context, leader: bool
):
    """As after a boot: shares stay exported and placed, and nothing is made beneath the mount."""
    now = context.run(context.on.relation_changed(c := client()), state(c))
    c = with_answer(c, now)
    other = client(2, "/other")
    peer = now.get_relation(PEERS.id)
    before, exported = dict(machine.on_storage), dict(machine.exported)
    machine.on_storage.clear()
    machine.is_storage_mounted = False
    for event in context.on.start(), context.on.update_status():
        late = replace(state(c, other, stored=now), leader=leader)
        now = context.run(event, late)
        assert isinstance(now.unit_status, ops.WaitingStatus)
        says = "Waiting for the storage of its shares, which is not mounted on /"
        assert now.unit_status.message.startswith(says)
        assert (machine.on_storage, machine.exported) == ({}, exported)
        assert answers(now)[1] == {"endpoint": ENDPOINT, "size": "10"}
        assert now.get_relation(PEERS.id).local_app_data == peer.local_app_data
        assert '"unable":true' in now.get_relation(PEERS.id).local_unit_data["report"]
    with pytest.raises(testing.ActionFailed, match="is not mounted yet: see juju status"):
        context.run(context.on.action("list-shares"), late)
    machine.is_storage_mounted = True
    machine.on_storage |= before
    now = context.run(context.on.update_status(), late)
    assert machine.exported.keys() >= {"/data"}
    assert now.unit_status == ops.ActiveStatus()


@pytest.mark.parametrize("leader", [True, False])
def test_a_storage_that_can_not_be_read_fails_no_hook(
    machine: FakeMachine, context: Context, leader: bool
):
    """As where its disk is gone: what is on it is not known, and nothing is decided by that."""
    now = context.run(context.on.relation_changed(c := client()), state(c))
    c = with_answer(c, now)
    peer = now.get_relation(PEERS.id)
    machine.is_unreadable = True
    machine.changes.clear()
    for event in context.on.relation_changed(c), context.on.update_status():
        out = context.run(event, replace(state(c, stored=now), leader=leader))
        assert out.unit_status == ops.BlockedStatus("/ can't be read (Input/output error)")
        assert machine.changes == []
        assert answers(out) == answers(now)
        assert out.get_relation(PEERS.id).local_app_data == peer.local_app_data
        said = out.get_relation(PEERS.id).local_unit_data["report"]
        assert '"unable":true' in said  # It draws no shares.
        assert '"/data":{' in said
    assert refused(context, out, "list-shares") == "/ can't be read (Input/output error)"
    context.run(context.on.storage_detaching(SHARES), out)
    assert machine.mounted == set()


def test_a_storage_without_shares_is_waited_for_too(machine: FakeMachine, context: Context):
    now = context.run(context.on.config_changed(), state())
    machine.is_storage_mounted = False
    now = context.run(context.on.relation_changed(c := client()), state(c, stored=now))
    assert isinstance(now.unit_status, ops.WaitingStatus)
    assert machine.on_storage == {}
    now = context.run(context.on.storage_detaching(SHARES), now)
    machine.is_storage_mounted = True
    now = context.run(context.on.storage_attached(SHARES), now)
    assert answers(now)[1] == {"endpoint": ENDPOINT, "size": "10"}


def test_a_directory_of_the_root_disk_is_not_waited_for(machine: FakeMachine, context: Context):
    machine.is_storage_mounted = False
    for _ in range(2):
        now = context.run(context.on.relation_changed(c := client()), state(c))
        assert answers(now)[1] == {"endpoint": ENDPOINT, "size": "10"}


# -- Whose a share is


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"allowlist": "0.0.0.0/0"}, "belongs to app1: another's allowlist is not granted"),
        ({"size": "-1"}, ""),
        ({"size": "1000"}, "belongs to app1 and has 10G: 1000G requested by another"),
        ({"units": {0: "0.0.0.0/0"}}, ""),
    ],
)
def test_who_comes_later_changes_nothing_of_the_first(
    machine: FakeMachine, context: Context, params: dict[str, Any], why: str
):
    now = context.run(context.on.relation_changed(c := client()), state(c))
    first = with_answer(c, now)
    wanted: dict[str, Any] = {"size": "10"}
    later = client(2, "/data", **(wanted | params))
    now = context.run(context.on.relation_changed(later), state(first, later, stored=now))
    assert answers(now)[1] == {"endpoint": ENDPOINT, "size": "10"}
    assert answers(now)[2]["endpoint"] == ENDPOINT  # They share it: their operator said so.
    assert why in answers(now)[2].get("error", "")
    assert machine.sizes() == {"/data": 10}
    assert machine.may_mount()["/data"] - {"10.0.2.1"} == {"10.0.1.1"}
    assert now.unit_status == ops.ActiveStatus()
    assert "share /data is shared by app1, app2" in now.app_status.message


def test_another_model_never_meets_the_data(machine: FakeMachine, context: Context):
    others = replace(client(3, f"/data@{MODEL}"), remote_model_uuid="9" + MODEL[1:])
    asking = client(1), remote(client(2)), others
    now = context.run(context.on.config_changed(), state(*asking))
    named = {"/data", f"/data@{MODEL}", f"/data@{MODEL}@9{MODEL[1:]}"}
    assert set(machine.on_storage) == named
    assert len({it["endpoint"] for it in answers(now).values()}) == 3
    assert machine.may_mount()["/data"] == {"10.0.1.1"}


def test_an_offer_to_the_same_model_shares(machine: FakeMachine, context: Context):
    same = context.run(context.on.start(), state()).model.uuid
    asking = client(1), remote(client(2), same)
    now = replace(state(*asking), model=testing.Model("m", uuid=same))
    context.run(context.on.config_changed(), now)
    assert set(machine.on_storage) == {"/data"}


def test_an_operator_may_let_another_model_in(machine: FakeMachine, context: Context):
    asking = client(1), remote(client(2))
    now = context.run(context.on.config_changed(), state(*asking))
    now = do(context, now, "grant-access", share="/data", application=REMOTE)
    assert answers(now)[2]["endpoint"] == ENDPOINT
    assert machine.may_mount()["/data"] == {"10.0.1.1", "10.0.2.1"}
    now = do(context, now, "revoke-access", share="/data", application=REMOTE)
    assert answers(now)[2]["endpoint"] != ENDPOINT
    assert machine.may_mount()["/data"] == {"10.0.1.1"}
    either = "name an allowlist or an application, one of the two"
    assert refused(context, now, "grant-access", share="/data") == either
    both = {"allowlist": "10.9.0.1", "application": REMOTE}
    assert refused(context, now, "grant-access", share="/data", **both) == either
    said = refused(context, now, "grant-access", share="/data", application="app1")
    assert said == "application 'app1': name one of another model, as list-shares does"


def test_another_model_keeps_what_it_had_of_an_older_revision(
    machine: FakeMachine, context: Context
):
    machine.add("/data", 10)
    uuid = machine.on_storage["/data"].uuid
    had = {"endpoint": ENDPOINT, "size": "10"}
    asking = replace(remote(client(2)), local_app_data=had)
    peer = replace(PEERS, local_app_data=plain({"/data": Placement(machine.unit, uuid)}))
    now = context.run(context.on.upgrade_charm(), replace(state(), relations={asking, peer}))
    assert answers(now)[2] == had
    assert set(machine.on_storage) == {"/data"}
    now = do(context, now, "revoke-access", share="/data", application=REMOTE)
    assert answers(now)[2]["endpoint"] != ENDPOINT


def test_another_model_whose_offer_was_consumed_may_be_let_in(
    machine: FakeMachine, context: Context
):
    """Its application is called here as who consumed it wants."""
    asking = client(1), replace(client(2), remote_model_uuid=MODEL)
    now = context.run(context.on.config_changed(), state(*asking))
    assert set(machine.on_storage) == {"/data", f"/data@{MODEL}"}
    said = refused(context, now, "grant-access", share="/data", application="app2")
    assert said == "application 'app2': name one of another model, as list-shares does"
    do(context, now, "list-shares")
    listed = results(context)[share_id(f"/data@{MODEL}").replace("_", "-")]
    assert listed["applications"] == f"app2@{MODEL}"
    now = do(context, now, "grant-access", share="/data", application=f"app2@{MODEL}")
    assert answers(now)[2]["endpoint"] == ENDPOINT
    # Another one of that name is another one.
    other = replace(with_answer(asking[1], now), remote_model_uuid="9" + MODEL[1:])
    relations = {now.get_relation(1), other, now.get_relation(PEERS.id)}
    now = context.run(context.on.config_changed(), replace(now, relations=relations))
    assert answers(now)[2]["endpoint"] != ENDPOINT


def test_another_models_share_of_an_older_revision_stays_its_own(
    machine: FakeMachine, context: Context
):
    """Which called it by its name alone."""
    machine.add("/data", 10)
    uuid = machine.on_storage["/data"].uuid
    had = {"endpoint": ENDPOINT, "size": "10"}
    asking = replace(client(2, allowlist="10.9.0.1"), remote_model_uuid=MODEL, local_app_data=had)
    placed = {"/data": Placement(machine.unit, uuid, "app2")}
    peer = replace(PEERS, local_app_data=plain(placed))
    now = context.run(context.on.upgrade_charm(), replace(state(), relations={asking, peer}))
    assert machine.may_mount() == {"/data": {"10.0.2.1", "10.9.0.1"}}
    assert answers(now)[2] == had


@pytest.mark.parametrize("is_older", [False, True])
def test_what_was_taken_back_stays_so_whatever_is_requested(
    machine: FakeMachine, context: Context, is_older: bool
):
    """What was granted may be kept by who writes no name that can be read; but not without."""
    asking = client(1), remote(client(2))
    now = context.run(context.on.config_changed(), state(*asking))
    now = do(context, now, "grant-access", share="/data", application=REMOTE)
    if is_older:
        placed = replace(placements(now)["/data"], guests=(), knows_models=False)
        placed = {**placements(now), "/data": placed}
        peer = replace(now.get_relation(PEERS.id), local_app_data=plain(placed))
        now = replace(now, relations={now.get_relation(1), now.get_relation(2), peer})
    wrong = with_answer(remote(client(2, "!!")), now)
    relations = {now.get_relation(1), wrong, now.get_relation(PEERS.id)}
    now = context.run(context.on.config_changed(), replace(now, relations=relations))
    assert answers(now)[2]["endpoint"] == ENDPOINT
    assert machine.may_mount()["/data"] == {"10.0.1.1", "10.0.2.1"}
    now = do(context, now, "revoke-access", share="/data", application=REMOTE)
    now = context.run(context.on.config_changed(), now)
    assert "endpoint" not in answers(now)[2]
    assert machine.may_mount()["/data"] == {"10.0.1.1"}


@pytest.mark.parametrize("is_older", [False, True])
def test_what_is_taken_back_of_a_share_of_create_share(
    machine: FakeMachine, context: Context, is_older: bool
):
    now = do(context, state(remote(client(2))), "create-share", share="/data", size=10)
    now = do(context, now, "grant-access", share="/data", application=REMOTE)
    if is_older:  # It wrote nothing of models.
        placed = replace(placements(now)["/data"], guests=(), knows_models=False)
        peer = replace(now.get_relation(PEERS.id), local_app_data=plain({"/data": placed}))
        asking = now.get_relation(2)
        now = context.run(context.on.upgrade_charm(), replace(now, relations={asking, peer}))
    assert answers(now)[2]["endpoint"] == ENDPOINT
    now = do(context, now, "revoke-access", share="/data", application=REMOTE)
    now = context.run(context.on.config_changed(), now)
    assert answers(now)[2]["endpoint"] != ENDPOINT
    assert machine.may_mount().get("/data", set()) == set()


def test_what_is_open_to_all_is_said(machine: FakeMachine, context: Context):
    asking = client(allowlist="0.0.0.0/0")
    now = context.run(context.on.relation_changed(asking), state(asking))
    assert now.app_status == ops.ActiveStatus("share /data is open to all")
    do(context, now, "list-shares")
    (share,) = [it for it in results(context).values() if isinstance(it, dict)]
    assert (share["state"], share["applications"]) == ("open to all", "app1")


# -- Room


def test_no_limit_on_the_root_disk(machine: FakeMachine, context: Context):
    machine.is_root = True
    asking = client(size="-1"), client(2, "/logs")
    now = context.run(context.on.relation_changed(asking[0]), state(*asking))
    assert "on the root disk: request a size" in answers(now)[1]["error"]
    assert machine.sizes() == {"/logs": 10}
    assert now.unit_status == ops.ActiveStatus("Shares are on the root disk")
    said = refused(context, now, "create-share", share="/x", size=-1)
    assert "the shares are on the root disk" in said
    said = refused(context, now, "resize-share", share="/logs", size=-1)
    assert "the shares are on the root disk" in said
    do(context, now, "list-shares")
    assert results(context)["storage-on-nfs-server-0"] == "root disk"


def test_a_share_without_limit_leaves_no_room_for_others(machine: FakeMachine, context: Context):
    asking = client(size="-1"), client(2, "/logs", "5")
    now = context.run(context.on.relation_changed(asking[0]), state(asking[0]))
    now = context.run(context.on.relation_changed(asking[1]), state(*asking, stored=now))
    assert answers(now)[2] == {"error": "share /logs: 5G requested, 0G free"}
    assert machine.sizes() == {"/data": None}


def test_who_requests_nothing_any_more_is_told_nothing(machine: FakeMachine, context: Context):
    now = context.run(context.on.relation_changed(c := client()), state(c))
    nothing = replace(with_answer(c, now), remote_app_data={})
    now = context.run(context.on.relation_changed(nothing), state(nothing, stored=now))
    assert machine.may_mount() == {}
    assert answers(now)[1] == {}


def test_a_leader_without_good_settings_decides_nothing(machine: FakeMachine, context: Context):
    machine.is_installed = machine.is_running = machine.is_configured = False
    now = with_peers(state(client()), {}, Report(50))
    out = context.run(context.on.config_changed(), configured(now, threads=5000))
    assert out.get_relation(PEERS.id).local_app_data == plain({})
    assert answers(out) == {1: {}}


# -- One server a machine


@pytest.mark.parametrize("is_running", [True, False])
def test_a_second_server_touches_nothing(
    machine: FakeMachine, context: Context, tmp_path: Path, is_running: bool
):
    first = claim.Claim("other/0", "another model", str(tmp_path))
    claim.take(first)
    machine.is_installed = machine.is_running = machine.has_exports_file = is_running
    asking = client()
    for event in (
        context.on.install(),
        context.on.config_changed(),
        context.on.relation_changed(asking),
        context.on.storage_detaching(SHARES),
        context.on.stop(),
    ):
        out = context.run(event, state(asking))
    assert machine.changes == []
    assert machine.is_configured
    assert (machine.is_running, machine.has_exports_file) == (is_running, is_running)
    assert out.opened_ports == frozenset()
    out = context.run(context.on.start(), state(asking))
    assert out.unit_status == ops.BlockedStatus(
        "other/0 serves this machine, which can have one nfs-server: remove this unit, or deploy"
        " it to another machine"
    )
    assert claim.find_other(first) == ""


def test_the_machine_of_a_server_that_is_gone_is_taken(machine: FakeMachine, context: Context):
    claim.take(claim.Claim("other/0", "another model", "/nonexistent"))
    out = context.run(context.on.config_changed(), state())
    assert out.unit_status == ops.ActiveStatus()
    assert out.opened_ports == {testing.TCPPort(2049)}


def test_what_a_unit_left_that_was_removed_by_force_is_served_to_nobody(
    machine: FakeMachine, context: Context
):
    """A share of the same name would be exported where that one's is still mounted."""
    claim.take(claim.Claim("other/0", "another model", "/nonexistent"))
    machine.mounted = {"/data", "/left"}
    context.run(context.on.config_changed(), state())
    assert machine.mounted == set()


def test_what_is_mounted_in_a_shares_place_is_served_to_nobody(
    machine: FakeMachine, context: Context, monkeypatch: pytest.MonkeyPatch
):
    """A share is served by its path: its clients wait until it is there again."""
    now = context.run(context.on.relation_changed(c := client()), state(c))
    machine.covered = {"/data"}
    now = context.run(context.on.update_status(), now)
    assert (machine.paused, machine.exported.keys()) == ({"/data"}, {"/data"})
    # Nor by what is done to another share.
    now = do(context, now, "create-share", share="/other", size=1)
    seen: list[set[str]] = []
    ensure = FakeExports.ensure

    def look(self: FakeExports, *args: Any, paused: Collection[str] = ()) -> bool:
        seen.append({*paused})
        return ensure(self, *args, paused=paused)

    monkeypatch.setattr(FakeExports, "ensure", look)
    do(context, now, "check-share", share="/other")
    now = do(context, now, "delete-share", share="/other", confirm="/other")
    assert seen
    assert all("/data" in paused for paused in seen)
    machine.covered.clear()
    context.run(context.on.update_status(), now)
    assert machine.paused == set()


CONFLICT = (
    'cannot open 2049/tcp (unit "nfs-server/0"): port range conflicts with 2049/tcp (unit "old/0")'
)


@pytest.fixture
def refused_ports(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Ports that another unit on the machine has open."""
    ports: set[int] = set()
    open_ports = ops.Unit.set_ports

    def set_ports(unit: ops.Unit, *wanted: int | ops.Port):
        if ports & {it.port if isinstance(it, ops.Port) else it for it in wanted}:
            raise ops.ModelError(f"ERROR {CONFLICT}\n")
        open_ports(unit, *wanted)

    monkeypatch.setattr(ops.Unit, "set_ports", set_ports)
    return ports


def test_a_machine_whose_port_another_has_is_taken_when_it_is_free(
    machine: FakeMachine, context: Context, refused_ports: set[int]
):
    """As while the nfs-server that had the machine is still being removed."""
    refused_ports.add(2049)
    out = context.run(context.on.config_changed(), state(client()))
    blocked = ops.BlockedStatus(
        f"A port is another unit's: {CONFLICT}: move one of the two elsewhere"
    )
    assert out.unit_status == blocked
    assert not machine.exported
    refused_ports.clear()
    out = context.run(context.on.update_status(), out)
    assert out.unit_status == ops.ActiveStatus()
    assert out.opened_ports == {testing.TCPPort(2049)}
    assert machine.exported


def test_a_port_of_nfsv3_that_another_has_stops_nothing(
    machine: FakeMachine, context: Context, refused_ports: set[int]
):
    now = context.run(context.on.config_changed(), state(client()))
    refused_ports.add(111)
    out = context.run(context.on.config_changed(), replace(now, config={"nfsv3": True}))
    assert isinstance(out.unit_status, ops.BlockedStatus)
    assert machine.exported
    c = with_answer(client(size="20"), out)
    out = context.run(
        context.on.relation_changed(c), replace(out, relations={c, out.get_relation(PEERS.id)})
    )
    assert machine.sizes() == {"/data": 20}
    again = context.run(context.on.update_status(), out)
    assert again.unit_status == out.unit_status
    refused_ports.clear()
    out = context.run(context.on.update_status(), again)
    assert out.unit_status == ops.ActiveStatus()
    assert testing.TCPPort(111) in out.opened_ports


def test_ports_are_declared_again_after_a_killed_hook(machine: FakeMachine, context: Context):
    """Juju drops what it declared, but the machine was taken."""
    killed = context.run(context.on.install(), state())
    now = context.run(context.on.start(), replace(killed, opened_ports=set()))
    assert now.opened_ports == {testing.TCPPort(2049)}


# -- Hooks


def test_a_container_is_told_before_anything_is_installed(machine: FakeMachine, context: Context):
    machine.is_installed = machine.is_running = machine.is_configured = False
    machine.is_container = True
    out = context.run(context.on.install(), state())
    assert out.unit_status == ops.BlockedStatus("This container can't serve NFS")
    assert machine.changes == []


def test_a_container_that_has_the_package_draws_no_shares(machine: FakeMachine, context: Context):
    machine.is_container, machine.is_running = True, False
    out = context.run(context.on.relation_changed(c := client()), state(c))
    assert out.unit_status == ops.BlockedStatus("This container can't serve NFS")
    assert machine.changes == []
    assert '"unable":true' in out.get_relation(PEERS.id).local_unit_data["report"]


def test_a_container_that_serves_goes_on(machine: FakeMachine, context: Context):
    """What is asked of the kernel before is asked once: it says it is none that can serve."""
    now = context.run(context.on.relation_changed(c := client()), state(c))
    machine.is_container, machine.is_running = True, False
    out = context.run(context.on.config_changed(), now)
    assert machine.is_running
    assert out.unit_status == ops.ActiveStatus()


def test_a_package_that_can_not_be_had_is_tried_again(machine: FakeMachine, context: Context):
    machine.is_installed = machine.is_running = machine.is_configured = False
    machine.can_install = False
    out = context.run(context.on.install(), state())
    assert out.unit_status == ops.BlockedStatus(
        "nfs-kernel-server can't be installed, trying again: see juju debug-log"
    )
    out = context.run(context.on.relation_changed(c := client()), state(c, stored=out))
    assert '"unable":true' in out.get_relation(PEERS.id).local_unit_data["report"]
    assert "error" not in answers(out)[1]
    machine.can_install = True
    out = context.run(context.on.update_status(), out)
    assert out.unit_status == ops.ActiveStatus()
    assert out.workload_version == "1:2.6.4-3ubuntu5"
    assert "unable" not in out.get_relation(PEERS.id).local_unit_data["report"]
    assert answers(out)[1] == {"endpoint": ENDPOINT, "size": "10"}


def test_exports_that_fail_fail_no_hook(machine: FakeMachine, context: Context):
    machine.can_export = False
    out = context.run(context.on.relation_changed(c := client()), state(c))
    assert out.unit_status == ops.BlockedStatus(
        "The exports could not be changed: exportfs: it failed"
    )
    assert refused(context, out, "create-share", share="/x", size=1)
    assert answers(out)[1] == {"size": "10", "error": "share /data: exportfs: it failed"}


def test_nobody_is_told_of_an_access_that_could_not_be_given(
    machine: FakeMachine, context: Context
):
    now = context.run(context.on.relation_changed(c := client()), state(c))
    before = admitted(now)
    machine.can_export = False
    more = with_answer(client(units={0: "10.0.1.1/32", 1: "10.0.1.2/32"}), now)
    now = context.run(context.on.relation_changed(more), state(more, stored=now))
    assert admitted(now) == before == {"10.0.1.1"}
    assert answers(now)[1]["error"] == "share /data: exportfs: it failed"
    do(context, now, "list-shares")
    (listed,) = (it for it in results(context).values() if isinstance(it, dict))
    assert listed["allowlist"] == "10.0.1.1"
    machine.can_export = True
    now = context.run(context.on.update_status(), now)
    assert admitted(now) == {"10.0.1.1", "10.0.1.2"}
    assert "error" not in answers(now)[1]


def test_nobody_is_told_of_a_squash_that_is_not_in_force(machine: FakeMachine, context: Context):
    asked = {"name": "/data", "size": "10", "squash": "none"}
    now = context.run(context.on.relation_changed(c := saying(asked)), state(c))
    machine.can_export = False
    more = with_answer(saying({**asked, "squash": "root"}), now)
    now = context.run(context.on.relation_changed(more), state(more, stored=now))
    assert answers(now)[1]["squash"] == "none"
    assert answers(now)[1]["error"] == "share /data: exportfs: it failed"


def test_a_share_that_can_not_be_noted_is_not_exported(machine: FakeMachine, context: Context):
    machine.add("/bad", 10, is_served=False)
    machine.failing = {"/bad"}
    asking = client(1, "/bad"), client(2, "/good")
    out = context.run(context.on.config_changed(), state(*asking))
    assert machine.may_mount() == {"/good": {"10.0.2.1"}}
    assert out.unit_status == ops.BlockedStatus("share /bad: it failed")


def test_a_client_that_leaves_gets_the_time_to_unmount(
    machine: FakeMachine, context: Context, monkeypatch: pytest.MonkeyPatch
):
    # ops.testing, unlike Juju, has no databag of a unit that departs.
    monkeypatch.setattr(charm, "client_networks", lambda *_: parse_allowlist("10.0.0.2"))
    both = client(units={0: "10.0.0.1/32", 1: "10.0.0.2/32"})
    now = context.run(context.on.relation_changed(both), state(both))
    machine.clients = (ip_address("10.0.0.1"), ip_address("10.0.0.2"))
    one = with_answer(client(units={0: "10.0.0.1/32"}), now)
    gone = context.on.relation_departed(one, remote_unit=1, departing_unit=1)
    context.run(gone, state(one, stored=now))
    assert machine.waited_s == nfs.LEAVE_TIMEOUT_S
    assert machine.clients == (ip_address("10.0.0.1"),)
    assert machine.may_mount() == {"/data": {"10.0.0.1"}}


def test_broken_without_the_name_of_the_other_side(
    machine: FakeMachine, context: Context, monkeypatch: pytest.MonkeyPatch
):
    """After a restart of its agent, Juju may not say it (LP 1960934)."""
    now = context.run(context.on.relation_changed(c := client()), state(c))
    there = replace(relation_in(now, 1), remote_app_name="")
    relations = {there, now.get_relation(PEERS.id)}
    context.run(context.on.relation_broken(there), replace(now, relations=relations))
    assert machine.may_mount() == {}

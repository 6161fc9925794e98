# SPDX-License-Identifier: Apache-2.0
"""The actions: what they leave behind and give back, and each refusal's text."""

from dataclasses import replace
from ipaddress import ip_address
from typing import Any, cast

import fake_machine
import pytest
from fake_machine import FakeMachine
from ops import testing
from test_charm import (
    HOLDER,
    HOST,
    PEERS,
    Context,
    answers,
    client,
    configured,
    network,
    relation_in,
    state,
    with_answer,
)

import records
from charms.storage_libs.v0.nfs_interfaces import NO_LIMIT, Size, parse_allowlist
from values import (
    GIB,
    DeletedReport,
    Placement,
    Report,
    ShareReport,
    share_directory,
    share_id,
)

OTHER = "nfs-server/1"
CLIENT = parse_allowlist("10.0.1.1")
OPEN = replace(HOLDER, address=ip_address("10.9.0.1"), has_locks=False)


def do(context: Context, now: testing.State, name: str, /, **params: Any) -> testing.State:
    return context.run(context.on.action(name, params=params), now)


def results(context: Context) -> dict[str, Any]:
    assert context.action_results is not None
    return context.action_results


def refused(context: Context, now: testing.State, name: str, /, **params: Any) -> str:
    return refused_with(context, now, name, **params)[0]


def refused_with(
    context: Context, now: testing.State, name: str, /, **params: Any
) -> tuple[str, testing.State]:
    """The refusal, and what is left."""
    with pytest.raises(testing.ActionFailed) as failure:
        do(context, now, name, **params)
    return failure.value.message, cast("testing.State", failure.value.state)


def placements(now: testing.State) -> dict[str, Placement]:
    text = now.get_relation(PEERS.id).local_app_data.get("shares", "")
    return records.read_placements(records.parse(text))


def plain(placed: dict[str, Placement]) -> dict[str, str]:
    return {"shares": records.dump(records.write_placements(placed))}


def report_in(now: testing.State) -> Report:
    said = now.get_relation(PEERS.id).local_unit_data["report"]  # pyright: ignore
    return records.REPORT.read(records.parse(said))


def with_peers(now: testing.State, placed: dict[str, Placement], report: Report) -> testing.State:
    """Two units: the other one says `report`."""
    relation = replace(
        PEERS,
        local_app_data=plain(placed),
        peers_data={1: {"report": records.dump(records.REPORT.write(report))}},
    )
    clients = {it for it in now.relations if it.id != PEERS.id}
    return replace(now, relations={*clients, relation}, planned_units=2)


def created(context: Context, **params: Any) -> testing.State:
    given = {"share": "/hand", "size": 10, "allowlist": "10.9.0.1"} | params
    return do(context, state(), "create-share", **given)


def test_create_share(machine: FakeMachine, context: Context):
    now = created(context)
    assert machine.sizes() == {"/hand": 10}
    assert machine.may_mount() == {"/hand": {"10.9.0.1"}}
    assert results(context) == {
        "name": "/hand",
        "unit": "nfs-server/0",
        "applications": "",
        "state": "exported",
        "size": "10G",
        "path": str(share_directory("/hand")),
        "allowlist": "10.9.0.1",
        "read-only": "",
        "squash": "none",
        "granted-by-action": "10.9.0.1",
        "mount": f"mount -t nfs {HOST}:{share_directory('/hand')} /mnt",
        "used-bytes": str(GIB),
        "free-bytes": str(9 * GIB),
        "used-inodes": "12",
        "free-inodes": "88",
        "owner": "0:0",
        "mode": "0755",
        "clients": "",
    }
    machine.changes.clear()
    again = do(context, now, "create-share", share="/hand", size=10, allowlist="10.9.0.1")
    assert machine.changes == []
    assert again.relations == now.relations
    context.run(context.on.config_changed(), again)
    assert machine.may_mount() == {"/hand": {"10.9.0.1"}}


def test_create_share_without_limit_and_for_nobody(machine: FakeMachine, context: Context):
    created(context, size=-1, allowlist="")
    assert machine.sizes() == {"/hand": None}
    assert machine.may_mount() == {}
    assert (results(context)["state"], results(context)["size"]) == ("kept", "no limit")


def test_create_share_that_a_client_has(machine: FakeMachine, context: Context):
    now = context.run(context.on.relation_changed(c := client()), state(c))
    now = do(context, now, "create-share", share="/data", size=10)
    now = context.run(context.on.relation_broken(relation_in(now, 1)), now)
    assert placements(now)["/data"].is_manual
    assert machine.sizes() == {"/data": 10}


_NAME = ": use 1 to 128 letters, digits and characters of /._:@+-"


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"size": 100}, "share /hand: 100G requested, 98G free"),
        ({"size": 0}, "size '0': use whole gigabytes from 1, or -1 for no limit"),
        ({"share": "a b"}, f"share name 'a b'{_NAME}"),
        ({"share": "../x"}, "share name '../x': '..' is not allowed in it"),
        (
            {"allowlist": "*(rw)"},
            "allowlist entry '*(rw)': use an IP address or network such as 10.0.0.0/24",
        ),
        (
            {"allowlist": ",".join(f"10.{n}.0.1" for n in range(251)) + ",10.0.0.0/8" * 750},
            "allowlist: 1001 entries, more than the 1000 allowed",
        ),
    ],
)
def test_create_share_refused(
    machine: FakeMachine, context: Context, params: dict[str, Any], reason: str
):
    given = {"share": "/hand", "size": 10} | params
    now = context.run(context.on.config_changed(), state())
    assert refused(context, now, "create-share", **given) == reason
    assert machine.on_storage == {}


def test_create_share_that_exists_with_another_size(machine: FakeMachine, context: Context):
    now = created(context)
    said = refused(context, now, "create-share", share="/hand", size=20)
    assert said == "share /hand exists, it has 10G: use resize-share"
    assert machine.sizes() == {"/hand": 10}


def test_create_share_that_fails(machine: FakeMachine, context: Context):
    machine.failing = {"/hand"}
    said = refused(context, state(), "create-share", share="/hand", size=10)
    assert said == "share /hand: it failed"


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("create-share", {"share": "/hand", "size": 1}),
        ("resize-share", {"share": "/hand", "size": 1}),
        ("grant-access", {"share": "/hand", "allowlist": "10.0.0.1"}),
        ("revoke-access", {"share": "/hand", "allowlist": "10.0.0.1"}),
        ("forget-share", {"share": "/hand", "confirm": "/hand"}),
    ],
)
def test_on_the_leader_alone(
    machine: FakeMachine, context: Context, name: str, params: dict[str, Any]
):
    said = refused(context, state(leader=False), name, **params)
    assert said == f"run it on the leader: juju run nfs-server/leader {name} …"
    if name != "create-share":
        assert (
            refused(context, state(), name, **params) == "there is no share /hand: see list-shares"
        )


@pytest.mark.parametrize("name", ["check-share", "delete-share"])
def test_on_the_unit_that_has_it_alone(machine: FakeMachine, context: Context, name: str):
    params = {"share": "/hand"} | ({"confirm": "/hand"} if name == "delete-share" else {})
    assert refused(context, state(), name, **params) == "there is no share /hand: see list-shares"
    machine.goal = {"nfs-server/0": "active", OTHER: "active"}
    there = Report(shares={"/hand": ShareReport("u1", Size(10))})
    now = with_peers(state(), {"/hand": Placement(OTHER, "u1", is_manual=True)}, there)
    assert refused(context, now, name, **params) == f"share /hand is on {OTHER}: run it there"
    missing = Report(shares={"/hand": ShareReport()})
    now = with_peers(state(), {"/hand": Placement(OTHER, "u1", is_manual=True)}, missing)
    lost = "share /hand: its image is not here; attach the storage that holds it"
    assert refused(context, now, name, **params) == lost
    now = with_peers(state(), {"/hand": Placement("nfs-server/7", "u1")}, Report())
    gone = "share /hand was on nfs-server/7, which is gone"
    assert refused(context, now, name, **params) == gone
    now = with_peers(
        state(), {"/hand": Placement(OTHER, is_manual=True, size=Size(5))}, Report(50)
    )
    said = refused(context, now, name, **params)
    assert said == "share /hand is not made yet: see list-shares"


def test_not_ready(machine: FakeMachine, context: Context):
    machine.is_installed = False
    said = refused(context, state(), "list-shares")
    assert said == "the NFS server is not installed: see juju status"
    said = refused(context, replace(state(), relations=()), "list-shares")
    assert said == "nfs-server/0 is not ready: see juju status"


def test_resize_share(machine: FakeMachine, context: Context):
    now = created(context)
    for _ in range(2):
        now = do(context, now, "resize-share", share="/hand", size=20)
        assert machine.sizes() == {"/hand": 20}
        assert results(context)["size"] == "20G"
    said = refused(context, now, "resize-share", share="/hand", size=5)
    assert said == "share /hand: 5G requested, it has 20G; a share never shrinks"
    said = refused(context, now, "resize-share", share="/hand", size=200)
    assert said == "share /hand: 200G requested, 78G free"
    do(context, now, "resize-share", share="/hand", size=-1)
    assert machine.sizes() == {"/hand": None}


def test_nothing_is_recorded_of_what_is_refused(machine: FakeMachine, context: Context):
    """Else it would be done as soon as what stood against it is gone."""
    now = context.run(context.on.relation_changed(c := client()), state(c))
    more = with_answer(client(size="1000"), now)
    now = context.run(context.on.relation_changed(more), state(more, stored=now))
    before = placements(now)
    said = refused(context, now, "resize-share", share="/data", size=20)
    assert said == "share /data: 1000G requested, 88G free"
    less = with_answer(client(size="10"), now)
    now = context.run(context.on.relation_changed(less), state(less, stored=now))
    assert placements(now) == before
    assert machine.sizes() == {"/data": 10}


def test_access_that_is_refused_is_not_granted_later(
    machine: FakeMachine, context: Context, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fake_machine.FakeExports, "MAX_ENTRIES", 3)
    now = created(context, allowlist="10.9.0.1,10.9.0.3")
    now = do(context, now, "create-share", share="/b", size=1)
    said, after = refused_with(
        context, now, "grant-access", share="/b", allowlist="10.0.0.1,10.0.0.3"
    )
    assert said.startswith("share /b: 2 more addresses")
    assert placements(after) == placements(now)


def test_access_is_taken_away_whatever_is_refused(
    machine: FakeMachine, context: Context, monkeypatch: pytest.MonkeyPatch
):
    now = created(context, allowlist="10.9.0.1,10.9.0.3")
    monkeypatch.setattr(fake_machine.FakeExports, "MAX_ENTRIES", 1)
    more = parse_allowlist("10.9.0.1,10.9.0.5,10.9.0.7,10.9.0.9")
    placed = {"/hand": replace(placements(now)["/hand"], grants=more)}
    peers = replace(now.get_relation(PEERS.id), local_app_data=plain(placed))
    now = context.run(context.on.config_changed(), replace(now, relations={peers}))
    assert machine.may_mount() == {"/hand": {"10.9.0.1"}}
    now = do(context, now, "revoke-access", share="/hand", allowlist="10.9.0.9")
    assert "2 more addresses" in results(context)["state"]
    do(context, now, "revoke-access", share="/hand", allowlist="10.9.0.1")
    assert machine.may_mount() == {}


def test_access_is_taken_away_before_there_is_room(machine: FakeMachine, context: Context):
    waiting = Placement(is_manual=True, size=Size(1000), grants=parse_allowlist("10.9.0.1"))
    now = with_peers(state(), {"/hand": waiting}, Report())
    after = do(context, now, "revoke-access", share="/hand", allowlist="10.9.0.1")
    assert placements(after)["/hand"].grants == ()
    assert "1000G requested" in results(context)["state"]


def test_a_limit_on_addresses_holds_also_where_the_share_is_elsewhere(
    machine: FakeMachine, context: Context, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fake_machine.FakeExports, "MAX_ENTRIES", 3)
    there = Report(50, shares={"/hand": ShareReport("u1", Size(10))})
    placed = {"/hand": Placement(OTHER, "u1", "app1", is_manual=True)}
    now = with_peers(state(), placed, there)
    many = "10.0.0.1,10.0.0.3,10.0.0.5,10.0.0.7"
    said, after = refused_with(context, now, "grant-access", share="/hand", allowlist=many)
    assert said.startswith("share /hand: 4 more addresses")
    assert placements(after) == placed


def test_a_share_that_was_refused_before_can_be_taken_over(machine: FakeMachine, context: Context):
    now = context.run(context.on.relation_changed(c := client()), state(c))
    more = with_answer(client(size="1000"), now)
    now = context.run(context.on.relation_changed(more), state(more, stored=now))
    do(context, now, "create-share", share="/data", size=10)
    assert "1000G requested" in results(context)["state"]


def test_a_reserved_share_grows_by_what_is_really_free(machine: FakeMachine, context: Context):
    """However much may be allocated to those that are made now."""
    now = do(context, state(), "create-share", share="/hand", size=60, allowlist="10.9.0.1")
    now = configured(now, overcommit_ratio=2.0)
    said, after = refused_with(context, now, "resize-share", share="/hand", size=150)
    assert said == "share /hand: 150G requested, 38G free"
    assert placements(after) == placements(now)
    do(context, after, "grant-access", share="/hand", allowlist="10.9.0.3")


def test_what_another_unit_said_is_no_reason(machine: FakeMachine, context: Context):
    """It may be of something else; but what room it has is."""
    machine.goal = {"nfs-server/0": "active", OTHER: "active"}
    there = Report(50, shares={"/data": ShareReport("u1", Size(10), "share /data: bad")})
    placed = Placement(OTHER, "u1", "app1", is_manual=True)
    now = with_peers(state(client()), {"/data": placed}, there)
    after = do(context, now, "resize-share", share="/data", size=20)
    assert placements(after)["/data"].size == Size(20)
    do(context, now, "grant-access", share="/data", allowlist="10.9.0.1")
    now = with_peers(state(client(size="1000")), {"/data": placed}, there)
    said, after = refused_with(context, now, "resize-share", share="/data", size=20)
    assert said == "share /data: 1000G requested, 50G free"
    assert placements(after)["/data"].size != Size(20)


def test_too_many_addresses_are_no_reason_not_to_grow(
    machine: FakeMachine, context: Context, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fake_machine.FakeExports, "MAX_ENTRIES", 1)
    c = client(allowlist="10.9.0.1,10.9.0.3")
    now = context.run(context.on.relation_changed(c), state(c))
    assert "more addresses" in answers(now)[1]["error"]
    now = do(context, now, "resize-share", share="/data", size=20)
    assert machine.sizes() == {"/data": 20}
    machine.failing = {"/data"}
    assert (
        refused(context, now, "resize-share", share="/data", size=30) == "share /data: it failed"
    )


def test_why_a_share_is_nowhere(machine: FakeMachine, context: Context):
    machine.goal = {"nfs-server/0": "active", OTHER: "active"}
    wanted = {"/hand": Placement("", is_manual=True, size=Size(500))}
    do(context, with_peers(state(), wanted, Report(50)), "list-shares")
    assert results(context)[share_id("/hand").replace("_", "-")]["state"] == (
        "share /hand: 500G requested, 50G free"
    )


def test_a_share_that_is_another_s(machine: FakeMachine, context: Context):
    """Whoever an application asks to let in to another's share is not let in."""
    now = context.run(context.on.relation_changed(c := client()), state(c))
    other = client(2, allowlist="10.9.0.1")
    now = context.run(
        context.on.relation_changed(other), replace(now, relations={*now.relations, other})
    )
    now = do(context, now, "grant-access", share="/data", allowlist="10.9.0.0/16")
    do(context, now, "revoke-access", share="/data", allowlist="10.9.0.0/16")
    assert results(context)["still-allowed"] == ""


def test_a_share_that_an_action_grew_is_no_fault_of_its_client(
    machine: FakeMachine, context: Context
):
    now = context.run(context.on.relation_changed(c := client()), state(c))
    now = do(context, now, "resize-share", share="/data", size=20)
    assert machine.sizes() == {"/data": 20}
    assert "error" not in answers(now)[1]


def test_access_by_actions(machine: FakeMachine, context: Context):
    now = context.run(context.on.relation_changed(c := client()), state(c))
    for _ in range(2):
        now = do(context, now, "grant-access", share="/data", allowlist="10.9.0.0/16,10.0.1.1")
        assert machine.may_mount() == {"/data": {"10.0.1.1", "10.9.0.0/16"}}
        assert results(context)["granted-by-action"] == "10.0.1.1 10.9.0.0/16"
    now = context.run(context.on.config_changed(), now)
    assert machine.may_mount() == {"/data": {"10.0.1.1", "10.9.0.0/16"}}
    now = do(context, now, "revoke-access", share="/data", allowlist="10.0.1.1")
    assert results(context)["still-allowed"] == "10.0.1.1 by app1"
    now = context.run(context.on.relation_broken(relation_in(now, 1)), now)
    assert machine.may_mount() == {"/data": {"10.9.0.0/16"}}
    now = replace(now, relations={now.get_relation(PEERS.id)})
    for _ in range(2):
        now = do(context, now, "revoke-access", share="/data", allowlist="10.9.0.0/16")
        assert machine.may_mount() == {}
        assert results(context)["still-allowed"] == ""
    do(context, now, "grant-access", share="/data", allowlist="10.9.0.0/16,10.9.0.1")
    do(context, now, "revoke-access", share="/data", allowlist="10.9.0.1")
    assert results(context)["still-allowed"] == ""


def test_access_has_nothing_to_do_with_what_was_refused_before(
    machine: FakeMachine, context: Context
):
    now = context.run(context.on.relation_changed(c := client()), state(c))
    more = with_answer(client(size="1000"), now)
    now = context.run(context.on.relation_changed(more), state(more, stored=now))
    assert "1000G requested" in answers(now)[1]["error"]
    now = do(context, now, "grant-access", share="/data", allowlist="10.9.0.1")
    assert "10.9.0.1" in machine.may_mount()["/data"]
    do(context, now, "revoke-access", share="/data", allowlist="10.9.0.1")
    assert "10.9.0.1" not in machine.may_mount()["/data"]


def test_too_many_grants(machine: FakeMachine, context: Context):
    now = created(context, allowlist=",".join(f"10.0.{n // 250}.{n % 250}" for n in range(1000)))
    said = refused(context, now, "grant-access", share="/hand", allowlist="10.9.0.1")
    assert said == (
        "allowlist: 1001 entries granted by actions, more than the 1000 allowed: "
        "grant networks instead of addresses"
    )


def test_forget_share(machine: FakeMachine, context: Context):
    gone = {"/data": Placement("nfs-server/7", "u1", is_manual=True)}
    now = with_peers(state(client()), gone, Report(free=10))
    said = refused(context, now, "forget-share", share="/data", confirm="/dat")
    assert said == "confirm: type the name of the share again, confirm=/data"
    now = context.run(context.on.config_changed(), now)
    assert answers(now) == {1: {"error": "share /data was on nfs-server/7, which is gone"}}
    assert machine.on_storage == {}
    now = do(context, now, "forget-share", share="/data", confirm="/data")
    assert results(context) == {"name": "/data", "state": "forgotten", "requested-by": "app1"}
    now = context.run(context.on.config_changed(), now)
    assert machine.sizes() == {"/data": 10}
    said = refused(context, now, "forget-share", share="/data", confirm="/data")
    assert said == "share /data is on nfs-server/0: use delete-share to delete its data"


def test_forget_share_whose_unit_said_nothing_of_it_yet(machine: FakeMachine, context: Context):
    """A new leader may know a report that is older than the share."""
    machine.goal = {"nfs-server/0": "active", OTHER: "active"}
    now = with_peers(state(), {"/hand": Placement(OTHER, "u1", is_manual=True)}, Report(50))
    said = refused(context, now, "forget-share", share="/hand", confirm="/hand")
    assert said == f"share /hand is on {OTHER}: use delete-share to delete its data"
    missing = Report(50, shares={"/hand": ShareReport()})
    now = with_peers(state(), {"/hand": Placement(OTHER, "u1", is_manual=True)}, missing)
    do(context, now, "forget-share", share="/hand", confirm="/hand")


def test_delete_share(machine: FakeMachine, context: Context):
    now = created(context)
    there = {"share": "/hand", "confirm": "/hand"}
    assert refused(context, now, "delete-share", share="/hand", confirm="hand") == (
        "confirm: type the name of the share again, confirm=/hand"
    )
    machine.clients = (ip_address("10.9.0.1"), ip_address("10.8.0.1"))
    assert refused(context, now, "delete-share", **there) == (
        "share /hand: 10.9.0.1 is connected; unmount it there, or end its access and what uses it"
    )
    assert machine.may_mount() == {"/hand": {"10.9.0.1"}}
    machine.clients = ()
    now = do(context, now, "delete-share", **there)
    assert results(context) == {"name": "/hand", "state": "deleted", "kept-until": "2026-12-05"}
    assert (machine.on_storage, machine.mounted, machine.exported) == ({}, set(), {})
    assert "/hand kept for 7 days" in machine.changes
    assert placements(now) == {}
    assert refused(context, now, "delete-share", **there) == (
        "there is no share /hand: see list-shares"
    )


def test_delete_share_at_once(machine: FakeMachine, context: Context):
    now = replace(created(context), config={"keep-deleted": 0})
    now = do(context, now, "delete-share", share="/hand", confirm="/hand")
    assert results(context) == {"name": "/hand", "state": "deleted"}
    assert (machine.on_storage, machine.deleted, placements(now)) == ({}, {}, {})
    now = do(context, now, "create-share", share="/hand", size=10)
    assert machine.sizes() == {"/hand": 10}


def deleted(context: Context) -> testing.State:
    """A share of which no client is left, deleted, and kept."""
    return do(context, created(context), "delete-share", share="/hand", confirm="/hand")


KEPT_HERE = (
    "share /hand: deleted, and kept on nfs-server/0: run restore-share or purge-share there"
)


def test_list_shares_lists_what_is_kept(machine: FakeMachine, context: Context):
    now = deleted(context)
    uuid = machine.deleted["/hand"].image.uuid
    do(context, now, "list-shares")
    assert results(context) == {
        "count": 0,
        f"deleted-{share_id('/hand').replace('_', '-')}-on-nfs-server-0": {
            "name": "/hand",
            "unit": "nfs-server/0",
            "state": "deleted",
            "size": "10G",
            "uuid": uuid,
            "kept-until": "2026-12-05",
        },
    }


def test_the_name_of_what_is_kept_is_taken(machine: FakeMachine, context: Context):
    now = deleted(context)
    assert refused(context, now, "create-share", share="/hand", size=10) == KEPT_HERE
    asking = replace(now, relations={*now.relations, client(name="/hand")})
    now = context.run(context.on.config_changed(), asking)
    assert answers(now) == {1: {"error": KEPT_HERE}}
    assert now.app_status == testing.ActiveStatus(f"Refused to app1: {KEPT_HERE}")
    assert machine.on_storage == {}


def test_restore_share(machine: FakeMachine, context: Context):
    now = created(context)
    uuid, before = machine.on_storage["/hand"].uuid, placements(now)
    now = do(context, now, "delete-share", share="/hand", confirm="/hand")
    now = do(context, now, "restore-share", share="/hand")
    assert results(context) == {
        "name": "/hand", "state": "restored", "size": "10G", "uuid": uuid,
    }  # fmt: skip
    assert as_before(now) == before
    assert machine.may_mount() == {"/hand": {"10.9.0.1"}}
    assert machine.deleted == {}
    now = context.run(context.on.update_status(), now)
    assert machine.decided == {}  # It is recorded: nothing is left of the deletion.
    # And so on, as often as it takes.
    for _ in range(2):
        now = do(context, now, "delete-share", share="/hand", confirm="/hand")
        assert placements(now) == {}
        now = do(context, now, "restore-share", share="/hand")
        assert as_before(now) == before


def as_before(now: testing.State) -> dict[str, Placement]:
    """The placements, but for which deletions were taken back."""
    return {name: replace(it, restored="") for name, it in placements(now).items()}


def test_an_action_makes_what_a_killed_hook_had_begun_to(machine: FakeMachine, context: Context):
    now = created(context)
    now = replace(now, relations={*now.relations, client(size="60")})
    machine.unfinished = 60
    now = do(context, now, "grant-access", share="/hand", allowlist="10.9.0.2")
    assert machine.sizes() == {"/hand": 10, "/data": 60}
    assert answers(now)[1]["size"] == "60"


def test_restore_share_under_another_name(machine: FakeMachine, context: Context):
    now = deleted(context)
    now = replace(now, relations={*now.relations, client(name="/hand", size="20")})
    now = context.run(context.on.config_changed(), now)
    now = do(context, now, "restore-share", share="/hand", name="/old")
    assert machine.sizes() == {"/old": 10, "/hand": 20}
    assert machine.may_mount() == {"/old": {"10.9.0.1"}, "/hand": {"10.0.1.1"}}
    assert answers(now)[1]["endpoint"].endswith(share_id("/hand"))


def test_restore_share_that_an_application_asks_for(machine: FakeMachine, context: Context):
    now = context.run(context.on.relation_changed(c := client()), state(c))
    before = answers(now)
    now = context.run(context.on.relation_broken(relation_in(now, 1)), now)
    now = replace(now, relations={now.get_relation(PEERS.id)})
    now = do(context, now, "delete-share", share="/data", confirm="/data")
    now = replace(now, relations={*now.relations, client()})
    now = context.run(context.on.config_changed(), now)
    assert "endpoint" not in answers(now)[1]
    now = do(context, now, "restore-share", share="/data")
    assert answers(now) == before  # It mounts what it had, by the same handles.
    assert machine.may_mount() == {"/data": {"10.0.1.1"}}


def test_restore_share_that_is_damaged(machine: FakeMachine, context: Context):
    now = deleted(context)
    machine.damaged = {"/hand"}
    now = do(context, now, "restore-share", share="/hand")
    assert results(context)["state"] == "not mounted"
    assert now.unit_status == testing.BlockedStatus(
        f"share /hand: not mounted: see journalctl -u '*{share_id('/hand')}*'"
    )
    assert machine.sizes() == {"/hand": 10}


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"share": "/other"}, "there is no deleted share /other: see list-shares"),
        ({"share": "../x"}, "share name '../x': '..' is not allowed in it"),
        (
            {"share": "/hand", "name": "a b"},
            "share name 'a b': use 1 to 128 letters, digits and characters of /._:@+-",
        ),
        (
            {"share": "/hand", "name": "/there"},
            "share /there exists: give the deleted one another name, name=/other",
        ),
        (
            {"share": "/hand", "name": "/far"},
            "share /far: a deleted one has that name: use another, name=/other",
        ),
        ({"share": "/far"}, f"share /far: deleted, and kept on {OTHER}: run it there"),
    ],
)
def test_restore_share_refused(
    machine: FakeMachine, context: Context, params: dict[str, str], reason: str
):
    now = deleted(context)
    now = do(context, now, "create-share", share="/there", size=10)
    there = Report(restorable={"/far": DeletedReport("u7", Size(1), "2026-12-05")})
    machine.goal = {"nfs-server/0": "active", OTHER: "active"}
    now = with_peers(now, placements(now), there)
    machine.changes.clear()
    assert refused(context, now, "restore-share", **params) == reason
    assert machine.changes == []


def test_restore_share_that_is_looked_at(machine: FakeMachine, context: Context):
    now = deleted(context)
    machine.busy = {"/hand"}
    for name, confirm in ("restore-share", {}), ("purge-share", {"confirm": "/hand"}):
        said = refused(context, now, name, share="/hand", **confirm)
        assert said == "share /hand is in use on this machine by bash (812): end that"
    assert list(machine.deleted) == ["/hand"]


def test_delete_share_of_which_an_earlier_one_is_kept(machine: FakeMachine, context: Context):
    """As an older revision, which knows nothing of it, made another one meanwhile."""
    now = deleted(context)
    earlier = machine.deleted.pop("/hand")
    now = do(context, now, "create-share", share="/hand", size=10)
    machine.deleted["/hand"] = earlier
    said = refused(context, now, "delete-share", share="/hand", confirm="/hand")
    assert said == (
        "share /hand: an earlier one is kept: run purge-share, or restore-share with another"
        " name, first"
    )
    now = replace(now, config={"keep-deleted": 0})
    do(context, now, "delete-share", share="/hand", confirm="/hand")
    assert (machine.on_storage, machine.deleted) == ({}, {"/hand": earlier})


def test_purge_share(machine: FakeMachine, context: Context):
    now = deleted(context)
    uuid = machine.deleted["/hand"].image.uuid
    said = refused(context, now, "purge-share", share="/hand", confirm="hand")
    assert said == "confirm: type the name of the share again, confirm=/hand"
    now = replace(now, relations={*now.relations, client(name="/hand")})
    now = do(context, now, "purge-share", share="/hand", confirm="/hand")
    assert results(context) == {"name": "/hand", "state": "purged", "uuid": uuid}
    assert machine.deleted == {}
    assert machine.may_mount() == {"/hand": {"10.0.1.1"}}  # A new one, for who asked.
    assert machine.on_storage["/hand"].uuid != uuid
    said = refused(context, now, "purge-share", share="/hand", confirm="/hand")
    assert said == "there is no deleted share /hand: see list-shares"


def test_killed_before_the_deletion_is_recorded(machine: FakeMachine, context: Context):
    """What is on the storage says it; the hook's own words are lost with it."""
    now = created(context)
    do(context, now, "delete-share", share="/hand", confirm="/hand")
    now = context.run(context.on.config_changed(), now)
    assert (placements(now), now.unit_status) == ({}, testing.ActiveStatus())
    uuid = machine.deleted["/hand"].image.uuid
    do(context, now, "restore-share", share="/hand")
    now = context.run(context.on.config_changed(), now)
    assert placements(now)["/hand"].uuid == uuid
    assert machine.may_mount() == {"/hand": {"10.9.0.1"}}
    assert machine.decided != {}  # Until the next hook finds that recorded.
    now = context.run(context.on.config_changed(), now)
    assert machine.decided == {}


@pytest.mark.parametrize("is_alone", [True, False])
def test_a_purged_share_that_comes_back_is_restored_by_its_operator(
    machine: FakeMachine, context: Context, is_alone: bool
):
    """As from a backup of the storage: no event takes a deletion back, nor hides the image."""
    c = client(name="/hand")
    now = context.run(context.on.relation_changed(c), state(c))
    image = machine.on_storage["/hand"]
    now = replace(now, relations={it for it in now.relations if it.id != c.id})
    now = do(context, now, "delete-share", share="/hand", confirm="/hand")
    now = do(context, now, "purge-share", share="/hand", confirm="/hand")
    now = context.run(context.on.update_status(), now)
    assert now.unit_status == testing.ActiveStatus()
    machine.on_storage["/hand"] = image
    if not is_alone:
        machine.goal = {"nfs-server/0": "active", OTHER: "active"}
    now = context.run(context.on.update_status(), replace(now, relations={*now.relations, c}))
    said = (
        "share /hand: deleted, and its image is on nfs-server/0 again: run restore-share or"
        " purge-share there"
    )
    assert now.unit_status == testing.BlockedStatus(said)
    assert answers(now)[1] == {"error": said}
    do(context, now, "list-shares")
    assert results(context)[share_id("/hand").replace("_", "-")]["state"] == said
    assert machine.exported == {}
    now = do(context, now, "restore-share", share="/hand")
    for _ in range(2):
        now = context.run(context.on.update_status(), now)
    assert now.unit_status == testing.ActiveStatus()
    assert machine.on_storage["/hand"].uuid == image.uuid
    assert machine.exported.keys() == {"/hand"}
    assert answers(now)[1]["endpoint"]


def test_a_share_that_comes_back_is_behind_one_that_is_kept(
    machine: FakeMachine, context: Context
):
    now = created(context)
    first = machine.on_storage["/hand"]
    for action in "delete-share", "purge-share":
        now = do(context, now, action, share="/hand", confirm="/hand")
    now = do(context, now, "create-share", share="/hand", size=10)
    second = machine.on_storage["/hand"]
    now = do(context, now, "delete-share", share="/hand", confirm="/hand")
    machine.on_storage["/hand"] = first
    now = do(context, now, "purge-share", share="/hand", confirm="/hand")
    assert results(context)["uuid"] == second.uuid
    now = do(context, now, "purge-share", share="/hand", confirm="/hand")
    assert results(context)["uuid"] == first.uuid
    assert (machine.on_storage, machine.deleted) == ({}, {})


def test_purged_before_the_deletion_is_recorded(machine: FakeMachine, context: Context):
    now = created(context)
    do(context, now, "delete-share", share="/hand", confirm="/hand")  # Killed.
    now = do(context, now, "purge-share", share="/hand", confirm="/hand")
    assert (placements(now), now.unit_status) == ({}, testing.ActiveStatus())
    now = do(context, now, "create-share", share="/hand", size=10)
    assert machine.sizes() == {"/hand": 10}


def test_delete_share_that_a_client_wants(machine: FakeMachine, context: Context):
    now = context.run(context.on.relation_changed(c := client()), state(c))
    said = refused(context, now, "delete-share", share="/data", confirm="/data")
    assert said == "share /data is requested by app1: remove that integration first"
    assert machine.sizes() == {"/data": 10}


def test_delete_share_that_is_in_use(machine: FakeMachine, context: Context):
    now = created(context)
    machine.busy = {"/hand"}
    said = refused(context, now, "delete-share", share="/hand", confirm="/hand")
    assert said == "share /hand is in use on this machine by bash (812): end that"
    assert machine.sizes() == {"/hand": 10}
    context.run(context.on.config_changed(), now)
    assert machine.may_mount() == {"/hand": {"10.9.0.1"}}


def test_delete_share_on_another_unit_than_the_leader(machine: FakeMachine, context: Context):
    machine.add("/hand", 10)
    uuid = machine.on_storage["/hand"].uuid
    placed = {"/hand": Placement("nfs-server/0", uuid, is_manual=True, size=Size(10))}
    now = with_peers(state(leader=False), placed, Report())
    now = do(context, now, "delete-share", share="/hand", confirm="/hand")
    assert machine.on_storage == {}
    for _ in range(2):  # Until the leader has dropped it, it says so, and makes nothing anew.
        assert report_in(now).deleted == (uuid,)
        assert now.unit_status == testing.ActiveStatus()
        now = context.run(context.on.config_changed(), now)
    relation = replace(now.get_relation(PEERS.id), local_app_data={"shares": "{}"})
    now = context.run(context.on.config_changed(), replace(now, relations={relation}))
    assert report_in(now).deleted == ()


def test_check_share(machine: FakeMachine, context: Context):
    now = created(context)
    machine.unclean = {"/hand"}
    machine.clients = (ip_address("10.9.0.1"),)
    machine.holders = {"/hand": (OPEN,)}  # They wait, and open it again.
    for params, result in (
        ({}, "has errors; repair=true repairs them"),
        ({"repair": True}, "clean"),
        ({}, "clean"),
    ):
        now = do(context, now, "check-share", share="/hand", **params)
        assert results(context) == {"name": "/hand", "state": result, "e2fsck": "pass 1"}
        assert machine.mounted == {"/hand"}
        assert machine.may_mount() == {"/hand": {"10.9.0.1"}}


def test_list_shares(machine: FakeMachine, context: Context):
    machine.goal = {"nfs-server/0": "active", OTHER: "active"}
    machine.add("/kept", 5)
    machine.add("/bad", 5)
    machine.add("/stray", 5)
    machine.mounted -= {"/bad", "/stray"}
    machine.damaged = {"/bad"}
    machine.clients = (ip_address("10.0.1.1"), ip_address("10.7.0.1"))
    there = {name: it.uuid for name, it in machine.on_storage.items()}
    placed = {
        "/kept": Placement("nfs-server/0", there["/kept"]),
        "/bad": Placement("nfs-server/0", there["/bad"]),
        "/stray": Placement(OTHER, "u3"),
        "/gone": Placement("nfs-server/7", "u4"),
        "/data": Placement(OTHER, "u1", grants=CLIENT),
        "/new": Placement(OTHER, is_manual=True, size=Size(20)),
    }
    report = Report(
        free=50,
        shares={
            "/data": ShareReport("u1", Size(10), networks=CLIENT),
            "/stray": ShareReport("u3", NO_LIMIT, "share /stray: 5G requested, 1G free"),
        },
        foreign=("backup.img",),
    )
    now = with_peers(state(client(2, "/kept", "5")), placed, report)
    now = context.run(context.on.config_changed(), now)
    before = list(machine.changes)
    do(context, now, "list-shares")
    assert machine.changes == before
    said = dict(results(context))
    assert said.pop("count") == 6
    assert said.pop("misplaced-on-nfs-server-0") == "/stray"
    assert said.pop("foreign-on-nfs-server-1") == "backup.img"
    assert set(said) == {share_id(name).replace("_", "-") for name in placed}
    found = {it["name"]: (it["unit"], it["state"], it["size"]) for it in said.values()}
    assert found == {
        "/kept": ("nfs-server/0", "exported", "5G"),
        "/bad": ("nfs-server/0", "share /bad: not mounted", "5G"),
        "/stray": (OTHER, "share /stray: 5G requested, 1G free", "no limit"),
        "/gone": ("nfs-server/7", "share /gone was on nfs-server/7, which is gone", "unknown"),
        "/data": (OTHER, "exported", "10G"),
        "/new": (OTHER, "not made yet", "unknown"),
    }
    kept, data = (said[share_id(name).replace("_", "-")] for name in ("/kept", "/data"))
    assert kept["allowlist"] == "10.0.2.1"
    assert (data["allowlist"], data["granted-by-action"]) == ("10.0.1.1", "10.0.1.1")
    assert "used-bytes" in kept
    assert "used-bytes" not in data


@pytest.mark.parametrize(
    ("addresses", "line"),
    [
        pytest.param(["fd00::5"], "mount -t nfs [fd00::5]:{} /mnt", id="IPv6"),
        pytest.param([], "", id="Juju knows none"),
    ],
)
def test_how_to_mount_by_hand(
    machine: FakeMachine, context: Context, addresses: list[str], line: str
):
    now = replace(created(context), networks=frozenset({network(*addresses)}))
    do(context, now, "list-shares")
    (share,) = (it for it in results(context).values() if isinstance(it, dict))
    assert share["mount"] == line.format(share_directory("/hand"))


def test_200_shares_by_actions(
    machine: FakeMachine, context: Context, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(fake_machine, "TOTAL", 300)
    now, grants = state(), ",".join(f"10.9.0.{n}" for n in range(10))
    placed = {
        f"/s{n}": Placement("nfs-server/0", is_manual=True, size=Size(1)) for n in range(200)
    }
    relation = replace(PEERS, local_app_data=plain(placed))
    now = context.run(context.on.config_changed(), replace(now, relations={relation}))
    now = do(context, now, "grant-access", share="/s7", allowlist=grants)
    assert len(machine.on_storage) == 200
    assert machine.may_mount() == {"/s7": {"10.9.0.0/29", "10.9.0.8/31"}}
    assert HOST not in str(placements(now))

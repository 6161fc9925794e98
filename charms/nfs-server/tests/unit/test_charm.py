# SPDX-License-Identifier: Apache-2.0
"""The charm: what Juju and the machine are left with after events, whatever their order."""

import ast
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import ops
import pytest
from fake_machine import (
    FakeDeleted,
    FakeExports,
    FakeImages,
    FakeMachine,
    FakeMonitoring,
    FakeMounts,
    FakeNfs,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from ops import testing

import actions
import charm
import claim
import deleted
import exports
import images
import leaving
import maintenance
import monitoring
import mounts
import nfs
import peers
import provisioning
import reading
import reconciler
import settings as charm_settings
import settled
from charms.storage_libs.v0.nfs_interfaces import parse_allowlist
from values import GIB, share_directory, share_id

# What calls the workload modules.
USERS = charm, actions, leaving, maintenance, provisioning, reading, reconciler, settled
HOST = "192.0.2.10"
HOLDER = nfs.Holder(
    address=ip_address("10.0.1.1"),
    has_locks=True,
    is_elsewhere=False,
    is_silent=False,
    control=Path("/ctl"),
)
ENDPOINT = f"nfs://{HOST}/srv/nfs/{share_id('/data')}"


def put_in(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    for module in USERS:
        monkeypatch.setattr(module, "images", FakeImages(machine), raising=False)
        monkeypatch.setattr(module, "deleted", FakeDeleted(machine), raising=False)
        monkeypatch.setattr(module, "mounts", FakeMounts(machine), raising=False)
        monkeypatch.setattr(module, "exports", FakeExports(machine), raising=False)
        monkeypatch.setattr(module, "nfs", FakeNfs(machine), raising=False)
        monkeypatch.setattr(module, "monitoring", FakeMonitoring(machine), raising=False)
    machine.kept.mkdir(exist_ok=True)
    monkeypatch.setattr(charm_settings, "IN_FORCE", machine.kept / "settings.json")
    monkeypatch.setattr(claim, "CLAIM", machine.kept / "claim.json")
    monkeypatch.setattr(settled, "SETTLED", machine.kept / "settled")
    monkeypatch.setattr(peers, "read_goal", lambda: machine.goal or {machine.unit: "active"})
    return machine


def new_context(unit: str = "nfs-server/0") -> testing.Context[charm.NfsServerCharm]:
    return testing.Context(charm.NfsServerCharm, unit_id=int(unit.partition("/")[2]))


Context = testing.Context[charm.NfsServerCharm]
SHARES = testing.Storage("shares")
PEERS = testing.PeerRelation("peers", id=100)


# In Juju a model is the same one for all its life.
MODEL = testing.Model("files", uuid="5f0c7f1e-3a52-4f6b-9d3e-2b8f0e6a4c11")


def client(
    integration_id: int = 1,
    name: str = "/data",
    size: str = "10",
    allowlist: str = "",
    units: Mapping[int, str] | None = None,
) -> testing.Relation:
    """An application that asks for a share."""
    return saying({"name": name, "size": size, "allowlist": allowlist}, integration_id, units)


def saying(
    data: dict[str, str], integration_id: int = 1, units: Mapping[int, str] | None = None
) -> testing.Relation:
    """An application with `data` in its databag, and units where Juju says they are."""
    units = {0: f"10.0.{integration_id}.1/32"} if units is None else units
    return testing.Relation(
        "nfs-share",
        id=integration_id,
        remote_app_name=f"app{integration_id}",
        remote_app_data=data,
        remote_units_data={n: {"egress-subnets": subnets} for n, subnets in units.items()},
    )


def state(
    *relations: testing.Relation, leader: bool = True, stored: testing.State | None = None
) -> testing.State:
    return testing.State(
        leader=leader,
        relations={*relations, _peers_of(stored)},
        storages={SHARES},
        networks={network(HOST)},
        stored_states=stored.stored_states if stored else frozenset(),
        model=MODEL,
    )


def _peers_of(stored: testing.State | None) -> testing.PeerRelation:
    """The peer relation, as a state has it."""
    return stored.get_relations("peers")[0] if stored else PEERS  # pyright: ignore


def network(*addresses: str) -> testing.Network:
    return testing.Network(
        "nfs-share",
        [testing.BindAddress([testing.Address(a) for a in addresses])],
        ingress_addresses=list(addresses),
    )


def answers(out: testing.State) -> dict[int, dict[str, str]]:
    """What the clients are told, but for whom and which request: other tests show that."""
    left_out = {"allowlist", "answers"}
    return {
        r.id: {key: value for key, value in r.local_app_data.items() if key not in left_out}
        for r in sorted(out.get_relations("nfs-share"), key=lambda r: r.id)
    }


def admitted(out: testing.State) -> set[str]:
    """Who the first client is told may mount."""
    said = relation_in(out, 1).local_app_data.get("allowlist", "")
    return {exports.host(network) for network in parse_allowlist(said)}


def relation_in(out: testing.State, integration_id: int) -> testing.Relation:
    """An integration as a hook left it."""
    relation = out.get_relation(integration_id)
    assert isinstance(relation, testing.Relation)
    return relation


def with_answer(relation: testing.Relation, out: testing.State) -> testing.Relation:
    """What a client asks for now, beside what it was told before."""
    return replace(relation, local_app_data=relation_in(out, relation.id).local_app_data)


def events(context: Context, relation: testing.Relation):
    """All events that reconcile, by name."""
    on = context.on
    found = [
        on.config_changed(),
        on.start(),
        on.upgrade_charm(),
        on.leader_elected(),
        on.update_status(),
        on.storage_attached(SHARES),
        on.relation_created(relation),
        on.relation_joined(relation, remote_unit=0),
        on.relation_changed(relation),
        on.relation_changed(relation, remote_unit=0),
        on.relation_departed(relation, remote_unit=7),
    ]
    return {f"{n} {event.name}": event for n, event in enumerate(found)}


EVENTS = list(events(new_context(), client()))


@pytest.mark.parametrize("event", EVENTS)
def test_every_event_ends_in_the_same(machine: FakeMachine, context: Context, event: str):
    asking = client(1), client(2, "/logs", "-1", "192.0.2.0/24")
    out = context.run(events(context, asking[0])[event], state(*asking))
    assert answers(out) == {
        1: {"endpoint": ENDPOINT, "size": "10"},
        2: {"endpoint": f"nfs://{HOST}{share_directory('/logs')}", "size": "-1"},
    }
    assert machine.sizes() == {"/data": 10, "/logs": None}
    assert machine.on_storage["/logs"].file_bytes == 88 * GIB  # All that is left.
    assert machine.mounted == {"/data", "/logs"}
    assert machine.may_mount() == {"/data": {"10.0.1.1"}, "/logs": {"10.0.2.1", "192.0.2.0/24"}}
    assert out.unit_status == ops.ActiveStatus()


@pytest.mark.parametrize("event", EVENTS)
def test_second_run_changes_nothing(machine: FakeMachine, context: Context, event: str):
    asking = client(1), client(2, size="1000"), client(3, "../x"), client(4, "/logs")
    first = context.run(events(context, asking[0])[event], state(*asking))
    machine.changes.clear()
    again = events(context, relation_in(first, 1))[event]
    second = context.run(again, first)
    assert machine.changes == []
    assert second.relations == first.relations
    assert second.unit_status == first.unit_status


_EVENT = st.tuples(st.sampled_from(EVENTS), st.integers(1, 3))


@settings(max_examples=25)
@given(st.lists(_EVENT, min_size=1, max_size=5))
def test_any_history_ends_in_the_same(
    monkeypatch: pytest.MonkeyPatch, history: list[tuple[str, int]]
):
    asking = client(1, size="60"), client(2, "/logs", "60"), client(3, "/data", "5")
    machine, context = put_in(FakeMachine(), monkeypatch), new_context()
    now = state(*asking)
    for name, integration_id in history:
        relation = relation_in(now, integration_id)
        now = context.run(events(context, relation)[name], now)
    shared = {"endpoint": ENDPOINT, "size": "60"}
    granted = {"endpoint": ENDPOINT, "size": "5"}
    refused = {"error": "share /logs: 60G requested, 38G free"}
    assert answers(now) == {1: shared, 2: refused, 3: granted}
    assert machine.may_mount() == {"/data": {"10.0.1.1", "10.0.3.1"}}
    assert machine.sizes() == {"/data": 60}


@settings(max_examples=15)
@given(st.permutations([1, 2, 3, 4]))
def test_clients_come_in_any_order(monkeypatch: pytest.MonkeyPatch, order: list[int]):
    machine, context = put_in(FakeMachine(), monkeypatch), new_context()
    now = state()
    for number in order:
        relation = client(number, f"/share{number % 3}", str(number))
        now = replace(now, relations={*now.relations, relation})
        now = context.run(context.on.relation_changed(relation), now)
    first = 1 if order.index(1) < order.index(4) else 4
    assert machine.sizes() == {"/share0": 3, "/share1": first, "/share2": 2}
    sizes = {1: "1", 2: "2", 3: "3", 4: str(first)}
    assert {i: a["size"] for i, a in answers(now).items()} == sizes
    assert ("error" in answers(now)[4]) == (first == 1)
    assert machine.may_mount()["/share1"] == {"10.0.1.1", "10.0.4.1"}


def test_install_order(machine: FakeMachine, context: Context):
    machine.is_installed = machine.is_running = machine.is_configured = False
    now = context.run(context.on.storage_attached(SHARES), state(client()))
    assert machine.changes == []
    now = context.run(context.on.install(), now)
    assert now.unit_status == ops.MaintenanceStatus("Installing the NFS server")
    assert now.workload_version == "1:2.6.4-3ubuntu5"
    assert now.opened_ports == {testing.TCPPort(2049)}
    assert machine.changes == ["installed"]
    now = context.run(context.on.relation_created(relation_in(now, 1)), now)
    assert answers(now)[1]["endpoint"] == ENDPOINT
    assert now.opened_ports == {testing.TCPPort(2049)}


def test_stopped_server_is_started(machine: FakeMachine, context: Context):
    machine.is_running = machine.is_configured = False
    context.run(context.on.config_changed(), state())
    assert machine.is_running
    assert machine.is_configured


def test_removed_package_is_installed_again(machine: FakeMachine, context: Context):
    first = context.run(context.on.relation_changed(client()), state(client()))
    machine.is_installed = machine.is_running = False
    machine.can_install = False
    out = context.run(context.on.config_changed(), first)
    assert out.unit_status == ops.BlockedStatus(
        "nfs-kernel-server can't be installed, trying again: see juju debug-log"
    )
    assert answers(out) == answers(first)
    machine.can_install = True
    out = context.run(context.on.config_changed(), out)
    assert out.unit_status == ops.ActiveStatus()
    assert machine.is_running


def test_server_that_does_not_start(machine: FakeMachine, context: Context):
    machine.is_running = machine.can_start = False
    out = context.run(context.on.config_changed(), state(client()))
    assert out.unit_status == ops.BlockedStatus(
        "The NFS server does not run: see journalctl -u nfs-server"
    )


def test_unexpected_export(machine: FakeMachine, context: Context):
    machine.unexpected = [("/srv/nfs/data", "*")]
    out = context.run(context.on.config_changed(), state(client()))
    assert out.unit_status == ops.BlockedStatus(
        "/srv/nfs/data is exported to *, not by this charm: take it out of /etc/exports.d/"
    )


def configured(of: testing.State, **config: str | int | float | bool) -> testing.State:
    return replace(of, config={key.replace("_", "-"): value for key, value in config.items()})


def test_settings_are_applied(machine: FakeMachine, context: Context):
    wanted = configured(state(client()), overcommit_ratio=2.0, threads=3, nfsv3=True, squash="all")
    out = context.run(context.on.config_changed(), wanted)
    assert machine.settings == charm_settings.Settings(2.0, 3, nfsv3=True, squash="all")
    assert machine.squash == "all"
    both = (testing.TCPPort, testing.UDPPort)
    v3 = {port(number) for number in (111, 20048, 32765, 32768) for port in both}
    assert out.opened_ports == {testing.TCPPort(2049), *v3}
    assert machine.on_storage["/data"].is_sparse
    out = context.run(context.on.config_changed(), configured(out))
    assert machine.settings == charm_settings.Settings()
    assert out.opened_ports == {testing.TCPPort(2049)}


def test_bad_setting_leaves_the_last_good_ones_in_force(machine: FakeMachine, context: Context):
    good = context.run(context.on.config_changed(), configured(state(client()), squash="root"))
    machine.changes.clear()
    bad = context.run(context.on.config_changed(), configured(good, squash="some"))
    assert bad.unit_status == ops.BlockedStatus("squash 'some': use none, root, all")
    assert machine.squash == "root"
    assert machine.changes == []
    assert answers(bad) == answers(good)


@pytest.mark.parametrize("is_left", [False, True])
def test_nothing_is_done_by_bad_settings_where_none_were_good(
    machine: FakeMachine, context: Context, is_left: bool
):
    """As on a unit that is added meanwhile: the defaults may open what the others keep closed.

    And so may what an application that had the machine before has left there: all of it, if it was
    removed by force.
    """
    machine.is_installed = machine.is_running = machine.is_configured = is_left
    if is_left:
        claim.take(claim.Claim("other/0", "another model", "/nonexistent"))
    charm_settings.keep(charm_settings.Settings(nfsv3=True))
    wanted = configured(state(client()), squash="root", threads=5000)
    said = "threads 5000: use 1 to 1024, or 0 for a number that fits the machine"
    changed = context.on.relation_changed(relation_in(wanted, 1))
    bad = wanted
    for event in (context.on.install(), changed):
        bad = context.run(event, wanted)
        assert bad.unit_status == ops.BlockedStatus(said)
        assert machine.changes == []
        assert answers(bad) == {1: {}}
    with pytest.raises(testing.ActionFailed, match="threads 5000"):
        context.run(context.on.action("list-shares"), bad)
    good = context.run(context.on.config_changed(), configured(bad, squash="root"))
    assert machine.squash == "root"
    assert machine.sizes() == {"/data": 10}
    assert good.unit_status == ops.ActiveStatus()


def test_a_unit_of_an_older_revision_goes_on_by_its_settings(
    machine: FakeMachine, context: Context
):
    """It had its machine without a claim."""
    charm_settings.keep(charm_settings.Settings(squash="root"))
    out = context.run(context.on.upgrade_charm(), configured(state(client()), threads=5000))
    assert out.unit_status == ops.BlockedStatus(
        "threads 5000: use 1 to 1024, or 0 for a number that fits the machine"
    )
    assert machine.squash == "root"
    assert answers(out)[1]["endpoint"] == ENDPOINT


def test_who_never_had_the_machine_leaves_it_as_it_is(machine: FakeMachine, context: Context):
    """The NFS server on it is an operator's."""
    machine.is_configured = False
    wanted = configured(state(), threads=5000)
    for event in (context.on.config_changed(), context.on.storage_detaching(SHARES)):
        context.run(event, wanted)
    context.run(context.on.stop(), wanted)
    assert machine.changes == []
    assert machine.is_running


def test_overcommitted(machine: FakeMachine, context: Context):
    asking = client(1, size="100"), client(2, "/logs", "80"), client(3, "/more", "30")
    wanted = configured(state(*asking), overcommit_ratio=2.0)
    out = context.run(context.on.config_changed(), wanted)
    assert machine.sizes() == {"/data": 100, "/logs": 80}
    assert answers(out)[3] == {"error": "share /more: 30G requested, 16G free"}
    assert out.unit_status == ops.ActiveStatus("180G of 196G are allocated to shares")


def test_what_is_unfinished_is_removed(machine: FakeMachine, context: Context):
    machine.unfinished = 2
    context.run(context.on.config_changed(), state())
    assert machine.unfinished == 0


def test_reserved_again(machine: FakeMachine, context: Context):
    machine.add("/data", 10)
    machine.on_storage["/data"] = replace(machine.on_storage["/data"], allocated_bytes=GIB)
    context.run(context.on.config_changed(), state())
    assert machine.on_storage["/data"].allocated_bytes == 10 * GIB


def test_reserved_again_but_not_out_of_the_reserve(machine: FakeMachine, context: Context):
    machine.add("/data", 10)
    machine.add("/other", 10)
    for name, taken_gib in (("/data", 1), ("/other", 7)):
        there = machine.on_storage[name]
        machine.on_storage[name] = replace(there, allocated_bytes=taken_gib * GIB)
    machine.others_gib = machine.free_gib - 8
    context.run(context.on.config_changed(), state())
    assert [it.allocated_bytes // GIB for it in machine.on_storage.values()] == [1, 10]


def test_not_reserved_for_lack_of_room(machine: FakeMachine, context: Context):
    granted = {"endpoint": ENDPOINT, "size": "10"}
    asking = client(), client(2, "/other", "5")
    now = context.run(context.on.relation_changed(asking[0]), state(*asking))
    machine.on_storage["/data"] = replace(machine.on_storage["/data"], allocated_bytes=GIB)
    machine.can_reserve = False
    now = context.run(context.on.config_changed(), now)
    problem = "share /data: its space is not reserved, the storage is full"
    assert answers(now)[1] == {**granted, "error": problem}
    assert "error" not in answers(now)[2]
    assert set(machine.may_mount()) == {"/data", "/other"}
    blocked = ops.BlockedStatus(f"{problem}: see journalctl -u '*{share_id('/data')}*'")
    assert (now.unit_status, now.app_status) == (blocked, blocked)
    machine.can_reserve = True
    now = context.run(context.on.config_changed(), now)
    assert answers(now)[1] == granted
    assert (now.unit_status, now.app_status) == (ops.ActiveStatus(), ops.ActiveStatus())


def test_growth(machine: FakeMachine, context: Context):
    out = context.run(context.on.relation_changed(c := client()), state(c))
    uuid = machine.on_storage["/data"].uuid
    asking = with_answer(client(size="20"), out)
    out = context.run(context.on.relation_changed(asking), state(asking, stored=out))
    assert answers(out) == {1: {"endpoint": ENDPOINT, "size": "20"}}
    assert machine.sizes() == {"/data": 20}
    assert machine.on_storage["/data"].uuid == uuid


@pytest.mark.parametrize(
    ("size", "error"),
    [
        ("9", "share /data: 9G requested, it has 10G; a share never shrinks"),
        ("200", "share /data: 200G requested, 88G free"),
        ("ten", "size 'ten': use whole gigabytes from 1, or -1 for no limit"),
    ],
)
def test_refused_change_keeps_the_share(
    machine: FakeMachine, context: Context, size: str, error: str
):
    granted = {"endpoint": ENDPOINT, "size": "10"}
    out = context.run(context.on.relation_changed(c := client()), state(c))
    asking = with_answer(client(size=size), out)
    out = context.run(context.on.relation_changed(asking), state(asking, stored=out))
    assert answers(out) == {1: {**granted, "error": error}}
    assert machine.may_mount() == {"/data": {"10.0.1.1"}}
    asking = with_answer(client(), out)
    out = context.run(context.on.relation_changed(asking), state(asking, stored=out))
    assert answers(out) == {1: granted}
    assert machine.sizes() == {"/data": 10}


def test_refusals_are_told_to_the_operator_too(machine: FakeMachine, context: Context):
    asking = client(1, size="0"), client(2, "/logs"), client(3, "/huge", "1000")
    out = context.run(context.on.relation_changed(asking[0]), state(*asking))
    assert out.app_status == ops.ActiveStatus(
        f"Refused to app1: size '0'{_SIZE}; app3: share /huge: 1000G requested, 88G free"
    )
    assert out.unit_status == ops.ActiveStatus()
    out = context.run(context.on.config_changed(), state(asking[1], stored=out))
    assert out.app_status == ops.ActiveStatus()


def test_refusal_goes_away_with_room(machine: FakeMachine, context: Context):
    machine.add("/old", 60)
    out = context.run(context.on.relation_changed(c := client(size="50")), state(c))
    assert answers(out) == {1: {"error": "share /data: 50G requested, 38G free"}}
    assert machine.sizes() == {"/old": 60}
    assert out.unit_status == ops.ActiveStatus()  # The client's operator has to act.
    del machine.on_storage["/old"]
    machine.mounted.clear()
    out = context.run(context.on.config_changed(), out)
    assert answers(out) == {1: {"endpoint": ENDPOINT, "size": "50"}}


_SIZE = ": use whole gigabytes from 1, or -1 for no limit"
_NAME = ": use 1 to 128 letters, digits and characters of /._:@+-"
_ENTRY = ": use an IP address or network such as 10.0.0.0/24"
OF_MODEL = "/data@0b5bd56d-6b2f-4ba1-bd3c-7a7f1e6c0e0a"


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ({"size": "0"}, f"size '0'{_SIZE}"),
        ({"size": "-2"}, f"size '-2'{_SIZE}"),
        ({"size": "ten"}, f"size 'ten'{_SIZE}"),
        ({"size": "1.5"}, f"size '1.5'{_SIZE}"),
        ({"size": "1000000000"}, "share /data: 1000000000G requested, 88G free"),
        ({"size": "9" * 5000}, f"size '{'9' * 56}...{_SIZE}"),
        ({"name": "../x"}, "share name '../x': '..' is not allowed in it"),
        ({"name": ""}, f"share name ''{_NAME}"),
        ({"name": "a\nb"}, f"share name 'a\\nb'{_NAME}"),
        ({"name": 'a"b'}, f"share name 'a\"b'{_NAME}"),
        ({"name": "a'b"}, f'share name "a\'b"{_NAME}'),
        ({"name": "a b"}, f"share name 'a b'{_NAME}"),
        ({"name": "*(rw)"}, f"share name '*(rw)'{_NAME}"),
        ({"name": "x" * 300}, f"share name '{'x' * 56}...{_NAME}"),
        (
            {"name": OF_MODEL},
            f"share name '{OF_MODEL}': a share of another model: use another name",
        ),
        ({"name": "donn\xe9es"}, f"share name 'donn\\xe9es'{_NAME}"),
        ({"allowlist": "node1.example"}, f"allowlist entry 'node1.example'{_ENTRY}"),
        ({"allowlist": "*"}, f"allowlist entry '*'{_ENTRY}"),
        (
            {"allowlist": "10.0.0.1(rw,no_root_squash)"},
            f"allowlist entry '10.0.0.1(rw'{_ENTRY}",
        ),
        ({"allowlist": "10.0.0.1 *"}, f"allowlist entry '*'{_ENTRY}"),
        ({"allowlist": "10.0.0.1\n/ *(rw)"}, f"allowlist entry '/'{_ENTRY}"),
        (
            {"size": "0", "name": "../x"},
            f"share name '../x': '..' is not allowed in it; size '0'{_SIZE}",
        ),
    ],
)
def test_bad_request(machine: FakeMachine, context: Context, bad: dict[str, str], error: str):
    asking = saying({"name": "/data", "size": "10", "allowlist": ""} | bad)
    out = context.run(context.on.relation_changed(asking), state(asking, client(2, "/good")))
    good = {"endpoint": f"nfs://{HOST}{share_directory('/good')}", "size": "10"}
    assert answers(out) == {1: {"error": error}, 2: good}
    assert machine.sizes() == {"/good": 10}
    assert machine.may_mount() == {"/good": {"10.0.2.1"}}
    assert out.unit_status == ops.ActiveStatus()


@pytest.mark.parametrize(
    ("allowlist", "hosts"),
    [
        ("", {"10.0.1.1"}),
        ("10.9.0.1,,10.9.0.2,", {"10.0.1.1", "10.9.0.1", "10.9.0.2"}),
        ("2001:db8::/64, 2001:db8:1::1", {"10.0.1.1", "2001:db8::/64", "2001:db8:1::1"}),
        ("10.9.8.7/16", {"10.0.1.1", "10.9.0.0/16"}),
        ("0.0.0.0", {"*"}),
        ("10.9.0.0/25,10.9.0.128/25", {"10.0.1.1", "10.9.0.0/24"}),
        ("10.0.1.1", {"10.0.1.1"}),
    ],
)
def test_allowlist(machine: FakeMachine, context: Context, allowlist: str, hosts: set[str]):
    asking = client(allowlist=allowlist)
    out = context.run(context.on.relation_changed(asking), state(asking))
    assert answers(out) == {1: {"endpoint": ENDPOINT, "size": "10"}}
    assert machine.may_mount() == {"/data": hosts}
    assert admitted(out) == hosts


@pytest.mark.parametrize(
    ("missing", "answer"),
    [
        ({"name", "size", "allowlist"}, {}),
        ({"name"}, {}),
        ({"size"}, {"endpoint": ENDPOINT, "size": "-1"}),
        ({"allowlist"}, {"endpoint": ENDPOINT, "size": "10"}),
    ],
)
def test_missing_keys(
    machine: FakeMachine, context: Context, missing: set[str], answer: dict[str, str]
):
    said = {"name": "/data", "size": "10", "allowlist": ""}
    asking = saying({key: value for key, value in said.items() if key not in missing})
    out = context.run(context.on.relation_changed(asking), state(asking))
    assert answers(out) == {1: answer}
    assert bool(machine.on_storage) == bool(answer)


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        ("10.1.2.3", f"nfs://10.1.2.3/srv/nfs/{share_id('/data')}"),
        ("fd00::5", f"nfs://[fd00::5]/srv/nfs/{share_id('/data')}"),
    ],
)
def test_endpoint(machine: FakeMachine, context: Context, address: str, endpoint: str):
    here = replace(state(c := client()), networks={network(address)})
    out = context.run(context.on.relation_changed(c), here)
    assert answers(out)[1]["endpoint"] == endpoint


def test_endpoint_follows_the_address(machine: FakeMachine, context: Context):
    out = context.run(context.on.relation_changed(c := client()), state(c))
    out = context.run(context.on.config_changed(), replace(out, networks={network("10.1.2.3")}))
    assert answers(out)[1]["endpoint"] == f"nfs://10.1.2.3/srv/nfs/{share_id('/data')}"


def test_no_endpoint_without_an_address(machine: FakeMachine, context: Context):
    here = replace(state(c := client()), networks={network()})
    out = context.run(context.on.relation_changed(c), here)
    assert answers(out) == {1: {"size": "10"}}


def test_units_come_and_go(machine: FakeMachine, context: Context):
    both = {0: "10.0.0.1/32", 1: "10.0.0.2/32,2001:db8::2/128"}
    one = client(units={0: both[0]})
    two = client(units=both)
    context.run(context.on.relation_joined(one, remote_unit=0), state(one))
    assert machine.may_mount() == {"/data": {"10.0.0.1"}}
    context.run(context.on.relation_joined(two, remote_unit=1), state(two))
    assert machine.may_mount() == {"/data": {"10.0.0.1", "10.0.0.2", "2001:db8::2"}}
    # While it departs Juju doesn't list it any more.
    gone = context.on.relation_departed(one, remote_unit=1, departing_unit=1)
    out = context.run(gone, state(one))
    assert machine.may_mount() == {"/data": {"10.0.0.1"}}
    assert admitted(out) == {"10.0.0.1"}


def test_no_unit_yet_is_exported_to_nobody(machine: FakeMachine, context: Context):
    out = context.run(context.on.relation_created(c := client(units={})), state(c))
    assert machine.may_mount() == {}
    assert machine.sizes() == {"/data": 10}
    assert answers(out) == {1: {"size": "10"}}  # Nobody could mount it.
    assert admitted(out) == set()


def test_last_client_leaves(machine: FakeMachine, context: Context):
    now = context.run(context.on.relation_changed(c := client()), state(c, client(2, "/logs")))
    out = context.run(context.on.relation_broken(relation_in(now, 1)), now)
    assert machine.may_mount() == {"/logs": {"10.0.2.1"}}
    assert machine.sizes() == {"/data": 10, "/logs": 10}
    assert machine.mounted == {"/data", "/logs"}
    assert out.unit_status == ops.ActiveStatus()
    machine.changes.clear()
    back = client(5)
    out = context.run(context.on.relation_changed(back), state(back))
    assert "/data made" not in machine.changes
    assert answers(out) == {5: {"endpoint": ENDPOINT, "size": "10"}}


def test_one_of_two_clients_leaves(machine: FakeMachine, context: Context):
    now = context.run(context.on.relation_changed(c := client()), state(c, client(2)))
    context.run(context.on.relation_broken(relation_in(now, 1)), now)
    assert machine.may_mount() == {"/data": {"10.0.2.1"}}


def test_another_share_is_asked_for(machine: FakeMachine, context: Context):
    out = context.run(context.on.relation_changed(c := client()), state(c))
    asking = with_answer(client(name="/logs"), out)
    out = context.run(context.on.relation_changed(asking), state(asking, stored=out))
    assert answers(out)[1]["endpoint"] == f"nfs://{HOST}{share_directory('/logs')}"
    assert machine.may_mount() == {"/logs": {"10.0.1.1"}}
    assert machine.sizes() == {"/data": 10, "/logs": 10}


def test_lost_share_is_never_made_anew(machine: FakeMachine, context: Context):
    now = context.run(context.on.relation_changed(c := client()), state(c))
    there = dict(machine.on_storage)
    machine.on_storage.clear()
    machine.mounted.clear()
    lost = "share /data: its image is not here; attach the storage that holds it"
    for event in EVENTS:
        now = context.run(events(context, relation_in(now, 1))[event], now)
        assert machine.on_storage == {}
        assert answers(now) == {1: {"endpoint": ENDPOINT, "size": "10", "error": lost}}
        assert machine.may_mount() == {}
        assert now.unit_status == ops.BlockedStatus(lost)
    machine.on_storage |= there
    now = context.run(context.on.storage_attached(SHARES), now)
    assert answers(now) == {1: {"endpoint": ENDPOINT, "size": "10"}}
    assert machine.may_mount() == {"/data": {"10.0.1.1"}}


def test_another_image_of_the_name_is_not_the_share(machine: FakeMachine, context: Context):
    now = context.run(context.on.relation_changed(c := client()), state(c))
    machine.add("/data", 20)
    now = context.run(context.on.config_changed(), now)
    assert "its image is not here" in answers(now)[1]["error"]
    assert machine.may_mount() == {}
    assert machine.sizes() == {"/data": 20}


def test_lost_share_of_a_client_without_units_is_never_made_anew(
    machine: FakeMachine, context: Context
):
    now = context.run(context.on.relation_changed(c := client()), state(c))
    none = with_answer(client(units={}), now)
    gone = context.on.relation_departed(none, remote_unit=0)
    now = context.run(gone, state(none, stored=now))
    machine.on_storage.clear()
    machine.mounted.clear()
    back = with_answer(client(), now)
    now = context.run(context.on.relation_joined(back, remote_unit=0), state(back, stored=now))
    assert machine.on_storage == {}
    assert "its image is not here" in answers(now)[1]["error"]


def test_share_that_fails_stops_no_other(machine: FakeMachine, context: Context):
    machine.failing = {"/bad"}
    asking = client(1, "/bad"), client(2)
    out = context.run(context.on.relation_changed(asking[0]), state(*asking))
    assert answers(out) == {
        1: {"error": "share /bad: it failed"},
        2: {"endpoint": ENDPOINT, "size": "10"},
    }
    assert out.unit_status == ops.BlockedStatus("share /bad: it failed")
    assert any("share /bad: it failed" in log.message for log in context.juju_log)
    machine.failing.clear()
    out = context.run(context.on.config_changed(), out)
    assert "error" not in answers(out)[1]
    assert out.unit_status == ops.ActiveStatus()


def test_growth_that_fails_keeps_the_share(machine: FakeMachine, context: Context):
    machine.add("/data", 5)
    machine.failing = {"/data"}
    out = context.run(context.on.relation_changed(c := client()), state(c))
    assert answers(out)[1] == {
        "endpoint": ENDPOINT,
        "size": "5",
        "error": "share /data: it failed",
    }
    assert machine.may_mount() == {"/data": {"10.0.1.1"}}


def test_damaged_image(machine: FakeMachine, context: Context):
    now = context.run(context.on.relation_changed(c := client()), state(c))
    machine.mounted.clear()
    machine.damaged = {"/data"}
    out = context.run(context.on.config_changed(), now)
    # Clients wait for it; to unmount it would take it from under them.
    assert answers(out) == {1: {**answers(now)[1], "error": "share /data: not mounted"}}
    blocked = ops.BlockedStatus(
        f"share /data: not mounted: see journalctl -u '*{share_id('/data')}*'"
    )
    assert (out.unit_status, out.app_status) == (blocked, blocked)


def test_unmounted_image_is_given_to_nobody_new(machine: FakeMachine, context: Context):
    machine.damaged = {"/data"}
    out = context.run(context.on.relation_changed(c := client()), state(c))
    assert answers(out) == {1: {"size": "10", "error": "share /data: not mounted"}}
    machine.damaged.clear()
    out = context.run(context.on.config_changed(), out)
    assert answers(out) == {1: {"endpoint": ENDPOINT, "size": "10"}}


def test_foreign_image(machine: FakeMachine, context: Context):
    machine.foreign = (Path("/storage/backup.img"),)
    out = context.run(context.on.config_changed(), state())
    assert out.unit_status == ops.BlockedStatus(
        "Not shares of this application, move them off the storage: backup.img"
    )


def test_no_storage(machine: FakeMachine, context: Context):
    out = context.run(context.on.config_changed(), replace(state(client()), storages=set()))
    assert machine.changes == []
    assert answers(out) == {1: {"error": "share /data: 10G requested, 0G free"}}
    assert out.unit_status == ops.BlockedStatus(
        "No storage: juju add-storage nfs-server/0 shares, or attach-storage"
    )


def test_follower_writes_nothing(machine: FakeMachine, context: Context):
    out = context.run(context.on.relation_changed(c := client()), state(c, leader=False))
    assert answers(out) == {1: {}}
    assert machine.on_storage == {}
    assert out.unit_status == ops.ActiveStatus()
    assert out.app_status == ops.UnknownStatus()  # Only a leader can say.


@pytest.mark.parametrize("do_clients_leave", [True, False])
def test_storage_detaching(machine: FakeMachine, context: Context, do_clients_leave: bool):
    now = context.run(context.on.relation_changed(c := client()), state(c))
    machine.clients = (ip_address("10.0.1.1"),)
    machine.holders = {"/data": (HOLDER,)}
    machine.do_clients_leave = do_clients_leave
    now = context.run(context.on.storage_detaching(SHARES), now)
    assert machine.waited_s == nfs.LEAVE_TIMEOUT_S
    assert machine.exported == {}
    assert machine.mounted == set()
    assert machine.sizes() == {"/data": 10}
    after = replace(now, storages=set())
    there = relation_in(now, 1)
    for event in (
        context.on.config_changed(),
        context.on.config_changed(),
        context.on.relation_departed(there, remote_unit=0),
        context.on.relation_broken(there),
    ):
        context.run(event, after)
    assert machine.exported == {}
    assert machine.mounted == set()
    assert machine.sizes() == {"/data": 10}


def test_storage_detaching_unexports_what_is_not_mounted(machine: FakeMachine, context: Context):
    now = context.run(context.on.relation_changed(c := client()), state(c))
    machine.mounted.clear()
    context.run(context.on.storage_detaching(SHARES), now)
    assert machine.exported == {}


def test_storage_comes_back(machine: FakeMachine, context: Context):
    now = context.run(context.on.relation_changed(c := client()), state(c))
    context.run(context.on.storage_detaching(SHARES), now)
    out = context.run(context.on.storage_attached(SHARES), now)
    assert machine.may_mount() == {"/data": {"10.0.1.1"}}
    assert machine.mounted == {"/data"}
    assert answers(out) == answers(now)


@pytest.mark.parametrize("was_detached", [True, False])
@pytest.mark.parametrize("others", [set[tuple[str, str]](), {("/home", "*")}])
def test_stop(
    machine: FakeMachine, context: Context, was_detached: bool, others: set[tuple[str, str]]
):
    machine.others = others
    now = context.run(context.on.relation_changed(c := client()), state(c))
    machine.clients = (ip_address("10.0.1.1"),)
    machine.holders = {"/data": (HOLDER,)}
    machine.do_clients_leave = False
    if was_detached:
        now = context.run(context.on.storage_detaching(SHARES), now)
    context.run(context.on.stop(), replace(now, storages=set()))
    assert machine.exported == {}
    assert machine.mounted == set()
    assert not machine.has_exports_file
    assert not machine.is_configured
    assert machine.is_running == bool(others)
    assert machine.sizes() == {"/data": 10}


def test_stop_before_install(machine: FakeMachine, context: Context):
    machine.is_installed = machine.is_running = False
    context.run(context.on.storage_detaching(SHARES), state())
    context.run(context.on.stop(), state())
    assert machine.changes == []


def test_stop_when_the_package_is_gone(machine: FakeMachine, context: Context):
    now = context.run(context.on.relation_changed(c := client()), state(c))
    machine.is_installed = machine.is_running = False
    machine.exported.clear()  # There is no server that could.
    context.run(context.on.stop(), replace(now, storages=set()))
    assert machine.mounted == set()
    assert not machine.is_configured
    assert machine.sizes() == {"/data": 10}


FAKES: tuple[tuple[type, object, str], ...] = (
    (FakeImages, images, "images"),
    (FakeDeleted, deleted, "deleted"),
    (FakeMounts, mounts, "mounts"),
    (FakeExports, exports, "exports"),
    (FakeNfs, nfs, "nfs"),
    (FakeMonitoring, monitoring, "monitoring"),
)


@pytest.mark.parametrize(("fake", "real", "name"), FAKES)
def test_fakes_match(fake: type, real: object, name: str):
    for function, made in inspect.getmembers(fake, inspect.isfunction):
        if function.startswith("_") or isinstance(fake.__dict__[function], staticmethod):
            continue
        parameters = list(inspect.signature(made).parameters.values())[1:]
        wanted: Callable[..., object] = getattr(real, function)
        signature = inspect.signature(wanted)
        assert parameters == list(signature.parameters.values()), f"{name}.{function}"
        assert inspect.signature(made).return_annotation == signature.return_annotation


@pytest.mark.parametrize(("fake", "real", "name"), FAKES)
def test_fakes_have_all_that_the_charm_uses(fake: type, real: object, name: str):
    sources = (inspect.getsource(module) for module in USERS)
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    used = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == name
    }
    assert used
    assert used <= set(dir(fake))

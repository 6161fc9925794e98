# SPDX-License-Identifier: Apache-2.0
"""The order of hooks, against the sequences of Juju's own unit agent tests and sources."""

import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sandbox.rules import charm as charms
from sandbox.rules import hooks, operations
from sandbox.rules.context import Context
from sandbox.rules.hook_commands import execute
from sandbox.rules.model import Hook, Model, Profile

SERVER = charms.parse(
    """
name: server
provides: {share: {interface: nfs_share}}
peers: {cluster: {interface: cluster}}
""",
    "options: {size: {type: int, default: 1}}",
)
STORE = charms.parse("{name: store, storage: {one: {type: filesystem}, two: {type: filesystem}}}")
CLIENT = charms.parse(
    """
name: client
subordinate: true
requires:
  share: {interface: nfs_share, limit: 1}
  juju-info: {interface: juju-info, scope: container}
"""
)
READER = charms.parse("{name: reader, requires: {share: {interface: nfs_share}}}")
PLAIN = charms.parse("name: plain")
CHARMS = {c.name: c for c in (SERVER, STORE, CLIENT, READER, PLAIN)}


@dataclass
class World:
    """A model whose hooks all succeed and do nothing, unless `during` does something."""

    model: Model
    ran: list[tuple[str, Hook]] = field(default_factory=list)
    during: Callable[[Context], None] = lambda context: None

    def deploy(self, charm: str, count: int | None = None, **kwargs) -> None:
        operations.deploy(self.model, CHARMS[charm], charm, num_units=count, **kwargs)

    def step(self, unit: str) -> Hook | None:
        """Run one hook of a unit."""
        operations.settle(self.model)
        if unit not in self.model.units:
            return None
        found = self.model.units[unit]
        for storage in self.model.storage.values():
            storage.is_provisioned = storage.owner is not None
        hook = hooks.next_hook(self.model, found)
        if hook is None:
            return None
        hooks.begin(self.model, found, hook)
        context = Context(self.model, found, hook)
        self.during(context)
        context.flush()
        hooks.commit(self.model, found, hook)
        self.ran.append((unit, hook))
        operations.settle(self.model)
        return hook

    def settle(self, limit: int = 2000) -> None:
        """Run hooks, the units in turn, until there is none left."""
        operations.settle(self.model)
        while sum(self.step(unit) is not None for unit in list(self.model.units)):
            assert len(self.ran) < limit, "the hooks do not end"

    def clear(self) -> None:
        self.ran.clear()

    def of(self, unit: str) -> list[str]:
        return [describe(hook) for name, hook in self.ran if name == unit]


def describe(hook: Hook) -> str:
    remote = hook.remote_unit or (hook.remote_app if hook.kind == "relation-changed" else "")
    leaver = f" (leaves: {hook.departing_unit})" if hook.departing_unit else ""
    return f"{hook.name} {remote}".strip() + leaver


def world(juju: Profile, *deployed: tuple[str, int], seed: int = 0) -> World:
    made = World(Model("test", juju, seed))
    for name, count in deployed:
        made.deploy(name, count)
    made.settle()
    made.clear()
    return made


def related(juju: Profile, *deployed: tuple[str, int]) -> World:
    """Return a world of two applications that are integrated with each other."""
    made = world(juju, *deployed)
    operations.integrate(made.model, *(name for name, _ in deployed))
    made.settle()
    made.clear()
    return made


def joins(endpoint: str, *units: str) -> list[str]:
    """Return what is run as units come, one by one."""
    prefix = f"{endpoint}-relation"
    return [f"{prefix}-{kind} {unit}" for unit in units for kind in ("joined", "changed")]


def leaves(endpoint: str, *units: str, who: str = "") -> list[str]:
    """Return what is run as units go, because `who` does, or because each of them does itself."""
    return [f"{endpoint}-relation-departed {unit} (leaves: {who or unit})" for unit in units]


PROFILES = pytest.mark.parametrize("juju", ["3.6", "4.0"])
STARTUP = ["install", "leader-elected", "config-changed", "start"]
# Whoever does not lead; a leader that is deposed, or dies.
LEADER_SETTINGS = {"3.6": ["leader-settings-changed"], "4.0": []}


@PROFILES
def test_startup(juju: Profile):
    it = World(Model("test", juju))
    it.deploy("server", 2)
    it.settle()
    created, started = ["install", "cluster-relation-created"], ["config-changed", "start"]
    leader = ["leader-elected", *started, *joins("cluster", "server/1")]
    follower = [*LEADER_SETTINGS[juju], *started, *joins("cluster", "server/0")]
    assert it.of("server/0") == created + leader
    assert it.of("server/1") == created + follower


@PROFILES
def test_storage_is_attached_before_install_and_detached_before_stop(juju: Profile):
    it = World(Model("test", juju))
    it.deploy("store")
    it.settle()
    attached = ["one-storage-attached", "two-storage-attached"]
    assert sorted(it.of("store/0")[:2]) == attached
    assert it.of("store/0")[2:] == STARTUP
    it.clear()
    operations.remove_unit(it.model, "store/0")
    it.settle()
    detaching = [name.replace("attached", "detaching") for name in attached]
    first = len(LEADER_SETTINGS[juju])
    assert it.of("store/0")[:first] == LEADER_SETTINGS[juju]
    assert sorted(it.of("store/0")[first : first + 2]) == detaching
    assert it.of("store/0")[first + 2 :] == ["stop", "remove"]
    assert not it.model.storage


def orders(run: Callable[[int], list[str]]) -> set[tuple[str, ...]]:
    """Return the orders that some seeds make; the same seed makes the same."""
    seeds = range(12)
    made = [tuple(run(seed)) for seed in seeds]
    assert made == [tuple(run(seed)) for seed in seeds]
    return set(made)


def test_storage_comes_in_any_order():
    """A map is gone through: NextOp in storage/resolver.go."""

    def attached(seed: int) -> list[str]:
        it = World(Model("test", seed=seed))
        it.deploy("store")
        it.settle()
        return [hook.storage_id for _, hook in it.ran if hook.storage_id]

    assert len(orders(attached)) == 2


def test_relations_come_in_any_order_but_peers_after_others():
    """Maps are gone through, peers in a second turn: NextOp and createdRelationsResolver.NextOp.

    Both are in relation/resolver.go; within a relation units are sorted.
    """

    def order(kind: str, seed: int) -> list[str]:
        it = world("4.0", ("server", 1), seed=seed)
        for name in ("a", "b"):
            operations.deploy(it.model, READER, name, num_units=2)
            operations.integrate(it.model, "server", name)
        it.settle()
        it.clear()
        operations.add_unit(it.model, "server", 1)
        it.settle()
        own = [hook for unit, hook in it.ran if unit == "server/1" and hook.kind == kind]
        return [hook.remote_unit or hook.remote_app for hook in own]

    assert len(orders(partial(order, "relation-created"))) == 6
    found = orders(partial(order, "relation-joined"))
    assert len(found) > 2
    for joined in found:
        assert joined[-1] == "server/0"
        assert joined.index("a/0") < joined.index("a/1")
        assert joined.index("b/0") < joined.index("b/1")


def test_install_waits_for_the_storage():
    model = Model("test")
    operations.deploy(model, STORE, "store")
    operations.settle(model)
    assert hooks.next_hook(model, model.units["store/0"]) is None
    model.storage["one/0"].is_provisioned = True
    assert hooks.next_hook(model, model.units["store/0"]) == Hook(
        "storage-attached", storage_id="one/0"
    )


@PROFILES
def test_integrate(juju: Profile):
    it = world(juju, ("server", 1), ("reader", 2))
    operations.integrate(it.model, "server", "reader")
    it.settle()
    created = "share-relation-created"
    assert it.of("server/0") == [created, *joins("share", "reader/0", "reader/1")]
    for unit in ("reader/0", "reader/1"):
        assert it.of(unit) == [created, *joins("share", "server/0")]


def test_the_databag_of_the_application_comes_before_its_units_join():
    it = world("3.6", ("server", 1), ("reader", 1))
    relation = it.model.relations[operations.integrate(it.model, "server", "reader")]
    relation.app_bags["server"].update({"endpoint": "nfs://10.0.0.1/srv"})
    it.settle()
    told = ["share-relation-created", "share-relation-changed server"]
    assert it.of("reader/0") == [*told, *joins("share", "server/0")]


@PROFILES
def test_a_relation_that_exists_is_created_in_startup(juju: Profile):
    it = related(juju, ("server", 1), ("reader", 1))
    operations.add_unit(it.model, "reader", 1)
    it.settle()
    assert it.of("reader/1") == [
        "install",
        "share-relation-created",
        *LEADER_SETTINGS[juju],
        "config-changed",
        "start",
        *joins("share", "server/0"),
    ]
    assert it.of("server/0") == joins("share", "reader/1")


def test_a_change_is_told_to_the_other_side_once():
    it = world("3.6", ("server", 1), ("reader", 2))
    relation = it.model.relations[operations.integrate(it.model, "server", "reader")]
    it.settle()
    it.clear()
    relation.unit_bags["reader/1"].update({"a": "1"})
    relation.unit_bags["reader/1"].update({"a": "1"})
    it.settle()
    assert [(u, describe(h)) for u, h in it.ran] == [
        ("server/0", "share-relation-changed reader/1")
    ]


def test_the_leader_sees_its_own_peer_databag_change():
    it = world("3.6", ("server", 2))
    peers = next(iter(it.model.relations.values()))
    peers.app_bags["server"].update({"a": "1"})
    it.settle()
    assert it.of("server/0") == ["cluster-relation-changed server"]
    assert it.of("server/1") == ["cluster-relation-changed server"]


@PROFILES
def test_remove_relation(juju: Profile):
    it = related(juju, ("server", 1), ("reader", 2))
    operations.remove_relation(it.model, "server", "reader")
    it.settle()
    left, broken = leaves("share", "reader/0", "reader/1"), "share-relation-broken"
    assert it.of("server/0") == [*left, broken]
    assert it.of("reader/0") == [*leaves("share", "server/0"), broken]
    assert [r.is_peer for r in it.model.relations.values()] == [True]


def test_remove_relation_that_nobody_has_joined():
    it = world("3.6", ("server", 1))
    it.deploy("reader", 0)
    operations.integrate(it.model, "server", "reader")
    it.settle()
    operations.remove_relation(it.model, "server", "reader")
    it.settle()
    assert it.of("server/0") == ["share-relation-created", "share-relation-broken"]


@PROFILES
def test_remove_unit(juju: Profile):
    it = related(juju, ("server", 2), ("reader", 1))
    operations.remove_unit(it.model, "server/0")
    it.settle()
    assert it.of("server/0") == [
        *LEADER_SETTINGS[juju],
        *leaves("share", "reader/0", who="server/0"),
        "share-relation-broken",
        *leaves("cluster", "server/1", who="server/0"),
        "stop",
        "remove",
    ]
    # It led until it was gone (RevokeLeadershipFunc, apiserver/common/leadership.go); nothing is
    # broken for those who stay.
    assert it.of("server/1") == [*leaves("cluster", "server/0"), "leader-elected"]
    assert it.of("reader/0") == leaves("share", "server/0")
    assert "server/0" not in it.model.units
    assert "0" not in it.model.machines


def test_a_peer_relation_is_never_broken():
    it = world("3.6", ("server", 1))
    operations.remove_unit(it.model, "server/0")
    # Before anything else has been settled: the unit is still in the relation.
    assert hooks.next_hook(it.model, it.model.units["server/0"]) == Hook("stop")


@PROFILES
def test_a_new_leader_is_told_to_the_deposed_one_alone_and_in_3_6_alone(juju: Profile):
    """See NextOp in worker/uniter/leadership/resolver.go: the settings' version is what counts."""
    it = world(juju, ("plain", 3))
    operations.lead(it.model, "plain/1")
    it.settle()
    assert it.of("plain/0") == LEADER_SETTINGS[juju]
    assert it.of("plain/1") == ["leader-elected"]
    assert it.of("plain/2") == []
    it.clear()
    # Who has been told once, since its agent started, is not told again.
    operations.lead(it.model, "plain/0")
    operations.settle(it.model)
    operations.lead(it.model, "plain/2")
    it.settle()
    assert it.of("plain/0") == []
    assert it.of("plain/1") == []
    assert it.of("plain/2") == ["leader-elected"]


@PROFILES
def test_a_follower_is_told_of_the_leader_after_each_start_of_its_agent(juju: Profile):
    """The version is in memory: verifyRunning{minion: true} in worker/uniter/util_test.go."""
    it = world(juju, ("plain", 2))
    for unit in it.model.units.values():
        hooks.start_agent(unit, is_cut=True)
    it.settle()
    assert it.of("plain/0") == ["start"]
    assert it.of("plain/1") == ["start", *LEADER_SETTINGS[juju]]


def test_a_lease_that_nobody_takes_over_is_taken_up_again_without_a_hook():
    """Its agent still has it that leader-elected has run (NextOp, leadership/resolver.go)."""
    it = world("3.6", ("plain", 1))
    it.model.machines["0"].is_heard = False
    operations.expire_leases(it.model, "0")
    operations.settle(it.model)
    assert it.model.applications["plain"].leader == ""
    it.model.machines["0"].is_heard = True
    it.settle()
    assert it.model.applications["plain"].leader == "plain/0"
    assert not it.ran


@PROFILES
def test_the_lead_goes_to_the_living_then_to_the_dying(juju: Profile):
    it = world(juju, ("plain", 3))
    for doomed in ("plain/0", "plain/1"):
        operations.remove_unit(it.model, doomed)
    while it.step("plain/0"):
        pass
    assert it.model.applications["plain"].leader == "plain/2"
    operations.remove_unit(it.model, "plain/2")
    while it.step("plain/2"):
        pass
    assert it.model.applications["plain"].leader == "plain/1"
    it.settle()
    # It leads, but who is dying is not told so.
    assert it.of("plain/1") == ["stop", "remove"]


@PROFILES
def test_remove_application(juju: Profile):
    it = related(juju, ("server", 2), ("reader", 1))
    operations.remove_application(it.model, "server")
    it.settle()
    for unit, peer in (("server/0", "server/1"), ("server/1", "server/0")):
        assert it.of(unit) == [
            *(LEADER_SETTINGS[juju] if unit == "server/0" else []),
            *leaves("share", "reader/0", who=unit),
            "share-relation-broken",
            *leaves("cluster", peer, who=unit),
            "stop",
            "remove",
        ]
    assert it.of("reader/0")[-1] == "share-relation-broken"
    assert list(it.model.applications) == ["reader"]
    assert not it.model.relations


def test_a_unit_that_was_never_installed_goes_without_a_hook():
    it = World(Model("test"))
    it.deploy("server")
    operations.remove_unit(it.model, "server/0")
    it.settle()
    assert not it.ran
    assert not it.model.units


@PROFILES
def test_subordinate(juju: Profile):
    it = world(juju, ("plain", 2), ("client", 0))
    assert it.model.units_of("client") == []
    operations.integrate(it.model, "plain", "client")
    it.settle()
    # juju-info is implicit: nothing runs on the principals' side.
    assert it.of("plain/0") == it.of("plain/1") == []
    for number, lead in enumerate((["leader-elected"], LEADER_SETTINGS[juju])):
        # Seen on 4.0.15: all units of the principal's application.
        joined = {"3.6": [f"plain/{number}"], "4.0": ["plain/0", "plain/1"]}[juju]
        assert it.of(f"client/{number}") == [
            "install",
            "juju-info-relation-created",
            *lead,
            "config-changed",
            "start",
            *joins("juju-info", *joined),
        ]
        assert it.model.units[f"client/{number}"].machine == str(number)


@PROFILES
def test_subordinate_goes_with_its_relation(juju: Profile):
    it = related(juju, ("plain", 1), ("client", 0))
    operations.remove_relation(it.model, "plain", "client")
    it.settle()
    assert it.of("client/0") == [
        *LEADER_SETTINGS[juju],
        "juju-info-relation-departed plain/0 (leaves: client/0)",
        "juju-info-relation-broken",
        "stop",
        "remove",
    ]
    assert list(it.model.machines) == ["0"]


def test_subordinate_goes_with_its_principal_which_waits_for_it():
    it = world("3.6", ("plain", 1), ("client", 0), ("server", 1))
    operations.integrate(it.model, "plain", "client")
    operations.integrate(it.model, "server", "client")
    it.settle()
    it.clear()
    operations.remove_unit(it.model, "plain/0")
    while it.step("plain/0"):
        pass
    assert it.of("plain/0") == ["leader-settings-changed", "stop", "remove"]
    assert it.model.units["plain/0"].local.is_removed
    it.settle()
    assert sorted(it.of("client/0")[:-2]) == [
        "juju-info-relation-broken",
        "juju-info-relation-departed plain/0 (leaves: client/0)",
        "leader-settings-changed",
        "share-relation-broken",
        "share-relation-departed server/0 (leaves: client/0)",
    ]
    assert it.of("client/0")[-2:] == ["stop", "remove"]
    assert list(it.model.units) == ["server/0"]


def test_reintegrating_waits_until_the_old_subordinate_is_gone():
    it = related("4.0", ("plain", 1), ("client", 0))
    operations.remove_relation(it.model, "plain", "client")
    assert it.step("client/0").kind == "relation-departed"
    with pytest.raises(operations.OperationError, match="dying, but not yet removed"):
        operations.integrate(it.model, "plain", "client")
    assert it.step("client/0").kind == "relation-broken"
    operations.integrate(it.model, "plain", "client")
    operations.settle(it.model)
    assert [u.name for u in it.model.units_of("client")] == ["client/0"]
    it.settle()
    assert [u.name for u in it.model.units_of("client")] == ["client/1"]


def test_config_changes_run_config_changed_once():
    it = world("3.6", ("server", 2))
    operations.set_config(it.model, "server", {"size": "5"})
    it.settle()
    assert it.of("server/0") == it.of("server/1") == ["config-changed"]
    it.clear()
    operations.set_config(it.model, "server", {"size": "5"})
    it.settle()
    assert not it.ran


def test_update_status_comes_last():
    it = world("3.6", ("server", 1))
    unit = it.model.units["server/0"]
    unit.local.wants_update_status = True
    operations.set_config(it.model, "server", {"size": "2"})
    it.settle()
    assert it.of("server/0") == ["config-changed", "update-status"]


def test_a_failed_hook_blocks_all_others_until_it_is_retried():
    it = world("3.6", ("server", 1))
    unit = it.model.units["server/0"]
    hook = Hook("config-changed", seen="old")
    hooks.begin(it.model, unit, hook)
    unit.local.has_failed = True
    operations.set_config(it.model, "server", {"size": "2"})
    assert hooks.next_hook(it.model, unit) is None
    assert (unit.displayed_status.status, unit.displayed_status.message) == (
        "error",
        'hook failed: "config-changed"',
    )
    unit.local.has_failed = False
    assert hooks.next_hook(it.model, unit) == hook
    it.settle()
    # What was seen when it began is what it is retried with; the new value is told after it.
    assert it.of("server/0") == ["config-changed", "config-changed"]


def test_a_disk_is_detached_and_attached_and_outlives_its_unit():
    it = World(Model("test"))
    it.deploy("store", storage={"one": "2G"})
    it.settle()
    it.clear()
    operations.detach_storage(it.model, "one/0")
    it.settle()
    assert it.of("store/0") == ["one-storage-detaching"]
    assert it.model.storage["one/0"].owner is None
    operations.attach_storage(it.model, "store/0", "one/0")
    it.settle()
    assert it.of("store/0")[1:] == ["one-storage-attached"]
    operations.remove_unit(it.model, "store/0")
    it.settle()
    # A disk is kept, a directory goes with its unit.
    assert list(it.model.storage) == ["one/0"]
    (name,) = operations.add_unit(it.model, "store", 1, attach=["one/0"])
    it.settle()
    assert it.of(name)[0].endswith("-storage-attached")
    assert {found.name: found.id for found in it.model.storage_of(it.model.units[name])} == {
        "one": "one/0",
        "two": "two/2",
    }
    with pytest.raises(operations.OperationError, match=f"already attached to {name}"):
        operations.add_unit(it.model, "store", 1, attach=["one/0"])
    with pytest.raises(operations.OperationError, match="NumUnits is not 1"):
        operations.add_unit(it.model, "store", 2, attach=["one/0"])


def test_who_is_dying_cannot_be_made_the_leader():
    it = world("3.6", ("plain", 2))
    operations.remove_unit(it.model, "plain/1")
    with pytest.raises(operations.OperationError, match="plain/1 is dying"):
        operations.lead(it.model, "plain/1")


def test_the_status_that_the_agent_sets_itself():
    it = World(Model("test"))
    it.deploy("plain")
    unit = it.model.units["plain/0"]
    seen: list[tuple[str, str, str]] = []
    it.during = lambda c: seen.append((c.hook.kind, c.unit.status.status, c.unit.status.message))
    it.settle()
    assert unit.status.status == "unknown"
    operations.remove_unit(it.model, "plain/0")
    it.step("plain/0")
    assert it.step("plain/0") == Hook("stop")
    assert (unit.status.status, unit.status.message) == ("maintenance", "")
    it.step("plain/0")
    assert (unit.status.status, unit.status.message) == ("terminated", "")
    assert [it for it in seen if it[0] in ("install", "stop", "remove")] == [
        ("install", "maintenance", "installing charm software"),
        ("stop", "maintenance", "stopping charm software"),
        ("remove", "maintenance", "cleaning up prior to charm deletion"),
    ]


# A grammar for the whole history of one unit, whatever happened around it.

START = (
    r"(\S+-storage-attached )*install (\S+-relation-created )*"
    r"(leader-elected |leader-settings-changed )*"
)


def check_history(history: list[Hook], *, was_removed: bool) -> None:
    kinds = [hook.kind for hook in history]
    if not kinds:
        return
    text = "".join(f"{hook.name} " for hook in history)
    assert not was_removed or "install" not in kinds or kinds[-1] == "remove", text
    for once in ("install", "start", "stop", "remove"):
        assert kinds.count(once) <= 1, text
    if "start" in kinds:
        assert re.match(START, text), text
        assert kinds[kinds.index("start") - 1] == "config-changed", text
        if was_removed:
            assert kinds[-2:] == ["stop", "remove"], text
    for number in {hook.relation_id for hook in history} - {None}:
        check_relation([hook for hook in history if hook.relation_id == number], text)


def check_relation(history: list[Hook], text: str) -> None:
    present: set[str] = set()
    for position, hook in enumerate(history):
        match hook.kind:
            case "relation-created":
                assert position == 0, text
            case "relation-joined":
                assert hook.remote_unit not in present, text
                present.add(hook.remote_unit)
                following = history[position + 1 : position + 2]
                if following:
                    assert following[0].kind == "relation-changed", text
                    assert following[0].remote_unit == hook.remote_unit, text
            case "relation-changed" if hook.remote_unit:
                assert hook.remote_unit in present, text
            case "relation-departed":
                present.remove(hook.remote_unit)
            case "relation-broken":
                assert not present, text
                assert position == len(history) - 1, text


def one_of(names: list[str], number: int) -> str:
    if not names:
        raise operations.OperationError("there is none")
    return names[number % len(names)]


def principal(it: World, number: int) -> str:
    return one_of([u.name for u in it.model.units.values() if not u.principal], number)


def unrelate(it: World, number: int) -> None:
    keys = [r.key for r in it.model.relations.values() if not r.is_peer]
    operations.remove_relation(it.model, *one_of(keys, number).split())


def run_some(it: World, number: int) -> None:
    for unit in list(it.model.units)[number % 3 :: 2]:
        it.step(unit)


APPS = ["server", "client", "reader"]
MOVES: list[Callable[[World, int], object]] = [
    lambda it, _: operations.add_unit(it.model, "server"),
    lambda it, _: operations.add_unit(it.model, "plain"),
    lambda it, _: operations.add_unit(it.model, "reader"),
    lambda it, number: operations.remove_unit(it.model, principal(it, number)),
    lambda it, _: operations.remove_unit(
        it.model, operations.application(it.model, "server").leader
    ),
    lambda it, _: operations.integrate(it.model, "reader", "server"),
    lambda it, _: operations.integrate(it.model, "plain", "client"),
    lambda it, _: operations.integrate(it.model, "client:share", "server"),
    unrelate,
    lambda it, number: operations.set_config(it.model, "server", {"size": str(number)}),
    lambda it, _: operations.refresh(it.model, "server", SERVER),
    lambda it, number: hooks.start_agent(it.model.units[principal(it, number)], is_cut=False),
    lambda it, number: operations.remove_application(it.model, APPS[number % 3]),
    *[run_some] * 3,
]
STEPS = st.lists(st.tuples(st.sampled_from(MOVES), st.integers(0, 7)), max_size=40)


def write_something(context: Context) -> None:
    """Be a charm that tells the others something in each relation, as leader for all."""
    for relation in context.active_relations():
        execute(context, ["relation-set", "-r", str(relation.id), f"unit={context.unit.name}"])
        if context.is_leader():
            execute(context, ["relation-set", "--app", "-r", str(relation.id), "by=leader"])


@settings(
    max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(juju=st.sampled_from(["3.6", "4.0"]), seed=st.integers(0, 99), steps=STEPS)
def test_any_series_of_operations_ends_and_each_unit_has_a_proper_history(juju, seed, steps):
    it = World(Model("test", juju, seed), during=write_something)
    for name in ("server", "plain", "reader", "client"):
        it.deploy(name)
    for move, number in steps:
        # What Juju refuses is not done.
        with suppress(operations.OperationError):
            move(it, number)
    it.settle()
    for unit in {name for name, _ in it.ran}:
        history = [hook for name, hook in it.ran if name == unit]
        # A start that follows a reboot is not that of the startup.
        if "start" in (kinds := [hook.kind for hook in history]):
            first = kinds.index("start")
            history = [h for i, h in enumerate(history) if h.kind != "start" or i == first]
        check_history(history, was_removed=unit not in it.model.units)
    for app in it.model.applications.values():
        alive = [u.name for u in it.model.units_of(app.name) if u.life == "alive"]
        assert (app.leader in alive) if alive else not app.leader
    assert not [u for u in it.model.units.values() if u.life == "dying"]
    assert not [r for r in it.model.relations.values() if r.life == "dying"]

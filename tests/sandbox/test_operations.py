# SPDX-License-Identifier: Apache-2.0
"""What a client may do to a model, and what is refused with which message."""

import re

import pytest
from test_hooks import CLIENT

from sandbox.rules import charm as charms
from sandbox.rules import operations
from sandbox.rules.model import Model, Profile, Status
from sandbox.rules.operations import OperationError

SERVER = charms.parse(
    """
name: server
provides: {share: {interface: nfs_share}, other: {interface: nfs_share}, web: {interface: http}}
storage: {one: {type: filesystem}, two: {type: filesystem}}
""",
    "options: {size: {type: int, default: 1}, name: {type: string}}",
)
PLAIN = charms.parse("{name: plain, requires: {web: {interface: http}}}")


@pytest.fixture
def model() -> Model:
    made = Model("test")
    operations.deploy(made, SERVER, "server")
    operations.deploy(made, PLAIN, "plain")
    operations.deploy(made, CLIENT, "client")
    operations.deploy(made, CLIENT, "client2")
    return made


def integrated(model: Model, a: str, b: str) -> str:
    return model.relations[operations.integrate(model, a, b)].key


@pytest.mark.parametrize(
    ("a", "b", "key"),
    [
        ("server", "plain", "plain:web server:web"),
        ("plain", "server", "plain:web server:web"),
        ("server:share", "client", "client:share server:share"),
        ("client:share", "server:other", "client:share server:other"),
        # The implicit juju-info, since there is nothing else.
        ("client", "plain", "client:juju-info plain:juju-info"),
    ],
)
def test_integrate_finds_the_endpoints(model: Model, a: str, b: str, key: str):
    assert integrated(model, a, b) == key


@pytest.mark.parametrize(
    ("a", "b", "problem"),
    [
        ("server", "none", 'application "none" not found'),
        ("server:none", "plain", 'application "server" has no "none" relation'),
        ("server:share", "plain", "no relations found"),
        ("server", "client", 'ambiguous relation: "server client" could refer to "client:'),
        ("plain:juju-info", "server:web", "no relations found"),
        # Neither is a principal.
        ("client:juju-info", "client2", "no relations found"),
    ],
)
def test_integrate_refuses(model: Model, a: str, b: str, problem: str):
    with pytest.raises(OperationError, match=problem):
        operations.integrate(model, a, b)
    assert not model.relations


def test_4_0_does_not_discard_an_implicit_endpoint(model: Model):
    """3.6: InferEndpoints, state/state.go. 4.0: inferEndpoints, domain/relation/state/relation.go.

    With one endpoint each of nfs_share, the implicit juju-info is what makes it ambiguous.
    """
    one = charms.parse("{name: one, provides: {share: {interface: nfs_share}}}")
    operations.deploy(model, one, "one")
    model.juju = "4.0"
    with pytest.raises(OperationError, match='"client:juju-info one:juju-info"'):
        operations.integrate(model, "client", "one")
    assert integrated(model, "client:share", "one") == "client:share one:share"
    model.relations.clear()
    model.juju = "3.6"
    assert integrated(model, "client", "one") == "client:share one:share"


def test_integrate_twice_and_beyond_the_limit_is_refused(model: Model):
    operations.integrate(model, "client", "server:share")
    with pytest.raises(OperationError, match="already exists"):
        operations.integrate(model, "server:share", "client:share")
    with pytest.raises(OperationError, match="exceed its maximum relation limit of 1"):
        operations.integrate(model, "client", "server:other")


def test_remove_relation_finds_the_one_there_is(model: Model):
    with pytest.raises(OperationError, match='relation "server client" not found'):
        operations.remove_relation(model, "server", "client")
    number = operations.integrate(model, "client", "server:share")
    operations.remove_relation(model, "server", "client")
    assert model.relations[number].life == "dying"


@pytest.mark.parametrize(
    ("text", "pool", "size_mib"),
    [
        ("", "rootfs", 1024),
        ("10G", "disk", 10240),
        ("rootfs,512M", "rootfs", 512),
        ("ebs,1,1.5TiB", "disk", 1572864),
    ],
)
def test_storage_directives(model: Model, text, pool, size_mib):
    operations.deploy(model, SERVER, "b", storage={"one": text})
    found = model.applications["b"].storage["one"]
    assert (found.pool, found.size_mib) == (pool, size_mib)


@pytest.mark.parametrize(
    ("storage", "problem"),
    [
        ({"none": "1G"}, 'has no store called "none"'),
        ({"one": "2"}, "2 instances specified, between 1 and 1 are possible"),
        ({"one": "1x"}, 'invalid size "1x"'),
    ],
)
def test_storage_directives_that_are_refused(model: Model, storage, problem):
    with pytest.raises(OperationError, match=problem):
        operations.deploy(model, SERVER, "b", storage=storage)
    assert "b" not in model.applications


@pytest.mark.parametrize(("juju", "is_same"), [("3.6", True), ("4.0", False)])
def test_the_path_of_storage(juju: Profile, is_same: bool):
    """3.6: that of the storage. 4.0: of its attachment (see _storage_location)."""
    made = Model("test", juju)
    operations.deploy(made, SERVER, "server", num_units=2, storage={"one": "4G"})
    first, second = made.units.values()
    disk = made.storage_of(first)[0]
    before = disk.location
    made.storage_of(second)[0].owner = None
    operations.release_storage(made, disk)
    operations.attach_storage(made, second.name, disk.id)
    name = "one/0" if is_same else "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
    assert re.fullmatch(f"/var/lib/juju/storage/{name}", disk.location)
    assert (disk.location == before) is is_same


@pytest.mark.parametrize(
    ("charm", "name", "arguments", "problem"),
    [
        (PLAIN, "server", {}, "application already exists"),
        (PLAIN, "a-1", {}, 'invalid application name "a-1"'),
        (CLIENT, "sub", {"num_units": 1}, "must be deployed without units"),
        (PLAIN, "b", {"to": "7"}, "machine 7 not found"),
        (PLAIN, "b", {"to": "0", "num_units": 2}, "places one unit at a time"),
        (SERVER, "b", {"config": {"x": "1"}}, 'unknown option "x"'),
    ],
)
def test_deploy_refuses(model: Model, charm, name, arguments, problem):
    before = (list(model.applications), list(model.units), list(model.machines))
    with pytest.raises(OperationError, match=problem):
        operations.deploy(model, charm, name, **arguments)
    assert (list(model.applications), list(model.units), list(model.machines)) == before


def test_units_are_numbered_once_and_placed_where_told(model: Model):
    operations.add_unit(model, "plain", 1, "0")
    assert (model.units["plain/1"].machine, len(model.machines)) == ("0", 2)
    operations.remove_application(model, "plain")
    operations.settle(model)
    assert "plain" not in model.applications
    operations.deploy(model, PLAIN, "plain")
    assert [unit.name for unit in model.units_of("plain")] == ["plain/2"]
    # Machine 1 went with plain/0; its number is not used again. The server's stays.
    assert list(model.machines) == ["0", "2"]


def test_a_unit_whose_machine_is_gone_is_lost_with_no_hook(model: Model):
    operations.deploy(model, SERVER, "b", num_units=2, storage={"one": "4G"})
    operations.settle(model)
    lost, other = model.units_of("b")
    with pytest.raises(OperationError, match="is up: take its power first"):
        operations.lose_unit(model, lost.name)
    model.machines[lost.machine].status = Status("down")
    disk = model.storage_of(lost)[0].id
    operations.lose_unit(model, lost.name)
    operations.settle(model)
    assert model.units_of("b") == [other]
    assert lost.machine not in model.machines
    assert model.applications["b"].leader == other.name
    assert (model.storage[disk].owner, model.storage[disk].life) == (None, "alive")


def test_a_refresh_that_would_break_what_is_there_is_refused(model: Model):
    operations.integrate(model, "server", "plain")
    without = charms.parse("{name: server, storage: {one: {type: filesystem}}}")
    with pytest.raises(OperationError, match='would break relation "plain:web server:web"'):
        operations.refresh(model, "server", without)
    with pytest.raises(OperationError, match="cannot change an application's subordinacy"):
        operations.refresh(model, "server", CLIENT)
    assert model.applications["server"].charm_version == 1


def test_storage_is_attached_and_detached_by_these_rules(model: Model):
    operations.deploy(model, SERVER, "b", storage={"one": "4G"})
    disk, directory = (s.id for s in model.storage.values() if s.owner == "b/0")
    assert (disk, directory) == ("one/2", "two/3")
    with pytest.raises(OperationError, match="cannot be detached: it is a directory"):
        operations.detach_storage(model, directory)
    with pytest.raises(OperationError, match="is already attached to b/0"):
        operations.attach_storage(model, "b/0", disk)
    operations.detach_storage(model, disk)
    operations.settle(model)
    # It was never attached: nothing has to be run.
    assert model.storage[disk].owner is None
    with pytest.raises(OperationError, match="at most 1 instances supported"):
        operations.attach_storage(model, "server/0", disk)
    operations.attach_storage(model, "b/0", disk)
    assert model.storage[disk].owner == "b/0"


def test_a_subordinate_is_not_removed_by_hand(model: Model):
    model.units["plain/0"].principal = "server/0"
    with pytest.raises(OperationError, match="unit is a subordinate"):
        operations.remove_unit(model, "plain/0")

# SPDX-License-Identifier: Apache-2.0
"""The endpoint `filesystem`: what the charm makes of its integrations."""

from dataclasses import replace

import ops
import pytest
from fake_machine import FakeMachine
from ops import testing
from test_charm import HOST, Context, client, network, state

from values import share_directory

OPTIONS: dict[str, str | int | float | bool] = {
    "filesystem-share": "/hpc",
    "filesystem-size": 10,
}
AUTOFS = (
    "filesystem-client: autofs, if it mounts, needs NFSv3 or fstype=nfs4: `juju config nfs-server"
    " nfsv3=true`"
)


def hpc(units: dict[int, str]) -> testing.Relation:
    data = {number: {"egress-subnets": subnets} for number, subnets in units.items()}
    return testing.Relation(
        "filesystem", id=7, remote_app_name="filesystem-client", remote_units_data=data
    )


def asked(*relations: testing.Relation, size: int = 10) -> testing.State:
    return replace(
        state(*relations),
        config={**OPTIONS, "filesystem-size": size},
        networks={network(HOST), replace(network(HOST), binding_name="filesystem")},
    )


def told(out: testing.State) -> dict[str, str]:
    relation = out.get_relation(7)
    assert isinstance(relation, testing.Relation)
    return dict(relation.local_app_data)


ENDPOINT = {"endpoint": f"nfs://({HOST}){share_directory('/hpc')}"}


def test_gets_the_share_that_the_options_name(machine: FakeMachine, context: Context):
    relation = hpc({0: "10.0.7.1/32", 1: "10.0.7.2/32"})
    out = context.run(context.on.relation_created(relation), asked(relation, client()))
    assert told(out) == ENDPOINT
    assert machine.sizes() == {"/data": 10, "/hpc": 10}
    assert machine.may_mount() == {"/data": {"10.0.1.1"}, "/hpc": {"10.0.7.1", "10.0.7.2"}}
    assert out.app_status == ops.ActiveStatus(AUTOFS)
    assert len(AUTOFS) <= 120


def test_with_nfsv3_there_is_nothing_to_say(machine: FakeMachine, context: Context):
    relation = hpc({0: "10.0.7.1/32"})
    now = asked(relation)
    now = replace(now, config={**now.config, "nfsv3": True})
    out = context.run(context.on.config_changed(), now)
    assert out.app_status == ops.ActiveStatus()


def test_nobody_is_told_before_there_is_a_unit_to_mount(machine: FakeMachine, context: Context):
    relation = hpc({})
    out = context.run(context.on.relation_created(relation), asked(relation))
    assert told(out) == {}
    assert machine.sizes() == {"/hpc": 10}


def test_shared_with_who_asks_for_its_name(machine: FakeMachine, context: Context):
    relation = hpc({0: "10.0.7.1/32"})
    both = asked(relation, client(name="/hpc", size="20"))
    out = context.run(context.on.relation_changed(relation), both)
    assert told(out) == ENDPOINT
    assert machine.sizes() == {"/hpc": 20}
    assert machine.may_mount() == {"/hpc": {"10.0.1.1", "10.0.7.1"}}


def test_grows_and_never_shrinks(machine: FakeMachine, context: Context):
    relation = hpc({0: "10.0.7.1/32"})
    out = context.run(context.on.relation_changed(relation), asked(relation))
    for size in 12, 5:
        now = replace(out, config={**OPTIONS, "filesystem-size": size})
        out = context.run(context.on.config_changed(), now)
        assert machine.sizes() == {"/hpc": 12}
        assert told(out) == ENDPOINT
        assert out.app_status == ops.ActiveStatus(AUTOFS)


def test_a_refusal_stands_in_the_status(machine: FakeMachine, context: Context):
    relation = hpc({0: "10.0.7.1/32"})
    out = context.run(context.on.relation_changed(relation), asked(relation, size=1000))
    assert told(out) == {}
    refusal = "Refused to filesystem-client: share /hpc: 1000G requested, 98G free"
    assert out.app_status == ops.ActiveStatus(f"{refusal}; {AUTOFS}")
    assert machine.sizes() == {}


def test_who_leaves_may_mount_no_more_and_the_data_is_kept(machine: FakeMachine, context: Context):
    relation = hpc({0: "10.0.7.1/32"})
    out = context.run(context.on.relation_changed(relation), asked(relation))
    context.run(context.on.relation_broken(out.get_relation(7)), out)
    assert machine.may_mount() == {}
    assert machine.sizes() == {"/hpc": 10}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"filesystem-size": 0}, "filesystem-size: "),
        ({"filesystem-share": "../x"}, "filesystem-share: "),
    ],
)
def test_a_bad_option_changes_nothing(
    machine: FakeMachine, context: Context, options: dict[str, str | int], says: str
):
    relation = hpc({0: "10.0.7.1/32"})
    good = context.run(context.on.relation_changed(relation), asked(relation))
    bad = replace(good, config={**OPTIONS, **options})
    out = context.run(context.on.config_changed(), bad)
    assert told(out) == ENDPOINT
    assert out.unit_status.name == "blocked"
    assert out.unit_status.message.startswith(says)
    assert machine.sizes() == {"/hpc": 10}

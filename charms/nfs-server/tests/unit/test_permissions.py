# SPDX-License-Identifier: Apache-2.0
"""Owner, mode, squash and access: what shares and clients are left with."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

import ops
import pytest
from fake_machine import FakeMachine
from hypothesis import given, settings
from hypothesis import strategies as st
from ops import testing
from test_actions import created, do, placements, refused, results
from test_charm import (
    ENDPOINT,
    Context,
    answers,
    client,
    new_context,
    put_in,
    relation_in,
    saying,
    state,
    with_answer,
)

from charms.storage_libs.v0.nfs_interfaces import Permissions

ASKED = {"owner": "1000:100", "mode": "0770", "squash": "all"}
READING = {"access": "ro"}
NOTHING: Mapping[str, str] = {}
GRANTED = {"endpoint": ENDPOINT, "size": "10"}


def asking(
    said: Mapping[str, str] = NOTHING,
    integration_id: int = 1,
    before: testing.State | None = None,
) -> testing.Relation:
    """An application that asks for /data, with what it was told before."""
    relation = saying({"name": "/data", "size": "10", **said}, integration_id)
    return with_answer(relation, before) if before else relation


def changed(
    context: Context,
    before: testing.State,
    said: Mapping[str, str] = NOTHING,
    integration_id: int = 1,
) -> testing.State:
    """Let an application ask for something else; the others ask for what they asked for."""
    relation = asking(said, integration_id, before)
    others = {it for it in before.relations if it.id != integration_id}
    now = replace(before, relations={*others, relation})
    return context.run(context.on.relation_changed(relation), now)


def readers(machine: FakeMachine) -> set[str]:
    """From where /data may only be read."""
    return {str(it.network_address) for it in machine.exported["/data"].readers}


def test_a_share_has_the_owner_and_mode_before_anybody_sees_it(
    machine: FakeMachine, context: Context
):
    out = context.run(context.on.relation_changed(c := asking(ASKED)), state(c))
    assert machine.roots == {"/data": ("1000:100", "0770")}
    assert machine.changes.index("/data permissions set") < machine.changes.index("exported")
    assert machine.exported["/data"].permissions == Permissions(**ASKED)
    assert answers(out) == {1: {**GRANTED, **ASKED}}
    machine.changes.clear()
    out = context.run(context.on.config_changed(), out)
    assert machine.changes == []


def test_what_an_application_changes_stays_until_it_is_asked_anew(
    machine: FakeMachine, context: Context
):
    now = context.run(context.on.relation_changed(c := asking(ASKED)), state(c))
    machine.roots["/data"] = "7:7", "0711"
    now = context.run(context.on.config_changed(), now)
    now = changed(context, now, {**ASKED, "squash": "root"})
    assert machine.roots["/data"] == ("7:7", "0711")
    # What is asked anew is set, and nothing beside it.
    now = changed(context, now, {**ASKED, "mode": "0700"})
    assert machine.roots["/data"] == ("7:7", "0700")
    # What is taken back stays as it is, and is set when it is asked again.
    now = changed(context, now)
    assert machine.roots["/data"] == ("7:7", "0700")
    assert answers(now) == {1: GRANTED}
    now = changed(context, now, {"owner": "1000:100"})
    assert machine.roots["/data"] == ("1000:100", "0700")
    assert answers(now) == {1: {**GRANTED, "owner": "1000:100"}}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"owner": "root:root"}, "owner 'root:root': use uid:gid, two numbers up to 2147483647,"),
        ({"mode": "4755"}, "mode '4755': use three or four octal digits up to 3777,"),
        ({"squash": "no"}, "squash 'no': use none, root, all"),
        ({"access": "wo"}, "access 'wo': use ro, or nothing to read and write"),
    ],
)
@pytest.mark.parametrize("access", ["", "ro"])
def test_what_can_not_be_read_changes_nothing(
    machine: FakeMachine, context: Context, bad: dict[str, str], reason: str, access: str
):
    said = ASKED | ({"access": access} if access else {})
    now = context.run(context.on.relation_changed(c := asking(said)), state(c))
    before = dict(machine.roots), dict(machine.exported)
    machine.changes.clear()
    now = changed(context, now, {**said, **bad})
    assert (machine.roots, machine.exported) == before
    assert machine.changes == []
    assert answers(now)[1]["error"].startswith(reason)
    # What it says besides may be meant for what can't be read: it isn't answered.
    assert answers(now)[1].keys() == {"endpoint", "size", "error"}


def test_an_owner_that_can_not_be_set_is_said(machine: FakeMachine, context: Context):
    now = context.run(context.on.relation_changed(c := asking()), state(c))
    machine.failing = {"/data"}
    now = changed(context, now, ASKED)
    error = {"error": "share /data: it failed"}
    assert answers(now) == {1: {**GRANTED, "squash": "all", **error}}
    assert now.unit_status == ops.BlockedStatus("share /data: it failed")
    assert set(machine.may_mount()) == {"/data"}
    do(context, now, "list-shares")
    shown = [it for it in results(context).values() if isinstance(it, dict)]
    assert [it["state"] for it in shown] == ["share /data: it failed"]
    machine.failing = set()
    now = context.run(context.on.update_status(), now)
    assert answers(now) == {1: {**GRANTED, **ASKED}}
    assert now.unit_status == ops.ActiveStatus()


def test_who_comes_later_is_told_and_served(machine: FakeMachine, context: Context):
    both = asking(ASKED), asking({**ASKED, "owner": "7:7"}, 2)
    now = context.run(context.on.relation_changed(both[0]), state(*both))
    assert machine.roots == {"/data": ("1000:100", "0770")}
    error = "share /data belongs to app1: owner 7:7 requested by another is not granted"
    assert answers(now) == {
        1: {**GRANTED, **ASKED},
        2: {**GRANTED, **ASKED, "error": error},
    }
    # It has it when the first one leaves, and then its word counts.
    now = context.run(context.on.relation_broken(relation_in(now, 1)), now)
    now = replace(now, relations={it for it in now.relations if it.id != 1})
    now = context.run(context.on.config_changed(), now)
    assert machine.roots == {"/data": ("7:7", "0770")}
    assert answers(now) == {2: {**GRANTED, **ASKED, "owner": "7:7"}}


def test_who_only_reads(machine: FakeMachine, context: Context):
    both = asking(), asking(READING, 2)
    now = context.run(context.on.relation_changed(both[1]), state(*both))
    assert machine.may_mount() == {"/data": {"10.0.1.1", "10.0.2.1"}}
    assert readers(machine) == {"10.0.2.1"}
    assert answers(now) == {1: GRANTED, 2: {**GRANTED, "access": "ro"}}
    # Its own allowlist, if it is the first, and nobody else's.
    now = changed(context, now, {**READING, "allowlist": "10.7.0.1"})
    assert readers(machine) == {"10.0.1.1", "10.0.2.1", "10.7.0.1"}
    now = changed(context, now, integration_id=2)
    assert readers(machine) == {"10.0.1.1", "10.7.0.1"}
    assert answers(now) == {1: {**GRANTED, "access": "ro"}, 2: GRANTED}


def test_a_machine_that_writes_for_another_writes(machine: FakeMachine, context: Context):
    same = {0: "10.0.1.1/32"}
    both = asking(), saying({"name": "/data", "size": "10", "access": "ro"}, 2, same)
    now = context.run(context.on.relation_changed(both[1]), state(*both))
    assert readers(machine) == set()
    assert answers(now)[2] == GRANTED
    now = context.run(context.on.relation_broken(relation_in(now, 1)), now)
    now = replace(now, relations={it for it in now.relations if it.id != 1})
    now = context.run(context.on.config_changed(), now)
    assert readers(machine) == {"10.0.1.1"}
    assert answers(now)[2] == {**GRANTED, "access": "ro"}


def test_a_share_of_an_action(machine: FakeMachine, context: Context):
    now = created(context, owner="1000:100", mode="770", squash="all")
    assert machine.roots == {"/hand": ("1000:100", "0770")}
    assert machine.exported["/hand"].permissions == Permissions(**ASKED)
    shown = {key: results(context)[key] for key in ("owner", "mode", "squash", "read-only")}
    assert shown == {**ASKED, "read-only": ""}
    # Repeated without them, they stay; with one, that one changes.
    now = do(context, now, "create-share", share="/hand", size=10)
    now = do(context, now, "create-share", share="/hand", size=10, squash="root")
    assert machine.roots == {"/hand": ("1000:100", "0770")}
    assert placements(now)["/hand"].permissions == Permissions(**{**ASKED, "squash": "root"})
    # It stays the operator's.
    guest = saying({"name": "/hand", "owner": "7:7"}, 1)
    now = replace(now, relations={*now.relations, guest})
    now = context.run(context.on.relation_changed(guest), now)
    assert machine.roots == {"/hand": ("1000:100", "0770")}
    assert answers(now)[1]["error"] == (
        "share /hand belongs to the operator (create-share): owner 7:7 requested by another is"
        " not granted"
    )


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"owner": "bob"}, "owner 'bob': use uid:gid, two numbers up to 2147483647, such as"),
        ({"mode": "9"}, "mode '9': use three or four octal digits up to 3777, such as 0770"),
        ({"squash": "no"}, "squash 'no': use none, root, all"),
    ],
)
def test_an_action_that_is_refused(
    machine: FakeMachine, context: Context, params: dict[str, str], reason: str
):
    said = refused(context, state(), "create-share", share="/hand", size=10, **params)
    assert said.startswith(reason)
    assert machine.on_storage == {}


def test_an_application_says_by_itself_what_it_has(machine: FakeMachine, context: Context):
    now = context.run(context.on.relation_changed(c := asking(ASKED)), state(c))
    there = {"share": "/data", "size": 10}
    said = refused(context, now, "create-share", **there, owner="7:7")
    assert said == ("share /data belongs to app1: that one requests its owner, mode and squash")
    now = do(context, now, "create-share", **there, owner="1000:100")
    assert machine.roots == {"/data": ("1000:100", "0770")}
    # When it is gone, the operator says it.
    now = context.run(context.on.relation_broken(relation_in(now, 1)), now)
    now = replace(now, relations={it for it in now.relations if it.id != 1})
    do(context, now, "create-share", **there, owner="7:7")
    assert machine.roots == {"/data": ("7:7", "0770")}


def test_access_to_read_by_an_action(machine: FakeMachine, context: Context):
    now = created(context)
    grant = {"share": "/hand", "allowlist": "10.9.0.2,10.9.0.4/31"}
    now = do(context, now, "grant-access", **grant, access="ro")
    export = machine.exported["/hand"]
    assert {str(it) for it in export.readers} == {"10.9.0.2/32", "10.9.0.4/31"}
    assert results(context)["read-only"] == "10.9.0.2 10.9.0.4/31"
    assert results(context)["allowlist"] == "10.9.0.1 10.9.0.2 10.9.0.4/31"
    assert results(context)["granted-by-action"] == "10.9.0.1 10.9.0.2(ro) 10.9.0.4/31(ro)"
    # Another right for one of them, and back.
    now = do(context, now, "grant-access", share="/hand", allowlist="10.9.0.2")
    assert results(context)["granted-by-action"] == "10.9.0.1 10.9.0.2 10.9.0.4/31(ro)"
    now = do(context, now, "grant-access", share="/hand", allowlist="10.9.0.1", access="ro")
    assert results(context)["granted-by-action"] == "10.9.0.1(ro) 10.9.0.2 10.9.0.4/31(ro)"
    now = do(context, now, "revoke-access", share="/hand", allowlist="10.9.0.1,10.9.0.4/31")
    assert placements(now)["/hand"].readers == ()
    assert machine.may_mount() == {"/hand": {"10.9.0.2"}}
    said = refused(context, now, "grant-access", **grant, access="rw")
    assert said == "access 'rw': use ro, or nothing to read and write"


def test_too_many_parts_are_refused_before_they_cost_anybody_access(
    machine: FakeMachine, context: Context
):
    writers = ",".join(f"10.{n}.{3 * n % 256}.{7 * n % 256}" for n in range(200))
    now = created(context, allowlist=writers)
    before = machine.may_mount()
    assert len(before["/hand"]) == 200
    said = refused(
        context, now, "grant-access", share="/hand", allowlist="10.0.0.0/8", access="ro"
    )
    assert re.fullmatch(
        r"share /hand: 3\d+ more addresses and networks, and nfs-server exports to 3000 at most:"
        " use networks instead of addresses",
        said,
    )
    assert machine.may_mount() == before


def test_the_servers_squash_is_for_those_that_say_none(machine: FakeMachine, context: Context):
    two = asking({"squash": "root"}), client(2, "/logs")
    now = replace(state(*two), config={"squash": "all"})
    now = context.run(context.on.config_changed(), now)
    do(context, now, "list-shares")
    shown = {it["name"]: it["squash"] for it in results(context).values() if isinstance(it, dict)}
    assert shown == {"/data": "root", "/logs": "all"}


# Any history, against a model of what was asked and what applications did.


@dataclass
class Model:
    """What the root directory of a share has to be."""

    owner: str = "0:0"
    mode: str = "0755"
    asked_owner: str = ""
    asked_mode: str = ""
    is_readable: bool = True
    """Whether what is asked can be read."""

    def ask(self, owner: str, mode: str) -> None:
        """Ask for them: what is new, and is said, is set."""
        if owner != self.asked_owner:
            self.owner = owner or self.owner
        if mode != self.asked_mode:
            self.mode = mode or self.mode
        self.asked_owner, self.asked_mode, self.is_readable = owner, mode, True


_OWNERS, _MODES = st.sampled_from(["", "1:1", "2:2"]), st.sampled_from(["", "0700", "2775"])
_STEPS = st.one_of(
    st.tuples(st.just("ask"), _OWNERS, _MODES),
    st.tuples(st.just("other"), _OWNERS, _MODES),
    st.tuples(st.just("chown"), st.just("9:9"), st.just("0711")),
    st.tuples(st.sampled_from(["hook", "fail", "unmount", "garbage"]), st.just(""), st.just("")),
)


@settings(max_examples=25)
@given(st.lists(_STEPS, min_size=1, max_size=8))
def test_any_history_of_owners(monkeypatch: pytest.MonkeyPatch, steps: list[tuple[str, str, str]]):
    machine, context = put_in(FakeMachine(), monkeypatch), new_context()
    model = Model()
    first, second = asking(), asking(integration_id=2)
    now = context.run(context.on.relation_changed(first), state(first, second))
    for step, owner, mode in steps:
        match step:
            case "ask":
                now = changed(context, now, {"owner": owner, "mode": mode})
                model.ask(owner, mode)
            case "other":
                now = changed(context, now, {"owner": owner, "mode": mode}, 2)
            case "chown":
                machine.roots["/data"] = owner, mode
                model.owner, model.mode = owner, mode
            case "garbage":
                said = {"owner": model.asked_owner, "mode": model.asked_mode, "access": "?"}
                now = changed(context, now, said)
                model.is_readable = False
            case "fail":  # What one hook can't do, a later one does.
                machine.failing = {"/data"}
                now = changed(context, now, {"owner": "3:3"})
                machine.failing = set()
                now = context.run(context.on.config_changed(), now)
                model.ask("3:3", "")
            case "unmount":
                machine.mounted.clear()
                now = context.run(context.on.config_changed(), now)
            case _:
                now = context.run(context.on.config_changed(), now)
        assert machine.roots.get("/data", ("0:0", "0755")) == (model.owner, model.mode)
        told = answers(now)[1]
        assert told.get("owner", "") == (model.asked_owner if model.is_readable else "")
    assert machine.may_mount() == {"/data": {"10.0.1.1", "10.0.2.1"}}

# SPDX-License-Identifier: Apache-2.0
"""The charm on several units: each has its machine, and sees what the others committed."""

import contextlib
import itertools
from dataclasses import replace

import ops
import pytest
from fake_machine import FakeMachine
from hypothesis import given, settings
from hypothesis import strategies as st
from ops import testing
from test_charm import MODEL, PEERS, SHARES, client, network, new_context, put_in, saying

import records
from values import Report, ShareReport, share_directory

BIG = "60"


class Cluster:
    """Units of nfs-server, and the databags between them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, count: int = 2):
        self.monkeypatch = monkeypatch
        self.machines = {n: FakeMachine(unit=f"nfs-server/{n}") for n in range(count)}
        self.leader = 0
        self.requests: dict[int, testing.Relation] = {}
        self.answers: dict[int, dict[str, str]] = {}
        self.app_bag: dict[str, str] = {}
        self.unit_bags: dict[int, dict[str, str]] = {n: {} for n in range(count)}
        self.status: dict[int, object] = {}
        self.app_status: object = None
        self.no_storage: set[int] = set()
        self.heard: dict[int, dict[int, dict[str, str]]] = {}
        """Units to which no change of their peers came since: what they had said by then."""

    def hook(
        self, number: int, *, is_killed: bool = False, action: str = "", **params: object
    ) -> dict[str, object] | None:
        """Run a hook, or an action; of a killed hook only the machine keeps something.

        Returns:
            What an action says.
        """
        put_in(self.machines[number], self.monkeypatch)
        context = new_context(f"nfs-server/{number}")
        event = context.on.action(action, params=params) if action else context.on.config_changed()
        out = context.run(event, self.state(number))
        self.check()
        results = context.action_results if action else None
        if is_killed:
            return results
        self.unit_bags[number] = dict(out.get_relation(PEERS.id).local_unit_data)  # pyright: ignore
        self.status[number] = out.unit_status
        if number == self.leader:
            self.app_bag = dict(out.get_relation(PEERS.id).local_app_data)
            self.app_status = out.app_status
            for relation in out.get_relations("nfs-share"):
                self.answers[relation.id] = dict(relation.local_app_data)
        return results

    def state(self, number: int) -> testing.State:
        leads = number == self.leader
        self.machines[number].goal = {f"nfs-server/{n}": "active" for n in self.machines}
        peer = replace(
            PEERS,
            local_app_data=self.app_bag,
            local_unit_data=self.unit_bags[number],
            peers_data={
                n: bag for n, bag in self.heard.get(number, self.unit_bags).items() if n != number
            },
        )
        clients = {
            replace(it, local_app_data=self.answers.get(i, {}) if leads else {})
            for i, it in self.requests.items()
        }
        return testing.State(
            leader=leads,
            planned_units=len(self.machines),
            relations={peer, *clients},
            storages=set[testing.Storage]() if number in self.no_storage else {SHARES},
            networks={network(f"192.0.2.{number}")},
            model=MODEL,
        )

    def ask(self, number: int, name: str, size: str = "10") -> None:
        self.requests[number] = client(number, name, size)

    def settle(self) -> None:
        for _ in range(4):
            for number in list(self.machines):
                self.hook(number)

    def remove(self, number: int) -> FakeMachine:
        """Remove a unit; its storage is kept."""
        del self.unit_bags[number]
        return self.machines.pop(number)

    def add(self, number: int, machine: FakeMachine) -> None:
        """Add a unit with the storage of another."""
        self.machines[number] = FakeMachine(
            unit=f"nfs-server/{number}",
            on_storage=dict(machine.on_storage),
            deleted=dict(machine.deleted),
            decided=dict(machine.decided),
            made=machine.made,
        )
        self.unit_bags[number] = {}

    def placed(self) -> dict[str, str]:
        placed = records.read_placements(records.parse(self.app_bag.get("shares", "")))
        return {name: it.unit for name, it in placed.items()}

    def serving(self) -> dict[str, int]:
        """Which unit exports which share."""
        return {name: n for n, machine in self.machines.items() for name in machine.exported}

    def check(self) -> None:
        exported = [name for it in self.machines.values() for name in it.exported]
        assert len(exported) == len(set(exported)), "a share on two units"


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster(monkeypatch)
    cluster.settle()
    return cluster


def endpoint(number: int, name: str) -> str:
    return f"nfs://192.0.2.{number}{share_directory(name)}"


def test_shares_are_spread(cluster: Cluster):
    for number, name in enumerate(["/a", "/b", "/c"], start=1):
        cluster.ask(number, name)
        cluster.settle()
    assert cluster.serving() == {"/a": 0, "/b": 1, "/c": 0}
    assert cluster.answers[2]["endpoint"] == endpoint(1, "/b")
    assert cluster.answers[2]["allowlist"] == "10.0.2.1/32"
    assert "/b" not in cluster.machines[0].on_storage
    assert all(it == ops.ActiveStatus() for it in cluster.status.values())


def test_what_settled_changes_no_more(cluster: Cluster):
    for number, name in enumerate(["/a", "/b", "/huge"], start=1):
        cluster.ask(number, name, "1000" if name == "/huge" else "10")
    cluster.settle()
    before = dict(cluster.app_bag), dict(cluster.unit_bags), dict(cluster.answers)
    for machine in cluster.machines.values():
        machine.changes.clear()
    cluster.settle()
    assert before == (cluster.app_bag, cluster.unit_bags, cluster.answers)
    assert [it.changes for it in cluster.machines.values()] == [[], []]
    assert cluster.answers[3] == {"error": "share /huge: 1000G requested, 88G free"}


def test_another_leader_moves_nothing(cluster: Cluster):
    cluster.ask(1, "/a")
    cluster.ask(2, "/b")
    cluster.settle()
    before = dict(cluster.answers), dict(cluster.app_bag)
    cluster.leader = 1
    cluster.settle()
    assert before == (cluster.answers, cluster.app_bag)


def test_more_room_takes_what_was_refused(cluster: Cluster):
    cluster.ask(1, "/a", BIG)
    cluster.ask(2, "/b", BIG)
    cluster.ask(3, "/c", BIG)
    cluster.settle()
    assert cluster.answers[3]["error"] == "share /c: 60G requested, 38G free"
    cluster.add(2, FakeMachine())
    cluster.settle()
    assert cluster.serving() == {"/a": 0, "/b": 1, "/c": 2}
    assert "error" not in cluster.answers[3]


def test_a_unit_goes_and_its_storage_comes_back(cluster: Cluster):
    cluster.ask(1, "/a")
    cluster.ask(2, "/b")
    cluster.settle()
    machine = cluster.remove(1)
    for _ in range(2):
        cluster.settle()
        gone = "share /b was on nfs-server/1, which is gone"
        assert cluster.answers[2] == {
            "endpoint": endpoint(1, "/b"),
            "answers": f"{endpoint(1, '/b')} /b",
            "size": "10",
            "error": gone,
        }
        assert cluster.app_status == ops.BlockedStatus(
            f"{gone}: attach its storage, or run forget-share"
        )
        assert cluster.serving() == {"/a": 0}
        assert set(cluster.machines[0].on_storage) == {"/a"}
    cluster.add(7, machine)
    cluster.hook(7)  # Before the leader knows of it.
    assert cluster.status[7] == ops.ActiveStatus()
    cluster.settle()
    assert cluster.answers[2]["endpoint"] == endpoint(7, "/b")
    assert "error" not in cluster.answers[2]
    assert cluster.serving() == {"/a": 0, "/b": 7}
    assert cluster.machines[7].on_storage["/b"].uuid == machine.on_storage["/b"].uuid
    assert cluster.app_status == ops.ActiveStatus()


def forget(cluster: Cluster, leader: int) -> None:
    cluster.hook(leader, action="forget-share", share="/b", confirm="/b")


def forgotten(cluster: Cluster) -> FakeMachine:
    """Lose /b with unit 1, and forget it; the machine that had it."""
    cluster.ask(1, "/a")
    cluster.ask(2, "/b")
    cluster.settle()
    machine = cluster.remove(1)
    cluster.settle()
    forget(cluster, 0)
    cluster.settle()
    return machine


def test_a_forgotten_share_is_made_anew_and_the_old_image_is_left_alone(cluster: Cluster):
    machine = forgotten(cluster)
    assert cluster.serving() == {"/a": 0, "/b": 0}
    cluster.add(7, machine)
    cluster.settle()
    assert cluster.serving() == {"/a": 0, "/b": 0}
    assert cluster.machines[7].on_storage == machine.on_storage
    assert cluster.machines[7].mounted == set()
    assert cluster.status[7] == ops.BlockedStatus(
        "share /b is on nfs-server/0, another image of it is here: move it off the storage"
    )


def test_no_share_is_forgotten_while_an_older_image_would_take_its_place(cluster: Cluster):
    cluster.add(7, forgotten(cluster))
    cluster.settle()
    cluster.remove(0)
    cluster.leader = 7
    cluster.settle()
    refused = "share /b: another image of it is on nfs-server/7: move it off the storage first"
    with pytest.raises(testing.ActionFailed, match=refused):
        forget(cluster, 7)
    cluster.settle()
    assert "/b" not in cluster.serving()
    older = cluster.machines[7].on_storage.pop("/b")
    forget(cluster, 7)
    cluster.settle()
    assert cluster.serving()["/b"] == 7
    assert cluster.machines[7].on_storage["/b"].uuid != older.uuid


def test_a_leader_that_has_not_seen_its_peers_does_nothing_for_good(cluster: Cluster):
    cluster.ask(1, "/a")
    cluster.ask(2, "/b")
    cluster.settle()
    seen, cluster.leader = cluster.unit_bags, 1
    cluster.unit_bags = {1: seen[1]}
    cluster.hook(1)
    assert "error" not in cluster.answers[1]  # Juju names the unit, so it isn't gone.
    assert set(cluster.machines[1].on_storage) == {"/b"}
    cluster.unit_bags = {**seen, **cluster.unit_bags}
    cluster.settle()
    assert "error" not in cluster.answers[1]
    assert cluster.serving() == {"/a": 0, "/b": 1}


def test_a_killed_leader_leaves_no_second_share(cluster: Cluster):
    cluster.ask(1, "/a")
    cluster.hook(0, is_killed=True)
    assert set(cluster.machines[0].on_storage) == {"/a"}
    assert cluster.machines[0].exported == {}
    cluster.leader = 1
    cluster.hook(1)  # It knows nothing of the other's image.
    cluster.settle()
    assert cluster.serving() in ({"/a": 0}, {"/a": 1})
    assert sum("/a" in it.on_storage for it in cluster.machines.values()) == 1
    assert all(it == ops.ActiveStatus() for it in cluster.status.values())


def test_no_storage_on_the_leader(cluster: Cluster):
    cluster.no_storage = {0}
    cluster.ask(1, "/a")
    cluster.settle()
    assert cluster.serving() == {"/a": 1}
    assert cluster.answers[1]["endpoint"] == endpoint(1, "/a")


def test_detached_storage_is_reported(cluster: Cluster):
    cluster.ask(1, "/a")
    cluster.settle()
    put_in(cluster.machines[0], cluster.monkeypatch)
    context = new_context("nfs-server/0")
    out = context.run(context.on.storage_detaching(SHARES), cluster.state(0))
    said = out.get_relation(PEERS.id).local_unit_data["report"]  # pyright: ignore
    # That it has it not, and not just that it has nothing.
    missing = Report(shares={"/a": ShareReport()})
    assert records.REPORT.read(records.parse(said)) == missing


def test_a_deletion_is_not_forgotten_with_its_storage(cluster: Cluster):
    cluster.hook(0, action="create-share", share="/a", size=10)
    cluster.settle()
    cluster.leader = 1
    cluster.hook(0, action="delete-share", share="/a", confirm="/a")
    put_in(cluster.machines[0], cluster.monkeypatch)
    context = new_context("nfs-server/0")
    out = context.run(context.on.storage_detaching(SHARES), cluster.state(0))
    cluster.unit_bags[0] = dict(out.get_relation(PEERS.id).local_unit_data)  # pyright: ignore
    cluster.no_storage = {0}
    cluster.settle()
    assert cluster.placed() == {}


def test_a_new_leader_heard_nothing_of_a_deletion(monkeypatch: pytest.MonkeyPatch):
    """Juju shows a unit's databag as it was at its last event: leader-elected may come before."""
    cluster = Cluster(monkeypatch, 3)
    cluster.settle()
    for name in "/a", "/b":
        cluster.hook(0, action="create-share", share=name, size=10)
        cluster.settle()
    assert cluster.placed() == {"/a": "nfs-server/0", "/b": "nfs-server/1"}
    cluster.heard[2] = {n: dict(bag) for n, bag in cluster.unit_bags.items()}
    cluster.hook(1, action="delete-share", share="/b", confirm="/b")
    cluster.settle()
    cluster.leader = 2
    cluster.hook(2)
    assert cluster.placed() == {"/a": "nfs-server/0"}
    cluster.ask(1, "/b")
    cluster.hook(2)
    assert cluster.answers[1] == {}
    cluster.heard.clear()
    cluster.settle()
    assert cluster.answers[1] == {"error": KEPT}
    cluster.hook(1, action="purge-share", share="/b", confirm="/b")
    cluster.settle()
    # One of that name is another one.
    assert cluster.serving() == {"/b": int(cluster.placed()["/b"][-1])}
    assert "error" not in cluster.answers[1]


def test_a_new_leader_creates_a_share_of_which_it_heard_no_deletion(
    monkeypatch: pytest.MonkeyPatch,
):
    cluster = Cluster(monkeypatch, 3)
    cluster.settle()
    for name in "/a", "/b":
        cluster.hook(0, action="create-share", share=name, size=10)
        cluster.settle()
    cluster.heard[2] = {n: dict(bag) for n, bag in cluster.unit_bags.items()}
    cluster.hook(1, action="delete-share", share="/b", confirm="/b")
    cluster.settle()
    cluster.leader = 2
    cluster.hook(2, action="create-share", share="/b", size=20)
    cluster.heard.clear()
    cluster.settle()
    cluster.hook(1, action="purge-share", share="/b", confirm="/b")
    cluster.settle()
    assert [it.sizes().get("/b") for it in cluster.machines.values()].count(20) == 1


def test_a_new_leader_heard_nothing_of_a_new_share(monkeypatch: pytest.MonkeyPatch):
    cluster = Cluster(monkeypatch, 3)
    cluster.settle()
    cluster.heard[2] = {n: dict(bag) for n, bag in cluster.unit_bags.items()}
    for number, name in enumerate(["/a", "/b"], start=1):
        cluster.ask(number, name)
        cluster.settle()
    answers = {n: dict(it) for n, it in cluster.answers.items()}
    cluster.leader = 2
    cluster.hook(2)
    assert cluster.answers == answers


@pytest.mark.parametrize("size", ["10", "ten"])
def test_a_slip_in_the_name_keeps_the_share(cluster: Cluster, size: str):
    for number, name in enumerate(["/a", "/b"], start=1):
        cluster.ask(number, name)
    cluster.settle()
    before = {n: dict(it) for n, it in cluster.answers.items()}
    for number in 1, 2:
        cluster.requests[number] = saying({"name": "../x", "size": size}, number)
    cluster.settle()
    for number in 1, 2:
        assert "'..' is not allowed in it" in cluster.answers[number].pop("error")
    assert cluster.answers == before
    assert cluster.serving() == {"/a": 0, "/b": 1}
    assert [it.may_mount() for it in cluster.machines.values()] == [
        {"/a": {"10.0.1.1"}},
        {"/b": {"10.0.2.1"}},
    ]


def test_deleted_on_a_follower(cluster: Cluster):
    cluster.hook(0, action="create-share", share="/a", size=10)
    cluster.hook(0, action="create-share", share="/b", size=10)
    cluster.settle()
    assert cluster.placed() == {"/a": "nfs-server/0", "/b": "nfs-server/1"}
    cluster.hook(1, action="delete-share", share="/b", confirm="/b")
    cluster.settle()
    assert cluster.placed() == {"/a": "nfs-server/0"}
    assert cluster.machines[1].on_storage == {}
    assert "deleted" not in cluster.unit_bags[1]["report"]


@pytest.fixture
def deleted(cluster: Cluster) -> Cluster:
    """A share on each unit; that of the follower was deleted, and is kept."""
    cluster.hook(0, action="create-share", share="/a", size=10)
    cluster.hook(0, action="create-share", share="/b", size=10, allowlist="10.9.0.1")
    cluster.settle()
    cluster.hook(1, action="delete-share", share="/b", confirm="/b")
    cluster.settle()
    assert cluster.placed() == {"/a": "nfs-server/0"}
    return cluster


KEPT = "share /b: deleted, and kept on nfs-server/1: run restore-share or purge-share there"


@pytest.mark.parametrize("leader", [0, 1])
def test_restored_on_any_unit(deleted: Cluster, leader: int):
    uuid = deleted.machines[1].deleted["/b"].image.uuid
    deleted.leader = leader
    deleted.ask(1, "/b")
    deleted.settle()
    assert deleted.answers[1] == {"error": KEPT}
    said = deleted.hook(1, action="restore-share", share="/b")
    assert said
    assert said["state"] == "restored"  # And mounted, when the leader has placed it.
    deleted.settle()
    assert deleted.answers[1]["endpoint"] == endpoint(1, "/b")
    assert "error" not in deleted.answers[1]
    assert deleted.machines[1].may_mount() == {"/b": {"10.0.1.1", "10.9.0.1"}}
    assert deleted.machines[1].on_storage["/b"].uuid == uuid
    assert deleted.machines[1].decided == {}
    assert all(it == ops.ActiveStatus() for it in deleted.status.values())


@pytest.mark.parametrize("killed", [*itertools.product([False, True], repeat=3)])
def test_deleted_and_restored_before_the_leader_knows(
    cluster: Cluster, killed: tuple[bool, bool, bool]
):
    for name in "/a", "/b":
        cluster.hook(0, action="create-share", share=name, size=10)
    cluster.settle()
    uuid = cluster.machines[1].on_storage["/b"].uuid
    first, second, third = killed
    cluster.hook(1, action="delete-share", share="/b", confirm="/b", is_killed=first)
    cluster.hook(1, action="restore-share", share="/b", is_killed=second)
    cluster.hook(1, action="delete-share", share="/b", confirm="/b", is_killed=third)
    cluster.settle()
    assert cluster.placed() == {"/a": "nfs-server/0"}
    cluster.hook(1, action="restore-share", share="/b", is_killed=first)
    cluster.settle()
    assert cluster.placed() == {"/a": "nfs-server/0", "/b": "nfs-server/1"}
    assert cluster.machines[1].on_storage["/b"].uuid == uuid
    assert all(it == ops.ActiveStatus() for it in cluster.status.values())


def test_a_new_leader_heard_nothing_of_a_restoration(monkeypatch: pytest.MonkeyPatch):
    """It was away since the deletion, and hears of what became of that after it leads."""
    cluster = Cluster(monkeypatch, 3)
    cluster.settle()
    for name in "/a", "/b":
        cluster.hook(0, action="create-share", share=name, size=10)
        cluster.settle()
    cluster.hook(1, action="delete-share", share="/b", confirm="/b")
    cluster.heard[2] = {n: dict(bag) for n, bag in cluster.unit_bags.items()}
    for number in 0, 1:
        cluster.hook(number)
    cluster.hook(1, action="restore-share", share="/b")
    for number in 0, 1, 0, 1:
        cluster.hook(number)
    assert cluster.placed()["/b"] == "nfs-server/1"
    assert cluster.machines[1].decided == {}
    cluster.leader = 2
    cluster.hook(2)
    cluster.heard.clear()
    cluster.settle()
    assert cluster.placed() == {"/a": "nfs-server/0", "/b": "nfs-server/1"}
    assert all(it == ops.ActiveStatus() for it in cluster.status.values())


def test_a_new_leader_heard_last_of_an_earlier_restoration(monkeypatch: pytest.MonkeyPatch):
    """One that the leader before it had not missed."""
    cluster = Cluster(monkeypatch, 3)
    cluster.settle()
    for name in "/a", "/b":
        cluster.hook(0, action="create-share", share=name, size=10)
        cluster.settle()
    cluster.hook(1, action="delete-share", share="/b", confirm="/b")
    cluster.hook(1, action="restore-share", share="/b")
    cluster.heard[2] = {n: dict(bag) for n, bag in cluster.unit_bags.items()}
    for number in 0, 1, 0:
        cluster.hook(number)
    cluster.hook(1, action="delete-share", share="/b", confirm="/b")
    cluster.hook(0)
    assert cluster.placed() == {"/a": "nfs-server/0"}
    cluster.leader = 2
    cluster.hook(2)
    assert cluster.placed() == {"/a": "nfs-server/0"}


def test_a_new_leader_heard_last_of_the_name_before(monkeypatch: pytest.MonkeyPatch):
    cluster = Cluster(monkeypatch, 3)
    cluster.settle()
    for name in "/a", "/b":
        cluster.hook(0, action="create-share", share=name, size=10)
        cluster.settle()
    cluster.heard[2] = {n: dict(bag) for n, bag in cluster.unit_bags.items()}
    cluster.hook(1, action="delete-share", share="/b", confirm="/b")
    for number in 0, 1, 0:
        cluster.hook(number)
    cluster.hook(1, action="restore-share", share="/b", name="/new")
    for number in 0, 1, 0:
        cluster.hook(number)
    cluster.leader = 2
    cluster.hook(2)
    assert cluster.placed() == {"/a": "nfs-server/0", "/new": "nfs-server/1"}
    cluster.heard.clear()
    cluster.ask(1, "/b")
    cluster.settle()
    assert "error" not in cluster.answers[1]
    assert cluster.serving() == {"/b": 2}


def test_another_name_waits_for_the_leader(cluster: Cluster):
    for name in "/a", "/b":
        cluster.hook(0, action="create-share", share=name, size=10)
    cluster.settle()
    cluster.hook(1, action="delete-share", share="/b", confirm="/b")
    with pytest.raises(testing.ActionFailed, match="its deletion is not recorded yet: try again"):
        cluster.hook(1, action="restore-share", share="/b", name="/new")
    cluster.settle()
    cluster.hook(1, action="restore-share", share="/b", name="/new")
    cluster.settle()
    assert cluster.placed() == {"/a": "nfs-server/0", "/new": "nfs-server/1"}
    assert all(it == ops.ActiveStatus() for it in cluster.status.values())


def test_what_is_kept_travels_with_its_storage(deleted: Cluster):
    machine = deleted.remove(1)
    deleted.settle()
    deleted.add(7, machine)
    deleted.settle()
    deleted.ask(1, "/b")
    deleted.settle()
    assert deleted.answers[1] == {"error": KEPT.replace("/1:", "/7:")}
    deleted.hook(7, action="restore-share", share="/b")
    deleted.settle()
    assert deleted.answers[1]["endpoint"] == endpoint(7, "/b")
    assert deleted.machines[7].may_mount() == {"/b": {"10.0.1.1", "10.9.0.1"}}


def test_a_name_is_free_while_its_deleted_share_is_nowhere(deleted: Cluster):
    machine = deleted.remove(1)
    deleted.ask(1, "/b")
    deleted.settle()
    assert deleted.serving() == {"/b": 0}
    deleted.add(7, machine)
    deleted.settle()
    assert deleted.serving() == {"/b": 0}
    assert all(it == ops.ActiveStatus() for it in deleted.status.values())
    with pytest.raises(testing.ActionFailed, match="share /b exists: give the deleted one"):
        deleted.hook(7, action="restore-share", share="/b")
    deleted.hook(7, action="restore-share", share="/b", name="/old")
    deleted.settle()
    assert deleted.placed()["/old"] == "nfs-server/7"


@pytest.mark.parametrize("text", ["", "{", '{"shares": 7}', "[]", '{"shares":{"/a":{"uuid":[]}}}'])
def test_a_peer_that_says_nonsense(cluster: Cluster, text: str):
    cluster.ask(1, "/a")
    cluster.settle()
    before = dict(cluster.app_bag)
    cluster.unit_bags[1] = {"report": text}
    cluster.hook(0)
    assert cluster.app_bag == before


_steps = st.tuples(
    st.sampled_from(["hook", "hook", "killed", "lead", "ask", "leave"]),
    st.integers(0, 1),
    st.integers(1, 3),
)


@settings(max_examples=12)
@given(st.lists(_steps, max_size=12))
def test_any_history(monkeypatch: pytest.MonkeyPatch, history: list[tuple[str, int, int]]):
    cluster = Cluster(monkeypatch)
    for what, unit, share in history:
        match what:
            case "lead":
                cluster.leader = unit
            case "ask":
                cluster.ask(share, f"/s{share}")
            case "leave":
                cluster.requests.pop(share, None)
                cluster.answers.pop(share, None)
            case _:
                cluster.hook(unit, is_killed=what == "killed")
    for number in 1, 2, 3:
        cluster.ask(number, f"/s{number}")
    cluster.settle()
    assert set(cluster.serving()) == {"/s1", "/s2", "/s3"}
    for number, answer in cluster.answers.items():
        name = f"/s{number}"
        assert answer["endpoint"] == endpoint(cluster.serving()[name], name)
        assert "error" not in answer
    for machine in cluster.machines.values():
        made = [it for it in machine.changes if it.endswith(" made")]
        deleted = [it for it in machine.changes if it.endswith(" deleted")]
        assert len(machine.on_storage) == len(made) - len(deleted)
    assert sum(len(it.on_storage) for it in cluster.machines.values()) == 3
    assert all(it == ops.ActiveStatus() for it in cluster.status.values())


_deletions = st.tuples(
    st.sampled_from(
        ["hook", "killed", "lead", "ask", "leave", "delete-share", "restore-share", "purge-share"]
    ),
    st.integers(0, 1),
    st.integers(1, 2),
    st.booleans(),
)


@settings(max_examples=25)
@given(st.lists(_deletions, max_size=14))
def test_any_history_of_deletions(
    monkeypatch: pytest.MonkeyPatch, history: list[tuple[str, int, int, bool]]
):
    cluster = Cluster(monkeypatch)
    served: set[str] = set()
    purged: set[str] = set()
    for what, unit, share, is_killed in history:
        name, machine = f"/s{share}", cluster.machines[unit]
        match what:
            case "lead":
                cluster.leader = unit
            case "ask":
                cluster.ask(share, name)
                cluster.settle()
            case "leave":
                cluster.requests.pop(share, None)
                cluster.answers.pop(share, None)
                cluster.hook(cluster.leader)
            case "hook" | "killed":
                cluster.hook(unit, is_killed=what == "killed")
            case action:
                kept = machine.deleted.get(name)
                params = {"share": name} | ({} if what == "restore-share" else {"confirm": name})
                with contextlib.suppress(testing.ActionFailed):
                    cluster.hook(unit, action=action, is_killed=is_killed, **params)
                if what == "purge-share" and kept and name not in machine.deleted:
                    purged.add(kept.image.uuid)
        served |= {
            it.on_storage[name].uuid for it in cluster.machines.values() for name in it.exported
        }
    for number in 1, 2:
        cluster.ask(number, f"/s{number}")
    cluster.settle()
    there = [
        image.uuid
        for it in cluster.machines.values()
        for image in (*it.on_storage.values(), *(kept.image for kept in it.deleted.values()))
    ]
    assert served - purged <= set(there)
    assert not purged & set(there)
    kept = {name: n for n, it in cluster.machines.items() for name in it.deleted}
    for number in 1, 2:
        name, answer = f"/s{number}", cluster.answers[number]
        if name in kept:
            said = KEPT.replace("/b", name).replace("server/1", f"server/{kept[name]}")
            assert answer == {"error": said}
        else:
            assert answer["endpoint"] == endpoint(cluster.serving()[name], name)
            assert "error" not in answer
    assert all(not it.decided.keys() - served for it in cluster.machines.values())
    assert all(it == ops.ActiveStatus() for it in cluster.status.values())

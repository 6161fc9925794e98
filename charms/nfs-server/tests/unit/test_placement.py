# SPDX-License-Identifier: Apache-2.0
"""Which unit has which share: the rules as tables, and several units as a model of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import placement
from charms.storage_libs.v0.nfs_interfaces import Endpoint, Share, ShareRequest, parse_allowlist
from placement import Answer, Decision, Placement, Report, ShareReport
from shares import Wanted, share_directory

A, B, C = "nfs-server/0", "nfs-server/1", "nfs-server/10"
PATH = str(share_directory("/data"))
NETWORKS = parse_allowlist("10.0.0.1")
NOT_HERE = "share /data: its image is not here; attach the storage that holds it"


def request(
    integration_id: int = 1, name: str = "/data", size: int | None = 10, error: str = ""
) -> ShareRequest:
    return ShareRequest(integration_id, f"app{integration_id}", name, size, (), NETWORKS, error)


def report(free: int = 50, **shares: ShareReport) -> Report:
    return Report(free, {f"/{name}": share for name, share in shares.items()})


def decide(
    before: Mapping[str, Placement], reports: Mapping[str, Report], **sizes: int | None
) -> Decision:
    wanted = {f"/{name}": Wanted(size) for name, size in sizes.items()}
    before = placement.without_deleted(before, reports)
    return placement.decide(before, {n: Wanted(0) for n in before} | wanted, reports)


def place(reports: Mapping[str, Report], **sizes: int | None) -> dict[str, str]:
    """Where new shares go."""
    return {name: it.owner for name, it in decide({}, reports, **sizes).placements.items()}


HERE = ShareReport("u1", 10)


@pytest.mark.parametrize(
    ("free", "owner"),
    [
        pytest.param({A: 50, B: 60}, B, id="most room"),
        pytest.param({A: 50, B: 50}, A, id="lowest of equals"),
        pytest.param({C: 50, B: 50}, B, id="lowest by number, not by letter"),
        pytest.param({A: 10, B: 9}, A, id="fits exactly"),
    ],
)
def test_new_share_is_placed(free: dict[str, int], owner: str):
    assert place({unit: report(it) for unit, it in free.items()}, data=10) == {"/data": owner}


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        (51, "share /data: 51G asked, 50G free"),
        (10**12, "share /data: 1000000000000G asked, 50G free"),
    ],
)
def test_what_fits_nowhere_is_refused(size: int, reason: str):
    reports = {A: report(40), B: report(50)}
    assert decide({}, reports, data=size) == Decision({}, {"/data": reason})
    by_hand = Placement(by_hand=True, size=size)
    made = decide({"/data": by_hand}, reports, data=size)
    assert made == Decision({"/data": by_hand}, {"/data": reason})


def test_no_limit_needs_a_first_gib():
    assert place({A: report(1)}, data=None) == {"/data": A}
    refused = decide({}, {A: report(0)}, data=None)
    assert refused.refusals == {"/data": "share /data: no limit asked, 0G free"}


def test_room_is_promised_once():
    reports = {A: report(50), B: report(45)}
    assert place(reports, a=20, b=20, c=20, d=20) == {"/a": A, "/b": B, "/c": A, "/d": B}
    assert "/c" not in decide({}, {A: report(50)}, a=30, b=10, c=20).placements


def test_growth_takes_room_from_what_comes_after():
    before = {"/old": Placement(A, "u1")}
    made = decide(before, {A: report(50, old=HERE)}, old=50, new=20)
    assert made.refusals == {"/new": "share /new: 20G asked, 10G free"}
    # One that can't be had takes none.
    made = decide(before, {A: report(50, old=HERE)}, old=500, new=20)
    assert made.placements["/new"].owner == A


def test_a_lost_share_takes_no_room():
    made = decide({"/lost": Placement(A, "u1")}, {A: report(50)}, lost=40, new=50)
    assert made.placements["/new"].owner == A


def test_request_with_an_error_is_placed_nowhere():
    shares = placement.wanted([request(error="size 'ten'")], {})
    assert placement.decide({}, shares, {A: report()}) == Decision({}, {})


@pytest.mark.parametrize(
    ("before", "reports", "after"),
    [
        pytest.param(
            Placement(A), {A: report(), B: report(99)}, Placement(A), id="not made, has room"
        ),
        pytest.param(
            Placement(A), {A: report(5), B: report()}, Placement(B), id="not made, no room"
        ),
        pytest.param(Placement(A), {B: report()}, Placement(B), id="not made, unit gone"),
        pytest.param(Placement(A), {A: report(data=HERE)}, Placement(A, "u1"), id="made"),
        pytest.param(
            Placement(A),
            {A: report(), B: report(data=HERE)},
            Placement(B, "u1"),
            id="not made, data of that name elsewhere",
        ),
        pytest.param(
            Placement(A),
            {A: report(data=HERE), B: report(data=ShareReport("u2", 10))},
            Placement(A, "u1"),
            id="made here and there",
        ),
        pytest.param(
            Placement(A, "u1"),
            {A: report(0, data=HERE), B: report(99)},
            Placement(A, "u1"),
            id="stays, whatever room there is",
        ),
        pytest.param(
            Placement(A, "u1"), {B: report(99)}, Placement(A, "u1"), id="gone: never anew"
        ),
        pytest.param(
            Placement(A, "u1"),
            {A: report(99), B: report(99)},
            Placement(A, "u1"),
            id="lost: never anew",
        ),
        pytest.param(
            Placement(A, "u1"),
            {A: report(), B: report(data=ShareReport("u2", 10))},
            Placement(A, "u1"),
            id="another image of that name",
        ),
        pytest.param(
            Placement(A, "u1"),
            {A: report(), B: report(data=HERE)},
            Placement(B, "u1"),
            id="its storage moved",
        ),
        pytest.param(
            Placement(A, "u1"), {B: report(data=HERE)}, Placement(B, "u1"), id="came back"
        ),
        pytest.param(
            Placement(B, "u1"),
            {A: report(data=HERE), B: report(data=HERE)},
            Placement(B, "u1"),
            id="a copy",
        ),
        pytest.param(
            None,
            {B: report(data=HERE), C: report(data=HERE)},
            Placement(B, "u1"),
            id="found without a placement",
        ),
        pytest.param(
            Placement(A, "u1"),
            {A: Report(5, deleted=("u1",)), B: report(9)},
            None,
            id="deleted, no room anew",
        ),
        pytest.param(
            Placement(A, "u1"),
            {A: Report(50, deleted=("u1",))},
            Placement(A),
            id="deleted and asked for",
        ),
        pytest.param(
            Placement(A, "u1"), {A: Report(50, deleted=("u2",))}, Placement(A, "u1"), id="not it"
        ),
    ],
)
def test_placement_follows_the_image(
    before: Placement | None, reports: dict[str, Report], after: Placement | None
):
    made = decide({"/data": before} if before else {}, reports, data=10)
    assert made.placements.get("/data") == after


def test_what_nobody_wants_and_was_not_made_is_dropped():
    assert decide({"/data": Placement(A)}, {A: report()}).placements == {}
    kept = {"/data": Placement(A, by_hand=True, size=5)}
    assert decide(kept, {A: report()}, data=5).placements == kept


def test_wanted_is_of_all_that_ask_and_by_hand():
    by_hand = {
        "/data": Placement(A, size=20, grants=parse_allowlist("10.9.0.0/16")),
        "/kept": Placement(A, "u"),
        "/hand": Placement(A, by_hand=True, size=None),
    }
    requests = [request(3, "/z"), request(2), request(1, "/data", 5), request(4, "/z", None, "no")]
    found = placement.wanted(requests, by_hand)
    assert list(found) == ["/data", "/z", "/hand", "/kept"]
    assert found["/data"] == Wanted(20, (ip_network("10.0.0.1/32"), ip_network("10.9.0.0/16")))
    assert found["/z"] == Wanted(10, NETWORKS)
    assert (found["/hand"].size, found["/kept"]) == (None, Wanted(0))


def test_a_slip_in_the_name_keeps_the_share():
    told = {1: Share(1, Endpoint("h", PATH), 10), 2: Share(2), 3: Share(3, Endpoint("h", "/x"))}
    slipped = [request(1, "", error="share name"), request(2, ""), request(3, "")]
    noted = placement.note_slips({"/data": Placement(A, "u1")}, slipped, told)
    assert noted == {"/data": Placement(A, "u1", slips=(1,))}
    names = [it.name for it in placement.with_names(slipped, noted)]
    assert names == ["/data", "", ""]
    right = [request(1), request(2), request(3)]
    assert placement.note_slips(noted, right, told) == {"/data": Placement(A, "u1")}


ENDPOINT = Endpoint("10.0.0.9", PATH)
SERVED = ShareReport("u1", 10, networks=NETWORKS)
MADE = Placement(B, "u1")


@pytest.mark.parametrize(
    ("asked", "placed", "there", "told", "answer"),
    [
        pytest.param(request(), MADE, SERVED, None, (ENDPOINT, 10, ""), id="granted"),
        pytest.param(request(), Placement(B), None, None, (None, None, ""), id="not made yet"),
        pytest.param(
            request(),
            MADE,
            replace(SERVED, error="share /data: not mounted", networks=()),
            None,
            (None, 10, "share /data: not mounted"),
            id="not mounted",
        ),
        pytest.param(
            request(),
            MADE,
            replace(SERVED, error="share /data: not mounted", networks=()),
            Share(1, ENDPOINT, 10),
            (ENDPOINT, 10, "share /data: not mounted"),
            id="not mounted any more",
        ),
        pytest.param(
            request(), MADE, None, Share(1, ENDPOINT, 10), (ENDPOINT, 10, NOT_HERE), id="lost"
        ),
        pytest.param(request(), MADE, None, None, (None, None, NOT_HERE), id="lost, asked anew"),
        pytest.param(
            request(),
            Placement("nfs-server/7", "u1"),
            None,
            Share(1, ENDPOINT, 10),
            (ENDPOINT, 10, "share /data was on nfs-server/7, which is gone"),
            id="gone",
        ),
        pytest.param(
            request(), None, None, Share(1, ENDPOINT, 10), (None, None, ""), id="forgotten"
        ),
        pytest.param(
            request(1, "/logs"), MADE, SERVED, Share(1, ENDPOINT, 10), (None, None, ""), id="other"
        ),
        pytest.param(
            request(size=5),
            MADE,
            SERVED,
            Share(1, ENDPOINT, 10),
            (ENDPOINT, 10, "share /data: 5G asked, it has 10G; a share never shrinks"),
            id="shrink",
        ),
        pytest.param(
            request(size=5),
            MADE,
            replace(SERVED, size=None),
            Share(1, ENDPOINT, None),
            (ENDPOINT, None, "share /data: 5G asked, it has no limit; a share never shrinks"),
            id="limit put on",
        ),
        pytest.param(
            request(size=5), MADE, SERVED, None, (ENDPOINT, 5, ""), id="another asked for more"
        ),
        pytest.param(
            request(size=5),
            MADE,
            SERVED,
            Share(1, ENDPOINT, 5),
            (ENDPOINT, 5, ""),
            id="another that asked for more has left",
        ),
        pytest.param(
            request(size=20),
            MADE,
            replace(SERVED, error="share /data: 20G asked, 5G free"),
            Share(1, ENDPOINT, 10),
            (ENDPOINT, 10, "share /data: 20G asked, 5G free"),
            id="growth refused",
        ),
        pytest.param(
            request(size=None, error="size 'ten'"),
            MADE,
            SERVED,
            Share(1, ENDPOINT, 10),
            (ENDPOINT, 10, "size 'ten'"),
            id="error in the request",
        ),
    ],
)
def test_answer(
    asked: ShareRequest,
    placed: Placement | None,
    there: ShareReport | None,
    told: Share | None,
    answer: tuple[Endpoint | None, int | None, str],
):
    endpoint, size, error = answer
    reports = {B: Report(shares={"/data": there} if there else {}, addresses={1: "10.0.0.9"})}
    decision = Decision({"/data": placed} if placed else {}, {})
    made = placement.answer(asked, decision, reports, told or Share(1))
    admitted = there.networks if there and placed and asked.name == "/data" else ()
    assert made == Answer(endpoint, size, error, admitted)


def test_answer_says_why_it_is_nowhere():
    made = placement.answer(request(), Decision({}, {"/data": "no room"}), {}, Share(1))
    assert made == Answer(error="no room")


def test_strays():
    reports = {A: report(data=HERE, x=HERE), B: report(data=ShareReport("u2", 1), y=ShareReport())}
    found = placement.strays({"/data": Placement(B, "u2"), "/x": Placement(A)}, reports)
    assert found == {A: ["/data"], B: []}


# A model of several units: what each sees may be old, and hooks may be lost.


@dataclass
class ModelUnit:
    """A unit: the images on its storage, what it exports, what it has said."""

    images: dict[str, str] = field(default_factory=dict[str, str])
    exported: set[str] = field(default_factory=set[str])
    said: Report = field(default_factory=Report)


class Cluster:
    """Units, the requests that all see, and what the leader has committed."""

    def __init__(self, count: int):
        self.units = {f"nfs-server/{n}": ModelUnit() for n in range(count)}
        self.leader = "nfs-server/0"
        self.requests: list[ShareRequest] = []
        self.committed: dict[str, Placement] = {}
        self.next_uuid = 0
        self.formatted: set[str] = set()
        """Names that were exported once: none may ever be made again."""

    def hook(self, name: str, *, is_killed: bool = False) -> None:
        """Run a hook of a unit; if it is killed, what it did stays and what it said is lost."""
        unit = self.units[name]
        decided = self._decided(unit) if name == self.leader else self.committed
        for share, it in decided.items():
            if it.owner == name and not it.uuid and share not in unit.images:
                assert share not in self.formatted, f"{share} made anew"
                self.next_uuid += 1
                unit.images[share] = f"u{self.next_uuid}"
        # As World.exports: what the leader has committed, or it alone could have decided.
        alone = len(self.units) == 1
        sure = self._decided(unit) if name == self.leader and alone else self.committed
        unit.exported = {
            share
            for share, uuid in unit.images.items()
            if (it := sure.get(share)) and (it.owner, it.uuid) == (name, uuid)
        }
        self.formatted |= unit.exported
        if is_killed:
            return
        if name == self.leader:
            self.committed = self._decided(unit)
        unit.said = self._report(unit)

    def _decided(self, unit: ModelUnit) -> dict[str, Placement]:
        reports = {name: it.said for name, it in self.units.items()}
        reports[self.leader] = self._report(unit)
        shares = placement.wanted(self.requests, self.committed)
        return dict(placement.decide(self.committed, shares, reports).placements)

    def _report(self, unit: ModelUnit) -> Report:
        shares = {name: ShareReport(uuid, 10) for name, uuid in unit.images.items()}
        return Report(50 - 10 * len(shares), shares)

    def check(self) -> None:
        exported = [share for unit in self.units.values() for share in unit.exported]
        assert len(exported) == len(set(exported)), "one share on two units"

    def settle(self) -> None:
        for _ in range(4):
            for name in self.units:
                self.hook(name)
                self.check()


_hooks = st.tuples(
    st.sampled_from(["hook", "hook", "hook", "killed", "leader", "ask", "leave", "move"]),
    st.integers(0, 2),
    st.integers(0, 5),
)


@settings(max_examples=300)
@given(st.integers(1, 3), st.lists(_hooks, max_size=40))
def test_any_history_of_several_units(count: int, history: list[tuple[str, int, int]]):
    cluster = Cluster(count)
    for what, number, share in history:
        unit = f"nfs-server/{number % count}"
        match what:
            case "leader":
                cluster.leader = unit
            case "ask":
                if share not in [it.integration_id for it in cluster.requests]:
                    cluster.requests.append(request(share, f"/s{share}"))
            case "leave":
                cluster.requests = [it for it in cluster.requests if it.integration_id != share]
            case "move":  # Storage is detached, which its hook reports, and attached elsewhere.
                source, target = cluster.units[unit], cluster.units["nfs-server/0"]
                if source is not target and not source.images.keys() & target.images.keys():
                    target.images |= source.images
                    source.images, source.exported, source.said = {}, set(), Report()
            case _:
                cluster.hook(unit, is_killed=what == "killed")
        cluster.check()
    cluster.settle()
    before = dict(cluster.committed), [set(it.exported) for it in cluster.units.values()]
    cluster.settle()
    assert before == (cluster.committed, [it.exported for it in cluster.units.values()])
    held = [(name, it.uuid) for name, it in cluster.committed.items() if it.uuid]
    for name, uuid in held:
        assert cluster.units[cluster.committed[name].owner].images[name] == uuid
    wanted = {it.name for it in cluster.requests}
    assert wanted <= cluster.committed.keys() or sum(
        len(it.images) for it in cluster.units.values()
    ) >= 5 * count - len(wanted)


@given(st.permutations(range(6)), st.permutations([A, B, C]))
def test_same_facts_same_owners(order: list[int], units: list[str]):
    requests = [request(n, f"/s{n}", n + 1) for n in range(6)]
    reports = {unit: report(10 + len(unit)) for unit in [A, B, C]}
    expected = placement.decide({}, placement.wanted(requests, {}), reports)
    shuffled = placement.wanted([requests[n] for n in order], {})
    assert placement.decide({}, shuffled, {u: reports[u] for u in units}) == expected

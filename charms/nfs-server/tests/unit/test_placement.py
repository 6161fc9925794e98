# SPDX-License-Identifier: Apache-2.0
"""Which unit has which share, whose it is and what each is told; several units as a model."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import exports
import placement
import plan
from charms.storage_libs.v0.nfs_interfaces import (
    ANYONE,
    NO_LIMIT,
    UNKNOWN,
    UNSAID,
    Endpoint,
    Network,
    Permissions,
    Size,
    is_in,
    parse_allowlist,
)
from placement import Decision, Snapshot
from values import (
    GIB,
    Answer,
    DeletedReport,
    Found,
    Image,
    Placement,
    Report,
    Request,
    Restored,
    ShareReport,
    Storage,
    Wanted,
    share_directory,
    share_name_of,
)

A, B, C = "nfs-server/0", "nfs-server/1", "nfs-server/10"
PATH = str(share_directory("/data"))
NETWORKS = parse_allowlist("10.0.0.1")
NOT_HERE = "share /data: its image is not here; attach the storage that holds it"
REMOTE, OTHER_REMOTE = f"remote-{'a' * 32}", f"remote-{'b' * 32}"
MODEL, OTHER_MODEL = (
    "0b5bd56d-6b2f-4ba1-bd3c-7a7f1e6c0e0a",
    "1b5bd56d-6b2f-4ba1-bd3c-7a7f1e6c0e0b",
)


def request(
    integration_id: int = 1,
    share: str = "/data",
    size: int | None = 10,
    error: str = "",
    *,
    application: str = "",
    allowlist: str = "",
    clients: str = "10.0.0.1",
    access: str = "",
    permissions: Permissions = UNSAID,
) -> Request:
    return Request(
        integration_id,
        application or f"app{integration_id}",
        share,
        Size.of(size),
        parse_allowlist(allowlist),
        parse_allowlist(clients),
        error,
        permissions=replace(permissions, access=access),
    )


def report(free: int = 50, **shares: ShareReport) -> Report:
    return Report(free, shares={f"/{name}": share for name, share in shares.items()})


def decide(
    before: Mapping[str, Placement], reports: Mapping[str, Report], **sizes: int | None
) -> Decision:
    wanted = {f"/{name}": Wanted(Size.of(size)) for name, size in sizes.items()}
    before = placement.without_deleted(before, reports)
    return placement.decide(before, {n: Wanted(UNKNOWN) for n in before} | wanted, reports)


def place(reports: Mapping[str, Report], **sizes: int | None) -> dict[str, str]:
    """Where new shares go."""
    return {name: it.unit for name, it in decide({}, reports, **sizes).placements.items()}


HERE = ShareReport("u1", Size(10))
THERE = ShareReport("u2", Size(10))


# Where a share is.


@pytest.mark.parametrize(
    ("free", "unit"),
    [
        pytest.param({A: 50, B: 60}, B, id="most room"),
        pytest.param({A: 50, B: 50}, A, id="lowest of equals"),
        pytest.param({C: 50, B: 50}, B, id="lowest by number, not by letter"),
        pytest.param({A: 10, B: 9}, A, id="fits exactly"),
    ],
)
def test_new_share_is_placed(free: dict[str, int], unit: str):
    assert place({name: report(it) for name, it in free.items()}, data=10) == {"/data": unit}


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        (51, "share /data: 51G requested, 50G free"),
        (10**12, "share /data: 1000000000000G requested, 50G free"),
    ],
)
def test_what_fits_nowhere_is_refused(size: int, reason: str):
    reports = {A: report(40), B: report(50)}
    assert decide({}, reports, data=size) == Decision({}, {"/data": reason})
    manual = Placement(is_manual=True, size=Size(size))
    made = decide({"/data": manual}, reports, data=size)
    assert made == Decision({"/data": manual}, {"/data": reason})


def test_no_limit_needs_a_first_gib():
    assert place({A: report(1)}, data=None) == {"/data": A}
    refused = decide({}, {A: report(0)}, data=None)
    assert refused.refusals == {"/data": "share /data: no limit requested, 0G free"}


def test_room_is_promised_once():
    reports = {A: report(50), B: report(45)}
    assert place(reports, a=20, b=20, c=20, d=20) == {"/a": A, "/b": B, "/c": A, "/d": B}
    assert "/c" not in decide({}, {A: report(50)}, a=30, b=10, c=20).placements


def test_growth_takes_room_from_what_comes_after():
    before = {"/old": Placement(A, "u1")}
    made = decide(before, {A: report(50, old=HERE)}, old=50, new=20)
    assert made.refusals == {"/new": "share /new: 20G requested, 10G free"}
    # One that can't be had takes none.
    made = decide(before, {A: report(50, old=HERE)}, old=500, new=20)
    assert made.placements["/new"].unit == A


def test_a_lost_share_takes_no_room():
    said = report(50, lost=ShareReport())
    made = decide({"/lost": Placement(A, "u1")}, {A: said}, lost=40, new=50)
    assert made.placements["/new"].unit == A


def test_what_is_not_heard_of_yet_takes_its_room():
    made = decide({"/there": Placement(A, "u1")}, {A: report(50)}, there=40, new=50)
    assert "/new" not in made.placements


def test_no_share_is_placed_on_a_unit_that_serves_nothing():
    unable = replace(report(50), is_unable=True)
    for before in {}, {"/data": Placement(A)}:
        made = decide(before, {A: unable, B: report(10)}, data=10)
        assert made == Decision({"/data": Placement(B)}, {})
        # Where there is no other, the client waits.
        assert decide(before, {A: unable}, data=10) == Decision({}, {})
    there = {A: replace(unable, shares={"/data": HERE}), B: report(10)}
    assert decide({}, there, data=10).placements == {"/data": Placement(A, "u1")}


def test_a_share_that_was_deleted_is_not_placed_again():
    reports = {A: report(), B: report(data=HERE)}
    assert placement.decide({}, {}, reports, gone=["u1"]).placements == {}
    wanted = {"/data": Wanted(Size(10))}
    # Whoever speaks of it has more to say: whether it keeps that.
    assert placement.decide({}, wanted, reports, gone=["u1"]) == Decision({})
    made = placement.decide({}, wanted, {**reports, B: report()}, gone=["u1"]).placements
    assert made == {"/data": Placement(A)}
    before, after = {"/data": Placement(B, "u1"), "/b": Placement(A, "u3")}, {}
    assert placement.note_gone(["u0"], before, after) == ("u0", "u1", "u3")
    assert len(placement.note_gone([str(n) for n in range(200)], before, after)) == 100


KEPT = {"/data": DeletedReport("u1", Size(10), "2026-12-05", "d1")}
TAKEN = f"share /data: deleted, and kept on {B}: run restore-share or purge-share there"


def test_a_deleted_share_that_is_kept_has_its_name():
    reports = {A: report(), B: replace(report(), restorable=KEPT)}
    wanted = {"/data": Wanted(Size(10)), "/other": Wanted(Size(10))}
    made = placement.decide({}, wanted, reports, gone=["u1"])
    assert made.refusals == {"/data": TAKEN}
    assert list(made.placements) == ["/other"]
    manual = {"/data": Placement(is_manual=True, size=Size(10))}
    assert placement.decide(manual, wanted, reports).refusals == {"/data": TAKEN}
    # What has its place already keeps it: the deleted one came later, with its storage.
    for there in Placement(A), Placement(A, "u2"):
        made = placement.decide({"/data": there}, wanted, reports)
        assert made.placements["/data"] == there
        assert made.refusals == {}


def test_room_that_deleted_shares_have_is_told():
    reports = {A: report(5), B: replace(report(5), restorable=KEPT)}
    made = placement.decide({}, {"/new": Wanted(Size(10))}, reports)
    assert made.refusals == {
        "/new": "share /new: 10G requested, 5G free; purge-share makes room: see list-shares"
    }


PLACED = Placement(
    A, "u0", "app1", is_manual=True, size=Size(7), grants=parse_allowlist("10.0.0.9")
)
TAKEN_BACK = {"/data": Restored("u1", "d1", PLACED)}


def test_a_share_that_was_restored_is_placed_as_it_was():
    said = replace(report(data=HERE), restored=TAKEN_BACK)
    after, gone = placement.take_back({}, {A: report(), B: said}, ["u0", "u1"])
    assert after == {"/data": replace(PLACED, unit=B, uuid="u1", restored="d1")}
    assert gone == ("u0", "d1")
    # Once: what the unit said then it may be heard to say after the next deletion.
    assert placement.take_back({}, {B: said}, [*gone, "u1"]) == ({}, (*gone, "u1"))
    # Who asks for it meanwhile has it.
    asked = {"/data": Placement(application="app2")}
    assert placement.take_back(asked, {B: said}, ["u1"])[0]["/data"].uuid == "u1"


@pytest.mark.parametrize(
    ("before", "said", "gone"),
    [
        pytest.param(Placement(A, "u2"), report(data=HERE), ["u1"], id="another has its name"),
        pytest.param(Placement(), report(data=ShareReport("u3")), ["u1"], id="another image"),
        pytest.param(Placement(), report(), ["u1"], id="no image"),
    ],
)
def test_what_is_not_taken_back(before: Placement, said: Report, gone: list[str]):
    placements = {"/data": before} if before.uuid else {}
    said = replace(said, restored=TAKEN_BACK)
    assert placement.take_back(placements, {B: said}, gone) == (placements, tuple(gone))


def test_a_deletion_that_nobody_missed_is_taken_back_too():
    said = replace(report(data=HERE), restored=TAKEN_BACK)
    after, gone = placement.take_back({"/data": Placement(B, "u1", "app2")}, {B: said}, ["u0"])
    assert after == {"/data": Placement(B, "u1", "app2", restored="d1")}
    assert gone == ("u0", "d1")
    # Once, too.
    assert placement.take_back({}, {B: said}, [*gone, "u1"]) == ({}, (*gone, "u1"))


def test_a_share_is_as_it_was_however_long_ago_it_was_deleted():
    """What was deleted is forgotten after a hundred more; or it comes with its storage."""
    said = replace(report(data=HERE), restored=TAKEN_BACK)
    after, gone = placement.take_back({}, {B: said}, ["u0"])
    assert after == {"/data": replace(PLACED, unit=B, uuid="u1", restored="d1")}
    assert gone == ("u0", "d1")


def test_a_deletion_that_was_taken_back_is_none():
    """Who was away meanwhile, and leads now, hears of it first as it was before."""
    there = {"/data": Placement(B, "u1", restored="d1")}
    said = replace(report(), deleted=("u1",), restorable=KEPT)
    assert placement.without_deleted(there, {B: said}) == there
    again = {"/data": replace(KEPT["/data"], deletion="d2")}
    assert placement.without_deleted(there, {B: replace(said, restorable=again)}) == {}
    assert placement.without_deleted(there, {B: replace(said, restorable={})}) == {}
    before = {"/data": Placement(B, "u1")}
    nameless = {"/data": replace(KEPT["/data"], deletion="")}
    for kept in KEPT, nameless:
        assert placement.without_deleted(before, {B: replace(said, restorable=kept)}) == {}


def test_request_with_an_error_is_placed_nowhere():
    shares = placement.wanted([request(size=0, error="size 'ten'")], {})
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
            {A: report(data=HERE), B: report(data=THERE)},
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
            {A: report(), B: report(data=THERE)},
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
    kept = {"/data": Placement(A, is_manual=True, size=Size(5))}
    assert decide(kept, {A: report()}, data=5).placements == kept


def test_the_root_disk_takes_no_share_without_a_limit():
    on_root, disk = Report(90, is_on_root=True), report(20)
    assert place({A: on_root, B: disk}, data=None) == {"/data": B}
    assert place({A: on_root, B: disk}, data=30) == {"/data": A}
    reason = (
        "share /data: no limit requested, but the shares are on the root disk: request a size, or"
        " give nfs-server a storage"
    )
    assert decide({}, {A: on_root}, data=None) == Decision({}, {"/data": reason})
    # It has what another storage could give it, and that is full.
    full = decide({}, {A: on_root, B: report(0)}, data=None)
    assert full.refusals == {"/data": "share /data: no limit requested, 90G free"}


def test_no_limit_takes_all_room():
    assert place({A: report(50)}, a=None, b=1) == {"/a": A}
    assert place({A: report(50), B: report(9)}, a=None, b=1) == {"/a": A, "/b": B}
    growing = decide({"/old": Placement(A, "u1")}, {A: report(old=HERE)}, old=None, new=1)
    assert list(growing.placements) == ["/old"]


def test_no_limit_that_is_refused_takes_none():
    on_root = replace(report(50, old=HERE), is_on_root=True)
    made = decide({"/old": Placement(A, "u1")}, {A: on_root}, old=None, new=20)
    assert made.placements["/new"].unit == A


# Whose a share is.


def test_it_is_whose_request_came_first():
    requests = [request(7), request(3), request(5)]
    assert placement.assign(requests, {}) == {"/data": Placement(application="app3")}


@pytest.mark.parametrize(
    ("before", "applications", "after"),
    [
        pytest.param("app9", [1, 9], "app9", id="it stays with that one, whatever its number"),
        pytest.param("app9", [1, 2], "app1", id="which has left"),
        pytest.param("app9", [], "app9", id="nobody asks"),
        pytest.param("", [2, 1], "app1", id="as an older revision left it"),
    ],
)
def test_it_stays(before: str, applications: list[int], after: str):
    placed = {"/data": Placement(A, "u1", before)}
    made = placement.assign([request(it) for it in applications], placed)
    assert made == {"/data": Placement(A, "u1", after)}


def test_the_default_size_takes_no_limit_away_that_another_set():
    """The default is no limit; that an application inherits a share is nobody's word for it."""
    placed = {"/data": Placement(A, "u1", "app9")}
    for size, wanted in (NO_LIMIT, UNKNOWN), (Size(20), Size(20)), (NO_LIMIT, NO_LIMIT):
        asked = [replace(request(1), size=size)]
        placed = placement.assign(asked, placed)
        assert placed["/data"].application == "app1"
        assert placement.wanted(asked, placed)["/data"].size == wanted
    # Of what isn't made yet nobody set one.
    placed = placement.assign([replace(request(1), size=NO_LIMIT)], {"/data": Placement(A)})
    assert not placed["/data"].is_inherited


def test_what_an_operator_made_stays_the_operators():
    made = {"/data": Placement(A, "u1", is_manual=True)}
    assert placement.assign([request()], made) == made
    # What an application has stays its own, though an operator created it too.
    both = {"/data": Placement(A, "u1", "app2", is_manual=True)}
    assert placement.assign([request(1), request(2)], both) == both


def test_who_names_nothing_gets_nothing():
    assert placement.assign([request(share="")], {}) == {}
    assert placement.wanted([request(share="")], {}) == {}


# What a share is to be.


def test_what_is_wanted_in_the_order_in_which_it_gets_room():
    placements = {
        "/data": Placement(A, "", "app1", size=Size(20), grants=parse_allowlist("10.9.0.0/16")),
        "/kept": Placement(A, "u"),
        "/hand": Placement(A, is_manual=True, size=NO_LIMIT),
        "/z": Placement(application="app3"),
    }
    requests = [request(3, "/z"), request(2), request(1, "/data", 5), request(4, "/z", 0, "no")]
    found = placement.wanted(requests, placements)
    granted = (*NETWORKS, ip_network("10.9.0.0/16"))
    assert found == {
        "/data": Wanted(Size(20), granted, granted, ("app1", "app2")),
        "/z": Wanted(Size(10), NETWORKS, NETWORKS, ("app3", "app4")),
        "/hand": Wanted(NO_LIMIT),
        "/kept": Wanted(UNKNOWN),
    }
    assert list(found) == ["/data", "/z", "/hand", "/kept"]


OWNED = {"/data": Placement(A, "u1", "app1")}
FIRST = request(1, allowlist="10.1.0.0/24")
WIDE = "0.0.0.0/0,10.0.0.0/7,2000::/3,128.0.0.0/1"


@pytest.mark.parametrize(
    "later",
    [
        pytest.param(request(2, allowlist="0.0.0.0/0"), id="opens it by its allowlist"),
        pytest.param(request(2, allowlist="10.7.0.1"), id="lets others in"),
        pytest.param(request(2, size=None), id="wants no limit"),
        pytest.param(request(2, size=1000), id="wants more than there is"),
        pytest.param(request(2, clients=WIDE), id="says that its units may be anywhere"),
        pytest.param(
            request(2, clients=",".join(f"{n}.0.0.0/8" for n in range(256))), id="in parts"
        ),
        pytest.param(request(2, size=0, error="size 'ten'"), id="can't be read"),
    ],
)
@pytest.mark.parametrize("owner", ["app1", ""])
def test_who_came_later_changes_nothing(later: Request, owner: str):
    placed = {"/data": Placement(A, "u1", owner, is_manual=not owner)}
    first = replace(FIRST, application=owner) if owner else None
    alone = [first] if first else []
    before = placement.wanted(alone, placed)["/data"]
    after = placement.wanted([*alone, later], placed)["/data"]
    assert after.size == before.size
    mine = ip_network("10.0.0.1/32")  # The address of the later one's unit.
    assert {*after.networks} <= {*before.networks, mine}
    assert after.applications == (*before.applications, "app2")


def test_whose_it_is_may_do_all_that():
    owner = request(1, size=None, allowlist="0.0.0.0/0", clients=WIDE)
    found = placement.wanted([owner, request(2)], OWNED)["/data"]
    assert (found.size, found.networks) == (NO_LIMIT, ANYONE)


@pytest.mark.parametrize(
    ("network", "is_admitted"),
    [
        ("10.0.0.0/8", True),
        ("10.0.0.0/7", False),
        ("fd00::/32", True),
        ("fd00::/31", False),
        ("10.0.0.7", True),
        ("::/0", False),
    ],
)
def test_addresses_that_a_unit_may_have(network: str, is_admitted: bool):
    found = placement.wanted([request(2, clients=network)], OWNED)["/data"]
    assert bool(found.networks) == is_admitted


_some_networks = st.lists(
    st.builds(
        lambda address, length: ip_network((address, min(length, address.max_prefixlen)), False),
        st.ip_addresses(),
        st.integers(0, 128),
    )
    | st.builds(
        lambda n, bits: ip_network(f"10.0.0.{n}/{bits}", False),
        st.integers(0, 255),
        st.integers(24, 32),
    )
    | st.sampled_from([*ANYONE, ip_network("10.0.0.0/8")]),
    max_size=8,
)


def _matches(networks: Iterable[Network], address: int, version: int) -> bool:
    return any(
        it.version == version and int(it.network_address) <= address <= int(it.broadcast_address)
        for it in networks
    )


@given(_some_networks)
def test_collapsed_networks_match_the_same_addresses(networks: list[Network]):
    after = placement.collapsed(networks)
    assert len(after) <= len(set(networks))
    # None is in another.
    assert all(not is_in(one, [it for it in after if it != one]) for one in after)
    # The ends of all, and the addresses beside them.
    for it in [*networks, *after]:
        for end in int(it.network_address), int(it.broadcast_address):
            for address in end - 1, end, end + 1:
                assert _matches(networks, address, it.version) == _matches(
                    after, address, it.version
                )


@given(
    st.permutations([request(n, clients=f"10.0.{n}.0/24") for n in range(1, 5)]), _some_networks
)
def test_guests_let_in_nobody_but_themselves(requests: list[Request], networks: list[Network]):
    guest = replace(request(9), clients=tuple(networks))
    for it in placement.wanted([*requests, guest], OWNED)["/data"].networks:
        is_theirs = it.version == 4 and is_in(it, [ip_network("10.0.0.0/16")])
        assert is_theirs or it.prefixlen >= {4: 8, 6: 32}[it.version]


# Who owns a share, and who may only read.

ASKED = Permissions("1000:1000", "0770", "root")
OTHER = Permissions("7:7", "0700", "all")


@pytest.mark.parametrize(
    ("requests", "before", "after"),
    [
        pytest.param([request(2, permissions=OTHER), request(1, permissions=ASKED)], {}, ASKED),
        pytest.param([request(1), request(2, permissions=OTHER)], {}, UNSAID, id="says nothing"),
        pytest.param(
            [request(1, permissions=OTHER), request(2, permissions=ASKED)],
            {"/data": Placement(A, "u1", "app2")},
            ASKED,
            id="stays with whose it is",
        ),
        pytest.param(
            [request(2, permissions=OTHER)],
            {"/data": Placement(A, "u1", "app1", permissions=ASKED)},
            OTHER,
            id="goes to the next",
        ),
        pytest.param(
            [request(1)],
            {"/data": Placement(A, "u1", "app1", permissions=ASKED)},
            UNSAID,
            id="is taken back",
        ),
        pytest.param(
            [request(1, error="mode 'rwx'"), request(2, permissions=OTHER)],
            {"/data": Placement(A, "u1", "app1", permissions=ASKED)},
            ASKED,
            id="can't be read, and stays",
        ),
        pytest.param(
            [request(1, permissions=OTHER)],
            {"/data": Placement(A, "u1", is_manual=True, permissions=ASKED)},
            ASKED,
            id="is the operator's",
        ),
    ],
)
def test_permissions_are_of_whose_it_is(
    requests: list[Request], before: dict[str, Placement], after: Permissions
):
    assert placement.assign(requests, before)["/data"].permissions == after


def test_access_is_each_applications_own():
    asked = [request(1, access="ro", permissions=ASKED), request(2, clients="10.0.0.2")]
    noted = placement.assign(asked, {})
    assert noted["/data"].permissions == ASKED
    assert noted["/data"].reading == (1,)
    found = placement.wanted(asked, noted)["/data"]
    assert found.networks == parse_allowlist("10.0.0.1,10.0.0.2")
    assert found.readers == parse_allowlist("10.0.0.1")
    # What can't be read is as it was, for one and for the other.
    slips = [replace(it, error="access 'r'", permissions=UNSAID) for it in asked]
    again = placement.assign(slips, noted)
    assert again == noted
    assert placement.wanted(slips, again)["/data"].readers == found.readers
    wrong = [request(1, error="size 'ten'")]
    assert placement.wanted(wrong, placement.assign(wrong, {}))["/data"].readers == ()
    # And what is taken back, is.
    writing = [request(1), request(2, clients="10.0.0.2")]
    assert placement.assign(writing, noted)["/data"].reading == ()
    assert placement.wanted(writing, noted)["/data"].readers == ()


def test_access_by_actions():
    readers = ("10.0.0.0/25", "10.5.0.1/32", REMOTE)
    placed = {
        "/data": Placement(
            A, "u1", grants=parse_allowlist("10.0.0.0/24,10.0.0.0/25,10.5.0.1"), guests=(REMOTE,),
            is_manual=True, readers=readers,
        )
    }  # fmt: skip
    asked = [request(1, application=REMOTE, clients="10.1.0.1")]
    found = placement.wanted(asked, placed)["/data"]
    assert found.networks == parse_allowlist("10.0.0.0/24,10.1.0.1,10.5.0.1")
    assert found.readers == parse_allowlist("10.1.0.1,10.5.0.1")
    assert found.own_networks == parse_allowlist("10.0.0.0/24,10.5.0.1")
    assert found.own_readers == parse_allowlist("10.5.0.1")
    # No word of the reader's own changes that, and none that can't be read.
    slip = [replace(asked[0], error="size 'ten'")]
    noted = placement.assign(slip, placed)
    assert placement.wanted(slip, noted)["/data"].readers == found.readers
    # It is the action's word, and goes with it.
    assert noted["/data"].reading == placement.assign(asked, placed)["/data"].reading == ()


@pytest.mark.parametrize(
    ("writers", "readers", "left"),
    [
        ("10.0.0.1", "10.0.0.1", ""),
        ("10.0.0.0/24", "10.0.0.1", ""),
        ("10.0.0.1", "10.0.0.0/30", "10.0.0.0,10.0.0.2/31"),
        ("10.0.0.0", "10.0.0.0/31", "10.0.0.1"),
        ("10.0.0.3", "10.0.0.0/30", "10.0.0.0/31,10.0.0.2"),
        ("10.0.0.1,10.0.0.2", "10.0.0.0/30", "10.0.0.0,10.0.0.3"),
        ("10.0.0.0/25,10.0.1.0/24", "10.0.0.0/23", "10.0.0.128/25"),
        ("::1", "10.0.0.1", "10.0.0.1"),
        ("10.0.0.1", "0.0.0.0/0", "0.0.0.0/0"),
        ("0.0.0.0/0", "10.0.0.1,fd00::1", ""),
        ("0.0.0.0/0", "::/0", ""),
        ("fd00::", "fd00::/127", "fd00::1"),
    ],
)
def test_an_address_has_one_right(writers: str, readers: str, left: str):
    asked = [request(1, clients=writers), request(2, clients=readers, access="ro")]
    # As whose it is: others must be few.
    asked = [replace(it, application="app1") for it in asked]
    found = placement.wanted(asked, {"/data": Placement(application="app1")})["/data"]
    assert found.readers == parse_allowlist(left)
    assert {*found.networks} == {*parse_allowlist(writers), *parse_allowlist(left)}


@given(_some_networks, _some_networks)
def test_rights_are_as_decided_whatever_overlaps(writers: list[Network], readers: list[Network]):
    """As mountd chooses: of what holds an address either, and `*` if nothing else does."""
    admitted = [(it, False) for it in writers] + [(it, True) for it in readers]
    networks, reading = placement.divide(admitted)
    assert {*reading} <= {*networks}
    lines = [exports.hosts(it for it in networks if it not in reading), exports.hosts(reading)]
    assert not {*lines[0]} & {*lines[1]}, "exportfs refuses a host that is said twice"
    plain = [it for it in networks if it.prefixlen]
    assert all(not is_in(one, [it for it in plain if it != one]) for one in plain)
    for it in [*writers, *readers]:
        for end in int(it.network_address), int(it.broadcast_address):
            for address in end - 1, end, end + 1:
                if not 0 <= address < 2**it.max_prefixlen:
                    continue
                right = _right(address, it.version, networks, reading)
                assert right == _granted(address, it.version, writers, readers)


def _right(
    address: int, version: int, networks: Collection[Network], reading: Collection[Network]
) -> str:
    """What an address may do by the lines that are exported."""
    holding = [it for it in networks if it.prefixlen and _matches([it], address, version)]
    assert len(holding) < 2
    anyone = [it for it in networks if not it.prefixlen]
    return "".join({"ro" if it in reading else "rw" for it in holding or anyone})


def _granted(
    address: int, version: int, writers: Collection[Network], readers: Collection[Network]
) -> str:
    """What an address may do by what was granted: anyone's network is of both versions."""
    for right, networks in ("rw", writers), ("ro", readers):
        if _matches(networks, address, version) or any(not it.prefixlen for it in networks):
            return right
    return ""


def test_parts_are_bounded_and_then_refused():
    """Addresses in a large network of IPv6 are a hundred parts each."""
    apart = [ip_network(f"2001:{n:x}::1") for n in range(1, 1000, 7)]
    admitted = [*((it, False) for it in apart), (ip_network("2000::/3"), True)]
    networks, reading = placement.divide(admitted)
    assert len(reading) == placement._MOST_PARTS > exports.MAX_ENTRIES
    assert len(networks) == len(reading) + len(apart)


# Names of other models.


def test_a_guest_has_the_share_that_an_action_gave_it():
    placements = {
        "data": Placement(A, "u1", "mysql", guests=(REMOTE,)),
        f"data@{MODEL}": Placement(A, "u2"),
    }
    its, others = f"data@{MODEL}", f"data@{OTHER_MODEL}"
    asked = (
        request(1, its, application=REMOTE),
        request(2, others, application=OTHER_REMOTE),
        request(3, f"logs@{MODEL}", application=REMOTE),
        request(4, "data", application="mysql"),
    )
    names = [it.share for it in placement.resolve(asked, placements)]
    assert names == ["data", others, f"logs@{MODEL}", "data"]


def test_a_guest_is_never_the_owner():
    placed = {"/data": Placement(A, "u1", "app1", guests=(REMOTE,))}
    asked = [request(2, application=REMOTE), request(3)]
    after = placement.assign(asked[:1], placed)
    assert after["/data"].application == "app1"
    assert placement.wanted(asked[:1], after)["/data"].own_networks == ()
    assert placement.assign(asked, after)["/data"].application == "app3"
    # But of an older revision, which did not note whose it is, somebody has to have it.
    older = {"/data": replace(placed["/data"], application="")}
    assert placement.assign(asked, older)["/data"].application == REMOTE
    # And one that came with its storage is nobody's until somebody else asks for it.
    found = {"/data": replace(older["/data"], knows_models=True)}
    assert placement.assign(asked[:1], found)["/data"].application == ""
    assert placement.assign(asked, found)["/data"].application == "app3"


def test_a_guest_may_have_another_models_share():
    placements = {f"data@{OTHER_MODEL}": Placement(A, "u1", guests=(REMOTE,))}
    asked = request(1, share_name_of(MODEL, f"data@{OTHER_MODEL}"), application=REMOTE)
    assert placement.resolve([asked], placements)[0].share == f"data@{OTHER_MODEL}"


_hostile_names = st.lists(
    st.sampled_from(["a", "data", "@", f"@{MODEL}", f"@{OTHER_MODEL}"]), min_size=1, max_size=4
).map("".join)


@given(_hostile_names, st.lists(_hostile_names, max_size=4), _hostile_names, st.booleans())
def test_no_name_reaches_another_models_share(
    requested: str, local: list[str], granted: str, is_guest: bool
):
    placements = {
        name: Placement(A, f"u{name}") for name in local if not name.endswith(f"@{MODEL}")
    }
    # The operator gave that one share to the other application, and perhaps one to this.
    placements[granted] = Placement(
        A, "ug", guests=(OTHER_REMOTE, REMOTE) if is_guest else (OTHER_REMOTE,)
    )
    asked = request(1, share_name_of(MODEL, requested), application=REMOTE)
    (found,) = placement.resolve([asked], placements)
    own = found.share == f"{requested}@{MODEL}"
    assert own or (is_guest and found.share == granted == requested)


def test_an_unreadable_name_keeps_the_share():
    answered = {
        1: Answer(Endpoint("h", PATH), Size(10)),
        2: Answer(),
        3: Answer(Endpoint("h", "/x")),
    }
    unreadable = [request(1, "", error="share name"), request(2, ""), request(3, "")]
    noted = placement.note_unreadable({"/data": Placement(A, "u1")}, unreadable, answered)
    assert noted == {"/data": Placement(A, "u1", unreadable=(1,))}
    names = [it.share for it in placement.resolve(unreadable, noted)]
    assert names == ["/data", "", ""]
    right = [request(1), request(2), request(3)]
    assert placement.note_unreadable(noted, right, answered) == {"/data": Placement(A, "u1")}


@pytest.mark.parametrize(
    "granted",
    [{"grants": parse_allowlist("10.9.0.1")}, {"guests": (REMOTE,), "readers": (REMOTE,)}],
)
def test_what_was_granted_waits_for_room(granted: dict[str, Any]):
    """Else who was let in would be left out, or have a share of its own, when it is made."""
    before = {"/data": Placement(A, application="app1", **granted)}
    assert decide(before, {B: report(free=5)}, data=10).placements == {
        "/data": replace(before["/data"], unit="")
    }
    # But not where nobody requests it whose it would be.
    assert decide(before, {B: report(free=5)}).placements == {}


# What is kept that another revision wrote.


def test_every_rule_keeps_what_it_does_not_know():
    extra = {"quota": 7}
    before = {"/data": Placement(A, extra=extra)}
    reports = {B: report(data=HERE)}
    after = placement.without_deleted(before, reports)
    after = placement.note_unreadable(after, [], {})
    after = placement.assign([request()], after)
    after = placement.decide(after, placement.wanted([request()], after), reports).placements
    assert after == {"/data": Placement(B, "u1", "app1", extra=extra)}


# What clients are told.

ENDPOINT = Endpoint("10.0.0.9", PATH)
SERVED = ShareReport("u1", Size(10), networks=NETWORKS)
MADE = Placement(B, "u1", "app1")
TOLD = Answer(ENDPOINT, Size(10))


def tell(
    asked: Request,
    placed: Placement | None = MADE,
    there: ShareReport | None = SERVED,
    answered: Answer | None = None,
    present: Collection[str] = (B,),
    refusal: str = "",
) -> Answer:
    reports = {B: Report(shares={"/data": there} if there else {}, addresses={1: "10.0.0.9"})}
    placements = {"/data": placed} if placed else {}
    refusals = {"/data": refusal} if refusal else {}
    read = Snapshot(A, placements=placements, refusals=refusals, reports=reports, present=present)
    return placement.answer(asked, read, answered or Answer())


BROKEN = replace(SERVED, error="share /data: not mounted", networks=())


@pytest.mark.parametrize(
    ("asked", "placed", "there", "answered", "answer"),
    [
        pytest.param(request(), MADE, SERVED, None, (ENDPOINT, Size(10), ""), id="granted"),
        pytest.param(request(), Placement(B), None, None, (None, UNKNOWN, ""), id="not made yet"),
        pytest.param(
            request(),
            Placement(B),
            ShareReport(refusal="share /data: no space left"),
            None,
            (None, UNKNOWN, "share /data: no space left"),
            id="could not be made",
        ),
        pytest.param(
            request(),
            MADE,
            BROKEN,
            None,
            (None, Size(10), "share /data: not mounted"),
            id="not mounted",
        ),
        pytest.param(
            request(),
            MADE,
            BROKEN,
            TOLD,
            (ENDPOINT, Size(10), "share /data: not mounted"),
            id="not mounted any more",
        ),
        pytest.param(
            request(), MADE, ShareReport(), TOLD, (ENDPOINT, Size(10), NOT_HERE), id="lost"
        ),
        pytest.param(
            request(),
            MADE,
            ShareReport(),
            None,
            (None, UNKNOWN, NOT_HERE),
            id="lost, requested anew",
        ),
        pytest.param(request(), MADE, None, TOLD, (ENDPOINT, Size(10), ""), id="not heard of"),
        pytest.param(
            request(),
            replace(MADE, unit="nfs-server/7"),
            None,
            TOLD,
            (ENDPOINT, Size(10), "share /data was on nfs-server/7, which is gone"),
            id="gone",
        ),
        pytest.param(request(), None, None, TOLD, (None, UNKNOWN, ""), id="forgotten"),
        pytest.param(
            request(), Placement(B, "", "app1"), None, TOLD, (None, UNKNOWN, ""), id="made anew"
        ),
        pytest.param(request(1, "/logs"), MADE, SERVED, TOLD, (None, UNKNOWN, ""), id="another"),
        pytest.param(request(1, ""), MADE, SERVED, TOLD, (None, UNKNOWN, ""), id="none"),
        pytest.param(
            request(size=5),
            MADE,
            SERVED,
            TOLD,
            (
                ENDPOINT,
                Size(10),
                "share /data: 5G requested, it has 10G; a share never shrinks",
            ),
            id="shrink",
        ),
        pytest.param(
            request(size=5),
            MADE,
            replace(SERVED, size=NO_LIMIT),
            Answer(ENDPOINT, NO_LIMIT),
            (
                ENDPOINT,
                NO_LIMIT,
                "share /data: 5G requested, it has no limit; a share never shrinks",
            ),
            id="limit put on",
        ),
        pytest.param(
            request(size=5), MADE, SERVED, None, (ENDPOINT, Size(5), ""), id="it has more"
        ),
        pytest.param(
            request(size=5),
            MADE,
            SERVED,
            Answer(ENDPOINT, Size(5)),
            (ENDPOINT, Size(5), ""),
            id="it still has more",
        ),
        pytest.param(
            request(size=5),
            MADE,
            replace(SERVED, size=Size(5)),
            TOLD,
            (ENDPOINT, Size(5), ""),
            id="made anew with less",
        ),
        pytest.param(
            request(size=20),
            MADE,
            replace(SERVED, refusal="share /data: 20G requested, 5G free"),
            TOLD,
            (ENDPOINT, Size(10), "share /data: 20G requested, 5G free"),
            id="growth refused",
        ),
        pytest.param(
            request(size=0, error="size 'ten'"),
            MADE,
            SERVED,
            TOLD,
            (ENDPOINT, Size(10), "size 'ten'"),
            id="unreadable",
        ),
    ],
)
def test_answer(
    asked: Request,
    placed: Placement | None,
    there: ShareReport | None,
    answered: Answer | None,
    answer: tuple[Endpoint | None, Size, str],
):
    made = tell(asked, placed, there, answered)
    is_known = there and there.uuid and placed and placed.uuid == there.uuid
    admitted = there.networks if there and is_known and asked.share == "/data" else None
    assert made == Answer(*answer, admitted)


def test_answer_says_why_it_is_nowhere():
    assert tell(request(), None, None, refusal="no room") == Answer(error="no room")


GUEST = request(application="web")
BELONGS = "share /data belongs to app1"


@pytest.mark.parametrize(
    ("asked", "size", "error"),
    [
        pytest.param(GUEST, Size(10), "", id="as it is"),
        pytest.param(replace(GUEST, size=Size(5)), Size(5), "", id="less"),
        pytest.param(
            replace(GUEST, size=Size(1000)),
            Size(10),
            f"{BELONGS} and has 10G: 1000G requested by another is not granted",
            id="more",
        ),
        pytest.param(
            replace(GUEST, size=NO_LIMIT),
            Size(10),
            "",
            id="no limit, as a client has it by default",
        ),
        pytest.param(
            replace(GUEST, allowlist=ANYONE),
            Size(10),
            f"{BELONGS}: another's allowlist is not granted",
            id="opened",
        ),
        pytest.param(replace(GUEST, allowlist=NETWORKS), Size(10), "", id="who may already"),
        pytest.param(replace(GUEST, permissions=ASKED), Size(10), "", id="the same permissions"),
        pytest.param(
            replace(GUEST, permissions=replace(ASKED, owner="7:7")),
            Size(10),
            f"{BELONGS}: owner 7:7 requested by another is not granted",
            id="another owner",
        ),
        pytest.param(
            replace(GUEST, permissions=Permissions(mode="0777")),
            Size(10),
            f"{BELONGS}: mode 0777 requested by another is not granted",
            id="another mode",
        ),
        pytest.param(
            replace(GUEST, permissions=Permissions(squash="none")),
            Size(10),
            f"{BELONGS}: squash none requested by another is not granted",
            id="another squash",
        ),
        pytest.param(
            replace(GUEST, clients=ANYONE),
            Size(10),
            f"{BELONGS}: clients from so many addresses are not admitted",
            id="wide",
        ),
    ],
)
def test_each_gets_an_answer_of_its_own(asked: Request, size: Size, error: str):
    # What whose it is can't have is not for the others.
    there = replace(SERVED, refusal="share /data: 20G requested, 5G free")
    placed = replace(MADE, permissions=ASKED)
    made = tell(asked, placed, there=there)
    assert replace(made, permissions=UNSAID) == Answer(ENDPOINT, size, error, NETWORKS)
    owner = tell(request(size=20), there=there)
    assert owner == Answer(ENDPOINT, Size(10), there.refusal, NETWORKS)


def test_permissions_are_said_once_they_are_in_force():
    asked = request(permissions=ASKED)
    assert tell(asked).permissions == UNSAID
    there = replace(SERVED, permissions=Permissions("1000:1000", "0755", "root"))
    assert tell(asked, there=there).permissions == there.permissions
    # Who doesn't ask isn't told: its databag is as a server without them would have it.
    assert tell(request(), there=there).permissions == UNSAID
    asked = request(permissions=Permissions(squash="none"))
    assert tell(asked, there=there).permissions == Permissions(squash="root")


@pytest.mark.parametrize(
    ("reader", "writer", "exported", "access"),
    [
        pytest.param("10.0.0.1", "10.0.0.2", "10.0.0.1", "ro", id="alone"),
        pytest.param("10.0.0.1", "10.0.0.2", "", "", id="not exported so yet"),
        pytest.param("10.0.0.1", "10.0.0.1", "", "", id="on a machine that writes"),
        pytest.param("10.0.0.1,10.0.0.2", "10.0.0.2", "10.0.0.1", "", id="one unit of it"),
        pytest.param("10.0.0.0/24", "10.0.1.0/24", "10.0.0.0/24", "ro", id="from a network"),
    ],
)
def test_read_only_is_said_if_it_holds(reader: str, writer: str, exported: str, access: str):
    asked = request(1, clients=reader, access="ro"), request(2, clients=writer)
    there = replace(SERVED, readers=parse_allowlist(exported))
    read = Snapshot(
        A,
        requests=asked,
        placements={"/data": MADE},
        reports={B: Report(shares={"/data": there}, addresses={1: "10.0.0.9"})},
        present=(B,),
    )
    assert placement.answer(asked[0], read, Answer()).permissions == Permissions(access=access)
    assert placement.answer(asked[1], read, Answer()).permissions == UNSAID


@pytest.mark.parametrize("reader", ["10.0.0.1", "2001:db8::1"])
def test_read_only_is_not_said_where_anyone_writes(reader: str):
    """All of one version of IP is the same word in /etc/exports as anyone."""
    placed = replace(MADE, grants=parse_allowlist("0.0.0.0/1,128.0.0.0/1"))
    read = Snapshot(
        A,
        requests=(request(clients=reader, access="ro"),),
        placements={"/data": placed},
        reports={B: Report(shares={"/data": SERVED}, addresses={1: "10.0.0.9"})},
        present=(B,),
    )
    assert placement.answer(read.requests[0], read, Answer()).permissions == UNSAID


def test_what_is_broken_is_for_all():
    there = replace(SERVED, error="share /data: its file system has errors")
    assert tell(GUEST, there=there).error == tell(request(), there=there).error == there.error


def test_what_belongs_to_the_operator():
    made = tell(request(size=20), Placement(B, "u1", is_manual=True))
    assert made.error == (
        "share /data belongs to the operator (create-share) and has 10G: 20G requested by another"
        " is not granted"
    )


@pytest.mark.parametrize(
    ("placed", "reports", "present", "lost"),
    [
        pytest.param(Placement(A), {}, (), "", id="not made"),
        pytest.param(Placement(A, "u1"), {A: report(data=HERE)}, (A,), "", id="there"),
        pytest.param(Placement(A, "u1"), {}, (A, B), "", id="there, and not heard of yet"),
        pytest.param(Placement(A, "u1"), {A: report()}, (A,), "", id="said before it was made"),
        pytest.param(
            Placement(A, "u1"), {A: report(data=ShareReport())}, (A,), NOT_HERE, id="not here"
        ),
        pytest.param(Placement(A, "u1"), {A: report(data=THERE)}, (A,), NOT_HERE, id="another"),
        pytest.param(
            Placement(A, "u1"), {}, (B,), f"share /data was on {A}, which is gone", id="gone"
        ),
    ],
)
def test_why_lost(
    placed: Placement, reports: dict[str, Report], present: Collection[str], lost: str
):
    read = Snapshot(A, placements={"/data": placed}, reports=reports, present=present)
    assert placement.why_lost("/data", read) == lost


def test_misplaced():
    reports = {A: report(data=HERE, x=HERE), B: report(data=THERE, y=ShareReport())}
    placements = {"/data": Placement(B, "u2"), "/x": Placement(A)}
    found = {unit: placement.misplaced(placements, unit, it) for unit, it in reports.items()}
    assert found == {A: ["/data"], B: []}


# A model of several units: what each sees may be old, and hooks may be lost.


@dataclass
class ModelUnit:
    """A unit: the images on its storage, what it exports, what it has said."""

    images: dict[str, Image] = field(default_factory=dict[str, Image])
    exported: set[str] = field(default_factory=set[str])
    said: Report = field(default_factory=Report)
    seen: Mapping[str, Placement] = field(default_factory=dict[str, Placement])
    """What was committed when its last hook began."""


class Cluster:
    """Units, the requests that all see, and what the leader has committed."""

    def __init__(self, count: int):
        self.units = {f"nfs-server/{n}": ModelUnit() for n in range(count)}
        self.leader = "nfs-server/0"
        self.requests: list[Request] = []
        self.committed: dict[str, Placement] = {}
        self.next_uuid = 0
        self.served: dict[str, str] = {}
        """UUIDs of what was exported once: the share of that name for all time."""

    def hook(self, name: str, *, killed_at: str = "", is_late: bool = False) -> None:
        """Run a hook of a unit; where it is killed, what it did stays and what it said is lost.

        One that is late began before the hooks of other units that ran since its last one.
        """
        unit = self.units[name]
        if not is_late or name == self.leader:
            unit.seen = self.committed
        for image in self._plan(name).unused:
            assert not image.is_served
            del unit.images[image.name]
        if killed_at == "deleting":
            return
        for work in self._plan(name).work:
            assert work.name not in unit.images, "nothing grows here"
            self.next_uuid += 1
            unit.images[work.name] = _image(work.name, f"u{self.next_uuid}")
        if killed_at == "making":
            return
        unit.exported = set(self._plan(name).exports)
        unit.images |= {
            share: replace(unit.images[share], is_served=True) for share in unit.exported
        }
        for share in unit.exported:
            uuid = unit.images[share].uuid
            assert self.served.setdefault(share, uuid) == uuid, f"{share} made anew"
        if killed_at == "exporting":
            return
        snapshot = self._read(name)
        made = plan.decide(snapshot, 1000)
        unit.said = plan.report(snapshot, made, {}, made.exports)
        if name == self.leader:
            self.committed = dict(snapshot.placements)

    def _plan(self, name: str) -> plan.Plan:
        return plan.decide(self._read(name), 1000)

    def _read(self, name: str) -> placement.Snapshot:
        unit = self.units[name]
        snapshot = placement.Snapshot(
            name,
            tuple(self.requests),
            unit.seen,
            committed=unit.seen,
            present=self.units,
            found=Found(unit.images),
            # Room for 5 shares.
            storage=Storage(100 * GIB, (52 - 10 * len(unit.images)) * GIB),
        )
        if name != self.leader:
            return snapshot
        reports = {it: other.said for it, other in self.units.items()}
        own = plan.first_report(snapshot)
        snapshot = replace(snapshot, committed=self.committed, reports=reports)
        answered = {it.integration_id: Answer() for it in self.requests}
        return placement.lead(snapshot, own, answered, is_alone=len(self.units) == 1)

    def check(self) -> None:
        exported = [share for unit in self.units.values() for share in unit.exported]
        assert len(exported) == len(set(exported)), "one share on two units"
        there = {it.uuid for unit in self.units.values() for it in unit.images.values()}
        made = {it.uuid for it in self.committed.values() if it.uuid}
        assert made <= there, "an event deleted a share"

    def settle(self) -> None:
        for _ in range(4):
            for name in self.units:
                self.hook(name)
                self.check()


def _image(name: str, uuid: str) -> Image:
    size = 10 * GIB
    return Image(name, uuid, Path(), size, size, size, True, is_mounted=True, is_served=False)


_hooks = st.tuples(
    st.sampled_from(
        ["hook"] * 4
        + ["late", "late", "deleting", "making", "exporting", "leader", "ask", "leave", "move"]
    ),
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
            case "hook" | "late":
                cluster.hook(unit, is_late=what == "late")
            case _:
                cluster.hook(unit, killed_at=what)
        cluster.check()
    cluster.settle()
    before = dict(cluster.committed), [set(it.exported) for it in cluster.units.values()]
    cluster.settle()
    assert before == (cluster.committed, [it.exported for it in cluster.units.values()])
    for name, it in cluster.committed.items():
        assert not it.uuid or cluster.units[it.unit].images[name].uuid == it.uuid
    wanted = {it.share for it in cluster.requests}
    assert wanted <= cluster.committed.keys() or sum(
        len(it.images) for it in cluster.units.values()
    ) >= 5 * count - len(wanted)


@given(st.permutations(range(6)), st.permutations([A, B, C]))
def test_same_facts_same_placements(order: list[int], units: list[str]):
    requests = [request(n, f"/s{n}", n + 1) for n in range(6)]
    reports = {unit: report(10 + len(unit)) for unit in [A, B, C]}
    expected = placement.decide({}, placement.wanted(requests, {}), reports)
    shuffled = placement.wanted([requests[n] for n in order], {})
    assert placement.decide({}, shuffled, {u: reports[u] for u in units}) == expected

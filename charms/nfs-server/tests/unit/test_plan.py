# SPDX-License-Identifier: Apache-2.0
"""What one unit does: which image is which share, what is exported, deleted and reported."""

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import placement
import plan
from charms.storage_libs.v0.nfs_interfaces import (
    NO_LIMIT,
    UNSAID,
    Network,
    Permissions,
    Size,
    is_in,
    parse_allowlist,
)
from placement import Snapshot
from plan import Plan, Use
from values import (
    GIB,
    Answer,
    DeletedReport,
    DeletedShare,
    Export,
    Found,
    Image,
    Placement,
    Report,
    Request,
    Restored,
    ShareReport,
    Storage,
    Work,
)

A, B = "nfs-server/0", "nfs-server/1"
NETWORKS = parse_allowlist("10.0.0.1")
STORAGE = Storage(100 * GIB, 52 * GIB)  # 50 GiB to allocate.


def image(name: str = "/data", uuid: str = "u1", *, is_served: bool = True) -> Image:
    return Image(name, uuid, Path(), 10 * GIB, 10 * GIB, 10 * GIB, True, False, True, is_served)


def request(
    integration_id: int = 1, share: str = "/data", size: int = 10, clients: str = "10.0.0.1"
) -> Request:
    return Request(
        integration_id,
        f"app{integration_id}",
        share,
        Size(size),
        clients=parse_allowlist(clients),
    )


def snapshot(
    *images: Image,
    placements: Mapping[str, Placement] | None = None,
    committed: Mapping[str, Placement] | None = None,
    requests: tuple[Request, ...] = (),
) -> Snapshot:
    """What a unit reads; what is committed is what is decided, if nothing else is said."""
    placements = placements or {}
    return Snapshot(
        A,
        requests,
        placements,
        committed=placements if committed is None else committed,
        present=(A, B),
        found=Found({it.name: it for it in images}),
        storage=STORAGE,
    )


def decide(it: Snapshot, max_entries: int = 100) -> Plan:
    return plan.decide(it, max_entries)


MADE = {"/data": Placement(A, "u1", "app1")}
WORK = (Work("/data", 10),)


def test_a_share_is_made_where_it_is_placed():
    new = {"/data": Placement(A, application="app1"), "/far": Placement(B, application="app2")}
    made = decide(snapshot(placements=new, requests=(request(), request(2, "/far"))))
    assert made == Plan({}, WORK, {}, (), (), (), {})


def test_a_share_without_placement_is_not_made():
    assert decide(snapshot(requests=(request(),))).work == ()


def test_a_share_is_never_made_anew():
    made = decide(snapshot(placements=MADE, requests=(request(),)))
    assert (made.work, made.missing) == ((), ("/data",))


def test_nor_where_another_image_of_its_name_is():
    made = decide(snapshot(image(uuid="u2"), placements=MADE, requests=(request(size=20),)))
    assert made == Plan({}, (), {}, (), ("/data",), ("/data",), {})


def test_a_deleted_share_is_not_missing():
    it = replace(snapshot(placements=MADE), deleted=("u1",))
    assert decide(it).missing == ()
    assert decide(replace(it, deleted=("u2",))).missing == ("/data",)


def test_what_does_not_fit_is_refused():
    made = decide(snapshot(image(), placements=MADE, requests=(request(size=61),)))
    assert made.work == ()
    assert made.refusals == {"/data": "share /data: 61G requested, 50G free"}


def test_what_is_elsewhere_takes_no_room():
    placements = {"/far": Placement(B, "", "app1"), "/data": Placement(A, "", "app2")}
    requests = (request(1, "/far", 50), request(2, "/data", 10))
    made = decide(snapshot(placements=placements, requests=requests))
    assert (made.work, made.refusals) == (WORK, {})


# What is exported.


def test_exports():
    made = decide(snapshot(image(), placements=MADE, requests=(request(),)))
    assert made.exports == {"/data": Export("/data", "u1", NETWORKS)}
    assert str(made.exports["/data"].path) == "/srv/nfs/data_bd47413b5c03"


@pytest.mark.parametrize(
    "committed",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"/data": Placement(A)}, id="not made"),
        pytest.param({"/data": Placement(A, "u2")}, id="another image"),
        pytest.param({"/data": Placement(B)}, id="elsewhere, not made"),
    ],
)
def test_what_is_not_committed_is_not_exported(committed: dict[str, Placement]):
    it = snapshot(image(), placements=MADE, committed=committed, requests=(request(),))
    made = decide(it)
    assert made.exports == {}
    assert list(made.images) == ["/data"]


def test_a_share_that_came_with_its_storage_is_exported_at_once():
    committed = {"/data": Placement(B, "u1", "app1")}
    it = snapshot(image(), placements=MADE, committed=committed, requests=(request(),))
    assert list(decide(it).exports) == ["/data"]


@pytest.mark.parametrize("is_restored", [True, False])
def test_what_came_back_is_told_from_what_was_restored(is_restored: bool):
    """What stands beside an image may be older than the last deletion."""
    taken_back = Restored("u1", "new" if is_restored else "old", Placement())
    it = replace(snapshot(image()), gone=("u1", "old"))
    it = replace(it, found=replace(it.found, restored={"/data": taken_back}))
    assert list(decide(it).returned) == ([] if is_restored else ["/data"])
    # A share of that name is another one.
    it = replace(it, placements={"/data": Placement(B, "u2")})
    assert decide(it).returned == {}
    assert decide(it).misplaced == ("/data",)


def test_what_was_said_of_a_share_is_told_from_what_was_of_its_copy():
    copy = replace(image(), name="/a")
    it = snapshot(copy, image(), placements=MADE, requests=(request(),))
    it = replace(it, reports={A: plan.report(it, decide(it), {}, decide(it).exports)})
    assert plan.report(it, decide(it), {}, None).shares["/data"].networks == NETWORKS


def test_what_nobody_may_mount_is_not_exported():
    assert decide(snapshot(image(), placements=MADE)).exports == {}


def test_access_by_an_action_exports_too():
    placed = {"/data": replace(MADE["/data"], grants=NETWORKS)}
    made = decide(snapshot(image(), placements=placed))
    assert made.exports == {"/data": Export("/data", "u1", NETWORKS)}


ASKED = Permissions("1000:1000", "0770", "all")
SET = replace(ASKED, squash="")


@pytest.mark.parametrize(
    ("asked", "before", "is_mounted", "is_set"),
    [
        pytest.param(UNSAID, UNSAID, True, False, id="nothing is asked"),
        pytest.param(ASKED, UNSAID, True, True, id="asked"),
        pytest.param(ASKED, UNSAID, False, False, id="not mounted"),
        pytest.param(ASKED, SET, True, False, id="set already"),
        pytest.param(replace(ASKED, mode="0700"), SET, True, True, id="changed"),
        pytest.param(UNSAID, SET, True, True, id="taken back, to be set when asked again"),
    ],
)
def test_owner_and_mode_are_set_when_they_are_asked(
    asked: Permissions, before: Permissions, is_mounted: bool, is_set: bool
):
    placed = {"/data": replace(MADE["/data"], permissions=asked)}
    here = replace(image(), permissions=before, is_mounted=is_mounted)
    made = decide(snapshot(here, placements=placed, requests=(request(),)))
    assert made.permissions == ({"/data": replace(asked, squash="")} if is_set else {})


def test_what_is_exported_has_its_squash_and_is_reported():
    placed = {"/data": replace(MADE["/data"], permissions=ASKED)}
    reader = replace(request(2), clients=parse_allowlist("10.0.0.2"))
    reader = replace(reader, permissions=Permissions(access="ro"))
    it = snapshot(
        replace(image(), permissions=SET), placements=placed, requests=(request(), reader)
    )
    made = decide(it)
    both = parse_allowlist("10.0.0.1,10.0.0.2")
    assert made.exports == {"/data": Export("/data", "u1", both, both[1:], ASKED)}
    said = plan.report(it, made, {}, made.exports).shares["/data"]
    assert said == ShareReport("u1", Size(10), networks=both, readers=both[1:], permissions=ASKED)


def test_whom_it_is_exported_to_is_said_whole():
    """Parts of a network that may only read are no networks to a client."""
    placed = {"/data": replace(MADE["/data"], grants=NETWORKS)}
    reader = replace(request(), clients=parse_allowlist("10.0.0.0/30"))
    reader = replace(reader, permissions=Permissions(access="ro"))
    it = snapshot(image(), placements=placed, requests=(reader,))
    said = plan.report(it, decide(it), {}, decide(it).exports).shares["/data"]
    assert said.networks == parse_allowlist("10.0.0.0/30")
    assert said.readers == parse_allowlist("10.0.0.0,10.0.0.2/31")


def test_parts_count():
    reader = replace(request(2), clients=parse_allowlist("10.0.0.0/24"))
    reader = replace(reader, permissions=Permissions(access="ro"))
    it = snapshot(image(), placements=MADE, requests=(request(), reader))
    assert len(decide(it, 9).exports["/data"].networks) == 9
    # It has more than are left: then whose it is has it alone.
    assert decide(it, 8).exports == {"/data": Export("/data", "u1", NETWORKS)}


def test_exports_are_limited():
    names = ["/a", "/b", "/c"]
    images = [image(name, f"u{name}") for name in names]
    placements = {it.name: Placement(A, it.uuid) for it in images}
    requests = (
        request(1, "/c", clients="10.0.0.1,10.0.0.3"),
        request(2, "/a", clients="10.1.0.1,10.1.0.3"),
        request(3, "/b", clients="10.2.0.1"),
    )
    it = snapshot(*images, placements=placements, requests=requests)
    assert decide(it, 5).too_many == {}
    made = decide(it, 4)
    # In the order of the integrations, and what still fits is exported.
    assert list(made.exports) == ["/a", "/c"]
    assert made.too_many == {
        "/b": "share /b: 1 more addresses and networks, and nfs-server exports to 4 at most: use"
        " networks instead of addresses"
    }
    assert list(decide(it, 3).exports) == ["/b", "/c"]
    assert plan.report(it, made, {}, made.exports).shares["/b"].refusal == made.too_many["/b"]


def test_what_is_exported_stays_so_whatever_others_request():
    images = [image(name, f"u{name}") for name in ("/a", "/b")]
    placements = {"/a": Placement(A, "u/a", "app1"), "/b": Placement(A, "u/b", "app2")}
    its, others = request(1, "/a", clients="10.0.0.1,10.0.0.3"), request(2, "/b")
    it = snapshot(*images, placements=placements, requests=(its, others))
    it = replace(it, reports={A: plan.report(it, decide(it, 3), {}, decide(it, 3).exports)})
    more = request(1, "/a", clients="10.0.0.1,10.0.0.5,10.0.0.7")
    made = decide(replace(it, requests=(more, others)), 3)
    assert made.exports["/b"].networks == others.clients
    assert made.exports["/a"].networks == parse_allowlist("10.0.0.1")
    assert made.too_many["/a"].startswith("share /a: 2 more addresses and networks")
    # A revision that knew no limit may have exported more: that is refused nobody.
    made = decide(it, 1)
    assert (len(made.exports), made.too_many) == (2, {})
    # Of another image of that name nothing was exported.
    moved = replace(it, reports={A: Report(shares={"/b": ShareReport("u9", networks=NETWORKS)})})
    assert list(decide(replace(moved, requests=(more, others)), 3).exports) == ["/a"]


def _exported(images: list[Image], requests: list[Request], max_entries: int) -> Snapshot:
    """What a unit reads next that exports what is requested."""
    placements = {it.name: Placement(A, it.uuid, f"app{it.name}") for it in images}
    it = snapshot(*images, placements=placements, requests=tuple(requests))
    return replace(
        it,
        reports={A: plan.report(it, decide(it, max_entries), {}, decide(it, max_entries).exports)},
    )


def _request_of(integration_id: int, name: str, clients: str, access: str = "") -> Request:
    return replace(
        request(integration_id, name, clients=clients),
        application=f"app{name}",
        permissions=Permissions(access=access),
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param("10.2.0.4,10.2.0.5", "10.2.0.4", id="a neighbour leaves"),
        pytest.param("10.2.0.4", "10.2.0.4,10.2.0.5", id="a neighbour comes"),
    ],
)
def test_what_is_exported_stays_so_in_other_words(before: str, after: str):
    images = [image(name, f"u{name}") for name in ("/a", "/b")]
    it = _exported(
        images, [_request_of(1, "/a", "10.1.0.1"), _request_of(2, "/b", before)], max_entries=2
    )
    more = _request_of(1, "/a", "10.1.0.1,10.1.0.3")
    made = decide(replace(it, requests=(more, _request_of(2, "/b", after))), 2)
    assert made.exports["/a"].networks == parse_allowlist("10.1.0.1")
    assert made.too_many.keys() == {"/a"}
    stay = parse_allowlist(after)
    assert all(is_in(each, made.exports["/b"].networks) for each in stay)


def test_what_is_exported_stays_so_with_different_rights():
    images = [image(name, f"u{name}") for name in ("/a", "/b")]
    writer = _request_of(2, "/b", "10.2.0.4")
    reader = replace(_request_of(3, "/b", "10.2.0.5", "ro"), application="web")
    it = _exported(images, [_request_of(1, "/a", "10.1.0.1"), writer, reader], max_entries=3)
    more = _request_of(1, "/a", "10.1.0.1,10.1.0.3")
    made = decide(replace(it, requests=(more, writer, reader)), 3)
    assert made.exports["/b"] == decide(it, 3).exports["/b"]
    assert made.exports["/b"].readers == parse_allowlist("10.2.0.5")


def test_to_say_it_in_more_words_is_to_request_more():
    images = [image("/a", "u/a")]
    it = _exported(images, [_request_of(1, "/a", "10.1.0.0/28")], max_entries=3)
    many = ",".join(f"10.1.0.{n}" for n in range(0, 16, 2))
    made = decide(replace(it, requests=(_request_of(1, "/a", many),)), 3)
    assert made.exports["/a"].networks == parse_allowlist("10.1.0.0")
    assert made.too_many["/a"].startswith("share /a: 7 more ")


def test_what_stays_word_for_word_comes_before_parts_of_the_rest():
    images = [image("/a", "u/a")]
    it = _exported(images, [_request_of(1, "/a", "10.0.0.0/8,fd00::/8")], max_entries=2)
    parts = _request_of(1, "/a", "10.1.0.0/16,10.128.0.0/9,fd00::/8")
    made = decide(replace(it, requests=(parts,)), 2)
    assert made.exports["/a"].networks == parse_allowlist("10.1.0.0/16,fd00::/8")
    assert made.too_many["/a"].startswith("share /a: 1 more ")


def test_a_guest_that_grows_too_much_keeps_what_it_has_and_is_told():
    images, owner = [image("/a", "u/a")], _request_of(1, "/a", "10.1.0.1")
    guest = replace(request(2, "/a", clients="10.2.0.1,10.2.0.3"), application="web")
    it = _exported(images, [owner, guest], max_entries=3)
    more = replace(guest, clients=parse_allowlist("10.2.0.1,10.2.0.3,10.2.0.5"))
    it = replace(it, requests=(owner, more))
    made = decide(it, 3)
    assert made.exports["/a"].networks == (*owner.clients, *guest.clients)
    it = replace(it, reports={A: plan.report(it, made, {}, made.exports)})
    why = "share /a: 1 more addresses and networks, and nfs-server exports to 3 at most: "
    told = [placement.answer(each, it, Answer()).error for each in (owner, more)]
    assert told == ["", f"{why}use networks instead of addresses"]


def test_a_guest_with_many_addresses_keeps_the_share_from_nobody():
    placed = {"/data": replace(MADE["/data"], application="app1")}
    many = ",".join(f"10.1.0.{n}" for n in range(1, 20, 2))
    guest = replace(request(2, clients=many), application="web")
    made = decide(snapshot(image(), placements=placed, requests=(request(1), guest)), 5)
    assert made.exports["/data"].networks == request(1).clients
    assert made.refusals == {}


def test_what_is_one_network_counts_as_one():
    clients = ",".join(f"10.0.0.{n}" for n in range(256))
    it = snapshot(image(), placements=MADE, requests=(request(clients=clients),))
    assert decide(it, 1).exports["/data"].networks == (ip_network("10.0.0.0/24"),)


# What is deleted.


def test_an_image_that_was_made_for_a_share_elsewhere_is_unused():
    there = image(is_served=False)
    made = decide(snapshot(there, placements={"/data": Placement(B, "u2")}))
    assert made.unused == (there,)


@pytest.mark.parametrize(
    ("there", "placements", "committed"),
    [
        pytest.param(image(is_served=True), {"/data": Placement(B, "u2")}, None, id="served"),
        pytest.param(image(is_served=False), {"/data": Placement(A, "u1")}, None, id="it is it"),
        pytest.param(
            image(is_served=False),
            {"/data": Placement(B, "u1")},
            None,
            id="it is it, come with its storage",
        ),
        pytest.param(image(is_served=False), {"/data": Placement(A)}, None, id="to become it"),
        pytest.param(image(is_served=False), {}, None, id="nobody knows it"),
        pytest.param(
            image(is_served=False),
            {"/data": Placement(B, "u2"), "/other": Placement(B, "u1")},
            None,
            id="its UUID is another share's",
        ),
        pytest.param(
            image(is_served=False),
            {"/data": Placement(B)},
            None,
            id="the leader may find it yet: none is made elsewhere",
        ),
        pytest.param(
            image(is_served=False),
            {"/data": Placement(B, "u2")},
            {"/data": Placement(B)},
            id="not committed: another leader may decide for it",
        ),
        pytest.param(
            image(is_served=False),
            {"/data": Placement(B, "u2")},
            {"/data": Placement(B, "u1")},
            id="it was it when that was committed",
        ),
    ],
)
def test_an_image_that_may_be_a_share_is_not_unused(
    there: Image, placements: dict[str, Placement], committed: dict[str, Placement] | None
):
    assert decide(snapshot(there, placements=placements, committed=committed)).unused == ()


UNUSED = Use(is_unused=True, is_empty=True)


@given(
    st.booleans(),
    st.builds(Use, is_unused=st.booleans(), is_empty=st.booleans(), is_expired=st.booleans()),
)
def test_an_event_deletes_only_what_nobody_can_have_used_or_what_is_past(
    is_served: bool, use: Use
):
    reason = plan.why_keep(image(is_served=is_served), use)
    assert (reason == "") == (use.is_expired or (use == UNUSED and not is_served))
    assert reason in {"", "share /data: it may hold data"}


def test_what_is_past_and_looked_at_stays():
    looked_at = Use(is_expired=True, clients=("in use here by the mount /mnt",))
    assert plan.why_keep(image(), looked_at).startswith("share /data: in use here by the mount")


def deleted(uuid: str = "u1", *, is_past: bool = True) -> DeletedShare:
    return DeletedShare(image(uuid=uuid), "d1", "2026-12-05", is_past=is_past)


def with_deleted(it: Snapshot, share: DeletedShare) -> Snapshot:
    return replace(it, found=replace(it.found, deleted={share.image.name: share}))


def test_expired():
    assert decide(with_deleted(snapshot(), deleted())).expired == (deleted(),)
    assert decide(with_deleted(snapshot(), deleted(is_past=False))).expired == ()
    another = snapshot(placements={"/data": Placement(B, "u2")})
    assert decide(with_deleted(another, deleted())).expired == (deleted(),)


@pytest.mark.parametrize(
    ("placements", "committed"),
    [
        pytest.param({"/data": Placement(A, "u1")}, {}, id="decided"),
        pytest.param({}, {"/data": Placement(A, "u1")}, id="committed"),
        pytest.param({"/new": Placement(B, "u1")}, {}, id="of another name"),
    ],
)
def test_a_share_is_never_expired(
    placements: dict[str, Placement], committed: dict[str, Placement]
):
    it = snapshot(placements=placements, committed=committed)
    assert decide(with_deleted(it, deleted())).expired == ()


def test_a_deleted_share_has_its_room():
    wanted = {"/new": Placement(A, application="app2")}
    it = snapshot(placements=wanted, requests=(request(2, "/new", 50),))
    assert decide(it).work == (Work("/new", 50),)
    it = with_deleted(it, deleted())
    assert decide(it).work == (Work("/new", 50),)  # Its blocks are not free: that says df.
    sparse = DeletedShare(replace(image(), allocated_bytes=0, is_overcommitted=True))
    planned = decide(with_deleted(it, sparse))
    assert planned.refusals == {
        "/new": "share /new: 50G requested, 40G free; purge-share makes room: see list-shares"
    }
    assert report(with_deleted(it, sparse)).free == 40


def test_deleted_shares_are_reported():
    said = report(with_deleted(snapshot(), deleted()))
    assert said.restorable == {"/data": DeletedReport("u1", Size(10), "2026-12-05", "d1")}
    assert said.shares == {}


@pytest.mark.parametrize("is_served", [True, False])
@pytest.mark.parametrize(
    ("use", "reason"),
    [
        (Use(is_confirmed=True), ""),
        (
            Use(is_confirmed=True, applications=("web", "db"), clients=("10.0.0.1 is connected",)),
            "share /data is requested by web, db: remove that integration first",
        ),
        (
            Use(is_confirmed=True, clients=("10.0.0.1 is connected",)),
            "share /data: 10.0.0.1 is connected; unmount it there, or end its access and what"
            " uses it",
        ),
        (
            replace(UNUSED, is_confirmed=True, clients=("10.0.0.1 has files of it open",)),
            "share /data: 10.0.0.1 has files of it open; unmount it there, or end its access"
            " and what uses it",
        ),
    ],
)
def test_an_operator_deletes_what_nobody_has(use: Use, reason: str, is_served: bool):
    assert plan.why_keep(image(is_served=is_served), use) == reason


def test_why_busy():
    assert plan.why_busy("/data", ()) == ""
    assert plan.why_busy("/data", ["a", "b"]).startswith("share /data: a, b; ")


# What is misplaced.


@pytest.mark.parametrize(
    ("placed", "misplaced"),
    [
        pytest.param(None, False, id="of nobody"),
        pytest.param(Placement(A, "u1"), False, id="it is it"),
        pytest.param(Placement(A), False, id="to become it"),
        pytest.param(Placement(B, "u1"), False, id="it, come with its storage"),
        pytest.param(Placement(B, "u2"), True, id="elsewhere"),
        pytest.param(Placement(A, "u2"), True, id="here, another one"),
    ],
)
def test_misplaced(placed: Placement | None, misplaced: bool):
    made = decide(snapshot(image(), placements={"/data": placed} if placed else {}))
    assert made.misplaced == (("/data",) if misplaced else ())


@pytest.mark.parametrize("reported", ["u1", "u2", ""])
def test_a_copy_of_an_image_on_another_unit(reported: str):
    """One that its unit does not have any more may be this one, come with its storage."""
    there = Report(shares={"/data": ShareReport(reported, Size(10))})
    it = snapshot(image(), placements={"/data": Placement(B, "u1")})
    made = decide(replace(it, reports={B: there}))
    assert [it.name for it in made.copies] == (["/data"] if reported == "u1" else [])


def test_a_copy_of_an_image_beside_it():
    """Whose identity was copied with it, and given its own name."""
    it = snapshot(image(), image("/copy"), placements={"/data": Placement(A, "u1")})
    assert [it.name for it in decide(it).copies] == ["/copy"]
    it = snapshot(image("/copy"), placements={"/data": Placement(A, "u1")})
    assert decide(it).copies == ()


# What is reported.


def report(it: Snapshot, failures: Mapping[str, str] | None = None) -> Report:
    made = decide(it)
    return plan.report(it, made, failures or {}, made.exports)


def test_report():
    it = snapshot(image(), placements=MADE, requests=(request(),))
    assert report(it) == Report(
        free=50, shares={"/data": ShareReport("u1", Size(10), networks=NETWORKS)}
    )


def test_what_is_not_made_yet_has_not_failed():
    it = snapshot(placements={"/data": Placement(A, "", "app1")}, requests=(request(),))
    assert decide(it).work == WORK
    assert report(it) == Report(free=50)


def test_the_reason_of_a_failure_is_reported():
    new = snapshot(placements={"/data": Placement(A)}, requests=(request(),))
    failed = report(new, {"/data": "share /data: No space left on device"})
    assert failed.shares == {"/data": ShareReport(refusal="share /data: No space left on device")}
    there = snapshot(image(), placements=MADE, requests=(request(size=61),))
    assert report(there, {"/data": "no space"}).shares["/data"].refusal == (
        "share /data: 61G requested, 50G free; no space"
    )


def test_what_is_wrong_with_an_image_is_for_all_that_have_it():
    bad = replace(image(), problem="not mounted", is_mounted=False)
    it = snapshot(bad, placements=MADE, requests=(request(),))
    assert report(it).shares["/data"] == ShareReport(
        "u1", Size(10), error="share /data: not mounted"
    )


def test_of_an_image_that_is_not_the_share_only_itself_is_said():
    bad = replace(image(), problem="not mounted")
    it = snapshot(bad, placements={"/data": Placement(B, "u2", grants=NETWORKS)})
    assert report(it).shares["/data"] == ShareReport("u1", Size(10))


def test_of_the_storage():
    unlimited = replace(image(), is_limited=False)
    it = replace(
        snapshot(unlimited, placements=MADE),
        storage=replace(STORAGE, is_root=True),
        deleted=("u0",),
    )
    foreign = Path("x\n\udcff.img")
    it = replace(it, found=replace(it.found, foreign=(foreign,)))
    said = report(it)
    assert said == Report(
        free=0,
        is_on_root=True,
        shares={"/data": ShareReport("u1", NO_LIMIT)},
        foreign=(r"x\n\udcff.img",),
        deleted=("u0",),
    )
    assert plan.first_report(it) == replace(said, foreign=())


_networks = st.lists(
    st.sampled_from(
        ["10.0.0.0/8", "10.1.0.0/16", "10.0.0.0/9", "10.128.0.0/9", "::/0", "fd00::1"]
    ).map(ip_network)
    | st.ip_addresses().map(ip_network)
).map(tuple)


@given(
    st.lists(st.lists(_networks, min_size=3, max_size=3), min_size=1, max_size=4),
    st.integers(0, 12),
)
def test_never_more_entries_than_allowed(
    requested: list[list[tuple[Network, ...]]], max_entries: int
):
    images = [image(f"/{n}", f"u{n}") for n in range(3)]
    placements = {it.name: Placement(A, it.uuid, f"app{it.name[1:]}") for it in images}
    it = snapshot(*images, placements=placements)
    exported: dict[str, Export] = {}
    for networks in requested:
        requests = (replace(request(n, f"/{n}"), clients=its) for n, its in enumerate(networks))
        it = replace(it, requests=tuple(requests))
        made = decide(it, max_entries)
        assert sum(len(its.networks) for its in made.exports.values()) <= max_entries
        # None is left out for nothing.
        empty = {f"/{n}" for n, its in enumerate(networks) if not its}
        assert made.exports.keys() | made.too_many.keys() | empty == placements.keys()
        for name in exported.keys() & it.wanted.keys():
            stays = {*exported[name].networks} & {*it.wanted[name].networks}
            assert not stays or stays <= {*made.exports[name].networks}
        exported = {**made.exports}
        it = replace(it, reports={A: plan.report(it, made, {}, made.exports)})

# SPDX-License-Identifier: Apache-2.0
"""The rules: what follows from what is asked and what is there."""

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

import shares
from charms.storage_libs.v0.nfs_interfaces import parse_allowlist
from shares import GIB, Export, Image, Plan, Storage, Wanted, Work


def image(name: str = "/data", size: int | None = 10, file_gib: int | None = None) -> Image:
    """A share as `size` left it; one without a limit is 100 GiB long."""
    length = (size or 100) * GIB
    file_bytes = length if file_gib is None else file_gib * GIB
    return Image(
        name=name,
        uuid="0b5bd56d-6b2f-4ba1-bd3c-7a7f1e6c0e0a",
        file_bytes=file_bytes,
        filesystem_bytes=length,
        allocated_bytes=file_bytes if size else GIB,
        is_limited=size is not None,
        is_mounted=True,
    )


def storage(free: int = 50, total: int = 100) -> Storage:
    """A storage with `free` whole GiB to give."""
    reserve = max(shares.MIN_RESERVE_BYTES, int(total * GIB * shares.RESERVE_SHARE))
    return Storage(total * GIB, free * GIB + reserve)


def plan(
    *wanted: tuple[str, int | None], images: tuple[Image, ...] = (), room: Storage | None = None
) -> Plan:
    """Plan shares of these names and sizes, in this order."""
    shares_wanted = {name: Wanted(size) for name, size in wanted}
    return shares.plan(shares_wanted, {i.name: i for i in images}, room or storage())


@pytest.mark.parametrize(
    ("asked", "there", "work"),
    [
        pytest.param(10, None, Work("/data", 10), id="new"),
        pytest.param(50, None, Work("/data", 50), id="new, fits exactly"),
        pytest.param(None, None, Work("/data", None), id="new, no limit"),
        pytest.param(10, image(), None, id="as it is"),
        pytest.param(20, image(), Work("/data", 20), id="grow"),
        pytest.param(60, image(), Work("/data", 60), id="grow, fits exactly"),
        pytest.param(None, image(), Work("/data", None), id="limit taken off"),
        pytest.param(None, image(size=None), None, id="no limit, as it is"),
        pytest.param(20, image(file_gib=20), Work("/data", 20), id="finish a grow"),
        pytest.param(10, image(file_gib=20), Work("/data", 10), id="finish a grow not asked now"),
        pytest.param(0, image(file_gib=20), Work("/data", 10), id="finish a grow nobody asks for"),
        pytest.param(0, image(), None, id="nobody asks, as it is"),
        pytest.param(0, None, None, id="nobody asks, not there"),
        pytest.param(9, image(), None, id="less, as it is"),
        pytest.param(9, image(size=None), None, id="less than no limit, as it is"),
    ],
)
def test_plan_work(asked: int | None, there: Image | None, work: Work | None):
    made = plan(("/data", asked), images=(there,) if there else ())
    assert made == Plan((work,) if work else (), {})


@pytest.mark.parametrize(
    ("asked", "there", "reason"),
    [
        pytest.param(51, None, "share /data: 51G asked, 50G free", id="too large"),
        pytest.param(10**9, None, "share /data: 1000000000G asked, 50G free", id="absurd"),
        pytest.param(61, image(), "share /data: 61G asked, 50G free", id="grow too large"),
    ],
)
def test_plan_refusal(asked: int | None, there: Image | None, reason: str):
    made = plan(("/data", asked), images=(there,) if there else ())
    assert made == Plan((), {"/data": reason})


def test_plan_one_byte_too_little():
    room = storage(10)
    short = replace(room, free_bytes=room.free_bytes - 1)
    assert plan(("/data", 10), room=short).refusals == {"/data": "share /data: 10G asked, 9G free"}
    assert plan(("/data", 10), room=room).work == (Work("/data", 10),)


def test_plan_no_limit_needs_a_first_gib():
    assert plan(("/data", None), room=storage(1)).work == (Work("/data", None),)
    refused = plan(("/data", None), room=storage(0))
    assert refused == Plan((), {"/data": "share /data: no limit asked, 0G free"})


def test_plan_no_limit_is_promised_nothing():
    # Else the room that it doesn't take would be found again by the next plan, in the same hook.
    both = plan(("/a", None), ("/b", 50))
    assert both.work == (Work("/a", None), Work("/b", 50))


def test_plan_no_limit_follows_the_storage():
    # Also what a kill leaves right after the limit was taken off: the file is not longer yet.
    there = replace(image(), is_limited=False)
    assert plan(("/data", None), images=(there,)).work == (Work("/data", None),)


def test_plan_granted_share_is_not_refused_on_a_full_storage():
    trimmed = replace(image(), allocated_bytes=GIB)
    assert plan(("/data", 10), images=(trimmed,), room=storage(0)) == Plan((), {})


def test_plan_space_is_promised_once_in_order():
    made = plan(("/a", 30), ("/b", 30), ("/c", 10), ("/d", 10))
    assert made.work == (Work("/a", 30), Work("/c", 10), Work("/d", 10))
    assert made.refusals == {"/b": "share /b: 30G asked, 20G free"}


def test_plan_growth_and_new_share_compete():
    made = plan(("/old", 50), ("/new", 20), images=(image("/old"),))
    assert made.work == (Work("/old", 50),)
    assert made.refusals == {"/new": "share /new: 20G asked, 10G free"}


def test_largest():
    assert shares.largest([5, 20, 0]) == 20
    assert shares.largest([5, None]) is None


def test_exports():
    networks = parse_allowlist("10.0.0.1,192.0.2.0/24,2001:db8::1")
    wanted = {
        "/b": Wanted(0, networks),
        "/a": Wanted(10, networks[:1]),
        "/absent": Wanted(10, networks),
        "/nobody": Wanted(10),
    }
    there = {name: image(name) for name in ("/a", "/b", "/nobody", "/unasked")}
    found = shares.exports(wanted, there)
    assert found == (
        Export("/a", image().uuid, networks[:1]),
        Export("/b", image().uuid, networks),
    )
    assert found[0].path == shares.EXPORT_ROOT / shares.share_id("/a")


@pytest.mark.parametrize(
    ("there", "asked", "needed"),  # Needed: bytes that are reserved.
    [
        (None, 10, 10 * GIB),
        (None, None, GIB),
        (image(), 10, 0),
        (image(), 15, 5 * GIB),
        (image(), 5, 0),
        (image(), None, 0),
        (image(file_gib=15), 15, 0),
        (replace(image(), allocated_bytes=4 * GIB), 10, 6 * GIB),
        (replace(image(), allocated_bytes=10 * GIB + 4096), 11, GIB - 4096),
    ],
)
def test_needed_bytes(there: Image | None, asked: int | None, needed: int):
    promise, reserve = shares.needed_bytes(there, Work("/data", asked))
    assert reserve == needed
    is_promised = there is not None and there.file_bytes > there.allocated_bytes
    assert promise <= needed if is_promised else promise == needed


def thin(name: str = "/thin", size: int | None = 10, taken: int = 1) -> Image:
    return replace(image(name, size), is_overcommitted=True, allocated_bytes=taken * GIB)


@pytest.mark.parametrize(
    ("there", "asked", "needed"),
    [
        (None, 10, (10 * GIB, GIB)),
        (thin(), 10, (0, 0)),
        (thin(), 15, (5 * GIB, 0)),
        (thin(taken=11), 15, (4 * GIB, 0)),
    ],
)
def test_needed_bytes_overcommitted(there: Image | None, asked: int, needed: tuple[int, int]):
    assert shares.needed_bytes(there, Work("/thin", asked, is_overcommitted=True)) == needed


def overcommitted(ratio: float, free: int = 50) -> Storage:
    return replace(storage(free), overcommit_ratio=ratio)


def test_plan_overcommitted():
    made = plan(("/a", 60), ("/b", 30), ("/c", 20), room=overcommitted(2))
    assert made.work == (Work("/a", 60, True), Work("/b", 30, True))
    assert made.refusals == {"/c": "share /c: 20G asked, 10G free"}


def test_plan_what_was_reserved_stays_so():
    made = plan(("/data", 20), images=(image(),), room=overcommitted(2))
    assert made.work == (Work("/data", 20),)
    made = plan(("/data", 80), images=(image(),), room=overcommitted(3))
    assert made.refusals == {"/data": "share /data: 80G asked, 50G free"}


def test_plan_ratio_taken_back():
    made = plan(("/b", 1), images=(thin(size=60),), room=overcommitted(1, 49))
    assert made.refusals == {"/b": "share /b: 1G asked, 0G free"}


def test_plan_overcommitted_begins_nothing_on_a_full_storage():
    made = plan(("/data", 10), images=(thin(taken=50),), room=overcommitted(9, 0))
    assert made.refusals == {"/data": "share /data: 10G asked, 0G free"}


@pytest.mark.parametrize(
    ("there", "room", "says", "is_short"),
    [
        pytest.param([], storage(0), "", False, id="no share"),
        pytest.param([image()], storage(50), "", False, id="enough"),
        pytest.param([image()], storage(1), "10G of 11G are promised to shares", False, id="9/10"),
        pytest.param([image()], Storage(100 * GIB, 0), "10G of 10G are promised", False, id="all"),
        pytest.param([thin()], Storage(100 * GIB, 4 * GIB), "10G of 3G are", False, id="ratio 1"),
        pytest.param(
            [thin()],
            overcommitted(9, 1),
            "Only 3.0G of the storage are free, ",
            False,
            id="scarce",
        ),
        pytest.param(
            [image(size=None)], Storage(100 * GIB, GIB), "Only 1.0G of", True, id="in the reserve"
        ),
    ],
)
def test_space(there: list[Image], room: Storage, says: str, is_short: bool):
    warning = shares.space_warning(room, there)
    assert warning.startswith(says)
    assert bool(warning) == bool(says)
    assert shares.is_short(room, there) == is_short


@pytest.mark.parametrize(
    ("total", "free", "available"),
    [
        pytest.param(10 * GIB, 5 * GIB, 4 * GIB, id="at least 1 GiB is kept"),
        pytest.param(100 * GIB, 50 * GIB, 48 * GIB, id="2 % is kept"),
        pytest.param(10 * GIB, GIB, 0, id="just the reserve"),
        pytest.param(10 * GIB, GIB + 1, 1, id="one byte"),
        pytest.param(10 * GIB, 5, 0, id="less than the reserve"),
    ],
)
def test_available_bytes(total: int, free: int, available: int):
    assert Storage(total, free).available_bytes == available


@pytest.mark.parametrize(
    ("name", "readable"),
    [
        ("/data", "data_"),
        ("My.Data:v1", "my_data_v1_"),
        ("/" + "x" * 100, "x" * 24 + "_"),
        ("///", ""),
        ("données", "donn_es_"),
    ],
)
def test_share_id(name: str, readable: str):
    assert re.fullmatch(re.escape(readable) + "[0-9a-f]{12}", shares.share_id(name))


def test_share_id_never_changes():
    # It is in the paths that clients were given, and in the names of the images.
    assert shares.share_id("/data") == "data_bd47413b5c03"


@given(st.lists(st.text(), unique=True))
def test_share_id_is_plain_and_of_one_name_only(names: list[str]):
    ids = [shares.share_id(name) for name in names]
    assert len(set(ids)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9_]{12,40}", text) for text in ids)


_names = st.sampled_from(["/a", "/b", "/c", "/A", "/a/"])
_sizes = st.none() | st.integers(1, 120)


Known = tuple[dict[str, Wanted], dict[str, Image], Storage]


@st.composite
def _facts(draw: st.DrawFn) -> Known:
    """What is wanted, images, and a storage."""
    wanted = draw(st.dictionaries(_names, st.builds(Wanted, st.just(0) | _sizes), max_size=6))
    images = {
        name: replace(there, allocated_bytes=draw(st.sampled_from([there.allocated_bytes, GIB])))
        for name, size, longer in draw(st.lists(st.tuples(_names, _sizes, st.integers(0, 5))))
        if (there := image(name, size, (size or 100) + longer))
    }
    ratio = draw(st.sampled_from([1.0, 1.0, 1.5, 4.0]))
    return wanted, images, Storage(100 * GIB, draw(st.integers(0, 100 * GIB)), ratio)


def _apply(
    made: Plan, images: dict[str, Image], room: Storage
) -> tuple[dict[str, Image], Storage]:
    """Do a plan's work as the machine does: nothing ever gets shorter."""
    after = dict(images)
    free = room.free_bytes
    for work in made.work:
        old = images.get(work.name)
        wanted = room.total_bytes if work.size is None else work.size * GIB
        length = max(wanted, old.file_bytes if old else 0)
        allocated = max(old.allocated_bytes if old else 0, 0 if work.is_sparse else wanted)
        free -= allocated - (old.allocated_bytes if old else 0)
        after[work.name] = replace(
            old or image(work.name),
            file_bytes=length,
            filesystem_bytes=length,
            allocated_bytes=allocated,
            is_limited=work.size is not None,
            is_overcommitted=work.is_overcommitted,
        )
    return after, replace(room, free_bytes=free)


@given(_facts())
def test_plan_never_promises_more_than_there_is(facts: Known):
    wanted, images, room = facts
    made = shares.plan(wanted, images, room)
    limited = [work for work in made.work if work.size is not None]
    reserved = [work for work in limited if not work.is_sparse]
    assert (
        sum(shares.needed_bytes(images.get(w.name), w)[1] for w in reserved)
        <= room.available_bytes
    )
    promise = sum(shares.needed_bytes(images.get(w.name), w)[0] for w in limited)
    there = images.values()
    unpromised = room.promisable_bytes(there) - room.promised_bytes(there)
    assert promise <= max(0, unpromised)
    left = _apply(made, images, room)[1].free_bytes
    assert left >= room.free_bytes - room.available_bytes


@given(_facts())
def test_plan_done_leaves_no_work(facts: Known):
    wanted, images, room = facts
    images, room = _apply(shares.plan(wanted, images, room), images, room)
    assert shares.plan(wanted, images, room).work == ()


@given(_facts())
def test_plan_never_makes_smaller_or_what_nobody_wants(facts: Known):
    wanted, images, room = facts
    for work in shares.plan(wanted, images, room).work:
        there = images.get(work.name)
        if there is None:
            assert work.size == wanted[work.name].size != 0
        else:
            assert not shares.is_less(work.size, there.size)

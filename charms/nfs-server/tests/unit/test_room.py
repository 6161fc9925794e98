# SPDX-License-Identifier: Apache-2.0
"""Room: what is made and grown, what is refused, and that the reserve holds with no hook."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import room
from charms.storage_libs.v0.nfs_interfaces import NO_LIMIT, UNKNOWN, Size
from values import GIB, Image, Storage, Wanted, Work

Planned = tuple[tuple[Work, ...], dict[str, str]]


def image(name: str = "/data", size: int | None = 10, file_gib: int | None = None) -> Image:
    """A share as `size` left it; one without a limit is 40 GiB long, and holds 1 GiB."""
    length = (size or 40) * GIB
    file_bytes = length if file_gib is None else file_gib * GIB
    return Image(
        name=name,
        uuid="0b5bd56d-6b2f-4ba1-bd3c-7a7f1e6c0e0a",
        path=Path(),
        file_bytes=file_bytes,
        filesystem_bytes=length,
        allocated_bytes=file_bytes if size else GIB,
        is_limited=size is not None,
        is_mounted=True,
    )


def thin(name: str = "/thin", size: int | None = 10, taken: int = 1) -> Image:
    """A share that was made while more was allocated than there is."""
    return replace(image(name, size), is_overcommitted=True, allocated_bytes=taken * GIB)


def storage(
    free: int = 50, total: int = 100, *, ratio: float = 1.0, is_root: bool = False
) -> Storage:
    """A storage with `free` whole GiB to allocate."""
    reserve = max(room.MIN_RESERVE_BYTES, int(total * GIB * room.RESERVE_SHARE))
    return Storage(total * GIB, free * GIB + reserve, is_root, ratio)


def plan(
    *wanted: tuple[str, int | None], images: tuple[Image, ...] = (), on: Storage | None = None
) -> Planned:
    """Plan shares of these names and sizes, in this order."""
    shares = {name: Wanted(Size.of(size)) for name, size in wanted}
    return room.plan_work(shares, {it.name: it for it in images}, on or storage())


UNLIMITED = image(size=None)


@pytest.mark.parametrize(
    ("requested", "there", "work"),
    [
        pytest.param(10, None, Work("/data", 10), id="new"),
        pytest.param(50, None, Work("/data", 50), id="new, fits exactly"),
        pytest.param(None, None, Work("/data", 50, False), id="new, no limit: all that is left"),
        pytest.param(10, image(), None, id="as it is"),
        pytest.param(20, image(), Work("/data", 20), id="grow"),
        pytest.param(60, image(), Work("/data", 60), id="grow, fits exactly"),
        pytest.param(None, image(), Work("/data", 60, False), id="limit taken off"),
        pytest.param(None, UNLIMITED, Work("/data", 51, False), id="no limit, more is left"),
        pytest.param(20, image(file_gib=20), Work("/data", 20), id="finish a grow"),
        pytest.param(10, image(file_gib=20), Work("/data", 10), id="finish what is not requested"),
        pytest.param(0, image(file_gib=20), Work("/data", 10), id="finish what nobody requests"),
        pytest.param(0, image(), None, id="nobody asks, as it is"),
        pytest.param(0, None, None, id="nobody asks, not there"),
        pytest.param(9, image(), None, id="less, as it is"),
    ],
)
def test_plan_work(requested: int | None, there: Image | None, work: Work | None):
    made = plan(("/data", requested), images=(there,) if there else ())
    assert made == ((work,) if work else (), {})


@pytest.mark.parametrize("requested", [None, 9, 0])
def test_no_limit_that_has_all_is_as_it_is(requested: int | None):
    on = storage(39)  # And 1 GiB is in it.
    assert plan(("/data", requested), images=(UNLIMITED,), on=on) == ((), {})


@pytest.mark.parametrize(
    ("requested", "there", "reason"),
    [
        pytest.param(51, None, "share /data: 51G requested, 50G free", id="too large"),
        pytest.param(10**9, None, "share /data: 1000000000G requested, 50G free", id="absurd"),
        pytest.param(61, image(), "share /data: 61G requested, 50G free", id="grow too large"),
    ],
)
def test_refusal(requested: int, there: Image | None, reason: str):
    made = plan(("/data", requested), images=(there,) if there else ())
    assert made == ((), {"/data": reason})


def test_one_byte_too_little():
    on = storage(10)
    short = replace(on, free_bytes=on.free_bytes - 1)
    assert plan(("/data", 10), on=on)[0] == (Work("/data", 10),)
    assert plan(("/data", 10), on=short)[1] == {"/data": "share /data: 10G requested, 9G free"}


def test_no_limit_needs_a_first_gib():
    assert plan(("/data", None), on=storage(1))[0] == (Work("/data", 1, False),)
    refused = plan(("/data", None), on=storage(0))
    assert refused == ((), {"/data": "share /data: no limit requested, 0G free"})


def test_no_limit_takes_what_the_others_leave_whatever_the_order():
    work, refusals = plan(("/a", None), ("/b", 20), ("/c", 10))
    assert work == (Work("/b", 20), Work("/c", 10), Work("/a", 20, False))
    assert refusals == {}
    assert plan(("/a", None), ("/b", 50)) == (
        (Work("/b", 50),),
        {"/a": "share /a: no limit requested, 0G free"},
    )


def test_beside_no_limit_nothing_is_left():
    assert room.free_gib(storage(50), []) == 50
    assert room.free_gib(storage(50), [image()]) == 50
    assert room.free_gib(storage(50), [image(), UNLIMITED]) == 0
    # All is allocated to it by its length, not only by the word of free_gib.
    long = image("/long", None, 51)
    made = plan(("/data", 1), images=(long,))
    assert made == ((), {"/data": "share /data: 1G requested, 0G free"})


def test_a_new_share_is_not_drawn_to_where_nothing_is_left_to_take():
    filled = thin(size=50, taken=50)
    assert room.free_gib(storage(1, ratio=2.0), [filled]) == 52
    assert room.free_gib(storage(0, ratio=2.0), [filled]) == 0
    assert room.free_gib(storage(0), [filled]) == 0


def test_what_is_left_is_what_may_be_allocated_and_is_there():
    reserved = image()
    assert room.left_gib(storage(9, ratio=2.0), [reserved, thin(size=60, taken=30)]) == 9
    assert room.left_gib(storage(30, ratio=2.0), [reserved, thin(size=60, taken=9)]) == 28


def test_limit_taken_off_where_nothing_is_left():
    made = plan(("/data", None), images=(image(),), on=storage(0))
    assert made == ((Work("/data", 10, False),), {})


def test_granted_is_not_refused_on_a_full_storage():
    trimmed = replace(image(), allocated_bytes=GIB)
    assert plan(("/data", 10), images=(trimmed,), on=storage(0)) == ((), {})


def test_room_is_allocated_once_in_order():
    work, refusals = plan(("/a", 30), ("/b", 30), ("/c", 10), ("/d", 10))
    assert work == (Work("/a", 30), Work("/c", 10), Work("/d", 10))
    assert refusals == {"/b": "share /b: 30G requested, 20G free"}


def test_growth_and_new_share_compete():
    work, refusals = plan(("/old", 50), ("/new", 20), images=(image("/old"),))
    assert work == (Work("/old", 50),)
    assert refusals == {"/new": "share /new: 20G requested, 10G free"}


NO_ROOT = (
    "share /data: no limit requested, but the shares are on the root disk: request a size, or give"
    " nfs-server a storage"
)


@pytest.mark.parametrize("there", [(), (image(),)])
def test_the_root_disk_takes_nothing_without_a_limit(there: tuple[Image, ...]):
    on = storage(is_root=True)
    assert plan(("/data", None), images=there, on=on) == ((), {"/data": NO_ROOT})
    # It takes no room from the others.
    work, refusals = plan(("/data", None), ("/new", 50), images=there, on=on)
    assert work == (Work("/new", 50),)
    assert refusals == {"/data": NO_ROOT}


@pytest.mark.parametrize("requested", [None, 9, 0])
def test_what_an_older_revision_made_on_the_root_disk_stays(requested: int | None):
    for there in UNLIMITED, replace(UNLIMITED, file_bytes=90 * GIB):
        on = storage(is_root=True)
        assert plan(("/data", requested), images=(there,), on=on) == ((), {})


def test_nothing_is_overcommitted_on_the_root_disk():
    made = plan(("/data", 10), on=storage(ratio=4, is_root=True))
    assert made == ((Work("/data", 10),), {})


@pytest.mark.parametrize(
    ("there", "gib", "needed"),  # Needed: bytes that are taken.
    [
        (None, 10, 10 * GIB),
        (image(), 10, 0),
        (image(), 15, 5 * GIB),
        (image(), 5, 0),
        (image(file_gib=15), 15, 0),
        (replace(image(), allocated_bytes=4 * GIB), 10, 6 * GIB),
        (replace(image(), allocated_bytes=10 * GIB + 4096), 11, GIB - 4096),
    ],
)
def test_needed_bytes(there: Image | None, gib: int, needed: int):
    allocated, taken = room.needed_bytes(there, Work("/data", gib))
    assert taken == needed
    is_freed = there is not None and there.file_bytes > there.allocated_bytes
    assert allocated <= needed if is_freed else allocated == needed


@pytest.mark.parametrize(
    ("there", "work", "needed"),
    [
        (None, Work("/thin", 10, True, True), (10 * GIB, GIB)),
        (None, Work("/thin", 50, False), (50 * GIB, GIB)),
        (thin(), Work("/thin", 10, True, True), (0, 0)),
        (thin(), Work("/thin", 15, True, True), (5 * GIB, 0)),
        (thin(taken=11), Work("/thin", 15, True, True), (4 * GIB, 0)),
        (UNLIMITED, Work("/data", 50, False), (10 * GIB, 0)),
    ],
)
def test_needed_bytes_of_sparse(there: Image | None, work: Work, needed: tuple[int, int]):
    assert room.needed_bytes(there, work) == needed


def test_overcommitted():
    work, refusals = plan(("/a", 60), ("/b", 30), ("/c", 20), on=storage(ratio=2))
    assert work == (Work("/a", 60, True, True), Work("/b", 30, True, True))
    assert refusals == {"/c": "share /c: 20G requested, 10G free"}


def test_what_was_reserved_stays_so():
    assert plan(("/data", 20), images=(image(),), on=storage(ratio=2))[0] == (Work("/data", 20),)
    refusals = plan(("/data", 80), images=(image(),), on=storage(ratio=3))[1]
    assert refusals == {"/data": "share /data: 80G requested, 50G free"}


def test_ratio_taken_back():
    refusals = plan(("/b", 1), images=(thin(size=60),), on=storage(49))[1]
    assert refusals == {"/b": "share /b: 1G requested, 0G free"}


def test_overcommitted_begins_nothing_on_a_full_storage():
    refusals = plan(("/data", 10), images=(thin(taken=50),), on=storage(0, ratio=9))[1]
    assert refusals == {"/data": "share /data: 10G requested, 0G free"}


SCARCE = "Only 3.0G of the storage are free, "


@pytest.mark.parametrize(
    ("there", "on", "says", "is_short"),
    [
        pytest.param([], storage(0), "", False, id="no share"),
        pytest.param(
            [], storage(0, is_root=True), "Shares are on the root disk", False, id="root"
        ),
        pytest.param([image()], storage(50), "", False, id="enough"),
        pytest.param([image()], storage(1), "10G of 11G are allocated", False, id="9/10"),
        pytest.param(
            [image()], storage(1, is_root=True), "10G of 11G are", False, id="root, 9/10"
        ),
        pytest.param([image()], Storage(100 * GIB, 0), "10G of 10G are", False, id="all"),
        pytest.param([thin()], Storage(100 * GIB, 4 * GIB), "10G of 3G are", False, id="ratio 1"),
        pytest.param([thin()], storage(1, ratio=9), SCARCE, False, id="scarce"),
        pytest.param([thin(size=60)], Storage(100 * GIB, GIB), "Only 1.0G", True, id="short"),
        # It has all that is left: that is what it is for.
        pytest.param([UNLIMITED], storage(39), "", False, id="no limit"),
        pytest.param([UNLIMITED], storage(0), SCARCE.replace("3", "2"), False, id="too long"),
        pytest.param([UNLIMITED], Storage(100 * GIB, GIB), "Only 1.0G", True, id="in the reserve"),
    ],
)
def test_remark(there: list[Image], on: Storage, says: str, is_short: bool):
    remark = room.remark(on, there)
    assert remark.startswith(says)
    assert bool(remark) == bool(says)
    assert room.is_short(on, there) == is_short


ALLOCATED = "are allocated to shares"
KEPT = "to deleted ones: purge-share makes room"


@pytest.mark.parametrize(
    ("there", "deleted", "on", "says"),
    [
        pytest.param([], [image("/old")], storage(50), "", id="enough"),
        pytest.param(
            [image()],
            [image("/old", 30)],
            storage(1),
            f"40G of 41G {ALLOCATED}; 30G of it {KEPT}",
            id="9/10",
        ),
        pytest.param(
            [], [UNLIMITED], storage(39),
            f"40G of 40G {ALLOCATED}; 40G of it {KEPT}",
            id="no limit",
        ),
        pytest.param(
            [thin()],
            [image("/old", 1)],
            storage(1, ratio=9),
            f"{SCARCE}and when none is, writing to shares fails: delete files in shares, or"
            " enlarge it, or run purge-share",
            id="scarce",
        ),
    ],
)  # fmt: skip
def test_remark_on_deleted_shares(
    there: list[Image], deleted: list[Image], on: Storage, says: str
):
    assert room.remark(on, there, deleted) == says


def test_beside_a_deleted_share_without_limit_nothing_is_left():
    assert room.free_gib(storage(39), [UNLIMITED]) == 0
    refusals = room.plan_work({"/data": Wanted(Size(10))}, {}, storage(39), deleted=(UNLIMITED,))[
        1
    ]
    assert refusals == {
        "/data": "share /data: 10G requested, 0G free; purge-share makes room: see list-shares"
    }


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
def test_allocatable_bytes(total: int, free: int, available: int):
    assert room.allocatable_bytes(Storage(total, free), []) == available
    thrice = Storage(total, free, overcommit_ratio=3)
    assert room.allocatable_bytes(thrice, [image()]) == 3 * (available + 10 * GIB)


# A model of a storage: what work does to it, and what clients do.

_names = st.sampled_from(["/a", "/b", "/c", "/d"])
_sizes = st.just(NO_LIMIT) | st.builds(Size, st.integers(1, 120))
_wanted = st.dictionaries(_names, st.builds(Wanted, st.just(UNKNOWN) | _sizes), max_size=4)


def _apply(
    works: tuple[Work, ...], images: Mapping[str, Image], on: Storage
) -> tuple[dict[str, Image], Storage]:
    """Do work as the machine does: nothing ever gets shorter."""
    after = dict(images)
    free = on.free_bytes
    for work in works:
        old = images.get(work.name)
        length = max(work.gib * GIB, old.file_bytes if old else 0)
        taken = old.allocated_bytes if old else 0
        allocated = max(taken, 0 if work.is_sparse else work.gib * GIB)
        free -= allocated - taken
        after[work.name] = replace(
            old or image(work.name),
            file_bytes=length,
            filesystem_bytes=length,
            allocated_bytes=allocated,
            is_limited=work.is_limited,
            is_overcommitted=work.is_overcommitted,
        )
    return after, replace(on, free_bytes=free)


def _fill(
    images: Mapping[str, Image], on: Storage, parts: Mapping[str, float]
) -> tuple[dict[str, Image], Storage]:
    """Have clients fill shares to a part of their lengths."""
    after = {
        name: replace(
            it, allocated_bytes=max(it.allocated_bytes, int(it.file_bytes * parts.get(name, 0)))
        )
        for name, it in images.items()
    }
    taken = sum(it.allocated_bytes for it in after.values())
    before = sum(it.allocated_bytes for it in images.values())
    return after, replace(on, free_bytes=on.free_bytes - (taken - before))


_steps = st.lists(
    st.tuples(
        st.just("work") | st.just("work killed") | st.just("fill") | st.just("delete"),
        _wanted,
        st.dictionaries(_names, st.floats(0, 1), max_size=4),
    ),
    max_size=12,
)


@settings(max_examples=300)
@given(st.integers(2, 200), st.integers(0, 50), st.booleans(), _steps)
def test_the_reserve_holds_when_every_share_is_filled_to_its_length(
    total: int,
    others: int,
    is_root: bool,
    steps: list[tuple[str, dict[str, Wanted], dict[str, float]]],
):
    on = Storage(total * GIB, max(0, total - others) * GIB, is_root)
    reserve = min(room.reserve_bytes(on), on.free_bytes)
    images: dict[str, Image] = {}
    for what, wanted, parts in steps:
        if what == "fill":
            images, on = _fill(images, on, parts)
        elif what == "delete":
            gone = [images.pop(name) for name in parts if name in images]
            on = replace(on, free_bytes=on.free_bytes + sum(it.allocated_bytes for it in gone))
        else:
            work, _ = room.plan_work(wanted, images, on)
            images, on = _apply(work[:1] if what == "work killed" else work, images, on)
        assert not (is_root and any(not it.is_limited for it in images.values()))
        full = _fill(images, on, dict.fromkeys(images, 1.0))[1]
        assert full.free_bytes >= reserve
        assert not room.is_short(full, images.values())


@given(st.integers(2, 200), _wanted, _steps)
def test_who_has_no_limit_has_all_that_is_left(
    total: int,
    wanted: dict[str, Wanted],
    steps: list[tuple[str, dict[str, Wanted], dict[str, float]]],
):
    on = Storage(total * GIB, total * GIB)
    images: dict[str, Image] = {}
    for _, earlier, parts in [*steps, ("", wanted, {})]:
        images, on = _apply(room.plan_work(earlier, images, on)[0], images, on)
        images, on = _fill(images, on, parts)
        unlimited = [it for it in images.values() if not it.is_limited]
        if any(earlier.get(it.name) for it in unlimited):
            left = room.allocatable_bytes(on, images.values()) - room.allocated_bytes(
                images.values()
            )
            assert left < GIB
        if unlimited:
            assert room.free_gib(on, tuple(images.values())) == 0


Known = tuple[dict[str, Wanted], dict[str, Image], Storage]


@st.composite
def _facts(draw: st.DrawFn) -> Known:
    """What is wanted, images, and a storage, whatever made them be so."""
    images = {
        name: replace(there, allocated_bytes=draw(st.sampled_from([there.allocated_bytes, GIB])))
        for name, size, longer in draw(st.lists(st.tuples(_names, _sizes, st.integers(0, 5))))
        if (there := image(name, size.plain, (size.plain or 40) + longer))
    }
    ratio = draw(st.sampled_from([1.0, 1.0, 1.5, 4.0]))
    free = draw(st.integers(0, 100 * GIB))
    return draw(_wanted), images, Storage(100 * GIB, free, draw(st.booleans()), ratio)


@given(_facts())
def test_what_is_short_is_said(facts: Known):
    _, images, on = facts
    there = tuple(images.values())
    assert not room.is_short(on, there) or room.remark(on, there).startswith("Only ")


@given(_facts())
def test_never_is_more_allocated_than_there_is(facts: Known):
    wanted, images, on = facts
    work, _ = room.plan_work(wanted, images, on)
    reserved = [it for it in work if not it.is_sparse]
    available = max(0, on.free_bytes - room.reserve_bytes(on))
    taken = sum(room.needed_bytes(images.get(it.name), it)[1] for it in reserved)
    assert taken <= available
    allocated = sum(room.needed_bytes(images.get(it.name), it)[0] for it in work)
    there = images.values()
    unallocated = room.allocatable_bytes(on, there) - room.allocated_bytes(there)
    assert allocated <= max(0, unallocated)
    assert _apply(work, images, on)[1].free_bytes >= on.free_bytes - available


@given(_facts())
def test_work_that_is_done_leaves_none(facts: Known):
    wanted, images, on = facts
    images, on = _apply(room.plan_work(wanted, images, on)[0], images, on)
    assert room.plan_work(wanted, images, on)[0] == ()


@given(_facts())
def test_nothing_is_made_smaller_or_without_being_wanted(facts: Known):
    wanted, images, on = facts
    for work in room.plan_work(wanted, images, on)[0]:
        there = images.get(work.name)
        size = Size(work.gib) if work.is_limited else NO_LIMIT
        if there is None:
            assert size == wanted[work.name].size != UNKNOWN
        else:
            assert size >= there.size


@given(_facts())
def test_who_came_first_is_not_refused_for_who_comes_later(facts: Known):
    wanted, images, on = facts
    limited = {name: it for name, it in wanted.items() if it.size.is_limited}
    for count in range(len(limited)):
        first = dict(list(limited.items())[:count])
        _, refusals = room.plan_work(first, images, on)
        _, all_refusals = room.plan_work(wanted, images, on)
        assert {name: all_refusals.get(name) for name in refusals} == refusals
        assert not all_refusals.keys() & (first.keys() - refusals.keys())

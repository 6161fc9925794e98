# SPDX-License-Identifier: Apache-2.0
"""The rules: what follows from what is asked and what is there."""

import re
from dataclasses import replace
from ipaddress import ip_network
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import shares
from charms.storage_libs.v0.nfs_interfaces import ShareRequest, parse_allowlist
from shares import GIB, Export, Image, Plan, Storage, Work

NOBODY = frozenset[str]()


def request(
    integration_id: int = 1,
    name: str = "/data",
    size: int | None = 10,
    allowlist: str = "",
    clients: str = "10.0.0.1",
    error: str = "",
) -> ShareRequest:
    return ShareRequest(
        integration_id,
        f"app{integration_id}",
        name,
        size,
        parse_allowlist(allowlist),
        parse_allowlist(clients),
        error,
    )


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
    *requests: ShareRequest,
    images: tuple[Image, ...] = (),
    room: Storage | None = None,
    published: frozenset[str] = NOBODY,
) -> Plan:
    return shares.plan(requests, {i.name: i for i in images}, room or storage(), published)


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
    ],
)
def test_plan_work(asked: int | None, there: Image | None, work: Work | None):
    made = plan(request(size=asked), images=(there,) if there else ())
    assert made == Plan((work,) if work else (), {})


@pytest.mark.parametrize(
    ("asked", "there", "reason"),
    [
        pytest.param(51, None, "share /data: 51G asked, 50G free", id="too large"),
        pytest.param(10**9, None, "share /data: 1000000000G asked, 50G free", id="absurd"),
        pytest.param(61, image(), "share /data: 61G asked, 50G free", id="grow too large"),
        pytest.param(
            9, image(), "share /data: 9G asked, it has 10G; a share never shrinks", id="shrink"
        ),
        pytest.param(
            9,
            image(size=None),
            "share /data: 9G asked, it has no limit; a share never shrinks",
            id="limit put on",
        ),
    ],
)
def test_plan_refusal(asked: int | None, there: Image | None, reason: str):
    made = plan(request(size=asked), images=(there,) if there else ())
    assert made == Plan((), {"/data": reason})


def test_plan_one_byte_too_little():
    room = storage(10)
    short = replace(room, free_bytes=room.free_bytes - 1)
    assert plan(request(), room=short).refusals == {"/data": "share /data: 10G asked, 9G free"}
    assert plan(request(), room=room).work == (Work("/data", 10),)


def test_plan_no_limit_needs_a_first_gib():
    assert plan(request(size=None), room=storage(1)).work == (Work("/data", None),)
    refused = plan(request(size=None), room=storage(0))
    assert refused == Plan((), {"/data": "share /data: no limit asked, 0G free"})


def test_plan_no_limit_is_promised_nothing():
    # Else the room that it doesn't take would be found again by the next plan, in the same hook.
    both = plan(request(1, "/a", None), request(2, "/b", 50))
    assert both.work == (Work("/a", None), Work("/b", 50))


def test_plan_no_limit_follows_the_storage():
    # Also what a kill leaves right after the limit was taken off: the file is not longer yet.
    there = replace(image(), is_limited=False)
    assert plan(request(size=None), images=(there,)).work == (Work("/data", None),)


def test_plan_granted_share_is_not_refused_on_a_full_storage():
    trimmed = replace(image(), allocated_bytes=GIB)
    assert plan(request(), images=(trimmed,), room=storage(0)) == Plan((), {})


def test_plan_one_name_takes_the_largest_size():
    assert plan(request(1, size=5), request(2, size=20)).work == (Work("/data", 20),)
    assert plan(request(1, size=5), request(2, size=None)).work == (Work("/data", None),)


def test_plan_space_is_promised_once_in_order_of_integration():
    made = plan(
        request(3, "/c", 10), request(1, "/a", 30), request(2, "/b", 30), request(4, "/d", 10)
    )
    assert made.work == (Work("/a", 30), Work("/c", 10), Work("/d", 10))
    assert made.refusals == {"/b": "share /b: 30G asked, 20G free"}


def test_plan_growth_and_new_share_compete():
    made = plan(request(1, "/old", 50), request(2, "/new", 20), images=(image("/old"),))
    assert made.work == (Work("/old", 50),)
    assert made.refusals == {"/new": "share /new: 20G asked, 10G free"}


def test_plan_lost_share_is_never_made():
    made = plan(request(), published=frozenset({"/data"}))
    reason = "share /data: its image is not here; attach the storage that holds it"
    assert made == Plan((), {"/data": reason})


def test_plan_published_share_grows():
    made = plan(request(size=20), images=(image(),), published=frozenset({"/data"}))
    assert made == Plan((Work("/data", 20),), {})


@pytest.mark.parametrize("there", [(), (image(),)])
def test_plan_request_with_error_changes_nothing(there: tuple[Image, ...]):
    wrong = request(size=None, error="size 'ten': use whole gigabytes")
    assert plan(wrong, images=there) == Plan((), {})
    assert plan(wrong, request(2, size=20), images=there).work == (Work("/data", 20),)


def test_exports_of_all_that_ask():
    found = shares.exports(
        [
            request(2, "/b", clients="10.0.0.2"),
            request(1, "/a", clients="10.0.0.1,2001:db8::1", allowlist="192.0.2.0/24,10.0.0.1"),
            request(3, "/a", clients="10.0.0.3", error="size 'ten'"),
            request(4, "/absent"),
        ],
        {"/a": image("/a"), "/b": image("/b"), "/unasked": image("/unasked")},
    )
    a = ("10.0.0.1", "10.0.0.3", "192.0.2.0/24", "2001:db8::1")
    assert found == (
        Export("/a", image().uuid, tuple(map(ip_network, a))),
        Export("/b", image().uuid, (ip_network("10.0.0.2"),)),
    )
    assert found[0].path == shares.EXPORT_ROOT / shares.share_id("/a")


def test_exports_nothing_to_nobody():
    assert shares.exports([request(clients="")], {"/data": image()}) == ()


@pytest.mark.parametrize(
    ("there", "asked", "needed"),
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
    assert shares.needed_bytes(there, asked) == needed


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


Known = tuple[list[ShareRequest], dict[str, Image], Storage, frozenset[str]]


@st.composite
def _facts(draw: st.DrawFn) -> Known:
    """Requests with distinct integrations, images, a storage, and what was published."""
    requests = [
        request(
            integration_id,
            draw(_names),
            draw(_sizes),
            clients=draw(st.sampled_from(["", "10.0.0.1", "10.0.0.2,2001:db8::/64"])),
            error=draw(st.sampled_from(["", "", "size 'ten'"])),
        )
        for integration_id in range(draw(st.integers(0, 6)))
    ]
    images = {
        name: replace(there, allocated_bytes=draw(st.sampled_from([there.allocated_bytes, GIB])))
        for name, size, longer in draw(st.lists(st.tuples(_names, _sizes, st.integers(0, 5))))
        if (there := image(name, size, (size or 100) + longer))
    }
    room = Storage(100 * GIB, draw(st.integers(0, 100 * GIB)))
    return requests, images, room, draw(st.frozensets(_names))


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
        allocated = max(old.allocated_bytes if old else 0, 0 if work.size is None else wanted)
        free -= allocated - (old.allocated_bytes if old else 0)
        after[work.name] = replace(
            old or image(work.name),
            file_bytes=length,
            filesystem_bytes=length,
            allocated_bytes=allocated,
            is_limited=work.size is not None,
        )
    return after, replace(room, free_bytes=free)


@given(_facts())
def test_plan_never_promises_more_than_there_is(facts: Known):
    requests, images, room, published = facts
    made = shares.plan(requests, images, room, published)
    limited = [work for work in made.work if work.size is not None]
    needed = sum(shares.needed_bytes(images.get(w.name), w.size) for w in limited)
    assert needed <= room.available_bytes
    left = _apply(made, images, room)[1].free_bytes
    assert left >= room.free_bytes - room.available_bytes


@given(_facts())
def test_plan_done_leaves_no_work(facts: Known):
    requests, images, room, published = facts
    images, room = _apply(shares.plan(requests, images, room, published), images, room)
    assert shares.plan(requests, images, room, published).work == ()


@given(_facts(), st.randoms(use_true_random=False))
def test_plan_is_the_same_in_any_order(facts: Known, random: Random):
    requests, images, room, published = facts
    shuffled = random.sample(requests, len(requests))
    turned = dict(reversed(images.items()))
    expected = shares.plan(requests, images, room, published)
    assert shares.plan(shuffled, turned, room, published) == expected
    assert shares.exports(shuffled, turned) == shares.exports(requests, images)


@given(_facts())
def test_plan_never_makes_smaller_or_anew(facts: Known):
    requests, images, room, published = facts
    for work in shares.plan(requests, images, room, published).work:
        there = images.get(work.name)
        if there is None:
            assert work.name not in published
        elif work.size is not None:
            assert there.size is not None
            assert work.size >= there.size

# SPDX-License-Identifier: Apache-2.0
"""What sizes and names mean."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charms.storage_libs.v0.nfs_interfaces import NO_LIMIT, UNKNOWN, Size, parse_name
from values import (
    GIB,
    Image,
    Work,
    is_remote,
    parse_share_name,
    share_directory,
    share_id,
    share_name_of,
)

MODELS = ("0b5bd56d-6b2f-4ba1-bd3c-7a7f1e6c0e0a", "1b5bd56d-6b2f-4ba1-bd3c-7a7f1e6c0e0b")
_names = st.from_regex(r"[A-Za-z0-9/._:@+-]{1,20}", fullmatch=True)
# What looks like the name of another model's share meets often.
_hostile_names = st.lists(
    st.sampled_from(["a", "b", "@", *MODELS, *(f"@{it}" for it in MODELS)]), min_size=1, max_size=4
).map("".join)


def test_sizes_are_ordered():
    sizes = [UNKNOWN, Size(1), Size(2), Size(10**12), NO_LIMIT]
    assert sorted([NO_LIMIT, *sizes[:-1]]) == sizes
    assert [it.is_known for it in sizes] == [False, True, True, True, True]
    assert [it.is_limited for it in sizes] == [True, True, True, True, False]


@pytest.mark.parametrize(
    ("plain", "size", "shown"),
    [(None, NO_LIMIT, "no limit"), (0, UNKNOWN, "unknown"), (7, Size(7), "7G")],
)
def test_size_as_the_interface_has_it(plain: int | None, size: Size, shown: str):
    assert Size.of(plain) == size
    assert size.plain == plain
    assert str(size) == shown


@pytest.mark.parametrize(
    ("application", "is_of_another_model"),
    [
        (f"remote-{'0123456789abcdef' * 2}", True),
        ("mysql", False),
        ("remote-desktop", False),
        (f"remote-{'0' * 33}", False),
        (f"x-remote-{'0' * 32}", False),
    ],
)
def test_is_remote(application: str, is_of_another_model: bool):
    assert is_remote(application) is is_of_another_model


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
    assert re.fullmatch(re.escape(readable) + "[0-9a-f]{12}", share_id(name))


def test_share_id_never_changes():
    # It is in the paths that clients were given, and in the names of the images.
    assert share_id("/data") == "data_bd47413b5c03"
    assert str(share_directory("/data")) == "/srv/nfs/data_bd47413b5c03"


@given(st.lists(st.text(), unique=True))
def test_share_id_is_plain_and_of_one_name_only(names: list[str]):
    ids = [share_id(name) for name in names]
    assert len(set(ids)) == len(names)
    assert all(re.fullmatch(r"[a-z0-9_]{12,40}", text) for text in ids)


@given(_hostile_names | _names, _hostile_names | _names)
def test_models_never_have_a_share_in_common(one: str, other: str):
    assert share_name_of(MODELS[0], one) != share_name_of(MODELS[1], other)


@given(_hostile_names | _names, _hostile_names | _names)
def test_in_a_model_a_name_is_a_share(one: str, other: str):
    names = {share_name_of(MODELS[0], one), share_name_of(MODELS[0], other)}
    assert len(names) == len({one, other})


def test_who_names_nothing_has_no_share():
    assert share_name_of(MODELS[0], "") == ""


@given(_names.filter(lambda name: ".." not in name) | st.just("x" * 128))
def test_names_of_all_models_are_valid(name: str):
    assert parse_share_name(name) == parse_name(name)
    of_model = share_name_of(MODELS[0], name)
    assert parse_share_name(of_model) == of_model


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a b",
        "../x",
        "x" * 129,
        f"a b@{MODELS[0]}",
        f"a/../b@{MODELS[0]}",
        f"{'x' * 129}@{MODELS[0]}",
        f"{'x' * 128}@{MODELS[0][:-1]}",
        f"a@{MODELS[0]}\n",
    ],
)
def test_invalid_names(text: str):
    with pytest.raises(ValueError, match="share name"):
        parse_share_name(text)


@pytest.mark.parametrize(
    ("is_limited", "is_overcommitted", "is_sparse"),
    [(True, False, False), (False, False, True), (True, True, True)],
)
def test_sparse_is_what_takes_room_as_it_is_filled(
    is_limited: bool, is_overcommitted: bool, is_sparse: bool
):
    image = Image("a", "u", Path(), 9 * GIB, 5 * GIB + 1, GIB, is_limited, is_overcommitted)
    assert image.is_sparse is is_sparse
    assert image.size == (Size(5) if is_limited else NO_LIMIT)
    assert Work("a", 9, is_limited, is_overcommitted).is_sparse is is_sparse

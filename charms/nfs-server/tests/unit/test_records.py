# SPDX-License-Identifier: Apache-2.0
"""JSON: written and read back; what others wrote is read as far as it can be."""

import json
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import records
from charms.storage_libs.v0.nfs_interfaces import NO_LIMIT, SQUASHES, Permissions, Size
from values import DeletedReport, Placement, Report, Restored, ShareReport

UNIT = "nfs-server/1"
NETWORKS = ip_network("10.0.0.0/8"), ip_network("2001:db8::1/128")
OF_MODEL = "data@0b5bd56d-6b2f-4ba1-bd3c-7a7f1e6c0e0a"
_names = st.from_regex(r"/[a-z._-]{1,9}", fullmatch=True).filter(lambda it: it != "/..")
_names = _names | st.just(OF_MODEL)
_sizes = st.builds(Size.of, st.none() | st.integers(0, 10**12))
_networks = st.lists(st.ip_addresses().map(ip_network), max_size=3).map(tuple)
_texts = st.text(max_size=9)
_plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_texts, inner, max_size=3),
    max_leaves=9,
)
_permissions = st.builds(
    Permissions,
    owner=st.sampled_from(["", "0:0", "1000:2147483647"]),
    mode=st.sampled_from(["", "0000", "3777"]),
    squash=st.sampled_from(["", *SQUASHES]),
)
_extra = st.dictionaries(st.text(max_size=9).map("new-{}".format), _plain, max_size=3)
_placements = st.builds(
    Placement,
    unit=_texts,
    uuid=_texts,
    application=_texts,
    is_manual=st.booleans(),
    size=_sizes,
    grants=_networks,
    guests=st.lists(_texts, max_size=3).map(tuple),
    unreadable=st.lists(st.integers(0, 99), max_size=3).map(tuple),
    permissions=_permissions,
    readers=st.lists(_texts, max_size=3).map(tuple),
    reading=st.lists(st.integers(0, 99), max_size=3).map(tuple),
    restored=_texts,
    extra=_extra,
)
_shares = st.builds(
    ShareReport,
    uuid=_texts,
    size=_sizes,
    refusal=_texts,
    error=_texts,
    networks=_networks,
    readers=_networks,
    permissions=_permissions,
)
_deleted = st.builds(DeletedReport, uuid=_texts, size=_sizes, day=_texts, deletion=_texts)
_restored = st.builds(Restored, uuid=_texts, deletion=_texts, placement=_placements)
_reports = st.builds(
    Report,
    free=st.integers(0, 10**9),
    is_on_root=st.booleans(),
    shares=st.dictionaries(_names, _shares, max_size=3),
    addresses=st.dictionaries(st.integers(0, 99), st.ip_addresses().map(str), max_size=3),
    foreign=st.lists(_texts, max_size=3).map(tuple),
    deleted=st.lists(_texts, max_size=3).map(tuple),
    restorable=st.dictionaries(_names, _deleted, max_size=3),
    restored=st.dictionaries(_names, _restored, max_size=3),
)


def read_placements(text: str) -> dict[str, Placement]:
    return records.read_placements(records.parse(text))


def read_report(text: str) -> Report:
    return records.REPORT.read(records.parse(text))


def write_placements(placements: dict[str, Placement]) -> str:
    return records.dump(records.write_placements(placements))


def write_report(report: Report) -> str:
    return records.dump(records.REPORT.write(report))


@given(st.dictionaries(_names, _placements, max_size=4))
def test_placements_are_read_as_they_were_written(placements: dict[str, Placement]):
    assert read_placements(write_placements(placements)) == placements


@given(_reports)
def test_reports_are_read_as_they_were_written(report: Report):
    assert read_report(write_report(report)) == report


# Revision 62dc48f and this one read each other's: a refresh may be taken back.

OLD_PLACEMENTS = {
    "/hand": {
        "owner": UNIT,
        "by-hand": True,
        "size": None,
        "grants": ["10.0.0.0/8", "2001:db8::1/128"],
        "slips": [3],
    },
    "/made": {"owner": UNIT, "uuid": "u1"},
    "/nowhere": {"by-hand": True, "size": 20},
}
OLD_REPORT = {
    "free": 50,
    "shares": {
        "/made": {
            "uuid": "u1",
            "size": 10,
            "error": "share /made: 20G asked, 5G free",
            "networks": ["10.0.0.0/8"],
        },
        "/open": {"uuid": "u2", "size": None},
    },
    "addresses": {"3": "10.0.0.1", "4": "2001:db8::1"},
    "foreign": ["x.img"],
    "deleted": ["u0"],
}


def test_what_the_old_revision_wrote():
    placements = {
        "/hand": Placement(
            UNIT, is_manual=True, size=NO_LIMIT, grants=NETWORKS, unreadable=(3,), application=""
        ),
        "/made": Placement(UNIT, "u1"),
        "/nowhere": Placement(is_manual=True, size=Size(20)),
    }
    report = Report(
        free=50,
        shares={
            "/made": ShareReport(
                "u1", Size(10), error="share /made: 20G asked, 5G free", networks=NETWORKS[:1]
            ),
            "/open": ShareReport("u2", NO_LIMIT),
        },
        addresses={3: "10.0.0.1", 4: "2001:db8::1"},
        foreign=("x.img",),
        deleted=("u0",),
    )
    assert read_placements(json.dumps(OLD_PLACEMENTS)) == placements
    assert read_report(json.dumps(OLD_REPORT)) == report
    # And it reads what is written now: the same, with nothing left out.
    assert json.loads(write_placements(placements)) == OLD_PLACEMENTS
    assert json.loads(write_report(report)) == OLD_REPORT


def test_what_the_old_revision_does_not_know_stands_beside():
    now = Placement(UNIT, "u1", "web", grants=NETWORKS[:1], guests=("remote-1",))
    assert records.PLACEMENT.write(now) == {
        "owner": UNIT,
        "uuid": "u1",
        "application": "web",
        "grants": ["10.0.0.0/8"],
        "guests": ["remote-1"],
    }
    said = Report(5, is_on_root=True, shares={"/a": ShareReport("u1", Size(1), "no", "bad")})
    assert records.REPORT.write(said) == {
        "free": 5,
        "on-root": True,
        "shares": {"/a": {"uuid": "u1", "size": 1, "refusal": "no", "error": "bad"}},
    }


def test_who_owns_and_who_reads_stands_beside():
    asked = Permissions("1:2", "0770", "all")
    plain = {"owner": "1:2", "mode": "0770", "squash": "all"}
    now = Placement(UNIT, permissions=asked, readers=("10.0.0.1/32", "remote-1"), reading=(3,))
    assert records.PLACEMENT.write(now) == {
        "owner": UNIT,
        "permissions": plain,
        "readers": ["10.0.0.1/32", "remote-1"],
        "reading": [3],
    }
    said = ShareReport("u1", networks=NETWORKS, readers=NETWORKS[1:], permissions=asked)
    assert records.SHARE_REPORT.write(said) == {
        "uuid": "u1",
        "networks": ["10.0.0.0/8", "2001:db8::1/128"],
        "readers": ["2001:db8::1/128"],
        "permissions": plain,
    }
    bad = {"owner": "0:0,insecure", "mode": 511, "squash": ["all"], "acl": "x"}
    assert records.PLACEMENT.read({"permissions": bad}).permissions == Permissions()


def test_what_is_written_is_short_and_always_the_same():
    one, other = Placement(UNIT, "u1"), Placement(UNIT, "u2")
    text = write_placements({"/a": one, "/b": other})
    assert text == write_placements({"/b": other, "/a": one})
    assert (
        text
        == '{"/a":{"owner":"nfs-server/1","uuid":"u1"},"/b":{"owner":"nfs-server/1","uuid":"u2"}}'
    )
    assert write_report(Report()) == "{}"
    assert write_placements({"/a": Placement()}) == '{"/a":{}}'


@given(_extra, _placements)
def test_what_another_revision_wrote_is_kept(extra: dict[str, Any], placement: Placement):
    written = {**extra, **records.PLACEMENT.write(replace(placement, extra={}))}
    read = records.PLACEMENT.read(written)
    assert records.PLACEMENT.write(read) == written
    # Also when what this revision knows is changed.
    changed = records.PLACEMENT.write(replace(read, uuid="another"))
    assert {key: changed[key] for key in extra} == extra


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        "null",
        '"x"',
        "[" * 100_000,
        '{"a":' * 100_000,
        '{"shares": []}',
        "\ud800",
    ],
)
def test_what_is_no_object_says_nothing(text: str):
    assert read_report(text) == Report()


@pytest.mark.parametrize("raw", [b"", b"\xff\xfe\x00", b"\xc3(", b'{"free": 1', b"\0" * 99])
def test_what_is_no_text_says_nothing(raw: bytes):
    assert records.parse(raw) == {}


@pytest.mark.parametrize(
    ("plain", "placements"),
    [
        ({"/a": 7, "../x": {}, "a b": {}, "": {}}, {"/a": Placement()}),
        ({"/a": {"owner": 7, "uuid": None, "by-hand": "yes"}}, {"/a": Placement()}),
        ({"/a": {"size": -5}}, {"/a": Placement()}),
        ({"/a": {"size": True}}, {"/a": Placement()}),
        ({"/a": {"size": 2**64}}, {"/a": Placement()}),
        ({"/a": {"size": "5", "slips": ["1", 2, -1]}}, {"/a": Placement(unreadable=(2,))}),
        ({"/a": {"guests": ["b", 7, None]}}, {"/a": Placement(guests=("b",))}),
        (
            {"/a": {"grants": ["*(rw)", 7, "10.0.0.0/8", "10.0.0.1/8"]}},
            {"/a": Placement(grants=NETWORKS[:1])},
        ),
        # A number is an address to Python's ipaddress.
        ({"/a": {"grants": [1, 2**32]}}, {"/a": Placement()}),
        ({"/a": {"grants": "10.0.0.0/8"}}, {"/a": Placement()}),
    ],
)
def test_hostile_placements(plain: object, placements: dict[str, Placement]):
    assert read_placements(json.dumps(plain)) == placements


def test_hostile_report():
    plain = {
        "free": "50",
        "on-root": 1,
        "shares": {"/a": {"size": 1e99}, "\n": {}, "/b": []},
        "addresses": {
            "x": "10.0.0.1",
            "1": "host\n",
            "2": 7,
            "3": "10.0.0.1",
            "9" * 5000: "::1",
        },
        "foreign": 7,
        "deleted": ["u1", 7],
        "restorable": {"/a": {"uuid": 7, "day": []}, "../x": {"uuid": "u1"}, "/b": 7},
        "restored": {"/a": {"uuid": "u1", "placement": {"grants": ["*(rw)"]}}, "a b": {}},
    }
    assert read_report(json.dumps(plain)) == Report(
        shares={"/a": ShareReport(), "/b": ShareReport()},
        addresses={3: "10.0.0.1"},
        deleted=("u1",),
        restorable={"/a": DeletedReport(), "/b": DeletedReport()},
        restored={"/a": Restored("u1")},
    )


@given(_plain)
def test_a_size_that_is_read_is_one(plain: object):
    read = records.PLACEMENT.read({"size": plain}).size
    assert Size() <= read <= NO_LIMIT
    assert (read == NO_LIMIT) == (plain is None)


@pytest.mark.parametrize(
    ("read", "good", "bad"),
    [
        (records.text, "x", [7, None, [], True]),
        (records.flag, False, [0, 1, None, "false"]),
        (records.number, 7, [-1, True, 7.0, "7", None]),
        (records.real, 7.5, [True, "7", None, 10**400]),
    ],
)
def test_wrong_types(read: Callable[[Any], Any], good: object, bad: list[object]):
    record = records.Record(Report, free=records.Field("it", read))
    assert record.read({"it": good}).free == good
    assert all(record.read({"it": it}) == Report() for it in bad)


@given(st.text() | _plain.map(json.dumps))
def test_anything_is_read(text: str):
    read_report(text)
    read_placements(text)


@given(
    st.dictionaries(
        _names,
        st.dictionaries(
            st.sampled_from(["owner", "uuid", "by-hand", "size", "grants", "slips", "guests"]),
            _plain,
        ),
    )
)
def test_what_was_read_is_written_and_read_alike(plain: dict[str, dict[str, object]]):
    once = read_placements(json.dumps(plain))
    assert read_placements(write_placements(once)) == once

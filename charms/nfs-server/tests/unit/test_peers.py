# SPDX-License-Identifier: Apache-2.0
"""What stands in the peer databags: written and read back, or read as nothing."""

import json
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

import peers
from placement import Placement, Report, ShareReport

UNIT = "nfs-server/1"
NETWORKS = ip_network("10.0.0.0/8"), ip_network("2001:db8::1/128")
_names = st.from_regex(r"/[a-z._-]{1,9}", fullmatch=True).filter(lambda name: name != "/..")
_sizes = st.none() | st.integers(0, 10**12)
_networks = st.lists(st.ip_addresses().map(ip_network), max_size=3).map(tuple)
_texts = st.text(max_size=9)
_placements = st.builds(
    Placement,
    owner=_texts,
    uuid=_texts,
    by_hand=st.booleans(),
    size=_sizes,
    grants=_networks,
    slips=st.lists(st.integers(0, 99), max_size=3).map(tuple),
)
_shares = st.builds(ShareReport, uuid=_texts, size=_sizes, error=_texts, networks=_networks)
_reports = st.builds(
    Report,
    free=st.integers(0, 10**9),
    shares=st.dictionaries(_names, _shares, max_size=3),
    addresses=st.dictionaries(st.integers(0, 99), st.ip_addresses().map(str), max_size=3),
    foreign=st.lists(_texts, max_size=3).map(tuple),
    deleted=st.lists(_texts, max_size=3).map(tuple),
)


@given(st.dictionaries(_names, _placements, max_size=4))
def test_placements_are_read_as_they_were_written(placements: dict[str, Placement]):
    assert peers.parse_placements(peers.format_placements(placements)) == placements


@given(_reports)
def test_reports_are_read_as_they_were_written(report: Report):
    assert peers.parse_report(peers.format_report(report)) == report


def test_what_is_written_is_short_and_sorted():
    made = Placement(UNIT, "u1")
    by_hand = Placement(UNIT, by_hand=True, size=None, grants=NETWORKS, slips=(3,))
    assert json.loads(peers.format_placements({"/b": made, "/a": by_hand})) == {
        "/a": {
            "owner": UNIT,
            "by-hand": True,
            "size": None,
            "grants": ["10.0.0.0/8", "2001:db8::1/128"],
            "slips": [3],
        },
        "/b": {"owner": UNIT, "uuid": "u1"},
    }
    one = peers.format_placements({"/a": made, "/b": made})
    assert one == peers.format_placements({"/b": made, "/a": made})
    assert peers.format_report(Report()) == "{}"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "7", "null", '"x"', "[" * 100_000, '{"shares": []}', "\ud800"]
)
def test_what_is_no_object_says_nothing(text: str):
    assert peers.parse_report(text) == Report()


@pytest.mark.parametrize(
    ("plain", "placements"),
    [
        ({"/a": 7, "../x": {}, "a b": {}, "": {}}, {"/a": Placement()}),
        ({"/a": {"owner": 7, "uuid": None, "by-hand": "yes"}}, {"/a": Placement()}),
        ({"/a": {"size": -5, "colour": "red"}}, {"/a": Placement()}),
        ({"/a": {"size": "5", "slips": ["1", 2]}}, {"/a": Placement(slips=(2,))}),
        (
            {"/a": {"grants": ["*(rw)", 7, "10.0.0.0/8", "10.0.0.1/8"]}},
            {"/a": Placement(grants=NETWORKS[:1])},
        ),
        ({"/a": {"grants": "10.0.0.0/8"}}, {"/a": Placement()}),
    ],
)
def test_hostile_placements(plain: object, placements: dict[str, Placement]):
    assert peers.parse_placements(json.dumps({"/": {}}))
    assert peers.parse_placements(json.dumps(plain)) == placements


def test_hostile_report():
    plain = {
        "free": "50",
        "shares": {"/a": {"size": 1e99}, "\n": {}},
        "addresses": {"x": "10.0.0.1", "1": "host\n", "2": 7, "3": "10.0.0.1", "9" * 5000: "::1"},
        "foreign": 7,
        "deleted": ["u1", 7],
    }
    assert peers.parse_report(json.dumps(plain)) == Report(
        shares={"/a": ShareReport()}, addresses={3: "10.0.0.1"}, deleted=("u1",)
    )


@given(st.text() | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps))
def test_anything_is_read(text: str):
    peers.parse_report(text)
    peers.parse_placements(text)

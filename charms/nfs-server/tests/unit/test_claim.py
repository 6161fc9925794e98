# SPDX-License-Identifier: Apache-2.0
"""One nfs-server a machine: who has it, and when it is free."""

import json
from pathlib import Path

import pytest

import claim
from claim import Claim

MODEL = "0b5bd56d-6b2f-4ba1-bd3c-7a7f1e6c0e0a"


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "lib/claim.json"
    monkeypatch.setattr(claim, "CLAIM", path)
    return path


def of(tmp_path: Path, unit: str, model: str = MODEL) -> Claim:
    """The claim of a unit, whose charm is there."""
    charm = tmp_path / f"{model}-{unit.replace('/', '-')}"
    charm.mkdir(exist_ok=True)
    return Claim(unit, model, str(charm))


def test_the_first_one_has_it(tmp_path: Path):
    first, second = of(tmp_path, "nfs-server/0"), of(tmp_path, "nfs-server/1")
    assert claim.find_other(first) == ""
    claim.take(first)
    assert claim.find_other(first) == ""
    assert claim.find_other(second) == "nfs-server/0"


def test_units_of_two_models_with_one_name(tmp_path: Path):
    first, second = of(tmp_path, "nfs-server/0"), of(tmp_path, "nfs-server/0", "another")
    claim.take(first)
    assert claim.find_other(second) == "nfs-server/0"


def test_who_was_removed_by_force_holds_nobody_up(tmp_path: Path):
    first, second = of(tmp_path, "nfs-server/0"), of(tmp_path, "nfs-server/1")
    claim.take(first)
    Path(first.charm).rmdir()
    assert claim.find_other(second) == ""
    claim.take(second)
    assert claim.find_other(first) == "nfs-server/1"


def test_its_own_is_not_written_anew(tmp_path: Path, path: Path):
    first = of(tmp_path, "nfs-server/0")
    claim.take(first)
    before = path.stat()
    claim.take(first)
    after = path.stat()  # When it was read last may differ.
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_its_own_in_another_directory_is_its_own(tmp_path: Path, path: Path):
    claim.take(of(tmp_path, "nfs-server/0"))
    moved = Claim("nfs-server/0", MODEL, str(tmp_path))
    assert claim.find_other(moved) == ""
    claim.take(moved)
    assert json.loads(path.read_text())["charm"] == str(tmp_path)


def test_the_directory_of_two_units_is_the_later_ones(tmp_path: Path, path: Path):
    """As on a machine that is used for one model after another: Juju calls both units the same."""
    first = of(tmp_path, "nfs-server/0")
    claim.take(first)
    later = Claim("nfs-server/0", "another model", first.charm)
    assert claim.find_other(later) == ""
    claim.take(later)
    assert claim.is_held(later)


def test_only_ones_own_is_released(tmp_path: Path, path: Path):
    first, second = of(tmp_path, "nfs-server/0"), of(tmp_path, "nfs-server/1")
    claim.take(first)
    claim.release(second)
    assert claim.find_other(second) == "nfs-server/0"
    claim.release(first)
    assert not path.exists()
    claim.release(first)
    assert claim.find_other(second) == ""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[" * 100_000,
        '{"unit": "nfs-server/9"}',
        '{"unit": "nfs-server/9", "model": 7, "charm": ["/"]}',
        '{"unit": "nfs-server/9", "charm": "\\u0000"}',
        '{"unit": "nfs-server/9", "charm": "\\ud800"}',
        json.dumps({"unit": "nfs-server/9", "charm": "/" + "x" * 5000}),
    ],
    ids=lambda text: text[:40],
)
def test_what_can_not_be_read_holds_nobody_up(tmp_path: Path, path: Path, text: str):
    path.parent.mkdir()
    path.write_text(text)
    mine = of(tmp_path, "nfs-server/0")
    assert claim.find_other(mine) == ""
    claim.take(mine)
    assert claim.find_other(of(tmp_path, "nfs-server/1")) == "nfs-server/0"


def test_what_another_revision_wrote_is_kept(tmp_path: Path, path: Path):
    mine = of(tmp_path, "nfs-server/0")
    claim.take(mine)
    path.write_text(json.dumps({**json.loads(path.read_text()), "since": [2026]}))
    claim.take(mine)
    assert json.loads(path.read_text()) == {
        "unit": "nfs-server/0",
        "model": MODEL,
        "charm": mine.charm,
        "since": [2026],
    }
    # But not what is another unit's.
    Path(mine.charm).rmdir()
    claim.take(of(tmp_path, "nfs-server/1"))
    assert "since" not in json.loads(path.read_text())

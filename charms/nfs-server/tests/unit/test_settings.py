# SPDX-License-Identifier: Apache-2.0
"""The operator's settings: what is allowed, and which are in force."""

import json
from pathlib import Path

import pytest
import yaml

import settings
from charms.storage_libs.v0.nfs_interfaces import NO_LIMIT, Size
from settings import Settings, SettingsError

METADATA = Path(settings.__file__).parent.parent / "charmcraft.yaml"
OPTIONS = yaml.safe_load(METADATA.read_text())["config"]["options"]
DEFAULTS = {name: option["default"] for name, option in OPTIONS.items()}


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "new/settings.json"
    monkeypatch.setattr(settings, "IN_FORCE", path)
    return path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def test_defaults_are_those_of_the_charm():
    assert settings.parse(DEFAULTS) == Settings()


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("overcommit-ratio", 0.99, "overcommit-ratio 0.99: use a number from 1 to 100"),
        ("overcommit-ratio", 101, "overcommit-ratio 101: use a number from 1 to 100"),
        ("overcommit-ratio", float("nan"), "overcommit-ratio nan: use a number from 1 to 100"),
        ("overcommit-ratio", float("inf"), "overcommit-ratio inf: use a number from 1 to 100"),
        ("threads", -1, "threads -1: use 1 to 1024, or 0 for a number that fits the machine"),
        ("threads", 1025, "threads 1025: use 1 to 1024, or 0 for a number that fits the machine"),
        ("squash", "", "squash '': use none, root, all"),
        ("keep-deleted", -1, "keep-deleted -1: use 1 to 3650 days, or 0 to delete at once"),
        ("keep-deleted", 3651, "keep-deleted 3651: use 1 to 3650 days, or 0 to delete at once"),
        ("squash", "all,insecure", "squash 'all,insecure': use none, root, all"),
        ("squash", "x" * 99, f"squash '{'x' * 40}': use none, root, all"),
        (
            "filesystem-share",
            "../x",
            "filesystem-share: share name '../x': '..' is not allowed in it",
        ),
        (
            "filesystem-size",
            0,
            "filesystem-size: size '0': use whole gigabytes from 1, or -1 for no limit",
        ),
    ],
)
def test_bad(option: str, value: float | str, says: str):
    with pytest.raises(SettingsError) as caught:
        settings.parse(DEFAULTS | {option: value})
    assert str(caught.value) == says


@pytest.mark.parametrize(
    ("option", "value", "parsed"),
    [
        ("overcommit-ratio", 1, 1.0),
        ("overcommit-ratio", 100.0, 100.0),
        ("threads", 1024, 1024),
        ("squash", "root", "root"),
        ("filesystem-share", "/hpc", "/hpc"),
        ("filesystem-size", 7, Size(7)),
        ("filesystem-size", -1, NO_LIMIT),
    ],
)
def test_good(option: str, value: float | str, parsed: object):
    found = settings.parse(DEFAULTS | {option: value})
    assert getattr(found, option.replace("-", "_")) == parsed


@pytest.mark.parametrize("days", [0, 1, 3650])
def test_days(days: int):
    assert settings.parse(DEFAULTS | {"keep-deleted": days}).keep_deleted_days == days


@pytest.mark.parametrize(
    "good",
    [
        Settings(),
        Settings(2.5, 7, nfsv3=True, squash="all"),
        Settings(filesystem_share="/hpc", filesystem_size=Size(7)),
        Settings(keep_deleted_days=0),
    ],
)
def test_in_force(good: Settings):
    assert settings.read_in_force() is None
    assert settings.keep(good)
    assert settings.read_in_force() == good
    assert not settings.keep(good)


def test_what_the_old_revision_wrote(path: Path):
    old = {
        "overcommit_ratio": 2.5,
        "threads": 7,
        "nfsv3": True,
        "squash": "all",
        "filesystem_share": "/hpc",
        "filesystem_size": 20,
    }
    write(path, json.dumps(old) + "\n")
    assert settings.read_in_force() == Settings(2.5, 7, True, "all", "/hpc", Size(20))
    # It takes each key for an argument, and what isn't there for the default.
    settings.keep(Settings(2.5, 7, True, "all", "/hpc", Size(20)))
    assert json.loads(path.read_text()) == old
    write(path, json.dumps({**old, "filesystem_size": None}))
    assert settings.read_in_force() == Settings(2.5, 7, True, "all", "/hpc", NO_LIMIT)
    settings.keep(Settings(threads=3))
    assert json.loads(path.read_text()) == {"threads": 3}


def test_what_another_revision_wrote_is_kept(path: Path):
    write(path, json.dumps({"threads": 7, "idmapping": {"domain": "x"}}))
    found = settings.read_in_force()
    assert found is not None
    assert found.threads == 7
    settings.keep(Settings(squash="root"))
    assert json.loads(path.read_text()) == {"idmapping": {"domain": "x"}, "squash": "root"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", Settings()),
        ("[]", Settings()),
        ('{"threads": 7', Settings()),
        ("[" * 100_000, Settings()),
        ('{"threads": "7", "nfsv3": 1, "squash": null}', Settings()),
        ('{"threads": "7", "nfsv3": true}', Settings(nfsv3=True)),
        ('{"filesystem_share": "../x", "nfsv3": true}', Settings(nfsv3=True)),
        ('{"filesystem_share": 7}', Settings()),
        (f'{{"overcommit_ratio": 1{"0" * 400}, "threads": 7}}', Settings(threads=7)),
        # What is not allowed is not in force: as a whole, which was checked as a whole.
        ('{"overcommit_ratio": NaN, "threads": 7}', None),
        ('{"overcommit_ratio": 1e999}', None),
        ('{"threads": 99999}', None),
        ('{"squash": "all,insecure"}', None),
    ],
    ids=lambda it: it[:40] if isinstance(it, str) else "",
)
def test_what_can_not_be_read_is_not_in_force(path: Path, text: str, found: Settings | None):
    write(path, text)
    assert settings.read_in_force() == found

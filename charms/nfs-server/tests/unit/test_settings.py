# SPDX-License-Identifier: Apache-2.0
"""The operator's settings: what is allowed, and which are in force."""

from pathlib import Path

import pytest
import yaml

import settings
from settings import Settings, SettingsError

METADATA = Path(settings.__file__).parent.parent / "charmcraft.yaml"
OPTIONS = yaml.safe_load(METADATA.read_text())["config"]["options"]
DEFAULTS = {name: option["default"] for name, option in OPTIONS.items()}


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
        ("squash", "all,insecure", "squash 'all,insecure': use none, root, all"),
        ("squash", "x" * 99, f"squash '{'x' * 40}': use none, root, all"),
    ],
)
def test_bad(option: str, value: float | str, says: str):
    with pytest.raises(SettingsError) as caught:
        settings.parse(DEFAULTS | {option: value})
    assert str(caught.value) == says


@pytest.mark.parametrize(
    ("option", "value"),
    [("overcommit-ratio", 1), ("overcommit-ratio", 100.0), ("threads", 1024), ("squash", "root")],
)
def test_good(option: str, value: float | str):
    parsed = settings.parse(DEFAULTS | {option: value})
    assert getattr(parsed, option.replace("-", "_")) == value


def test_in_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(settings, "IN_FORCE", tmp_path / "new/settings.json")
    assert settings.read_in_force() == Settings()
    good = Settings(2.5, 7, nfsv3=True, squash="all")
    assert settings.keep(good)
    assert settings.read_in_force() == good
    assert not settings.keep(good)

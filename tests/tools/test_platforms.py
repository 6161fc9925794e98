# SPDX-License-Identifier: Apache-2.0
"""The releases of Ubuntu that the charms are for, wherever they stand again."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
CHARMS = sorted(ROOT.glob("charms/*/charmcraft.yaml"))
OF_TESTS = sorted(
    [
        *ROOT.glob("examples/*/charmcraft.yaml"),
        *ROOT.glob("tests/integration/charms/*/charmcraft.yaml"),
    ]
)
PAGES = ["README.md", "SECURITY.md", *(f"charms/{it.parent.name}/README.md" for it in CHARMS)]

PYTHONS = {"22.04": "3.10", "24.04": "3.12", "26.04": "3.14"}
ARCHITECTURES = {"amd64", "arm64"}


def matrix(job: str) -> dict[str, Any]:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yaml").read_text())
    return workflow["jobs"][job]["strategy"]["matrix"]


@pytest.mark.parametrize("path", CHARMS + OF_TESTS, ids=lambda path: path.parent.name)
def test_charms_are_for_the_same_platforms(path: Path):
    platforms = yaml.safe_load(path.read_text())["platforms"]
    assert set(platforms) == {
        f"ubuntu@{base}:{architecture}" for base in PYTHONS for architecture in ARCHITECTURES
    }


def test_ci_packs_for_each():
    assert matrix("unit")["python"] == list(PYTHONS.values())
    assert matrix("pack")["base"] == list(PYTHONS)
    # On Juju, all but the one whose virtual machines can't serve.
    assert ["22.04", *matrix("integration")["base"]] == list(PYTHONS)
    assert set(matrix("pack")["architecture"]) == ARCHITECTURES
    assert {it.parent.name for it in CHARMS} < set(matrix("pack")["charm"])


def test_the_suite_takes_each():
    text = (ROOT / "tests/integration/conftest.py").read_text()
    assert all(base in text for base in PYTHONS)


@pytest.mark.parametrize("path", CHARMS, ids=lambda path: path.parent.name)
def test_the_lock_is_for_the_oldest_python_and_later(path: Path):
    oldest = next(iter(PYTHONS.values()))
    assert f'requires-python = ">={oldest}"' in (path.parent / "pyproject.toml").read_text()
    assert f" --python-version={oldest} " in (ROOT / "tox.ini").read_text()


@pytest.mark.parametrize("page", PAGES)
def test_pages_name_them(page: str):
    text = " ".join((ROOT / page).read_text().split())
    assert re.search(r"Ubuntu 22\.04, 24\.04 (and|or) 26\.04", text)


@pytest.mark.parametrize("path", CHARMS, ids=lambda path: path.parent.name)
def test_terraform_names_them(path: Path):
    text = (path.parent / "terraform/variables.tf").read_text()
    assert set(re.findall(r"`ubuntu@([0-9.]+)`", text)) == set(PYTHONS)

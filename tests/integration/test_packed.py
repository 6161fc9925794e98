# SPDX-License-Identifier: Apache-2.0
"""The charms as they were packed: all that Juju and Charmhub need, and nothing else."""

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

MAX_MIB = 5
NEEDED = {"LICENSE", "README.md", "dispatch", "icon.svg", "manifest.yaml", "metadata.yaml"}
UNWANTED = re.compile(r"(^|/)(tests|terraform|\.git|\.cache|\.tox)/|\.charm$|(^|/)tox\.ini$")
REPOSITORY = Path(__file__).resolve().parent.parent.parent
PYTHONS = {"ubuntu@22.04": "3.10", "ubuntu@24.04": "3.12", "ubuntu@26.04": "3.14"}
MANYLINUX = {"amd64": "manylinux2014_x86_64", "arm64": "manylinux2014_aarch64"}
# What Juju reads, by the file it reads it from, and where charmcraft.yaml has it.
SECTIONS = {"actions.yaml": "actions", "config.yaml": "config"}


@pytest.fixture(params=["nfs-server", "nfs-client"])
def packed(request: pytest.FixtureRequest, charms: Mapping[str, Path]) -> Path:
    return charms[request.param]


def test_files(packed: Path):
    with zipfile.ZipFile(packed) as charm:
        names = {name for name in charm.namelist() if not name.endswith("/")}
        modes = {it.filename: it.external_attr >> 16 for it in charm.infolist()}
    assert names >= NEEDED
    # What the dependencies' wheels hold is not ours to choose.
    ours = [name for name in names if not name.startswith("venv/")]
    assert [name for name in ours if UNWANTED.search(name)] == []
    assert modes["dispatch"] & 0o111
    assert packed.stat().st_size < MAX_MIB << 20


def test_what_juju_reads(packed: Path):
    name = packed.name.partition("_")[0]
    project = yaml.safe_load((REPOSITORY / "charms" / name / "charmcraft.yaml").read_text())
    with zipfile.ZipFile(packed) as charm:
        read = {
            it: yaml.safe_load(charm.read(it))
            for it in charm.namelist()
            if "/" not in it and it.endswith(".yaml")
        }
    metadata = read["metadata.yaml"]
    for key in (
        "name",
        "summary",
        "description",
        "provides",
        "requires",
        "peers",
        "storage",
        "assumes",
    ):
        assert metadata.get(key) == project.get(key), key
    assert bool(metadata.get("subordinate")) is bool(project.get("subordinate"))
    for file, section in SECTIONS.items():
        assert read.get(file) == project.get(section), section
    assert [base["name"] for base in read["manifest.yaml"]["bases"]] == ["ubuntu"]


def platforms() -> Iterator[tuple[str, str]]:
    """Each charm with each of its platforms."""
    for path in sorted(REPOSITORY.glob("charms/*/charmcraft.yaml")):
        for platform in yaml.safe_load(path.read_text())["platforms"]:
            yield path.parent.name, platform


@pytest.mark.parametrize(("charm", "platform"), list(platforms()))
def test_the_lock_has_wheels(charm: str, platform: str, tmp_path: Path):
    """For each platform's Python and architecture: packing needs no compiler."""
    lock = REPOSITORY / "charms" / charm / "requirements.txt"
    base, architecture = platform.split(":")
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--dest", tmp_path),
            *("--require-hashes", "--no-deps", "--only-binary=:all:", "--requirement", lock),
            *("--python-version", PYTHONS[base], "--platform", MANYLINUX[architecture]),
        ],
        check=True,
        timeout=300,
    )

# SPDX-License-Identifier: Apache-2.0
"""The commands that pages, statuses and actions give are right on any Juju and on LXD."""

import ast
import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = sorted(
    path
    for pattern in (
        "*.md",
        "docs/*.md",
        "charms/*/README.md",
        "charms/*/terraform/*.md",
        "terraform/*.md",
        "examples/*/README.md",
        "interface/**/*.md",
    )
    for path in ROOT.glob(pattern)
)
SOURCES = sorted([*ROOT.glob("charms/*/src/*.py"), *ROOT.glob("charms/*/charmcraft.yaml")])

INTEGRATE = re.compile(r"juju (?:integrate|remove-relation)(?: --via \S+)? ([^\s`]+) ([^\s`]+)")
DEPLOY = re.compile(r"juju deploy \S*nfs-server.*")
RELEASE = re.compile(r"Juju 3\.\d")


def words(path: Path) -> str:
    """The text in one line, the parts of Python's strings joined."""
    return " ".join(re.sub(r'"\s+f?"', "", path.read_text()).split())


@pytest.mark.parametrize("path", PAGES + SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_integrations_are_ambiguous_nowhere(path: Path):
    """Each application has juju-info as well, which Juju 4 counts: two names are not enough.

    Of one that is neither client nor server, juju-info is all that there is. See Juju 4.0.15,
    domain/relation/state/relation.go, inferEndpoints; 3.6 does so in state/state.go.
    """
    pairs = INTEGRATE.findall(words(path))
    short = [f"{a} {b}" for a, b in pairs if ":" not in a + b and not b.endswith("-app")]
    # The README says where that will do.
    assert short == (["nfs-client nfs-server"] if path == ROOT / "README.md" else [])


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_servers_are_deployed_where_nfs_can_be_served(path: Path):
    for command in DEPLOY.findall(path.read_text()):
        assert "--constraints virt-type=virtual-machine" in command


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_that_names_a_juju_names_the_one_of_4(path: Path):
    text = words(path)
    if path.name not in ("CONTRIBUTING.md",) and RELEASE.search(text):
        assert "4.0.15 or later" in text


def test_the_readme_shows_what_the_demo_prints():
    """Each of its headlines, and the list at its end, is that of a step."""
    story = ast.parse((ROOT / "tests/integration/story.py").read_text())
    steps = {ast.get_docstring(it) for it in ast.walk(story) if isinstance(it, ast.FunctionDef)}
    (shown,) = re.findall(r"(?ms)^```console\n(.*?)^```", (ROOT / "README.md").read_text())
    named = re.findall(r"(?m)^(?:== |held    )(.*)$", shown)
    assert len(named) > 2
    assert set(named) <= steps


def test_one_place_decides_the_name_of_the_repository():
    project = yaml.safe_load((ROOT / "charms/nfs-server/charmcraft.yaml").read_text())
    source = project["links"]["source"]
    owner = source.rpartition("/")[0]
    files = [*PAGES, *ROOT.glob("charms/*/charmcraft.yaml"), *ROOT.glob(".github/**/*.y*ml")]
    files += ROOT.glob("charms/*/src/prometheus_alert_rules/*")
    for path in files:
        named = re.findall(rf"{re.escape(owner)}/[\w-]+", path.read_text())
        assert set(named) <= {source}, path
    assert owner.rpartition("/")[2] in (ROOT / ".github/CODEOWNERS").read_text()

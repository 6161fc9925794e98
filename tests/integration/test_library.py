# SPDX-License-Identifier: Apache-2.0
"""The examples of the library's page: packed as they stand there, and integrated."""

import ast
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pages import REPOSITORY
from story import DEPLOY_TIMEOUT_S, Story, becomes

LIBRARY = REPOSITORY / "lib/charms/storage_libs/v0/nfs_interfaces.py"
FRAME = REPOSITORY / "examples/logbook"
PAGE = str(ast.get_docstring(ast.parse(LIBRARY.read_text())))
READER, WRITER, _ = re.findall(r"(?s)```python\n(.*?)```", PAGE)
MISSING = "Missing relation: nfs-share"
MOUNT = "mount -t nfs "


def _make(directory: Path, side: str, code: str) -> Path:
    """Make the charm of an example; what it needs besides its code the charm to copy has."""
    ours = shutil.ignore_patterns("__pycache__", "tests", "src")
    shutil.copytree(FRAME, directory, ignore=ours)
    project = yaml.safe_load((FRAME / "charmcraft.yaml").read_text())
    endpoints = project.pop("requires")
    del project["config"]
    project |= {"name": directory.name, side: endpoints}
    (directory / "charmcraft.yaml").write_text(yaml.safe_dump(project))
    (directory / "src").mkdir()
    (directory / "src/charm.py").write_text(code)
    (directory / "src/charm.py").chmod(0o755)
    return directory


@pytest.fixture(scope="module")
def examples(
    story: Story, pack: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Story:
    """Two units of each on one machine: they do nothing to it."""
    directory = tmp_path_factory.mktemp("examples")
    reader = pack(_make(directory / "reader", "requires", READER))
    writer = pack(_make(directory / "writer", "provides", WRITER))
    story.juju.deploy(reader, "reader", **story.placement(1))
    story.until_says("reader/0", "blocked", MISSING, DEPLOY_TIMEOUT_S)
    machine = story.juju.status().apps["reader"].units["reader/0"].machine
    story.juju.deploy(writer, "writer", to=machine)
    for app in "reader", "writer":
        story.juju.add_unit(app, to=machine)
    story.settle("writer")
    return story


def _exec(story: Story, command: str, unit: str = "") -> str:
    """Run a hook command on a unit, or on any of the reader's, about its integration."""
    unit = unit or max(story.juju.status().apps["reader"].units)
    relation = story.juju.exec("relation-ids nfs-share", unit=unit).stdout.strip()
    return story.juju.exec(command.format(relation), unit=unit).stdout


def _request(story: Story, **data: str) -> None:
    """Ask for something, as a charm with a slip would."""
    words = " ".join(f"{key}={value}" for key, value in data.items())
    _exec(story, f"relation-set --app -r {{}} {words}", story.leader("reader"))


def _answer(story: Story) -> dict[str, Any]:
    """What the writer says."""
    return yaml.safe_load(_exec(story, "relation-get --app --format=json -r {} - writer"))


def _say(story: Story, status: str, message: str) -> None:
    for unit in story.juju.status().apps["reader"].units:
        story.until_says(unit, status, message)


@pytest.mark.incremental
def test_what_is_requested_is_granted(examples: Story):
    for unit in "reader/0", "reader/1":
        examples.until_says(unit, "blocked", MISSING)
    examples.juju.integrate("reader:nfs-share", "writer:nfs-share")
    _say(examples, "active", MOUNT)
    assert _answer(examples)["size"] == "1"


@pytest.mark.incremental
def test_a_slip_takes_nothing_away(examples: Story):
    endpoint = _answer(examples)["endpoint"]
    _request(examples, size="5GB")
    _say(examples, "blocked", "nfs-server: size '5GB': use whole gigabytes")
    answer = _answer(examples)
    assert (answer["endpoint"], answer["size"]) == (endpoint, "1")
    _request(examples, size="1")
    _say(examples, "active", endpoint.removeprefix("nfs://").replace("/", ":/", 1))


@pytest.mark.incremental
def test_new_leaders(examples: Story):
    endpoint = _answer(examples)["endpoint"]
    examples.juju.remove_unit(leader := examples.leader("writer"))
    examples.gone(leader)
    _request(examples, size="2")
    becomes(lambda: _answer(examples).get("size"), "2")
    assert _answer(examples)["endpoint"] == endpoint
    # Who leads the reader now asks for what the example asks for.
    examples.juju.remove_unit(leader := examples.leader("reader"))
    examples.gone(leader)
    becomes(lambda: _answer(examples).get("size"), "1")
    _say(examples, "active", MOUNT)


@pytest.mark.incremental
def test_without_the_integration(examples: Story):
    examples.juju.remove_relation("reader:nfs-share", "writer:nfs-share")
    _say(examples, "blocked", MISSING)
    examples.settle("writer")

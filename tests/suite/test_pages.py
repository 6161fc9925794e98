# SPDX-License-Identifier: Apache-2.0
"""The commands of the pages are commands that the sandbox's juju would take, of these charms."""

import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sandbox.command import juju, line

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "charms/*/README.md", "interface/*.md")
    for path in ROOT.glob(pattern)
)
CHARMS = {
    path.parent.name: yaml.safe_load(path.read_text())
    for path in ROOT.glob("charms/*/charmcraft.yaml")
}
# What is for Juju alone, and why the sandbox has it not.
ELSEWHERE = {
    "add-model": "a model is there",
    "add-ssh-key": "whoever is at this computer is let in",
    "add-storage": "the suite attaches what is there with add-unit",
    "destroy-model": "./dev destroy does it",
    "offer": "there is one model",
    "deploy --bind": "there is one network",
    "exec --application": "the suite asks units one by one",
    "integrate --via": "there is one model",
    "show-unit": "addresses do not change, and the suite reads databags in a hook's context",
    "status --relations": "the suite asks for units and machines alone",
    "switch": "there is one model",
}
# A block that is indented or fenced, or a command within a line.
BLOCK = re.compile(r"(?m)^(?:    |> )?(juju .*)$")
INLINE = re.compile(r"`(juju [^`]+)`")


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of each command of a page; of one that breaks off, those before."""
    text = page.read_text()
    for command in itertools.chain(BLOCK.findall(text), INLINE.findall(text)):
        words = shlex.split(command.partition(" …")[0], comments=True)
        yield words[1:]


def deployed(page: Path) -> dict[str, str]:
    """The charm of each application that the page deploys, by its name; and the pair's own."""
    found = {name: name for name in CHARMS}
    for name, *words in commands(page):
        if name == "deploy" and len(words) > 1:
            charm = re.sub(r"^\./(?:.*/)?|_ubuntu@.*$", "", words[0])
            application = words[1] if not words[1].startswith("-") else charm
            found[application] = charm
    return found


CASES = [(page, words) for page in PAGES for words in commands(page)]


@pytest.mark.parametrize(
    ("page", "words"), CASES, ids=[f"{page.name}: {' '.join(words)}" for page, words in CASES]
)
def test_a_command(page: Path, words: list[str]):
    name, *rest = words
    if {name, *(f"{name} {it}" for it in rest)} & ELSEWHERE.keys():
        return
    assert name in juju._commands, f"no juju {name} in the sandbox: say in ELSEWHERE why"
    call = line.parse(name, juju._commands[name][1], rest)
    assert list(unknown(name, call, deployed(page))) == []


def unknown(command: str, call: line.Call, applications: dict[str, str]) -> Iterator[str]:
    """Yield what a command names that the charm of its application does not have."""
    first, *words = call.words or [""]
    charm = _charm(applications, first)
    options = charm.get("config", {}).get("options", {})
    match command:
        case "config" if charm:
            yield from _keys(words) - options.keys()
        case "deploy" if charm:
            yield from _keys(call.all("config")) - options.keys()
            yield from _keys(call.all("storage")) - charm.get("storage", {}).keys()
        case "integrate" | "remove-relation":
            for end in call.words:
                charm, endpoint = _charm(applications, end), end.partition(":")[2]
                sides = charm.get("provides", {}) | charm.get("requires", {})
                if charm and endpoint and endpoint not in sides:
                    yield end
        case "run":
            action, *parameters = words or ["list-shares"]  # Where only the unit is named.
            if action in charm.get("actions", {}):
                yield from _keys(parameters) - charm["actions"][action].get("params", {}).keys()
            else:
                yield action
        case _:
            pass


def _charm(applications: dict[str, str], word: str) -> dict[str, Any]:
    """Return the charm of an application, or of the one that a unit or an endpoint is of."""
    return CHARMS.get(applications.get(re.split("[:/]", word)[0], ""), {})


def _keys(words: list[str]) -> set[str]:
    return {word.partition("=")[0] for word in words if "=" in word}


def test_commands_are_found():
    assert len(CASES) > 60

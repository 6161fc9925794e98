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
    "offer": "there is one model",
    "deploy --attach-storage": "the suite attaches what is there with add-unit",
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
    applications = deployed(page)
    wrong = {
        "config": _wrong_options,
        "deploy": _wrong_settings,
        "integrate": _wrong_endpoints,
        "remove-relation": _wrong_endpoints,
        "run": _wrong_parameters,
    }.get(name, lambda *_: [])(call, applications)
    assert wrong == []


def _keys(words: list[str]) -> list[str]:
    return [word.partition("=")[0] for word in words if "=" in word]


def _charm(applications: dict[str, str], name: str) -> dict[str, Any]:
    return CHARMS.get(applications.get(re.split("[:/]", name)[0], ""), {})


def _unknown(charm: dict[str, Any], keys: list[str]) -> list[str]:
    options = charm.get("config", {}).get("options", {})
    return [it for it in keys if charm and it not in options]


def _wrong_options(call: line.Call, applications: dict[str, str]) -> list[str]:
    return _unknown(_charm(applications, call.words[0]), _keys(call.words[1:]))


def _wrong_settings(call: line.Call, applications: dict[str, str]) -> list[str]:
    charm = CHARMS.get(call.words[0], {})
    stores = [it.partition("=")[0] for it in call.all("storage")]
    wrong = [it for it in stores if charm and it not in charm.get("storage", {})]
    return wrong + _unknown(charm, _keys(list(call.all("config"))))


def _wrong_endpoints(call: line.Call, applications: dict[str, str]) -> list[str]:
    ends = [it for it in call.words if ":" in it and "." not in it]
    return [it for it in ends if (charm := _charm(applications, it)) and not _has(charm, it)]


def _has(charm: dict[str, Any], end: str) -> bool:
    endpoint = end.partition(":")[2]
    return any(endpoint in charm.get(side, {}) for side in ("provides", "requires"))


def _wrong_parameters(call: line.Call, applications: dict[str, str]) -> list[str]:
    unit, action, *words = [*call.words, "list-shares"]  # Where only the unit is named.
    charm = _charm(applications, unit)
    if action not in charm.get("actions", {}):
        return [action]
    parameters = charm["actions"][action].get("params", {})
    return [it for it in _keys(words) if it not in parameters]


def test_commands_are_found():
    assert len(CASES) > 60

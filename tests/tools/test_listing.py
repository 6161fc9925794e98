# SPDX-License-Identifier: Apache-2.0

from collections.abc import Callable
from pathlib import Path
from typing import Any

import listing
import pytest
import yaml

CHARM = """\
name: a-charm
title: A Charm
summary: Does something
description: For those who need something done.
links: {documentation: https://a, issues: https://b, source: https://c, website: https://d,
        contact: https://e}
parts: {assets: {plugin: dump, stage: [icon.svg]}}
provides: {out: {interface: x, optional: true, description: Gives.}}
requires: {in: {interface: x, optional: false, description: Takes.}}
storage: {disk: {type: filesystem, description: Where it is kept.}}
config: {options: {size: {type: int, default: 1, description: "GiB; default: 1."}}}
actions:
  grow:
    description: Grow.
    additionalProperties: false
    params: {by-how-much: {type: integer, default: 1, description: "GiB; default: 1."}}
"""
ICON = '<svg xmlns="http://www.w3.org/2000/svg" width="100" height="100"><circle r="50"/></svg>'
LIBRARY = '"""An interface: one requires, one provides. Getting started."""\nLIBID = "1"\n'


@pytest.fixture
def charm(tmp_path: Path) -> Path:
    """A charm with nothing wrong."""
    tasks = "".join(f"[testenv:{task}]\n" for task in listing.TASKS)
    for name, text in {
        "charmcraft.yaml": CHARM,
        "icon.svg": ICON,
        "tox.ini": tasks,
        "pyproject.toml": '[project]\nrequires-python = ">=3.10"\n',
        "requirements.txt": "a==1 --hash=sha256:0\n",
        "lib/charms/x/v0/y.py": LIBRARY,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_ours_and_the_sample_have_nothing_wrong(charm: Path, capsys: pytest.CaptureFixture[str]):
    assert list(listing.problems(charm)) == []
    assert listing.main() == 0, capsys.readouterr().out


def remove(key: str) -> Callable[[Any], None]:
    *parents, last = key.split(".")

    def change(project: Any) -> None:
        for parent in parents:
            project = project[parent]
        del project[last]

    return change


def put(key: str, value: object) -> Callable[[Any], None]:
    *parents, last = key.split(".")

    def change(project: Any) -> None:
        for parent in parents:
            project = project[parent]
        project[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (remove("title"), "title: missing"),
        (put("summary", "Does it."), "summary: is no sentence, so has no full stop"),
        (remove("links.contact"), "links: contact: must be one https URL, as a plain string"),
        (put("links.issues", "b"), "links: issues: must be one https URL, as a plain string"),
        (
            put("links.source", ["https://c"]),
            "links: source: must be one https URL, as a plain string",
        ),
        (put("name", "a_charm"), "name a_charm: must be lower case words with hyphens between"),
        (put("config.options.Big", {"description": "x"}), "option Big: must be lower case"),
        (put("actions.grow.params.by_", {"description": "x"}), "parameter of grow by_: must be"),
        (remove("storage.disk.description"), "storage disk: no description"),
        (remove("config.options.size.description"), "option size: no description"),
        (remove("actions.grow.description"), "action grow: no description"),
        (
            put("actions.grow.params.by-how-much.description", "GiB"),
            "grow by-how-much: its description does not say what the default is",
        ),
        (remove("provides.out.optional"), "provides out: optional: must be true or false"),
        (remove("requires.in.description"), "requires in: no description"),
        (
            remove("actions.grow.additionalProperties"),
            "action grow: additionalProperties: must be false",
        ),
        (put("parts.assets.stage", ["LICENSE"]), "no part has icon.svg in what it stages"),
    ],
    ids=lambda it: it if isinstance(it, str) else "",
)
def test_charmcraft_yaml(charm: Path, change: Callable[[Any], None], problem: str):
    project = yaml.safe_load(CHARM)
    change(project)
    (charm / "charmcraft.yaml").write_text(yaml.safe_dump(project))
    found = list(listing.problems(charm))
    assert found
    assert found[0].startswith(f"charmcraft.yaml: {problem}")


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("tox.ini", "[testenv:lint]\n[testenv:unit]\n[testenv:format]\n", "no [testenv:integrati"),
        ("pyproject.toml", "[project]\n", "no requires-python"),
        ("requirements.txt", "a==1\n", "not there, or without hashes"),
        ("icon.svg", ICON.replace("100", "64"), "must be 100 pixels wide and high"),
        ("icon.svg", ICON.replace("<circle", "<text"), "text and pictures are not legible"),
        ("lib/charms/x/v0/y.py", LIBRARY.replace("G", "g").replace("getting", ""), "its docstr"),
    ],
)
def test_other_files(charm: Path, name: str, text: str, problem: str):
    (charm / name).write_text(text)
    (found,) = listing.problems(charm)
    assert found.startswith(f"{name}: {problem}")


def test_an_icon_and_a_lock_that_are_not_there(charm: Path):
    for name in ("icon.svg", "requirements.txt"):
        (charm / name).unlink()
    assert [problem.split(":")[0] for problem in listing.problems(charm)] == [
        "requirements.txt",
        "icon.svg",
    ]


def test_the_licence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setattr(listing, "APACHE_2_0", "another")
    assert listing.main() == 1
    assert capsys.readouterr().out == "LICENSE: not the text of Apache-2.0, to the letter\n"

# SPDX-License-Identifier: Apache-2.0
"""Checks what Charmhub's reviewers check before they list a charm, as far as no network is needed.

The rules are those of canonical/charmhub-listing-review, and of Juju's pages on naming, but for
what charmcraft looks at as it packs (charmcraft.yaml) and ruff (docstrings). One is not kept: it
wants uv.lock or poetry.lock, and these charms have a requirements.txt with hashes.
"""

import ast
import configparser
import hashlib
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import yaml

ROOT = Path(__file__).resolve().parent.parent

LINKS = ("documentation", "issues", "source", "website", "contact")
TASKS = ("format", "lint", "unit", "integration")
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
ICON_PIXELS = 100
APACHE_2_0 = "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"

Mappings = Mapping[str, Mapping[str, Any]]


def main() -> int:
    """Print what is wrong; the exit status says whether anything is."""
    charms = sorted(path.parent for path in ROOT.glob("charms/*/charmcraft.yaml"))
    found: list[str] = []
    if hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() != APACHE_2_0:
        found.append("LICENSE: not the text of Apache-2.0, to the letter")
    for charm in charms:
        found += [f"{charm.relative_to(ROOT)}/{problem}" for problem in problems(charm)]
    print("\n".join(found), end="\n" if found else "")
    return 1 if found else 0


def problems(charm: Path) -> Iterator[str]:
    """Yield what is wrong with a charm's directory."""
    project = yaml.safe_load((charm / "charmcraft.yaml").read_text())
    for check in (described, linked, named, explained, endpoints, actions):
        for problem in check(project):
            yield f"charmcraft.yaml: {problem}"
    yield from tasks(charm)
    yield from locked(charm)
    yield from icon(charm, project)
    yield from libraries(charm)


def described(project: Mapping[str, Any]) -> Iterator[str]:
    """Whether it has a title, and its summary reads as others do."""
    if not project.get("title"):
        yield "title: missing"
    if project["summary"].endswith("."):
        yield "summary: is no sentence, so has no full stop"


def linked(project: Mapping[str, Any]) -> Iterator[str]:
    """Whether each link is there, as one string: a list is not followed."""
    links = project.get("links", {})
    for key in LINKS:
        if not (isinstance(links.get(key), str) and links[key].startswith("https://")):
            yield f"links: {key}: must be one https URL, as a plain string"


def named(project: Mapping[str, Any]) -> Iterator[str]:
    """Whether names are lower case words with hyphens."""
    names = {"name": [project.get("name", "")]}
    names["option"] = list(_options(project))
    names["action"] = list(_actions(project))
    for action, fields in _actions(project).items():
        names[f"parameter of {action}"] = list(fields.get("params", {}))
    for kind, found in names.items():
        for name in found:
            if not NAME.fullmatch(name):
                yield f"{kind} {name}: must be lower case words with hyphens between them"


def explained(project: Mapping[str, Any]) -> Iterator[str]:
    """Whether all that an operator can set has a description, with its default if it has one."""
    things = {f"storage {name}": it for name, it in project.get("storage", {}).items()}
    things |= {f"action {name}": it for name, it in _actions(project).items()}
    settings = {f"option {name}": it for name, it in _options(project).items()}
    for action, fields in _actions(project).items():
        settings |= {f"{action} {name}": it for name, it in fields.get("params", {}).items()}
    for name, fields in (things | settings).items():
        if not fields.get("description", "").strip():
            yield f"{name}: no description"
    for name, fields in settings.items():
        if "default" in fields and "default" not in fields.get("description", ""):
            yield f"{name}: its description does not say what the default is"


def endpoints(project: Mapping[str, Any]) -> Iterator[str]:
    """Whether each endpoint says what it is for and whether the charm works without it."""
    for role in ("provides", "requires"):
        for name, fields in cast("Mappings", project.get(role, {})).items():
            if not isinstance(fields.get("optional"), bool):
                yield f"{role} {name}: optional: must be true or false"
            if not fields.get("description", "").strip():
                yield f"{role} {name}: no description"


def actions(project: Mapping[str, Any]) -> Iterator[str]:
    """Whether a misspelt parameter is refused: Juju 3 allows any by default, Juju 4 none."""
    for name, fields in _actions(project).items():
        if fields.get("additionalProperties") is not False:
            yield f"action {name}: additionalProperties: must be false"


def tasks(charm: Path) -> Iterator[str]:
    """Whether tox has the tasks that every charm has."""
    tox = configparser.ConfigParser(interpolation=None)
    tox.read(charm / "tox.ini")
    for task in TASKS:
        if f"testenv:{task}" not in tox:
            yield f"tox.ini: no [testenv:{task}]"


def locked(charm: Path) -> Iterator[str]:
    """Whether the dependencies are those of one lock, for a known Python."""
    if "\nrequires-python = " not in (charm / "pyproject.toml").read_text():
        yield "pyproject.toml: no requires-python"
    lock = charm / "requirements.txt"
    if not lock.is_file() or "--hash=sha256:" not in lock.read_text():
        yield "requirements.txt: not there, or without hashes"


def icon(charm: Path, project: Mapping[str, Any]) -> Iterator[str]:
    """Whether there is an icon as Charmhub shows them, and it gets into the packed charm."""
    path = charm / "icon.svg"
    if not path.is_file():
        yield "icon.svg: not there"
        return
    drawing = ElementTree.fromstring(path.read_text())  # noqa: S314  It is our own file.
    if [drawing.get(side) for side in ("width", "height")] != [str(ICON_PIXELS)] * 2:
        yield f"icon.svg: must be {ICON_PIXELS} pixels wide and high"
    if any(element.tag.endswith(("}text", "}image")) for element in drawing.iter()):
        yield "icon.svg: text and pictures are not legible when it is small: draw paths"
    parts = cast("Mappings", project.get("parts", {})).values()
    if not any("icon.svg" in part.get("stage", part.get("prime", ())) for part in parts):
        yield "charmcraft.yaml: no part has icon.svg in what it stages"


def libraries(charm: Path) -> Iterator[str]:
    """Whether each published library says how to begin with it."""
    for path in sorted(charm.glob("lib/charms/**/*.py")):
        text = path.read_text()
        if re.search(r"(?m)^LIBID = ", text):
            page = (ast.get_docstring(ast.parse(text)) or "").lower()
            for wanted in ("interface", "requires", "provides", "getting started"):
                if wanted not in page:
                    yield f"{path.relative_to(charm)}: its docstring has nothing of '{wanted}'"


def _options(project: Mapping[str, Any]) -> Mappings:
    return project.get("config", {}).get("options", {})


def _actions(project: Mapping[str, Any]) -> Mappings:
    return project.get("actions", {})


if __name__ == "__main__":
    sys.exit(main())

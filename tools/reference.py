# SPDX-License-Identifier: Apache-2.0
"""Writes into docs/reference.md what each charm says of itself; with --check, only compares.

A part of the page between `<!-- nfs-server options -->` and `<!-- end -->` is made from that
section of that charm's charmcraft.yaml; metrics and alerts are made from its code.
"""

import re
import runpy
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/reference.md"
PART = re.compile(r"(?s)<!-- (?P<charm>[a-z-]+) (?P<section>[a-z]+) -->\n.*?<!-- end -->")

Project = Mapping[str, Any]


def main(arguments: list[str]) -> int:
    """Write the page, or say that it is out of date."""
    page = PAGE.read_text()
    made = PART.sub(lambda part: written(part["charm"], part["section"]), page)
    if "--check" not in arguments:
        PAGE.write_text(made)
    elif made != page:
        print("docs/reference.md: differs from the charms; make it anew: tox -e format")
        return 1
    return 0


def written(charm: str, section: str) -> str:
    """Return a part of the page, with the marks around it."""
    project = yaml.safe_load((ROOT / "charms" / charm / "charmcraft.yaml").read_text())
    text = "\n".join(SECTIONS[section](project)).rstrip() or "None."
    return f"<!-- {charm} {section} -->\n{text}\n<!-- end -->"


def options(project: Project) -> Iterator[str]:
    """Yield the lines that tell of the options."""
    yield from settings("###", project.get("config", {}).get("options", {}))


def actions(project: Project) -> Iterator[str]:
    """Yield the lines that tell of the actions and their parameters."""
    for name, action in project.get("actions", {}).items():
        yield from [f"### `{name}`", "", *paragraphs(action), ""]
        required = action.get("required", ())
        yield from settings("####", action.get("params", {}), required)


def endpoints(project: Project) -> Iterator[str]:
    """Yield the table of the endpoints."""
    yield "| endpoint | side | interface | needed | for |"
    yield "| --- | --- | --- | --- | --- |"
    for side in ("provides", "requires"):
        for name, it in project.get(side, {}).items():
            needed = "no" if it["optional"] else "yes"
            text = " ".join(paragraphs(it))
            yield f"| `{name}` | {side} | `{it['interface']}` | {needed} | {text} |"


def storage(project: Project) -> Iterator[str]:
    """Yield the lines that tell of the storage."""
    for name, it in project.get("storage", {}).items():
        yield from [f"### `{name}` ({it['type']})", "", *paragraphs(it), ""]


def settings(
    heading: str, found: Mapping[str, Mapping[str, Any]], required: tuple[str, ...] = ()
) -> Iterator[str]:
    """Yield the lines that tell of options or parameters, each with its type and default."""
    for name, it in found.items():
        default = "required" if name in required else _default(it)
        yield from [f"{heading} `{name}` ({it['type']}, {default})", "", *paragraphs(it), ""]


def _default(it: Mapping[str, Any]) -> str:
    if "default" not in it:
        return "no default"
    if it["default"] == "":
        return "default empty"
    is_boolean = isinstance(it["default"], bool)
    return f"default `{str(it['default']).lower() if is_boolean else it['default']}`"


def paragraphs(described: Mapping[str, Any]) -> list[str]:
    """Return a description, line by line."""
    return described["description"].strip().splitlines()


def metrics(project: Project) -> Iterator[str]:
    """Yield the table of the metrics."""
    yield "| metric | kind | labels | says |"
    yield "| --- | --- | --- | --- |"
    for it in runpy.run_path(str(_source(project) / "metrics.py"))["ALL"]:
        labels = ", ".join(f"`{label}`" for label in it.labels)
        yield f"| `{it.name}` | {it.kind} | {labels} | {it.help} |"


def alerts(project: Project) -> Iterator[str]:
    """Yield the table of the alerts."""
    yield "| alert | severity | after | says |"
    yield "| --- | --- | --- | --- |"
    for path in sorted((_source(project) / "prometheus_alert_rules").iterdir()):
        for group in yaml.safe_load(path.read_text())["groups"]:
            for it in group["rules"]:
                summary = re.sub(r"\{\{.*?\}\}", "…", it["annotations"]["summary"])
                severity = it["labels"]["severity"]
                yield f"| `{it['alert']}` | {severity} | {it['for']} | {summary} |"


def _source(project: Project) -> Path:
    return ROOT / "charms" / project["name"] / "src"


SECTIONS: Mapping[str, Callable[[Project], Iterator[str]]] = {
    "actions": actions,
    "alerts": alerts,
    "endpoints": endpoints,
    "metrics": metrics,
    "options": options,
    "storage": storage,
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

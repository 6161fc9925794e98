# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import pytest
import reference
import yaml

PROJECT = """\
name: a-charm
provides: {out: {interface: x, optional: true, description: "Gives\\nmuch."}}
requires: {in: {interface: y, optional: false, description: Takes.}}
storage: {disk: {type: filesystem, description: Where it is kept.}}
config:
  options:
    size: {type: int, default: -1, description: GiB.}
    fast: {type: boolean, default: true, description: In a hurry.}
    name: {type: string, description: A name.}
    nothing: {type: string, default: "", description: Nothing.}
actions:
  grow:
    description: Grow.
    params: {by: {type: integer, description: GiB.}, now: {type: boolean, description: At once.}}
    required: [by]
"""
METRICS = """\
from types import SimpleNamespace as Metric
ALL = [Metric(name="x_total", kind="counter", labels=("a", "b"), help="How often.")]
"""
RULES = """\
groups:
  - rules:
      - alert: TooMuch
        for: 5m
        labels: {severity: warning}
        annotations: {summary: "{{ $labels.a }} is at {{ $value | humanize }}"}
"""
SECTIONS = {
    "options": """\
### `size` (int, default `-1`)

GiB.

### `fast` (boolean, default `true`)

In a hurry.

### `name` (string, no default)

A name.

### `nothing` (string, default empty)

Nothing.""",
    "actions": """\
### `grow`

Grow.

#### `by` (integer, required)

GiB.

#### `now` (boolean, no default)

At once.""",
    "endpoints": """\
| endpoint | side | interface | needed | for |
| --- | --- | --- | --- | --- |
| `out` | provides | `x` | no | Gives much. |
| `in` | requires | `y` | yes | Takes. |""",
    "metrics": """\
| metric | kind | labels | says |
| --- | --- | --- | --- |
| `x_total` | counter | `a`, `b` | How often. |""",
    "alerts": """\
| alert | severity | after | says |
| --- | --- | --- | --- |
| `TooMuch` | warning | 5m | … is at … |""",
    "storage": """\
### `disk` (filesystem)

Where it is kept.""",
}


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(reference, "ROOT", tmp_path)
    monkeypatch.setattr(reference, "PAGE", tmp_path / "page.md")
    charm = tmp_path / "charms" / "a-charm"
    charm.mkdir(parents=True)
    (charm / "charmcraft.yaml").write_text(PROJECT)
    (charm / "src/prometheus_alert_rules").mkdir(parents=True)
    (charm / "src/metrics.py").write_text(METRICS)
    (charm / "src/prometheus_alert_rules/a.yaml").write_text(RULES)
    return tmp_path / "page.md"


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section(page: Path, section: str):
    page.write_text(f"before\n<!-- a-charm {section} -->\nold\n<!-- end -->\nafter\n")
    assert reference.main(["--check"]) == 1
    assert "old" in page.read_text()
    assert reference.main([]) == 0
    marked = f"<!-- a-charm {section} -->\n{SECTIONS[section]}\n<!-- end -->"
    assert page.read_text() == f"before\n{marked}\nafter\n"
    assert reference.main(["--check"]) == 0


def test_an_empty_section(page: Path):
    (page.parent / "charms/a-charm/charmcraft.yaml").write_text("name: a-charm\n")
    page.write_text("<!-- a-charm actions -->\n<!-- end -->\n<!-- a-charm options --><!-- end -->")
    reference.main([])
    assert page.read_text().count("None.") == 1


def test_our_page_has_every_section_of_every_charm():
    page = reference.PAGE.read_text()
    parts = {(part["charm"], part["section"]) for part in reference.PART.finditer(page)}
    keys = {"actions": "actions", "options": "config", "storage": "storage"}
    for path in reference.ROOT.glob("charms/*/charmcraft.yaml"):
        project = yaml.safe_load(path.read_text())
        wanted = {section for section, key in keys.items() if key in project} | {"endpoints"}
        if (path.parent / "src/metrics.py").exists():
            wanted |= {"metrics", "alerts"}
        assert {(project["name"], section) for section in wanted} <= parts

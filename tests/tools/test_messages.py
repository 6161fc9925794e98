# SPDX-License-Identifier: Apache-2.0
"""The messages that the pages explain are messages of the charms, and no refusal is left out."""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
ROW = re.compile(r"(?m)^\| (?:active|blocked|waiting)[^|]*\| (.+?) \| .* \|$")
# What stands in a message for something else: names, paths, sizes, what a program said.
EXAMPLE = re.compile(r"…|'[^']*'|/data\b|\bnfs-(?:server|client)(?::(?! ))?\b|\d[\d.]*G?|postgres")


@functools.cache
def said() -> str:
    """All strings of the charms and the library, with … for what is put into them."""
    files = [*ROOT.glob("charms/*/src/*.py"), *ROOT.glob("lib/charms/storage_libs/v0/*.py")]
    return "\n".join(text for path in sorted(files) for text in strings(path))


def strings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            parts = [it.value if isinstance(it, ast.Constant) else "…" for it in node.values]
            yield "".join(map(str, parts))


def explained() -> list[str]:
    rows = ROW.findall((ROOT / "docs/how-to.md").read_text())
    return [message for row in rows for message in re.findall(r"`([^`]+)`", row)]


def test_messages_are_found():
    assert len(explained()) > 15


@pytest.mark.parametrize("message", explained())
def test_a_message_is_one_of_the_charms(message: str):
    fragments = [it.strip(" ()") for it in re.split(f"{EXAMPLE.pattern}|[:;,]", message)]
    looked_for = [it for it in fragments if len(it) > 3]
    assert looked_for
    assert [it for it in looked_for if it not in said()] == []


LISTED = re.compile(r"(?m)^\| `(.+?)` \|")
SERVER = ROOT / "charms/nfs-server/src"
# Where a refusal is put in words: in a call that says so, in a parser, in a rule's reason.
CALLS = {
    SERVER / "actions.py": "RefusedError",
    ROOT / "charms/nfs-client/src/charm.py": "event.fail",
    ROOT / "lib/charms/storage_libs/v0/nfs_interfaces.py": "ValueError",
}
RULES = [SERVER / f"{name}.py" for name in ("placement", "shares", "world")]


def refusals() -> set[str]:
    """All reasons in the code for which something is refused, with … for what is put in."""
    found: set[str] = set()
    for path, called in CALLS.items():
        nodes = ast.walk(ast.parse(path.read_text()))
        calls = [it for it in nodes if isinstance(it, ast.Call) and ast.unparse(it.func) == called]
        found |= {template(it.args[0]) for it in calls if isinstance(it.args[0], ast.JoinedStr)}
    for path in RULES:
        nodes = ast.walk(ast.parse(path.read_text()))
        reasons = {template(it) for it in nodes if isinstance(it, ast.JoinedStr)}
        found |= {it for it in reasons if it.startswith("share …")}
    # What a server says to a client may be wrong too, and is refused by nobody.
    return {it for it in found if not it.startswith("endpoint ")}


def template(node: ast.JoinedStr) -> str:
    return "".join(map(part, node.values))


def part(node: ast.expr) -> str:
    if isinstance(node, ast.FormattedValue):
        constants = {"NOT_HERE": "its image is not here; attach the storage that holds it"}
        return constants.get(ast.unparse(node.value), "…")
    assert isinstance(node, ast.Constant)
    return str(node.value)


def listed() -> list[str]:
    page = (ROOT / "docs/reference.md").read_text()
    return LISTED.findall(page.partition("## Refusals\n")[2].partition("\n## ")[0])


def is_one_of(refusal: str, found: str) -> bool:
    return bool(re.fullmatch(".+".join(map(re.escape, refusal.split("…"))), found))


@functools.cache
def in_tests() -> str:
    files = [*ROOT.glob("charms/*/tests/unit/*.py"), *ROOT.glob("tests/lib/*.py")]
    return "\n".join(text for path in sorted(files) for text in strings(path))


@pytest.mark.parametrize("refusal", sorted(refusals()))
def test_a_refusal_is_listed_and_tested(refusal: str):
    assert any(is_one_of(refusal, it) for it in listed()), "not in docs/reference.md"
    assert [it for it in refusal.split("…") if it not in in_tests()] == []


@pytest.mark.parametrize("refusal", listed())
def test_what_is_listed_is_refused(refusal: str):
    assert any(is_one_of(it, refusal) for it in [*refusals(), "… can't be unmounted: …"])

# SPDX-License-Identifier: Apache-2.0
"""The messages that the how-to page explains are messages of the charms."""

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

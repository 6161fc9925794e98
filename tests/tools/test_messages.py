# SPDX-License-Identifier: Apache-2.0
"""The messages that the pages explain are messages of the charms, and none is left out."""

import ast
import functools
import itertools
import re
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SERVER = ROOT / "charms/nfs-server/src"
CLIENT = ROOT / "charms/nfs-client/src"
LIBRARY = ROOT / "lib/charms/storage_libs/v0/nfs_interfaces.py"

ROW = re.compile(r"(?m)^\| (?:active|blocked|waiting|maintenance)[^|]*\| (.+?) \| .* \|$")
# What stands in a message for something else: names, paths, sizes, what a program said.
EXAMPLE = re.compile(
    r"…|'[^']*'|/data\b|\bnfs-(?:server|client)(?:/\d+)?(?::(?! ))?(?![-/\w])|\d[\d.]*G?"
    r"|postgres|nfs-kernel-server|nfs-common|\(lxc\)|/srv/nfs/|writer(?:, reader)?|\bweb\b"
    r"|/home/bob(?:/data)?|\bbob \(uid 1000\)|/etc/auto\.data"
)

MOST_CHARACTERS = 120

# What a constant of the charms stands for.
CONSTANTS = {
    "NOT_HERE": "its image is not here; attach the storage that holds it",
    "BEING_CHECKED": "being checked",
}


@functools.cache
def said() -> str:
    """All strings of the charms and the library, with … for what is put into them."""
    files = [*ROOT.glob("charms/*/src/*.py"), LIBRARY]
    return "\n".join(text for path in sorted(files) for text in strings(path))


def strings(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.JoinedStr):
            parts = [it.value if isinstance(it, ast.Constant) else "…" for it in node.values]
            yield "".join(map(str, parts))


def reasons(
    path: Path, *, calls: Collection[str] = (), functions: Collection[str] = ()
) -> Iterator[str]:
    """What is said in calls, and in functions."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in calls:
            yield from itertools.chain(*map(templates, node.args))
        elif isinstance(node, ast.FunctionDef) and node.name in functions:
            body = node.body[1:] if ast.get_docstring(node) else node.body
            found = itertools.chain(*map(templates, body))
            yield from (it for it in found if re.search(r"\w \w", it))


def templates(node: ast.AST) -> Iterator[str]:
    """The texts in a piece of code; those that are put into another one are not told apart."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(map(part, node.values))
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.Name) and node.id in CONSTANTS:
        yield CONSTANTS[node.id]
    elif not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        # A command is no text, and what is logged is said to nobody else.
        is_other = isinstance(node, ast.Call) and re.match(
            r"machine\.|logger\.|re\.|struct\.", ast.unparse(node.func)
        )
        for child in () if is_other else ast.iter_child_nodes(node):
            yield from templates(child)


def part(node: ast.expr) -> str:
    if isinstance(node, ast.FormattedValue):
        return CONSTANTS.get(ast.unparse(node.value), "…")
    assert isinstance(node, ast.Constant)
    return str(node.value)


def explained() -> list[str]:
    rows = ROW.findall((ROOT / "docs/how-to.md").read_text())
    return [message for row in rows for message in re.findall(r"`([^`]+)`", row)]


def fragments(message: str) -> list[str]:
    """Split a message at all that stands for something else."""
    parts = [it.strip(" ()") for it in re.split(f"{EXAMPLE.pattern}|[:;,]", message)]
    return [it for it in parts if len(it) > 3]


def test_messages_are_found():
    assert len(explained()) > 40
    assert "Installing the NFS server" in explained()


@pytest.mark.parametrize("message", [it for it in explained() if it != "share /data: …"])
def test_a_message_is_one_of_the_charms(message: str):
    assert fragments(message)
    assert [it for it in fragments(message) if it not in said()] == []


def statuses() -> Iterator[str]:
    """What a status can say, with … for what is put in."""
    for path in SERVER / "status.py", CLIENT / "status.py":
        yield from (it for it in templates(ast.parse(path.read_text())) if " " in it.strip())
    for problem in reasons(SERVER / "images.py", functions={"_find_problem"}):
        yield f"share …: {problem}"
    yield from reasons(SERVER / "nfs.py", functions={"find_refusal"})
    yield from reasons(SERVER / "room.py", functions={"remark"})
    yield from reasons(SERVER / "reconciler.py", functions={"_install"})
    yield from reasons(CLIENT / "kernel.py", functions={"_explain"})
    yield from reasons(
        CLIENT / "obstacles.py", functions={"find_obstacle", "find_remote_parent", "why_left"}
    )


# A part of a status, or of what stands behind one.
PARTS = {
    " and … more",
    "Refused to ",
    ", ",
    "; ",
    "a process",
    "this unit has nothing mounted any more",
    "share …: …",
    "…: …",
    "……; for the rest see list-shares and the clients' statuses",
    "…: run `umount …`",
    "…: run `umount … && chattr -i …`",
    "Root here",
    "or choose another mountpoint",
    "take it out and `systemctl reload autofs`",
    "…: juju deploy nfs-server --constraints virt-type=virtual-machine",
    "%Y-%m-%d %H:%M UTC",
}


@pytest.mark.parametrize("status", sorted({*statuses()} - PARTS))
def test_a_status_is_explained(status: str):
    words = re.split(r"[…:;,(]", status)
    first = next(it.strip() for it in words if len(it.strip()) > 3)
    assert any(first in row or row_starts(row, first) for row in explained()), "not in the how-to"


def row_starts(row: str, words: str) -> bool:
    """Whether the last words of a row, before it breaks off, begin what is looked for."""
    return any(words.startswith(it) for it in fragments(row))


# Where a refusal is put in words: in calls, or anywhere in some functions.
CALLS = {
    SERVER / "actions.py": {"RefusedError"},
    SERVER / "maintenance.py": {"RefusedError"},
    SERVER / "images.py": {"ImagesError"},
    SERVER / "mounts.py": {"MountsError"},
    SERVER / "exports.py": {"ExportsError"},
    CLIENT / "charm.py": {"event.fail"},
    LIBRARY: {"ValueError"},
}
FUNCTIONS = {
    SERVER / "clients.py": {"_refusal"},
    SERVER / "images.py": {"_find_problem", "_run_e2fsck"},
    SERVER / "deleted.py": {"keep", "_refuse_if_there"},
    SERVER / "mounts.py": {"_unmount"},
    SERVER / "reading.py": {"why_not_ready"},
    SERVER / "maintenance.py": {"_find_holders", "_find_clients"},
}
# The rules: what begins so is a reason, wherever it stands.
RULES = [SERVER / f"{name}.py" for name in ("placement", "plan", "room")]
# What is put into other refusals: of each there is one.
PUT_IN = {"share …: …": "which clients, or what a command said", "…: …": "the same"}
# Only the log says it.
LOGGED = {"share …: it may hold data"}


def refusals() -> set[str]:
    """All reasons in the code for which something is refused, with … for what is put in."""
    found: set[str] = set()
    for path, calls in CALLS.items():
        found |= {*reasons(path, calls=calls)}
    for path, functions in FUNCTIONS.items():
        found |= {*reasons(path, functions=functions)}
    for path in RULES:
        found |= {it for it in templates(ast.parse(path.read_text())) if it.startswith("share …")}
    # What a server says to a client may be wrong too, and is refused by nobody.
    found = {it for it in found if not it.startswith("endpoint ")}
    return found - PUT_IN.keys() - LOGGED


def listed() -> list[str]:
    page = (ROOT / "docs/reference.md").read_text()
    table = page.partition("## Refusals\n")[2].partition("\n## ")[0]
    cells = re.findall(r"(?m)^\| (`.+?`) \|", table)
    return [it for cell in cells for it in re.findall("`([^`]+)`", cell)]


def is_one_of(refusal: str, found: str) -> bool:
    """Whether a row is a refusal; or, where that is put into another one, has it in it."""
    return bool(re.search(".+".join(map(re.escape, refusal.split("…"))), found))


@functools.cache
def in_tests() -> str:
    files = [*ROOT.glob("charms/*/tests/unit/*.py"), *ROOT.glob("tests/lib/*.py")]
    return "\n".join(text for path in sorted(files) for text in strings(path))


def test_refusals_are_found():
    assert len(refusals()) > 40


@pytest.mark.parametrize("refusal", sorted(refusals()))
def test_a_refusal_is_listed_and_tested(refusal: str):
    assert any(is_one_of(refusal, it) for it in listed()), "not in docs/reference.md"
    assert [it for it in refusal.split("…") if it.strip(" ;:,") not in in_tests()] == []


@pytest.mark.parametrize("refusal", listed())
def test_what_is_listed_is_refused(refusal: str):
    assert any(is_one_of(it, refusal) for it in refusals())


@pytest.mark.parametrize("message", sorted({*statuses(), *refusals(), *listed(), *explained()}))
def test_a_message_fits_a_line(message: str):
    # Of what a program said, or what names are put in, nobody knows the length.
    assert len(message) <= MOST_CHARACTERS

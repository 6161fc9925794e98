# SPDX-License-Identifier: Apache-2.0
"""What CONTRIBUTING.md says of the modules of nfs-server and their imports is so."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
MODULES = {path.stem: path for path in ROOT.glob("charms/nfs-server/src/*.py")}
ROW = re.compile(r"(?m)^\| `(?P<module>\w+)` \| .+? \| (?P<imports>.*?) ?\|$")


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {it.name for it in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return found


def listed() -> dict[str, set[str]]:
    rows = ROW.finditer((ROOT / "CONTRIBUTING.md").read_text())
    return {row["module"]: set(re.findall(r"`(\w+)`", row["imports"])) for row in rows}


def test_every_module_is_listed():
    assert listed().keys() == MODULES.keys()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports(module: str):
    assert listed()[module] == imports(MODULES[module]) & MODULES.keys()


def test_who_imports_ops():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    sentence = re.search(r"ops is imported by ([^.]+) alone", text)
    assert sentence
    assert set(re.findall(r"`(\w+)`", sentence[1])) == {
        module for module, path in MODULES.items() if "ops" in imports(path)
    }

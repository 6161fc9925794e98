# SPDX-License-Identifier: Apache-2.0

import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def test_pyright_looks_at_every_charm():
    """A path that isn't there, or a pattern that it doesn't take, it leaves out in silence."""
    pyright = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pyright"]
    assert [path for path in pyright["include"] if not (ROOT / path).exists()] == []
    found = [*ROOT.glob("charms/*/src"), *ROOT.glob("examples/*/src")]
    charms = {str(path.relative_to(ROOT)) for path in found}
    assert charms <= set(pyright["include"]) & set(pyright["strict"])

# SPDX-License-Identifier: Apache-2.0

from pathlib import Path

import pytest
import vendor


def test_copies_are_compared_and_made_like_their_originals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    for name in ("LICENSE", "lib/a.py", "charms/c/charmcraft.yaml", "charms/c/lib/old.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "charms/c/lib/a.py").write_text("other")
    assert vendor.main(["--check"], tmp_path) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in said] == [
        "charms/c/LICENSE",
        "charms/c/lib/a.py",
        "charms/c/lib/old.py",
    ]
    assert "differs from lib/a.py; edit lib/a.py, then ./dev vendor" in said[1]
    assert vendor.main([], tmp_path) == vendor.main(["--check"], tmp_path) == 0
    assert (tmp_path / "charms/c/lib/a.py").read_text() == "lib/a.py"
    assert not (tmp_path / "charms/c/lib/old.py").exists()

# SPDX-License-Identifier: Apache-2.0
"""A charm's dependencies for a Python that this computer need not have."""

import hashlib
import zipfile
from pathlib import Path

import pack
import pytest

OWN = "venv/lib/python3.11/site-packages"
OTHER = "venv/lib/python3.13/site-packages"


def a_wheel(directory: Path, python: str) -> str:
    """Make a wheel that holds which Python it is for; its hash, as requirements have it."""
    path = directory / f"a-1-{python}-none-any.whl"
    info = "a-1.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("a.py", python)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: a\nVersion: 1\n")
        wheel.writestr(
            f"{info}/WHEEL",
            f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {python}-none-any\n",
        )
        wheel.writestr(f"{info}/RECORD", f"a.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n")
    return f"--hash=sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_the_dependencies_are_exchanged_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    hashes = [a_wheel(tmp_path, python) for python in ("cp311", "cp313")]
    (tmp_path / "charm").mkdir()
    (tmp_path / "charm/requirements.txt").write_text(f"a==1 {' '.join(hashes)}\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    charm = tmp_path / "c.charm"
    dispatch = zipfile.ZipInfo("dispatch")
    dispatch.external_attr = 0o100755 << 16
    with zipfile.ZipFile(charm, "w") as archive:
        archive.writestr(dispatch, "#!/bin/sh")
        archive.writestr(f"{OWN}/a.py", "cp311")
    pack.change_python(charm, tmp_path, "3.13")
    with zipfile.ZipFile(charm) as archive:
        assert not [name for name in archive.namelist() if name.startswith(OWN)]
        assert archive.read(f"{OTHER}/a.py") == b"cp313"
        assert archive.getinfo("dispatch").external_attr >> 16 == 0o100755


def test_a_charm_without_dependencies_is_left_as_it_is(tmp_path: Path):
    charm = tmp_path / "c.charm"
    with zipfile.ZipFile(charm, "w") as archive:
        archive.writestr("dispatch", "#!/bin/sh")
    pack.change_python(charm, tmp_path, "3.13")
    with zipfile.ZipFile(charm) as archive:
        assert archive.namelist() == ["dispatch"]


def test_charms_for_another_base_lie_apart(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(pack.HOST, "VERSION_ID", "12")
    assert pack.charms("12") == pack.CHARMS
    assert pack.charms("13") == pack.CHARMS / "13"
    assert pack.digest(Path(__file__).parent, "12") != pack.digest(Path(__file__).parent, "13")

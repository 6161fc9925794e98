# SPDX-License-Identifier: Apache-2.0
"""The launcher, without what it installs."""

import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
WAIT_S = 10


@pytest.fixture
def dev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The module `dev`, for somebody who isn't root, with tox made for this Python."""
    loader = SourceFileLoader("dev", str(ROOT / "dev"))
    spec = importlib.util.spec_from_loader("dev", loader)
    assert spec
    module: Any = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    module.CACHE = tmp_path
    module.ROOT = tmp_path
    module.FREE_BYTES_NEEDED = 0
    stamp = tmp_path / "venv/dev/stamp"
    stamp.parent.mkdir(parents=True)
    locked = Path("requirements/dev.txt").read_bytes()
    stamp.write_text(hashlib.sha256(locked + sys.version.encode()).hexdigest())
    yield module
    for child in module.children:
        child.wait(timeout=WAIT_S)


@pytest.mark.parametrize(
    ("words", "base"),
    [(["--base", "13"], "13"), (["--keep", "--base=13"], "13"), (["--steps", "2"], "")],
)
def test_the_base_is_read_as_it_may_be_written(dev: Any, words: list[str], base: str):
    assert dev.base_of(words) == base


def test_nobody_has_to_be_root_where_nothing_is_to_be_installed(dev: Any):
    dev.is_installed = lambda _: True
    dev.set_up(dev.TOOLS_PACKAGES)
    dev.is_installed = lambda _: False
    with pytest.raises(dev.StopError, match=r"only root|neither Debian nor Ubuntu"):
        dev.set_up(dev.TOOLS_PACKAGES)
    with pytest.raises(dev.StopError, match=r"only root|neither Debian nor Ubuntu"):
        dev.check_machines()


def test_too_little_memory_is_said_with_what_to_do(dev: Any):
    dev.MEMORY_BYTES_NEEDED = 1 << 60
    with pytest.raises(dev.StopError, match=r"are needed: `mount -o remount,size="):
        dev.check_memory()


def test_what_is_not_installed_is_unpacked_once(
    dev: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """By apt-get and dpkg-deb, which are played."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, does in {"apt-get": "touch x.deb", "dpkg-deb": "mkdir -p usr/bin"}.items():
        (programs / name).write_text(f"#!/bin/sh\n{does}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    dev.fetch()
    where = tmp_path / "prometheus"
    assert [path.name for path in where.iterdir()] == ["usr"]
    begun = len(dev.children)
    dev.fetch()
    assert len(dev.children) == begun


def test_what_lint_needs_is_found_without_dpkg(dev: Any):
    dev.DPKG_QUERY = "/nowhere/dpkg-query"
    assert dev.is_installed("python3-venv") == bool(importlib.util.find_spec("ensurepip"))
    assert not dev.is_installed("gcc")


def test_a_step_that_fails_shows_what_it_said(dev: Any, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(
        dev.StopError, match=r"bad one failed \(3\); all it said is in log/bad-one"
    ):
        dev.steps({"good one": ["/bin/true"], "bad one": ["/bin/sh", "-c", "echo why; exit 3"]})
    assert capsys.readouterr().err == "why\n"


def test_children_are_ended_with_all_that_they_started(dev: Any):
    reading, writing = os.pipe()
    dev.start(["/bin/sh", "-c", "echo up; sleep 100 & wait"], writing)
    os.close(writing)
    with os.fdopen(reading) as output:
        assert output.readline() == "up\n"
        signals = {number: dev.signal.getsignal(number) for number in (1, 2, 15)}
        dev.end_children()
        for number, before in signals.items():
            dev.signal.signal(number, before)
        # The end of the file: nobody has it open any more.
        assert output.read() == ""


@pytest.mark.parametrize(
    "printed", ["380 passed in 192.07s (0:03:12)", "=== 3 passed, 1 skipped in 2.00s ==="]
)
def test_what_pytest_says_at_its_end_is_found(dev: Any, printed: str):
    assert dev.SUMMARY.findall(f"…\n{printed}\n  unit: OK (2 s)") == [printed.strip("= ")]

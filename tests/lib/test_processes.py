# SPDX-License-Identifier: Apache-2.0

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfs_charms import processes


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(processes, "PROC", tmp_path)
    (tmp_path / "self").mkdir()
    return tmp_path


def add(proc: Path, pid: int, *, name: str = "cat", maps: str = "", **links: str) -> Path:
    process = proc / str(pid)
    (process / "fd").mkdir(parents=True)
    (process / "comm").write_text(name + "\n")
    (process / "maps").write_text(maps)
    for link, target in {"cwd": "/", "root": "/", "exe": "/usr/bin/cat", **links}.items():
        (process / link.replace("fd_", "fd/")).symlink_to(target)
    return process


def test_nobody(proc: Path):
    maps = "7f00-7f01 r-xp 00000000 08:01 42   /usr/lib/data/x.so\n7f02-7f03 rw-p 0 0 0\n"
    add(proc, 1, maps=maps)
    add(proc, 2, cwd="/database", fd_0="/dev/null", fd_1="socket:[12]")
    assert not list(processes.find_users("/data"))


def test_every_way_of_use(proc: Path):
    add(proc, 11, name="a", cwd="/data")
    add(proc, 9, name="b", root="/data/root")
    add(proc, 10, name="c", exe="/data/bin/c")
    add(proc, 100, name="d e", fd_3="/data/deep/file (deleted)")
    add(proc, 12, name="f", maps="7f00-7f01 rw-s 00000000 00:32 42    /data/my file\n")
    users = ", ".join(processes.find_users("/data"))
    assert users == "b (9), c (10), a (11), f (12), d e (100)"


def test_process_that_ends_meanwhile_is_left_out(proc: Path):
    (add(proc, 7, cwd="/data") / "comm").unlink()
    (proc / "8").mkdir()
    add(proc, 9, cwd="/data")
    assert list(processes.find_users("/data")) == ["cat (9)"]


def test_kernel_thread_has_no_links(proc: Path):
    (add(proc, 7) / "exe").unlink()
    assert not list(processes.find_users("/data"))


def test_name_is_made_printable(proc: Path):
    add(proc, 7, name="a\x1b[31m\nb", cwd="/data")
    assert list(processes.find_users("/data")) == ["a?[31m?b (7)"]


@pytest.fixture
def user(tmp_path: Path) -> Iterator[int]:
    with subprocess.Popen(["/usr/bin/sleep", "60"], cwd=tmp_path) as process:
        yield process.pid
        process.kill()


def test_program(tmp_path: Path, user: int):
    found = subprocess.run(
        [sys.executable, "-I", "-S", processes.__file__, os.path.realpath(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    assert f"sleep ({user})" in found.stdout.splitlines()

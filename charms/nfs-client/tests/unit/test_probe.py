# SPDX-License-Identifier: Apache-2.0

import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import probe
from probe import Usage
from trouble import Trouble


def failing(number: int) -> Callable[[str], os.statvfs_result]:
    def statvfs(_: str) -> os.statvfs_result:
        raise OSError(number, "")

    return statvfs


def test_tells_the_size_and_use(tmp_path: Path):
    found = os.statvfs(tmp_path)
    usage = probe.ask(str(tmp_path))
    assert isinstance(usage, Usage)
    assert usage.size_bytes == found.f_blocks * found.f_frsize
    assert usage.inodes == found.f_files
    assert 0 <= usage.used_bytes <= usage.size_bytes
    assert usage.available_bytes <= usage.size_bytes - usage.used_bytes
    assert 0 <= usage.inodes_used <= usage.inodes


@pytest.mark.parametrize(
    ("number", "trouble"), [(errno.ESTALE, Trouble.STALE), (errno.EIO, Trouble.SILENT)]
)
def test_tells_the_trouble(number: int, trouble: Trouble, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(os, "statvfs", failing(number))
    assert probe.ask("/") is trouble


def test_does_not_wait_for_a_dead_server(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(probe, "ASK_TIMEOUT_S", 0.2)
    monkeypatch.setattr(os, "statvfs", lambda _: signal.pause())
    begin = time.monotonic()
    assert probe.ask("/") is Trouble.SILENT
    assert time.monotonic() - begin < 2
    with pytest.raises(ChildProcessError):  # It is gone, and reaped.
        os.waitpid(-1, os.WNOHANG)


def test_leaves_behind_what_cannot_be_killed(monkeypatch: pytest.MonkeyPatch):
    killed: list[int] = []
    monkeypatch.setattr(probe, "ASK_TIMEOUT_S", 0.1)
    monkeypatch.setattr(probe.machine, "KILL_GRACE_S", 0.1)
    monkeypatch.setattr(os, "statvfs", lambda _: signal.pause())
    with monkeypatch.context() as patch:
        patch.setattr(os, "kill", lambda pid, _: killed.append(pid))
        assert probe.ask("/") is Trouble.SILENT
    os.kill(killed[0], signal.SIGKILL)
    os.waitpid(killed[0], 0)

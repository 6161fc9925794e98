# SPDX-License-Identifier: Apache-2.0

import os
import time
from pathlib import Path

import pytest

import probe
from probe import Usage
from trouble import Trouble


def instead_of_stat(monkeypatch: pytest.MonkeyPatch, directory: Path, script: str) -> None:
    program = directory / "stat"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(probe, "STAT", str(program))


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
    ("said", "trouble"),
    [
        ("Stale file handle", Trouble.STALE),
        ("Permission denied", Trouble.DENIED),
        ("Input/output error", Trouble.SILENT),
    ],
)
def test_tells_the_trouble(
    said: str, trouble: Trouble, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    instead_of_stat(monkeypatch, tmp_path, f"echo stat: cannot read: {said} >&2; exit 1")
    assert probe.ask("/data") is trouble


def test_does_not_wait_for_a_dead_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    instead_of_stat(monkeypatch, tmp_path, "exec sleep 60")
    monkeypatch.setattr(probe, "ASK_TIMEOUT_S", 0.2)
    begin = time.monotonic()
    assert probe.ask("/data") is Trouble.SILENT
    assert time.monotonic() - begin < 2

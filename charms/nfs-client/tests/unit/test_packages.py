# SPDX-License-Identifier: Apache-2.0

import fcntl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import packages
from charms.storage_libs.v0 import machine

HOLD = """
import fcntl, sys
lock = open(sys.argv[1], "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
print(flush=True)
input()
"""


@pytest.fixture
def done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What apt-get and dpkg-query were asked for, on a machine without the package."""
    done: list[str] = []

    def run(*argv: str, timeout_s: float = 60.0) -> str:
        done.append(" ".join(argv))
        if "install" in argv:
            packages.MOUNT_NFS.touch()
        return "2.6.1-2"

    monkeypatch.setattr(machine, "run", run)
    monkeypatch.setattr(packages, "MOUNT_NFS", tmp_path / "mount.nfs")
    monkeypatch.setattr(packages, "LISTS_LOCK", tmp_path / "lock")
    return done


def test_installs_once(done: list[str]):
    assert not packages.is_installed()
    assert packages.install()
    assert packages.is_installed()
    assert not packages.install()
    assert [command.split()[-1] for command in done] == ["update", "nfs-common"]
    assert all("DPkg::Lock::Timeout=30" in command for command in done)
    assert packages.version() == "2.6.1-2"


def test_apt_fails(done: list[str], monkeypatch: pytest.MonkeyPatch):
    def fail(*argv: str, timeout_s: float) -> str:
        raise machine.CommandError(argv, "exit status 100", "Could not get lock")

    monkeypatch.setattr(machine, "run", fail)
    with pytest.raises(packages.PackagesError, match=r"nfs-common could not be installed: .*lock"):
        packages.install()


@pytest.fixture
def other(done: list[str]) -> Iterator[subprocess.Popen[str]]:
    """Somebody who has locked apt's lists."""
    command = [sys.executable, "-c", HOLD, str(packages.LISTS_LOCK)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_waits_for_the_lists(
    done: list[str], other: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
):
    real = fcntl.lockf

    def lockf(*arguments: int) -> None:
        with pytest.raises(BlockingIOError):
            real(arguments[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        other.kill()
        real(*arguments)

    monkeypatch.setattr(fcntl, "lockf", lockf)
    assert packages.install()


@pytest.mark.usefixtures("other")
def test_does_not_wait_for_ever(done: list[str], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packages, "LOCK_TIMEOUT_S", 1)
    begin = time.monotonic()
    with pytest.raises(packages.PackagesError, match="lock is still held after 1 s"):
        packages.install()
    assert time.monotonic() - begin < 5
    assert not done

# SPDX-License-Identifier: Apache-2.0
"""charmlibs-apt itself, with programs in the place of apt-get, apt-cache and dpkg."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nfs_charms import machine, packages

VERSION = "1:2.6.1-2"
HOLD = """
import fcntl, sys
lock = open(sys.argv[1], "w")
fcntl.lockf(lock, fcntl.LOCK_EX)
print(flush=True)
input()
"""
# What it is asked for is noted; what it says depends on what was installed.
PROGRAM = """#!/bin/sh
cd {directory}
echo "$(basename $0) $*" >> done
case "$(basename $0) $*" in
    *--print-architecture) echo amd64 ;;
    "dpkg -l "*)
        test -e installed || exit 1
        printf '1\\n2\\n3\\n4\\n5\\nii  nfs-common  {version}  amd64  text\\n' ;;
    "dpkg "*"--configure -a")
        if test -e held; then echo dpkg frontend lock was locked by another process >&2; exit 2; fi
        if test -e hangs; then exec sleep 60; fi
        echo "DEBIAN_FRONTEND=$DEBIAN_FRONTEND" >> done
        rm -f interrupted ;;
    "apt-cache show "*)
        printf 'Package: nfs-common\\nArchitecture: amd64\\nVersion: {version}\\n' ;;
    *update*) if test -e no-update; then echo a source fails >&2; exit 100; fi ;;
    *install*)
        env > environment
        cp "$APT_CONFIG" settings
        if test -e no-install; then echo no candidate >&2; exit 100; fi
        if test -e interrupted; then
            echo "E: dpkg was interrupted, you must manually run 'dpkg --configure -a'" >&2
            exit 100
        fi
        if test -e slow; then touch interrupted; exec sleep 60; fi
        touch installed ;;
esac
"""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without the package: what is in the directory says how it behaves."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("apt-get", "apt-cache", "dpkg"):
        (programs / name).write_text(PROGRAM.format(directory=tmp_path, version=VERSION))
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setattr(packages, "DPKG", str(programs / "dpkg"))
    monkeypatch.setattr(packages, "LISTS_LOCK", tmp_path / "lock")
    monkeypatch.setattr(machine, "INSTALLING", tmp_path / "misc")
    return tmp_path


def apt_get(host: Path) -> list[str]:
    """What apt-get was asked for."""
    lines = (host / "done").read_text().splitlines()
    return [line.split()[-1] for line in lines if line.startswith("apt-get ")]


def test_installs_once(host: Path):
    before = dict(os.environ)
    for _ in range(2):
        assert packages.install("nfs-common") == VERSION
    assert apt_get(host) == ["--error-on=any", f"nfs-common={VERSION}"]
    assert os.environ == before


def test_apt_is_given_settings_and_nothing_of_the_charms(
    host: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PYTHONPATH", "/charm/venv")
    packages.install("nfs-common")
    environment = (host / "environment").read_text()
    # Where Juju's hook commands are too: ops logs what charmlibs-apt says by one of them.
    assert f"\nPATH={os.environ['PATH']}\n" in f"\n{environment}"
    assert "DEBIAN_FRONTEND=noninteractive" in environment
    assert "PYTHONPATH" not in environment
    assert 'DPkg::Lock::Timeout "60";' in (host / "settings").read_text()


def test_a_source_that_fails_is_no_reason_not_to_try(host: Path, caplog: pytest.LogCaptureFixture):
    (host / "no-update").touch()
    assert packages.install("nfs-common") == VERSION
    assert "apt-get update: a source fails" in caplog.text


def test_apt_fails(host: Path):
    (host / "no-install").touch()
    with pytest.raises(packages.PackagesError, match=r"nfs-common could not be .*no candidate"):
        packages.install("nfs-common")


def test_apt_takes_too_long(host: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packages, "APT_TIMEOUT_S", 1)
    (host / "slow").touch()
    begin = time.monotonic()
    with pytest.raises(packages.PackagesError, match="apt was not done after 1 s"):
        packages.install("nfs-common")
    assert time.monotonic() - begin < 10


def test_what_a_killed_apt_left_is_finished_by_the_next_one(
    host: Path, monkeypatch: pytest.MonkeyPatch
):
    (host / "slow").touch()
    with monkeypatch.context() as patch:
        patch.setattr(packages, "APT_TIMEOUT_S", 1)
        with pytest.raises(packages.PackagesError, match="apt was not done after 1 s"):
            packages.install("nfs-common")
    assert (host / "interrupted").exists()
    assert machine.installing("nfs-common").exists()
    (host / "slow").unlink()
    assert packages.install("nfs-common") == VERSION
    assert not (host / "interrupted").exists()
    assert not machine.installing("nfs-common").exists()


def test_dpkg_asks_nobody_anything(host: Path):
    (host / "interrupted").touch()
    (host / "no-install").touch()
    with pytest.raises(packages.PackagesError):
        packages.install("nfs-common")
    done = (host / "done").read_text().splitlines()
    asked = done.index("dpkg --force-confold --configure -a")
    assert done[asked + 1] == "DEBIAN_FRONTEND=noninteractive"


@pytest.mark.parametrize("trouble", ["held", "hangs"])
def test_what_can_not_be_finished_is_said_by_apt(
    host: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
):
    monkeypatch.setattr(packages, "CONFIGURE_TIMEOUT_S", 0.3)
    (host / "interrupted").touch()
    (host / trouble).touch()
    with pytest.raises(packages.PackagesError, match="dpkg was interrupted"):
        packages.install("nfs-common")
    (host / "interrupted").unlink()
    assert packages.install("nfs-common") == VERSION


@pytest.fixture
def other(host: Path) -> Iterator[subprocess.Popen[str]]:
    """Somebody who has locked apt's lists."""
    command = [sys.executable, "-c", HOLD, str(packages.LISTS_LOCK)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_waits_for_the_lists(
    host: Path, other: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
):
    real = fcntl.lockf

    def lockf(*arguments: int) -> None:
        with pytest.raises(BlockingIOError):
            real(arguments[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        other.kill()
        real(*arguments)

    monkeypatch.setattr(fcntl, "lockf", lockf)
    assert packages.install("nfs-common") == VERSION


@pytest.mark.usefixtures("other")
def test_does_not_wait_for_ever(host: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packages, "LOCK_TIMEOUT_S", 1)
    with pytest.raises(packages.PackagesError, match="lock is still held after 1 s"):
        packages.install("nfs-common")
    assert apt_get(host) == []

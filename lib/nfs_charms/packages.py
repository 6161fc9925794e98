# SPDX-License-Identifier: Apache-2.0
"""Installs a package of the distribution. Another's apt is waited for, and nothing for ever.

charmlibs-apt does the work. It has no deadlines, and gives apt the charm's own environment; here
is what it takes to have the one and not the other.
"""

import contextlib
import fcntl
import logging
import os
import signal
import subprocess
import tempfile
from collections.abc import Generator
from pathlib import Path
from types import FrameType
from typing import NoReturn

from charmlibs import apt

from nfs_charms import machine

logger = logging.getLogger(__name__)

LISTS_LOCK = Path("/var/lib/apt/lists/lock")
CHARMS_OWN = ("PYTHONPATH", "LD_LIBRARY_PATH")
ENV = "/usr/bin/env"
DPKG = "/usr/bin/dpkg"

# How long another charm on this machine, or the machine itself, may keep apt to itself.
LOCK_TIMEOUT_S = 60
# How long apt may take in all.
APT_TIMEOUT_S = 900
# How long dpkg may take for what another run of it left half done.
CONFIGURE_TIMEOUT_S = 300

# apt.conf(5)
_SETTINGS = f"""
Acquire::Retries "2";
Acquire::http::Timeout "30";
Acquire::https::Timeout "30";
APT::Install-Recommends "false";
DPkg::Lock::Timeout "{LOCK_TIMEOUT_S}";
"""


class PackagesError(Exception):
    """A package could not be installed; the message says what apt said."""


def install(package: str) -> str:
    """Have a package installed, without those that it recommends; return its version.

    Raises:
        PackagesError: apt did not do it, or not in time; it may be there by half (`installing`).
    """
    mark = machine.installing(package)
    try:
        with _environment():
            with _deadline(APT_TIMEOUT_S, "apt was not done"):
                version = _find_version(package)
            if not version:
                machine.write_atomically(mark, "")
                version = _install(package)
    except (apt.Error, subprocess.CalledProcessError, OSError) as error:
        raise PackagesError(f"{package} could not be installed: {error}") from error
    mark.unlink(missing_ok=True)
    return version


def _find_version(package: str) -> str:
    try:
        return str(apt.DebianPackage.from_installed_package(package).version)
    except apt.PackageNotFoundError:
        return ""


def _install(package: str) -> str:
    with _deadline(LOCK_TIMEOUT_S, f"{LISTS_LOCK} is still held"):
        _wait_for_lists()
    _finish_interrupted()
    with _deadline(APT_TIMEOUT_S, "apt was not done"):
        return _get(package)


def _get(package: str) -> str:
    try:
        apt.update()
    except subprocess.CalledProcessError as error:
        # One source that fails need not be the one that has the package.
        logger.warning("apt-get update: %s", error.stderr.decode(errors="replace"))
    apt.add_package(package)
    return _find_version(package)


def _wait_for_lists() -> None:
    # Unlike dpkg's locks, this one has no timeout among apt's settings.
    with LISTS_LOCK.open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)


def _finish_interrupted() -> None:
    """Configure what a killed dpkg left unpacked (dpkg(1)): apt does nothing while there is any.

    Where that fails, apt says why, or waits for who else is at work.
    """
    try:
        machine.run(
            ENV, "DEBIAN_FRONTEND=noninteractive", DPKG, "--force-confold", "--configure", "-a",
            timeout_s=CONFIGURE_TIMEOUT_S,
        )  # fmt: skip
    except machine.CommandError as error:
        logger.warning("%s", error)


@contextlib.contextmanager
def _environment() -> Generator[None, None, None]:
    """Give apt our settings, and not what is for the charm's own Python."""
    before = dict(os.environ)
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as settings:
        settings.write(_SETTINGS)
        settings.flush()
        os.environ.update(APT_CONFIG=settings.name, LC_ALL="C.UTF-8")
        for name in CHARMS_OWN:
            os.environ.pop(name, None)
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


@contextlib.contextmanager
def _deadline(seconds: int, complaint: str) -> Generator[None, None, None]:
    """Raise TimeoutError in what takes longer, which ends the command that is run."""

    def stop(_: int, __: FrameType | None) -> NoReturn:
        raise TimeoutError(f"{complaint} after {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)

# SPDX-License-Identifier: Apache-2.0
"""The package that mounting NFS takes. No ops here. It is never removed: others may use it."""

import fcntl
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from charms.storage_libs.v0 import machine

PACKAGE = "nfs-common"
MOUNT_NFS = Path("/usr/sbin/mount.nfs")
LISTS_LOCK = Path("/var/lib/apt/lists/lock")
DPKG_QUERY = "/usr/bin/dpkg-query"
# The environment that `machine.run` gives is without it.
APT_GET = ("/usr/bin/env", "DEBIAN_FRONTEND=noninteractive", "/usr/bin/apt-get", "--yes")

# How long another charm on this machine, or the machine itself, may keep apt to itself.
LOCK_TIMEOUT_S = 30
APT_TIMEOUT_S = 300.0


class PackagesError(Exception):
    """A package could not be installed; the message says what apt said."""


def is_installed() -> bool:
    """Whether NFS can be mounted; runs no command."""
    return MOUNT_NFS.exists()


def version() -> str:
    """Version of the package, as dpkg has it."""
    return machine.run(DPKG_QUERY, "--show", "--showformat=${Version}", PACKAGE)


def install() -> bool:
    """Install what mounting NFS takes; say whether it was not there.

    Raises:
        PackagesError: apt did not do it.
    """
    if is_installed():
        return False
    try:
        _update()
        _apt_get("install", "--no-install-recommends", PACKAGE)
    except (machine.CommandError, TimeoutError) as error:
        raise PackagesError(f"{PACKAGE} could not be installed: {error}") from error
    return True


def _update() -> None:
    # Unlike dpkg's locks, this one has no timeout among apt's options (apt.conf(5)).
    with _deadline(), LISTS_LOCK.open("w") as lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
    _apt_get("update")


@contextmanager
def _deadline() -> Iterator[None]:
    def stop(_: int, __: FrameType | None) -> NoReturn:
        raise TimeoutError(f"{LISTS_LOCK} is still held after {LOCK_TIMEOUT_S} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(LOCK_TIMEOUT_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _apt_get(*arguments: str) -> None:
    option = f"--option=DPkg::Lock::Timeout={LOCK_TIMEOUT_S}"
    machine.run(*APT_GET, option, *arguments, timeout_s=APT_TIMEOUT_S)

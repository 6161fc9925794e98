# SPDX-License-Identifier: Apache-2.0
"""Asks a mounted file system how it is, with a deadline. No ops here.

A question to a dead NFS server (statfs(2)) is answered when the server is back: so a child asks,
and is killed. A fork, and not a program: it costs a hook with nothing to do next to nothing.
"""

import errno
import os
import select
import signal
from dataclasses import dataclass
from typing import NoReturn

from charms.storage_libs.v0 import machine
from trouble import Trouble

ASK_TIMEOUT_S = 5.0


@dataclass(frozen=True)
class Usage:
    """How large a file system is and what of it is used."""

    size_bytes: int
    used_bytes: int
    available_bytes: int
    inodes: int
    inodes_used: int


def ask(mountpoint: str) -> Usage | Trouble:
    """Ask what is mounted at a mount point for its size and use, or find what is wrong with it."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover  # Nothing is left of it to tell what it ran.
        _answer(mountpoint, writing)
    os.close(writing)
    with open(reading, "rb") as pipe:
        is_done = select.select([pipe], [], [], ASK_TIMEOUT_S)[0]
        if not is_done:
            os.kill(child, signal.SIGKILL)
            # Its end closes the pipe. One that can't be killed is left to the kernel.
            is_done = select.select([pipe], [], [], machine.KILL_GRACE_S)[0]
        if not is_done:
            return Trouble.SILENT
        answer = pipe.read()
    os.waitpid(child, 0)
    return _parse(answer)


def _answer(mountpoint: str, writing: int) -> NoReturn:  # pragma: no cover  # As above.
    try:
        # Juju reads a hook's output to its end, and would wait for a child that can't be killed.
        os.dup2(writing, 0)
        os.closerange(1, os.sysconf("SC_OPEN_MAX"))
        found = os.statvfs(mountpoint)
        os.write(0, " ".join(map(str, _figures(found))).encode())
    except OSError as error:
        os.write(0, str(error.errno).encode())
    finally:
        os._exit(0)


def _figures(found: os.statvfs_result) -> tuple[int, ...]:
    used, free = found.f_blocks - found.f_bfree, found.f_bavail
    sizes = (blocks * found.f_frsize for blocks in (found.f_blocks, used, free))
    return *sizes, found.f_files, found.f_files - found.f_ffree


def _parse(answer: bytes) -> Usage | Trouble:
    numbers = [int(word) for word in answer.split()]
    if len(numbers) > 1:
        return Usage(*numbers)
    return Trouble.STALE if numbers == [errno.ESTALE] else Trouble.SILENT

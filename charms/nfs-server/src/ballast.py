# SPDX-License-Identifier: Apache-2.0
"""Room for hooks and actions on a full disk: a file that is given up when there is none left.

ops keeps its state in a database beside the charm, and without room for that no hook and no
action runs, also not the one that would make room. No ops.
"""

import contextlib
import os
from pathlib import Path

BALLAST = Path("/var/lib/nfs-server-charm/ballast")
SIZE_BYTES = 8 * 2**20
# What is left to Juju's agent on a full disk.
LEFT_BYTES = 2**17


def release() -> None:
    """Give the room up if there is no other; the file stays, and says that it was."""
    with contextlib.suppress(OSError):  # Nothing is kept yet, or the disk can't be written to.
        if _free_bytes() < SIZE_BYTES:
            os.truncate(BALLAST, 0)


def keep() -> None:
    """Take the room, unless that would leave as little; or take back what was given up.

    Else what has filled the disk takes that too, and the next hook or action finds none. It may
    have been given up by a process that was killed.
    """
    with contextlib.suppress(OSError):
        has = BALLAST.stat().st_size if BALLAST.exists() else None
        free = _free_bytes()
        size = SIZE_BYTES if free > 4 * SIZE_BYTES else 0
        if has == 0:
            size = min(SIZE_BYTES, free - LEFT_BYTES)
        if size > (has or 0):
            with BALLAST.open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, size)


def _free_bytes() -> int:
    """What anybody may still write. f_bfree has blocks that ext4 keeps from root too."""
    status = os.statvfs(BALLAST.parent)
    return status.f_bavail * status.f_frsize

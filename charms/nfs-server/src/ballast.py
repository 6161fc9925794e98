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


def release() -> None:
    """Give the room up if there is no other."""
    with contextlib.suppress(OSError):  # Nothing is kept yet, or the disk can't be written to.
        if _free_bytes() < SIZE_BYTES:
            BALLAST.unlink()


def keep() -> None:
    """Take the room, unless that would leave as little."""
    with contextlib.suppress(OSError):
        if not BALLAST.exists() and _free_bytes() > 4 * SIZE_BYTES:
            with BALLAST.open("xb") as file:
                os.posix_fallocate(file.fileno(), 0, SIZE_BYTES)


def _free_bytes() -> int:
    """What anybody may still write. f_bfree has blocks that ext4 keeps from root too."""
    status = os.statvfs(BALLAST.parent)
    return status.f_bavail * status.f_frsize

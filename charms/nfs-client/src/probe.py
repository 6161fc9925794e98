# SPDX-License-Identifier: Apache-2.0
"""Asks a mounted file system how it is, with a deadline. No ops here.

A question to a dead NFS server (statfs(2)) is answered when the server is back: so a program of
its own asks, and is killed.
"""

from dataclasses import dataclass

from nfs_charms import machine
from trouble import Trouble

STAT = "/usr/bin/stat"
ASK_TIMEOUT_S = 5.0

# strerror(3) of ESTALE and EACCES, in the C locale of all commands.
_SAID = {"Stale file handle": Trouble.STALE, "Permission denied": Trouble.DENIED}


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
    try:
        # stat(1): size of a block; blocks there are, free, and free for users; inodes, and free.
        figures = machine.run(
            STAT, "--file-system", "--format=%S %b %f %a %c %d", mountpoint,
            timeout_s=ASK_TIMEOUT_S,
        )  # fmt: skip
    except machine.CommandError as error:
        said = (trouble for text, trouble in _SAID.items() if text in error.output)
        return next(said, Trouble.SILENT)
    block, blocks, free, available, inodes, inodes_free = map(int, figures.split())
    return Usage(
        blocks * block,
        (blocks - free) * block,
        available * block,
        inodes,
        inodes - inodes_free,
    )

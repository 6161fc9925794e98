# SPDX-License-Identifier: Apache-2.0
"""Which processes use a mount; a program of its own, so that it can be run with a deadline.

Reads the links in /proc and follows none, so a dead NFS server can't hold it. The kernel can: a
process's memory map is locked while that process waits for a page (proc_pid_maps(5)).
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

PROC = Path("/proc")


def find_users(mountpoint: str) -> Iterator[str]:
    """Name the processes that have something at or below a mount point open, as "name (pid)"."""
    for process in sorted(PROC.glob("[0-9]*"), key=lambda path: int(path.name)):
        # A process that ended meanwhile has nothing open.
        with contextlib.suppress(OSError):
            if any(_is_below(path, mountpoint) for path in _read_paths(process)):
                yield f"{_read_name(process)} ({process.name})"


def _read_paths(process: Path) -> Iterator[str]:
    for link in (process / "cwd", process / "root", process / "exe", *(process / "fd").iterdir()):
        with contextlib.suppress(OSError):  # Closed meanwhile, or a kernel thread, which has none.
            yield os.readlink(link)
    for line in (process / "maps").read_text(errors="replace").splitlines():
        yield line.split(maxsplit=5)[-1]


def _is_below(path: str, mountpoint: str) -> bool:
    return path == mountpoint or path.startswith(mountpoint + "/")


def _read_name(process: Path) -> str:
    name = (process / "comm").read_text(errors="replace").strip()
    return "".join(char if char.isprintable() else "?" for char in name)


if __name__ == "__main__":  # pragma: no cover  # Run by a test, as a program.
    for user in find_users(sys.argv[1]):
        print(user)

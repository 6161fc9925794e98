# SPDX-License-Identifier: Apache-2.0
"""Whether the kernel lets this machine mount NFS at all. No ops here."""

import ctypes
import errno
import os
from pathlib import Path

# The name of the container's manager, such as lxc, written by systemd (systemd's documentation,
# CONTAINER_INTERFACE).
CONTAINER = Path("/run/systemd/container")


def find_refusal() -> str:
    """Say why NFS can't be mounted here, and what to do; empty: it can.

    The kernel is asked: a mount without a server's address, which fails. Who may mount is refused
    for the address (EINVAL), and who may not, before it is looked at (mount(2)).
    """
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mount(b"none", b"/mnt", b"nfs4", ctypes.c_ulong(0), b"vers=4.2")
    return _explain(ctypes.get_errno())


def _explain(number: int) -> str:
    if number == errno.ENODEV:
        return "The kernel of this machine has no NFS: use one that has, such as linux-generic"
    if number not in {errno.EPERM, errno.EACCES}:
        return ""
    what = f"This {CONTAINER.read_text().strip()} container" if CONTAINER.exists() else "Root here"
    return (
        f"{what} may not mount NFS ({os.strerror(number)}): use a virtual machine, or see"
        " 'use LXD' in the how-to"
    )

# SPDX-License-Identifier: Apache-2.0
"""Whether a machine is as the last run left it, with nothing left to do.

Juju tells of all else by events, and reading a thousand integrations takes long.
"""

import contextlib
import hashlib
from dataclasses import replace
from pathlib import Path

import exports
import monitoring
import mounts
import nfs
import room
from nfs_charms import machine
from reading import Reader

SETTLED = Path("/run/nfs-server-charm/settled")


def forget() -> None:
    """Say that there may be something to do."""
    SETTLED.unlink(missing_ok=True)


def note(reader: Reader) -> None:
    """Say that all is done, and how the machine is now."""
    with contextlib.suppress(OSError):  # Where it can't be kept, the next hook does more.
        machine.write_atomically(SETTLED, _fingerprint(reader), mode=0o600)


def is_settled(reader: Reader) -> bool:
    """Whether the machine is as it was when all was done."""
    if reader.unreadable:
        return False
    return machine.read_file(SETTLED) == _fingerprint(reader).encode()


def _fingerprint(reader: Reader) -> str:
    """Describe what of the machine the charm looks after."""
    storage, found = reader.read_storage()
    # What is written to shares changes what sparse images take; that says `remark`.
    shares = [
        replace(it, allocated_bytes=0) if it.is_sparse else it for it in found.images.values()
    ]
    # The day changes with the clock, and says nothing.
    kept = [replace(it, day="") for it in found.deleted.values()]
    remark = room.remark(storage, found.images.values(), found.deleted_images)
    left = room.left_gib(storage, found.all_images)
    own = (*mounts.files(), *nfs.files(), *monitoring.files())
    files = (*own, exports.EXPORTS, exports.ETAB)
    stamps = [(str(path), machine.stamp(path)) for path in files]
    runs = nfs.read_state(), monitoring.is_there() and monitoring.is_listening()
    facts = (reader.directory, shares, kept, found.foreign, remark, left, *runs, stamps)
    return hashlib.sha256(repr(facts).encode(errors="surrogateescape")).hexdigest()

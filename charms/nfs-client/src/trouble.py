# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a mount, and since when: a file for each in /run. No ops here.

Gone after a boot, when all mounts are new.
"""

import enum
import logging
from dataclasses import dataclass
from pathlib import Path

from nfs_charms import machine

logger = logging.getLogger(__name__)

DIRECTORY = Path("/run/nfs-client")


class Trouble(enum.Enum):
    """What can be wrong."""

    SILENT = "silent"
    """The server doesn't answer."""
    STALE = "stale"
    """The server has another file system in the place of the one that is mounted (ESTALE)."""
    DENIED = "denied"
    """The server answers, and doesn't let this machine in any more (EACCES)."""
    HELD = "held"
    """Unmounted by force; stays so until `remount`, a boot, or another address from the server."""

    @property
    def state(self) -> str:
        """How show-mount says it. The value is what stands in the file, for any revision."""
        return "unreachable" if self is Trouble.SILENT else self.value


@dataclass(frozen=True)
class Noted:
    """A trouble, and when it was first noticed."""

    trouble: Trouble
    since_s: float
    """Seconds since the epoch."""


def note(mountpoint: str, trouble: Trouble | None) -> None:
    """Write down what is wrong with a mount; None: nothing is. What was noted keeps its time.

    A /run that takes no file, since it is full, holds up no unmounting.
    """
    noted = path(mountpoint)
    try:
        if trouble:
            machine.write_atomically(noted, trouble.value)
        else:
            noted.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s: what is wrong with it can't be noted: %s", mountpoint, error)


def read(mountpoint: str) -> Noted | None:
    """Read what was noted of a mount."""
    noted = path(mountpoint)
    if not noted.exists():
        return None
    return Noted(Trouble(noted.read_text()), noted.stat().st_mtime)


def path(mountpoint: str) -> Path:
    """Where it is written down."""
    return DIRECTORY / machine.mount_unit_name(mountpoint)

# SPDX-License-Identifier: Apache-2.0
"""Which mounts are whose: the mount units that charms like this one wrote. No ops here.

A unit file is the record of a mount: whose it is, and what was made for it. It is there before
anything is done, and goes when all is undone, so a killed hook leaves nothing unknown.
"""

import logging
from pathlib import Path

from charms.storage_libs.v0.nfs_interfaces import Endpoint
from nfs_charms import machine
from plan import OwnedMount, application

logger = logging.getLogger(__name__)

# Where Juju has a directory for each unit of this machine.
AGENTS = Path("/var/lib/juju/agents")


def unit_file(mountpoint: str) -> Path:
    """Where the mount unit of a mount point is written."""
    return machine.UNIT_DIRECTORY / machine.mount_unit_name(mountpoint)


def read_owned(unit: str) -> tuple[OwnedMount, ...]:
    """Read which mounts the application of a Juju unit has on this machine."""
    return tuple(owned for owned in read_all() if owned.application == application(unit))


def read_all() -> tuple[OwnedMount, ...]:
    """Read which mounts the units of this machine have."""
    paths = sorted(machine.UNIT_DIRECTORY.glob("*.mount"))
    return tuple(owned for path in paths if (owned := read(path)))


def read(path: Path) -> OwnedMount | None:
    """Read a mount unit that such a charm wrote; None: it is somebody else's."""
    if path.is_symlink() or not path.is_file():
        return None
    text = path.read_text(errors="replace")
    if "\n[X-Juju]\n" not in text:
        return None
    settings = dict(line.split("=", 1) for line in text.splitlines() if "=" in line)
    try:
        units = settings["Unit"].split()
        return OwnedMount(
            application=application(units[0]) if units else "",
            units=tuple(it for it in units if _is_present(it)),
            mountpoint=settings["Where"],
            share=settings["Share"],
            endpoint=Endpoint.parse(settings["Endpoint"]),
            made_directory=settings["MadeDirectory"],
            is_named=settings.get("Named") == "yes",  # An earlier revision doesn't say.
        )
    except (KeyError, ValueError) as error:
        # What it says can't be trusted any more: it counts as somebody else's, and is not touched.
        logger.warning("%s was changed by hand: unmount it, and remove it (%s)", path, error)
        return None


def _is_present(unit: str) -> bool:
    """Whether a unit is on this machine: one that was removed by force ran no hook."""
    return (AGENTS / f"unit-{unit.replace('/', '-')}").exists()


def is_from(mounted: machine.Mounted, endpoint: Endpoint) -> bool:
    """Whether what is mounted is what an endpoint stands for."""
    # The kernel shows the source without a slash at its end.
    source = endpoint.source.rstrip("/")
    return mounted.fstype in ("nfs", "nfs4") and mounted.source.rstrip("/") == source

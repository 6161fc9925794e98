# SPDX-License-Identifier: Apache-2.0
"""One nfs-server a machine: /etc/exports, the NFS service and /srv/nfs are there once. No ops.

The first unit on a machine claims it. It holds while that unit's charm is there, so that a unit
that was removed by force holds nobody up.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import records
from nfs_charms import machine
from records import Field, Record

CLAIM = Path("/var/lib/nfs-server-charm/claim.json")


@dataclass(frozen=True)
class Claim:
    """Who has the machine."""

    unit: str = ""
    model: str = ""
    """UUID of its model: two models may have units of the same name on a machine."""
    charm: str = ""
    """The directory of its charm."""
    extra: Mapping[str, object] = field(default_factory=dict[str, object])
    """What another revision of the charm keeps here."""

    def is_by(self, other: "Claim") -> bool:
        """Whether both are of one unit."""
        return (self.unit, self.model) == (other.unit, other.model)


_RECORD = Record(
    Claim,
    unit=Field("unit", records.text),
    model=Field("model", records.text),
    charm=Field("charm", records.text),
)


def _read() -> Claim:
    return _RECORD.read(records.parse(machine.read_file(CLAIM) or b""))


def find_other(mine: Claim) -> str:
    """Find the unit that has this machine, if it is another one; empty: it may be claimed."""
    held = _read()
    # The same place is this unit's: the other one's model is gone, and this one came after it.
    is_other = not held.is_by(mine) and held.charm != mine.charm
    return held.unit if is_other and os.path.exists(held.charm) else ""


def is_held(mine: Claim) -> bool:
    """Whether this unit has its machine."""
    return _read().is_by(mine)


def is_free() -> bool:
    """Whether nobody has claimed the machine: an older revision did not."""
    return not CLAIM.exists()


def take(mine: Claim) -> None:
    """Claim this machine, which no other unit has."""
    held = _read()
    kept = replace(mine, extra=held.extra) if held.is_by(mine) else mine
    machine.write_atomically(CLAIM, records.dump(_RECORD.write(kept)) + "\n")


def release(mine: Claim) -> None:
    """Give this machine up, if it is claimed by this unit."""
    if is_held(mine):
        CLAIM.unlink()

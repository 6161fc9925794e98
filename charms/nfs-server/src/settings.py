# SPDX-License-Identifier: Apache-2.0
"""The operator's settings: checked whole, and kept on the machine while they are in force. No ops.

A bad setting changes nothing: the last good ones go on being in force, and the status says why.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from charms.storage_libs.v0 import machine

IN_FORCE = Path("/var/lib/nfs-server-charm/settings.json")

MAX_OVERCOMMIT_RATIO = 100.0
MAX_THREADS = 1024
SQUASHES = ("none", "root", "all")


class SettingsError(Exception):
    """A setting is not allowed; the message says which one, and what is."""


@dataclass(frozen=True)
class Settings:
    """What the operator has set; see charmcraft.yaml."""

    overcommit_ratio: float = 1.0
    threads: int = 0
    """Threads of nfsd; 0: by the number of processors."""
    nfsv3: bool = False
    squash: str = "none"


def parse(config: Mapping[str, bool | int | float | str]) -> Settings:
    """Check the charm's options; their types are Juju's affair.

    Raises:
        SettingsError: one of them is not allowed.
    """
    settings = Settings(
        overcommit_ratio=float(config["overcommit-ratio"]),
        threads=int(config["threads"]),
        nfsv3=bool(config["nfsv3"]),
        squash=str(config["squash"]),
    )
    ratio, threads, squash = settings.overcommit_ratio, settings.threads, settings.squash
    if not (math.isfinite(ratio) and 1 <= ratio <= MAX_OVERCOMMIT_RATIO):
        raise SettingsError(
            f"overcommit-ratio {ratio:g}: use a number from 1 to {MAX_OVERCOMMIT_RATIO:g}"
        )
    if not 0 <= threads <= MAX_THREADS:
        raise SettingsError(
            f"threads {threads}: use 1 to {MAX_THREADS}, or 0 for a number that fits the machine"
        )
    if squash not in SQUASHES:
        raise SettingsError(f"squash {squash[:40]!r}: use {', '.join(SQUASHES)}")
    return settings


def read_in_force() -> Settings:
    """Read the last good settings; the defaults if there were none yet."""
    return Settings(**json.loads(IN_FORCE.read_bytes())) if IN_FORCE.exists() else Settings()


def keep(settings: Settings) -> bool:
    """Keep the settings as the last good ones; say whether they are others than before."""
    return machine.write_atomically(IN_FORCE, json.dumps(asdict(settings)) + "\n")

# SPDX-License-Identifier: Apache-2.0
"""The operator's settings: checked whole, and kept on the machine while they are in force. No ops.

A bad setting changes nothing: the last good ones go on being in force, and the status says why.
"""

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias, TypeVar

import records
from charms.storage_libs.v0.nfs_interfaces import (
    NO_LIMIT,
    SQUASHES,
    Size,
    parse_name,
    parse_size,
)
from nfs_charms import machine
from records import Field, Record

IN_FORCE = Path("/var/lib/nfs-server-charm/settings.json")

MAX_OVERCOMMIT_RATIO = 100.0
MAX_THREADS = 1024
MAX_KEEP_DELETED_DAYS = 3650

logger = logging.getLogger(__name__)

Config: TypeAlias = Mapping[str, bool | int | float | str]
_T = TypeVar("_T")


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
    filesystem_share: str = "filesystem"
    filesystem_size: Size = NO_LIMIT
    keep_deleted_days: int = 7
    """For how long a deleted share can be restored; 0: not at all."""
    extra: Mapping[str, object] = field(default_factory=dict[str, object])
    """What another revision of the charm keeps here."""


_RECORD = Record(
    Settings,
    overcommit_ratio=Field("overcommit_ratio", records.real),
    threads=Field("threads", records.number),
    nfsv3=Field("nfsv3", records.flag),
    squash=Field("squash", records.text),
    keep_deleted_days=Field("keep_deleted_days", records.number),
    filesystem_share=Field("filesystem_share", parse_name),
    filesystem_size=Field("filesystem_size", records.size, lambda value: value.plain),
)


def read(config: Config) -> tuple[Settings | None, str]:
    """Read the operator's settings; or the last that were good, and what is wrong with these.

    Where none were good yet there are none: the defaults may open what other units keep closed.
    """
    try:
        return parse(config), ""
    except SettingsError as error:
        logger.error("%s", error)  # The status says it too.
        return read_in_force(), str(error)


def parse(config: Config) -> Settings:
    """Check the charm's options; their types are Juju's affair.

    Raises:
        SettingsError: one of them is not allowed.
    """
    settings = Settings(
        overcommit_ratio=float(config["overcommit-ratio"]),
        threads=int(config["threads"]),
        nfsv3=bool(config["nfsv3"]),
        squash=str(config["squash"]),
        keep_deleted_days=int(config["keep-deleted"]),
        filesystem_share=_parsed(parse_name, config, "filesystem-share"),
        filesystem_size=Size.of(_parsed(parse_size, config, "filesystem-size")),
    )
    _check(settings)
    return settings


def _check(settings: Settings) -> None:
    ratio, threads, squash = settings.overcommit_ratio, settings.threads, settings.squash
    days = settings.keep_deleted_days
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
    if not 0 <= days <= MAX_KEEP_DELETED_DAYS:
        raise SettingsError(
            f"keep-deleted {days}: use 1 to {MAX_KEEP_DELETED_DAYS} days, or 0 to delete at once"
        )


def _parsed(parse: Callable[[str], _T], config: Config, option: str) -> _T:
    try:
        return parse(str(config[option]))
    except ValueError as error:
        raise SettingsError(f"{option}: {error}") from error


def _read() -> Settings:
    return _RECORD.read(records.parse(machine.read_file(IN_FORCE) or b""))


def read_in_force() -> Settings | None:
    """Read the last good settings; None if there were none yet, or none are left."""
    settings = _read()
    try:
        _check(settings)
    except SettingsError as error:
        logger.warning("%s: %s", IN_FORCE, error)
        return None
    return settings if IN_FORCE.exists() else None


def keep(settings: Settings) -> bool:
    """Keep the settings as the last good ones; say whether they are others than before."""
    kept = replace(settings, extra=_read().extra)
    return machine.write_atomically(IN_FORCE, records.dump(_RECORD.write(kept)) + "\n")

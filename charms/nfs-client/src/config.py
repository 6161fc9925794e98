# SPDX-License-Identifier: Apache-2.0
"""The charm's options, checked. No I/O, no ops."""

import contextlib
import hashlib
import re
from collections.abc import Generator, Mapping
from dataclasses import dataclass

from charms.storage_libs.v0 import nfs_interfaces
from charms.storage_libs.v0.nfs_interfaces import READ_ONLY, UNSAID, Permissions
from nfs_charms import machine

# What ends up in unit files and on command lines: no blank, quote, percent, backslash, comma.
_PLAIN_PATH = re.compile(r"/[A-Za-z0-9._/-]*")
# systemd refuses names above 255 characters (systemd.unit(5)); each "-" of a path takes four of
# them. The rest is for what the charm puts before.
_MAX_UNIT_NAME = 200
# Longer names of shares are shortened, to what fits the interface with a digest behind it.
_MAX_OWN_NAME = 100

# Not to be mounted on, nor is anything below them.
_SYSTEM_TREE = re.compile(
    r"/(bin|boot|dev|efi|etc|lib(32|64|x32)?|proc|run|sbin|snap|sys|usr"
    r"|var/(lib/(apt|dpkg|juju|snapd|systemd)|lock|run|snap))(?=/|$)"
)
# A mount would hide what they hold; what is below them may be mounted on.
_SYSTEM_DIRECTORY = re.compile(
    r"/|/(home|media|opt|root|srv|tmp|var)"
    r"|/var/(backups|cache|lib|local|log|mail|opt|spool|tmp)"
)


@dataclass(frozen=True)
class Config:
    """What the operator wants."""

    mountpoint: str
    share_name: str
    """Empty: a share of the application's own."""
    size: int | None
    """GiB; None: no limit but the server's storage."""
    flags: tuple[str, ...]
    """Mount options (mount(8)), each stated one way or the other, so that a remount sets it."""
    allowlist: str = ""
    """Addresses and networks that may mount the share besides the units of the application."""
    permissions: Permissions = UNSAID


@dataclass(frozen=True)
class InvalidConfig:
    """Options that can't be used."""

    problems: tuple[str, ...]
    """What is wrong and what to do, for every option with a fault."""
    is_unset: bool
    """Whether there is no mount point at all: the operator wants nothing mounted."""


def parse_config(raw: Mapping[str, str | int | float | bool]) -> Config | InvalidConfig:
    """Check all options."""
    problems: list[str] = []
    mountpoint = share_name = ""
    size = None
    allowlist = str(raw.get("allowlist", ""))
    with _noting(problems):
        mountpoint = parse_mountpoint(str(raw.get("mountpoint", "")))
    with _noting(problems, "share-name: "):
        if text := str(raw.get("share-name", "")):
            share_name = nfs_interfaces.parse_name(text)
    with _noting(problems):
        size = nfs_interfaces.parse_size(str(raw["size"]))
    with _noting(problems):
        nfs_interfaces.parse_allowlist(allowlist)
    said = {key: str(raw.get(key, "")) for key in ("owner", "mode", "squash")}
    said["access"] = READ_ONLY if raw["read-only"] else ""
    permissions = Permissions.parse(said, problems)
    if problems:
        return InvalidConfig(tuple(problems), is_unset=not raw.get("mountpoint"))
    return Config(mountpoint, share_name, size, _flags(raw), allowlist, permissions)


@contextlib.contextmanager
def _noting(problems: list[str], option: str = "") -> Generator[None, None, None]:
    """Go on where an option can't be used, and note why."""
    try:
        yield
    except ValueError as error:
        problems.append(f"{option}{error}")


def own_share_name(model: str, application: str) -> str:
    """Name the share of an application that is given no name: readable, and no other's."""
    name = f"{model}/{application}"
    plain = re.sub(r"[^A-Za-z0-9/-]", "-", name)[:_MAX_OWN_NAME]
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return plain if plain == name else f"{plain}-{digest}"


def _flags(raw: Mapping[str, str | int | float | bool]) -> tuple[str, ...]:
    return (
        "ro" if raw["read-only"] else "rw",
        *(f"no{flag}" if raw[f"no{flag}"] else flag for flag in ("suid", "dev", "exec")),
    )


def parse_mountpoint(text: str) -> str:
    """Check a mount point and return it without doubled and trailing slashes.

    Raises:
        ValueError: it can't be mounted on; the message says what to do.
    """
    if not text:
        raise ValueError("mountpoint: not set, say where to mount the share, such as /data")
    shown = f"mountpoint {text if len(text) <= 40 else text[:37] + '...'!a}"
    if not text.startswith("/"):
        raise ValueError(f"{shown}: use an absolute path, such as /data")
    if not _PLAIN_PATH.fullmatch(text):
        raise ValueError(f"{shown}: use only letters, digits and the characters /._-")
    parts = [part for part in text.split("/") if part]
    if "." in parts or ".." in parts:
        raise ValueError(f"{shown}: '.' and '..' are not allowed in it")
    mountpoint = "/" + "/".join(parts)
    if tree := _SYSTEM_TREE.match(mountpoint):
        raise ValueError(f"{shown}: {tree[0]} belongs to the system, use another, such as /data")
    if _SYSTEM_DIRECTORY.fullmatch(mountpoint):
        raise ValueError(f"{shown}: a system directory, use one below it, or such as /data")
    if len(machine.mount_unit_name(mountpoint)) > _MAX_UNIT_NAME:
        raise ValueError(f"{shown}: too long for the name of a systemd unit, use a shorter one")
    return mountpoint

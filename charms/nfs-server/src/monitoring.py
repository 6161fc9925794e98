# SPDX-License-Identifier: Apache-2.0
"""The exporter on the machine: systemd's units, and the facts that it reads. No ops.

systemd listens, and starts the exporter when it is asked for the first time: it costs a hook and a
boot nothing, and a port that is another's is known when systemd starts to listen.
"""

import contextlib
import hashlib
import json
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from nfs_charms import machine

ADDRESS = "127.0.0.1"
PORT = 20490
SOCKET = "nfs-server-exporter.socket"
SERVICE = "nfs-server-exporter.service"
TEMPLATES = Path(__file__).parent / "templates"
# What runs in the exporter. Changed, it has to be started anew.
PROGRAM = ("exporter.py", "kernel.py", "metrics.py", "monitoring.py")

FACTS = Path("/var/lib/nfs-server-charm/monitoring.json")
HELD = Path("/var/lib/nfs-server-charm/held")
"""Its time is that of the last hook that ran to its end."""
TCP_SOCKETS = Path("/proc/net/tcp")
SYSTEMD_FILES = Path("/proc/1/fd")
_LISTENING = "0A"


class MonitoringError(Exception):
    """The exporter could not be set up; the message says why."""


@dataclass(frozen=True)
class ShareFacts:
    """What the charm alone knows of a share."""

    name: str
    where: str
    """Where it is mounted."""
    image: str
    applications: str = ""
    """Those that have it, its own first, joined by commas."""
    is_sparse: bool = False
    is_requested: bool = False
    """Whether it is to be exported."""


@dataclass(frozen=True)
class Facts:
    """What the charm alone knows of its unit."""

    storage: str = ""
    """Where the images are; empty: the unit has no storage."""
    reserve_bytes: int = 0
    allocated_bytes: int = 0
    is_on_root: bool = False
    shares: tuple[ShareFacts, ...] = field(default_factory=tuple[ShareFacts, ...])


def read_facts() -> Facts:
    """Read what the charm wrote last; nothing where it has written nothing."""
    plain: dict[str, Any] = json.loads(machine.read_file(FACTS) or b"{}")
    shares = tuple(ShareFacts(**_known(ShareFacts, it)) for it in plain.pop("shares", ()))
    return Facts(**_known(Facts, plain), shares=shares)


def _known(kind: type[Facts | ShareFacts], plain: Mapping[str, Any]) -> dict[str, Any]:
    """Take what this revision knows: after a refresh, an exporter may be older than the charm."""
    known = {it.name for it in fields(kind)}
    return {key: value for key, value in plain.items() if key in known}


def files() -> tuple[Path, ...]:
    """Find what the exporter has on the machine."""
    return (*(machine.UNIT_DIRECTORY / it for it in (SOCKET, SERVICE)), FACTS)


def is_there() -> bool:
    """Whether anything of the exporter is on the machine."""
    return any(map(os.path.lexists, files()))


def is_listening() -> bool:
    """Whether systemd listens where the exporter is asked; reads files, runs no command."""
    inode = _listening_inode()
    if not inode:
        return False
    for descriptor in SYSTEMD_FILES.iterdir():
        with contextlib.suppress(FileNotFoundError):  # Closed meanwhile.
            if os.readlink(descriptor) == f"socket:[{inode}]":
                return True
    return False


def _listening_inode() -> str:
    """Find the socket that listens at the port (proc_net_tcp.rst); empty: there is none."""
    packed = int.from_bytes(socket.inet_aton(ADDRESS), sys.byteorder)
    wanted = f"{packed:08X}:{PORT:04X}"
    with TCP_SOCKETS.open() as lines:
        next(lines)
        for line in lines:
            words = line.split()
            if words[3] != _LISTENING:  # They come first.
                break
            if words[1] == wanted:
                return words[9]
    return ""


def ensure(facts: Facts, charm_directory: Path) -> bool:
    """Have the exporter answer, with these facts and this code; say whether that took anything.

    Raises:
        MonitoringError: it doesn't: the port is another's, or systemd failed.
    """
    with machine.failing_as(MonitoringError):
        changed = machine.write_atomically(FACTS, json.dumps(asdict(facts)) + "\n", mode=0o600)
        units = _render_units(charm_directory)
        is_new = not all(
            machine.is_file_with(machine.UNIT_DIRECTORY / name, text)
            for name, text in units.items()
        )
        if is_new and is_listening():
            # The service with it; and before the files change: after a hook that is killed here,
            # the next one finds that nothing listens.
            machine.systemctl("stop", SOCKET)
        machine.ensure_units(units)
        if is_listening():
            return changed
        try:
            machine.systemctl("enable", "--now", "--no-reload", SOCKET)
        except machine.CommandError as error:
            if _is_port_free():
                raise
            raise MonitoringError(f"port {PORT} is taken: end who has it, ss -ltnp") from error
    return True


def _render_units(charm_directory: Path) -> dict[str, str]:
    values = {
        SOCKET: {"address": ADDRESS, "port": PORT},
        SERVICE: {
            "python": sys.executable,
            "directory": str(charm_directory),
            "agents": str(charm_directory.parent.parent),
            "code": _digest(),
        },
    }
    return {
        name: machine.render(TEMPLATES / f"{name}.j2", machine.UNIT_DIRECTORY / name, **its)
        for name, its in values.items()
    }


def _digest() -> str:
    """Describe the code that the exporter runs."""
    own = Path(__file__).parent
    code = [*(own / name for name in PROGRAM), Path(machine.__file__)]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in code)).hexdigest()[:16]


def _is_port_free() -> bool:
    with contextlib.closing(socket.socket()) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, PORT))
        except OSError:
            return False
    return True


def remove() -> bool:
    """Leave nothing of the exporter; say whether there was anything.

    Raises:
        MonitoringError: systemd failed, or files can't be removed.
    """
    if not is_there():
        return False
    with machine.failing_as(MonitoringError):
        if (machine.UNIT_DIRECTORY / SOCKET).exists():
            machine.systemctl("disable", "--now", "--no-reload", SOCKET)
        machine.remove_units([SOCKET, SERVICE])
        for path in (HELD, FACTS):  # What says that there is anything goes last.
            path.unlink(missing_ok=True)
    return True


def note_hook() -> None:
    """Note that a hook ran to its end, where somebody may ask when that was."""
    with contextlib.suppress(OSError):  # A full disk fails no hook that held.
        if FACTS.exists():
            HELD.touch()

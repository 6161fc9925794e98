# SPDX-License-Identifier: Apache-2.0
"""The kernel's NFS server: its package, settings, whether it runs, who is connected. No ops."""

import contextlib
import ipaddress
import logging
import os
import re
import time
from pathlib import Path

import files
from nfs_charms import machine
from settings import Settings

PACKAGE = "nfs-kernel-server"
SERVICE = "nfs-server.service"
MOUNTD_SERVICE = "nfs-mountd.service"

PORT = 2049
RPCBIND_PORT = 111
# mountd, statd and lockd have no ports of their own by right; these are what others use too.
MOUNTD_PORT = 20048
STATD_PORT = 32765
LOCKD_PORT = 32768
NFSV3_PORTS = (RPCBIND_PORT, MOUNTD_PORT, STATD_PORT, LOCKD_PORT)
"""What NFSv3 needs beside PORT, for TCP and UDP (rpc.statd(8), rpc.mountd(8))."""

CONFIGURATION = Path("/etc/nfs.conf.d/nfs-server-charm.conf")
LOCKD_CONFIGURATION = Path("/etc/modprobe.d/nfs-server-charm.conf")
LOCKD_PARAMETERS = Path("/proc/sys/fs/nfs")
MOUNTD_DROP_IN = f"{MOUNTD_SERVICE}.d/nfs-server-charm.conf"
TEMPLATES = Path(__file__).parent / "templates"
THREADS = Path("/proc/fs/nfsd/threads")
VERSIONS = Path("/proc/fs/nfsd/versions")
CLIENTS = Path("/proc/fs/nfsd/clients")
EXPORTFS = Path("/usr/sbin/exportfs")
RPCBIND = Path("/usr/sbin/rpcbind")
# NFSv4 needs none of them; they would listen on port 111 and others (nfs.systemd(7)).
NFSV3_UNITS = ("rpcbind.service", "rpcbind.socket", "rpc-statd.service")
NFSV3_DROP_INS = tuple(f"{unit}.d/nfs-server-charm.conf" for unit in NFSV3_UNITS)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# Starting waits for the images' file systems to be checked.
START_TIMEOUT_S = 300.0

logger = logging.getLogger(__name__)


class NfsError(Exception):
    """The NFS server could not be installed or started; the message says why."""


def install(settings: Settings) -> str:
    """Install the NFS server, the settings in place before it first starts; its version.

    Raises:
        NfsError: apt could not install it.
    """
    # Here, as only a hook that installs should take the time.
    from nfs_charms import packages

    try:
        write_configuration(settings)
        return packages.install(PACKAGE)
    except (machine.CommandError, packages.PackagesError) as error:
        raise NfsError(str(error)) from error


def write_configuration(settings: Settings) -> bool:
    """Write the settings, for the next start; say whether that changed any."""
    text = files.render(
        TEMPLATES / "nfs.conf.j2",
        threads=threads(settings),
        vers3="y" if settings.nfsv3 else "n",
        mountd_port=MOUNTD_PORT,
        statd_port=STATD_PORT,
    )
    drop_in = files.render(TEMPLATES / "nfs-mountd.conf")
    if is_installed():  # Else they are written for the first time.
        files.warn_if_touched(CONFIGURATION, text)
        files.warn_if_touched(machine.UNIT_DIRECTORY / MOUNTD_DROP_IN, drop_in)
    changed = machine.write_atomically(CONFIGURATION, text)
    changed |= _write_lockd_configuration(settings.nfsv3)
    units = {MOUNTD_DROP_IN: drop_in}
    if not RPCBIND.exists():  # Else somebody may be using it.
        units |= _govern_rpcbind()
    return machine.ensure_units(units) or changed


def _govern_rpcbind() -> dict[str, str]:
    """Let rpcbind and statd start for NFSv3 alone. That these drop-ins exist says we may."""
    text = files.render(TEMPLATES / "nfsv3-only.conf.j2", path=str(LOCKD_CONFIGURATION))
    return dict.fromkeys(NFSV3_DROP_INS, text)


def _write_lockd_configuration(is_wanted: bool) -> bool:
    """Fix the ports of lockd, which takes them when its module is loaded; nfs.conf has no say."""
    if is_wanted:
        text = files.render(TEMPLATES / "lockd.conf.j2", port=LOCKD_PORT)
        return machine.write_atomically(LOCKD_CONFIGURATION, text)
    was_there = LOCKD_CONFIGURATION.exists()
    LOCKD_CONFIGURATION.unlink(missing_ok=True)
    return was_there


def threads(settings: Settings) -> int:
    """How many threads nfsd is to have: 8 for each processor, from 8 to 64, unless it is set."""
    return settings.threads or max(8, min(64, 8 * (os.cpu_count() or 1)))


def is_installed() -> bool:
    """Whether the package is there."""
    return EXPORTFS.exists()


def was_installed() -> bool:
    """Whether the charm has installed the package before, there or not now."""
    return CONFIGURATION.exists()


def is_running() -> bool:
    """Whether the kernel serves NFS; reads a file, runs no command."""
    return _running_threads() > 0


def _running_threads() -> int:
    return int(THREADS.read_text()) if THREADS.exists() else 0


def ensure_running(settings: Settings) -> bool:
    """Make the server run with these settings, now and at boot; say whether that took anything.

    Only versions of the protocol need a restart; threads come and go while clients are served.

    Raises:
        NfsError: it does not start.
    """
    try:
        if not is_running():
            logger.warning("%s did not run: starting it", SERVICE)
            _set_lockd_ports(settings.nfsv3)
            machine.systemctl("enable", "--now", SERVICE, timeout_s=START_TIMEOUT_S)
        elif not _has_versions(settings.nfsv3):
            logger.warning("%s is restarted for other versions of NFS", SERVICE)
            _restart(settings.nfsv3)
        elif _running_threads() != threads(settings):
            THREADS.write_text(f"{threads(settings)}\n")
        else:
            return False
    except machine.CommandError as error:
        raise NfsError(f"{SERVICE} does not start: {error}") from error
    return True


def read_clients() -> tuple[Address, ...]:
    """Read from where clients are connected now; not those that are silent since their lease.

    The file is that of Documentation/admin-guide/nfs/nfsd-admin-interfaces.rst, `courtesy` in it
    a client that has not been heard of.
    """
    found: set[Address] = set()
    for path in CLIENTS.glob("*/info"):
        with contextlib.suppress(FileNotFoundError):  # It has left meanwhile.
            info = path.read_text(errors="surrogateescape")
            address = re.search(r'^address: "\[?([0-9a-f.:]+?)\]?:[0-9]+"$', info, re.MULTILINE)
            if address and not re.search("^status: courtesy", info, re.MULTILINE):
                found.add(ipaddress.ip_address(address[1]))
    return tuple(sorted(found, key=lambda address: (address.version, int(address))))


def _has_versions(is_nfsv3: bool) -> bool:
    """Whether the kernel serves the versions that are wanted.

    nfsd tells of 4.0 only when it is off (write_versions() in fs/nfsd/nfsctl.c).
    """
    found = VERSIONS.read_text().split()
    return "-4.0" in found and ("+3" in found) == is_nfsv3


def _restart(is_nfsv3: bool) -> None:
    """Restart the server, with mountd, which listens for NFSv3 alone."""
    machine.systemctl("stop", SERVICE, MOUNTD_SERVICE)
    if not is_nfsv3 and _is_rpcbind_ours():
        machine.systemctl("stop", *NFSV3_UNITS)
    _set_lockd_ports(is_nfsv3)
    machine.systemctl("start", SERVICE, timeout_s=START_TIMEOUT_S)


def _set_lockd_ports(is_nfsv3: bool) -> None:
    """Tell lockd its ports if its module is loaded already; 0: any."""
    port = LOCKD_PORT if is_nfsv3 else 0
    for name in ("nlm_tcpport", "nlm_udpport"):
        with contextlib.suppress(FileNotFoundError):  # Not loaded; see _write_lockd_configuration.
            (LOCKD_PARAMETERS / name).write_text(f"{port}\n")


def _is_rpcbind_ours() -> bool:
    return (machine.UNIT_DIRECTORY / NFSV3_DROP_INS[0]).exists()


def wait_for_clients_to_leave(timeout_s: float) -> bool:
    """Wait until no client is connected; False if some still are after `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while any(CLIENTS.glob("*")):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def release() -> None:
    """Make the server let go of the file systems that are not exported any more.

    Files that are open or locked over NFSv4 keep theirs busy, and so does the cache of open files.
    Clients that are forgotten here come back by themselves, and get back what they had open on
    shares that are still exported (Documentation/admin-guide/nfs/nfsd-admin-interfaces.rst).

    Raises:
        CommandError: exportfs failed.
    """
    for client in CLIENTS.glob("*/ctl"):
        with contextlib.suppress(FileNotFoundError):  # It has left by itself.
            client.write_text("expire\n")
    machine.run(str(EXPORTFS), "-f")


def remove(*, is_used_by_others: bool) -> None:
    """Take the charm's settings away, and stop the server unless it has others' exports.

    The package stays: others may use it.

    Raises:
        CommandError: systemd failed.
    """
    if is_installed() and not is_used_by_others:
        machine.systemctl("disable", "--now", SERVICE)
    CONFIGURATION.unlink(missing_ok=True)
    LOCKD_CONFIGURATION.unlink(missing_ok=True)
    machine.remove_units([MOUNTD_DROP_IN, *NFSV3_DROP_INS])

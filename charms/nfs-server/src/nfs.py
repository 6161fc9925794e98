# SPDX-License-Identifier: Apache-2.0
"""The kernel's NFS server: its package, settings, whether it runs, who is connected. No ops."""

import contextlib
import ipaddress
import os
import re
import time
from pathlib import Path

from charmlibs import apt, systemd

from charms.storage_libs.v0 import machine

PACKAGE = "nfs-kernel-server"
SERVICE = "nfs-server.service"
PORT = 2049

CONFIGURATION = Path("/etc/nfs.conf.d/nfs-server-charm.conf")
MOUNTD_DROP_IN = "nfs-mountd.service.d/nfs-server-charm.conf"
TEMPLATES = Path(__file__).parent / "templates"
THREADS = Path("/proc/fs/nfsd/threads")
CLIENTS = Path("/proc/fs/nfsd/clients")
EXPORTFS = Path("/usr/sbin/exportfs")
RPCBIND = Path("/usr/sbin/rpcbind")
# NFSv4 needs neither; they would listen on port 111 and others (nfs.systemd(7)).
NFSV3_UNITS = ("rpcbind.service", "rpcbind.socket", "rpc-statd.service")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

DPKG_QUERY = "/usr/bin/dpkg-query"


class NfsError(Exception):
    """The NFS server could not be installed or started; the message says why."""


def install() -> None:
    """Install the NFS server with the charm's settings in place before it first starts.

    Raises:
        NfsError: apt could not install it.
    """
    write_configuration()
    try:
        if not RPCBIND.exists():  # Else somebody may be using it.
            machine.systemctl("mask", *NFSV3_UNITS)
        apt.add_package(PACKAGE, update_cache=True)
    except (apt.Error, machine.CommandError) as error:
        raise NfsError(f"{PACKAGE} could not be installed: {error}") from error


def write_configuration() -> bool:
    """Write the settings; say whether that changed any. A running server keeps the old ones."""
    threads = max(8, min(64, 8 * (os.cpu_count() or 1)))
    text = machine.render(TEMPLATES / "nfs.conf.j2", threads=threads)
    changed = machine.write_atomically(CONFIGURATION, text)
    drop_in = (TEMPLATES / "nfs-mountd.conf").read_text()
    return machine.ensure_units({MOUNTD_DROP_IN: drop_in}) or changed


def is_installed() -> bool:
    """Whether the package is there."""
    return EXPORTFS.exists()


def version() -> str:
    """Version of the package, as dpkg has it."""
    return machine.run(DPKG_QUERY, "--show", "--showformat=${Version}", PACKAGE)


def is_running() -> bool:
    """Whether the kernel serves NFS; reads a file, runs no command."""
    return THREADS.exists() and int(THREADS.read_text()) > 0


def ensure_running() -> bool:
    """Start the NFS server, now and at boot, if it doesn't run; say whether it had to.

    Raises:
        NfsError: it does not start.
    """
    if is_running():
        return False
    try:
        systemd.service_enable("--now", SERVICE)
    except systemd.SystemdError as error:
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
    machine.remove_units([MOUNTD_DROP_IN])
    machine.systemctl("unmask", *NFSV3_UNITS)

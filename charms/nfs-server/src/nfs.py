# SPDX-License-Identifier: Apache-2.0
"""The kernel's NFS server: its package, settings, whether it runs, who is connected. No ops."""

import contextlib
import ipaddress
import logging
import os
import re
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import kernel
from charms.storage_libs.v0.nfs_interfaces import Network
from nfs_charms import machine
from settings import Settings

PACKAGE = "nfs-kernel-server"
SERVICE = "nfs-server.service"
TRACKING_SERVICE = "nfs-server-tracking.service"
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
TEMPLATES = Path(__file__).parent / "templates"
# What systemd is told of the server, by the template of each.
UNITS = {
    f"{MOUNTD_SERVICE}.d/nfs-server-charm.conf": "nfs-mountd.conf",
    f"{SERVICE}.d/nfs-server-charm.conf": "nfs-server.conf",
    TRACKING_SERVICE: TRACKING_SERVICE,
}
NFSCONF = "/usr/sbin/nfsconf"
DPKG_QUERY = "/usr/bin/dpkg-query"
MODPROBE = "/usr/sbin/modprobe"
FILESYSTEMS = Path("/proc/filesystems")
# There while it listens.
RPCBIND_SOCKET = Path("/run/rpcbind.sock")
# On the root disk, also after the charm: rpcbind came with the server.
RPCBIND_IS_OURS = Path("/var/lib/nfs-server-charm/rpcbind")
# The name of the container's manager, such as lxc, written by systemd (systemd's documentation,
# CONTAINER_INTERFACE).
CONTAINER = Path("/run/systemd/container")
RMTAB = Path("/var/lib/nfs/rmtab")
THREADS = kernel.NFSD / "threads"
VERSIONS = kernel.NFSD / "versions"
CLIENTS = kernel.NFSD / "clients"
EXPORTFS = Path("/usr/sbin/exportfs")
RPCBIND = Path("/usr/sbin/rpcbind")
# NFSv4 needs none of them; they would listen on port 111 and others (nfs.systemd(7)).
NFSV3_UNITS = ("rpcbind.service", "rpcbind.socket", "rpc-statd.service")
NFSV3_DROP_INS = tuple(f"{unit}.d/nfs-server-charm.conf" for unit in NFSV3_UNITS)

# conf_get_bool() in nfs-utils' support/nfs/conffile.c.
_TRUE = {"1", "t", "true", "y", "yes", "on"}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
# Starting waits for the images' file systems to be checked.
START_TIMEOUT_S = 300.0
# How long clients that leave may take to unmount before their access is taken away. Juju runs the
# hooks of the two sides up to half a minute apart.
LEAVE_TIMEOUT_S = 60.0

logger = logging.getLogger(__name__)


class NfsError(Exception):
    """The NFS server could not be installed or started; the message says why."""


def find_refusal() -> str:
    """Say why this machine's kernel can't serve NFS, and what to do; empty: it can.

    A kernel that has nfsd as a module may not have loaded it yet.
    """
    if THREADS.exists():  # It does, wherever that is.
        return ""
    if CONTAINER.exists():
        what = f"The kernel serves no NFS from a container ({CONTAINER.read_text().strip()})"
    elif not _has_nfsd():
        what = "The kernel of this machine has no NFS server"
    else:
        return ""
    return f"{what}: juju deploy nfs-server --constraints virt-type=virtual-machine"


def _has_nfsd() -> bool:
    if "nfsd" in FILESYSTEMS.read_text().split():
        return True
    try:
        machine.run(MODPROBE, "nfsd")
    except (machine.CommandError, OSError) as error:
        logger.warning("%s", error)
        return False
    return True


def install(settings: Settings) -> str:
    """Install the NFS server, the settings in place before it first starts; its version.

    Raises:
        NfsError: apt could not install it.
    """
    # Here, as only a hook that installs should take the time.
    from nfs_charms import packages

    write_configuration(settings)
    try:
        return packages.install(PACKAGE)
    except packages.PackagesError as error:
        raise NfsError(str(error)) from error


def read_version() -> str:
    """Read the version of the installed package; empty if it isn't there (dpkg-query(1))."""
    try:
        form = "${db:Status-Status} ${Version}"
        found = machine.run(DPKG_QUERY, "--show", f"--showformat={form}", PACKAGE)
    except machine.CommandError:
        return ""
    status, _, version = found.partition(" ")
    return version if status == "installed" else ""


def write_configuration(settings: Settings) -> bool:
    """Write the settings, for the next start; say whether that changed any.

    Raises:
        NfsError: they could not be written.
    """
    text = machine.render(
        TEMPLATES / "nfs.conf.j2",
        CONFIGURATION,
        threads=threads(settings),
        vers3="y" if settings.nfsv3 else "n",
        mountd_port=MOUNTD_PORT,
        statd_port=STATD_PORT,
    )
    units = {
        name: machine.render(TEMPLATES / template, machine.UNIT_DIRECTORY / name)
        for name, template in UNITS.items()
    }
    is_ours = RPCBIND_IS_OURS.exists() and not RPCBIND_SOCKET.exists()
    if is_ours or not RPCBIND.exists():  # Else somebody may be using it.
        units |= _govern_rpcbind()
    with machine.failing_as(NfsError, "the NFS server's settings can't be written"):
        changed = machine.write_atomically(CONFIGURATION, text)
        changed |= _write_lockd_configuration(settings.nfsv3)
        return machine.ensure_units(units) or changed


def is_configured() -> bool:
    """Whether the charm's settings are there, of this unit or another."""
    return CONFIGURATION.exists()


def _govern_rpcbind() -> dict[str, str]:
    """Let rpcbind and statd start for NFSv3 alone. That these drop-ins exist says we may."""
    template = TEMPLATES / "nfsv3-only.conf.j2"
    destination = machine.UNIT_DIRECTORY / NFSV3_DROP_INS[0]
    text = machine.render(template, destination, path=str(LOCKD_CONFIGURATION))
    return dict.fromkeys(NFSV3_DROP_INS, text)


def _write_lockd_configuration(is_wanted: bool) -> bool:
    """Fix the ports of lockd, which takes them when its module is loaded; nfs.conf has no say."""
    if is_wanted:
        text = machine.render(TEMPLATES / "lockd.conf.j2", LOCKD_CONFIGURATION, port=LOCKD_PORT)
        return machine.write_atomically(LOCKD_CONFIGURATION, text)
    was_there = LOCKD_CONFIGURATION.exists()
    LOCKD_CONFIGURATION.unlink(missing_ok=True)
    return was_there


def threads(settings: Settings) -> int:
    """How many threads nfsd is to have: 8 for each processor, from 8 to 64, unless it is set."""
    return settings.threads or max(8, min(64, 8 * (os.cpu_count() or 1)))


def is_installed() -> bool:
    """Whether the package is there, and whole."""
    return EXPORTFS.exists() and not machine.installing(PACKAGE).exists()


def files() -> tuple[Path, ...]:
    """Find what the server's settings and package stand in."""
    units = (machine.UNIT_DIRECTORY / it for it in (*UNITS, *NFSV3_DROP_INS))
    return (CONFIGURATION, LOCKD_CONFIGURATION, EXPORTFS, *units)


def read_state() -> tuple[bytes | None, bytes | None]:
    """Read how the server runs, as the kernel says it: threads and versions."""
    return machine.read_file(THREADS), machine.read_file(VERSIONS)


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
    with machine.failing_as(NfsError, f"{SERVICE} does not start"):
        if not is_running():
            logger.warning("%s did not run: starting it", SERVICE)
            _prepare(settings.nfsv3)
            machine.systemctl("enable", "--now", SERVICE, timeout_s=START_TIMEOUT_S)
            # At boot it may be ending and starting the server just now; systemctl waits for it.
            machine.systemctl("start", TRACKING_SERVICE, timeout_s=START_TIMEOUT_S)
            if not is_running():  # `rpc.nfsd 0` ended it, and to systemd it is active still.
                machine.systemctl("restart", SERVICE, timeout_s=START_TIMEOUT_S)
        elif not _has_versions(settings.nfsv3):
            _refuse_others_versions(settings.nfsv3)
            logger.warning("%s is restarted for other versions of NFS", SERVICE)
            _restart(settings.nfsv3)
        elif _running_threads() != threads(settings):
            THREADS.write_text(f"{threads(settings)}\n")
        else:
            return False
    return True


@dataclass(frozen=True)
class Holder:
    """An NFSv4 client that holds an open file, a lock or a delegation on a file system."""

    address: Address
    has_locks: bool
    """Whether there are locks (fcntl(2), flock(2)) among it, which it loses when it is expired."""
    is_elsewhere: bool
    """Whether it holds something on other file systems too."""
    is_silent: bool
    """Whether its lease has run out: who asks for its locks has them at once. The kernel keeps
    the rest for a day at most (NFSD_COURTESY_CLIENT_TIMEOUT in fs/nfsd/nfsd.h)."""
    control: Path
    """Its file `ctl`."""


def read_clients(networks: Collection[Network] | None = None) -> tuple[Address, ...]:
    """Read from where clients are connected now; not those that are silent since their lease.

    Args:
        networks: only those from there count; None: all do.
    """
    infos = [kernel.read(path) for path in CLIENTS.glob("*/info")]
    found = {
        address for info in infos if not _is_courtesy(info) and (address := _find_address(info))
    }
    if networks is not None:
        found = {it for it in found if any(it in network for network in networks)}
    return tuple(sorted(found, key=lambda address: (address.version, int(address))))


def holders(image_where: Path) -> tuple[Holder, ...]:
    """Find the NFSv4 clients that hold something on the file system that is mounted at a place.

    Files: Documentation/admin-guide/nfs/nfsd-admin-interfaces.rst.
    """
    if machine.mounted_at(image_where) is None:
        return ()
    superblock = kernel.device_name(image_where.stat().st_dev)
    found: list[Holder] = []
    for path in sorted(CLIENTS.glob("*/states")):
        held = kernel.STATE.findall(kernel.read(path))
        here = {kind for kind, where in held if where == superblock}
        if here:
            info = kernel.read(path.with_name("info"))
            found.append(
                Holder(
                    # It has one, or it has left since: then there is nothing to be expired.
                    address=_find_address(info) or ipaddress.IPv4Address(0),
                    has_locks="lock" in here,
                    is_elsewhere=any(where != superblock for _, where in held),
                    is_silent=_is_courtesy(info),
                    control=path.with_name("ctl"),
                )
            )
    return tuple(found)


def _find_address(info: str) -> Address | None:
    match = re.search(r'^address: "\[?([0-9a-f.:]+?)\]?:[0-9]+"$', info, re.MULTILINE)
    return ipaddress.ip_address(match[1]) if match else None


def _is_courtesy(info: str) -> bool:
    return re.search("^status: courtesy", info, re.MULTILINE) is not None


def expire(clients: Iterable[Holder]) -> None:
    """Make the server forget clients, with all that they hold on any share.

    They come back by themselves and get back what they had open, not what they had locked.
    """
    for client in clients:
        with kernel.ignoring_what_is_gone():  # It may have left by itself.
            client.control.write_text("expire\n")


def nfsv3_clients(where: Path) -> tuple[str, ...]:
    """Name the hosts that have mounted a share over NFSv3 and not unmounted it (rpc.mountd(8)).

    A host that went without unmounting is among them until mountd is told otherwise.
    """
    lines = RMTAB.read_text(errors="surrogateescape").splitlines() if RMTAB.exists() else []
    matches = (re.fullmatch(r"(.+?):(/.*):0x[0-9a-f]+", line) for line in lines)
    return tuple(sorted({m[1] for m in matches if m and Path(m[2]).is_relative_to(where)}))


def _has_versions(is_nfsv3: bool) -> bool:
    """Whether the kernel serves the versions that are wanted.

    nfsd tells of 4.0 only when it is off (write_versions() in fs/nfsd/nfsctl.c).
    """
    found = VERSIONS.read_text().split()
    return "-4.0" in found and ("+3" in found) == is_nfsv3


def _refuse_others_versions(is_nfsv3: bool) -> None:
    """Refuse to restart for versions that another's settings, read after ours, don't allow.

    Raises:
        NfsError: they don't (nfs.conf(5), nfsconf(8)).
    """
    for key, is_wanted in (("vers3", is_nfsv3), ("vers4.0", False)):
        found = machine.run(NFSCONF, "--get", "nfsd", key).strip()
        if (found.lower() in _TRUE) != is_wanted:
            raise NfsError(
                f"another file sets {key}={found}: take it out of {CONFIGURATION.parent} and"
                " /etc/nfs.conf.local"
            )


def _restart(is_nfsv3: bool) -> None:
    """Restart the server, with mountd, which listens for NFSv3 alone."""
    machine.systemctl("stop", SERVICE, MOUNTD_SERVICE)
    _prepare(is_nfsv3)
    machine.systemctl("start", SERVICE, timeout_s=START_TIMEOUT_S)


def _prepare(is_nfsv3: bool) -> None:
    """Have what NFSv3 needs be ready before the server starts; or not run, where it is ours."""
    if _governs_rpcbind() and RPCBIND.exists() and not is_nfsv3:
        machine.systemctl("stop", *NFSV3_UNITS)
    _set_lockd_ports(is_nfsv3)


def _governs_rpcbind() -> bool:
    return (machine.UNIT_DIRECTORY / NFSV3_DROP_INS[0]).exists()


def _set_lockd_ports(is_nfsv3: bool) -> None:
    """Tell lockd its ports if its module is loaded already; 0: any."""
    port = LOCKD_PORT if is_nfsv3 else 0
    for name in ("nlm_tcpport", "nlm_udpport"):
        with contextlib.suppress(FileNotFoundError):  # Not loaded; see _write_lockd_configuration.
            (LOCKD_PARAMETERS / name).write_text(f"{port}\n")


def wait_for_clients_to_leave(
    networks: Collection[Network] | None = None, timeout_s: float = LEAVE_TIMEOUT_S
) -> bool:
    """Wait until no client is connected; False if some still are after `timeout_s` seconds.

    Args:
        networks: see `read_clients`.
        timeout_s: how long at most.
    """
    deadline = time.monotonic() + timeout_s
    while read_clients(networks):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.5)
    return True


def remove(*, is_used_by_others: bool) -> None:
    """Take the charm's settings away, and stop the server unless it has others' exports.

    The package stays: others may use it.

    Raises:
        NfsError: systemd failed, or files can't be removed.
    """
    with machine.failing_as(NfsError, "the NFS server's settings stay"):
        if is_installed() and not is_used_by_others:
            machine.systemctl("disable", "--now", SERVICE)
        CONFIGURATION.unlink(missing_ok=True)
        LOCKD_CONFIGURATION.unlink(missing_ok=True)
        if _governs_rpcbind() and RPCBIND.exists() and not is_used_by_others:
            machine.write_atomically(RPCBIND_IS_OURS, "")
            machine.systemctl("stop", *NFSV3_UNITS)
        machine.remove_units([*UNITS, *NFSV3_DROP_INS])

# SPDX-License-Identifier: Apache-2.0
"""What the kernel tells of its NFS server and of shares' file systems, as values. No ops.

Reads files that the kernel makes up as they are read: none of them waits for a disk or a client.
What isn't there yields nothing: modules come and go, and not every kernel has each file.
"""

import contextlib
import errno
import os
import re
import sys
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

RPC = Path("/proc/net/rpc/nfsd")
NFSD = Path("/proc/fs/nfsd")
LOOP_DEVICES = Path("/sys/block")
EXT4_STATE = Path("/sys/fs/ext4")
EXT4_OPTIONS = Path("/proc/fs/ext4")
# exportfs's own table (exportfs(8)).
ETAB = Path("/var/lib/nfs/etab")

# A client with ten thousands of open files has a long list of them; what is wanted of it, on which
# shares they are, stands at its beginning too.
MAX_STATES_LENGTH = 2**20

# A line of what a client holds: its type, and the file system that it is on. What a client can
# choose, such as names of files, stands after this in a line, or in lines that say more of that
# client than is true.
STATE = re.compile(
    r'^- 0x[0-9a-f]+: \{ type: (\w+), [^"\n]*superblock: "([0-9a-f]+:[0-9a-f]+):', re.MULTILINE
)

# By number: RFC 7530, 8881, 7862 and 8276 for NFSv4, RFC 1813 for NFSv3. The words are
# node_exporter's.
_NAMES = {
    "proc3": """
        Null GetAttr SetAttr Lookup Access ReadLink Read Write Create MkDir SymLink MkNod Remove
        RmDir Rename Link ReadDir ReadDirPlus FsStat FsInfo PathConf Commit
    """,
    "proc4ops": """
        - - - Access Close Commit Create DelegPurge DelegReturn GetAttr GetFH Link Lock Lockt Locku
        Lookup LookupRoot Nverify Open OpenAttr OpenConfirm OpenDgrd PutFH PutPubFH PutRootFH Read
        ReadDir ReadLink Remove Rename Renew RestoreFH SaveFH SecInfo SetAttr SetClientID
        SetClientIDConfirm Verify Write RelLockOwner BackchannelCtl BindConnToSession ExchangeID
        CreateSession DestroySession FreeStateID GetDirDelegation GetDeviceInfo GetDeviceList
        LayoutCommit LayoutGet LayoutReturn SecInfoNoName Sequence SetSSV TestStateID
        WantDelegation DestroyClientID ReclaimComplete Allocate Copy CopyNotify Deallocate IOAdvise
        LayoutError LayoutStats OffloadCancel OffloadStatus ReadPlus Seek WriteSame Clone GetXattr
        SetXattr ListXattrs RemoveXattr
    """,
}


# What it is of may be gone before the file is opened, or then: a client that has left is ENXIO
# (client_info_show() in fs/nfsd/nfs4state.c), a device ENODEV (sysfs's kernfs).
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ENXIO, errno.ENODEV)


@contextlib.contextmanager
def ignoring_what_is_gone() -> Generator[None, None, None]:
    """Leave a file of the kernel alone if what it is of is gone."""
    try:
        yield
    except OSError as error:
        if error.errno not in _GONE:
            raise


def read(path: Path, length: int = sys.maxsize) -> str:
    """Read such a file, or so many bytes of it; nothing if what it is of is gone.

    In few system calls: a hook of a server with hundreds of shares reads hundreds of them.
    """
    data = b""
    with ignoring_what_is_gone():
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            while part := os.read(descriptor, min(65536, length - len(data))):
                data += part
        finally:
            os.close(descriptor)
        return os.fsdecode(data)
    return ""


@dataclass(frozen=True)
class RpcStatistics:
    """/proc/net/rpc/nfsd (fs/nfsd/stats.c, net/sunrpc/stats.c): numbers by a line's word."""

    lines: Mapping[str, tuple[int, ...]]

    def get(self, word: str, index: int) -> int | None:
        """Return a number of a line, counted from 0; None: this kernel doesn't tell it."""
        numbers = self.lines.get(word, ())
        return numbers[index] if index < len(numbers) else None

    @property
    def threads(self) -> int:
        """Threads of nfsd; 0: the server doesn't run."""
        return self.get("th", 0) or 0

    def requests(self) -> Iterator[tuple[str, str, int]]:
        """Yield version, procedure or operation, and how often; of those that were used."""
        for word, names in _NAMES.items():
            # The first number says how many follow, of which a newer kernel has more.
            for name, count in zip(names.split(), self.lines.get(word, ())[1:], strict=False):
                if count and name != "-":
                    yield word.removeprefix("proc")[0], name, count


def read_rpc() -> RpcStatistics:
    """Read what was requested of nfsd since the machine booted."""
    lines: dict[str, tuple[int, ...]] = {}
    for line in read(RPC).splitlines():
        word, *numbers = line.split()
        # The line of threads goes on with what is no number of anything any more.
        lines[word] = tuple(int(it) for it in numbers if it.isdecimal())
    return RpcStatistics(lines)


def read_versions() -> tuple[str, ...]:
    """Read which versions are served; "+3 -4.0 +4.1" are 3 and 4.1, and 4 is all of them."""
    found = read(NFSD / "versions").split()
    return tuple(it[1:] for it in found if it.startswith("+") and it != "+4")


def read_lease_seconds() -> int | None:
    """Read how long a client may be silent and keep what it holds."""
    text = read(NFSD / "nfsv4leasetime").strip()
    return int(text) if text else None


def read_pools() -> dict[str, int]:
    """Read how requests came to threads, all pools together (knfsd-stats.rst), by column."""
    header, *rows = [line.split() for line in read(NFSD / "pool_stats").splitlines()] or [[]]
    columns = header[1:]  # Behind a "#".
    counts = [[int(number) for number in row] for row in rows]
    return {name: sum(row[index] for row in counts) for index, name in enumerate(columns)}


@dataclass(frozen=True)
class ExportStatistics:
    """What was done through one entry of the kernel's table of exports, since it was made."""

    path: str
    domain: str
    start: int
    """When the entry was made, by a clock of the kernel's."""
    stale: int = 0
    read_bytes: int = 0
    written_bytes: int = 0


# Behind "# " is an entry that mountd is being asked for again (c_show() in net/sunrpc/cache.c).
_ENTRY = re.compile(r"^(?:# )?(?P<path>/\S*)\s+(?P<domain>\S+)\s+(?P<start>\d+)$")


def read_exports() -> tuple[ExportStatistics, ...] | None:
    """Read what was done through each export; None: this kernel doesn't tell."""
    text = read(NFSD / "export_stats")
    if not text:
        return None
    found: list[ExportStatistics] = []
    entry: re.Match[str] | None = None
    numbers: dict[str, int] = {}
    for line in [*text.splitlines(), ""]:
        name, _, number = line.strip().partition(": ")
        if line.startswith("\t") and number.isdecimal():
            numbers[name] = int(number)
            continue
        if entry:
            found.append(
                ExportStatistics(
                    path=entry["path"],
                    domain=entry["domain"],
                    start=int(entry["start"]),
                    stale=numbers.get("fh_stale", 0),
                    read_bytes=numbers.get("io_read", 0),
                    written_bytes=numbers.get("io_write", 0),
                )
            )
        entry, numbers = _ENTRY.match(line), {}
    return tuple(found)


@dataclass(frozen=True)
class Client:
    """An NFSv4 client that nfsd knows."""

    silent_s: int | None
    """For how long it has not renewed its lease; None: this kernel (5.15) doesn't tell."""
    states: Mapping[str, int]
    """How many opens, locks, delegations and layouts it holds, by type."""
    devices: frozenset[str]
    """The file systems that they are on, see `device_name`."""


def read_clients() -> tuple[Client, ...]:
    """Read which NFSv4 clients there are, and what they hold."""
    found: list[Client] = []
    for directory in sorted((NFSD / "clients").glob("*")):
        info = read(directory / "info")
        if not info:
            continue  # It has left meanwhile.
        renewed = re.search(r"^seconds from last renew: (\d+)$", info, re.MULTILINE)
        held = STATE.findall(read(directory / "states", MAX_STATES_LENGTH))
        states = Counter(kind for kind, _ in held)
        devices = frozenset(device for _, device in held)
        found.append(Client(int(renewed[1]) if renewed else None, states, devices))
    return tuple(found)


def device_name(number: int) -> str:
    """Write the number of a device as the kernel does where it tells of one: "07:00"."""
    return f"{os.major(number):02x}:{os.minor(number):02x}"


@dataclass(frozen=True)
class Loop:
    """A loop device."""

    backing_file: str
    number: int
    """What stat(2) says of it."""
    errors: int
    """Errors that ext4 met on it."""
    is_read_only: bool
    """Whether its file system is: a mount of it may be, and the file system not."""


def read_loops() -> dict[str, Loop]:
    """Read what there is to know of the loop devices that have a file, by the path of each."""
    found: dict[str, Loop] = {}
    for device, backing_file in read_backing_files().items():
        name = Path(device).name
        numbers = read(LOOP_DEVICES / name / "dev").strip().split(":")
        if len(numbers) == 2:  # Else it is detached since.
            found[device] = Loop(
                backing_file,
                os.makedev(*map(int, numbers)),
                errors=count_errors(device),
                is_read_only=read(EXT4_OPTIONS / name / "options").startswith("ro\n"),
            )
    return found


def read_backing_files() -> dict[str, str]:
    """Read which file each loop device has; their numbers change at every boot."""
    found: dict[str, str] = {}
    for device in LOOP_DEVICES.glob("loop*"):
        if text := read(device / "loop/backing_file").removesuffix("\n"):  # Else it is detached.
            found[f"/dev/{device.name}"] = text
    return found


def count_errors(device: str) -> int:
    """Read how many errors ext4 met on a device, and no e2fsck has repaired."""
    return int(read(EXT4_STATE / Path(device).name / "errors_count") or 0)


@dataclass(frozen=True)
class Space:
    """What statfs(2) says of a file system."""

    size_bytes: int = 0
    used_bytes: int = 0
    available_bytes: int = 0
    inodes: int = 0
    used_inodes: int = 0


def space(status: os.statvfs_result) -> Space:
    """Read it as df(1) does."""
    return Space(
        size_bytes=status.f_blocks * status.f_frsize,
        used_bytes=(status.f_blocks - status.f_bfree) * status.f_frsize,
        available_bytes=status.f_bavail * status.f_frsize,
        inodes=status.f_files,
        used_inodes=status.f_files - status.f_ffree,
    )

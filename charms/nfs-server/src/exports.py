# SPDX-License-Identifier: Apache-2.0
"""/etc/exports: rendered from the shares, checked, put in place, applied by exportfs(8). No ops.

The file belongs to the charm. What was in it before goes to /etc/exports.d/, where exportfs reads
it just the same.
"""

import functools
import itertools
import logging
import os
import re
import time
import uuid
from collections.abc import Collection, Iterable
from pathlib import Path

from charms.storage_libs.v0.nfs_interfaces import Network
from kernel import ETAB
from nfs_charms import machine
from values import EXPORT_ROOT, Export

EXPORTS = Path("/etc/exports")
EXPORTS_D = Path("/etc/exports.d")
EXPORTFS = "/usr/sbin/exportfs"
SYSTEMD_RUN = "/usr/bin/systemd-run"
TEMPLATE = Path(__file__).parent / "templates/exports.j2"

# Nothing can be mounted below what is no directory.
NEVER_A_MOUNT_POINT = "/dev/null/nfs-server"

HANDLES = Path("/proc/net/rpc/nfsd.fh")
PATHS = Path("/proc/net/rpc/nfsd.export")
FSID_UUID16 = 6
_QUESTION = re.compile(rf"^# (\S+) {FSID_UUID16} 0x([0-9a-f]{{32}})$", re.MULTILINE)
# As long as mountd's own answers (DEFAULT_TTL in nfs-utils' support/export/cache.c).
ANSWER_VALID_S = 1800

# exportfs asks no DNS for addresses, so this is for a slow machine with very many of them.
EXPORTFS_TIMEOUT_S = 60.0
FLUSH_TIMEOUT_S = 5.0
FLUSH_POLL_S = 0.1

# Hosts of all shares together. exportfs takes quadratic time: on a machine of the sandbox (one
# processor, kernel 6.1, nfs-utils 2.6.2; one share, and 200) its dry run and `exportfs -ra` took
# 4 s together for 2,000 entries, 7 s for 3,000, up to 10 s for 4,000 and 25 s for 6,000.
MAX_ENTRIES = 3000

# What a squash says of a client's root and users (exports(5)); both words, so that exportfs's
# table can be compared with them.
SQUASH_OPTIONS = {
    "none": "no_root_squash,no_all_squash",
    "root": "root_squash,no_all_squash",
    "all": "root_squash,all_squash",
}

# Whose files `all` writes where no owner is requested: the default of exports(5). It is said, so
# that another one shows in the table.
NOBODY = "65534:65534"

Entries = dict[tuple[str, str], frozenset[str]]
"""What is exported: path and host -> options."""

logger = logging.getLogger(__name__)


class ExportsError(Exception):
    """The exports could not be put in place; the message has what exportfs said."""


def render(exports: Iterable[Export], squash: str, paused: Collection[str] = ()) -> str:
    """Render /etc/exports (exports(5)): one line a share, and one for those that only read."""
    return machine.render(TEMPLATE, EXPORTS, lines=_lines(exports, squash, paused))


def _lines(
    exports: Iterable[Export], squash: str, paused: Collection[str]
) -> list[tuple[str, str, list[str]]]:
    """Write path, options and hosts of each share.

    No host is in two of them. Of two networks that hold an address, mountd takes either; it looks
    at `*` last (lookup_export() in nfs-utils' support/export/cache.c).
    """
    lines: list[tuple[str, str, list[str]]] = []
    for it in exports:
        options = _options(it, squash, is_paused=it.name in paused)
        readers = set(it.readers)
        writers = [network for network in it.networks if network not in readers]
        lines += [
            (str(it.path), f"{access},{options}", hosts(networks))
            for access, networks in (("rw", writers), ("ro", it.readers))
            if networks
        ]
    return lines


def _options(export: Export, squash: str, *, is_paused: bool) -> str:
    """Write a share's options, but for `rw` and `ro`; the order has no meaning.

    `mountpoint`: while the image is not mounted, the empty directory below it is not exported, and
    clients that have the share mounted wait. So they do for what says another path that is no
    mount point. `fsid`: file handles outlive a reboot, whatever number the loop device has then.
    """
    mountpoint = f"mountpoint={NEVER_A_MOUNT_POINT}" if is_paused else "mountpoint"
    asked = export.permissions
    squash = asked.squash or squash
    words = SQUASH_OPTIONS[squash]
    if squash == "all":
        uid, gid = (asked.owner or NOBODY).split(":")
        words += f",anonuid={uid},anongid={gid}"
    return f"sync,no_subtree_check,{words},secure,sec=sys,{mountpoint},fsid={export.uuid}"


def host(network: Network) -> str:
    """Write a network as exports(5) wants it: an address alone, `*` for anyone.

    nfsd matches nobody with a prefix of length 0, and with a bracketed IPv6 address.
    """
    if network.prefixlen == 0:
        return "*"
    is_one_address = network.prefixlen == network.max_prefixlen
    return str(network.network_address) if is_one_address else str(network)


def hosts(networks: Iterable[Network]) -> list[str]:
    """Write networks, each text once: exportfs refuses a file that says `* *`."""
    return list(dict.fromkeys(map(host, networks)))


def ensure(exports: Collection[Export], squash: str, *, paused: Collection[str] = ()) -> bool:
    """Make what is exported be exactly these (and what /etc/exports.d/ has); say if it changed.

    Nothing is restarted, and clients of shares that stay notice nothing (exportfs -r).

    Args:
        exports: the shares that are exported.
        squash: that of shares that have none of their own, one of `SQUASH_OPTIONS`.
        paused: names of those whose clients are to wait until they are exported without it.

    Raises:
        ExportsError: exportfs did not take them; a file that it refused was not put in place.
    """
    wanted = _entries(exports, squash, paused)
    text = render(exports, squash, paused)
    with machine.failing_as(ExportsError):
        is_written = machine.is_file_with(EXPORTS, text)
        if is_written and not _missing(wanted) and not unexpected(exports):
            return False
        if is_written:
            logger.warning("exportfs's table is not what %s says: exporting again", EXPORTS)
        else:
            _check(text)
            _keep_what_was_there(text)
            machine.write_atomically(EXPORTS, text)
        _export_all(wanted)
        if _missing(wanted):
            raise ExportsError(f"exportfs -ra did not export what {EXPORTS} has; see exportfs -v")
        _answer_waiting([export for export in exports if export.name not in paused])
    return True


def _export_all(wanted: Entries) -> None:
    try:
        machine.run(EXPORTFS, "-ra", timeout_s=EXPORTFS_TIMEOUT_S)
    except machine.CommandError as error:
        # A fault in a file of /etc/exports.d/ is its owner's, and keeps nobody's share away.
        if _missing(wanted):
            raise
        logger.warning("%s", error)


def _answer_waiting(exports: Iterable[Export]) -> None:
    """Tell the kernel of shares for which it waits.

    It has asked mountd, who says nothing of what is no mount point; and for two minutes it does
    not ask again (CACHE_NEW_EXPIRY in net/sunrpc/cache.c). For the form of question and answer see
    expkey_show() and expkey_parse() in fs/nfsd/export.c.
    """
    if not HANDLES.exists():
        return
    mounted = {mount.where for mount in machine.read_mounts()}
    paths = {uuid.UUID(it.uuid).hex: it.path for it in exports if str(it.path) in mounted}
    until = int(time.time()) + ANSWER_VALID_S
    for client, words in _QUESTION.findall((HANDLES / "content").read_text()):
        # 32 bits each, written as numbers.
        fsid = b"".join(bytes.fromhex(word)[::-1] for word in re.findall("........", words)).hex()
        if path := paths.get(fsid):
            answer = f"{client} {FSID_UUID16} \\x{fsid} {until} {path}\n"
            (HANDLES / "channel").write_text(answer)


def _missing(wanted: Entries) -> Entries:
    """What is not exported with the options that it should have."""
    table = read_table()
    nothing: frozenset[str] = frozenset()
    return {it: options for it, options in wanted.items() if not options <= table.get(it, nothing)}


def unexpected(exports: Iterable[Export]) -> list[tuple[str, str]]:
    """Who else may mount a share: path and host of exports that are not the charm's.

    An export above them with `crossmnt` is one of all that is mounted below it (exports(5)).
    """
    ours = _entries(exports, "none")
    return sorted(
        (path, host)
        for (path, host), options in read_table().items()
        if (_is_ours(path) and (path, host) not in ours)
        or ("crossmnt" in options and EXPORT_ROOT.is_relative_to(path))
    )


def _entries(exports: Iterable[Export], squash: str, paused: Collection[str] = ()) -> Entries:
    return {
        (path, host): _words(options)
        for path, options, hosts in _lines(exports, squash, paused)
        for host in hosts
    }


def read_table() -> Entries:
    """Read what is exported, from exportfs's own table (exportfs(8))."""
    if not ETAB.exists():
        return {}
    lines = (line.split("\t") for line in ETAB.read_text(errors="surrogateescape").splitlines())
    found: Entries = {}
    for path, client in (line[:2] for line in lines if len(line) > 1):
        host, _, options = client.partition("(")
        found[path, host] = _words(options.rstrip(")"))
    return found


@functools.cache  # The same ones stand behind each host.
def _words(options: str) -> frozenset[str]:
    return frozenset(options.split(","))


def _is_ours(path: str) -> bool:
    return f"{path}/".startswith(f"{EXPORT_ROOT}/")


def _check(text: str) -> None:
    """Have exportfs read what is new where it can do no harm: one bad line drops those after it.

    A transient service sees the new lines as its /etc/exports, and a state directory of its own.
    """
    known = set(os.fsdecode(machine.read_file(EXPORTS) or b"").split("\n"))
    new = [line for line in text.split("\n") if line not in known]
    candidate = EXPORTS.with_name("exports.candidate")
    machine.write_atomically(candidate, "\n".join(new) + "\n")
    try:
        machine.run(
            SYSTEMD_RUN, "--quiet", "--wait", "--pipe", "--collect",
            f"--property=BindReadOnlyPaths={candidate}:{EXPORTS}",
            f"--property=TemporaryFileSystem={ETAB.parent}",
            EXPORTFS, "-ra",
            timeout_s=EXPORTFS_TIMEOUT_S,
        )  # fmt: skip
    finally:
        candidate.unlink()


def _keep_what_was_there(text: str) -> None:
    """Move exports that are not the charm's to a file of their own in /etc/exports.d/."""
    if not EXPORTS.exists():
        return
    found = EXPORTS.read_text(errors="surrogateescape")
    # Up to the semicolon: another revision of the charm may go on in other words.
    is_ours = found.startswith(text.partition(";")[0])
    lines = [line for line in _logical_lines(found) if not (is_ours and _is_of_a_share(line))]
    if not lines:
        return
    EXPORTS_D.mkdir(exist_ok=True)
    names = (f"before-nfs-server{number or ''}.exports" for number in itertools.count())
    kept = next(path for name in names if not os.path.lexists(path := EXPORTS_D / name))
    if is_ours:
        kept.write_text("".join(f"{line}\n" for line in lines), errors="surrogateescape")
    else:
        EXPORTS.rename(kept)
    machine.sync(kept)
    machine.sync(EXPORTS_D)
    logger.warning("the exports that were in %s are in %s now", EXPORTS, kept)


def _logical_lines(text: str) -> list[str]:
    """Split a file as exports(5) says: a line may go on after a backslash; `#` comments."""
    joined = re.sub(r"\\\n", " ", text)
    return [it for line in joined.split("\n") if (it := line.partition("#")[0].strip())]


def _is_of_a_share(line: str) -> bool:
    return line.lstrip('"').startswith(f"{EXPORT_ROOT}/")


def remove() -> None:
    """Export nothing of ours any more, and take the file away.

    Raises:
        ExportsError: exportfs failed.
    """
    ensure((), "none")
    with machine.failing_as(ExportsError):
        EXPORTS.unlink(missing_ok=True)


def flush() -> None:
    """Have the kernel forget what it has cached of exports, which keeps file systems busy.

    It asks mountd anew. If that fails, only what is busy stays so. A flush that comes in the
    second of another one frees nothing, and puts off when the next one can (write_flush() and
    cache_clean() in net/sunrpc/cache.c): so that is waited for.
    """
    deadline = time.monotonic() + FLUSH_TIMEOUT_S
    while time.time() < _flushed() + 1 and time.monotonic() < deadline:
        time.sleep(FLUSH_POLL_S)
    try:
        machine.run(EXPORTFS, "-f")
    except machine.CommandError as error:
        logger.warning("%s", error)


def _flushed() -> int:
    """Read until when the kernel has flushed what it has cached, in seconds of its clock."""
    caches = [it / "flush" for it in (HANDLES, PATHS)]
    return max((int(it.read_text()) for it in caches if it.exists()), default=0)

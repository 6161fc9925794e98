# SPDX-License-Identifier: Apache-2.0
"""/etc/exports: rendered from the shares, checked, put in place, applied by exportfs(8). No ops.

The file belongs to the charm. What was in it before goes to /etc/exports.d/, where exportfs reads
it just the same.
"""

import itertools
import logging
import os
from collections.abc import Iterable
from pathlib import Path

from charms.storage_libs.v0 import machine
from charms.storage_libs.v0.nfs_interfaces import Network
from shares import EXPORT_ROOT, Export

EXPORTS = Path("/etc/exports")
EXPORTS_D = Path("/etc/exports.d")
ETAB = Path("/var/lib/nfs/etab")
EXPORTFS = "/usr/sbin/exportfs"
SYSTEMD_RUN = "/usr/bin/systemd-run"
TEMPLATE = Path(__file__).parent / "templates/exports.j2"

# exportfs asks no DNS for addresses, so this is for a slow machine with very many of them.
EXPORTFS_TIMEOUT_S = 60.0

logger = logging.getLogger(__name__)


class ExportsError(Exception):
    """The exports could not be put in place; the message has what exportfs said."""


def render(exports: Iterable[Export]) -> str:
    """Render /etc/exports (exports(5)), one line per share."""
    lines = [(str(export.path), export.uuid, _hosts(export)) for export in exports]
    return machine.render(TEMPLATE, lines=lines)


def host(network: Network) -> str:
    """Write a network as exports(5) wants it: an address alone, `*` for anyone.

    nfsd matches nobody with a prefix of length 0, and with a bracketed IPv6 address.
    """
    if network.prefixlen == 0:
        return "*"
    is_one_address = network.prefixlen == network.max_prefixlen
    return str(network.network_address) if is_one_address else str(network)


def _hosts(export: Export) -> list[str]:
    """Write the networks, each text once: exportfs refuses a file that says `* *`."""
    return list(dict.fromkeys(map(host, export.networks)))


def ensure(exports: Iterable[Export]) -> bool:
    """Make what is exported be exactly these (and what /etc/exports.d/ has); say if it changed.

    Nothing is restarted, and clients of shares that stay notice nothing (exportfs -r).

    Raises:
        ExportsError: exportfs did not take them; a file that it refused was not put in place.
    """
    exports = tuple(exports)
    text = render(exports)
    if machine.is_file_with(EXPORTS, text) and is_applied(exports):
        return False
    try:
        if not machine.is_file_with(EXPORTS, text):
            _check(text)
            _keep_what_was_there()
            machine.write_atomically(EXPORTS, text)
        machine.run(EXPORTFS, "-ra", timeout_s=EXPORTFS_TIMEOUT_S)
    except machine.CommandError as error:
        raise ExportsError(str(error)) from error
    if not is_applied(exports):
        raise ExportsError(f"exportfs -ra did not export what {EXPORTS} has; see exportfs -v")
    return True


def is_applied(exports: Iterable[Export]) -> bool:
    """Whether exportfs's table has these shares of ours, and no other, to these clients."""
    wanted = {
        (str(export.path), host(network)) for export in exports for network in export.networks
    }
    return wanted == {entry for entry in read_table() if _is_ours(entry[0])}


def read_table() -> set[tuple[str, str]]:
    """Read what is exported to whom, path and host, from exportfs's own table (exportfs(8))."""
    if not ETAB.exists():
        return set()
    lines = (line.split("\t") for line in ETAB.read_text(errors="surrogateescape").splitlines())
    return {(line[0], line[1].partition("(")[0]) for line in lines if len(line) > 1}


def _is_ours(path: str) -> bool:
    return Path(path).is_relative_to(EXPORT_ROOT)


def _check(text: str) -> None:
    """Have exportfs read the text where it can do no harm: one bad line drops those after it.

    A transient service sees the text as its /etc/exports, and a state directory of its own.
    """
    candidate = EXPORTS.with_name("exports.candidate")
    machine.write_atomically(candidate, text)
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


def _keep_what_was_there() -> None:
    """Move exports that are not the charm's to a file of their own in /etc/exports.d/."""
    if not EXPORTS.exists():
        return
    text = EXPORTS.read_text(errors="surrogateescape")
    # Up to the semicolon: another revision of the charm may go on in other words.
    is_ours = text.startswith(render(()).partition(";")[0])
    if is_ours or not any(_is_export(line) for line in text.splitlines()):
        return
    EXPORTS_D.mkdir(exist_ok=True)
    names = (f"before-nfs-server{number or ''}.exports" for number in itertools.count())
    kept = next(path for name in names if not os.path.lexists(path := EXPORTS_D / name))
    EXPORTS.rename(kept)
    machine.sync_directory(EXPORTS_D)
    logger.warning("the exports that were in %s are in %s now", EXPORTS, kept)


def _is_export(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")


def remove() -> None:
    """Export nothing of ours any more, and take the file away.

    Raises:
        ExportsError: exportfs failed.
    """
    ensure(())
    EXPORTS.unlink(missing_ok=True)

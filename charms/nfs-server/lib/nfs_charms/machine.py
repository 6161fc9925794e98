# SPDX-License-Identifier: Apache-2.0
"""What both charms do to a machine: commands with a deadline, whole files, mounts, mount units.

Knows nothing of Juju, of shares or of the interface.
"""

import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import re
import stat
import string
import subprocess
import sys
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

logger = logging.getLogger(__name__)

COMMAND_TIMEOUT_S = 60.0
# How long a killed command may take to be gone. One that sits in an uninterruptible system call
# (a dead NFS server) may never be: it is left to the kernel, since waiting would hang the hook.
KILL_GRACE_S = 2.0

MOUNTINFO = Path("/proc/self/mountinfo")
UNIT_DIRECTORY = Path("/etc/systemd/system")
SYSTEMCTL = "/usr/bin/systemctl"
# Stands from before a unit file changes until systemd has read it: a hook that is killed between
# the two finds the file as it should be, and would never tell systemd. Names the removed units.
_RELOAD_NEEDED = Path("/run/nfs-charms-reload-needed")
# On the root disk: a power cut may come while a package is installed.
INSTALLING = Path("/var/lib/misc")
_PROCESSES = Path(__file__).with_name("processes.py")
FIND_USERS_TIMEOUT_S = 10.0

RENDERED = Path("/run/nfs-charms/rendered")

# The charm's own environment (PYTHONPATH, LD_LIBRARY_PATH of its venv) is none of the system's
# commands' business, and output that is read is read in one language.
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}


Plain: TypeAlias = "str | int | Sequence[Plain]"
"""What a template is given: plain data, that says all of itself as text."""


class CommandError(Exception):
    """A command failed or passed its deadline; the message has the command and what it said."""

    def __init__(self, argv: tuple[str, ...], outcome: str, output: str, stdout: str = ""):
        super().__init__(f"{' '.join(argv)}: {outcome}" + (f": {output}" if output else ""))
        self.output = output
        self.stdout = stdout


class CommandTimeoutError(CommandError):
    """A command passed its deadline and was killed."""


@contextlib.contextmanager
def failing_as(kind: type[Exception], what: str = "") -> Generator[None, None, None]:
    """Tell of a command or a file that fails as a failure of a module, and of what.

    Raises:
        Exception: of that kind.
    """
    try:
        yield
    except (CommandError, OSError) as error:
        raise kind(f"{what}: {error}" if what else str(error)) from error


def run(*argv: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
    """Run a command, given with its absolute path, and return its standard output.

    Raises:
        CommandTimeoutError: it was not done, or its output not closed, after `timeout_s` seconds.
            It has been killed; what it started may go on.
        CommandError: it ended with a status other than 0.
    """
    logger.debug("running %s", argv)
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env=_ENVIRONMENT,
        cwd="/",
    )
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired as error:
        _kill(process)
        raise CommandTimeoutError(argv, f"not done after {timeout_s:g} s", "") from error
    if process.returncode != 0:
        said = (stderr.strip() or stdout.strip())[-2000:]
        raise CommandError(argv, f"exit status {process.returncode}", said, stdout[-2000:])
    return stdout


def _kill(process: "subprocess.Popen[str]") -> None:
    process.kill()
    try:
        process.wait(KILL_GRACE_S)
    except subprocess.TimeoutExpired:
        logger.warning("%s (pid %d) does not die, left behind", process.args, process.pid)
    for pipe in (process.stdout, process.stderr):
        if pipe:
            pipe.close()  # Not read to its end: a child of the command may hold the other one.


def render(template: Path, destination: Path, **values: Plain) -> str:
    """Render a jinja2 template for a file; what it names and is not given is an error.

    The text is kept until the next boot, one for each destination, with a digest of all that it is
    made of. For a hook with nothing to do, importing jinja2 and compiling templates would be most
    of its work.
    """
    source = _source(template)
    key = hashlib.sha256(json.dumps([source, values], sort_keys=True).encode()).hexdigest()
    kept = RENDERED / hashlib.sha256(os.fsencode(destination)).hexdigest()
    kept_key, _, text = (read_file(kept) or b"").decode().partition("\n")
    if kept_key == key:
        return text
    import jinja2  # Here, for the reason above.

    text = jinja2.Template(
        source, undefined=jinja2.StrictUndefined, keep_trailing_newline=True, trim_blocks=True
    ).render(values)
    try:
        write_atomically(kept, f"{key}\n{text}", mode=0o600)
    except OSError as error:  # A full /run makes the next hook slower, and nothing worse.
        logger.warning("%s is not kept: %s", destination, error)
    return text


@functools.cache  # Hundreds of shares have one.
def _source(template: Path) -> str:
    return template.read_text(encoding="utf-8")


def write_atomically(path: Path, text: str, mode: int = 0o644) -> bool:
    """Make `path` hold exactly `text`, whole or not at all; say whether that changed anything.

    A reader, or a power cut, meets the old text or the new one: written to a temporary file beside
    it, synced, renamed (rename(2) is atomic), and the directory synced.
    """
    if is_file_with(path, text) and path.stat().st_mode & 0o777 == mode:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    descriptor = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, mode
    )
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)  # The umask may have taken bits away.
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:  # On a full disk, its half would take room for nothing.
        temporary.unlink()
        raise
    sync(path.parent)
    return True


def is_file_with(path: Path, text: str) -> bool:
    """Whether `path` is a regular file that holds exactly `text`."""
    return read_file(path) == text.encode()


def read_file(path: Path) -> bytes | None:
    """Read a regular file that is no symlink; None if there is none.

    In few system calls: a hook of a server with hundreds of shares does little else.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:  # A symlink.
            return None
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None
        return b"".join(iter(lambda: os.read(descriptor, 65536), b""))
    finally:
        os.close(descriptor)


def stamp(path: Path) -> tuple[int, int] | None:
    """Tell a file from what it was before, by time of change and length; None: there is none."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_ctime_ns, status.st_size


def sync(path: Path) -> None:
    """Make what is in a file, or the names in a directory, survive a power cut (fsync(2))."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class Mounted:
    """One line of /proc/self/mountinfo (proc_pid_mountinfo(5))."""

    where: str
    source: str
    fstype: str
    options: frozenset[str]
    """Options of the mount and of its file system: "ro" if either is, "nosuid", "vers=4.2"…"""
    device: str
    """Number of its file system in the kernel, "0:53": mounts of one superblock have the same."""


def read_mounts() -> tuple[Mounted, ...]:
    """Read what is mounted, in the order of mounting.

    Asks the kernel's table and touches no mounted file system, so a dead NFS server can't hang it.
    """
    # At line feeds alone: the kernel escapes those, and not what else ends a line in Unicode.
    lines = os.fsdecode(MOUNTINFO.read_bytes()).split("\n")
    return tuple(_parse_mountinfo(line) for line in lines if line)


def _parse_mountinfo(line: str) -> Mounted:
    fields, _, tail = line.partition(" - ")
    _, _, device, _, where, options = fields.split(" ")[:6]
    fstype, source, super_options = tail.split(" ")[:3]
    both = frozenset(options.split(",")) | frozenset(super_options.split(","))
    return Mounted(
        where=_unescape(where),
        source=_unescape(source),
        fstype=fstype,
        options=both - {"rw"} if "ro" in both else both,
        device=device,
    )


def _unescape(field: str) -> str:
    """Undo mountinfo's octal escapes of space, tab, newline and backslash."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def mounted_at(where: str | Path) -> Mounted | None:
    """What is mounted at `where`; where several mounts are stacked, the one on top."""
    found = [mount for mount in read_mounts() if mount.where == str(where)]
    return found[-1] if found else None


def find_users(mountpoint: str | Path) -> tuple[str, ...]:
    """Find the processes that use a mount, as "name (pid)"; empty also if it takes too long."""
    try:
        found = run(
            sys.executable, "-I", "-S", str(_PROCESSES), str(mountpoint),
            timeout_s=FIND_USERS_TIMEOUT_S,
        )  # fmt: skip
    except CommandError as error:
        logger.warning("can't find out who uses %s: %s", mountpoint, error)
        return ()
    return tuple(found.splitlines())


@functools.cache
def mount_unit_name(where: str | Path) -> str:
    r"""Name the mount unit of a mount point ("/srv/my data" -> srv-my\x20data.mount).

    The rules are those of systemd-escape(1) --path. `where` must be absolute, without `..`.
    """
    name = "-".join(_escape(part) for part in str(where).split("/") if part)
    if name.startswith("."):
        name = f"\\x2e{name[1:]}"
    return f"{name or '-'}.mount"


def _escape(part: str) -> str:
    plain = string.ascii_letters + string.digits + ":_."
    return "".join(
        char if char in plain else f"\\x{ord(char):02x}"
        for char in os.fsencode(part).decode("latin-1")
    )


def systemctl(*arguments: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
    """Ask something of systemd, with a deadline (man page: systemctl)."""
    return run(SYSTEMCTL, *arguments, timeout_s=timeout_s)


def installing(package: str) -> Path:
    """Where it is noted that a package is being installed: its files are there before it is whole.

    Whoever installs it may be killed.
    """
    return INSTALLING / f"nfs-charms-installing-{package}"


def ensure_units(units: Mapping[str, str]) -> bool:
    """Make unit files hold the given texts, and systemd know of it; say if that took anything.

    Raises:
        CommandError: systemd did not answer, or did not reload.
    """
    changed = [n for n, text in units.items() if not is_file_with(UNIT_DIRECTORY / n, text)]
    if not changed:
        return _reload_if_needed()
    are_new = not any(os.path.lexists(UNIT_DIRECTORY / name) for name in changed)
    may_be_read = are_new and not _RELOAD_NEEDED.exists()
    _RELOAD_NEEDED.touch()
    for name in changed:
        write_atomically(UNIT_DIRECTORY / name, units[name])
    if may_be_read and _are_read(changed):
        _RELOAD_NEEDED.unlink()
    _reload_if_needed()
    return True


def _are_read(names: Sequence[str]) -> bool:
    """Whether systemd has these units as their new files are, without a reload.

    It reads the file of a unit that it has not heard of when it is asked for it. A reload reads
    all units there are: with hundreds of shares that takes longer than the rest of a hook.
    (org.freedesktop.systemd1(5), FragmentPath and NeedDaemonReload)
    """
    if any("/" in name or "@." in name for name in names):
        return False  # Drop-ins and templates are no units.
    shown = systemctl("show", "--property=FragmentPath,NeedDaemonReload", "--", *names)
    wanted = [{f"FragmentPath={UNIT_DIRECTORY / n}", "NeedDaemonReload=no"} for n in names]
    return [set(unit.splitlines()) for unit in shown.split("\n\n")] == wanted


def remove_units(names: Iterable[str]) -> bool:
    """Remove unit files, and what systemd remembers of the units; say whether there were any.

    Raises:
        CommandError: systemd did not reload.
    """
    there = [name for name in names if os.path.lexists(UNIT_DIRECTORY / name)]
    if there:
        with _RELOAD_NEEDED.open("a") as removed:
            removed.writelines(f"{name}\n" for name in there)
    for name in there:
        (UNIT_DIRECTORY / name).unlink()
    _reload_if_needed()
    return bool(there)


def _reload_if_needed() -> bool:
    removed = read_file(_RELOAD_NEEDED)
    if removed is None:
        return False
    systemctl("daemon-reload")
    # A unit that failed stays in memory without its file, since CollectMode= was in that
    # (systemd.unit(5)). One that systemd doesn't know any more is an error, after all others.
    with contextlib.suppress(CommandError):
        if names := [name for name in removed.decode().splitlines() if "/" not in name]:
            systemctl("reset-failed", "--", *names)
    _RELOAD_NEEDED.unlink()
    return True

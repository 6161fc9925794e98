# SPDX-License-Identifier: Apache-2.0
"""Builds the disk that every machine of the sandbox starts from.

The base image holds the release of the host, or another one of Debian, taken from the host's own
apt sources, the modules of that release's user-mode-linux kernel, the agent, and a small apt
repository with the packages that charms install. It is built once and kept under
``.cache/sandbox``, named by what it is made of.

Everything that mounts or forks runs in namespaces of its own that die with this process, and
everything unfinished lies in one directory that the next build removes: a build that is
interrupted, by whatever signal, leaves nothing that counts.
"""

import asyncio
import fcntl
import hashlib
import platform
import re
import shlex
import shutil
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from email.utils import formatdate
from pathlib import Path
from typing import cast

from sandbox.machine.agent import HOOK_COMMAND

_ROOT = Path(__file__).resolve().parents[2]
_MACHINE = _ROOT / "sandbox/machine"
_PTRACE = Path(__file__).with_name("ptrace.c")
CACHE = _ROOT / ".cache" / "sandbox"
RELEASES = {"12": "bookworm", "13": "trixie"}
"""Releases of Debian that a host with either can make machines of, and what apt calls them."""

_KERNELS = {"bookworm": "forky"}
"""Releases whose machines have another one's kernel.

Since 6.16 user-mode-linux runs programs under seccomp(2), without ptrace(2): they start about
eight times as quickly.
"""
LIBRARIES = Path("/lib64/ld-linux-x86-64.so.2").resolve().parent
"""Where a program that starts finds the C library: Debian's and Ubuntu's directory."""

REBOOTS = "sandbox: off, to be started again"
"""What a machine says on its console, by systemd-reboot.service, when somebody has rebooted it."""
IMAGE_SIZE = "16G"
"""Apparent size of a machine's disk; the file is sparse."""

_COMMAND_TIMEOUT_S = 120.0
_BOOTSTRAP_TIMEOUT_S = 1800.0
_SYSTEM_PACKAGES = (
    "dbus",
    "e2fsprogs",
    "iproute2",
    "iputils-ping",
    "kmod",
    "netbase",
    "nftables",
    "openssh-server",
    "procps",
    "python3",
    "sudo",
    "systemd",
    "systemd-sysv",
    "udev",
    "util-linux",
)
_DPKG_OPTIONS = (
    # A machine is thrown away after its test: its package database needs no fsync per file.
    "force-unsafe-io",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/doc/*",
)
# A machine needs the modules alone; the kernel, with its C library, is for who starts it.
_UNPACK_KERNEL = """
echo "$1" > /etc/apt/sources.list.d/kernel.list
apt-get update
mkdir -p /boot/uml/lib /tmp/uml
cd /tmp/uml
apt-get download user-mode-linux/"$2" libc6/"$2" libgcc-s1/"$2"
for package in *.deb; do dpkg-deb --extract "$package" .; done
mv usr/lib/uml/modules /usr/lib/modules
mv usr/bin/linux.uml /boot/uml
for name in ld-linux-x86-64.so.2 libc.so.6 libgcc_s.so.1; do
    cp "$(find . -type f -name "$name")" /boot/uml/lib
done
rm -r /tmp/uml
"""


class ImageError(Exception):
    """The base image can't be built here; the message says what to do."""


def host_release() -> str:
    """Return the version of the distribution that this computer runs, as 12 or 24.04."""
    return platform.freedesktop_os_release()["VERSION_ID"]


async def build(
    packages: Sequence[str],
    log: Callable[[str], None],
    release: str | None = None,
    installed: Sequence[str] = (),
) -> Path:
    """Return the base image whose repository offers ``packages``, building it if needed.

    It holds a ``release`` of Debian, one of RELEASES, or else what the host runs, with the
    packages that are ``installed``. Beside it lie, with these suffixes, ``.key``, the private key
    of root's login in machines, ``.kernel``, a directory with the kernel and the libraries that
    it needs, and ``.so``, what is loaded into it.

    Raises:
        ImageError: something that a person has to put right, or the build failed.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    packages = sorted(packages)
    codename = _codename(release)
    sources = _sources_of(codename, await _apt_sources())
    arguments = _bootstrap_arguments(packages, await _kernel_source(codename))
    tree_key = _digest(codename, *sources, *arguments)
    image_key = _digest(tree_key, *installed, *_ours())
    image = CACHE / f"base-{image_key}.img"
    if image.exists():
        return image
    async with _workspace(log) as workspace:
        if not image.exists():
            tree = CACHE / f"tree-{tree_key}.tar"
            if not tree.exists():
                await _bootstrap(codename, sources, arguments, tree, workspace, log)
            await _make_image(tree, image, installed, workspace, log)
    return image


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _ours() -> Iterator[str]:
    """Yield what is in an image besides packages, and what makes it."""
    sources = (Path(__file__), _PTRACE, _MACHINE / "agent.py", _MACHINE / "hook_command.c")
    for path in (*sources, *sorted((_MACHINE / "root").rglob("*"))):
        if path.is_symlink():
            yield f"{path.relative_to(_MACHINE)} leads to {path.readlink()}"
        elif path.is_file():
            yield path.read_text()


async def _apt_sources() -> list[str]:
    """Return the host's apt sources of its own distribution, one line each."""
    fields = "$(SOURCESENTRY)|$(REPO_URI)|$(RELEASE)|$(ORIGIN)|$(COMPONENT)"
    output = await run_on_host(
        ["/usr/bin/apt-get", "indextargets", "--format", fields, "Created-By: Packages"]
    )
    components: dict[tuple[str, str, str], list[str]] = {}
    for line in output.splitlines():
        entry, uri, release, origin, component = line.split("|")
        if origin in ("Debian", "Ubuntu"):
            components.setdefault((entry, uri, release), []).append(component)
    if not components:
        raise ImageError("apt knows no Debian or Ubuntu source here: run apt-get update")
    return [
        f"deb {_signed_by(entry)}{uri} {release} {' '.join(dict.fromkeys(names))}"
        for (entry, uri, release), names in components.items()
    ]


def _sources_of(codename: str, sources: Sequence[str]) -> list[str]:
    """Return the host's sources with another release in place of its own."""
    own = _codename(None)
    if codename == own:
        return list(sources)
    # As in "deb URI bookworm-updates main".
    word = re.compile(rf"(?<= ){own}(?=[ -])")
    others = [word.sub(codename, source) for source in sources if word.search(source)]
    if not others:
        raise ImageError(f"apt has no source of {own} by this name, to take {codename} from")
    return others


def _signed_by(entry: str) -> str:
    """Return the keyring option of a source, from where apt says it is written.

    apt counts lines in a .list file and paragraphs in a .sources file.
    """
    path, _, number = entry.rpartition(":")
    text = Path(path).read_text()
    if path.endswith(".sources"):
        uncommented = re.sub(r"(?m)^#.*\n", "", text)
        paragraph = re.split(r"\n\s*\n", uncommented.strip())[int(number) - 1]
        match = re.search(r"(?im)^Signed-By:[ \t]*(/\S+)", paragraph)
    else:
        match = re.search(r"\[.*?signed-by=(/[^\s\]]+)", text.splitlines()[int(number) - 1])
    return f"[signed-by={match[1]}] " if match else ""


async def _kernel_source(codename: str) -> list[str]:
    """Return the source of a release's kernel, and the name of the release that it is of."""
    kernel = _KERNELS.get(codename, codename)
    sources = _sources_of(kernel, await _apt_sources())
    return [next(it for it in sources if f" {kernel} " in it), kernel]


def _bootstrap_arguments(packages: Sequence[str], kernel: Sequence[str]) -> list[str]:
    """Return what mmdebstrap is told, whatever the host; "$1" in a hook is the new system."""
    install = "apt-get install --yes --no-install-recommends"
    download = f"{install} --download-only {' '.join(packages)}"
    hooks = [
        'chroot "$1" apt-get clean',
        f'chroot "$1" {download}' if packages else ":",
        # Libraries have no service that a machine could miss the start of, and take long there.
        # What they depend on comes with them.
        f'cd "$1" && find var/cache/apt/archives -name "lib*.deb" -printf "/%p\\0" |'
        f' xargs -0 --no-run-if-empty chroot "$1" {install}',
        'mkdir -p "$1/srv/apt"',
        'find "$1/var/cache/apt/archives" -name "*.deb" -exec mv -t "$1/srv/apt" {} +',
        'cd "$1/srv/apt" && dpkg-scanpackages . > Packages',
        f'chroot "$1" {shlex.join(["sh", "-ec", _UNPACK_KERNEL, "sh", *kernel])}',
        'rm -f "$1"/etc/apt/apt.conf.d/99mmdebstrap "$1"/etc/apt/sources.list.d/*',
    ]
    return [
        "--mode=root",
        "--variant=minbase",
        "--format=tar",
        f"--include={','.join(_SYSTEM_PACKAGES)}",
        *(f"--dpkgopt={option}" for option in _DPKG_OPTIONS),
        *(f"--customize-hook={hook}" for hook in hooks),
    ]


def _codename(release: str | None) -> str:
    """Return what apt calls a release, or the host's."""
    host = platform.freedesktop_os_release()
    if release in (None, host.get("VERSION_ID")):
        if "VERSION_CODENAME" not in host:
            raise ImageError("/etc/os-release has no VERSION_CODENAME: use Debian or Ubuntu")
        return host["VERSION_CODENAME"]
    if host["ID"] != "debian" or release not in RELEASES:
        raise ImageError(f"machines can't be of release {release} on this {host['PRETTY_NAME']}")
    return RELEASES[release]


async def _bootstrap(
    codename: str,
    sources: Sequence[str],
    arguments: Sequence[str],
    tree: Path,
    workspace: Path,
    log: Callable[[str], None],
) -> None:
    """Make the archive of a release as the arguments of mmdebstrap say."""
    log(f"installing {codename} for the machines (once; about a minute)")
    settings = await run_on_host(["/usr/bin/apt-config", "dump", "--no-empty"])
    wanted = re.findall(r"(?m)^Acquire::(?:https?::Proxy|Check-).*;$", settings)
    (workspace / "apt.conf").write_text("\n".join(wanted) + "\n")
    archive = workspace / "tree.tar"
    await run_on_host(
        [
            *_in_dying_namespaces(),
            "/usr/bin/mmdebstrap",
            *arguments,
            f"--aptopt={workspace / 'apt.conf'}",
            codename,
            str(archive),
            *sources,
        ],
        log=log,
        temporary=workspace,
        timeout_s=_BOOTSTRAP_TIMEOUT_S,
    )
    archive.replace(tree)


async def _make_image(
    tree: Path,
    image: Path,
    installed: Sequence[str],
    workspace: Path,
    log: Callable[[str], None],
) -> None:
    """Unpack the archive, add what is ours, and make it a file system."""
    log("making the base image")
    root = workspace / "root"
    root.mkdir(mode=0o755)
    await run_on_host(["/usr/bin/tar", "-xf", str(tree), "-C", str(root), "--numeric-owner"])
    kernel = workspace / "kernel"
    shutil.move(root / "boot/uml", kernel)
    (version,) = (path.name for path in (root / "usr/lib/modules").iterdir())
    _add_release(root / "srv/apt")
    await _add_files(root)
    await compile_hook_command(root / HOOK_COMMAND.removeprefix("/"))
    library = workspace / "ptrace.so"
    await _compile(_PTRACE, library, "-shared", "-fPIC")
    key = workspace / "key"
    await _add_ssh_keys(root, key)
    commands = [["/usr/sbin/depmod", version], ["/usr/bin/apt-get", "update"]]
    if installed:
        install = ["/usr/bin/apt-get", "install", "--yes", "--no-install-recommends"]
        commands.append([*install, *installed])
    for command in commands:
        await run_on_host([*_in_dying_namespaces(), "/usr/sbin/chroot", str(root), *command])
    disk = workspace / "disk"
    await run_on_host(["/usr/bin/truncate", "--size", IMAGE_SIZE, str(disk)])
    # Few inodes: their tables are what makes the empty file system of 16 GiB large.
    options = ["-q", "-F", "-m", "0", "-i", "65536", "-d", str(root)]
    await run_on_host(["/usr/sbin/mkfs.ext4", *options, str(disk)])
    key.replace(image.with_suffix(".key"))
    shutil.rmtree(image.with_suffix(".kernel"), ignore_errors=True)
    kernel.replace(image.with_suffix(".kernel"))
    library.replace(image.with_suffix(".so"))
    disk.replace(image)


def _add_release(repository: Path) -> None:
    """Say what the repository has, else apt tries names for each compression and complains."""
    index = (repository / "Packages").read_bytes()
    digest = hashlib.sha256(index).hexdigest()
    (repository / "Release").write_text(
        f"Date: {formatdate(usegmt=True)}\nSHA256:\n {digest} {len(index)} Packages\n"
    )


async def _add_files(root: Path) -> None:
    """Add the agent, and what `machine/root` has.

    Its links to /dev/null mask units that a machine without a person, a clock or hardware doesn't
    need and a boot waits for; and generators, which look for hardware, and for scripts without a
    unit, at each boot and at each daemon-reload, so for each package.
    """
    copy = ["/usr/bin/cp", "--recursive", "--no-dereference", "--remove-destination"]
    await run_on_host([*copy, f"{_MACHINE}/root/.", str(root)])
    shutil.copyfile(_MACHINE / "agent.py", root / "usr/lib/sandbox/agent.py")
    # It takes time at boot. Whoever reboots the machine by hand starts it.
    wants = root / "usr/lib/systemd/system/multi-user.target.wants"
    (wants / "systemd-logind.service").unlink(missing_ok=True)
    # sshd starts when somebody calls.
    units = root / "etc/systemd/system"
    (units / "multi-user.target.wants/ssh.service").unlink(missing_ok=True)
    (units / "sshd.service").unlink(missing_ok=True)


async def compile_hook_command(target: Path) -> None:
    """Make the program that every hook command in a machine is."""
    await _compile(_MACHINE / "hook_command.c", target, "-static")


async def _compile(source: Path, target: Path, *options: str) -> None:
    warnings = ["-Wall", "-Wextra", "-Werror"]
    await run_on_host(["/usr/bin/gcc", *options, "-O2", *warnings, "-o", str(target), str(source)])


async def _add_ssh_keys(root: Path, key: Path) -> None:
    """Give the machines their host key, and root a login with ``key``."""
    generate = ["/usr/bin/ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "sandbox"]
    for old in (root / "etc/ssh").glob("ssh_host_*"):
        old.unlink()
    await run_on_host([*generate, "-f", str(root / "etc/ssh/ssh_host_ed25519_key")])
    await run_on_host([*generate, "-f", str(key)])
    (root / "root/.ssh").mkdir(mode=0o700, exist_ok=True)
    key.with_suffix(".pub").rename(root / "root/.ssh/authorized_keys")


@asynccontextmanager
async def _workspace(log: Callable[[str], None]) -> AsyncGenerator[Path]:
    """Give the one directory for unfinished things, to one build at a time.

    Whoever holds the lock is alone, so what lies there was left by a build that died.
    """
    workspace = CACHE / "partial"
    with (CACHE / "build.lock").open("w") as lock:
        waiting = False
        while not _try_lock(lock.fileno()):
            if not waiting:
                log("waiting for another build of the base image")
            waiting = True
            await asyncio.sleep(0.5)
        shutil.rmtree(workspace, ignore_errors=True)
        workspace.mkdir()
        try:
            yield workspace
        finally:
            # What was interrupted may be writing still; the next build removes the rest.
            shutil.rmtree(workspace, ignore_errors=True)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _in_dying_namespaces() -> list[str]:
    """Return the words before a command that make its processes and mounts die with us."""
    return [
        *("/usr/bin/setpriv", "--pdeathsig", "KILL"),
        *("/usr/bin/unshare", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child"),
    ]


async def run_on_host(
    argv: Sequence[str],
    *,
    stdin: str = "",
    log: Callable[[str], None] | None = None,
    temporary: Path | None = None,
    timeout_s: float = _COMMAND_TIMEOUT_S,
) -> str:
    """Run a command and return its output; each line goes to ``log`` as it comes.

    Raises:
        ImageError: it failed or took too long; the message carries the end of its output.
    """
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
    if temporary:
        environment["TMPDIR"] = str(temporary)
    process = await asyncio.create_subprocess_exec(
        *argv,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment,
    )
    given = cast("asyncio.StreamWriter", process.stdin)
    given.write(stdin.encode())
    given.close()
    lines: list[str] = []
    try:
        async with asyncio.timeout(timeout_s):
            async for raw in cast("asyncio.StreamReader", process.stdout):
                lines.append(raw.decode(errors="replace").rstrip())
                if log:
                    log(lines[-1])
            returncode = await process.wait()
    except TimeoutError as error:
        raise ImageError(f"{argv[0]} took longer than {timeout_s:.0f} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if returncode != 0:
        tail = "\n".join(lines[-15:])
        raise ImageError(f"{' '.join(argv[:8])}: exit status {returncode}:\n{tail}")
    return "\n".join(lines)

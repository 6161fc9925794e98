# SPDX-License-Identifier: Apache-2.0
"""Packs the charms with charmcraft, on any Debian or Ubuntu (`./dev pack`).

charmcraft packs for Ubuntu on that same Ubuntu only. Here it runs in a mount namespace of its own
that has Ubuntu's os-release over this computer's. Such a charm holds what suits this computer's
Python: right for the sandbox, whose machines have the same, and for tests; not for a release.
With `--base 13` it holds what suits Debian 13's Python, for machines of the sandbox that have it.

A charm is packed again when its directory, the packing tools or this file changed. It is made of
a copy of its directory, so nothing is left in the tree or in the home directory.
"""

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHARMS = ROOT / ".cache/charms"
WORK = ROOT / ".cache/charmcraft"
PACK_TIMEOUT_S = 900

OS_RELEASE = """\
NAME="Ubuntu"
ID=ubuntu
VERSION_ID="{version}"
PRETTY_NAME="Ubuntu {version}"
"""
# Which Ubuntu has this Python. Debian's, 3.11 and 3.13, no Ubuntu has: 24.04's charm then, as
# nothing but the name depends on it.
UBUNTU = {(3, 10): "22.04", (3, 14): "26.04"}.get(sys.version_info[:2], "24.04")
HOST = platform.freedesktop_os_release()
# The releases of Debian that the sandbox has machines of (sandbox/images.py), and their Pythons.
PYTHONS = {"12": "3.11", "13": "3.13"}


@dataclass(frozen=True)
class Packing:
    """A charm that charmcraft is packing: what it is made of, and where."""

    source: Path
    base: str
    key: str
    work: Path
    process: subprocess.Popen[bytes]
    started: float


def main() -> int:
    """Pack the charms of the directories given, or all, at the same time."""
    parser = argparse.ArgumentParser(prog="./dev pack")
    own = HOST["VERSION_ID"]
    parser.add_argument("--base", choices=sorted({own, *PYTHONS}), default=own)
    parser.add_argument("directories", nargs="*", type=Path)
    arguments = parser.parse_args()
    base: str = arguments.base
    charms(base).mkdir(parents=True, exist_ok=True)
    WORK.mkdir(parents=True, exist_ok=True)
    failed = 0
    with ExitStack() as stack:
        packings: list[Packing] = []
        for source in [path.resolve() for path in arguments.directories] or find_charms():
            key = digest(source, base)
            if is_packed(source, base, key):
                print(f"{source.name}: packed already")
            else:
                packings.append(stack.enter_context(pack(source, base, key)))
        for packing in packings:
            failed += not finish(packing)
    return 1 if failed else 0


def charms(base: str) -> Path:
    """Return where charms for a base are kept: those for this computer's are at the top."""
    return CHARMS if base == HOST["VERSION_ID"] else CHARMS / base


def find_charms() -> list[Path]:
    """Return the directories of the charms in the tree, examples and those of the tests too."""
    files = [*ROOT.glob("charms/*/charmcraft.yaml"), *ROOT.glob("examples/*/charmcraft.yaml")]
    files += ROOT.glob("tests/integration/charms/*/charmcraft.yaml")
    return sorted(file.parent for file in files)


def architecture() -> str:
    """Return Debian's name of this computer's architecture."""
    command = ["/usr/bin/dpkg", "--print-architecture"]
    done = subprocess.run(command, capture_output=True, check=True, text=True, timeout=10)
    return done.stdout.strip()


def digest(source: Path, base: str) -> str:
    """Return a hash of all that a charm is made from."""
    summed = hashlib.sha256(f"{HOST['ID']}@{HOST['VERSION_ID']} {base}".encode())
    inputs = [path for path in sorted(source.rglob("*")) if is_input(path.relative_to(source))]
    for path in [ROOT / "requirements/pack.txt", Path(__file__), *inputs]:
        if path.is_file():
            summed.update(f"\0{path}\0{path.stat().st_mode:o}\0".encode())
            summed.update(path.read_bytes())
    return summed.hexdigest()


def is_input(path: Path) -> bool:
    """Whether a file of a charm's directory has to do with what is packed."""
    return path.parts[0] not in ("tests", "tox.ini") and "__pycache__" not in path.parts


def is_packed(source: Path, base: str, key: str) -> bool:
    """Whether the packed charm of this key is there."""
    record = charms(base) / f"{source.name}.key"
    return record.exists() and record.read_text() == key and bool(packed(source, base))


def packed(source: Path, base: str) -> list[Path]:
    """Return the packed charms that were made from a directory."""
    return sorted(charms(base).glob(f"{source.name}_*.charm"))


@contextmanager
def pack(source: Path, base: str, key: str) -> Generator[Packing]:
    """Start packing; whatever happens, charmcraft and its files are gone in the end."""
    with tempfile.TemporaryDirectory(dir=WORK, prefix=f"{source.name}-") as directory:
        work = Path(directory)
        for name in ("home", "run"):
            (work / name).mkdir(mode=0o700)
        ignored = shutil.ignore_patterns("tests", "tox.ini", "__pycache__")
        shutil.copytree(source, work / "charm", ignore=ignored)
        os_release = work / "os-release"
        os_release.write_text(OS_RELEASE.format(version=UBUNTU))
        with (work / "log").open("wb") as log:
            process = subprocess.Popen(
                command(os_release),
                cwd=work / "charm",
                env=environment(work),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            yield Packing(source, base, key, work, process, time.monotonic())
        finally:
            process.kill()
            process.wait()


def command(os_release: Path) -> list[str]:
    """Return the command that packs. All of it dies with `unshare` (--kill-child)."""
    bind = 'mount --bind "$0" /etc/os-release && exec "$@"'
    ubuntu = f"ubuntu@{UBUNTU}:{architecture()}"
    charmcraft = str(Path(sys.executable).with_name("charmcraft"))
    return [
        *("/usr/bin/unshare", "--mount", "--propagation=private"),
        *("--pid", "--mount-proc", "--fork", "--kill-child"),
        *("/bin/sh", "-c", bind, str(os_release)),
        *(charmcraft, "pack", "--destructive-mode", "--platform", ubuntu),
    ]


def environment(work: Path) -> dict[str, str]:
    """Return charmcraft's environment: its state is kept here, pip's settings are the host's."""
    home = Path.home()
    # Modules that are compiled are packed: they are written where Python writes them by itself.
    elsewhere = ("PIP_NO_COMPILE", "PYTHONPYCACHEPREFIX")
    inherited = {k: v for k, v in os.environ.items() if k not in elsewhere}
    settings = {
        "XDG_CONFIG_HOME": str(home / ".config"),
        "NETRC": str(home / ".netrc"),
        "PIP_CACHE_DIR": str(ROOT / ".cache/pip"),
    }
    return {
        **settings,
        **inherited,
        "HOME": str(work / "home"),
        "XDG_CACHE_HOME": str(work / "home/.cache"),
        "XDG_STATE_HOME": str(work / "home/.local/state"),
        "XDG_RUNTIME_DIR": str(work / "run"),
        # The programs of this environment and the distribution's, and no other Python.
        "PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin",
    }


def finish(packing: Packing) -> bool:
    """Wait until a charm is packed and put it in its place; say whether it went well."""
    name = packing.source.name
    try:
        returncode = packing.process.wait(timeout=PACK_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        returncode = f"no end after {PACK_TIMEOUT_S} s"
    made = list((packing.work / "charm").glob("*.charm"))
    if returncode != 0 or len(made) != 1:
        print((packing.work / "log").read_text(errors="replace"))
        print(f"{name}: charmcraft failed ({returncode}); it says why above")
        return False
    base = packing.base
    if base != HOST["VERSION_ID"]:
        change_python(made[0], packing.work, PYTHONS[base])
    record = charms(base) / f"{name}.key"
    for old in [record, *packed(packing.source, base)]:
        old.unlink(missing_ok=True)
    charm = charms(base) / f"{name}_{HOST['ID']}@{base}-{architecture()}.charm"
    made[0].replace(charm)
    record.write_text(packing.key)
    seconds = time.monotonic() - packing.started
    print(f"{charm.relative_to(ROOT)}: {charm.stat().st_size >> 10} KiB, {seconds:.0f} s")
    return True


def change_python(charm: Path, work: Path, version: str) -> None:
    """Exchange a charm's dependencies for those of another Python, if it has any.

    charmcraft takes what suits the Python that it runs with; pip takes wheels for any.
    """
    packed = work / "own.charm"
    charm.replace(packed)
    with (
        zipfile.ZipFile(packed) as own,
        zipfile.ZipFile(charm, "w", zipfile.ZIP_DEFLATED) as other,
    ):
        entries = own.infolist()
        kept = [entry for entry in entries if not entry.filename.startswith("venv/lib/")]
        for entry in kept:
            other.writestr(entry, own.read(entry))
        if kept == entries:
            return
        for path in sorted(install(work, version).rglob("*")):
            other.write(path, f"venv/lib/python{version}" / path.relative_to(work))


def install(work: Path, version: str) -> Path:
    """Install a charm's dependencies for a Python that this computer need not have."""
    target = work / "site-packages"
    command = [
        *(sys.executable, "-m", "pip", "--quiet", "install", "--no-deps", "--no-compile"),
        *("--only-binary=:all:", f"--python-version={version}", f"--target={target}"),
        f"--requirement={work / 'charm/requirements.txt'}",
    ]
    subprocess.run(command, env=environment(work), check=True, timeout=PACK_TIMEOUT_S)
    return target


if __name__ == "__main__":
    sys.exit(main())

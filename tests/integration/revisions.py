# SPDX-License-Identifier: Apache-2.0
"""The packed charms of this tree, those of an earlier commit, and what they install."""

import asyncio
import functools
import subprocess
from pathlib import Path

from sandbox.machines import images
from sandbox.machines.images import host_release

ROOT = Path(__file__).resolve().parent.parent.parent
CHARMS = "nfs-server", "nfs-client"
PACKAGES = "nfs-common", "nfs-kernel-server", "autofs"
"""What the charms install: the sandbox's machines have no other source of packages."""
INSTALLED = ("nfs-common",)
"""What most modules' machines have before, as its installation takes longer than all the hooks."""
BEFORE = "62dc48f"
"""The commit that machines are refreshed from, and back to."""
WITHOUT_OWNERS = "1d27949"
"""The last commit that knows no owner, mode, squash and access of a share."""
GIT_TIMEOUT_S = 60
PACK_TIMEOUT_S = 600


def build_images(release: str | None = None) -> None:
    """Build the disks that machines start from, bare and with what most modules want on them."""
    say = functools.partial(print, flush=True)
    for installed in (), INSTALLED:
        asyncio.run(images.build(PACKAGES, say, release, installed))


def packed_charm(name: str, base: str | None = None, root: Path = ROOT) -> Path:
    """Return a packed charm of a tree, for a base of the sandbox or else for this computer's."""
    directory = root / ".cache/charms"
    if base not in (None, host_release()):
        directory /= str(base)
    found = list(directory.glob(f"{name}_*.charm"))
    assert found, f"{directory} has no {name}: tox -e pack -- --base {base or host_release()}"
    return found[0]


def are_there() -> bool:
    """Whether git has the earlier commits: a shallow clone has none."""
    find = ["/usr/bin/git", "cat-file", "-e", BEFORE]
    done = subprocess.run(
        find, cwd=ROOT, check=False, stderr=subprocess.DEVNULL, timeout=GIT_TIMEOUT_S
    )
    return done.returncode == 0


def packed_at(commit: str) -> dict[str, Path]:
    """Return the charms of a commit, packed if need be."""
    tree = ROOT / ".cache/before" / commit
    if not tree.exists():
        archive = subprocess.run(
            ["/usr/bin/git", "archive", commit],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            check=True,
            timeout=GIT_TIMEOUT_S,
        )
        tree.mkdir(parents=True)
        unpack = ["/usr/bin/tar", "-x", "-C", str(tree)]
        subprocess.run(unpack, input=archive.stdout, check=True, timeout=GIT_TIMEOUT_S)
    _pack(tree, *(str(tree / "charms" / name) for name in CHARMS))
    return {name: packed_charm(name, root=tree) for name in CHARMS}


def packed_from(directory: Path, base: str) -> Path:
    """Return a charm that is packed from a directory outside of the tree."""
    _pack(ROOT, "--base", base, str(directory))
    return packed_charm(directory.name, base)


def _pack(tree: Path, *arguments: str) -> None:
    python = str(ROOT / ".cache/tox/pack/bin/python")
    command = [python, str(tree / "tools/pack.py"), *arguments]
    subprocess.run(command, check=True, timeout=PACK_TIMEOUT_S, stdout=subprocess.DEVNULL)

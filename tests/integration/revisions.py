# SPDX-License-Identifier: Apache-2.0
"""The packed charms of this tree, and those of an earlier commit."""

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PACKED = ROOT / ".cache" / "charms"
CHARMS = "nfs-server", "nfs-client"
BEFORE = "62dc48f"
"""The commit that machines are refreshed from, and back to."""
GIT_TIMEOUT_S = 60
PACK_TIMEOUT_S = 600


def packed(root: Path = ROOT) -> dict[str, Path]:
    """Return the packed charms of a tree, by name."""
    charms: dict[str, Path] = {}
    for name in CHARMS:
        (charms[name],) = (root / ".cache/charms").glob(f"{name}_*.charm")
    return charms


def packed_at(commit: str) -> dict[str, Path]:
    """Return the charms of a commit, packed if need be; nothing where git hasn't got it."""
    tree = ROOT / ".cache/before" / commit
    if not tree.exists():
        archive = subprocess.run(
            ["/usr/bin/git", "archive", commit],
            cwd=ROOT,
            capture_output=True,
            check=False,
            timeout=GIT_TIMEOUT_S,
        )
        if archive.returncode:
            return {}
        tree.mkdir(parents=True)
        unpack = ["/usr/bin/tar", "-x", "-C", str(tree)]
        subprocess.run(unpack, input=archive.stdout, check=True, timeout=GIT_TIMEOUT_S)
    python = str(ROOT / ".cache/tox/pack/bin/python")
    directories = [str(tree / "charms" / name) for name in CHARMS]
    command = [python, str(tree / "tools/pack.py"), *directories]
    subprocess.run(command, check=True, timeout=PACK_TIMEOUT_S, stdout=subprocess.DEVNULL)
    return packed(tree)

# SPDX-License-Identifier: Apache-2.0
"""Copies lib/ and LICENSE into the charms; with --check, says only where a copy differs.

A charm is packed from its own directory alone, so it has copies.
"""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Make, or with --check find, the differences; the exit status."""
    is_check = "--check" in arguments
    differences = list(differing(root))
    for copy, original in differences:
        print(problem(root, copy, original) if is_check else copy.relative_to(root))
        if not is_check:
            replace(copy, original)
    return 1 if differences and is_check else 0


def differing(root: Path) -> Iterator[tuple[Path, Path | None]]:
    """Yield each copy that is not as its original, and that; None where it has none."""
    charms = [*root.glob("charms/*/charmcraft.yaml"), *root.glob("examples/*/charmcraft.yaml")]
    for charm in sorted(path.parent for path in charms):
        copies = {charm / path.relative_to(root): path for path in originals(root, charm)}
        for copy in sorted(copies.keys() | set(files(charm / "lib"))):
            original = copies.get(copy)
            same = original and copy.exists() and copy.read_bytes() == original.read_bytes()
            if not same:
                yield copy, original


def originals(root: Path, charm: Path) -> list[Path]:
    """Return what a charm has copies of; an example has nothing that is these charms' own."""
    library = root / "lib" if charm.parent.name == "charms" else root / "lib/charms"
    return [*files(library), root / "LICENSE"]


def files(directory: Path) -> Iterator[Path]:
    """Yield the files below a directory that belong to the tree."""
    return (
        path for path in directory.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    )


def problem(root: Path, copy: Path, original: Path | None) -> str:
    """Say what is wrong with a copy, and how it is put right."""
    name, how = copy.relative_to(root), "./dev vendor"
    if original is None:
        return f"{name}: lib/ has no such file; write it there, or remove it with {how}"
    source = original.relative_to(root)
    return f"{name}: differs from {source}; edit {source}, then {how}"


def replace(copy: Path, original: Path | None) -> None:
    """Make a copy be as its original, or not be if there is none."""
    if original is None:
        copy.unlink()
        return
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(original, copy)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

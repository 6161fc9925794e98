# SPDX-License-Identifier: Apache-2.0
"""Files that the charm writes, sealed so that it can tell its own hand from another's. No ops."""

import difflib
import hashlib
import itertools
import logging
from pathlib import Path

from nfs_charms import machine

SEAL = "# Its own, while the lines above have this digest: "
MAX_LINES_SHOWN = 20

logger = logging.getLogger(__name__)


def render(template: Path, **values: machine.Plain) -> str:
    """Render a template of a file whose comments begin with `#`, and seal it with a last line."""
    return sealed(machine.render(template, **values))


def sealed(text: str) -> str:
    """Add the digest of a text to it."""
    return f"{text}{SEAL}{_digest(text)}\n"


def is_untouched(text: str) -> bool:
    """Whether a text is as the charm wrote it, though perhaps in other times."""
    body, _, digest = text.rpartition(SEAL)
    return digest == f"{_digest(body)}\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def warn_if_touched(path: Path, text: str) -> None:
    """Log what another hand made of a file that is to hold `text`, before it is put right."""
    if machine.is_file_with(path, text) or not path.is_file():
        return
    found = path.read_text(errors="surrogateescape")
    if is_untouched(found):
        return
    changes = difflib.unified_diff(text.splitlines(), found.splitlines(), "ours", "found", n=0)
    shown = "\n".join(itertools.islice(changes, MAX_LINES_SHOWN))
    logger.warning(
        "%s was changed by another hand, and is put right:\n%s",
        path,
        shown.encode(errors="backslashreplace").decode(),
    )

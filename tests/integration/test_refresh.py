# SPDX-License-Identifier: Apache-2.0
"""A refresh from an earlier commit and back again, under a writer that holds a lock."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from revisions import BEFORE, packed_at
from story import APP, CLIENT, MOUNT, SERVER, Story

pytestmark = pytest.mark.needs("revisions")
WRITER_UNIT, OTHER_UNIT = f"{APP}/0", f"{APP}/1"
LOG = f"{MOUNT}/log"
# One record after the other, each synced, under a lock; it ends with the first error.
WRITER = f"""
import fcntl, os
log = os.open("{LOG}", os.O_RDWR | os.O_CREAT | os.O_APPEND)
fcntl.lockf(log, fcntl.LOCK_EX)
number = 0
while True:
    os.write(log, f"{{number}}\\n".encode())
    os.fsync(log)
    number += 1
"""
TRY_LOCK = f"""
import fcntl
try:
    fcntl.lockf(open("{LOG}", "r+"), fcntl.LOCK_EX | fcntl.LOCK_NB)
    print("had")
except BlockingIOError:
    print("refused")
"""


@pytest.fixture(scope="module")
def before() -> Mapping[str, Path]:
    return packed_at(BEFORE)


@pytest.mark.incremental
def test_deploy(story: Story, before: Mapping[str, Path]):
    replace(story, charms={**story.charms, **before}).begin()
    story.python(WRITER_UNIT, WRITER, "systemd-run --quiet --unit=writer")
    story.run(WRITER_UNIT, f"timeout 60 sh -c 'until test -s {LOG}; do sleep 0.1; done'")


def _mounts(story: Story) -> list[str]:
    """Return the ID and options of each client's mount: a new mount has a new ID."""
    command = f"findmnt --noheadings --output ID,SOURCE,OPTIONS {MOUNT}"
    return [story.run(unit, command) for unit in (WRITER_UNIT, OTHER_UNIT)]


def _refresh(story: Story, charms: Mapping[str, Path]) -> None:
    """Refresh server and client; nobody has noticed."""
    mounts = _mounts(story)
    for name in (SERVER, CLIENT):
        story.refresh(name, f"{name}/0", charms[name])
        story.settle(SERVER, CLIENT)
    assert _mounts(story) == mounts
    lines = int(story.run(WRITER_UNIT, f"wc -l < {LOG}"))
    more = f"until [ $(wc -l < {LOG}) -gt {lines} ]; do sleep 0.1; done"
    story.run(WRITER_UNIT, f"timeout 60 sh -c '{more}' && systemctl is-active writer")
    assert story.python(OTHER_UNIT, TRY_LOCK) == "refused"
    story.run(WRITER_UNIT, f"head -n {lines} {LOG} | awk '$1 != NR - 1 {{ exit 1 }}'")


@pytest.mark.incremental
def test_to_this_one(story: Story):
    _refresh(story, story.charms)


def test_and_back(story: Story, before: Mapping[str, Path]):
    _refresh(story, before)


def test_the_lock_can_be_lost(story: Story):
    """The other unit gets the lock when the writer is gone: it was the lock that kept it out."""
    story.run(WRITER_UNIT, "systemctl stop writer")
    assert story.python(OTHER_UNIT, TRY_LOCK) == "had"

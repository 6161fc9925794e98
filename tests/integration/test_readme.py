# SPDX-License-Identifier: Apache-2.0
"""The commands of the README, as a reader types them."""

import re

import pytest

from pages import REPOSITORY, is_printed, juju, steps, type_in
from story import APP, CLIENT, DEPLOY_TIMEOUT_S, SERVER, Story, becomes

pytestmark = pytest.mark.bare

README = (REPOSITORY / "README.md").read_text()
FIRST, PACKED = steps(README)


@pytest.mark.incremental
def test_on_juju(story: Story):
    """The charms are packed by hand."""
    *commands, status = PACKED.commands
    for command in commands:
        type_in(story, command)
    story.settle(SERVER, APP, CLIENT, timeout=DEPLOY_TIMEOUT_S)
    assert is_printed(PACKED.prints, juju(story, status)[1])
    promised = re.search(r"has `/data`: a file system of (\d+) GiB", README)
    assert promised
    assert story.size(f"{APP}/0") == int(promised[1])


def test_it_grows_while_in_use(story: Story):
    grow = re.search(r"\*\*Grows while in use\*\*: `(.* size=(\d+))`", README)
    assert grow
    type_in(story, grow[1])
    becomes(lambda: story.size(f"{APP}/0"), int(grow[2]))
    story.settle(SERVER, CLIENT)


def test_the_first_commands_are_the_same():
    """They name the charms as Charmhub would; the reader's own application is there before."""
    packed = [re.sub(r"\./([a-z-]+)_\S+\.charm", r"\1", it) for it in PACKED.commands]
    assert packed[1:-1] == FIRST.commands

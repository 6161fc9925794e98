# SPDX-License-Identifier: Apache-2.0
"""The first commands of the README, as a reader types them."""

import re

import pytest

from pages import REPOSITORY, indented, type_in
from story import APP, CLIENT, DEPLOY_TIMEOUT_S, SERVER, Story, becomes

README = (REPOSITORY / "README.md").read_text()


@pytest.mark.incremental
def test_the_first_commands(story: Story):
    """The reader's own application is there before."""
    story.deploy(APP)
    for command in indented(README)[0]:
        type_in(story, command)
    story.settle(SERVER, APP, CLIENT, timeout=DEPLOY_TIMEOUT_S)
    promised = re.search(r"has `/data`: a file system of (\d+) GiB", README)
    assert promised
    assert story.size(f"{APP}/0") == int(promised[1])


def test_it_grows_while_in_use(story: Story):
    grow = re.search(r"\*\*It grows while in use\*\*: `(.* size=(\d+))`", README)
    assert grow
    type_in(story, grow[1])
    becomes(lambda: story.size(f"{APP}/0"), int(grow[2]))
    story.settle(SERVER, CLIENT)

# SPDX-License-Identifier: Apache-2.0
"""The first commands of the README, as a reader types them."""

import re
from collections.abc import Mapping
from typing import Any

import pytest

from pages import REPOSITORY, indented, juju
from story import APP, CLIENT, DEPLOY_TIMEOUT_S, SERVER, Story

README = (REPOSITORY / "README.md").read_text()


async def _type(story: Story, ops_test: Any, command: str) -> None:
    returncode, printed = await juju(story, ops_test, command)
    assert returncode == 0, f"{command}: {printed}"


@pytest.mark.abort_on_fail
@pytest.mark.skip_if_deployed
async def test_the_first_commands(story: Story, ops_test: Any, deploy_options: Mapping[str, Any]):
    """The reader's own application is there before."""
    await story.model.deploy(story.charms[APP], application_name=APP, **deploy_options)
    for command in indented(README)[0]:
        await _type(story, ops_test, command)
    await story.model.wait_for_idle(
        apps=[SERVER, APP, CLIENT], status="active", timeout=DEPLOY_TIMEOUT_S, idle_period=1
    )
    promised = re.search(r"has `/data`: a file system of (\d+) GiB", README)
    assert promised
    assert await story.size(f"{APP}/0") == int(promised[1])


async def test_it_grows_while_in_use(story: Story, ops_test: Any):
    grow = re.search(r"\*\*It grows while in use\*\*: `(.* size=(\d+))`", README)
    assert grow
    await _type(story, ops_test, grow[1])
    await story.settle(SERVER, CLIENT)
    assert await story.size(f"{APP}/0") == int(grow[2])

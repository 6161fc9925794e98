# SPDX-License-Identifier: Apache-2.0
"""The README's commands on Juju, as they stand there, and what it says that they end in."""

from collections.abc import Mapping
from typing import Any

import pytest

from pages import REPOSITORY, indented, juju, settle
from story import APP, CLIENT, DEPLOY_TIMEOUT_S, SERVER, Story

PAGE = (REPOSITORY / "README.md").read_text()
FIRST, *OTHERS = indented(PAGE)
(PACKED,) = ([line for line in it if "juju " in line] for it in OTHERS if "charmcraft" in it[0])


async def _type(story: Story, ops_test: Any, command: str) -> None:
    returncode, printed = await juju(story, ops_test, command)
    assert returncode == 0, f"{command}: {printed}"


def test_both_ways_to_deploy_are_the_same():
    """From Charmhub, where the charms will be, and from what was packed by hand."""
    assert [line.split()[1] for line in FIRST] == ["deploy", "deploy", "integrate", "integrate"]
    assert [line.split()[2] for line in FIRST[:2]] == [SERVER, CLIENT]
    assert PACKED[1].split()[3:] == FIRST[1].split()[3:]


@pytest.mark.abort_on_fail
async def test_the_first_commands(story: Story, ops_test: Any, deploy_options: Mapping[str, Any]):
    """An application that is there gets a share of the size that is asked for."""
    await story.model.deploy(
        story.charms[APP], application_name=APP, num_units=2, **deploy_options
    )
    for command in PACKED + FIRST[2:]:
        await _type(story, ops_test, command)
    await story.model.wait_for_idle(
        apps=[SERVER, APP, CLIENT], status="active", timeout=DEPLOY_TIMEOUT_S, idle_period=1
    )
    for unit in f"{APP}/0", f"{APP}/1":
        assert await story.size(unit) == 10
    disk = "df --block-size=1G --output=size /var/lib/juju/storage/shares/* | tail -n 1"
    assert 95 <= int(await story.run(f"{SERVER}/0", disk)) <= 100


async def test_it_grows_while_in_use(story: Story, ops_test: Any):
    grow = "juju config nfs-client size=20"
    assert f"`{grow}`" in PAGE
    await _type(story, ops_test, grow)
    await settle(story)
    assert await story.size(f"{APP}/1") == 20

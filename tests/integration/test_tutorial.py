# SPDX-License-Identifier: Apache-2.0
"""The tutorial, as a reader follows it: its own commands, and what it says that they print."""

import asyncio
from typing import Any

import pytest

from pages import REPOSITORY, Step, is_printed, juju, settle, steps
from story import Story

PAGE = REPOSITORY / "docs" / "tutorial.md"
PRINTED_TIMEOUT_S = 300


@pytest.mark.abort_on_fail
@pytest.mark.parametrize("step", list(steps(PAGE.read_text())), ids=str)
async def test_step(story: Story, ops_test: Any, step: Step):
    await settle(story)
    *before, last = step.commands
    for command in before:
        returncode, printed = await juju(story, ops_test, command)
        assert returncode == 0, f"{command}: {printed}"
    returncode, printed = await juju(story, ops_test, last)
    if not step.prints:
        assert returncode == 0, f"{last}: {printed}"
        return
    deadline = asyncio.get_running_loop().time() + PRINTED_TIMEOUT_S
    while not is_printed(step.prints, printed):
        assert asyncio.get_running_loop().time() < deadline, f"{last} printed:\n{printed}"
        await asyncio.sleep(1)
        _, printed = await juju(story, ops_test, last)


@pytest.mark.parametrize(
    ("expected", "printed", "fits"),
    [
        ("hello", "hello\n", True),
        ("hello", "hello, world\n", False),
        ("hello", "say hello\n", False),
        ("a ... c", "a   b   c", True),
        ("a ... d", "a   b   c", False),
        ("one\nthree", "one\ntwo\nthree", True),
        ("three\none", "one\ntwo\nthree", False),
        ("...\none\n...\ntwo", "one\ntwo", True),
        ("size (GiB)", "  size (GiB)", True),
    ],
)
def test_what_counts_as_printed(expected: str, printed: str, fits: bool):
    assert is_printed(expected.splitlines(), printed) is fits

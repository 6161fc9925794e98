# SPDX-License-Identifier: Apache-2.0
"""The tutorial, as a reader follows it: its own commands, and what it says that they print."""

import asyncio
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from story import APP, CLIENT, DEPLOY_TIMEOUT_S, SERVER, Story

PAGE = Path(__file__).resolve().parent.parent.parent / "docs" / "tutorial.md"
BLOCK = re.compile(r"(?ms)^```(sh|text)\n(.*?)^```$")
PRINTED_TIMEOUT_S = 300


@dataclass
class Step:
    """Commands, and what the last one prints."""

    commands: list[str]
    prints: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        return self.commands[-1]


def steps(page: str) -> Iterator[Step]:
    """Yield what a page tells its reader to do."""
    blocks = [(kind, text.splitlines()) for kind, text in BLOCK.findall(page)]
    for (kind, commands), (following, lines) in zip(blocks, [*blocks[1:], ("", [])], strict=True):
        if kind == "sh":
            yield Step(commands, lines if following == "text" else [])


def is_printed(expected: list[str], printed: str) -> bool:
    """Whether lines are there in this order, others between them; "..." stands for anything."""
    lines = iter(printed.splitlines())
    patterns = [
        r"\s*"
        + ".*".join(r"\s+".join(map(re.escape, it.split())) for it in line.split("..."))
        + r"\s*"
        for line in expected
        if line != "..."
    ]
    return all(any(re.fullmatch(pattern, line) for line in lines) for pattern in patterns)


async def juju(story: Story, ops_test: Any, command: str) -> tuple[int, str]:
    """Run a command of the page on the model; exit status and what it prints."""
    program, *words = shlex.split(command)
    assert program == "juju", command
    if words[-1] == "reboot":
        # Over ssh there is no answer that tells it from a broken connection.
        await story.substrate.reboot(words[1])
        return 0, ""
    charms: Mapping[str, str] = {
        "ubuntu": str(story.charms[APP]),
        f"./{SERVER}_ubuntu@24.04-amd64.charm": str(story.charms[SERVER]),
        f"./{CLIENT}_ubuntu@24.04-amd64.charm": str(story.charms[CLIENT]),
    }
    returncode, stdout, stderr = await ops_test.juju(*(charms.get(word, word) for word in words))
    return returncode, stdout + stderr


async def settle(story: Story) -> None:
    """Wait as the reader does, until there is nothing more to come."""
    if story.model.applications:
        await story.model.wait_for_idle(timeout=DEPLOY_TIMEOUT_S, idle_period=1)


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

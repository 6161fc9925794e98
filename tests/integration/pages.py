# SPDX-License-Identifier: Apache-2.0
"""What a page of the documentation tells its reader to do, done on the model."""

import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import jubilant

from story import APP, DEPLOY_TIMEOUT_S, POLL_S, Story

COMMAND_TIMEOUT_S = 600
PRINTED_TIMEOUT_S = 300

REPOSITORY = Path(__file__).resolve().parent.parent.parent
_LEADS = re.compile(r"(/\d+)\*")
BLOCK = re.compile(r"(?ms)^```(sh|text)\n(.*?)^```$")


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
    """Whether lines are there in this order, others between them; "..." stands for anything.

    Any unit may be the one that leads, which `juju status` shows by a `*`.
    """
    lines = iter(_LEADS.sub(r"\1", printed).splitlines())
    patterns = [
        r"\s*"
        + ".*".join(r"\s+".join(map(re.escape, it.split())) for it in line.split("..."))
        + r"\s*"
        for line in _LEADS.sub(r"\1", "\n".join(expected)).split("\n")
        if line != "..."
    ]
    return all(any(re.fullmatch(pattern, line) for line in lines) for pattern in patterns)


def juju(story: Story, command: str) -> tuple[int, str]:
    """Run a command of the page on the model; exit status and what it prints."""
    program, *words = shlex.split(command)
    assert program == "juju", command
    if words[0] == "deploy":
        words[1] = str(_charm(story, words[1]))
    process = subprocess.run(
        [story.juju.cli_binary, words[0], "--model", str(story.juju.model), *words[1:]],
        check=False,
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
    )
    # The connection ends with the machine: ssh can't tell that from a failure.
    returncode = 0 if words[-1] == "reboot" else process.returncode
    return returncode, process.stdout + process.stderr


def type_in(story: Story, command: str) -> None:
    """Run a command of the page that has to succeed."""
    returncode, printed = juju(story, command)
    assert returncode == 0, f"{command}: {printed}"


def follow(story: Story, step: Step) -> None:
    """Type a step, and wait until it prints what the page says."""
    settle(story)
    *before, last = step.commands
    for command in before:
        type_in(story, command)
    if not step.prints:
        type_in(story, last)
        return
    _, printed = juju(story, last)
    deadline = time.monotonic() + PRINTED_TIMEOUT_S
    while not is_printed(step.prints, printed):
        assert time.monotonic() < deadline, f"{last} printed:\n{printed}"
        time.sleep(1)
        _, printed = juju(story, last)


def _charm(story: Story, name: str) -> Path:
    """Return the packed charm for one that charmcraft would pack, or for one of Charmhub."""
    packed = re.fullmatch(r"\./(?:.+/)?([a-z-]+)_ubuntu@24\.04-amd64\.charm", name)
    return story.charms[packed[1] if packed else {"ubuntu": APP}.get(name, name)]


def settle(story: Story) -> None:
    """Wait as the reader does, until there is nothing more to come."""
    story.juju.wait(jubilant.all_agents_idle, delay=POLL_S, timeout=DEPLOY_TIMEOUT_S)

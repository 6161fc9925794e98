# SPDX-License-Identifier: Apache-2.0
"""Judges random histories of both charms, on machines of the sandbox.

A history is of steps that operators, clients and fate do. After each of them all must be true that
the pages promise, by a ledger that knows nothing of the charms. One that fails is played again in
fresh models, with fewer steps as long as it fails.
"""

import argparse
import asyncio
import random
import secrets
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sandbox.controller import controller
from sandbox.controller.client import ControllerError
from sandbox.machines import images
from tests.integration.revisions import (
    BEFORE,
    CHARMS,
    INSTALLED,
    PACKAGES,
    are_there,
    packed_at,
    packed_charm,
)
from tests.torture import moves  # noqa: F401 - imported, they are there.
from tests.torture.judge import judge
from tests.torture.ledger import Client, Ledger
from tests.torture.machines import APP, Machines
from tests.torture.steps import MOVES, Step, choose, is_possible, play

STEP_TIMEOUT_S = 900.0
# Of the debug log, when a history fails.
SHOWN_LINES = 120

Next = Callable[[Ledger], Step | None]
Charms = Mapping[str, Path]


@dataclass(frozen=True)
class Setting:
    """What each history has: the packed charms, those of the commit before, and a loud judge."""

    charms: Charms
    before: Charms
    is_loud: bool


@dataclass(frozen=True)
class History:
    """What was done in a model, and what was wrong in the end; empty if nothing was."""

    steps: Sequence[Step]
    fault: str


def main() -> int:
    """Judge as many histories as are asked for; the exit status says whether all of them held."""
    parser = argparse.ArgumentParser(prog="./dev torture", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="how many histories")
    parser.add_argument("--seed", type=int, help="that of the first; chance has it by default")
    parser.add_argument("--steps", type=int, default=200, help="how many in each history")
    parser.add_argument("--shrink", type=int, default=4, help="tries to find a shorter one")
    parser.add_argument("--without", default="", metavar="MOVE,…", help=f"of {', '.join(MOVES)}")
    parser.add_argument("--commit", help="judge the charms of that commit, not those of the tree")
    parser.add_argument("--play", type=Path, help="a file with the steps of a history, as printed")
    parser.add_argument("--loud", action="store_true", help="say what is waited for")
    options = parser.parse_args()
    first: int = secrets.randbits(32) if options.seed is None else options.seed
    commit: str | None = options.commit
    judged = packed_at(commit) if commit else {name: packed_charm(name) for name in CHARMS}
    charms = {**judged, APP: packed_charm(APP)}
    setting = Setting(charms, packed_at(BEFORE) if are_there() else {}, options.loud)
    if not setting.before:
        print(f"git has no commit {BEFORE}: no history refreshes to it")
    if options.play:
        lines = options.play.read_text().splitlines()
        played = _replayed([Step.parse(line) for line in lines if line.strip()])
        return 1 if asyncio.run(_history("torture-played", setting, played)).fault else 0
    failed: list[int] = []
    for seed in range(first, first + options.seeds):
        chance = random.Random(seed)  # noqa: S311 - chance, not secrets.
        without = [name for name in options.without.split(",") if name]
        steps = iter(range(options.steps))

        def following(ledger: Ledger) -> Step | None:
            return None if next(steps, None) is None else choose(ledger, chance, without)  # noqa: B023

        print(f"seed {seed}", flush=True)
        history = asyncio.run(_history(f"torture-{seed}", setting, following))
        if history.fault:
            failed.append(seed)
            print(f"seed {seed} FAILED at step {len(history.steps)}")
            _shrink(history, setting, options.shrink)
        else:
            print(f"seed {seed}: {len(history.steps)} steps held", flush=True)
    print(f"failed: {failed}" if failed else "all held")
    return 1 if failed else 0


async def _history(name: str, setting: Setting, following: Next) -> History:
    """Play a history in a model of its own."""
    image = await images.build(PACKAGES, print, installed=INSTALLED)
    ledger = new_ledger(has_charms_before=bool(setting.before))
    with controller.start(name=name, base=image) as directory:
        machines = Machines(directory, setting.charms, setting.before, is_loud=setting.is_loud)
        await machines.deploy(ledger)
        return await _played(machines, ledger, following)


async def _played(machines: Machines, ledger: Ledger, following: Next) -> History:
    done: list[Step] = []
    while step := following(ledger):
        done.append(step)
        begun = time.monotonic()
        print(f"{len(done):4} {step}", end=" ", flush=True)
        fault = ""
        try:
            async with asyncio.timeout(STEP_TIMEOUT_S):
                await play(machines, ledger, step)
                await judge(machines, ledger)
        except* (AssertionError, TimeoutError, ControllerError) as group:
            fault = "\n".join(_messages(group))
        if fault:
            print(f"\nFAULT: {fault}\n{machines.status()}")
            print(*await machines.log(SHOWN_LINES), sep="\n")
            clients = [unit for client in ledger.clients.values() for unit in client.units]
            print(*[await machines.nfs_log(it) for it in [*ledger.servers, *clients]], sep="\n")
            return History(done, fault)
        print(f"({time.monotonic() - begun:.1f} s)", flush=True)
    return History(done, "")


def _messages(error: BaseException) -> Iterator[str]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _messages(inner)
    else:
        yield f"{type(error).__name__}: {error}"


def new_ledger(*, has_charms_before: bool) -> Ledger:
    """Return the ledger of a new model, with two clients and one of another model."""
    consumer = f"remote-{uuid.uuid5(uuid.NAMESPACE_DNS, 'gamma').hex}"
    clients = [
        Client("alpha", "alpha", "alpha-app", "alpha"),
        Client("beta", "beta", "beta-app", "beta"),
        Client("gamma", consumer, "gamma-app", "gamma", model="elsewhere"),
    ]
    return Ledger({it.name: it for it in clients}, has_charms_before=has_charms_before)


def _shrink(history: History, setting: Setting, tries: int) -> None:
    """Look for a shorter history that fails too; say the shortest."""
    steps = list(history.steps)
    part = max(1, len(steps) // 2)
    start = 0
    while tries and len(steps) > 1:
        left = steps[:start] + steps[start + part :]
        # The last step is the one that failed.
        left = left if left and left[-1] is steps[-1] else [*left, steps[-1]]
        tries -= 1
        print(f"again, with {len(left)} of {len(steps)} steps")
        again = asyncio.run(_history("torture-again", setting, _replayed(left)))
        if again.fault:
            steps = list(again.steps)
            part = max(1, min(part, len(steps) // 2))
        else:
            start += part
            if start >= len(steps) - 1:
                start, part = 0, max(1, part // 2)
    print("the shortest that failed:", *(f"  {step}" for step in steps), sep="\n")


def _replayed(steps: Sequence[Step]) -> Next:
    """Return what plays steps again, those that are possible."""
    left = list(steps)

    def following(ledger: Ledger) -> Step | None:
        while left:
            step = left.pop(0)
            if is_possible(ledger, step):
                return step
        return None

    return following


if __name__ == "__main__":
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""All that can happen: when it can, how it is done, and what the ledger learns of it.

Each move has candidates, the arguments that it could have now. They depend on the ledger alone, so
the beginning of a history can be played again. What must be true afterwards, judge.py says; a move
asserts only how its own actions ended.
"""

import asyncio
import random
import re
import shlex
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass

from tests.torture.ledger import Ledger
from tests.torture.machines import SERVER, Machines

Argument = str | int | float
Arguments = tuple[Argument, ...]

FATE = 0.25
"""How often something is killed or loses its power while a step is done."""
IDLE_TIMEOUT_S = 240.0
TOLD_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Step:
    """A move with its arguments, and what fate does meanwhile: kill a hook, or cut a power."""

    move: str
    arguments: Arguments
    fate: Arguments = ()

    def __str__(self) -> str:
        """Say it in a line."""
        parts = (self.move, *self.arguments), self.fate
        return ", ".join(shlex.join(map(str, part)) for part in parts if part)

    @classmethod
    def parse(cls, line: str) -> "Step":
        """Read what was said in a line."""
        words, _, fate = line.partition(", ")
        name, *arguments = shlex.split(words)
        return cls(name, _arguments(arguments), _arguments(shlex.split(fate)))


def _arguments(words: list[str]) -> Arguments:
    return tuple(_number(word) if re.fullmatch(r"-?\d+(\.\d+)?", word) else word for word in words)


def _number(word: str) -> int | float:
    return int(word) if "." not in word else float(word)


@dataclass(frozen=True)
class Move:
    """Something that can happen."""

    weight: int
    candidates: Callable[[Ledger], list[Arguments]]
    do: Callable[..., Awaitable[None]]
    has_fate: bool


MOVES: dict[str, Move] = {}


def move(
    candidates: Callable[[Ledger], list[Arguments]], weight: int = 2, has_fate: bool = True
) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., Awaitable[None]]]:
    """Add what a function does to all that can happen."""

    def add(do: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
        MOVES[do.__name__] = Move(weight, candidates, do, has_fate)
        return do

    return add


def choose(ledger: Ledger, chance: random.Random, without: Collection[str] = ()) -> Step:
    """Choose what happens next."""
    possible = {
        name: found
        for name, it in MOVES.items()
        if name not in without and (found := it.candidates(ledger))
    }
    (name,) = chance.choices(list(possible), [MOVES[it].weight for it in possible])
    arguments = chance.choice(possible[name])
    if not MOVES[name].has_fate or chance.random() > FATE:
        return Step(name, arguments)
    servers = sorted(ledger.servers)
    units = sorted(unit for client in ledger.clients.values() for unit in client.units)
    if chance.random() < 0.3:
        return Step(name, arguments, ("cut", chance.choice(servers), chance.randint(0, 30) / 10))
    return Step(name, arguments, ("kill", chance.choice(servers + units), chance.randint(6, 40)))


def is_possible(ledger: Ledger, step: Step) -> bool:
    """Whether a step of another history can be done in this one."""
    its = MOVES[step.move].candidates(ledger)
    there = {*ledger.servers, *(it for c in ledger.clients.values() for it in c.units)}
    return step.arguments in its and (not step.fate or step.fate[1] in there)


async def play(machines: Machines, ledger: Ledger, step: Step) -> None:
    """Do a step, and what fate does meanwhile."""
    async with _fate(machines, step.fate):
        await MOVES[step.move].do(machines, ledger, *step.arguments)


@asynccontextmanager
async def _fate(machines: Machines, fate: Arguments) -> AsyncGenerator[None]:
    if not fate:
        yield
        return
    what, unit, number = str(fate[0]), str(fate[1]), float(fate[2])
    if what == "kill":
        its = unit if unit.startswith(SERVER) else machines.subordinate(unit)
        await machines.ask("kill_hook", unit=its, at_exec=[int(number)])
        yield
        return
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_cut(machines, unit, number))
        yield


async def _cut(machines: Machines, unit: str, delay: float) -> None:
    await asyncio.sleep(delay)  # The moment is what is tried out.
    await machines.cut(unit)

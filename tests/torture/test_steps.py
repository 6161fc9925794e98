# SPDX-License-Identifier: Apache-2.0

import asyncio
import random
from typing import Any

import pytest

from tests.torture.__main__ import new_ledger
from tests.torture.ledger import Ledger
from tests.torture.steps import MOVES, Step, choose, is_possible, play


class Obedient:
    """Machines on which all succeeds at once, and that show what is asked for."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.added = 10
        self.before = self.charms = {"nfs-server": "", "nfs-client": ""}

    def __getattr__(self, name: str) -> Any:
        async def done(*_: Any, **__: Any) -> "Obedient":
            return self

        return done

    completed, message, was_killed = True, "", True
    results = property(lambda self: {})

    def address(self, unit: str) -> str:
        return "10.0.0.9"

    def subordinate(self, unit: str) -> str:
        return unit

    def status_of(self, unit: str) -> tuple[str, str]:
        return "blocked", ""

    async def listed(self, name: str) -> dict[str, str]:
        unit = next(unit for unit, storage in self.ledger.servers.items() if storage)
        return {"name": name, "unit": unit, "path": f"/srv/{name}"}

    async def add_unit(self, application: str, *_: str) -> str:
        self.added += 1
        return f"{application}/{self.added}"

    async def storage_of(self, unit: str) -> str:
        return self.ledger.detached[0] if self.ledger.detached else f"shares/{self.added}"


def begun() -> Ledger:
    ledger = new_ledger(has_charms_before=True)
    ledger.servers = {f"nfs-server/{n}": f"shares/{n}" for n in range(3)}
    for number, client in enumerate(ledger.clients.values()):
        client.units = {f"{client.principal}/0": f"10.0.0.{number}"}
    return ledger


async def _history(seed: int, count: int) -> list[Step]:
    """Choose and do steps where all succeeds; shares are found on the first server."""
    ledger, steps = begun(), list[Step]()
    chance = random.Random(seed)  # noqa: S311 - chance, not secrets.
    machines: Any = Obedient(ledger)
    for _ in range(count):
        step = choose(ledger, chance)
        assert is_possible(ledger, step)
        steps.append(step)
        outcome = MOVES[step.move].do(machines, ledger, *step.arguments)
        try:
            await outcome
        except AssertionError:
            # An action that had to be refused: here none is.
            continue
        for share in ledger.live:
            share.storage = share.storage or next(filter(None, ledger.servers.values()))
    return steps


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    async def sleep(_: float) -> None:
        return

    monkeypatch.setattr(asyncio, "sleep", sleep)


@pytest.mark.usefixtures("no_waiting")
def test_a_seed_is_a_history():
    def history(seed: int) -> list[Step]:
        return asyncio.run(_history(seed, 100))

    assert history(1) == history(1)
    assert history(1) != history(2)


@pytest.mark.usefixtures("no_waiting")
def test_every_move_comes_about():
    done = {step.move for seed in range(10) for step in asyncio.run(_history(seed, 200))}
    assert done == set(MOVES)


def test_a_step_of_another_history_is_left_out_where_it_can_not_be():
    ledger = begun()
    assert is_possible(ledger, Step("integrate", ("alpha",)))
    assert not is_possible(ledger, Step("remove_relation", ("alpha", 0)))
    assert not is_possible(ledger, Step("integrate", ("alpha",), ("kill", "nfs-server/7", 8)))


@pytest.mark.parametrize(
    "step",
    [
        Step("add_server", ()),
        Step("create_share", (1, ""), ("kill", "nfs-server/1", 8)),
        Step("create_share", (2, "10.77.0.200"), ("cut", "nfs-server/1", 0.8)),
        Step("ask_what_is_refused", ("alpha", 1000)),
    ],
)
def test_a_step_is_read_as_it_is_said(step: Step):
    assert Step.parse(str(step)) == step


def test_what_fate_does_is_done():
    said: list[Any] = []

    class Machines(Obedient):
        async def ask(self, method: str, **params: Any) -> None:
            said.append((method, *params.values()))

        async def cut(self, unit: str) -> None:
            said.append(("cut", unit))

    ledger = begun()
    machines: Any = Machines(ledger)
    kill = Step("integrate", ("alpha",), ("kill", "nfs-server/1", 8))
    asyncio.run(play(machines, ledger, kill))
    asyncio.run(play(machines, ledger, Step("set_threads", (4,), ("cut", "nfs-server/0", 0))))
    assert said == [("kill_hook", "nfs-server/1", [8]), ("cut", "nfs-server/0")]

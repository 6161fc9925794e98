# SPDX-License-Identifier: Apache-2.0
"""Measures, on machines of the sandbox, what the charms cost. What counts are the ratios.

dispatch: update-status of nfs-server, of nfs-client, and of an empty ops charm on the same
machine. stall: the longest pause of a client that writes, while other shares come, grow and go,
beside that of the same time with nothing happening. scale: what a share more costs, and an
update-status, with 200 shares of 10 addresses each, beside the unit's first and second share.
relations: update-status and leader-elected of a leader with 1,000 integrations, beside 1 and 100:
seconds, hook commands, and which of those asked the same twice.
"""

import argparse
import asyncio
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from sandbox import images
from sandbox.libjuju import Model
from sandbox.operations import Remote
from sandbox.ops_test import Dispatch, RunningModel, Substrate, running_model
from tests.integration.story import APP, CLIENT, PACKAGES, SERVER

TENANT = "tenant"
ROUNDS = 10
MAX_RATIO = 1.5


PARTS = ("dispatch", "stall", "scale", "relations")
SERVER_UNIT, APP_UNIT = f"{SERVER}/0", f"{APP}/0"

SHARES = 200
ADDRESSES = ",".join(f"192.0.2.{number}" for number in range(1, 11))
MAX_GROWTH = 2.0
OTHERS = [f"/stall/{letter}" for letter in "bcdefghijk"]
LONGEST = "/run/longest"
# 4 KiB and fsync, again and again; notes the longest pause so far.
WRITER = f"""
import os, time
file, longest, number = os.open("/data/stall", os.O_WRONLY | os.O_CREAT), 0.0, 0
while True:
    begun = time.monotonic()
    os.pwrite(file, b"x" * 4096, number % 256 * 4096)
    os.fsync(file)
    number += 1
    pause = time.monotonic() - begun
    if pause > longest:
        longest = pause
        with open("{LONGEST}", "w") as noted:
            noted.write(str(longest))
"""


INTEGRATIONS = (1, 100, 1000)
SHARED_BY = 10
# A disk: on the root disk nothing is overcommitted.
STORAGE = {"shares": "8G"}
OVERCOMMIT = {"overcommit-ratio": "100"}
MAX_QUIET = 3.0
# Whether it leads, ops asks again after half a minute.
MAX_COMMANDS = 1.01
# Run in a hook context: how many clients have an endpoint.
GRANTED = f"""
for id in $(relation-ids nfs-share); do relation-get -r "$id" --app endpoint {SERVER}; done |
grep -c ^nfs://
"""


async def main() -> int:
    """Measure and print; the exit status says whether the targets were met."""
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="|".join(PARTS), help="default: all")
    parts: list[str] = parser.parse_args().parts or [*PARTS]
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    image = await images.build(PACKAGES, print)
    is_met = True
    with tempfile.TemporaryDirectory() as directory:
        if {"dispatch", "stall"} & {*parts}:
            async with running_model("bench", image, Path(directory)) as running:
                await _deploy(running)
                if "dispatch" in parts:
                    is_met &= _report(await _measure(running)) == 0
                if "stall" in parts:
                    is_met &= await _stall(running)
        if "scale" in parts:
            async with running_model("bench-scale", image, Path(directory)) as running:
                is_met &= await _scale(running)
        if "relations" in parts:
            async with running_model("bench-relations", image, Path(directory)) as running:
                is_met &= await _relations(running)
    return 0 if is_met else 1


async def _act(running: RunningModel, action: str, **parameters: Any) -> Dispatch:
    """Run an action on the server; what its dispatch was."""
    unit = running.ops_test.model.units[SERVER_UNIT]
    done = await (await unit.run_action(action, **parameters)).wait()
    assert done.status == "completed", (action, parameters, done.results)
    return (await running.substrate.hooks(SERVER_UNIT))[-1]


async def _run(running: RunningModel, unit: str, command: str) -> str:
    result = await running.substrate.run(unit, command)
    assert result.returncode == 0, (command, result.stderr)
    return result.stdout.strip()


async def _stall(running: RunningModel) -> bool:
    started = "systemctl show --property ActiveEnterTimestampMonotonic nfs-server"
    before = await _run(running, SERVER_UNIT, started)
    await running.ops_test.model.applications[SERVER].set_config({"overcommit-ratio": "100"})
    await running.ops_test.model.wait_for_idle(idle_period=1)
    begun = time.monotonic()
    await _begin_writing(running)
    for share in OTHERS:
        await _act(running, "create-share", share=share, size=1)
        await _act(running, "resize-share", share=share, size=2)
        await _act(running, "grant-access", share=share, allowlist=ADDRESSES)
        await _act(running, "revoke-access", share=share, allowlist=ADDRESSES)
        await _act(running, "delete-share", share=share, confirm=share)
    busy = await _longest_pause(running)
    seconds = time.monotonic() - begun
    await _begin_writing(running)
    await asyncio.sleep(seconds)
    idle = await _longest_pause(running)
    is_same = await _run(running, SERVER_UNIT, started) == before
    is_met = is_same and busy <= MAX_RATIO * idle
    print(
        f"longest pause of a writer in {seconds:.0f} s: {busy:.3f} s while {len(OTHERS)} shares"
        f" come, grow and go, {idle:.3f} s while nothing does: {busy / idle:.2f} times"
        f" (target: {MAX_RATIO}, {_met(is_met)});"
        f" nfs-server was {'not ' if is_same else ''}restarted"
    )
    return is_met


async def _begin_writing(running: RunningModel) -> None:
    command = f"systemd-run --quiet --unit=writer python3 -c {shlex.quote(WRITER)}"
    await _run(running, APP_UNIT, f"rm -f {LONGEST}; {command}")


async def _longest_pause(running: RunningModel) -> float:
    return float(await _run(running, APP_UNIT, f"systemctl stop writer; cat {LONGEST}"))


async def _scale(running: RunningModel) -> bool:
    charm = await running.ops_test.build_charm("charms/nfs-server")
    await running.ops_test.model.deploy(
        charm, application_name=SERVER, config=OVERCOMMIT, storage=STORAGE
    )
    await running.ops_test.model.wait_for_idle(status="active", timeout=900, idle_period=1)
    first, quiet = await _add(running, 1), await _update_status(running)
    second = await _add(running, 2)
    for number in range(3, SHARES + 1):
        await _add(running, number)
    last, busy = await _add(running, SHARES + 1), await _update_status(running)
    share, status = last[1] / first[1], busy / quiet
    is_met = last[0] == first[0] and max(share, status) <= MAX_GROWTH
    for number, (commands, seconds) in {1: first, 2: second, SHARES + 1: last}.items():
        ratio = seconds / first[1]
        print(f"share {number}: {commands} commands, {seconds:.2f} s, {ratio:.2f} times the first")
    print(
        f"update-status: {quiet:.2f} s with 1 share, {busy:.2f} s with {SHARES + 1},"
        f" {status:.2f} times (targets: the same commands, {MAX_GROWTH} times, {_met(is_met)})"
    )
    return is_met


@dataclass(frozen=True)
class Cost:
    """The hooks of a leader with so many integrations."""

    integrations: int
    granting: Dispatch
    elected: Dispatch
    quiet: Dispatch
    reading: Dispatch

    def hooks(self) -> dict[str, Dispatch]:
        """Each hook, by what it does."""
        return {
            "leader-elected that grants what is new": self.granting,
            "leader-elected": self.elected,
            "update-status": self.quiet,
            "update-status that reads all": self.reading,
        }


async def _relations(running: RunningModel) -> bool:
    model, build = running.ops_test.model, running.ops_test.build_charm
    charm = await build("charms/nfs-server")
    await model.deploy(charm, application_name=SERVER, config=OVERCOMMIT, storage=STORAGE)
    await model.wait_for_idle([SERVER], status="active", timeout=900, idle_period=1)
    client = await build("tests/integration/charms/own-share")
    found: list[Cost] = []
    for before, count in pairwise((0, *INTEGRATIONS)):
        clients = [_client(number) for number in range(before, count)]
        await running.substrate.integrate_many(SERVER_UNIT, "nfs-share", client, clients)
        found.append(await _cost(running, count))
        _print_cost(found[-1])
    return _report_relations(*found)


def _client(number: int) -> Remote:
    """An application that asks, as some others do, for a share: every other one across models."""
    share, model = number // SHARED_BY, f"model-{number // SHARED_BY}"
    is_elsewhere = share % 2 == 1
    high, low = divmod(number, 128)
    # No two are neighbours: nfs-server would make one network of them.
    address = f"198.18.{high}.{2 * low}"
    return {
        "application": f"remote-a{number:031}" if is_elsewhere else f"client-{number}x",
        "other_model": model if is_elsewhere else "",
        "app_data": {"name": f"/relations/{share}", "size": "1", "allowlist": ""},
        "unit_data": {"ingress-address": address, "egress-subnets": f"{address}/32"},
    }


async def _cost(running: RunningModel, count: int) -> Cost:
    """Grant what so many integrations ask for, and measure the hooks that follow."""
    granting = await _hook(running, "leader-elected")
    granted = await _run_in_hook(running, GRANTED)
    assert int(granted) == count, f"{granted} of {count} got their shares"
    times = 1 if count == INTEGRATIONS[-1] else 3  # It is a long one.
    elected = [await _hook(running, "leader-elected") for _ in range(times)]
    quiet = [await _hook(running, "update-status") for _ in range(7)]
    reading: list[Dispatch] = []
    for _ in range(times):
        await _run(running, SERVER_UNIT, "rm /run/nfs-server-charm/settled")
        reading.append(await _hook(running, "update-status"))
    return Cost(count, granting, _median(elected), _median(quiet), _median(reading))


async def _hook(
    running: RunningModel, hook: Literal["leader-elected", "update-status"]
) -> Dispatch:
    done = await running.substrate.run_hook(SERVER_UNIT, hook)
    assert done["returncode"] == 0, done
    return done


async def _run_in_hook(running: RunningModel, command: str) -> str:
    unit = running.ops_test.model.units[SERVER_UNIT]
    done = await (await unit.run(command, timeout=600)).wait()
    assert done.results["return-code"] == 0, done.results
    return str(done.results["stdout"]).strip()


def _print_cost(cost: Cost) -> None:
    for what, it in cost.hooks().items():
        print(
            f"{cost.integrations} integrations, {what}: {it['seconds']:.2f} s,"
            f" {it['commands']} hook commands",
            flush=True,
        )
        for question in sorted({*it["repeated"]})[:10]:
            print(f"    asked {it['repeated'].count(question) + 1} times: {question}", flush=True)


def _median(dispatches: Sequence[Dispatch]) -> Dispatch:
    return sorted(dispatches, key=lambda it: it["seconds"])[len(dispatches) // 2]


def _report_relations(one: Cost, some: Cost, many: Cost) -> bool:
    quiet = many.quiet["seconds"] / one.quiet["seconds"]
    commands, seconds = (
        _each_more(some, many, key) / _each_more(one, some, key) for key in ("commands", "seconds")
    )
    is_once = not any(it["repeated"] for cost in (one, some, many) for it in cost.hooks().values())
    is_met = quiet <= MAX_QUIET and commands <= MAX_COMMANDS and seconds <= MAX_RATIO and is_once
    print(
        f"with {many.integrations} integrations: update-status takes {quiet:.2f} times as long as"
        f" with 1; each after the first {some.integrations} costs leader-elected {commands:.2f}"
        f" times the hook commands and {seconds:.2f} times the seconds of each before; hook"
        f" commands were {'' if is_once else 'not '}asked once for a thing and hook"
        f" (targets: {MAX_QUIET}, {MAX_COMMANDS}, {MAX_RATIO}, once, {_met(is_met)})"
    )
    return is_met


def _each_more(few: Cost, many: Cost, key: Literal["commands", "seconds"]) -> float:
    """What an integration more costs leader-elected."""
    return (many.elected[key] - few.elected[key]) / (many.integrations - few.integrations)


async def _add(running: RunningModel, number: int) -> tuple[int, float]:
    """Make a share that 10 addresses may mount; the commands and the seconds that it took."""
    before = await _commands(running)
    done = await _act(
        running, "create-share", share=f"/scale/{number}", size=1, allowlist=ADDRESSES
    )
    return await _commands(running) - before, done["seconds"]


async def _commands(running: RunningModel) -> int:
    """How many commands the server's charm has run on its machine so far."""
    _, log, _ = await running.ops_test.juju("debug-log", "--replay", "--no-tail")
    return sum(
        1
        for line in log.splitlines()
        if line.startswith(f"unit-{SERVER_UNIT.replace('/', '-')}: ") and "running (" in line
    )


async def _update_status(running: RunningModel) -> float:
    """Median of the seconds of five update-status with nothing to do."""
    before = len(await _dispatches(running.substrate, SERVER_UNIT))
    async with running.ops_test.fast_forward("1s"):
        while len(done := await _dispatches(running.substrate, SERVER_UNIT)) < before + 5:
            await asyncio.sleep(0.5)
    return statistics.median(it["seconds"] for it in done[before:])


def _met(is_met: bool) -> str:
    return "met" if is_met else "MISSED"


async def _deploy(running: RunningModel) -> None:
    model, build = running.ops_test.model, running.ops_test.build_charm
    app = await build("tests/integration/charms/empty")
    await model.deploy(await build("charms/nfs-server"), application_name=SERVER)
    await model.deploy(app, application_name=APP)
    await model.deploy(
        await build("charms/nfs-client"),
        application_name=CLIENT,
        num_units=0,
        config={"mountpoint": "/data", "size": 1},
    )
    await model.deploy(app, application_name=TENANT, to=_machine(model, f"{SERVER}/0"))
    await model.integrate(f"{CLIENT}:juju-info", f"{APP}:juju-info")
    await model.integrate(f"{CLIENT}:nfs-share", f"{SERVER}:nfs-share")
    await model.wait_for_idle(status="active", timeout=900, idle_period=1)


def _machine(model: Model, unit: str) -> str:
    machine = model.units[unit].machine
    assert machine is not None
    return machine.id


async def _measure(running: RunningModel) -> Mapping[str, list[Dispatch]]:
    """Collect the dispatches of update-status of each unit, the first two left out."""
    units = [f"{app}/0" for app in (SERVER, TENANT, CLIENT, APP)]
    async with running.ops_test.fast_forward("1s"):
        while True:
            found = {unit: await _dispatches(running.substrate, unit) for unit in units}
            if all(len(dispatches) >= ROUNDS for dispatches in found.values()):
                return found
            await asyncio.sleep(1)


async def _dispatches(substrate: Substrate, unit: str) -> list[Dispatch]:
    return [it for it in await substrate.hooks(unit) if it["hook"] == "update-status"][2:]


def _report(found: Mapping[str, list[Dispatch]]) -> int:
    medians = {u: statistics.median(it["seconds"] for it in done) for u, done in found.items()}
    for unit, done in found.items():
        print(
            f"{unit:14} update-status: {medians[unit]:.2f} s (median of {len(done)}),"
            f" {done[-1]['commands']} hook commands"
        )
    ratios = {
        SERVER: medians[f"{SERVER}/0"] / medians[f"{TENANT}/0"],
        CLIENT: medians[f"{CLIENT}/0"] / medians[f"{APP}/0"],
    }
    for app, ratio in ratios.items():
        met = _met(ratio <= MAX_RATIO)
        print(f"{app}: {ratio:.2f} times an empty charm (target: {MAX_RATIO}, {met})")
    return 0 if all(ratio <= MAX_RATIO for ratio in ratios.values()) else 1


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))

# SPDX-License-Identifier: Apache-2.0
"""Measures, on machines of the sandbox, what the charms cost. What counts are the ratios.

dispatch: update-status of nfs-server, of nfs-client, and of an empty ops charm on the same
machine. stall: the longest pause of a client that writes, while other shares come, grow and go,
beside that while a process of the server's machine, which has one processor, only computes.
scale: what a share more costs, and an update-status, with 200 shares of 10 addresses each, beside
the unit's first ones; and what a scrape of their metrics costs.
relations: update-status and leader-elected of a leader with 1,000 integrations, beside 1 and 100:
seconds, hook commands, and which of those asked the same twice.
"""

import argparse
import shlex
import statistics
import sys
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from sandbox.controller.uniter import Dispatch
from sandbox.rules.operations import Remote
from tests.integration.machines import machine_of, sandbox_model
from tests.integration.revisions import packed_charm
from tests.integration.story import (
    APP,
    CLIENT,
    DEPLOY_TIMEOUT_S,
    POLL_S,
    SERVER,
    Story,
    becomes,
)

TENANT = "tenant"
ROUNDS = 10
MAX_RATIO = 1.5


PARTS = ("dispatch", "stall", "scale", "relations")
SERVER_UNIT, APP_UNIT = f"{SERVER}/0", f"{APP}/0"

SHARES = 200
SAMPLES = 5
ADDRESSES = ",".join(f"192.0.2.{number}" for number in range(1, 11))
MAX_GROWTH = 2.0
COLLECTOR = "collector"
SCRAPES = 10
# Prometheus's own default, of which a scrape may take a hundredth of a core.
SCRAPE_INTERVAL_S = 60
MAX_SCRAPE_S = 1.0
SCRAPED = f"""
import subprocess, time, urllib.request
def scrape():
    urllib.request.urlopen("http://127.0.0.1:20490/metrics").read()
def used():
    show = ["systemctl", "show", "--property=CPUUsageNSec", "--value", "nfs-server-exporter"]
    return int(subprocess.check_output(show)) / 1e9
scrape()  # Starts it.
before, began = used(), time.monotonic()
for _ in range({SCRAPES}):
    scrape()
print((time.monotonic() - began) / {SCRAPES}, (used() - before) / {SCRAPES})
"""
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


def main() -> int:
    """Measure and print; the exit status says whether the targets were met."""
    parser = argparse.ArgumentParser(prog="./dev bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="|".join(PARTS), help="default: all")
    parts: list[str] = parser.parse_args().parts or [*PARTS]
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    is_met = True
    if {"dispatch", "stall"} & {*parts}:
        with _story("bench") as story:
            _deploy(story)
            if "dispatch" in parts:
                is_met &= _report(_measure(story)) == 0
            if "stall" in parts:
                is_met &= _stall(story)
    if "scale" in parts:
        with _story("bench-scale") as story:
            is_met &= _scale(story)
    if "relations" in parts:
        with _story("bench-relations") as story:
            is_met &= _relations(story)
    return 0 if is_met else 1


@contextmanager
def _story(name: str) -> Generator[Story, None, None]:
    empty = packed_charm("empty")
    charms = {it: packed_charm(it) for it in (SERVER, CLIENT)}
    with sandbox_model(name, print) as (juju, machines):
        yield Story(juju, machines, {**charms, APP: empty, TENANT: empty})


def _act(story: Story, action: str, **parameters: Any) -> Dispatch:
    """Run an action on the server; what its dispatch was."""
    task = story.act(SERVER_UNIT, action, **parameters)
    assert task.success, (action, parameters, task)
    return story.machines.hooks(SERVER_UNIT)[-1]


def _stall(story: Story) -> bool:
    started = "systemctl show --property ActiveEnterTimestampMonotonic nfs-server"
    before = story.run(SERVER_UNIT, started)
    story.configure(SERVER, overcommit_ratio="100")
    story.settle(SERVER)
    begun = time.monotonic()
    _begin_writing(story)
    for share in OTHERS:
        _act(story, "create-share", share=share, size=1)
        _act(story, "resize-share", share=share, size=2)
        _act(story, "grant-access", share=share, allowlist=ADDRESSES)
        _act(story, "revoke-access", share=share, allowlist=ADDRESSES)
        _act(story, "delete-share", share=share, confirm=share)
        _act(story, "restore-share", share=share)
        _act(story, "delete-share", share=share, confirm=share)
        _act(story, "purge-share", share=share, confirm=share)
    busy = _longest_pause(story)
    seconds = time.monotonic() - begun
    idle = _pause_for(story, seconds)
    # The machine has one processor: any process there is in the writer's way.
    story.run(SERVER_UNIT, "systemd-run --quiet --unit=computing python3 -c 'while True: pass'")
    beside = _pause_for(story, seconds)
    story.run(SERVER_UNIT, "systemctl stop computing")
    is_same = story.run(SERVER_UNIT, started) == before
    is_met = is_same and busy <= MAX_RATIO * beside
    print(
        f"longest pause of a writer in {seconds:.0f} s: {busy:.3f} s while {len(OTHERS)} shares"
        f" come, grow and go, {beside:.3f} s beside a process that computes, {idle:.3f} s beside"
        f" nothing: {busy / beside:.2f} times that beside a process (target: {MAX_RATIO},"
        f" {_met(is_met)}); nfs-server was {'not ' if is_same else ''}restarted"
    )
    return is_met


def _pause_for(story: Story, seconds: float) -> float:
    _begin_writing(story)
    time.sleep(seconds)
    return _longest_pause(story)


def _begin_writing(story: Story) -> None:
    command = f"systemd-run --quiet --unit=writer python3 -c {shlex.quote(WRITER)}"
    story.run(APP_UNIT, f"rm -f {LONGEST}; {command}")


def _longest_pause(story: Story) -> float:
    return float(story.run(APP_UNIT, f"systemctl stop writer; cat {LONGEST}"))


def _scale(story: Story) -> bool:
    story.juju.model_config({"logging-config": "<root>=INFO;unit=DEBUG"})  # Commands are in it.
    story.deploy(SERVER, config=OVERCOMMIT, storage=STORAGE)
    story.settle(SERVER, timeout=DEPLOY_TIMEOUT_S)
    first = _add(story, 1)
    quiet = _update_status(story)
    added = [first, *(_add(story, number) for number in range(2, SHARES + 1))]
    busy = _update_status(story)
    few, many = (
        statistics.median(seconds for _, seconds in some)
        for some in (added[:SAMPLES], added[-SAMPLES:])
    )
    status = busy / quiet
    is_met = {commands for commands, _ in added} == {first[0]} and first[0] > 0
    is_met &= max(many / few, status) <= MAX_GROWTH
    print(
        f"each of the first {SAMPLES} shares takes {few:.2f} s, each of the last {SAMPLES} of"
        f" {SHARES} {many:.2f} s, {many / few:.2f} times (medians);"
        f" {' or '.join(sorted({str(commands) for commands, _ in added}))} commands"
    )
    print(
        f"update-status: {quiet:.2f} s with 1 share, {busy:.2f} s with {SHARES},"
        f" {status:.2f} times (targets: the same commands, {MAX_GROWTH} times, {_met(is_met)})"
    )
    return _scrape(story) and is_met


def _scrape(story: Story) -> bool:
    story.juju.deploy(packed_charm(COLLECTOR), COLLECTOR)
    story.juju.integrate(f"{COLLECTOR}:cos-agent", f"{SERVER}:cos-agent")
    story.settle(SERVER, COLLECTOR, timeout=DEPLOY_TIMEOUT_S)
    scraped = f"python3 -c {shlex.quote(SCRAPED)}"
    seconds, cpu = (float(it) for it in story.run(SERVER_UNIT, scraped).split())
    core = cpu / SCRAPE_INTERVAL_S
    is_met = seconds < MAX_SCRAPE_S and core < 0.01
    print(
        f"scrape of {SHARES} shares: {seconds:.2f} s, and once a minute {core:.2%} of a core"
        f" (targets: {MAX_SCRAPE_S} s, 1%, {_met(is_met)})"
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


def _relations(story: Story) -> bool:
    story.deploy(SERVER, config=OVERCOMMIT, storage=STORAGE)
    story.settle(SERVER, timeout=DEPLOY_TIMEOUT_S)
    client = str(packed_charm("logbook"))
    found: list[Cost] = []
    for before, count in pairwise((0, *INTEGRATIONS)):
        clients = [_client(number) for number in range(before, count)]
        story.machines.ask(
            "integrate_many",
            unit=SERVER_UNIT,
            endpoint="nfs-share",
            charm=client,
            remotes=clients,
        )
        found.append(_cost(story, count))
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


def _cost(story: Story, count: int) -> Cost:
    """Grant what so many integrations ask for, and measure the hooks that follow."""
    granting = _hook(story, "leader-elected")
    granted = story.juju.exec(GRANTED, unit=SERVER_UNIT, wait=600).stdout
    assert int(granted) == count, f"{granted} of {count} got their shares"
    times = 1 if count == INTEGRATIONS[-1] else 3  # It is a long one.
    elected = [_hook(story, "leader-elected") for _ in range(times)]
    quiet = [_hook(story, "update-status") for _ in range(7)]
    reading: list[Dispatch] = []
    for _ in range(times):
        story.run(SERVER_UNIT, "rm /run/nfs-server-charm/settled")
        reading.append(_hook(story, "update-status"))
    return Cost(count, granting, _median(elected), _median(quiet), _median(reading))


def _hook(story: Story, hook: Literal["leader-elected", "update-status"]) -> Dispatch:
    """Let the idle server run a hook that may come at any time."""
    before = len(story.machines.hooks(SERVER_UNIT))
    story.machines.ask("due", unit=SERVER_UNIT, hook=hook)
    while True:
        for done in story.machines.hooks(SERVER_UNIT)[before:]:
            if done["hook"] == hook:
                assert done["returncode"] == 0, done
                return done
        time.sleep(POLL_S)


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


def _add(story: Story, number: int) -> tuple[int, float]:
    """Make a share that 10 addresses may mount; the commands and the seconds that it took."""
    before = _commands(story)
    done = _act(story, "create-share", share=f"/scale/{number}", size=1, allowlist=ADDRESSES)
    return _commands(story) - before, done["seconds"]


def _commands(story: Story) -> int:
    """How many commands the server's charm has run on its machine so far."""
    return sum("running (" in line for line in story.log(SERVER_UNIT))


def _update_status(story: Story) -> float:
    """Median of the seconds of five update-status with nothing to do."""
    before = len(_dispatches(story, SERVER_UNIT))
    with story.update_status_every("1s"):
        becomes(lambda: len(_dispatches(story, SERVER_UNIT)) >= before + 5, expected=True)
    return statistics.median(it["seconds"] for it in _dispatches(story, SERVER_UNIT)[before:])


def _met(is_met: bool) -> str:
    return "met" if is_met else "MISSED"


def _deploy(story: Story) -> None:
    story.deploy(SERVER)
    story.deploy(APP)
    story.deploy_client(mountpoint="/data", size=1)
    story.integrate()
    story.settle(SERVER, APP, CLIENT, timeout=DEPLOY_TIMEOUT_S)
    story.deploy(TENANT, to=machine_of(story.juju.status(), SERVER_UNIT))
    story.settle(TENANT, timeout=DEPLOY_TIMEOUT_S)


def _measure(story: Story) -> Mapping[str, list[Dispatch]]:
    """Collect the dispatches of update-status of each unit, the first two left out."""
    units = [f"{app}/0" for app in (SERVER, TENANT, CLIENT, APP)]
    with story.update_status_every("1s"):
        for unit in units:
            becomes(lambda u=unit: len(_dispatches(story, u)) >= ROUNDS, expected=True)
    return {unit: _dispatches(story, unit) for unit in units}


def _dispatches(story: Story, unit: str) -> list[Dispatch]:
    return [it for it in story.machines.hooks(unit) if it["hook"] == "update-status"][2:]


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
    sys.exit(main())

# SPDX-License-Identifier: Apache-2.0
"""The executable `juju` on a controller whose machines are directories.

The integration suite types the same by jubilant.
"""

import asyncio
import json
import os
import re
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path

import pytest
from world import WAIT_S, World, needs_root

from sandbox.controller.client import RUN, RunDirectory, call

pytestmark = needs_root
JUJU = Path(__file__).resolve().parents[2] / "sandbox" / "bin" / "juju"
# The coroutines of a connection to the controller: asyncio's, and the controller's.
TALKS = ("_accept_connection2", "_converse")
NAME = f"test-juju-{os.getpid()}"

SHARE = "provides: {share: {interface: s}}"
READER = "requires: {share: {interface: s}}"
ACTIONS = """
grow:
  description: Make it larger
  params: {to: {type: integer}, who: {type: string}}
  required: [to]
"""
CONFIG = """
options:
  size: {type: int, default: 1}
  name: {type: string}
"""
STORE = "storage: {data: {type: filesystem}}"


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@dataclass
class Juju:
    """A model with `juju` for it."""

    world: World

    async def __call__(self, *words: str) -> Done:
        command, *rest = words
        process = await asyncio.create_subprocess_exec(
            *[str(JUJU), command, "--model", NAME, *rest],
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.world.root,
        )
        stdout, stderr = await process.communicate()
        return Done(process.returncode, stdout.decode(), stderr.decode())

    async def says(self, *words: str) -> str:
        """Return what a command prints that does not fail."""
        done = await self(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture
async def juju(it: World) -> AsyncGenerator[Juju, None]:
    server = await it.controller.serve(it.root / "controller.sock")
    RUN.mkdir(parents=True, exist_ok=True)
    # Under its own path, which is not in RUN: no start of another clears it up.
    (RUN / NAME).symlink_to(it.root)
    yield Juju(it)
    (RUN / NAME).unlink()
    # Whoever asked has gone. So must be what answered, and what the loop has not accepted yet,
    # before the server is closed.
    await asyncio.sleep(0)
    while talks := [it for it in asyncio.all_tasks() if it.get_coro().__name__ in TALKS]:
        await asyncio.gather(*talks)
    server.close()


async def deployed(juju: Juju, *more: str) -> None:
    """Deploy the application `a` with all that the tests ask for, and wait for its unit."""
    files = {"actions.yaml": ACTIONS, "config.yaml": CONFIG}
    charm = juju.world.charm("a", f"{SHARE}, {STORE}", **files)
    await juju.says("deploy", charm, *more)
    await juju.world.idle("a/0")


async def test_status_shows_what_is_deployed(juju: Juju):
    juju.world.script("start", "status-set active ready; open-port 2049/tcp")
    charm = juju.world.charm("a", SHARE)
    await juju.says("deploy", charm, "mine", "-n", "2", "--constraints", "mem=4G")
    await juju.world.idle("mine/0", "mine/1")
    table = await juju.says("status")
    assert re.search(r"Model +Controller +Cloud/Region +Version +SLA +Timestamp\n", table)
    assert re.search(r"\nmine +active +2  a +0  no +ready\n", table)
    assert re.search(r"\nmine/0\* +active +idle +0 +10\.77\.0\.10 +2049/tcp +ready\n", table)
    await juju.says("add-unit", "mine", "--to", "0")
    assert juju.world.unit("mine/2")["machine"] == "0"


async def test_deploy_takes_options_storage_and_a_place(juju: Juju):
    await juju.says("deploy", juju.world.charm("b", READER))
    await deployed(juju, "a", "--to", "0", "--config", "size=7", "--storage", "data=rootfs,2G")
    row = ["a/0", "data/0", "filesystem", "rootfs", "2.0", "GiB", "attached"]
    assert (await juju.says("storage")).splitlines()[1].split() == row
    assert list(juju.world.machines) == ["0"]


async def test_config(juju: Juju):
    await deployed(juju)
    assert await juju.says("config", "a", "size=2", "name=x=y") == ""
    shown = json.loads(await juju.says("config", "a", "--format=json"))["settings"]
    assert shown == {
        "name": {"type": "string", "value": "x=y"},
        "size": {"type": "int", "value": 2},
    }
    done = await juju("config", "a", "none=1")
    assert (done.returncode, done.stderr) == (1, 'ERROR unknown option "none"\n')


@pytest.mark.parametrize("profile", ["3.6", "4.0"])
async def test_run(juju: Juju):
    await deployed(juju)
    script = juju.world.script
    script("grow", "action-set b=$(action-get to) c.d=$(action-get who); echo out")
    done = await juju("run", "a/leader", "grow", "to=5", "who=33:33")
    assert done == Done(0, 'b: "5"\nc:\n  d: "33:33"\n\nout\n', "Waiting for task 1...\n\n")
    script("grow", "action-fail 'no room'")
    done = await juju("run", "a/0", "grow", "to=5")
    assert (done.returncode, done.stdout) == (0, "Action id 2 failed: no room\n\n")
    script("grow", "exit 3")
    done = await juju("run", "a/0", "grow", "to=5")
    assert done.returncode == 1
    assert 'ERROR the following task failed:\n - id "3" with return code 3\n' in done.stderr
    script("grow", "sleep 100")
    async with asyncio.timeout(20):
        done = await juju("run", "a/0", "grow", "to=5", "--wait", "200ms")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith("ERROR timed out waiting for results from: unit a/0\n")


NOT_SCHEDULED = "Operation failed to schedule any tasks:\n"
NOT_DEFINED = 'action "none" not defined on unit "a/0"'
INVALID = 'validation failed for action "grow": "to" is required'


@pytest.mark.parametrize(
    ("profile", "words", "returncode", "stderr"),
    [
        ("3.6", "a/0 none", 0, NOT_SCHEDULED + NOT_DEFINED),
        ("4.0", "a/0 none", 1, f"ERROR {NOT_DEFINED} (not found)"),
        ("3.6", "a/0 grow", 0, NOT_SCHEDULED + INVALID),
        ("3.6", "", 2, "ERROR no unit specified"),
        ("3.6", "a/0", 2, "ERROR no action specified"),
        ("3.6", "b/leader grow", 1, 'ERROR could not determine leader for "b"'),
    ],
)
async def test_run_refuses(juju: Juju, words: str, returncode: int, stderr: str):
    await deployed(juju)
    assert await juju("run", *words.split()) == Done(returncode, "", f"{stderr}\n")


@pytest.mark.parametrize("profile", ["4.0"])
async def test_juju_4_takes_an_action_that_lacks_a_parameter_and_its_task_fails(juju: Juju):
    await deployed(juju)
    done = await juju("run", "a/0", "grow")
    assert (done.returncode, done.stdout.splitlines()[0]) == (
        0,
        'Action id 1 failed: cannot run "grow" action: validation failed for action "grow": '
        '"to" is required',
    )


async def test_exec(juju: Juju):
    await deployed(juju)
    says = ["exec", "--unit", "a/leader", "--"]
    assert await juju.says(*says, "echo $JUJU_UNIT_NAME; printf x >&2") == "a/0\nx\n"
    assert await juju.says(*says, "printf", "%s;", "a b", "c") == "a b;c;\n"
    done = await juju(*says, "exit 3")
    assert (done.returncode, done.stdout) == (1, "")
    assert "the following task failed:" in done.stderr


async def test_where_there_is_nothing_to_log_in_to(juju: Juju):
    assert (await juju("ssh", "a/9")).stderr == 'ERROR unit "a/9" not found\n'
    assert (await juju("ssh", "2")).stderr == 'ERROR machine "2" not found\n'


async def test_removal(juju: Juju):
    await deployed(juju, "-n", "2")
    assert await juju.says("remove-unit", "--no-prompt", "a/1") == "will remove unit a/1\n"
    await juju.world.until(lambda: not juju.world.unit("a/1"))
    await juju.says("remove-application", "--no-prompt", "a")
    await juju.world.until(lambda: not juju.world.controller.status()["applications"])
    done = await juju("remove-unit", "--no-prompt", "a/0")
    assert (done.returncode, done.stderr) == (1, 'ERROR unit "a/0" not found (units: none)\n')


async def test_refresh_and_resolved(juju: Juju):
    await juju.says("model-config", "automatically-retry-hooks=false")
    await deployed(juju)
    juju.world.script("upgrade-charm", "exit 1")
    charm = juju.world.charm("a", SHARE + ", " + STORE, new="1")
    await juju.says("refresh", "a", "--path", charm)

    def state() -> str:
        return juju.world.unit("a/0")["workload-status"]["current"]

    await juju.world.until(lambda: state() == "error")
    before = len(juju.world.ran("a/0"))
    await juju.says("resolved", "a/0")
    await juju.world.until(lambda: len(juju.world.ran("a/0")) == before + 1)
    await juju.world.until(lambda: state() == "error")
    await juju.says("resolve", "--no-retry", "a/0")
    await juju.world.until(lambda: state() != "error")
    done = await juju("resolved", "a/0")
    assert done.stderr == 'ERROR unit "a/0" is not in an error state\n'


async def test_debug_log(juju: Juju):
    log = juju.world.controller._debug_log.write
    for number in range(15):
        log("a/0", "INFO", "unit.a/0.juju-log", f"line {number}")
    log("b/10", "WARNING", "unit.b/10.juju-log", "warned")
    log("machine-0", "DEBUG", "juju.worker", "detail")

    async def lines(*words: str) -> list[str]:
        return (await juju.says("debug-log", *words)).splitlines()

    # Ten of them, which is Juju's number, and none of DEBUG.
    assert len(await lines()) == len(await lines("--limit", "0")) == 10
    assert len(await lines("--limit", "3")) == 3
    everything = await lines("--replay", "--no-tail")
    # The first one names the seed of the order of relations.
    assert len(everything) == 17
    assert re.fullmatch(r"unit-a-0: \d\d:\d\d:\d\d INFO unit\.a/0\.juju-log line 0", everything[1])
    for words, count in [
        (["--include", "a/0"], 15),
        (["--include", "unit-b-10"], 1),
        (["--include", "b", "--level", "ERROR"], 0),
        (["--level", "warning"], 1),
    ]:
        assert len(await lines("--replay", *words)) == count, words
    await juju.says("model-config", "logging-config=<root>=INFO;juju.worker=DEBUG")
    assert len(await lines("--replay", "--include", "machine-0")) == 1


async def test_debug_log_follows(juju: Juju):
    log = juju.world.controller._debug_log.write
    log("a/0", "INFO", "x", "one")
    process = await asyncio.create_subprocess_exec(
        *[str(JUJU), "debug-log", "-m", NAME, "--tail", "--include", "a/0"],
        stdout=asyncio.subprocess.PIPE,
    )
    assert (await process.stdout.readline()).endswith(b" one\n")
    log("a/0", "INFO", "x", "two")
    assert (await process.stdout.readline()).endswith(b" two\n")
    process.terminate()
    await process.communicate()
    await process.wait()


async def test_what_somebody_asked_for_who_hangs_up_is_ended(juju: Juju):
    await deployed(juju)
    begun = juju.world.root / "begun"
    command = f"touch {begun}; sleep 100"
    asked = asyncio.create_task(
        call(RunDirectory(RUN / NAME), "ssh", machine="0", command=command)
    )
    await juju.world.until(begun.exists)
    asked.cancel()
    async with asyncio.timeout(WAIT_S):
        while not (await juju.world.machines["0"].run(["pgrep", "sleep"])).returncode:
            pass


async def test_the_model_is_the_one_that_is_named(juju: Juju):
    for name in (f"sandbox:{NAME}", f"admin/{NAME}", f"sandbox:admin/{NAME}"):
        assert (await juju("status", "-m", name)).returncode == 0
    done = await juju("status", "-m", "none")
    assert done == Done(1, "", "ERROR model sandbox:admin/none not found\n")


@pytest.mark.parametrize(
    ("words", "stderr"),
    [
        ("offer a:b", 'the sandbox has no "juju offer": try that on Juju'),
        ("deploy ./a --channel x", 'the sandbox has no "juju deploy --channel": try that on Juju'),
        ("deploy", "no charm or bundle specified"),
        ("deploy mysql", 'the sandbox has no Charmhub for "juju deploy mysql"'),
        ("remove-unit a", 'invalid unit name "a"'),
        ("remove-application a", 'the sandbox has no "juju remove-application" that asks'),
        ("exec true", 'the sandbox has "juju exec" on one unit at a time'),
        ("exec --unit a/0 --unit a/1 true", 'the sandbox has "juju exec" on one unit at a time'),
        ("config", "no application name specified"),
        ("config a b", "the sandbox shows all values, not b alone: try that on Juju"),
        ("integrate a", "a relation must involve two applications"),
        ("add-unit a b", 'unrecognized args: ["b"]'),
        ("model-config", 'the sandbox has "juju model-config" as JSON alone'),
        ("debug-log --include unit-*", 'the sandbox has no "juju debug-log --include unit-*"'),
        ("debug-log --include 0", 'the sandbox has no "juju debug-log --include 0"'),
        ("status --format=xml", 'the sandbox has no "juju status --format=xml": try that on Juju'),
    ],
)
async def test_what_there_is_not(juju: Juju, words: str, stderr: str):
    done = await juju(*words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"ERROR {stderr}")

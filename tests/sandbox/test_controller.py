# SPDX-License-Identifier: Apache-2.0
"""The controller, and the agents of its units."""

import asyncio
import functools
import os
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from world import WAIT_S, World, needs_root

from sandbox.controller.client import RUN, ControllerError, RunDirectory, ask, call
from sandbox.controller.controller import start
from sandbox.machines import images
from sandbox.rules.charm import CharmError
from sandbox.rules.gnuflag import UsageError
from sandbox.rules.operations import OperationError, Remote

pytestmark = needs_root
STARTUP = [(hook, 0) for hook in ("install", "leader-elected", "config-changed", "start")]


async def test_deploy_starts_a_unit_whose_hooks_have_the_environment_of_juju_and_no_other(
    it: World,
):
    it.script("install", "echo to stdout; echo to stderr >&2; juju-log -l ERROR -- -x")
    it.script("start", "status-set active ready; application-version-set 1.2; env > ../env")
    it.controller.deploy(it.charm("plain", ""), "plain")
    await it.idle("plain/0")
    assert it.ran("plain/0") == STARTUP
    assert it.controller.status()["applications"]["plain"]["version"] == "1.2"
    assert it.unit("plain/0")["workload-status"]["message"] == "ready"
    lines = [
        (line["level"], line["logger"], line["message"]) for line in it.controller.log("plain/0")
    ]
    assert ("DEBUG", "unit.plain/0.install", "to stdout") in lines
    assert ("WARNING", "unit.plain/0.install", "to stderr") in lines
    assert ("ERROR", "unit.plain/0.juju-log", "-x") in lines
    assert "to stderr" in (it.root / "debug.log").read_text()
    text = it.file("0", "agents/unit-plain-0/env").read_text()
    names = {line.partition("=")[0] for line in text.splitlines()}
    assert {"JUJU_CONTEXT_ID", "JUJU_SLA", "PATH"} <= names
    # The shell adds the last of these itself.
    assert not names & {"HOME", "USER", "SHELL", "PYTHONPATH"}


async def test_a_failed_hook_is_retried_and_what_it_wrote_is_discarded(it: World):
    count = "echo >> $CHARM_DIR/../tries; n=$(wc -l < $CHARM_DIR/../tries)"
    it.script("install", f"{count}; open-port $n; [ $n -gt 2 ] || exit 7")
    it.controller.deploy(it.charm("a", ""), "a")
    await it.until(lambda: it.ran("a/0")[-1:] == STARTUP[-1:])
    await it.idle("a/0")
    assert it.ran("a/0") == [("install", 7)] * 2 + STARTUP
    assert it.unit("a/0")["open-ports"] == ["3/tcp"]


async def test_in_error_actions_run_but_hooks_do_not_and_it_can_be_skipped(it: World):
    it.controller.set_model_config({"automatically-retry-hooks": "false"})
    it.script("config-changed", "exit 3")
    charm = it.charm("a", "x: 1", **{"actions.yaml": "act: {}"})
    it.controller.deploy(charm, "a")
    await it.until(lambda: it.unit("a/0")["workload-status"]["current"] == "error")
    await it.idle("a/0")
    assert it.unit("a/0")["workload-status"]["message"] == 'hook failed: "config-changed"'
    assert (await it.act("a/0", "act"))["status"] == "completed"
    it.controller.resolved("a/0", retry=True)
    await it.until(lambda: it.ran("a/0").count(("config-changed", 3)) == 2)
    await it.idle("a/0")
    it.controller.resolved("a/0", retry=False)
    await it.until(lambda: it.ran("a/0")[-1] == ("start", 0))
    with pytest.raises(OperationError, match='unit "a/0" is not in an error state'):
        it.controller.resolved("a/0")


@pytest.mark.parametrize("retry_base_s", [1000])
async def test_a_killed_hook_runs_again_and_has_not_failed(it: World):
    once = "[ -e $CHARM_DIR/../once ] || { touch $CHARM_DIR/../once; kill -9 $$; }"
    it.script("install", once)
    await it.deployed()
    assert it.ran("a/0") == [("install", -9), *STARTUP]


async def in_config_changed(it: World) -> None:
    """Deploy a/0 and let it run a config-changed that does not end."""
    await it.deployed(**{"config.yaml": "options: {n: {}}"})
    it.script("config-changed", "touch $CHARM_DIR/../in; sleep 100")
    it.controller.change("set_config", name="a", values={"n": "1"})
    await it.until(it.file("0", "agents/unit-a-0/in").exists)


INTERRUPTED = [*STARTUP, ("config-changed", -9)]


@pytest.mark.parametrize("retries", [True, False])
async def test_a_hook_in_which_the_power_is_cut_has_failed_at_the_next_start(it: World, retries):
    """It is found pending: nextOpHookError in uniter/resolver.go. `start` comes after it."""
    it.controller.set_model_config({"automatically-retry-hooks": str(retries)})
    await in_config_changed(it)
    await it.controller.power_cut("0")
    await it.until(lambda: it.ran("a/0") == INTERRUPTED)
    assert it.unit("a/0")["juju-status"]["current"] == "lost"
    it.script("config-changed", "")
    await it.controller.boot("0")
    if not retries:
        await it.idle("a/0")
        assert it.unit("a/0")["workload-status"]["current"] == "error"
        shown = it.unit("a/0")["workload-status"]["message"]
        assert shown == 'hook failed: "config-changed"'
        assert it.ran("a/0") == INTERRUPTED
        # Nothing was under way as it was rebooted, but somebody still has to see to it.
        await it.controller.reboot("0")
        await it.idle("a/0")
        assert it.unit("a/0")["workload-status"]["current"] == "error"
        it.controller.resolved("a/0")
    await it.until(lambda: it.ran("a/0")[-1] == ("start", 0))
    await it.idle("a/0")
    assert it.ran("a/0") == [*INTERRUPTED, ("config-changed", 0), ("start", 0)]


@pytest.mark.parametrize("retry_base_s", [0.2])
async def test_the_wait_for_a_retry_begins_at_the_boot_and_is_the_shortest(it: World):
    await in_config_changed(it)
    await it.controller.power_cut("0")
    it.script("config-changed", "exit 1")
    await it.controller.boot("0")
    await it.until(lambda: it.ran("a/0").count(("config-changed", 1)) == 4)
    # The next one would come after 3.2 s, were it not for the boot.
    await it.controller.reboot("0")
    it.script("config-changed", "")
    async with asyncio.timeout(2):
        while it.ran("a/0")[-1] != ("start", 0):
            await asyncio.sleep(0.01)
    await it.idle("a/0")


@pytest.mark.parametrize("retry_base_s", [1000])
async def test_a_hook_that_ends_with_an_orderly_reboot_has_not_failed(it: World):
    """It is queued again: ErrTerminated in operation/runhook.go."""
    await in_config_changed(it)
    it.script("config-changed", "")
    await it.controller.reboot("0")
    expected = [*INTERRUPTED, ("config-changed", 0), ("start", 0)]
    await it.until(lambda: it.ran("a/0") == expected)
    await it.idle("a/0")


async def test_an_action_in_which_the_power_is_cut_fails_at_the_next_start(it: World):
    """Running it again could do harm: NextOp in actions/resolver.go, failaction.go."""
    it.script("act", "touch $CHARM_DIR/../in; sleep 100")
    await it.deployed()
    action = asyncio.create_task(it.act("a/0", "act"))
    await it.until(it.file("0", "agents/unit-a-0/in").exists)
    await it.controller.power_cut("0")
    await it.until(lambda: it.ran("a/0")[-1] == ("act", -9))
    assert not action.done()
    await it.controller.boot("0")
    ended = await action
    assert (ended["status"], ended["message"]) == ("failed", "action terminated")
    await it.until(lambda: it.ran("a/0") == [*STARTUP, ("act", -9), ("start", 0)])
    await it.idle("a/0")


async def test_an_action_that_is_killed_fails_and_is_not_run_again(it: World):
    """See runCharmProcessOnLocal in runner/runner.go."""
    it.script("act", "kill -9 $$")
    await it.deployed()
    ended = await it.act("a/0", "act")
    assert (ended["status"], ended["message"]) == ("failed", "terminated")
    await it.idle("a/0")
    assert it.ran("a/0") == [*STARTUP, ("act", -9)]


async def test_actions_wait_for_a_hook_that_is_queued(it: World):
    """Between config-changed and start none runs: NextOp in actions/resolver.go."""
    goes_on = it.root / "go"
    wait = f"until [ -e {goes_on} ]; do sleep 0.01; done"
    it.script("config-changed", f"touch $CHARM_DIR/../in; {wait}")
    it.controller.deploy(it.charm("a", "x: 1", **{"actions.yaml": "act: {}"}), "a")
    await it.until(it.file("0", "agents/unit-a-0/in").exists)
    action = it.controller.enqueue_action("a/0", "act")
    goes_on.touch()
    await it.controller.wait_action(action)
    assert it.ran("a/0") == [*STARTUP, ("act", 0)]
    await it.idle("a/0")


def leader(it: World) -> str:
    return it.controller._model.applications["a"].leader


@pytest.mark.parametrize("profile", ["3.6", "4.0"])
async def test_a_leader_without_power_loses_the_lead_with_its_lease_and_comes_back_as_a_follower(
    it: World, profile: str
):
    """Its lease is not renewed, another claims it (worker/leadership/tracker.go)."""
    told = {"3.6": [("leader-settings-changed", 0)], "4.0": []}[profile]
    it.controller._lease_s = 0.3
    await it.deployed(num_units=3)
    await it.controller.power_cut("0")
    await it.controller.power_cut("1")
    assert leader(it) == "a/0"
    await it.until(lambda: it.ran("a/2")[-1] == ("leader-elected", 0))
    assert leader(it) == "a/2"
    await it.controller.boot("0")
    await it.until(lambda: it.ran("a/0") == [*STARTUP, ("start", 0), *told])
    await it.idle("a/0", "a/2")
    assert (await it.execute("a/0", "is-leader"))["stdout"] == "False\n"
    assert it.ran("a/2")[-1] == ("leader-elected", 0)


@pytest.mark.parametrize("profile", ["4.0"])
async def test_a_leader_that_is_back_within_its_lease_leads(it: World):
    await it.deployed(num_units=2)
    ends = it.controller._leases
    for away, back in (
        (it.controller.unplug, it.controller.plug),
        (it.controller.power_cut, it.controller.boot),
    ):
        await away("a/0")
        assert ends["0"].when() == pytest.approx(asyncio.get_running_loop().time() + 60, abs=9)
        await back("a/0")
        assert not ends
    await it.until(lambda: it.ran("a/0") == [*STARTUP, ("start", 0)])
    await it.idle("a/0")
    assert leader(it) == "a/0"


@pytest.mark.parametrize("profile", ["4.0"])
async def test_an_action_that_writes_as_leader_and_loses_the_lead_fails(it: World):
    """See finalizeAction in runner/context/context.go; for hooks, test_context."""
    await it.deployed("peers: {p: {interface: p}}", num_units=2)
    goes_on = it.root / "go"
    it.script(
        "act",
        "relation-set --app -r 0 by=me; echo oh >&2; touch $CHARM_DIR/../in\n"
        f"until [ -e {goes_on} ]; do sleep 0.01; done",
    )
    action = asyncio.create_task(it.act("a/0", "act"))
    await it.until(it.file("0", "agents/unit-a-0/in").exists)
    it.controller.change("lead", name="a/1")
    goes_on.touch()
    assert await action == {
        "status": "failed",
        "message": "committing requested changes failed",
        "results": {"return-code": 1, "stderr": "oh\n\nlease not held"},
    }
    assert it.controller._model.relations[0].app_bags["a"].data == {}
    await it.idle("a/1")


@pytest.mark.parametrize("profile", ["4.0"])
async def test_leader_elected_is_not_retried_by_who_does_not_lead_any_more(it: World):
    """It is moot: Prepare in operation/runhook.go."""
    it.controller.set_model_config({"automatically-retry-hooks": "false"})
    it.script("a-0.leader-elected", "exit 1")
    it.controller.deploy(it.charm("a", ""), "a", num_units=2)
    await it.until(lambda: it.unit("a/0")["workload-status"]["current"] == "error")
    it.controller.change("lead", name="a/1")
    it.controller.resolved("a/0")
    await it.until(lambda: it.ran("a/0")[-1] == ("start", 0))
    tail = [("config-changed", 0), ("start", 0)]
    assert it.ran("a/0") == [("install", 0), ("leader-elected", 1), *tail]
    await it.idle("a/0", "a/1")


async def test_a_unit_that_is_lost_runs_nothing_more_and_its_actions_end(it: World):
    await it.deployed(num_units=2)
    await it.controller.power_cut("0")
    action = it.controller.enqueue_exec("a/0", "true")
    it.controller.change("lose_unit", name="a/0")
    assert (await it.controller.wait_action(action))["status"] == "cancelled"
    await it.idle("a/1")
    assert it.ran("a/0") == STARTUP
    assert "0" not in it.controller.status()["machines"]


async def test_a_reboot_runs_start_on_every_unit_of_the_machine(it: World):
    it.controller.deploy(it.charm("a", ""), "a")
    it.controller.deploy(it.charm("b", ""), "b", to="0")
    await it.idle("a/0", "b/0")
    await it.controller.reboot("a/0")
    await it.until(lambda: all(it.ran(u) == [*STARTUP, ("start", 0)] for u in ("a/0", "b/0")))
    assert it.machines["0"].boots == 2


async def test_a_machine_that_is_rebooted_by_hand_starts_again(it: World):
    await it.deployed()
    it.machines["0"].console.write_text(images.REBOOTS)
    await it.machines["0"].power_cut()
    await it.until(lambda: it.ran("a/0") == [*STARTUP, ("start", 0)])
    assert it.machines["0"].boots == 2


async def test_hooks_of_one_machine_take_turns_and_machines_do_not_wait_for_each_other(it: World):
    trace, met = it.root / "trace", it.root / "met-"
    # Each waits until the other, on another machine, runs as well.
    for unit, other in (("a-0", "a-1"), ("a-1", "a-0")):
        wait = f"until [ -e {met}{other} ]; do sleep 0.01; done"
        it.script(f"{unit}.config-changed", f"touch {met}{unit}; {wait}")
    for hook in ("install", "start"):
        begin, end = (f"echo $JUJU_MACHINE_ID{sign} >> {trace}" for sign in "+-")
        it.script(hook, f"{begin}; sleep 0.1; {end}")
    it.controller.deploy(it.charm("a", ""), "a", num_units=2)
    it.controller.deploy(it.charm("b", ""), "b", to="0")
    for _ in range(2):
        it.controller.change("add_unit", app="b", to="0")
    await it.idle("a/0", "a/1", "b/0", "b/1", "b/2")
    lines = [line for line in trace.read_text().splitlines() if line.startswith("0")]
    assert lines == ["0+", "0-"] * 8


ACTIONS = """
grow:
  params: {to: {type: integer, default: 5}, how: {type: string}}
"""


async def test_actions(it: World):
    it.script("grow", "echo out; echo err >&2; action-set a.b=$(action-get to) c=d")
    await it.deployed("x: 1", **{"actions.yaml": ACTIONS})
    ended = await it.act("a/0", "grow")
    assert ended["status"] == "completed"
    assert ended["results"] == {
        "a": {"b": "5"},
        "c": "d",
        "stdout": "out\n",
        "stderr": "err\n",
        "return-code": 0,
    }
    it.script("grow", "action-fail 'no space'; status-set active grown; open-port 1")
    ended = await it.act("a/0", "grow", to=6)
    assert (ended["status"], ended["message"]) == ("failed", "no space")
    assert it.unit("a/0")["open-ports"] == ["1/tcp"]
    it.script("grow", "open-port 2; action-set e=f; exit 4")
    ended = await it.act("a/0", "grow")
    assert (ended["status"], ended["message"]) == ("failed", "exit status 4")
    assert ended["results"] == {"e": "f", "return-code": 4}
    assert it.unit("a/0")["open-ports"] == ["1/tcp"]
    assert it.unit("a/0")["workload-status"]["current"] == "active"
    with pytest.raises(CharmError, match='"to" must be of type integer'):
        it.controller.enqueue_action("a/0", "grow", {"to": "x"})
    with pytest.raises(OperationError, match='action "no" not defined on unit "a/0"'):
        it.controller.enqueue_action("a/0", "no")


async def test_exec_runs_in_a_hook_context(it: World):
    await it.deployed()
    results = await it.execute(
        "a/0", 'echo "[$JUJU_HOOK_NAME]$JUJU_DISPATCH_PATH"; is-leader; open-port 9; exit 3'
    )
    assert results == {"stdout": "[]\nTrue\n", "return-code": 3}
    assert it.unit("a/0")["open-ports"] == ["9/tcp"]
    late = it.controller.enqueue_exec("a/0", "sleep 100", timeout_s=0.1)
    assert (await it.controller.wait_action(late))["status"] == "failed"


async def test_refresh_replaces_the_charms_files_and_keeps_what_it_wrote(it: World):
    it.script("install", "touch .unit-state.db")
    it.controller.deploy(it.charm("a", "", old="1", both="1"), "a")
    await it.idle("a/0")
    it.controller.refresh("a", it.charm("a", "", new="2", both="2"))
    await it.until(lambda: len(it.ran("a/0")) == 6)
    await it.idle("a/0")
    assert it.ran("a/0")[4:] == [("upgrade-charm", 0), ("config-changed", 0)]
    charm = it.file("0", "agents/unit-a-0/charm")
    assert {p.name for p in charm.iterdir()} == {
        ".unit-state.db",
        "both",
        "dispatch",
        "metadata.yaml",
        "new",
    }
    assert (charm / "both").read_text() == "2"
    assert it.controller.status()["applications"]["a"]["charm-rev"] == 1


async def test_update_status_comes_as_often_as_is_set(it: World):
    await it.deployed()
    it.controller.set_model_config({"update-status-hook-interval": "1s"})
    await it.until(lambda: it.ran("a/0")[-1] == ("update-status", 0))
    with pytest.raises(OperationError, match='model config "x" is not one'):
        it.controller.set_model_config({"x": "1"})
    with pytest.raises(UsageError, match='invalid duration "soon"'):
        it.controller.set_model_config({"update-status-hook-interval": "soon"})


async def test_a_hook_that_may_come_at_any_time_comes_when_it_is_let(it: World):
    await it.deployed()
    for hook in ("leader-elected", "update-status"):
        it.controller.due("a/0", hook)
        await it.until(lambda hook=hook: it.ran("a/0")[-1] == (hook, 0))
    assert len(it.ran("a/0")) == len(STARTUP) + 2


async def test_what_a_hook_asks_repeatedly_is_noted(it: World):
    asks = "storage-list; config-get a; config-get; storage-list; storage-list"
    it.script("start", f"{asks}; is-leader; is-leader; juju-log x; juju-log x")
    await it.deployed()
    last = it.controller.hooks("a/0")[-1]
    assert (last["commands"], last["repeated"]) == (9, ["storage-list", "storage-list"])


async def test_a_unit_meets_many_integrations_in_its_next_hook(it: World):
    provides = "provides: {share: {interface: nfs_share}}"
    it.controller.deploy(it.charm("server", provides), "server")
    await it.idle("server/0")
    reader = it.charm("reader", "requires: {share: {interface: nfs_share}}")
    remotes: list[Remote] = [
        {
            "application": name,
            "other_model": model,
            "app_data": {"name": f"/{name}"},
            "unit_data": {"size": size},
        }
        for name, model, size in (("a", "", "1"), ("remote-b", "m", "2"))
    ]
    it.controller.integrate_many("server/0", "share", reader, remotes)
    it.script(
        "update-status",
        "for it in 0:a 1:remote-b; do r=${it%:*}; u=$(relation-list -r $r); juju-log -- $u"
        " $(relation-get --app -r $r name ${it#*:}) $(relation-get -r $r size $u); done",
    )
    it.controller.due("server/0", "update-status")
    await it.until(lambda: it.ran("server/0") == [*STARTUP, ("update-status", 0)])
    said = [line["message"] for line in it.controller.log("server/0")[-2:]]
    assert said == ["a/0 /a 1", "remote-b/0 /remote-b 2"]
    assert list(it.machines) == ["0", "1"]
    assert not it.machines["1"].is_running


def test_start_gives_a_controller_that_ends_with_its_owner():
    with start(name="test-start", base=Path("/nowhere"), seed=5) as directory:
        asyncio.run(_talk(directory))
        with (
            pytest.raises(ControllerError, match="model test-start is running"),
            start(name="test-start", base=Path("/nowhere")),
        ):
            pass
        pid = int((directory.path / "controller.pid").read_text())
        # The controller sees another network than ours.
        assert os.readlink(f"/proc/{pid}/ns/net") != os.readlink("/proc/self/ns/net")
    assert not directory.path.exists()
    assert not Path(f"/proc/{pid}").exists()


async def _talk(directory: RunDirectory):
    ask_at_once = functools.partial(call, directory)
    both = await asyncio.gather(ask_at_once("status"), ask_at_once("storage"))
    assert both[0]["model"]["name"] == "test-start"
    assert both[1] == []
    assert "--seed 5" in (await ask_at_once("log"))[0]["message"]
    with pytest.raises(ControllerError, match='application "x" not found'):
        await ask_at_once("get_config", name="x")
    with pytest.raises(ControllerError, match='the sandbox has no method "_changed"'):
        await ask_at_once("_changed")
    with pytest.raises(ControllerError, match="the sandbox failed: TypeError"):
        await ask_at_once("status", wrong=1)


def test_the_controller_goes_when_its_owner_is_killed_and_the_next_start_clears_up():
    owner = (
        "import time; from pathlib import Path; from sandbox.controller.controller import start\n"
        "with start(name='test-owner', base=Path('/nowhere')):\n"
        "    print('up', flush=True); time.sleep(1000)\n"
    )
    with subprocess.Popen([sys.executable, "-c", owner], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"up\n"
        directory = RUN / "test-owner"
        pid = int((directory / "controller.pid").read_text())
        process.kill()
    until_gone(pid)
    assert directory.exists()
    with start(name="test-other", base=Path("/nowhere")):
        assert not directory.exists()


def test_a_kept_controller_stays_until_it_is_destroyed():
    with start(name="test-kept", base=Path("/nowhere"), keep=True) as directory:
        pass
    try:
        pid = int((directory.path / "controller.pid").read_text())
        assert ask(directory, "status")["model"]["name"] == "test-kept"
        ask(directory, "destroy")
        os.waitpid(pid, 0)
    finally:
        shutil.rmtree(directory.path)


def test_a_controller_that_does_not_come_up_says_why():
    with (
        pytest.raises(ControllerError, match=r"argument --juju: invalid choice: '2\.9'"),
        start(name="test-bad", base=Path("/nowhere"), juju="2.9"),
    ):
        pass
    with (
        pytest.raises(ControllerError, match=r'invalid model name "\.\./x"'),
        start(name="../x", base=Path("/nowhere")),
    ):
        pass
    assert not (RUN / "test-bad").exists()


def until_gone(pid: int) -> None:
    """Wait for the end of a process that is not our child."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended, _, _ = select.select([descriptor], [], [], WAIT_S)
    os.close(descriptor)
    assert ended

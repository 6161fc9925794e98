# SPDX-License-Identifier: Apache-2.0

from typing import Any

import pytest
import test_ops_test
from test_ops_test import FakeController, RefusedError

from sandbox.ops_test import RunningModel

controller = test_ops_test.controller
running = test_ops_test.running

CHARM = "./a-charm_ubuntu@24.04-amd64.charm"
DEPLOYED = {"charm": CHARM, "num_units": None, "config": {}, "storage": {}, "to": None}


@pytest.mark.parametrize(
    ("command", "asked", "params"),
    [
        (f"deploy {CHARM}", "deploy", {**DEPLOYED, "application": "a-charm"}),
        (
            f"deploy {CHARM} mine -n 2 --config a=b=c --config d=1 --storage s=1G --to 0,1"
            " --constraints mem=4G",
            "deploy",
            {
                "charm": CHARM,
                "application": "mine",
                "num_units": 2,
                "config": {"a": "b=c", "d": "1"},
                "storage": {"s": "1G"},
                "to": ["0", "1"],
            },
        ),
        ("integrate client server", "integrate", {"a": "client", "b": "server"}),
        ("remove-relation a:b c", "remove_relation", {"a": "a:b", "b": "c"}),
        ("config app x=1", "set_config", {"application": "app", "values": {"x": "1"}}),
        ("config app --reset x,y", "reset_config", {"application": "app", "keys": ["x", "y"]}),
        ("add-unit app -n 2", "add_unit", {"application": "app", "count": 2}),
        (
            "remove-unit app/0 --no-prompt",
            "remove_unit",
            {"units": ["app/0"], "destroy_storage": False},
        ),
        (
            "remove-application app --no-prompt --destroy-storage",
            "remove_application",
            {"application": "app", "destroy_storage": True},
        ),
    ],
)
async def test_changes(
    running: RunningModel,
    controller: FakeController,
    command: str,
    asked: str,
    params: dict[str, Any],
):
    controller.answers["add_unit"] = lambda **_: []
    assert await running.ops_test.juju(*command.split()) == (0, "", "")
    (found,) = controller.asked_for(asked)
    assert found.items() >= params.items()


def answer(controller: FakeController, status: str, **results: Any) -> None:
    controller.answers["list_actions"] = lambda **_: {"grow": {}}
    controller.answers["enqueue_action"] = controller.answers["enqueue_exec"] = lambda **_: "7"
    ended = {"status": status, "results": results, "message": "too large"}
    controller.answers["wait_action"] = lambda **_: ended


async def test_exec(running: RunningModel, controller: FakeController):
    answer(controller, "completed", **{"return-code": 0, "stdout": "out\n"})
    juju = running.ops_test.juju
    assert await juju("exec", "--unit", "app/0", "--", "echo 'out'") == (0, "out\n", "")
    assert controller.asked_for("enqueue_exec")[0]["command"] == "echo 'out'"
    answer(controller, "completed", **{"return-code": 3, "stderr": "bad"})
    returncode, _, stderr = await juju("exec", "--unit", "app/0", "--", "false")
    assert returncode == 1
    assert "'stderr': 'bad'" in stderr


async def test_run(running: RunningModel, controller: FakeController):
    answer(controller, "completed", **{"return-code": 0, "share": {"size": "2G"}})
    juju = running.ops_test.juju
    assert await juju("run", "app/0", "grow", "by=2") == (0, "share:\n  size: 2G\n", "")
    assert controller.asked_for("enqueue_action")[0]["params"] == {"by": 2}
    answer(controller, "failed")
    assert await juju("run", "app/0", "grow") == (1, "", "ERROR the action failed: too large\n")


async def test_what_is_refused(running: RunningModel, controller: FakeController):
    def refuse(**_: object):
        raise RefusedError('application "x" not found')

    controller.answers["integrate"] = refuse
    done = await running.ops_test.juju("integrate", "x", "y")
    assert done == (1, "", 'ERROR application "x" not found\n')


@pytest.mark.parametrize("command", ["offer a:b", "deploy", "remove-unit a/0", "config"])
async def test_what_there_is_not(running: RunningModel, command: str):
    returncode, _, stderr = await running.ops_test.juju(*command.split())
    assert returncode == 2
    assert f"no juju {command} (" in stderr

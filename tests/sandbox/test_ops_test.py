# SPDX-License-Identifier: Apache-2.0
"""The stand-ins against the classes they stand for, and against a controller made of answers."""

import asyncio
import inspect
import json
import random
import tempfile
from collections.abc import AsyncGenerator, Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import juju.action
import juju.application
import juju.machine
import juju.model
import juju.relation
import juju.unit
import pytest
import pytest_asyncio
import pytest_operator.plugin
from juju.errors import (
    JujuAPIError,
    JujuApplicationConfigError,
    JujuError,
    JujuModelConfigError,
    JujuUnitError,
)
from juju.exceptions import DeadEntityException

from sandbox import images, libjuju, ops_test
from sandbox.client import Client, ControllerGoneError, RunDirectory
from sandbox.idle import Settling
from sandbox.status import Status

STAND_INS = {
    ops_test.OpsTest: pytest_operator.plugin.OpsTest,
    libjuju.Model: juju.model.Model,
    libjuju.Application: juju.application.Application,
    libjuju.Unit: juju.unit.Unit,
    libjuju.Machine: juju.machine.Machine,
    libjuju.Action: juju.action.Action,
    libjuju.Relation: juju.relation.Relation,
}
FROM_WATCHER = {
    # What libjuju's entities have, by __getattr__, of the data that Juju's watcher sends.
    (libjuju.Machine, "id"),
    (libjuju.Action, "id"),
    (libjuju.Action, "message"),
}


def parameters(function: Callable[..., object]) -> list[tuple[str, object, object]]:
    return [
        # A default that is an empty list there is an empty tuple here: nobody can change it.
        (name, it.kind, () if it.default == [] else it.default)
        for name, it in inspect.signature(function).parameters.items()
    ]


def differences(stand_in: type, real: type) -> list[str]:
    """What is public in a stand-in and is not so, or is otherwise, in the class it stands for."""
    found: list[str] = []
    for name, ours in vars(stand_in).items():
        if name.startswith("_") or (stand_in, name) in FROM_WATCHER:
            continue
        theirs = inspect.getattr_static(real, name, None)
        if theirs is None:
            found.append(f"{name} does not exist")
        elif isinstance(ours, property) or isinstance(theirs, property):
            if not (isinstance(ours, property) and isinstance(theirs, property)):
                found.append(f"{name} is a property in one of them only")
        elif inspect.iscoroutinefunction(ours) != inspect.iscoroutinefunction(theirs):
            found.append(f"{name} is a coroutine in one of them only")
        elif parameters(ours) != parameters(theirs):
            found.append(f"{name}: {inspect.signature(ours)}, not {inspect.signature(theirs)}")
    return found


@pytest.mark.parametrize("stand_in", STAND_INS, ids=lambda it: it.__name__)
def test_stand_ins_have_the_interface_of_the_real_ones(stand_in: type):
    assert differences(stand_in, STAND_INS[stand_in]) == []


class Real:
    """What ``differences`` is tried on."""

    async def method(self, one, two=[], *, three=None): ...  # noqa: B006  As libjuju has it.

    @property
    def value(self): ...


def renamed(self, uno, two=(), *, three=None): ...
def moved(self, two=(), one=None, *, three=None): ...
def other_default(self, one, two=1, *, three=None): ...
def other_kind(self, one, two=(), three=None): ...
def left_out(self, one, two=()): ...
async def right(self, one, two=(), *, three=None): ...


@pytest.mark.parametrize("function", [renamed, moved, other_default, other_kind, left_out])
def test_a_difference_in_parameters_is_found(function: Any):
    async def method(): ...

    method.__wrapped__ = function  # pyright: ignore[reportFunctionMemberAccess]
    found = differences(type("StandIn", (), {"method": method}), Real)
    assert len(found) == 1
    assert found[0].startswith("method: ")


def test_a_difference_in_kind_is_found():
    assert differences(type("StandIn", (), {"method": right}), Real) == []
    assert differences(type("StandIn", (), {"methods": right}), Real) == ["methods does not exist"]
    value = differences(type("StandIn", (), {"value": right}), Real)
    assert value == ["value is a property in one of them only"]
    sync = differences(type("StandIn", (), {"method": lambda self, one: None}), Real)
    assert sync == ["method is a coroutine in one of them only"]


# A model with a principal, its subordinate, and a server.


def state(current: str, message: str = "") -> dict[str, str]:
    return {"current": current, "message": message, "since": "2026-11-22T12:00:00Z"}


def unit(workload: str = "active", agent: str = "idle", **more: Any) -> dict[str, Any]:
    return {"workload-status": state(workload), "juju-status": state(agent), **more}


def application(current: str = "active", **more: Any) -> dict[str, Any]:
    return {
        "charm": "local:charm-0",
        "charm-name": "charm",
        "application-status": state(current),
        **more,
    }


def a_model() -> Any:
    client = unit(leader=True, **{"public-address": "10.77.0.10"})
    principal = unit(machine="0", subordinates={"client/0": client})
    return {
        "model": {"name": "test", "controller": "sandbox"},
        "machines": {
            name: {
                "juju-status": state("started"),
                "machine-status": state("running", "Running"),
                "dns-name": f"10.77.0.1{name}",
                "ip-addresses": [f"10.77.0.1{name}"],
            }
            for name in ("0", "1")
        },
        "applications": {
            "app": application(
                units={"app/0": principal},
                relations={"juju-info": [{"related-application": "client", "interface": "info"}]},
            ),
            "client": application(
                **{"subordinate-to": ["app"]},
                relations={
                    "info": [{"related-application": "app", "interface": "info"}],
                    "share": [{"related-application": "server", "interface": "share"}],
                },
            ),
            "server": application(
                units={"server/0": unit(machine="1", leader=True, **{"open-ports": ["1/tcp"]})},
                relations={"share": [{"related-application": "client", "interface": "share"}]},
            ),
        },
    }


class RefusedError(Exception):
    """What the fake controller answers with an error."""


class FakeController:
    """Answers from a table, and remembers what it was asked."""

    def __init__(self, directory: RunDirectory):
        self.directory = directory
        self.model = a_model()
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.answers: dict[str, Any] = {"status": lambda **_: self.model}
        self.writers: list[asyncio.StreamWriter] = []

    def asked_for(self, method: str) -> list[dict[str, Any]]:
        return [params for asked, params in self.asked if asked == method]

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.writers.append(writer)
        while line := await reader.readline():
            request = json.loads(line)
            self.asked.append((request["method"], request["params"]))
            answer = self.answers.get(request["method"], lambda **_: None)
            reply: dict[str, Any] = {"id": request["id"]}
            try:
                reply["result"] = answer(**request["params"])
            except RefusedError as refused:
                reply["error"] = str(refused)
            writer.write(json.dumps(reply).encode() + b"\n")
        writer.close()


@pytest_asyncio.fixture
async def controller() -> AsyncGenerator[FakeController, None]:
    # Not tmp_path: the name of a unix socket is short.
    with tempfile.TemporaryDirectory() as directory:
        fake = FakeController(RunDirectory(Path(directory)))
        server = await asyncio.start_unix_server(fake.serve, fake.directory.socket)
        yield fake
        server.close()
        for writer in fake.writers:
            writer.close()
            await writer.wait_closed()


@pytest_asyncio.fixture
async def running(
    controller: FakeController, tmp_path: Path
) -> AsyncGenerator[ops_test.RunningModel, None]:
    async with ops_test.connected(controller.directory, tmp_path) as model:
        yield model


@pytest.fixture
def model(running: ops_test.RunningModel) -> libjuju.Model:
    return running.ops_test.model


def test_entities_show_the_status(model: libjuju.Model):
    assert sorted(model.applications) == ["app", "client", "server"]
    assert sorted(model.units) == ["app/0", "client/0", "server/0"]
    assert sorted(model.machines) == ["0", "1"]
    client = model.units["client/0"]
    assert (client.principal_unit, client.is_subordinate) == ("app/0", True)
    assert client.machine is not None
    assert client.machine.id == "0"
    assert client.public_address == "10.77.0.10"
    assert [it.name for it in model.units["app/0"].get_subordinates()] == ["client/0"]
    assert [it.name for it in model.applications["client"].units] == ["client/0"]
    assert model.units["server/0"].principal_unit == ""


async def test_the_leader(model: libjuju.Model):
    assert await model.units["server/0"].is_leader_from_status()
    assert await model.units["client/0"].is_leader_from_status()
    assert not await model.units["app/0"].is_leader_from_status()


def test_relations_are_found_from_both_ends(model: libjuju.Model):
    assert [it.ends for it in model.relations] == [
        ("app:juju-info", "client:info"),
        ("client:share", "server:share"),
    ]
    (share,) = model.applications["server"].relations
    assert share.matches("server:share", "client")
    assert not share.matches("server:shar")
    assert not share.matches("app")


async def test_what_is_gone_says_so(controller: FakeController, model: libjuju.Model):
    gone = model.units["server/0"]
    del controller.model["applications"]["server"]
    await model.block_until(lambda: "server" not in model.applications, timeout=5)
    with pytest.raises(DeadEntityException, match="server/0"):
        _ = gone.workload_status
    assert not await gone.is_leader_from_status()


async def test_the_model_is_kept_up_to_date(controller: FakeController, model: libjuju.Model):
    controller.model["applications"]["server"]["units"]["server/0"] = unit("blocked")
    async with asyncio.timeout(5):
        while model.units["server/0"].workload_status != "blocked":
            await asyncio.sleep(0.01)


async def test_block_until_says_what_it_saw(model: libjuju.Model):
    with pytest.raises(asyncio.TimeoutError, match=r"(?s)conditions:.*server/0\*"):
        await model.block_until(lambda: False, timeout=0.1, wait_period=0.01)


async def test_wait_for_idle_says_what_it_waited_for(
    controller: FakeController, model: libjuju.Model
):
    controller.model["applications"]["server"]["units"]["server/0"] = unit("waiting", "executing")
    with pytest.raises(asyncio.TimeoutError) as caught:
        await model.wait_for_idle(["server"], status="active", timeout=0.1, check_freq=0.01)
    assert "\n  server/0 [executing] waiting: \n" in str(caught.value)
    assert "Workload  Agent" in str(caught.value)


async def test_wait_for_idle_raises(controller: FakeController, model: libjuju.Model):
    controller.model["applications"]["server"]["units"]["server/0"] = unit("blocked")
    with pytest.raises(JujuUnitError, match="Unit in blocked: server/0"):
        await model.wait_for_idle(["server"], raise_on_blocked=True)
    with pytest.raises(TypeError, match="list of names"):
        await model.wait_for_idle("server")


async def test_wait_for_idle_is_not_kept_by_other_applications(
    controller: FakeController, model: libjuju.Model
):
    controller.model["applications"]["server"]["units"]["server/0"] = unit(agent="executing")
    await model.wait_for_idle(["app"], idle_period=0.05, check_freq=0.01, timeout=5)


async def test_deploy(controller: FakeController, model: libjuju.Model, tmp_path: Path):
    charm = tmp_path / "nfs-server_ubuntu@24.04-amd64.charm"
    charm.touch()
    await model.deploy(charm, num_units=2, config={"a": 1}, to=["0"], storage={"s": {"size": 5}})
    assert controller.asked_for("deploy") == [
        {
            "charm": str(charm),
            "application": "nfs-server",
            "num_units": 2,
            "config": {"a": 1},
            "storage": {"s": "5M"},
            "to": ["0"],
        }
    ]
    with pytest.raises(NotImplementedError, match="no channel"):
        await model.deploy(charm, channel="edge")
    with pytest.raises(JujuError, match="no packed charm"):
        await model.deploy("ubuntu")


async def test_what_the_controller_refuses_is_libjujus_error(
    controller: FakeController, model: libjuju.Model
):
    def refuse(**_: Any):
        raise RefusedError('unknown option "colour"')

    controller.answers["set_config"] = refuse
    with pytest.raises(JujuAPIError, match="unknown option"):
        await model.applications["server"].set_config({"colour": "red"})


async def test_config_takes_what_libjuju_takes(controller: FakeController, model: libjuju.Model):
    server = model.applications["server"]
    with pytest.raises(JujuApplicationConfigError):
        await server.set_config({"size": 1})
    with pytest.raises(JujuModelConfigError):
        await model.set_config({"update-status-hook-interval": 1})  # pyright: ignore
    await server.set_config({"a": "1", "b": {"value": 2}, "c": {"value": None}})
    assert controller.asked_for("set_config")[0]["values"] == {"a": "1", "b": "2"}


async def test_integrate_returns_what_is_there(controller: FakeController, model: libjuju.Model):
    def refuse(**_: Any):
        raise RefusedError("cannot add relation: relation already exists")

    controller.answers["integrate"] = refuse
    relation = await model.integrate("client:share", "server")
    assert relation.ends == ("client:share", "server:share")


async def test_remove_relation_waits(controller: FakeController, model: libjuju.Model):
    def remove(**_: Any):
        asyncio.get_running_loop().call_later(0.1, forget)

    def forget():
        for name in ("server", "client"):
            del controller.model["applications"][name]["relations"]["share"]

    controller.answers["remove_relation"] = remove
    server = model.applications["server"]
    await server.remove_relation("share", "client", block_until_done=True)
    assert controller.asked_for("remove_relation") == [{"a": "server:share", "b": "client"}]
    assert server.relations == []


async def test_actions_and_commands(controller: FakeController, model: libjuju.Model):
    ended = {"status": "failed", "results": {"return-code": 1}, "message": "no such share"}
    controller.answers |= {
        "list_actions": lambda **_: {"list-shares": {"description": "List them."}},
        "enqueue_action": lambda **_: "1",
        "enqueue_exec": lambda **_: "2",
        "wait_action": lambda **_: ended,
    }
    server = model.units["server/0"]
    assert await model.applications["server"].get_actions() == {"list-shares": "List them."}
    with pytest.raises(ValueError, match="`nothing` not found on server/0"):
        await server.run_action("nothing")
    action = await server.run_action("list-shares", name="a")
    assert (action.id, action.status) == ("1", "pending")
    assert await action.wait() is action
    assert (action.status, action.message) == ("failed", "no such share")
    assert action.results == {"return-code": 1}
    assert (await server.run("false", block=True)).results == {"return-code": 1}


async def test_ssh_fails_loudly(controller: FakeController, model: libjuju.Model):
    result = {"returncode": 0, "stdout": "out\n", "stderr": ""}
    controller.answers["ssh"] = lambda **_: result
    assert await model.units["client/0"].ssh("true") == "out\n"
    assert controller.asked_for("ssh")[0]["machine"] == "0"
    result |= {"returncode": 3, "stderr": "it broke"}
    with pytest.raises(JujuError, match="exit status 3: it broke"):
        await model.units["client/0"].ssh("false")


async def test_get_status_is_libjujus_object(model: libjuju.Model):
    status: Any = await model.get_status()
    app = status.applications["app"].units["app/0"]
    assert app.subordinates["client/0"].leader
    assert app.workload_status.status == "active"
    assert status.applications["server"].units["server/0"].opened_ports == ["1/tcp"]
    assert status.machines["1"].instance_status.status == "running"


async def test_list_storage(controller: FakeController, model: libjuju.Model):
    item = {"id": "shares/0", "owner": "server/0", "location": "/srv", "status": "attached"}
    controller.answers["storage"] = lambda: [item, {**item, "id": "shares/1", "owner": None}]
    one, other = await model.list_storage()
    attachments: Any = one["attachments"]
    assert one["storage-tag"] == "storage-shares-0"
    assert attachments["unit-server-0"].location == "/srv"
    assert other["attachments"] == {}


async def test_fast_forward_restores(controller: FakeController, running: ops_test.RunningModel):
    async with running.ops_test.fast_forward("1s"):
        assert controller.asked_for("set_model_config")[-1]["values"] == {
            "update-status-hook-interval": "1s"
        }
    assert controller.asked_for("set_model_config")[-1]["values"] == {
        "update-status-hook-interval": "5m"
    }


async def test_juju_knows_status_only(running: ops_test.RunningModel):
    returncode, stdout, _ = await running.ops_test.juju("status")
    assert returncode == 0
    assert "server/0*" in stdout
    returncode, _, stderr = await running.ops_test.juju("offer", "server:share")
    assert returncode == 2
    assert "no juju offer server:share" in stderr


async def test_run_is_a_command_of_this_computer(running: ops_test.RunningModel):
    assert await running.ops_test.run("cat", stdin=b"in") == (0, "in", "")
    with pytest.raises(AssertionError, match=r"Command \['false'\] failed \(1\)"):
        await running.ops_test.run("false", check=True)


async def test_abort(running: ops_test.RunningModel):
    with pytest.raises(pytest.fail.Exception, match="no use"):
        running.ops_test.abort("no use")
    assert running.ops_test.aborted


async def test_build_charm_takes_the_packed_one(
    running: ops_test.RunningModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ops_test, "CHARMS", tmp_path)
    (tmp_path / "charmcraft.yaml").write_text("name: nfs\n")
    (tmp_path / "nfs-client_ubuntu.charm").touch()
    with pytest.raises(FileNotFoundError, match=r"found nothing: run \./dev pack"):
        await running.ops_test.build_charm(tmp_path)
    (tmp_path / "nfs_ubuntu.charm").touch()
    assert await running.ops_test.build_charm(tmp_path) == tmp_path / "nfs_ubuntu.charm"


async def test_build_charm_takes_the_one_for_the_base(
    controller: FakeController, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(ops_test, "CHARMS", tmp_path)
    monkeypatch.setattr(images, "host_release", lambda: "12")
    (tmp_path / "charmcraft.yaml").write_text("name: nfs\n")
    (tmp_path / "nfs_debian@12.charm").touch()
    async with ops_test.connected(controller.directory, tmp_path, base="13") as model:
        with pytest.raises(FileNotFoundError, match=r"run \./dev pack --base 13"):
            await model.ops_test.build_charm(tmp_path)
        (tmp_path / "13").mkdir()
        (tmp_path / "13/nfs_debian@13.charm").touch()
        assert (await model.ops_test.build_charm(tmp_path)).name == "nfs_debian@13.charm"
    async with ops_test.connected(controller.directory, tmp_path, base="12") as model:
        assert (await model.ops_test.build_charm(tmp_path)).name == "nfs_debian@12.charm"


async def test_the_substrate_finds_a_subordinates_machine(
    controller: FakeController, running: ops_test.RunningModel
):
    await running.substrate.reboot("client/0")
    assert controller.asked_for("reboot") == [{"machine": "0"}]
    controller.answers["add_bystander"] = lambda: "x0"
    controller.answers["ssh"] = lambda **_: {"returncode": 1, "stdout": "", "stderr": "no"}
    bystander = await running.substrate.bystander()
    result = await bystander.run("false")
    assert (result.returncode, result.stderr) == (1, "no")
    assert controller.asked_for("ssh")[0]["machine"] == "x0"


async def test_answers_may_come_in_any_order(controller: FakeController):
    client = await Client.connect(controller.directory)
    controller.answers["echo"] = lambda word: word
    words = await asyncio.gather(*(client.call("echo", word=str(n)) for n in range(50)))
    assert words == [str(n) for n in range(50)]
    await client.close()


async def test_a_dead_controller_is_told_with_its_last_words(controller: FakeController):
    client = await Client.connect(controller.directory)
    (controller.directory.path / "debug.log").write_text("it was too much\n")
    controller.answers["echo"] = lambda: controller.writers[0].transport.abort()
    with pytest.raises(ControllerGoneError, match="it was too much"):
        await client.call("echo")
    with pytest.raises(ControllerGoneError, match="it was too much"):
        await client.call("echo")
    await client.close()
    controller.directory.socket.unlink()
    with pytest.raises(ControllerGoneError, match="it was too much"):
        await Client.connect(controller.directory)


# wait_for_idle against libjuju's own: both see the same statuses, one after another.


class EndOfScriptError(Exception):
    """The statuses are used up, and there is still something to wait for."""


def scripted_status(chance: random.Random) -> Any:
    status = a_model()
    status["machines"]["0"]["machine-status"] = state(chance.choice(["running"] * 9 + ["error"]))
    for name in ("app", "server"):
        it = status["applications"][name]
        it["application-status"] = state(chance.choice(["active"] * 8 + ["blocked", "error"]))
        it["units"] = {
            f"{name}/{number}": unit(
                chance.choice(["active"] * 8 + ["waiting", "blocked", "error"]),
                chance.choice(["idle"] * 9 + ["executing"]),
                machine="0",
            )
            for number in range(chance.randint(0, 3))
        }
    if chance.random() < 0.1:
        del status["applications"]["app"]
    return status


def arguments(chance: random.Random) -> dict[str, Any]:
    return {
        "apps": chance.choice([["app"], ["server", "app"], ["app", "server"]]),
        "raise_on_error": chance.random() < 0.5,
        "raise_on_blocked": chance.random() < 0.3,
        "status": chance.choice([None, "active", "active"]),
        "wait_for_at_least_units": chance.choice([None, None, 1, 2]),
        "wait_for_exact_units": chance.choice([None, None, 0, 1, 2]),
    }


async def libjujus_outcome(
    script: list[Status], wanted: Mapping[str, Any], monkeypatch: pytest.MonkeyPatch
) -> object:
    seen = 0

    async def sleep(_: float):
        nonlocal seen
        seen += 1
        if seen == len(script):
            raise EndOfScriptError

    async def refresh():
        return script[seen]

    class Scripted:
        @property
        def applications(self):
            view: Any = SimpleNamespace(status=script[seen], units=units_of(), refresh=refresh)
            return libjuju.Model(view).applications

    def units_of():
        return libjuju.units(script[seen])

    monkeypatch.setattr(juju.model, "asyncio", SimpleNamespace(sleep=sleep))
    scripted: Any = Scripted()
    try:
        await juju.model.Model.wait_for_idle(scripted, timeout=None, idle_period=0, **wanted)
    except (JujuError, EndOfScriptError) as error:
        return seen, type(error), str(error)
    return seen


def our_outcome(script: list[Status], wanted: Mapping[str, Any]) -> object:
    raises = {"error": wanted["raise_on_error"], "blocked": wanted["raise_on_blocked"]}
    settling = Settling(
        fatal=[name for name, wished in raises.items() if wished],
        wanted=wanted["status"],
        at_least=wanted["wait_for_at_least_units"],
        exactly=wanted["wait_for_exact_units"],
        period_s=0,
    )
    seen = 0
    try:
        for seen, status in enumerate(script):
            if not settling.busy(wanted["apps"], status, float(seen)):
                return seen
    except JujuError as error:
        return seen, type(error), str(error)
    return len(script), EndOfScriptError, ""


@pytest.mark.parametrize("seed", range(20))
async def test_wait_for_idle_decides_as_libjuju_does(seed: int, monkeypatch: pytest.MonkeyPatch):
    chance = random.Random(seed)  # noqa: S311  Nothing is kept secret with it.
    for _ in range(100):
        script = [scripted_status(chance) for _ in range(4)]
        wanted = arguments(chance)
        theirs = await libjujus_outcome(script, wanted, monkeypatch)
        assert our_outcome(script, wanted) == theirs, (wanted, script)


def idle_for(settling: Settling, status: Status, moments: list[float]) -> list[bool]:
    return [not settling.busy(["server"], status, moment) for moment in moments]


def test_the_idle_period_is_waited_for_while_something_goes_on_elsewhere():
    settling = Settling([], None, None, None, period_s=15)
    status = a_model()
    status["applications"]["app"]["units"]["app/0"]["juju-status"] = state("executing")
    assert idle_for(settling, status, [0, 1, 14.9, 15]) == [False, False, False, True]


def test_a_model_where_nothing_goes_on_is_idle_after_half_a_second():
    settling = Settling([], None, None, None, period_s=15)
    assert idle_for(settling, a_model(), [0, 0.4, 0.5]) == [False, False, True]


def test_a_unit_that_works_again_begins_anew():
    settling = Settling([], None, None, None, period_s=2)
    busy = a_model()
    busy["applications"]["server"]["units"]["server/0"]["juju-status"] = state("executing")
    assert idle_for(settling, busy, [0]) == [False]
    other = a_model()
    other["applications"]["app"]["units"]["app/0"]["juju-status"] = state("executing")
    assert idle_for(settling, other, [1, 2]) == [False, False]
    assert idle_for(settling, busy, [3]) == [False]
    assert idle_for(settling, other, [4, 5, 6]) == [False, False, True]


def test_a_failed_hook_will_be_retried_so_the_model_is_not_settled():
    settling = Settling([], None, None, None, period_s=15)
    status = a_model()
    status["applications"]["app"]["units"]["app/0"]["workload-status"] = state("error")
    assert idle_for(settling, status, [0, 10]) == [False, False]

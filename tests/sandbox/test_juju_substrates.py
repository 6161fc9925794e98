# SPDX-License-Identifier: Apache-2.0
"""The integration suite's substrates on Juju, without Juju.

Real jubilant, pytest-operator and python-libjuju; a `juju` command that writes down what it is
asked and answers from a list. Its status is written by hand in the form of Juju 4.0.15's.
"""

import inspect
import json
import os
import re
import stat
import subprocess
import sys
import zipfile
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import jubilant
import pytest
import pytest_asyncio
from juju.application import Application
from juju.client.client import FullStatus
from juju.errors import JujuAPIError
from juju.model import Model

import juju4_substrate
import juju_machines
import juju_substrate
from sandbox import libjuju
from sandbox import ops_test as sandbox_ops_test
from sandbox.libjuju import View

REPOSITORY = Path(__file__).resolve().parent.parent.parent
SUITE = REPOSITORY / "tests/integration"
STATUS = (Path(__file__).parent / "juju4_status.json").read_text()

# Answers with the next line of the file named after the command; the last line stays.
FAKE = """\
#!{python}
import json, pathlib, sys
home = pathlib.Path({home!r})
with (home / "asked").open("a") as asked:
    asked.write(json.dumps(sys.argv) + "\\n")
words = [word for word in sys.argv[1:] if not word.startswith("-")]
answers = home / (words[0] if words else "nothing")
if answers.exists():
    first, *rest = answers.read_text().splitlines()
    if rest:
        answers.write_text("\\n".join(rest))
    answer = json.loads(first)
    sys.stdout.write(answer["stdout"])
    sys.stderr.write(answer["stderr"])
    sys.exit(answer["returncode"])
"""


class FakeCommand:
    """A command that writes down what it is asked, and says what it was told to say."""

    def __init__(self, home: Path, name: str):
        home.mkdir()
        self.home = home
        self.path = home / "bin" / name
        self.path.parent.mkdir()
        self.path.write_text(FAKE.format(python=sys.executable, home=str(home)))
        self.path.chmod(self.path.stat().st_mode | stat.S_IXUSR)

    def will_say(self, command: str, *stdouts: str) -> None:
        answers = [{"stdout": text, "stderr": "", "returncode": 0} for text in stdouts]
        (self.home / command).write_text("\n".join(map(json.dumps, answers)))

    def will_fail(self, command: str, stderr: str, stdout: str = "") -> None:
        answer = {"stdout": stdout, "stderr": stderr, "returncode": 1}
        (self.home / command).write_text(json.dumps(answer))

    def asked(self, *but: str) -> list[str]:
        """What it was asked, without the model and without the commands in ``but``."""
        asked = self.home / "asked"
        lines = asked.read_text().splitlines() if asked.exists() else []
        commands = [" ".join(json.loads(line)[1:]) for line in lines]
        commands = [re.sub(" --model [^ ]+", "", command) for command in commands]
        return [command for command in commands if command.split(" ")[0] not in but]


@pytest.fixture
def juju(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCommand:
    command = FakeCommand(tmp_path / "juju", "juju")
    monkeypatch.setenv("PATH", f"{command.path.parent}:{os.environ['PATH']}")
    command.will_say("status", STATUS)
    return command


def a_charm(tmp_path: Path, name: str, metadata: str = "") -> Path:
    charm = tmp_path / f"{name}_ubuntu@24.04-amd64.charm"
    with zipfile.ZipFile(charm, "w") as packed:
        packed.writestr("metadata.yaml", f"name: {name}\n{metadata}")
    return charm


async def a_model(machines: Sequence[str] = ()) -> libjuju.Model:
    view = View(juju4_substrate.Controller(jubilant.Juju(model="m"), machines))
    await view.refresh()
    return libjuju.Model(view)


@pytest_asyncio.fixture
async def model(juju: FakeCommand) -> libjuju.Model:
    return await a_model()


def test_the_status_is_what_jubilant_takes_for_one():
    status = jubilant.Status._from_dict(json.loads(STATUS))
    assert status.get_units("nfs-client").keys() == {"nfs-client/0"}


def test_entities_show_the_status(model: libjuju.Model):
    assert sorted(model.applications) == ["my-app", "nfs-client", "nfs-server"]
    client = model.units["nfs-client/0"]
    assert (client.principal_unit, client.machine and client.machine.id) == ("my-app/0", "1")
    assert [sorted(relation.ends) for relation in model.relations] == [
        ["my-app:juju-info", "nfs-client:juju-info"],
        ["nfs-client:nfs-share", "nfs-server:nfs-share"],
    ]


async def test_deploy(model: libjuju.Model, juju: FakeCommand, tmp_path: Path):
    server, client = (a_charm(tmp_path, "x"), a_charm(tmp_path, "y", "subordinate: true\n"))
    await model.deploy(server, num_units=2, storage={"shares": "100G"}, config={"on": True})
    await model.deploy(client, application_name="mine", num_units=0, config={"size": 1})
    await model.deploy(server, application_name="tenant", to="1")
    vm = "--constraints virt-type=virtual-machine --constraints mem=2G"
    assert juju.asked("status") == [
        f"deploy {server} x --config on=true {vm} --constraints root-disk=10G --num-units 2"
        " --storage shares=100G",
        f"deploy {client} mine --config size=1",
        f"deploy {server} tenant --to 1",
    ]


async def test_units_go_to_the_given_machines(juju: FakeCommand, tmp_path: Path):
    model = await a_model(["0", "1", "2", "3"])
    await model.deploy(a_charm(tmp_path, "x"), num_units=2)
    assert juju.asked("status")[0].endswith(" x --num-units 2 --to 2,3")
    with pytest.raises(pytest.fail.Exception, match="--machines 0,1,2,3 only 2 have none"):
        await model.deploy(a_charm(tmp_path, "x"), num_units=3)


async def test_each_change_is_a_command(model: libjuju.Model, juju: FakeCommand, tmp_path: Path):
    server = model.applications["nfs-server"]
    await model.integrate("nfs-client:nfs-share", "nfs-server:nfs-share")
    await server.destroy_relation("nfs-share", "nfs-client:nfs-share")
    await server.set_config({"a": "1", "b": "two words"})
    await server.reset_config(["a", "b"])
    await server.add_unit(2)
    await server.destroy_unit("nfs-server/0", "nfs-server/1")
    await server.refresh(path=a_charm(tmp_path, "x"))
    await model.set_config({"update-status-hook-interval": "1s"})
    await model.units["nfs-server/0"].resolved()
    await model.units["nfs-server/0"].attach_storage(["shares/0"])
    await model.units["nfs-server/0"].detach_storage("shares/0")
    await model.remove_application("nfs-client", destroy_storage=True)
    assert juju.asked("status") == [
        "integrate nfs-client:nfs-share nfs-server:nfs-share",
        "remove-relation nfs-server:nfs-share nfs-client:nfs-share",
        "config nfs-server a=1 b=two words",
        "config nfs-server --reset a,b",
        "add-unit nfs-server --num-units 2",
        "remove-unit --no-prompt nfs-server/0 nfs-server/1",
        f"refresh nfs-server --path {tmp_path}/x_ubuntu@24.04-amd64.charm",
        "model-config update-status-hook-interval=1s",
        "resolved --no-retry nfs-server/0",
        "attach-storage nfs-server/0 shares/0",
        "detach-storage shares/0",
        "remove-application --no-prompt nfs-client --destroy-storage",
    ]


async def test_added_units_are_returned(model: libjuju.Model, juju: FakeCommand):
    before = json.loads(STATUS)
    after = json.loads(STATUS)
    its = after["applications"]["nfs-server"]["units"]
    its["nfs-server/1"] = its["nfs-server/0"] | {"leader": False}
    juju.will_say("status", json.dumps(before), json.dumps(after))
    (added,) = await model.applications["nfs-server"].add_unit()
    assert added.name == "nfs-server/1"


async def test_an_added_machine_is_returned(model: libjuju.Model, juju: FakeCommand):
    after = json.loads(STATUS)
    after["machines"]["3"] = after["machines"]["0"]
    juju.will_say("status", STATUS, json.dumps(after))
    assert (await model.add_machine()).id == "3"


async def test_what_juju_refuses_is_raised_in_its_words(model: libjuju.Model, juju: FakeCommand):
    juju.will_fail("config", 'ERROR unknown option "colour"\n')
    with pytest.raises(JujuAPIError, match=r'^unknown option "colour"$'):
        await model.applications["nfs-client"].set_config({"colour": "1"})


async def test_an_integration_that_is_there_is_returned(model: libjuju.Model, juju: FakeCommand):
    juju.will_fail("integrate", "ERROR cannot add relation: relation already exists\n")
    found = await model.integrate("nfs-client", "nfs-server")
    assert found.matches("nfs-server:nfs-share")


async def test_config_and_storage_are_read(model: libjuju.Model, juju: FakeCommand):
    option = {"value": 1, "default": -1, "type": "int", "source": "user", "description": ""}
    juju.will_say("config", json.dumps({"application": "x", "settings": {"size": option}}))
    assert (await model.applications["nfs-client"].get_config())["size"]["value"] == 1
    juju.will_say("storage", json.dumps(json.loads(STATUS)["storage"]))
    (stored,) = await model.list_storage()
    assert (stored["storage-tag"], stored["owner-tag"]) == (
        "storage-shares-0",
        "unit-nfs-server-0",
    )
    juju.will_say("storage", "")
    assert await model.list_storage() == []


ACTIONS = json.dumps({"list-shares": {"description": "List the shares.", "type": "object"}})


def a_task(unit: str, **more: Any) -> str:
    return json.dumps({unit: {"id": "2", "status": "completed", "unit": unit, **more}})


async def test_an_action(model: libjuju.Model, juju: FakeCommand):
    juju.will_say("actions", ACTIONS)
    results = {"return-code": 0, "data-1": {"state": "exported"}}
    juju.will_say("run", a_task("nfs-server/0", results=results))
    action = await model.units["nfs-server/0"].run_action("list-shares", name="/data")
    await (await action.wait()).wait()
    assert (action.status, action.results["data-1"]) == ("completed", {"state": "exported"})
    assert await model.applications["nfs-server"].get_actions() == {
        "list-shares": "List the shares."
    }
    run = juju.asked("status", "actions")[0]
    assert run.startswith("run --format json nfs-server/0 list-shares --wait 600.0s --params ")
    with pytest.raises(ValueError, match="Action `purge` not found"):
        await model.units["nfs-server/0"].run_action("purge")


async def test_an_action_that_fails(model: libjuju.Model, juju: FakeCommand):
    juju.will_say("actions", ACTIONS)
    failed = a_task("nfs-server/0", status="failed", message="no such share")
    juju.will_fail("run", 'ERROR the following task failed:\n - id "2"\n', stdout=failed)
    action = await (await model.units["nfs-server/0"].run_action("list-shares")).wait()
    assert (action.status, action.message) == ("failed", "no such share")


async def test_a_command_in_a_hook_context_and_on_the_machine(
    model: libjuju.Model, juju: FakeCommand
):
    results = {"return-code": 0, "stdout": "out\n"}
    juju.will_say("exec", a_task("nfs-server/0", results=results))
    unit = model.units["nfs-server/0"]
    assert (await unit.run("df /", block=True)).results == results
    assert await unit.ssh("df /") == "out\n"
    assert juju.asked("status") == [
        "exec --format json --unit nfs-server/0 --wait 300.0s -- df /",
        "exec --format json --machine 0 --wait 300.0s -- df /",
    ]


@pytest_asyncio.fixture
async def ops_test(juju: FakeCommand, tmp_path: Path) -> AsyncGenerator[Any, None]:
    view = View(juju4_substrate.Controller(jubilant.Juju(model="m")))
    await view.refresh()
    yield juju4_substrate.OpsTest(view, tmp_path, ["--platform=p"], keep=False)


async def test_fast_forward(ops_test: juju4_substrate.OpsTest, juju: FakeCommand):
    async with ops_test.fast_forward("1s"):
        pass
    assert juju.asked("status") == [
        "model-config update-status-hook-interval=1s",
        "model-config update-status-hook-interval=5m",
    ]


async def test_packing(
    ops_test: juju4_substrate.OpsTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    charmcraft = FakeCommand(tmp_path / "charmcraft", "charmcraft")
    monkeypatch.setenv("PATH", f"{charmcraft.path.parent}:{os.environ['PATH']}")
    (tmp_path / "app").mkdir()
    charm = a_charm(tmp_path / "app", "app")
    assert await ops_test.build_charm(tmp_path / "app") == charm
    assert charmcraft.asked() == [f"pack --output={tmp_path}/app --platform=p"]


# What can be done to machines.


@pytest.mark.parametrize("kind", [juju_machines.LxdMachines, juju_machines.GivenMachines])
def test_machines_of_juju_have_the_methods_of_the_sandboxs(kind: type):
    for name, method in vars(sandbox_ops_test.Substrate).items():
        if inspect.iscoroutinefunction(method):
            ours = inspect.signature(getattr(kind, name)).parameters
            assert ours == inspect.signature(method).parameters, name


def test_all_that_the_stand_ins_ask_is_answered():
    asked = set(re.findall(r'\.(?:ask|change)\(\s*"(\w+)"', inspect.getsource(libjuju)))
    assert {"deploy", "wait_action"} < asked
    assert not [name for name in asked if not hasattr(juju4_substrate.Controller, name)]


async def test_machines_that_were_given(ops_test: Any, juju: FakeCommand):
    machines = juju_machines.GivenMachines(ops_test)
    juju.will_say("ssh", "connected:\nout\n")
    result = await machines.run("nfs-client/0", "echo 'it'")
    assert (result.returncode, result.stdout) == (0, "out\n")
    assert juju.asked("status") == [
        "ssh nfs-client/0 -o BatchMode=yes -o ConnectTimeout=10"
        """ sudo /bin/sh -c 'echo connected:; echo '"'"'it'"'"''"""
    ]
    juju.will_fail("ssh", "", stdout="connected:\n")
    assert (await machines.run("nfs-client/0", "false")).returncode == 1
    juju.will_fail("ssh", "Permission denied (publickey).\n")
    with pytest.raises(ConnectionError, match=r"publickey.*; .*juju add-ssh-key"):
        await machines.run("nfs-client/0", "true")


async def test_a_machine_that_was_given_is_rebooted(ops_test: Any, juju: FakeCommand):
    machines = juju_machines.GivenMachines(ops_test)
    # Its boot id, what reboot says, nothing while it is down, the old id once more, the new one.
    said = ["connected:\nold", "connected:\n", "", "connected:\nold", "connected:\nnew"]
    juju.will_say("ssh", *said)
    await machines.reboot("nfs-server/0")
    assert len(juju.asked("status")) == len(said) + 1


async def test_machines_that_were_given_are_left_empty(ops_test: Any, juju: FakeCommand):
    empty = json.dumps(json.loads(STATUS) | {"applications": {}})
    juju.will_say("status", STATUS, STATUS, STATUS, empty)
    await juju_machines.GivenMachines(ops_test).clean_up()
    removed = [command.split(" ")[2] for command in juju.asked("status")]
    assert removed == ["my-app", "nfs-client", "nfs-server"]


async def test_machines_of_lxd(
    ops_test: Any, juju: FakeCommand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    lxc = FakeCommand(tmp_path / "lxc", "lxc")
    monkeypatch.setattr(juju_machines, "LXC", str(lxc.path))
    machines = juju_machines.LxdMachines(ops_test)
    lxc.will_say("exec", "out\n")
    assert (await machines.run("nfs-client/0", "df /")).stdout == "out\n"
    await machines.power_cut("nfs-server/0")
    await machines.boot("nfs-server/0")
    bystander = await machines.bystander()
    await machines.clean_up()
    asked = [command for command in lxc.asked() if not command.startswith("exec juju-0a1b2c-0")]
    assert asked == [
        "exec juju-0a1b2c-1 -- /bin/sh -c df /",
        "stop --force juju-0a1b2c-0",
        "start juju-0a1b2c-0",
        f"launch ubuntu:24.04 {bystander.instance} --vm",
        f"exec {bystander.instance} -- /bin/sh -c true",
        f"exec {bystander.instance} -- /bin/sh -c systemctl is-system-running --wait",
        f"delete --force {bystander.instance}",
    ]


# python-libjuju, as far as it goes without a controller.


class FakeModel(Model):
    """A model of python-libjuju that has a status, and remembers what was deployed where."""

    def __init__(self) -> None:
        self.placed: list[Any] = []

    async def get_status(self, filters: Any = None, utc: bool = False) -> Any:
        units = {"nfs-server/0": {"machine": "0"}}
        return FullStatus.from_json({"applications": {"a": {"units": units}, "b": {}}})

    async def deploy(self, entity_url: Any, num_units: int = 1, to: Any = None) -> None:
        self.placed.append(to)


async def test_libjuju_places_units_on_the_given_machines():
    model = FakeModel()
    deploy = juju_substrate.placing(FakeModel.deploy, ["0", "1", "2"], "num_units")
    await deploy(model, "charm")
    await deploy(model, "charm", num_units=2)
    await deploy(model, "charm", num_units=0)
    await deploy(model, "charm", to="0")
    assert model.placed == [["1"], ["1", "2"], None, "0"]
    with pytest.raises(pytest.fail.Exception, match="3 units are to be placed"):
        await deploy(model, "charm", num_units=3)


def test_libjuju_has_what_is_wrapped():
    for method, count in ((Model.deploy, "num_units"), (Application.add_unit, "count")):
        defaults = {it.name: it.default for it in inspect.signature(method).parameters.values()}
        assert (defaults[count], defaults["to"]) == (1, None)
    assert Application.add_units is Application.add_unit


# The suite as it is run.


def suite(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run pytest as `tox -e integration` does."""
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-o", "asyncio_mode=auto", *arguments],
        cwd=REPOSITORY,
        env=os.environ | environment,
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("substrate", ["juju", "juju4", "sandbox"])
def test_the_suite_collects_on_any_substrate(substrate: str):
    done = suite("--collect-only", "-q", f"--substrate={substrate}", str(SUITE))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_story.py::test_deploy" in done.stdout


def test_machines_need_a_model():
    done = suite("--collect-only", "--substrate=juju", "--machines=0,1", str(SUITE))
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "say which with --model" in done.stderr


@pytest.mark.parametrize(
    ("version", "substrate"), [("3.6.28", "juju_substrate"), ("4.0.15", "juju4_substrate")]
)
def test_the_substrate_fits_the_controller(juju: FakeCommand, version: str, substrate: str):
    known = {"controllers": {"c": {"agent-version": version}}, "current-controller": "c"}
    juju.will_say("controllers", json.dumps(known))
    done = suite("--collect-only", "-q", "--trace-config", str(SUITE))
    assert f"/{substrate}.py" in done.stdout, done.stdout + done.stderr


def test_a_charm_for_another_base_is_refused(juju: FakeCommand, tmp_path: Path):
    (tmp_path / "test_it.py").write_text("def test_it(server_charm): ...")
    options = ["-p", "conftest", "--substrate=juju4", "--model=m", "--keep-models", "--base=22.04"]
    done = suite(
        *(*options, f"--basetemp={tmp_path}/base", f"{tmp_path}/test_it.py"),
        PYTHONPATH=f"{SUITE}:{REPOSITORY}",
        CHARM_PATH_NFS_SERVER=str(a_charm(tmp_path, "nfs-server")),
    )
    assert "amd64.charm is not for --base 22.04" in done.stdout, done.stdout + done.stderr


STORY = """\
async def test_deploy(story, ops_test, substrate):
    await story.deploy()
    await story.model.applications["nfs-client"].set_config({"size": "2"})
    await story.settle("nfs-client", "nfs-server")
    _, log, _ = await ops_test.juju("debug-log")
    assert log == "a line"
"""


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        (["--model=m", "--machines=0,1,2,3,4,5", "--keep-models"], []),
        ([], ["add-model", "destroy-model"]),
        (["--keep-models", "--controller=lxd4", "--cloud=localhost"], ["add-model"]),
    ],
    ids=["given machines", "new model", "kept model"],
)
def test_a_story_on_juju_4(
    juju: FakeCommand, tmp_path: Path, more: list[str], expected: list[str]
):
    """All fixtures together: model, charms, deployment, status, and the model's end."""
    charms = {
        "CHARM_PATH_NFS_SERVER": str(a_charm(tmp_path, "nfs-server")),
        "CHARM_PATH_NFS_CLIENT": str(a_charm(tmp_path, "nfs-client", "subordinate: true")),
        "CHARM_PATH_ANY_APP": str(a_charm(tmp_path, "any-app")),
    }
    (tmp_path / "test_it.py").write_text(STORY)
    juju.will_say("debug-log", "a line")
    # The suite's conftest, for a test that lies elsewhere.
    options = ["-p", "conftest", "--substrate=juju4", f"--basetemp={tmp_path}/base", *more]
    done = suite(*options, f"{tmp_path}/test_it.py", PYTHONPATH=f"{SUITE}:{REPOSITORY}", **charms)
    assert done.returncode == 0, done.stdout + done.stderr
    asked = juju.asked("status")
    deployed = [command.split(" ")[2] for command in asked if command.startswith("deploy")]
    assert deployed == ["nfs-server", "my-app", "nfs-client"]
    ends = [
        command for command in asked if command.split(" ")[0] in ("add-model", "destroy-model")
    ]
    assert [command.split(" ")[0] for command in ends] == expected

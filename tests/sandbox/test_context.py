# SPDX-License-Identifier: Apache-2.0
"""What a hook sees and writes: the hook commands as ops and as a person types them."""

import json
from typing import get_args

import pytest
from test_hooks import CLIENT, READER, World

from sandbox.rules import charm as charms
from sandbox.rules import hooks, operations
from sandbox.rules.context import Action, Context, FlushError
from sandbox.rules.hook_commands import Answer, execute
from sandbox.rules.model import Hook, Model, Profile

SERVER = charms.parse(
    """
name: server
provides: {share: {interface: nfs_share}}
peers: {cluster: {interface: cluster}}
storage: {data: {type: filesystem}}
""",
    """
options:
  size: {type: int, default: 3}
  ratio: {type: float, default: 1.0}
  name: {type: string}
  fast: {type: boolean, default: true}
""",
    """
grow:
  params: {to: {type: integer}, fast: {type: boolean}}
""",
)


def started(juju: Profile = "3.6") -> Model:
    """Return a model with server/0 (leader), server/1 and client/0, related: relation 1."""
    model = Model("test", juju, uuid="7f1c")
    operations.deploy(model, SERVER, "server", num_units=2)
    operations.deploy(model, READER, "client")
    operations.integrate(model, "server", "client")
    idle(model)
    relation = model.relations[1]
    relation.unit_bags["client/0"].update({"wish": "big"})
    relation.app_bags["client"].update({"name": "/data"})
    idle(model)
    return model


def idle(model: Model) -> None:
    """Run every hook of every unit, doing nothing."""
    World(model).settle()


CHANGED = Hook("relation-changed", 1, "share", "client", "client/0")


def at(model: Model, unit: str = "server/0", hook: Hook | None = None, **kwargs) -> Context:
    return Context(model, model.units[unit], hook or Hook("update-status"), **kwargs)


def said(context: Context, *argv: str, stdin: str = "") -> str:
    answer = execute(context, argv, stdin)
    assert (answer.returncode, answer.stderr) == (0, ""), answer
    return answer.stdout


READS = [
    # As ops runs them.
    ("config-get --format=json", '{"fast":true,"ratio":1,"size":3}\n'),
    ("is-leader --format=json", "true\n"),
    ("relation-ids share --format=json", '["share:1"]\n'),
    ("relation-list --format=json -r share:1", '["client/0"]\n'),
    ("relation-list --format=json --app -r share:1", '"client"\n'),
    (
        "relation-get --format=json -r share:1 - client/0",
        '{"egress-subnets":"10.77.0.12/32","ingress-address":"10.77.0.12",'
        '"private-address":"10.77.0.12","wish":"big"}\n',
    ),
    ("relation-get --format=json -r share:1 --app - client", '{"name":"/data"}\n'),
    ("relation-get --format=json -r share:1 --app - server", "{}\n"),
    ("storage-list --format=json data", '["data/0"]\n'),
    (
        "storage-get --format=json -s data/0",
        '{"kind":"filesystem","location":"/var/lib/juju/storage/data/0"}\n',
    ),
    ("opened-ports --format=json", "[]\n"),
    (
        "status-get --include-data --format=json --application=false",
        '{"message":"","status":"unknown","status-data":{}}\n',
    ),
    ("relation-model-get --format=json -r share:1", '{"uuid":"7f1c"}\n'),
    (
        "network-get --format=json -r 1 share",
        '{"bind-addresses":[{"addresses":[{"cidr":"10.77.0.0/24","hostname":"",'
        '"value":"10.77.0.10"}],"interface-name":"vec0","mac-address":""}],'
        '"egress-subnets":["10.77.0.10/32"],"ingress-addresses":["10.77.0.10"]}\n',
    ),
    # As a person types them.
    ("config-get fast", "True\n"),
    ("config-get name", ""),
    ("config-get", "fast: true\nratio: 1\nsize: 3\n"),
    ("is-leader", "True\n"),
    ("relation-list -r 1", "client/0\n"),
    ("relation-get wish -r 1 client/0", "big\n"),
    ("relation-get -r 1 none client/0", ""),
    ("storage-get -s data/0 location", "/var/lib/juju/storage/data/0\n"),
    ("status-get", "unknown\n"),
    ("status-get --format=json", '{"status":"unknown"}\n'),
]


@pytest.mark.parametrize(("command", "stdout"), READS)
def test_a_command_that_reads(command: str, stdout: str):
    assert said(at(started()), *command.split()) == stdout


NOT_FOUND = 'invalid value "%s" for option -r: relation not found'
BAD_STATUS = 'invalid status "idle", expected one of [maintenance blocked waiting active]'
FAILURES = [
    ("relation-get -r share:9 - client/0", 2, NOT_FOUND % "share:9"),
    ("relation-get -r cluster:1 - client/0", 2, NOT_FOUND % "cluster:1"),
    ("relation-get -r x - client/0", 2, 'invalid value "x" for option -r: invalid relation id'),
    ("relation-get - client/0", 2, "no relation id specified"),
    ("relation-get -r 1", 2, "no unit or application specified"),
    ("relation-get -r 1 - client", 2, 'expected unit name, got application name "client"'),
    ("relation-get -r 1 - client/7", 1, "permission denied"),
    ("relation-get -r 1 - server/1", 1, "permission denied"),
    ("relation-get -q", 2, "option provided but not defined: -q"),
    ("relation-get --r 1", 2, "option provided but not defined: --r"),
    ("relation-list -r", 2, "option needs an argument: -r"),
    ("relation-set -r 1 noequals", 2, 'expected "key=value", got "noequals"'),
    ("relation-ids", 2, "no endpoint name specified"),
    ("network-get nowhere", 1, 'no network config found for binding "nowhere"'),
    ("storage-get -s data/9", 2, 'invalid value "data/9" for option -s: storage not found'),
    ("storage-get", 2, "no storage instance specified"),
    ("status-set idle", 2, BAD_STATUS),
    ("status-set active a b", 2, 'unrecognized args: "b"'),
    ("open-port 0/tcp", 2, 'invalid port or port range "0/tcp"'),
    ("open-port 10-20", 2, "10-20: the sandbox has single ports of tcp and udp alone"),
    ("status-get --application", 2, "the sandbox has no status-get --application"),
    ("config-get --format=toml", 2, 'the sandbox has no --format=toml'),
    ("action-get", 1, "not running an action"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "code", "message"), FAILURES)
def test_a_command_that_fails(command: str, code: int, message: str):
    answer = execute(at(started()), command.split())
    assert answer == Answer(code, "", f"ERROR {message}\n")


FOLLOWER_FAILURES = [
    # In 4.0 a follower may: test_a_follower_reads_its_own_application_databag_in_4_0.
    ("relation-get -r 1 --app - server", "permission denied"),
    ("relation-set -r 1 --app a=b", "cannot write relation settings"),
    ("status-set --application=True active", "this unit is not the leader"),
]


@pytest.mark.parametrize(("command", "message"), FOLLOWER_FAILURES)
def test_what_only_a_leader_may(command: str, message: str):
    model = started()
    assert execute(at(model, "server/1"), command.split()) == Answer(1, "", f"ERROR {message}\n")
    assert execute(at(model, "server/0"), command.split()).returncode == 0


def test_a_follower_reads_its_own_application_databag_in_4_0():
    read = ("relation-get", "-r", "1", "--app", "-", "server")
    assert said(at(started("4.0"), "server/1"), *read) == "{}\n"


@pytest.mark.parametrize("kind", ["relation-created", "relation-changed", "relation-broken"])
def test_relation_get_without_arguments_is_of_the_application_where_no_unit_is(kind: str):
    """See determineUnitOrAppName in runner/jujuc/relation-get.go."""
    hook = Hook(kind, 1, "share", "client")
    assert said(at(started(), hook=hook), "relation-get") == "name: /data\n"
    assert said(at(started(), hook=hook), "relation-get", "name") == "/data\n"
    assert said(at(started(), hook=CHANGED), "relation-get", "wish") == "big\n"


def test_relation_set_is_read_in_the_hook_and_flushed_after_it():
    model = started()
    context = at(model)
    bag = model.relations[1].unit_bags["server/0"]
    before = bag.version
    said(context, "relation-set", "-r", "share:1", "--file", "-", stdin='{"a": "1", "b": "2"}')
    said(context, "relation-set", "-r", "1", "b=", "c=x=y")
    read = said(context, "relation-get", "--format=json", "-r", "share:1", "-", "server/0")
    assert {"a": "1", "c": "x=y"}.items() <= json.loads(read).items()
    assert "b" not in json.loads(read)
    assert (bag.version, "a" in bag.data) == (before, False)
    context.flush()
    assert (bag.version, bag.data["a"], bag.data["c"]) == (before + 1, "1", "x=y")


def test_relation_set_from_yaml_keeps_the_text_of_scalars():
    model = started()
    context = at(model, hook=CHANGED)
    said(context, "relation-set", "--app", "--file=-", stdin="size: 010\nfast: yes\n")
    read = ("relation-get", "--format=json", "-r", "share:1", "--app", "-", "server")
    assert said(context, *read) == '{"fast":"yes","size":"010"}\n'
    assert model.relations[1].app_bags["server"].data == {}
    context.flush()
    assert model.relations[1].app_bags["server"].data == {"fast": "yes", "size": "010"}


def test_without_flush_a_hook_leaves_nothing_but_what_acts_at_once():
    model = started()
    logged: list[tuple[str, str]] = []
    context = at(model, log=lambda level, message: logged.append((level, message)))
    said(context, "relation-set", "-r", "1", "a=1")
    said(context, "open-port", "2049/tcp")
    said(context, "status-set", "--application=False", "blocked", "--", "-x")
    said(context, "status-set", "--application=True", "active")
    said(context, "application-version-set", "--", "1.2")
    said(context, "juju-log", "--log-level", "WARNING", "--", "-m")
    unit = model.units["server/0"]
    assert "a" not in model.relations[1].unit_bags["server/0"].data
    assert unit.ports == set()
    assert (unit.status.status, unit.status.message) == ("blocked", "-x")
    assert model.applications["server"].status.status == "active"
    assert model.applications["server"].workload_version == "1.2"
    assert logged == [("WARNING", "-m")]


def test_opened_ports_shows_what_is_pending_by_protocol_and_number():
    """See OpenedUnitPortRanges in runner/context/ports.go, SortPortRanges in portrange.go."""
    model = started()
    context = at(model)
    for port in ("2049", "99/udp", "111"):
        said(context, "open-port", port)
    assert said(context, "opened-ports").split() == ["111/tcp", "2049/tcp", "99/udp"]
    assert model.units["server/0"].ports == set()
    context.flush()
    context = at(model)
    said(context, "close-port", "2049/tcp")
    assert json.loads(said(context, "opened-ports", "--format=json")) == ["111/tcp", "99/udp"]
    context.flush()
    assert model.units["server/0"].ports == {"111/tcp", "99/udp"}


@pytest.mark.parametrize("verb", ["open", "close"])
def test_a_port_that_another_unit_of_the_machine_has_is_not_ones_own(verb: str):
    """See checkForConflict in runner/context/ports.go."""
    model = started()
    operations.deploy(model, READER, "beside", to="0")
    idle(model)
    model.units["server/0"].ports = {"2049/tcp"}
    refused = execute(at(model, "beside/0"), [f"{verb}-port", "2049"])
    assert refused == Answer(
        1,
        "",
        f'ERROR cannot {verb} 2049/tcp (unit "beside/0"): '
        'port range conflicts with 2049/tcp (unit "server/0")\n',
    )
    # Another protocol, one's own, or on another machine, is no conflict.
    said(at(model, "beside/0"), f"{verb}-port", "2049/udp")
    said(at(model), f"{verb}-port", "2049")
    said(at(model, "server/1"), f"{verb}-port", "2049")


def test_what_a_hook_reads_of_others_does_not_change_while_it_runs():
    model = started()
    context = at(model, hook=CHANGED)
    assert said(context, "relation-get", "wish") == "big\n"
    model.relations[1].unit_bags["client/0"].update({"wish": "small"})
    model.applications["server"].settings["size"] = 9
    operations.remove_unit(model, "server/0")
    operations.settle(model)
    assert said(context, "relation-get", "wish") == "big\n"
    assert said(context, "config-get", "size") == "3\n"
    assert said(context, "relation-list") == "client/0\n"


def told(model: Model, hook: Hook) -> str:
    """Return what server/0 reads of client/0 in a hook."""
    return said(at(model, hook=hook), "relation-get", "-r", "1", "wish", "client/0")


def test_a_members_databag_is_kept_until_a_hook_of_that_member():
    """See runner/context/cache.go; getContextRelations and HookContext in contextfactory.go."""
    model = started()
    bag = model.relations[1].unit_bags["client/0"]
    operations.add_unit(model, "client", 1)
    idle(model)
    other = Hook("relation-changed", 1, "share", "client", "client/1")
    assert told(model, CHANGED) == "big\n"
    bag.update({"wish": "small"})
    for hook in (Hook("update-status"), other, Hook("relation-changed", 1, "share", "client")):
        assert told(model, hook) == "big\n"
    # It goes with the unit, not with the hook: an action reads no better.
    action = Context(model, model.units["server/0"], action=Action("1", "grow"))
    assert said(action, "relation-get", "-r", "1", "wish", "client/0") == "big\n"
    assert told(model, CHANGED) == "small\n"
    # What its hook does not read is read, and then kept, when it is first asked for.
    at(model, hook=CHANGED)
    bag.update({"wish": "none"})
    assert told(model, Hook("update-status")) == "none\n"
    bag.update({"wish": "some"})
    assert told(model, Hook("update-status")) == "none\n"


def test_a_databag_of_no_member_or_of_the_application_is_read_anew_in_each_hook():
    """Prune in runner/context/cache.go keeps members alone."""
    model = started()
    relation, unit = model.relations[1], model.units["server/0"]
    read = ("relation-get", "-r", "1", "--app", "name", "client")
    assert said(at(model), *read) == "/data\n"
    relation.app_bags["client"].update({"name": "/other"})
    assert said(at(model), *read) == "/other\n"
    assert told(model, Hook("update-status")) == "big\n"
    departed = Hook("relation-departed", 1, "share", "client", "client/0", "client/0")
    relation.unit_bags["client/0"].update({"wish": "last"})
    assert told(model, departed) == "last\n"
    hooks.commit(model, unit, departed)
    relation.unit_bags["client/0"].update({"wish": "more"})
    assert told(model, Hook("update-status")) == "more\n"


def test_an_agent_that_starts_anew_has_kept_nothing():
    """The cache is in the memory of the context factory (init in uniter.go)."""
    model = started()
    assert told(model, CHANGED) == "big\n"
    model.relations[1].unit_bags["client/0"].update({"wish": "small"})
    hooks.start_agent(model.units["server/0"], is_cut=False)
    assert told(model, Hook("update-status")) == "small\n"


def test_the_own_application_databag_does_not_change_while_a_hook_runs():
    """A follower's goes through the cache: mustReadSettingsFromController, relation-get.go."""
    model = started()
    context = at(model, "server/1")
    read = ("relation-get", "-r", "0", "--app", "-", "server")
    assert said(context, *read) == "{}\n"
    model.relations[0].app_bags["server"].update({"a": "1"})
    assert said(context, *read) == "{}\n"
    assert said(at(model, "server/1"), *read) == "a: '1'\n"


@pytest.mark.parametrize(
    ("juju", "problem"),
    [
        ("3.6", 'checking leadership continuity: "server/0" is not leader of "server"'),
        ("4.0", "lease not held"),
    ],
)
def test_what_a_leader_wrote_is_refused_once_it_has_lost_the_lead(juju: Profile, problem: str):
    """All of it, for it is one transaction: CommitHookChanges in agent/uniter/uniter.go."""
    model = started(juju)
    context = at(model)
    said(context, "relation-set", "-r", "1", "--app", "a=1")
    said(context, "relation-set", "-r", "1", "b=2")
    said(context, "open-port", "1")
    operations.lead(model, "server/1")
    with pytest.raises(FlushError, match=problem):
        context.flush()
    assert "a" not in model.relations[1].app_bags["server"].data
    assert "b" not in model.relations[1].unit_bags["server/0"].data
    assert not model.units["server/0"].ports
    # Who has not written as leader has nothing to lose.
    context = at(model)
    said(context, "relation-set", "-r", "1", "b=2")
    context.flush()
    assert model.relations[1].unit_bags["server/0"].data["b"] == "2"


def test_who_was_told_that_it_does_not_lead_does_not_lead_in_that_hook():
    model = started()
    context = at(model, "server/1")
    assert said(context, "is-leader") == "False\n"
    model.applications["server"].leader = "server/1"
    assert said(context, "is-leader") == "False\n"
    assert said(at(model, "server/1"), "is-leader") == "True\n"


def test_while_a_relation_breaks_it_is_left_out_but_can_still_be_read():
    model = started()
    operations.remove_relation(model, "server", "client")
    unit = model.units["server/0"]
    departed = hooks.next_hook(model, unit)
    context = at(model, hook=departed)
    assert departed.kind == "relation-departed"
    assert said(context, "relation-list") == ""
    assert said(context, "relation-ids", "share") == "share:1\n"
    hooks.commit(model, unit, departed)
    broken = hooks.next_hook(model, unit)
    context = at(model, hook=broken)
    assert broken.kind == "relation-broken"
    assert said(context, "relation-ids", "share", "--format=json") == "[]\n"
    assert said(context, "relation-list", "--format=json", "-r", "share:1") == "[]\n"
    # Nor does any other hook list it (getContextRelations in contextfactory.go).
    assert said(at(model), "relation-ids", "share") == ""
    own = said(context, "relation-get", "--format=json", "-r", "share:1", "-", "server/0")
    assert json.loads(own)["ingress-address"] == "10.77.0.10"
    gone = said(context, "relation-get", "--format=json", "-r", "share:1", "-", "client/0")
    assert json.loads(gone)["wish"] == "big"


def test_a_relation_that_only_this_unit_leaves_is_listed_while_it_breaks():
    """It is broken by the relation's life, not by the unit's (contextfactory.go)."""
    model = started()
    operations.remove_unit(model, "server/0")
    unit = model.units["server/0"]
    while (hook := hooks.next_hook(model, unit)).kind != "relation-broken":
        hooks.commit(model, unit, hook)
        operations.settle(model)
    assert said(at(model, hook=hook), "relation-ids", "share") == "share:1\n"


def test_a_joining_unit_is_listed_before_its_hook_has_been_committed():
    model = started()
    operations.add_unit(model, "client", 1)
    unit = model.units["server/0"]
    while (hook := hooks.next_hook(model, unit)) is None:
        other = model.units["client/1"]
        hooks.commit(model, other, hooks.next_hook(model, other))
        operations.settle(model)
    assert (hook.kind, hook.remote_unit) == ("relation-joined", "client/1")
    assert said(at(model, hook=hook), "relation-list") == "client/0\nclient/1\n"


def test_juju_log_names_the_relation():
    logged: list[tuple[str, str]] = []
    context = at(started(), hook=CHANGED, log=lambda *line: logged.append(line))
    said(context, "juju-log", "hello", "you")
    said(context, "juju-log", "-l", "error", "bad")
    assert logged == [("INFO", "share:1: hello you"), ("ERROR", "share:1: bad")]


def test_an_application_of_another_model_has_that_models_identity():
    model = started()
    consumer = f"remote-{'0f' * 16}"
    operations.deploy(model, READER, consumer, other_model="elsewhere")
    relation = model.relations[operations.integrate(model, "server", consumer)]
    idle(model)
    inside = at(model, f"{consumer}/0", Hook("relation-changed", relation.id, "share", "server"))
    environment = inside.environment()
    assert environment["JUJU_MODEL_NAME"] == "elsewhere"
    theirs = environment["JUJU_MODEL_UUID"]
    assert theirs != model.uuid
    here = at(model)
    assert here.environment()["JUJU_MODEL_NAME"] == "test"
    said_uuids = [
        json.loads(said(context, "relation-model-get", "-r", f"{number}", "--format=json"))["uuid"]
        for context, number in ((here, relation.id), (inside, relation.id), (here, 1))
    ]
    assert said_uuids == [theirs, model.uuid, model.uuid]
    assert said(here, "relation-list", "-r", f"{relation.id}") == f"{consumer}/0\n"


def test_goal_state_has_no_subordinates_but_the_units_own():
    """See oneGoalState and goalStateUnits in agent/uniter/uniter.go."""
    model = started()
    operations.deploy(model, CLIENT, "sub")
    operations.integrate(model, "server:juju-info", "sub")
    idle(model)
    operations.remove_unit(model, "server/1")
    goal = json.loads(said(at(model), "goal-state", "--format=json"))
    states = {name: unit["status"] for name, unit in goal["units"].items()}
    assert states == {"server/0": "unknown", "server/1": "dying"}
    related = {name: set(units) for name, units in goal["relations"].items()}
    assert related == {"share": {"client", "client/0"}, "juju-info": {"sub", "sub/0"}}
    goal = json.loads(said(at(model, "sub/1"), "goal-state", "--format=json"))
    assert goal["units"] == {}
    assert set(goal["relations"]["juju-info"]) == {"server", "server/0", "server/1"}


def test_an_action_gives_results_even_when_it_fails():
    model = started()
    action = Action("3", "grow", {"to": 4, "fast": True})
    context = Context(model, model.units["server/0"], action=action)
    assert said(context, "action-get", "--format=json") == '{"fast":true,"to":4}\n'
    assert said(context, "action-get", "fast") == "True\n"
    said(context, "action-set", "a.b=1", "a.c=x=y", "d=")
    said(context, "action-fail", "--", "no space")
    said(context, "relation-set", "-r", "1", "a=1")
    assert action.results == {"a": {"b": "1", "c": "x=y"}, "d": ""}
    assert action.failure == "no space"
    # See Init in runner/jujuc/action-set.go: all are faults of the arguments.
    for key in ("stdout", "a.stderr-encoding", "Big", "a..b", "a-", "a_b"):
        assert execute(context, ["action-set", "e=1", f"{key}=1"]).returncode == 2
    assert "e" not in action.results
    said(context, "action-set", "return-code=5")
    assert execute(context, ["action-set", "x"]) == Answer(
        2, "", 'ERROR argument "x" must be of the form key...=value\n'
    )
    said(context, "action-fail")
    assert action.failure == "action failed without reason given, check action for errors"


ALWAYS = {
    "CHARM_DIR": "/var/lib/juju/agents/unit-server-0/charm",
    "JUJU_CHARM_DIR": "/var/lib/juju/agents/unit-server-0/charm",
    "JUJU_AGENT_SOCKET_ADDRESS": "/var/lib/juju/agents/unit-server-0/agent.socket",
    "JUJU_AGENT_SOCKET_NETWORK": "unix",
    "JUJU_UNIT_NAME": "server/0",
    "JUJU_MODEL_UUID": "7f1c",
    "JUJU_MODEL_NAME": "test",
    "JUJU_API_ADDRESSES": "10.77.0.1:17070",
    "JUJU_MACHINE_ID": "0",
    "JUJU_PRINCIPAL_UNIT": "",
    "JUJU_AVAILABILITY_ZONE": "",
    "CLOUD_API_VERSION": "",
    "JUJU_CHARM_HTTP_PROXY": "",
    "JUJU_CHARM_HTTPS_PROXY": "",
    "JUJU_CHARM_FTP_PROXY": "",
    "JUJU_CHARM_NO_PROXY": "127.0.0.1,localhost,::1",
    "APT_LISTCHANGES_FRONTEND": "none",
    "DEBIAN_FRONTEND": "noninteractive",
    "LANG": "C.UTF-8",
    "TERM": "tmux-256color",
    "PATH": "/var/lib/juju/tools/unit-server-0:"
    "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
}
OF_PROFILE = {
    "3.6": {"JUJU_VERSION": "3.6.28", "JUJU_SLA": "unsupported"},
    "4.0": {
        "JUJU_VERSION": "4.0.15",
        "JUJU_CHARM_TRACE_CONFIG_HTTP": "",
        "JUJU_CHARM_TRACE_CONFIG_GRPC": "",
        "JUJU_CHARM_TRACE_CONFIG_CA_CERT": "",
    },
}
SHARE = {"JUJU_RELATION": "share", "JUJU_RELATION_ID": "share:1", "JUJU_REMOTE_APP": "client"}
OF_KIND = [
    (Hook("install"), "install", {}),
    (
        Hook("relation-created", 1, "share", "client"),
        "share-relation-created",
        {**SHARE, "JUJU_REMOTE_UNIT": ""},
    ),
    (
        Hook("relation-departed", 1, "share", "client", "client/0", "server/0"),
        "share-relation-departed",
        {**SHARE, "JUJU_REMOTE_UNIT": "client/0", "JUJU_DEPARTING_UNIT": "server/0"},
    ),
    (
        Hook("storage-attached", storage_id="data/0"),
        "data-storage-attached",
        {
            "JUJU_STORAGE_ID": "data/0",
            "JUJU_STORAGE_LOCATION": "/srv/data",
            "JUJU_STORAGE_KIND": "filesystem",
        },
    ),
    (
        Action("5", "grow"),
        "",
        {
            "JUJU_DISPATCH_PATH": "actions/grow",
            "JUJU_ACTION_NAME": "grow",
            "JUJU_ACTION_UUID": "5",
            "JUJU_ACTION_TAG": "action-5",
        },
    ),
    (Action("6", "juju-exec"), "", {}),
]


@pytest.mark.parametrize("juju", get_args(Profile))
@pytest.mark.parametrize(("what", "name", "own"), OF_KIND)
def test_the_environment_is_exactly_that_of_juju(juju: Profile, what, name: str, own):
    model = started(juju)
    unit = model.units["server/0"]
    model.storage["data/0"].location = "/srv/data"
    hook = what if isinstance(what, Hook) else None
    context = Context(model, unit, hook, None if hook else what)
    env = context.environment()
    identity = env.pop("JUJU_CONTEXT_ID")
    path = {"JUJU_DISPATCH_PATH": f"hooks/{name}"} if name else {}
    assert env == ALWAYS | OF_PROFILE[juju] | {"JUJU_HOOK_NAME": name} | path | own
    kind = name or {"grow": "grow"}.get(what.name, "run-commands")
    assert identity.startswith(f"server/0-{kind}-")
    assert len(identity.rpartition("-")[2]) == 32


@pytest.mark.parametrize("juju", get_args(Profile))
def test_the_databag_that_juju_fills(juju: Profile):
    data = started(juju).relations[1].unit_bags["server/0"].data
    expected = {"ingress-address": "10.77.0.10", "egress-subnets": "10.77.0.10/32"}
    private = {"private-address": "10.77.0.10"} if juju == "3.6" else {}
    assert data == expected | private

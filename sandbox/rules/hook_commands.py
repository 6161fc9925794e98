# SPDX-License-Identifier: Apache-2.0
"""The hook commands: their arguments, and their output as Juju prints it. No I/O.

They read and write one context (context.py), which keeps Juju's rules of what is seen and flushed.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import yaml

from sandbox.rules import gnuflag
from sandbox.rules.charm import Value
from sandbox.rules.context import CommandError, Context
from sandbox.rules.gnuflag import UsageError
from sandbox.rules.model import Status, port_order

INTERFACE = "vec0"
NETWORK = "10.77.0.0/24"

SETTABLE_STATUSES = ("maintenance", "blocked", "waiting", "active")
_RESULT_KEY = re.compile(r"[a-z0-9]+(-+[a-z0-9]+)*")
_RESERVED_RESULTS = ("stdout", "stdout-encoding", "stderr", "stderr-encoding")
_PORT = re.compile(r"(\d+)(?:/(tcp|udp))?", re.ASCII)


class Answer(NamedTuple):
    """What a hook command gives back."""

    returncode: int = 0
    stdout: str = ""
    stderr: str = ""


@dataclass(frozen=True)
class Arguments(gnuflag.Arguments):
    """The parsed arguments of a hook command."""

    stdin: str

    def word(self, index: int, default: str = "") -> str:
        """Return a positional argument."""
        return self.words[index] if index < len(self.words) else default

    def pairs(self, problem: str = 'expected "key=value", got "{}"') -> dict[str, str]:
        """Return the positional arguments as key=value."""
        pairs: dict[str, str] = {}
        for word in self.words:
            key, equals, value = word.partition("=")
            if not equals or not key:
                raise UsageError(problem.format(word))
            pairs[key] = value
        return pairs

    def pairs_and_file(self) -> dict[str, str]:
        """Return key=value arguments, over those of `--file -`."""
        source = self.one("file")
        if source not in ("", "-"):
            raise CommandError(f"--file {source}: only --file - is supported by the sandbox")
        # BaseLoader makes strings, lists and maps only, and keeps every scalar the text it is.
        loaded: object = yaml.load(self.stdin, yaml.BaseLoader) if source else None  # noqa: S506
        if not isinstance(loaded, dict | None):
            raise CommandError("the file does not contain a map of strings")
        return cast("dict[str, str]", loaded or {}) | self.pairs()


@dataclass(frozen=True)
class Command:
    """A hook command: what it does, its options as gnuflag.parse wants them, and its words."""

    run: Callable[[Context, Arguments], object]
    spec: str = ""
    least_words: int = 0
    most_words: int | None = 0
    has_output: bool = False

    def parse(self, argv: Sequence[str], stdin: str) -> Arguments:
        """Read the arguments."""
        spec = f"{self.spec} format=" if self.has_output else self.spec
        given = gnuflag.parse(spec, argv)
        if self.most_words is not None and len(given.words) > self.most_words:
            extra = " ".join(given.words[self.most_words :])
            raise UsageError(f'unrecognized args: "{extra}"')
        if len(given.words) < self.least_words:
            raise UsageError("an argument is missing")
        return Arguments(given.options, given.words, stdin)


def _formatted(value: object, arguments: Arguments) -> str:
    kind = arguments.one("format", "smart")
    if kind == "json":
        return json.dumps(value, sort_keys=True, separators=(",", ":")) + "\n"
    if kind != "smart":
        raise UsageError(f"the sandbox has no --format={kind}")
    return _smart(value)


def _yaml(value: object) -> str:
    # A bare scalar would end with the document end marker.
    return yaml.safe_dump(value, default_flow_style=False).removesuffix("...\n")


def _smart(value: object) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, list):
        return "".join(f"{item}\n" for item in cast("list[object]", value))
    if isinstance(value, (str, bool, int, float)):
        return f"{value}\n"
    return _yaml(value)


# The hook commands.


def _config_get(context: Context, arguments: Arguments) -> object:
    config = {key: _as_go_prints(value) for key, value in context.config.items()}
    key = arguments.word(0)
    return config.get(key) if key else config


def _as_go_prints(value: Value) -> Value:
    """Return a whole number in place of a float that is one: Go prints no ".0"."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _relation_ids(context: Context, arguments: Arguments) -> object:
    name = arguments.word(0) or (context.hook.endpoint if context.hook else "")
    if not name:
        raise UsageError("no endpoint name specified")
    ends = [(r.endpoints[context.unit.app].name, r.id) for r in context.active_relations()]
    return sorted(f"{endpoint}:{number}" for endpoint, number in ends if endpoint == name)


def _relation_list(context: Context, arguments: Arguments) -> object:
    relation = context.relation(arguments.one("relation"))
    if arguments.has("app"):
        return relation.remote_app(context.unit.app)
    return context.members[relation.id]


def _relation_get(context: Context, arguments: Arguments) -> object:
    relation = context.relation(arguments.one("relation"))
    key, owner = arguments.word(0, "-"), arguments.word(1)
    data = context.read_bag(relation, _owner(context, owner, is_app=arguments.has("app")))
    return data if key in ("", "-") else data.get(key)


def _owner(context: Context, named: str, *, is_app: bool) -> str:
    """Return whose databag is meant: where no unit is, the application's (relation-get.go)."""
    hook = context.hook
    if is_app:
        owner = (named or (hook.remote_app if hook else "")).partition("/")[0]
    elif named and "/" not in named:
        raise UsageError(f'expected unit name, got application name "{named}"')
    else:
        owner = named or (hook.remote_unit or hook.remote_app if hook else "")
    if not owner:
        raise UsageError("no unit or application specified")
    return owner


def _relation_set(context: Context, arguments: Arguments) -> object:
    relation = context.relation(arguments.one("relation"))
    changes = arguments.pairs_and_file()
    context.write_bag(relation, changes, to_app=arguments.has("app"))


def _relation_model_get(context: Context, arguments: Arguments) -> object:
    relation = context.relation(arguments.one("relation"))
    return {"uuid": context.model.identity(relation.remote_app(context.unit.app))[1]}


def _port(text: str) -> str:
    """Read "2049" or "2049/tcp" into the form of opened-ports."""
    found = _PORT.fullmatch(text)
    if not found:
        raise UsageError(f"{text}: the sandbox has single ports of tcp and udp alone")
    if not 1 <= int(found[1]) <= 65535:
        raise UsageError(f'invalid port or port range "{text}"')
    return f"{found[1]}/{found[2] or 'tcp'}"


def _opened_ports(context: Context, _arguments: Arguments) -> object:
    return sorted(context.ports(), key=port_order)


def _change_port(*, is_open: bool) -> Callable[[Context, Arguments], object]:
    """Return open-port or close-port."""
    return lambda context, it: context.change_port(_port(it.word(0)), is_open=is_open)


def _status_set(context: Context, arguments: Arguments) -> object:
    status, message = arguments.word(0), arguments.word(1)
    if status not in SETTABLE_STATUSES:
        raise UsageError(
            f'invalid status "{status}", expected one of [{" ".join(SETTABLE_STATUSES)}]'
        )
    if not arguments.has("application"):
        context.unit.status = Status(status, message)
        context.unit.is_status_set_by_charm = True
    elif context.is_leader():
        context.app.status = Status(status, message)
    else:
        raise CommandError("this unit is not the leader")


def _status_get(context: Context, arguments: Arguments) -> object:
    """Return a map, but for a person the status alone (status-get.go)."""
    if arguments.has("application"):
        raise UsageError("the sandbox has no status-get --application")
    status, message = context.unit.status.status, context.unit.status.message
    if arguments.has("include-data"):
        return {"status": status, "message": message, "status-data": {}}
    return status if arguments.one("format", "smart") == "smart" else {"status": status}


def _application_version_set(context: Context, arguments: Arguments) -> object:
    context.app.workload_version = arguments.word(0)


def _goal_state(context: Context, _arguments: Arguments) -> object:
    relations: dict[str, dict[str, object]] = {}
    for relation in context.active_relations():
        if relation.is_peer:
            continue
        remote = context.model.applications[relation.remote_app(context.unit.app)]
        goals = relations.setdefault(relation.endpoints[context.unit.app].name, {})
        goals[remote.name] = {"status": "joined", "since": context.unit.status.since}
        goals |= _unit_goals(context, remote.name)
    return {"units": _unit_goals(context, context.unit.app), "relations": relations}


def _unit_goals(context: Context, app: str) -> dict[str, object]:
    """Leave out each subordinate but this unit's own (goalStateUnits, agent/uniter/uniter.go)."""
    return {
        unit.name: {
            "status": "dying" if unit.life == "dying" else unit.displayed_status.status,
            "since": unit.displayed_status.since,
        }
        for unit in context.model.units_of(app)
        if unit.principal in ("", context.unit.name)
    }


def _juju_log(context: Context, arguments: Arguments) -> object:
    level = arguments.one("log-level", "INFO").upper()
    hook = context.hook
    prefix = f"{hook.endpoint}:{hook.relation_id}: " if hook and hook.endpoint else ""
    context.log(level, prefix + " ".join(arguments.words))


def _network_get(context: Context, arguments: Arguments) -> object:
    binding = arguments.word(0)
    if binding not in (*context.app.charm.endpoints, "juju-info"):
        raise CommandError(f'no network config found for binding "{binding}"')
    if arguments.one("relation"):
        context.relation(arguments.one("relation"))
    address = context.model.address(context.unit)
    bind = {"hostname": "", "value": address, "cidr": NETWORK}
    return {
        "bind-addresses": [
            {"mac-address": "", "interface-name": INTERFACE, "addresses": [bind]},
        ],
        "egress-subnets": [f"{address}/32"],
        "ingress-addresses": [address],
    }


def _storage_list(context: Context, arguments: Arguments) -> object:
    name = arguments.word(0)
    return [s.id for s in context.attached_storage() if name in ("", s.name)]


def _storage_get(context: Context, arguments: Arguments) -> object:
    storage = context.storage(arguments.one("s"))
    values = {"kind": "filesystem", "location": storage.location}
    key = arguments.word(0)
    if key and key not in values:
        raise CommandError(f'invalid storage attribute "{key}"')
    return values[key] if key else values


def _action_get(context: Context, arguments: Arguments) -> object:
    params, key = context.running_action().params, arguments.word(0)
    return params.get(key) if key else params


def _action_set(context: Context, arguments: Arguments) -> object:
    pairs = arguments.pairs('argument "{}" must be of the form key...=value')
    for key in pairs:
        _check_result_key(key)
    for key, value in pairs.items():
        *path, last = key.split(".")
        results = context.running_action().results
        for part in path:
            inner = results.get(part)
            if not isinstance(inner, dict):
                inner = results[part] = {}
            results = cast("dict[str, object]", inner)
        results[last] = value


def _check_result_key(key: str) -> None:
    for part in key.split("."):
        if not _RESULT_KEY.fullmatch(part):
            raise UsageError(
                f'key "{part}" must start and end with lowercase alphanumeric, '
                "and contain only lowercase alphanumeric, hyphens and periods"
            )
        if part in _RESERVED_RESULTS:
            raise UsageError(f'cannot set reserved action key "{part}"')


def _action_fail(context: Context, arguments: Arguments) -> object:
    default = "action failed without reason given, check action for errors"
    context.running_action().failure = arguments.word(0, default)


COMMANDS: Mapping[str, Command] = {
    "action-fail": Command(_action_fail, most_words=1),
    "action-get": Command(_action_get, most_words=1, has_output=True),
    "action-set": Command(_action_set, most_words=None),
    "application-version-set": Command(_application_version_set, "", 1, 1),
    "close-port": Command(_change_port(is_open=False), "", 1, 1),
    "config-get": Command(_config_get, most_words=1, has_output=True),
    "goal-state": Command(_goal_state, has_output=True),
    "is-leader": Command(lambda context, _: context.is_leader(), has_output=True),
    "juju-log": Command(_juju_log, "log-level/l=", 1, None),
    "network-get": Command(_network_get, "relation/r=", 1, 1, has_output=True),
    "open-port": Command(_change_port(is_open=True), "", 1, 1),
    "opened-ports": Command(_opened_ports, has_output=True),
    "relation-get": Command(_relation_get, "relation/r= app", most_words=2, has_output=True),
    "relation-ids": Command(_relation_ids, most_words=1, has_output=True),
    "relation-list": Command(_relation_list, "relation/r= app", has_output=True),
    "relation-model-get": Command(_relation_model_get, "relation/r=", has_output=True),
    "relation-set": Command(_relation_set, "relation/r= file= app", most_words=None),
    "status-get": Command(_status_get, "include-data application", has_output=True),
    "status-set": Command(_status_set, "application", 1, 2),
    "storage-get": Command(_storage_get, "s=", most_words=1, has_output=True),
    "storage-list": Command(_storage_list, most_words=1, has_output=True),
}


def is_question(argv: Sequence[str]) -> bool:
    """Whether a hook command asks for what no one else changes in a hook, as they may the lead."""
    command = COMMANDS.get(argv[0])
    return command is not None and command.has_output and argv[0] != "is-leader"


def execute(context: Context, argv: Sequence[str], stdin: str = "") -> Answer:
    """Run one hook command; `argv[0]` is its name."""
    command = COMMANDS[argv[0]]
    try:
        arguments = command.parse(argv[1:], stdin)
        value = command.run(context, arguments)
        return Answer(0, _formatted(value, arguments) if command.has_output else "")
    except UsageError as error:
        return Answer(2, "", f"ERROR {error}\n")
    except CommandError as error:
        return Answer(1, "", f"ERROR {error}\n")

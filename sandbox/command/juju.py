# SPDX-License-Identifier: Apache-2.0
"""`juju` for a model of the sandbox: the words, output, exit codes and errors of Juju's command.

What it prints follows cmd/juju of Juju 3.6 and 4.0. What it has not is refused by name. Modules
that are slow to import are imported where they are needed.
"""

import fnmatch
import itertools
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from sandbox.command.line import (
    CURRENT,
    Call,
    CommandError,
    UsageError,
    dump,
    lazy_yaml,
    model_named,
    pairs,
    parse,
    read_yaml,
    settings,
    values,
)
from sandbox.controller.client import ControllerError, ask, running_models
from sandbox.rules.status import Status, columns, table

JUJU_VERSION = "3.6.28"
"""What `juju version` says while no model is there to follow."""

_LEVELS = ("TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_DEFAULT_LINES = 10
_POLL_S = 0.5
# Juju too looks for the end of a task at growing intervals.
_FIRST_LOOK_S, _LAST_LOOK_S, _LOOK_FACTOR = 0.02, 0.2, 1.5
_UNIT_OR_LEADER = re.compile(r"[a-z][a-z0-9-]*/(?:\d+|leader)")
_NOT_SHOWN = ("return-code", "stdout", "stderr")


Command = Callable[[Call], int | None]
_commands: dict[str, tuple[Command, str]] = {}


def _command(options: str = "", *names: str) -> Callable[[Command], Command]:
    """Add a command with its options: `name=` takes a value, `name/n` has a shorter name too."""

    def add(function: Command) -> Command:
        own = function.__name__.strip("_").replace("_", "-")
        for name in (own, *names):
            _commands[name] = function, options
        return function

    return add


def main(arguments: Sequence[str]) -> int:
    """Run a command, given without `juju`; the exit status."""
    name, *words = arguments or ["help"]
    try:
        if name in ("help", "-h", "--help"):
            print("The sandbox's juju has:", *sorted(_commands), sep="\n    ")
            return 0
        if name not in _commands:
            raise UsageError(f'the sandbox has no "juju {name}": try that on Juju')
        function, options = _commands[name]
        return function(parse(name, options, words)) or 0
    except UsageError as error:
        _say(f"ERROR {error}")
        return 2
    except (CommandError, ControllerError) as error:
        if str(error):
            _say(f"ERROR {error}")
        return 1
    except (KeyboardInterrupt, BrokenPipeError):
        # What is left is not written where nobody reads.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


# -- What there is


@_command("format= relations integrations storage color no-color utc", "show-status")
def _status(call: Call) -> None:
    call.take()
    status: dict[str, Any] = {**call.status, "storage": _storage_info(call)}
    relations = status.pop("relations")
    if call.write(status, "tabular"):
        return
    sections = [table(call.status)]
    if call.has("relations") or call.has("integrations"):
        titles = ["Integration provider", "Requirer", "Interface", "Type", "Message"]
        keys = ("provider", "requirer", "interface", "type", "status")
        sections.append(columns(titles, sorted([it[key] for key in keys] for it in relations)))
    if call.has("storage"):
        sections.append(_storage_table(call))
    print("\n\n".join(filter(None, sections)))


@_command("format=")
def _show_unit(call: Call) -> None:
    names = call.take("an unit name must be supplied", more=True)
    call.write({name: call.ask("show_unit", unit=name) for name in names}, "yaml")


@_command("format=", "list-models")
def _models(call: Call) -> None:
    call.take()
    statuses = {it.name: cast("Status", ask(it, "status")) for it in running_models()}
    current = call.model.name if statuses else ""
    found = [{"name": f"admin/{name}", "short-name": name, "type": "iaas"} for name in statuses]
    if call.write({"models": found, "current-model": current}, "tabular"):
        return
    rows = [
        [name + "*" * (name == current), "sandbox", "iaas", "available", str(len(it["machines"]))]
        for name, it in statuses.items()
    ]
    titles = ["Model", "Cloud/Region", "Type", "Status", "Machines"]
    text = columns(titles, rows) or "There are no models here: ./dev demo --keep leaves one."
    print(f"Controller: sandbox\n\n{text}")


@_command()
def _switch(call: Call) -> None:
    before = f"sandbox:admin/{call.model.name}"
    if not call.words:
        print(before)
        return
    (name,) = call.take("")
    chosen = model_named(name).name
    CURRENT.write_text(chosen)
    _say(f"{before} -> sandbox:admin/{chosen}")


@_command("format= all")
def _version(call: Call) -> None:
    call.take()
    version = call.status["model"].get("version", "") if running_models() else JUJU_VERSION
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    text = f"{version}-genericlinux-{arch}"
    if not call.write({"version": text} if call.has("all") else text, "smart"):
        print(text)


@_command("no-prompt destroy-storage release-storage force no-wait timeout/t=")
def _destroy_model(call: Call) -> None:
    (name,) = call.take("no model specified")
    model = model_named(name)
    if not call.has("no-prompt"):
        _say(f'WARNING This command will destroy the "{model.name}" model and all in it.\n')
        sys.stderr.write("To continue, enter the name of the model to be destroyed: ")
        if sys.stdin.readline().strip() != model.name:
            raise CommandError("model destruction aborted")
    _say("Destroying model")
    ask(model, "destroy")
    while model.is_running():
        time.sleep(_FIRST_LOOK_S)
    _say("Model destroyed.")


# -- Applications


@_command("num-units/n= config= storage= constraints= to= base= attach-storage= trust")
def _deploy(call: Call) -> None:
    charm, *names = call.take("no charm or bundle specified", more=True)
    if len(names) > 1:
        raise UsageError(f"unrecognized args: {json.dumps(names[1:])}")
    path = _local(charm)
    section = [*names, Path(charm).name.removesuffix(".charm").partition("_")[0]][0]
    config: dict[str, object] = {}
    for text in call.texts("config"):
        config |= values([text]) if "=" in text else settings(text, section)
    name, charm_name = call.ask(
        "deploy",
        charm=path,
        application=names[0] if names else None,
        num_units=call.number("num-units", None),
        config=config,
        storage=pairs(call.texts("storage")),
        to=call.many("to") or None,
        attach=call.many("attach-storage"),
    )
    revision = call.status["applications"][name].get("charm-rev", 0)
    _say(f'Located local charm "{charm_name}", revision {revision}')
    _say(f'Deploying "{name}" from local charm "{charm_name}", revision {revision}')


def _local(charm: str) -> str:
    """Return the path of a packed charm."""
    if not charm.startswith(("./", "../", "/")):
        if Path(charm).exists():
            raise CommandError(
                f'The charm or bundle "{charm}" is ambiguous.\n'
                f"To deploy a local charm or bundle, run `juju deploy ./{charm}`.\n"
                f"To deploy a charm or bundle from CharmHub, run `juju deploy ch:{charm}`."
            )
        raise UsageError(
            f'the sandbox has no Charmhub for "juju deploy {charm}": deploy a packed charm,'
            " such as those that ./dev pack leaves in ./.cache/charms"
        )
    if not Path(charm).exists():
        raise CommandError(f'no charm was found at "{charm}"')
    return str(Path(charm).resolve())


@_command("", "relate")
def _integrate(call: Call) -> None:
    a, b = call.take(*["a relation must involve two applications"] * 2)
    call.ask("integrate", a=a, b=b)


@_command()
def _remove_relation(call: Call) -> None:
    a, b = call.take(*["a relation must involve two applications"] * 2)
    call.ask("remove_relation", a=a, b=b)


@_command("format= reset= file=")
def _config(call: Call) -> None:
    app, *words = call.take("no application name specified", more=True)
    sets = _sets(words, is_reset=bool(call.many("reset")))
    if keys := call.many("reset"):
        call.ask("reset_config", application=app, keys=keys)
    if path := call.one("file"):
        if words:
            raise UsageError("cannot specify --file and key=value arguments simultaneously")
        call.ask("set_config", application=app, values=settings(path, app))
    elif sets:
        options = call.ask("get_config", application=app)
        given = values(words)
        for key, value in given.items():
            if key in options and _text(options[key]["value"]) == value:
                _say(f'WARNING the configuration setting "{key}" already has the value "{value}"')
        call.ask("set_config", application=app, values=given)
    elif words or not keys:
        _show_config(call, app, words)


def _sets(words: Sequence[str], *, is_reset: bool) -> bool:
    """Whether the words set values; if not, there is at most one, which is to be shown."""
    sets = sum("=" in word for word in words)
    if words and not sets and is_reset:
        raise UsageError("cannot reset and retrieve values simultaneously")
    if 0 < sets < len(words):
        raise UsageError("cannot set and retrieve values simultaneously")
    if not sets and len(words) > 1:
        raise UsageError("can only retrieve a single value, or all values")
    return bool(sets)


def _show_config(call: Call, app: str, words: Sequence[str]) -> None:
    options = call.ask("get_config", application=app)
    if not words:
        found = call.status["applications"][app]
        trust = {"default": False, "source": "default", "type": "bool", "value": False}
        shown = {
            "application": app,
            "application-config": {"trust": trust},
            "charm": found.get("charm-name", found["charm"]),
            "settings": {
                name: {key: value for key, value in option.items() if value is not None}
                for name, option in options.items()
            },
        }
        call.write(shown, "yaml")
    elif words[0] in options:
        print(_text(options[words[0]]["value"]))
    else:
        where = f'"{app}" application config or charm settings.'
        raise CommandError(f'key "{words[0]}" not found in {where}')


@_command("format= reset=")
def _model_config(call: Call) -> None:
    sets = _sets(call.words, is_reset=bool(call.many("reset")))
    if keys := call.many("reset"):
        call.ask("reset_model_config", keys=keys)
    if sets:
        call.ask("set_model_config", values=pairs(call.words))
        return
    config = call.ask("model_config")
    if call.words:
        if call.words[0] not in config:
            raise CommandError(f'key "{call.words[0]}" not found in "{call.model.name}" model.')
        print(config[call.words[0]]["value"])
    elif not keys:
        typed = {
            key: it | {"value": {"true": True, "false": False}.get(it["value"], it["value"])}
            for key, it in config.items()
        }
        if call.one("format") == "json":
            typed = {k: {name.title(): v for name, v in it.items()} for k, it in typed.items()}
        if not call.write(typed, "tabular"):
            rows = [[key, it["source"], it["value"]] for key, it in config.items()]
            print(columns(["Attribute", "From", "Value"], rows))


@_command("num-units/n= to= attach-storage=")
def _add_unit(call: Call) -> None:
    (app,) = call.take("no application specified")
    call.ask(
        "add_unit",
        application=app,
        count=call.number("num-units", 1),
        to=call.many("to") or None,
        attach=call.many("attach-storage"),
    )


@_command("no-prompt destroy-storage force no-wait num-units=")
def _remove_unit(call: Call) -> None:
    if call.one("num-units"):
        raise UsageError("--num-units for non k8s models not valid")
    for name in call.take("no units specified", more=True):
        if not re.fullmatch(r"[a-z][a-z0-9-]*/\d+", name):
            raise UsageError(f'invalid unit name "{name}"')

    def remove(name: str) -> None:
        machine = call.units[name]["machine"] if name in call.units else ""
        state = call.status["machines"].get(machine, {"juju-status": {"current": ""}})
        if call.has("force") and state["juju-status"]["current"] == "down":
            call.ask("lose_unit", unit=name)
        else:
            call.ask("remove_unit", units=[name], destroy_storage=call.has("destroy-storage"))

    _remove(call, "unit", lambda name: _storage_lines(call, [name]), remove)


@_command("no-prompt destroy-storage force no-wait")
def _remove_application(call: Call) -> None:
    call.take("no application specified", more=True)
    destroys = call.has("destroy-storage")

    def lines(app: str) -> list[str]:
        own = [name for name, it in call.units.items() if it["application"] == app]
        return [*(f"- will remove unit {name}" for name in own), *_storage_lines(call, own)]

    def remove(app: str) -> None:
        call.ask("remove_application", application=app, destroy_storage=destroys)

    _remove(call, "application", lines, remove)


def _storage_lines(call: Call, names: Sequence[str]) -> list[str]:
    """Say what becomes of the storage of units."""
    found = [it for it in call.ask("storage") if it["owner"] in names]
    goes = {True: "remove", False: "detach"}
    return [
        f"- will {goes[call.has('destroy-storage') or it['pool'] == 'rootfs']} storage {it['id']}"
        for it in found
    ]


def _remove(
    call: Call, kind: str, lines: Callable[[str], list[str]], remove: Callable[[str], None]
) -> None:
    """Say what goes, ask unless told not to, and let it go."""
    plan = {name: [f"will remove {kind} {name}", *lines(name)] for name in call.words}
    is_asked = not call.has("no-prompt")
    if is_asked:
        _say("WARNING This command will perform the following actions:")
        print(*itertools.chain(*plan.values()), sep="\n", flush=True)
        sys.stderr.write("\nContinue [y/N]? ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise CommandError(f"{kind} removal: aborted")

    def one(name: str) -> None:
        remove(name)
        if not is_asked:
            print(*plan[name], sep="\n")

    _each(call.words, one, f"ERROR removing {kind} {{}} failed: {{}}")


def _each(names: Iterable[str], do: Callable[[str], None], failure: str) -> None:
    """Do the same to each of some things, say of which it was refused, and fail if any was."""
    refused = False
    for name in names:
        try:
            do(name)
        except ControllerError as error:
            refused = True
            _say(failure.format(name, error))
    if refused:
        raise CommandError


@_command("path=")
def _refresh(call: Call) -> None:
    (app,) = call.take("no application specified")
    if not call.one("path"):
        raise UsageError(f'the sandbox has no Charmhub for "juju refresh {app}": give --path')
    path = str(Path(call.one("path")).resolve())
    call.ask("refresh", application=app, charm=path)
    found = call.status["applications"][app]
    name, revision = found.get("charm-name"), found.get("charm-rev")
    _say(f'Added local charm "{name}", revision {revision}, to the model')


@_command("no-retry all", "resolve")
def _resolved(call: Call) -> None:
    names = call.words
    if call.has("all"):
        call.take()
        failed = "workload-status"
        names = [n for n, it in call.units.items() if it["status"][failed]["current"] == "error"]
    elif not names:
        raise UsageError("no unit specified")
    for name in names:
        call.ask("resolved", unit=name, retry=not call.has("no-retry"))


# -- Machines and storage


@_command("num-machines/n= base= constraints=")
def _add_machine(call: Call) -> None:
    call.take()
    for _ in range(call.number("num-machines", 1) or 0):
        _say(f"created machine {call.ask('add_machine')}")


@_command("format=", "list-storage")
def _storage(call: Call) -> None:
    call.take()
    if not call.write(_storage_info(call), "tabular"):
        print(_storage_table(call) or "No storage to display.")


def _storage_table(call: Call) -> str:
    rows = [
        [
            it["owner"] or "",
            it["id"],
            it["kind"],
            it["pool"],
            f"{it['size'] / 1024:.1f} GiB" if it["size"] >= 1024 else f"{it['size']:.1f} MiB",
            it["status"],
            "",
        ]
        for it in call.ask("storage")
    ]
    titles = ["Unit", "Storage ID", "Type", "Pool", "Size", "Status", "Message"]
    return columns(titles, sorted(rows, key=lambda row: _natural(row[0] + " " + row[1])))


def _storage_info(call: Call) -> dict[str, Any]:
    storage: dict[str, Any] = {}
    filesystems: dict[str, Any] = {}
    for number, it in enumerate(call.ask("storage")):
        owner = it["owner"]
        placed = {"machine": call.units[owner]["machine"]} if owner in call.units else {}
        attached = {"units": {owner: placed | {"location": it["location"], "life": it["life"]}}}
        state = {"current": it["status"]}
        storage[it["id"]] = {
            "kind": it["kind"],
            "life": "alive",
            "status": state,
            "persistent": it["pool"] != "rootfs",
        }
        filesystems[str(number)] = {
            "storage": it["id"],
            "pool": it["pool"],
            "size": it["size"],
            "life": "alive",
            "status": state,
        }
        if owner:
            storage[it["id"]]["attachments"] = filesystems[str(number)]["attachments"] = attached
    return {"storage": storage, "filesystems": filesystems} if storage else {}


@_command()
def _add_storage(call: Call) -> None:
    missing = "add-storage requires a unit and a storage directive"
    unit, *words = call.take(missing, missing, more=True)
    directives = pairs(words)

    def add(name: str) -> None:
        for it in call.ask("add_storage", unit=unit, name=name, directive=directives[name]):
            _say(f"added storage {it} to {unit}")

    _each(directives, add, f'failed to add storage "{{}}" to {unit}: {{}}')


@_command()
def _attach_storage(call: Call) -> None:
    missing = "attach-storage requires a unit ID and at least one storage ID"
    unit, *ids = call.take(missing, missing, more=True)

    def attach(identity: str) -> None:
        call.ask("attach_storage", id=identity, unit=unit)
        _say(f"attaching {identity} to {unit}")

    _each(ids, attach, f"failed to attach {{}} to {unit}: {{}}")


@_command()
def _detach_storage(call: Call) -> None:
    _on_storage(call, "detach")


@_command()
def _remove_storage(call: Call) -> None:
    _on_storage(call, "remove")


def _on_storage(call: Call, verb: str) -> None:
    def do(identity: str) -> None:
        call.ask(f"{verb}_storage", id=identity)
        _say(f"{verb.removesuffix('e')}ing {identity}")

    missing = f"{verb}-storage requires at least one storage ID"
    _each(call.take(missing, more=True), do, f"failed to {verb} {{}}: {{}}")


# -- Actions and commands


_TASKS = "format= wait= background color no-color utc"


@_command(f"{_TASKS} params= string-args")
def _run(call: Call) -> None:
    names = list(itertools.takewhile(_UNIT_OR_LEADER.fullmatch, call.words))
    if not names:
        raise UsageError("no unit specified")
    if len(call.words) == len(names):
        raise UsageError("no action specified")
    if len({name.partition("/")[0] for name in names}) > 1:
        raise UsageError("all units must be of the same application")
    action, *texts = call.words[len(names) :]
    if not re.fullmatch(r"[a-z](?:[a-z0-9-]*[a-z0-9])?", action):
        raise UsageError(f'invalid unit or action name "{action}"')
    params = _params(call, texts)

    def enqueue(unit: str) -> str:
        return call.ask("enqueue_action", unit=unit, name=action, params=params)

    _operation(call, [call.unit(name) for name in names], enqueue, 60.0, _print_results)


def _params(call: Call, texts: Sequence[str]) -> dict[str, Any]:
    """Read an action's parameters: those of a file, then `key.key=value` words."""
    params: dict[str, Any] = {}
    if path := call.one("params"):
        params = read_yaml(path)
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f'argument "{text}" must be of the form key.key.key...=value')
        *outer, last = key.split(".")
        inner = params
        for name in outer:
            inner = inner.setdefault(name, {})
        inner[last] = value if call.has("string-args") else lazy_yaml().safe_load(value)
    return params


@_command(f"{_TASKS} unit/u= machine= application/app/a=")
def _exec(call: Call) -> None:
    import shlex

    words = call.take("no commands specified", more=True)
    command = words[0] if len(words) == 1 else shlex.join(words)
    names = [call.unit(name) for name in call.many("unit")]
    for app in call.many("application"):
        names += [name for name, it in call.units.items() if it["application"] == app]
    machines = call.many("machine")
    if not names and not machines:
        raise UsageError(
            "You must specify a target, either through --all, --machine, --application or --unit"
        )
    wait = call.wait_s(300.0)
    if machines:
        _exec_on_machines(call, machines, command, wait)
        return

    def enqueue(unit: str) -> str:
        return call.ask("enqueue_exec", unit=unit, command=command, timeout_s=wait)

    _operation(call, names, enqueue, wait, _print_output)


def _exec_on_machines(call: Call, machines: Sequence[str], command: str, wait: float) -> None:
    found: dict[str, dict[str, Any]] = {}
    call.ask("new_operation")
    for machine in machines:
        asked = {"machine": machine, "command": command, "timeout_s": wait}
        results = call.ask("ssh", answer_timeout_s=wait + 5, **asked)
        results["return-code"] = results.pop("returncode")
        task = {"id": call.ask("new_operation"), "status": "completed", "machine": machine}
        results = {name: it for name, it in results.items() if it != ""}
        found[machine] = {**task, "results": results}
    _finish(call, found, _print_output)


Show = Callable[[Mapping[str, dict[str, Any]]], None]


def _operation(
    call: Call,
    names: Sequence[str],
    enqueue: Callable[[str], str],
    default_wait_s: float,
    show: Show,
) -> None:
    """Run a task on each unit, and show what came of it; for an action, also how it gets on."""
    say = _say if show is _print_results else _say_nothing
    wait = call.wait_s(default_wait_s)
    operation = call.ask("new_operation")
    tasks: dict[str, str] = {}
    refusals: list[str] = []
    for name in names:
        try:
            tasks[name] = enqueue(name)
        except ControllerError as error:
            if call.is_4 and "not defined" in str(error):
                raise CommandError(f"{error} (not found)") from error
            refusals.append(str(error))
    if not tasks:
        reasons = "\n".join(refusals)
        _say(f"Operation {operation} failed to schedule any tasks:\n{reasons}")
        return
    if refusals:
        _say("Some actions could not be scheduled:\n" + "\n".join(refusals) + "\n\n")
    if call.has("background"):
        _scheduled(operation, tasks)
        return
    say(f"Running operation {operation} with {len(tasks)} task{'s' * (len(tasks) > 1)}")
    for name, task in tasks.items():
        say(f"  - task {task} on {_tag(name)}")
    say("")
    deadline = time.monotonic() + wait
    found: dict[str, dict[str, Any]] = {}
    for name, task in tasks.items():
        say(f"Waiting for task {task}...\n")
        found[name] = _ended(call, task, deadline, _say_nothing if len(tasks) > 1 else _say)
        if found[name]["status"] in ("pending", "running"):
            late = [it for it in tasks if it == name or it not in found]
            receivers = ", ".join(f"unit {it}" for it in sorted(late))
            raise CommandError(f"timed out waiting for results from: {receivers}")
    _finish(call, found, show)


def _scheduled(operation: str, tasks: Mapping[str, str]) -> None:
    ids = list(tasks.values())
    what = f"task {ids[0]}" if len(ids) == 1 else f"{len(ids)} tasks"
    _say(f"Scheduled operation {operation} with {what}")
    if len(ids) > 1:
        sys.stdout.write(dump({name: {"id": it} for name, it in tasks.items()}))
    _say(f"Check operation status with 'juju show-operation {operation}'")
    _say(f"Check task status with 'juju show-task {ids[0] if len(ids) == 1 else '<id>'}'")


def _ended(call: Call, task: str, deadline: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Wait for the end of a task, saying what it logs; what is known of it then."""
    pause, said = _FIRST_LOOK_S, 0
    while True:
        found = call.ask("task", id=task)
        log = list(zip(found.pop("log-times"), found.pop("log"), strict=True))
        for since, text in log[said:]:
            say(f"{since.split()[1]} {text}")
        said = len(log)
        if found["status"] not in ("pending", "running") or time.monotonic() >= deadline:
            found["log"] = [f"{since} +0000 UTC {text}" for since, text in log]
            return {"id": task} | {key: it for key, it in found.items() if it}
        time.sleep(pause)
        pause = min(_LAST_LOOK_S, pause * _LOOK_FACTOR)


def _finish(call: Call, found: Mapping[str, dict[str, Any]], show: Show) -> None:
    """Print what came of tasks; fail if one of them ended with another status than 0."""
    if not call.write(found, "plain"):
        show(found)
    codes = {it["id"]: it.get("results", {}).get("return-code", 0) for it in found.values()}
    if failed := sorted((identity, code) for identity, code in codes.items() if code):
        lines = [f' - id "{identity}" with return code {code}\n' for identity, code in failed]
        s = "s" * (len(failed) > 1)
        raise CommandError(
            f"the following task{s} failed:\n{''.join(lines)}\n"
            f"use 'juju show-task' to inspect the failure{s}\n"
        )


def _print_results(found: Mapping[str, dict[str, Any]]) -> None:
    """Print what actions have set; of a single one also its failure and what it wrote."""
    if len(found) > 1:
        keys = ("id", "message", "output", "status")
        shown = {name: {**it, "output": _output(it)} for name, it in found.items()}
        brief = {name: {k: it[k] for k in keys if k in it} for name, it in shown.items()}
        sys.stdout.write(dump(brief))
        return
    (task,) = found.values()
    if task["status"] == "failed":
        print(f"Action id {task['id']} failed: {task.get('message', '')}")
    print(_output(task))
    for stream in ("stdout", "stderr"):
        if text := task.get("results", {}).get(stream):
            print(text.strip("\n"))


def _output(task: Mapping[str, Any]) -> str:
    if "results" not in task:
        return f"Task {task['id']} {task['status']}\n"
    results = {key: it for key, it in task["results"].items() if key not in _NOT_SHOWN}
    return dump(results) if results else ""


def _print_output(found: Mapping[str, dict[str, Any]]) -> None:
    """Print what commands wrote."""
    for name in sorted(found, key=_natural):
        results = found[name].get("results", {})
        texts = [results.get(stream, "") for stream in ("stdout", "stderr")]
        text = "".join(it + "\n" * (not it.endswith("\n")) for it in texts if it)
        sys.stdout.write(f"{name}:\n{text}\n" if len(found) > 1 else text)


@_command("format= utc wait=")
def _show_task(call: Call) -> None:
    (task,) = call.take("no task ID specified")
    found = _ended(call, task, time.monotonic() + call.wait_s(0), _say_nothing)
    if not call.write(found, "plain"):
        _print_results({task: found})


@_command("format= schema", "list-actions")
def _actions(call: Call) -> None:
    (app,) = call.take("no application name specified")
    actions = call.ask("list_actions", application=app)
    if call.has("schema"):
        call.write(actions, "yaml")
        return
    brief = {name: it["description"] or "No description" for name, it in actions.items()}
    if not call.write(brief, "tabular"):
        rows = [
            [name if number == 0 else "", line]
            for name in sorted(brief)
            for number, line in enumerate(brief[name].strip().splitlines())
        ]
        print(columns(["Action", "Description"], rows) or f"No actions defined for {app}.")


# -- Looking on


_DEBUG_LOG = (
    "replay no-tail tail lines/n= limit= include/i= exclude/x= include-module= exclude-module="
    " level/l= ms utc color"
)


@_command(_DEBUG_LOG)
def _debug_log(call: Call) -> None:
    call.take()
    if (level := call.one("level", "TRACE").upper()) not in _LEVELS:
        raise UsageError(f'level value "{level}" is not one of {", ".join(_LEVELS[:-1])}')
    if call.has("tail") and call.has("no-tail"):
        raise UsageError("setting --tail and --no-tail not valid")
    limit = call.number("limit", 0)
    follows = call.has("tail") or (sys.stdout.isatty() and not call.has("no-tail"))
    recorded = call.ask("model_config")["logging-config"]["value"]
    seen = call.ask("log")
    lines = [it for it in seen if _is_shown(call, it, level, recorded)]
    if not call.has("replay"):
        lines = lines[-(limit or call.number("lines", _DEFAULT_LINES) or len(lines)) :]
    count = len(seen)
    while True:
        for it in lines:
            time_of_day = it["time"] if call.has("ms") else it["time"][:8]
            source = _tag(it["unit"])
            print(f"{source}: {time_of_day} {it['level']} {it['logger']} {it['message']}")
        if limit or not follows:
            return
        sys.stdout.flush()
        time.sleep(_POLL_S)
        seen = call.ask("log", start=count)
        count += len(seen)
        lines = [it for it in seen if _is_shown(call, it, level, recorded)]


def _is_shown(call: Call, line: Mapping[str, str], level: str, recorded: str) -> bool:
    source, logger = _tag(line["unit"]), line["logger"]

    def is_from(entities: Iterable[str]) -> bool:
        return any(fnmatch.fnmatchcase(source, _entity(it)) for it in entities)

    def is_of(modules: Iterable[str]) -> bool:
        return any(logger == it or logger.startswith(f"{it}.") for it in modules)

    includes, modules = call.many("include"), call.many("include-module")
    return (
        _LEVELS.index(line["level"]) >= _LEVELS.index(level)
        and _is_recorded(line, recorded)
        and (not includes or is_from(includes))
        and not is_from(call.many("exclude"))
        and (not modules or is_of(modules))
        and not is_of(call.many("exclude-module"))
    )


def _is_recorded(line: Mapping[str, str], config: str) -> bool:
    """Whether logging-config, such as "<root>=INFO;unit=DEBUG", lets a line into the log."""
    levels = dict(part.strip().split("=", 1) for part in config.split(";") if "=" in part)
    least = levels.get("<root>", "INFO")
    parts = line["logger"].split(".")
    for end in range(1, len(parts) + 1):
        least = levels.get(".".join(parts[:end]), least)
    return _LEVELS.index(line["level"]) >= _LEVELS.index(least.upper())


def _entity(name: str) -> str:
    """Return the pattern that --include means: a unit, all of an application, or a machine."""
    if name.isdecimal():
        return f"machine-{name}"
    if "*" in name or re.fullmatch(r"(unit|machine|application)-.*-?\d+", name):
        return name
    return _tag(name) if "/" in name else f"unit-{name}-*"


@_command("!pty= no-host-key-checks proxy")
def _ssh(call: Call) -> None:
    target, *words = call.take("no target name specified", more=True)
    # Whoever is named: root is the one user that the machines let in.
    host = call.host(target.rpartition("@")[2])
    command = [*call.model.ssh(), f"root@{host}", *words]
    os.execv(command[0], command)


@_command("!no-host-key-checks proxy")
def _scp(call: Call) -> None:
    def there(word: str) -> str:
        where, colon, path = word.partition(":")
        is_here = not colon or word.startswith(("-", "/", "."))
        return word if is_here else f"root@{call.host(where.rpartition('@')[2])}:{path}"

    words = call.take(*["at least two arguments required"] * 2, more=True)
    command = [*call.model.ssh("/usr/bin/scp"), *map(there, words)]
    os.execv(command[0], command)


# -- Words


def _tag(name: str) -> str:
    """Return a unit's name as logs show it."""
    return "unit-" + name.replace("/", "-") if "/" in name else name


def _text(value: object) -> str:
    """Return a config value as Go prints it."""
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _natural(name: str) -> list[tuple[int, str]]:
    """Sort a/10 after a/9."""
    parts = re.split(r"(\d+)", name)
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in parts]


def _say(text: str) -> None:
    """Print to standard error."""
    print(text, file=sys.stderr, flush=True)


def _say_nothing(_: str) -> None:
    pass

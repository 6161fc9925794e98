# SPDX-License-Identifier: Apache-2.0
"""`juju` for a model of the sandbox: the words, output, exit codes and errors of Juju's command.

What it prints follows cmd/juju of Juju 3.6 and 4.0, in fewer words. What it has not is refused by
name. Modules that are slow to import are imported where they are needed.
"""

import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from sandbox.command.line import (
    Call,
    CommandError,
    dump,
    lazy_yaml,
    pairs,
    parse,
    values,
)
from sandbox.controller.client import ControllerError
from sandbox.rules.gnuflag import UsageError
from sandbox.rules.status import columns, table

_LEVELS = ("TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_DEFAULT_LINES = 10
_POLL_S = 0.5
# How long the controller may take to answer once a task has ended, or its time.
_ANSWER_TIMEOUT_S = 60.0
_NOT_SHOWN = ("return-code", "stdout", "stderr")
_BASE_60 = re.compile(r"[+-]?\d+(:\d+)+")


Command = Callable[[Call], int | None]
_commands: dict[str, tuple[Command, str]] = {}


def _command(options: str = "", *names: str) -> Callable[[Command], Command]:
    """Add a command, under further names too, with its options as gnuflag.parse wants them."""

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


@_command("format=")
def _status(call: Call) -> None:
    call.take()
    if not call.write(call.status):
        print(table(call.status))


# -- Applications


@_command("num-units/n= config= storage= constraints= to=")
def _deploy(call: Call) -> None:
    charm, *names = call.take("no charm or bundle specified", more=True)
    if len(names) > 1:
        raise UsageError(f"unrecognized args: {json.dumps(names[1:])}")
    path = _local(charm)
    call.ask(
        "deploy",
        charm=path,
        application=names[0] if names else None,
        num_units=call.number("num-units", None),
        config=values(call.all("config")),
        storage=pairs(call.all("storage")),
        to=call.one("to"),
    )


def _local(charm: str) -> str:
    """Return the path of a packed charm."""
    if not charm.startswith(("./", "../", "/")):
        raise UsageError(
            f'the sandbox has no Charmhub for "juju deploy {charm}": deploy a packed charm,'
            " such as those that ./dev pack leaves in ./.cache/charms"
        )
    if not Path(charm).exists():
        raise CommandError(f'no charm was found at "{charm}"')
    return str(Path(charm).resolve())


@_command()
def _integrate(call: Call) -> None:
    a, b = call.take(*["a relation must involve two applications"] * 2)
    call.ask("integrate", a=a, b=b)


@_command()
def _remove_relation(call: Call) -> None:
    a, b = call.take(*["a relation must involve two applications"] * 2)
    call.ask("remove_relation", a=a, b=b)


@_command("format=")
def _config(call: Call) -> None:
    app, *words = call.take("no application name specified", more=True)
    if not _sets(words):
        settings = call.ask("get_config", name=app)
        call.write_json("config", {"application": app, "settings": settings})
        return
    call.ask("set_config", name=app, values=values(words))


def _sets(words: Sequence[str]) -> bool:
    """Whether the words set values; without any, all values are shown."""
    for word in words:
        if "=" not in word:
            raise UsageError(f"the sandbox shows all values, not {word} alone: try that on Juju")
    return bool(words)


@_command("format=")
def _model_config(call: Call) -> None:
    if _sets(call.words):
        call.ask("set_model_config", values=pairs(call.words))
        return
    call.take()
    config = call.ask("model_config")
    call.write_json("model-config", {key: {"Value": value} for key, value in config.items()})


@_command("num-units/n= to= attach-storage=")
def _add_unit(call: Call) -> None:
    (app,) = call.take("no application specified")
    call.ask(
        "add_unit",
        app=app,
        count=call.number("num-units", 1),
        to=call.one("to"),
        attach=call.many("attach-storage"),
    )


@_command("no-prompt")
def _remove_unit(call: Call) -> None:
    names = call.take("no units specified", more=True)
    for name in names:
        if not re.fullmatch(r"[a-z][a-z0-9-]*/\d+", name):
            raise UsageError(f'invalid unit name "{name}"')
    _remove(call, "unit", names)


@_command("no-prompt")
def _remove_application(call: Call) -> None:
    _remove(call, "application", call.take("no application specified", more=True))


def _remove(call: Call, kind: str, names: Sequence[str]) -> None:
    """Let units or applications go, without asking whether that is meant."""
    if not call.has("no-prompt"):
        raise UsageError(f'the sandbox has no "juju remove-{kind}" that asks: say --no-prompt')
    for name in names:
        call.ask(f"remove_{kind}", name=name)
        print(f"will remove {kind} {name}")


@_command("path=")
def _refresh(call: Call) -> None:
    (app,) = call.take("no application specified")
    if not call.one("path"):
        raise UsageError(f'the sandbox has no Charmhub for "juju refresh {app}": give --path')
    path = str(Path(call.one("path")).resolve())
    call.ask("refresh", application=app, charm=path)


@_command("no-retry", "resolve")
def _resolved(call: Call) -> None:
    for name in call.take("no unit specified", more=True):
        call.ask("resolved", unit=name, retry=not call.has("no-retry"))


# -- Storage


@_command()
def _storage(call: Call) -> None:
    call.take()
    rows = [
        [
            it["owner"] or "",
            it["id"],
            "filesystem",
            it["pool"],
            f"{it['size'] / 1024:.1f} GiB" if it["size"] >= 1024 else f"{it['size']:.1f} MiB",
            it["status"],
            "",
        ]
        for it in call.ask("storage")
    ]
    titles = ["Unit", "Storage ID", "Type", "Pool", "Size", "Status", "Message"]
    print(columns(titles, rows) or "No storage to display.")


# -- Actions and commands


@_command("format= wait= params=")
def _run(call: Call) -> None:
    unit, action, *texts = call.take("no unit specified", "no action specified", more=True)
    unit, params, wait = call.unit(unit), _params(call, texts), call.wait_s(60.0)
    try:
        task = call.ask("enqueue_action", unit=unit, name=action, params=params)
    except ControllerError as error:
        if call.is_4 and "not defined" in str(error):
            raise CommandError(f"{error} (not found)") from error
        _say(f"Operation failed to schedule any tasks:\n{error}")
        return
    _say(f"Waiting for task {task}...\n")
    _finish(call, unit, task, wait, _print_results)


def _params(call: Call, texts: Sequence[str]) -> dict[str, Any]:
    """Read an action's parameters: those of a file, then `key=value` words."""
    path = call.one("params")
    given = lazy_yaml().safe_load(Path(path).read_text()) if path else None
    params: dict[str, Any] = given or {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f'argument "{text}" must be of the form key.key.key...=value')
        # Go's package has no numbers of base 60, which is what 33:33 is to this one.
        params[key] = value if _BASE_60.fullmatch(value) else lazy_yaml().safe_load(value)
    return params


@_command("format= wait= unit/u=")
def _exec(call: Call) -> None:
    import shlex

    words = call.take("no commands specified", more=True)
    command = words[0] if len(words) == 1 else shlex.join(words)
    names = call.many("unit")
    if len(names) != 1:
        raise UsageError('the sandbox has "juju exec" on one unit at a time: name it with --unit')
    unit, wait = call.unit(names[0]), call.wait_s(300.0)
    task = call.ask("enqueue_exec", unit=unit, command=command, timeout_s=wait)
    _finish(call, unit, task, wait, _print_output)


def _finish(
    call: Call, unit: str, task: str, wait_s: float, show: Callable[[Mapping[str, Any]], None]
) -> None:
    """Print what comes of a task; fail if it ends with another status than 0."""
    timeout_s = wait_s + _ANSWER_TIMEOUT_S
    found = call.ask("wait_action", action=task, timeout_s=wait_s, answer_timeout_s=timeout_s)
    ended: dict[str, Any] = {"id": task, **{key: it for key, it in found.items() if it}}
    if not call.write({unit: ended}):
        show(ended)
    if code := ended.get("results", {}).get("return-code", 0):
        raise CommandError(
            f'the following task failed:\n - id "{task}" with return code {code}\n\n'
            "use 'juju show-task' to inspect the failure\n"
        )


def _print_results(task: Mapping[str, Any]) -> None:
    """Print what an action has set, its failure, and what it wrote."""
    if task["status"] == "failed":
        print(f"Action id {task['id']} failed: {task.get('message', '')}")
    if "results" not in task:
        print(f"Task {task['id']} {task['status']}\n")
        return
    results = task["results"]
    shown = {key: it for key, it in results.items() if key not in _NOT_SHOWN}
    print(dump(shown) if shown else "")
    for stream in ("stdout", "stderr"):
        if text := results.get(stream):
            print(text.strip("\n"))


def _print_output(task: Mapping[str, Any]) -> None:
    """Print what a command wrote."""
    results = task.get("results", {})
    for text in filter(None, (results.get("stdout"), results.get("stderr"))):
        sys.stdout.write(text + "\n" * (not text.endswith("\n")))


# -- Looking on


@_command("replay no-tail tail limit= include/i= level/l=")
def _debug_log(call: Call) -> None:
    call.take()
    if (level := call.one("level", "TRACE").upper()) not in _LEVELS:
        raise UsageError(f'level value "{level}" is not one of {", ".join(_LEVELS[:-1])}')
    for it in call.many("include"):
        if it.isdecimal() or "*" in it:
            raise UsageError(
                f'the sandbox has no "juju debug-log --include {it}": try that on Juju'
            )
    limit = call.number("limit", 0)
    follows = call.has("tail") or (sys.stdout.isatty() and not call.has("no-tail"))
    recorded = call.ask("model_config")["logging-config"]
    seen = call.ask("log")
    lines = [it for it in seen if _is_shown(call, it, level, recorded)]
    if not call.has("replay"):
        lines = lines[-(limit or _DEFAULT_LINES) :]
    count = len(seen)
    while True:
        for it in lines:
            source = _tag(it["unit"])
            print(f"{source}: {it['time'][:8]} {it['level']} {it['logger']} {it['message']}")
        if limit or not follows:
            return
        sys.stdout.flush()
        time.sleep(_POLL_S)
        seen = call.ask("log", start=count)
        count += len(seen)
        lines = [it for it in seen if _is_shown(call, it, level, recorded)]


def _is_shown(call: Call, line: Mapping[str, str], level: str, recorded: str) -> bool:
    includes = call.many("include")
    # A unit by its name, a unit or a machine by its tag, or all units of an application.
    names = {line["unit"], _tag(line["unit"]), line["unit"].partition("/")[0]}
    return (
        _LEVELS.index(line["level"]) >= _LEVELS.index(level)
        and _is_recorded(line, recorded)
        and (not includes or not names.isdisjoint(includes))
    )


def _is_recorded(line: Mapping[str, str], config: str) -> bool:
    """Whether logging-config, such as "<root>=INFO;unit=DEBUG", lets a line into the log."""
    levels = dict(part.strip().split("=", 1) for part in config.split(";") if "=" in part)
    least = levels.get("<root>", "INFO")
    parts = line["logger"].split(".")
    for end in range(1, len(parts) + 1):
        least = levels.get(".".join(parts[:end]), least)
    return _LEVELS.index(line["level"]) >= _LEVELS.index(least.upper())


@_command("!")
def _ssh(call: Call) -> None:
    target, *words = call.take("no target name specified", more=True)
    # Whoever is named: root is the one user that the machines let in.
    host = call.host(target.rpartition("@")[2])
    command = [*call.model.ssh(), f"root@{host}", *words]
    os.execv(command[0], command)


# -- Words


def _tag(name: str) -> str:
    """Return a unit's name as logs show it."""
    return "unit-" + name.replace("/", "-") if "/" in name else name


def _say(text: str) -> None:
    """Print to standard error."""
    print(text, file=sys.stderr, flush=True)

# SPDX-License-Identifier: Apache-2.0
"""`juju` for a model of the sandbox: the words, output, exit codes and errors of Juju's command.

What it prints follows cmd/juju of Juju 3.6 and 4.0. What it has not is refused by name. Modules
that are slow to import are imported where they are needed.
"""

import fnmatch
import functools
import itertools
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from sandbox.client import RUN, ControllerError, RunDirectory, ask, running_models
from sandbox.status import PlacedUnit, Status, address, columns, table, units

JUJU_VERSION = "3.6.28"
"""What `juju version` says while no model is there to follow."""

_ROOT = Path(__file__).resolve().parent.parent
_CURRENT = RUN.parent / "current-model"
_LEVELS = ("TRACE", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
_DEFAULT_LINES = 10
_POLL_S = 0.5
# Juju too looks for the end of a task at growing intervals.
_FIRST_LOOK_S, _LAST_LOOK_S, _LOOK_FACTOR = 0.02, 0.2, 1.5
_UNIT_OR_LEADER = re.compile(r"[a-z][a-z0-9-]*/(?:\d+|leader)")
_NOT_SHOWN = ("return-code", "stdout", "stderr")


class CommandError(Exception):
    """The command failed; the message is what Juju prints after ERROR, if it prints any."""


class UsageError(Exception):
    """The command can't be run as it was given."""


class Call:
    """One command as it was given: its options, its other words, and the model that it is for."""

    def __init__(self, options: Mapping[str, Sequence[str]], words: Sequence[str]) -> None:
        self._options = options
        self.words = list(words)

    def has(self, option: str) -> bool:
        """Whether an option that takes no value is on."""
        return self._options.get(option, ["false"])[-1] != "false"

    def one(self, option: str, default: str = "") -> str:
        """Return an option's value; the last, if it was given repeatedly."""
        return self._options.get(option, [default])[-1]

    def many(self, option: str) -> list[str]:
        """Return the values of an option that may be given repeatedly, or with commas."""
        return [part for text in self._options.get(option, ()) for part in text.split(",") if part]

    def texts(self, option: str) -> list[str]:
        """Return the values of an option that may be given repeatedly."""
        return list(self._options.get(option, ()))

    def take(self, *missing: str) -> list[str]:
        """Return as many words as there are messages, each for a word that is missing."""
        if len(self.words) < len(missing):
            raise UsageError(missing[len(self.words)])
        if rest := self.words[len(missing) :]:
            raise UsageError(f"unrecognized args: {json.dumps(rest)}")
        return self.words

    @functools.cached_property
    def model(self) -> RunDirectory:
        """The model that -m, JUJU_MODEL or `juju switch` names, or that was started last."""
        return model_named(self.one("model") or os.environ.get("JUJU_MODEL", ""))

    def ask(self, method: str, **params: object) -> Any:
        """Ask the model's controller."""
        return ask(self.model, method, **cast("Any", params))

    @functools.cached_property
    def status(self) -> Status:
        """The model's status."""
        return self.ask("status")

    @functools.cached_property
    def units(self) -> dict[str, PlacedUnit]:
        """The model's units."""
        return units(self.status)

    @property
    def is_4(self) -> bool:
        """Whether the model is one of Juju 4."""
        return self.status["model"].get("version", "").startswith("4")

    def unit(self, name: str) -> str:
        """Return a unit's name, also where it is given as app/leader."""
        app, _, number = name.partition("/")
        if number != "leader":
            return name
        for unit, placed in self.units.items():
            if placed["application"] == app and placed["status"].get("leader"):
                return unit
        raise CommandError(f'could not determine leader for "{app}"')

    def host(self, where: str) -> str:
        """Return the address of a unit's machine, or of a machine."""
        where = self.unit(where)
        number = self.units[where]["machine"] if where in self.units else where
        if number not in self.status["machines"]:
            raise CommandError(f'{"unit" if "/" in where else "machine"} "{where}" not found')
        found = address(self.status["machines"][number])
        if found is None:
            raise CommandError(f"no address found for machine {number}: it is still booting")
        return found

    def write(self, value: object, default: str) -> bool:
        """Print a value as --format says; False if that is neither JSON nor YAML."""
        form = self.one("format", default)
        if form == "json":
            print(json.dumps(value, separators=(",", ":"), sort_keys=True))
        elif form == "yaml":
            sys.stdout.write(
                _yaml().safe_dump(value, default_flow_style=False, allow_unicode=True)
            )
        elif form != default:
            raise UsageError(f'the sandbox has no "--format={form}": try that on Juju')
        return form in ("json", "yaml")


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
        return function(_parse(name, options, words)) or 0
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


def _parse(command: str, spec: str, words: Sequence[str]) -> Call:
    """Read a command line as gnuflag does; a spec that begins with `!` ends at the first word."""
    known: dict[str, tuple[str, bool]] = {}
    for option in f"model/m= {spec.lstrip('!')}".split():
        names = option.rstrip("=").split("/")
        known |= dict.fromkeys(names, (names[0], option.endswith("=")))
    options: dict[str, list[str]] = {}
    others: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            others += rest
            break
        if not word.startswith("-") or word == "-":
            others.append(word)
            if spec.startswith("!"):
                others += rest
                break
            continue
        given, equals, value = word.partition("=")
        if given.lstrip("-") not in known:
            raise UsageError(f'the sandbox has no "juju {command} {given}": try that on Juju')
        name, takes_value = known[given.lstrip("-")]
        if takes_value and not equals:
            if not rest:
                raise UsageError(f"option needs an argument: {given}")
            value = rest.pop(0)
        options.setdefault(name, []).append(value if takes_value or equals else "true")
    return Call(options, others)


def model_named(name: str) -> RunDirectory:
    """Return a running model: the one of a name, or that is in focus."""
    if name:
        directory = RunDirectory(RUN / name.rpartition(":")[2].rpartition("/")[2])
        if not directory.is_running():
            raise CommandError(f"model sandbox:admin/{directory.name} not found")
        return directory
    if _CURRENT.exists() and (chosen := RunDirectory(RUN / _CURRENT.read_text())).is_running():
        return chosen
    if running := running_models():
        return max(running, key=lambda model: model.socket.stat().st_mtime)
    raise CommandError(
        'No model in focus.\n\nPlease use "juju models" to see models available to you.\n'
        'You can set current model by running "juju switch"\n'
        'or specify any other model on the command line using the "-m" option.\n'
        "None is running in the sandbox: ./dev demo --keep leaves one."
    )


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
        sections.append(_relations(relations))
    if call.has("storage"):
        sections.append(_storage_table(call))
    print("\n\n".join(filter(None, sections)))


def _relations(relations: Iterable[Mapping[str, str]]) -> str:
    titles = ["Integration provider", "Requirer", "Interface", "Type", "Message"]
    keys = ("provider", "requirer", "interface", "type", "status")
    return columns(titles, sorted([it[key] for key in keys] for it in relations))


@_command("format= endpoint= related-unit= app")
def _show_unit(call: Call) -> None:
    if not call.words:
        raise UsageError("an unit name must be supplied")
    found = {name: call.ask("show_unit", unit=name) for name in call.words}
    for info in found.values():
        info["relation-info"] = [
            it
            for it in info["relation-info"]
            if call.one("endpoint", it["endpoint"]) == it["endpoint"]
        ]
        for relation in info["relation-info"]:
            if call.has("app"):
                relation.pop("local-unit")
                relation["related-units"] = {}
            if only := call.one("related-unit"):
                relation["related-units"] = {
                    name: it for name, it in relation["related-units"].items() if name == only
                }
    call.write(found, "yaml")


@_command("format=", "list-models")
def _models(call: Call) -> None:
    call.take()
    statuses = {it.name: cast("Status", ask(it, "status")) for it in running_models()}
    current = call.model.name if statuses else ""
    found = [
        {
            "name": f"admin/{name}",
            "short-name": name,
            "controller-name": "sandbox",
            "cloud": "sandbox",
            "type": "iaas",
            "agent-version": status["model"].get("version", ""),
            "status": {"current": "available"},
        }
        for name, status in statuses.items()
    ]
    if call.write({"models": found, "current-model": current}, "tabular"):
        return
    rows = [
        [
            name + ("*" if name == current else ""),
            "sandbox",
            "iaas",
            "available",
            str(len(status["machines"])),
            str(len(units(status))),
        ]
        for name, status in statuses.items()
    ]
    titles = ["Model", "Cloud/Region", "Type", "Status", "Machines", "Units"]
    print("Controller: sandbox\n")
    print(columns(titles, rows) or "There are no models here: ./dev demo --keep leaves one.")


@_command()
def _switch(call: Call) -> None:
    if not call.words:
        print(f"sandbox:admin/{call.model.name}")
        return
    before = f"sandbox:admin/{running[0].name}" if (running := running_models()) else "sandbox"
    if running:
        before = f"sandbox:admin/{model_named('').name}"
    (name,) = call.take("")
    chosen = model_named(name).name
    _CURRENT.write_text(chosen)
    _say(f"{before} -> sandbox:admin/{chosen}")


@_command("format= all")
def _version(call: Call) -> None:
    call.take()
    version = call.status["model"].get("version", "") if running_models() else JUJU_VERSION
    machine = os.uname().machine
    arch = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
    text = f"{version}-genericlinux-{arch}"
    details = {"version": text, "git-commit": "", "git-tree-state": "archive", "compiler": "gc"}
    if not call.write(details if call.has("all") else text, "smart"):
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


_DEPLOY = "num-units/n= config= storage= constraints= to= base= attach-storage= trust"


@_command(_DEPLOY)
def _deploy(call: Call) -> None:
    if not call.words:
        raise UsageError("no charm or bundle specified")
    charm, *name = call.words
    if len(name) > 1:
        raise UsageError(f"unrecognized args: {json.dumps(name[1:])}")
    config: dict[str, object] = {}
    for text in call.texts("config"):
        if "=" in text:
            config |= _values([text])
        else:
            config |= _settings(text, name[0] if name else "")
    name, charm_name = call.ask(
        "deploy",
        charm=_local(charm),
        application=name[0] if name else None,
        num_units=_number(call, "num-units", None),
        config=config,
        storage=_pairs(call.texts("storage")),
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


@_command("via=", "relate")
def _integrate(call: Call) -> None:
    a, b = call.take(*["a relation must involve two applications"] * 2)
    call.ask("integrate", a=a, b=b)


@_command()
def _remove_relation(call: Call) -> None:
    a, b = call.take(*["a relation must involve two applications"] * 2)
    call.ask("remove_relation", a=a, b=b)


@_command("format= reset= file=")
def _config(call: Call) -> None:
    if not call.words or "=" in call.words[0]:
        raise UsageError("no application name specified")
    app, *words = call.words
    sets = _sets(words, is_reset=bool(call.many("reset")))
    if keys := call.many("reset"):
        call.ask("reset_config", application=app, keys=keys)
    if path := call.one("file"):
        if words:
            raise UsageError("cannot specify --file and key=value arguments simultaneously")
        call.ask("set_config", application=app, values=_settings(path, app))
    elif sets:
        options = call.ask("get_config", application=app)
        values = _values(words)
        for key, value in values.items():
            if key in options and _text(options[key]["value"]) == value:
                _say(f'WARNING the configuration setting "{key}" already has the value "{value}"')
        call.ask("set_config", application=app, values=values)
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
        settings = {
            name: {key: value for key, value in option.items() if value is not None}
            for name, option in options.items()
        }
        trust = {
            "default": False,
            "description": "Does this application have access to trusted credentials",
            "source": "default",
            "type": "bool",
            "value": False,
        }
        found = call.status["applications"][app]
        charm = found.get("charm-name", found["charm"])
        shown = {"application": app, "charm": charm, "settings": settings}
        call.write(shown | {"application-config": {"trust": trust}}, "yaml")
    elif words[0] in options:
        print(_text(options[words[0]]["value"]))
    else:
        raise CommandError(
            f'key "{words[0]}" not found in "{app}" application config or charm settings.'
        )


@_command("format= reset=")
def _model_config(call: Call) -> None:
    sets = _sets(call.words, is_reset=bool(call.many("reset")))
    if keys := call.many("reset"):
        call.ask("reset_model_config", keys=keys)
    if sets:
        call.ask("set_model_config", values=_pairs(call.words))
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
        count=_number(call, "num-units", 1),
        to=call.many("to") or None,
        attach=call.many("attach-storage"),
    )


@_command("no-prompt destroy-storage force no-wait dry-run num-units=")
def _remove_unit(call: Call) -> None:
    if call.one("num-units"):
        raise UsageError("--num-units for non k8s models not valid")
    if not call.words:
        raise UsageError("no units specified")
    for name in call.words:
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


@_command("no-prompt destroy-storage force no-wait dry-run")
def _remove_application(call: Call) -> None:
    if not call.words:
        raise UsageError("no application specified")

    def lines(app: str) -> list[str]:
        own = [name for name, it in call.units.items() if it["application"] == app]
        return [*(f"- will remove unit {name}" for name in own), *_storage_lines(call, own)]

    def remove(app: str) -> None:
        destroys = call.has("destroy-storage")
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
    call: Call,
    kind: str,
    lines: Callable[[str], list[str]],
    remove: Callable[[str], None],
) -> None:
    """Say what goes, ask unless told not to, and let it go."""
    plan = {name: [f"will remove {kind} {name}", *lines(name)] for name in call.words}
    is_asked = not call.has("no-prompt") and not call.has("dry-run")
    if call.has("dry-run") or is_asked:
        _say("WARNING This command will perform the following actions:")
        print(*(line for its in plan.values() for line in its), sep="\n", flush=True)
    if call.has("dry-run"):
        return
    if is_asked:
        sys.stderr.write("\nContinue [y/N]? ")
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise CommandError(f"{kind} removal: aborted")
    failed = False
    for name in call.words:
        try:
            remove(name)
        except ControllerError as error:
            failed = True
            _say(f"ERROR removing {kind} {name} failed: {error}")
        else:
            if not is_asked:
                print(*plan[name], sep="\n")
    if failed:
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
    for _ in range(_number(call, "num-machines", 1) or 0):
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
    if len(call.words) < 2:
        raise UsageError("add-storage requires a unit and a storage directive")
    unit, *directives = call.words
    for name, directive in _pairs(directives).items():
        try:
            added = call.ask("add_storage", unit=unit, name=name, directive=directive)
        except ControllerError as error:
            _say(f'failed to add storage "{name}" to {unit}: {error}')
            raise CommandError from error
        for identity in added:
            _say(f"added storage {identity} to {unit}")


@_command()
def _attach_storage(call: Call) -> None:
    if len(call.words) < 2:
        raise UsageError("attach-storage requires a unit ID and at least one storage ID")
    unit, *ids = call.words
    _each(call, ids, "attach", f" to {unit}", "attach_storage", unit=unit)


@_command()
def _detach_storage(call: Call) -> None:
    if not call.words:
        raise UsageError("detach-storage requires at least one storage ID")
    _each(call, call.words, "detach", "", "detach_storage")


@_command()
def _remove_storage(call: Call) -> None:
    if not call.words:
        raise UsageError("remove-storage requires at least one storage ID")
    _each(call, call.words, "remove", "", "remove_storage")


def _each(
    call: Call, ids: Iterable[str], verb: str, where: str, method: str, **params: object
) -> None:
    """Do the same to each of some storage, and say of each what became of it."""
    failed = False
    for identity in ids:
        try:
            call.ask(method, id=identity, **params)
        except ControllerError as error:
            failed = True
            _say(f"failed to {verb} {identity}{where}: {error}")
        else:
            _say(f"{verb.removesuffix('e')}ing {identity}{where}")
    if failed:
        raise CommandError


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
        params = _read_yaml(path)
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f'argument "{text}" must be of the form key.key.key...=value')
        *outer, last = key.split(".")
        inner = params
        for name in outer:
            inner = inner.setdefault(name, {})
        inner[last] = value if call.has("string-args") else _yaml().safe_load(value)
    return params


@_command(f"{_TASKS} unit/u= machine= application/app/a= all")
def _exec(call: Call) -> None:
    import shlex

    if not call.words:
        raise UsageError("no commands specified")
    command = call.words[0] if len(call.words) == 1 else shlex.join(call.words)
    names = [call.unit(name) for name in call.many("unit")]
    for app in call.many("application"):
        names += [name for name, it in call.units.items() if it["application"] == app]
    machines = list(call.status["machines"]) if call.has("all") else call.many("machine")
    if not names and not machines:
        raise UsageError(
            "You must specify a target, either through --all, --machine, --application or --unit"
        )
    wait = _wait_s(call, 300.0)
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
        done = ask(
            call.model,
            "ssh",
            answer_timeout_s=wait + 5,
            machine=machine,
            command=command,
            timeout_s=wait,
        )
        results = cast("dict[str, Any]", done)
        results["return-code"] = results.pop("returncode")
        found[machine] = {
            "id": call.ask("new_operation"),
            "status": "completed",
            "machine": machine,
            "results": {name: it for name, it in results.items() if it != ""},
        }
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
    wait = _wait_s(call, default_wait_s)
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
    if len(tasks) == 1:
        (task,) = tasks.values()
        _say(f"Scheduled operation {operation} with task {task}")
    else:
        task = "<id>"
        _say(f"Scheduled operation {operation} with {len(tasks)} tasks")
        sys.stdout.write(_yaml().safe_dump({name: {"id": it} for name, it in tasks.items()}))
    _say(f"Check operation status with 'juju show-operation {operation}'")
    _say(f"Check task status with 'juju show-task {task}'")


def _ended(call: Call, task: str, deadline: float, say: Callable[[str], None]) -> dict[str, Any]:
    """Wait for the end of a task, saying what it logs; what is known of it then."""
    pause, said = _FIRST_LOOK_S, 0
    while True:
        found = call.ask("task", id=task)
        for line in found["log"][said:]:
            say(f"{time.strftime('%H:%M:%S')} {line}")
        said = len(found["log"])
        if found["status"] not in ("pending", "running") or time.monotonic() >= deadline:
            return {
                key: it
                for key, it in {"id": task, **found}.items()
                if it or key in ("id", "status")
            }
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
        sys.stdout.write(_yaml().safe_dump(brief))
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
    return _yaml().safe_dump(results, allow_unicode=True) if results else ""


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
    found = _ended(call, task, time.monotonic() + _wait_s(call, 0), _say_nothing)
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
    limit = _number(call, "limit", 0)
    follows = call.has("tail") or (sys.stdout.isatty() and not call.has("no-tail"))
    recorded = call.ask("model_config")["logging-config"]["value"]
    seen = call.ask("log")
    lines = [it for it in seen if _is_shown(call, it, level, recorded)]
    if not call.has("replay"):
        lines = lines[-(limit or _number(call, "lines", _DEFAULT_LINES) or len(lines)) :]
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
    if not call.words:
        raise UsageError("no target name specified")
    target, *words = call.words
    host = call.host(target.rpartition("@")[2])
    # Whoever is named: root is the one user that the machines let in.
    command = [*call.model.ssh(), f"root@{host}", *words]
    os.execv(command[0], command)


@_command("!no-host-key-checks proxy")
def _scp(call: Call) -> None:
    if len(call.words) < 2:
        raise UsageError("at least two arguments required")
    words: list[str] = []
    for word in call.words:
        where, colon, path = word.partition(":")
        is_remote = colon and not word.startswith(("-", "/", "."))
        words.append(f"root@{call.host(where.rpartition('@')[2])}:{path}" if is_remote else word)
    command = [*call.model.ssh("/usr/bin/scp"), *words]
    os.execv(command[0], command)


# -- Reading words


def _pairs(words: Iterable[str]) -> dict[str, str]:
    """Read `name=value` words."""
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def _values(words: Iterable[str]) -> dict[str, Any]:
    """Read `name=value` words, where `@path` stands for what a file holds."""
    return {
        name: Path(value[1:]).read_text() if value.startswith("@") else value
        for name, value in _pairs(words).items()
    }


def _settings(path: str, app: str) -> dict[str, Any]:
    """Read the options of an application from a file that has them under its name."""
    found = _read_yaml(path)
    if app not in found:
        raise CommandError(f'no settings found for "{app}"')
    return found[app]


def _read_yaml(path: str) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text()
    except OSError as error:
        raise CommandError(f"open {path}: {(error.strerror or '').lower()}") from error
    return _yaml().safe_load(text) or {}


def _number(call: Call, option: str, default: int | None) -> int | None:
    text = call.one(option)
    if text and not text.isdecimal():
        raise UsageError(f'invalid value "{text}" for option --{option}')
    return int(text) if text else default


def _wait_s(call: Call, default_s: float) -> float:
    """Read --wait: "90s", "1m30s"."""
    text = call.one("wait")
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s)", text)
    if "".join(number + unit for number, unit in parts) != text:
        raise UsageError(f'invalid value "{text}" for option --wait: time: invalid duration')
    if text and call.has("background"):
        raise UsageError("cannot specify both --wait and --background")
    seconds = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    return sum(float(number) * seconds[unit] for number, unit in parts) or default_s


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


def _yaml() -> Any:
    import yaml

    return yaml

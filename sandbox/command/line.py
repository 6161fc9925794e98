# SPDX-License-Identifier: Apache-2.0
"""A command line as Juju's programs read it, and the model that it is for."""

import functools
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sandbox.controller.client import RUN, RunDirectory, ask, running_models
from sandbox.rules import gnuflag
from sandbox.rules.gnuflag import UsageError
from sandbox.rules.status import PlacedUnit, Status, units


class CommandError(Exception):
    """The command failed; the message is what Juju prints after ERROR, if it prints any."""


@dataclass(frozen=True)
class Call(gnuflag.Arguments):
    """One command as it was given, and the model that it is for."""

    def all(self, option: str) -> list[str]:
        """Return the values of an option that may be given repeatedly."""
        return list(self.options.get(option, ()))

    def many(self, option: str) -> list[str]:
        """Return the values of an option that may be given repeatedly, or with commas."""
        return [part for text in self.all(option) for part in text.split(",") if part]

    def take(self, *missing: str, more: bool = False) -> list[str]:
        """Return the words: one for each message about one that is missing, or `more`."""
        if len(self.words) < len(missing):
            raise UsageError(missing[len(self.words)])
        if not more and (rest := self.words[len(missing) :]):
            raise UsageError(f"unrecognized args: {json.dumps(rest)}")
        return self.words

    def number(self, option: str, default: int | None) -> int | None:
        """Return the value of an option that takes a number."""
        text = self.one(option)
        if text and not text.isdecimal():
            raise UsageError(f'invalid value "{text}" for option --{option}')
        return int(text) if text else default

    def wait_s(self, default_s: float) -> float:
        """Read --wait: "90s", "1m30s"."""
        text = self.one("wait")
        try:
            return gnuflag.duration_s(text) if text else default_s
        except UsageError as error:
            raise UsageError(f'invalid value "{text}" for option --wait: {error}') from error

    @functools.cached_property
    def model(self) -> RunDirectory:
        """The model that -m or JUJU_MODEL names, or that was started last."""
        return model_named(self.one("model"))

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
        return self.status["machines"][number]["dns-name"]

    def write(self, value: object) -> bool:
        """Print a value as JSON if --format asks for that; whether it does."""
        if is_json := self.one("format") == "json":
            print(json.dumps(value, separators=(",", ":"), sort_keys=True))
        return is_json

    def write_json(self, command: str, value: object) -> None:
        """Print a value as JSON, which has to be asked for."""
        if not self.write(value):
            raise UsageError(f'the sandbox has "juju {command}" as JSON alone: say --format=json')


def parse(command: str, spec: str, words: Sequence[str]) -> Call:
    """Read the command line of a command of Juju."""
    unknown = f'the sandbox has no "juju {command} {{}}": try that on Juju'
    given = gnuflag.parse(f"{spec} model/m=", words, unknown)
    if (form := given.one("format", "json")) != "json":
        raise UsageError(unknown.format(f"--format={form}"))
    return Call(given.options, given.words)


def model_named(name: str = "") -> RunDirectory:
    """Return a running model: that of a name or of JUJU_MODEL, or the one started last."""
    if name := name or os.environ.get("JUJU_MODEL", ""):
        directory = RunDirectory(RUN / name.rpartition(":")[2].rpartition("/")[2])
        if not directory.is_running():
            raise CommandError(f"model sandbox:admin/{directory.name} not found")
        return directory
    if running := running_models():
        return max(running, key=lambda model: model.socket.stat().st_mtime)
    raise CommandError("No model in focus.\n\nNone is running: ./dev demo --keep leaves one.")


def pairs(words: Iterable[str]) -> dict[str, str]:
    """Read `name=value` words."""
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def values(words: Iterable[str]) -> dict[str, Any]:
    """Read `name=value` words, where `@path` stands for what a file holds."""
    return {
        name: Path(value[1:]).read_text() if value.startswith("@") else value
        for name, value in pairs(words).items()
    }


def dump(value: object) -> str:
    """Return a value as YAML, quoted as Go's package yaml.v2 does."""
    yaml = lazy_yaml()

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: Any, value: str) -> Any:
        style = "|" if "\n" in value else None
        if dumper.resolve(yaml.ScalarNode, value, (True, False)) != "tag:yaml.org,2002:str":
            style = '"'
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style)

    Dumper.add_representer(str, text)
    return yaml.dump(value, Dumper=Dumper, default_flow_style=False, allow_unicode=True)


def lazy_yaml() -> Any:
    """Return PyYAML, which is slow to import and seldom needed."""
    import yaml

    return yaml

# SPDX-License-Identifier: Apache-2.0
"""What a packed charm says of itself: metadata, config options, actions, storage.

Reads the files charmcraft puts into a .charm (metadata.yaml, config.yaml, actions.yaml) and
checks what Juju checks before it accepts a charm.
"""

import io
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

Role = Literal["provides", "requires", "peers"]
Value = str | int | float | bool

# JSON schema keywords of action parameters that are checked here. A charm that uses another one
# is refused, because ignoring it would accept parameters that Juju rejects.
_SCHEMA_CHECKED = {"type", "minimum"}
_SCHEMA_NOTES = {"title", "description", "default", "examples"}

_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "boolean": (bool,),
}


class CharmError(Exception):
    """The charm, or a value given for one of its options or actions, is not acceptable."""


@dataclass(frozen=True)
class Endpoint:
    """One end of a possible relation."""

    name: str
    role: Role
    interface: str
    scope: str = "global"
    limit: int | None = None
    is_implicit: bool = False


JUJU_INFO = Endpoint("juju-info", "provides", "juju-info", is_implicit=True)


@dataclass(frozen=True)
class Option:
    """A config option."""

    name: str
    type: str
    default: Value | None

    def convert(self, text: str) -> Value:
        """Give this option's type to the text that `juju config` is given."""
        converted = _CONVERTERS[self.type](text)
        if converted is None:
            raise CharmError(f'option "{self.name}" expected {self.type}, got "{text}"')
        return converted


def _to_boolean(text: str) -> bool | None:
    # The words of Go's strconv.ParseBool.
    words = {"1": True, "t": True, "true": True, "0": False, "f": False, "false": False}
    return words.get(text.lower()) if text in (text.lower(), text.upper(), text.title()) else None


def _to_int(text: str) -> int | None:
    return int(text) if re.fullmatch(r"[+-]?[0-9]+", text, re.ASCII) else None


def _to_float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


_CONVERTERS: Mapping[str, Callable[[str], Value | None]] = {
    "string": str,
    "int": _to_int,
    "float": _to_float,
    "boolean": _to_boolean,
}


@dataclass(frozen=True)
class ActionSpec:
    """An action and the schema of its parameters."""

    name: str
    properties: Mapping[str, Mapping[str, object]]
    required: tuple[str, ...]
    allows_others: bool | None

    def complete(self, params: Mapping[str, object], *, allows_others: bool) -> dict[str, object]:
        """Check `params` against the schema and add the defaults.

        `allows_others` is Juju's default for additionalProperties: true in 3.x, false in 4.0.
        """
        if self.allows_others is not None:
            allows_others = self.allows_others
        defaults = {k: p["default"] for k, p in self.properties.items() if "default" in p}
        for name in self.required:
            if name not in params:
                raise self._refusal(f'"{name}" is required')
        for name, value in params.items():
            if name in self.properties:
                self._check(name, value)
            elif not allows_others:
                raise self._refusal(f'additional property "{name}" is not allowed')
        return defaults | dict(params)

    def _check(self, name: str, value: object) -> None:
        schema = self.properties[name]
        kind = str(schema.get("type", ""))
        if kind and (
            not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")
        ):
            raise self._refusal(f'"{name}" must be of type {kind}, given {value!r}')
        lowest = schema.get("minimum")
        if isinstance(lowest, int | float) and isinstance(value, int | float) and value < lowest:
            raise self._refusal(f'"{name}" must be at least {lowest}')

    def _refusal(self, reason: str) -> CharmError:
        return CharmError(f'validation failed for action "{self.name}": {reason}')


@dataclass(frozen=True)
class Charm:
    """A charm: what it declares, and the archive it came in."""

    name: str
    is_subordinate: bool
    endpoints: Mapping[str, Endpoint]
    storage: tuple[str, ...]
    options: Mapping[str, Option]
    actions: Mapping[str, ActionSpec]
    files: frozenset[str] = frozenset()
    archive: bytes = field(default=b"", repr=False)

    def endpoint(self, name: str) -> Endpoint | None:
        """Find an endpoint by name; every charm has an implicit `juju-info`."""
        return self.endpoints.get(name) or (JUJU_INFO if name == JUJU_INFO.name else None)


def read(path: Path) -> Charm:
    """Read a packed charm."""
    try:
        archive = path.read_bytes()
        with zipfile.ZipFile(io.BytesIO(archive)) as packed:
            names = packed.namelist()
            texts = {
                name: packed.read(f"{name}.yaml").decode() if f"{name}.yaml" in names else ""
                for name in ("metadata", "config", "actions")
            }
    except OSError as error:
        raise CharmError(f"cannot read charm {path}: {error.strerror}") from error
    except zipfile.BadZipFile as error:
        raise CharmError(f"{path} is not a packed charm; pack it with charmcraft") from error
    files = frozenset(name for name in names if not name.endswith("/"))
    return parse(**texts, files=files, archive=archive)


def parse(
    metadata: str,
    config: str = "",
    actions: str = "",
    files: frozenset[str] = frozenset(),
    archive: bytes = b"",
) -> Charm:
    """Read a charm's YAML texts."""
    data: dict[str, Any] = yaml.safe_load(metadata) or {}
    if "name" not in data:
        raise CharmError("metadata.yaml has no name; is this a packed charm?")
    data |= yaml.safe_load(config) or {}
    data["actions"] = yaml.safe_load(actions)
    charm = Charm(
        name=str(data["name"]),
        is_subordinate=bool(data.get("subordinate", False)),
        endpoints=_endpoints(data),
        storage=_storage(data),
        options={k: _option(k, v) for k, v in _section(data, "options").items()},
        actions={k: _action(k, v) for k, v in _section(data, "actions").items()},
        files=files,
        archive=archive,
    )
    _check(charm)
    return charm


def _section(data: Mapping[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """Return a part of what a charm's files say; it may be left out, and what is in it empty."""
    section: Mapping[str, Any] = data.get(name) or {}
    return {key: value or {} for key, value in section.items()}


def _endpoints(data: Mapping[str, Any]) -> dict[str, Endpoint]:
    roles: tuple[Role, ...] = ("provides", "requires", "peers")
    return {
        name: Endpoint(
            name,
            role,
            str(entry["interface"]),
            str(entry.get("scope", "global")),
            entry.get("limit"),
        )
        for role in roles
        for name, entry in _section(data, role).items()
    }


def _storage(data: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the storage, each a directory or file system where Juju puts it."""
    entries = _section(data, "storage")
    for name, entry in entries.items():
        if entry.get("type") != "filesystem" or entry.keys() - {"type", "description"}:
            raise CharmError(f"storage {name}: the sandbox has plain file systems alone")
    return tuple(entries)


def _option(name: str, entry: Mapping[str, Any]) -> Option:
    kind = str(entry.get("type", "string"))
    if kind not in _CONVERTERS:
        raise CharmError(f'option "{name}" has unknown type "{kind}"')
    return Option(name, kind, entry.get("default"))


def _action(name: str, entry: Mapping[str, Any]) -> ActionSpec:
    properties = _section(entry, "params")
    for param, schema in properties.items():
        for keyword in schema.keys() - _SCHEMA_CHECKED - _SCHEMA_NOTES:
            raise CharmError(
                f"action {name}: {keyword!r} of {param!r} is not supported by the sandbox"
            )
        if "type" in schema and schema["type"] not in _TYPES:
            raise CharmError(f"action {name}: unknown type {schema['type']!r} of {param!r}")
    return ActionSpec(
        name=name,
        properties=properties,
        required=tuple(entry.get("required", ())),
        allows_others=entry.get("additionalProperties"),
    )


def _is_reserved(name: str) -> bool:
    return name == "juju" or name.startswith("juju-")


def _check(charm: Charm) -> None:
    """Apply the rules by which Juju refuses a charm."""
    containers = [
        e for e in charm.endpoints.values() if e.role == "requires" and e.scope == "container"
    ]
    if charm.is_subordinate and not containers:
        raise CharmError(
            f'subordinate charm "{charm.name}" lacks "requires" relation with container scope'
        )
    for endpoint in charm.endpoints.values():
        is_container_requirer = charm.is_subordinate and endpoint in containers
        if _is_reserved(endpoint.name) and not is_container_requirer:
            raise CharmError(
                f'charm "{charm.name}" using a reserved relation name: "{endpoint.name}"'
            )
        if endpoint.role != "requires" and _is_reserved(endpoint.interface):
            raise CharmError(
                f'charm "{charm.name}" relation "{endpoint.name}" using a reserved interface: '
                f'"{endpoint.interface}"'
            )
    for name in charm.actions:
        if _is_reserved(name):
            raise CharmError(f'charm "{charm.name}" using a reserved action name: "{name}"')

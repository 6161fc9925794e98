# SPDX-License-Identifier: Apache-2.0
"""Placements, reports, identities and settings as JSON.

Other revisions of the charm write them too, and people may. So what can be read is read; a value
that can't counts as not said; and what isn't known is kept. No I/O, no ops.
"""

import contextlib
import functools
import ipaddress
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, cast

from charms.storage_libs.v0.nfs_interfaces import NO_LIMIT, Permissions, Size
from values import (
    DeletedReport,
    Placement,
    Report,
    Restored,
    ShareReport,
    parse_share_name,
)

_T = TypeVar("_T")
# What a value that can't be read raises: a nest may be too deep for json to follow, a number too
# large for a float.
_UNREADABLE = (ValueError, TypeError, RecursionError, OverflowError)


@dataclass(frozen=True)
class Field:
    """How an attribute stands in JSON."""

    key: str
    read: Callable[[Any], object]
    """Raises one of `_UNREADABLE` for what it can't read."""
    write: Callable[[Any], object] = lambda value: value


class Record(Generic[_T]):
    """A dataclass as a JSON object; its attribute `extra`, if it has one, is all the rest."""

    def __init__(self, kind: type[_T], **fields: Field) -> None:
        self._kind = kind
        self._fields = fields
        self._default = kind()

    def read(self, plain: object) -> _T:
        """Take what can be read."""
        rest = members(plain)
        known: dict[str, object] = {}
        for attribute, field in self._fields.items():
            if field.key in rest:
                with contextlib.suppress(*_UNREADABLE):
                    known[attribute] = field.read(rest.pop(field.key))
        if hasattr(self._default, "extra"):
            known["extra"] = rest
        return self._kind(**known)

    def write(self, value: _T, *, is_whole: bool = False) -> dict[str, object]:
        """Write what is set; or all."""
        return {**getattr(value, "extra", {})} | {
            field.key: field.write(getattr(value, attribute))
            for attribute, field in self._fields.items()
            if is_whole or getattr(value, attribute) != getattr(self._default, attribute)
        }


def parse(text: str | bytes) -> dict[str, object]:
    """Read a JSON object; an empty one if it is something else."""
    with contextlib.suppress(*_UNREADABLE):
        return members(json.loads(text))
    return {}


def dump(plain: Mapping[str, object]) -> str:
    """Write a JSON object, always in the same way."""
    return json.dumps(plain, sort_keys=True, separators=(",", ":"))


def members(plain: object) -> dict[str, object]:
    """Read an object; an empty one if it is something else."""
    return {**cast("dict[str, object]", plain)} if isinstance(plain, dict) else {}


def text(plain: object) -> str:
    """Read a text."""
    if isinstance(plain, str):
        return plain
    raise TypeError


def flag(plain: object) -> bool:
    """Read a truth value."""
    if isinstance(plain, bool):
        return plain
    raise TypeError


def number(plain: object) -> int:
    """Read a whole number from 0 up."""
    if isinstance(plain, int) and not isinstance(plain, bool) and plain >= 0:
        return plain
    raise TypeError


def real(plain: object) -> float:
    """Read a number."""
    if isinstance(plain, (int, float)) and not isinstance(plain, bool):
        return float(plain)
    raise TypeError


def size(plain: object) -> Size:
    """Read a size: GiB, null for no limit."""
    if plain is None:
        return NO_LIMIT
    if (read := Size(number(plain))) >= NO_LIMIT:
        raise ValueError
    return read


def each(read: Callable[[object], _T]) -> Callable[[object], tuple[_T, ...]]:
    """Read those items of an array that can be read."""

    def read_all(plain: object) -> tuple[_T, ...]:
        found: list[_T] = []
        for item in cast("list[object]", plain) if isinstance(plain, list) else []:
            with contextlib.suppress(*_UNREADABLE):
                found.append(read(item))
        return tuple(found)

    return read_all


def mapped(
    key: Callable[[str], Any], read: Callable[[object], _T]
) -> Callable[[object], dict[Any, _T]]:
    """Read those members of an object whose key and value can be read."""

    def read_all(plain: object) -> dict[Any, _T]:
        found: dict[Any, _T] = {}
        for name, value in members(plain).items():
            with contextlib.suppress(*_UNREADABLE):
                found[key(name)] = read(value)
        return found

    return read_all


def _texts(values: tuple[object, ...]) -> list[str]:
    return [str(value) for value in values]


def _plain_size(value: Size) -> int | None:
    return value.plain


# The same clients have many shares.
_network = functools.cache(ipaddress.ip_network)
_NETWORKS = each(lambda plain: _network(text(plain)))


def _permissions(plain: object) -> Permissions:
    texts = {key: value for key, value in members(plain).items() if isinstance(value, str)}
    return Permissions.parse(texts, [])


def _plain_permissions(value: Permissions) -> dict[str, str]:
    return {key: text for key, text in value.items().items() if text}


# The keys are those of the first revision, whatever the attributes are called since.
PLACEMENT = Record(
    Placement,
    unit=Field("owner", text),
    uuid=Field("uuid", text),
    application=Field("application", text),
    is_inherited=Field("inherited", flag),
    is_manual=Field("by-hand", flag),
    size=Field("size", size, _plain_size),
    grants=Field("grants", _NETWORKS, _texts),
    guests=Field("guests", each(text), list),
    knows_models=Field("models", flag),
    unreadable=Field("slips", each(number), list),
    permissions=Field("permissions", _permissions, _plain_permissions),
    readers=Field("readers", each(text), list),
    reading=Field("reading", each(number), list),
    restored=Field("restored", text),
)
SHARE_REPORT = Record(
    ShareReport,
    uuid=Field("uuid", text),
    size=Field("size", size, _plain_size),
    refusal=Field("refusal", text),
    error=Field("error", text),
    networks=Field("networks", _NETWORKS, _texts),
    readers=Field("readers", _NETWORKS, _texts),
    permissions=Field("permissions", _permissions, _plain_permissions),
    left_out=Field("left-out", text),
)


DELETED_REPORT = Record(
    DeletedReport,
    uuid=Field("uuid", text),
    size=Field("size", size, _plain_size),
    day=Field("day", text),
    deletion=Field("deletion", text),
)
RESTORED = Record(
    Restored,
    uuid=Field("uuid", text),
    deletion=Field("deletion", text),
    placement=Field("placement", PLACEMENT.read, PLACEMENT.write),
)


def _plain_mapped(record: Record[_T]) -> Callable[[Mapping[str, _T]], dict[str, object]]:
    return lambda values: {name: record.write(value) for name, value in values.items()}


def _plain_addresses(addresses: Mapping[int, str]) -> dict[str, str]:
    return {str(key): address for key, address in addresses.items()}


REPORT = Record(
    Report,
    free=Field("free", number),
    is_on_root=Field("on-root", flag),
    is_unable=Field("unable", flag),
    shares=Field(
        "shares", mapped(parse_share_name, SHARE_REPORT.read), _plain_mapped(SHARE_REPORT)
    ),
    addresses=Field(
        "addresses",
        mapped(int, lambda plain: str(ipaddress.ip_address(text(plain)))),
        _plain_addresses,
    ),
    foreign=Field("foreign", each(text), list),
    deleted=Field("deleted", each(text), list),
    restorable=Field(
        "restorable",
        mapped(parse_share_name, DELETED_REPORT.read),
        _plain_mapped(DELETED_REPORT),
    ),
    restored=Field("restored", mapped(parse_share_name, RESTORED.read), _plain_mapped(RESTORED)),
)
read_placements = mapped(parse_share_name, PLACEMENT.read)
write_placements = _plain_mapped(PLACEMENT)
read_uuids = each(text)

# SPDX-License-Identifier: Apache-2.0
"""The peer relation: what is decided of the shares, and what each unit says, as JSON.

Application databag, `shares`: a placement by name of the share, written by the leader. Unit
databag, `report`: written by each unit for itself. What can't be read counts as not said: it was
written by another revision of the charm, or by hand.
"""

import contextlib
import ipaddress
import json
from collections.abc import Iterable, Mapping
from typing import cast

import ops

from charms.storage_libs.v0.nfs_interfaces import Network, parse_name
from placement import Placement, Report, ShareReport

Object = Mapping[str, object]


class Peers:
    """The databags of the peer relation, as values."""

    def __init__(self, charm: ops.CharmBase):
        self._app = charm.app
        self._unit = charm.unit
        self._relations = charm.model.relations

    @property
    def _relation(self) -> ops.Relation | None:
        return next(iter(self._relations["peers"]), None)

    @property
    def is_there(self) -> bool:
        """Whether the relation is: not before it is created, nor once this unit has left it."""
        return self._relation is not None

    @property
    def units(self) -> set[str]:
        """Names of the other units that are there, as far as this one has seen."""
        return {unit.name for unit in self._relation.units} if self._relation else set()

    def read_placements(self) -> dict[str, Placement]:
        """Read what the leader has decided."""
        return parse_placements(self._get(self._app, "shares"))

    def write_placements(self, placements: Mapping[str, Placement]) -> None:
        """Say what has been decided; ops writes nothing where nothing differs. On the leader."""
        self._set(self._app, "shares", format_placements(placements))

    def read_reports(self) -> dict[str, Report]:
        """Read what the other units say that are there."""
        units = self._relation.units if self._relation else set[ops.Unit]()
        return {unit.name: parse_report(self._get(unit, "report")) for unit in units}

    def read_own_report(self) -> Report:
        """Read what this unit has said."""
        return parse_report(self._get(self._unit, "report"))

    def write_report(self, report: Report) -> None:
        """Say what this unit has; ops writes nothing where nothing differs."""
        self._set(self._unit, "report", format_report(report))

    def _get(self, who: ops.Application | ops.Unit, key: str) -> str:
        return self._relation.data[who].get(key, "") if self._relation else ""

    def _set(self, who: ops.Application | ops.Unit, key: str, text: str) -> None:
        if self._relation:
            self._relation.data[who].update({key: text})


def format_placements(placements: Mapping[str, Placement]) -> str:
    """Write placements, without what is not set."""
    return _format({name: _plain_placement(it) for name, it in placements.items()})


def _plain_placement(placement: Placement) -> dict[str, object]:
    plain: dict[str, object] = {
        "owner": placement.owner,
        "uuid": placement.uuid,
        "by-hand": placement.by_hand,
        "size": placement.size,
        "grants": list(map(str, placement.grants)),
        "slips": list(placement.slips),
    }
    return {key: value for key, value in plain.items() if value or value is None}


def format_report(report: Report) -> str:
    """Write a report, without what is not set."""
    plain: dict[str, object] = {
        "free": report.free,
        "shares": {name: _plain_share(it) for name, it in report.shares.items()},
        "addresses": {str(key): address for key, address in report.addresses.items()},
        "foreign": list(report.foreign),
        "deleted": list(report.deleted),
    }
    return _format({key: value for key, value in plain.items() if value})


def _plain_share(share: ShareReport) -> dict[str, object]:
    plain: dict[str, object] = {
        "uuid": share.uuid,
        "size": share.size,
        "error": share.error,
        "networks": list(map(str, share.networks)),
    }
    return {key: value for key, value in plain.items() if value or value is None}


def _format(value: Object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def parse_placements(text: str) -> dict[str, Placement]:
    """Read placements."""
    found = _named(_parse(text))
    return {
        name: Placement(
            owner=_text(plain, "owner"),
            uuid=_text(plain, "uuid"),
            by_hand=plain.get("by-hand") is True,
            size=_size(plain),
            grants=_networks(plain, "grants"),
            slips=tuple(it for it in _list(plain, "slips") if isinstance(it, int)),
        )
        for name, plain in found.items()
    }


def parse_report(text: str) -> Report:
    """Read a report."""
    plain = _parse(text)
    addresses = _object(plain.get("addresses"))
    return Report(
        free=_number(plain.get("free")),
        shares={
            name: ShareReport(
                uuid=_text(it, "uuid"),
                size=_size(it),
                error=_text(it, "error"),
                networks=_networks(it, "networks"),
            )
            for name, it in _named(_object(plain.get("shares"))).items()
        },
        addresses={int(key): it for key in addresses if (it := _address(addresses, key))},
        foreign=tuple(_texts(plain, "foreign")),
        deleted=tuple(_texts(plain, "deleted")),
    )


def _parse(text: str) -> Object:
    with contextlib.suppress(ValueError, RecursionError):
        return _object(json.loads(text))
    return {}


def _object(value: object) -> Object:
    return cast("Object", value) if isinstance(value, dict) else {}


def _named(plain: Object) -> dict[str, Object]:
    """Take what is an object under the name of a share."""
    found: dict[str, Object] = {}
    for name, value in plain.items():
        with contextlib.suppress(ValueError):
            found[parse_name(name)] = _object(value)
    return found


def _text(plain: Object, key: str) -> str:
    value = plain.get(key)
    return value if isinstance(value, str) else ""


def _number(value: object) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _size(plain: Object) -> int | None:
    return None if plain.get("size", 0) is None else _number(plain.get("size"))


def _list(plain: Object, key: str) -> list[object]:
    value = plain.get(key)
    return cast("list[object]", value) if isinstance(value, list) else []


def _texts(plain: Object, key: str) -> Iterable[str]:
    return (it for it in _list(plain, key) if isinstance(it, str))


def _networks(plain: Object, key: str) -> tuple[Network, ...]:
    found: list[Network] = []
    for text in _texts(plain, key):
        with contextlib.suppress(ValueError):
            found.append(ipaddress.ip_network(text))
    return tuple(found)


def _address(addresses: Object, key: str) -> str:
    """Read where clients of an integration are served, if both can be read."""
    text = _text(addresses, key)
    with contextlib.suppress(ValueError):
        int(key)
        return str(ipaddress.ip_address(text))
    return ""

# SPDX-License-Identifier: Apache-2.0
"""What is to be mounted: a pure function of what is asked, granted and there. No I/O, no ops."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath

from charms.storage_libs.v0.nfs_interfaces import Endpoint, Share, parse_name
from config import Config, InvalidConfig


@dataclass(frozen=True)
class WantedMount:
    """A mount as it should be."""

    unit: str
    """Our Juju unit."""
    mountpoint: str
    share: str
    """Name of the share that the endpoint was granted for."""
    endpoint: Endpoint
    flags: tuple[str, ...]
    is_named: bool = False
    """Whether the operator gave the share its name."""
    others: frozenset[str] = frozenset()
    """The other units of our application that have it on this machine."""


@dataclass(frozen=True)
class OwnedMount:
    """A mount that our application has here: its unit file, as it was written."""

    mountpoint: str
    share: str
    endpoint: Endpoint
    made_directory: str = ""
    """The topmost directory that the charm made for the mount point; empty if it made none."""
    application: str = ""
    """The Juju application that it belongs to."""
    units: tuple[str, ...] = ()
    """The units of that which have it, on this machine."""
    is_named: bool = False
    """Whether the operator gave the share its name."""

    def others(self, unit: str) -> tuple[str, ...]:
        """Name the units that have it beside one."""
        return tuple(it for it in self.units if it != unit)

    def serves(self, wanted: "WantedMount | OwnedMount | None") -> bool:
        """Whether this is the wanted mount, its flags aside: those can change while mounted."""
        return wanted is not None and (
            (self.mountpoint, self.endpoint) == (wanted.mountpoint, wanted.endpoint)
        )

    def is_around(self, wanted: WantedMount) -> bool:
        """Whether this is above or below the wanted mount."""
        ours, theirs = PurePath(self.mountpoint), PurePath(wanted.mountpoint)
        return theirs in ours.parents or ours in theirs.parents


@dataclass(frozen=True)
class Plan:
    """What to do about mounts."""

    wanted: WantedMount | None = None
    """The one mount there should be. None: none, or see `keep`."""
    keep: bool = False
    """Leave everything as it is: what is wanted can't be known now."""


def application(unit: str) -> str:
    """Name the application of a unit."""
    return unit.partition("/")[0]


def name_unnamed(
    own: str, before: str, endpoint: Endpoint | None, owned: Iterable[OwnedMount]
) -> str:
    """Name the share of an application that is given no name.

    Its own, or the mount point, which was the default of earlier revisions, where that was asked
    for: the leader knows by what it asked, the others by what is answered, or they have mounted.
    Earlier revisions took what was answered for a name, whatever it was.

    Args:
        own: the default.
        before: on the leader, the name that was asked for before, unless an operator gave it; on
            the others, the name that was answered.
        endpoint: what the server granted.
        owned: the mounts that our unit has.
    """
    known = [before, *(mount.share for mount in owned if mount.endpoint == endpoint)]
    before = next(filter(_is_name, known), "")
    is_mountpoint = before.startswith("/") and not any(mount.is_named for mount in owned)
    return before if is_mountpoint else own


def _is_name(text: str) -> bool:
    try:
        parse_name(text)
    except ValueError:
        return False
    return True


def decide(
    unit: str,
    config: Config | InvalidConfig,
    unnamed: str,
    share: Share | None,
    said: Mapping[str, str],
    owned: Collection[OwnedMount],
) -> Plan:
    """Decide what should be mounted.

    Args:
        unit: our Juju unit.
        config: what the operator wants.
        unnamed: name of the share if the operator gives it none.
        share: what the server says; None where no server is integrated.
        said: the same as it stands in the server's databag.
        owned: the mounts that our unit has.
    """
    if share is None:
        return Plan()
    if isinstance(config, InvalidConfig):
        return Plan(keep=not config.is_unset)
    if share.endpoint is None:
        # One that can't be read is not one that was withdrawn.
        return Plan(keep=bool(said.get("endpoint")))
    wanted = WantedMount(
        unit,
        config.mountpoint,
        config.share_name or unnamed,
        share.endpoint,
        config.flags,
        is_named=bool(config.share_name),
        others=frozenset(it for mount in owned for it in mount.others(unit)),
    )
    if not share.is_admitted or _is_for_another(wanted, share.name, owned):
        return Plan(keep=True)
    return Plan(wanted)


def _is_for_another(wanted: WantedMount, answered: str, owned: Iterable[OwnedMount]) -> bool:
    """Whether the endpoint is still the one granted for the name that was asked for before.

    Between a change of the name and the server's answer, the old share must not appear at the new
    mount point. A server says which name it has answered; where it doesn't, what is mounted tells
    the two apart. The name that nobody gave never changes.
    """
    if answered:
        return answered != wanted.share
    return any(
        mount.endpoint == wanted.endpoint
        and mount.share != wanted.share
        and (mount.is_named or wanted.is_named)
        for mount in owned
    )

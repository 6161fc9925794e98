# SPDX-License-Identifier: Apache-2.0
"""Shares as values: what is requested, decided, here and said. Imports nothing of ours, no I/O."""

import functools
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from charms.storage_libs.v0.nfs_interfaces import (
    NO_LIMIT,
    UNKNOWN,
    UNSAID,
    Endpoint,
    Network,
    Permissions,
    Size,
    parse_name,
)

GIB = 2**30

EXPORT_ROOT = Path("/srv/nfs")
"""Where shares are mounted on the server, one directory each."""

# What Juju calls an application of another model that consumed an offer (cross-model relations).
_REMOTE_APPLICATION = re.compile(r"remote-[0-9a-f]{32}")
_OF_MODEL = re.compile(r"(?P<name>.+)@(?P<model>[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})")


def is_remote(application: str) -> bool:
    """Whether an application is of another model: Juju calls it so, or `Request.application`."""
    return _REMOTE_APPLICATION.fullmatch(application) is not None or is_of_model(application)


def share_name_of(model: str, name: str) -> str:
    """Name the share that applications of another model have if they request a name.

    Whatever they request, it ends in their model's UUID, which is Juju's word and not theirs.
    """
    return f"{name}@{model}" if name else ""


def is_of_model(name: str) -> bool:
    """Whether a name is one that `share_name_of` makes."""
    return _OF_MODEL.fullmatch(name) is not None


def parse_share_name(text: str) -> str:
    """Check the name of a share, of whatever model, and return it.

    Raises:
        ValueError: it is no valid name; the message says what is.
    """
    of_model = _OF_MODEL.fullmatch(text)
    parse_name(of_model["name"] if of_model else text)
    return text


@functools.cache
def share_id(name: str) -> str:
    """Make the name of a share's files and directory: readable, and never that of another share.

    Only [a-z0-9_], so that it stands unescaped in /etc/exports and in the names of systemd units.
    """
    readable = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:24]
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return f"{readable}_{digest}" if readable else digest


def share_directory(name: str) -> Path:
    """Where a share is mounted on the server: the path in its endpoint."""
    return EXPORT_ROOT / share_id(name)


def is_open(networks: Iterable[Network]) -> bool:
    """Whether anyone is among networks."""
    return any(network.prefixlen == 0 for network in networks)


@dataclass(frozen=True)
class Request:
    """What an integration asks for, of either endpoint."""

    integration_id: int
    application: str
    """Its name. `NAME@MODEL` where it is of another model by that one's offer: such a name may be
    another application's one day."""
    share: str
    """Name of the share, see `share_name_of`; empty if it can't be read."""
    size: Size
    """Unknown if the request can't be read whole: then it asks for nothing new."""
    allowlist: tuple[Network, ...] = ()
    """Who may mount besides the units of the application."""
    clients: tuple[Network, ...] = ()
    """From where the units of the application come."""
    error: str = ""
    """What can't be read, and what is allowed."""
    remark: str = ""
    """What this application can't do, and an operator should know."""
    permissions: Permissions = UNSAID
    """Nothing but a wish to read if the request can't be read whole."""
    model: str = ""
    """UUID of the application's model, where that is another one."""


@dataclass(frozen=True)
class Answer:
    """What a client is told."""

    endpoint: Endpoint | None = None
    size: Size = UNKNOWN
    error: str = ""
    admitted: tuple[Network, ...] | None = None
    """Who may mount by now. None: it is not known."""
    permissions: Permissions = UNSAID
    """What is in force of those that it requested."""


@dataclass(frozen=True)
class Placement:
    """What is decided of one share."""

    unit: str = ""
    """The unit that has it; empty while no unit has room."""
    uuid: str = ""
    """That of its image, once the unit has reported it: the share was made."""
    application: str = ""
    """Whose it is: who asked for it first. Empty: the operator's, or nobody's yet."""
    is_inherited: bool = False
    """That one has it since another gave it up, and has requested no size of its own."""
    is_manual: bool = False
    """It was created by an action, and exists without an integration."""
    size: Size = UNKNOWN
    """What an action gave it, the least that it must have."""
    grants: tuple[Network, ...] = ()
    """Who may mount it by an action."""
    guests: tuple[str, ...] = ()
    """Applications of other models that have it by an action."""
    knows_models: bool = False
    """Its guests are by an action alone: revisions before knew no models."""
    unreadable: tuple[int, ...] = ()
    """Integrations that have it, and whose request names nothing that can be read now."""
    permissions: Permissions = UNSAID
    """Owner, mode and squash, by the request of whose it is, or by an action."""
    readers: tuple[str, ...] = ()
    """Of `grants` and `guests`, those that may only read."""
    reading: tuple[int, ...] = ()
    """Integrations that may only read: what holds while their request can't be read."""
    restored: str = ""
    """The deletion that was taken back last."""
    extra: Mapping[str, object] = field(default_factory=dict[str, object])
    """What another revision of the charm keeps here."""


@dataclass(frozen=True)
class ShareReport:
    """What a unit says of one share."""

    uuid: str = ""
    """That of its image; empty: it is not here (yet)."""
    size: Size = UNKNOWN
    refusal: str = ""
    """Why it is not as whose it is requested it."""
    error: str = ""
    """What is wrong with it, for all that have it."""
    networks: tuple[Network, ...] = ()
    """To whom it is exported by now."""
    readers: tuple[Network, ...] = ()
    """To whom it is exported for reading alone: addresses of `networks`."""
    permissions: Permissions = UNSAID
    """Owner and mode that were set last as they were requested, and the squash it has."""
    left_out: str = ""
    """Why not all clients of others that request it are admitted."""


@dataclass(frozen=True)
class DeletedReport:
    """What a unit says of a deleted share that it keeps."""

    uuid: str = ""
    size: Size = UNKNOWN
    day: str = ""
    """The day on which it goes, as it looks now: 2026-12-05, in UTC."""
    deletion: str = ""
    """Which deletion it was: each has a name of its own."""


@dataclass(frozen=True)
class Restored:
    """A deleted share that was restored, and what was decided of it before."""

    uuid: str = ""
    deletion: str = ""
    """Which deletion was taken back."""
    placement: Placement = field(default_factory=Placement)
    record: Path = Path()
    """The file that says so on the storage."""


@dataclass(frozen=True)
class Report:
    """What a unit says to the others."""

    free: int = 0
    """GiB that it can still allocate."""
    is_on_root: bool = False
    """Whether its storage is the root disk, which takes no share without a limit."""
    is_unable: bool = False
    """Whether it serves nothing: its machine has no NFS server, or another unit's."""
    shares: Mapping[str, ShareReport] = field(default_factory=dict[str, ShareReport])
    addresses: Mapping[int, str] = field(default_factory=dict[int, str])
    """Where the clients of each integration reach it, for those whose share it has."""
    foreign: tuple[str, ...] = ()
    """Names of files on its storage that are no shares of this application."""
    deleted: tuple[str, ...] = ()
    """UUIDs of the shares that it has deleted and that still have a placement."""
    restorable: Mapping[str, DeletedReport] = field(default_factory=dict[str, DeletedReport])
    """The deleted shares that it keeps, by name."""
    restored: Mapping[str, Restored] = field(default_factory=dict[str, Restored])
    """The shares that it restored, by name, until their placement is recorded."""


Placements = Mapping[str, Placement]
Reports = Mapping[str, Report]


@dataclass(frozen=True)
class Image:
    """A share that has its image on this unit's storage."""

    name: str
    uuid: str
    """UUID of the file system, and `fsid` of the export."""
    path: Path
    """The image file."""
    file_bytes: int
    """Length of the image file."""
    filesystem_bytes: int
    """Length of the file system in it: less than the file's after a cut in mid-grow."""
    allocated_bytes: int
    """What the file really takes of the storage."""
    is_limited: bool
    """Whether it has a size; else its limit is the storage."""
    is_overcommitted: bool = False
    """Whether it was made while more was allocated than there is."""
    is_mounted: bool = False
    is_served: bool = True
    """Whether a client may ever have written to it: it was exported, or is of unknown past."""
    is_covered: bool = False
    """Whether something else is mounted at its place."""
    problem: str = ""
    """What is wrong with it, for the operator; empty when nothing is."""
    permissions: Permissions = UNSAID
    """Owner and mode of its root directory that were set last as they were requested."""

    @property
    def is_sparse(self) -> bool:
        """Whether it takes room only as it is filled; else all of it is reserved."""
        return self.is_overcommitted or not self.is_limited

    @property
    def lacks_space(self) -> bool:
        """Whether some of the space that is reserved for it was given back."""
        return not self.is_sparse and self.allocated_bytes < self.file_bytes

    @property
    def size(self) -> Size:
        """What clients were granted and have."""
        return Size(self.filesystem_bytes // GIB) if self.is_limited else NO_LIMIT


@dataclass(frozen=True)
class DeletedShare:
    """A share that an action deleted and that is kept for some days: it can be restored."""

    image: Image
    """Its image, under another name, and never mounted."""
    deletion: str = ""
    """Which deletion it was."""
    day: str = ""
    """The day on which it goes, as it looks now."""
    is_past: bool = False
    """Whether it was kept for as long as it was to be."""
    is_count_old: bool = False
    """Whether the time for which it was kept is to be written beside it."""


@dataclass(frozen=True)
class Found:
    """What is on a storage."""

    images: Mapping[str, Image] = field(default_factory=dict[str, Image])
    """The shares, by name."""
    foreign: tuple[Path, ...] = ()
    """What is there under the name of an image, and is no share of this application."""
    deleted: Mapping[str, DeletedShare] = field(default_factory=dict[str, DeletedShare])
    """The deleted shares that are kept, by name."""
    restored: Mapping[str, Restored] = field(default_factory=dict[str, Restored])
    """Those of the shares that were deleted and restored, by name, until that is recorded."""

    @property
    def foreign_names(self) -> tuple[str, ...]:
        """Names of what is foreign, in ASCII: they may hold anything that a file system takes."""
        return tuple(ascii(path.name)[1:-1] for path in self.foreign)

    @property
    def all_images(self) -> tuple[Image, ...]:
        """All that takes room: what is deleted and kept, too."""
        return (*self.images.values(), *self.deleted_images)

    @property
    def deleted_images(self) -> tuple[Image, ...]:
        """The images of deleted shares."""
        return tuple(it.image for it in self.deleted.values())


@dataclass(frozen=True)
class Storage:
    """The file system that holds the images, in bytes."""

    total_bytes: int = 0
    free_bytes: int = 0
    is_root: bool = False
    """Whether it is the machine's root file system."""
    overcommit_ratio: float = 1.0
    """How much may be allocated of each byte that there is."""


@dataclass(frozen=True)
class Work:
    """An image to be made, or grown, to a length."""

    name: str
    gib: int
    """Length of the image."""
    is_limited: bool = True
    is_overcommitted: bool = False

    @property
    def is_sparse(self) -> bool:
        """Whether it takes room only as it is filled."""
        return self.is_overcommitted or not self.is_limited


@dataclass(frozen=True)
class Export:
    """One share and who may mount it."""

    name: str
    uuid: str
    networks: tuple[Network, ...]
    """None is in another, but for anyone's."""
    readers: tuple[Network, ...] = ()
    """Those of `networks` that may only read."""
    permissions: Permissions = UNSAID
    """Its squash, if not the server's, and the owner that `all` stands for."""

    @property
    def path(self) -> Path:
        """The directory that is exported."""
        return share_directory(self.name)


@dataclass(frozen=True)
class Wanted:
    """What a share shall be."""

    size: Size
    """The least that it is to have; unknown: as it is, and not to be made."""
    networks: tuple[Network, ...] = ()
    """Who may mount it."""
    own_networks: tuple[Network, ...] = ()
    """Who may by the word of whose it is, and by actions."""
    applications: tuple[str, ...] = ()
    """The applications that have it, its own first."""
    readers: tuple[Network, ...] = ()
    """Those of `networks` that may only read."""
    own_readers: tuple[Network, ...] = ()
    """The same of `own_networks`."""

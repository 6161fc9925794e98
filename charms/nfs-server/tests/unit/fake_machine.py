# SPDX-License-Identifier: Apache-2.0
"""A machine in memory, behind what the charm calls of images, mounts, exports and nfs.

`test_charm.test_fakes_match` holds their signatures against the real ones.
"""

import secrets
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import deleted as real_deleted
import exports as real_exports
import images as real_images
import monitoring as real_monitoring
import mounts as real_mounts
import nfs as real_nfs
from charms.storage_libs.v0.nfs_interfaces import Network, Permissions
from kernel import Space
from settings import Settings
from values import (
    GIB,
    DeletedShare,
    Export,
    Found,
    Image,
    Placement,
    Restored,
    Storage,
    Work,
    share_directory,
    share_id,
)

TOTAL = 100
RESERVE = 2
KEPT = Path()
"""Where machines keep what outlives a hook; set by conftest.py."""


@dataclass
class FakeMachine:
    """What is on the machine, and what may go wrong there."""

    unit: str = "nfs-server/0"
    goal: dict[str, str] = field(default_factory=dict[str, str])
    """Units of the application, and their status; this one where none are given."""
    kept: Path = field(default_factory=lambda: KEPT / secrets.token_hex(8))
    """What the charm keeps on the machine."""
    made: int = 0
    """How many file systems were made, for their UUIDs."""
    is_installed: bool = True
    is_running: bool = True
    is_configured: bool = True
    settings: Settings = field(default_factory=Settings)
    """What the server runs with."""
    squash: str = "none"
    can_start: bool = True
    can_install: bool = True
    is_container: bool = False
    covered: set[str] = field(default_factory=set[str])
    """Shares in whose place something else is mounted."""
    is_unreadable: bool = False
    """Its storage gives errors."""
    unexpected: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Who may mount our shares by exports that the charm did not make."""
    holders: dict[str, tuple[real_nfs.Holder, ...]] = field(
        default_factory=dict[str, tuple[real_nfs.Holder, ...]]
    )
    """Clients that hold files of shares open."""
    nfsv3: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Clients that mounted shares by NFSv3."""
    on_storage: dict[str, Image] = field(default_factory=dict[str, Image])
    deleted: dict[str, DeletedShare] = field(default_factory=dict[str, DeletedShare])
    """The deleted shares that are kept."""
    decided: dict[str, Restored] = field(default_factory=dict[str, Restored])
    """What stands beside them, and is left for a while of those that were restored: by UUID."""
    foreign: tuple[Path, ...] = ()
    is_storage_mounted: bool = True
    is_storage_noted: bool = False
    """Whether it was seen mounted."""
    is_root: bool = False
    """Whether the storage is the root disk."""
    can_reserve: bool = True
    """Whether the storage has room for what images gave back."""
    others_gib: int = 0
    """What other files take of the storage."""
    filled: set[str] = field(default_factory=set[str])
    """Shares that hold files, whoever wrote them."""
    unfinished: int = 0
    """How many GiB killed hooks left of images that they were making."""
    roots: dict[str, tuple[str, str]] = field(default_factory=dict[str, tuple[str, str]])
    """Owner and mode of the shares' root directories, where they aren't those of a new one."""
    mounted: set[str] = field(default_factory=set[str])
    exported: dict[str, Export] = field(default_factory=dict[str, Export])
    paused: set[str] = field(default_factory=set[str])
    can_export: bool = True
    others: set[tuple[str, str]] = field(default_factory=set[tuple[str, str]])
    """Exports that are not the charm's."""
    has_exports_file: bool = False
    failing: set[str] = field(default_factory=set[str])
    """Shares that can't be made or grown."""
    damaged: set[str] = field(default_factory=set[str])
    """Shares that can't be mounted."""
    unclean: set[str] = field(default_factory=set[str])
    """Shares whose file system has errors that e2fsck finds."""
    busy: set[str] = field(default_factory=set[str])
    """Shares that a process on the machine uses."""
    clients: tuple[real_nfs.Address, ...] = ()
    """From where clients are connected."""
    do_clients_leave: bool = True
    """Whether clients go by themselves when they are waited for."""
    waited_s: float = 0
    """How long clients were waited for, at the most."""
    facts: real_monitoring.Facts | None = None
    """What the exporter tells of; None: there is none."""
    is_port_free: bool = True
    """Whether the exporter can be asked."""
    noted_hooks: int = 0
    """How many hooks ran to their end, as the exporter is told."""
    changes: list[str] = field(default_factory=list[str])
    """All that was changed."""

    @property
    def free_gib(self) -> int:
        """What the storage has left to give."""
        images = (*self.on_storage.values(), *(it.image for it in self.deleted.values()))
        taken = sum(image.allocated_bytes for image in images) // GIB
        return TOTAL - RESERVE - self.others_gib - self.unfinished - taken

    def add(
        self,
        name: str,
        size: int | None,
        *,
        is_served: bool = True,
        is_overcommitted: bool = False,
    ) -> None:
        """Put a share there, mounted."""
        self.made += 1
        length = (TOTAL if size is None else size) * GIB
        self.on_storage[name] = Image(
            name=name,
            path=Path(f"/storage/{share_id(name)}.img"),
            uuid=f"uuid {self.made} of {share_id(name)}, made on {self.unit}",
            file_bytes=length,
            filesystem_bytes=length,
            allocated_bytes=GIB if size is None or is_overcommitted else length,
            is_limited=size is not None,
            is_served=is_served,
            is_overcommitted=is_overcommitted,
        )
        self.mounted.add(name)

    def may_mount(self) -> dict[str, set[str]]:
        """Who may mount what, by name of the share."""
        return {
            name: {real_exports.host(n) for n in export.networks}
            for name, export in self.exported.items()
        }

    def sizes(self) -> dict[str, int | None]:
        """Sizes of the shares."""
        return {name: image.size.plain for name, image in self.on_storage.items()}

    def note(self, changed: bool, what: str) -> bool:
        """Note what was changed, if it was."""
        if changed:
            self.changes.append(what)
        return changed


class FakeImages:
    """For `images`."""

    ImagesError = real_images.ImagesError
    image_path = staticmethod(real_images.image_path)

    def __init__(self, machine: FakeMachine):
        self._machine = machine

    def read(self, directory: Path, application: str) -> Found:
        assert directory.is_dir()
        assert not self._machine.is_unreadable
        found = {name: self._seen(image) for name, image in self._machine.on_storage.items()}
        return Found(found, self._machine.foreign)

    def _seen(self, image: Image) -> Image:
        is_mounted = image.name in self._machine.mounted
        problem = "" if is_mounted else "not mounted"
        if is_mounted and _is_short(image):
            problem = "its space is not reserved, the storage is full"
        is_covered = image.name in self._machine.covered
        return replace(image, is_mounted=is_mounted, is_covered=is_covered, problem=problem)

    def note_mounted(self, directory: Path) -> None:
        self._machine.is_storage_noted |= self._machine.is_storage_mounted

    def is_awaited(self, directory: Path) -> bool:
        return self._machine.is_storage_noted and not self._machine.is_storage_mounted

    def forget_mounted(self) -> None:
        self._machine.is_storage_noted = False

    def find_fault(self, directory: Path) -> str:
        return "/ can't be read (Input/output error)" if self._machine.is_unreadable else ""

    def read_storage(self, directory: Path, overcommit_ratio: float) -> Storage:
        free = (self._machine.free_gib + RESERVE) * GIB
        is_root = self._machine.is_root
        return Storage(TOTAL * GIB, free, is_root, 1.0 if is_root else overcommit_ratio)

    def remove_unfinished(self, directory: Path) -> bool:
        changed = self._machine.unfinished > 0
        self._machine.unfinished = 0
        return self._machine.note(changed, "unfinished removed")

    def make(self, directory: Path, work: Work, application: str) -> Image:
        assert work.name not in self._machine.on_storage
        self._machine.note(True, f"{work.name} made")
        if work.name in self._machine.failing:
            raise real_images.ImagesError(f"share {work.name}: it failed")
        self._machine.add(
            work.name,
            work.gib if work.is_limited else None,
            is_served=False,
            is_overcommitted=work.is_overcommitted,
        )
        self._machine.mounted.remove(work.name)
        return self._set_length(work)

    def _set_length(self, work: Work) -> Image:
        there, length = self._machine.on_storage[work.name], work.gib * GIB
        there = replace(there, file_bytes=length, filesystem_bytes=length)
        self._machine.on_storage[work.name] = there
        return there

    def note_served(self, image: Image) -> None:
        assert not self._machine.on_storage[image.name].is_served
        if image.name in self._machine.failing:
            raise real_images.ImagesError(f"share {image.name}: it failed")
        self._machine.note(True, f"{image.name} served")
        there = self._machine.on_storage[image.name]
        self._machine.on_storage[image.name] = replace(there, is_served=True)

    def grow(self, image: Image, work: Work) -> Image:
        assert image.name in self._machine.mounted
        self._machine.note(True, f"{image.name} grown")
        if image.name in self._machine.failing:
            raise real_images.ImagesError(f"share {image.name}: it failed")
        before = self._machine.on_storage[image.name]
        self._machine.add(image.name, work.gib if work.is_limited else None)
        self._machine.on_storage[image.name] = replace(
            self._machine.on_storage[image.name],
            uuid=before.uuid,
            is_served=before.is_served,
            permissions=before.permissions,
        )
        return self._set_length(work)

    def set_permissions(self, image: Image, asked: Permissions) -> None:
        assert image.name in self._machine.mounted
        self._machine.note(True, f"{image.name} permissions set")
        if image.name in self._machine.failing:
            raise real_images.ImagesError(f"share {image.name}: it failed")
        there = self._machine.on_storage[image.name]
        owner, mode = self._machine.roots.get(image.name, ("0:0", "0755"))
        if asked.owner and asked.owner != there.permissions.owner:
            owner = asked.owner
        if asked.mode and asked.mode != there.permissions.mode:
            mode = asked.mode
        self._machine.roots[image.name] = owner, mode
        self._machine.on_storage[image.name] = replace(there, permissions=asked)

    def reserve(self, image: Image) -> None:
        self._machine.note(True, "reserved")
        if not self._machine.can_reserve:
            raise real_images.ImagesError(f"share {image.name}: no space left")
        there = self._machine.on_storage[image.name]
        self._machine.on_storage[image.name] = replace(there, allocated_bytes=image.file_bytes)

    def is_empty(self, image: Image) -> bool:
        return image.name not in self._machine.filled

    def usage(self, image: Image) -> real_images.Usage:
        if not image.is_mounted:
            return real_images.Usage()
        owner, mode = self._machine.roots.get(image.name, ("0:0", "0755"))
        space = Space(used_bytes=GIB, available_bytes=9 * GIB, inodes=100, used_inodes=12)
        return real_images.Usage(space, owner, mode)

    def delete(self, image: Image) -> None:
        kept = self._machine.deleted.get(image.name)
        if kept and kept.image.uuid == image.uuid:
            del self._machine.deleted[image.name], self._machine.decided[image.uuid]
            self._machine.note(True, f"{image.name} purged")
            return
        assert image.name not in self._machine.mounted
        del self._machine.on_storage[image.name]
        self._machine.roots.pop(image.name, None)
        self._machine.note(True, f"{image.name} deleted")

    def check(self, image: Image, *, repair: bool) -> tuple[bool, str]:
        assert image.name not in self._machine.mounted
        if repair:
            self._machine.unclean.discard(image.name)
        return image.name not in self._machine.unclean, "pass 1"


class FakeDeleted:
    """For `deleted`."""

    DAY_S = real_deleted.DAY_S
    MAX_KEEP_S = real_deleted.MAX_KEEP_S

    def __init__(self, machine: FakeMachine):
        self._machine = machine

    def read(self, directory: Path, application: str, found: Found) -> Found:
        decided = self._machine.decided
        restored = {
            name: decided[image.uuid]
            for name, image in found.images.items()
            if image.uuid in decided
        }
        return replace(found, deleted=dict(self._machine.deleted), restored=restored)

    def keep(self, image: Image, placement: Placement, keep_s: int) -> str:
        assert image.name not in self._machine.mounted
        assert image.name not in self._machine.deleted
        self._machine.note(True, f"{image.name} kept for {keep_s // real_deleted.DAY_S} days")
        deletion = secrets.token_hex(8)
        share = DeletedShare(self._machine.on_storage.pop(image.name), deletion, "2026-12-05")
        self._machine.deleted[image.name] = share
        self._machine.decided[image.uuid] = Restored(image.uuid, deletion, placement)
        return share.day

    def restore(self, share: DeletedShare, name: str, application: str) -> None:
        assert name not in self._machine.on_storage
        self._machine.note(True, f"{share.image.name} restored as {name}")
        image = self._machine.deleted.pop(share.image.name).image
        path = image.path.with_name(f"{share_id(name)}.img")
        self._machine.on_storage[name] = replace(image, name=name, path=path)

    def resume(self) -> None:
        for name, share in self._machine.deleted.items():
            self._machine.deleted[name] = replace(share, is_past=False)

    def count(self, share: DeletedShare, application: str) -> None:
        there = self._machine.deleted[share.image.name]
        self._machine.deleted[share.image.name] = replace(there, is_count_old=False)
        self._machine.note(True, f"{share.image.name} counted")

    def remove_unfinished(self, directory: Path, application: str) -> None:
        pass

    def forget(self, restored: Restored) -> None:
        del self._machine.decided[restored.uuid]


def _is_short(image: Image) -> bool:
    """Whether it takes less of the storage than it was allocated."""
    return not image.is_sparse and image.allocated_bytes < image.file_bytes


class FakeMounts:
    """For `mounts`."""

    MountsError = real_mounts.MountsError

    def __init__(self, machine: FakeMachine):
        self._machine = machine

    def files(self) -> tuple[Path, ...]:
        return ()

    def ensure_mounted(self, directory: Path, images: Collection[Image]) -> bool:
        missing = {image.name for image in images} - self._machine.mounted
        self._machine.mounted |= missing - self._machine.damaged
        return self._machine.note(bool(missing), "mounted")

    def users(self, image: Image) -> tuple[str, ...]:
        return ("bash (812)",) if image.name in self._machine.busy else ()

    def unmount(self, image: Image, flush: Callable[[], None]) -> None:
        assert image.name not in self._machine.exported or image.name in self._machine.paused
        if image.name in self._machine.busy or self._machine.holders.get(image.name):
            raise real_mounts.MountsError("target is busy")
        self._machine.mounted.discard(image.name)
        self._machine.note(True, f"{image.name} unmounted")

    def mounted(self) -> set[Path]:
        return set(map(share_directory, self._machine.mounted))

    def unmount_all(self, flush: Callable[[], None]) -> tuple[str, ...]:
        assert not self._machine.exported
        held = {name for name, holders in self._machine.holders.items() if holders}
        busy = self._machine.mounted & (self._machine.busy | held)
        self._machine.note(bool(self._machine.mounted - busy), "unmounted")
        self._machine.mounted = busy
        return tuple(f"{share_directory(name)} stays mounted" for name in sorted(busy))


class FakeExports:
    """For `exports`."""

    ExportsError = real_exports.ExportsError
    MAX_ENTRIES = real_exports.MAX_ENTRIES
    EXPORTS = real_exports.EXPORTS
    ETAB = real_exports.ETAB
    host = staticmethod(real_exports.host)
    hosts = staticmethod(real_exports.hosts)

    def __init__(self, machine: FakeMachine):
        self._machine = machine

    def ensure(
        self, exports: Collection[Export], squash: str, *, paused: Collection[str] = ()
    ) -> bool:
        assert self._machine.is_installed
        if not self._machine.can_export:
            raise real_exports.ExportsError("exportfs: it failed")
        wanted = {export.name: export for export in exports}
        assert all(self._machine.on_storage[name].is_served for name in wanted), "not noted before"
        is_same = (wanted, squash) == (self._machine.exported, self._machine.squash)
        if is_same and set(paused) == self._machine.paused and self._machine.has_exports_file:
            return False
        self._machine.squash = squash
        self._machine.exported = wanted
        self._machine.paused = set(paused)
        self._machine.has_exports_file = True
        self._machine.changes.append("exported")
        return True

    def flush(self) -> None:
        pass

    def remove(self) -> None:
        self.ensure((), "none")
        self._machine.has_exports_file = False

    def unexpected(self, exports: Iterable[Export]) -> list[tuple[str, str]]:
        wanted = {
            (str(export.path), real_exports.host(network))
            for export in exports
            for network in export.networks
        }
        return self._machine.unexpected + sorted(set(self._entries()) - wanted)

    def read_table(self) -> dict[tuple[str, str], frozenset[str]]:
        return dict.fromkeys(self._machine.others | set(self._entries()), frozenset())

    def _entries(self) -> Iterator[tuple[str, str]]:
        for export in self._machine.exported.values():
            for network in export.networks:
                yield str(export.path), real_exports.host(network)


class FakeNfs:
    """For `nfs`."""

    PACKAGE = real_nfs.PACKAGE
    PORT = real_nfs.PORT
    NFSV3_PORTS = real_nfs.NFSV3_PORTS
    NfsError = real_nfs.NfsError

    def __init__(self, machine: FakeMachine):
        self._machine = machine

    def files(self) -> tuple[Path, ...]:
        return ()

    def read_state(self) -> tuple[bytes | None, bytes | None]:
        return bytes(self._machine.is_running), None

    def find_refusal(self) -> str:
        return "This container can't serve NFS" if self._machine.is_container else ""

    def install(self, settings: Settings) -> str:
        if not self._machine.can_install:
            raise real_nfs.NfsError("no candidate")
        self._machine.settings = settings
        self._machine.is_installed = self._machine.is_running = self._machine.is_configured = True
        self._machine.changes.append("installed")
        return self.read_version()

    def read_version(self) -> str:
        return "1:2.6.4-3ubuntu5" if self._machine.is_installed else ""

    def is_installed(self) -> bool:
        return self._machine.is_installed

    def is_running(self) -> bool:
        return self._machine.is_running

    def is_configured(self) -> bool:
        return self._machine.is_configured

    def write_configuration(self, settings: Settings) -> bool:
        changed = not self._machine.is_configured
        self._machine.is_configured = True
        self._machine.changes += ["configured"] if changed else []
        return changed

    def ensure_running(self, settings: Settings) -> bool:
        if not self._machine.can_start:
            raise real_nfs.NfsError("masked")
        changed = not self._machine.is_running or settings != self._machine.settings
        self._machine.is_running = True
        self._machine.settings = settings
        self._machine.changes += ["started"] if changed else []
        return changed

    def read_clients(
        self, networks: Collection[Network] | None = None
    ) -> tuple[real_nfs.Address, ...]:
        return tuple(
            it
            for it in self._machine.clients
            if networks is None or any(it in network for network in networks)
        )

    def holders(self, image_where: Path) -> tuple[real_nfs.Holder, ...]:
        return self._machine.holders.get(self._name(image_where), ())

    def expire(self, clients: Iterable[real_nfs.Holder]) -> None:
        gone = set(clients)
        for name, there in self._machine.holders.items():
            self._machine.holders[name] = tuple(it for it in there if it not in gone)

    def nfsv3_clients(self, where: Path) -> tuple[str, ...]:
        return self._machine.nfsv3.get(self._name(where), ())

    def _name(self, where: Path) -> str:
        return next((it for it in self._machine.on_storage if share_directory(it) == where), "")

    def wait_for_clients_to_leave(
        self,
        networks: Collection[Network] | None = None,
        timeout_s: float = real_nfs.LEAVE_TIMEOUT_S,
    ) -> bool:
        meant = self.read_clients(networks)
        if not meant:
            return True
        may_mount = set[str]().union(*self._machine.may_mount().values())
        assert {str(it) for it in meant} <= may_mount  # Who is cut off can't unmount.
        self._machine.waited_s += timeout_s
        if self._machine.do_clients_leave:
            stay = tuple(it for it in self._machine.clients if it not in meant)
            self._machine.clients = stay
        return self._machine.do_clients_leave

    def remove(self, *, is_used_by_others: bool) -> None:
        self._machine.is_running &= is_used_by_others or not self._machine.is_installed
        self._machine.is_configured = False


class FakeMonitoring:
    """For `monitoring`."""

    ADDRESS = real_monitoring.ADDRESS
    PORT = real_monitoring.PORT
    MonitoringError = real_monitoring.MonitoringError

    def __init__(self, machine: FakeMachine):
        self._machine = machine

    def files(self) -> tuple[Path, ...]:
        return ()

    def is_there(self) -> bool:
        return self._machine.facts is not None

    def is_listening(self) -> bool:
        return self._machine.is_port_free

    def ensure(self, facts: real_monitoring.Facts, charm_directory: Path) -> bool:
        changed = self._machine.note(facts != self._machine.facts, "monitored")
        self._machine.facts = facts
        if not self._machine.is_port_free:
            raise real_monitoring.MonitoringError("port 20490 is taken: end who has it, ss -ltnp")
        return changed

    def remove(self) -> bool:
        was_there = self.is_there()
        self._machine.facts = None
        return self._machine.note(was_there, "not monitored")

    def note_hook(self) -> None:
        self._machine.noted_hooks += 1

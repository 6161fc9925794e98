# SPDX-License-Identifier: Apache-2.0
"""A machine in memory, behind the functions of images, exports and nfs that the charm calls.

`test_charm.test_fakes_match` holds their signatures against the real ones.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import exports as real_exports
import images as real_images
import nfs as real_nfs
from settings import Settings
from shares import GIB, Export, Image, Storage, Work, share_id

TOTAL = 100
RESERVE = 2


@dataclass
class FakeMachine:
    """What is on the machine, and what may go wrong there."""

    unit: str = "nfs-server/0"
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
    strangers: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    """Who may mount our shares by another hand's doing."""
    is_connected: bool = False
    """Whether a client holds files open."""
    do_clients_leave: bool = True
    """Whether clients go by themselves when they are waited for."""
    on_storage: dict[str, Image] = field(default_factory=dict[str, Image])
    foreign: tuple[Path, ...] = ()
    can_reserve: bool = True
    """Whether the storage has room for what images gave back."""
    leftovers: int = 0
    mounted: set[str] = field(default_factory=set[str])
    exported: dict[str, Export] = field(default_factory=dict[str, Export])
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
    """Shares that can't be unmounted."""
    clients: tuple[real_nfs.Address, ...] = ()
    """From where clients are connected."""
    changes: list[str] = field(default_factory=list[str])
    """All that was changed."""

    @property
    def free_gib(self) -> int:
        """What the storage has left to give."""
        return TOTAL - RESERVE - sum(i.allocated_bytes for i in self.on_storage.values()) // GIB

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
        return {name: image.size for name, image in self.on_storage.items()}


class FakeImages:
    """For `images`."""

    ImagesError = real_images.ImagesError
    Found = real_images.Found

    def __init__(self, machine: FakeMachine):
        self._machine = machine

    def read(self, directory: Path, application: str) -> real_images.Found:
        assert directory.is_dir()
        found = {name: self._seen(image) for name, image in self._machine.on_storage.items()}
        return real_images.Found(found, self._machine.foreign)

    def _seen(self, image: Image) -> Image:
        is_mounted = image.name in self._machine.mounted
        problem = "" if is_mounted else "not mounted"
        if is_mounted and _is_short(image):
            problem = "its space is not reserved, the storage is full"
        return replace(image, is_mounted=is_mounted, problem=problem)

    def read_storage(self, directory: Path) -> Storage:
        return Storage(TOTAL * GIB, (self._machine.free_gib + RESERVE) * GIB)

    def remove_leftovers(self, directory: Path) -> bool:
        changed = self._machine.leftovers > 0
        self._machine.leftovers = 0
        return self._note(changed, "leftovers removed")

    def make(self, directory: Path, work: Work, application: str) -> None:
        assert work.name not in self._machine.on_storage
        self._note(True, f"{work.name} made")
        if work.name in self._machine.failing:
            raise real_images.ImagesError(f"share {work.name}: it failed")
        self._machine.add(
            work.name, work.size, is_served=False, is_overcommitted=work.is_overcommitted
        )
        self._machine.mounted.remove(work.name)

    def note_served(self, directory: Path, image: Image) -> None:
        assert not self._machine.on_storage[image.name].is_served
        self._note(True, f"{image.name} served")
        there = self._machine.on_storage[image.name]
        self._machine.on_storage[image.name] = replace(there, is_served=True)

    def grow(self, directory: Path, image: Image, size: int | None) -> None:
        assert image.name in self._machine.mounted
        self._note(True, f"{image.name} grown")
        if image.name in self._machine.failing:
            raise real_images.ImagesError(f"share {image.name}: it failed")
        before = self._machine.on_storage[image.name]
        self._machine.add(image.name, size)
        self._machine.on_storage[image.name] = replace(
            self._machine.on_storage[image.name], uuid=before.uuid, is_served=before.is_served
        )

    def ensure_reserved(self, directory: Path, images: Iterable[Image]) -> bool:
        short = [image for image in images if _is_short(image)]
        for image in short if self._machine.can_reserve else []:
            there = self._machine.on_storage[image.name]
            self._machine.on_storage[image.name] = replace(there, allocated_bytes=image.file_bytes)
        return self._note(bool(short), "reserved")

    def ensure_mounted(self, directory: Path, images: Iterable[Image]) -> bool:
        missing = {image.name for image in images} - self._machine.mounted
        self._machine.mounted |= missing - self._machine.damaged
        return self._note(bool(missing), "mounted")

    def usage(self, image: Image) -> real_images.Usage:
        if not image.is_mounted:
            return real_images.Usage()
        return real_images.Usage(GIB, 9 * GIB, used_inodes=12, free_inodes=88)

    def unmount(self, image: Image, release: Callable[[], None]) -> None:
        assert image.name not in self._machine.exported
        if image.name in self._machine.busy:
            raise real_images.ImagesError("target is busy")
        self._machine.mounted.discard(image.name)
        self._note(True, f"{image.name} unmounted")

    def delete(self, directory: Path, image: Image, release: Callable[[], None]) -> None:
        self.unmount(image, release)
        del self._machine.on_storage[image.name]
        self._note(True, f"{image.name} deleted")

    def check(self, directory: Path, image: Image, *, repair: bool) -> tuple[bool, str]:
        assert image.name not in self._machine.mounted
        if repair:
            self._machine.unclean.discard(image.name)
        return image.name not in self._machine.unclean, "pass 1"

    def is_any_mounted(self) -> bool:
        return bool(self._machine.mounted)

    def unmount_all(self, release: Callable[[], None]) -> None:
        if self._machine.mounted and self._machine.is_connected:
            release()
        if self._machine.mounted & set(self._machine.exported) or self._machine.is_connected:
            raise real_images.ImagesError("target is busy")
        self._note(bool(self._machine.mounted), "unmounted")
        self._machine.mounted.clear()

    def _note(self, changed: bool, what: str) -> bool:
        if changed:
            self._machine.changes.append(what)
        return changed


def _is_short(image: Image) -> bool:
    """Whether it takes less of the storage than it was promised."""
    return not image.is_sparse and image.allocated_bytes < image.file_bytes


class FakeExports:
    """For `exports`."""

    ExportsError = real_exports.ExportsError
    host = staticmethod(real_exports.host)

    def __init__(self, machine: FakeMachine):
        self._machine = machine

    def ensure(self, exports: Iterable[Export], squash: str) -> bool:
        assert self._machine.is_installed
        wanted = {export.name: export for export in exports}
        is_same = (wanted, squash) == (self._machine.exported, self._machine.squash)
        if is_same and self._machine.has_exports_file:
            return False
        self._machine.squash = squash
        self._machine.exported = wanted
        self._machine.has_exports_file = True
        self._machine.changes.append("exported")
        return True

    def remove(self) -> None:
        self.ensure((), "none")
        self._machine.has_exports_file = False

    def strangers(self, exports: Iterable[Export]) -> list[tuple[str, str]]:
        return self._machine.strangers

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

    def install(self, settings: Settings) -> str:
        if not self._machine.can_install:
            raise real_nfs.NfsError("no candidate")
        self._machine.settings = settings
        self._machine.is_installed = self._machine.is_running = self._machine.is_configured = True
        self._machine.changes.append("installed")
        return "1:2.6.4-3ubuntu5"

    def is_installed(self) -> bool:
        return self._machine.is_installed

    def was_installed(self) -> bool:
        return self._machine.is_configured

    def is_running(self) -> bool:
        return self._machine.is_running

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

    def read_clients(self) -> tuple[real_nfs.Address, ...]:
        return self._machine.clients

    def wait_for_clients_to_leave(self, timeout_s: float) -> bool:
        self._machine.is_connected &= not self._machine.do_clients_leave
        return not self._machine.is_connected

    def release(self) -> None:
        # A client of an export that stays would come back.
        if not self._machine.exported:
            self._machine.is_connected = False

    def remove(self, *, is_used_by_others: bool) -> None:
        self._machine.is_running &= is_used_by_others or not self._machine.is_installed
        self._machine.is_configured = False

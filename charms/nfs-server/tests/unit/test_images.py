# SPDX-License-Identifier: Apache-2.0
"""Images, with the real e2fsprogs on real files; loop devices, mounts and systemd are the fake."""

import hashlib
import json
import os
import shutil
import struct
import subprocess
import uuid
from dataclasses import replace
from pathlib import Path

import pytest

import files
import images
import shares
from nfs_charms import machine
from images import ImagesError
from shares import Image, Storage, Work, share_directory, share_id

E2FSCK = "/usr/sbin/e2fsck"
GIB = 16 * 2**20
"""What these tests call a GiB, so that they take little room."""
TOTAL = 6
ID = share_id("/data")
APP = "c0ffee/nfs-server"

really_run = machine.run
really_read_storage = images.read_storage

E2FSPROGS = (images.FALLOCATE, images.MKFS, images.DEBUGFS, images.RESIZE2FS, E2FSCK)
MISSING = [path for path in E2FSPROGS if not Path(path).exists()]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not on this computer: {' '.join(MISSING)}")


class Killed(BaseException):
    """SIGKILL: nothing that the code does about errors helps against it."""


class Host:
    """The machine: its loop devices, its mounts and its systemd."""

    def __init__(self, root: Path):
        self.storage = root / "storage"
        self.storage.mkdir()
        self.root = root
        self.commands: list[tuple[str, ...]] = []
        self.kill: tuple[str, int] | None = None
        """("before" or "after", number of a command)"""
        self.failing = ""
        """A command that fails."""
        self.busy: set[str] = set()
        self.rules = ""
        """What udev knows."""
        self.mounts: dict[str, tuple[str, str, str]] = {}
        """mount point -> device, its file, options"""
        self.capacity: dict[str, int] = {}
        self._known: dict[str, str] = {}
        self._write()

    def run(self, *argv: str, timeout_s: float = 60.0) -> str:
        self.commands.append(argv)
        if self.kill == ("before", len(self.commands)):
            raise Killed
        if argv[0] == self.failing:
            raise machine.CommandError(argv, "exit status 1", "it failed")
        handlers = {
            images.UDEVADM: self._udevadm,
            images.LOSETUP: self._losetup,
            images.RESIZE2FS: self._resize2fs,
            images.UMOUNT: self._umount,
            machine.SYSTEMCTL: self._systemctl,
        }
        if argv[0] in handlers:
            output = handlers[argv[0]](*argv[1:]) or ""
        else:
            output = really_run(*argv, timeout_s=timeout_s)
        if self.kill == ("after", len(self.commands)):
            raise Killed
        return output

    def _file(self, device: str) -> str:
        return next(file for loop, file, _ in self.mounts.values() if loop == device)

    def _udevadm(self, *arguments: str) -> None:
        assert arguments == ("control", "--reload")
        self.rules = images.UDEV_RULES.read_text()

    def _losetup(self, option: str, device: str) -> None:
        assert option == "--set-capacity"
        self.capacity[device] = os.path.getsize(self._file(device))

    def _resize2fs(self, device: str) -> None:
        # The file is not mounted really, so this is the offline resize; -f skips the check that
        # it would insist on first.
        kib = self.capacity[device] // 1024
        really_run(images.RESIZE2FS, "-f", self._file(device), f"{kib}K")

    def _umount(self, where: str) -> None:
        if where in self.busy or where not in self.mounts:
            raise machine.CommandError((images.UMOUNT, where), "exit status 32", "target is busy")
        del self.mounts[where]
        self._write()

    def _systemctl(self, verb: str, *arguments: str) -> str:
        if verb == "daemon-reload":
            self._known = {
                p.name: p.read_text() for p in machine.UNIT_DIRECTORY.iterdir() if p.is_file()
            }
            return ""
        if verb == "show":
            return "\n\n".join(map(self._show, arguments[2:]))
        assert (verb, *arguments[:2]) == ("enable", "--now", "--no-reload")
        failed = [unit for unit in arguments[2:] if not self._enable(unit)]
        if failed:
            raise machine.CommandError((machine.SYSTEMCTL,), "exit status 1", f"failed: {failed}")
        return ""

    def _show(self, unit: str) -> str:
        path = machine.UNIT_DIRECTORY / unit
        needs = "no" if self._read(unit) == path.read_text() else "yes"
        return f"FragmentPath={path}\nNeedDaemonReload={needs}"

    def _read(self, unit: str) -> str:
        """Read the file of a unit when it is first asked for, as systemd does."""
        return self._known.setdefault(unit, (machine.UNIT_DIRECTORY / unit).read_text())

    def _enable(self, unit: str) -> bool:
        wants = machine.UNIT_DIRECTORY / images.WANTS_DIRECTORY
        wants.mkdir(exist_ok=True)
        if not (wants / unit).is_symlink():
            (wants / unit).symlink_to(machine.UNIT_DIRECTORY / unit)
        settings = dict(
            line.split("=", 1) for line in self._read(unit).splitlines() if line[:5] in WHERE_WHAT
        )
        assert unit == machine.mount_unit_name(settings["Where"])
        return settings["Where"] in self.mounts or self.mount(settings["Where"], settings["What"])

    def mount(self, where: str, file: str, options: str = "rw") -> bool:
        if not is_whole(Path(file)):
            return False
        used = {device for device, _, _ in self.mounts.values()}
        device = next(d for n in range(9) if (d := f"/dev/loop{n}") not in used)
        self.mounts[where] = (device, file, options)
        self.capacity[device] = os.path.getsize(file)
        self._write()
        return True

    def remount(self, where: str, options: str) -> None:
        device, file, _ = self.mounts[where]
        self.mounts[where] = (device, file, options)
        self._write()

    def _write(self) -> None:
        shutil.rmtree(images.LOOP_DEVICES, ignore_errors=True)
        lines = ["22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n"]
        for where, (device, file, options) in self.mounts.items():
            backing = images.LOOP_DEVICES / Path(device).name / "loop/backing_file"
            backing.parent.mkdir(parents=True)
            backing.write_text(file + "\n")
            lines.append(f"40 22 7:0 / {where} {options},noatime - ext4 {device} {options}\n")
        # A loop device without a file, as there are some on every machine.
        (images.LOOP_DEVICES / "loop9").mkdir(parents=True)
        machine.MOUNTINFO.write_text("".join(lines))


WHERE_WHAT = ("Where", "What=")


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for module, name in (
        (machine, "MOUNTINFO"),
        (machine, "UNIT_DIRECTORY"),
        (images, "LOOP_DEVICES"),
        (images, "EXT4_STATE"),
        (images, "UDEV_RULES"),
    ):
        path = tmp_path / getattr(module, name).relative_to("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(module, name, path)
    monkeypatch.setattr(machine, "_RELOAD_NEEDED", tmp_path / "reload-needed")
    monkeypatch.setattr(images, "GIB", GIB)
    monkeypatch.setattr(shares, "GIB", GIB)
    monkeypatch.setattr(images, "read_storage", lambda _: Storage(TOTAL * GIB, TOTAL * GIB))
    monkeypatch.setattr(images, "UMOUNT_PAUSE_S", 0.0)
    machine.UNIT_DIRECTORY.mkdir(parents=True)
    host = Host(tmp_path)
    monkeypatch.setattr(machine, "run", host.run)
    yield host
    shutil.rmtree(host.storage)


def is_whole(path: Path) -> bool:
    return subprocess.run([E2FSCK, "-fn", path], capture_output=True).returncode == 0


def listing(path: Path) -> set[str]:
    """Names in the root directory of an image."""
    output = really_run(images.DEBUGFS, "-R", "ls -p /", str(path))
    return {line.split("/")[5] for line in output.splitlines() if line.strip()}


def superblock(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(2048)[1024:]


def write_file(path: Path, text: str) -> None:
    source = path.with_name("source")
    source.write_text(text)
    really_run(images.DEBUGFS, "-w", "-R", f"write {source} hello", str(path))
    source.unlink()


def read_file(path: Path) -> str:
    return really_run(images.DEBUGFS, "-R", "cat hello", str(path))


def read(host: Host) -> dict[str, Image]:
    return images.read(host.storage, APP).images


def made(host: Host, name: str = "/data", size: int | None = 1) -> Path:
    """Make an image of `size` and mount it."""
    images.make(host.storage, Work(name, size), APP)
    images.ensure_mounted(host.storage, read(host).values())
    host.commands.clear()  # Kills count from here.
    return host.storage / f"{share_id(name)}.img"


def names(host: Host) -> list[str]:
    return sorted(path.name for path in host.storage.iterdir())


@pytest.mark.parametrize("size", [1, 2])
def test_make(host: Host, size: int):
    images.make(host.storage, Work("/data", size), APP)
    assert names(host) == [f"{ID}.img", f"{ID}.json"]
    path = host.storage / f"{ID}.img"
    assert is_whole(path)
    assert listing(path) == {".", ".."}
    image = read(host)["/data"]
    assert path.stat().st_size == image.file_bytes == image.filesystem_bytes == size * GIB
    assert image.allocated_bytes >= size * GIB
    assert image.size == size
    assert not image.is_mounted
    assert superblock(path)[0x68:0x78] == uuid.UUID(image.uuid).bytes
    assert superblock(path)[0x78:0x88].rstrip(b"\0").decode() == ID[:16]
    assert {p.stat().st_mode & 0o777 for p in host.storage.iterdir()} == {0o600}


def test_make_without_limit(host: Host):
    images.make(host.storage, Work("/data", None), APP)
    image = read(host)["/data"]
    assert is_whole(host.storage / f"{ID}.img")
    assert image.size is None
    assert image.filesystem_bytes == image.file_bytes == TOTAL * GIB
    assert image.allocated_bytes < GIB


def test_make_two_have_uuids_of_their_own(host: Host):
    images.make(host.storage, Work("/a", 1), APP)
    images.make(host.storage, Work("/b", 1), APP)
    assert len({image.uuid for image in read(host).values()}) == 2


@pytest.mark.parametrize("command", [images.FALLOCATE, images.MKFS, images.DEBUGFS])
def test_make_failure_leaves_nothing(host: Host, command: str):
    host.failing = command
    with pytest.raises(ImagesError, match=f"share /data: {command} .*it failed"):
        images.make(host.storage, Work("/data", 1), APP)
    assert names(host) == []


def test_make_too_long_for_the_storage(host: Host, monkeypatch: pytest.MonkeyPatch):
    # ext4 ends at 16 TiB: the storage may be larger than a file on it can be.
    monkeypatch.setattr(images, "read_storage", lambda _: Storage(2**62, 0))
    with pytest.raises(ImagesError, match="share /data: "):
        images.make(host.storage, Work("/data", None), APP)
    assert names(host) == []


@pytest.mark.parametrize("is_link", [False, True])
def test_make_never_over_an_image(host: Host, is_link: bool):
    path = host.storage / f"{ID}.img"
    if is_link:
        path.symlink_to("elsewhere")
    else:
        path.write_text("somebody's only copy")
    with pytest.raises(ImagesError, match="is no share of this application, so it is not touched"):
        images.make(host.storage, Work("/data", 1), APP)
    assert names(host) == [f"{ID}.img"]
    assert path.is_symlink() or path.read_text() == "somebody's only copy"


def converge(host: Host, size: int | None) -> None:
    """Do what a hook does, until the share is there as asked."""
    images.remove_leftovers(host.storage)
    image = read(host).get("/data")
    if image is None:
        images.make(host.storage, Work("/data", size), APP)
    images.ensure_mounted(host.storage, read(host).values())
    image = read(host)["/data"]
    if image.size != size or image.filesystem_bytes != image.file_bytes:
        images.grow(host.storage, image, size)


def count(host: Host, command: str) -> int:
    return sum(argv[0] == command for argv in host.commands)


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("size", "nth"), [*((1, n) for n in range(1, 6)), *((None, n) for n in range(1, 5))]
)
def test_make_killed(host: Host, size: int | None, when: str, nth: int):
    host.kill = when, nth
    with pytest.raises(Killed):
        converge(host, size)
    assert not any(path.suffix == ".img" and not is_whole(path) for path in host.storage.iterdir())
    converge(host, size)
    assert names(host) == [f"{ID}.img", f"{ID}.json"]
    assert is_whole(host.storage / f"{ID}.img")
    assert read(host)["/data"].size == size
    assert read(host)["/data"].problem == ""


@pytest.mark.parametrize("is_renamed", [False, True])
def test_make_killed_at_the_rename(host: Host, monkeypatch: pytest.MonkeyPatch, is_renamed: bool):
    def rename(source: Path, target: Path) -> None:
        if is_renamed:
            os.rename(source, target)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        with pytest.raises(Killed):
            images.make(host.storage, Work("/data", 1), APP)
    before = read(host)
    assert bool(before) == is_renamed
    converge(host, 1)
    assert count(host, images.MKFS) == (1 if is_renamed else 2)
    path = host.storage / f"{ID}.img"
    assert names(host) == [path.name, f"{ID}.json"]
    assert is_whole(path)
    assert superblock(path)[0x68:0x78] == uuid.UUID(read(host)["/data"].uuid).bytes


def test_leftovers(host: Host):
    path = made(host)
    (host.storage / f"{ID}.img.0123abcd.tmp").touch()
    (host.storage / "notes.tmp").touch()
    assert images.remove_leftovers(host.storage)
    assert not images.remove_leftovers(host.storage)
    assert names(host) == [path.name, f"{ID}.json", "notes.tmp"]


def identity(name: str = "/data", **other: object) -> str:
    return json.dumps({"name": name, "uuid": "THERE", "is_limited": True} | other)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(None, id="none"),
        pytest.param(identity("/other"), id="another's"),
        pytest.param("", id="empty"),
        pytest.param("{", id="cut short"),
        pytest.param("[]", id="a list"),
        pytest.param("{}", id="no keys"),
        pytest.param(identity(colour="red"), id="unknown key"),
        pytest.param(identity(name=1), id="name is a number"),  # pyright: ignore[reportArgumentType]
        pytest.param("\udcff", id="not UTF-8"),
        pytest.param(identity(uuid=str(uuid.uuid4())), id="another file system's"),
        pytest.param(identity(application="c0ffee/other"), id="another application's"),
        pytest.param(identity(application="beef/nfs-server"), id="another model's"),
    ],
)
def test_read_foreign_identity(host: Host, text: str | None):
    path = made(host)
    there = read(host)["/data"].uuid
    file = host.storage / f"{ID}.json"
    file.unlink()
    if text is not None:
        text = text.replace("THERE", there)
        file.write_bytes(text.encode(errors="surrogateescape"))
    assert images.read(host.storage, APP) == images.Found({}, (path,))
    assert is_whole(path)


@pytest.mark.parametrize("application", [{}, {"application": ""}, {"application": APP}])
def test_read_identity(host: Host, application: dict[str, str]):
    made(host)
    there = read(host)["/data"]
    assert not there.is_served
    file = host.storage / f"{ID}.json"
    file.write_text(identity(**application).replace("THERE", there.uuid))
    # Of what an older revision wrote, it is not known whether a client ever had it.
    assert read(host)["/data"] == replace(there, is_served=True)


def test_note_served(host: Host):
    made(host)
    images.note_served(host.storage, read(host)["/data"])
    assert read(host)["/data"].is_served
    images.grow(host.storage, read(host)["/data"], None)
    assert read(host)["/data"].is_served
    assert read(host)["/data"].size is None
    assert images.read(host.storage, "c0ffee/other").images == {}


def test_note_served_without_an_identity(host: Host):
    made(host)
    image = read(host)["/data"]
    (host.storage / f"{ID}.json").unlink()
    with pytest.raises(ImagesError, match=r"share /data: .*json can't be read"):
        images.note_served(host.storage, image)


def test_delete(host: Host):
    other = made(host, "/other")
    made(host)
    images.delete(host.storage, read(host)["/data"], still)
    assert names(host) == [other.name, f"{other.stem}.json"]
    assert list(host.mounts) == [str(share_directory("/other"))]
    units = sorted(path.name for path in machine.UNIT_DIRECTORY.glob("*.mount"))
    assert units == [machine.mount_unit_name(share_directory("/other"))]


def test_delete_what_is_in_use(host: Host):
    path = made(host)
    host.busy.add(str(share_directory("/data")))
    with pytest.raises(ImagesError, match="can't be unmounted"):
        images.delete(host.storage, read(host)["/data"], still)
    assert is_whole(path)
    assert set(read(host)) == {"/data"}


def test_check(host: Host):
    path = made(host)
    images.unmount(read(host)["/data"], still)
    image = read(host)["/data"]
    is_clean, said = images.check(host.storage, image, repair=False)
    assert (is_clean, "Pass 5" in said) == (True, True)
    # The bitmap of blocks in use says that none is.
    with path.open("r+b") as file:
        file.seek(1024 + 0xC)
        file.write(b"\xff")
    before = path.read_bytes()
    is_clean, said = images.check(host.storage, image, repair=False)
    assert not is_clean
    assert "Free blocks count wrong" in said
    assert path.read_bytes() == before
    is_clean, said = images.check(host.storage, image, repair=True)
    assert is_clean
    assert is_whole(path)


def test_check_that_does_not_end(host: Host, monkeypatch: pytest.MonkeyPatch):
    made(host)

    def run(*argv: str, timeout_s: float) -> str:
        raise machine.CommandTimeoutError(argv, f"not done after {timeout_s:g} s", "")

    monkeypatch.setattr(machine, "run", run)
    with pytest.raises(ImagesError, match="not done after 3600 s"):
        images.check(host.storage, read(host)["/data"], repair=False)


@pytest.mark.parametrize("content", [b"", b"PK", bytes(4096)])
def test_read_foreign_content(host: Host, content: bytes):
    path = made(host)
    path.write_bytes(content)
    assert images.read(host.storage, APP) == images.Found({}, (path,))
    assert path.read_bytes() == content


def test_read_empty(host: Host):
    assert images.read(host.storage, APP) == images.Found({}, ())


def test_read_length_of_a_real_gib(host: Host):
    # 4 KiB blocks, and more of them than 32 bits count: 64 TiB and 1 GiB.
    path = made(host)
    blocks = (2**46 + 2**30) // 4096
    block = bytearray(superblock(path))
    struct.pack_into("<I", block, 0x4, blocks % 2**32)
    struct.pack_into("<I", block, 0x18, 2)
    struct.pack_into("<I", block, 0x150, blocks >> 32)
    with path.open("r+b") as file:
        file.seek(1024)
        file.write(block)
    assert read(host)["/data"].filesystem_bytes == 2**46 + 2**30


def test_read_problems(host: Host, monkeypatch: pytest.MonkeyPatch):
    path = made(host)
    where = str(share_directory("/data"))
    assert read(host)["/data"].problem == ""
    assert read(host)["/data"].is_mounted
    errors = images.EXT4_STATE / "loop0/errors_count"
    errors.parent.mkdir(parents=True)
    errors.write_text("0\n")
    assert read(host)["/data"].problem == ""
    errors.write_text("2\n")
    assert read(host)["/data"].problem == "its file system has errors"
    errors.unlink()
    host.remount(where, "ro")
    assert read(host)["/data"].problem == "its file system has errors"
    host.run(images.UMOUNT, where)
    assert read(host)["/data"].problem == "not mounted"
    other = path.with_name("other.img")
    shutil.copy(path, other)
    host.mount(where, str(other))
    assert read(host)["/data"].problem == f"/dev/loop0 is mounted at {where}"
    assert not read(host)["/data"].is_mounted


def test_read_another_users_loop_device(host: Host):
    made(host)
    backing = images.LOOP_DEVICES / "loop8/loop/backing_file"
    backing.parent.mkdir(parents=True)
    backing.write_bytes(b"/caf\xe9.iso\n")
    assert read(host)["/data"].is_mounted


def test_read_storage(tmp_path: Path):
    usage = shutil.disk_usage(tmp_path)
    storage = really_read_storage(tmp_path)
    assert storage.total_bytes == usage.total
    # Others write to it too.
    assert abs(storage.free_bytes - usage.free) < usage.total / 4


@pytest.mark.parametrize("size", [2, 3, None])
def test_grow(host: Host, size: int | None):
    path = made(host)
    write_file(path, "kept")
    before = read(host)["/data"]
    images.grow(host.storage, before, size)
    after = read(host)["/data"]
    assert after.size == size
    assert after.file_bytes == after.filesystem_bytes == (size or TOTAL) * GIB
    assert (after.allocated_bytes >= after.file_bytes) == (size is not None)
    assert after.uuid == before.uuid
    assert is_whole(path)
    assert read_file(path) == "kept"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("size", "nth"), [*((2, n) for n in range(1, 5)), *((None, n) for n in range(1, 3))]
)
def test_grow_killed(host: Host, size: int | None, when: str, nth: int):
    path = made(host)
    write_file(path, "kept")
    host.kill = when, nth
    with pytest.raises(Killed):
        converge(host, size)
    assert is_whole(path)
    converge(host, size)
    image = read(host)["/data"]
    assert image.size == size
    assert image.filesystem_bytes == image.file_bytes == (size or TOTAL) * GIB
    assert is_whole(path)
    assert read_file(path) == "kept"
    assert count(host, images.MKFS) == 0
    assert names(host) == [f"{ID}.img", f"{ID}.json"]


@pytest.mark.parametrize("command", [images.FALLOCATE, images.LOSETUP, images.RESIZE2FS])
def test_grow_failure_leaves_the_share(host: Host, command: str):
    path = made(host)
    write_file(path, "kept")
    host.failing = command
    with pytest.raises(ImagesError, match=f"share /data: {command} "):
        images.grow(host.storage, read(host)["/data"], 2)
    assert is_whole(path)
    assert read_file(path) == "kept"
    assert read(host)["/data"].size == 1


def test_grow_only_mounted(host: Host):
    images.make(host.storage, Work("/data", 1), APP)
    with pytest.raises(ImagesError, match="is not mounted, so it can't grow"):
        images.grow(host.storage, read(host)["/data"], 2)
    assert read(host)["/data"].file_bytes == GIB


def test_ensure_reserved(host: Host):
    path = made(host)
    digest = hashlib.sha256(path.read_bytes()).digest()
    really_run(images.FALLOCATE, "--dig-holes", str(path))
    assert read(host)["/data"].allocated_bytes < GIB
    assert images.ensure_reserved(host.storage, read(host).values())
    assert read(host)["/data"].allocated_bytes >= GIB
    assert hashlib.sha256(path.read_bytes()).digest() == digest
    host.commands.clear()
    assert not images.ensure_reserved(host.storage, read(host).values())
    assert host.commands == []


def test_ensure_reserved_leaves_sparse_ones(host: Host):
    made(host, size=None)
    assert not images.ensure_reserved(host.storage, read(host).values())
    assert read(host)["/data"].allocated_bytes < GIB


def test_ensure_reserved_without_room(host: Host, caplog: pytest.LogCaptureFixture):
    path, other = made(host), made(host, "/other")
    really_run(images.FALLOCATE, "--dig-holes", str(path))
    really_run(images.FALLOCATE, "--dig-holes", str(other))
    host.failing = images.FALLOCATE
    assert images.ensure_reserved(host.storage, read(host).values())
    problem = "its space is not reserved, the storage is full"
    assert {image.problem for image in read(host).values()} == {problem}
    assert read(host)["/data"].is_mounted
    for name in "/data", "/other":
        assert f"share {name}: {images.FALLOCATE} " in caplog.text
    host.failing = ""
    assert images.ensure_reserved(host.storage, read(host).values())
    assert {image.problem for image in read(host).values()} == {""}


def test_only_what_has_a_size_is_reserved(host: Host):
    made(host, size=None)
    assert read(host)["/data"].problem == ""


def test_ensure_mounted_units(host: Host):
    images.make(host.storage, Work("/data", 1), APP)
    assert images.ensure_mounted(host.storage, read(host).values())
    mount = (machine.UNIT_DIRECTORY / f"srv-nfs-{ID}.mount").read_text()
    assert files.is_untouched(mount)
    assert settings_in(mount) == [
        "[Unit]",
        "Description=NFS share /data",
        f"RequiresMountsFor={host.storage}",
        f"Requires=nfs-share-fsck@{ID}.service",
        f"After=nfs-share-fsck@{ID}.service",
        "Before=nfs-server.service",
        "[Mount]",
        f"What={host.storage}/{ID}.img",
        f"Where=/srv/nfs/{ID}",
        "Type=ext4",
        "Options=loop,noatime,nodev,nosuid,errors=remount-ro",
        "[Install]",
        "WantedBy=nfs-server.service",
    ]
    assert settings_in((machine.UNIT_DIRECTORY / "nfs-share-fsck@.service").read_text()) == [
        "[Unit]",
        "Description=Check the file system of NFS share %i",
        "DefaultDependencies=no",
        "Conflicts=shutdown.target",
        "Before=shutdown.target",
        f"RequiresMountsFor={host.storage}",
        "PartOf=srv-nfs-%i.mount",
        "[Service]",
        "Type=oneshot",
        "RemainAfterExit=yes",
        f"ExecStart=/usr/sbin/e2fsck -p {host.storage}/%i.img",
        "SuccessExitStatus=1",
    ]


def settings_in(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_udev_forbids_discard_where_space_is_reserved(host: Host):
    made(host, "/reserved")
    made(host, "/sparse", size=None)
    assert settings_in(host.rules) == [
        'SUBSYSTEM!="block", GOTO="nfs_share_end"',
        'KERNEL!="loop[0-9]*", GOTO="nfs_share_end"',
        'ACTION!="add|change", GOTO="nfs_share_end"',
        f'ATTR{{loop/backing_file}}!="{host.storage}/*.img", GOTO="nfs_share_end"',
        'RUN+="/usr/sbin/losetup --direct-io=on $devnode"',
        f'ATTR{{loop/backing_file}}=="{host.storage}/{share_id("/sparse")}.img",'
        ' GOTO="nfs_share_end"',
        'ATTR{queue/discard_max_bytes}="0"',
        'LABEL="nfs_share_end"',
    ]


def test_make_sparse(host: Host):
    images.make(host.storage, Work("/data", 4, is_overcommitted=True), "")
    images.ensure_mounted(host.storage, read(host).values())
    image = read(host)["/data"]
    assert (image.size, image.is_sparse, image.problem) == (4, True, "")
    assert image.allocated_bytes < GIB
    unit = (machine.UNIT_DIRECTORY / f"srv-nfs-{ID}.mount").read_text()
    assert "errors=remount-ro,discard\n" in unit
    images.grow(host.storage, image, 5)
    image = read(host)["/data"]
    assert (image.size, image.is_sparse) == (5, True)
    assert image.allocated_bytes < GIB
    assert not images.ensure_reserved(host.storage, [image])


@pytest.mark.parametrize(
    ("hand", "logged"),
    [
        ("edit", "srv-nfs-{}.mount was changed by another hand"),
        ("remove", "srv-nfs-{}.mount was removed"),
        ("unmount", "share /data was not mounted"),
        ("rules", "61-nfs-share-loop.rules was changed by another hand"),
    ],
)
def test_ensure_mounted_after_another_hand(
    host: Host, caplog: pytest.LogCaptureFixture, hand: str, logged: str
):
    caplog.set_level("WARNING")
    made(host)
    assert caplog.text == ""
    unit = machine.UNIT_DIRECTORY / f"srv-nfs-{ID}.mount"
    before = unit.read_text(), images.UDEV_RULES.read_text()
    if hand == "edit":
        unit.write_text(before[0].replace("nosuid", "suid"))
    elif hand == "remove":
        unit.unlink()
    elif hand == "unmount":
        images.machine.run(images.UMOUNT, str(share_directory("/data")))
    else:
        images.UDEV_RULES.write_text(before[1].replace("loop", "sd"))
    assert images.ensure_mounted(host.storage, read(host).values())
    assert logged.format(ID) in caplog.text
    assert (unit.read_text(), images.UDEV_RULES.read_text()) == before
    assert read(host)["/data"].is_mounted


def test_ensure_mounted_now_and_at_boot(host: Host):
    images.make(host.storage, Work("/data", 1), APP)
    images.ensure_mounted(host.storage, read(host).values())
    assert read(host)["/data"].is_mounted
    unit = machine.UNIT_DIRECTORY / "nfs-server.service.wants" / f"srv-nfs-{ID}.mount"
    assert unit.resolve() == machine.UNIT_DIRECTORY / f"srv-nfs-{ID}.mount"
    host.commands.clear()
    assert not images.ensure_mounted(host.storage, iter(read(host).values()))
    assert host.commands == []


def test_ensure_mounted_again_after_disable(host: Host):
    made(host)
    wanted = machine.UNIT_DIRECTORY / "nfs-server.service.wants" / f"srv-nfs-{ID}.mount"
    wanted.unlink()
    assert images.ensure_mounted(host.storage, read(host).values())
    assert wanted.is_symlink()


def test_ensure_mounted_one_is_damaged(host: Host, caplog: pytest.LogCaptureFixture):
    for name in ("/a", "/b", "/c"):
        images.make(host.storage, Work(name, 1), APP)
    with (host.storage / f"{share_id('/b')}.img").open("r+b") as file:
        file.seek(2048)  # The group descriptors.
        file.write(b"\xff" * 2048)
    assert images.ensure_mounted(host.storage, read(host).values())
    problems = {image.name: image.problem for image in read(host).values()}
    assert problems == {"/a": "", "/b": "not mounted", "/c": ""}
    assert "not every image could be mounted" in caplog.text


def test_usage(host: Host, monkeypatch: pytest.MonkeyPatch):
    made(host)
    monkeypatch.setattr(images, "share_directory", lambda _: host.root)
    image = replace(read(host)["/data"], is_mounted=True)
    usage = images.usage(image)
    disk = shutil.disk_usage(host.root)
    assert abs(usage.used_bytes - disk.used) < disk.total / 4
    assert abs(usage.free_bytes - disk.free) < disk.total / 4
    assert usage.used_inodes + usage.free_inodes <= os.statvfs(host.root).f_files
    assert images.usage(replace(image, is_mounted=False)) == images.Usage()


def test_is_any_mounted(host: Host):
    assert not images.is_any_mounted()
    made(host)
    assert images.is_any_mounted()


def still() -> None:
    """Let nothing go."""


def test_unmount_all(host: Host):
    made(host, "/a")
    made(host, "/b")
    (machine.UNIT_DIRECTORY / "srv-nfs.mount").touch()
    before = names(host)
    images.unmount_all(still)
    assert host.mounts == {}
    assert sorted(p.name for p in machine.UNIT_DIRECTORY.iterdir()) == [
        "nfs-server.service.wants",
        "srv-nfs.mount",
    ]
    assert list((machine.UNIT_DIRECTORY / "nfs-server.service.wants").iterdir()) == []
    assert not images.UDEV_RULES.exists()
    assert names(host) == before
    assert {image.problem for image in read(host).values()} == {"not mounted"}
    host.commands.clear()
    images.unmount_all(still)
    assert host.commands == []


def test_unmount_all_takes_directories_away(host: Host, monkeypatch: pytest.MonkeyPatch):
    (machine.UNIT_DIRECTORY / f"srv-nfs-{ID}.mount").touch()
    monkeypatch.setattr(images, "EXPORT_ROOT", host.root / "srv/nfs")
    (host.root / "srv/nfs" / ID).mkdir(parents=True)
    images.unmount_all(still)
    assert list((host.root / "srv/nfs").iterdir()) == []


def test_unmount_all_leaves_files_below_a_mount(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(images, "EXPORT_ROOT", host.root / "srv/nfs")
    for name in "/a", "/b":
        (machine.UNIT_DIRECTORY / f"srv-nfs-{share_id(name)}.mount").touch()
        (host.root / "srv/nfs" / share_id(name)).mkdir(parents=True)
    kept = host.root / "srv/nfs" / share_id("/a")
    (kept / "notes").write_text("somebody's only copy")
    images.unmount_all(still)
    assert list((host.root / "srv/nfs").iterdir()) == [kept]
    assert (kept / "notes").read_text() == "somebody's only copy"
    assert f"{kept} stays: " in caplog.text
    assert list(machine.UNIT_DIRECTORY.glob("*.mount")) == []
    assert not images.UDEV_RULES.exists()


def test_unmount_all_busy(host: Host):
    made(host)
    where = f"/srv/nfs/{ID}"
    host.busy.add(where)
    with pytest.raises(ImagesError, match=f"{where} can't be unmounted: .*target is busy"):
        images.unmount_all(still)
    assert read(host)["/data"].is_mounted
    assert (machine.UNIT_DIRECTORY / f"srv-nfs-{ID}.mount").exists()
    images.unmount_all(host.busy.clear)
    assert host.mounts == {}


def test_unmount_all_busy_for_a_moment(host: Host, monkeypatch: pytest.MonkeyPatch):
    made(host)
    host.busy.add(f"/srv/nfs/{ID}")
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == images.UMOUNT_TRIES - 1:
            host.busy.clear()

    monkeypatch.setattr(images.time, "sleep", sleep)
    images.unmount_all(still)
    assert host.mounts == {}

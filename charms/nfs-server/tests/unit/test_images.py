# SPDX-License-Identifier: Apache-2.0
"""Images, with the real e2fsprogs on real files; loop devices, mounts and systemd are the fake."""

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import struct
import subprocess
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

import images
import kernel
import mounts
import values
from charms.storage_libs.v0.nfs_interfaces import NO_LIMIT, UNSAID, Permissions, Size
from images import ImagesError
from nfs_charms import machine
from values import Found, Image, Work, share_directory, share_id

E2FSCK = "/usr/sbin/e2fsck"
GIB = 16 * 2**20
"""What these tests call a GiB, so that they take little room."""
TOTAL = 6
ID = share_id("/data")
APP = "c0ffee/nfs-server"

really_run = machine.run

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
        self.users: dict[str, tuple[str, ...]] = {}
        """mount point -> processes of this machine"""
        self.checked: set[str] = set()
        """Units that have checked an image, and were not stopped since."""
        self.reset: set[str] = set()
        """Units whose failure systemd has forgotten."""
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
            mounts.UDEVADM: self._udevadm,
            images.LOSETUP: self._losetup,
            images.RESIZE2FS: self._resize2fs,
            mounts.UMOUNT: self._umount,
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
        self.rules = mounts.UDEV_RULES.read_text()

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
            raise machine.CommandError((mounts.UMOUNT, where), "exit status 32", "target is busy")
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
        if verb == "stop":
            self.checked -= set(arguments)
            return ""
        if verb == "reset-failed":
            self.reset |= set(arguments)
            return ""
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
        wants = machine.UNIT_DIRECTORY / mounts.WANTS_DIRECTORY
        wants.mkdir(exist_ok=True)
        if not (wants / unit).is_symlink():
            (wants / unit).symlink_to(machine.UNIT_DIRECTORY / unit)
        settings = dict(
            line.split("=", 1) for line in self._read(unit).splitlines() if line[:5] in WHERE_WHAT
        )
        assert unit == machine.mount_unit_name(settings["Where"])
        if settings["Where"] in self.mounts:
            return True
        check = f"nfs-share-fsck@{Path(unit).stem[8:]}.service"
        if check not in self.checked and not is_whole(Path(settings["What"])):
            return False
        self.checked.add(check)
        return self.mount(settings["Where"], settings["What"])

    def mount(self, where: str, file: str, options: str = "rw") -> bool:
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
        shutil.rmtree(kernel.LOOP_DEVICES, ignore_errors=True)
        lines = ["22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n"]
        for where, (device, file, options) in self.mounts.items():
            backing = kernel.LOOP_DEVICES / Path(device).name / "loop/backing_file"
            backing.parent.mkdir(parents=True)
            backing.write_text(file + "\n")
            lines.append(f"40 22 7:0 / {where} {options},noatime - ext4 {device} {options}\n")
        # A loop device without a file, as there are some on every machine.
        (kernel.LOOP_DEVICES / "loop9").mkdir(parents=True)
        machine.MOUNTINFO.write_text("".join(lines))


WHERE_WHAT = ("Where", "What=")


def rmdir(path: Path, root: Path) -> None:
    if not path.is_relative_to(root):
        raise FileNotFoundError(path)
    os.rmdir(path)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for module, name in (
        (machine, "MOUNTINFO"),
        (machine, "UNIT_DIRECTORY"),
        (kernel, "LOOP_DEVICES"),
        (kernel, "EXT4_STATE"),
        (mounts, "UDEV_RULES"),
        (images, "LOCKS"),
    ):
        path = tmp_path / getattr(module, name).relative_to("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        monkeypatch.setattr(module, name, path)
    monkeypatch.setattr(machine, "_RELOAD_NEEDED", tmp_path / "reload-needed")
    monkeypatch.setattr(images, "GIB", GIB)
    monkeypatch.setattr(values, "GIB", GIB)
    monkeypatch.setattr(mounts, "UMOUNT_PAUSE_S", 0.0)
    # The real one of this computer is not for tests.
    monkeypatch.setattr(mounts, "_ensure_closed", lambda: False)
    monkeypatch.setattr(Path, "rmdir", lambda path: rmdir(path, tmp_path))
    monkeypatch.setattr(machine, "find_users", lambda where: host.users.get(str(where), ()))
    images.LOCKS.write_text("")
    machine.UNIT_DIRECTORY.mkdir(parents=True)
    host = Host(tmp_path)
    monkeypatch.setattr(machine, "run", host.run)
    yield host
    shutil.rmtree(host.storage)


def is_whole(path: Path) -> bool:
    command = [*images.LOCKED, path, E2FSCK, "-fn", path]
    return subprocess.run(command, capture_output=True).returncode == 0


@contextlib.contextmanager
def checked_by_another(host: Host, path: Path):
    """Have a process with the lock of an image, as a killed action leaves it behind."""
    with subprocess.Popen(
        [*images.LOCKED, path, "/bin/sh", "-c", "echo; read line"], stdin=-1, stdout=-1
    ) as holder:
        assert holder.stdin
        assert holder.stdout
        holder.stdout.readline()
        images.LOCKS.write_text(Path("/proc/locks").read_text())
        yield
        holder.stdin.close()
        holder.wait()
    images.LOCKS.write_text("")


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


def read(host: Host) -> Mapping[str, Image]:
    return images.read(host.storage, APP).images


def work(name: str = "/data", gib: int | None = 1, *, is_overcommitted: bool = False) -> Work:
    return Work(name, gib or TOTAL, is_limited=gib is not None, is_overcommitted=is_overcommitted)


def made(host: Host, name: str = "/data", size: int | None = 1) -> Path:
    """Make an image of `size` and mount it."""
    images.make(host.storage, work(name, size), APP)
    mounts.ensure_mounted(host.storage, read(host).values())
    host.commands.clear()  # Kills count from here.
    return host.storage / f"{share_id(name)}.img"


def names(host: Host) -> list[str]:
    return sorted(path.name for path in host.storage.iterdir())


def still() -> None:
    """Let nothing go."""


@pytest.mark.parametrize("size", [1, 2])
def test_make(host: Host, size: int):
    made = images.make(host.storage, work("/data", size), APP)
    assert names(host) == [f"{ID}.img", f"{ID}.json"]
    path = host.storage / f"{ID}.img"
    assert is_whole(path)
    assert listing(path) == {".", ".."}
    image = read(host)["/data"]
    assert path.stat().st_size == image.file_bytes == image.filesystem_bytes == size * GIB
    assert image.allocated_bytes >= size * GIB
    assert image.size == Size.of(size)
    assert not image.is_mounted
    assert replace(made, problem=image.problem) == image
    assert superblock(path)[0x68:0x78] == uuid.UUID(image.uuid).bytes
    assert superblock(path)[0x78:0x88].rstrip(b"\0").decode() == ID[:16]
    assert {p.stat().st_mode & 0o777 for p in host.storage.iterdir()} == {0o600}


def test_make_without_limit(host: Host):
    images.make(host.storage, work("/data", None), APP)
    image = read(host)["/data"]
    assert is_whole(host.storage / f"{ID}.img")
    assert image.size == NO_LIMIT
    assert image.filesystem_bytes == image.file_bytes == TOTAL * GIB
    assert image.allocated_bytes < GIB


def test_make_two_have_uuids_of_their_own(host: Host):
    images.make(host.storage, work("/a", 1), APP)
    images.make(host.storage, work("/b", 1), APP)
    assert len({image.uuid for image in read(host).values()}) == 2


@pytest.mark.parametrize("command", [images.FALLOCATE, images.MKFS, images.DEBUGFS])
def test_make_failure_leaves_nothing(host: Host, command: str):
    host.failing = command
    with pytest.raises(ImagesError, match=f"share /data: {command} .*it failed"):
        images.make(host.storage, work("/data", 1), APP)
    assert names(host) == []


@pytest.mark.parametrize("is_link", [False, True])
def test_make_never_over_an_image(host: Host, is_link: bool):
    path = host.storage / f"{ID}.img"
    if is_link:
        path.symlink_to("elsewhere")
    else:
        path.write_text("somebody's only copy")
    said = (
        " is no share of this application, and not touched: mend its .json file, or move it off"
        " the storage"
    )
    with pytest.raises(ImagesError, match=said):
        images.make(host.storage, work("/data", 1), APP)
    assert names(host) == [f"{ID}.img"]
    assert path.is_symlink() or path.read_text() == "somebody's only copy"


def test_make_never_over_an_image_that_came_meanwhile(host: Host, monkeypatch: pytest.MonkeyPatch):
    path = host.storage / f"{ID}.img"
    there = path, path.with_suffix(".json")

    def put_back(image: Path, *_: object) -> None:
        for it in there:
            it.write_text(f"somebody's only {it.suffix}")

    monkeypatch.setattr(images, "_write_image", put_back)
    with pytest.raises(ImagesError, match="is no share of this application"):
        images.make(host.storage, work("/data", 1), APP)
    assert names(host) == [it.name for it in there]
    assert [it.read_text() for it in there] == ["somebody's only .img", "somebody's only .json"]
    with monkeypatch.context() as patch:  # At the last moment.
        patch.setattr(images, "_refuse_if_there", lambda *_: None)
        patch.setattr(images, "_write_image", lambda path, *_: path.touch())
        with pytest.raises(ImagesError, match="share /data: "):
            images.make(host.storage, work("/data", 1), APP)
    assert path.read_text() == "somebody's only .img"
    assert names(host) == [it.name for it in there]


def converge(host: Host, size: int | None) -> None:
    """Do what a hook does, until the share is there as asked."""
    images.remove_unfinished(host.storage)
    image = read(host).get("/data")
    if image is None:
        images.make(host.storage, work("/data", size), APP)
    mounts.ensure_mounted(host.storage, read(host).values())
    image = read(host)["/data"]
    if image.size != Size.of(size) or image.filesystem_bytes != image.file_bytes:
        images.grow(image, work("/data", size))


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
    assert read(host)["/data"].size == Size.of(size)
    assert read(host)["/data"].problem == ""


@pytest.mark.parametrize("is_named", [False, True])
def test_make_killed_as_it_gets_its_name(
    host: Host, monkeypatch: pytest.MonkeyPatch, is_named: bool
):
    really_link = os.link

    def link(source: Path, target: Path) -> None:
        if is_named:
            really_link(source, target)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(os, "link", link)
        with pytest.raises(Killed):
            images.make(host.storage, work("/data", 1), APP)
    before = read(host)
    assert bool(before) == is_named
    converge(host, 1)
    assert count(host, images.MKFS) == (1 if is_named else 2)
    path = host.storage / f"{ID}.img"
    assert names(host) == [path.name, f"{ID}.json"]
    assert is_whole(path)
    assert superblock(path)[0x68:0x78] == uuid.UUID(read(host)["/data"].uuid).bytes


def test_remove_unfinished(host: Host):
    path = made(host)
    (host.storage / f"{ID}.img.0123abcd.tmp").touch()
    (host.storage / "notes.tmp").touch()
    (host.storage / "x.img.1.tmp").mkdir()
    (host.storage / "y.img.1.tmp").symlink_to("elsewhere")
    os.mkfifo(host.storage / "z.img.1.tmp")
    copies = [f"{ID}.img.before.tmp", f"{ID}.img.2026-11-24.tmp", "a copy.img.0123abcd.tmp"]
    for copy in copies:
        (host.storage / copy).write_text("an operator's")
    images.remove_unfinished(host.storage)
    foreign = ["notes.tmp", "x.img.1.tmp", "y.img.1.tmp", "z.img.1.tmp", *copies]
    assert names(host) == sorted([path.name, f"{ID}.json", *foreign])


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
        pytest.param("[" * 100_000, id="nested deeply"),
        pytest.param(identity(is_served="no"), id="is_served is text"),
        pytest.param(identity(application=None), id="application is null"),
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
    assert images.read(host.storage, APP) == Found({}, (path,))
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


def test_what_another_revision_keeps_in_the_identity_is_kept(host: Host):
    made(host)
    there = read(host)["/data"]
    file = host.storage / f"{ID}.json"
    file.write_text(identity(colour="red", is_served=False).replace("THERE", there.uuid))
    assert read(host)["/data"] == there
    images.note_served(there)
    assert json.loads(file.read_text()) == {
        "name": "/data",
        "uuid": there.uuid,
        "is_limited": True,
        "application": "",
        "is_served": True,
        "is_overcommitted": False,
        "colour": "red",
    }


@pytest.mark.parametrize("suffix", [".img", ".json"])
@pytest.mark.parametrize("kind", ["directory", "dangling", "link", "FIFO", "socket", "unreadable"])
def test_read_what_is_no_file(host: Host, monkeypatch: pytest.MonkeyPatch, kind: str, suffix: str):
    made(host, "/other")
    path = made(host).with_suffix(suffix)
    content = path.read_bytes()
    path.unlink()
    if kind == "directory":
        path.mkdir()
    elif kind == "dangling":
        path.symlink_to("nowhere")
    elif kind == "link":
        (host.storage / "elsewhere").write_bytes(content)
        path.symlink_to("elsewhere")
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        monkeypatch.chdir(host.storage)  # Its name must be short.
        with socket.socket(socket.AF_UNIX) as it:
            it.bind(path.name)
    else:
        path.write_bytes(content)
        really_open = os.open

        def fail(name: Path, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
            if name == path:
                raise OSError(errno.EIO, "Input/output error")
            return really_open(name, flags, mode, dir_fd=dir_fd)

        monkeypatch.setattr(os, "open", fail)
    before = names(host)
    found = images.read(host.storage, APP)
    assert set(found.images) == {"/other"}
    assert found.foreign == (path.with_suffix(".img"),)
    images.remove_unfinished(host.storage)
    mounts.ensure_mounted(host.storage, found.images.values())
    with pytest.raises(ImagesError, match="is no share of this application"):
        images.make(host.storage, work(), APP)
    assert names(host) == before


def test_a_storage_that_gives_errors_is_told(host: Host, monkeypatch: pytest.MonkeyPatch):
    assert images.find_fault(host.storage) == ""

    def fail(_: Path) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    for name in "listdir", "statvfs":
        with monkeypatch.context() as broken:
            broken.setattr(os, name, fail)
            said = images.find_fault(host.storage)
        assert said.startswith(f"{host.storage} can't be read (Input/output error): see dmesg")
    # The directory may be in the kernel's cache. What is there that is no file is no fault.
    os.mkfifo(host.storage / "x.img")
    (host.storage / "x.json").mkdir()
    assert images.find_fault(host.storage) == ""
    (host.storage / "x.img").unlink()
    (host.storage / "x.json").rmdir()
    (host.storage / "y.json").touch()
    (host.storage / "y.img").touch()
    for of, name, file in (os, "pread", "y.img"), (machine, "read_file", "y.json"):
        with monkeypatch.context() as broken:
            broken.setattr(of, name, lambda *_: fail(host.storage))
            assert images.find_fault(host.storage).startswith(f"{host.storage}/{file} can't be")


def test_a_storage_that_was_mounted_is_awaited(host: Host, monkeypatch: pytest.MonkeyPatch):
    mountinfo = host.root / "mountinfo-of-the-storage"
    monkeypatch.setattr(machine, "MOUNTINFO", mountinfo)
    monkeypatch.setattr(images, "MOUNTED", host.root / "mounted")
    root = "1 0 8:1 / / rw - ext4 /dev/vda rw\n"
    mount = f"2 1 8:2 / {host.storage} rw - ext4 /dev/vdb rw\n"
    mountinfo.write_text(root)
    images.note_mounted(host.storage)
    assert not images.is_awaited(host.storage)  # A directory of the root disk.
    mountinfo.write_text(root + mount)
    images.note_mounted(host.storage)
    assert not images.is_awaited(host.storage)
    mountinfo.write_text(root)
    images.note_mounted(host.storage)
    (host.storage / "data.img").write_text("an image")  # Beneath the mount, of whatever time.
    assert images.is_awaited(host.storage)
    assert not images.is_awaited(host.storage.with_name("other"))
    images.forget_mounted()
    assert not images.is_awaited(host.storage)


def test_note_served(host: Host):
    made(host)
    images.note_served(read(host)["/data"])
    assert read(host)["/data"].is_served
    images.grow(read(host)["/data"], work("/data", None))
    assert read(host)["/data"].is_served
    assert read(host)["/data"].size == NO_LIMIT
    assert images.read(host.storage, "c0ffee/other").images == {}


def test_note_served_without_an_identity(host: Host):
    made(host)
    image = read(host)["/data"]
    (host.storage / f"{ID}.json").unlink()
    with pytest.raises(ImagesError, match=rf"share /data: .*{ID}\.json"):
        images.note_served(image)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_storage_is_a_fault_of_that_share(
    host: Host, monkeypatch: pytest.MonkeyPatch, number: int
):
    made(host)
    image = read(host)["/data"]

    def fail(*_: object, **__: object) -> bool:
        raise OSError(number, os.strerror(number))

    before = names(host)
    monkeypatch.setattr(machine, "write_atomically", fail)
    with pytest.raises(ImagesError, match=f"share /data: .*{os.strerror(number)}"):
        images.note_served(image)
    with pytest.raises(ImagesError, match=f"share /b: .*{os.strerror(number)}"):
        images.make(host.storage, work("/b"), APP)
    with pytest.raises(ImagesError, match=os.strerror(number)):
        images.grow(image, work("/data", None))
    monkeypatch.setattr(Path, "touch", fail)
    with pytest.raises(ImagesError, match=f"share /b: .*{os.strerror(number)}"):
        images.make(host.storage, work("/b"), APP)
    assert names(host) == before
    assert read(host)["/data"] == image


def test_an_image_is_on_the_disk_before_it_has_its_name(
    host: Host, monkeypatch: pytest.MonkeyPatch
):
    synced: list[tuple[str, list[str]]] = []
    really_fsync = os.fsync

    def fsync(descriptor: int) -> None:
        really_fsync(descriptor)
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), names(host)))

    monkeypatch.setattr(os, "fsync", fsync)
    images.make(host.storage, work(), APP)
    # The image, whole, under its temporary name.
    path, there = synced[0]
    assert re.fullmatch(rf".*/{ID}\.img\.[0-9a-f]+\.tmp", path)
    assert f"{ID}.img" not in there
    # Last the directory, with the image's name in it.
    assert synced[-1] == (str(host.storage), [f"{ID}.img", f"{ID}.json"])


def test_delete(host: Host):
    other = made(host, "/other")
    made(host)
    mounts.unmount(read(host)["/data"], still)
    images.delete(read(host)["/data"])
    assert names(host) == [other.name, f"{other.stem}.json"]
    assert list(host.mounts) == [str(share_directory("/other"))]
    units = sorted(path.name for path in machine.UNIT_DIRECTORY.glob("*.mount"))
    assert units == [machine.mount_unit_name(share_directory("/other"))]


def test_check(host: Host):
    path = made(host)
    mounts.unmount(read(host)["/data"], still)
    image = read(host)["/data"]
    is_clean, said = images.check(image, repair=False)
    assert (is_clean, "Pass 5" in said) == (True, True)
    # The bitmap of blocks in use says that none is.
    with path.open("r+b") as file:
        file.seek(1024 + 0xC)
        file.write(b"\xff")
    before = path.read_bytes()
    is_clean, said = images.check(image, repair=False)
    assert not is_clean
    assert "Free blocks count wrong" in said
    assert path.read_bytes() == before
    is_clean, said = images.check(image, repair=True)
    assert is_clean
    assert is_whole(path)


def test_check_that_does_not_end(host: Host, monkeypatch: pytest.MonkeyPatch):
    made(host)

    def run(*argv: str, timeout_s: float) -> str:
        raise machine.CommandTimeoutError(argv, f"not done after {timeout_s:g} s", "")

    monkeypatch.setattr(machine, "run", run)
    stays = "; until e2fsck has ended the share stays unmounted"
    with pytest.raises(ImagesError, match=f"not done after 3600 s{stays}"):
        images.check(read(host)["/data"], repair=False)


@pytest.mark.parametrize("repair", [False, True])
def test_check_of_an_image_that_is_cut_off(host: Host, repair: bool):
    """It does not mount, and e2fsck says that it is clean."""
    path = made(host)
    mounts.unmount(read(host)["/data"], still)
    os.truncate(path, GIB // 2)
    said = (
        f"share /data: its image is cut off after {GIB // 2} bytes: truncate --size={GIB} {path},"
        " then use repair=true"
    )
    with pytest.raises(ImagesError, match=re.escape(said)):
        images.check(read(host)["/data"], repair=repair)
    os.truncate(path, GIB)
    assert images.check(read(host)["/data"], repair=True)[0]


def test_check_says_what_the_repair_did(host: Host):
    path = made(host)
    mounts.unmount(read(host)["/data"], still)
    with path.open("r+b") as file:
        file.seek(1024 + 0xC)  # The number of free blocks.
        file.write(b"\xff")
    is_clean, said = images.check(read(host)["/data"], repair=True)
    assert is_clean
    assert "FILE SYSTEM WAS MODIFIED" in said


def test_one_e2fsck_at_a_time_has_an_image(host: Host):
    path = made(host)
    mounts.unmount(read(host)["/data"], still)
    with checked_by_another(host, path):
        image = read(host)["/data"]
        assert image.problem == "being checked"
        with pytest.raises(ImagesError, match=r"\.img: it is being checked already"):
            images.check(image, repair=True)
        mounts.ensure_mounted(host.storage, [image])
        assert not read(host)["/data"].is_mounted
        # An older reading than the lock: the unit that checks before the mount asks for it too.
        mounts.ensure_mounted(host.storage, [replace(image, problem="")])
        assert not read(host)["/data"].is_mounted
    mounts.ensure_mounted(host.storage, read(host).values())
    assert read(host)["/data"].is_mounted


def test_e2fsck_outlives_its_action_with_the_lock(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    made(host)
    image = read(host)["/data"]
    mounts.unmount(image, still)
    slow = tmp_path / "e2fsck"
    slow.write_text(f"#!/bin/sh\ntouch {tmp_path}/begun\nsleep 2\n")
    slow.chmod(0o755)
    monkeypatch.setattr(images, "E2FSCK", str(slow))
    monkeypatch.setattr(images, "CHECK_TIMEOUT_S", 0.0)  # What is left of it is a second.
    with pytest.raises(ImagesError, match="not done after 1 s"):
        images.check(image, repair=True)
    assert (tmp_path / "begun").exists()
    images.LOCKS.write_text(Path("/proc/locks").read_text())
    assert read(host)["/data"].problem == "being checked"


def test_check_ends_in_an_hour(host: Host, monkeypatch: pytest.MonkeyPatch):
    made(host)
    now = 0.0

    def run(*argv: str, timeout_s: float) -> str:
        nonlocal now
        now += 1000.0
        if now > 3600.0:
            raise machine.CommandTimeoutError(argv, f"not done after {timeout_s:g} s", "")
        raise machine.CommandError(argv, "exit status 4", "", "errors")

    monkeypatch.setattr(images.time, "monotonic", lambda: now)
    monkeypatch.setattr(machine, "run", run)
    with pytest.raises(ImagesError, match="not done after 600 s"):
        images.check(read(host)["/data"], repair=True)


def test_is_empty(host: Host, monkeypatch: pytest.MonkeyPatch):
    path = made(host)
    where = host.root / "where"
    where.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(images, "share_directory", lambda _: where)
        image = replace(read(host)["/data"], is_mounted=True)
        assert images.is_empty(image)
        (where / ".hidden").touch()
        assert not images.is_empty(image)
        patch.setattr(images, "share_directory", lambda _: where / "gone")
        assert not images.is_empty(image)
    mounts.unmount(read(host)["/data"], still)
    image = read(host)["/data"]
    assert images.is_empty(image)
    write_file(path, "kept")
    assert not images.is_empty(image)


@pytest.mark.parametrize("command", ["feature needs_recovery", "ssv state 2"])
def test_what_cannot_be_looked_into_is_not_empty(host: Host, command: str):
    path = made(host)
    mounts.unmount(read(host)["/data"], still)
    image = read(host)["/data"]
    assert images.is_empty(image)
    really_run(images.DEBUGFS, "-w", "-R", command, str(path))
    assert not images.is_empty(image)


def test_what_debugfs_does_not_read_is_not_empty(host: Host):
    made(host)
    mounts.unmount(read(host)["/data"], still)
    host.failing = images.DEBUGFS
    assert not images.is_empty(read(host)["/data"])


def test_a_directory_that_is_not_read_is_not_empty(host: Host):
    path = made(host)
    mounts.unmount(read(host)["/data"], still)
    # The root directory's inode (2) says that it is no directory.
    really_run(images.DEBUGFS, "-w", "-R", "set_inode_field <2> mode 0100644", str(path))
    assert not images.is_empty(read(host)["/data"])


@pytest.mark.parametrize("content", [b"", b"PK", bytes(4096)])
def test_read_foreign_content(host: Host, content: bytes):
    path = made(host)
    path.write_bytes(content)
    assert images.read(host.storage, APP) == Found({}, (path,))
    assert path.read_bytes() == content


def test_read_empty(host: Host):
    assert images.read(host.storage, APP) == Found({}, ())


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
    errors = kernel.EXT4_STATE / "loop0/errors_count"
    errors.parent.mkdir(parents=True)
    errors.write_text("0\n")
    assert read(host)["/data"].problem == ""
    errors.write_text("2\n")
    assert read(host)["/data"].problem == "its file system has errors"
    errors.unlink()
    host.remount(where, "ro")
    assert read(host)["/data"].problem == "its file system has errors"
    host.run(mounts.UMOUNT, where)
    assert read(host)["/data"].problem == "not mounted"
    other = path.with_name("other.img")
    shutil.copy(path, other)
    host.mount(where, str(other))
    there = read(host)["/data"]
    assert there.problem == f"/dev/loop0 is mounted at {where}"
    assert there.is_covered
    assert not read(host)["/data"].is_mounted


def test_read_another_users_loop_device(host: Host):
    made(host)
    backing = kernel.LOOP_DEVICES / "loop8/loop/backing_file"
    backing.parent.mkdir(parents=True)
    backing.write_bytes(b"/caf\xe9.iso\n")
    assert read(host)["/data"].is_mounted


def test_read_storage(tmp_path: Path):
    usage = shutil.disk_usage(tmp_path)
    storage = images.read_storage(tmp_path, 2.0)
    assert storage.total_bytes == usage.total
    # Others write to it too.
    assert abs(storage.free_bytes - usage.free) < usage.total / 4
    assert storage.is_root == (os.stat(tmp_path).st_dev == os.stat("/").st_dev)
    assert images.read_storage(Path("/var"), 2.0).is_root == (not os.path.ismount("/var"))
    assert not images.read_storage(Path("/proc"), 2.0).is_root
    # What is overcommitted could fill the root disk.
    assert images.read_storage(Path("/"), 2.0).overcommit_ratio == 1.0
    assert images.read_storage(Path("/proc"), 2.0).overcommit_ratio == 2.0


@pytest.mark.parametrize("size", [2, 3, None])
def test_grow(host: Host, size: int | None):
    path = made(host)
    write_file(path, "kept")
    before = read(host)["/data"]
    grown = images.grow(before, work("/data", size))
    after = read(host)["/data"]
    assert after.size == Size.of(size)
    assert after.is_sparse == grown.is_sparse == (size is None)
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
    assert image.size == Size.of(size)
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
        images.grow(read(host)["/data"], work("/data", 2))
    assert is_whole(path)
    assert read_file(path) == "kept"
    assert read(host)["/data"].size == Size(1)


def test_grow_gives_back_what_it_got_of_a_full_storage(
    host: Host, monkeypatch: pytest.MonkeyPatch
):
    path = made(host)
    image = read(host)["/data"]

    def run(*argv: str, timeout_s: float = 60.0) -> str:
        if argv[0] == images.FALLOCATE:
            really_run(images.FALLOCATE, "--length", str(GIB * 3 // 2), str(path))
            raise machine.CommandError(argv, "exit status 1", "No space left on device")
        return host.run(*argv, timeout_s=timeout_s)

    monkeypatch.setattr(machine, "run", run)
    with pytest.raises(ImagesError, match=r"share /data: .*No space left"):
        images.grow(image, work("/data", 2))
    assert read(host)["/data"] == image
    assert is_whole(path)


def test_grow_only_mounted(host: Host):
    images.make(host.storage, work("/data", 1), APP)
    with pytest.raises(ImagesError, match="is not mounted, so it can't grow"):
        images.grow(read(host)["/data"], work("/data", 2))
    assert read(host)["/data"].file_bytes == GIB


def test_reserve(host: Host):
    path = made(host)
    digest = hashlib.sha256(path.read_bytes()).digest()
    really_run(images.FALLOCATE, "--dig-holes", str(path))
    short = read(host)["/data"]
    assert short.allocated_bytes < GIB
    assert short.problem == "its space is not reserved, the storage is full"
    assert short.is_mounted
    images.reserve(short)
    assert read(host)["/data"].allocated_bytes >= GIB
    assert read(host)["/data"].problem == ""
    assert hashlib.sha256(path.read_bytes()).digest() == digest


def test_reserve_without_room(host: Host):
    made(host)
    host.failing = images.FALLOCATE
    with pytest.raises(ImagesError, match=f"share /data: {images.FALLOCATE} "):
        images.reserve(read(host)["/data"])


def test_only_what_has_a_size_is_reserved(host: Host):
    made(host, size=None)
    assert read(host)["/data"].problem == ""


def test_make_sparse(host: Host):
    images.make(host.storage, work("/data", 4, is_overcommitted=True), "")
    mounts.ensure_mounted(host.storage, read(host).values())
    image = read(host)["/data"]
    assert (image.size, image.is_sparse, image.problem) == (Size(4), True, "")
    assert image.allocated_bytes < GIB
    images.grow(image, work("/data", 5))
    image = read(host)["/data"]
    assert (image.size, image.is_sparse) == (Size(5), True)
    assert image.allocated_bytes < GIB


@pytest.fixture
def root(host: Host, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory for the root of the share, and in it something that is not touched."""
    path = host.root / "root"
    (path / "below").mkdir(parents=True)
    (path / "below/file").touch()
    path.chmod(0o755)
    # `trusted` is for root alone (xattr(7)), and so is an owner that isn't oneself.
    monkeypatch.setattr(images, "ROOT_ATTRIBUTE", "user.nfs-server")
    made(host)
    monkeypatch.setattr(images, "share_directory", lambda _: path)
    host.mounts = {str(path): ("/dev/loop0", str(host.storage / f"{ID}.img"), "rw")}
    host._write()
    return path


ME = f"{os.getuid()}:{os.getgid()}"
OWNER = "1000:100" if os.getuid() == 0 else ME


def of(path: Path) -> tuple[str, str]:
    status = path.lstat()
    return f"{status.st_uid}:{status.st_gid}", f"{status.st_mode & 0o7777:04o}"


def test_set_permissions(host: Host, root: Path):
    before = read(host)["/data"]
    assert (before.permissions, images.usage(before).owner) == (UNSAID, ME)
    below = of(root / "below"), of(root / "below/file")
    asked = Permissions(OWNER, "2770")
    images.set_permissions(before, asked)
    assert of(root) == (OWNER, "2770")
    assert (of(root / "below"), of(root / "below/file")) == below
    after = read(host)["/data"]
    assert after.permissions == asked
    usage = images.usage(after)
    assert (usage.owner, usage.mode) == (OWNER, "2770")


def test_set_permissions_of_what_is_asked_anew_alone(host: Host, root: Path):
    images.set_permissions(read(host)["/data"], Permissions(OWNER, "0770"))
    root.chmod(0o711)
    images.set_permissions(read(host)["/data"], Permissions(ME, "0770"))
    assert of(root) == (ME, "0711")
    images.set_permissions(read(host)["/data"], Permissions(mode="1777"))
    assert of(root) == (ME, "1777")
    images.set_permissions(read(host)["/data"], UNSAID)
    assert (of(root), read(host)["/data"].permissions) == ((ME, "1777"), UNSAID)
    images.set_permissions(read(host)["/data"], Permissions(OWNER, "1777"))
    assert of(root) == (OWNER, "1777")


@pytest.mark.parametrize("at", ["fchown", "fchmod", "fsync", "setxattr"])
def test_set_permissions_killed(host: Host, root: Path, monkeypatch: pytest.MonkeyPatch, at: str):
    """Wherever it ends: what is noted was done, and is on the disk."""
    done: list[str] = []

    def noting(name: str):
        really = getattr(os, name)

        def call(*arguments: object) -> None:
            if name == at:
                raise Killed
            done.append(name)
            really(*arguments)

        return call

    for name in ("fchown", "fchmod", "fsync", "setxattr"):
        monkeypatch.setattr(os, name, noting(name))
    asked = Permissions(OWNER, "0770")
    with pytest.raises(Killed):
        images.set_permissions(read(host)["/data"], asked)
    assert read(host)["/data"].permissions == UNSAID
    at = ""
    done.clear()
    images.set_permissions(read(host)["/data"], asked)
    assert done == ["fchown", "fchmod", "fsync", "setxattr", "fsync"]
    done.clear()
    images.set_permissions(read(host)["/data"], Permissions(OWNER, "0770"))
    assert not {"fchown", "fchmod"} & {*done}
    assert (of(root), read(host)["/data"].permissions) == ((OWNER, "0770"), asked)


def test_set_permissions_follows_no_link(
    host: Host, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    link = tmp_path / "link"
    link.symlink_to(root)
    monkeypatch.setattr(images, "share_directory", lambda _: link)
    with pytest.raises(ImagesError, match="share /data: "):
        images.set_permissions(read(host)["/data"], Permissions(mode="0777"))
    assert of(root)[1] == "0755"


@pytest.mark.parametrize("text", [b"", b"\xff\0", b"root rwx", b"0 99999 ", b"1:1"])
def test_what_others_noted_of_permissions(host: Host, root: Path, text: bytes):
    os.setxattr(root, images.ROOT_ATTRIBUTE, text)
    image = read(host)["/data"]
    assert image.permissions == Permissions(owner="1:1" if text == b"1:1" else "")


def test_usage(host: Host, monkeypatch: pytest.MonkeyPatch):
    made(host)
    monkeypatch.setattr(images, "share_directory", lambda _: host.root)
    image = replace(read(host)["/data"], is_mounted=True)
    usage = images.usage(image)
    assert (usage.owner, usage.mode) == of(host.root)
    disk = shutil.disk_usage(host.root)
    assert abs(usage.space.used_bytes - disk.used) < disk.total / 4
    assert abs(usage.space.available_bytes - disk.free) < disk.total / 4
    assert usage.space.used_inodes <= usage.space.inodes == os.statvfs(host.root).f_files
    assert images.usage(replace(image, is_mounted=False)) == images.Usage()

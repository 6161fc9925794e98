# SPDX-License-Identifier: Apache-2.0
"""A machine for the tests of `mounts`: systemd, umount(8) and the kernel's table, in memory."""

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
import pytest
import yaml

import kernel
import mounts
import obstacles
import probe
import records
import trouble
from nfs_charms import machine
from probe import Usage
from trouble import Trouble

# The same YAML, more quickly: most of the time of a test went into reading the charm's.
yaml.SafeLoader, yaml.SafeDumper = yaml.CSafeLoader, yaml.CSafeDumper

# Other work on the computer must not make a test fail.
hypothesis.settings.register_profile("unit", deadline=None)
hypothesis.settings.load_profile("unit")


@dataclass
class FakeMachine:
    """Does what the real commands do to unit files and mounts, as far as the charm sees it."""

    root: Path
    server_answers: bool = True
    mount_error: str = ""
    mount_hangs: bool = False
    busy: set[str] = field(default_factory=set[str])
    umount_hangs: bool = False
    is_stale: bool = False
    """Whether what is mounted is stale; a new mount isn't."""
    cannot_be_forced: bool = False
    commands: list[tuple[str, ...]] = field(default_factory=list[tuple[str, ...]])
    active: dict[str, str] = field(default_factory=dict[str, str])
    """What is mounted, by mount point: what a line of mountinfo has of it."""
    running: set[str] = field(default_factory=set[str])
    """Services."""
    retried: set[str] = field(default_factory=set[str])
    """Units that systemd has started because a mount failed."""
    failed: set[str] = field(default_factory=set[str])
    """Units that have failed: systemd keeps them in mind without their files."""
    _known: dict[str, str] = field(default_factory=dict[str, str])
    """Unit files, as systemd has read them."""
    immutable: set[str] = field(default_factory=set[str])
    """Directories with the attribute i (chattr(1))."""
    has_attributes: bool = True
    """Whether the file system has such attributes."""
    owners: dict[str, int] = field(default_factory=dict[str, int])
    """User IDs, by path; all else is root's, and nobody else writes above this machine's root."""
    fail: str = ""
    """A command that fails: the first words of it, without the program."""

    @property
    def units(self) -> Path:
        return self.root / "units"

    @property
    def enabled(self) -> list[str]:
        return sorted(path.name for path in (self.units / mounts.WANTS_DIRECTORY).glob("*"))

    @property
    def unit_files(self) -> list[str]:
        return sorted(path.name for path in self.units.iterdir() if path.is_file())

    def mount(self, where: str, source: str, fstype: str = "nfs4", options: str = "rw") -> None:
        self.active[where] = f"{options} shared:33 - {fstype} {source} rw,vers=4.2"
        self._write_mountinfo()

    def umount(self, where: str) -> None:
        del self.active[where]
        self._write_mountinfo()

    def _write_mountinfo(self) -> None:
        lines = ["16 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw"]
        lines += [f"70 16 {_device(line)} / {where} {line}" for where, line in self.active.items()]
        machine.MOUNTINFO.write_text("\n".join(lines) + "\n")

    def run(self, *argv: str, timeout_s: float = 60.0) -> str:
        self.commands.append(argv)
        assert os.path.isabs(argv[0])
        assert timeout_s <= 60
        if self.fail and " ".join(argv[1:]).startswith(self.fail):
            raise machine.CommandError(argv, "exit status 1", "it failed")
        program = os.path.basename(argv[0])
        if program == "systemctl":
            arguments = [argument for argument in argv[1:] if not argument.startswith("--")]
            return getattr(self, f"_{arguments[0].replace('-', '_')}")(argv, *arguments[1:]) or ""
        if program == "umount":
            return self._umount(argv)
        if program == "mount":
            return self._remount(argv, argv[-3].split(","))
        if program == "chattr":
            return self._chattr(argv, *argv[1:])
        if program == "systemd-run":
            (parent,) = (it.split("=")[-1].split(":")[0] for it in argv if "norbind" in it)
            return self._chattr(argv, argv[-2], argv[-1].replace("/mnt", parent, 1))
        if program == "journalctl":
            return "starting\nmount.nfs: access denied by server\nsystemd says failed\n"
        assert argv[-2].endswith("processes.py")
        return ""

    def _chattr(self, argv: tuple[str, ...], flag: str, where: str) -> str:
        assert Path(where).is_dir()
        assert where not in self.active or "systemd-run" in argv[0], "the share's own directory"
        if not self.has_attributes:
            raise machine.CommandError(argv, "exit status 1", "Operation not supported")
        (self.immutable.add if flag == "+i" else self.immutable.discard)(where)
        return ""

    def lstat(self, path: Path) -> os.stat_result:
        """Look at a path, as root of a machine would that has nothing above this one's root."""
        found = os.lstat(path)
        mode = found.st_mode & ~0o22 if self.root.is_relative_to(path) else found.st_mode
        owner = self.owners.get(str(path), 0)
        return os.stat_result((mode, *found[1:4], owner, *found[5:]))

    def _umount(self, argv: tuple[str, ...]) -> str:
        where = argv[-1]
        assert {"--internal-only", "--no-canonicalize"} <= set(argv)
        is_forced = "--force" in argv and not self.cannot_be_forced
        if where in self.busy and not is_forced:
            raise machine.CommandError(argv, "exit status 32", "target is busy.")
        self.umount(where)
        self.is_stale = False
        if self.umount_hangs:
            raise machine.CommandTimeoutError(argv, "not done after 15 s", "")
        return ""

    def ask(self, mountpoint: str) -> Usage | Trouble:
        assert mountpoint in self.active
        if not self.server_answers:
            return Trouble.SILENT
        return Trouble.STALE if self.is_stale else Usage(4096, 1024, 3072, 10, 1)

    def _settings(self, name: str) -> dict[str, str]:
        """Read a unit's file when it is first asked for, as systemd does."""
        text = self._known.setdefault(name, (self.units / name).read_text())
        return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)

    def _start(self, argv: tuple[str, ...], name: str) -> None:
        settings = self._settings(name)
        if name.endswith(".service"):
            self.running.add(name)
            return
        assert name == machine.mount_unit_name(settings["Where"])
        assert (self.units / settings["Requires"]).is_file()
        self._start(argv, settings["Wants"])
        Path(settings["Where"]).mkdir(parents=True, exist_ok=True)  # As systemd does.
        is_empty = not any(Path(settings["Where"]).iterdir())
        if is_empty and self.server_answers and not self.mount_error:
            self._set(settings)
            return
        self.retried.add(settings["OnFailure"])
        self.failed.add(name)
        if "--no-block" not in argv:
            raise machine.CommandError(argv, "exit status 1", "Job failed.")

    def _reload(self, argv: tuple[str, ...], name: str) -> None:
        settings = self._settings(name)
        assert "ro" not in settings["Options"].split(","), "the superblock, which others have too"
        if self.mount_error:
            raise machine.CommandError(argv, "exit status 1", "Job failed.")
        self._set(settings)

    def _remount(self, argv: tuple[str, ...], options: list[str]) -> str:
        assert {"remount", "bind"} <= set(options), "the superblock, which others have too"
        if self.mount_error:
            raise machine.CommandError(argv, "exit status 32", "mount point not mounted")
        where = argv[-1]
        self._set({"Where": where, "What": argv[-2], "Options": ",".join(options)})
        return ""

    def _set(self, settings: dict[str, str]) -> None:
        options = settings["Options"].split(",")
        shown = [option for option in options if option[:2] in {"ro", "rw", "no"}]
        self.mount(settings["Where"], settings["What"], options=",".join(shown))

    def _stop(self, _: tuple[str, ...], name: str) -> None:
        settings = self._settings(name)
        self.retried.discard(name)
        self.running.discard(name)
        if name.endswith(".mount"):
            assert settings["Where"] not in self.active, "unmounts by force"
            if self.mount_hangs:  # A mount(8) that is killed has failed.
                self.failed.add(name)
                self.retried.add(settings["OnFailure"])

    def _enable(self, _: tuple[str, ...], name: str) -> None:
        wants = self.units / mounts.WANTS_DIRECTORY
        wants.mkdir(exist_ok=True)
        (wants / name).symlink_to(self.units / name)

    def _disable(self, _: tuple[str, ...], name: str) -> None:
        (self.units / mounts.WANTS_DIRECTORY / name).unlink(missing_ok=True)

    def _reset_failed(self, argv: tuple[str, ...], *names: str) -> None:
        unknown = [name for name in names if name not in self.failed]
        self.failed -= set(names)
        if unknown:
            raise machine.CommandError(argv, "exit status 1", f"Unit {unknown[0]} not loaded.")

    def _daemon_reload(self, _: tuple[str, ...]) -> None:
        self._known = {name: (self.units / name).read_text() for name in self.unit_files}

    def _show(self, _: tuple[str, ...], *names: str) -> str:
        return "\n\n".join(
            f"FragmentPath={self.units / name}\nNeedDaemonReload={self._differs(name)}"
            for name in names
        )

    def _differs(self, name: str) -> str:
        self._settings(name)
        return "no" if self._known[name] == (self.units / name).read_text() else "yes"


def _device(line: str) -> str:
    """Number a superblock: mounts of one source have one."""
    return f"0:{zlib.crc32(line.split(' - ')[1].encode())}"


def put_in_place(fake: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the modules find this machine below its root, instead of the computer."""
    fake.units.mkdir()
    monkeypatch.setattr(machine, "MOUNTINFO", fake.root / "mountinfo")
    monkeypatch.setattr(machine, "UNIT_DIRECTORY", fake.units)
    monkeypatch.setattr(machine, "_RELOAD_NEEDED", fake.root / "reload-needed")
    monkeypatch.setattr(machine, "run", fake.run)
    monkeypatch.setattr(obstacles, "GENERATED_UNITS", fake.root / "generator")
    monkeypatch.setattr(obstacles, "AUTOFS_MAPS", fake.root)
    monkeypatch.setattr(obstacles, "AUTOMOUNT", fake.root / "automount")
    monkeypatch.setattr(obstacles, "lstat", fake.lstat)
    monkeypatch.setattr(trouble, "DIRECTORY", fake.root / "trouble")
    monkeypatch.setattr(records, "AGENTS", fake.root / "agents")
    for unit in "nfs-client-0", "nfs-client-1":
        (records.AGENTS / f"unit-{unit}").mkdir(parents=True)
    monkeypatch.setattr(kernel, "find_refusal", lambda: "")
    monkeypatch.setattr(probe, "ask", fake.ask)
    monkeypatch.setattr(mounts, "is_reachable", lambda _: fake.server_answers)
    fake._write_mountinfo()


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    fake = FakeMachine(tmp_path)
    put_in_place(fake, monkeypatch)
    return fake


@pytest.fixture(autouse=True, scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep rendered texts away from the computer's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "RENDERED", tmp_path_factory.mktemp("rendered"))
        yield

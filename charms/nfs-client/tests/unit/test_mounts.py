# SPDX-License-Identifier: Apache-2.0

import errno
import grp
import os
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import mounts
import obstacles
import records
import trouble
from charms.storage_libs.v0.nfs_interfaces import Endpoint
from conftest import FakeMachine
from nfs_charms import machine
from plan import OwnedMount, WantedMount
from trouble import Trouble

UNIT = "nfs-client/0"
ENDPOINT = Endpoint("10.0.0.1", "/srv/nfs/data")
SOURCE = "10.0.0.1:/srv/nfs/data"


@pytest.fixture
def where(tmp_path: Path) -> Path:
    return tmp_path / "a" / "data"


@pytest.fixture
def wanted(where: Path) -> WantedMount:
    return WantedMount(UNIT, str(where), "/data", ENDPOINT, ("rw", "nosuid", "nodev", "exec"))


def only_owned() -> OwnedMount:
    (owned,) = records.read_owned(UNIT)
    return owned


def snapshot(root: Path) -> list[tuple[str, str]]:
    files = [path for path in sorted(root.rglob("*")) if path.is_file()]
    return [(str(path), path.read_text()) for path in files]


UNIT_TEXT = """\
# Made by the charm of nfs-client. Changes by hand are undone.
[Unit]
Description=NFS share projects
Wants=network-online.target
After=network-online.target
# systemd doesn't start a failed mount again. This does, until it is mounted.
OnFailure=nfs-client-retry-my\\x2ddata-x.service
# It fails where the directory has files, which the mount would hide; then this one has failed too.
Requires=nfs-client-check-my\\x2ddata-x.service
After=nfs-client-check-my\\x2ddata-x.service
# It is ended before the mount at shutdown, when services have.
Wants=nfs-client-umount-my\\x2ddata-x.service
StartLimitIntervalSec=0

[Mount]
What=[fd77::1]:/srv/nfs/x
Where=/my-data/x
Type=nfs
Options=hard,_netdev,retry=0,vers=4,port=2050,ro,nosuid,nodev,noexec,nosharecache
TimeoutSec=15
# For the machine's shutdown, which a dead server must not hold up for long. What is forced is all
# that waits for the server, in other mounts of the share too.
ForceUnmount=yes
LazyUnmount=yes

[Install]
WantedBy=remote-fs.target

# systemd ignores this section (systemd.unit(5)); the charm knows its mounts by it.
[X-Juju]
Unit=nfs-client/0
Endpoint=nfs://[fd77::1]:2050/srv/nfs/x
Share=projects
Named=yes
MadeDirectory=/my-data
"""


def test_unit_files(fake: FakeMachine, monkeypatch: pytest.MonkeyPatch):
    fake.server_answers = False
    monkeypatch.setattr(Path, "mkdir", lambda *_, **__: None)
    (fake.units / mounts.WANTS_DIRECTORY).mkdir(exist_ok=True)
    wanted = WantedMount(
        UNIT,
        "/my-data/x",
        "projects",
        Endpoint("fd77::1", "/srv/nfs/x", 2050),
        ("ro", "nosuid", "nodev", "noexec"),
        is_named=True,
    )
    rendered = mounts._render_units(wanted)
    assert rendered["my\\x2ddata-x.mount"] == UNIT_TEXT
    retry = rendered["nfs-client-retry-my\\x2ddata-x.service"]
    assert "PartOf=my\\x2ddata-x.mount\n" in retry
    # A path, since ExecStart= would take the backslash of a unit's name for an escape.
    assert "ExecStart=/usr/bin/systemctl start /my-data/x\n" in retry
    check = rendered["nfs-client-check-my\\x2ddata-x.service"]
    assert "RequiresMountsFor=/my-data\n" in check
    assert next(iter(rendered)).endswith(".mount")


def test_what_is_no_name_of_a_share_gets_into_no_unit_file(fake: FakeMachine, wanted: WantedMount):
    hostile = replace(wanted, share="/d\n[Mount]\nOptions=suid")
    for act in mounts.ensure_mounted, mounts.remount:
        with pytest.raises(ValueError, match=r"share name '/d\\n"):
            act(hostile)
    assert (fake.unit_files, fake.active) == ([], {})


def test_a_package_that_is_half_installed_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(mounts, "MOUNT_NFS", tmp_path / "mount.nfs")
    monkeypatch.setattr(machine, "INSTALLING", tmp_path)
    assert not mounts.is_installed()
    mounts.MOUNT_NFS.touch()
    assert mounts.is_installed()
    machine.installing(mounts.PACKAGE).touch()
    assert not mounts.is_installed()


def test_what_is_wrong_with_what_is_left_alone(fake: FakeMachine, wanted: WantedMount):
    mounts.ensure_mounted(wanted)
    for is_up, found in ((False, Trouble.SILENT), (True, None)):
        fake.server_answers = is_up
        mounts.note_trouble(only_owned())
        noted = trouble.read(wanted.mountpoint)
        assert (noted and noted.trouble) == found
    fake.umount(wanted.mountpoint)
    fake.server_answers = False
    mounts.note_trouble(only_owned())
    assert trouble.read(wanted.mountpoint) is None


def test_removed_by_a_killed_hook(fake: FakeMachine, wanted: WantedMount):
    mounts.ensure_mounted(wanted)
    fake.umount(wanted.mountpoint)
    fake.fail = "daemon-reload"
    with pytest.raises(mounts.MountsError):
        mounts.unmount(only_owned())
    assert records.read_owned("nfs-client/0") == ()  # No record leads there any more.
    mounts.finish_removal()  # Nor is it held up.
    fake.fail = ""
    fake.commands.clear()
    mounts.finish_removal()
    assert [argv[1] for argv in fake.commands][:1] == ["daemon-reload"]


def test_mounts(fake: FakeMachine, wanted: WantedMount, where: Path):
    assert obstacles.find_obstacle(wanted) == ""
    assert mounts.ensure_mounted(wanted)
    assert mounts.is_mounted(wanted)
    assert where.is_dir()
    assert fake.enabled == [machine.mount_unit_name(where)]
    assert records.read_owned(UNIT) == (
        OwnedMount(str(where), "/data", ENDPOINT, str(where.parent), "nfs-client", (UNIT,)),
    )
    assert records.read_owned("nfs-client/1") == records.read_owned(UNIT)
    assert records.read_owned("nfs-client-2/0") == ()


def test_mounted_costs_nothing(fake: FakeMachine, wanted: WantedMount):
    mounts.ensure_mounted(wanted)
    before = snapshot(fake.root)
    fake.commands.clear()
    assert not mounts.ensure_mounted(wanted)
    assert obstacles.find_obstacle(wanted) == ""
    assert mounts.is_mounted(wanted)
    assert records.read_owned(UNIT)
    assert (fake.commands, snapshot(fake.root)) == ([], before)


def test_mounted_again(fake: FakeMachine, wanted: WantedMount, where: Path):
    mounts.ensure_mounted(wanted)
    fake.umount(str(where))
    assert obstacles.find_obstacle(wanted) == ""
    assert mounts.ensure_mounted(wanted)
    assert mounts.is_mounted(wanted)
    assert only_owned().made_directory == str(where.parent)


def test_remounted_with_other_flags(fake: FakeMachine, wanted: WantedMount, where: Path):
    mounts.ensure_mounted(wanted)
    fake.busy.add(str(where))
    other = replace(wanted, flags=("ro", "suid", "nodev", "noexec"))
    assert not mounts.is_mounted(other)
    assert mounts.ensure_mounted(other)
    assert mounts.is_mounted(other)
    assert not mounts.is_mounted(wanted)
    assert not mounts.ensure_mounted(other)


def test_remount_refused(fake: FakeMachine, wanted: WantedMount):
    mounts.ensure_mounted(wanted)
    fake.mount_error = "busy"
    other = replace(wanted, flags=("ro", "nosuid", "nodev", "exec"))
    for _ in range(2):
        with pytest.raises(mounts.MountsError, match="be made read-only: stop what writes there"):
            mounts.ensure_mounted(other)
    assert not mounts.is_mounted(other)
    assert mounts.is_mounted(wanted)
    mounts.ensure_mounted(wanted)
    fake.mount_error = ""
    mounts.ensure_mounted(other)
    fake.mount_error = "busy"
    mounts.ensure_mounted(wanted)
    assert mounts.is_mounted(other)


def test_dead_server_is_not_asked_to_remount(fake: FakeMachine, wanted: WantedMount):
    mounts.ensure_mounted(wanted)
    fake.server_answers = False
    fake.commands.clear()
    other = replace(wanted, flags=("ro", "nosuid", "nodev", "exec"))
    mounts.ensure_mounted(other)
    assert not [argv for argv in fake.commands if "reload" in argv]


def test_unreachable_server_is_left_to_systemd(fake: FakeMachine, wanted: WantedMount):
    fake.server_answers = False
    assert mounts.ensure_mounted(wanted)
    assert fake.enabled == [machine.mount_unit_name(wanted.mountpoint)]
    assert fake.commands[-1][1:3] == ("start", "--no-block")
    assert not mounts.is_mounted(wanted)


def test_refused_mount_is_left_to_systemd(fake: FakeMachine, wanted: WantedMount):
    fake.mount_error = "access denied"
    assert mounts.ensure_mounted(wanted)
    assert not mounts.is_mounted(wanted)
    assert mounts.read_failure(wanted) == "mount.nfs: access denied by server"


def test_failure_unknown(fake: FakeMachine, wanted: WantedMount):
    fake.fail = "--since"
    assert mounts.read_failure(wanted) == ""


def test_failure_silent(fake: FakeMachine, wanted: WantedMount, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "run", lambda *_, **__: "systemd says failed\n")
    assert mounts.read_failure(wanted) == ""


@pytest.mark.parametrize("command", ["show", "enable"])
def test_systemd_fails(fake: FakeMachine, wanted: WantedMount, command: str):
    fake.fail = command
    with pytest.raises(mounts.MountsError, match=r"can't set up the mount unit: .*it failed"):
        mounts.ensure_mounted(wanted)
    fake.fail = ""
    mounts.ensure_mounted(wanted)
    assert mounts.is_mounted(wanted)
    assert fake.enabled


def test_unmounts(fake: FakeMachine, wanted: WantedMount, where: Path, tmp_path: Path):
    mounts.ensure_mounted(wanted)
    assert fake.immutable == {str(where)}
    assert mounts.unmount(only_owned())
    assert (fake.unit_files, fake.enabled, fake.active) == ([], [], {})
    assert not where.parent.exists()
    assert tmp_path.exists()
    assert not fake.immutable


@pytest.mark.parametrize("mount_hangs", [True, False])
def test_unmounts_what_never_was_mounted(
    fake: FakeMachine, wanted: WantedMount, where: Path, mount_hangs: bool
):
    fake.server_answers = False
    fake.mount_hangs = mount_hangs
    mounts.ensure_mounted(wanted)
    assert fake.retried
    assert mounts.unmount(only_owned())
    assert not fake.retried
    assert (fake.unit_files, fake.enabled, fake.running) == ([], [], set())
    assert not where.exists()


def test_unmount_of_dead_server_is_left_behind_when_done(fake: FakeMachine, wanted: WantedMount):
    mounts.ensure_mounted(wanted)
    fake.umount_hangs = True
    assert mounts.unmount(only_owned())
    assert fake.unit_files == []


def test_busy_mount_stays(fake: FakeMachine, wanted: WantedMount, where: Path):
    mounts.ensure_mounted(wanted)
    before = snapshot(fake.root)
    fake.busy.add(str(where))
    owned = only_owned()
    assert not mounts.unmount(owned)
    assert mounts.is_still_mounted(owned)
    assert snapshot(fake.root) == before
    assert fake.enabled
    fake.busy.clear()
    assert mounts.unmount(owned)
    assert not where.exists()


def test_abandoned_mount_stays_until_reboot(fake: FakeMachine, wanted: WantedMount, where: Path):
    mounts.ensure_mounted(wanted)
    mounts.abandon(only_owned())
    assert (fake.unit_files, fake.enabled) == ([], [])
    assert str(where) in fake.active
    assert where.is_dir()
    assert not fake.immutable


def test_directory_that_was_there_stays(fake: FakeMachine, wanted: WantedMount, where: Path):
    where.mkdir(parents=True)
    mounts.ensure_mounted(wanted)
    assert only_owned().made_directory == ""
    assert not fake.immutable
    assert mounts.unmount(only_owned())
    assert where.is_dir()


def test_nothing_is_written_while_the_server_is_away(
    fake: FakeMachine, wanted: WantedMount, where: Path
):
    fake.server_answers = False
    umask = os.umask(0o077)
    mounts.ensure_mounted(wanted)
    os.umask(umask)
    assert fake.immutable == {str(where)}
    assert where.parent.stat().st_mode & 0o777 == where.stat().st_mode & 0o777 == 0o755
    fake.immutable.clear()  # As an earlier revision, or a hook that was killed, left it.
    mounts.ensure_mounted(wanted)
    assert fake.immutable == {str(where)}


def test_file_system_without_attributes(fake: FakeMachine, wanted: WantedMount, where: Path):
    fake.has_attributes = False
    mounts.ensure_mounted(wanted)
    assert mounts.is_mounted(wanted)
    assert mounts.unmount(only_owned())
    assert not where.exists()


def test_directory_that_can_not_be_made(
    fake: FakeMachine, wanted: WantedMount, monkeypatch: pytest.MonkeyPatch
):
    def read_only(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", read_only)
        with pytest.raises(mounts.MountsError, match=r"unit: .*Read-only file system"):
            mounts.ensure_mounted(wanted)
    assert not fake.enabled


def test_parent_that_was_there_stays(fake: FakeMachine, wanted: WantedMount, where: Path):
    where.parent.mkdir()
    mounts.ensure_mounted(wanted)
    assert mounts.unmount(only_owned())
    assert not where.exists()
    assert where.parent.is_dir()


@pytest.mark.parametrize("first", [0, 1])
def test_parent_of_two_mounts_goes_with_the_last(
    fake: FakeMachine, wanted: WantedMount, where: Path, first: int
):
    other = replace(wanted, unit="other-client/0", mountpoint=f"{where}-2")
    for mount in wanted, other:
        mounts.ensure_mounted(mount)
    both = [*records.read_owned(UNIT), *records.read_owned("other-client/0")]
    assert [owned.made_directory for owned in both] == [str(where.parent)] * 2
    assert mounts.unmount(both[first])
    assert where.parent.is_dir()
    assert mounts.unmount(both[1 - first])
    assert not where.parent.exists()


def test_what_was_made_by_hand_among_what_was_made_stays(
    fake: FakeMachine, wanted: WantedMount, where: Path
):
    mounts.ensure_mounted(wanted)
    own = where.parent / "own"
    (own / "there").mkdir(parents=True)
    for name, made in ("new", str(own / "new")), ("there", ""):
        mounts.ensure_mounted(replace(wanted, unit=f"{name}/0", mountpoint=str(own / name)))
        (owned,) = records.read_owned(f"{name}/0")
        assert owned.made_directory == made
    assert fake.immutable == {str(where), str(own / "new")}
    for owned in records.read_all():
        assert mounts.unmount(owned)
    assert [path.name for path in sorted(where.parent.rglob("*"))] == ["own", "there"]


def test_directory_with_files_stays(fake: FakeMachine, wanted: WantedMount, where: Path):
    mounts.ensure_mounted(wanted)
    (where / "kept").write_text("data")
    assert mounts.unmount(only_owned())
    assert (where / "kept").read_text() == "data"


def test_parent_with_files_stays(fake: FakeMachine, wanted: WantedMount, where: Path):
    mounts.ensure_mounted(wanted)
    (where.parent / "kept").write_text("data")
    assert mounts.unmount(only_owned())
    assert not where.exists()
    assert (where.parent / "kept").read_text() == "data"


def test_directory_below_a_remote_mount_is_not_touched(
    fake: FakeMachine, wanted: WantedMount, where: Path
):
    fake.server_answers = False
    mounts.ensure_mounted(wanted)
    fake.mount(str(where.parent), "server:/x")
    assert mounts.unmount(only_owned())
    assert where.is_dir()
    assert fake.unit_files == []
    assert fake.immutable  # The command would look at it.


def test_directory_gone_already(fake: FakeMachine, wanted: WantedMount, where: Path):
    mounts.ensure_mounted(wanted)
    where.rmdir()
    assert mounts.unmount(only_owned())
    assert not where.parent.exists()


def test_directory_made_after_it_was_removed(fake: FakeMachine, wanted: WantedMount, where: Path):
    where.mkdir(parents=True)
    mounts.ensure_mounted(wanted)
    fake.umount(str(where))
    where.rmdir()
    mounts.ensure_mounted(wanted)
    assert only_owned().made_directory == str(where)


def test_somebody_elses_mount_over_ours_stays(fake: FakeMachine, wanted: WantedMount, where: Path):
    mounts.ensure_mounted(wanted)
    owned = only_owned()
    fake.mount(str(where), "/dev/sdb", "ext4")
    assert mounts.unmount(owned)
    assert "/dev/sdb" in fake.active[str(where)]
    assert where.is_dir()
    assert fake.unit_files == []


def test_systemd_fails_to_forget(fake: FakeMachine, wanted: WantedMount):
    mounts.ensure_mounted(wanted)
    fake.fail = "disable"
    with pytest.raises(mounts.MountsError, match="can't remove the mount unit"):
        mounts.unmount(only_owned())
    with pytest.raises(mounts.MountsError, match="can't remove the mount unit"):
        mounts.abandon(only_owned())
    fake.fail = ""
    assert mounts.unmount(only_owned())
    assert (fake.unit_files, fake.enabled) == ([], [])


def test_removal_killed_between_the_unit_files(fake: FakeMachine, wanted: WantedMount):
    mounts.ensure_mounted(wanted)
    (fake.units / mounts._helper_unit_names(wanted.mountpoint)[0]).unlink()
    assert mounts.unmount(only_owned())
    assert (fake.unit_files, fake.enabled) == ([], [])


class Killed(BaseException):
    """Stands for SIGKILL: nothing of the charm catches it."""


def run_until(fake: FakeMachine, kill_at: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    count = iter(range(1000))

    def run(*argv: str, timeout_s: float = 60.0) -> str:
        if next(count) == kill_at:
            raise Killed
        return fake.run(*argv, timeout_s=timeout_s)

    monkeypatch.setattr(machine, "run", run)
    return count


@pytest.mark.parametrize("kill_at", range(3))
def test_mount_killed(
    fake: FakeMachine, wanted: WantedMount, kill_at: int, monkeypatch: pytest.MonkeyPatch
):
    run_until(fake, kill_at, monkeypatch)
    with pytest.raises(Killed):
        mounts.ensure_mounted(wanted)
    mounts.ensure_mounted(wanted)
    assert mounts.is_mounted(wanted)
    assert fake.enabled
    assert not machine._RELOAD_NEEDED.exists()
    mounts.unmount(only_owned())
    assert not Path(wanted.mountpoint).parent.exists()


@pytest.mark.parametrize("kill_at", range(5))
def test_unmount_killed(
    fake: FakeMachine, wanted: WantedMount, kill_at: int, monkeypatch: pytest.MonkeyPatch
):
    mounts.ensure_mounted(wanted)
    run_until(fake, kill_at, monkeypatch)
    with pytest.raises(Killed):
        mounts.unmount(only_owned())
    for owned in records.read_owned(UNIT):
        assert mounts.unmount(owned)
    machine.ensure_units({})
    assert (fake.unit_files, fake.enabled, fake.active) == ([], [], {})
    assert not Path(wanted.mountpoint).parent.exists()
    assert not machine._RELOAD_NEEDED.exists()


@pytest.mark.parametrize("answers", [True, False])
def test_nothing_stays_failed(fake: FakeMachine, wanted: WantedMount, answers: bool):
    fake.server_answers = answers
    fake.mount_error = "access denied"
    fake.mount_hangs = True
    mounts.ensure_mounted(wanted)
    assert fake.failed
    assert mounts.unmount(only_owned())
    assert not fake.failed


def test_removal_from_a_read_only_disk_says_so(
    fake: FakeMachine, wanted: WantedMount, monkeypatch: pytest.MonkeyPatch
):
    def read_only(path: Path, *_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    mounts.ensure_mounted(wanted)
    owned = only_owned()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", read_only)
        for undo in mounts.unmount, mounts.abandon:
            with pytest.raises(mounts.MountsError, match=r"unit: .*Read-only file system"):
                undo(owned)
    assert not fake.active
    assert mounts.unmount(owned)
    assert fake.unit_files == []


def test_what_an_earlier_revision_mounted_is_not_touched(fake: FakeMachine, wanted: WantedMount):
    mounts.ensure_mounted(wanted)
    path = records.unit_file(wanted.mountpoint)
    text = path.read_text()
    lines = text.splitlines(keepends=True)
    kept = [it for it in lines if "nfs-client-check" not in it and "nfs-client-umount" not in it]
    umount_unit = mounts._helper_unit_names(wanted.mountpoint)[-1]
    (fake.units / umount_unit).unlink()
    path.write_text("".join(kept).replace("vers=4,", "").replace("Named=no\n", ""))
    machine.systemctl("daemon-reload")
    fake.busy.add(wanted.mountpoint)
    fake.commands.clear()
    assert only_owned().is_named is False
    assert mounts.ensure_mounted(wanted)
    assert path.read_text() == text
    assert [argv[1] for argv in fake.commands] == ["daemon-reload", "start"]
    assert mounts.is_mounted(wanted)


def test_the_record_says_who_named_the_share(fake: FakeMachine, wanted: WantedMount):
    for is_named in True, False:
        mounts.ensure_mounted(replace(wanted, is_named=is_named))
        assert only_owned().is_named is is_named


def test_a_record_behind_a_link_is_not_ours(fake: FakeMachine, wanted: WantedMount):
    mounts.ensure_mounted(wanted)
    path = records.unit_file(wanted.mountpoint)
    path.replace(fake.root / "elsewhere")
    path.symlink_to(fake.root / "elsewhere")
    assert records.read_owned(UNIT) == ()


def test_force_killed_once_it_is_unmounted(
    fake: FakeMachine, wanted: WantedMount, monkeypatch: pytest.MonkeyPatch
):
    def run(*argv: str, timeout_s: float = 60.0) -> str:
        fake.run(*argv, timeout_s=timeout_s)
        raise Killed

    mounts.ensure_mounted(wanted)
    with monkeypatch.context() as patch:
        patch.setattr(machine, "run", run)
        with pytest.raises(Killed):
            mounts.force_unmount(only_owned())
    assert not fake.active
    mounts.ensure_mounted(wanted)
    assert not fake.active


def test_obstacle_foreign_mount(fake: FakeMachine, wanted: WantedMount, where: Path):
    fake.mount(str(where), "/dev/sdb", "ext4")
    assert obstacles.find_obstacle(wanted) == (
        f"{where}: /dev/sdb is mounted there already, unmount it or choose another mountpoint"
    )


def test_obstacle_same_source_mounted_by_hand(fake: FakeMachine, wanted: WantedMount, where: Path):
    fake.mount(str(where), SOURCE)
    assert "is mounted there already" in obstacles.find_obstacle(wanted)


def test_obstacle_unit_of_another(fake: FakeMachine, wanted: WantedMount, where: Path):
    mounts.ensure_mounted(replace(wanted, unit="other-client/0"))
    fake.umount(str(where))
    path = fake.units / machine.mount_unit_name(where)
    assert obstacles.find_obstacle(wanted) == (
        f"{where}: other-client has {where} for its share ({path}), choose another mountpoint"
    )


@pytest.mark.parametrize("is_mounted", [True, False])
@pytest.mark.parametrize("name", ["..", "below"])
def test_obstacle_in_or_around_the_mount_of_another(
    fake: FakeMachine, wanted: WantedMount, where: Path, name: str, is_mounted: bool
):
    theirs = os.path.normpath(where / name)
    fake.server_answers = is_mounted
    mounts.ensure_mounted(replace(wanted, unit="other-client/0", mountpoint=theirs))
    assert f"other-client has {theirs} for its share" in obstacles.find_obstacle(wanted)
    beside = replace(wanted, mountpoint=f"{where}-2")
    assert ("other-client" in obstacles.find_obstacle(beside)) is (name == "..")


def test_obstacle_unit_file_of_the_operator(fake: FakeMachine, wanted: WantedMount, where: Path):
    path = fake.units / machine.mount_unit_name(where)
    path.write_text("[Mount]\n")
    assert obstacles.find_obstacle(wanted) == (
        f"{where}: {path} is not this unit's, remove it or choose another mountpoint"
    )


def test_obstacle_masked_unit(fake: FakeMachine, wanted: WantedMount, where: Path):
    (fake.units / machine.mount_unit_name(where)).symlink_to("/dev/null")
    assert "is not this unit's" in obstacles.find_obstacle(wanted)
    assert records.read_owned(UNIT) == ()


def test_obstacle_fstab(fake: FakeMachine, wanted: WantedMount, where: Path):
    obstacles.GENERATED_UNITS.mkdir()
    (obstacles.GENERATED_UNITS / machine.mount_unit_name(where)).touch()
    assert obstacles.find_obstacle(wanted) == (
        f"{where}: /etc/fstab has an entry for it, remove that or choose another mountpoint"
    )


AUTOFS = (
    "autofs has it in {}, take it out and `systemctl reload autofs` or choose another mountpoint"
)


@pytest.mark.parametrize("is_triggered", [True, False])
def test_obstacle_autofs_has_mounted(
    fake: FakeMachine, wanted: WantedMount, where: Path, is_triggered: bool
):
    with machine.MOUNTINFO.open("a") as file:
        file.write(f"71 16 0:31 / {where} rw - autofs /etc/auto.data rw,direct\n")
        if is_triggered:
            file.write(f"72 71 0:32 / {where} rw - nfs4 {SOURCE} rw,vers=4.2\n")
    assert obstacles.find_obstacle(wanted) == f"{where}: {AUTOFS.format('/etc/auto.data')}"


def test_obstacle_autofs_will_mount(fake: FakeMachine, wanted: WantedMount, where: Path):
    autofs_map = fake.root / "auto.data"
    autofs_map.write_text(f"# {where}\n\n{where}-2 h:/x\n")
    (fake.root / "auto.master.d").mkdir()
    obstacles.AUTOMOUNT.touch()
    assert obstacles.find_obstacle(wanted) == ""
    autofs_map.write_text(f"{where}/ -fstype=nfs,rw 10.0.0.1:/srv/nfs/data\n")
    assert obstacles.find_obstacle(wanted) == f"{where}: {AUTOFS.format(autofs_map)}"
    assert len(f"/data: {AUTOFS.format('/etc/auto.data')}") <= 120
    obstacles.AUTOMOUNT.unlink()
    assert obstacles.find_obstacle(wanted) == ""


def test_obstacle_automount_of_systemd(fake: FakeMachine, wanted: WantedMount, where: Path):
    fake.mount(str(where), "systemd-1", "autofs")
    assert "systemd-1 is mounted there already" in obstacles.find_obstacle(wanted)


@pytest.mark.parametrize("fstype", ["nfs4", "nfs", "cifs", "fuse.sshfs", "autofs"])
def test_obstacle_remote_parent_is_not_touched(
    fake: FakeMachine,
    wanted: WantedMount,
    where: Path,
    fstype: str,
    monkeypatch: pytest.MonkeyPatch,
):
    def hang(path: Path) -> os.stat_result:
        assert not path.is_relative_to(where.parent)
        return fake.lstat(path)

    monkeypatch.setattr(obstacles, "lstat", hang)
    fake.mount(str(where.parent), "server:/x", fstype)
    assert obstacles.find_obstacle(wanted) == (
        f"{where}: lies in server:/x on {where.parent}, unmount that or choose another mountpoint"
    )


def test_local_and_root_parents_are_none(fake: FakeMachine, wanted: WantedMount, where: Path):
    fake.mount("/", "server:/root", "nfs4")
    fake.mount(str(where.parent), "/dev/sdb", "ext4")
    fake.mount(str(where) + "-other", "server:/x", "nfs4")
    assert obstacles.find_obstacle(wanted) == ""


def test_obstacle_file(fake: FakeMachine, wanted: WantedMount, where: Path):
    where.parent.mkdir()
    where.write_text("data")
    assert obstacles.find_obstacle(wanted) == (
        f"{where}: {where} is not a directory, move it away or choose another mountpoint"
    )


def test_obstacle_link(fake: FakeMachine, wanted: WantedMount, where: Path, tmp_path: Path):
    (tmp_path / "real").mkdir()
    where.parent.symlink_to(tmp_path / "real")
    assert obstacles.find_obstacle(wanted) == (
        f"{where}: {where.parent} is a symbolic link, use the path it leads to"
        " or choose another mountpoint"
    )


def be_owned(fake: FakeMachine, path: Path) -> None:
    fake.owners[str(path)] = 65534


def be_writable(mode: int) -> Callable[[FakeMachine, Path], None]:
    def change(_: FakeMachine, path: Path) -> None:
        path.chmod(mode)

    return change


GROUP = grp.getgrgid(os.getgid()).gr_name
UNSAFE = [
    pytest.param(be_owned, "nobody (uid 65534) can change {}, `chown root` it or ", id="owner"),
    pytest.param(
        be_writable(0o775),
        f"group {GROUP} (gid {os.getgid()}) can change {{}}, `chmod g-w` it or ",
        id="group",
    ),
    pytest.param(be_writable(0o757), "everyone can change {}, `chmod o-w` it or ", id="others"),
    pytest.param(be_writable(0o1777), "everyone can change {}, ", id="as /tmp is"),
]


@pytest.mark.parametrize(("change", "says"), UNSAFE)
@pytest.mark.parametrize("is_there", [True, False])
def test_obstacle_others_can_change_the_way(
    fake: FakeMachine,
    wanted: WantedMount,
    where: Path,
    is_there: bool,
    change: Callable[[FakeMachine, Path], None],
    says: str,
):
    (where if is_there else where.parent).mkdir(parents=True)
    assert obstacles.find_obstacle(wanted) == ""
    change(fake, where.parent)
    expected = f"{where}: {says.format(where.parent)}choose another mountpoint"
    assert obstacles.find_obstacle(wanted) == expected
    assert len(expected.replace(str(where.parent), "/srv/projects")) <= 120


def test_obstacle_owner_without_a_name(fake: FakeMachine, wanted: WantedMount, where: Path):
    where.parent.mkdir()
    where.parent.chmod(0o775)
    fake.owners[str(where.parent)] = 987654
    assert f"{where}: uid 987654 can change" in obstacles.find_obstacle(wanted)
    assert obstacles._name_group(987654) == "gid 987654"


def test_a_users_own_directory_is_none(fake: FakeMachine, wanted: WantedMount, where: Path):
    where.mkdir(parents=True)
    where.chmod(0o777)
    be_owned(fake, where)
    assert obstacles.find_obstacle(wanted) == ""


def test_way_that_others_can_change_now(
    fake: FakeMachine, wanted: WantedMount, where: Path, caplog: pytest.LogCaptureFixture
):
    """What is mounted there stays, whatever is wanted, until root mends it."""
    mounts.ensure_mounted(wanted)
    be_owned(fake, where.parent)
    before = snapshot(fake.root)
    assert "nobody (uid 65534) can change" in obstacles.find_obstacle(wanted)
    assert not mounts.unmount(only_owned())
    with pytest.raises(mounts.MountsError, match=f"can change .*: run `umount {where}`"):
        mounts.force_unmount(only_owned())
    assert str(where) in fake.active
    assert snapshot(fake.root) == before
    fake.umount(str(where))  # By an operator.
    caplog.clear()
    assert mounts.unmount(only_owned())
    assert fake.unit_files == []
    assert where.is_dir()
    # Nor is anything of it touched: who reads the log can.
    assert fake.immutable == {str(where)}
    said = f"can change {where.parent}: {where} stays; to remove it, run `chattr -i {where}` first"
    assert said in caplog.text


def test_what_is_beneath_a_remote_parent_is_not_looked_at(
    fake: FakeMachine, wanted: WantedMount, where: Path, monkeypatch: pytest.MonkeyPatch
):
    mounts.ensure_mounted(wanted)
    fake.mount(str(where.parent), "server:/x")
    monkeypatch.setattr(obstacles, "lstat", None)
    assert obstacles.find_bad_way(wanted.mountpoint) is None


def test_files_that_came_meanwhile_are_not_hidden(
    fake: FakeMachine, wanted: WantedMount, where: Path
):
    where.mkdir(parents=True)
    fake.server_answers = False
    mounts.ensure_mounted(wanted)
    (where / "log").write_text("precious")
    fake.server_answers = True
    mounts.ensure_mounted(wanted)  # A hook that had looked before.
    assert not fake.active
    assert fake.retried


def check(fake: FakeMachine, wanted: WantedMount, path: str) -> int:
    """Run what systemd would, with a list of mounts of our own; its exit status."""
    mounts.ensure_mounted(wanted)
    text = (fake.units / mounts._helper_unit_names(wanted.mountpoint)[1]).read_text()
    lines = text.replace("\\\n", " ").splitlines()
    for command in [line.partition("=")[2] for line in lines if line.startswith("ExecStart=")]:
        argv = shlex.split(command.replace("$$", "$").replace("\\\\", "\\"))
        done = subprocess.run(
            argv, env={"PATH": path}, check=False, capture_output=True, timeout=10
        )
        assert done.stderr == b""
        assert bool(done.stdout) is bool(done.returncode)
        if done.returncode:
            return done.returncode
    return 0


def test_check_unit(fake: FakeMachine, wanted: WantedMount, where: Path):
    where.mkdir(parents=True)
    path = f"{fake.root}:/usr/bin:/bin"
    assert check(fake, wanted, path) == 0
    (where / ".hidden").touch()
    assert check(fake, wanted, path) == 1
    findmnt = fake.root / "findmnt"
    findmnt.write_text(f"#!/bin/sh\necho /\necho {where}/x\necho {where}\n")
    findmnt.chmod(0o755)
    assert check(fake, wanted, path) == 0
    findmnt.write_text(f"#!/bin/sh\necho /\necho {where}/x\n")
    assert check(fake, wanted, path) == 1
    (where / ".hidden").unlink()
    where.rmdir()
    assert check(fake, wanted, path) == 0


@pytest.mark.parametrize("is_held", [True, False])
def test_no_service_mounts_what_was_unmounted_by_force(
    fake: FakeMachine, wanted: WantedMount, is_held: bool
):
    """By RequiresMountsFor=, as it starts again after the error that it got."""
    trouble.note(wanted.mountpoint, Trouble.HELD if is_held else Trouble.SILENT)
    assert check(fake, wanted, "/usr/bin:/bin") == is_held
    trouble.note(wanted.mountpoint, None)
    assert check(fake, wanted, "/usr/bin:/bin") == 0


def test_obstacle_not_empty(fake: FakeMachine, wanted: WantedMount, where: Path):
    where.mkdir(parents=True)
    (where / "file").write_text("data")
    assert obstacles.find_obstacle(wanted) == (
        f"{where}: the directory is not empty, move its contents away or choose another mountpoint"
    )


def test_empty_directory_is_no_obstacle(fake: FakeMachine, wanted: WantedMount, where: Path):
    where.mkdir(parents=True)
    assert obstacles.find_obstacle(wanted) == ""


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("[Mount]\nWhere=/x\nUnit=nfs-client/0\n", id="no section of ours"),
        pytest.param("[Unit]\n[X-Juju]\nUnit=nfs-client/10\n", id="of another unit"),
        pytest.param("\udcff[X-Juju]\nUnit=nfs-client/0\n", id="not text"),
    ],
)
def test_units_of_others_are_ignored(fake: FakeMachine, text: str):
    (fake.units / "x.mount").write_bytes(text.encode(errors="surrogateescape"))
    (fake.units / "dangling.mount").symlink_to("/nowhere")
    (fake.units / "directory.mount").mkdir()
    assert records.read_owned(UNIT) == ()


@pytest.mark.parametrize(("old", "new"), [("Share=", "Sh="), ("nfs://10.0.0.1", "ftp://10.0.0.1")])
def test_damaged_record_is_not_touched(fake: FakeMachine, wanted: WantedMount, old: str, new: str):
    mounts.ensure_mounted(wanted)
    path = fake.units / machine.mount_unit_name(wanted.mountpoint)
    path.write_text(path.read_text().replace(old, new))
    assert records.read_owned(UNIT) == ()
    assert "is mounted there already" in obstacles.find_obstacle(wanted)


@pytest.mark.parametrize(
    ("fstype", "source", "options", "is_mounted"),
    [
        ("nfs4", SOURCE, "rw,nosuid,nodev", True),
        ("nfs", SOURCE, "rw,nosuid,nodev,relatime", True),
        ("nfs4", SOURCE, "ro,nosuid,nodev", False),
        ("nfs4", SOURCE, "rw,nodev", False),
        ("nfs4", SOURCE, "rw,nosuid,nodev,noexec", False),
        ("nfs4", SOURCE + "2", "rw,nosuid,nodev", False),
        ("ext4", SOURCE, "rw,nosuid,nodev", False),
    ],
)
def test_is_mounted(
    fake: FakeMachine,
    wanted: WantedMount,
    fstype: str,
    source: str,
    options: str,
    is_mounted: bool,
):
    assert not mounts.is_mounted(wanted)
    fake.mount(wanted.mountpoint, source, fstype, options)
    assert mounts.is_mounted(wanted) is is_mounted


def test_slash_at_the_end_of_a_path(fake: FakeMachine, wanted: WantedMount):
    fake.mount(wanted.mountpoint, SOURCE, "nfs4", "rw,nosuid,nodev")
    assert mounts.is_mounted(replace(wanted, endpoint=Endpoint("10.0.0.1", "/srv/nfs/data/")))


def test_reachable():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert mounts.is_reachable(Endpoint("127.0.0.1", "/x", port))
    assert not mounts.is_reachable(Endpoint("127.0.0.1", "/x", port))


def test_unreachable_in_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mounts, "CONNECT_TIMEOUT_S", 0.2)
    monkeypatch.setattr(socket, "create_connection", lambda *_: threading.Event().wait())
    begin = time.monotonic()
    assert not mounts.is_reachable(Endpoint("name.invalid", "/x"))
    assert time.monotonic() - begin < 2


def trouble_of(wanted: WantedMount) -> Trouble | None:
    noted = trouble.read(wanted.mountpoint)
    return noted.trouble if noted else None


def test_silent_server_is_noted_until_it_answers(fake: FakeMachine, wanted: WantedMount):
    mounts.ensure_mounted(wanted)
    fake.server_answers = False
    assert not mounts.ensure_mounted(wanted)
    first = trouble.read(wanted.mountpoint)
    assert first is not None
    assert first.trouble is Trouble.SILENT
    assert not mounts.ensure_mounted(wanted)
    assert trouble.read(wanted.mountpoint) == first
    fake.server_answers = True
    mounts.ensure_mounted(wanted)
    assert trouble.read(wanted.mountpoint) is None
    assert mounts.is_mounted(wanted)


def test_stale_mount_is_mounted_anew(fake: FakeMachine, wanted: WantedMount):
    mounts.ensure_mounted(wanted)
    fake.is_stale = True
    assert mounts.ensure_mounted(wanted)
    assert mounts.is_mounted(wanted)
    assert not fake.is_stale
    assert trouble_of(wanted) is None


def test_stale_mount_in_use_stays(fake: FakeMachine, wanted: WantedMount):
    mounts.ensure_mounted(wanted)
    fake.is_stale = True
    fake.busy.add(wanted.mountpoint)
    assert not mounts.ensure_mounted(wanted)
    assert mounts.is_mounted(wanted)
    assert trouble_of(wanted) is Trouble.STALE


@pytest.mark.parametrize("server_answers", [True, False])
def test_unmounted_by_force_until_remount(
    fake: FakeMachine, wanted: WantedMount, server_answers: bool
):
    mounts.ensure_mounted(wanted)
    fake.busy.add(wanted.mountpoint)
    fake.server_answers = server_answers
    mounts.force_unmount(only_owned())
    assert not fake.active
    assert not mounts.ensure_mounted(wanted)
    assert not fake.active
    assert trouble_of(wanted) is Trouble.HELD
    assert mounts.is_held(wanted.mountpoint)
    assert mounts.remount(wanted)
    assert mounts.is_mounted(wanted) is server_answers
    assert trouble_of(wanted) is (None if server_answers else Trouble.SILENT)


def test_what_is_mounted_twice_is_not_forced(fake: FakeMachine, wanted: WantedMount):
    """To force one mount ends what waits for the server in the other, which may be another's."""
    mounts.ensure_mounted(wanted)
    fake.mount("/elsewhere", SOURCE)
    mounts.force_unmount(only_owned())
    assert fake.commands[-1][1] == "--lazy"
    assert [it.where for it in machine.read_mounts()] == ["/", "/elsewhere"]


def test_what_is_mounted_twice_is_not_forced_at_shutdown(
    fake: FakeMachine, wanted: WantedMount, where: Path
):
    other = replace(wanted, unit="other-client/0", mountpoint=f"{where}-2")
    for mount, is_forced in (wanted, "yes"), (other, "no"), (wanted, "no"):
        mounts.ensure_mounted(mount)
        text = records.unit_file(mount.mountpoint).read_text()
        assert f"ForceUnmount={is_forced}\n" in text


def test_mounted_by_hand_after_force(fake: FakeMachine, wanted: WantedMount):
    mounts.ensure_mounted(wanted)
    mounts.force_unmount(only_owned())
    fake.mount(wanted.mountpoint, SOURCE, options="rw,nosuid,nodev")
    mounts.ensure_mounted(wanted)
    assert trouble_of(wanted) is None


def test_force_in_vain(fake: FakeMachine, wanted: WantedMount):
    mounts.ensure_mounted(wanted)
    fake.busy.add(wanted.mountpoint)
    fake.cannot_be_forced = True
    with pytest.raises(mounts.MountsError, match="the kernel does not unmount it"):
        mounts.force_unmount(only_owned())


def test_what_can_not_be_noted_holds_up_nothing(fake: FakeMachine, wanted: WantedMount):
    trouble.DIRECTORY.touch()  # It takes no files, as a /run that is full.
    mounts.ensure_mounted(wanted)
    fake.busy.add(wanted.mountpoint)
    fake.server_answers = False
    mounts.ensure_mounted(wanted)
    mounts.force_unmount(only_owned())
    assert not fake.active
    assert mounts.unmount(only_owned())
    assert fake.unit_files == []


def test_remount_of_what_is_in_use(fake: FakeMachine, wanted: WantedMount):
    mounts.ensure_mounted(wanted)
    fake.busy.add(wanted.mountpoint)
    assert not mounts.remount(wanted)
    assert mounts.is_mounted(wanted)


def test_nothing_stays_noted_of_what_is_gone(fake: FakeMachine, wanted: WantedMount):
    mounts.ensure_mounted(wanted)
    mounts.force_unmount(only_owned())
    assert mounts.unmount(only_owned())
    assert trouble.read(wanted.mountpoint) is None


def test_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mounts, "MOUNT_NFS", tmp_path / "mount.nfs")
    assert not mounts.is_installed()
    mounts.MOUNT_NFS.touch()
    assert mounts.is_installed()

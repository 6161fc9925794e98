# SPDX-License-Identifier: Apache-2.0
"""Mounts of images that are real files; loop devices, mounts and systemd are the fake."""

import errno
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from test_images import APP, ID, Host, host, is_whole, made, names, pytestmark, read, still, work

import images
import kernel
import mounts
from mounts import MountsError
from nfs_charms import machine
from values import Work, share_directory, share_id

__all__ = ["host", "pytestmark"]  # For pytest.


def test_ensure_mounted_units(host: Host):
    images.make(host.storage, work("/data", 1), APP)
    assert mounts.ensure_mounted(host.storage, read(host).values())
    mount = (machine.UNIT_DIRECTORY / f"srv-nfs-{ID}.mount").read_text()
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
        "Options=loop,nodev,nosuid,errors=remount-ro",
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
        f"AssertPathExists={host.storage}/%i.img",
        "PartOf=srv-nfs-%i.mount",
        "[Service]",
        "Type=oneshot",
        "RemainAfterExit=yes",
        f"ExecStart=/usr/bin/flock --nonblock --conflict-exit-code 75 {host.storage}/%i.img"
        f" /usr/sbin/e2fsck -p {host.storage}/%i.img",
        "SuccessExitStatus=1",
    ]


def settings_in(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def test_discard_only_where_no_space_is_reserved(host: Host):
    made(host, "/reserved")
    made(host, "/sparse", size=None)
    assert settings_in(host.rules) == [
        'SUBSYSTEM=="block", KERNEL=="loop[0-9]*", ACTION=="add|change",'
        f' ATTR{{loop/backing_file}}=="{host.storage}/*.img", GOTO="nfs_share"',
        'GOTO="nfs_share_end"',
        'LABEL="nfs_share"',
        'RUN+="/usr/sbin/losetup --direct-io=on $devnode"',
        f'ATTR{{loop/backing_file}}=="{host.storage}/{share_id("/sparse")}.img",'
        ' GOTO="nfs_share_end"',
        'ATTR{queue/discard_max_bytes}="0"',
        'LABEL="nfs_share_end"',
    ]
    unit = (machine.UNIT_DIRECTORY / f"srv-nfs-{share_id('/sparse')}.mount").read_text()
    assert "errors=remount-ro,discard\n" in unit


def test_a_device_that_trims_nothing_any_more_is_not_used_again(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    made(host)
    machine.run(mounts.UMOUNT, str(share_directory("/data")))
    for name, could, does in ("loop3", 4096, 0), ("loop4", 4096, 4096), ("loop5", 0, 0):
        queue = kernel.LOOP_DEVICES / name / "queue"
        queue.mkdir(parents=True)
        (queue / "discard_max_hw_bytes").write_text(f"{could}\n")
        (queue / "discard_max_bytes").write_text(f"{does}\n")
    used = kernel.LOOP_DEVICES / "loop6"
    shutil.copytree(kernel.LOOP_DEVICES / "loop3", used)
    (used / "loop").mkdir()
    monkeypatch.setattr(mounts, "LOOP_CONTROL", tmp_path / "loop-control")
    mounts.LOOP_CONTROL.touch()
    removed: list[tuple[int, int]] = []
    monkeypatch.setattr(
        mounts.fcntl, "ioctl", lambda _, request, number: removed.append((request, number))
    )
    assert mounts.ensure_mounted(host.storage, read(host).values())
    assert removed == [(mounts.LOOP_CTL_REMOVE, 3)]


@pytest.mark.parametrize("hand", ["edit", "remove", "unmount", "rules"])
def test_ensure_mounted_mends(host: Host, hand: str):
    made(host)
    unit = machine.UNIT_DIRECTORY / f"srv-nfs-{ID}.mount"
    before = unit.read_text(), mounts.UDEV_RULES.read_text()
    if hand == "edit":
        unit.write_text(before[0].replace("nosuid", "suid"))
    elif hand == "remove":
        unit.unlink()
    elif hand == "unmount":
        machine.run(mounts.UMOUNT, str(share_directory("/data")))
    else:
        mounts.UDEV_RULES.write_text(before[1].replace("loop", "sd"))
    assert mounts.ensure_mounted(host.storage, read(host).values())
    assert (unit.read_text(), mounts.UDEV_RULES.read_text()) == before
    assert read(host)["/data"].is_mounted


def test_ensure_mounted_where_the_machine_takes_nothing(
    host: Host, monkeypatch: pytest.MonkeyPatch
):
    made(host)
    (machine.UNIT_DIRECTORY / f"srv-nfs-{ID}.mount").unlink()

    def fail(*_: object, **__: object) -> bool:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(machine, "write_atomically", fail)
    with pytest.raises(MountsError, match="Read-only file system"):
        mounts.ensure_mounted(host.storage, read(host).values())


def test_shares_are_closed_to_users_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    root = tmp_path / "srv/nfs"
    monkeypatch.setattr(mounts, "EXPORT_ROOT", root)
    owners: list[tuple[object, ...]] = []
    monkeypatch.setattr(os, "chown", lambda *arguments: owners.append(arguments))
    monkeypatch.setattr(mounts, "ANONYMOUS", os.getgid() + 1)
    assert mounts._ensure_closed()
    assert owners == [(root, 0, os.getgid() + 1)]
    assert root.stat().st_mode & 0o7777 == 0o710
    root.chmod(0o755)  # As older revisions left it.
    monkeypatch.setattr(mounts, "ANONYMOUS", os.getgid())
    assert mounts._ensure_closed()
    assert root.stat().st_mode & 0o7777 == 0o710
    assert mounts._ensure_closed() == (os.getuid() != 0)
    before = [machine.stamp(path) for path in mounts.files()]
    root.chmod(0o755)
    assert before != [machine.stamp(path) for path in mounts.files()]


def test_ensure_mounted_now_and_at_boot(host: Host):
    images.make(host.storage, work("/data", 1), APP)
    mounts.ensure_mounted(host.storage, read(host).values())
    assert read(host)["/data"].is_mounted
    unit = machine.UNIT_DIRECTORY / "nfs-server.service.wants" / f"srv-nfs-{ID}.mount"
    assert unit.resolve() == machine.UNIT_DIRECTORY / f"srv-nfs-{ID}.mount"
    host.commands.clear()
    assert not mounts.ensure_mounted(host.storage, read(host).values())
    assert host.commands == []


def test_ensure_mounted_again_after_disable(host: Host):
    made(host)
    wanted = machine.UNIT_DIRECTORY / "nfs-server.service.wants" / f"srv-nfs-{ID}.mount"
    wanted.unlink()
    assert mounts.ensure_mounted(host.storage, read(host).values())
    assert wanted.is_symlink()


def test_ensure_mounted_one_is_damaged(host: Host, caplog: pytest.LogCaptureFixture):
    for name in ("/a", "/b", "/c"):
        images.make(host.storage, Work(name, 1), APP)
    with (host.storage / f"{share_id('/b')}.img").open("r+b") as file:
        file.seek(2048)  # The group descriptors.
        file.write(b"\xff" * 2048)
    assert mounts.ensure_mounted(host.storage, read(host).values())
    problems = {image.name: image.problem for image in read(host).values()}
    assert problems == {"/a": "", "/b": "not mounted", "/c": ""}
    assert "not every image could be mounted" in caplog.text


def test_mounted(host: Host):
    assert mounts.mounted() == set()
    made(host)
    assert len(mounts.mounted()) == 1


def test_users(host: Host):
    made(host)
    host.users[str(share_directory("/data"))] = ("bash (812)",)
    assert mounts.users(read(host)["/data"]) == ("bash (812)",)
    assert mounts.users(replace(read(host)["/data"], is_mounted=False)) == ()


def test_another_mount_uses_a_share(host: Host):
    """As an operator mounts it to look into it, or to copy."""
    path = made(host)
    host.mount("/mnt/copy", str(path))
    assert mounts.users(read(host)["/data"]) == ("the mount /mnt/copy",)
    mounts.unmount(read(host)["/data"], still)
    assert mounts.users(read(host)["/data"]) == ("the mount /mnt/copy",)


def test_who_passes_through_is_no_user(host: Host, monkeypatch: pytest.MonkeyPatch):
    made(host)
    seen = iter([("bash (812)", "rpc.mountd (7)"), ("bash (812)",)])
    monkeypatch.setattr(machine, "find_users", lambda _: next(seen))
    assert mounts.users(read(host)["/data"]) == ("bash (812)",)


def test_unmount(host: Host):
    made(host)
    image = read(host)["/data"]
    mounts.unmount(image, still)
    assert not read(host)["/data"].is_mounted
    assert host.checked == set()  # Else the next mount would go without a check.
    assert host.reset == {f"nfs-share-fsck@{ID}*.service", "--", f"srv-nfs-{ID}.mount"}
    assert not (machine.UNIT_DIRECTORY / f"srv-nfs-{ID}.mount").exists()
    mounts.unmount(read(host)["/data"], still)


def test_unmount_what_is_in_use(host: Host):
    path = made(host)
    host.busy.add(str(share_directory("/data")))
    with pytest.raises(MountsError, match=r"share /data: .* stays mounted: .*target is busy"):
        mounts.unmount(read(host)["/data"], still)
    assert is_whole(path)
    assert set(read(host)) == {"/data"}


def test_unmount_what_a_process_of_this_machine_uses(host: Host, monkeypatch: pytest.MonkeyPatch):
    made(host)
    where = str(share_directory("/data"))
    host.busy.add(where)
    host.users[where] = ("bash (812)", "vi (813)")
    waits: list[float] = []
    monkeypatch.setattr(mounts.time, "sleep", waits.append)
    with pytest.raises(MountsError, match=r"share /data: .* in use here by bash \(812\), vi"):
        mounts.unmount(read(host)["/data"], still)
    assert len(waits) == 1  # Whether it stays; a process does not end by being waited for.
    assert read(host)["/data"].is_mounted
    assert (machine.UNIT_DIRECTORY / f"srv-nfs-{ID}.mount").exists()


def test_unmount_all(host: Host):
    made(host, "/a")
    made(host, "/b")
    (machine.UNIT_DIRECTORY / "srv-nfs.mount").touch()
    before = names(host)
    assert mounts.unmount_all(still) == ()
    assert host.mounts == {}
    assert sorted(p.name for p in machine.UNIT_DIRECTORY.iterdir()) == [
        "nfs-server.service.wants",
        "srv-nfs.mount",
    ]
    assert list((machine.UNIT_DIRECTORY / "nfs-server.service.wants").iterdir()) == []
    assert not mounts.UDEV_RULES.exists()
    assert host.checked == set()
    assert names(host) == before
    assert {image.problem for image in read(host).values()} == {"not mounted"}
    host.commands.clear()
    assert mounts.unmount_all(still) == ()
    assert host.commands == []


def test_unmount_all_leaves_what_others_mount_there(host: Host):
    made(host)
    media = machine.UNIT_DIRECTORY / "srv-nfs-media.mount"
    media.write_text("[Mount]\nWhat=/dev/vdb\nWhere=/srv/nfs/media\n")
    iso = host.root / "media.iso"
    iso.touch()
    host.mount("/srv/nfs/iso", str(iso))
    assert mounts.mounted() == {share_directory("/data")}
    assert mounts.unmount_all(still) == ()
    assert list(host.mounts) == ["/srv/nfs/iso"]
    assert media.exists()


def test_unmount_all_reloads_systemd_once(host: Host):
    for number in range(5):
        made(host, f"/{number}")
    mounts.unmount_all(still)
    assert sum(argv[1:] == ("daemon-reload",) for argv in host.commands) == 1
    assert sum(argv[1] == "stop" for argv in host.commands) == 1


def test_unmount_all_takes_directories_away(host: Host, monkeypatch: pytest.MonkeyPatch):
    (machine.UNIT_DIRECTORY / f"srv-nfs-{ID}.mount").write_bytes(mounts.WRITTEN)
    monkeypatch.setattr(mounts, "EXPORT_ROOT", host.root / "srv/nfs")
    (host.root / "srv/nfs" / ID).mkdir(parents=True)
    mounts.unmount_all(still)
    assert not (host.root / "srv/nfs").exists()


def test_unmount_all_leaves_files_below_a_mount(
    host: Host, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(mounts, "EXPORT_ROOT", host.root / "srv/nfs")
    for name in "/a", "/b":
        (machine.UNIT_DIRECTORY / f"srv-nfs-{share_id(name)}.mount").write_bytes(mounts.WRITTEN)
        (host.root / "srv/nfs" / share_id(name)).mkdir(parents=True)
    kept = host.root / "srv/nfs" / share_id("/a")
    (kept / "notes").write_text("somebody's only copy")
    mounts.unmount_all(still)
    assert list((host.root / "srv/nfs").iterdir()) == [kept]
    assert (kept / "notes").read_text() == "somebody's only copy"
    assert f"{kept} stays: " in caplog.text
    assert list(machine.UNIT_DIRECTORY.glob("*.mount")) == []
    assert not mounts.UDEV_RULES.exists()


def test_unmount_all_names_what_is_in_use(host: Host):
    made(host)
    made(host, "/other")
    where = str(share_directory("/data"))
    host.busy.add(where)
    host.users[where] = ("bash (812)",)
    assert mounts.unmount_all(still) == (f"{where} stays mounted: in use here by bash (812)",)
    # Nothing of it is left for the next boot.
    assert list(host.mounts) == [where]
    assert list(machine.UNIT_DIRECTORY.glob("*.mount")) == []
    assert len(mounts.mounted()) == 1
    host.busy.clear()
    assert mounts.unmount_all(still) == ()
    assert host.mounts == {}
    assert host.checked == set()


def test_unmount_all_of_clients_that_hold_it_for_a_moment(
    host: Host, monkeypatch: pytest.MonkeyPatch
):
    made(host)
    made(host, "/other")
    host.busy |= {str(share_directory("/data")), str(share_directory("/other"))}
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == mounts.UMOUNT_TRIES - 1:
            host.busy.clear()

    monkeypatch.setattr(mounts.time, "sleep", sleep)
    assert mounts.unmount_all(still) == ()
    assert host.mounts == {}


def test_unmount_all_of_what_nfsd_has_cached(host: Host):
    made(host)
    host.busy.add(str(share_directory("/data")))
    assert mounts.unmount_all(host.busy.clear) == ()
    assert host.mounts == {}


def test_unmount_all_where_systemd_takes_nothing(host: Host, monkeypatch: pytest.MonkeyPatch):
    made(host)

    def fail(_: object) -> bool:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(machine, "remove_units", fail)
    assert mounts.unmount_all(still) == ("shares' units stay: [Errno 30] Read-only file system",)
    assert host.mounts == {}

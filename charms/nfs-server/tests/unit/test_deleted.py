# SPDX-License-Identifier: Apache-2.0
"""Deleted shares, as real files that have the superblock of an ext4 file system and no more."""

import contextlib
import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import deleted
import images
import kernel
import values
from charms.storage_libs.v0.nfs_interfaces import Size, parse_allowlist
from images import Identity, ImagesError
from values import Found, Image, Placement, share_id

APP = "c0ffee/nfs-server"
DAYS_S = 7 * deleted.DAY_S
ID = share_id("/data")
BLOCKS = 64
PLACED = Placement(
    "nfs-server/0", "u1", "web", is_manual=True, size=Size(3), grants=parse_allowlist("10.0.0.1")
)
BOOTS = [str(uuid.UUID(int=number)) for number in range(1, 9)]


class Killed(BaseException):
    """SIGKILL: nothing that the code does about errors helps against it."""


@dataclass
class Machine:
    """A storage, and the boots of the machine that it is attached to."""

    storage: Path
    boot_id: Path
    running_s: float = 1000.0
    suspended_s: float = 0.0
    boot: int = 0
    steps: list[str] = field(default_factory=list[str])
    """What changed the storage, in the order of its names."""
    kill: tuple[str, int] | None = None
    """("before" or "after", number of a step)"""

    def reboot(self) -> None:
        self.boot += 1
        self.running_s, self.suspended_s = 1.0, 0.0
        self.boot_id.write_text(f"{BOOTS[self.boot % len(BOOTS)]}\n")
        if self.attached.exists():
            os.remove(self.attached)

    @property
    def attached(self) -> Path:
        return self.boot_id.with_name("attached")

    def step(self, what: str, act: Callable[[], Any]) -> Any:
        self.steps.append(what)
        if self.kill == ("before", len(self.steps)):
            raise Killed
        done = act()
        if self.kill == ("after", len(self.steps)):
            raise Killed
        return done

    def add(self, name: str = "/data", **its: Any) -> Image:
        """Put a share there."""
        identity = Identity(name, str(uuid.uuid4()), application=APP)
        path = images.image_path(self.storage, name)
        content = bytearray(os.urandom(BLOCKS * 1024))
        content[1024:2048] = bytes(1024)
        content[1024 + 0x4 : 1024 + 0x8] = BLOCKS.to_bytes(4, "little")
        content[1024 + 0x38 : 1024 + 0x3A] = b"\x53\xef"
        content[1024 + 0x68 : 1024 + 0x78] = uuid.UUID(identity.uuid).bytes
        path.write_bytes(content)
        images.write_identity(path, identity)
        if its:
            plain = json.loads(path.with_suffix(".json").read_text())
            path.with_suffix(".json").write_text(json.dumps(plain | its))
        return self.read().images[name]

    def read(self, application: str = APP) -> Found:
        found = images.read(self.storage, application)
        return deleted.read(self.storage, application, found)

    def clean_up(self) -> Found:
        deleted.remove_unfinished(self.storage, APP)
        return self.read()

    def names(self) -> list[str]:
        return sorted(path.name for path in self.storage.iterdir())


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return new_machine(tmp_path, monkeypatch)


def new_machine(root: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    (root / "storage").mkdir()
    machine = Machine(root / "storage", root / "boot_id")
    machine.boot_id.write_text(f"{BOOTS[0]}\n")
    (root / "sys").mkdir()
    monkeypatch.setattr(kernel, "LOOP_DEVICES", root / "sys")
    monkeypatch.setattr(images, "GIB", 1024)
    monkeypatch.setattr(values, "GIB", 1024)
    monkeypatch.setattr(deleted, "BOOT_ID", machine.boot_id)
    monkeypatch.setattr(deleted, "ATTACHED", machine.attached)

    def gettime(clock: int) -> float:
        suspended = {time.CLOCK_MONOTONIC: 0, time.CLOCK_BOOTTIME: machine.suspended_s}
        return machine.running_s + suspended[clock]

    monkeypatch.setattr(time, "clock_gettime", gettime)
    for of, name in (
        (Path, "rename"),
        (Path, "replace"),
        (Path, "unlink"),
        (os, "fsync"),
    ):
        monkeypatch.setattr(of, name, stepping(machine, name, getattr(of, name)))
    return machine


def stepping(machine: Machine, name: str, really: Callable[..., Any]) -> Callable[..., Any]:
    def step(*arguments: Any, **options: Any) -> Any:
        return machine.step(name, lambda: really(*arguments, **options))

    return step


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def kept(machine: Machine, name: str = "/data") -> Image:
    """Delete a share; its image, kept."""
    deleted.keep(machine.add(name), PLACED, DAYS_S)
    return machine.read().deleted[name].image


def test_keep(machine: Machine):
    image = machine.add()
    before, other = digest(image.path), machine.add("/other")
    day = deleted.keep(image, PLACED, DAYS_S)
    assert machine.names() == sorted(
        [
            f"{ID}.{image.uuid}.deleted",
            f"{ID}.{image.uuid}.json",
            other.path.name,
            f"{other.path.stem}.json",
        ]
    )
    found = machine.read()
    assert (list(found.images), list(found.deleted), found.foreign) == (["/other"], ["/data"], ())
    share = found.deleted["/data"]
    assert (share.day, share.is_past, share.is_count_old) == (day, False, False)
    assert (share.image.name, share.image.uuid) == ("/data", image.uuid)
    assert share.image.size == image.size
    assert share.image.file_bytes == image.file_bytes
    assert digest(share.image.path) == before
    assert share.image in found.all_images
    assert {path.stat().st_mode & 0o077 for path in machine.storage.glob("*.json")} == {0}


@pytest.mark.parametrize("name", ["/data", "/new"])
def test_restore(machine: Machine, name: str):
    image = machine.add(colour="red")
    before, identity = digest(image.path), image.path.with_suffix(".json").read_text()
    deleted.keep(image, PLACED, DAYS_S)
    machine.reboot()
    deleted.restore(machine.read().deleted["/data"], name, APP)
    found = machine.clean_up()
    assert (list(found.images), found.deleted, found.foreign) == ([name], {}, ())
    there = found.images[name]
    assert (there.uuid, digest(there.path)) == (image.uuid, before)
    plain = json.loads(there.path.with_suffix(".json").read_text())
    assert plain == json.loads(identity) | {"name": name}
    restored = found.restored[name]
    assert (restored.uuid, restored.placement) == (image.uuid, PLACED)
    deleted.forget(restored)
    assert machine.names() == [there.path.name, f"{there.path.stem}.json"]
    assert machine.clean_up().restored == {}


def test_each_deletion_has_its_own_name(machine: Machine):
    names: set[str] = set()
    image = machine.add()
    for _ in range(3):
        deleted.keep(image, PLACED, DAYS_S)
        deleted.restore(machine.read().deleted["/data"], "/data", APP)
        names.add(machine.clean_up().restored["/data"].deletion)
        image = machine.read().images["/data"]
    assert len(names) == 3


def test_purge(machine: Machine):
    image = kept(machine)
    images.delete(image)
    assert machine.names() == []


def test_nothing_is_written_over(machine: Machine):
    image = kept(machine)
    share = machine.read().deleted["/data"]
    other = machine.add()
    before = digest(other.path)
    with pytest.raises(
        ImagesError, match=r"^share /data: .*\.img is there: move it off the storage$"
    ):
        deleted.restore(share, "/data", APP)
    assert digest(other.path) == before
    assert machine.read().images["/data"].uuid != image.uuid
    taken = machine.storage / f"{ID}.{other.uuid}.deleted"
    taken.write_text("an operator's")
    with pytest.raises(
        ImagesError, match=r"^share /data: .*\.deleted is there: move it off the storage$"
    ):
        deleted.keep(other, PLACED, DAYS_S)
    assert taken.read_text() == "an operator's"
    assert digest(other.path) == before


@pytest.mark.parametrize("what", ["keep", "restore", "rename"])
def test_a_storage_that_takes_nothing(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, what: str
):
    image = machine.add()
    if what != "keep":
        deleted.keep(image, PLACED, DAYS_S)
    before = machine.read()
    really = os.open

    def fail(path: Path, flags: int, *mode: int) -> int:
        if flags & os.O_CREAT:
            raise OSError(28, "No space left on device", str(path))
        return really(path, flags, *mode)

    monkeypatch.setattr(os, "open", fail)
    monkeypatch.setattr(Path, "unlink", lambda *_: None)  # What isn't there.
    name = "/new" if what == "rename" else "/data"
    said = "the storage is full: run purge-share, or set keep-deleted=0 and try again"
    with pytest.raises(ImagesError, match=said if what == "keep" else "No space left"):
        _ = (
            deleted.keep(image, PLACED, DAYS_S)
            if what == "keep"
            else deleted.restore(before.deleted["/data"], name, APP)
        )
    assert machine.read() == before


# Killed, or without power, at each step


def keep_again(machine: Machine) -> None:
    if image := machine.clean_up().images.get("/data"):
        deleted.keep(image, PLACED, DAYS_S)


def restore_again(machine: Machine) -> None:
    if share := machine.clean_up().deleted.get("/data"):
        deleted.restore(share, "/new", APP)


def purge_again(machine: Machine) -> None:
    if share := machine.clean_up().deleted.get("/data"):
        images.delete(share.image)


def steps_of(act: Callable[[Machine], None]) -> int:
    """More than any of them takes: a kill that doesn't come is one that changes nothing."""
    return 4 if act is purge_again else 12


KILLS = [
    pytest.param(act, when, nth, id=f"{act.__name__} {when} {nth}")
    for act in (keep_again, restore_again, purge_again)
    for when in ("before", "after")
    for nth in range(1, steps_of(act) + 1)
]


@pytest.mark.parametrize(("act", "when", "nth"), KILLS)
def test_killed(machine: Machine, act: Callable[[Machine], None], when: str, nth: int):
    image = machine.add()
    before = digest(image.path)
    if act is not keep_again:
        deleted.keep(image, PLACED, DAYS_S)
    machine.steps.clear()
    machine.kill = when, nth
    with contextlib.suppress(Killed):
        act(machine)
    machine.kill = None
    found = machine.read()
    there = [*found.images.values(), *(it.image for it in found.deleted.values())]
    assert found.foreign == ()
    if act is not purge_again:
        assert [digest(it.path) for it in there] == [before]  # Whole, and once.
    # Of a hook that had not recorded anything, the storage says all.
    if "/new" in found.images:
        assert found.restored["/new"].placement == PLACED
    act(machine)
    found = machine.clean_up()
    stem = {"/new": f"{share_id('/new')}"}
    if act is keep_again:
        assert list(found.deleted) == ["/data"]
        assert machine.names() == [f"{ID}.{image.uuid}.deleted", f"{ID}.{image.uuid}.json"]
    elif act is restore_again:
        deleted.forget(found.restored["/new"])
        assert machine.names() == [f"{stem['/new']}.img", f"{stem['/new']}.json"]
    else:
        assert found.deleted == {}
        # Of a killed one its record may stay, as of an image that was moved away.
        assert machine.names() in ([], [f"{ID}.{image.uuid}.json"])


def test_kills_reach_the_last_step(machine: Machine):
    machine.add()
    for act in (keep_again, restore_again):
        machine.steps.clear()
        act(machine)
        assert 4 < len(machine.steps) <= steps_of(act), machine.steps
    deleted.keep(machine.read().images["/new"], PLACED, DAYS_S)
    machine.steps.clear()
    images.delete(machine.read().deleted["/new"].image)
    assert 2 < len(machine.steps) <= steps_of(purge_again), machine.steps


def test_what_is_written_before_is_on_the_disk_before(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
):
    """The order, by which a power cut meets one state or the other."""
    image = machine.add()
    machine.steps.clear()
    deleted.keep(image, PLACED, DAYS_S)
    # The identity: file, name, directory; the image's name, and the directory; what is left.
    written = ["fsync", "replace", "fsync"]
    assert machine.steps == [*written, "rename", "fsync", "unlink", "fsync"]
    machine.steps.clear()
    deleted.restore(machine.read().deleted["/data"], "/data", APP)
    # The same identity again is none.
    assert machine.steps == [*written, "rename", "fsync"]


def test_a_killed_deletion_of_what_was_just_restored(machine: Machine):
    """That it was restored may not be recorded yet, and is not lost."""
    kept(machine)
    deleted.restore(machine.read().deleted["/data"], "/data", APP)
    machine.steps.clear()
    machine.kill = ("before", 4)
    with pytest.raises(Killed):
        deleted.keep(machine.read().images["/data"], PLACED, DAYS_S)
    machine.kill = None
    assert machine.clean_up().restored["/data"].placement == PLACED


@pytest.mark.parametrize("names", [("/data", "/a"), ("/data", "/z")])
def test_a_second_deletion_is_what_is_restored(machine: Machine, names: tuple[str, str]):
    """Also before a hook has removed what is left of the first one, under another name."""
    first, second = names
    deleted.keep(machine.add(first), PLACED, DAYS_S)
    deleted.restore(machine.read().deleted[first], second, APP)
    deleted.keep(machine.read().images[second], PLACED, DAYS_S)
    last = machine.read().deleted[second].deletion
    deleted.restore(machine.read().deleted[second], second, APP)
    assert machine.read().restored[second].deletion == last


@pytest.mark.parametrize("name", [f"/new{number}" for number in range(16)])
def test_a_killed_restoration_leaves_no_identity(machine: Machine, name: str):
    kept(machine)
    names = machine.names()
    machine.steps.clear()
    machine.kill = ("after", 6)
    with pytest.raises(Killed):
        deleted.restore(machine.read().deleted["/data"], name, APP)
    machine.kill = None
    assert f"{share_id(name)}.json" in machine.names()
    machine.clean_up()
    assert machine.names() == names


def test_what_is_left_of_a_deletion_stays_while_its_share_can_not_be_read(machine: Machine):
    kept(machine)
    deleted.restore(machine.read().deleted["/data"], "/data", APP)
    record = machine.read().images["/data"].path.with_suffix(".json")
    whole = record.read_text()
    record.write_text("{")
    assert machine.clean_up().restored == {}
    record.write_text(whole)
    assert machine.clean_up().restored["/data"].placement == PLACED


# For how long


def test_kept_for_its_days(machine: Machine):
    kept(machine)
    machine.running_s += DAYS_S - 1
    assert not machine.read().deleted["/data"].is_past
    machine.running_s += 1
    assert machine.read().deleted["/data"].is_past


def test_another_boot_counts_from_its_first_look(machine: Machine):
    kept(machine)
    machine.running_s += 2 * deleted.DAY_S
    assert machine.read().deleted["/data"].is_count_old
    deleted.count(machine.read().deleted["/data"], APP)
    assert not machine.read().deleted["/data"].is_count_old
    machine.reboot()
    machine.running_s += 100 * deleted.DAY_S  # Of which nothing is known.
    share = machine.read().deleted["/data"]
    assert (share.is_past, share.is_count_old) == (False, True)
    deleted.count(share, APP)
    machine.running_s += 5 * deleted.DAY_S - 1
    assert not machine.read().deleted["/data"].is_past
    machine.running_s += 1
    assert machine.read().deleted["/data"].is_past


def test_time_stands_still_while_the_storage_is_not_attached(machine: Machine):
    """Not even the machine starts anew meanwhile."""
    record = kept(machine).path.with_suffix(".json")
    machine.running_s += 2 * deleted.DAY_S
    deleted.count(machine.read().deleted["/data"], APP)
    machine.running_s += 8 * deleted.DAY_S  # Detached.
    before = record.read_bytes()
    for _ in range(2):  # The hook may be killed, and come again.
        deleted.resume()
        assert not machine.read().deleted["/data"].is_past
    assert record.read_bytes() == before  # The storage may be full.
    machine.running_s += 5 * deleted.DAY_S - 1
    assert not machine.read().deleted["/data"].is_past
    machine.running_s += 1
    assert machine.read().deleted["/data"].is_past


def test_an_hour_is_what_is_counted_without_being_written(machine: Machine):
    kept(machine)
    machine.running_s += deleted.COUNT_EVERY_S - 1
    assert not machine.read().deleted["/data"].is_count_old
    machine.running_s += 1
    assert machine.read().deleted["/data"].is_count_old


def test_a_machine_that_is_suspended_counts_nothing(machine: Machine):
    kept(machine)
    machine.suspended_s += 100 * deleted.DAY_S
    assert not machine.read().deleted["/data"].is_past
    machine.running_s += DAYS_S
    assert machine.read().deleted["/data"].is_past


def test_a_count_from_the_future_counts_nothing(machine: Machine):
    kept(machine)
    machine.running_s -= 500  # A snapshot of the machine, and not of its storage.
    share = machine.read().deleted["/data"]
    assert not share.is_past
    deleted.count(share, APP)
    machine.running_s += DAYS_S - 1
    assert not machine.read().deleted["/data"].is_past


STEPS = st.one_of(
    st.tuples(st.just("passes"), st.integers(1, 4 * deleted.DAY_S)),
    st.tuples(st.just("hook"), st.just(0)),
    st.tuples(st.just("detached"), st.integers(1, 9 * deleted.DAY_S)),
    st.tuples(st.just("reboot"), st.integers(0, 9 * deleted.DAY_S)),
    st.tuples(st.just("killed"), st.integers(1, 8)),
    st.tuples(st.just("restore"), st.just(0)),
    st.tuples(st.just("keep"), st.integers(1, 9)),
)


@settings(max_examples=60)
@given(st.lists(STEPS, max_size=14))
def test_never_past_before_its_day(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, int]]
):
    """By the seconds that really passed since the deletion; and its data is always there."""
    with pytest.MonkeyPatch.context() as patch:
        machine = new_machine(tmp_path_factory.mktemp("machine"), patch)
        image = machine.add()
        before, passed_s, keep_s = digest(image.path), 0, 0
        for what, number in history:
            found = machine.read()
            share = found.deleted.get("/data")
            machine.steps.clear()
            match what:
                case "passes":
                    machine.running_s += number
                    passed_s += number
                case "hook":
                    hook(machine)
                case "detached":
                    machine.running_s += number
                    deleted.resume()
                case "killed":
                    machine.kill = "after", number
                    with contextlib.suppress(Killed):
                        hook(machine)
                    machine.kill = None
                case "reboot":
                    machine.reboot()
                    machine.running_s += number
                    passed_s += number
                case "restore" if share:
                    deleted.restore(share, "/data", APP)
                case "keep" if not share:
                    passed_s, keep_s = 0, number * deleted.DAY_S
                    deleted.keep(found.images["/data"], PLACED, keep_s)
                case _:
                    pass
            found = machine.read()
            (there,) = found.all_images
            assert digest(there.path) == before
            if share := found.deleted.get("/data"):
                assert not share.is_past or passed_s >= keep_s


def hook(machine: Machine) -> None:
    """Do what an event does, but for the end."""
    share = machine.clean_up().deleted.get("/data")
    if share and share.is_count_old:
        deleted.count(share, APP)


# What isn't ours, or isn't whole


def test_another_applications_is_foreign(machine: Machine):
    image = kept(machine)
    found = machine.read("c0ffee/other")
    assert (found.deleted, found.foreign) == ({}, (image.path,))
    deleted.remove_unfinished(machine.storage, "c0ffee/other")
    assert machine.read().deleted["/data"].image == image


def test_an_image_that_was_moved_away_comes_back_with_its_record(machine: Machine):
    image = kept(machine)
    elsewhere = machine.boot_id.with_name("elsewhere")
    image.path.rename(elsewhere)
    assert machine.clean_up().deleted == {}
    elsewhere.rename(image.path)
    assert machine.clean_up().deleted["/data"].image == image


WITHOUT = [
    pytest.param(lambda plain, key=key: plain["deleted"].pop(key), id=f"no {key}")
    for key in ("name", "share", "keep_s", "counted_s", "boot", "seen_s")
]


def to(key: str, value: object) -> object:
    return pytest.param(lambda plain: plain["deleted"].update({key: value}), id=f"{key} {value}")


@pytest.mark.parametrize(
    "change",
    [
        *WITHOUT,
        to("keep_s", 0),
        to("keep_s", -1),
        to("keep_s", 1e300),
        to("keep_s", 10**30),
        to("keep_s", True),
        to("counted_s", "7"),
        to("counted_s", -5),
        to("seen_s", None),
        to("share", "../x"),
        to("name", ""),
        to("boot", 7),
        pytest.param(lambda plain: plain.pop("deleted"), id="an identity alone"),
        pytest.param(lambda plain: plain.update(deleted=[]), id="a list"),
        pytest.param(lambda plain: plain.update(uuid=str(uuid.uuid4())), id="another uuid"),
        pytest.param(lambda plain: plain.update(name="/other"), id="another name"),
    ],
)
def test_what_can_not_be_read_is_never_past(machine: Machine, change: Callable[[Any], object]):
    image = kept(machine)
    record = image.path.with_suffix(".json")
    plain = json.loads(record.read_text())
    change(plain)
    record.write_text(json.dumps(plain))
    machine.running_s += 2 * DAYS_S
    found = machine.clean_up()
    assert (found.deleted, found.foreign) == ({}, (image.path,))
    assert image.path.exists()


def test_a_placement_that_can_not_be_read_is_none(machine: Machine):
    image = kept(machine)
    record = image.path.with_suffix(".json")
    plain = json.loads(record.read_text())
    plain["deleted"]["placement"] = {"grants": "*(rw)", "size": "all", "application": "web"}
    record.write_text(json.dumps(plain))
    deleted.restore(machine.read().deleted["/data"], "/data", APP)
    assert machine.read().restored["/data"].placement == Placement(application="web")


@pytest.mark.parametrize("kind", ["directory", "link", "fifo", "empty", "alone", "copy"])
def test_what_is_no_image_is_foreign(machine: Machine, kind: str):
    there = kept(machine)
    path = machine.storage / f"{ID}.{uuid.uuid4()}.deleted"
    match kind:
        case "copy":
            path.write_bytes(there.path.read_bytes())
            record = there.path.with_suffix(".json").read_text()
            path.with_suffix(".json").write_text(record)
        case "directory":
            path.mkdir()
        case "link":
            path.symlink_to(there.path)
        case "fifo":
            os.mkfifo(path)
        case "empty":
            path.touch()
        case _:
            path.write_bytes(there.path.read_bytes())
    for name in ("notes.deleted", f"A.{uuid.uuid4()}.deleted", ".deleted"):
        (machine.storage / name).write_text("an operator's")
    names = machine.names()
    found = machine.clean_up()
    assert (list(found.deleted), found.foreign) == (["/data"], (path,))
    assert machine.names() == names


@pytest.mark.parametrize("kind", ["directory", "link", "fifo", "text"])
def test_what_is_no_record_stays(machine: Machine, kind: str):
    path = machine.storage / f"x.{uuid.uuid4()}.json"
    match kind:
        case "directory":
            path.mkdir()
        case "link":
            path.symlink_to("elsewhere")
        case "fifo":
            os.mkfifo(path)
        case _:
            path.write_text("[" * 100_000)
    assert machine.clean_up() == Found()
    assert os.path.lexists(path)


def test_two_of_one_name(machine: Machine):
    """Only by hand: what stands beside an image says one thing of one name."""
    for _ in range(2):
        deleted.keep(machine.add(), PLACED, DAYS_S)
    found = machine.read()
    one, other = sorted(machine.storage.glob("*.deleted"))
    assert (found.deleted["/data"].image.path, found.foreign) == (one, (other,))


def images_of_older_revisions(storage: Path) -> Iterator[Path]:
    """Every name that a revision before this one took for its own, or removed."""
    for pattern in ("*.img", "*.img.*.tmp", "*.img.*"):
        yield from storage.glob(pattern)


def test_older_revisions_know_nothing_of_it(machine: Machine):
    kept(machine)
    assert [*images_of_older_revisions(machine.storage)] == []
    assert images.read(machine.storage, APP) == Found()

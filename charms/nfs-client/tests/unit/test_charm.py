# SPDX-License-Identifier: Apache-2.0

import dataclasses
import errno
import inspect
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import ops
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ops import testing

import conftest
import kernel
import mounts
import obstacles
import probe
import records
import trouble
from charm import NfsClientCharm
from charms.storage_libs.v0.nfs_interfaces import Endpoint
from nfs_charms import machine, packages
from obstacles import BadWay
from plan import OwnedMount, WantedMount
from probe import Usage
from trouble import Noted, Trouble

UNIT = "nfs-client/0"
WAITING = testing.WaitingStatus(
    "Waiting for nfs-server to grant the share: if it takes long, see `juju status nfs-server`"
)
TIME = "2026-11-22 19:40 UTC"
FLAGS = ("rw", "nosuid", "nodev", "exec")


@dataclass
class FakeMounts:
    """The machine's mounts, in memory; what `mounts` does to them."""

    owned: dict[str, OwnedMount] = field(default_factory=dict[str, OwnedMount])
    mounted: dict[str, tuple[Endpoint, tuple[str, ...]]] = field(
        default_factory=dict[str, tuple[Endpoint, tuple[str, ...]]]
    )
    busy: set[str] = field(default_factory=set[str])
    obstacles: dict[str, str] = field(default_factory=dict[str, str])
    unsafe: dict[str, str] = field(default_factory=dict[str, str])
    """Why others can change the way to a mount point."""
    is_server_up: bool = True
    is_mount_refused: bool = False
    is_systemd_broken: bool = False
    is_stale: bool = False
    noted: dict[str, Noted] = field(default_factory=dict[str, Noted])
    has_package: bool = True
    is_mirror_away: bool = False
    container: str = ""
    """Why the kernel refuses mounts."""
    install_attempts: int = 0
    changes: int = 0
    most_owned: int = 0

    def is_installed(self) -> bool:
        return self.has_package

    def install(self, package: str) -> str:
        assert not self.container
        assert package == "nfs-common"
        self.install_attempts += 1
        if self.is_mirror_away:
            raise packages.PackagesError(f"{package} could not be installed: no candidate")
        self.has_package = True
        return "1:2.6.1"

    def find_refusal(self) -> str:
        return self.container

    def read(self, mountpoint: str) -> Noted | None:
        return self.noted.get(mountpoint)

    def ask(self, mountpoint: str) -> Usage | Trouble:
        return Usage(4096, 1024, 3072, 10, 1) if self.is_server_up else Trouble.SILENT

    def mounted_at(self, where: str | Path) -> machine.Mounted | None:
        endpoint, flags = self.mounted.get(str(where), (DATA, ()))
        is_there = str(where) in self.mounted
        found = machine.Mounted(str(where), endpoint.source, "nfs4", frozenset(flags), "0:30")
        return found if is_there else None

    def note_trouble(self, owned: OwnedMount) -> None:
        self.noted.pop(owned.mountpoint, None)
        if not self.is_server_up:
            self.noted[owned.mountpoint] = Noted(Trouble.SILENT, 1795376400.0)

    def remount(self, wanted: WantedMount) -> bool:
        if wanted.mountpoint in self.busy and wanted.mountpoint in self.mounted:
            return False
        self.mounted.pop(wanted.mountpoint, None)
        self.noted.pop(wanted.mountpoint, None)
        self.ensure_mounted(wanted)
        return True

    def force_unmount(self, owned: OwnedMount) -> None:
        if self.is_systemd_broken:
            raise mounts.MountsError("the kernel does not unmount it")
        del self.mounted[owned.mountpoint]
        self.noted[owned.mountpoint] = Noted(Trouble.HELD, 1795376400.0)

    def read_owned(self, unit: str) -> tuple[OwnedMount, ...]:
        return tuple(self.owned.values())

    def find_bad_way(self, mountpoint: str) -> BadWay | None:
        cause = self.unsafe.get(mountpoint)
        return BadWay(cause) if cause else None

    def find_obstacle(self, wanted: WantedMount) -> str:
        return (
            "" if wanted.mountpoint in self.mounted else self.obstacles.get(wanted.mountpoint, "")
        )

    def ensure_mounted(self, wanted: WantedMount) -> bool:
        assert wanted.mountpoint not in self.obstacles or wanted.mountpoint in self.mounted
        target = (wanted.endpoint, wanted.flags)
        noted = self.noted.pop(wanted.mountpoint, None)
        if noted and noted.trouble is Trouble.HELD:
            self.noted[wanted.mountpoint] = noted
            return False
        if self.is_stale or not self.is_server_up:
            trouble = Trouble.SILENT if not self.is_server_up else Trouble.STALE
            self.noted[wanted.mountpoint] = Noted(trouble, 1795376400.0)
        self.owned[wanted.mountpoint] = OwnedMount(
            wanted.mountpoint,
            wanted.share,
            wanted.endpoint,
            units=(wanted.unit,),
            is_named=wanted.is_named,
        )
        self.most_owned = max(self.most_owned, len(self.owned))
        if self.mounted.get(wanted.mountpoint) == target:
            return False
        self.changes += 1
        if self.is_server_up and not self.is_mount_refused:
            self.mounted[wanted.mountpoint] = target
        return True

    def is_mounted(self, wanted: WantedMount) -> bool:
        return self.mounted.get(wanted.mountpoint) == (wanted.endpoint, wanted.flags)

    def read_failure(self, wanted: WantedMount) -> str:
        return "mount.nfs: access denied" if self.is_mount_refused else ""

    def find_users(self, mountpoint: str | Path) -> tuple[str, ...]:
        return ("postgres (812)",) if mountpoint in self.busy else ()

    def leave(self, owned: OwnedMount, unit: str) -> bool:
        return self.unmount(owned)

    def unmount(self, owned: OwnedMount) -> bool:
        if owned.mountpoint in self.unsafe and owned.mountpoint in self.mounted:
            return False
        if owned.mountpoint in self.busy and owned.mountpoint in self.mounted:
            return False
        self.changes += 1
        self.mounted.pop(owned.mountpoint, None)
        self.abandon(owned)
        return True

    def is_still_mounted(self, owned: OwnedMount) -> bool:
        return owned.mountpoint in self.mounted

    def abandon(self, owned: OwnedMount) -> None:
        if self.is_systemd_broken:
            raise mounts.MountsError("systemd is broken")
        del self.owned[owned.mountpoint]


MODULES = (kernel, machine, mounts, obstacles, packages, probe, records, trouble)


def owner(name: str) -> ModuleType:
    """The module that a function of the fake stands for."""
    names = {"read": trouble, "install": packages}
    return names.get(name) or next(module for module in MODULES if hasattr(module, name))


def test_fake_has_the_signatures_of_mounts():
    for name, method in inspect.getmembers(FakeMounts, inspect.isfunction):
        if not name.startswith("_"):
            _, *parameters = inspect.signature(method).parameters.values()
            real = inspect.signature(getattr(owner(name), name))
            assert parameters == list(real.parameters.values()), name
            assert inspect.signature(method).return_annotation == real.return_annotation, name


def put_in_place(fake: FakeMounts, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, method in inspect.getmembers(fake, inspect.ismethod):
        if not name.startswith("_"):
            monkeypatch.setattr(owner(name), name, method)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeMounts:
    fake = FakeMounts()
    put_in_place(fake, monkeypatch)
    return fake


@pytest.fixture
def ctx() -> testing.Context[NfsClientCharm]:
    return make_context()


def make_context() -> testing.Context[NfsClientCharm]:
    return testing.Context(NfsClientCharm)


def make_relation(relation_id: int = 1, **answer: str) -> testing.Relation:
    return testing.Relation(
        "nfs-share", id=relation_id, remote_app_name="nfs-server", remote_app_data=answer
    )


def make_state(
    relations: Iterable[testing.RelationBase] = (),
    leader: bool = True,
    **options: str | int | bool,
) -> testing.State:
    config = {"mountpoint": "/data", **{k.replace("_", "-"): v for k, v in options.items()}}
    container = testing.SubordinateRelation("juju-info", id=900)
    return testing.State(
        leader=leader,
        config=config,
        relations={container, *relations},
        model=testing.Model("model"),
    )


GRANTED = make_relation(endpoint="nfs://10.0.0.1/srv/nfs/data")
DATA = Endpoint("10.0.0.1", "/srv/nfs/data")


def asked(state: testing.State, relation_id: int = 1) -> dict[str, str]:
    return dict(state.get_relation(relation_id).local_app_data)


def test_install_and_upgrade(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    for event in ctx.on.install(), ctx.on.upgrade_charm():
        assert ctx.run(event, make_state()).workload_version == "1:2.6.1"


def test_asks(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    relation = make_relation()
    out = ctx.run(ctx.on.relation_created(relation), make_state([relation], size=40))
    assert asked(out) == {"name": "model/nfs-client", "size": "40", "allowlist": "127.0.0.1"}
    assert out.unit_status == WAITING
    assert not fake.owned


def test_asks_again_when_options_change(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    relation = dataclasses.replace(GRANTED, local_app_data={"name": "/data", "size": "-1"})
    state = make_state([relation], size=50, share_name="projects")
    out = ctx.run(ctx.on.config_changed(), state)
    wanted = {"name": "projects", "size": "50", "allowlist": "127.0.0.1"}
    assert asked(out) == {**wanted, "named": "projects"}


def test_asks_for_permissions(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    relation = make_relation()
    options: dict[str, str | bool] = {"owner": "1000:100", "mode": "770", "squash": "root"}
    options["read_only"] = True
    state = make_state([relation], True, **options)
    out = ctx.run(ctx.on.relation_created(relation), state)
    own = {"name": "model/nfs-client", "size": "-1", "allowlist": "127.0.0.1"}
    wanted = {"owner": "1000:100", "mode": "0770", "squash": "root", "access": "ro"}
    assert asked(out) == own | wanted
    # Taken back, they are no keys any more.
    out = ctx.run(ctx.on.config_changed(), make_state([out.get_relation(1)]))
    assert asked(out) == own


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ({}, "nfs-server does not grant owner, read-only"),
        ({"owner": "1000:100"}, "nfs-server does not grant read-only"),
        ({"owner": "1000:100", "access": "ro"}, ""),
    ],
)
def test_what_a_server_does_not_grant_is_said(
    ctx: testing.Context[NfsClientCharm],
    fake: FakeMounts,
    answer: dict[str, str],
    message: str,
):
    """One of an older revision ignores it; and the share is used all the same."""
    relation = make_relation(1, endpoint="nfs://10.0.0.1/srv/nfs/data", **answer)
    state = make_state([relation], owner="1000:100", read_only=True)
    out = ctx.run(ctx.on.relation_changed(relation), state)
    assert out.unit_status == testing.ActiveStatus(message)
    assert "/data" in fake.mounted


def test_only_the_leader_asks(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    relation = make_relation()
    out = ctx.run(ctx.on.config_changed(), make_state([relation], leader=False))
    assert asked(out) == {}
    out = ctx.run(ctx.on.leader_elected(), dataclasses.replace(out, leader=True))
    assert asked(out)["name"] == "model/nfs-client"


@pytest.mark.parametrize("leader", [True, False])
def test_mounts(ctx: testing.Context[NfsClientCharm], fake: FakeMounts, leader: bool):
    out = ctx.run(ctx.on.relation_changed(GRANTED), make_state([GRANTED], leader))
    assert fake.mounted == {"/data": (DATA, FLAGS)}
    assert out.unit_status == testing.ActiveStatus()


def test_waits_until_it_may_mount(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    endpoint = "nfs://10.0.0.1/srv/nfs/data"
    early = dataclasses.replace(
        make_relation(1, endpoint=endpoint, allowlist="10.0.0.7"),
        local_unit_data={"egress-subnets": "10.0.0.8/32"},
    )
    out = ctx.run(ctx.on.relation_changed(early), make_state([early]))
    assert not fake.owned
    assert out.unit_status == WAITING
    admitted = {"endpoint": endpoint, "allowlist": "10.0.0.7,10.0.0.8"}
    relation = dataclasses.replace(early, remote_app_data=admitted)
    ctx.run(ctx.on.relation_changed(relation), make_state([relation]))
    assert list(fake.mounted) == ["/data"]


@pytest.mark.parametrize("event", ["update_status", "start", "config_changed", "upgrade_charm"])
def test_second_run_changes_nothing(
    ctx: testing.Context[NfsClientCharm], fake: FakeMounts, event: str
):
    state = ctx.run(ctx.on.relation_changed(GRANTED), make_state([GRANTED]))
    changes = fake.changes
    out = ctx.run(getattr(ctx.on, event)(), state)
    assert fake.changes == changes
    assert asked(out) == asked(state)
    assert out.unit_status == testing.ActiveStatus()


def test_flags_change(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    ctx.run(ctx.on.relation_changed(GRANTED), make_state([GRANTED]))
    state = make_state([GRANTED], read_only=True, noexec=True, nosuid=False, nodev=False)
    ctx.run(ctx.on.config_changed(), state)
    assert fake.mounted == {"/data": (DATA, ("ro", "suid", "dev", "noexec"))}


def test_server_moves(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    ctx.run(ctx.on.relation_changed(GRANTED), make_state([GRANTED]))
    moved = make_relation(endpoint="nfs://10.0.0.2:2050/srv/nfs/data")
    ctx.run(ctx.on.relation_changed(moved), make_state([moved]))
    assert fake.mounted == {"/data": (Endpoint("10.0.0.2", "/srv/nfs/data", 2050), FLAGS)}


def test_another_share_appears_once_the_server_has_answered(
    ctx: testing.Context[NfsClientCharm], fake: FakeMounts
):
    ctx.run(ctx.on.relation_changed(GRANTED), make_state([GRANTED]))
    state = make_state([GRANTED], mountpoint="/other", share_name="other")
    out = ctx.run(ctx.on.config_changed(), state)
    assert asked(out)["name"] == "other"
    assert list(fake.mounted) == ["/data"]
    assert out.unit_status == WAITING
    answered = make_relation(endpoint="nfs://10.0.0.1/srv/nfs/other")
    state = make_state([answered], mountpoint="/other", share_name="other")
    out = ctx.run(ctx.on.relation_changed(answered), state)
    assert list(fake.mounted) == ["/other"]
    assert out.unit_status == testing.ActiveStatus()


@pytest.mark.parametrize("leader", [True, False])
@pytest.mark.parametrize("name", ["x", ""])
def test_share_moves_to_another_mountpoint(
    ctx: testing.Context[NfsClientCharm], fake: FakeMounts, name: str, leader: bool
):
    ctx.run(ctx.on.relation_changed(GRANTED), make_state([GRANTED], leader, share_name=name))
    state = make_state([GRANTED], leader, share_name=name, mountpoint="/other")
    ctx.run(ctx.on.config_changed(), state)
    assert fake.mounted == {"/other": (DATA, FLAGS)}


def names_asked(share_name: str = "") -> set[str]:
    """The names that two applications of one model ask for with the same options."""
    names: set[str] = set()
    for application in "nfs-client", "projects":
        ctx = testing.Context(NfsClientCharm, app_name=application)
        relation = make_relation()
        out = ctx.run(ctx.on.config_changed(), make_state([relation], share_name=share_name))
        names.add(asked(out)["name"])
    return names


@pytest.mark.usefixtures("fake")
def test_two_applications_do_not_meet():
    assert names_asked() == {"model/nfs-client", "model/projects"}


@pytest.mark.usefixtures("fake")
def test_two_applications_share_what_both_name():
    assert names_asked(share_name="/data") == {"/data"}


@dataclass
class Refreshed:
    """An application of an earlier revision, whose share is named after its mount point."""

    ctx: testing.Context[NfsClientCharm]
    fake: FakeMounts
    leader: bool
    status: object = None

    def run(self, event: str, leader: bool | None = None, **options: str | int | bool) -> str:
        """Let an event come; the name that is asked for then. Nothing is mounted anew."""
        relation = dataclasses.replace(GRANTED, local_app_data={"name": "/data", "size": "-1"})
        state = make_state([relation], self.leader if leader is None else leader, **options)
        out = self.ctx.run(getattr(self.ctx.on, event)(), state)
        assert {endpoint for endpoint, _ in self.fake.mounted.values()} == {DATA}
        self.status = out.unit_status
        return asked(out)["name"]


@pytest.fixture(params=[True, False])
def refreshed(
    ctx: testing.Context[NfsClientCharm], fake: FakeMounts, request: pytest.FixtureRequest
) -> Refreshed:
    fake.owned["/data"] = OwnedMount("/data", "/data", DATA, units=(UNIT,))
    fake.mounted["/data"] = (DATA, FLAGS)
    return Refreshed(ctx, fake, request.param)


def test_refreshed_it_keeps_its_share(refreshed: Refreshed):
    for event in "upgrade_charm", "config_changed", "update_status":
        assert refreshed.run(event) == "/data"
        assert refreshed.status == testing.ActiveStatus()
    assert refreshed.fake.changes == 0
    for _ in range(2):  # Elsewhere too.
        assert refreshed.run("config_changed", mountpoint="/other") == "/data"
        assert list(refreshed.fake.mounted) == ["/other"]
        assert refreshed.fake.owned["/other"].share == "/data"
    assert refreshed.run("leader_elected", leader=True, mountpoint="/other") == "/data"
    assert refreshed.status == testing.ActiveStatus()


def test_refreshed_it_has_its_share_until_it_is_given_a_name(refreshed: Refreshed):
    refreshed.run("upgrade_charm")
    name = refreshed.run("config_changed", share_name="projects")
    assert name == ("projects" if refreshed.leader else "/data")
    assert refreshed.status == WAITING


def test_refreshed_its_name_can_be_given_too(refreshed: Refreshed):
    assert refreshed.run("upgrade_charm") == "/data"
    assert refreshed.run("config_changed", share_name="/data") == "/data"
    assert refreshed.status == testing.ActiveStatus()


def test_a_unit_that_was_added_after_the_refresh_mounts_and_may_lead(refreshed: Refreshed):
    refreshed.fake.owned.clear()
    refreshed.fake.mounted = {"/old": (DATA, FLAGS)}
    for leader in False, True:
        assert refreshed.run("update_status", leader=leader) == "/data"
        assert refreshed.status == testing.ActiveStatus()
    assert refreshed.fake.owned["/data"].share == "/data"


@pytest.mark.parametrize("name", ["projects", "/projects"])
def test_a_name_taken_back_leaves_the_share(
    ctx: testing.Context[NfsClientCharm], fake: FakeMounts, name: str
):
    relation = dataclasses.replace(GRANTED, local_app_data={"name": name, "size": "-1"})
    ctx.run(ctx.on.relation_changed(relation), make_state([relation], share_name=name))
    out = ctx.run(ctx.on.config_changed(), make_state([relation]))
    assert asked(out)["name"] == "model/nfs-client"
    assert out.unit_status == WAITING


def test_a_name_taken_back_where_nothing_is_mounted(
    ctx: testing.Context[NfsClientCharm], fake: FakeMounts
):
    """As where the unit is not admitted yet: the server still says the name of before."""
    endpoint = "nfs://10.0.0.1/srv/nfs/projects"
    answered = make_relation(endpoint=endpoint, answers=f"{endpoint} /projects")
    said = {"name": "/projects", "named": "/projects", "size": "-1"}
    relation = dataclasses.replace(answered, local_app_data=said)
    for _ in range(2):
        out = ctx.run(ctx.on.config_changed(), make_state([relation]))
        relation = out.get_relation(1)
        assert asked(out)["name"] == "model/nfs-client"
        assert isinstance(relation, testing.Relation)
    assert fake.owned == {}


@pytest.mark.parametrize("name", ["projects", "/projects"])
def test_a_name_taken_back_before_anything_is_mounted(
    ctx: testing.Context[NfsClientCharm], fake: FakeMounts, name: str
):
    refused = make_relation(error=f"share {name}: 40G requested, 12G free")
    out = ctx.run(ctx.on.config_changed(), make_state([refused], share_name=name))
    assert asked(out)["name"] == name
    for _ in range(2):
        out = ctx.run(ctx.on.config_changed(), make_state([out.get_relation(1)]))
        own = {"name": "model/nfs-client", "size": "-1", "allowlist": "127.0.0.1"}
        assert asked(out) == own


@pytest.mark.parametrize("name", ["projects", "/projects"])
def test_refreshed_it_keeps_its_share_when_a_refused_name_is_taken_back(
    ctx: testing.Context[NfsClientCharm], fake: FakeMounts, name: str
):
    fake.owned["/data"] = OwnedMount("/data", "/data", DATA, units=(UNIT,))
    fake.mounted["/data"] = (DATA, FLAGS)
    relation = dataclasses.replace(GRANTED, local_app_data={"name": "/data", "size": "-1"})
    out = ctx.run(ctx.on.config_changed(), make_state([relation], share_name=name))
    assert asked(out)["name"] == name
    for _ in range(2):
        out = ctx.run(ctx.on.config_changed(), make_state([out.get_relation(1)]))
        assert asked(out)["name"] == "/data"
        assert out.unit_status == testing.ActiveStatus()
    assert fake.changes == 0


def test_a_mark_of_a_former_name_says_nothing_of_another(
    ctx: testing.Context[NfsClientCharm], fake: FakeMounts
):
    """As an older revision, put in place of this one for a while, leaves it."""
    said = {"name": "/data", "size": "-1", "named": "projects"}
    relation = dataclasses.replace(GRANTED, local_app_data=said)
    out = ctx.run(ctx.on.upgrade_charm(), make_state([relation]))
    assert asked(out)["name"] == "/data"


def test_busy_mount_stays_until_it_is_free(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    ctx.run(ctx.on.relation_changed(GRANTED), make_state([GRANTED], share_name="x"))
    fake.busy.add("/data")
    state = make_state([GRANTED], share_name="x", mountpoint="/other")
    out = ctx.run(ctx.on.config_changed(), state)
    assert list(fake.mounted) == ["/data"]
    assert out.unit_status == testing.WaitingStatus(
        "/data is to be unmounted, in use by postgres (812)"
    )
    fake.busy.clear()
    out = ctx.run(ctx.on.update_status(), state)
    assert list(fake.mounted) == ["/other"]
    assert out.unit_status == testing.ActiveStatus()


def test_bad_option_leaves_the_mount(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    ctx.run(ctx.on.relation_changed(GRANTED), make_state([GRANTED]))
    out = ctx.run(ctx.on.config_changed(), make_state([GRANTED], mountpoint="/etc", size=0))
    assert list(fake.mounted) == ["/data"]
    assert asked(out) == {}
    assert out.unit_status == testing.BlockedStatus(
        "mountpoint '/etc': /etc belongs to the system, use another, such as /data;"
        " size '0': use whole gigabytes from 1, or -1 for no limit"
    )


def test_mountpoint_unset(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    ctx.run(ctx.on.relation_changed(GRANTED), make_state([GRANTED]))
    out = ctx.run(ctx.on.config_changed(), make_state([GRANTED], mountpoint=""))
    assert not fake.owned
    assert out.unit_status == testing.BlockedStatus(
        "mountpoint: not set, say where to mount the share, such as /data"
    )


def test_installing_says_so(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    installing = testing.MaintenanceStatus("Installing nfs-common")
    ctx.run(ctx.on.upgrade_charm(), make_state())
    assert installing not in ctx.unit_status_history
    fake.has_package = False
    ctx.run(ctx.on.install(), make_state())
    assert installing in ctx.unit_status_history


@pytest.mark.parametrize("relations", [[], [GRANTED]])
def test_a_package_that_can_not_be_had_is_tried_at_each_event(
    ctx: testing.Context[NfsClientCharm], fake: FakeMounts, relations: list[testing.Relation]
):
    fake.has_package, fake.is_mirror_away = False, True
    for event in ctx.on.install(), ctx.on.start(), ctx.on.upgrade_charm(), ctx.on.update_status():
        fake.install_attempts = 0
        out = ctx.run(event, make_state(relations))
        assert out.unit_status == testing.BlockedStatus(
            "nfs-common can't be installed, trying again: see juju debug-log"
        )
        assert fake.install_attempts == 1
        said = [log.message for log in ctx.juju_log if log.level == "ERROR"]
        assert "nfs-common could not be installed: no candidate" in said
        if relations and event.name != "install":  # Other units may be able to mount it.
            assert asked(out)["size"]
    fake.is_mirror_away = False
    out = ctx.run(ctx.on.config_changed(), make_state([GRANTED]))
    assert out.unit_status == testing.ActiveStatus()
    assert out.workload_version == "1:2.6.1"


def test_mount_stays_where_others_can_change_the_way(
    ctx: testing.Context[NfsClientCharm], fake: FakeMounts
):
    ctx.run(ctx.on.relation_changed(GRANTED), make_state([GRANTED], share_name="x"))
    fake.unsafe["/data"] = "/data: bob (uid 1000) can change /"
    fake.busy.add("/data")
    state = make_state([GRANTED], share_name="x", mountpoint="/other")
    out = ctx.run(ctx.on.config_changed(), state)
    assert list(fake.mounted) == ["/data"]
    says = "/data: bob (uid 1000) can change /: run `umount /data`"
    assert out.unit_status == testing.BlockedStatus(says)
    fake.busy.clear()
    out = ctx.run(ctx.on.stop(), state)
    assert list(fake.mounted) == ["/data"]
    assert not fake.owned
    assert out.unit_status == testing.MaintenanceStatus(f"Leaving: {says}")
    assert says in [log.message for log in ctx.juju_log if log.level == "WARNING"]


@pytest.mark.parametrize("is_made", [True, False])
def test_how_a_directory_that_the_charm_made_is_got_rid_of(
    ctx: testing.Context[NfsClientCharm], real: conftest.FakeMachine, is_made: bool
):
    place = real.root / "data"
    if not is_made:
        place.mkdir()
    move(ctx, real, "data")
    real.owners[str(real.root)] = 65534
    run = f"umount {place} && chattr -i {place}" if is_made else f"umount {place}"
    says = f"{place}: nobody (uid 65534) can change {real.root}: run `{run}`"
    out = ctx.run(ctx.on.config_changed(), make_state([GRANTED], mountpoint=""))
    assert says in out.unit_status.message
    out = ctx.run(ctx.on.stop(), make_state([GRANTED], mountpoint=""))
    assert out.unit_status == testing.MaintenanceStatus(f"Leaving: {says}")
    assert real.unit_files == []
    assert (str(place) in real.immutable) is is_made


def test_obstacle_leaves_everything_as_it_is(
    ctx: testing.Context[NfsClientCharm], fake: FakeMounts
):
    ctx.run(ctx.on.relation_changed(GRANTED), make_state([GRANTED], share_name="x"))
    fake.obstacles["/other"] = "/other: the directory is not empty"
    state = make_state([GRANTED], share_name="x", mountpoint="/other")
    out = ctx.run(ctx.on.config_changed(), state)
    assert list(fake.mounted) == ["/data"]
    assert out.unit_status == testing.BlockedStatus("/other: the directory is not empty")


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> conftest.FakeMachine:
    """Give the charm its real modules, on a machine in memory."""
    found = conftest.FakeMachine(tmp_path)
    conftest.put_in_place(found, monkeypatch)
    monkeypatch.setattr(mounts, "MOUNT_NFS", found.units)
    monkeypatch.setattr(packages, "install", lambda _: "1:2.6.1")
    return found


def move(ctx: testing.Context[NfsClientCharm], real: conftest.FakeMachine, place: str) -> object:
    """Have the share mounted somewhere else; the status then."""
    state = make_state([GRANTED], mountpoint=f"{real.root}/{place}")
    return ctx.run(ctx.on.config_changed(), state).unit_status


ABOVE_AND_BELOW = pytest.mark.parametrize(
    ("old", "new"), [("data", "data/sub"), ("data/sub", "data"), ("data/a/b", "data")]
)


@ABOVE_AND_BELOW
@pytest.mark.parametrize("is_there", [True, False])
def test_share_moves_above_or_below_its_old_place(
    ctx: testing.Context[NfsClientCharm],
    real: conftest.FakeMachine,
    old: str,
    new: str,
    is_there: bool,
):
    if is_there:
        (real.root / "data").mkdir()
    assert move(ctx, real, old) == testing.ActiveStatus()
    real.busy.add(f"{real.root}/{old}")
    says = f"{real.root}/{old} is to be unmounted, in use by a process"
    assert move(ctx, real, new) == testing.WaitingStatus(says)
    assert list(real.active) == [f"{real.root}/{old}"]
    real.busy.clear()
    assert move(ctx, real, new) == testing.ActiveStatus()
    assert list(real.active) == [f"{real.root}/{new}"]
    assert [owned.mountpoint for owned in records.read_owned(UNIT)] == list(real.active)


@ABOVE_AND_BELOW
def test_what_is_not_mounted_yet_is_not_in_its_own_way(
    ctx: testing.Context[NfsClientCharm], real: conftest.FakeMachine, old: str, new: str
):
    real.server_answers = False
    move(ctx, real, old)
    real.server_answers = True
    assert move(ctx, real, new) == testing.ActiveStatus()


def test_what_the_old_place_hid_is_in_the_way(
    ctx: testing.Context[NfsClientCharm], real: conftest.FakeMachine
):
    (real.root / "data").mkdir()
    move(ctx, real, "data")
    (real.root / "data/sub").mkdir()
    (real.root / "data/sub/file").touch()
    status = move(ctx, real, "data/sub")
    assert isinstance(status, testing.BlockedStatus)
    assert "the directory is not empty" in status.message
    assert (real.active, records.read_owned(UNIT)) == ({}, ())


def test_relation_broken(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    ctx.run(ctx.on.relation_changed(GRANTED), make_state([GRANTED]))
    out = ctx.run(ctx.on.relation_broken(GRANTED), make_state([GRANTED]))
    assert not fake.owned
    assert isinstance(out.unit_status, testing.BlockedStatus)
    assert out.unit_status.message.startswith(
        "Missing relation: run `juju integrate nfs-client:nfs-share nfs-server`"
    )


def test_one_server_unit_departs(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    ctx.run(ctx.on.relation_changed(GRANTED), make_state([GRANTED]))
    ctx.run(ctx.on.relation_departed(GRANTED, remote_unit=1), make_state([GRANTED]))
    assert list(fake.mounted) == ["/data"]


def test_endpoint_withdrawn(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    ctx.run(ctx.on.relation_changed(GRANTED), make_state([GRANTED]))
    refused = make_relation(error="share /data is lost")
    out = ctx.run(ctx.on.relation_changed(refused), make_state([refused]))
    assert not fake.owned
    assert out.unit_status == testing.BlockedStatus("nfs-server: share /data is lost")


def test_change_refused_leaves_the_grant(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    relation = make_relation(
        endpoint="nfs://10.0.0.1/srv/nfs/data", error="share /data: 40G asked, 12G free"
    )
    out = ctx.run(ctx.on.relation_changed(relation), make_state([relation], size=40))
    assert list(fake.mounted) == ["/data"]
    assert out.unit_status == testing.BlockedStatus("nfs-server: share /data: 40G asked, 12G free")


@pytest.mark.parametrize(
    ("endpoint", "problem"),
    [
        (
            "nfs://10.0.0.1",
            "endpoint 'nfs://10.0.0.1': not of the form nfs://host[:port]/path",
        ),
        (
            "http://10.0.0.1/x",
            "endpoint 'http://10.0.0.1/x': not of the form nfs://host[:port]/path",
        ),
        (
            "nfs://10.0.0.1/x -o suid",
            "endpoint path '/x -o suid': not a plain absolute path",
        ),
        ("nfs://10.0.0.1/x,suid", "endpoint path '/x,suid': not a plain absolute path"),
        ("nfs://10.0.0.1/../etc", "endpoint path '/../etc': not a plain absolute path"),
    ],
)
def test_bad_endpoint(
    ctx: testing.Context[NfsClientCharm], fake: FakeMounts, endpoint: str, problem: str
):
    relation = make_relation(endpoint=endpoint)
    out = ctx.run(ctx.on.relation_changed(relation), make_state([relation]))
    assert not fake.owned
    assert out.unit_status == testing.BlockedStatus(f"nfs-server: {problem}")


def test_server_unreachable(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    fake.is_server_up = False
    out = ctx.run(ctx.on.relation_changed(GRANTED), make_state([GRANTED]))
    assert out.unit_status == testing.WaitingStatus(
        f"nfs-server is unreachable since {TIME}: no answer from 10.0.0.1 on TCP port 2049"
    )
    fake.is_server_up = True
    assert ctx.run(ctx.on.update_status(), out).unit_status == testing.ActiveStatus()


def test_mount_fails(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    fake.is_mount_refused = True
    out = ctx.run(ctx.on.relation_changed(GRANTED), make_state([GRANTED]))
    assert out.unit_status == testing.WaitingStatus(
        "Mounting nfs://10.0.0.1/srv/nfs/data on /data failed, trying again:"
        " mount.nfs: access denied"
    )


def test_two_servers_for_a_moment(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    other = make_relation(2, endpoint="nfs://10.0.0.9/srv/nfs/data")
    state = make_state([GRANTED, other])
    ctx.run(ctx.on.relation_changed(other), state)
    assert fake.mounted == {"/data": (DATA, FLAGS)}
    ctx.run(ctx.on.relation_broken(GRANTED), state)
    assert fake.mounted == {"/data": (Endpoint("10.0.0.9", "/srv/nfs/data"), FLAGS)}


NOBODY = dataclasses.replace(GRANTED, remote_units_data={})


@pytest.mark.parametrize("event", ["departed", "update_status", "config_changed", "start"])
@pytest.mark.parametrize("is_stale", [True, False])
def test_nothing_is_mounted_from_a_server_that_goes(
    ctx: testing.Context[NfsClientCharm], fake: FakeMounts, event: str, is_stale: bool
):
    events = {"departed": ctx.on.relation_departed(NOBODY, remote_unit=0, departing_unit=0)}
    ctx.run(events.get(event) or getattr(ctx.on, event)(), make_state([NOBODY]))
    assert not fake.owned
    ctx.run(ctx.on.relation_changed(GRANTED), make_state([GRANTED]))
    fake.is_stale = is_stale
    changes, noted = fake.changes, dict(fake.noted)
    ctx.run(events.get(event) or getattr(ctx.on, event)(), make_state([NOBODY]))
    assert list(fake.mounted) == ["/data"]
    assert (fake.changes, fake.noted) == (changes, noted)


def test_a_server_that_goes_and_does_not_answer_is_told(
    ctx: testing.Context[NfsClientCharm], fake: FakeMounts
):
    """As its only unit, removed by force: nobody is left who would say anything else."""
    state = ctx.run(ctx.on.relation_changed(GRANTED), make_state([GRANTED]))
    fake.is_server_up = False
    state = dataclasses.replace(state, relations={*make_state([NOBODY]).relations})
    out = ctx.run(ctx.on.update_status(), state)
    said = f"nfs-server has not answered since {TIME}: what uses /data waits"
    assert out.unit_status == testing.WaitingStatus(said)
    fake.is_server_up = True
    assert ctx.run(ctx.on.update_status(), out).unit_status == WAITING


def test_what_could_not_be_done_stays_said(
    ctx: testing.Context[NfsClientCharm], real: conftest.FakeMachine
):
    """By those who only look, too: whether it can be done now they don't know."""
    real.fail = "enable"
    state = make_state([GRANTED], mountpoint=f"{real.root}/data")
    before = ctx.run(ctx.on.config_changed(), state)
    assert "can't set up the mount unit" in before.unit_status.message
    relation = before.get_relation(1)
    departed = ctx.on.relation_departed(relation, remote_unit=1, departing_unit=1)
    for event in ctx.on.action("show-mount"), departed:
        assert ctx.run(event, before).unit_status == before.unit_status


def test_a_departure_mounts_nothing(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    departed = ctx.on.relation_departed(GRANTED, remote_unit=0, departing_unit=0)
    ctx.run(departed, make_state([GRANTED]))
    assert not fake.owned


@pytest.fixture
def we_depart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let relation-departed tell that it is our own unit: JUJU_DEPARTING_UNIT."""
    own = property(lambda event: event.framework.model.unit)
    monkeypatch.setattr(ops.RelationDepartedEvent, "departing_unit", own)


@pytest.mark.usefixtures("we_depart")
def test_a_unit_that_leaves_unmounts_and_says_so(
    ctx: testing.Context[NfsClientCharm], fake: FakeMounts
):
    two = dataclasses.replace(GRANTED, remote_units_data={0: {}, 1: {}})
    state = ctx.run(ctx.on.relation_changed(two), make_state([two]))
    left = testing.MaintenanceStatus("Leaving: this unit has nothing mounted any more")
    for event in "departed", "departed", "broken":
        relation = state.get_relation(1)
        state = ctx.run(getattr(ctx.on, f"relation_{event}")(relation), state)
        assert not fake.owned
        assert state.unit_status == left
    state = dataclasses.replace(state, unit_status=testing.MaintenanceStatus("stopping"))
    state = ctx.run(ctx.on.stop(), state)
    assert state.unit_status == left
    assert ctx.run(ctx.on.remove(), state).unit_status == left


@pytest.mark.usefixtures("we_depart")
def test_what_is_in_use_when_a_unit_leaves_stays_and_is_named(
    ctx: testing.Context[NfsClientCharm], fake: FakeMounts
):
    state = ctx.run(ctx.on.relation_changed(GRANTED), make_state([GRANTED]))
    fake.busy.add("/data")
    for event in "departed", "broken":
        relation = state.get_relation(1)
        state = ctx.run(getattr(ctx.on, f"relation_{event}")(relation), state)
        assert list(fake.mounted) == ["/data"]
        assert state.unit_status == testing.MaintenanceStatus(
            "Leaving: /data is to be unmounted, in use by postgres (812)"
        )
    state = ctx.run(ctx.on.stop(), state)
    assert list(fake.mounted) == ["/data"]
    assert state.unit_status == testing.MaintenanceStatus(
        "Leaving: /data is in use and stays mounted; when it is free, run: umount /data"
    )
    # Nothing is known of it any more, and the last word is true.
    assert ctx.run(ctx.on.remove(), state).unit_status == state.unit_status


def test_what_a_skipped_stop_left_is_undone_and_named_by_remove(
    ctx: testing.Context[NfsClientCharm], fake: FakeMounts
):
    for busy, says in (
        ((), "this unit has nothing mounted any more"),
        (("/data",), "/data is in use and stays mounted; when it is free, run: umount /data"),
    ):
        state = ctx.run(ctx.on.relation_changed(GRANTED), make_state([GRANTED]))
        fake.busy = {*busy}
        out = ctx.run(ctx.on.remove(), state)
        assert not fake.owned
        assert out.unit_status == testing.MaintenanceStatus(f"Leaving: {says}")


def test_what_can_not_be_undone_holds_up_no_hook(
    ctx: testing.Context[NfsClientCharm], fake: FakeMounts
):
    state = ctx.run(ctx.on.relation_changed(GRANTED), make_state([GRANTED]))
    fake.is_systemd_broken = True
    out = ctx.run(ctx.on.relation_broken(state.get_relation(1)), state)
    assert isinstance(out.unit_status, testing.BlockedStatus)
    assert out.unit_status.message.endswith("; systemd is broken")
    assert "systemd is broken" in [log.message for log in ctx.juju_log]
    out = ctx.run(ctx.on.stop(), out)
    assert out.unit_status == testing.MaintenanceStatus("Leaving: systemd is broken")


def test_nothing_is_installed_to_leave(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    fake.has_package = False
    ctx.run(ctx.on.relation_broken(GRANTED), make_state([GRANTED]))
    assert not fake.has_package


def test_what_the_machine_does_not_take_holds_up_no_hook(
    ctx: testing.Context[NfsClientCharm], real: conftest.FakeMachine
):
    real.fail = "enable"
    for _ in range(2):
        status = move(ctx, real, "data")
        assert isinstance(status, testing.BlockedStatus)
        assert "/data: can't set up the mount unit: " in status.message
    problem = failure_of(ctx, "remount", make_state([GRANTED], mountpoint=f"{real.root}/data"))
    assert "/data: can't set up the mount unit: " in problem
    real.fail = ""
    assert move(ctx, real, "data") == testing.ActiveStatus()


def test_two_units_of_an_application_on_one_machine(real: conftest.FakeMachine):
    """It is integrated with two principals there: one mount, which the last one undoes."""
    one, two = (testing.Context(NfsClientCharm, unit_id=number) for number in (0, 1))
    both = list[tuple[testing.Context[NfsClientCharm], str]]
    for way in both([(one, "data"), (two, "data")]), both([(two, "moved"), (one, "moved")]):
        for ctx, name in way:
            assert move(ctx, real, name) == testing.ActiveStatus()
            assert list(real.active) == [f"{real.root}/{name}"]
    moved = make_state([GRANTED], mountpoint=f"{real.root}/moved")
    two.run(two.on.stop(), moved)
    one.run(one.on.update_status(), moved)
    assert list(real.active) == [f"{real.root}/moved"]
    two.run(two.on.update_status(), moved)
    real.busy.add(f"{real.root}/moved")
    for ctx in one, two:
        out = ctx.run(ctx.on.relation_broken(GRANTED), moved)
        is_last = ctx is two
        assert ("in use by" in out.unit_status.message) is is_last
        assert results_of(ctx, "show-mount", moved)["mountpoint"] == f"{real.root}/moved"
    real.busy.clear()
    one.run(one.on.update_status(), make_state())
    assert real.active
    two.run(two.on.update_status(), make_state())
    assert not real.active
    assert real.unit_files == []


def test_who_leaves_one_mount_of_two_takes_nothing_from_the_other(
    real: conftest.FakeMachine, monkeypatch: pytest.MonkeyPatch
):
    """Nor where it can't note that it left; and who was removed by force is not waited for."""

    def full(*_: object, **__: object) -> bool:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    one, two = (testing.Context(NfsClientCharm, unit_id=number) for number in (0, 1))
    for ctx in one, two:
        move(ctx, real, "data")
    state, files = make_state([GRANTED], mountpoint=f"{real.root}/data"), real.unit_files
    real.busy.add(f"{real.root}/data")
    with monkeypatch.context() as patch:
        patch.setattr(machine, "write_atomically", full)
        assert "No space left" in one.run(one.on.stop(), state).unit_status.message
    assert (real.unit_files, list(real.active)) == (files, [f"{real.root}/data"])
    (records.AGENTS / "unit-nfs-client-0").rmdir()
    two.run(two.on.stop(), state)
    assert real.unit_files == []


def test_where_the_mount_goes_its_units_go(real: conftest.FakeMachine):
    one, two = (testing.Context(NfsClientCharm, unit_id=number) for number in (0, 1))
    for ctx, place in (one, "data"), (two, "data"), (two, "moved"):
        move(ctx, real, place)
    moved = make_state([GRANTED], mountpoint=f"{real.root}/moved")
    two.run(two.on.stop(), moved)
    assert list(real.active) == [f"{real.root}/moved"]
    one.run(one.on.stop(), moved)
    assert not real.active


def test_a_unit_that_lags_behind_takes_no_server_back(real: conftest.FakeMachine):
    """The other one on the machine has the new server's share mounted already."""
    one, two = (testing.Context(NfsClientCharm, unit_id=number) for number in (0, 1))
    new = make_relation(2, endpoint="nfs://10.0.0.2/srv/nfs/data")
    place = f"{real.root}/data"
    one.run(one.on.relation_changed(new), make_state([new], mountpoint=place))
    out = two.run(two.on.relation_created(new), make_state([GRANTED, new], mountpoint=place))
    assert out.unit_status == testing.ActiveStatus()
    assert "10.0.0.2" in real.active[place]


def test_a_mount_of_an_earlier_revision_is_unmounted_in_order_at_shutdown(
    ctx: testing.Context[NfsClientCharm], real: conftest.FakeMachine
):
    move(ctx, real, "data")
    state = make_state([GRANTED], mountpoint=f"{real.root}/data")
    (unit,) = real.running
    real.running.clear()
    ctx.run(ctx.on.update_status(), state)
    assert not real.running
    (real.units / unit).unlink()
    real.fail = "show"
    out = ctx.run(ctx.on.upgrade_charm(), state)
    assert "can't set up the mount unit" in out.unit_status.message
    real.fail = ""
    ctx.run(ctx.on.update_status(), state)  # Whichever hook it is that can.
    assert real.running == {unit}


def test_stop_unmounts(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    ctx.run(ctx.on.relation_changed(GRANTED), make_state([GRANTED]))
    ctx.run(ctx.on.stop(), make_state())
    assert not fake.owned


def test_stop_abandons_a_busy_mount(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    ctx.run(ctx.on.relation_changed(GRANTED), make_state([GRANTED]))
    fake.busy.add("/data")
    ctx.run(ctx.on.stop(), make_state())
    assert not fake.owned
    assert list(fake.mounted) == ["/data"]
    warnings = [log.message for log in ctx.juju_log if log.level == "WARNING"]
    assert warnings == ["/data is in use and stays mounted; when it is free, run: umount /data"]


def test_stop_is_not_held_up(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    ctx.run(ctx.on.relation_changed(GRANTED), make_state([GRANTED]))
    fake.is_systemd_broken = True
    ctx.run(ctx.on.stop(), make_state())
    assert [log.message for log in ctx.juju_log if log.level == "WARNING"] == ["systemd is broken"]


def test_allowlist_is_asked_for(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    for typed in "10.0.7.0/24", "0.0.0.0/0":
        out = ctx.run(ctx.on.config_changed(), make_state([GRANTED], allowlist=typed))
        assert asked(out)["allowlist"] == typed
    out = ctx.run(
        ctx.on.config_changed(), dataclasses.replace(out, config={"mountpoint": "/data"})
    )
    assert asked(out)["allowlist"] == "127.0.0.1"


def test_unreadable_endpoint_keeps_what_is_mounted(
    ctx: testing.Context[NfsClientCharm], fake: FakeMounts
):
    ctx.run(ctx.on.relation_changed(GRANTED), make_state([GRANTED]))
    bad = make_relation(endpoint="http://10.0.0.1/x")
    out = ctx.run(ctx.on.relation_changed(bad), make_state([bad]))
    assert list(fake.mounted) == ["/data"]
    assert out.unit_status == testing.BlockedStatus(
        "nfs-server: endpoint 'http://10.0.0.1/x': not of the form nfs://host[:port]/path"
    )


def test_server_dies_under_the_mount(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    state = ctx.run(ctx.on.relation_changed(GRANTED), make_state([GRANTED]))
    fake.is_server_up = False
    out = ctx.run(ctx.on.update_status(), state)
    assert out.unit_status == testing.WaitingStatus(
        f"nfs-server has not answered since {TIME}: what uses /data waits"
    )


def test_stale_mount_in_use(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    state = ctx.run(ctx.on.relation_changed(GRANTED), make_state([GRANTED]))
    fake.is_stale = True
    fake.busy.add("/data")
    out = ctx.run(ctx.on.update_status(), state)
    assert out.unit_status.message.endswith("to mount it again, stop what uses it: postgres (812)")


def test_smaller_than_asked(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    relation = make_relation(endpoint="nfs://10.0.0.1/srv/nfs/data", size="10")
    out = ctx.run(ctx.on.relation_changed(relation), make_state([relation], size=20))
    assert out.unit_status == testing.WaitingStatus("nfs-server: 20G requested, the share has 10G")


def test_container_that_may_not_mount(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    fake.has_package, fake.container = False, "This lxc container may not mount NFS"
    for event in ctx.on.install(), ctx.on.relation_changed(GRANTED):
        out = ctx.run(event, make_state([GRANTED]))
        assert out.unit_status == testing.BlockedStatus("This lxc container may not mount NFS")
        assert (fake.owned, fake.has_package) == ({}, False)
    assert asked(out)["size"]  # Other units may be able to mount it.
    fake.container = ""
    out = ctx.run(ctx.on.start(), make_state([GRANTED]))
    assert out.unit_status == testing.ActiveStatus()
    assert out.workload_version == "1:2.6.1"


def test_container_that_has_the_package_and_may_not_mount(
    ctx: testing.Context[NfsClientCharm], fake: FakeMounts
):
    fake.container, fake.is_mount_refused = "This lxc container may not mount NFS", True
    out = ctx.run(ctx.on.relation_changed(GRANTED), make_state([GRANTED]))
    assert out.unit_status == testing.BlockedStatus("This lxc container may not mount NFS")


def results_of(
    ctx: testing.Context[NfsClientCharm], name: str, state: testing.State, **params: str
) -> dict[str, str]:
    ctx.run(ctx.on.action(name, params=params), state)
    return dict(ctx.action_results or {})


def failure_of(
    ctx: testing.Context[NfsClientCharm], name: str, state: testing.State, **params: str
) -> str:
    with pytest.raises(testing.ActionFailed) as caught:
        ctx.run(ctx.on.action(name, params=params), state)
    return caught.value.message


def test_show_mount(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    problem = failure_of(ctx, "show-mount", make_state())
    assert problem.startswith("nfs-client/0 has no mount: Missing relation")
    state = ctx.run(ctx.on.relation_changed(GRANTED), make_state([GRANTED]))
    assert results_of(ctx, "show-mount", state) == {
        "mountpoint": "/data",
        "share": "model/nfs-client",
        "source": "10.0.0.1:/srv/nfs/data",
        "options": "exec,nodev,nosuid,rw",
        "state": "mounted",
        "size-bytes": "4096",
        "used-bytes": "1024",
        "available-bytes": "3072",
        "inodes": "10",
        "inodes-used": "1",
    }
    fake.is_server_up = False
    state = ctx.run(ctx.on.update_status(), state)
    shown = results_of(ctx, "show-mount", state)
    assert shown["state"] == f"unreachable since {TIME}"
    assert "size-bytes" not in shown
    fake.mounted.clear()
    fake.noted.clear()
    assert results_of(ctx, "show-mount", state)["state"] == "not mounted"


def test_force_umount_and_remount(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    state = ctx.run(ctx.on.relation_changed(GRANTED), make_state([GRANTED]))
    fake.busy.add("/data")
    problem = failure_of(ctx, "force-umount", state, mountpoint="/")
    assert problem == "'/' is no mount of nfs-client/0: it has /data"
    problem = failure_of(ctx, "remount", state)
    assert problem == (
        "/data is in use by postgres (812): stop that and run remount again, or run force-umount"
        " first"
    )
    fake.is_systemd_broken = True
    problem = failure_of(ctx, "force-umount", state, mountpoint="/data")
    assert problem == "the kernel does not unmount it"
    fake.is_systemd_broken = False
    assert results_of(ctx, "force-umount", state, mountpoint="/data") == {
        "mountpoint": "/data",
        "state": "held",
        "users": "postgres (812)",
    }
    out = ctx.run(ctx.on.update_status(), state)
    assert not fake.mounted
    assert out.unit_status == testing.BlockedStatus(
        f"/data was unmounted by force-umount {TIME}: run `juju run nfs-client/0 remount`"
    )
    assert results_of(ctx, "show-mount", state)["state"] == f"held since {TIME}"
    problem = failure_of(ctx, "force-umount", state, mountpoint="/data")
    assert problem == "'/data' is no mount of nfs-client/0: it has none"
    out = ctx.run(ctx.on.action("remount"), out)
    assert ctx.action_results == {"mountpoint": "/data", "state": "mounted"}
    assert list(fake.mounted) == ["/data"]
    assert isinstance(out.unit_status, testing.ActiveStatus)


def test_remount_what_can_not_be(ctx: testing.Context[NfsClientCharm], fake: FakeMounts):
    assert failure_of(ctx, "remount", make_state()).startswith("There is nothing to remount: ")
    fake.obstacles["/data"] = "/data: the directory is not empty"
    problem = failure_of(ctx, "remount", make_state([GRANTED]))
    assert problem == "/data: the directory is not empty"
    fake.obstacles.clear()
    fake.is_server_up = False
    problem = failure_of(ctx, "remount", make_state([GRANTED]))
    assert problem.startswith(
        "Not mounted yet, it is tried until it is: nfs-server is unreachable"
    )


HOSTILE = ["/a b", "/d\n[Mount]\nOptions=suid", "/../etc", "/%n", "/" + "x" * 128]


def answering(name: str) -> testing.Relation:
    """A server that answers for a name that nobody can ask for."""
    endpoint = "nfs://10.0.0.1/srv/nfs/data"
    return make_relation(endpoint=endpoint, answers=f"{endpoint} {name}")


@pytest.mark.parametrize("leader", [True, False])
@pytest.mark.parametrize("name", HOSTILE)
def test_no_answer_of_a_server_fails_a_hook_or_gets_into_a_unit_file(
    ctx: testing.Context[NfsClientCharm], real: conftest.FakeMachine, name: str, leader: bool
):
    state = make_state([answering(name)], leader, mountpoint=f"{real.root}/data")
    for _ in range(2):
        out = ctx.run(ctx.on.config_changed(), state)
        assert out.unit_status.message.startswith("nfs-server: share name '/")
        assert results_of(ctx, "remount", state)["state"] == "mounted"
        (owned,) = records.read_owned(UNIT)
        assert owned.share == "model/nfs-client"


@pytest.mark.parametrize("name", HOSTILE)
def test_what_an_earlier_revision_took_for_a_name_is_none(
    ctx: testing.Context[NfsClientCharm], real: conftest.FakeMachine, name: str
):
    """It is in the leader's databag, and it may be in a record."""
    relation = dataclasses.replace(GRANTED, local_app_data={"name": name, "size": "-1"})
    state = make_state([relation], mountpoint=f"{real.root}/data")
    assert asked(ctx.run(ctx.on.config_changed(), state))["name"] == "model/nfs-client"
    path = records.unit_file(f"{real.root}/data")
    line = name.splitlines()[0]
    path.write_text(path.read_text().replace("Share=model/nfs-client", f"Share={line}"))
    out = ctx.run(ctx.on.config_changed(), dataclasses.replace(state, leader=False))
    assert out.unit_status == testing.ActiveStatus()
    (owned,) = records.read_owned(UNIT)
    assert owned.share in {"model/nfs-client", "/d"}


EVENTS = ["config_changed", "start", "upgrade_charm", "leader_elected", "update_status", "stop"]
ENDPOINTS = ["nfs://10.0.0.1/a", "10.0.0.1:/b", "nfs://[::1]/c", "x"]


@dataclass(frozen=True)
class Step:
    """An event, and the world as it is then."""

    event: str
    options: dict[str, str | int | bool]
    leader: bool
    answer: dict[str, str] | None
    busy: frozenset[str]
    is_server_up: bool
    is_stale: bool


STEPS = st.builds(
    Step,
    event=st.sampled_from(EVENTS),
    options=st.fixed_dictionaries(
        {
            "mountpoint": st.sampled_from(["", "/data", "/data/sub", "/other", "/etc"]),
            "share_name": st.sampled_from(["", "x", "../x"]),
            "size": st.sampled_from([-1, 0, 10]),
            "read_only": st.booleans(),
            "allowlist": st.sampled_from(["", "10.0.0.0/8", "all"]),
        }
    ),
    leader=st.booleans(),
    answer=st.none()
    | st.fixed_dictionaries(
        {},
        optional={
            "endpoint": st.sampled_from(ENDPOINTS),
            "error": st.text(max_size=20),
            "size": st.sampled_from(["", "10", "ten"]),
            "cache": st.just("{}"),
            "answers": st.sampled_from(
                [
                    f"nfs://10.0.0.1/a {name}"
                    for name in ("model/nfs-client", "x", "/y", "", *HOSTILE)
                ]
            ),
        },
    ),
    busy=st.frozensets(st.sampled_from(["/data", "/data/sub", "/other"])),
    is_server_up=st.booleans(),
    is_stale=st.booleans(),
)


@given(st.lists(STEPS, min_size=1, max_size=6))
@settings(max_examples=40)
def test_any_order_of_events(steps: list[Step]):
    fake = FakeMounts()
    ctx = make_context()
    with pytest.MonkeyPatch.context() as monkeypatch:
        put_in_place(fake, monkeypatch)
        for step in steps:
            fake.busy = set(step.busy)
            fake.is_server_up = step.is_server_up
            fake.is_stale = step.is_stale
            relations = [] if step.answer is None else [make_relation(1, **step.answer)]
            state = make_state(relations, step.leader, **step.options)
            event = getattr(ctx.on, step.event)
            out = ctx.run(event(), state)
            assert fake.most_owned <= 1
            settled = (dict(fake.mounted), dict(fake.owned))
            again = ctx.run(event(), state)
            assert (fake.mounted, fake.owned) == settled
            # A second stop knows nothing of what the first one left in use.
            assert step.event == "stop" or again.unit_status == out.unit_status


LAST = Step(
    event="update_status",
    options={"mountpoint": "/data", "share_name": "x", "size": 10},
    leader=True,
    answer={"endpoint": "nfs://10.0.0.1/a", "name": "x", "size": "10"},
    busy=frozenset(),
    is_server_up=True,
    is_stale=False,
)


def what_is_left(root: Path, steps: list[Step]) -> tuple[object, ...]:
    """Go through a history on the real module `mounts`; what the machine and Juju have then."""
    root.mkdir()
    fake, ctx = conftest.FakeMachine(root), make_context()
    with pytest.MonkeyPatch.context() as monkeypatch:
        conftest.put_in_place(fake, monkeypatch)
        monkeypatch.setattr(mounts, "MOUNT_NFS", fake.units)
        monkeypatch.setattr(packages, "install", lambda _: "1:2.6.1")
        out = make_state()
        for step in steps:
            # What a stop leaves in use is nobody's: no event of this unit comes after it.
            busy = step.busy if step.event != "stop" else ()
            fake.busy = {f"{root}{where}" for where in busy}
            fake.server_answers, fake.is_stale = step.is_server_up, step.is_stale
            where = str(step.options["mountpoint"])
            is_ours = where not in ("", "/etc")
            ours = {"mountpoint": f"{root}{where}"} if is_ours else {}
            relations = [] if step.answer is None else [make_relation(1, **step.answer)]
            state = make_state(relations, step.leader, **step.options | ours)
            out = ctx.run(getattr(ctx.on, step.event)(), state)
            assert len(records.read_owned(UNIT)) <= 1
    files = {str(path): path.read_text() for path in root.rglob("*") if path.is_file()}
    made = {name for name in ("data", "other") if (root / name).exists()}
    return files, made, fake.enabled, fake.active, out.unit_status


@given(st.lists(STEPS, max_size=6))
@settings(max_examples=60)
def test_any_history_ends_in_the_same_mount_unit(steps: list[Step]):
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory) / "machine"
        fresh = what_is_left(root, [LAST])
        shutil.rmtree(root)
        assert fresh[-1] == testing.ActiveStatus()
        assert what_is_left(root, [*steps, LAST]) == fresh

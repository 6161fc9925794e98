# SPDX-License-Identifier: Apache-2.0
"""The charm with ops.testing, and with a program in the place of systemctl."""

from pathlib import Path
from typing import Any

import ops
import pytest
from ops import testing

import logbook
from charm import LogbookCharm

SYSTEMCTL = """#!/bin/sh
cd {directory}
test ! -e hangs || exec sleep 60
case $1 in
    enable) test ! -e dead || exit 1; shift 2; touch "$@" ;;
    disable) test ! -e busy || exit 1; shift 2; rm -f "$@" ;;
    is-active) test -e "$3" ;;
esac
"""
BOTH = {logbook.MOUNT, logbook.SERVICE}
GRANTED = {"endpoint": "nfs://10.0.0.1/srv/nfs/logbook", "size": "1"}
OWN = {"egress-subnets": "10.0.0.7/32"}


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where active units have files."""
    (tmp_path / "systemctl").write_text(SYSTEMCTL.format(directory=tmp_path))
    (tmp_path / "systemctl").chmod(0o755)
    (tmp_path / "units").mkdir()
    monkeypatch.setattr(logbook, "SYSTEMCTL", str(tmp_path / "systemctl"))
    monkeypatch.setattr(logbook, "UNITS", tmp_path / "units")
    return tmp_path


def active(machine: Path) -> set[str]:
    return {path.name for path in machine.iterdir()} & BOTH


def integration(**answer: str) -> testing.Relation:
    return testing.Relation("nfs-share", id=1, remote_app_data=answer, local_unit_data=OWN)


def run(event: str, *relations: testing.Relation, size: int = 1, leader: bool = True) -> Any:
    context = testing.Context(LogbookCharm, app_name="logbook")
    state = testing.State(relations=relations, config={"size": size}, leader=leader)
    if event.startswith("relation_"):
        return context.run(getattr(context.on, event)(relations[0]), state)
    return context.run(getattr(context.on, event)(), state)


@pytest.mark.usefixtures("machine")
def test_the_leader_requests():
    state = run("relation_created", integration(), size=5)
    assert state.get_relation(1).local_app_data["name"] == "logbook"
    assert state.get_relation(1).local_app_data["size"] == "5"
    assert state.unit_status.message == "Waiting for nfs-server to grant the share"
    assert run("config_changed", integration(), leader=False).get_relation(1).local_app_data == {}


def test_it_runs_while_the_share_is_there(machine: Path):
    assert run("start").unit_status == testing.BlockedStatus("Missing relation: nfs-share")
    assert active(machine) == set()
    for _ in range(2):
        assert run("relation_changed", integration(**GRANTED)).unit_status.name == "active"
        assert active(machine) == BOTH
        assert run("relation_broken", integration(**GRANTED)).unit_status.name == "blocked"
        assert active(machine) == set()


@pytest.mark.parametrize("answer", [{}, {"error": "no room"}, {"endpoint": "?"}])
def test_without_an_endpoint_it_stops(machine: Path, answer: dict[str, str]):
    run("relation_changed", integration(**GRANTED))
    run("relation_changed", integration(**answer))
    assert active(machine) == set()


def test_a_refusal_stops_nothing(machine: Path):
    run("relation_changed", integration(**GRANTED))
    state = run("update_status", integration(**GRANTED, error="5G requested, 1G free"))
    assert state.unit_status == testing.BlockedStatus("nfs-server: 5G requested, 1G free")
    assert active(machine) == BOTH


def test_it_mounts_when_it_may(machine: Path):
    state = run("relation_changed", integration(**GRANTED, allowlist="10.0.0.8"))
    assert state.unit_status.message == "Waiting for nfs-server to grant the share"
    assert active(machine) == set()
    run("relation_changed", integration(**GRANTED, allowlist="10.0.0.7,10.0.0.8"))
    assert active(machine) == BOTH


def test_a_mount_that_fails_is_tried_again(machine: Path):
    (machine / "dead").touch()
    state = run("relation_changed", integration(**GRANTED))
    assert state.unit_status.message == f"Mounting {GRANTED['endpoint']} failed, trying again"
    (machine / "dead").unlink()
    assert run("update_status", integration(**GRANTED)).unit_status.name == "active"
    assert active(machine) == BOTH


def test_a_systemctl_that_hangs_holds_no_hook(machine: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(logbook, "SYSTEMCTL_TIMEOUT_S", 0.1)
    (machine / "hangs").touch()
    assert run("relation_changed", integration(**GRANTED)).unit_status.name == "waiting"


def test_a_share_that_moves_is_mounted_when_the_old_one_is_not(machine: Path):
    run("relation_changed", integration(**GRANTED))
    unit = machine / "units" / logbook.MOUNT
    moved = GRANTED | {"endpoint": "nfs://10.0.0.2:20490/srv/nfs/logbook"}
    (machine / "busy").touch()
    run("relation_changed", integration(**moved))
    assert "What=10.0.0.1:/srv/nfs/logbook\n" in unit.read_text()
    (machine / "busy").unlink()
    run("update_status", integration(**moved))
    assert "What=10.0.0.2:/srv/nfs/logbook\n" in unit.read_text()
    assert "port=20490\n" in unit.read_text()
    assert active(machine) == BOTH


@pytest.mark.parametrize("event", ["stop", "relation_departed"])
def test_it_stops_with_its_unit(machine: Path, monkeypatch: pytest.MonkeyPatch, event: str):
    run("relation_changed", integration(**GRANTED))
    run("relation_departed", integration(**GRANTED))
    assert active(machine) == BOTH  # It is one of the server's that departed.
    # ops.testing lets only units of the other side depart.
    own = property(lambda event: event.framework.model.unit)
    monkeypatch.setattr(ops.RelationDepartedEvent, "departing_unit", own)
    run(event, integration(**GRANTED))
    assert active(machine) == set()


@pytest.mark.usefixtures("machine")
def test_a_size_that_the_interface_does_not_allow():
    state = run("relation_created", integration(), size=0)
    assert state.unit_status == testing.BlockedStatus(
        "size '0': use whole gigabytes from 1, or -1 for no limit"
    )
    assert state.get_relation(1).local_app_data == {}


def test_installing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = tmp_path / "apt-get"
    program.write_text(f'#!/bin/sh\necho "$DEBIAN_FRONTEND $3 $*" >> {tmp_path}/done\n')
    program.chmod(0o755)
    monkeypatch.setattr(logbook, "APT_GET", str(program))
    run("install")
    done = (tmp_path / "done").read_text().splitlines()
    assert [line.split()[:2] for line in done] == [
        ["noninteractive", "update"],
        ["noninteractive", "install"],
    ]
    assert done[1].endswith(" nfs-common")

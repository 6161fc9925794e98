# SPDX-License-Identifier: Apache-2.0
"""The exporter on the machine, with systemd played."""

import json
import os
import re
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

import monitoring
from monitoring import Facts, ShareFacts
from nfs_charms import machine

FACTS = Facts(
    storage="/storage",
    reserve_bytes=1,
    allocated_bytes=2,
    is_on_root=True,
    shares=(ShareFacts("/data", "/srv/nfs/data_a", "/storage/data_a.img", "a,b", True, True),),
)
CHARM = Path("/var/lib/juju/agents/unit-nfs-server-0/charm")
OWN_UNITS = {monitoring.SOCKET, monitoring.SERVICE}


class Systemd:
    """Listens, as long as nobody else does."""

    def __init__(self, tmp_path: Path):
        self.commands: list[str] = []
        self.is_failing = False
        self.listener: socket.socket | None = None
        self._tcp = tmp_path / "tcp"
        self._files = tmp_path / "fd"
        self._files.mkdir()
        (self._files / "0").symlink_to("/dev/null")
        (self._files / "1").symlink_to("gone")
        (self._files / "3").symlink_to("socket:[99]")
        self.show("")

    def show(self, inode: str, *, port: int = monitoring.PORT, is_own: bool = True) -> None:
        """Have the kernel say who listens."""
        line = "   {}: {}:{:04X} 00000000:0000 {} 00000000:00000000 00:00000000 0 0 0 {} 1\n"
        lines = [
            line.format(0, "00000000", 2049, "0A", 11),
            *([line.format(1, "0100007F", port, "0A", inode)] if inode else []),
            line.format(2, "0500000A", 2049, "01", 99),
            line.format(3, "0100007F", monitoring.PORT, "0A", 99),  # Never so late.
        ]
        self._tcp.write_text("  sl  local_address rem_address st …\n" + "".join(lines))
        (self._files / "2").unlink(missing_ok=True)
        if is_own:
            (self._files / "2").symlink_to(f"socket:[{inode}]")

    def systemctl(self, *arguments: str, timeout_s: float = 60.0) -> str:
        self.commands.append(" ".join(arguments))
        if self.is_failing and arguments[0] in ("enable", "disable"):
            raise machine.CommandError(("systemctl", *arguments), "exit status 1", "it failed")
        if arguments[0] == "enable":
            self.show("42")
        elif arguments[0] in ("stop", "disable"):
            self.show("")
        elif arguments[0] == "show":
            units = [f"FragmentPath={machine.UNIT_DIRECTORY / it}" for it in arguments[3:]]
            return "\n\n".join(f"{it}\nNeedDaemonReload=no" for it in units)
        return ""


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Systemd:
    found = Systemd(tmp_path)
    monkeypatch.setattr(machine, "systemctl", found.systemctl)
    monkeypatch.setattr(machine, "UNIT_DIRECTORY", tmp_path / "units")
    monkeypatch.setattr(machine, "_RELOAD_NEEDED", tmp_path / "reload-needed")
    monkeypatch.setattr(monitoring, "FACTS", tmp_path / "var/monitoring.json")
    monkeypatch.setattr(monitoring, "HELD", tmp_path / "var/held")
    monkeypatch.setattr(monitoring, "TCP_SOCKETS", tmp_path / "tcp")
    monkeypatch.setattr(monitoring, "SYSTEMD_FILES", tmp_path / "fd")
    return found


def _units() -> set[str]:
    return {path.name for path in machine.UNIT_DIRECTORY.glob("*")}


def test_it_is_set_up_once(systemd: Systemd):
    assert not monitoring.is_there()
    assert monitoring.ensure(FACTS, CHARM)
    assert monitoring.is_there()
    assert _units() == OWN_UNITS
    assert systemd.commands[-1] == f"enable --now --no-reload {monitoring.SOCKET}"
    assert monitoring.read_facts() == FACTS
    assert stat.S_IMODE(monitoring.FACTS.stat().st_mode) == 0o600
    systemd.commands.clear()
    assert not monitoring.ensure(FACTS, CHARM)
    assert monitoring.ensure(Facts(), CHARM)
    assert monitoring.read_facts() == Facts()
    assert systemd.commands == []


def test_it_listens_for_this_machine_alone(systemd: Systemd):
    monitoring.ensure(FACTS, CHARM)
    listener = (machine.UNIT_DIRECTORY / monitoring.SOCKET).read_text()
    assert re.findall("(?m)^Listen.*", listener) == [f"ListenStream=127.0.0.1:{monitoring.PORT}"]
    service = (machine.UNIT_DIRECTORY / monitoring.SERVICE).read_text()
    assert f" -B {CHARM}/src/exporter.py\n" in service
    assert f"PYTHONPATH={CHARM}/lib\n" in service
    assert f"TemporaryFileSystem=/etc:ro {CHARM.parent.parent}:ro\n" in service
    assert f"BindReadOnlyPaths={CHARM}\n" in service
    assert systemd.commands


def test_new_code_is_started_anew(systemd: Systemd, monkeypatch: pytest.MonkeyPatch):
    monitoring.ensure(FACTS, CHARM)
    systemd.commands.clear()
    monkeypatch.setattr(monitoring, "_digest", lambda: "another")
    assert monitoring.ensure(FACTS, CHARM)
    assert systemd.commands == [
        f"stop {monitoring.SOCKET}",
        "daemon-reload",
        f"enable --now --no-reload {monitoring.SOCKET}",
    ]


@pytest.mark.usefixtures("systemd")
def test_a_hook_that_is_killed_before_the_new_code_is_started(monkeypatch: pytest.MonkeyPatch):
    monitoring.ensure(FACTS, CHARM)
    monkeypatch.setattr(monitoring, "_digest", lambda: "another")
    with monkeypatch.context() as patch:
        patch.setattr(machine, "ensure_units", _killed)
        with pytest.raises(KeyboardInterrupt):
            monitoring.ensure(FACTS, CHARM)
    assert monitoring.ensure(FACTS, CHARM)
    assert "another" in (machine.UNIT_DIRECTORY / monitoring.SERVICE).read_text()
    assert monitoring.is_listening()


def _killed(_: object) -> None:
    raise KeyboardInterrupt


def test_the_code_is_all_that_it_imports():
    own = Path(monitoring.__file__).parent
    found = {"exporter.py"}
    for name in [*found, *monitoring.PROGRAM]:
        imports = re.findall(r"(?m)^(?:import|from) (\w+)", (own / name).read_text())
        found |= {f"{it}.py" for it in imports if (own / f"{it}.py").exists()}
    assert found == set(monitoring.PROGRAM)


def test_systemd_listens_again(systemd: Systemd):
    monitoring.ensure(FACTS, CHARM)
    systemd.show("")
    assert not monitoring.is_listening()
    assert monitoring.ensure(FACTS, CHARM)
    assert monitoring.is_listening()
    # Another process, or another port.
    systemd.show("42", is_own=False)
    assert not monitoring.is_listening()
    systemd.show("42", port=80)
    assert not monitoring.is_listening()


@pytest.fixture
def taken() -> Iterator[None]:
    """Another program has the port."""
    with socket.create_server((monitoring.ADDRESS, monitoring.PORT)):
        yield


@pytest.mark.usefixtures("taken")
def test_the_port_is_anothers(systemd: Systemd):
    systemd.is_failing = True
    with pytest.raises(monitoring.MonitoringError, match="port 20490 is taken: end who has it"):
        monitoring.ensure(FACTS, CHARM)


def test_systemd_fails(systemd: Systemd):
    systemd.is_failing = True
    with pytest.raises(monitoring.MonitoringError, match="it failed"):
        monitoring.ensure(FACTS, CHARM)
    with pytest.raises(monitoring.MonitoringError, match="it failed"):
        monitoring.remove()
    systemd.is_failing = False
    assert monitoring.remove()


def test_nothing_stays(systemd: Systemd):
    assert not monitoring.remove()
    assert systemd.commands == []
    monitoring.ensure(FACTS, CHARM)
    monitoring.note_hook()
    assert monitoring.remove()
    assert f"disable --now --no-reload {monitoring.SOCKET}" in systemd.commands
    assert _units() == set()
    assert not monitoring.is_there()
    assert not monitoring.HELD.exists()
    assert not monitoring.remove()


def test_a_hook_is_noted_where_somebody_asks(systemd: Systemd, monkeypatch: pytest.MonkeyPatch):
    monitoring.note_hook()
    assert not monitoring.HELD.exists()
    monitoring.ensure(FACTS, CHARM)
    monitoring.note_hook()
    os.utime(monitoring.HELD, (0, 0))
    monitoring.note_hook()
    assert monitoring.HELD.stat().st_mtime > 0
    assert systemd.commands
    monkeypatch.setattr(monitoring, "HELD", Path("/proc/held"))
    monitoring.note_hook()  # What can't be noted fails no hook.


@pytest.mark.usefixtures("systemd")
def test_facts_of_another_revision():
    assert monitoring.read_facts() == Facts()
    monitoring.FACTS.parent.mkdir()
    share = {"name": "a", "where": "/a", "image": "/a.img", "new": 1}
    monitoring.FACTS.write_text(json.dumps({"shares": [share], "new": 1, "is_on_root": True}))
    share = ShareFacts("a", "/a", "/a.img")
    assert monitoring.read_facts() == Facts(is_on_root=True, shares=(share,))

# SPDX-License-Identifier: Apache-2.0
"""The NFS server's package and service, on files in a temporary directory."""

from pathlib import Path

import pytest
from charmlibs import apt, systemd

import nfs
from charms.storage_libs.v0 import machine


class Host:
    """The machine: what apt and systemd are left with."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, ...]] = []
        self.masked: set[str] = set()
        self.packages: set[str] = set()
        self.started_with = ""
        """The settings that were there when the server first started."""
        self.fails = False
        self.is_flushed = False
        """Whether the kernel has forgotten what mountd told it."""

    def run(self, *argv: str, timeout_s: float = 60.0) -> str:
        self.commands.append(argv)
        if argv[0] == nfs.DPKG_QUERY:
            assert argv[1:] == ("--show", "--showformat=${Version}", "nfs-kernel-server")
            return "1:2.6.4-3ubuntu5"
        if argv[0] == str(nfs.EXPORTFS):
            assert argv[1:] == ("-f",)
            self.is_flushed = True
            return ""
        verb, *units = argv[1:]
        if verb == "mask":
            self.masked.update(units)
        elif verb == "unmask":
            self.masked.difference_update(units)
        elif verb == "disable":
            assert units == ["--now", "nfs-server.service"]
            if not self.packages:
                raise machine.CommandError(argv, "exit status 1", "no such unit")
            nfs.THREADS.unlink()
        return ""

    def add_package(self, name: str, update_cache: bool = False) -> None:
        if self.fails:
            raise apt.PackageError("no candidate")
        assert update_cache
        self.packages.add(name)
        nfs.EXPORTFS.parent.mkdir(parents=True, exist_ok=True)
        nfs.EXPORTFS.touch()
        # As Debian's packages do, the service starts at once.
        self.start("--now", "nfs-server.service")

    def start(self, *arguments: str) -> bool:
        assert arguments == ("--now", "nfs-server.service")
        if self.fails:
            raise systemd.SystemdError("it failed")
        self.started_with = self.started_with or nfs.CONFIGURATION.read_text()
        nfs.THREADS.parent.mkdir(parents=True, exist_ok=True)
        nfs.THREADS.write_text("8\n")
        return True


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    for module, name in (
        (nfs, "CONFIGURATION"),
        (nfs, "THREADS"),
        (nfs, "CLIENTS"),
        (nfs, "EXPORTFS"),
        (nfs, "RPCBIND"),
        (machine, "UNIT_DIRECTORY"),
    ):
        monkeypatch.setattr(module, name, tmp_path / getattr(module, name).relative_to("/"))
    monkeypatch.setattr(machine, "_RELOAD_NEEDED", tmp_path / "reload-needed")
    fake = Host()
    monkeypatch.setattr(machine, "run", fake.run)
    monkeypatch.setattr(apt, "add_package", fake.add_package)
    monkeypatch.setattr(systemd, "service_enable", fake.start)
    return fake


def connect(client: int) -> Path:
    path = nfs.CLIENTS / str(client) / "ctl"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def test_install(host: Host):
    nfs.install()
    assert host.packages == {"nfs-kernel-server"}
    assert host.masked == {"rpcbind.service", "rpcbind.socket", "rpc-statd.service"}
    assert "vers3=n" in host.started_with  # So it need not be restarted.


def test_install_leaves_rpcbind_to_its_users(host: Host):
    nfs.RPCBIND.parent.mkdir(parents=True)
    nfs.RPCBIND.touch()
    nfs.install()
    assert host.masked == set()


def test_install_fails(host: Host):
    host.fails = True
    with pytest.raises(nfs.NfsError, match=r"could not be installed: .*no cand"):
        nfs.install()
    host.fails = False
    nfs.install()
    assert host.packages == {"nfs-kernel-server"}


@pytest.mark.parametrize(
    ("processors", "threads"), [(None, 8), (1, 8), (2, 16), (8, 64), (96, 64)]
)
def test_write_configuration(
    host: Host, monkeypatch: pytest.MonkeyPatch, processors: int | None, threads: int
):
    monkeypatch.setattr(nfs.os, "cpu_count", lambda: processors)
    assert nfs.write_configuration()
    lines = nfs.CONFIGURATION.read_text().splitlines()
    assert [line for line in lines if line and not line.startswith("#")] == [
        "[nfsd]",
        f"threads={threads}",
        "vers2=n",
        "vers3=n",
        "vers4.0=n",
        "grace-time=45",
        "lease-time=45",
        "[mountd]",
        "manage-gids=n",
    ]
    drop_in = machine.UNIT_DIRECTORY / "nfs-mountd.service.d/nfs-server-charm.conf"
    assert drop_in.read_text().splitlines()[-3:] == ["[Service]", "Restart=always", "RestartSec=1"]


def test_write_configuration_again_runs_nothing(host: Host):
    nfs.write_configuration()
    host.commands.clear()
    assert not nfs.write_configuration()
    assert host.commands == []


@pytest.mark.parametrize("lost", ["CONFIGURATION", "drop-in"])
def test_write_configuration_mends(host: Host, lost: str):
    nfs.write_configuration()
    path = nfs.CONFIGURATION if lost == "CONFIGURATION" else None
    path = path or machine.UNIT_DIRECTORY / nfs.MOUNTD_DROP_IN
    text = path.read_text()
    path.write_text("something else")
    assert nfs.write_configuration()
    assert path.read_text() == text


def test_version(host: Host):
    assert nfs.version() == "1:2.6.4-3ubuntu5"


def test_is_installed(host: Host):
    assert not nfs.is_installed()
    nfs.install()
    assert nfs.is_installed()


@pytest.mark.parametrize(("threads", "runs"), [(None, False), ("0\n", False), ("8\n", True)])
def test_is_running(host: Host, threads: str | None, runs: bool):
    if threads is not None:
        nfs.THREADS.parent.mkdir(parents=True)
        nfs.THREADS.write_text(threads)
    assert nfs.is_running() == runs


def test_ensure_running(host: Host):
    nfs.write_configuration()
    assert nfs.ensure_running()
    assert nfs.is_running()
    assert not nfs.ensure_running()


def test_ensure_running_fails(host: Host):
    host.fails = True
    with pytest.raises(nfs.NfsError, match=r"nfs-server.service does not start: it failed"):
        nfs.ensure_running()


INFO = """clientid: 0x3d0ad9f065f1c3a7
address: "{address}"
status: {status}
name: "Linux NFSv4.2 host"
minor version: 2
"""


def test_read_clients(host: Host):
    assert nfs.read_clients() == ()
    for number, (address, status) in enumerate(
        [
            ("10.0.0.5:867", "confirmed"),
            ("10.0.0.5:868", "confirmed"),
            ("[fd00::5]:867", "confirmed"),
            ("10.0.0.6:867", "courtesy"),
            ("10.0.0.7:867", "unconfirmed"),
        ]
    ):
        info = nfs.CLIENTS / str(number) / "info"
        info.parent.mkdir(parents=True)
        info.write_text(INFO.format(address=address, status=status))
    (nfs.CLIENTS / "9").mkdir()  # It has just left.
    assert list(map(str, nfs.read_clients())) == ["10.0.0.5", "10.0.0.7", "fd00::5"]


def test_wait_for_clients_to_leave(host: Host, monkeypatch: pytest.MonkeyPatch):
    assert nfs.wait_for_clients_to_leave(0.0)
    client = connect(3)
    assert not nfs.wait_for_clients_to_leave(0.0)

    def leave(_: float) -> None:
        client.unlink()
        client.parent.rmdir()

    monkeypatch.setattr(nfs.time, "sleep", leave)
    assert nfs.wait_for_clients_to_leave(60.0)


def test_release(host: Host):
    nfs.release()
    clients = [connect(1), connect(2)]
    nfs.release()
    assert [path.read_text() for path in clients] == ["expire\n", "expire\n"]
    assert host.is_flushed


def test_release_when_one_has_left(host: Host, monkeypatch: pytest.MonkeyPatch):
    staying = connect(2)
    found = [nfs.CLIENTS / "1/ctl", staying]
    monkeypatch.setattr(Path, "glob", lambda *_: iter(found))
    nfs.release()
    assert staying.read_text() == "expire\n"


@pytest.mark.parametrize("is_used_by_others", [False, True])
def test_remove(host: Host, is_used_by_others: bool):
    nfs.install()
    nfs.remove(is_used_by_others=is_used_by_others)
    assert nfs.is_running() == is_used_by_others
    assert host.masked == set()
    assert not nfs.CONFIGURATION.exists()
    assert not (machine.UNIT_DIRECTORY / nfs.MOUNTD_DROP_IN).exists()
    assert host.packages == {"nfs-kernel-server"}  # Others may use it.


def test_remove_when_the_package_is_gone(host: Host):
    nfs.install()
    host.packages.clear()
    nfs.EXPORTFS.unlink()
    nfs.remove(is_used_by_others=False)
    assert host.masked == set()
    assert not nfs.CONFIGURATION.exists()
    assert not (machine.UNIT_DIRECTORY / nfs.MOUNTD_DROP_IN).exists()


def test_remove_again(host: Host):
    nfs.write_configuration()
    nfs.remove(is_used_by_others=False)
    nfs.remove(is_used_by_others=False)
    assert not nfs.CONFIGURATION.exists()

# SPDX-License-Identifier: Apache-2.0
"""The NFS server's package and service, on files in a temporary directory."""

from pathlib import Path

import pytest

import files
import nfs
from nfs_charms import machine, packages
from settings import Settings

DEFAULTS = Settings()
V3 = Settings(nfsv3=True)


class Host:
    """The machine: what apt and systemd are left with."""

    def __init__(self) -> None:
        self.commands: list[tuple[str, ...]] = []
        self.stopped: set[str] = set()
        self.starts = 0
        self.packages: set[str] = set()
        self.started_with = ""
        """The settings that were there when the server first started."""
        self.fails = False
        self.is_flushed = False
        """Whether the kernel has forgotten what mountd told it."""

    def run(self, *argv: str, timeout_s: float = 60.0) -> str:
        self.commands.append(argv)
        if argv[0] == str(nfs.EXPORTFS):
            assert argv[1:] == ("-f",)
            self.is_flushed = True
            return ""
        assert argv[0] == machine.SYSTEMCTL
        verb, *units = argv[1:]
        if verb == "disable":
            assert units == ["--now", "nfs-server.service"]
            if not self.packages:
                raise machine.CommandError(argv, "exit status 1", "no such unit")
            nfs.THREADS.unlink()
        elif verb == "stop":
            self.stopped.update(units)
            nfs.THREADS.write_text("0\n")
        elif verb == "enable" or verb == "start":
            assert units[-1] == "nfs-server.service"
            self._start(argv)
        else:
            assert verb == "daemon-reload"
        return ""

    def install(self, package: str) -> str:
        if self.fails:
            raise packages.PackagesError(f"{package} could not be installed: no candidate")
        self.packages.add(package)
        nfs.EXPORTFS.parent.mkdir(parents=True, exist_ok=True)
        nfs.EXPORTFS.touch()
        # As Debian's packages do, the service starts at once.
        self._start(())
        return "1:2.6.4-3ubuntu5"

    def _start(self, argv: tuple[str, ...]) -> None:
        if self.fails:
            raise machine.CommandError(argv, "exit status 1", "it failed")
        text = nfs.CONFIGURATION.read_text()
        self.started_with = self.started_with or text
        nfs.THREADS.parent.mkdir(parents=True, exist_ok=True)
        settings = dict(line.split("=") for line in text.splitlines() if "=" in line[:10])
        nfs.THREADS.write_text(settings["threads"] + "\n")
        three = "+3" if settings["vers3"] == "y" else "-3"
        nfs.VERSIONS.write_text(f"-2 {three} +4 -4.0 +4.1 +4.2\n")
        self.starts += 1


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    for module, name in (
        (nfs, "CONFIGURATION"),
        (nfs, "LOCKD_CONFIGURATION"),
        (nfs, "LOCKD_PARAMETERS"),
        (nfs, "THREADS"),
        (nfs, "VERSIONS"),
        (nfs, "CLIENTS"),
        (nfs, "EXPORTFS"),
        (nfs, "RPCBIND"),
        (machine, "UNIT_DIRECTORY"),
    ):
        monkeypatch.setattr(module, name, tmp_path / getattr(module, name).relative_to("/"))
    monkeypatch.setattr(machine, "_RELOAD_NEEDED", tmp_path / "reload-needed")
    fake = Host()
    monkeypatch.setattr(machine, "run", fake.run)
    monkeypatch.setattr(packages, "install", fake.install)
    return fake


def connect(client: int) -> Path:
    path = nfs.CLIENTS / str(client) / "ctl"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def governed() -> set[str]:
    """The units that start for NFSv3 alone."""
    condition = f"ConditionPathExists={nfs.LOCKD_CONFIGURATION}"
    return {
        path.parent.name.removesuffix(".d")
        for path in machine.UNIT_DIRECTORY.glob("*.d/nfs-server-charm.conf")
        if condition in path.read_text().splitlines()
    }


def test_install(host: Host):
    assert nfs.install(DEFAULTS) == "1:2.6.4-3ubuntu5"
    assert host.packages == {"nfs-kernel-server"}
    assert governed() == {"rpcbind.service", "rpcbind.socket", "rpc-statd.service"}
    assert not nfs.LOCKD_CONFIGURATION.exists()
    assert "vers3=n" in host.started_with  # So it need not be restarted.
    assert nfs.was_installed()


def test_install_leaves_rpcbind_to_its_users(host: Host):
    nfs.RPCBIND.parent.mkdir(parents=True)
    nfs.RPCBIND.touch()
    nfs.install(V3)
    assert governed() == set()
    nfs.write_configuration(DEFAULTS)
    nfs.ensure_running(DEFAULTS)
    assert not host.stopped & set(nfs.NFSV3_UNITS)


def test_install_fails(host: Host):
    host.fails = True
    with pytest.raises(nfs.NfsError, match=r"could not be installed: .*no cand"):
        nfs.install(DEFAULTS)
    host.fails = False
    nfs.install(DEFAULTS)
    assert host.packages == {"nfs-kernel-server"}


@pytest.mark.parametrize(
    ("processors", "threads"), [(None, 8), (1, 8), (2, 16), (8, 64), (96, 64)]
)
def test_write_configuration(
    host: Host, monkeypatch: pytest.MonkeyPatch, processors: int | None, threads: int
):
    monkeypatch.setattr(nfs.os, "cpu_count", lambda: processors)
    assert nfs.write_configuration(DEFAULTS)
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
        "port=20048",
        "[statd]",
        "port=32765",
    ]
    drop_in = machine.UNIT_DIRECTORY / "nfs-mountd.service.d/nfs-server-charm.conf"
    lines = drop_in.read_text().splitlines()
    assert lines[-4:-1] == ["[Service]", "Restart=always", "RestartSec=1"]


def test_write_configuration_nfsv3(host: Host):
    nfs.write_configuration(Settings(threads=5, nfsv3=True))
    assert {"threads=5", "vers3=y"} < set(nfs.CONFIGURATION.read_text().splitlines())
    options = "options lockd nlm_tcpport=32768 nlm_udpport=32768"
    assert options in nfs.LOCKD_CONFIGURATION.read_text().splitlines()
    assert nfs.write_configuration(DEFAULTS)
    assert not nfs.LOCKD_CONFIGURATION.exists()


def test_write_configuration_again_runs_nothing(host: Host):
    nfs.write_configuration(DEFAULTS)
    host.commands.clear()
    assert not nfs.write_configuration(DEFAULTS)
    assert host.commands == []


@pytest.mark.parametrize("lost", ["CONFIGURATION", "drop-in"])
def test_write_configuration_mends(host: Host, lost: str, caplog: pytest.LogCaptureFixture):
    nfs.install(DEFAULTS)
    path = nfs.CONFIGURATION if lost == "CONFIGURATION" else None
    path = path or machine.UNIT_DIRECTORY / nfs.MOUNTD_DROP_IN
    text = path.read_text()
    path.write_text(f"{text}something=else\n")
    assert nfs.write_configuration(DEFAULTS)
    assert path.read_text() == text
    assert f"{path} was changed by another hand" in caplog.text
    assert "+something=else" in caplog.text


def test_a_change_of_ours_is_not_taken_for_anothers(host: Host, caplog: pytest.LogCaptureFixture):
    nfs.install(DEFAULTS)
    assert nfs.write_configuration(Settings(threads=3))
    assert "another hand" not in caplog.text
    assert files.is_untouched(nfs.CONFIGURATION.read_text())


def test_is_installed(host: Host):
    assert not nfs.is_installed()
    nfs.install(DEFAULTS)
    assert nfs.is_installed()


@pytest.mark.parametrize(("threads", "runs"), [(None, False), ("0\n", False), ("8\n", True)])
def test_is_running(host: Host, threads: str | None, runs: bool):
    if threads is not None:
        nfs.THREADS.parent.mkdir(parents=True)
        nfs.THREADS.write_text(threads)
    assert nfs.is_running() == runs


def test_ensure_running(host: Host):
    nfs.write_configuration(DEFAULTS)
    assert nfs.ensure_running(DEFAULTS)
    assert nfs.is_running()
    host.commands.clear()
    assert not nfs.ensure_running(DEFAULTS)
    assert host.commands == []


def test_ensure_running_fails(host: Host):
    nfs.write_configuration(DEFAULTS)
    host.fails = True
    with pytest.raises(nfs.NfsError, match=r"nfs-server.service does not start: .* it failed"):
        nfs.ensure_running(DEFAULTS)


def apply(settings: Settings) -> bool:
    nfs.write_configuration(settings)
    return nfs.ensure_running(settings)


def test_threads_change_without_a_restart(host: Host):
    apply(DEFAULTS)
    assert apply(Settings(threads=3))
    assert nfs.THREADS.read_text() == "3\n"
    assert host.starts == 1
    nfs.THREADS.write_text("1\n")  # Another hand's.
    assert apply(Settings(threads=3))
    assert nfs.THREADS.read_text() == "3\n"


@pytest.mark.parametrize("is_lockd_loaded", [False, True])
def test_nfsv3_comes_and_goes(host: Host, is_lockd_loaded: bool):
    nfs.install(DEFAULTS)
    port = nfs.LOCKD_PARAMETERS / "nlm_tcpport"
    if is_lockd_loaded:
        port.parent.mkdir(parents=True)
        port.write_text("0\n")
        (port.parent / "nlm_udpport").write_text("0\n")
    assert apply(V3)
    assert "+3" in nfs.VERSIONS.read_text()
    assert host.stopped == {"nfs-server.service", "nfs-mountd.service"}
    assert not is_lockd_loaded or port.read_text() == "32768\n"
    assert not apply(V3)
    assert apply(DEFAULTS)
    assert "-3" in nfs.VERSIONS.read_text()
    assert set(nfs.NFSV3_UNITS) < host.stopped
    assert not is_lockd_loaded or port.read_text() == "0\n"


def test_other_versions_by_another_hand(host: Host):
    apply(DEFAULTS)
    nfs.VERSIONS.write_text("-2 -3 +4 +4.1 +4.2\n")  # 4.0 is on.
    assert nfs.ensure_running(DEFAULTS)
    assert host.starts == 2


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
    nfs.install(DEFAULTS)
    nfs.remove(is_used_by_others=is_used_by_others)
    assert nfs.is_running() == is_used_by_others
    assert governed() == set()
    assert not nfs.CONFIGURATION.exists()
    assert not (machine.UNIT_DIRECTORY / nfs.MOUNTD_DROP_IN).exists()
    assert host.packages == {"nfs-kernel-server"}  # Others may use it.


def test_remove_when_the_package_is_gone(host: Host):
    nfs.install(DEFAULTS)
    host.packages.clear()
    nfs.EXPORTFS.unlink()
    nfs.remove(is_used_by_others=False)
    assert governed() == set()
    assert not nfs.CONFIGURATION.exists()
    assert not (machine.UNIT_DIRECTORY / nfs.MOUNTD_DROP_IN).exists()


def test_remove_again(host: Host):
    nfs.write_configuration(DEFAULTS)
    nfs.remove(is_used_by_others=False)
    nfs.remove(is_used_by_others=False)
    assert not nfs.CONFIGURATION.exists()

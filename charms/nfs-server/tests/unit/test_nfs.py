# SPDX-License-Identifier: Apache-2.0
"""The NFS server's package and service, on files in a temporary directory."""

import errno
import os
import re
import shutil
import stat
from ipaddress import ip_network
from pathlib import Path

import pytest

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
        self.others_settings: dict[str, str] = {}
        """What stands in files that are read after the charm's."""
        self.is_active = False
        """What systemd says of the service."""
        self.is_tracking = False
        """Whether nfs-server-tracking.service is at work."""
        self.packages: set[str] = set()
        self.started_with = ""
        """The settings that were there when the server first started."""
        self.fails = False
        self.has_module = True
        self.dpkg = ""
        """What dpkg-query says of the package."""

    def run(self, *argv: str, timeout_s: float = 60.0) -> str:
        self.commands.append(argv)
        if argv[0] == nfs.MODPROBE:
            if not self.has_module:
                raise machine.CommandError(argv, "exit status 1", "FATAL: Module nfsd not found")
            return ""
        if argv[0] == nfs.NFSCONF:
            assert argv[1:3] == ("--get", "nfsd")
            return f"{self._read_settings()[argv[3]]}\n"
        if argv[0] == nfs.DPKG_QUERY:
            if not self.dpkg:
                raise machine.CommandError(argv, "exit status 1", "no packages found")
            return self.dpkg
        assert argv[0] == machine.SYSTEMCTL
        verb, *units = argv[1:]
        if verb == "disable":
            assert units == ["--now", "nfs-server.service"]
            if not self.packages:
                raise machine.CommandError(argv, "exit status 1", "no such unit")
            nfs.THREADS.unlink()
            self.is_active = False
        elif verb == "stop":
            self.stopped.update(units)
            if "nfs-server.service" in units:
                nfs.THREADS.write_text("0\n")
                self.is_active = False
        elif units == ["nfs-server-tracking.service"]:
            assert verb == "start"
            if self.is_tracking:  # Its second command, which systemctl waits for.
                self._start(argv)
        elif verb in {"enable", "start", "restart"}:
            assert units[-1] == "nfs-server.service"
            # To start what is active already does nothing (systemctl(1)).
            if verb == "restart" or not self.is_active:
                self._start(argv)
        else:
            assert verb in {"daemon-reload", "reset-failed"}
        return ""

    def install(self, package: str) -> str:
        if self.fails:
            raise packages.PackagesError(f"{package} could not be installed: no candidate")
        self.packages.add(package)
        nfs.EXPORTFS.parent.mkdir(parents=True, exist_ok=True)
        nfs.EXPORTFS.touch()
        nfs.RPCBIND.touch()
        # As Debian's packages do, the service starts at once.
        self._start(())
        return "1:2.6.4-3ubuntu5"

    def _start(self, argv: tuple[str, ...]) -> None:
        if self.fails:
            raise machine.CommandError(argv, "exit status 1", "it failed")
        text = nfs.CONFIGURATION.read_text()
        self.started_with = self.started_with or text
        nfs.THREADS.parent.mkdir(parents=True, exist_ok=True)
        settings = self._read_settings()
        nfs.THREADS.write_text(settings["threads"] + "\n")
        three = "+3" if settings["vers3"] == "y" else "-3"
        nfs.VERSIONS.write_text(f"-2 {three} +4 -4.0 +4.1 +4.2\n")
        self.starts += 1
        self.is_active = True

    def _read_settings(self) -> dict[str, str]:
        lines = nfs.CONFIGURATION.read_text().splitlines()
        return dict(it.split("=") for it in lines if "=" in it[:10]) | self.others_settings


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    for module, name in (
        (nfs, "CONFIGURATION"),
        (nfs, "LOCKD_CONFIGURATION"),
        (nfs, "LOCKD_PARAMETERS"),
        (nfs, "THREADS"),
        (nfs, "VERSIONS"),
        (nfs, "CLIENTS"),
        (nfs, "FILESYSTEMS"),
        (nfs, "CONTAINER"),
        (nfs, "RMTAB"),
        (nfs, "EXPORTFS"),
        (nfs, "RPCBIND"),
        (nfs, "RPCBIND_IS_OURS"),
        (nfs, "RPCBIND_SOCKET"),
        (machine, "UNIT_DIRECTORY"),
        (machine, "INSTALLING"),
    ):
        monkeypatch.setattr(module, name, tmp_path / getattr(module, name).relative_to("/"))
    monkeypatch.setattr(machine, "_RELOAD_NEEDED", tmp_path / "reload-needed")
    fake = Host()
    monkeypatch.setattr(machine, "run", fake.run)
    monkeypatch.setattr(packages, "install", fake.install)
    return fake


def connect(client: int, address: str = "10.0.0.5", status: str = "confirmed") -> Path:
    path = nfs.CLIENTS / str(client)
    path.mkdir(parents=True)
    (path / "ctl").touch()
    (path / "info").write_text(INFO.format(address=f"{address}:867", status=status))
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


def test_install_leaves_rpcbind_to_its_users(host: Host):
    nfs.RPCBIND.parent.mkdir(parents=True)
    nfs.RPCBIND.touch()
    nfs.install(V3)
    assert governed() == set()
    nfs.write_configuration(DEFAULTS)
    nfs.ensure_running(DEFAULTS)
    assert not host.stopped & set(nfs.NFSV3_UNITS)


@pytest.mark.parametrize("is_used", [False, True])
def test_rpcbind_of_an_earlier_deployment_is_governed_again(host: Host, is_used: bool):
    """It came with the server, and stays with it: until somebody uses it, as after a boot."""
    nfs.install(V3)
    nfs.RPCBIND_SOCKET.parent.mkdir(parents=True)
    nfs.RPCBIND_SOCKET.touch()
    assert not nfs.write_configuration(V3)
    nfs.remove(is_used_by_others=False)
    assert governed() == set()
    assert host.stopped >= set(nfs.NFSV3_UNITS)
    if not is_used:
        nfs.RPCBIND_SOCKET.unlink()
    host.stopped.clear()
    nfs.write_configuration(DEFAULTS)
    nfs.ensure_running(DEFAULTS)
    units = {"rpcbind.service", "rpcbind.socket", "rpc-statd.service"}
    assert governed() == (set() if is_used else units)
    assert host.stopped == (set() if is_used else units)


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
    assert lines[-3:] == ["[Service]", "Restart=always", "RestartSec=1"]


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


@pytest.mark.parametrize("lost", ["CONFIGURATION", *nfs.UNITS])
def test_write_configuration_mends(host: Host, lost: str):
    nfs.install(DEFAULTS)
    path = nfs.CONFIGURATION if lost == "CONFIGURATION" else machine.UNIT_DIRECTORY / lost
    text = path.read_text()
    path.write_text(f"{text}something=else\n")
    assert nfs.write_configuration(DEFAULTS)
    assert path.read_text() == text


def test_a_disk_that_takes_nothing(host: Host, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object, **__: object) -> bool:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(machine, "write_atomically", fail)
    with pytest.raises(nfs.NfsError, match=r"can't be written: .*Read-only file system"):
        nfs.install(DEFAULTS)
    monkeypatch.setattr(Path, "unlink", fail)
    with pytest.raises(nfs.NfsError, match=r"settings stay: .*Read-only file system"):
        nfs.remove(is_used_by_others=False)


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("", ""),
        ("installed 1:2.6.4-3ubuntu5", "1:2.6.4-3ubuntu5"),
        ("config-files 1:2.6.4-3ubuntu5", ""),
    ],
)
def test_read_version(host: Host, said: str, version: str):
    host.dpkg = said
    assert nfs.read_version() == version


BUILT_IN = "nodev\tproc\n\text4\nnodev\tnfsd\n"
NOT_LOADED = "nodev\tproc\n\text4\nnodev\tnfs\n"
MACHINE = "juju deploy nfs-server --constraints virt-type=virtual-machine"


@pytest.mark.parametrize(
    ("filesystems", "has_module", "container", "is_served", "refusal"),
    [
        pytest.param(BUILT_IN, False, "", False, "", id="machine"),
        pytest.param(NOT_LOADED, True, "", False, "", id="before its module is loaded"),
        pytest.param(NOT_LOADED, False, "", False, "of this machine has no NFS server", id="none"),
        pytest.param(BUILT_IN, True, "lxc", False, r"from a container \(lxc\)", id="container"),
        pytest.param(BUILT_IN, True, "lxc", True, "", id="container that serves already"),
    ],
)
def test_find_refusal(
    host: Host, filesystems: str, has_module: bool, container: str, is_served: bool, refusal: str
):
    nfs.FILESYSTEMS.parent.mkdir(parents=True, exist_ok=True)
    nfs.FILESYSTEMS.write_text(filesystems)
    host.has_module = has_module
    if container:
        nfs.CONTAINER.parent.mkdir(parents=True)
        nfs.CONTAINER.write_text(f"{container}\n")
    if is_served:
        nfs.THREADS.parent.mkdir(parents=True)
        nfs.THREADS.write_text("0\n")
    found = nfs.find_refusal()
    assert re.search(f"^The kernel .*{refusal}: {MACHINE}$", found) if refusal else found == ""


def test_is_installed(host: Host):
    assert not nfs.is_installed()
    nfs.install(DEFAULTS)
    assert nfs.is_installed()
    machine.write_atomically(machine.installing(nfs.PACKAGE), "")
    assert not nfs.is_installed()


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


@pytest.mark.parametrize("settings", [DEFAULTS, V3])
def test_nfsv3_ends_also_where_the_server_was_stopped_meanwhile(host: Host, settings: Settings):
    """By a hook that was killed between the two, or by another hand."""
    nfs.install(V3)
    nfs.THREADS.write_text("0\n")
    host.is_active = False
    nfs.write_configuration(settings)
    nfs.ensure_running(settings)
    assert host.stopped == ({*nfs.NFSV3_UNITS} if settings == DEFAULTS else set())


def test_threads_that_another_hand_ended(host: Host):
    """By `rpc.nfsd 0`: to systemd the service is active still."""
    apply(DEFAULTS)
    nfs.THREADS.write_text("0\n")
    assert nfs.ensure_running(DEFAULTS)
    assert nfs.is_running()


def test_a_start_that_is_not_over_yet(host: Host):
    """At boot: a second start would take from clients the time they have to claim their locks."""
    apply(DEFAULTS)
    nfs.THREADS.write_text("0\n")  # nfs-server-tracking.service has said `rpc.nfsd 0`.
    host.is_tracking = True
    host.commands.clear()
    assert nfs.ensure_running(DEFAULTS)
    assert nfs.is_running()
    assert not [command for command in host.commands if "restart" in command]


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


def test_settings_of_others_that_come_after_ours(host: Host):
    """A restart would make clients wait at every event, and change nothing."""
    host.others_settings = {"vers3": "y"}
    apply(DEFAULTS)
    for _ in range(2):
        with pytest.raises(nfs.NfsError, match="vers3=y: take it out of"):
            nfs.ensure_running(DEFAULTS)
    assert host.starts == 1
    host.others_settings = {}
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
    (nfs.CLIENTS / "8").mkdir()  # It has just left.
    (nfs.CLIENTS / "9").mkdir()
    os.mknod(nfs.CLIENTS / "9/info", stat.S_IFSOCK)  # And this one: ENXIO, as there.
    assert list(map(str, nfs.read_clients())) == ["10.0.0.5", "10.0.0.7", "fd00::5"]


def test_wait_for_clients_to_leave(host: Host, monkeypatch: pytest.MonkeyPatch):
    assert nfs.wait_for_clients_to_leave(timeout_s=0.0)
    client = connect(3)
    assert not nfs.wait_for_clients_to_leave(timeout_s=0.0)
    assert not nfs.wait_for_clients_to_leave([ip_network("10.0.0.0/24")], 0.0)
    assert nfs.wait_for_clients_to_leave([ip_network("10.0.1.0/24")], 0.0)
    assert nfs.wait_for_clients_to_leave([], 0.0)
    monkeypatch.setattr(nfs.time, "sleep", lambda _: shutil.rmtree(client))
    assert nfs.wait_for_clients_to_leave()


def test_silent_clients_are_not_waited_for(host: Host):
    connect(3, status="courtesy")
    assert nfs.wait_for_clients_to_leave(timeout_s=0.0)


# As a kernel 6.1 writes them.
OPEN = (
    "- 0x00000001e5d5056bd44adaa309000000: {{ type: open, access: rw, deny: --, "
    'superblock: "{device}:12", filename: "/f", owner: "open id:\\x00\\x1f" }}\n'
)
LOCK = (
    '- 0x00000001e5d5056bd54adaa30a000000: {{ type: lock, superblock: "{device}:12", '
    'filename: "/f", owner: "lock id:\\x00" }}\n'
)
DELEGATION = (
    "- 0x00000001e5d5056bd44adaa30a000000: {{ type: deleg, access: r, "
    'superblock: "{device}:12", filename: "/f" }}\n'
)
OTHER = "07:99"


@pytest.fixture
def share(host: Host, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Mount a share."""
    monkeypatch.setattr(machine, "MOUNTINFO", tmp_path / "mountinfo")
    machine.MOUNTINFO.write_text(f"40 22 7:0 / {tmp_path} rw - ext4 /dev/loop0 rw\n")
    return tmp_path


def here(share: Path) -> str:
    device = share.stat().st_dev
    return f"{os.major(device):02x}:{os.minor(device):02x}"


def hold(client: int, *states: str) -> None:
    (nfs.CLIENTS / str(client) / "states").write_text("".join(states))


def test_holders(share: Path):
    assert nfs.holders(share) == ()
    for number in range(1, 8):
        connect(number, f"10.0.0.{number}", "courtesy" if number == 5 else "confirmed")
    device = here(share)
    hold(1, OPEN.format(device=device), DELEGATION.format(device=OTHER), LOCK.format(device=OTHER))
    hold(2, OPEN.format(device=OTHER), LOCK.format(device=OTHER))
    hold(3, LOCK.format(device=device))
    hold(4, "")
    hold(5, DELEGATION.format(device=device))
    # Of what a client chooses, nothing hides what it holds, or gives it to another.
    hold(6, OPEN.format(device=OTHER).replace("/f", f'/x\\" superblock: \\"{device}:1'))
    found = {str(it.address): it for it in nfs.holders(share)}
    assert set(found) == {"10.0.0.1", "10.0.0.3", "10.0.0.5"}
    assert {address for address, it in found.items() if it.has_locks} == {"10.0.0.3"}
    assert {address for address, it in found.items() if it.is_elsewhere} == {"10.0.0.1"}
    assert {address for address, it in found.items() if it.is_silent} == {"10.0.0.5"}
    machine.MOUNTINFO.write_text("")
    assert nfs.holders(share) == ()


def test_expire_takes_nothing_from_others(share: Path):
    for number in 1, 2, 3, 4:
        connect(number, f"10.0.0.{number}")
        hold(number, OPEN.format(device=OTHER if number == 2 else here(share)))
    holders = nfs.holders(share)
    shutil.rmtree(nfs.CLIENTS / "3")  # It has left meanwhile.
    (nfs.CLIENTS / "4/ctl").unlink()
    os.mknod(nfs.CLIENTS / "4/ctl", stat.S_IFSOCK)  # And this one: ENXIO, as there.
    nfs.expire(holders)
    assert (nfs.CLIENTS / "1/ctl").read_text() == "expire\n"
    assert (nfs.CLIENTS / "2/ctl").read_text() == ""


def test_nfsv3_clients(host: Host):
    where = Path("/srv/nfs/data")
    assert nfs.nfsv3_clients(where) == ()
    nfs.RMTAB.parent.mkdir(parents=True)
    nfs.RMTAB.write_bytes(
        b"10.0.0.5:/srv/nfs/data:0x00000001\n"
        b"10.0.0.5:/srv/nfs/data/below:0x00000001\n"
        b"fd00::5:/srv/nfs/data:0x00000002\n"
        b"10.0.0.6:/srv/nfs/database:0x00000001\n"
        b"caf\xe9:/srv/nfs/data:0x00000001\n"
        b"torn line\n"
    )
    assert nfs.nfsv3_clients(where) == ("10.0.0.5", "caf\udce9", "fd00::5")


@pytest.mark.parametrize("is_used_by_others", [False, True])
def test_remove(host: Host, is_used_by_others: bool):
    nfs.install(DEFAULTS)
    nfs.remove(is_used_by_others=is_used_by_others)
    assert nfs.is_running() == is_used_by_others
    assert governed() == set()
    assert not nfs.CONFIGURATION.exists()
    assert not any((machine.UNIT_DIRECTORY / it).exists() for it in nfs.UNITS)
    assert host.packages == {"nfs-kernel-server"}  # Others may use it.


def test_remove_when_the_package_is_gone(host: Host):
    nfs.install(DEFAULTS)
    host.packages.clear()
    nfs.EXPORTFS.unlink()
    nfs.remove(is_used_by_others=False)
    assert governed() == set()
    assert not nfs.CONFIGURATION.exists()
    assert not any((machine.UNIT_DIRECTORY / it).exists() for it in nfs.UNITS)


def test_remove_again(host: Host):
    nfs.write_configuration(DEFAULTS)
    nfs.remove(is_used_by_others=False)
    nfs.remove(is_used_by_others=False)
    assert not nfs.CONFIGURATION.exists()

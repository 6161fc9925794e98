# SPDX-License-Identifier: Apache-2.0
"""What the kernel's files say, as kernels 5.15 to 6.12 write them."""

import os
import stat
from pathlib import Path

import pytest

import kernel

RPC = """\
rc 12 3400 56000
fh 7 0 0 0 0
io 104857600 524288000
th 8 0 0.000 0.000 0.000 0.000 0.000 0.000 0.000 0.000 0.000 0.000
ra 32 0 0 0 0 0 0 0 0 0 0 0
net 60000 5 59995 42
rpc 59400 6 1 2 3
proc3 22 1 10 0 0 0 0 300 200 0 0 0 0 0 0 0 0 0 0 0 0 0 0
proc4 2 4 59000
proc4ops 78 0 0 0 500 40 3 0 0 2 700 0 0 0 0 0 0 0 0 41 0 0 0 900 0 1 800 0 0 0 0 0 0 0 0 5 0 0 \
0 600 0 0 0 2 1 0 0 0 0 0 0 0 0 0 59000 0 0 0 0 1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 9
wdeleg_getattr 0
"""
EXPORT_STATS = """\
#path domain start-time
#\tstats
/srv/nfs/data_aaa\t10.0.0.5\t1700000000
\tfh_stale: 2
\tio_read: 4096
\tio_write: 8192

# /srv/nfs/data_aaa\t10.0.0.6\t1700000100
\tfh_stale: 0
\tio_read: 1
\tio_write: 2

/srv/nfs\t10.0.0.0/24,10.0.1.0/24\t1700000000
\tfh_stale: 0
\tio_read: 0
\tio_write: 0
/a\\040b\t*\t1700000000
"""
POOL_STATS = """\
# pool packets-arrived sockets-enqueued threads-woken overloads-avoided threads-timedout
0 100 200 150 0 0
1 10 20 15 0 0
"""
INFO = """\
clientid: 0x3d0ad9f065f1c3a7
address: "10.0.0.5:867"
status: confirmed
seconds from last renew: {silent}
name: "Linux NFSv4.2 host"
minor version: 2
"""
OPEN = (
    "- 0x00000001e5d5056bd44adaa309000000: { type: open, access: rw, deny: --, "
    'superblock: "07:00:12", filename: "/f", owner: "open id:\\x00\\x1f" }\n'
)
LOCK = (
    '- 0x00000001e5d5056bd54adaa30a000000: { type: lock, superblock: "07:01:12", '
    'filename: "/f", owner: "lock id:\\x00" }\n'
)


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RPC", "NFSD", "LOOP_DEVICES", "EXT4_STATE", "EXT4_OPTIONS"):
        monkeypatch.setattr(kernel, name, tmp_path / getattr(kernel, name).relative_to("/"))
        getattr(kernel, name).parent.mkdir(parents=True, exist_ok=True)
    kernel.NFSD.mkdir()
    return tmp_path


@pytest.mark.usefixtures("files")
def test_without_the_module():
    assert kernel.read_rpc() == kernel.RpcStatistics({})
    assert kernel.read_rpc().threads == 0
    assert kernel.read_versions() == ()
    assert kernel.read_lease_seconds() is None
    assert kernel.read_pools() == {}
    assert kernel.read_exports() is None
    assert kernel.read_clients() == ()
    assert kernel.read_loops() == {}


@pytest.mark.usefixtures("files")
def test_rpc():
    kernel.RPC.write_text(RPC)
    found = kernel.read_rpc()
    assert found.threads == 8
    assert (found.get("io", 1), found.get("rc", 2), found.get("rpc", 4)) == (524288000, 56000, 3)
    assert (found.get("io", 2), found.get("nothing", 0)) == (None, None)
    requests = {(proto, method): count for proto, method, count in found.requests()}
    assert requests["3", "Read"] == 300
    assert requests["3", "Write"] == 200
    assert requests["4", "Access"] == 500
    assert requests["4", "Read"] == 800
    assert requests["4", "Write"] == 600
    assert requests["4", "Sequence"] == 59000
    assert requests["4", "ReclaimComplete"] == 1
    # What no name is known for is left out, and so is what was never asked.
    assert 9 not in requests.values()
    assert ("3", "MkDir") not in requests


def test_the_numbers_of_operations():
    """RFC 8881, section 18, and 7862, section 15: some of each."""
    names = kernel._NAMES["proc4ops"].split()  # pyright: ignore[reportPrivateUsage]
    some = {"Access": 3, "Open": 18, "Read": 25, "Write": 38, "Sequence": 53, "Allocate": 59}
    some |= {"Clone": 71, "RemoveXattr": 75}
    assert {name: names.index(name) for name in some} == some
    assert len(kernel._NAMES["proc3"].split()) == 22  # pyright: ignore[reportPrivateUsage]


@pytest.mark.usefixtures("files")
def test_nfsd():
    (kernel.NFSD / "versions").write_text("-2 -3 +4 -4.0 +4.1 +4.2\n")
    (kernel.NFSD / "nfsv4leasetime").write_text("45\n")
    (kernel.NFSD / "pool_stats").write_text(POOL_STATS)
    assert kernel.read_versions() == ("4.1", "4.2")
    assert kernel.read_lease_seconds() == 45
    pools = kernel.read_pools()
    assert (pools["sockets-enqueued"], pools["threads-woken"]) == (220, 165)


@pytest.mark.usefixtures("files")
def test_exports():
    (kernel.NFSD / "export_stats").write_text(EXPORT_STATS)
    found = kernel.read_exports()
    assert found
    data = kernel.ExportStatistics("/srv/nfs/data_aaa", "10.0.0.5", 1700000000, 2, 4096, 8192)
    assert found[0] == data
    assert [(it.path, it.read_bytes) for it in found[1:]] == [
        ("/srv/nfs/data_aaa", 1),
        ("/srv/nfs", 0),
        ("/a\\040b", 0),
    ]


@pytest.mark.usefixtures("files")
def test_clients():
    def connect(number: int, info: str, states: str) -> None:
        client = kernel.NFSD / f"clients/{number}"
        client.mkdir(parents=True)
        (client / "info").write_text(info)
        (client / "states").write_text(states)

    connect(1, INFO.format(silent=3), OPEN + LOCK + OPEN)
    connect(2, INFO.format(silent=46), "")
    connect(3, INFO.replace("seconds from last renew: {silent}\n", ""), LOCK)
    (kernel.NFSD / "clients/4").mkdir()  # It is just leaving.
    # Of what a client chooses, nothing gives what it holds to another file system.
    connect(5, INFO.format(silent=0), OPEN.replace("/f", '/x\\" superblock: \\"07:09:1'))
    assert kernel.read_clients() == (
        kernel.Client(3, {"open": 2, "lock": 1}, frozenset({"07:00", "07:01"})),
        kernel.Client(46, {}, frozenset()),
        kernel.Client(None, {"lock": 1}, frozenset({"07:01"})),
        kernel.Client(0, {"open": 1}, frozenset({"07:00"})),
    )


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize("left", ["info", "states"])
def test_a_client_that_leaves_while_it_is_read(left: str):
    for number in 1, 2:
        client = kernel.NFSD / f"clients/{number}"
        client.mkdir(parents=True)
        (client / "info").write_text(INFO.format(silent=0))
        (client / "states").write_text(OPEN)
    (kernel.NFSD / "clients/1" / left).unlink()
    os.mknod(kernel.NFSD / "clients/1" / left, stat.S_IFSOCK)  # Opened, it is ENXIO as there.
    assert kernel.read_clients()[-1] == kernel.Client(0, {"open": 1}, frozenset({"07:00"}))


@pytest.mark.usefixtures("files")
def test_a_client_with_very_many_files(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(kernel, "MAX_STATES_LENGTH", 2 * len(OPEN))
    client = kernel.NFSD / "clients/1"
    client.mkdir(parents=True)
    (client / "info").write_text(INFO.format(silent=0))
    (client / "states").write_text(OPEN * 3)
    (found,) = kernel.read_clients()
    assert found.states == {"open": 2}


def test_loops(files: Path):
    for name, text in {
        "loop0/dev": "7:0\n",
        "loop0/loop/backing_file": "/storage/a b.img\n",
        "loop1/dev": "7:1\n",  # It has no file.
        "loop300/dev": "7:300\n",
        "loop300/loop/backing_file": "/storage/c.img (deleted)\n",
    }.items():
        path = kernel.LOOP_DEVICES / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (kernel.EXT4_STATE / "loop300").mkdir(parents=True)
    (kernel.EXT4_STATE / "loop300/errors_count").write_text("2\n")
    (kernel.EXT4_OPTIONS / "loop300").mkdir(parents=True)
    (kernel.EXT4_OPTIONS / "loop300/options").write_text("ro\ndiscard\n")
    found = kernel.read_loops()
    assert found == {
        "/dev/loop0": kernel.Loop("/storage/a b.img", os.makedev(7, 0), 0, False),
        "/dev/loop300": kernel.Loop("/storage/c.img (deleted)", os.makedev(7, 300), 2, True),
    }
    assert kernel.device_name(found["/dev/loop300"].number) == "07:12c"
    assert found["/dev/loop0"].number == 0x700

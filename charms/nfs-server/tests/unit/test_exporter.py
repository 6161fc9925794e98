# SPDX-License-Identifier: Apache-2.0
"""What is told as metrics, of a machine whose files are made up."""

import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from test_kernel import EXPORT_STATS, INFO, OPEN, POOL_STATS, RPC

import exporter
import kernel
import metrics
import monitoring
from monitoring import Facts, ShareFacts
from nfs_charms import machine

DATA = "/srv/nfs/data_aaa"
APPLICATIONS = 'my-app,a "b" \\'


class Host:
    """A machine with one share, `/data`; this computer's disk stands for the loop device."""

    def __init__(self, tmp_path: Path):
        self.path = tmp_path
        self.where = tmp_path / "mnt"
        self.image = tmp_path / "data.img"
        self.where.mkdir()
        self.image.write_bytes(b"x" * 8192)
        self.mount()
        kernel.RPC.write_text(RPC)
        for name, text in {
            "versions": "-2 -3 +4 -4.0 +4.1 +4.2\n",
            "nfsv4leasetime": "45\n",
            "pool_stats": POOL_STATS,
            "export_stats": EXPORT_STATS.replace(DATA, str(self.where)),
        }.items():
            (kernel.NFSD / name).write_text(text)
        exporter.ETAB.write_text(f"{self.where}\t10.0.0.5(rw,sync)\n/x\t*(ro)\n")
        self.tell()

    def mount(self) -> None:
        """Have the share mounted; read-only, as the exporter sees what is mounted anywhere."""
        device = self.where.stat().st_dev
        loop = kernel.LOOP_DEVICES / "loop0"
        (loop / "loop").mkdir(parents=True, exist_ok=True)
        (loop / "dev").write_text(f"{os.major(device)}:{os.minor(device)}\n")
        (loop / "loop/backing_file").write_text(f"{self.image}\n")
        self.device = f"{os.major(device):02x}:{os.minor(device):02x}"
        line = f"40 22 7:0 / {self.where} ro - ext4 /dev/loop0 rw\n"
        machine.MOUNTINFO.write_text(line)

    def tell(self, **facts: object) -> None:
        """Write what the charm writes."""
        share = ShareFacts(
            "/data", str(self.where), str(self.image), APPLICATIONS, is_requested=True
        )
        known: dict[str, object] = {
            "storage": str(self.path),
            "reserve_bytes": 2**30,
            "allocated_bytes": 8192,
            "shares": (share,),
        }
        told = Facts(**{**known, **facts})  # pyright: ignore[reportArgumentType]
        monitoring.FACTS.write_text(json.dumps(asdict(told)))

    def connect(self, number: int, silent_s: int, states: str = "") -> None:
        """Have a client."""
        client = kernel.NFSD / f"clients/{number}"
        client.mkdir(parents=True)
        (client / "info").write_text(INFO.format(silent=silent_s))
        (client / "states").write_text(states)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    files = [
        *(
            (kernel, name)
            for name in ("RPC", "NFSD", "LOOP_DEVICES", "EXT4_STATE", "EXT4_OPTIONS")
        ),
        *((monitoring, name) for name in ("FACTS", "HELD")),
        (exporter, "ETAB"),
        (machine, "MOUNTINFO"),
    ]
    for module, name in files:
        monkeypatch.setattr(module, name, tmp_path / getattr(module, name).relative_to("/"))
        getattr(module, name).parent.mkdir(parents=True, exist_ok=True)
    kernel.NFSD.mkdir()
    return Host(tmp_path)


@pytest.fixture
def collector() -> exporter.ServerCollector:
    return exporter.ServerCollector()


def told(collector: exporter.ServerCollector) -> dict[str, float]:
    """What a scrape says, by name and labels."""
    return {
        f"{sample.name}{sample.labels or ''}": sample.value
        for family in collector.collect()
        for sample in family.samples
    }


def of_share(collector: exporter.ServerCollector) -> dict[str, float]:
    """What a scrape says of the share."""
    return {
        sample.name.removeprefix("nfs_share_"): sample.value
        for family in collector.collect()
        for sample in family.samples
        if sample.labels.get("share") == "/data"
    }


def test_a_share(host: Host, collector: exporter.ServerCollector):
    host.connect(1, 0, OPEN.replace("07:00", host.device))
    host.connect(2, 0, OPEN.replace("07:00", "63:63"))
    df = os.statvfs(host.where)
    found = of_share(collector)
    assert found.pop("used_bytes") == pytest.approx(
        (df.f_blocks - df.f_bfree) * df.f_frsize, rel=0.01
    )
    assert found.pop("available_bytes") == pytest.approx(df.f_bavail * df.f_frsize, rel=0.01)
    assert found.pop("used_inodes") == pytest.approx(df.f_files - df.f_ffree, rel=0.01)
    assert found.pop("inodes") == pytest.approx(df.f_files, rel=0.01)
    assert found == {
        "info": 1,
        "size_bytes": df.f_blocks * df.f_frsize,
        "image_size_bytes": 8192,
        "image_allocated_bytes": host.image.stat().st_blocks * 512,
        "sparse": 0,
        "requested": 1,
        "mounted": 1,
        "exported": 1,
        "answering": 1,
        "read_only": 0,
        "filesystem_errors": 0,
        "clients": 1,
        "read_bytes_total": 0,
        "written_bytes_total": 0,
        "stale_handles_total": 0,
    }
    assert len(found) + 4 <= 20


def test_a_share_that_is_not_mounted(host: Host, collector: exporter.ServerCollector):
    """What lies below it is the machine's own disk, and nobody asks that."""
    machine.MOUNTINFO.write_text("")
    exporter.ETAB.write_text("")
    (kernel.NFSD / "export_stats").unlink()
    assert of_share(collector) == {
        "info": 1,
        "image_size_bytes": 8192,
        "image_allocated_bytes": host.image.stat().st_blocks * 512,
        "sparse": 0,
        "requested": 1,
        "mounted": 0,
        "exported": 0,
        "answering": 1,
    }
    host.image.unlink()
    assert "image_size_bytes" not in of_share(collector)


@pytest.mark.parametrize("is_other_image", [True, False])
def test_another_is_mounted_there(
    host: Host, collector: exporter.ServerCollector, is_other_image: bool
):
    """Another image, or, of late, another device than the kernel's table had."""
    loop = kernel.LOOP_DEVICES / "loop0"
    if is_other_image:
        (loop / "loop/backing_file").write_text("/other.img\n")
    else:
        (loop / "dev").write_text("7:99\n")
    found = of_share(collector)
    assert found["mounted"] == (not is_other_image)
    assert "size_bytes" not in found


@pytest.mark.usefixtures("host")
def test_a_file_system_with_errors(collector: exporter.ServerCollector):
    (kernel.EXT4_OPTIONS / "loop0").mkdir(parents=True)
    (kernel.EXT4_OPTIONS / "loop0/options").write_text("ro\n")
    (kernel.EXT4_STATE / "loop0").mkdir(parents=True)
    (kernel.EXT4_STATE / "loop0/errors_count").write_text("2\n")
    found = of_share(collector)
    assert (found["read_only"], found["filesystem_errors"]) == (1, 2)


def test_a_unit(host: Host, collector: exporter.ServerCollector):
    host.connect(1, 45, OPEN * 2)
    host.connect(2, 46)
    monitoring.HELD.touch()
    os.utime(monitoring.HELD, (1700000000, 1700000000))
    found = told(collector)
    kernel_release = os.uname().release
    assert found[f"nfs_server_info{ {'kernel': kernel_release, 'versions': '4.1,4.2'} }"] == 1
    assert found[f"nfs_share_info{ {'share': '/data', 'application': APPLICATIONS} }"] == 1
    assert found["nfs_server_up"] == 1
    assert found["nfs_server_shares"] == 1
    assert found["nfs_server_storage_reserve_bytes"] == 2**30
    assert found["nfs_server_storage_allocated_bytes"] == 8192
    assert found["nfs_server_storage_on_root_disk"] == 0
    assert found["nfs_server_storage_size_bytes"] > found["nfs_server_storage_free_bytes"] > 0
    assert found["nfs_server_clients{'state': 'active'}"] == 1
    assert found["nfs_server_clients{'state': 'silent'}"] == 1
    assert found["nfs_server_client_states{'type': 'open'}"] == 2
    assert found["nfs_server_client_states{'type': 'lock'}"] == 0
    assert found["nfs_server_lease_seconds"] == 45
    assert found["nfs_server_requests_queued_total"] == 220
    assert found["nfs_server_threads_woken_total"] == 165
    assert found["nfs_server_last_hook_timestamp_seconds"] == 1700000000
    assert found["node_nfsd_server_threads"] == 8
    assert found["node_nfsd_server_rpcs_total"] == 59400
    assert found["node_nfsd_rpc_errors_total{'error': 'auth'}"] == 2
    assert found["node_nfsd_disk_bytes_written_total"] == 524288000
    assert found["node_nfsd_requests_total{'proto': '4', 'method': 'Write'}"] == 600
    assert found["node_nfsd_packets_total{'proto': 'tcp'}"] == 59995


def test_a_unit_without_anything(host: Host, collector: exporter.ServerCollector):
    """No storage, no nfsd, and no word of the charm."""
    kernel.RPC.unlink()
    for path in kernel.NFSD.iterdir():
        path.unlink()
    monitoring.FACTS.unlink()
    found = told(collector)
    info = f"nfs_server_info{ {'kernel': os.uname().release, 'versions': ''} }"
    assert found == {info: 1, "nfs_server_up": 0, "nfs_server_shares": 0}
    host.tell(storage="/nowhere", shares=())
    assert told(collector) == found


def test_facts_of_another_revision(host: Host, collector: exporter.ServerCollector):
    facts = json.loads(monitoring.FACTS.read_text())
    facts["new"] = facts["shares"][0]["new"] = 1
    del facts["shares"][0]["is_sparse"]
    monitoring.FACTS.write_text(json.dumps(facts))
    assert of_share(collector)["sparse"] == 0
    assert host.image.exists()


def test_each_metric_is_told_and_no_other(host: Host, collector: exporter.ServerCollector):
    host.connect(1, 0)
    monitoring.HELD.touch()
    families = list(collector.collect())
    names = {sample.name for family in families for sample in family.samples}
    assert names == {metric.name for metric in metrics.ALL}
    for metric in metrics.ALL:
        assert metric.name.startswith(("nfs_share_", "nfs_server_", "node_nfsd_"))
        assert metric.help.endswith(".")


def _entry(
    domain: str = "c", start: int = 1, *, read: int = 0, written: int = 0
) -> kernel.ExportStatistics:
    return kernel.ExportStatistics(DATA, domain, start, 0, read, written)


def test_what_the_kernel_counts_anew_goes_on():
    totals = exporter.Totals()

    def read(*entries: kernel.ExportStatistics) -> int:
        return totals.add(entries)[DATA]["read"]

    assert read(_entry(read=100)) == 0  # Before the exporter was there.
    assert read(_entry(read=130)) == 30
    assert read(_entry(read=130), _entry("d", read=5)) == 35
    assert read(_entry(start=2, read=7)) == 42  # exportfs -r: the entries are new.
    assert read(_entry(start=2, read=3)) == 45  # Twice within a second.
    assert totals.add([])[DATA]["read"] == 45
    assert read(_entry(start=3, read=1)) == 46


def test_who_does_not_answer_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(exporter, "ANSWER_TIMEOUT_S", 0.1)
    release = threading.Event()
    asked: list[str] = []

    def ask(question: exporter.Question) -> exporter.Answer:
        asked.append(question.name)
        if question.name in ("b", "d"):
            release.wait()
        return exporter.Answer()

    asker = exporter.Asker(ask)
    questions = [exporter.Question(name) for name in "abcde"]
    answers = {"a": {}, "b": None, "c": {}, "d": None, "e": {}}
    assert asker.ask(questions) == answers
    asked.clear()
    # They are not asked again while they have not answered.
    started = time.monotonic()
    assert asker.ask(questions) == answers
    assert asked == ["a", "c", "e"]
    assert time.monotonic() - started < 5
    monkeypatch.setattr(exporter, "MAX_WAITING", 2)
    assert asker.ask([exporter.Question("f")]) == {"b": None, "d": None}
    release.set()
    for thread in list(asker._waiting.values()):  # pyright: ignore[reportPrivateUsage]
        thread.join()
    assert asker.ask(questions) == {key: {} for key in "abcde"}


def test_a_disk_that_fails():
    def ask(question: exporter.Question) -> exporter.Answer:
        if question.name == "b":
            raise OSError(errno.EIO, "Input/output error")
        return exporter.Answer()

    answers = exporter.Asker(ask).ask(map(exporter.Question, "abc"))
    assert answers == {"a": {}, "b": None, "c": {}}


def test_the_time_for_all(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(exporter, "ANSWER_TIMEOUT_S", 0.05)
    monkeypatch.setattr(exporter, "ALL_ANSWERS_TIMEOUT_S", 0.2)
    release = threading.Event()

    def ask(_: exporter.Question) -> exporter.Answer:
        release.wait()
        return exporter.Answer()

    asker = exporter.Asker(ask)
    answers = asker.ask([exporter.Question(str(number)) for number in range(1000)])
    waiting = asker._waiting  # pyright: ignore[reportPrivateUsage]
    assert 0 < len(waiting) < 10
    assert answers == dict.fromkeys(waiting)  # Of the others nothing is known.
    release.set()
    for thread in waiting.values():
        thread.join()


@pytest.mark.parametrize("is_asked", [True, False])
def test_a_share_that_does_not_answer(
    host: Host,
    collector: exporter.ServerCollector,
    monkeypatch: pytest.MonkeyPatch,
    is_asked: bool,
):
    answers = {"/data": None} if is_asked else {}
    monkeypatch.setattr(exporter.Asker, "ask", lambda *_: answers)
    found = of_share(collector)
    assert host.image.exists()
    assert (found.get("answering"), found["mounted"]) == (0 if is_asked else None, 1)
    assert "size_bytes" not in found


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        yield found


def _scrape(listener: socket.socket) -> str:
    address, port = listener.getsockname()
    with urllib.request.urlopen(f"http://{address}:{port}/metrics", timeout=20) as said:
        return said.read().decode()


@pytest.mark.usefixtures("host")
def test_it_is_asked_by_http(listener: socket.socket):
    server = exporter.new_server(listener)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        # Who says nothing keeps nobody waiting.
        with socket.create_connection(listener.getsockname()):
            families = {it.name: it for it in text_string_to_metric_families(_scrape(listener))}
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    labels = families["nfs_share_info"].samples[0].labels
    assert labels == {"share": "/data", "application": APPLICATIONS}


def test_it_runs_as_systemd_starts_it(listener: socket.socket):
    own = Path(exporter.__file__)
    library = str(Path(machine.__file__).parent.parent)
    process = subprocess.Popen(
        [sys.executable, "-B", str(own)],
        env={"PYTHONPATH": library},
        close_fds=False,
        preexec_fn=lambda: os.dup2(listener.fileno(), exporter.LISTENER),
    )
    try:
        assert "\nnfs_server_up " in _scrape(listener)
    finally:
        process.terminate()
        process.wait()

# SPDX-License-Identifier: Apache-2.0
"""The exporter: reads the machine when it is asked, and tells it as metrics. A process of its own.

It runs no command. What could wait for a disk, each share's file system and image, is asked in
another thread with a deadline: one that does not answer is told as that, and the others as ever.
"""

import contextlib
import os
import socket
import stat
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path

from prometheus_client import CollectorRegistry, MetricsHandler
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import kernel
import metrics
import monitoring
from kernel import ETAB, Space
from monitoring import Facts, ShareFacts
from nfs_charms import machine

# Of one share, and of all together: a scrape has 10 s by default.
ANSWER_TIMEOUT_S = 1.0
ALL_ANSWERS_TIMEOUT_S = 4.0
# Threads that wait for what doesn't answer; each may stay for good.
MAX_WAITING = 16
# What a connection may take to say what it wants.
REQUEST_TIMEOUT_S = 5
# systemd's first one (sd_listen_fds(3)).
LISTENER = 3

Labels = tuple[str, ...]
Samples = dict[str, list[tuple[Labels, float]]]
"""Values by name of the metric, each with its labels."""


@dataclass(frozen=True)
class Question:
    """What is to be asked of a disk, and may take long."""

    name: str
    where: str = ""
    """A mounted file system; empty: it is not mounted."""
    device: int = 0
    """What is to be mounted there."""
    image: str = ""


Answer = dict[str, float]
"""What was found, by what follows `nfs_share_` in a metric's name."""


def ask(question: Question) -> Answer:
    """Ask a file system and the storage; who isn't there says nothing."""
    found: Answer = {}
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if question.where and (space := _ask_file_system(question.where, question.device)):
            found |= asdict(space)
        if question.image:
            image = os.stat(question.image, follow_symlinks=False)
            if stat.S_ISREG(image.st_mode):
                found["image_size_bytes"] = image.st_size
                found["image_allocated_bytes"] = image.st_blocks * 512
    return found


def _ask_file_system(where: str, device: int) -> Space | None:
    """Ask what is mounted at a place, if it is that device: it may be unmounted at any moment."""
    descriptor = os.open(where, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if device and os.fstat(descriptor).st_dev != device:
            return None
        return kernel.space(os.fstatvfs(descriptor))
    finally:
        os.close(descriptor)


class _Round(threading.Thread):
    """Asks one after the other; the first that is left is the one that is being asked."""

    def __init__(self, left: Collection[Question], ask: Callable[[Question], Answer]):
        super().__init__(daemon=True)
        self.left = list(left)
        self.found: dict[str, Answer | None] = {}
        self.is_given_up = False
        self._ask = ask

    def run(self) -> None:
        while self.left and not self.is_given_up:
            # What can't be read, as from a disk that fails, is no answer either.
            self.found[self.left[0].name] = None
            with contextlib.suppress(OSError):
                self.found[self.left[0].name] = self._ask(self.left[0])
            del self.left[0]


class Asker:
    """Asks with a deadline, and asks nothing twice while the first time has no answer."""

    def __init__(self, ask: Callable[[Question], Answer] = ask):
        self._ask = ask
        self._waiting: dict[str, threading.Thread] = {}

    def ask(self, questions: Iterable[Question]) -> dict[str, Answer | None]:
        """Ask all; None for who does not answer in time, nothing for who could not be asked."""
        self._waiting = {name: it for name, it in self._waiting.items() if it.is_alive()}
        left = [it for it in questions if it.name not in self._waiting]
        deadline = time.monotonic() + ALL_ANSWERS_TIMEOUT_S
        found: dict[str, Answer | None] = dict.fromkeys(self._waiting)
        while left and len(self._waiting) < MAX_WAITING and time.monotonic() < deadline:
            asking = _Round(left, self._ask)
            asking.start()
            while asking.is_alive() and time.monotonic() < deadline:
                before = len(asking.left)
                asking.join(ANSWER_TIMEOUT_S)
                if len(asking.left) == before:
                    break
            asking.is_given_up = True
            left = list(asking.left)
            found |= dict(asking.found)
            if left and asking.is_alive():
                self._waiting[left.pop(0).name] = asking
        return found


class Totals:
    """What was done through exports since the exporter started, by path.

    The kernel counts for an entry of its table, and begins anew with each new entry. What an entry
    had counted when it was first seen, at the exporter's start, is from before.
    """

    def __init__(self) -> None:
        self._last: dict[tuple[str, str, int], Counter[str]] | None = None
        self._totals: dict[str, Counter[str]] = {}

    def add(self, entries: Iterable[kernel.ExportStatistics]) -> Mapping[str, Counter[str]]:
        """Add what was done since the last time; all of it, by path."""
        now = {
            (it.path, it.domain, it.start): Counter(
                stale=it.stale, read=it.read_bytes, written=it.written_bytes
            )
            for it in entries
        }
        for key, counted in now.items():
            total = self._totals.setdefault(key[0], Counter())
            before = counted if self._last is None else self._last.get(key, Counter())
            # Two entries that are made within a second look like one that counts backwards.
            is_new = any(counted[it] < before[it] for it in counted)
            total.update(counted if is_new else {it: counted[it] - before[it] for it in counted})
        self._last = now
        return self._totals


@dataclass(frozen=True)
class _Seen:
    """What was read for one scrape."""

    facts: Facts
    loops: Mapping[str, kernel.Loop]
    """See `_find_loops`."""
    exported: frozenset[str]
    clients: tuple[kernel.Client, ...]
    clients_on: Mapping[str, int]
    """How many hold something on a file system, by its device."""
    answers: Mapping[str, Answer | None]
    """None: there was none in time."""
    totals: Mapping[str, Counter[str]] | None


def _find_loops(shares: Iterable[ShareFacts]) -> dict[str, kernel.Loop]:
    """Find the loop devices that shares are mounted from, by name; of those that are."""
    mounts, loops = machine.read_mounts(), kernel.read_loops()
    mounted = {mount.where: loops.get(mount.source) for mount in mounts}
    return {
        share.name: loop
        for share in shares
        if (loop := mounted.get(share.where)) and loop.backing_file == share.image
    }


class ServerCollector(Collector):
    """Reads all when it is asked."""

    def __init__(self) -> None:
        self._asker = Asker()
        self._totals = Totals()
        self._lock = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics that there is something to say of."""
        with self._lock:
            samples = self._read()
        for metric in metrics.ALL:
            if found := samples.pop(metric.name, None):
                is_counter = metric.kind == "counter"
                family = CounterMetricFamily if is_counter else GaugeMetricFamily
                made = family(metric.name, metric.help, labels=metric.labels)
                for labels, value in found:
                    made.add_metric(labels, value)
                yield made

    def _read(self) -> Samples:
        facts = monitoring.read_facts()
        loops = _find_loops(facts.shares)
        questions = [
            Question(it.name, it.where, loop.number, it.image)
            if (loop := loops.get(it.name))
            else Question(it.name, image=it.image)
            for it in facts.shares
        ]
        # No share has an empty name.
        storage = [Question("", facts.storage)] if facts.storage else []
        entries, clients = kernel.read_exports(), kernel.read_clients()
        seen = _Seen(
            facts=facts,
            loops=loops,
            exported=read_exported(),
            clients=clients,
            clients_on=Counter(device for it in clients for device in it.devices),
            answers=self._asker.ask([*storage, *questions]),
            totals=None if entries is None else self._totals.add(entries),
        )
        samples: Samples = {}
        for share in facts.shares:
            for name, value in share_values(share, seen).items():
                samples.setdefault(f"nfs_share_{name}", []).append(((share.name,), value))
            info = (share.name, share.applications), 1.0
            samples.setdefault("nfs_share_info", []).append(info)
        return samples | unit_samples(seen) | node_samples(kernel.read_rpc())


def read_exported() -> frozenset[str]:
    """Read which paths are exported, from exportfs's own table (exportfs(8))."""
    text = (machine.read_file(ETAB) or b"").decode(errors="surrogateescape")
    return frozenset(line.partition("\t")[0] for line in text.splitlines())


def share_values(share: ShareFacts, seen: _Seen) -> dict[str, float]:
    """Say what is known of a share, by what follows `nfs_share_` in a metric's name."""
    loop, answer = seen.loops.get(share.name), seen.answers.get(share.name)
    values: dict[str, float] = {
        "sparse": share.is_sparse,
        "requested": share.is_requested,
        "mounted": loop is not None,
        "exported": share.where in seen.exported,
    }
    if share.name in seen.answers:
        values["answering"] = answer is not None
    if loop:
        values["read_only"] = loop.is_read_only
        values["filesystem_errors"] = loop.errors
        values["clients"] = seen.clients_on.get(kernel.device_name(loop.number), 0)
    values |= answer or {}
    if seen.totals is not None:
        total = seen.totals.get(share.where, Counter[str]())
        values["read_bytes_total"] = total["read"]
        values["written_bytes_total"] = total["written"]
        values["stale_handles_total"] = total["stale"]
    return values


def unit_samples(seen: _Seen) -> Samples:
    """Say what is known of the unit and its clients."""
    facts, lease, pools = seen.facts, kernel.read_lease_seconds(), kernel.read_pools()
    values: dict[str, float | None] = {
        "up": kernel.read_rpc().threads > 0,
        "shares": len(facts.shares),
        "lease_seconds": lease,
        "requests_queued_total": pools.get("sockets-enqueued"),
        "threads_woken_total": pools.get("threads-woken"),
        "last_hook_timestamp_seconds": _time_of(monitoring.HELD),
    }
    if storage := seen.answers.get(""):
        values["storage_size_bytes"] = storage["size_bytes"]
        values["storage_free_bytes"] = storage["available_bytes"]
        values["storage_reserve_bytes"] = facts.reserve_bytes
        values["storage_allocated_bytes"] = facts.allocated_bytes
        values["storage_on_root_disk"] = facts.is_on_root
    samples: Samples = {
        f"nfs_server_{name}": [((), value)] for name, value in values.items() if value is not None
    }
    versions = ",".join(kernel.read_versions())
    samples["nfs_server_info"] = [((os.uname().release, versions), 1)]
    if lease is not None:
        silent = sum((client.silent_s or 0) > lease for client in seen.clients)
        active = len(seen.clients) - silent
        samples["nfs_server_clients"] = [(("active",), active), (("silent",), silent)]
        held = Counter[str](open=0, lock=0, deleg=0, layout=0)
        for client in seen.clients:
            held.update(client.states)
        samples["nfs_server_client_states"] = [((kind,), held[kind]) for kind in sorted(held)]
    return samples


def _time_of(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


# Metric, its labels, and where it stands: the word of the line, and the number's place in it.
_NODE: tuple[tuple[str, Labels, str, int], ...] = (
    ("server_threads", (), "th", 0),
    ("server_rpcs_total", (), "rpc", 0),
    ("rpc_errors_total", ("fmt",), "rpc", 2),
    ("rpc_errors_total", ("auth",), "rpc", 3),
    ("rpc_errors_total", ("cInt",), "rpc", 4),
    ("packets_total", ("udp",), "net", 1),
    ("packets_total", ("tcp",), "net", 2),
    ("connections_total", (), "net", 3),
    ("disk_bytes_read_total", (), "io", 0),
    ("disk_bytes_written_total", (), "io", 1),
    ("file_handles_stale_total", (), "fh", 0),
    ("reply_cache_hits_total", (), "rc", 0),
    ("reply_cache_misses_total", (), "rc", 1),
    ("reply_cache_nocache_total", (), "rc", 2),
)


def node_samples(rpc: kernel.RpcStatistics) -> Samples:
    """Say what node_exporter says of nfsd, in its words."""
    samples: Samples = {}
    for name, labels, word, index in _NODE:
        value = rpc.get(word, index)
        if value is not None:
            samples.setdefault(f"node_nfsd_{name}", []).append((labels, value))
    samples["node_nfsd_requests_total"] = [
        ((proto, method), count) for proto, method, count in rpc.requests()
    ]
    return samples


def new_server(listener: socket.socket) -> ThreadingHTTPServer:
    """Make what answers at a socket that listens already."""
    registry = CollectorRegistry()
    registry.register(ServerCollector())
    handler = MetricsHandler.factory(registry)
    handler.timeout = REQUEST_TIMEOUT_S
    server = ThreadingHTTPServer(("", 0), handler, bind_and_activate=False)
    server.daemon_threads = True
    server.socket.close()
    server.socket = listener
    return server


if __name__ == "__main__":
    new_server(socket.socket(fileno=LISTENER)).serve_forever()

# SPDX-License-Identifier: Apache-2.0
"""The metrics that a unit is seen by: name, kind, labels, and what each says. No I/O, no ops.

What node_exporter reads too has its names. A share has one series of each metric of SHARE.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One metric, as Prometheus has it."""

    name: str
    help: str
    labels: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """Whether it only grows, as its name says: "counter" or "gauge"."""
        return "counter" if self.name.endswith("_total") else "gauge"


def _of_share(name: str, text: str, *labels: str) -> Metric:
    return Metric(f"nfs_share_{name}", text, ("share", *labels))


SHARE = (
    _of_share(
        "info",
        "1. The applications that have the share, its own first, joined by commas.",
        "application",
    ),
    _of_share("size_bytes", "Size of its file system."),
    _of_share("used_bytes", "What is used of it."),
    _of_share("available_bytes", "What users can still write."),
    _of_share("inodes", "Inodes of its file system: how many files it can have."),
    _of_share("used_inodes", "Inodes that are used."),
    _of_share("image_size_bytes", "Length of its image: what is allocated to it."),
    _of_share("image_allocated_bytes", "What the image takes of the storage now."),
    _of_share("sparse", "1 if its image takes room only as it is filled; else it is reserved."),
    _of_share("requested", "1 if somebody is to have it: an integration, or an action."),
    _of_share("mounted", "1 if its image is mounted."),
    _of_share("exported", "1 if exportfs's table has it."),
    _of_share(
        "answering",
        "0 if asking its file system or its image fails, or takes more than a second. None if"
        " others took all the time that there was to ask.",
    ),
    _of_share("read_only", "1 if its file system is read-only, as ext4 makes it after an error."),
    _of_share("filesystem_errors", "Errors that ext4 met in it and no e2fsck has repaired."),
    _of_share("clients", "NFSv4 clients that hold an open file, a lock or a delegation in it."),
    _of_share("read_bytes_total", "Bytes that clients read since the exporter started."),
    _of_share("written_bytes_total", "Bytes that clients wrote since the exporter started."),
    _of_share("stale_handles_total", "Requests for files that are gone, since then."),
)
UNIT = (
    Metric(
        "nfs_server_info",
        "1. The kernel's release, and the versions of NFS that it serves.",
        ("kernel", "versions"),
    ),
    Metric("nfs_server_up", "1 if the kernel serves NFS."),
    Metric("nfs_server_shares", "Shares that the unit has."),
    Metric("nfs_server_storage_size_bytes", "Size of the storage that holds the images."),
    Metric("nfs_server_storage_free_bytes", "What is free of it."),
    Metric("nfs_server_storage_reserve_bytes", "What of it is never allocated to shares."),
    Metric("nfs_server_storage_allocated_bytes", "What is allocated to shares: their sizes."),
    Metric("nfs_server_storage_on_root_disk", "1 if the storage is the machine's root disk."),
    Metric(
        "nfs_server_clients",
        "NFSv4 clients. Silent is one that has not been heard of for longer than its lease.",
        ("state",),
    ),
    Metric(
        "nfs_server_client_states",
        "What NFSv4 clients hold, by type: open, lock, deleg, layout.",
        ("type",),
    ),
    Metric("nfs_server_lease_seconds", "How long a client may be silent and keeps its locks."),
    Metric(
        "nfs_server_requests_queued_total",
        "Times that a connection had requests for a thread, idle or not.",
    ),
    Metric("nfs_server_threads_woken_total", "Times that there was an idle thread for them."),
    Metric(
        "nfs_server_last_hook_timestamp_seconds",
        "When a hook or an action of the charm last ran to its end.",
    ),
)
NODE = (
    Metric("node_nfsd_server_threads", "Threads of nfsd."),
    Metric("node_nfsd_server_rpcs_total", "Requests."),
    Metric(
        "node_nfsd_requests_total",
        "Requests by version of the protocol and by procedure; of NFSv4, by operation.",
        ("proto", "method"),
    ),
    Metric("node_nfsd_rpc_errors_total", "Requests that were refused, by why.", ("error",)),
    Metric("node_nfsd_packets_total", "Packets, by protocol.", ("proto",)),
    Metric("node_nfsd_connections_total", "TCP connections that were made."),
    Metric("node_nfsd_disk_bytes_read_total", "Bytes that clients read, of all shares."),
    Metric("node_nfsd_disk_bytes_written_total", "Bytes that clients wrote, of all shares."),
    Metric("node_nfsd_file_handles_stale_total", "Requests for files that are gone."),
    Metric("node_nfsd_reply_cache_hits_total", "Requests that came again and were answered so."),
    Metric("node_nfsd_reply_cache_misses_total", "Requests that had to be remembered."),
    Metric("node_nfsd_reply_cache_nocache_total", "Requests that may simply be done again."),
)
ALL = (*SHARE, *UNIT, *NODE)

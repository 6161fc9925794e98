# SPDX-License-Identifier: Apache-2.0

from dataclasses import replace

import ops
import pytest

from charms.storage_libs.v0.nfs_interfaces import (
    NO_LIMIT,
    UNKNOWN,
    UNSAID,
    Endpoint,
    Permissions,
    Size,
)
from plan import WantedMount
from status import Facts, InUse, find_shortfall, find_ungranted, status
from trouble import Noted, Trouble

WANTED = WantedMount(
    "nfs-client/0", "/data", "/data", Endpoint("10.0.0.1", "/srv/nfs/data"), ("rw",)
)
MOUNTED = Facts("nfs-client/0", server="nfs-server", wanted=WANTED, is_mounted=True)
MISSING = replace(MOUNTED, is_mounted=False)
ASKED = Facts("nfs-client/0", server="nfs-server")
BUSY = InUse("/old", ("postgres (812)",))
UNSAFE_TEXT = "/old/x: bob (uid 1000) can change /old: run `umount /old/x`"
UNSAFE = InUse("/old/x", ("postgres (812)",), UNSAFE_TEXT)
BUSY_TEXT = "/old is to be unmounted, in use by postgres (812)"
BAD = "size '0': use whole gigabytes from 1, or -1 for no limit"
SINCE, TIME = 1795376400.5, "2026-11-22 19:40 UTC"
NO_SERVER = (
    "Missing relation: run `juju integrate nfs-client:nfs-share nfs-server`, or another"
    " application that provides nfs_share"
)

TABLE = [
    pytest.param(MOUNTED, ops.ActiveStatus(), id="mounted"),
    pytest.param(Facts("nfs-client/0"), ops.BlockedStatus(NO_SERVER), id="no server"),
    pytest.param(
        replace(MOUNTED, problems=(BAD,)), ops.BlockedStatus(BAD), id="mounted, bad option"
    ),
    pytest.param(
        Facts("nfs-client/0", problems=("mountpoint: not set", BAD)),
        ops.BlockedStatus(f"mountpoint: not set; {BAD}; {NO_SERVER}"),
        id="everything wrong",
    ),
    pytest.param(
        Facts("nfs-client/0", lacking="nfs-common"),
        ops.BlockedStatus("nfs-common can't be installed, trying again: see juju debug-log"),
        id="package not installed",
    ),
    pytest.param(
        replace(ASKED, refusal="share /data: 40G asked, 12G free"),
        ops.BlockedStatus("nfs-server: share /data: 40G asked, 12G free"),
        id="refused",
    ),
    pytest.param(
        replace(MOUNTED, refusal="shares are never made smaller"),
        ops.BlockedStatus("nfs-server: shares are never made smaller"),
        id="mounted, a change refused",
    ),
    pytest.param(
        replace(MISSING, obstacle="/data: the directory is not empty"),
        ops.BlockedStatus("/data: the directory is not empty"),
        id="in the way",
    ),
    pytest.param(replace(ASKED, in_use=(BUSY,)), ops.WaitingStatus(BUSY_TEXT), id="in use"),
    pytest.param(
        Facts("nfs-client/0", in_use=(BUSY,)),
        ops.BlockedStatus(f"{NO_SERVER}; {BUSY_TEXT}"),
        id="no server, in use",
    ),
    pytest.param(
        replace(ASKED, in_use=(InUse("/old"),)),
        ops.WaitingStatus("/old is to be unmounted, in use by a process"),
        id="in use, nobody knows by whom",
    ),
    pytest.param(
        replace(ASKED, in_use=(InUse("/old", tuple(f"p ({n})" for n in range(7))),)),
        ops.WaitingStatus(
            "/old is to be unmounted, in use by p (0), p (1), p (2), p (3), p (4) and 2 more"
        ),
        id="in use by many",
    ),
    pytest.param(
        replace(ASKED, in_use=(UNSAFE,)),
        ops.BlockedStatus(UNSAFE_TEXT),
        id="not unmounted where others can change the way",
    ),
    pytest.param(
        Facts("nfs-client/0", is_leaving=True, in_use=(UNSAFE,)),
        ops.MaintenanceStatus(f"Leaving: {UNSAFE_TEXT}"),
        id="leaving, and others can change the way",
    ),
    pytest.param(
        ASKED,
        ops.WaitingStatus(
            "Waiting for nfs-server to grant the share: if it takes long, see"
            " `juju status nfs-server`"
        ),
        id="no answer yet",
    ),
    pytest.param(
        replace(MISSING, noted=Noted(Trouble.SILENT, SINCE)),
        ops.WaitingStatus(
            f"nfs-server is unreachable since {TIME}: no answer from 10.0.0.1 on TCP port 2049"
        ),
        id="unreachable",
    ),
    pytest.param(
        replace(MISSING, is_there=True, noted=Noted(Trouble.SILENT, SINCE)),
        ops.WaitingStatus(f"nfs-server has not answered since {TIME}: what uses /data waits"),
        id="unreachable while mounted",
    ),
    pytest.param(
        replace(MOUNTED, noted=Noted(Trouble.STALE, SINCE), stale_users=("postgres (812)",)),
        ops.WaitingStatus(
            f"/data is stale since {TIME}, nfs-server has another file system there;"
            " to mount it again, stop what uses it: postgres (812)"
        ),
        id="stale",
    ),
    pytest.param(
        replace(MOUNTED, noted=Noted(Trouble.DENIED, SINCE)),
        ops.WaitingStatus(
            f"nfs-server refuses this machine since {TIME}: what uses /data gets errors"
        ),
        id="denied",
    ),
    pytest.param(
        replace(MISSING, noted=Noted(Trouble.HELD, SINCE)),
        ops.BlockedStatus(
            f"/data was unmounted by force-umount {TIME}: run `juju run nfs-client/0 remount`"
        ),
        id="unmounted by force",
    ),
    pytest.param(
        replace(MOUNTED, shortfall="20G requested, the share has 10G"),
        ops.WaitingStatus("nfs-server: 20G requested, the share has 10G"),
        id="smaller than asked",
    ),
    pytest.param(
        replace(MOUNTED, ungranted=("owner", "read-only")),
        ops.ActiveStatus("nfs-server does not grant owner, read-only"),
        id="not as asked",
    ),
    pytest.param(
        replace(MISSING, ungranted=("owner", "read-only")),
        ops.WaitingStatus("Mounting nfs://10.0.0.1/srv/nfs/data on /data"),
        id="not as asked, and not mounted yet",
    ),
    pytest.param(
        Facts("nfs-client/0", left=("/data: can't remove the mount unit: it failed",)),
        ops.BlockedStatus(f"{NO_SERVER}; /data: can't remove the mount unit: it failed"),
        id="can't be undone",
    ),
    pytest.param(
        Facts("nfs-client/0", is_leaving=True),
        ops.MaintenanceStatus("Leaving: this unit has nothing mounted any more"),
        id="leaving",
    ),
    pytest.param(
        Facts("nfs-client/0", is_leaving=True, in_use=(BUSY,), left=("/data: it failed",)),
        ops.MaintenanceStatus(f"Leaving: {BUSY_TEXT}; /data: it failed"),
        id="leaving, in use",
    ),
    pytest.param(
        Facts("nfs-client/0", unsupported="This lxc container may not mount NFS"),
        ops.BlockedStatus("This lxc container may not mount NFS"),
        id="unsupported",
    ),
    pytest.param(
        MISSING,
        ops.WaitingStatus("Mounting nfs://10.0.0.1/srv/nfs/data on /data"),
        id="mounting",
    ),
    pytest.param(
        replace(MISSING, failure="mount.nfs: access denied by server"),
        ops.WaitingStatus(
            "Mounting nfs://10.0.0.1/srv/nfs/data on /data failed, trying again:"
            " mount.nfs: access denied by server"
        ),
        id="mount failed",
    ),
]


@pytest.mark.parametrize(("facts", "expected"), TABLE)
def test_status(facts: Facts, expected: ops.StatusBase):
    assert status(facts) == expected


@pytest.mark.parametrize(
    ("asked", "granted", "options"),
    [
        (UNSAID, UNSAID, ()),
        (UNSAID, Permissions("1:1", "0770", "all", "ro"), ()),
        (Permissions("1:1", "0770", "all", "ro"), Permissions("1:1", "0770", "all", "ro"), ()),
        (Permissions("1:1", squash="root"), Permissions("2:2", squash="root"), ("owner",)),
        (
            Permissions("1:1", "0770", "all", "ro"),
            UNSAID,
            ("owner", "mode", "squash", "read-only"),
        ),
    ],
)
def test_ungranted(asked: Permissions, granted: Permissions, options: tuple[str, ...]):
    assert find_ungranted(asked, granted) == options


@pytest.mark.parametrize(
    ("asked", "granted", "shortfall"),
    [
        (Size(10), Size(10), ""),
        (Size(10), Size(20), ""),
        (Size(10), NO_LIMIT, ""),
        (NO_LIMIT, NO_LIMIT, ""),
        (NO_LIMIT, UNKNOWN, ""),
        (Size(10), UNKNOWN, ""),
        (Size(20), Size(10), "20G requested, the share has 10G"),
        (NO_LIMIT, Size(10), ""),
    ],
)
def test_shortfall(asked: Size, granted: Size, shortfall: str):
    assert find_shortfall(asked, granted) == shortfall

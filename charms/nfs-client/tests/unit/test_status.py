# SPDX-License-Identifier: Apache-2.0

from dataclasses import replace

import ops
import pytest

from charms.storage_libs.v0.nfs_interfaces import Endpoint
from plan import WantedMount
from status import Facts, InUse, status

WANTED = WantedMount(
    "nfs-client/0", "/data", "/data", Endpoint("10.0.0.1", "/srv/nfs/data"), ("rw",)
)
MOUNTED = Facts("nfs-client", server="nfs-server", wanted=WANTED, is_mounted=True)
MISSING = replace(MOUNTED, is_mounted=False)
ASKED = Facts("nfs-client", server="nfs-server")
BUSY = InUse("/old", ("postgres (812)",))
BUSY_TEXT = "/old is to be unmounted, in use by postgres (812)"
BAD = "size '0': use whole gigabytes from 1, or -1 for no limit"
NO_SERVER = (
    "Missing relation: run `juju integrate nfs-client nfs-server`, or another application that"
    " provides nfs_share"
)

TABLE = [
    pytest.param(MOUNTED, ops.ActiveStatus(), id="mounted"),
    pytest.param(Facts("nfs-client"), ops.BlockedStatus(NO_SERVER), id="no server"),
    pytest.param(
        replace(MOUNTED, problems=(BAD,)), ops.BlockedStatus(BAD), id="mounted, bad option"
    ),
    pytest.param(
        Facts("nfs-client", problems=("mountpoint: not set", BAD)),
        ops.BlockedStatus(f"mountpoint: not set; {BAD}; {NO_SERVER}"),
        id="everything wrong",
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
        Facts("nfs-client", in_use=(BUSY,)),
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
        ASKED, ops.WaitingStatus("Waiting for nfs-server to grant the share"), id="no answer yet"
    ),
    pytest.param(
        replace(MISSING, is_reachable=False),
        ops.WaitingStatus("nfs-server is unreachable: no answer from 10.0.0.1 on TCP port 2049"),
        id="unreachable",
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

# SPDX-License-Identifier: Apache-2.0
"""The statuses, as tables of facts: of a unit the first thing that is wrong is shown."""

from dataclasses import replace

import ops
import pytest

from shares import share_id
from status import Facts, app_status, unit_status

GOOD = Facts("nfs-server/0")
PROBLEMS = {"/b": "not mounted", "/a": "its file system has errors"}
FOREIGN = ("a.img", "b.img", "c.img", "d.img")


@pytest.mark.parametrize(
    ("facts", "status"),
    [
        pytest.param(GOOD, ops.ActiveStatus(), id="all is well"),
        pytest.param(
            replace(GOOD, space="scarce"), ops.ActiveStatus("scarce"), id="space is scarce"
        ),
        pytest.param(
            replace(GOOD, space="gone", is_short_of_space=True),
            ops.BlockedStatus("gone"),
            id="space is gone",
        ),
        pytest.param(
            replace(GOOD, bad_setting="threads -1: use 1", undone=("/d",)),
            ops.BlockedStatus("threads -1: use 1"),
            id="bad setting",
        ),
        pytest.param(
            replace(GOOD, bad_setting="x", strangers=(("/srv/nfs/a", "*"), ("/srv/nfs/b", "*"))),
            ops.BlockedStatus(
                "/srv/nfs/a is exported to * by another hand: take it out of /etc/exports.d/"
            ),
            id="strangers",
        ),
        pytest.param(
            replace(GOOD, foreign=FOREIGN[:1]),
            ops.BlockedStatus("Not shares of this application, move them off the storage: a.img"),
            id="foreign",
        ),
        pytest.param(
            replace(GOOD, foreign=FOREIGN),
            ops.BlockedStatus(
                "Not shares of this application, move them off the storage: a.img, b.img, c.img"
            ),
            id="many foreign",
        ),
        pytest.param(
            replace(GOOD, foreign=FOREIGN, strays={"/b": "nfs-server/2", "/a": "nfs-server/1"}),
            ops.BlockedStatus(
                "share /a is on nfs-server/1, another image of it is here: move it off the storage"
            ),
            id="strays",
        ),
        pytest.param(
            replace(GOOD, undone=("/d",), lost=("/c",)),
            ops.BlockedStatus("share /c: its image is not here; attach the storage that holds it"),
            id="lost",
        ),
        pytest.param(
            replace(GOOD, foreign=FOREIGN, undone=("/d", "/c")),
            ops.BlockedStatus("share /c: could not be made or grown: see juju debug-log"),
            id="undone",
        ),
        pytest.param(
            replace(GOOD, undone=("/c",), problems=PROBLEMS),
            ops.BlockedStatus(
                f"share /a: its file system has errors: see journalctl -u '*{share_id('/a')}*'"
            ),
            id="problems",
        ),
        pytest.param(
            replace(GOOD, problems=PROBLEMS, is_running=False),
            ops.BlockedStatus("The NFS server does not run: see journalctl -u nfs-server"),
            id="not running",
        ),
        pytest.param(
            replace(GOOD, is_running=False, has_storage=False),
            ops.BlockedStatus(
                "No storage: juju add-storage nfs-server/0 shares, or attach-storage"
            ),
            id="no storage",
        ),
        pytest.param(
            replace(GOOD, has_storage=False, is_running=False, is_installed=False),
            ops.BlockedStatus(
                "The package nfs-kernel-server was removed and can't be installed:"
                " see juju debug-log"
            ),
            id="removed",
        ),
        pytest.param(
            replace(GOOD, has_storage=False, is_installed=False, was_installed=False),
            ops.MaintenanceStatus("Installing the NFS server"),
            id="not installed",
        ),
    ],
)
def test_unit_status(facts: Facts, status: ops.StatusBase):
    assert unit_status(facts) == status


@pytest.mark.parametrize(
    ("refusals", "message"),
    [
        pytest.param([], "", id="nothing"),
        pytest.param([("web", "5G asked")], "Refused to web: 5G asked", id="one"),
        pytest.param(
            [("web", "5G asked"), ("mysql", "size 'ten'")],
            "Refused to mysql: size 'ten'; web: 5G asked",
            id="two, sorted",
        ),
    ],
)
def test_app_status(refusals: list[tuple[str, str]], message: str):
    assert app_status(refusals, GOOD) == ops.ActiveStatus(message)


def test_app_status_says_what_is_gone():
    gone = replace(GOOD, gone={"/b": "nfs-server/2", "/a": "nfs-server/1"})
    assert app_status([("web", "5G asked")], gone) == ops.BlockedStatus(
        "share /a was on nfs-server/1, which is gone: attach its storage, or run forget-share"
    )

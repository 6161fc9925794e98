# SPDX-License-Identifier: Apache-2.0
"""The statuses, as tables of outcomes: of a unit the first thing that is wrong is shown."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import ops
import pytest

from charms.storage_libs.v0.nfs_interfaces import ANYONE, Size
from placement import Snapshot
from plan import Plan
from status import Outcome, app_status, unit_status
from values import GIB, Answer, Found, Image, Placement, Request, Storage, share_id

UNIT, OTHER = "nfs-server/0", "nfs-server/1"
STORAGE = Storage(100 * GIB, 60 * GIB)
NOTHING = Plan({}, (), {}, (), (), (), {})


def image(name: str, *, problem: str = "", is_limited: bool = True, gib: int = 10) -> Image:
    size = gib * GIB
    return Image(name, "u", Path(), size, size, size, is_limited, problem=problem)


def outcome(
    *images: Image,
    storage: Storage = STORAGE,
    foreign: tuple[str, ...] = (),
    missing: tuple[str, ...] = (),
    misplaced: tuple[str, ...] = (),
    placements: Mapping[str, Placement] | None = None,
    requests: tuple[Request, ...] = (),
) -> Outcome:
    there = {it.name: it for it in images}
    snapshot = Snapshot(
        UNIT,
        requests,
        placements or {},
        present=(UNIT, OTHER),
        found=Found(there, tuple(map(Path, foreign))),
        storage=storage,
    )
    decided = replace(NOTHING, images=there, missing=missing, misplaced=misplaced)
    return Outcome(snapshot=snapshot, plan=decided)


GOOD = outcome(image("/a"))
FOREIGN = outcome(foreign=("a\n.img", "b.img", "c.img", "d.img"))
MISPLACED = outcome(
    foreign=("x.img",), misplaced=("/a", "/b"), placements={"/a": Placement(OTHER, "u2")}
)
BAD = outcome(
    image("/b", problem="not mounted"),
    image("/a", problem="its file system has errors"),
    missing=("/c",),
)
UNEXPECTED = (("/srv/nfs/a", "*"), ("/srv/nfs/b", "*"))

# Each has what stands above it too, if it can.
WRONG = [
    pytest.param(
        replace(GOOD, not_opened="111/tcp"),
        "A port is another unit's: 111/tcp: move one of the two elsewhere",
        id="not opened",
    ),
    pytest.param(
        replace(GOOD, not_opened="111/tcp", not_monitored="it does not start"),
        "Metrics are not served: it does not start",
        id="not monitored",
    ),
    pytest.param(
        FOREIGN,
        "Not shares of this application, move them off the storage: a\\n.img, b.img, c.img",
        id="foreign",
    ),
    pytest.param(
        MISPLACED,
        f"share /a is on {OTHER}, another image of it is here: move it off the storage",
        id="misplaced",
    ),
    pytest.param(
        replace(GOOD, plan=replace(NOTHING, copies=(replace(image("/a"), path=Path("a.img")),))),
        "a.img is a copy of a share's image: move it off the storage",
        id="copy",
    ),
    pytest.param(
        replace(MISPLACED, failures={"/z": "share /z: bad", "/d": "share /d: No space left"}),
        "share /d: No space left",
        id="failed",
    ),
    pytest.param(
        replace(GOOD, failures={"/d": "share /d: bad"}, not_exported="exportfs: timed out"),
        "The exports could not be changed: exportfs: timed out",
        id="not exported",
    ),
    pytest.param(
        replace(GOOD, not_exported="x", not_mounted="/srv/nfs is no directory"),
        "/srv/nfs is no directory",
        id="not mounted",
    ),
    pytest.param(
        replace(GOOD, not_mounted="x", bad_setting="threads -1: use 1"),
        "threads -1: use 1",
        id="bad setting",
    ),
    pytest.param(
        replace(GOOD, bad_setting="x", unexpected=UNEXPECTED),
        "/srv/nfs/a is exported to *, not by this charm: take it out of /etc/exports.d/",
        id="unexpected export",
    ),
    pytest.param(
        replace(outcome(missing=("/c", "/d")), unexpected=UNEXPECTED),
        "share /c: its image is not here; attach the storage that holds it",
        id="missing",
    ),
    pytest.param(
        BAD,
        f"share /a: its file system has errors: see journalctl -u '*{share_id('/a')}*'",
        id="problem",
    ),
    pytest.param(
        replace(BAD, not_as_set="another file sets vers3=yes"),
        "The NFS server does not run as it is set: another file sets vers3=yes",
        id="not as set",
    ),
    pytest.param(
        replace(BAD, not_as_set="masked", is_running=False),
        "The NFS server does not run: see journalctl -u nfs-server",
        id="not running",
    ),
    pytest.param(
        replace(BAD, is_running=False, has_storage=False),
        f"No storage: juju add-storage {UNIT} shares, or attach-storage",
        id="no storage",
    ),
    pytest.param(
        replace(BAD, not_opened="2049/tcp", is_claimed=False, has_storage=False),
        "A port is another unit's: 2049/tcp: move one of the two elsewhere",
        id="not claimed",
    ),
    pytest.param(
        replace(BAD, has_storage=False, not_installed="it can't run in a container"),
        "it can't run in a container",
        id="not installed",
    ),
    pytest.param(
        Outcome(not_installed="it can't run"), "it can't run", id="not installed, no look"
    ),
    pytest.param(
        replace(BAD, not_installed="x", other_unit="nfs/9"),
        "nfs/9 serves this machine, which can have one nfs-server: remove this unit, or deploy it"
        " to another machine",
        id="another has the machine",
    ),
]


@pytest.mark.parametrize(("it", "says"), WRONG)
def test_what_is_wrong(it: Outcome, says: str):
    assert unit_status(it) == ops.BlockedStatus(says)


@pytest.mark.parametrize(
    ("it", "status"),
    [
        pytest.param(GOOD, ops.ActiveStatus(), id="all is well"),
        pytest.param(Outcome(), ops.MaintenanceStatus("Installing the NFS server"), id="new"),
        pytest.param(
            replace(BAD, is_leaving=True, is_running=False, other_unit="x"),
            ops.MaintenanceStatus("Leaving: the images of its shares stay on its storage"),
            id="leaving",
        ),
        pytest.param(
            outcome(image("/a"), storage=replace(STORAGE, is_root=True)),
            ops.ActiveStatus("Shares are on the root disk"),
            id="root disk",
        ),
        pytest.param(
            outcome(image("/a", gib=57)),
            ops.ActiveStatus(),
            id="half",
        ),
        pytest.param(
            outcome(image("/a", gib=57), storage=Storage(100 * GIB, 3 * GIB)),
            ops.ActiveStatus("57G of 58G are allocated to shares"),
            id="scarce",
        ),
        pytest.param(
            outcome(
                replace(image("/a", is_limited=False), allocated_bytes=GIB),
                storage=Storage(100 * GIB, GIB),
            ),
            ops.BlockedStatus(
                "Only 1.0G of the storage are free, and when none is, writing to shares fails:"
                " delete files in shares, or enlarge it"
            ),
            id="in the reserve",
        ),
        pytest.param(
            outcome(image("/a", is_limited=False), storage=Storage(100 * GIB, GIB)),
            ops.ActiveStatus(),
            id="in the reserve, and nothing is to be written",
        ),
    ],
)
def test_unit_status(it: Outcome, status: ops.StatusBase):
    assert unit_status(it) == status


def test_a_share_that_is_not_made_yet_is_not_wrong():
    placements = {"/a": Placement(UNIT, application="web")}
    assert unit_status(outcome(placements=placements)) == ops.ActiveStatus()


# The application.


def refused(*refusals: tuple[str, str]) -> Outcome:
    told = tuple(
        (Request(n, application, "/a", Size(5)), Answer(error=error))
        for n, (application, error) in enumerate(refusals)
    )
    return replace(GOOD, answers=told)


@pytest.mark.parametrize(
    ("it", "message"),
    [
        pytest.param(Outcome(), "", id="nothing is known"),
        pytest.param(GOOD, "", id="nothing"),
        pytest.param(refused(("web", "")), "", id="granted"),
        pytest.param(refused(("web", "5G")), "Refused to web: 5G", id="one"),
        pytest.param(
            refused(("web", "5G"), ("db", ""), ("mysql", "size 'ten'")),
            "Refused to mysql: size 'ten'; web: 5G",
            id="two, sorted",
        ),
        pytest.param(
            outcome(placements={"/a": Placement(UNIT, "u", grants=ANYONE)}),
            "share /a is open to all",
            id="open",
        ),
        pytest.param(
            outcome(
                placements={"/a": Placement(UNIT, "u", "web")},
                requests=(
                    Request(1, "db", "/a", Size(5), ANYONE),
                    Request(2, "web", "/a", Size(5)),
                    Request(3, "log", "/b", Size(5)),
                ),
            ),
            "share /a is shared by web, db",
            id="shared, its own first",
        ),
        pytest.param(
            outcome(
                requests=(
                    Request(1, "web", "/a", Size(5), remark="web is old"),
                    Request(2, "web", "/b", Size(5), remark="web is old"),
                    Request(3, "db", "/c", Size(5), remark="db is older"),
                )
            ),
            "db is older; web is old",
            id="remarks, each once",
        ),
    ],
)
def test_app_status(it: Outcome, message: str):
    assert app_status(it) == ops.ActiveStatus(message)


def test_refusals_come_first():
    both = refused(("web", "5G"))
    snapshot = outcome(placements={"/a": Placement(UNIT, "u", grants=ANYONE)}).snapshot
    status = app_status(replace(both, snapshot=snapshot))
    assert status.message == "Refused to web: 5G; share /a is open to all"


def test_a_thousand_refusals_are_no_more_than_a_hook_command_takes():
    status = app_status(refused(*((f"client-{n}x", "é" * 200) for n in range(1000))))
    assert isinstance(status, ops.ActiveStatus)
    assert len(status.message.encode()) < 32 * 4096
    assert status.message.startswith("Refused to client-0x: é")
    assert status.message.endswith("é…; for the rest see list-shares and the clients' statuses")


def test_app_status_says_what_is_gone():
    placements = {
        "/b": Placement("nfs-server/7", "u"),
        "/a": Placement("nfs-server/8", "u"),
        "/0": Placement("nfs-server/9"),  # It was not made.
    }
    gone = replace(outcome(placements=placements), answers=refused(("web", "5G")).answers)
    assert app_status(gone) == ops.BlockedStatus(
        "share /a was on nfs-server/8, which is gone: attach its storage, or run forget-share"
    )


def test_who_has_not_been_seen_yet_is_not_gone():
    # It is in goal-state before it is among the peers.
    there = outcome(placements={"/a": Placement(OTHER, "u")})
    assert there.snapshot
    assert there.snapshot.reports == {}
    assert app_status(there) == ops.ActiveStatus()

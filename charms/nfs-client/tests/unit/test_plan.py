# SPDX-License-Identifier: Apache-2.0

from dataclasses import replace

import pytest

from charms.storage_libs.v0.nfs_interfaces import Endpoint, Share
from config import Config, InvalidConfig
from plan import OwnedMount, Plan, WantedMount, decide, name_unnamed

UNIT = "nfs-client/0"
FLAGS = ("rw", "nosuid", "nodev", "exec")
CONFIG = Config("/data", "projects", 10, FLAGS)
OWN = "model/nfs-client"
UNSET = InvalidConfig(("mountpoint: not set",), is_unset=True)
BAD = InvalidConfig(("size 0",), is_unset=False)
ENDPOINT = Endpoint("10.0.0.1", "/srv/nfs/data")
MOVED = Endpoint("10.0.0.2", "/srv/nfs/data")
OWNED = OwnedMount("/data", "projects", ENDPOINT, "/data", is_named=True)
WANTED = WantedMount(UNIT, "/data", "projects", ENDPOINT, FLAGS, is_named=True)
UNNAMED = Config("/data", "", 10, FLAGS)
UNNAMED_OWNED = OwnedMount("/data", OWN, ENDPOINT, "/data")
UNNAMED_WANTED = WantedMount(UNIT, "/data", OWN, ENDPOINT, FLAGS)


@pytest.mark.parametrize(
    ("config", "share", "owned", "plan"),
    [
        pytest.param(CONFIG, Share(1, ENDPOINT), [], Plan(WANTED), id="granted"),
        pytest.param(CONFIG, Share(1, ENDPOINT), [OWNED], Plan(WANTED), id="mounted"),
        pytest.param(
            CONFIG, Share(1, ENDPOINT, is_admitted=False), [], Plan(keep=True), id="not for us yet"
        ),
        pytest.param(CONFIG, None, [OWNED], Plan(), id="no server"),
        pytest.param(BAD, None, [OWNED], Plan(), id="bad option, no server"),
        pytest.param(BAD, Share(1, ENDPOINT), [OWNED], Plan(keep=True), id="bad option"),
        pytest.param(UNSET, Share(1, ENDPOINT), [OWNED], Plan(), id="mountpoint unset"),
        pytest.param(CONFIG, Share(1), [], Plan(), id="no answer yet"),
        pytest.param(CONFIG, Share(1), [OWNED], Plan(), id="endpoint withdrawn"),
        pytest.param(CONFIG, Share(1, error="no room"), [], Plan(), id="refused"),
        pytest.param(
            CONFIG,
            Share(1, ENDPOINT, error="no room to grow"),
            [OWNED],
            Plan(WANTED),
            id="a change refused, the older grant stands",
        ),
        pytest.param(
            Config("/other", "other", 10, FLAGS),
            Share(1, ENDPOINT),
            [OWNED],
            Plan(keep=True),
            id="another name asked, the old answer still there",
        ),
        pytest.param(
            Config("/other", "other", 10, FLAGS),
            Share(1, MOVED),
            [OWNED],
            Plan(WantedMount(UNIT, "/other", "other", MOVED, FLAGS, is_named=True)),
            id="another name asked and granted",
        ),
        pytest.param(
            replace(CONFIG, mountpoint="/other"),
            Share(1, ENDPOINT),
            [OWNED],
            Plan(replace(WANTED, mountpoint="/other")),
            id="the same share elsewhere",
        ),
        pytest.param(UNNAMED, Share(1, ENDPOINT), [], Plan(UNNAMED_WANTED), id="no name given"),
        pytest.param(
            replace(UNNAMED, mountpoint="/other"),
            Share(1, ENDPOINT),
            [UNNAMED_OWNED],
            Plan(replace(UNNAMED_WANTED, mountpoint="/other")),
            id="its own share elsewhere",
        ),
        pytest.param(
            UNNAMED, Share(1, ENDPOINT), [OWNED], Plan(keep=True), id="a name taken back"
        ),
        pytest.param(
            CONFIG, Share(1, ENDPOINT), [UNNAMED_OWNED], Plan(keep=True), id="a name given"
        ),
        pytest.param(
            Config("/data", OWN, 10, FLAGS),
            Share(1, ENDPOINT),
            [UNNAMED_OWNED],
            Plan(replace(UNNAMED_WANTED, is_named=True)),
            id="its own name given",
        ),
        pytest.param(
            UNNAMED,
            Share(1, ENDPOINT),
            [replace(UNNAMED_OWNED, share="/data")],
            Plan(UNNAMED_WANTED),
            id="no name given, and another unit knows better which it is",
        ),
    ],
)
def test_decide(
    config: Config | InvalidConfig, share: Share | None, owned: list[OwnedMount], plan: Plan
):
    assert decide(UNIT, config, OWN, share, {}, owned) == plan


def test_unreadable_endpoint_is_not_a_withdrawn_one():
    said = {"endpoint": "http://10.0.0.1/x"}
    assert decide(UNIT, CONFIG, OWN, Share(1, error="bad"), said, [OWNED]) == Plan(keep=True)


@pytest.mark.parametrize("owned", [[], [OWNED], [replace(OWNED, share="?")]])
@pytest.mark.parametrize(("name", "keep"), [("projects", True), ("other", False)])
def test_a_server_says_which_name_it_has_answered(name: str, keep: bool, owned: list[OwnedMount]):
    """Also where nothing is mounted yet that would say it."""
    config = Config("/other", "other", 10, FLAGS)
    plan = decide(UNIT, config, OWN, Share(1, ENDPOINT, name=name), {}, owned)
    assert plan.keep is keep


OLD = replace(UNNAMED_OWNED, share="/data")


@pytest.mark.parametrize(
    ("asked", "owned", "name"),
    [
        pytest.param("", [], OWN, id="new"),
        pytest.param(OWN, [UNNAMED_OWNED], OWN, id="its own"),
        pytest.param("projects", [OWNED], OWN, id="a name taken back"),
        pytest.param("/data", [OLD], "/data", id="refreshed, on the leader"),
        pytest.param("", [OLD], "/data", id="refreshed"),
        pytest.param(
            "/data", [UNNAMED_OWNED], "/data", id="refreshed, on a leader that came later"
        ),
        pytest.param("/data", [], "/data", id="refreshed, on a leader with nothing mounted"),
        pytest.param("", [replace(OLD, mountpoint="/x")], "/data", id="refreshed, and moved"),
        pytest.param("", [replace(OLD, endpoint=MOVED)], OWN, id="that of another endpoint"),
        pytest.param(
            "/x", [replace(OWNED, share="/x")], OWN, id="a name like a mount point taken back"
        ),
        pytest.param("", [replace(OWNED, share="/x")], OWN, id="the same, on who doesn't lead"),
        pytest.param("/a b", [], OWN, id="no name"),
        pytest.param("/d\nWhere=/etc", [OLD], "/data", id="no name, and one that is mounted"),
        pytest.param("", [replace(OLD, share="/../etc")], OWN, id="no name in a record"),
    ],
)
def test_what_nobody_named(asked: str, owned: list[OwnedMount], name: str):
    assert name_unnamed(OWN, asked, ENDPOINT, owned) == name


@pytest.mark.parametrize(
    ("answered", "owned", "name"),
    [
        pytest.param("/data", [], "/data", id="refreshed, on a unit that was added"),
        pytest.param("/data", [replace(OLD, endpoint=MOVED)], "/data", id="the server moved"),
        pytest.param("/data", [UNNAMED_OWNED], "/data", id="a unit that recorded a guess"),
        pytest.param(OWN, [OLD], OWN, id="its own, by now"),
        pytest.param("projects", [OWNED], OWN, id="a name taken back"),
    ],
)
def test_what_nobody_named_is_what_is_answered(answered: str, owned: list[OwnedMount], name: str):
    assert name_unnamed(OWN, answered, ENDPOINT, owned) == name


@pytest.mark.parametrize(
    ("owned", "serves"),
    [
        pytest.param(OWNED, True, id="same"),
        pytest.param(OwnedMount("/data", "/data", MOVED), False, id="another server"),
        pytest.param(OwnedMount("/old", "/data", ENDPOINT), False, id="another directory"),
        pytest.param(
            OwnedMount("/data", "/data", Endpoint(ENDPOINT.host, ENDPOINT.path, 2050)),
            False,
            id="another port",
        ),
    ],
)
def test_serves(owned: OwnedMount, serves: bool):
    assert owned.serves(WANTED) is serves
    assert not owned.serves(None)

# SPDX-License-Identifier: Apache-2.0

import pytest

from charms.storage_libs.v0.nfs_interfaces import Endpoint, Share
from config import Config, InvalidConfig
from plan import OwnedMount, Plan, WantedMount, decide

UNIT = "nfs-client/0"
FLAGS = ("rw", "nosuid", "nodev", "exec")
CONFIG = Config("/data", "/data", 10, FLAGS)
UNSET = InvalidConfig(("mountpoint: not set",), is_unset=True)
BAD = InvalidConfig(("size 0",), is_unset=False)
ENDPOINT = Endpoint("10.0.0.1", "/srv/nfs/data")
MOVED = Endpoint("10.0.0.2", "/srv/nfs/data")
OWNED = OwnedMount("/data", "/data", ENDPOINT, "/data")
WANTED = WantedMount(UNIT, "/data", "/data", ENDPOINT, FLAGS)


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
            Config("/other", "/other", 10, FLAGS),
            Share(1, ENDPOINT),
            [OWNED],
            Plan(keep=True),
            id="another name asked, the old answer still there",
        ),
        pytest.param(
            Config("/other", "/other", 10, FLAGS),
            Share(1, MOVED),
            [OWNED],
            Plan(WantedMount(UNIT, "/other", "/other", MOVED, FLAGS)),
            id="another name asked and granted",
        ),
        pytest.param(
            Config("/other", "/data", 10, FLAGS),
            Share(1, ENDPOINT),
            [OWNED],
            Plan(WantedMount(UNIT, "/other", "/data", ENDPOINT, FLAGS)),
            id="the same share elsewhere",
        ),
    ],
)
def test_decide(
    config: Config | InvalidConfig, share: Share | None, owned: list[OwnedMount], plan: Plan
):
    assert decide(UNIT, config, share, {}, owned) == plan


def test_unreadable_endpoint_is_not_a_withdrawn_one():
    said = {"endpoint": "http://10.0.0.1/x"}
    assert decide(UNIT, CONFIG, Share(1, error="bad"), said, [OWNED]) == Plan(keep=True)


@pytest.mark.parametrize(("name", "keep"), [("/data", True), ("/other", False), ("?", True)])
def test_a_repeated_name_tells_whose_answer_it_is(name: str, keep: bool):
    config = Config("/other", "/other", 10, FLAGS)
    plan = decide(UNIT, config, Share(1, ENDPOINT), {"name": name}, [OWNED])
    assert plan.keep is keep


def test_a_repeated_name_holds_up_no_first_mount():
    assert decide(UNIT, CONFIG, Share(1, ENDPOINT), {"name": "data"}, []) == Plan(WANTED)


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

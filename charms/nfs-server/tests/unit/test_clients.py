# SPDX-License-Identifier: Apache-2.0
"""Both endpoints behind one face: what is requested, and what is told in each one's form."""

import re
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import ops
import pytest
from ops import testing

from charms.storage_libs.v0.nfs_interfaces import (
    NO_LIMIT,
    UNKNOWN,
    Endpoint,
    Permissions,
    Size,
    parse_allowlist,
)
from clients import Clients, _format_uri, _parse_uri
from settings import Settings
from values import Answer, Request

_T = TypeVar("_T")
MODEL, OTHER_MODEL = (
    "0b5bd56d-6b2f-4ba1-bd3c-7a7f1e6c0e0a",
    "1b5bd56d-6b2f-4ba1-bd3c-7a7f1e6c0e0b",
)
REMOTE = f"remote-{'a' * 32}"
SETTINGS = Settings(filesystem_share="hpc", filesystem_size=Size(10))
META = {
    "name": "nfs-server",
    "provides": {
        "nfs-share": {"interface": "nfs_share"},
        "filesystem": {"interface": "filesystem_info"},
    },
}


class Charm(ops.CharmBase):
    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self.clients = Clients(self)


def share(
    integration_id: int = 1,
    application: str = "web",
    model: str | None = None,
    /,
    **data: str,
) -> testing.Relation:
    return testing.Relation(
        "nfs-share",
        id=integration_id,
        remote_app_name=application,
        remote_model_uuid=model,
        remote_app_data=data,
        remote_units_data={0: {"egress-subnets": f"10.0.{integration_id}.1/32"}},
    )


def filesystem(
    integration_id: int = 7, application: str = "hpc-client", model: str | None = None
) -> testing.Relation:
    return testing.Relation(
        "filesystem",
        id=integration_id,
        remote_app_name=application,
        remote_model_uuid=model,
        remote_units_data={0: {"egress-subnets": "10.0.7.1/32"}},
    )


def run(
    act: Callable[[Clients], _T],
    *relations: testing.Relation,
    leader: bool = True,
    networks: frozenset[testing.Network] = frozenset(),
) -> tuple[_T, testing.State]:
    """Let a charm act in a hook."""
    context = testing.Context(Charm, meta=META)
    state = testing.State(
        leader=leader,
        relations=frozenset(relations),
        model=testing.Model(uuid=MODEL),
        networks=networks,
    )
    with context(context.on.update_status(), state) as manager:
        done = act(manager.charm.clients)
        return done, manager.run()


def requests(*relations: testing.Relation) -> tuple[Request, ...]:
    return run(lambda it: it.requests(SETTINGS), *relations)[0]


def test_requests_of_both_in_the_order_of_integrations():
    asked = requests(
        filesystem(2, "hpc-client"),
        share(3, "web", name="/data", size="5", allowlist="10.9.0.0/16"),
        share(1, "db", name="/data", size="-1"),
        share(4, "silent"),  # It has not asked yet.
    )
    assert asked == (
        Request(1, "db", "/data", NO_LIMIT, clients=parse_allowlist("10.0.1.1")),
        Request(
            2,
            "hpc-client",
            "hpc",
            Size(10),
            clients=parse_allowlist("10.0.7.1"),
            remark="hpc-client: autofs, if it mounts, needs NFSv3 or fstype=nfs4:"
            " `juju config nfs-server nfsv3=true`",
        ),
        Request(
            3,
            "web",
            "/data",
            Size(5),
            (ip_network("10.9.0.0/16"),),
            parse_allowlist("10.0.3.1"),
        ),
    )


@pytest.mark.parametrize(
    ("data", "name"),
    [
        ({"name": "/data", "size": "ten"}, "/data"),
        ({"name": "/data", "size": "5", "allowlist": "*"}, "/data"),
        ({"name": "../x", "size": "5"}, ""),
    ],
)
def test_a_request_that_can_not_be_read_whole_asks_for_nothing_new(
    data: dict[str, str], name: str
):
    (asked,) = requests(share(**data))
    assert (asked.share, asked.size) == (name, UNKNOWN)
    assert asked.error
    assert asked.clients == parse_allowlist("10.0.1.1")


@pytest.mark.parametrize(
    ("application", "model", "requested", "name"),
    [
        pytest.param("web", MODEL, "data", "data", id="of this model"),
        pytest.param("web", MODEL, f"data@{OTHER_MODEL}", "", id="another's, by name"),
        pytest.param(REMOTE, MODEL, f"data@{OTHER_MODEL}", "", id="another's, by an offer"),
        pytest.param(REMOTE, OTHER_MODEL, "data", f"data@{OTHER_MODEL}", id="of another"),
        pytest.param("web", OTHER_MODEL, "data", f"data@{OTHER_MODEL}", id="by another's offer"),
        pytest.param(
            REMOTE, OTHER_MODEL, f"a@{MODEL}", f"a@{MODEL}@{OTHER_MODEL}", id="in disguise"
        ),
        pytest.param(REMOTE, MODEL, "data", "data", id="of this model by an offer"),
        pytest.param(REMOTE, OTHER_MODEL, "../x", "", id="no name"),
    ],
)
def test_names_of_other_models(application: str, model: str, requested: str, name: str):
    (asked,) = requests(share(1, application, model, name=requested, size="5"))
    assert asked.share == name


def test_who_may_only_want_to_read_is_known_by_that():
    """Whatever else of the request is of a later library."""
    (asked,) = requests(share(name="/data", size="5", access="ro", squash="some"))
    assert asked.error
    assert asked.permissions == Permissions(access="ro")


def test_with_nfsv3_autofs_can_mount():
    nfsv3 = replace(SETTINGS, nfsv3=True)
    (asked,), _ = run(lambda it: it.requests(nfsv3), filesystem())
    assert asked.remark == ""


def test_library_03_is_told_by_its_bookkeeping():
    old = share(1, "old", name="/data", size="5")
    old = replace(old, remote_units_data={0: {}, 1: {"cache": "{}"}})
    new = share(2, "new", name="/data", size="5", cache="{}")  # By its leader, in another place.
    remarks = [it.remark for it in requests(old, new)]
    says = "old has library 0.3: it unmounts for good when a unit of nfs-server is removed"
    assert remarks == [says, ""]
    assert len(says) <= 120


def test_filesystem_of_another_model():
    (asked,) = requests(filesystem(7, REMOTE, OTHER_MODEL))
    assert asked.share == f"hpc@{OTHER_MODEL}"


ENDPOINT = Endpoint("fd00::1", "/srv/nfs/a")
ANSWER = Answer(ENDPOINT, Size(5), "no more", parse_allowlist("10.0.0.1"))


def data_of(state: testing.State, integration_id: int) -> dict[str, str]:
    relation = state.get_relation(integration_id)
    assert isinstance(relation, testing.Relation)
    return dict(relation.local_app_data)


@pytest.mark.parametrize(
    ("said", "size"),
    [
        ({"endpoint": "nfs://h/a", "size": "-1"}, NO_LIMIT),
        # As earlier revisions wrote it.
        ({"endpoint": "nfs://h/a"}, NO_LIMIT),
        ({"endpoint": "nfs://h/a", "size": "5"}, Size(5)),
        ({}, UNKNOWN),
        ({"size": "5"}, UNKNOWN),
    ],
)
def test_no_limit_is_told_from_nothing_granted(said: dict[str, str], size: Size):
    told = replace(share(name="/data"), local_app_data=said)
    assert run(lambda it: it.answered(1), told)[0].size == size


def test_answers_in_the_form_of_nfs_share():
    relation = share(name="/data", size="5")
    _, state = run(lambda it: (it.requests(Settings()), it.answer(1, ANSWER)), relation)
    assert data_of(state, 1) == {
        "endpoint": "nfs://[fd00::1]/srv/nfs/a",
        "answers": "nfs://[fd00::1]/srv/nfs/a /data",
        "size": "5",
        "error": "no more",
        "allowlist": "10.0.0.1/32",
    }
    told = state.get_relation(1)
    assert isinstance(told, testing.Relation)
    assert run(lambda it: it.answered(1), told)[0] == replace(ANSWER, admitted=None)
    _, state = run(lambda it: it.answer(1, Answer()), told)
    assert not any(data_of(state, 1).values())


def test_a_refused_name_is_not_said_to_be_answered():
    """What it had before stays its own."""
    said = {"answers": "nfs://[fd00::1]/srv/nfs/a /data"}
    relation = share(name=f"/data@{MODEL}", size="5")
    relation = replace(relation, local_app_data=said)
    _, state = run(lambda it: (it.requests(Settings()), it.answer(1, ANSWER)), relation)
    assert data_of(state, 1)["answers"] == said["answers"]


@pytest.mark.parametrize("size", [NO_LIMIT, Size(5)])
def test_no_limit_is_told_from_nothing(size: Size):
    _, state = run(lambda it: it.answer(1, Answer(ENDPOINT, size)), share(name="/a", size="5"))
    told = state.get_relation(1)
    assert isinstance(told, testing.Relation)
    assert run(lambda it: it.answered(1), told)[0] == Answer(ENDPOINT, size)
    assert run(lambda it: it.answered(1), share(name="/a"))[0] == Answer()


def test_answers_in_the_form_of_filesystem_info():
    _, state = run(lambda it: it.answer(7, ANSWER), filesystem())
    assert data_of(state, 7) == {"endpoint": "nfs://(%5Bfd00%3A%3A1%5D)/srv/nfs/a"}
    told = state.get_relation(7)
    assert isinstance(told, testing.Relation)
    assert run(lambda it: it.answered(7), told)[0] == Answer(ENDPOINT)
    # Who doesn't lead can't read it.
    assert run(lambda it: it.answered(7), told, leader=False)[0] == Answer()
    _, state = run(lambda it: it.answer(7, Answer(error="no")), told)
    assert not any(data_of(state, 7).values())


def test_addresses():
    def network(binding: str, address: str) -> testing.Network:
        return testing.Network(binding, ingress_addresses=[address])

    networks = frozenset({network("nfs-share", "10.0.0.9"), network("filesystem", "fd00::9")})
    found, _ = run(
        lambda it: (it.address(1), it.address(7)), share(), filesystem(), networks=networks
    )
    assert found == ("10.0.0.9", "fd00::9")
    none = frozenset({testing.Network("nfs-share", [], ingress_addresses=[])})
    assert run(lambda it: it.address(1), share(), networks=none)[0] == ""


# The form of an endpoint in filesystem_info.


def read(uri: str) -> tuple[str, int | None, str]:
    """Read a URI as the interface's specification has it: the hosts in parentheses, encoded."""
    parts = urlsplit(uri)
    assert parts.scheme == "nfs"
    assert re.fullmatch(r"\((?:[A-Za-z0-9._~-]|%[0-9A-F]{2})+\)", parts.netloc), parts.netloc
    host = urlsplit(f"//{unquote(parts.netloc[1:-1])}")
    assert host.hostname
    return host.hostname, host.port, unquote(parts.path)


@pytest.mark.parametrize(
    ("endpoint", "found"),
    [
        (Endpoint("192.0.2.1", "/srv/nfs/a"), ("192.0.2.1", None, "/srv/nfs/a")),
        (Endpoint("192.0.2.1", "/srv/nfs/a", 2050), ("192.0.2.1", 2050, "/srv/nfs/a")),
        (Endpoint("fd00::1", "/srv/nfs/a"), ("fd00::1", None, "/srv/nfs/a")),
        (Endpoint("fd00::1", "/srv/nfs/a", 2050), ("fd00::1", 2050, "/srv/nfs/a")),
        (Endpoint("nfs.example.org", "/"), ("nfs.example.org", None, "/")),
    ],
)
def test_uri(endpoint: Endpoint, found: tuple[str, int | None, str]):
    uri = _format_uri(endpoint)
    assert read(uri) == found
    assert _parse_uri(uri) == endpoint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nfs://192.0.2.1/a",
        "cephfs://(192.0.2.1)/a",
        "nfs://()/a",
        "nfs://(a%20b)/a",
        "nfs://(h:0x)/a",
        "nfs://(h)/a b",
    ],
)
def test_not_a_uri(text: str):
    assert _parse_uri(text) is None

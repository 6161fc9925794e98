# SPDX-License-Identifier: Apache-2.0
"""Both sides of the nfs_share interface: what is on the wire, what is told, what is read."""

import dataclasses
import importlib.util
import inspect
import ipaddress
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import ops
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ops.testing import (
    ActiveStatus,
    BlockedStatus,
    Context,
    Relation,
    State,
    WaitingStatus,
    errors,
)

from charms.storage_libs.v0 import nfs_interfaces
from charms.storage_libs.v0.nfs_interfaces import (
    ANYONE,
    MAX_ALLOWLIST_ENTRIES,
    NO_LIMIT,
    PERMISSIONS,
    UNKNOWN,
    Endpoint,
    NFSProvides,
    NFSRequires,
    Permissions,
    Share,
    ShareRequest,
    Size,
    parse_allowlist,
    parse_name,
    parse_size,
    sorted_networks,
)

CLIENT_META = {"name": "client", "requires": {"nfs-share": {"interface": "nfs_share"}}}
SERVER_META = {"name": "server", "provides": {"nfs-share": {"interface": "nfs_share"}}}
ENDPOINT = "nfs://10.0.0.1/srv/nfs/a"
MOVED = "nfs://10.0.0.2:20490/srv/nfs/a"
NO_SIZE = {"name": "/data", "allowlist": "127.0.0.1", "size": "-1"}
GRANTED = {"owner": "1:2", "mode": "0770", "squash": "all", "access": "ro"}

# What ops.testing would put there by itself has addresses in it.
NO_UNIT_DATA: dict[str, Any] = {"local_unit_data": {}, "remote_units_data": {0: {}}}

told: list[str] = []


class Client(ops.CharmBase):
    """Writes down what it is told."""

    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self.nfs_share = NFSRequires(self, "nfs-share")
        framework.observe(self.nfs_share.on.server_connected, self._on_server_connected)
        framework.observe(self.nfs_share.on.mount_share, self._on_mount_share)
        framework.observe(self.nfs_share.on.umount_share, self._on_umount_share)
        framework.observe(self.nfs_share.on.share_refused, self._on_share_refused)
        framework.observe(self.nfs_share.on.share_changed, self._on_share_changed)

    def _on_server_connected(self, event: nfs_interfaces.ServerConnectedEvent) -> None:
        told.append(f"connected {event.relation.id}")

    def _on_mount_share(self, event: nfs_interfaces.MountShareEvent) -> None:
        told.append(f"mount {event.endpoint}")

    def _on_umount_share(self, event: nfs_interfaces.UmountShareEvent) -> None:
        told.append(f"umount {event.endpoint}")

    def _on_share_refused(self, event: nfs_interfaces.ShareRefusedEvent) -> None:
        told.append(f"refused {event.error}")

    def _on_share_changed(self, event: nfs_interfaces.ShareChangedEvent) -> None:
        told.append(f"changed {event.relation.id}")


class Server(ops.CharmBase):
    """Writes down what it is told."""

    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self.nfs_share = NFSProvides(self, "nfs-share")
        framework.observe(self.nfs_share.on.share_requested, self._on_share_requested)
        framework.observe(self.nfs_share.on.share_released, self._on_share_released)

    def _on_share_requested(self, event: nfs_interfaces.ShareRequestedEvent) -> None:
        told.append(f"requested {event.name} {event.size} {event.allowlist}")

    def _on_share_released(self, event: nfs_interfaces.ShareReleasedEvent) -> None:
        told.append(f"released {event.relation.id}")


@dataclasses.dataclass
class Unit:
    """One unit of a charm, and what Juju holds for it from one hook to the next."""

    ctx: Context[Any]
    state: State = dataclasses.field(default_factory=State)

    def integrate(self, relation_id: int = 1, **changes: Any) -> Relation:
        """Add an integration, or change what the other side says in it."""
        there = {r.id: cast("Relation", r) for r in self.state.relations}
        new = Relation("nfs-share", id=relation_id, remote_app_name="other", **NO_UNIT_DATA)
        there[relation_id] = dataclasses.replace(there.get(relation_id, new), **changes)
        self.state = dataclasses.replace(self.state, relations=there.values())
        return there[relation_id]

    def lead(self, leader: bool = True) -> "Unit":
        self.state = dataclasses.replace(self.state, leader=leader)
        return self

    def hook(self, name: str, relation_id: int = 1, **changes: Any) -> list[str]:
        """Run one hook and return what the charm was told in it."""
        told.clear()
        if name in {"leader_elected", "upgrade_charm", "update_status"}:
            event = getattr(self.ctx.on, name)()
        else:
            relation = self.integrate(relation_id, **changes)
            units = {"remote_unit": 0} if name in {"joined", "departed"} else {}
            event = getattr(self.ctx.on, f"relation_{name}")(relation, **units)
        self.state = self.ctx.run(event, self.state)
        if name == "broken":
            others = [r for r in self.state.relations if r.id != relation_id]
            self.state = dataclasses.replace(self.state, relations=others)
        return list(told)

    def ask(self, question: Callable[[Any], Any]) -> Any:
        """Let the charm do something in an update-status hook."""
        with self.ctx(self.ctx.on.update_status(), self.state) as running:
            answer = question(running.charm.nfs_share)
            self.state = running.run()
        return answer

    def own(self) -> dict[str, str]:
        """Read our application databag of the integration."""
        return dict(self.state.get_relation(1).local_app_data)


@pytest.fixture
def client() -> Unit:
    unit = Unit(Context(Client, meta=CLIENT_META, app_name="client"), State(leader=True))
    unit.integrate()
    return unit


@pytest.fixture
def server() -> Unit:
    unit = Unit(Context(Server, meta=SERVER_META, app_name="server"), State(leader=True))
    unit.integrate()
    return unit


@pytest.fixture
def writes(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """The data of each relation-set; ops calls it here and nowhere else."""
    made: list[dict[str, str]] = []
    commit = ops.RelationDataContent._commit  # pyright: ignore[reportPrivateUsage]

    def noted(databag: ops.RelationDataContent, data: dict[str, str]) -> None:
        made.append(dict(data))
        commit(databag, data)

    monkeypatch.setattr(ops.RelationDataContent, "_commit", noted)
    return made


@pytest.fixture
def leaving(monkeypatch: pytest.MonkeyPatch) -> None:
    """The unit that departs is this one; ops.testing can only let the other side's depart."""
    own = property(lambda event: event.framework.model.unit)
    monkeypatch.setattr(ops.RelationDepartedEvent, "departing_unit", own)


# What was published, and must stay


def test_the_library_is_the_published_one():
    assert nfs_interfaces.__name__ == "charms.storage_libs.v0.nfs_interfaces"
    assert nfs_interfaces.LIBID == "e70144cb4196455ca4436bec5d1e6a36"
    assert nfs_interfaces.LIBAPI == 0
    assert nfs_interfaces.LIBPATCH > 3


@pytest.mark.parametrize(
    ("call", "parameters"),
    [
        (NFSRequires, ["charm", "integration_name"]),
        (NFSProvides, ["charm", "integration_name"]),
        (
            NFSRequires.request_share,
            ["self", "integration_id", "name", "allowlist=None", "size=None", *PERMISSIONS],
        ),
        (NFSProvides.set_endpoint, ["self", "integration_id", "endpoint"]),
        (NFSRequires.fetch_data, ["self"]),
        (NFSProvides.fetch_data, ["self"]),
    ],
)
def test_calls_take_what_they_took(call: Callable[..., Any], parameters: list[str]):
    signature = inspect.signature(call)
    assert [
        name if parameter.default in (parameter.empty, "") else f"{name}={parameter.default}"
        for name, parameter in signature.parameters.items()
    ] == parameters


@pytest.mark.parametrize(
    ("side", "name", "event", "properties"),
    [
        (NFSRequires, "server_connected", "ServerConnectedEvent", ()),
        (NFSRequires, "mount_share", "MountShareEvent", ("endpoint",)),
        (NFSRequires, "umount_share", "UmountShareEvent", ("endpoint",)),
        (NFSProvides, "share_requested", "ShareRequestedEvent", ("name", "allowlist", "size")),
    ],
)
def test_events_are_called_what_they_were(
    side: type[NFSRequires | NFSProvides], name: str, event: str, properties: tuple[str, ...]
):
    event_type = getattr(nfs_interfaces, event)
    assert getattr(side.on, name).event_type is event_type
    assert issubclass(event_type, ops.RelationEvent)
    assert all(isinstance(getattr(event_type, name), property) for name in properties)


def test_attributes_are_called_what_they_were(client: Unit):
    with client.ctx(client.ctx.on.update_status(), client.state) as running:
        library, charm = running.charm.nfs_share, running.charm
        assert (library.charm, library.app, library.unit) == (charm, charm.app, charm.unit)
        assert library.integration_name == "nfs-share"
        assert [relation.id for relation in library.integrations] == [1]


# The wire


@pytest.mark.parametrize(
    ("arguments", "wire"),
    [
        (
            {"name": "/data", "allowlist": "10.0.0.0/8", "size": 100},
            {"name": "/data", "allowlist": "10.0.0.0/8", "size": "100"},
        ),
        (
            {"name": "/data", "allowlist": ["10.0.0.1", "::1"], "size": -1},
            {"name": "/data", "allowlist": "10.0.0.1,::1", "size": "-1"},
        ),
        # What Juju would remove, a server written with 0.3 could not split.
        ({"name": "/data"}, {"name": "/data", "allowlist": "127.0.0.1", "size": "-1"}),
        (
            {"name": "/data", "allowlist": [], "size": 1},
            {"name": "/data", "allowlist": "127.0.0.1", "size": "1"},
        ),
        (
            {"name": "/data", "allowlist": " 0.0.0.0/0 ,10.0.7.9/24", "size": 1},
            {"name": "/data", "allowlist": "0.0.0.0/0,10.0.7.9/24", "size": "1"},
        ),
        (
            {"name": "/data", "allowlist": "10.0.0.1 fd00::1 ", "size": 1},
            {"name": "/data", "allowlist": "10.0.0.1,fd00::1", "size": "1"},
        ),
        (
            {"name": "/data", "owner": "01000:100", "mode": "770", "squash": "all"},
            NO_SIZE | {"owner": "1000:100", "mode": "0770", "squash": "all"},
        ),
        ({"name": "/data", "access": "ro"}, NO_SIZE | {"access": "ro"}),
    ],
)
def test_a_request_on_the_wire(client: Unit, arguments: dict[str, Any], wire: dict[str, str]):
    client.integrate(local_app_data={"owner": "7:7", "mode": "0700", "access": "ro"})
    client.ask(lambda library: library.request_share(1, **arguments))
    assert client.own() == wire


@pytest.mark.parametrize(
    ("arguments", "wire"),
    [
        ({"endpoint": Endpoint.parse(MOVED), "size": Size(40)}, {"endpoint": MOVED, "size": "40"}),
        ({"endpoint": Endpoint.parse(MOVED), "size": NO_LIMIT}, {"endpoint": MOVED, "size": "-1"}),
        ({"endpoint": Endpoint.parse(ENDPOINT)}, {"endpoint": ENDPOINT}),
        ({"error": "40G asked, 12G free"}, {"error": "40G asked, 12G free"}),
        (
            {"endpoint": Endpoint.parse(ENDPOINT), "size": Size(40), "error": "no"},
            {"endpoint": ENDPOINT, "size": "40", "error": "no"},
        ),
        (
            {"admitted": parse_allowlist("10.0.0.1,10.1.0.0/16,fd00::1")},
            {"allowlist": "10.0.0.1/32,10.1.0.0/16,fd00::1/128"},
        ),
        ({"admitted": ANYONE}, {"allowlist": "0.0.0.0/0,::/0"}),
        (
            {"endpoint": Endpoint.parse(ENDPOINT), "admitted": iter(())},
            {"endpoint": ENDPOINT, "allowlist": "127.0.0.1"},
        ),
        ({"endpoint": Endpoint.parse(ENDPOINT), "admitted": None}, {"endpoint": ENDPOINT}),
        ({"admitted": ()}, {}),
        ({"admitted": iter(ANYONE[:1])}, {"allowlist": "0.0.0.0/0"}),
        ({"permissions": Permissions("1:2", "0770", "all", "ro")}, GRANTED),
        ({"permissions": Permissions(mode="0770")}, {"mode": "0770"}),
        ({}, {}),
    ],
)
def test_an_answer_on_the_wire(server: Unit, arguments: dict[str, Any], wire: dict[str, str]):
    # What the last answer said, and this one doesn't, is withdrawn.
    old = {"endpoint": "nfs://old/a", "size": "1", "error": "old", "allowlist": "10.9.9.9"}
    old |= {"owner": "9:9", "mode": "0777", "squash": "none", "access": "ro"}
    server.integrate(local_app_data=old)
    server.ask(lambda library: library.answer(1, **arguments))
    assert server.own() == wire


@pytest.mark.parametrize(
    ("name", "endpoint", "said"),
    [
        pytest.param("/data", ENDPOINT, f"{ENDPOINT} /data", id="granted"),
        pytest.param("", ENDPOINT, f"{ENDPOINT} /old", id="a slip: what was granted stays"),
        pytest.param("/data", "", "", id="refused"),
    ],
)
def test_an_answer_says_for_which_name_it_is(server: Unit, name: str, endpoint: str, said: str):
    server.integrate(remote_app_data={"name": "/x"}, local_app_data={"answers": f"{MOVED} /old"})
    there = Endpoint.parse(endpoint) if endpoint else None
    server.ask(lambda library: library.answer(1, endpoint=there, name=name))
    assert server.own().get("answers", "") == said


@pytest.mark.parametrize(
    ("answers", "name"),
    [
        (f"{ENDPOINT} /data", "/data"),
        (f"{MOVED} /data", ""),  # An older server, in this one's place for a while.
        (f"{MOVED} a b", ""),
        ("", ""),
    ],
)
def test_a_share_has_the_name_that_it_was_granted_for(client: Unit, answers: str, name: str):
    client.integrate(remote_app_data={"endpoint": ENDPOINT, "answers": answers})
    (share,) = client.ask(lambda library: library.shares())
    assert share.name == name
    assert not share.error


def test_permissions_are_what_the_other_side_says(client: Unit, server: Unit):
    client.integrate(remote_app_data={"endpoint": ENDPOINT, **GRANTED})
    (share,) = client.ask(lambda library: library.shares())
    assert share.permissions == Permissions("1:2", "0770", "all", "ro")
    client.integrate(remote_app_data={"endpoint": ENDPOINT, "squash": "some\n"})
    (share,) = client.ask(lambda library: library.shares())
    assert (share.error, share.permissions) == ("", Permissions(squash="some\n"))
    server.integrate(
        remote_app_data={"name": "/data", "owner": " 01:2 ", "mode": "770", "access": "ro"},
        local_app_data=GRANTED | {"mode": "rwx"},
    )
    (request,) = server.ask(lambda library: library.requests())
    assert (request.error, request.permissions) == ("", Permissions("1:2", "0770", "", "ro"))
    answered = server.ask(lambda library: library.answered(1))
    assert answered.permissions == Permissions("1:2", "", "all", "ro")


ID = "1000:1000"
BAD_PERMISSIONS = [
    ("owner", owner, f"owner {owner!r}: use uid:gid, two numbers up to 2147483647, such as {ID}")
    for owner in ("root", "1000", "1:", "-1:-1", "1:2:3", "0x1:1", "2147483648:1", "1:4294967295")
]
BAD_PERMISSIONS += [
    ("mode", mode, f"mode {mode!a}: use three or four octal digits up to 3777, such as 0770")
    for mode in (
        "77",
        "07777",
        "4755",
        "7777",
        "0788",
        "rwx",
        "u=rwx",
        "0o770",
        "-1",
        "\u0660\u0667\u0667\u0660",
    )
]
BAD_PERMISSIONS += [
    ("squash", squash, f"squash {squash!r}: use none, root, all")
    for squash in ("ALL", "all_squash", "none,insecure")
]
BAD_PERMISSIONS += [
    ("access", access, f"access {access!r}: use ro, or nothing to read and write")
    for access in ("rw", "RO", "ro,insecure")
]


@pytest.mark.parametrize(("key", "text", "reason"), BAD_PERMISSIONS)
def test_a_permission_that_is_none(client: Unit, server: Unit, key: str, text: str, reason: str):
    """It is refused with its reason; the rest of the request can be read."""
    server.integrate(remote_app_data={"name": "/data", "size": "1", "squash": "root", key: text})
    (request,) = server.ask(lambda library: library.requests())
    squash = "" if key == "squash" else "root"
    assert (request.error, request.permissions) == (reason, Permissions(squash=squash))
    assert (request.name, request.size) == ("/data", Size(1))
    assert len(reason) <= 120
    with pytest.raises(ValueError, match=re.escape(reason)):
        client.ask(lambda library: library.request_share(1, "/data", **{key: text}))
    assert client.own() == {}


@given(st.sampled_from([*PERMISSIONS]), st.text() | st.from_regex(r"[0-9]+:[0-9]+|[0-7]{1,5}"))
def test_any_permission_is_one_or_a_problem(key: str, text: str):
    """What is read goes into /etc/exports, and to chown(2) and chmod(2)."""
    problems: list[str] = []
    read = Permissions.parse({key: text}, problems).items()[key]
    assert bool(read) != bool(problems) or not text
    forms = r"\d+:\d+", "[0-3][0-7]{3}", "none|root|all", "ro", ""
    assert any(re.fullmatch(form, read, re.ASCII) for form in forms)
    assert all(problem.isprintable() for problem in problems)


def test_set_endpoint_grants(server: Unit):
    server.integrate(local_app_data={"error": "no space", "allowlist": "10.9.9.9"})
    server.ask(lambda library: library.set_endpoint(1, ENDPOINT))
    assert server.own() == {"endpoint": ENDPOINT}
    for bad, reason in ("/srv/nfs", "not of the form nfs://host"), ("nfs://None/a", "no address"):
        with pytest.raises(ValueError, match=reason):
            server.ask(lambda library, it=bad: library.set_endpoint(1, it))
    assert server.own() == {"endpoint": ENDPOINT}


def test_a_refusal_takes_nothing_away(server: Unit):
    granted = {"endpoint": ENDPOINT, "size": "40", "allowlist": "10.0.0.1"}
    server.integrate(local_app_data=granted)
    server.ask(lambda library: library.refuse(1, "size '5GB':\nno size"))
    assert server.own() == granted | {"error": "size '5GB': no size"}
    server.ask(lambda library: library.refuse(1, ""))
    assert server.own() == granted


def test_an_error_is_written_as_one_line(server: Unit):
    server.ask(lambda library: library.answer(1, error="no\n space\u202e \x00é" + "x" * 300))
    assert server.own() == {"error": "no space é" + "x" * 187 + "..."}
    server.ask(lambda library: library.answer(1, error="\n"))
    assert server.own() == {}


@pytest.mark.parametrize(
    "arguments",
    [
        {"name": "../etc"},
        {"name": ""},
        {"name": "/data", "size": 0},
        {"name": "/data", "size": -2},
        {"name": "/data", "allowlist": "client.example"},
        {"name": "/data", "allowlist": ["10.0.0.1", "*"]},
    ],
)
@pytest.mark.parametrize("leader", [True, False])
def test_a_request_that_the_interface_does_not_allow_raises_and_writes_nothing(
    client: Unit, arguments: dict[str, Any], leader: bool
):
    def ask(library: NFSRequires) -> None:
        with pytest.raises(ValueError, match=r"^(share name|size|allowlist entry) '"):
            library.request_share(1, **arguments)

    client.lead(leader).ask(ask)
    assert client.own() == {}


def test_what_does_not_differ_is_not_written(
    client: Unit, server: Unit, writes: list[dict[str, str]]
):
    for _ in range(2):
        client.ask(lambda library: library.request_share(1, "/data", "10.0.0.1", 100))
        server.ask(
            lambda library: library.answer(1, endpoint=Endpoint.parse(ENDPOINT), size=Size(100))
        )
    assert writes == [
        {"name": "/data", "allowlist": "10.0.0.1", "size": "100"},
        {"endpoint": ENDPOINT, "size": "100"},
    ]
    client.ask(lambda library: library.request_share(1, "/data", "10.0.0.1", 200))
    assert writes[2:] == [{"size": "200"}]


def test_events_write_nothing(client: Unit, server: Unit, writes: list[dict[str, str]]):
    for hook in ("created", "joined", "changed", "departed", "leader_elected", "upgrade_charm"):
        client.hook(hook, remote_app_data={"endpoint": ENDPOINT})
        server.hook(hook, remote_app_data={"name": "/data"})
    assert writes == []


def test_who_does_not_lead_writes_nothing(
    client: Unit, server: Unit, writes: list[dict[str, str]]
):
    client.lead(False).ask(lambda library: library.request_share(1, "/data", size=1))
    server.lead(False).ask(lambda library: library.answer(1, error="no"))
    server.ask(lambda library: library.set_endpoint(1, ENDPOINT))
    assert writes == []
    assert server.ask(lambda library: library.answered(1)) == Share(1)


def test_to_an_integration_that_is_not_there_nothing_is_written(
    client: Unit, server: Unit, writes: list[dict[str, str]]
):
    client.ask(lambda library: library.request_share(7, "/data"))
    server.ask(lambda library: library.answer(7, error="no"))
    assert server.ask(lambda library: library.answered(7)) == Share(7)
    assert writes == []


def test_to_an_integration_being_broken_nothing_is_written(
    client: Unit, writes: list[dict[str, str]]
):
    relation = client.integrate()
    with client.ctx(client.ctx.on.relation_broken(relation), client.state) as running:
        library = running.charm.nfs_share
        assert (library.integrations, library.fetch_data(), library.shares()) == ([], {}, ())
        library.request_share(1, "/data")
        running.run()
    assert writes == []


# What the other side says


def test_a_share_is_what_the_server_says(client: Unit):
    endpoint = Endpoint("10.0.0.1", "/srv/nfs/a")
    client.integrate(1, remote_app_data={"endpoint": ENDPOINT, "size": "40"})
    client.integrate(2, remote_app_data={"error": "40G asked, 12G free"})
    client.integrate(3, remote_app_data={"endpoint": ENDPOINT, "size": "40", "error": "no"})
    client.integrate(4)
    client.integrate(5, remote_app_data={"endpoint": ENDPOINT, "size": "-1"})
    client.integrate(6, remote_app_data={"endpoint": ENDPOINT})
    shares = client.ask(lambda library: library.shares())
    assert sorted(shares, key=lambda share: share.integration_id) == [
        Share(1, endpoint, Size(40)),
        Share(2, error="40G asked, 12G free"),
        Share(3, endpoint, Size(40), "no"),
        Share(4),
        Share(5, endpoint, NO_LIMIT),
        Share(6, endpoint, UNKNOWN),
    ]


def test_what_was_answered_can_be_read_back(server: Unit):
    assert server.ask(lambda library: library.answered(1)) == Share(1)
    server.ask(lambda library: library.set_endpoint(1, MOVED))
    assert server.ask(lambda library: library.answered(1)) == Share(1, Endpoint.parse(MOVED))
    server.integrate(local_app_data={"size": "40", "error": "no"})
    assert server.ask(lambda library: library.answered(1)) == Share(1, None, Size(40), "no")
    server.integrate(local_app_data={"endpoint": "left by another", "size": "x"})
    assert server.ask(lambda library: library.answered(1)) == Share(1)


OWN = "10.0.0.7/32"


@pytest.mark.parametrize(
    ("own", "allowlist", "is_admitted"),
    [
        pytest.param({"egress-subnets": OWN}, "", True, id="nothing said"),
        pytest.param({"egress-subnets": OWN}, " ,", True, id="an empty list"),
        pytest.param({}, "10.0.0.7", True, id="own address unknown"),
        pytest.param({"egress-subnets": "?"}, "10.0.0.7", True, id="own address not usable"),
        pytest.param({"egress-subnets": OWN}, "10.0.0.7/32", True, id="exactly it"),
        pytest.param({"egress-subnets": OWN}, "10.0.0.6,10.0.0.7", True, id="one of two"),
        pytest.param({"egress-subnets": OWN}, "10.0.0.0/29", True, id="a network"),
        pytest.param({"ingress-address": "10.0.0.7"}, "10.0.0.7", True, id="by ingress-address"),
        pytest.param({"private-address": "10.0.0.7"}, "10.0.0.7", True, id="an older Juju"),
        pytest.param({"egress-subnets": "10.0.0.0/30"}, "10.0.0.0/24", True, id="net in net"),
        pytest.param({"egress-subnets": "10.0.0.0/24"}, "10.0.0.0/30", False, id="wider than it"),
        pytest.param({"egress-subnets": f"fd00::7/128,{OWN}"}, OWN, True, id="one of ours"),
        pytest.param({"egress-subnets": "fd00::7/128"}, "fd00::7", True, id="IPv6"),
        pytest.param({"egress-subnets": "fd00::7/128"}, "fd00::/64", True, id="IPv6 network"),
        pytest.param({"egress-subnets": "fd00::7/128"}, "fd00::8", False, id="another IPv6"),
        pytest.param({"egress-subnets": OWN}, "0.0.0.0/0,::/0", True, id="anyone"),
        pytest.param({"egress-subnets": "fd00::7/128"}, "0.0.0.0/0,::/0", True, id="anyone, IPv6"),
        pytest.param({"egress-subnets": OWN}, "0.0.0.0", True, id="anyone, as it is asked for"),
        pytest.param({"egress-subnets": OWN}, "10.0.0.6,10.0.0.8", False, id="others"),
        pytest.param({"egress-subnets": OWN}, "10.0.0.0/30", False, id="the network beside"),
        # As numbers they are the same.
        pytest.param({"egress-subnets": OWN}, "::a00:7", False, id="the other version"),
    ],
)
def test_a_unit_knows_whether_it_is_admitted(
    client: Unit, own: dict[str, str], allowlist: str, is_admitted: bool
):
    answer = {"endpoint": ENDPOINT, "allowlist": allowlist}
    client.integrate(remote_app_data=answer, local_unit_data=own)
    (share,) = client.ask(lambda library: library.shares())
    assert share == Share(1, Endpoint.parse(ENDPOINT), is_admitted=is_admitted)


def test_who_is_told_that_it_is_admitted_is(client: Unit, server: Unit):
    unit = {"egress-subnets": OWN}
    endpoint = Endpoint.parse(ENDPOINT)
    for admitted, expected in (
        ("", False),
        ("10.0.0.6", False),
        ("10.0.0.6,10.0.0.7", True),
        ("0.0.0.0", True),
    ):
        networks = parse_allowlist(admitted)
        server.ask(lambda library, n=networks: library.answer(1, endpoint=endpoint, admitted=n))
        client.integrate(remote_app_data=server.own(), local_unit_data=unit)
        (share,) = client.ask(lambda library: library.shares())
        assert share.is_admitted is expected


def test_an_allowlist_of_a_server_that_is_bad_is_an_error(client: Unit):
    for text, reason in BAD_ALLOWLISTS.items():
        answer = {"endpoint": ENDPOINT, "size": "5", "allowlist": text}
        client.integrate(remote_app_data=answer, local_unit_data={"egress-subnets": OWN})
        (share,) = client.ask(lambda library: library.shares())
        # A server may admit more than a client may ask for: it adds the units.
        is_long = text.count(",") >= MAX_ALLOWLIST_ENTRIES
        error = "" if is_long else reason
        assert share == Share(1, Endpoint.parse(ENDPOINT), Size(5), error, is_admitted=not is_long)


def test_what_the_server_refuses_counts_before_what_it_says_badly(client: Unit):
    client.integrate(remote_app_data={"error": "no space", "allowlist": "*"})
    assert client.ask(lambda library: library.shares()) == (Share(1, error="no space"),)


def test_refusals_are_told_by_application(server: Unit):
    assert server.ask(lambda library: library.refusals()) == ()
    for relation_id, app, answer in (
        (1, "mysql", {"error": "40G asked, 12G free"}),
        (2, "web", {"endpoint": ENDPOINT}),
        (3, "wiki", {"endpoint": ENDPOINT, "error": "a share never shrinks"}),
        (4, "new", {}),
    ):
        server.integrate(relation_id, remote_app_name=app, local_app_data=answer)
    assert server.ask(lambda library: library.refusals()) == (
        ("mysql", "40G asked, 12G free"),
        ("wiki", "a share never shrinks"),
    )
    server.ask(lambda library: library.answer(1, endpoint=Endpoint.parse(ENDPOINT)))
    assert [app for app, _ in server.ask(lambda library: library.refusals())] == ["wiki"]


def test_requests_are_read_in_the_order_of_their_ids(server: Unit):
    for relation_id in (11, 5, 9, 1):
        server.integrate(relation_id, remote_app_data={"name": "/data"})
    server.integrate(6)
    requests = server.ask(lambda library: library.requests())
    assert [request.integration_id for request in requests] == [1, 5, 9, 11]


JUJU_36 = {"private-address": "a", "ingress-address": "b", "egress-subnets": "10.0.0.2/32"}


@pytest.mark.parametrize(
    ("databag", "networks"),
    [
        (JUJU_36, "10.0.0.2/32"),
        ({"ingress-address": "10.0.0.3", "egress-subnets": "10.1.0.0/16,fd00::/8"}, None),
        ({"egress-subnets": "10.1.0.0/16,fd00::/8"}, "10.1.0.0/16,fd00::/8"),
        ({"ingress-address": "10.0.0.3", "private-address": "name"}, "10.0.0.3/32"),
        ({"private-address": "10.0.0.4"}, "10.0.0.4/32"),
        ({}, ""),
        ({"egress-subnets": "*(rw)"}, ""),
    ],
)
def test_the_requesting_units_are_known_by_the_addresses_juju_gives(
    server: Unit, databag: dict[str, str], networks: str | None
):
    server.integrate(remote_app_data={"name": "/data"}, remote_units_data={0: databag})
    (request,) = server.ask(lambda library: library.requests())
    expected = databag["egress-subnets"] if networks is None else networks
    assert ",".join(map(str, request.clients)) == expected
    assert request.allowlist == ()
    assert request.error == ""


def test_a_unit_without_a_usable_address_is_said_and_keeps_nobody_else_out(server: Unit):
    server.integrate(
        remote_app_data={"name": "/data"},
        remote_units_data={0: {"egress-subnets": "*"}, 1: {"egress-subnets": "10.0.0.1/32"}},
    )
    (request,) = server.ask(lambda library: library.requests())
    assert request.networks == (ipaddress.ip_network("10.0.0.1/32"),)
    assert "unit other/0 has no usable address" in "\n".join(
        entry.message for entry in server.ctx.juju_log
    )


def test_networks_are_all_that_may_mount_sorted_and_once(server: Unit):
    server.integrate(
        remote_app_data={"name": "/data", "allowlist": "fd00::1, 10.0.0.9,10.0.0.10,9.0.0.0/8"},
        remote_units_data={
            0: {"egress-subnets": "10.0.0.9/32"},
            1: {"egress-subnets": "10.0.0.2/32"},
        },
    )
    (request,) = server.ask(lambda library: library.requests())
    assert [str(network) for network in request.networks] == [
        "9.0.0.0/8",
        "10.0.0.2/32",
        "10.0.0.9/32",
        "10.0.0.10/32",
        "fd00::1/128",
    ]


def test_an_allowlist_of_nobody_is_one(client: Unit, server: Unit):
    client.ask(lambda library: library.request_share(1, "/data"))
    server.integrate(remote_app_data=client.own(), remote_units_data={0: {"egress-subnets": OWN}})
    (request,) = server.ask(lambda library: library.requests())
    assert request.allowlist == ()
    assert [str(it) for it in request.networks] == [OWN]


# Older peers


def test_an_older_server_is_understood(client: Unit):
    client.ask(lambda library: library.request_share(1, "/data", size=40))
    hook = client.hook("changed", remote_app_data={"endpoint": "10.0.0.1:/srv/nfs/a"})
    assert hook == [f"mount {ENDPOINT}"]
    assert client.ask(lambda library: library.shares()) == (
        Share(1, Endpoint("10.0.0.1", "/srv/nfs/a")),
    )


def test_an_older_client_is_understood(server: Unit):
    data = {"name": "/data", "allowlist": "0.0.0.0", "size": "-1"}
    units = {0: {"egress-subnets": "10.0.0.2/32"}}
    hook = server.hook("changed", remote_app_data=data, remote_units_data=units)
    assert hook == ["requested /data -1 0.0.0.0"]
    assert server.ask(lambda library: library.requests()) == (
        ShareRequest(
            integration_id=1,
            application="other",
            name="/data",
            size=NO_LIMIT,
            allowlist=ANYONE,
            clients=(ipaddress.IPv4Network("10.0.0.2/32"),),
        ),
    )


def test_an_older_peers_bookkeeping_is_not_data(client: Unit, server: Unit):
    client.integrate(remote_app_data={"cache": '{"name": "/data"}', "endpoint": ENDPOINT})
    assert client.ask(lambda library: library.fetch_data()) == {1: {"endpoint": ENDPOINT}}
    data = {"name": "/data", "cache": "{}"}
    assert server.hook("changed", remote_app_data=data)
    assert server.hook("changed", remote_app_data={**data, "cache": '{"more": 1}'}) == []
    assert server.ask(lambda library: library.fetch_data()) == {1: {"name": "/data"}}


@pytest.mark.parametrize("hook", ["upgrade_charm", "leader_elected"])
@pytest.mark.parametrize("side", ["client", "server"])
def test_our_own_old_bookkeeping_is_dropped(hook: str, side: str, request: pytest.FixtureRequest):
    unit: Unit = request.getfixturevalue(side)
    old = {"cache": "{}", "kept": "x"}
    unit.integrate(local_app_data=dict(old), local_unit_data=dict(old))
    unit.hook(hook)
    assert unit.own() == {"kept": "x"}
    # A new leader would have to ask for it in each of its integrations.
    left = {"kept": "x"} if hook == "upgrade_charm" else old
    assert unit.state.get_relation(1).local_unit_data == left


def test_who_does_not_lead_drops_its_own_part_of_it(client: Unit):
    client.lead(False).integrate(local_app_data={"cache": "{}"}, local_unit_data={"cache": "{}"})
    client.hook("upgrade_charm")
    assert client.own() == {"cache": "{}"}
    assert client.state.get_relation(1).local_unit_data == {}


# What a client is told


def test_a_leader_is_told_of_a_server_until_it_has_asked(client: Unit):
    assert client.hook("created") == ["connected 1"]
    assert client.hook("joined") == ["connected 1"]
    client.ask(lambda library: library.request_share(1, "/data"))
    assert client.hook("changed") == []


def test_who_does_not_lead_is_told_of_a_server_when_it_leads(client: Unit):
    assert client.lead(False).hook("created") == []
    assert client.lead().hook("leader_elected") == ["connected 1"]


@pytest.fixture(params=[True, False], ids=["leader", "not leader"])
def asked(request: pytest.FixtureRequest, client: Unit) -> Unit:
    """A client that has asked: each of its units is told of the share."""
    client.integrate(local_app_data={"name": "/data"})
    return client.lead(request.param)


def test_each_unit_is_told_once_of_each_change(asked: Unit):
    assert asked.hook("changed") == []
    assert asked.hook("changed", remote_app_data={"error": "no space"}) == ["refused no space"]
    assert asked.hook("changed") == []
    assert asked.hook("changed", remote_app_data={"endpoint": ENDPOINT}) == [f"mount {ENDPOINT}"]
    assert asked.hook("changed") == []
    granted = {"endpoint": ENDPOINT, "size": "9"}
    assert asked.hook("changed", remote_app_data=granted) == ["changed 1"]
    assert asked.hook("changed") == []
    assert asked.hook("changed", remote_app_data={"endpoint": MOVED}) == [
        f"umount {ENDPOINT}",
        f"mount {MOVED}",
    ]
    refused = {"endpoint": MOVED, "error": "can't shrink"}
    assert asked.hook("changed", remote_app_data=refused) == ["refused can't shrink"]
    assert asked.hook("changed", remote_app_data={"endpoint": MOVED}) == ["changed 1"]
    assert asked.hook("changed") == []
    assert asked.hook("changed", remote_app_data=refused) == ["refused can't shrink"]
    assert asked.hook("changed", remote_app_data={}) == [f"umount {MOVED}", "changed 1"]
    assert asked.hook("changed", remote_app_data=refused) == [
        f"mount {MOVED}",
        "refused can't shrink",
    ]


def test_a_refusal_that_is_withdrawn_is_told(asked: Unit):
    assert asked.hook("changed", remote_app_data={"error": "no space"}) == ["refused no space"]
    assert asked.hook("changed", remote_app_data={}) == ["changed 1"]
    assert asked.hook("changed") == []


def test_who_is_not_admitted_yet_is_told_to_mount_when_it_is(asked: Unit):
    own = {"egress-subnets": OWN}
    others = {"endpoint": ENDPOINT, "allowlist": "10.0.0.8"}
    assert asked.hook("changed", remote_app_data=others, local_unit_data=own) == []
    both = others | {"allowlist": "10.0.0.7,10.0.0.8"}
    assert asked.hook("changed", remote_app_data=both) == [f"mount {ENDPOINT}"]
    # It can use what it has mounted: whether a later list is right the server knows, not we.
    assert asked.hook("changed", remote_app_data=others) == []
    assert asked.hook("changed", remote_app_data=both) == []
    moved = others | {"endpoint": MOVED}
    assert asked.hook("changed", remote_app_data=moved) == [f"umount {ENDPOINT}"]
    assert asked.hook("broken") == []


def test_what_an_earlier_revision_remembers_is_enough(asked: Unit):
    asked.hook("changed", remote_app_data={"endpoint": ENDPOINT, "size": "9"})
    (kept,) = [it for it in asked.state.stored_states if it.name == "_seen"]
    told_before = {"told": {"1": {"endpoint": ENDPOINT, "error": ""}}}
    old = dataclasses.replace(kept, content=told_before)
    asked.state = dataclasses.replace(asked.state, stored_states={old})
    assert asked.hook("changed") == []


def test_the_same_endpoint_spelt_otherwise_is_the_same(asked: Unit):
    assert asked.hook("changed", remote_app_data={"endpoint": "nfs://[2001:DB8::1]/a"}) == [
        "mount nfs://[2001:db8::1]/a"
    ]
    for same in "nfs://[2001:db8::1]:2049/a", "[2001:db8:0::1]:/a", "nfs://[2001:db8::1]//a ":
        assert asked.hook("changed", remote_app_data={"endpoint": same}) == []


def test_a_server_unit_of_several_departs_and_nothing_is_unmounted(asked: Unit):
    asked.hook("changed", remote_app_data={"endpoint": ENDPOINT}, remote_units_data={0: {}, 1: {}})
    assert asked.hook("departed", remote_units_data={1: {}}) == []
    assert asked.hook("departed", remote_units_data={}) == []


def test_a_removed_integration_unmounts_once_and_knows_what(asked: Unit):
    asked.hook("changed", remote_app_data={"endpoint": ENDPOINT})
    assert asked.hook("departed", remote_units_data={}) == []
    assert asked.hook("broken", remote_app_data={}) == [f"umount {ENDPOINT}"]
    assert asked.hook("leader_elected") == []


def test_an_endpoint_withdrawn_before_the_break_unmounts_once(asked: Unit):
    asked.hook("changed", remote_app_data={"endpoint": ENDPOINT})
    assert asked.hook("departed", remote_app_data={}) == [f"umount {ENDPOINT}"]
    assert asked.hook("broken") == []


def test_an_endpoint_that_can_not_be_read_is_not_one_that_was_withdrawn(asked: Unit):
    granted = {"endpoint": ENDPOINT, "size": "9"}
    bad = granted | {"endpoint": "nfs://10.0.0.1"}
    reason = BAD_ENDPOINTS["nfs://10.0.0.1"]
    assert asked.hook("changed", remote_app_data=granted) == [f"mount {ENDPOINT}"]
    for after, told_then in (
        (granted, ["changed 1"]),
        ({"endpoint": MOVED, "size": "9"}, [f"umount {ENDPOINT}", f"mount {MOVED}"]),
        ({}, [f"umount {MOVED}", "changed 1"]),
    ):
        assert asked.hook("changed", remote_app_data=bad) == [f"refused {reason}"]
        assert asked.hook("changed") == []
        assert asked.hook("changed", remote_app_data=after) == told_then
    assert asked.hook("changed", remote_app_data=granted) == [f"mount {ENDPOINT}"]
    asked.hook("changed", remote_app_data=bad)
    assert asked.hook("broken") == [f"umount {ENDPOINT}"]


def test_a_share_that_never_was_is_not_unmounted(asked: Unit):
    asked.hook("created")
    assert asked.hook("broken") == []


@pytest.mark.usefixtures("leaving")
def test_a_unit_that_leaves_unmounts_once(asked: Unit):
    asked.hook("changed", remote_app_data={"endpoint": ENDPOINT}, remote_units_data={0: {}, 1: {}})
    assert asked.hook("departed") == [f"umount {ENDPOINT}"]
    assert asked.hook("departed") == []
    assert asked.hook("broken") == []


@pytest.mark.usefixtures("leaving")
def test_a_unit_that_leaves_two_servers_mounts_neither_again(asked: Unit):
    for relation_id, endpoint in (1, ENDPOINT), (2, MOVED):
        asked.hook(
            "changed",
            relation_id,
            remote_app_data={"endpoint": endpoint},
            local_app_data={"name": "/data"},
        )
    assert asked.hook("departed", 1) == [f"umount {ENDPOINT}"]
    assert asked.hook("departed", 2) == [f"umount {MOVED}"]
    assert asked.hook("broken", 2) == []
    assert asked.hook("broken", 1) == []


def test_two_servers_are_not_confused(asked: Unit):
    for relation_id, endpoint in (1, ENDPOINT), (2, MOVED):
        hook = asked.hook(
            "changed",
            relation_id,
            remote_app_data={"endpoint": endpoint},
            local_app_data={"name": "/data"},
        )
        assert hook == [f"mount {endpoint}"]
    assert asked.hook("broken", 1) == [f"umount {ENDPOINT}"]
    assert asked.hook("changed", 2) == []
    assert asked.hook("broken", 2) == [f"umount {MOVED}"]


@pytest.mark.parametrize("later", ["leader_elected", "upgrade_charm"])
def test_what_a_skipped_hook_would_have_told_is_told_later(asked: Unit, later: str):
    asked.integrate(remote_app_data={"endpoint": ENDPOINT})
    assert asked.hook(later) == [f"mount {ENDPOINT}"]
    assert asked.hook(later) == []
    # The hook of the break failed, and the operator said `juju resolved --no-retry`.
    asked.state = dataclasses.replace(asked.state, relations=[])
    assert asked.hook(later) == [f"umount {ENDPOINT}"]
    assert asked.hook(later) == []


def test_a_hook_that_fails_tells_again(asked: Unit, monkeypatch: pytest.MonkeyPatch):
    def _on_mount_share(self: Client, event: ops.EventBase) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(Client, "_on_mount_share", _on_mount_share)
        with pytest.raises(errors.UncaughtCharmError, match="ZeroDivisionError"):
            asked.hook("changed", remote_app_data={"endpoint": ENDPOINT})
    assert asked.hook("changed") == [f"mount {ENDPOINT}"]


def test_an_event_can_be_deferred(asked: Unit, monkeypatch: pytest.MonkeyPatch):
    def _on_umount_share(self: Client, event: ops.EventBase) -> None:
        event.defer()

    asked.hook("changed", remote_app_data={"endpoint": ENDPOINT})
    with monkeypatch.context() as patch:
        patch.setattr(Client, "_on_umount_share", _on_umount_share)
        assert asked.hook("changed", remote_app_data={"endpoint": MOVED}) == [f"mount {MOVED}"]
    assert asked.hook("update_status") == [f"umount {ENDPOINT}"]


# What a server is told


def test_the_leader_is_told_of_each_change_of_a_request(server: Unit):
    data = {"name": "/data", "size": "10"}
    assert server.hook("created") == []
    assert server.hook("changed", remote_app_data=data) == ["requested /data 10 None"]
    assert server.hook("changed") == []
    for change in {"size": "20"}, {"allowlist": "10.0.0.1"}, {"name": "/other"}, {"size": "no"}:
        data |= change
        assert server.hook("changed", remote_app_data=dict(data)) == [
            f"requested {data['name']} {data['size']} {data.get('allowlist')}"
        ]
        assert server.hook("changed") == []
    assert server.hook("changed", remote_app_data={}) == ["released 1"]
    assert server.hook("changed") == []
    assert server.hook("broken") == []


def test_the_leader_is_told_of_units_that_come_and_go(server: Unit):
    one, two = {"egress-subnets": "10.0.0.1/32"}, {"egress-subnets": "10.0.0.2/32"}
    server.integrate(remote_app_data={"name": "/data"})
    requested = ["requested /data None None"]
    assert server.hook("changed", remote_units_data={0: one}) == requested
    assert server.hook("joined", remote_units_data={0: one, 1: two}) == requested
    assert server.hook("changed", remote_units_data={0: one, 1: one}) == requested
    assert server.hook("departed", remote_units_data={1: one}) == []
    assert server.hook("departed", remote_units_data={}) == requested


def test_a_broken_integration_releases_once(server: Unit):
    server.hook("changed", remote_app_data={"name": "/data"})
    assert server.hook("departed", remote_units_data={}) == []
    assert server.hook("broken") == ["released 1"]
    assert server.hook("leader_elected") == []


def test_who_does_not_lead_is_told_nothing_and_a_new_leader_everything(server: Unit):
    server.lead(False)
    assert server.hook("changed", remote_app_data={"name": "/data"}) == []
    assert server.lead().hook("leader_elected") == ["requested /data None None"]
    assert server.hook("leader_elected") == []
    # Another leads for a while: what happened meanwhile isn't known, so all is told anew.
    assert server.lead(False).hook("changed") == []
    assert server.lead().hook("leader_elected") == ["requested /data None None"]


def test_who_leads_no_more_releases_nothing(server: Unit):
    server.hook("changed", remote_app_data={"name": "/data"})
    assert server.lead(False).hook("broken") == []
    assert server.lead().hook("leader_elected") == []


class Observer(ops.CharmBase):
    """Observes no event of the library."""

    def __init__(self, framework: ops.Framework):
        super().__init__(framework)
        self.nfs_share = (NFSRequires if "client" in self.meta.name else NFSProvides)(
            self, "nfs-share"
        )


@pytest.mark.parametrize("meta", [CLIENT_META, SERVER_META], ids=lambda meta: meta["name"])
def test_nothing_is_remembered_where_nobody_observes(meta: dict[str, Any]):
    unit = Unit(Context(Observer, meta=meta), State(leader=True))
    data = {"name": "/data", "endpoint": ENDPOINT}
    for hook in ("created", "changed", "leader_elected", "upgrade_charm", "broken"):
        unit.hook(hook, remote_app_data=data)
        assert [it for it in unit.state.stored_states if it.name == "_seen"] == []
    assert [it for it in unit.ctx.emitted_events if "Share" in type(it).__name__] == []


def test_what_is_remembered_of_a_request_does_not_grow_with_it(server: Unit):
    allowlist = ",".join(f"10.0.{n >> 8}.{n & 255}" for n in range(MAX_ALLOWLIST_ENTRIES))
    server.hook("changed", remote_app_data={"name": "/data", "allowlist": allowlist})
    (kept,) = [it for it in server.state.stored_states if it.name == "_seen"]
    assert len(repr(kept.content)) < 200


HOOKS = ("created", "joined", "changed", "departed", "leader_elected", "upgrade_charm")
ENDPOINTS: tuple[dict[str, str], ...] = (
    {},
    {"endpoint": ENDPOINT},
    {"endpoint": MOVED},
    {"endpoint": "?", "error": "no"},
    {"endpoint": ENDPOINT, "size": "2"},
)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(HOOKS), st.sampled_from(ENDPOINTS), st.booleans())),
    st.booleans(),
)
def test_in_any_order_what_is_told_adds_up_to_what_is(
    hooks: list[tuple[str, dict[str, str], bool]], ends: bool
):
    unit = Unit(Context(Client, meta=CLIENT_META, app_name="client"))
    unit.integrate()
    mounted: list[str] = []
    expected: list[str] = []
    for hook, last, leader in hooks:
        unit.integrate(remote_app_data=last)
        for line in unit.lead(leader).hook(hook):
            act, _, text = line.partition(" ")
            if act == "mount":
                mounted.append(text)
            elif act == "umount":
                mounted.remove(text)
        endpoint = last.get("endpoint")
        if endpoint != "?":  # That can't be read, and changes nothing.
            expected = [endpoint] if endpoint else []
        assert mounted == expected
    if ends:
        assert unit.hook("broken") == [f"umount {endpoint}" for endpoint in mounted]


def test_a_charm_may_stand_on_both_sides():
    class Both(ops.CharmBase):
        def __init__(self, framework: ops.Framework):
            super().__init__(framework)
            self.server = NFSRequires(self, "nfs-share")
            self.client = NFSProvides(self, "exported")
            framework.observe(self.server.on.mount_share, self._on_event)
            framework.observe(self.client.on.share_requested, self._on_event)

        def _on_event(self, _: ops.EventBase) -> None: ...

    meta = {
        "name": "both",
        "requires": {"nfs-share": {"interface": "nfs_share"}},
        "provides": {"exported": {"interface": "nfs_share"}},
    }
    ctx = Context(Both, meta=meta)
    above = Relation("nfs-share", id=1, remote_app_data={"endpoint": ENDPOINT})
    below = Relation("exported", id=2, remote_app_data={"name": "/data"})
    state = ctx.run(ctx.on.relation_changed(above), State(leader=True, relations={above, below}))
    ctx.run(ctx.on.relation_changed(below), state)
    names = [type(event).__name__ for event in ctx.emitted_events]
    assert [name for name in names if "Share" in name] == [
        "MountShareEvent",
        "ShareRequestedEvent",
    ]


# Bad data

NAME_RULE = "use 1 to 128 letters, digits and characters of /._:@+-"
BAD_NAMES = {
    "": f"share name '': {NAME_RULE}",
    "../etc": "share name '../etc': '..' is not allowed in it",
    "..": "share name '..': '..' is not allowed in it",
    "a/../b": "share name 'a/../b': '..' is not allowed in it",
    "a\nb": rf"share name 'a\nb': {NAME_RULE}",
    "a\n": rf"share name 'a\n': {NAME_RULE}",
    "a b": f"share name 'a b': {NAME_RULE}",
    "it's": f'share name "it\'s": {NAME_RULE}',
    'a"b': f"share name 'a\"b': {NAME_RULE}",
    "a(b": f"share name 'a(b': {NAME_RULE}",
    "*": f"share name '*': {NAME_RULE}",
    "a,b": f"share name 'a,b': {NAME_RULE}",
    "a\\b": rf"share name 'a\\b': {NAME_RULE}",
    "%s": f"share name '%s': {NAME_RULE}",
    "$(id)": f"share name '$(id)': {NAME_RULE}",
    "a\x00b": rf"share name 'a\x00b': {NAME_RULE}",
    "größe": rf"share name 'gr\xf6\xdfe': {NAME_RULE}",
    "a\u202eb": rf"share name 'a\u202eb': {NAME_RULE}",
    "x" * 129: f"share name '{'x' * 56}...: {NAME_RULE}",
    "x" * 300: f"share name '{'x' * 56}...: {NAME_RULE}",
    "\U0001f4be" * 300: "share name '" + "\\U0001f4be" * 5 + f"\\U0001...: {NAME_RULE}",
}
SIZE_RULE = "use whole gigabytes from 1, or -1 for no limit"
BAD_SIZES = {
    "0": f"size '0': {SIZE_RULE}",
    "-0": f"size '-0': {SIZE_RULE}",
    "-2": f"size '-2': {SIZE_RULE}",
    "ten": f"size 'ten': {SIZE_RULE}",
    "10G": f"size '10G': {SIZE_RULE}",
    "1.5": f"size '1.5': {SIZE_RULE}",
    "1e3": f"size '1e3': {SIZE_RULE}",
    "0x10": f"size '0x10': {SIZE_RULE}",
    "1_000": f"size '1_000': {SIZE_RULE}",
    "+5": f"size '+5': {SIZE_RULE}",
    " ": f"size ' ': {SIZE_RULE}",
    "5 0": f"size '5 0': {SIZE_RULE}",
    "\u0663": rf"size '\u0663': {SIZE_RULE}",
    "9" * 13: f"size '9999999999999': {SIZE_RULE}",
    "1" * 5000: f"size '{'1' * 56}...: {SIZE_RULE}",
}
ALLOWLIST_RULE = "use an IP address or network such as 10.0.0.0/24"
BAD_ALLOWLISTS = {
    "client.example": f"allowlist entry 'client.example': {ALLOWLIST_RULE}",
    "*": f"allowlist entry '*': {ALLOWLIST_RULE}",
    "10.0.0.1(rw,no_root_squash)": f"allowlist entry '10.0.0.1(rw': {ALLOWLIST_RULE}",
    "10.0.0.1,10.0.0.2(rw)": f"allowlist entry '10.0.0.2(rw)': {ALLOWLIST_RULE}",
    "10.0.0.1 *": f"allowlist entry '*': {ALLOWLIST_RULE}",
    "10.0.0.1\n*": f"allowlist entry '*': {ALLOWLIST_RULE}",
    "@netgroup": f"allowlist entry '@netgroup': {ALLOWLIST_RULE}",
    "10.0.0.0/33": f"allowlist entry '10.0.0.0/33': {ALLOWLIST_RULE}",
    "10.0.0.256": f"allowlist entry '10.0.0.256': {ALLOWLIST_RULE}",
    "010.0.0.1": f"allowlist entry '010.0.0.1': {ALLOWLIST_RULE}",
    "10": f"allowlist entry '10': {ALLOWLIST_RULE}",
    "fe80::1%eth0": f"allowlist entry 'fe80::1%eth0': {ALLOWLIST_RULE}",
    "fe80::%eth0/64": f"allowlist entry 'fe80::%eth0/64': {ALLOWLIST_RULE}",
    "\u0661.0.0.1": rf"allowlist entry '\u0661.0.0.1': {ALLOWLIST_RULE}",
    "a" * 300: f"allowlist entry '{'a' * 56}...: {ALLOWLIST_RULE}",
    "10.0.0.1," * 1001: "allowlist: 1001 entries, more than the 1000 allowed",
}
PATH_RULE = "not a plain absolute path"
HOST_RULE = "not a host name or IP address"
FORM = "not of the form nfs://host[:port]/path"
BAD_ENDPOINTS = {
    "nfs://10.0.0.1": f"endpoint 'nfs://10.0.0.1': {FORM}",
    "/srv/nfs": f"endpoint '/srv/nfs': {FORM}",
    "http://10.0.0.1/a": f"endpoint 'http://10.0.0.1/a': {FORM}",
    "NFS://10.0.0.1/a": f"endpoint 'NFS://10.0.0.1/a': {FORM}",
    "nfs://h:/a": f"endpoint 'nfs://h:/a': {FORM}",
    "nfs://h:port/a": f"endpoint 'nfs://h:port/a': {FORM}",
    "nfs://h:999999/a": f"endpoint 'nfs://h:999999/a': {FORM}",
    "nfs://::1/a": f"endpoint 'nfs://::1/a': {FORM}",
    "nfs://h/a\nb": rf"endpoint 'nfs://h/a\nb': {FORM}",
    "nfs://None/a": "endpoint host 'None': who wrote it knew no address",
    "None:/a": "endpoint host 'None': who wrote it knew no address",
    "nfs://h/a\nOptions=suid": rf"endpoint 'nfs://h/a\nOptions=suid': {FORM}",
    "nfs://h:0/a": "endpoint port 0: not one of 1 to 65535",
    "nfs://h:65536/a": "endpoint port 65536: not one of 1 to 65535",
    "nfs:///a": f"endpoint host '': {HOST_RULE}",
    ":/a": f"endpoint host '': {HOST_RULE}",
    "nfs://user@h/a": f"endpoint host 'user@h': {HOST_RULE}",
    "nfs://-o/a": f"endpoint host '-o': {HOST_RULE}",
    "-o:/a": f"endpoint host '-o': {HOST_RULE}",
    "nfs://h h/a": f"endpoint host 'h h': {HOST_RULE}",
    "nfs://h\nh/a": rf"endpoint host 'h\nh': {HOST_RULE}",
    "nfs://h%i/a": f"endpoint host 'h%i': {HOST_RULE}",
    f"nfs://{'h' * 300}/a": f"endpoint host '{'h' * 56}...: {HOST_RULE}",
    "nfs://[fe80::1%eth0]/a": "endpoint host 'fe80::1%eth0': not an IPv6 address",
    "nfs://[10.0.0.1]/a": "endpoint host '10.0.0.1': not an IPv6 address",
    "nfs://[]/a": "endpoint host '': not an IPv6 address",
    "nfs://h/a,exec": f"endpoint path '/a,exec': {PATH_RULE}",
    "h:/a,suid,dev": f"endpoint path '/a,suid,dev': {PATH_RULE}",
    "nfs://h/a -o exec": f"endpoint path '/a -o exec': {PATH_RULE}",
    "nfs://h/a?vers=3": f"endpoint path '/a?vers=3': {PATH_RULE}",
    "nfs://h/it's": f'endpoint path "/it\'s": {PATH_RULE}',
    "nfs://h/%i": f"endpoint path '/%i': {PATH_RULE}",
    "nfs://h/a\\040b": rf"endpoint path '/a\\040b': {PATH_RULE}",
    "nfs://h//../a": f"endpoint path '/../a': {PATH_RULE}",
    "h://a": f"endpoint 'h://a': {FORM}",
    "nfs://h/../etc": f"endpoint path '/../etc': {PATH_RULE}",
    "nfs://h/a/..": f"endpoint path '/a/..': {PATH_RULE}",
    f"nfs://h/{'x' * 1024}": f"endpoint path '/{'x' * 55}...: {PATH_RULE}",
}


@pytest.mark.parametrize(("text", "reason"), BAD_NAMES.items())
def test_a_bad_name(server: Unit, text: str, reason: str):
    server.integrate(remote_app_data={"name": text, "size": "5", "allowlist": "10.0.0.1"})
    (request,) = server.ask(lambda library: library.requests())
    assert (request.name, request.error) == ("", reason)
    assert (request.size, len(request.networks)) == (Size(5), 1)


@pytest.mark.parametrize(("text", "reason"), BAD_NAMES.items())
def test_a_bad_name_in_an_answer(client: Unit, text: str, reason: str):
    """It may have been written to get into a file of the client's: no charm is given it."""
    answer = {"endpoint": ENDPOINT, "answers": f"{ENDPOINT} {text}", "size": "5"}
    client.integrate(remote_app_data=answer)
    (share,) = client.ask(lambda library: library.shares())
    assert share == Share(1, Endpoint.parse(ENDPOINT), Size(5), reason)


def test_what_can_be_read_of_an_answer_is_read(client: Unit):
    answer = {"endpoint": ENDPOINT, "answers": f"{ENDPOINT} /data", "size": "ten"}
    answer["allowlist"] = "10.0.0.8"
    client.integrate(remote_app_data=answer, local_unit_data={"egress-subnets": OWN})
    (share,) = client.ask(lambda library: library.shares())
    assert (share.name, share.is_admitted) == ("/data", False)
    assert share.error == BAD_SIZES["ten"]


@pytest.mark.parametrize(("text", "reason"), BAD_SIZES.items())
def test_a_bad_size(server: Unit, client: Unit, text: str, reason: str):
    server.integrate(remote_app_data={"name": "/data", "size": text, "allowlist": "10.0.0.1"})
    (request,) = server.ask(lambda library: library.requests())
    assert (request.size, request.error) == (UNKNOWN, reason)
    assert (request.name, len(request.networks)) == ("/data", 1)
    # And from a server: the endpoint is good for all that.
    client.integrate(remote_app_data={"endpoint": ENDPOINT, "size": text})
    (share,) = client.ask(lambda library: library.shares())
    assert share == Share(1, Endpoint.parse(ENDPOINT), UNKNOWN, reason)


@pytest.mark.parametrize(("text", "reason"), BAD_ALLOWLISTS.items())
def test_a_bad_allowlist(server: Unit, text: str, reason: str):
    server.integrate(
        remote_app_data={"name": "/data", "size": "5", "allowlist": text},
        remote_units_data={0: {"egress-subnets": "10.0.0.7/32"}},
    )
    (request,) = server.ask(lambda library: library.requests())
    assert (request.allowlist, request.error) == ((), reason)
    # Those who ask are served; nobody gets in by the part that could be read.
    assert [str(network) for network in request.networks] == ["10.0.0.7/32"]


@pytest.mark.parametrize(("text", "reason"), BAD_ENDPOINTS.items())
def test_a_bad_endpoint(client: Unit, text: str, reason: str):
    data = {"endpoint": text}
    assert client.lead(False).hook("changed", remote_app_data=data) == [f"refused {reason}"]
    assert client.ask(lambda library: library.shares()) == (Share(1, error=reason),)


def test_all_that_is_bad_is_said(server: Unit):
    server.integrate(remote_app_data={"name": "*", "size": "ten", "allowlist": "*"})
    (request,) = server.ask(lambda library: library.requests())
    assert request.error == "; ".join(
        [BAD_NAMES["*"], BAD_SIZES["ten"], BAD_ALLOWLISTS["*"]],
    )


def test_every_key_is_missing(client: Unit, server: Unit):
    client.integrate(remote_app_data={}, remote_units_data={0: {}}, local_unit_data={})
    server.integrate(remote_app_data={}, remote_units_data={0: {}}, local_unit_data={})
    assert client.ask(lambda library: library.shares()) == (Share(1),)
    assert server.ask(lambda library: library.requests()) == ()
    assert client.hook("changed") == ["connected 1"]
    assert server.hook("changed") == []


@pytest.mark.parametrize("side", ["client", "server"])
def test_juju_does_not_say_who_the_other_side_is(side: str, request: pytest.FixtureRequest):
    unit: Unit = request.getfixturevalue(side)
    unit.integrate(remote_app_data={"name": "/data", "endpoint": ENDPOINT})

    def ask(library: NFSRequires | NFSProvides) -> tuple[Share | ShareRequest, ...]:
        for relation in library.integrations:
            relation.app = None  # pyright: ignore[reportAttributeAccessIssue]  # As ops does.
        assert library.fetch_data() == {1: {}}
        return library.shares() if isinstance(library, NFSRequires) else library.requests()

    assert unit.ask(ask) == ((Share(1),) if side == "client" else ())


def test_a_name_is_all_that_a_request_needs(server: Unit):
    server.integrate(remote_app_data={"name": "a"}, remote_units_data={})
    assert server.ask(lambda library: library.requests()) == (
        ShareRequest(1, "other", "a", NO_LIMIT, (), ()),
    )


def test_an_error_from_the_server_is_shown_on_one_line(client: Unit):
    error = "no\nspace\u202e" + "x" * 400
    client.lead(False)
    assert client.hook("changed", remote_app_data={"error": error}) == [
        "refused no space " + "x" * 188 + "..."
    ]
    assert client.hook("changed", remote_app_data={"error": " \n"}) == ["changed 1"]
    assert client.ask(lambda library: library.shares()) == (Share(1),)


def test_keys_we_do_not_know_are_kept_from_nobody_and_hurt_nobody(client: Unit, server: Unit):
    data = {"endpoint": ENDPOINT, "name": "/data", "future": "\x00\ud83d?"}
    client.integrate(remote_app_data=dict(data))
    server.integrate(remote_app_data=dict(data))
    assert client.ask(lambda library: library.fetch_data()) == {1: data}
    (share,) = client.ask(lambda library: library.shares())
    (request,) = server.ask(lambda library: library.requests())
    assert (share.error, request.error) == ("", "")


@pytest.mark.parametrize(
    ("text", "networks"),
    [
        ("", ""),
        (" , ,", ""),
        ("10.0.0.2 10.0.0.1\n", "10.0.0.1/32,10.0.0.2/32"),
        ("10.0.0.1", "10.0.0.1/32"),
        ("10.0.0.5/24", "10.0.0.0/24"),
        ("10.0.0.0/255.255.255.0", "10.0.0.0/24"),
        ("10.0.0.2,,10.0.0.1, 10.0.0.2", "10.0.0.1/32,10.0.0.2/32"),
        ("2001:DB8::/32,10.0.0.0/8", "10.0.0.0/8,2001:db8::/32"),
        ("0.0.0.0", "0.0.0.0/0,::/0"),
        ("0.0.0.0/0", "0.0.0.0/0,::/0"),
        ("::", "0.0.0.0/0,::/0"),
        ("::/0", "0.0.0.0/0,::/0"),
        ("0.0.0.0/8", "0.0.0.0/8"),
    ],
)
def test_a_good_allowlist(text: str, networks: str):
    assert ",".join(map(str, parse_allowlist(text))) == networks


@pytest.mark.parametrize(
    ("text", "size"),
    [("", None), ("-1", None), ("1", 1), ("007", 7), (" 5\n", 5), ("1000000000", 10**9)],
)
def test_a_good_size(text: str, size: int | None):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["/data", "a", "x" * 128, "a..b", "...", "A-1_b:c@d+e.f", "/"])
def test_a_good_name(text: str):
    assert parse_name(text) == text


@pytest.mark.parametrize(
    ("text", "source", "port"),
    [
        ("nfs://10.0.0.1/a", "10.0.0.1:/a", 2049),
        ("nfs://nfs.example:20490/srv/a/", "nfs.example:/srv/a/", 20490),
        ("nfs://h/", "h:/", 2049),
        ("nfs://h//srv///a", "h:/srv/a", 2049),
        (" nfs://h /a\n", "h:/a", 2049),
        ("h :/p//q", "h:/p/q", 2049),
        ("nfs://[2001:DB8:0::1]/a", "[2001:db8::1]:/a", 2049),
        ("nfs://[::1]:65535/a", "[::1]:/a", 65535),
        ("h:/srv/a~b@c:d+e", "h:/srv/a~b@c:d+e", 2049),
        ("[::1]:/a", "[::1]:/a", 2049),
        ("nfs:/a", "nfs:/a", 2049),
    ],
)
def test_a_good_endpoint(text: str, source: str, port: int):
    endpoint = Endpoint.parse(text)
    assert (endpoint.source, endpoint.port) == (source, port)
    assert Endpoint.parse(endpoint.source) == dataclasses.replace(endpoint, port=2049)


@pytest.mark.parametrize(
    ("host", "path", "port"),
    [
        ("10.0.0.1", "relative", 2049),
        ("10.0.0.1", "/a b", 2049),
        ("10.0.0.1", "", 2049),
        ("h,h", "/a", 2049),
        ("[::1]", "/a", 2049),
        ("::g", "/a", 2049),
        ("h", "/a", 0),
        ("h", "/a", 65536),
    ],
)
def test_an_endpoint_that_could_not_be_read_back_cannot_be_made(host: str, path: str, port: int):
    with pytest.raises(ValueError, match=r"^endpoint (host|path|port) "):
        Endpoint(host, path, port)


# Any data

# Text near the good, so that much of it is nearly right; and any text.
NEARLY = st.one_of(
    st.text(),
    st.text("nfs:/[]0123456789.ahx:,-% '\"\\\n\u0663", max_size=30),
    st.from_regex(r"(nfs://)?(\[[0-9a-f:%]{0,9}\]|[a-z0-9.%-]{0,9})(:[0-9]{0,6})?(/.{0,9})?"),
)
HOSTS = st.one_of(
    st.ip_addresses(v=4).map(str),
    st.ip_addresses(v=6).map(str),
    st.from_regex(r"[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?(\.[a-z0-9]{1,5}){0,3}", fullmatch=True),
)
PATHS = st.lists(st.from_regex(r"[A-Za-z0-9_~@:+-]{1,9}", fullmatch=True)).map(
    lambda parts: "/" + "/".join(parts)
)
NETWORKS = st.one_of(
    st.ip_addresses().map(str),
    st.builds("{}/{}".format, st.ip_addresses(v=4), st.integers(0, 32)),
    st.builds("{}/{}".format, st.ip_addresses(v=6), st.integers(0, 128)),
    st.just(""),
)


def test_networks_are_sorted():
    networks = parse_allowlist("10.0.0.1,192.0.2.0/24,2001:db8::1")
    assert sorted_networks(reversed(networks)) == networks


@pytest.mark.parametrize("parse", [parse_name, parse_size, parse_allowlist, Endpoint.parse])
def test_any_text_is_read_or_refused_in_one_short_line(parse: Callable[[str], object]):
    @settings(max_examples=400, deadline=None)
    @given(st.one_of(NEARLY, NEARLY.map(lambda text: text * 40)))
    def check(text: str) -> None:
        try:
            parse(text)
        except ValueError as problem:
            refusal = problem
        else:
            return
        assert type(refusal) is ValueError
        assert str(refusal).isascii()
        assert str(refusal).isprintable()
        assert len(str(refusal)) < 250

    check()


@given(st.builds(Endpoint, HOSTS, PATHS, st.integers(1, 65535)))
def test_an_endpoint_is_read_back_as_it_was_written(endpoint: Endpoint):
    assert Endpoint.parse(str(endpoint)) == endpoint


@settings(max_examples=500)
@given(NEARLY)
def test_what_is_read_is_read_back_and_safe_to_mount(text: str):
    try:
        endpoint = Endpoint.parse(text)
    except ValueError:
        return
    assert Endpoint.parse(str(endpoint)) == endpoint
    assert re.fullmatch(r"[A-Za-z0-9\[][A-Za-z0-9.\[\]:/_~@+-]*", endpoint.source)
    assert not re.search(r"[\s'\"`,%\\$\x00-\x1f\x7f]", endpoint.source)


@given(st.lists(NETWORKS, max_size=8))
def test_an_allowlist_written_from_what_was_read_is_the_same(items: list[str]):
    networks = parse_allowlist(",".join(items))
    assert parse_allowlist(",".join(map(str, networks))) == networks
    for item in filter(None, items):
        address = ipaddress.ip_interface(item).ip
        assert any(address in network for network in networks)


@given(NEARLY, NEARLY)
def test_different_names_stay_different(one: str, other: str):
    try:
        same = parse_name(one) == parse_name(other)
    except ValueError:
        return
    assert same == (one == other)


@settings(max_examples=50, deadline=None)
@given(st.fixed_dictionaries({}, optional={"endpoint": NEARLY, "size": NEARLY, "error": NEARLY}))
def test_any_databag_of_a_server_is_a_share(data: dict[str, str]):
    unit = Unit(Context(Client, meta=CLIENT_META, app_name="client"))
    unit.hook("changed", remote_app_data=data)
    (share,) = unit.ask(lambda library: library.shares())
    assert len(share.error) < 250
    assert not share.error or share.error.isprintable()
    mounts = [f"mount {share.endpoint}"] if share.endpoint else []
    assert [line for line in told if line.startswith("mount")] == mounts


@settings(max_examples=50, deadline=None)
@given(
    st.fixed_dictionaries({}, optional={"name": NEARLY, "size": NEARLY, "allowlist": NEARLY}),
    st.fixed_dictionaries({}, optional={"egress-subnets": NEARLY, "ingress-address": NEARLY}),
)
def test_any_databag_of_a_client_is_a_request_or_none(data: dict[str, str], unit: dict[str, str]):
    server = Unit(Context(Server, meta=SERVER_META, app_name="server"), State(leader=True))
    hook = server.hook("changed", remote_app_data=data, remote_units_data={0: unit})
    requests = server.ask(lambda library: library.requests())
    assert len(requests) == len(hook) == ("name" in data)
    assert all(request.error.isprintable() for request in requests)


# The examples in the documentation


@pytest.fixture
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each example of the library's page defines: the requirer is `charm` to its test."""
    found: list[dict[str, Any]] = []
    for text in re.findall(r"```python\n(.*?)```", str(nfs_interfaces.__doc__), re.DOTALL):
        path = tmp_path / f"example_{len(found)}.py"
        path.write_text(text)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec
        assert spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if not found:
            monkeypatch.setitem(sys.modules, "charm", module)
        found.append(vars(module))
    return found


def test_the_test_of_the_page_passes(examples: list[dict[str, Any]]):
    tests = [it for name, it in examples[2].items() if name.startswith("test_")]
    assert len(tests) == 1
    tests[0]()


@pytest.fixture
def reader(examples: list[dict[str, Any]]) -> Unit:
    return Unit(Context(examples[0]["ReaderCharm"], meta=CLIENT_META), State(leader=True))


@pytest.fixture
def writer(examples: list[dict[str, Any]]) -> Unit:
    unit = Unit(Context(examples[1]["WriterCharm"], meta=SERVER_META), State(leader=True))
    unit.integrate()
    return unit


REQUEST = {"name": "reader", "allowlist": "127.0.0.1", "size": "1"}
ANSWER = {
    "endpoint": "nfs://192.0.2.0/srv/nfs/other",
    "answers": "nfs://192.0.2.0/srv/nfs/other reader",
    "size": "1",
    "allowlist": "10.0.0.7/32",
}


def test_the_examples_understand_one_another(reader: Unit, writer: Unit):
    reader.hook("created")
    assert reader.own() == REQUEST
    assert reader.state.unit_status == WaitingStatus("Waiting for nfs-server")
    units = {0: {"egress-subnets": OWN}}
    writer.hook("changed", remote_app_data=reader.own(), remote_units_data=units)
    assert writer.own() == ANSWER
    reader.hook("changed", remote_app_data=writer.own(), local_unit_data=units[0])
    assert reader.state.unit_status == ActiveStatus("mount -t nfs 192.0.2.0:/srv/nfs/other")
    writer.hook("departed", remote_units_data={})
    writer.hook("broken")


def test_the_reader_has_a_status_before_and_after(reader: Unit):
    missing = BlockedStatus("Missing relation: nfs-share")
    reader.hook("update_status")
    assert reader.state.unit_status == missing
    reader.hook("changed", remote_app_data=ANSWER)
    assert reader.state.unit_status.name == "active"
    reader.hook("broken")
    assert reader.state.unit_status == missing


@pytest.mark.parametrize(
    ("slip", "error"),
    [
        ({"size": "5GB"}, "size '5GB': "),
        ({"name": "*"}, "share name '*': "),
        ({"size": "-1"}, "a size is needed here"),
    ],
)
def test_a_slip_in_a_request_takes_nothing_away(writer: Unit, slip: dict[str, str], error: str):
    units = {0: {"egress-subnets": OWN}}
    writer.hook("changed", remote_app_data=REQUEST, remote_units_data=units)
    writer.hook("changed", remote_app_data=REQUEST | slip)
    said = writer.own()
    assert said.pop("error").startswith(error)
    assert said == ANSWER
    writer.hook("changed", remote_app_data=REQUEST)
    assert writer.own() == ANSWER


def test_new_leaders_of_the_examples_ask_and_answer(reader: Unit, writer: Unit):
    reader.lead(False).hook("created")
    writer.lead(False).hook("changed", remote_app_data=REQUEST)
    assert (reader.own(), writer.own()) == ({}, {})
    reader.lead().hook("leader_elected")
    assert reader.own() == REQUEST
    writer.lead().hook("leader_elected")
    assert writer.own()["endpoint"] == ANSWER["endpoint"]

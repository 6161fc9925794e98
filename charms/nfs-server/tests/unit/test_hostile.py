# SPDX-License-Identifier: Apache-2.0
"""Whatever a client says: files and command lines mean what was meant, or it is refused.

What is rendered is read back by parsers that know the formats and nothing of the charm, and are
stricter than the real ones: what they can't read for certain is an error.
"""

import configparser
import json
import re
import tempfile
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import exports
import images
import mounts
from charms.storage_libs.v0.nfs_interfaces import (
    Permissions,
    parse_allowlist,
    parse_name,
    parse_size,
)
from nfs_charms import machine
from values import GIB, Export, Work, share_directory, share_id

UUID = "0b5bd56d-6b2f-4ba1-bd3c-7a7f1e6c0e0a"
OPTIONS = {
    "rw", "sync", "no_subtree_check", "no_root_squash", "no_all_squash", "secure", "sec=sys",
    "mountpoint", f"fsid={UUID}",
}  # fmt: skip

# Read by exportfs itself too, in tests/integration/test_server_hand.py.
INJECTIONS = json.loads((Path(__file__).parents[4] / "tests" / "injections.json").read_text())
# A few characters that mean something somewhere, so that they meet often.
_loaded = st.text(st.sampled_from("ab1/._:@+-, \t\n\r\\\"'#()*$%`;=[]{}~\0\x85é"), max_size=40)
hostile = st.sampled_from(INJECTIONS) | _loaded | st.text(max_size=200)
_address = (st.ip_addresses() | st.just("0.0.0.0/0") | st.just("::/0")).map(str)
_plain = st.from_regex(r"[A-Za-z0-9/._:@+-]{1,128}", fullmatch=True)

many = settings(max_examples=3000)


def parse_exports(text: str) -> dict[tuple[str, str], set[str]]:
    """Read exports(5), path and host -> options. What may be read in two ways is an error."""
    found: dict[tuple[str, str], set[str]] = {}
    for line in text.removesuffix("\n").split("\n"):
        if line.startswith("#"):
            continue
        words = line.split(" ")
        path, defaults, *hosts = words
        assert re.fullmatch(r"/[a-z0-9_/]+", path), line
        assert re.fullmatch(r"-[a-z0-9_=,-]+", defaults), line
        assert hosts, "no host is the whole world"
        for host in hosts:
            assert re.fullmatch(r"\*|[0-9a-f.:]+(/[0-9]{1,3})?", host), line
            assert (path, host) not in found, "exportfs refuses a file that says a host twice"
            found[path, host] = set(defaults[1:].split(","))
    return found


def parse_unit(text: str) -> dict[str, dict[str, str]]:
    """Read systemd.syntax(7), without what it has beyond INI files: that is an error."""
    assert not re.search(r"\\\n|%", text), "a continued line or a specifier"
    parser = configparser.RawConfigParser(comment_prefixes="#", delimiters="=", strict=True)
    parser.optionxform = str  # pyright: ignore[reportAttributeAccessIssue]
    parser.read_string(text)
    return {name: dict(parser.items(name)) for name in parser.sections()}


def refused(parse: Callable[[str], object], text: str) -> bool:
    reason = ""
    try:
        parse(text)
    except ValueError as error:
        reason = str(error)
    assert len(reason) < 1000
    assert reason.isprintable(), "it goes into a status and a log"
    return bool(reason)


@many
@given(hostile | _plain, st.lists(_address, min_size=1, max_size=5) | hostile.map(lambda t: [t]))
@example("/data", ["0.0.0.0/0", "::/0"])
def test_exports_say_what_is_meant(name: str, allowlist: list[str]):
    if refused(parse_name, name) or refused(parse_allowlist, ",".join(allowlist)):
        return
    networks = parse_allowlist(",".join(allowlist))
    if not networks:
        return  # Exported to nobody: then it is left out.
    found = parse_exports(exports.render([Export(name, UUID, networks)], "none"))
    assert {path for path, _ in found} == {f"/srv/nfs/{share_id(name)}"}
    assert all(options == OPTIONS for options in found.values())
    meant = {"*" if n.prefixlen == 0 else n for n in networks}
    assert {h if h == "*" else ip_network(h) for _, h in found} == meant


_id = st.from_regex(r"[0-9]{1,11}:[0-9]{1,11}", fullmatch=True)


@many
@given(hostile | _id, hostile | st.sampled_from(["none", "root", "all"]))
@example("1000:1000", "all")
def test_permissions_say_what_is_meant(owner: str, squash: str):
    asked = Permissions.parse({"owner": owner, "squash": squash}, [])
    share = Export("/data", UUID, parse_allowlist("10.0.0.1"), permissions=asked)
    (options,) = parse_exports(exports.render([share], "none")).values()
    options -= {"root_squash", "all_squash", "no_root_squash", "no_all_squash"}
    if options != OPTIONS - {"no_root_squash", "no_all_squash"}:
        assert squash.strip() == "all"
        uid, gid = map(int, (owner if asked.owner else "65534:65534").split(":"))
        assert options >= {f"anonuid={uid}", f"anongid={gid}"}
        assert len(options) == len(OPTIONS)
        assert max(uid, gid) < 2**31, "exportfs would write a negative number"


@many
@given(hostile | _plain, st.booleans())
@example("/data", True)
def test_units_say_what_is_meant(name: str, is_sparse: bool):
    if refused(parse_name, name):
        return
    directory = Path("/var/lib/juju/storage/shares/0")
    path = images.image_path(directory, name)
    image = images.Image(name, UUID, path, GIB, GIB, GIB, True, is_sparse)
    unit = parse_unit(mounts._render_mount(image))
    assert set(unit) == {"Unit", "Mount", "Install"}
    assert unit["Unit"]["Description"] == f"NFS share {name}"
    options = "loop,nodev,nosuid,errors=remount-ro"
    assert unit["Mount"] == {
        "What": f"/var/lib/juju/storage/shares/0/{share_id(name)}.img",
        "Where": str(share_directory(name)),
        "Type": "ext4",
        "Options": options + (",discard" if is_sparse else ""),
    }


@many
@given(hostile | _plain, hostile | st.integers(-5, 10**13).map(str))
@example("/data", "10")
@example("/data", "-1")
def test_commands_say_what_is_meant(name: str, size: str):
    if refused(parse_name, name) or refused(parse_size, size):
        return
    gib = parse_size(size)
    assert gib is None or gib > 0
    ran: list[tuple[str, ...]] = []

    def run(*argv: str, timeout_s: float = 60.0) -> str:
        ran.append(argv)
        return ""

    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "run", run)
        patch.setattr(machine, "sync", lambda _: None)
        patch.setattr(images, "identify", lambda *_: (None, None))  # Nothing was formatted.
        work = Work(name, gib or 7, is_limited=gib is not None)
        images.make(Path(directory), work, "model/nfs-server")
        beginning = f"{directory}/{share_id(name)}.img."
    allocate = [(images.FALLOCATE, "--length", str((gib or 0) * GIB))] if gib else []
    assert [argv[:-1] for argv in ran if argv[0] == images.FALLOCATE] == allocate
    assert all(argv[-1].startswith(beginning) and argv[-1].endswith(".tmp") for argv in ran)
    (mkfs,) = (argv for argv in ran if argv[0] == images.MKFS)
    label = mkfs[mkfs.index("-L") + 1]
    assert re.fullmatch(r"[a-z0-9_]{1,16}", label)


@given(hostile)
@settings(max_examples=1000)
def test_what_is_no_network_is_refused(text: str):
    """Never a host name, a netgroup or a wildcard: exportfs would look them up, or match all."""
    if not refused(parse_allowlist, text):
        words = [word.strip() for word in text.split(",") if word.strip()]
        assert all(ip_network(word, strict=False) for word in words)

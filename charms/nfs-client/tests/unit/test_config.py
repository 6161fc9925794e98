# SPDX-License-Identifier: Apache-2.0

import pytest
from hypothesis import given
from hypothesis import strategies as st

from charms.storage_libs.v0.nfs_interfaces import Permissions, parse_name
from config import Config, InvalidConfig, own_share_name, parse_config

DEFAULTS = {"size": -1, "noexec": False, "nosuid": True, "nodev": True, "read-only": False}


def parse(**options: str | int | bool) -> Config | InvalidConfig:
    given_options = {name.replace("_", "-"): value for name, value in options.items()}
    return parse_config({**DEFAULTS, **given_options})


def test_defaults():
    assert parse(mountpoint="/data") == Config(
        "/data", "", None, ("rw", "nosuid", "nodev", "exec")
    )


def test_all_options():
    assert parse(
        mountpoint="/srv/a-b",
        size=40,
        share_name="projects",
        noexec=True,
        nosuid=False,
        nodev=False,
        read_only=True,
        owner="1000:100",
        mode="770",
        squash="all",
    ) == Config(
        "/srv/a-b",
        "projects",
        40,
        ("ro", "suid", "dev", "noexec"),
        permissions=Permissions("1000:100", "0770", "all", "ro"),
    )


@pytest.mark.parametrize(
    ("text", "mountpoint"),
    [
        ("/data/", "/data"),
        ("//data///deep/", "/data/deep"),
        ("/mnt", "/mnt"),
        ("/home/shared", "/home/shared"),
        ("/var/lib/mysql", "/var/lib/mysql"),
        ("/var/lib/jujuice", "/var/lib/jujuice"),
        ("/etcetera", "/etcetera"),
        ("/library", "/library"),
        ("/...", "/..."),
        ("/.hidden", "/.hidden"),
    ],
)
def test_mountpoint_accepted(text: str, mountpoint: str):
    config = parse(mountpoint=text)
    assert isinstance(config, Config)
    assert config.mountpoint == mountpoint


UNSET = "mountpoint: not set, say where to mount the share, such as /data"
CHARACTERS = "use only letters, digits and the characters /._-"
DIRECTORY = "a system directory, use one below it, or such as /data"
LETTERS = "use 1 to 128 letters, digits and characters of /._:@+-"
SIZES = "use whole gigabytes from 1, or -1 for no limit"

# The status message of each value that an operator can get wrong.
BAD_OPTIONS = [
    ({}, UNSET),
    ({"mountpoint": ""}, UNSET),
    ({"mountpoint": "data"}, "mountpoint 'data': use an absolute path, such as /data"),
    ({"mountpoint": " /data"}, "mountpoint ' /data': use an absolute path, such as /data"),
    ({"mountpoint": "/my data"}, f"mountpoint '/my data': {CHARACTERS}"),
    ({"mountpoint": "/data\n"}, f"mountpoint '/data\\n': {CHARACTERS}"),
    ({"mountpoint": "/d\nOptions=suid"}, f"mountpoint '/d\\nOptions=suid': {CHARACTERS}"),
    ({"mountpoint": "/50%"}, f"mountpoint '/50%': {CHARACTERS}"),
    ({"mountpoint": "/d\\x2d"}, f"mountpoint '/d\\\\x2d': {CHARACTERS}"),
    ({"mountpoint": "/größe"}, f"mountpoint '/gr\\xf6\\xdfe': {CHARACTERS}"),
    (
        {"mountpoint": "/data/../etc"},
        "mountpoint '/data/../etc': '.' and '..' are not allowed in it",
    ),
    ({"mountpoint": "/data/./x"}, "mountpoint '/data/./x': '.' and '..' are not allowed in it"),
    ({"mountpoint": "/"}, f"mountpoint '/': {DIRECTORY}"),
    ({"mountpoint": "//"}, f"mountpoint '//': {DIRECTORY}"),
    ({"mountpoint": "/home/"}, f"mountpoint '/home/': {DIRECTORY}"),
    ({"mountpoint": "/var/lib"}, f"mountpoint '/var/lib': {DIRECTORY}"),
    (
        {"mountpoint": "/etc"},
        "mountpoint '/etc': /etc belongs to the system, use another, such as /data",
    ),
    (
        {"mountpoint": "/usr/share/x"},
        "mountpoint '/usr/share/x': /usr belongs to the system, use another, such as /data",
    ),
    (
        {"mountpoint": "/var/lib/juju/agents"},
        "mountpoint '/var/lib/juju/agents': /var/lib/juju belongs to the system,"
        " use another, such as /data",
    ),
    (
        {"mountpoint": "/" + 300 * "a"},
        f"mountpoint '/{36 * 'a'}...': too long for the name of a systemd unit, use a shorter one",
    ),
    (
        {"mountpoint": "/data" + 60 * "-", "share-name": "a"},
        f"mountpoint '/data{32 * '-'}...': too long for the name of a systemd unit,"
        " use a shorter one",
    ),
    ({"mountpoint": "/data", "size": 0}, f"size '0': {SIZES}"),
    ({"mountpoint": "/data", "size": -2}, f"size '-2': {SIZES}"),
    ({"mountpoint": "/data", "size": "ten"}, f"size 'ten': {SIZES}"),
    ({"mountpoint": "/data", "size": 10**12}, f"size '1000000000000': {SIZES}"),
    (
        {"mountpoint": "/data", "share-name": "../other"},
        "share-name: share name '../other': '..' is not allowed in it",
    ),
    (
        {"mountpoint": "/data", "share-name": "a\nb"},
        f"share-name: share name 'a\\nb': {LETTERS}",
    ),
    (
        {"mountpoint": "/data", "share-name": 'say "x"'},
        f"share-name: share name 'say \"x\"': {LETTERS}",
    ),
    (
        {"mountpoint": "/data", "share-name": 300 * "n"},
        f"share-name: share name '{56 * 'n'}...: {LETTERS}",
    ),
    (
        {"mountpoint": "/data", "share-name": "größe"},
        f"share-name: share name 'gr\\xf6\\xdfe': {LETTERS}",
    ),
    (
        {"mountpoint": "/data", "owner": "bob"},
        "owner 'bob': use uid:gid, two numbers up to 2147483647, such as 1000:1000",
    ),
    (
        {"mountpoint": "/data", "mode": "4755"},
        "mode '4755': use three or four octal digits up to 3777, such as 0770",
    ),
    (
        {"mountpoint": "/data", "squash": "root_squash"},
        "squash 'root_squash': use none, root, all",
    ),
]


@pytest.mark.parametrize(("options", "problem"), BAD_OPTIONS)
def test_bad_option(options: dict[str, str | int], problem: str):
    config = parse_config({**DEFAULTS, **options})
    assert config == InvalidConfig((problem,), is_unset=problem == UNSET)


def test_large_size_is_for_the_server_to_refuse():
    config = parse(mountpoint="/data", size=10**9)
    assert isinstance(config, Config)
    assert config.size == 10**9


def test_every_bad_option_is_named():
    config = parse(mountpoint="data", size=0, share_name="a b")
    assert isinstance(config, InvalidConfig)
    assert [problem.split(" ")[0] for problem in config.problems] == [
        "mountpoint",
        "share-name:",
        "size",
    ]
    assert not config.is_unset


@given(st.text(), st.text(), st.integers())
def test_any_text_is_a_config_or_a_message(mountpoint: str, share_name: str, size: int):
    config = parse(mountpoint=mountpoint, share_name=share_name, size=size)
    if isinstance(config, InvalidConfig):
        assert all(problem.isprintable() and len(problem) < 400 for problem in config.problems)


@given(st.text(alphabet="/.abetcusrvliomn-", min_size=1))
def test_accepted_mountpoints_are_plain(text: str):
    config = parse(mountpoint=text)
    if isinstance(config, Config):
        parts = config.mountpoint.split("/")[1:]
        assert config.mountpoint.startswith("/")
        assert all(part not in {"", ".", ".."} for part in parts)
        assert parts[0] not in {"etc", "usr", "lib", "bin", "run"}


def test_allowlist():
    config = parse(mountpoint="/data", allowlist=" 10.0.7.9/24,192.0.2.10 ,")
    assert isinstance(config, Config)
    assert config.allowlist == " 10.0.7.9/24,192.0.2.10 ,"


def test_bad_allowlist():
    config = parse(mountpoint="/data", allowlist="10.0.0.0/8,example.com")
    assert isinstance(config, InvalidConfig)
    assert config.problems == (
        "allowlist entry 'example.com': use an IP address or network such as 10.0.0.0/24",
    )


@pytest.mark.parametrize(
    ("model", "application", "name"),
    [
        ("welcome-k8s", "nfs-client", "welcome-k8s/nfs-client"),
        ("m", "a" * 98, "m/" + "a" * 98),
    ],
)
def test_a_share_of_ones_own_is_named_readably(model: str, application: str, name: str):
    assert own_share_name(model, application) == name


# Juju has no slash in either.
WORDS = st.text(st.characters(codec="utf-8", exclude_characters="/"), min_size=1, max_size=200)


@given(st.tuples(WORDS, WORDS), st.tuples(WORDS, WORDS))
def test_shares_of_ones_own_never_meet(one: tuple[str, str], other: tuple[str, str]):
    """Who chooses the words has no way to another's name."""
    names = [own_share_name(*pair) for pair in (one, other)]
    assert parse_name(names[0]) == names[0]
    assert not names[0].startswith("/")
    assert (names[0] == names[1]) is (one == other)

# SPDX-License-Identifier: Apache-2.0
"""How the base image is named, refused and interrupted; test_machines shows that it boots."""

import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from revisions import INSTALLED, PACKAGES
from sandbox.machines import images

REPOSITORY = Path(__file__).parents[2]

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="images are built by root")


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    cache = tmp_path / "cache"
    monkeypatch.setattr(images, "CACHE", cache)
    return cache


def refuse(_message: str) -> None:
    raise AssertionError("something was built")


@pytest.mark.parametrize(
    ("name", "text", "number", "option"),
    [
        (
            "debian.sources",
            "Types: deb\n# A comment.\nURIs: http://a\nSigned-By: /k/a.gpg\n\n\n"
            "Types: deb\nURIs: http://b\nsigned-by: /k/b.gpg\n",
            2,
            "[signed-by=/k/b.gpg] ",
        ),
        ("unsigned.sources", "Types: deb\nURIs: http://a\n", 1, ""),
        ("inline.sources", "Types: deb\nSigned-By:\n -----BEGIN PGP\n .\n", 1, ""),
        (
            "a.list",
            "# A comment.\ndeb [arch=amd64 signed-by=/k/c.gpg] http://a b main\n",
            2,
            "[signed-by=/k/c.gpg] ",
        ),
        ("b.list", "deb http://a b main\n", 1, ""),
    ],
)
def test_keyring_is_the_one_that_the_host_names(tmp_path, name, text, number, option):
    (tmp_path / name).write_text(text)
    assert images._signed_by(f"{tmp_path / name}:{number}") == option


@pytest.fixture
def debian_12(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    host = {"ID": "debian", "VERSION_ID": "12", "VERSION_CODENAME": "bookworm"}
    host["PRETTY_NAME"] = "Debian"
    monkeypatch.setattr(platform, "freedesktop_os_release", lambda: host)
    return host


@pytest.mark.usefixtures("debian_12")
def test_another_release_comes_from_where_the_hosts_does():
    sources = [
        "deb [signed-by=/k/bookworm.gpg] http://a bookworm main contrib",
        "deb http://a bookworm-updates main",
        "deb http://b/bookworm bookworm-security main",
        "deb http://c stable main",
    ]
    assert images._codename("13") == "trixie"
    assert images._sources_of("trixie", sources) == [
        "deb [signed-by=/k/bookworm.gpg] http://a trixie main contrib",
        "deb http://a trixie-updates main",
        "deb http://b/bookworm trixie-security main",
    ]
    assert images._codename("12") == images._codename(None) == "bookworm"
    assert images._sources_of("bookworm", sources) == sources
    with pytest.raises(images.ImageError, match="no source of bookworm"):
        images._sources_of("trixie", sources[3:])


def test_release_that_the_host_has_no_source_of_is_refused(debian_12):
    with pytest.raises(images.ImageError, match="can't be of release 22 on this Debian"):
        images._codename("22")
    debian_12.update(ID="ubuntu", VERSION_ID="24.04", VERSION_CODENAME="noble")
    assert images._codename(None) == "noble"
    with pytest.raises(images.ImageError, match="can't be of release 12"):
        images._codename("12")


@needs_root
async def test_image_is_built_once_and_named_by_what_is_in_it():
    first = await images.build(PACKAGES, print)
    assert await images.build(PACKAGES[::-1], refuse) == first
    assert first.with_suffix(".key").stat().st_mode & 0o777 == 0o600
    other = await images.build(PACKAGES, print, installed=INSTALLED)
    mount = ["/usr/sbin/debugfs", "-R", "stat /usr/sbin/mount.nfs"]
    found = [subprocess.check_output([*mount, str(it)]) for it in (first, other)]
    assert [b"Inode:" in it for it in found] == [False, True]


@needs_root
async def test_build_that_is_killed_leaves_nothing_that_counts(cache):
    program = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from sandbox.machines import images\n"
        "images.CACHE = Path(sys.argv[1])\n"
        "asyncio.run(images.build([], lambda line: print(line, flush=True)))\n"
    )
    mounts = Path("/proc/self/mountinfo").read_text()
    with subprocess.Popen(
        [sys.executable, "-c", program, str(cache)], stdout=subprocess.PIPE, cwd=REPOSITORY
    ) as builder:
        assert builder.stdout is not None
        while b"installing essential packages" not in builder.stdout.readline():
            assert builder.poll() is None
        assert processes_under(cache)
        builder.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while processes_under(cache):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert sorted(path.name for path in cache.iterdir()) == ["build.lock", "partial"]
    async with images._workspace(refuse) as next_workspace:
        assert list(next_workspace.iterdir()) == []
    assert [path.name for path in cache.iterdir()] == ["build.lock"]


def processes_under(directory: Path) -> list[str]:
    """Return the processes that name a directory, or live in it."""
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
            if str(directory).encode() in words:
                found.append(process.name)
        except OSError:
            # It has ended meanwhile.
            continue
    return found


def test_who_reboots_says_what_is_waited_for():
    dropin = "sandbox/machine/root/etc/systemd/system/systemd-reboot.service.d/sandbox.conf"
    assert images.REBOOTS in (Path(__file__).resolve().parents[2] / dropin).read_text()

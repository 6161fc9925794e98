# SPDX-License-Identifier: Apache-2.0
"""Whose files are in a share, and who may only read it: asked of users on the machines.

Two machines have clients: one whose applications write, and one that only reads. What the server
refuses is tried with mounts made by hand, since the charm's own are read-only already.
"""

import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from revisions import WITHOUT_OWNERS, packed_at
from story import APP, CLIENT, DEPLOY_TIMEOUT_S, MOUNT, SERVER, Story, becomes

pytestmark = [pytest.mark.slow, pytest.mark.needs("disks")]
READING_APP, READER, BESIDE, NEIGHBOUR = "reading-app", "reader", "beside", "neighbour"
SERVER_UNIT, CLIENT_UNIT, READER_UNIT = f"{SERVER}/0", f"{CLIENT}/0", f"{READER}/0"
WRITING, READING = f"{APP}/0", f"{READING_APP}/0"
HAND = "/mnt/hand"
USER, OTHER_USER = 1000, 2000
PAGE = Path(__file__).resolve().parent.parent.parent / "docs/explanation.md"
ROW = re.compile(
    r"(?m)^\| `(?P<squash>none|root|all)` \| (?:`(?P<owner>[0-9:]+)` )?"
    r"\| (?:`(?P<mode>[0-7]+)` )?\| (?P<root>\S+) \| (?P<user>\S+) \| (?P<other>\S+) \|$"
)


def _as(user: int) -> str:
    return f"setpriv --reuid={user} --regid={user} --clear-groups"


def _act(story: Story, name: str, **params: Any) -> Mapping[str, Any]:
    """Run an action that has to succeed; its results."""
    task = story.act(SERVER_UNIT, name, **params)
    assert task.success, task
    return task.results


def _share(story: Story, name: str) -> Mapping[str, str]:
    """What list-shares says of a share."""
    found = _act(story, "list-shares")
    (share,) = [it for it in found.values() if isinstance(it, dict) and it["name"] == name]
    return share


def _address(story: Story, unit: str) -> str:
    return story.unit(unit).public_address


@contextmanager
def _mounted(
    story: Story, unit: str, path: str, options: str = "vers=4.2"
) -> Generator[None, None, None]:
    """Mount a share by hand, writable and as no other mount, and unmount it."""
    source = f"{_address(story, SERVER_UNIT)}:{path}"
    mount = f"mount -t nfs -o rw,nosharecache,retry=0,{options} {source} {HAND}"
    story.run(unit, f"mkdir -p {HAND} && timeout 60 {mount}")
    try:
        yield
    finally:
        story.run(unit, f"umount {HAND}")


@pytest.mark.incremental
def test_deploy(story: Story):
    story.deploy(SERVER, disk="30G")
    story.deploy(APP)
    story.deploy(READING_APP, charm=APP)
    story.deploy_client(
        mountpoint=MOUNT, share_name=MOUNT, size=1, owner=f"{USER}:{USER}", mode="0750",
        squash="root",
    )  # fmt: skip
    story.integrate()
    story.settle(SERVER, APP, READING_APP, CLIENT, timeout=DEPLOY_TIMEOUT_S)


# Owner and mode.

WHO_WRITES = f"""\
for user in 0 {USER} {OTHER_USER}; do
    file=WHERE/by-$user; as="setpriv --reuid=$user --regid=$user --clear-groups"
    rm -f $file 2> /dev/null
    if $as touch $file 2> /tmp/said
    then $as stat -c %u:%g $file
    else grep -q 'Permission denied' /tmp/said && echo no
    fi
done
"""


def _who_writes(story: Story, unit: str, where: str) -> list[str]:
    """Whose the file is that each user writes, root first; `no`: it can't."""
    return story.run(unit, WHO_WRITES.replace("WHERE", where)).split()


@pytest.mark.incremental
def test_a_user_that_is_not_root_writes_at_once(story: Story):
    assert story.message(CLIENT_UNIT) == ""
    assert story.run(WRITING, f"stat -c '%u:%g %a' {MOUNT}") == f"{USER}:{USER} 750"
    assert _who_writes(story, WRITING, MOUNT) == ["no", f"{USER}:{USER}", "no"]
    # Not even to look is there a way for those whom owner and mode leave out.
    assert story.try_to_run(WRITING, f"ls {MOUNT}")[0] != 0
    assert story.try_to_run(WRITING, f"{_as(OTHER_USER)} ls {MOUNT}")[0] != 0
    share = _share(story, MOUNT)
    found = {key: share[key] for key in ("owner", "mode", "squash", "read-only")}
    assert found == {
        "owner": f"{USER}:{USER}", "mode": "0750", "squash": "root", "read-only": ""
    }  # fmt: skip


def test_what_the_application_changes_stays(story: Story):
    below = f"{MOUNT}/below"
    story.run(WRITING, f"{_as(USER)} sh -c 'mkdir -m 0711 {below} && chmod 0700 {MOUNT}'")
    story.configure(CLIENT, size=2)
    becomes(lambda: story.size(WRITING), 2)
    story.update_status(SERVER_UNIT)
    assert _share(story, MOUNT)["mode"] == "0700"
    # What is asked anew is set: the mode, not the owner, and nothing below.
    story.run(SERVER_UNIT, f"chown {OTHER_USER} /srv/nfs/data_*")
    story.configure(CLIENT, mode="2775")
    becomes(lambda: _share(story, MOUNT)["mode"], "2775")
    assert _share(story, MOUNT)["owner"] == f"{OTHER_USER}:{USER}"
    assert story.run(SERVER_UNIT, "stat -c '%u:%g %a' /srv/nfs/data_*/below") == (
        f"{USER}:{USER} 711"
    )
    story.configure(CLIENT, owner=f"{USER}:{OTHER_USER}")
    becomes(lambda: _share(story, MOUNT)["owner"], f"{USER}:{OTHER_USER}")
    story.configure(CLIENT, owner=f"{USER}:{USER}")
    becomes(lambda: _share(story, MOUNT)["owner"], f"{USER}:{USER}")
    story.settle(SERVER, CLIENT)
    assert story.message(CLIENT_UNIT) == ""


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("owner", "bob:bob", "owner 'bob:bob': use uid:gid, two numbers up to 2147483647"),
        ("mode", "4755", "mode '4755': use three or four octal digits up to 3777"),
        ("squash", "all,insecure", "squash 'all,insecure': use none, root, all"),
    ],
)
def test_a_bad_option_changes_nothing(story: Story, option: str, value: str, says: str):
    before = story.run(SERVER_UNIT, "exportfs -s; stat -c '%u:%g %a' /srv/nfs/data_*")
    good = story.juju.config(CLIENT)[option]
    story.configure(CLIENT, **{option: value})
    assert len(story.until_says(CLIENT_UNIT, "blocked", says)) <= 120
    found = story.run(SERVER_UNIT, "exportfs -s; stat -c '%u:%g %a' /srv/nfs/data_*")
    assert found == before
    story.configure(CLIENT, **{option: str(good)})
    story.settle(SERVER, CLIENT)


def _rows() -> list[dict[str, str]]:
    """The page's table of who owns what."""
    return [
        {k: v or "" for k, v in row.groupdict().items()} for row in ROW.finditer(PAGE.read_text())
    ]


@pytest.mark.parametrize("number", range(len(_rows())))
def test_who_owns_what_is_as_the_page_says(story: Story, number: int):
    row = _rows()[number]
    name = f"/row{number}"
    asked = {key: row[key] for key in ("squash", "owner", "mode")}
    share = _act(
        story, "create-share", share=name, size=1, allowlist=_address(story, WRITING), **asked
    )
    with _mounted(story, WRITING, share["path"]):
        assert _who_writes(story, WRITING, HAND) == [row["root"], row["user"], row["other"]]
    # The server's own disk has the same.
    files = story.run(SERVER_UNIT, f"find {share['path']} -name 'by-*' -printf '%U:%G '")
    written = [row[key] for key in ("root", "user", "other") if row[key] != "no"]
    assert sorted(files.split()) == sorted(written)


def test_the_page_has_all_of_them():
    assert len(_rows()) == 3 * 2 * 2


# Reading alone.

# Each way is tried on `file` or beside it; printed are those that did not fail, and the errors.
WAYS = """
import ctypes, errno, mmap, os, shutil, stat, subprocess, sys

os.chdir("WHERE")
libc = ctypes.CDLL(None, use_errno=True)

def opened(flags, name="file"):
    os.close(os.open(name, flags, 0o644))

def mapped():
    with open("file", "r+b") as file, mmap.mmap(file.fileno(), 1) as memory:
        memory[0] = 0

def copied():
    with open("file", "rb") as source, open("copy", "wb") as target:
        os.copy_file_range(source.fileno(), target.fileno(), 1)

def allocated():
    with open("file", "r+b") as file:
        os.posix_fallocate(file.fileno(), 0, 1 << 20)

def called(*command):
    done = subprocess.run(command, stderr=subprocess.PIPE, env={"LC_ALL": "C"}, text=True)
    if done.returncode:
        known = {os.strerror(it): it for it in (errno.EROFS, errno.EACCES, errno.EPERM)}
        number = next((it for text, it in known.items() if text in done.stderr), 0)
        raise OSError(number, done.stderr)

WAYS = {
    "read and write": lambda: opened(os.O_RDWR),
    "write": lambda: opened(os.O_WRONLY),
    "append": lambda: opened(os.O_WRONLY | os.O_APPEND),
    "open with truncate": lambda: opened(os.O_WRONLY | os.O_TRUNC),
    "create": lambda: opened(os.O_WRONLY | os.O_CREAT, "new"),
    "create alone": lambda: opened(os.O_WRONLY | os.O_CREAT | os.O_EXCL, "alone"),
    "truncate": lambda: os.truncate("file", 0),
    "grow": lambda: os.truncate("file", 1 << 20),
    "mmap": mapped,
    "copy_file_range": copied,
    "fallocate": allocated,
    "rename": lambda: os.rename("from", "renamed"),
    "replace": lambda: os.replace("other", "file"),
    "link": lambda: os.link("file", "linked"),
    "symlink": lambda: os.symlink("file", "symbolic"),
    "unlink": lambda: os.unlink("victim"),
    "mkdir": lambda: os.mkdir("directory"),
    "rmdir": lambda: os.rmdir("empty"),
    "fifo": lambda: os.mkfifo("fifo"),
    "socket": lambda: os.mknod("socket", stat.S_IFSOCK | 0o600),
    "chmod": lambda: os.chmod("file", 0o777),
    "chown": lambda: os.chown("file", os.getuid(), os.getgid()),
    "utime": lambda: os.utime("file", (1, 1)),
    "touch": lambda: os.utime("file"),
    "setxattr": lambda: os.setxattr("file", "user.mine", b"1"),
    "removexattr": lambda: os.removexattr("file", "user.there"),
    "set-user-ID": lambda: called("/usr/bin/chmod", "u+s", "file"),
    "of the root: chmod": lambda: os.chmod(".", 0o777),
    "of the root: utime": lambda: os.utime(".", (1, 1)),
    "of the root: setxattr": lambda: os.setxattr(".", "user.mine", b"1"),
    "sh": lambda: called("/bin/sh", "-c", "echo x >> file"),
    "cp": lambda: called("/usr/bin/cp", "/etc/hostname", "file"),
    "sed": lambda: called("/usr/bin/sed", "-i", "s/x/y/", "file"),
    "dd": lambda: called("/usr/bin/dd", "if=/dev/zero", "of=file", "bs=1", "count=1"),
}
if os.getuid() == 0:
    WAYS["device"] = lambda: os.mknod("device", stat.S_IFCHR | 0o666, os.makedev(1, 3))
for name, way in WAYS.items():
    try:
        way()
    except OSError as error:
        print(errno.errorcode.get(error.errno, "?"), name, sep="\\t")
    else:
        print("done", name, sep="\\t")
"""
# Content, owners, modes, times and attributes of all that is in a share.
STATE = """
import hashlib, os, pathlib
os.chdir("PATH")
for path in sorted(pathlib.Path().rglob("*")) + [pathlib.Path()]:
    it = path.lstat()
    content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    attributes = [(name, os.getxattr(path, name)) for name in os.listxattr(path)]
    print(path, it.st_mode, it.st_uid, it.st_gid, it.st_nlink, it.st_mtime_ns, content, attributes)
"""
SHARED = "/shared"
REFUSED = {"EROFS", "EACCES", "ENOTSUP"}  # The last for attributes, by NFSv3.


def _prepare(story: Story, path: str) -> None:
    """Put into a share, on the server, what the ways are tried on."""
    story.run(
        SERVER_UNIT,
        f"cd {path} && echo there > file && echo other > other && touch from victim && mkdir empty"
        f" && chmod 777 . * && chown -R {USER}:{USER} ."
        ' && python3 -c \'import os; [os.setxattr(it, "user.there", b"1") for it in'
        ' ("file", "other")]\'',
    )


def _ways(story: Story, unit: str, where: str, user: int = 0) -> dict[str, str]:
    """Try all ways to write; what each one came to."""
    said = story.python(unit, WAYS.replace("WHERE", where), _as(user) if user else "")
    return {name: outcome for outcome, name in (it.split("\t") for it in said.splitlines())}


def _can_not_write(
    story: Story, unit: str, where: str, path: str, *, by_nfsv3: bool = False
) -> None:
    """Whoever tries to write there, and how, fails, and nothing is other than before."""
    state = STATE.replace("PATH", path)
    before = story.python(SERVER_UNIT, state)
    for user in 0, USER:
        found = _ways(story, unit, where, user)
        assert len(found) > 30
        assert {name: it for name, it in found.items() if it not in REFUSED} == {}
        # The client asks the server before some of them, by NFSv3 before these too, and makes of
        # its no another error.
        if not by_nfsv3:
            assert found["write"] == found["mkdir"] == found["rename"] == "EROFS"
    assert story.python(SERVER_UNIT, state) == before
    assert story.run(unit, f"cat {where}/file") == "there"


@pytest.fixture(scope="module")
def shared(story: Story) -> str:
    """A share of two applications: one writes, and one, on another machine, only reads."""
    story.configure(CLIENT, share_name=SHARED, owner="", mode="", squash="")
    story.until(SERVER_UNIT, "exportfs -s | grep /srv/nfs/shared_")
    story.settle(SERVER, CLIENT)
    path = _share(story, SHARED)["path"]
    _prepare(story, path)
    story.deploy_client(READER, mountpoint=MOUNT, share_name=SHARED, size=1, read_only="true")
    story.integrate(READER, READING_APP)
    story.until(READING, f"grep there {MOUNT}/file", timeout=DEPLOY_TIMEOUT_S)
    story.settle(SERVER, READER)
    return path


def _exported(story: Story, unit: str, access: str) -> str:
    """Return a command that succeeds when the share is exported so to a unit's machine."""
    return f"exportfs -s | grep '/srv/nfs/shared_.* {_address(story, unit)}(.*sec=sys,{access},'"


def _first(story: Story) -> tuple[str, str]:
    """Name the application whose the share is, and the other one."""
    is_writers = _share(story, SHARED)["applications"].startswith(CLIENT)
    return (CLIENT, READER) if is_writers else (READER, CLIENT)


WRITER = (
    "import os\n"
    "log = os.open('WHERE/log', os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
    "while True:\n"
    "    os.write(log, b'line\\n')\n"
    "    os.fsync(log)\n"
)


@contextmanager
def _writing(story: Story, unit: str, where: str) -> Generator[None, None, None]:
    """Have a program write and sync all the time, which ends at its first error."""
    story.python(unit, WRITER.replace("WHERE", where), "systemd-run --quiet --unit=writing")
    story.until(unit, f"test -s {where}/log")
    try:
        yield
        lines = story.run(unit, f"wc -l < {where}/log")
        story.run(
            unit, f"timeout 60 sh -c 'until test $(wc -l < {where}/log) -gt {lines}; do :; done'"
        )
        story.run(unit, "systemctl is-active writing")
    finally:
        story.run(unit, f"systemctl stop writing; systemctl reset-failed; rm {where}/log")


def test_who_only_reads_can_not_write(story: Story, shared: str):
    assert story.message(READER_UNIT) == ""
    assert _share(story, SHARED)["read-only"] == _address(story, READING)
    found = _ways(story, READING, MOUNT)
    assert set(found.values()) == {"EROFS"}
    with _mounted(story, READING, shared):
        _can_not_write(story, READING, HAND, shared)
    # Also where root of the machine makes the charm's own mount writable.
    story.run(READING, f"mount -o remount,rw {MOUNT}")
    _can_not_write(story, READING, MOUNT, shared)
    story.run(READING, f"mount -o remount,ro {MOUNT}")
    # The other machine's are not held back, by the same ways.
    story.run(WRITING, f"echo more >> {MOUNT}/file && sync {MOUNT}/file")
    assert story.run(READING, f"tail -n 1 {MOUNT}/file") == "more"
    assert set(_ways(story, WRITING, MOUNT).values()) == {"done"}
    story.run(WRITING, f"rm -rf {MOUNT}/*")
    _prepare(story, shared)


def test_the_other_machine_goes_on_writing(story: Story, shared: str):
    with _writing(story, WRITING, MOUNT), _mounted(story, READING, shared):
        assert not {"done"} & {*_ways(story, READING, HAND).values()}


def test_another_right_is_noticed_by_nobody_else(story: Story, shared: str):
    """From reading to writing and back, while two shares are written to."""
    story.deploy_client(NEIGHBOUR, mountpoint="/neighbour", share_name="/neighbour", size=1)
    story.integrate(NEIGHBOUR)
    story.until(WRITING, "findmnt /neighbour", timeout=DEPLOY_TIMEOUT_S)
    story.settle(SERVER, NEIGHBOUR)
    show = "findmnt --noheadings --output ID,SOURCE,OPTIONS"
    ids = f"{show} {MOUNT} && {show} /neighbour"
    mounts = story.run(WRITING, ids)
    others = "exportfs -s | grep -v /srv/nfs/shared_"
    exported = story.run(SERVER_UNIT, others)
    with _writing(story, WRITING, "/neighbour"):
        for read_only, accesses in ("false", "rw"), ("true", "ro"):
            story.configure(READER, read_only=read_only)
            story.until(SERVER_UNIT, _exported(story, READING, accesses))
            story.settle(SERVER, READER)
            assert story.message(READER_UNIT) == ""
            options = story.run(READING, f"findmnt --noheadings --output OPTIONS {MOUNT}")
            assert options.split(",")[0] == accesses
            written = story.try_to_run(READING, f"echo more > {MOUNT}/by-reader")[0] == 0
            assert written == (accesses == "rw")
            assert story.run(SERVER_UNIT, others) == exported
    assert story.run(WRITING, ids) == mounts
    story.run(WRITING, f"rm {MOUNT}/by-reader")


def test_a_file_that_is_open_for_writing(story: Story, shared: str):
    """The right is the server's to take, also from a file that is open."""
    story.configure(READER, read_only="false")
    story.until(SERVER_UNIT, _exported(story, READING, "rw"))
    story.until(READING, f"touch {MOUNT}/open")
    story.python(READING, WRITER.replace("WHERE", MOUNT), "systemd-run --quiet --unit=held")
    story.until(READING, f"test -s {MOUNT}/log")
    story.configure(READER, read_only="true")
    story.until(READING, "! systemctl is-active held")
    assert "Read-only file system" in story.run(READING, "journalctl --unit held")
    story.run(READING, "systemctl reset-failed held")
    story.settle(SERVER, READER)
    story.run(WRITING, f"rm {MOUNT}/open {MOUNT}/log")


def test_on_the_machine_of_one_that_writes(story: Story, shared: str):
    """An address has one right: it is said, and the mount is read-only all the same."""
    story.deploy_client(BESIDE, mountpoint="/beside", share_name=SHARED, size=1, read_only="true")
    story.integrate(BESIDE)
    story.until(WRITING, "grep there /beside/file", timeout=DEPLOY_TIMEOUT_S)
    story.settle(SERVER, BESIDE)
    assert story.message(f"{BESIDE}/0") == f"{SERVER} does not grant read-only"
    assert _share(story, SHARED)["read-only"] == _address(story, READING)
    assert set(_ways(story, WRITING, "/beside").values()) == {"EROFS"}
    story.run(WRITING, f"echo more > {MOUNT}/more && rm {MOUNT}/more")
    # When the one that writes is gone, it holds for the machine.
    story.separate()
    story.until(SERVER_UNIT, f"! {_exported(story, WRITING, 'rw')}")
    becomes(lambda: story.message(f"{BESIDE}/0"), "")
    with _mounted(story, WRITING, shared):
        _can_not_write(story, WRITING, HAND, shared)
    story.rejoin()
    story.until(WRITING, f"touch {MOUNT}/file")
    story.settle(SERVER, CLIENT, BESIDE)
    story.juju.remove_application(BESIDE)
    story.gone(f"{BESIDE}/0")


def test_another_owner_is_not_granted(story: Story, shared: str):
    before = story.run(SERVER_UNIT, f"stat -c '%u:%g %a' {shared}")
    first, other = _first(story)
    story.configure(other, owner="7:7")
    says = f"belongs to {first}: owner 7:7 requested by another is not granted"
    story.until_says(f"{other}/0", "blocked", says)
    assert story.run(SERVER_UNIT, f"stat -c '%u:%g %a' {shared}") == before
    assert story.run(READING, f"cat {MOUNT}/file") == "there"
    story.configure(other, owner="")
    story.settle(SERVER, CLIENT, READER)


def test_nor_by_nfsv3(story: Story, shared: str):
    story.configure(SERVER, nfsv3="true")
    story.until(SERVER_UNIT, "grep -F +3 /proc/fs/nfsd/versions")
    story.settle(SERVER)
    with _mounted(story, READING, shared, "vers=3,nolock"):
        _can_not_write(story, READING, HAND, shared, by_nfsv3=True)
    story.configure(SERVER, nfsv3="false")
    story.until(SERVER_UNIT, "! grep -F +3 /proc/fs/nfsd/versions")
    story.settle(SERVER)


# By hand.


def test_access_by_hand(story: Story):
    reading, writing = _address(story, READING), _address(story, WRITING)
    path = _act(story, "create-share", share="/hand", size=1, allowlist=writing)["path"]
    _prepare(story, path)
    for access, outcome in ("ro", False), ("", True), ("ro", False):
        _act(story, "grant-access", share="/hand", allowlist=reading, access=access)
        with _mounted(story, READING, path):
            if outcome:
                story.run(READING, f"echo more > {HAND}/more && rm {HAND}/more")
            else:
                _can_not_write(story, READING, HAND, path)


def test_networks_that_overlap(story: Story):
    """Each address has what was decided for it, whatever else it is in."""
    reading, share = _address(story, READING), _share(story, "/hand")
    for network in str(ip_network(f"{reading}/24", strict=False)), "0.0.0.0/0":
        _act(story, "revoke-access", share="/hand", allowlist=reading)
        _act(story, "grant-access", share="/hand", allowlist=network, access="ro")
        with _mounted(story, WRITING, share["path"]):
            story.run(WRITING, f"echo more > {HAND}/more && rm {HAND}/more")
        with _mounted(story, READING, share["path"]):
            _can_not_write(story, READING, HAND, share["path"])
        # And the other way around: an address that reads, in a network that writes.
        _act(story, "grant-access", share="/hand", allowlist=network)
        _act(story, "grant-access", share="/hand", allowlist=reading, access="ro")
        with _mounted(story, READING, share["path"]):
            story.run(READING, f"echo more > {HAND}/more && rm {HAND}/more")
        _act(story, "revoke-access", share="/hand", allowlist=network)
    log = story.run(SERVER_UNIT, "journalctl --boot --unit nfs-mountd")
    assert "arbitrarily choosing" not in log


# A revision that knows nothing of all this.


@pytest.mark.needs("revisions")
def test_back_and_forth(story: Story, shared: str):
    """Nobody who writes or reads notices; what was set stays, and what was decided is back."""
    before = packed_at(WITHOUT_OWNERS)
    story.configure(_first(story)[0], owner=f"{USER}:{USER}", mode="0777")
    becomes(lambda: _share(story, SHARED)["mode"], "0777")
    story.settle(SERVER, CLIENT, READER)
    story.run(WRITING, f"chmod 0775 {MOUNT}")  # The application's own, from now on.
    ids = f"findmnt --noheadings --output ID,SOURCE {MOUNT}"
    mounts = [story.run(unit, ids) for unit in (WRITING, READING)]
    with _writing(story, WRITING, MOUNT):
        for charms in before, story.charms:
            story.refresh(SERVER, SERVER_UNIT, charms[SERVER])
            story.refresh(CLIENT, CLIENT_UNIT, charms[CLIENT])
            story.settle(SERVER, CLIENT, READER)
            assert [story.run(unit, ids) for unit in (WRITING, READING)] == mounts
            assert story.run(READING, f"cat {MOUNT}/file") == "there"
            assert story.run(SERVER_UNIT, f"stat -c '%u:%g %a' {shared}") == f"{USER}:{USER} 775"
    becomes(lambda: story.message(READER_UNIT), "")
    with _mounted(story, READING, shared):
        _can_not_write(story, READING, HAND, shared)

# SPDX-License-Identifier: Apache-2.0
"""A deletion that is taken back: killed, without power, by whatever clock, on whatever machine.

What is compared are digests: of the image while it is kept, and of the files that a client sees.
"""

import json
import secrets
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from revisions import BEFORE, packed_at
from story import APP, CLIENT, DEPLOY_TIMEOUT_S, LOOPS, MOUNT, SERVER, Story, together

pytestmark = [pytest.mark.slow, pytest.mark.needs("disks")]
APP_UNIT, CLIENT_UNIT = f"{APP}/0", f"{CLIENT}/0"
HAND = "/hand"
DISK = "8G"
# The last commit that knew nothing of deleted shares which are kept.
JUST_BEFORE = "1d27949"
YEAR_S = 366 * 24 * 60 * 60
# Killed before, nothing of ours has begun: see test_life.
FIRST_EXEC = 6
# In it falls all that an action does.
MAX_DELAY_S = 5.0

FILL = f"""
cd {MOUNT} && mkdir -p d/e && head -c 3000000 /dev/urandom > d/e/random && echo kept > file
ln -s file link && chown 1000:1000 d && chmod 2750 d && touch 'd/a b' && sync file d/e/random
"""
DIGEST = f"""
cd {MOUNT} && (find . -printf '%p %y %m %U:%G %l\\n' | sort;
find . -type f -exec sha256sum {{}} + | sort -k 2) | sha256sum
"""
# As the charm writes it: for how long it was kept so far, at that moment of that boot.
COUNT = """
import glob, json, os, sys
(path,) = glob.glob(sys.argv[1] + "/*.deleted")
path = path.removesuffix("deleted") + "json"
said = json.load(open(path))
said["deleted"]["counted_s"] = said["deleted"]["keep_s"] - int(sys.argv[2])
said["deleted"]["boot"] = open("/proc/sys/kernel/random/boot_id").read().strip()
with open("/proc/uptime") as uptime:
    said["deleted"]["seen_s"] = int(float(uptime.read().split()[0]))
with open(path + ".new", "w") as file:
    json.dump(said, file)
os.rename(path + ".new", path)
"""


def _server(story: Story) -> str:
    (unit,) = story.juju.status().get_units(SERVER)
    return unit


def _do(story: Story, action: str, /, **params: Any) -> dict[str, Any]:
    """Run an action on the server that has to succeed; its results."""
    task = story.act(_server(story), action, **params)
    assert task.success, task
    story.settle(SERVER)
    return task.results


def _refused(story: Story, action: str, /, **params: Any) -> str:
    task = story.act(_server(story), action, **params)
    assert task.status == "failed", task
    return task.message


def _delete(story: Story, share: str = MOUNT) -> dict[str, Any]:
    return _do(story, "delete-share", share=share, confirm=share)


def _listed(story: Story, share: str = MOUNT) -> dict[str, str]:
    """What list-shares says of a share, deleted or not; nothing if it lists none."""
    results = _do(story, "list-shares")
    found = [it for it in results.values() if isinstance(it, dict) and it["name"] == share]
    assert len(found) < 2, results
    return found[0] if found else {}


def _files(story: Story) -> list[str]:
    unit = _server(story)
    found = story.run(unit, f"ls -A {story.storage(unit)}").split()
    return [it for it in found if it != "lost+found"]  # The storage's own.


def _kept(story: Story) -> str:
    """The image that is kept: its path."""
    (name,) = [it for it in _files(story) if it.endswith(".deleted")]
    return f"{story.storage(_server(story))}/{name}"


def _digest_of_kept(story: Story) -> str:
    return story.run(_server(story), f"sha256sum {_kept(story)}", timeout=300).split()[0]


def _away(story: Story) -> None:
    """Take the client's integration away; nobody has the share then."""
    story.separate()
    story.settle(CLIENT, status="blocked")
    story.settle(SERVER)
    story.run(APP_UNIT, f"! findmnt {MOUNT}")


def _back(story: Story, digest: str) -> None:
    """Integrate the client again; it has the files that it had."""
    story.rejoin()
    _has(story, digest)


def _has(story: Story, digest: str) -> None:
    story.until(APP_UNIT, f"findmnt {MOUNT}")
    story.settle(SERVER, CLIENT)
    assert story.run(APP_UNIT, DIGEST) == digest
    story.run(APP_UNIT, f"touch {MOUNT}/.try && rm {MOUNT}/.try")  # It can be written to.


@pytest.fixture(scope="module")
def digest(story: Story) -> str:
    """Of the share's files, which a client made: nobody changes them from then on."""
    story.deploy(SERVER, disk=DISK)
    story.deploy(APP)
    story.settle(SERVER, APP, timeout=DEPLOY_TIMEOUT_S)
    story.deploy_client(mountpoint=MOUNT, share_name=MOUNT, size=1)
    story.integrate()
    story.until(APP_UNIT, f"findmnt {MOUNT}")
    story.settle(SERVER, CLIENT)
    story.run(APP_UNIT, FILL)
    return story.run(APP_UNIT, DIGEST)


def test_deleted_and_restored(story: Story, digest: str):
    said = _refused(story, "delete-share", share=MOUNT, confirm=MOUNT)
    assert said == f"share {MOUNT} is requested by {CLIENT}: remove that integration first"
    _away(story)
    results = _delete(story)
    assert results["state"] == "deleted"
    server = _server(story)
    week = story.run(server, "date --utc --date='7 days' +%F")
    listed = _listed(story)
    assert results["kept-until"] == listed["kept-until"] == week
    assert (listed["unit"], listed["state"], listed["size"]) == (server, "deleted", "1G")
    assert listed["uuid"] in _kept(story)
    story.run(server, "! findmnt --noheadings --output TARGET | grep /srv/nfs/")
    story.run(server, f"! exportfs -s | grep . && ! {LOOPS} | grep .")
    kept = _digest_of_kept(story)
    story.rejoin()
    told = f"{SERVER}: share {MOUNT}: deleted, and kept on {server}: run restore-share"
    story.until_says(CLIENT_UNIT, "blocked", told)
    said = _refused(story, "create-share", share=MOUNT, size=1)
    assert said.startswith(f"share {MOUNT}: deleted, and kept on {server}: ")
    assert _digest_of_kept(story) == kept
    before = story.message(CLIENT_UNIT)
    results = _do(story, "restore-share", share=MOUNT)
    assert (results["state"], results["uuid"]) == ("restored", listed["uuid"])
    _has(story, digest)
    assert before != story.message(CLIENT_UNIT)
    _next_hooks(story)
    assert sorted(it.rpartition(".")[2] for it in _files(story)) == ["img", "json"]


def test_under_another_name(story: Story, digest: str):
    _away(story)
    _delete(story)
    story.rejoin()
    story.until_says(CLIENT_UNIT, "blocked", "deleted, and kept")
    _do(story, "restore-share", share=MOUNT, name="/old")
    story.until(APP_UNIT, f'findmnt {MOUNT} && test -z "$(ls -A {MOUNT})"')  # A new one.
    story.settle(SERVER, CLIENT)
    story.configure(CLIENT, share_name="/old")
    story.until(APP_UNIT, f"test -e {MOUNT}/file")
    _has(story, digest)
    # The new one is purged, and the old one gets its name back.
    _delete(story)
    _do(story, "purge-share", share=MOUNT, confirm=MOUNT)
    _away(story)
    _delete(story, "/old")
    _do(story, "restore-share", share="/old", name=MOUNT)
    story.configure(CLIENT, share_name=MOUNT)
    _back(story, digest)


@pytest.mark.needs("hooks")
def test_killed_at_each_command(story: Story, digest: str):
    """SIGKILL at every command of the actions: the share is there, or it is kept, whole."""
    _away(story)
    kept = ""
    for action in ("delete-share", "restore-share"):
        number = FIRST_EXEC
        while _is_killed(story, number, action, **_params(action)):
            _next_hooks(story)
            _is_one_of_two(story)
            if action == "restore-share" and _listed(story)["state"] == "deleted":
                assert _digest_of_kept(story) == kept
            elif _listed(story)["state"] != ("kept" if action == "delete-share" else "deleted"):
                # It was done when it was killed: undone, to be killed at a later one.
                undo = "delete-share" if action == "restore-share" else "restore-share"
                _do(story, undo, **_params(undo))
                kept = _digest_of_kept(story) if action == "restore-share" else ""
            number += 1
        print(f"{action}: killed at {number - FIRST_EXEC} commands")
        assert number > FIRST_EXEC + 1, action
        _next_hooks(story)
        _is_one_of_two(story)
        if action == "delete-share":
            kept = _digest_of_kept(story)
    _back(story, digest)


def _params(action: str) -> dict[str, str]:
    return {"share": MOUNT} | ({"confirm": MOUNT} if action == "delete-share" else {})


def _is_killed(story: Story, number: int, action: str, /, **params: Any) -> bool:
    """Run an action that is killed at a command; whether it made so many."""
    server = _server(story)
    story.machines.kill_hook(server, number)
    story.act(server, action, **params)
    return story.machines.hooks(server)[-1]["returncode"] == -9


def _next_hooks(story: Story) -> None:
    """One finishes; the next one finds that recorded, and leaves nothing of it on the storage."""
    story.update_status(_server(story), times=2)
    story.settle(SERVER)


def _is_one_of_two(story: Story) -> None:
    """The share is there or it is kept, and nothing half done is left."""
    names = sorted(_files(story))
    stems = {name.partition(".")[0] for name in names}
    assert len(stems) == 1, names
    ends = sorted(name.rpartition(".")[2] for name in names)
    assert ends in (["img", "json"], ["deleted", "json"]), names


@pytest.mark.needs("power")
def test_without_power(story: Story, digest: str):
    """The power is cut at any moment of the actions."""
    _away(story)
    kept = ""
    for number in range(6):
        action = "restore-share" if _listed(story)["state"] == "deleted" else "delete-share"
        if action == "restore-share":
            kept = _digest_of_kept(story)
        delay_s = secrets.randbelow(int(MAX_DELAY_S * 1000)) / 1000
        together(
            lambda a=action: story.act(_server(story), a, **_params(a)),
            lambda s=delay_s: _cut(story, s),
        )
        story.until_says(_server(story), "active", timeout=DEPLOY_TIMEOUT_S)
        _next_hooks(story)
        _is_one_of_two(story)
        state = _listed(story)["state"]
        print(f"{number}: {action}, cut after {delay_s:.2f} s: {state}")
        if action == "restore-share" and state == "deleted":
            assert _digest_of_kept(story) == kept
    if _listed(story)["state"] == "deleted":
        _do(story, "restore-share", share=MOUNT)
    _back(story, digest)


def _cut(story: Story, delay_s: float) -> None:
    time.sleep(delay_s)  # The moment is what is tried out.
    server = _server(story)
    story.machines.power_cut(server)
    story.machines.boot(server)  # An action that it was at ends then.


@pytest.mark.needs("hooks")  # Elsewhere machines have a time service, which sets it back.
def test_a_clock_deletes_nothing(story: Story, digest: str):
    """A clock that is set a year forward, and two back; a boot beside it."""
    _away(story)
    _delete(story)
    server, kept = _server(story), _digest_of_kept(story)
    day = _listed(story)["kept-until"]
    for jump_s in (YEAR_S, -2 * YEAR_S):
        story.run(server, f"date --set=@$(($(date +%s) + {jump_s}))")
        _next_hooks(story)
        story.configure(SERVER, threads=4 if jump_s > 0 else 8)
        story.settle(SERVER)
        assert _listed(story)["kept-until"] != day  # By a clock that says another day.
        assert _digest_of_kept(story) == kept
    story.machines.reboot(server)
    story.until_says(server, "active", timeout=DEPLOY_TIMEOUT_S)
    _next_hooks(story)
    assert _digest_of_kept(story) == kept
    _do(story, "restore-share", share=MOUNT)
    _back(story, digest)


@pytest.mark.usefixtures("digest")
def test_its_day(story: Story):
    """By the count that the machine keeps: an hour before nothing goes, and then it does."""
    story.configure(SERVER, keep_deleted=1)
    _do(story, "create-share", share=HAND, size=1)
    _delete(story, HAND)
    server = _server(story)
    _count(story, 3600)
    _next_hooks(story)
    assert _listed(story, HAND)["state"] == "deleted"
    _count(story, 5)
    with story.update_status_every("5s"):
        story.until(server, f"! ls {story.storage(server)} | grep deleted")
    story.settle(SERVER)
    assert _listed(story, HAND) == {}
    assert sorted(it.rpartition(".")[2] for it in _files(story)) == ["img", "json"]
    _do(story, "create-share", share=HAND, size=1)  # Its name is free.
    _delete(story, HAND)
    _do(story, "purge-share", share=HAND, confirm=HAND)
    story.configure(SERVER, keep_deleted=7)
    story.settle(SERVER)


def _count(story: Story, left_s: int) -> None:
    server = _server(story)
    storage = story.storage(server)
    story.run(server, f"python3 -c {shlex.quote(COUNT)} {storage} {left_s}")


@pytest.mark.usefixtures("digest")
def test_a_full_storage_says_what_could_be_purged(story: Story):
    _do(story, "create-share", share=HAND, size=3)
    _delete(story, HAND)
    said = _refused(story, "create-share", share="/more", size=4)
    assert said.startswith("share /more: 4G requested, ")
    assert said.endswith("free; purge-share makes room: see list-shares")
    _do(story, "purge-share", share=HAND, confirm=HAND)
    _do(story, "create-share", share="/more", size=4)
    _delete(story, "/more")
    _do(story, "purge-share", share="/more", confirm="/more")


def test_its_storage_goes_elsewhere(story: Story, digest: str):
    _away(story)
    _delete(story)
    server, kept = _server(story), _digest_of_kept(story)
    storage = story.juju.exec("storage-list shares", unit=server).stdout.strip()
    story.juju.remove_unit(server)
    story.gone(server)
    story.add_unit(SERVER, attach_storage=storage)
    story.settle(SERVER, timeout=DEPLOY_TIMEOUT_S)
    assert _server(story) != server
    assert _listed(story)["unit"] == _server(story)
    assert _digest_of_kept(story) == kept
    _do(story, "restore-share", share=MOUNT)
    _back(story, digest)


@pytest.fixture(params=[JUST_BEFORE, BEFORE])
def before(request: pytest.FixtureRequest) -> Mapping[str, Path]:
    return packed_at(request.param)


@pytest.mark.needs("revisions")
def test_an_older_revision_knows_nothing_of_it(
    story: Story, digest: str, before: Mapping[str, Path]
):
    """What it doesn't know it neither serves nor removes; and it is there when this one is."""
    _away(story)
    _delete(story)
    server, kept, files = _server(story), _digest_of_kept(story), _files(story)
    story.refresh(SERVER, server, before[SERVER])
    story.settle(SERVER)
    story.update_status(server)
    story.settle(SERVER)
    assert (_digest_of_kept(story), _files(story)) == (kept, files)
    story.run(server, "! findmnt --noheadings --output TARGET | grep /srv/nfs/")
    story.refresh(SERVER, server, story.charms[SERVER])
    story.settle(SERVER)
    assert _listed(story)["state"] == "deleted"
    assert _digest_of_kept(story) == kept
    _do(story, "restore-share", share=MOUNT)
    _back(story, digest)


def test_what_is_not_whole_is_named_and_stays(story: Story, digest: str):
    """Files on the storage are input as any other."""
    _away(story)
    _delete(story)
    server, kept = _server(story), _kept(story)
    record = f"{kept.removesuffix('deleted')}json"
    whole = story.run(server, f"cat {record}")
    for change in ({"keep_s": -1}, {"counted_s": 10**9, "keep_s": 0}, {"boot": None}):
        plain = json.loads(whole)
        plain["deleted"] |= change
        story.run(server, f"echo {shlex.quote(json.dumps(plain))} > {record}")
        story.update_status(server)
        said = "Not shares of this application, move them off the storage: "
        story.until_says(server, "blocked", said)
        assert _kept(story) == kept
    story.run(server, f"echo {shlex.quote(whole)} > {record}")
    _next_hooks(story)
    _do(story, "restore-share", share=MOUNT)
    _back(story, digest)

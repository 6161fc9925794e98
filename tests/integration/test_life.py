# SPDX-License-Identifier: Apache-2.0
"""What an operator does to a share, rightly and wrongly, and what is left when it is over.

One client on one machine; a tenant beside the server, so that its machine outlives it.
"""

import pytest

from machines import machine_of
from story import APP, CLIENT, DEPLOY_TIMEOUT_S, LOOPS, MOUNT, NOTHING_FAILED, SERVER, Story

pytestmark = pytest.mark.bare

TENANT = "tenant"
KEPT = f"grep -x kept {MOUNT}/file"
SERVER_UNIT, CLIENT_UNIT, APP_UNIT = f"{SERVER}/0", f"{CLIENT}/0", f"{APP}/0"

# What a dispatch executes before the charm's own commands: sh, its tools, python. Killed there,
# nothing of ours has begun.
FIRST_EXEC = 6


def _configure(story: Story, effect: str, **options: str) -> None:
    """Set options of the client; wait until a command on its machine sees what they do."""
    story.configure(CLIENT, **options)
    story.until(APP_UNIT, effect)
    story.settle(CLIENT, SERVER)


def _refused(story: Story, says: str, **options: str) -> None:
    """Set options of the client that it has to refuse, with the reason."""
    story.configure(CLIENT, **options)
    story.until_says(CLIENT_UNIT, "blocked", says)
    story.settle(CLIENT, status="blocked")
    story.settle(SERVER)


def _server_is_whole(story: Story, shares: int) -> None:
    """So many whole shares, mounted; nothing half made, and no file system with a fault."""
    storage = story.storage(SERVER_UNIT)
    files = story.run(SERVER_UNIT, f"ls -A {storage}").split()
    names = sorted({name.split(".")[0] for name in files})
    assert sorted(files) == [f"{name}.{end}" for name in names for end in ("img", "json")]
    assert len(names) == shares, files
    loops = story.run(SERVER_UNIT, LOOPS)
    assert sorted(loops.split()) == [f"{storage}/{name}.img" for name in names]
    story.run(SERVER_UNIT, NOTHING_FAILED)
    story.run(SERVER_UNIT, "! ls -A /etc | grep -E 'exports.(candidate|tmp)'")


@pytest.mark.incremental
def test_deploy(story: Story):
    story.deploy(SERVER)
    story.deploy(APP)
    story.deploy_client(mountpoint=MOUNT, share_name=MOUNT, size=40000)
    story.integrate()
    story.settle(SERVER, APP, timeout=DEPLOY_TIMEOUT_S)
    place = machine_of(story.juju.status(), SERVER_UNIT)
    story.deploy(TENANT, charm=APP, to=place, constraints=None)
    story.settle(TENANT)


@pytest.mark.incremental
def test_too_large_is_refused_with_the_reason(story: Story):
    said = story.until_says(CLIENT_UNIT, "blocked", "40000G requested")
    assert said.startswith(f"{SERVER}: share {MOUNT}: 40000G requested, "), said
    assert f"Refused to {CLIENT}" in story.app_message()
    assert not story.run(SERVER_UNIT, f"ls -A {story.storage(SERVER_UNIT)}")


@pytest.mark.incremental
def test_what_fits_is_granted(story: Story):
    _configure(story, f"findmnt {MOUNT}", size="2")
    assert story.size(APP_UNIT) == 2
    # It says where the shares are, and of nobody that he was refused.
    assert "Refused" not in story.app_message()
    _server_is_whole(story, shares=1)
    assert story.run(APP_UNIT, f"ls -A {MOUNT}") == "", "a new share is empty"


def test_shrinking_is_refused_and_the_share_stays(story: Story):
    story.run(APP_UNIT, f"echo kept > {MOUNT}/file")
    _refused(story, "1G requested, it has 2G; a share never shrinks", size="1")
    story.run(APP_UNIT, KEPT)
    story.configure(CLIENT, size="2")
    story.settle(CLIENT)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("mountpoint", "/etc", "/etc belongs to the system"),
        ("mountpoint", "data", "use an absolute path"),
        ("mountpoint", "/a/../etc", "'..' are not allowed"),
        ("share-name", "../etc/shadow", "'..' is not allowed"),
        ("share-name", "a b\nrw", "use 1 to 128 letters"),
        ("size", "0", "use whole gigabytes from 1"),
    ],
)
def test_a_bad_option_is_refused_and_the_mount_stays(
    story: Story, option: str, value: str, says: str
):
    _refused(story, says, **{option: value})
    story.run(APP_UNIT, KEPT)
    good = {"mountpoint": MOUNT, "share-name": MOUNT, "size": "2"}
    story.configure(CLIENT, **{option: good[option]})
    story.settle(CLIENT)


def test_options_change_while_mounted(story: Story):
    _configure(story, f"findmnt {MOUNT} --options ro,noexec", read_only="true", noexec="true")
    returncode, said = story.try_to_run(APP_UNIT, f"touch {MOUNT}/new")
    assert returncode != 0
    assert "Read-only file system" in said
    options = story.run(APP_UNIT, f"findmnt --noheadings --output OPTIONS {MOUNT}")
    assert {"ro", "noexec", "nosuid", "nodev"} <= set(options.split(","))
    _configure(story, f"touch {MOUNT}/new", read_only="false", noexec="false")


def test_a_mountpoint_with_files_in_it_is_refused(story: Story):
    story.run(APP_UNIT, "mkdir -p /opt/mine && echo precious > /opt/mine/file")
    _refused(story, "/opt/mine: the directory is not empty", mountpoint="/opt/mine")
    assert story.run(APP_UNIT, f"cat /opt/mine/file {MOUNT}/file") == "precious\nkept"
    story.configure(CLIENT, mountpoint=MOUNT)
    story.settle(CLIENT)


def test_update_status_with_nothing_to_do_changes_nothing(story: Story):
    story.update_status(SERVER_UNIT, CLIENT_UNIT, times=2)
    for unit in SERVER_UNIT, CLIENT_UNIT:
        lines = story.log(unit)
        last = max(
            n for n, line in enumerate(lines) if "Emitting Juju event update_status" in line
        )
        commands = [line for line in lines[last:] if "running (" in line]
        assert all("running ('/usr/bin/stat'," in command for command in commands), commands


def test_list_shares(story: Story):
    task = story.act(SERVER_UNIT, "list-shares")
    assert task.success, task
    (share,) = [found for key, found in task.results.items() if key.startswith("data-")]
    assert share["state"] == "exported"
    assert (share["name"], share["size"]) == (MOUNT, "2G")


def test_a_refresh_leaves_the_mount_alone(story: Story):
    mount = f"findmnt --noheadings --output SOURCE,OPTIONS {MOUNT}"
    before = story.run(APP_UNIT, mount)
    for name, unit in (SERVER, SERVER_UNIT), (CLIENT, CLIENT_UNIT):
        story.refresh(name, unit, story.charms[name])
        story.settle(SERVER, CLIENT)
    assert story.run(APP_UNIT, mount) == before
    story.run(APP_UNIT, KEPT)
    _server_is_whole(story, shares=1)


def _kill_hooks(story: Story, unit: str, at_exec: int, effect: str, **options: str) -> int:
    """Change options; kill what a unit runs of it at one command after the other; how often."""
    before = len(story.machines.hooks(unit))
    story.machines.kill_hook(unit, *range(at_exec, at_exec + 50))
    _configure(story, effect, **options)
    done = story.machines.hooks(unit)[before:]
    return sum(1 for dispatch in done if dispatch["returncode"] == -9)


@pytest.mark.needs("hooks")
def test_a_killed_hook_of_the_server_ends_in_whole_shares(story: Story):
    """SIGKILL at every command that the server's dispatch runs while it makes a share."""
    shares, at_exec = 1, FIRST_EXEC
    while killed := _kill_hooks(
        story,
        SERVER_UNIT,
        at_exec,
        f"findmnt --noheadings --output SOURCE {MOUNT} | grep /s{at_exec}_",
        share_name=f"s{at_exec}",
        size="1",
    ):
        at_exec += killed
        shares += 1
        _server_is_whole(story, shares)
        story.run(APP_UNIT, f"findmnt {MOUNT} && touch {MOUNT}/written")
    assert at_exec >= FIRST_EXEC + 7, "not killed at fallocate, mkfs, debugfs, systemctl, exportfs"
    _configure(story, KEPT, share_name=MOUNT, size="2")


@pytest.mark.needs("hooks")
def test_a_killed_hook_of_the_client_ends_in_one_mount(story: Story):
    """SIGKILL at every command that the client's dispatch runs while it moves its mount."""
    at_exec = FIRST_EXEC
    while killed := _kill_hooks(
        story,
        CLIENT_UNIT,
        at_exec,
        f"grep -x kept /moved/{at_exec}/file",
        mountpoint=f"/moved/{at_exec}",
    ):
        mounted = story.run(APP_UNIT, "findmnt --noheadings --types nfs4 --output TARGET")
        assert mounted == f"/moved/{at_exec}"
        assert story.run(APP_UNIT, "ls /moved") == str(at_exec)
        units = "ls /etc/systemd/system | grep -c 'moved.*mount$'"
        assert story.run(APP_UNIT, units) == "1"
        at_exec += killed
    assert at_exec >= FIRST_EXEC + 5, "not killed at umount and systemctl"
    _configure(story, KEPT, mountpoint=MOUNT)


@pytest.mark.needs("power")
def test_a_power_cut_loses_nothing_that_was_synced(story: Story):
    story.run(APP_UNIT, f"dd if=/dev/urandom of={MOUNT}/random bs=1M count=20 conv=fsync")
    digest = story.run(APP_UNIT, f"sha256sum < {MOUNT}/random")
    story.machines.power_cut(SERVER_UNIT)
    story.machines.boot(SERVER_UNIT)
    story.run(APP_UNIT, "echo 3 > /proc/sys/vm/drop_caches")
    assert story.run(APP_UNIT, f"sha256sum < {MOUNT}/random", timeout=180) == digest
    story.settle(SERVER, CLIENT)


def test_a_busy_mount_is_left_alone(story: Story):
    command = f"systemd-run --quiet --unit=holder --working-directory={MOUNT} /usr/bin/sleep 600"
    story.run(APP_UNIT, command)
    story.separate()
    story.until_says(CLIENT_UNIT, "blocked", "in use by sleep (")
    story.settle(CLIENT, status="blocked")
    story.run(APP_UNIT, f"findmnt {MOUNT}")
    story.run(APP_UNIT, "systemctl stop holder")
    story.update_status(CLIENT_UNIT)
    story.until(APP_UNIT, f"! findmnt {MOUNT} && ! ls -d {MOUNT}")
    story.rejoin()
    story.until(APP_UNIT, KEPT)
    story.settle(CLIENT, SERVER)


def test_a_removed_server_leaves_every_image_and_nothing_else(story: Story):
    find = "dirname $(find /var/lib/juju/storage -name 'data_*.img' | head -n 1)"
    images = story.run(SERVER_UNIT, f"ls -s $({find})")
    story.juju.remove_application(SERVER)
    story.gone(SERVER_UNIT)
    story.settle(CLIENT, status="blocked")
    story.run(APP_UNIT, f"! findmnt {MOUNT} && ! ls -d {MOUNT}")
    here = f"{TENANT}/0"
    # Juju takes the directory away that the unit had it at.
    storage = story.run(here, find)
    assert story.run(here, f"ls -s {storage}") == images
    story.run(here, "! findmnt --noheadings --output TARGET | grep /srv/nfs")
    assert story.run(here, LOOPS) == ""
    assert story.run(here, "exportfs -v") == ""
    story.run(here, "! ls /etc/systemd/system | grep -E 'srv-nfs|nfs-share'")
    assert story.run(here, "cat /proc/sys/fs/leases-enable") == "1"
    image = f"{storage}/data_*.img"
    story.run(here, f"e2fsck -fn {image}")
    assert story.run(here, f"debugfs -R 'cat file' {image} 2> /dev/null") == "kept"

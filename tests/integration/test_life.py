# SPDX-License-Identifier: Apache-2.0
"""What an operator does to a share, rightly and wrongly, and what is left when it is over.

One client on one machine; a tenant beside the server, so that its machine outlives it.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from story import APP, CLIENT, DEPLOY_TIMEOUT_S, MOUNT, SERVER, SETTLE_TIMEOUT_S, Story

TENANT = "tenant"
SERVER_UNIT, CLIENT_UNIT, APP_UNIT = f"{SERVER}/0", f"{CLIENT}/0", f"{APP}/0"
STORAGE = "/var/lib/juju/storage/shares/0"

# What a dispatch executes before the charm's own commands: sh, its tools, python. Killed there,
# nothing of ours has begun.
FIRST_EXEC = 6


async def _configure(story: Story, *, status: str = "active", **options: str) -> None:
    await story.model.applications[CLIENT].set_config(
        {name.replace("_", "-"): value for name, value in options.items()}
    )
    await story.settle(CLIENT, status=status)
    await story.settle(SERVER)


def _message(story: Story) -> str:
    return story.model.units[CLIENT_UNIT].workload_status_message


async def _server_is_whole(story: Story, shares: int) -> None:
    """So many whole shares, mounted; nothing half made, and no file system with a fault."""
    files = (await story.run(SERVER_UNIT, f"ls -A {STORAGE}")).split()
    names = sorted({name.split(".")[0] for name in files})
    assert sorted(files) == [f"{name}.{end}" for name in names for end in ("img", "json")]
    assert len(names) == shares, files
    loops = await story.run(SERVER_UNIT, "losetup --noheadings --list --output BACK-FILE")
    assert sorted(loops.split()) == [f"{STORAGE}/{name}.img" for name in names]
    assert "0 loaded units" in await story.run(SERVER_UNIT, "systemctl list-units --failed")
    await story.run(SERVER_UNIT, "! ls -A /etc | grep -E 'exports.(candidate|tmp)'")


@pytest.mark.abort_on_fail
@pytest.mark.skip_if_deployed
async def test_deploy(story: Story, deploy_options: Mapping[str, Any], app_charm: Path):
    model = story.model
    await model.deploy(story.charms[SERVER], application_name=SERVER, **deploy_options)
    await model.deploy(app_charm, application_name=APP, **deploy_options)
    config = {"mountpoint": MOUNT, "share-name": MOUNT, "size": 40000}
    await model.deploy(story.charms[CLIENT], application_name=CLIENT, num_units=0, config=config)
    await model.integrate(f"{CLIENT}:juju-info", f"{APP}:juju-info")
    await model.integrate(f"{CLIENT}:nfs-share", f"{SERVER}:nfs-share")
    await model.wait_for_idle(
        apps=[SERVER, APP], status="active", timeout=DEPLOY_TIMEOUT_S, idle_period=1
    )
    place = model.units[SERVER_UNIT].machine.id
    await model.deploy(app_charm, application_name=TENANT, to=place, **deploy_options)
    await story.settle(TENANT)


@pytest.mark.abort_on_fail
async def test_too_large_is_refused_with_the_reason(story: Story):
    await story.settle(CLIENT, status="blocked")
    assert _message(story).startswith(f"{SERVER}: share {MOUNT}: 40000G requested, "), _message(
        story
    )
    assert f"Refused to {CLIENT}" in story.model.applications[SERVER].status_message
    assert not await story.run(SERVER_UNIT, f"ls -A {STORAGE}")


@pytest.mark.abort_on_fail
async def test_what_fits_is_granted(story: Story):
    await _configure(story, size="2")
    assert await story.size(APP_UNIT) == 2
    assert story.model.applications[SERVER].status_message == ""
    await _server_is_whole(story, shares=1)
    assert await story.run(APP_UNIT, f"ls -A {MOUNT}") == "", "a new share is empty"


async def test_shrinking_is_refused_and_the_share_stays(story: Story):
    await story.run(APP_UNIT, f"echo kept > {MOUNT}/file")
    await _configure(story, size="1", status="blocked")
    assert "1G requested, it has 2G; a share never shrinks" in _message(story)
    assert await story.run(APP_UNIT, f"cat {MOUNT}/file") == "kept"
    await _configure(story, size="2")


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
async def test_a_bad_option_is_refused_and_the_mount_stays(
    story: Story, option: str, value: str, says: str
):
    await _configure(story, status="blocked", **{option: value})
    assert says in _message(story), _message(story)
    assert await story.run(APP_UNIT, f"cat {MOUNT}/file") == "kept"
    good = {"mountpoint": MOUNT, "share-name": MOUNT, "size": "2"}
    await _configure(story, **{option: good[option]})


async def test_options_change_while_mounted(story: Story):
    await _configure(story, read_only="true", noexec="true")
    returncode, said = await story.try_to_run(APP_UNIT, f"touch {MOUNT}/new")
    assert returncode != 0
    assert "Read-only file system" in said
    options = await story.run(APP_UNIT, f"findmnt --noheadings --output OPTIONS {MOUNT}")
    assert {"ro", "noexec", "nosuid", "nodev"} <= set(options.split(","))
    await _configure(story, read_only="false", noexec="false")
    await story.run(APP_UNIT, f"touch {MOUNT}/new")


async def test_a_mountpoint_with_files_in_it_is_refused(story: Story):
    await story.run(APP_UNIT, "mkdir -p /opt/mine && echo precious > /opt/mine/file")
    await _configure(story, mountpoint="/opt/mine", status="blocked")
    assert "/opt/mine: the directory is not empty" in _message(story)
    assert await story.run(APP_UNIT, f"cat /opt/mine/file {MOUNT}/file") == "precious\nkept"
    await _configure(story, mountpoint=MOUNT)


async def test_update_status_with_nothing_to_do_changes_nothing(story: Story, ops_test: Any):
    if not hasattr(story.substrate, "hooks"):
        pytest.skip("the history of hooks is the sandbox's")
    done = {unit: len(await story.substrate.hooks(unit)) for unit in (SERVER_UNIT, CLIENT_UNIT)}
    async with ops_test.fast_forward("1s"):
        for unit, count in done.items():
            await _wait_for_hooks(story, unit, count + 2)
    _, log, _ = await ops_test.juju("debug-log", "--replay", "--no-tail")
    for unit in done:
        tag = unit.replace("/", "-")
        lines = [line for line in log.splitlines() if line.startswith(f"unit-{tag}: ")]
        last = max(
            n for n, line in enumerate(lines) if "Emitting Juju event update_status" in line
        )
        commands = [line for line in lines[last:] if "running (" in line]
        assert all("running ('/usr/bin/stat'," in command for command in commands), commands


async def _wait_for_hooks(story: Story, unit: str, count: int) -> None:
    async with asyncio.timeout(SETTLE_TIMEOUT_S):
        while len(await story.substrate.hooks(unit)) < count:
            await asyncio.sleep(0.2)


async def test_list_shares(story: Story):
    action = await story.model.units[SERVER_UNIT].run_action("list-shares")
    await action.wait()
    assert action.status == "completed"
    (share,) = [found for key, found in action.results.items() if key.startswith("data-")]
    assert share["state"] == "exported"
    assert (share["name"], share["size"]) == (MOUNT, "2G")


async def test_a_refresh_leaves_the_mount_alone(story: Story):
    mount = f"findmnt --noheadings --output SOURCE,OPTIONS {MOUNT}"
    before = await story.run(APP_UNIT, mount)
    for name in (SERVER, CLIENT):
        await story.model.applications[name].refresh(path=story.charms[name])
        await story.settle(SERVER, CLIENT)
    assert await story.run(APP_UNIT, mount) == before
    assert await story.run(APP_UNIT, f"cat {MOUNT}/file") == "kept"
    await _server_is_whole(story, shares=1)


async def _kill_hooks(story: Story, unit: str, at_exec: int, **options: str) -> int:
    """Change options; kill what a unit runs of it at one command after the other; how often."""
    before = len(await story.substrate.hooks(unit))
    await story.substrate.kill_hook(unit, *range(at_exec, at_exec + 50))
    await _configure(story, **options)
    done = (await story.substrate.hooks(unit))[before:]
    return sum(1 for dispatch in done if dispatch["returncode"] == -9)


async def test_a_killed_hook_of_the_server_ends_in_whole_shares(story: Story):
    """SIGKILL at every command that the server's dispatch runs while it makes a share."""
    shares, at_exec = 1, FIRST_EXEC
    while killed := await _kill_hooks(
        story, SERVER_UNIT, at_exec, share_name=f"s{at_exec}", size="1"
    ):
        at_exec += killed
        shares += 1
        await _server_is_whole(story, shares)
        await story.run(APP_UNIT, f"findmnt {MOUNT} && touch {MOUNT}/written")
    assert at_exec >= FIRST_EXEC + 7, "not killed at fallocate, mkfs, debugfs, systemctl, exportfs"
    await _configure(story, share_name=MOUNT, size="2")
    assert await story.run(APP_UNIT, f"cat {MOUNT}/file") == "kept"


async def test_a_killed_hook_of_the_client_ends_in_one_mount(story: Story):
    """SIGKILL at every command that the client's dispatch runs while it moves its mount."""
    at_exec = FIRST_EXEC
    while killed := await _kill_hooks(story, CLIENT_UNIT, at_exec, mountpoint=f"/moved/{at_exec}"):
        assert await story.run(APP_UNIT, f"cat /moved/{at_exec}/file") == "kept"
        mounted = await story.run(APP_UNIT, "findmnt --noheadings --types nfs4 --output TARGET")
        assert mounted == f"/moved/{at_exec}"
        assert await story.run(APP_UNIT, "ls /moved") == str(at_exec)
        units = "ls /etc/systemd/system | grep -c 'moved.*mount$'"
        assert await story.run(APP_UNIT, units) == "1"
        at_exec += killed
    assert at_exec >= FIRST_EXEC + 5, "not killed at umount and systemctl"
    await _configure(story, mountpoint=MOUNT)


async def test_a_power_cut_loses_nothing_that_was_synced(story: Story):
    await story.run(APP_UNIT, f"dd if=/dev/urandom of={MOUNT}/random bs=1M count=20 conv=fsync")
    digest = await story.run(APP_UNIT, f"sha256sum < {MOUNT}/random")
    await story.substrate.power_cut(SERVER_UNIT)
    await story.substrate.boot(SERVER_UNIT)
    await story.run(APP_UNIT, "echo 3 > /proc/sys/vm/drop_caches")
    assert await story.run(APP_UNIT, f"sha256sum < {MOUNT}/random", timeout=180) == digest
    await story.settle(SERVER, CLIENT)


async def test_a_busy_mount_is_left_alone(story: Story, ops_test: Any):
    command = f"systemd-run --quiet --unit=holder --working-directory={MOUNT} /usr/bin/sleep 600"
    await story.run(APP_UNIT, command)
    server = story.model.applications[SERVER]
    await server.destroy_relation("nfs-share", f"{CLIENT}:nfs-share")
    await story.settle(CLIENT, status="blocked")
    assert "in use by sleep (" in _message(story), _message(story)
    await story.run(APP_UNIT, f"findmnt {MOUNT}")
    await story.run(APP_UNIT, "systemctl stop holder")
    done = len(await story.substrate.hooks(CLIENT_UNIT))
    async with ops_test.fast_forward("1s"):
        await _wait_for_hooks(story, CLIENT_UNIT, done + 2)
    await story.run(APP_UNIT, f"! findmnt {MOUNT} && ! ls -d {MOUNT}")
    await story.model.integrate(f"{CLIENT}:nfs-share", f"{SERVER}:nfs-share")
    await story.settle(CLIENT, SERVER)
    assert await story.run(APP_UNIT, f"cat {MOUNT}/file") == "kept"


async def test_a_removed_server_leaves_every_image_and_nothing_else(story: Story):
    images = await story.run(SERVER_UNIT, f"ls -s {STORAGE}")
    await story.model.remove_application(SERVER, block_until_done=True)
    await story.settle(CLIENT, status="blocked")
    await story.run(APP_UNIT, f"! findmnt {MOUNT} && ! ls -d {MOUNT}")
    here = f"{TENANT}/0"
    assert await story.run(here, f"ls -s {STORAGE}") == images
    assert await story.run(here, "findmnt --noheadings --types ext4 --output TARGET") == "/"
    assert await story.run(here, "losetup --list") == ""
    assert await story.run(here, "exportfs -v") == ""
    await story.run(here, "! ls /etc/systemd/system | grep -E 'srv-nfs|nfs-share'")
    image = f"{STORAGE}/data_*.img"
    await story.run(here, f"e2fsck -fn {image}")
    assert await story.run(here, f"debugfs -R 'cat file' {image} 2> /dev/null") == "kept"

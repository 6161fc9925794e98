# SPDX-License-Identifier: Apache-2.0
"""Clients beside clients, whom the server lets in, and what a machine must have for it."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from story import APP, CLIENT, DEPLOY_TIMEOUT_S, MOUNT, SERVER, Story

OTHER = "other-client"
SERVER_UNIT, CLIENT_UNIT, APP_UNIT = f"{SERVER}/0", f"{CLIENT}/0", f"{APP}/0"
CHARM = "/var/lib/juju/agents/unit-nfs-client-0/charm"

# Holds apt's locks as another charm's apt does, and lets go when it is told to.
LOCKS = """
import fcntl, os, time
files = [open(p, "w") for p in ("/var/lib/dpkg/lock-frontend", "/var/lib/apt/lists/lock")]
for file in files:
    fcntl.lockf(file, fcntl.LOCK_EX)
open("/run/locked", "w").close()
while os.path.exists("/run/locked"):
    time.sleep(0.1)
"""


async def _configure(story: Story, application: str, status: str, **options: str) -> str:
    """Change options; the unit's message when it has settled in a status."""
    await story.model.applications[application].set_config(options)
    await story.settle(application, status=status)
    await story.settle(SERVER)
    return story.model.units[f"{application}/0"].workload_status_message


async def _mounted(story: Story) -> list[str]:
    listed = await story.run(APP_UNIT, "findmnt --noheadings --types nfs4 --output TARGET || true")
    return sorted(listed.split())


@pytest.mark.abort_on_fail
@pytest.mark.skip_if_deployed
async def test_deploy(story: Story, deploy_options: Mapping[str, Any], app_charm: Path):
    model = story.model
    await model.deploy(story.charms[SERVER], application_name=SERVER, **deploy_options)
    await model.deploy(app_charm, application_name=APP, **deploy_options)
    for name in CLIENT, OTHER:
        config = {"mountpoint": MOUNT, "size": 1, "share-name": name}
        charm = story.charms[CLIENT]
        await model.deploy(charm, application_name=name, num_units=0, config=config)
        await model.integrate(f"{name}:nfs-share", f"{SERVER}:nfs-share")
    await model.integrate(f"{CLIENT}:juju-info", f"{APP}:juju-info")
    await model.wait_for_idle(
        apps=[SERVER, APP], status="active", timeout=DEPLOY_TIMEOUT_S, idle_period=1
    )
    await story.settle(CLIENT)
    await model.integrate(f"{OTHER}:juju-info", f"{APP}:juju-info")
    await story.settle(OTHER, status="blocked")


async def test_two_clients_on_one_machine(story: Story):
    """The second is refused at, in and around the first one's mount, and mounts beside it."""
    taken = f"{CLIENT_UNIT} has {MOUNT} for its share"
    assert taken in story.model.units[f"{OTHER}/0"].workload_status_message
    assert taken in await _configure(story, OTHER, "blocked", mountpoint=f"{MOUNT}/in")
    assert await _mounted(story) == [MOUNT]
    await _configure(story, CLIENT, "active", mountpoint="/a/b")
    message = await _configure(story, OTHER, "blocked", mountpoint="/a")
    assert f"{CLIENT_UNIT} has /a/b for its share" in message, message
    await _configure(story, OTHER, "active", mountpoint="/other")
    await _configure(story, CLIENT, "active", mountpoint=MOUNT)
    assert await _mounted(story) == [MOUNT, "/other"]
    await story.run(APP_UNIT, f"echo first > {MOUNT}/file && echo second > /other/file")


async def test_what_others_mount_is_left_alone(story: Story):
    await story.run(
        APP_UNIT,
        "echo 'none /fstab tmpfs noauto' >> /etc/fstab && systemctl daemon-reload"
        " && mkdir /foreign && mount -t tmpfs none /foreign && echo theirs > /foreign/file",
    )
    message = await _configure(story, OTHER, "blocked", mountpoint="/fstab")
    assert "/etc/fstab has an entry for it" in message, message
    message = await _configure(story, OTHER, "blocked", mountpoint="/foreign")
    assert "none is mounted there already" in message, message
    assert await _mounted(story) == [MOUNT, "/other"]
    assert await story.run(APP_UNIT, "cat /foreign/file /other/file") == "theirs\nsecond"
    await _configure(story, OTHER, "active", mountpoint="/other")


async def test_the_allowlist_lets_others_in(story: Story):
    outsider = await story.substrate.bystander()
    address = (await outsider.run("hostname -I")).stdout.split()[0]
    source = await story.run(APP_UNIT, f"findmnt --noheadings --output SOURCE {MOUNT}")
    server = source.partition(":")[0]
    command = (
        "mkdir -p /mnt/share && modprobe nfsv4 && timeout 60 mount --rw -i -t nfs4"
        f" -o vers=4.2,addr={server} {shlex.quote(source)} /mnt/share && umount /mnt/share"
    )
    assert (await outsider.run(command, timeout=90)).returncode != 0
    message = await _configure(story, CLIENT, "blocked", allowlist="everyone")
    assert "allowlist entry 'everyone': use an IP address" in message, message
    await _configure(story, CLIENT, "active", allowlist=f"{address}/32")
    result = await outsider.run(command, timeout=90)
    assert result.returncode == 0, result.stderr
    await _configure(story, CLIENT, "active", allowlist="")
    assert (await outsider.run(command, timeout=90)).returncode != 0


async def test_exports_follow_the_units(story: Story):
    await story.model.applications[APP].add_unit()
    await story.model.wait_for_idle(
        apps=[APP, CLIENT, OTHER, SERVER], status="active", timeout=DEPLOY_TIMEOUT_S, idle_period=1
    )
    assert await story.run(f"{APP}/1", f"cat {MOUNT}/file") == "first"
    address = story.model.units[f"{APP}/1"].public_address
    exported = await story.run(SERVER_UNIT, "exportfs -s")
    assert exported.count(f" {address}(") == 2, exported
    await story.model.applications[APP].destroy_unit(f"{APP}/1")
    await story.model.block_until(lambda: f"{APP}/1" not in story.model.units, timeout=180)
    await story.settle(SERVER)
    exported = await story.run(SERVER_UNIT, "exportfs -s")
    assert f" {address}(" not in exported, exported
    assert await story.run(APP_UNIT, f"cat {MOUNT}/file") == "first"


async def test_a_container_is_told_from_a_machine(story: Story):
    """The kernel's answer, as root of the machine and as root of a user namespace on it."""
    program = f"cd {CHARM}/src && python3 -c 'import kernel; print(kernel.find_refusal())'"
    assert await story.run(APP_UNIT, program) == ""
    container = "unshare --user --map-root-user --mount sh -c"
    said = await story.run(APP_UNIT, f"{container} {shlex.quote(program)}")
    assert "may not mount NFS (Operation not permitted): use a virtual machine" in said


async def test_apt_locked_by_another(story: Story):
    """The package is gone; it is installed again when the other one lets go of apt."""
    await story.run(APP_UNIT, "dpkg --remove --force-depends nfs-common")
    locks = f"systemd-run --quiet --unit=locks python3 -c {shlex.quote(LOCKS)}"
    await story.run(APP_UNIT, f"{locks} && until test -e /run/locked; do sleep 0.1; done")
    await story.model.applications[CLIENT].set_config({"noexec": "true"})
    await story.model.block_until(
        lambda: story.model.units[CLIENT_UNIT].agent_status == "executing", timeout=60
    )
    waits = "until grep -q '^[0-9]*: -> POSIX' /proc/locks; do sleep 0.1; done"
    await story.run(APP_UNIT, f"{waits}; rm /run/locked")
    await story.settle(CLIENT, OTHER)
    await story.run(APP_UNIT, "test -e /usr/sbin/mount.nfs")
    options = await story.run(APP_UNIT, f"findmnt --noheadings --output OPTIONS {MOUNT}")
    assert "noexec" in options


async def test_removed_one_leaves_the_other(story: Story):
    await story.model.remove_application(CLIENT, block_until_done=True)
    assert await _mounted(story) == ["/other"]
    assert await story.run(APP_UNIT, "cat /other/file") == "second"
    await story.run(APP_UNIT, f"! ls -d {MOUNT} && test -e /usr/sbin/mount.nfs")


async def test_an_application_with_a_share_of_its_own(story: Story, own_share_charm: Path):
    """A charm that uses the library itself: its service starts when its share is mounted."""
    model = story.model
    place = model.units[APP_UNIT].machine.id
    await model.deploy(own_share_charm, application_name="own", to=place)
    await story.settle("own", status="blocked")
    await story.run(APP_UNIT, "! systemctl is-active own-share")
    await model.integrate("own:nfs-share", f"{SERVER}:nfs-share")
    await story.settle("own", SERVER)
    await story.run(APP_UNIT, "findmnt --types nfs4 /srv/own && grep -x started /srv/own/log")
    server = model.applications[SERVER]
    await server.destroy_relation("nfs-share", "own:nfs-share")
    await story.settle("own", status="blocked")
    await story.run(APP_UNIT, "! findmnt /srv/own && ! systemctl is-active own-share")

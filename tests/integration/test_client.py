# SPDX-License-Identifier: Apache-2.0
"""Clients beside clients, whom the server lets in, and what a machine must have for it."""

import shlex

import pytest

from story import APP, CLIENT, DEPLOY_TIMEOUT_S, MOUNT, SERVER, Story, becomes

pytestmark = pytest.mark.bare

OTHER, NEIGHBOUR = "other-client", "neighbour"
NEIGHBOUR_UNIT = f"{NEIGHBOUR}/0"
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


def _mount_at(story: Story, client: str, mountpoint: str) -> None:
    """Have a client mount its share somewhere, with success."""
    story.configure(client, mountpoint=mountpoint)
    story.until(APP_UNIT, f"findmnt {mountpoint}")
    story.settle(client, SERVER)


def _refused_at(story: Story, mountpoint: str, says: str) -> None:
    """Have the other client mount its share where it can't, for a reason."""
    story.configure(OTHER, mountpoint=mountpoint)
    story.until_says(f"{OTHER}/0", "blocked", says)
    story.settle(OTHER, status="blocked")


def _mounted(story: Story) -> list[str]:
    listed = story.run(APP_UNIT, "findmnt --noheadings --types nfs4 --output TARGET || true")
    return sorted(listed.split())


@pytest.mark.incremental
def test_deploy(story: Story):
    story.deploy(SERVER)
    story.deploy(APP)
    for name in CLIENT, OTHER:
        story.deploy_client(name, mountpoint=MOUNT, size=1, share_name=name)
        story.juju.integrate(f"{name}:nfs-share", SERVER)
    story.juju.integrate(f"{CLIENT}:juju-info", APP)
    story.settle(SERVER, APP, CLIENT, timeout=DEPLOY_TIMEOUT_S)
    story.juju.integrate(f"{OTHER}:juju-info", APP)
    story.until_says(f"{OTHER}/0", "blocked", f"{CLIENT} has {MOUNT} for its share")


def test_two_clients_on_one_machine(story: Story):
    """The second is refused at, in and around the first one's mount, and mounts beside it."""
    _refused_at(story, f"{MOUNT}/in", f"{CLIENT} has {MOUNT} for its share")
    assert _mounted(story) == [MOUNT]
    _mount_at(story, CLIENT, "/a/b")
    _refused_at(story, "/a", f"{CLIENT} has /a/b for its share")
    _mount_at(story, OTHER, "/other")
    _mount_at(story, CLIENT, MOUNT)
    assert _mounted(story) == [MOUNT, "/other"]
    story.run(APP_UNIT, f"echo first > {MOUNT}/file && echo second > /other/file")


def test_what_others_mount_is_left_alone(story: Story):
    story.run(
        APP_UNIT,
        "echo 'none /fstab tmpfs noauto' >> /etc/fstab && systemctl daemon-reload"
        " && mkdir /foreign && mount -t tmpfs none /foreign && echo theirs > /foreign/file",
    )
    _refused_at(story, "/fstab", "/etc/fstab has an entry for it")
    _refused_at(story, "/foreign", "none is mounted there already")
    assert _mounted(story) == [MOUNT, "/other"]
    assert story.run(APP_UNIT, "cat /foreign/file /other/file") == "theirs\nsecond"
    story.configure(OTHER, mountpoint="/other")
    story.settle(OTHER)


def test_one_share_twice_on_one_machine(story: Story):
    """They have one superblock in the kernel: what is done to the one mount leaves the other."""
    story.configure(OTHER, share_name=CLIENT)
    story.until(APP_UNIT, "grep -x first /other/file")
    story.configure(OTHER, read_only="true")
    story.until(APP_UNIT, "findmnt /other --options ro")
    story.settle(CLIENT, OTHER, SERVER)
    _writes_in_the_first_alone(story)
    for order in "/other /data", "/data /other":
        units = [name.removeprefix("/") + ".mount" for name in order.split()]
        story.run(APP_UNIT, f"umount /other /data && systemctl start {units[0]}")
        story.run(APP_UNIT, f"systemctl start {units[1]}")
        _writes_in_the_first_alone(story)
    story.configure(OTHER, read_only="false")
    story.until(APP_UNIT, "echo third > /other/file")
    story.settle(CLIENT, OTHER, SERVER)
    assert story.run(APP_UNIT, f"cat {MOUNT}/file") == "third"


def _writes_in_the_first_alone(story: Story) -> None:
    story.run(APP_UNIT, f"echo first > {MOUNT}/file && cat /other/file")
    _, said = story.try_to_run(APP_UNIT, "echo second > /other/file")
    assert "Read-only file system" in said, said


@pytest.mark.needs("network")
def test_force_umount_leaves_the_other(story: Story):
    """What waits for a silent server in the one mount goes on when the other is forced away."""
    write = f"dd if=/dev/zero of={MOUNT}/waited bs=4k count=1 conv=fsync"
    story.machines.unplug(SERVER_UNIT)
    story.run(APP_UNIT, f"systemd-run --quiet --unit=waits --remain-after-exit {write}")
    task = story.act(f"{OTHER}/0", "force-umount", mountpoint="/other")
    assert task.success, task
    story.run(APP_UNIT, "! findmnt /other")
    story.machines.plug(SERVER_UNIT)
    ended = "systemctl show waits --property=SubState,Result"
    story.until(APP_UNIT, f"{ended} | grep -q exited")
    story.run(APP_UNIT, f"{ended} | grep success && rm {MOUNT}/waited")
    assert story.act(f"{OTHER}/0", "remount").success
    story.configure(OTHER, share_name=OTHER)
    story.until(APP_UNIT, "grep -x second /other/file")
    story.settle(CLIENT, OTHER, SERVER)
    story.run(APP_UNIT, f"echo first > {MOUNT}/file")


@pytest.mark.needs("outsider")
def test_the_allowlist_lets_others_in(story: Story):
    outsider = story.machines.outsider()
    address = outsider.run("hostname -I")[1].split()[0]
    source = story.run(APP_UNIT, f"findmnt --noheadings --output SOURCE {MOUNT}")
    server = source.partition(":")[0]
    command = (
        "mkdir -p /mnt/share && modprobe nfsv4 && timeout 60 mount --rw -i -t nfs4"
        f" -o vers=4.2,addr={server} {shlex.quote(source)} /mnt/share && umount /mnt/share"
    )
    assert outsider.run(command)[0] != 0
    story.configure(CLIENT, allowlist="everyone")
    story.until_says(CLIENT_UNIT, "blocked", "allowlist entry 'everyone': use an IP address")
    story.configure(CLIENT, allowlist=f"{address}/32")
    story.until(SERVER_UNIT, f"exportfs -s | grep -F ' {address}('")
    story.settle(CLIENT, SERVER)
    assert outsider.run(command) == (0, "")
    story.configure(CLIENT, allowlist="")
    story.until(SERVER_UNIT, f"! exportfs -s | grep -F ' {address}('")
    assert outsider.run(command)[0] != 0


def test_exports_follow_the_units(story: Story):
    story.add_unit(APP)
    story.until_says(f"{APP}/1", "active", timeout=DEPLOY_TIMEOUT_S)
    story.until(f"{APP}/1", f"grep -x first {MOUNT}/file", timeout=DEPLOY_TIMEOUT_S)
    story.settle(APP, CLIENT, OTHER, SERVER, timeout=DEPLOY_TIMEOUT_S)
    address = story.unit(f"{APP}/1").public_address
    exported = f"exportfs -s | grep -cF ' {address}(' || true"
    becomes(lambda: story.run(SERVER_UNIT, exported), "2")
    story.juju.remove_unit(f"{APP}/1")
    story.gone(f"{APP}/1")
    becomes(lambda: story.run(SERVER_UNIT, exported), "0")
    assert story.run(APP_UNIT, f"cat {MOUNT}/file") == "first"


def test_a_container_is_told_from_a_machine(story: Story):
    """The kernel's answer, as root of the machine and as root of a user namespace on it."""
    program = f"cd {CHARM}/src && python3 -c 'import kernel; print(kernel.find_refusal())'"
    assert story.run(APP_UNIT, program) == ""
    container = "unshare --user --map-root-user --mount sh -c"
    said = story.run(APP_UNIT, f"{container} {shlex.quote(program)}")
    assert "may not mount NFS (Operation not permitted): use a virtual machine" in said


def test_apt_locked_by_another(story: Story):
    """The package is gone; it is installed again when the other one lets go of apt."""
    story.run(APP_UNIT, "dpkg --remove --force-depends nfs-common")
    locks = f"systemd-run --quiet --unit=locks python3 -c {shlex.quote(LOCKS)}"
    story.run(APP_UNIT, f"{locks} && until test -e /run/locked; do sleep 0.1; done")
    story.configure(CLIENT, noexec="true")
    waits = "until grep -q '^[0-9]*: -> POSIX' /proc/locks; do sleep 0.1; done"
    story.run(APP_UNIT, f"{waits}; rm /run/locked")
    story.until(APP_UNIT, f"test -e /usr/sbin/mount.nfs && findmnt {MOUNT} --options noexec")
    story.settle(CLIENT, OTHER)


def test_one_client_of_two_applications_on_one_machine(story: Story):
    """Its units there have one mount, and who leaves first leaves it to the other."""
    machine = story.juju.status().apps[APP].units[APP_UNIT].machine
    story.juju.deploy(story.charms[APP], NEIGHBOUR, to=machine)
    story.juju.integrate(f"{CLIENT}:juju-info", NEIGHBOUR)
    story.until_says(NEIGHBOUR_UNIT, "active", timeout=DEPLOY_TIMEOUT_S)
    (second,) = story.unit(NEIGHBOUR_UNIT).subordinates
    story.until_says(second, "active")
    assert story.act(second, "show-mount").results["state"] == "mounted"
    assert _mounted(story) == [MOUNT, "/other"]
    story.juju.remove_relation(f"{CLIENT}:juju-info", NEIGHBOUR)
    story.gone(second)
    story.settle(CLIENT, OTHER, SERVER)
    assert _mounted(story) == [MOUNT, "/other"]
    story.juju.remove_application(NEIGHBOUR)


LATE = f"""
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStop=/bin/sh -c 'sleep 4; echo late > {MOUNT}/late'
"""


def test_a_service_writes_while_the_machine_goes_down(story: Story):
    """It says nothing of the mount that it needs, and is not stopped before it."""
    unit = f"printf '%s' {shlex.quote(LATE)} > /run/systemd/system/late.service"
    story.run(APP_UNIT, f"{unit} && systemctl start late")
    story.machines.reboot(APP_UNIT)
    story.until(APP_UNIT, f"grep -x late {MOUNT}/late")
    story.settle(CLIENT, OTHER)


def test_removed_one_leaves_the_other(story: Story):
    story.juju.remove_application(CLIENT)
    story.gone(CLIENT_UNIT)
    assert _mounted(story) == ["/other"]
    assert story.run(APP_UNIT, "cat /other/file") == "second"
    story.run(APP_UNIT, f"! ls -d {MOUNT} && test -e /usr/sbin/mount.nfs")

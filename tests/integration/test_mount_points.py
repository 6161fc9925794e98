# SPDX-License-Identifier: Apache-2.0
"""Mount points that others than root can change, and what is written where no share is mounted."""

import base64

import pytest

from story import APP, CLIENT, DEPLOY_TIMEOUT_S, MOUNT, NOTHING_FAILED, SERVER, Story, becomes

pytestmark = pytest.mark.slow
OTHER_APP = "other-app"
SERVER_UNIT, CLIENT_UNIT, APP_UNIT = f"{SERVER}/0", f"{CLIENT}/0", f"{APP}/0"
SYSTEM = "/etc/profile.d"
"""Whoever writes there is root at root's next login."""
SWAPS = 1000
HOOKS = 12
# A mount is tried again every 20 seconds and what the attempt takes.
RETRY_S = 60.0

# Run by a user: a directory is a link to the system's own for as long as it is a directory.
SWAP = """
import contextlib, itertools, os, sys
path, count = sys.argv[1:]
steps = [
    lambda: os.mkdir(path),
    lambda: os.rename(path, path + ".kept"),
    lambda: os.symlink("/etc/profile.d", path),
    lambda: os.unlink(path),
    lambda: os.rename(path + ".kept", path),
]
with open(count, "w") as file:
    for number in itertools.count(1):
        for step in steps:
            with contextlib.suppress(OSError):
                step()
        os.pwrite(file.fileno(), b"%d\\n" % number, 0)
"""


def _swap(story: Story, path: str) -> None:
    """Have a user's process exchange a directory and a link, until it is stopped."""
    encoded = base64.b64encode(SWAP.encode()).decode()
    run = "systemd-run --quiet --unit=swap --property=User=bob --property=RuntimeDirectory=swap"
    story.run(
        APP_UNIT,
        f"echo {encoded} | base64 -d > /opt/swap.py"
        f" && {run} python3 /opt/swap.py {path} /run/swap/count",
    )


def _stop_swapping(story: Story) -> int:
    """Stop that process, not before it has done so often enough; how often."""
    story.until(APP_UNIT, f"test $(cat /run/swap/count) -ge {SWAPS}")
    swaps = int(story.run(APP_UNIT, "cat /run/swap/count"))
    story.run(APP_UNIT, "systemctl stop swap")
    return swaps


def _mounted(story: Story) -> list[str]:
    listed = story.run(APP_UNIT, "findmnt --noheadings --types nfs4,nfs --output TARGET || true")
    return sorted(listed.split())


def _noexec(mountpoint: str, *, is_on: bool) -> str:
    """Return a command that tells whether programs on a mount may not be run."""
    count = 1 if is_on else 0
    options = f"findmnt --noheadings --types nfs4 --output OPTIONS {mountpoint}"
    return f"options=$({options}) && test $(echo $options | grep --count noexec) = {count}"


def _boot_without_server(story: Story) -> None:
    """Boot the client's machine while the NFS server does not run."""
    story.run(SERVER_UNIT, "systemctl stop nfs-server")
    story.machines.reboot(APP_UNIT)
    story.until_says(CLIENT_UNIT, "waiting", "is unreachable since")
    # An attempt under way would mount what is served in a moment, over what is written meanwhile.
    waits = "systemctl is-active 'nfs-client-retry-*' | grep -x activating && ! pgrep -x mount.nfs"
    story.until(APP_UNIT, waits)
    assert _mounted(story) == []


@pytest.mark.incremental
def test_deploy(story: Story):
    story.juju.model_config({"update-status-hook-interval": "60m"})
    story.deploy(SERVER)
    story.deploy(APP)
    story.deploy_client(mountpoint=MOUNT, size=1)
    story.integrate()
    story.settle(SERVER, APP, CLIENT, timeout=DEPLOY_TIMEOUT_S)
    story.run(APP_UNIT, "useradd --create-home --uid 2000 bob")
    story.run(APP_UNIT, f"echo kept > {MOUNT}/file && sync {MOUNT}/file")


def test_a_users_directory_is_refused(story: Story):
    """While its owner leads it elsewhere as often as he can."""
    _swap(story, "/home/bob/share")
    story.configure(CLIENT, mountpoint="/home/bob/share")
    story.update_status(CLIENT_UNIT, times=HOOKS)
    swaps = _stop_swapping(story)
    mounted = _mounted(story)
    assert set(mounted) <= {MOUNT, "/home/bob/share"}, f"{mounted}, after {swaps} swaps"
    assert story.run(APP_UNIT, f"ls {SYSTEM}/file 2>&1 || true").endswith(
        "No such file or directory"
    )
    print(f"{swaps} swaps, {HOOKS} hooks: mounted: {mounted}")
    said = story.until_says(CLIENT_UNIT, "blocked", "bob (uid 2000) can change /home/bob")
    assert len(said) <= 120
    # What was mounted before is where it was.
    assert mounted == [MOUNT]


def test_what_is_mounted_and_has_become_unsafe(story: Story):
    """It stays as it is, and the status says so, until root has mended what root has done."""
    story.run(APP_UNIT, "mkdir -p /srv/deep")
    story.configure(CLIENT, mountpoint="/srv/deep/data")
    story.until(APP_UNIT, "findmnt /srv/deep/data")
    story.settle(CLIENT)
    story.run(APP_UNIT, "chown bob /srv/deep")
    for mountpoint in "/srv/deep/data", MOUNT:
        story.configure(CLIENT, mountpoint=mountpoint, noexec=str(mountpoint != MOUNT).lower())
        story.until_says(CLIENT_UNIT, "blocked", "bob (uid 2000) can change /srv/deep")
        story.settle(CLIENT, status="blocked")
        story.run(APP_UNIT, _noexec("/srv/deep/data", is_on=False))
    assert (
        "can change /srv/deep"
        in story.act(CLIENT_UNIT, "force-umount", mountpoint="/srv/deep/data").message
    )
    story.run(APP_UNIT, "chown root /srv/deep")
    story.configure(CLIENT, noexec="true")
    story.until(APP_UNIT, f"{_noexec(MOUNT, is_on=True)} && ! findmnt /srv/deep/data")
    story.configure(CLIENT, noexec="false")
    story.settle(CLIENT)


def test_a_users_own_directory_is_mounted_on(story: Story):
    """In root's directory its owner can't exchange it, as often as he tries."""
    story.run(APP_UNIT, "mkdir /srv/bob && chown bob /srv/bob")
    _swap(story, "/srv/bob")
    story.configure(CLIENT, mountpoint="/srv/bob")
    story.until(APP_UNIT, "findmnt --types nfs4 /srv/bob")
    for noexec in True, False:
        assert story.act(CLIENT_UNIT, "remount").success
        story.configure(CLIENT, noexec=str(noexec).lower())
        story.until(APP_UNIT, _noexec("/srv/bob", is_on=noexec))
    story.settle(CLIENT)
    print(f"{_stop_swapping(story)} attempts to swap")
    assert _mounted(story) == ["/srv/bob"]


def test_files_beneath_a_mount_that_is_to_come(story: Story):
    """In a directory of the application's: the share waits for them, and says so."""
    _boot_without_server(story)
    story.run(APP_UNIT, "su bob -c 'echo precious > /srv/bob/log'")
    story.run(SERVER_UNIT, "systemctl start nfs-server")
    story.update_status(CLIENT_UNIT)
    story.until_says(CLIENT_UNIT, "blocked", "/srv/bob: the directory is not empty")
    story.machines.reboot(APP_UNIT)
    retried = "systemctl is-active nfs-client-retry-srv-bob | grep -x activating"
    story.until(APP_UNIT, retried, timeout=RETRY_S)
    assert story.run(APP_UNIT, "cat /srv/bob/log") == "precious"
    assert _mounted(story) == []
    story.until_says(CLIENT_UNIT, "blocked", "/srv/bob: the directory is not empty")
    story.settle(CLIENT, status="blocked")
    before = len(story.log(CLIENT_UNIT))
    story.run(APP_UNIT, "mv /srv/bob/log /home/bob/log")
    story.until(
        APP_UNIT, "findmnt --types nfs4 /srv/bob && grep -x kept /srv/bob/file", timeout=RETRY_S
    )
    assert len(story.log(CLIENT_UNIT)) == before, "it was a hook that mounted"
    story.update_status(CLIENT_UNIT)
    story.settle(CLIENT)
    story.run(APP_UNIT, NOTHING_FAILED)


def test_nothing_is_written_where_the_charm_made_the_directory(story: Story):
    """Not even by root; so nothing is in the way of the mount when the server is there."""
    story.configure(CLIENT, mountpoint=MOUNT)
    story.until(APP_UNIT, f"findmnt {MOUNT}")
    story.settle(CLIENT)
    _boot_without_server(story)
    for write in f"echo lost > {MOUNT}/log", f"su bob -c 'echo lost > {MOUNT}/log'":
        assert story.try_to_run(APP_UNIT, write)[0] != 0
    story.run(SERVER_UNIT, "systemctl start nfs-server")
    story.until(APP_UNIT, f"grep -x kept {MOUNT}/file", timeout=RETRY_S)
    story.update_status(CLIENT_UNIT)
    story.settle(CLIENT)


def test_one_client_on_several_principals(story: Story):
    """Both applications see one share, which has one request."""
    story.deploy(OTHER_APP, charm=APP)
    story.juju.integrate(f"{CLIENT}:juju-info", OTHER_APP)
    story.until(f"{OTHER_APP}/0", f"grep -x kept {MOUNT}/file", timeout=DEPLOY_TIMEOUT_S)
    story.settle(CLIENT, OTHER_APP, timeout=DEPLOY_TIMEOUT_S)
    story.run(f"{OTHER_APP}/0", f"echo theirs > {MOUNT}/other && sync {MOUNT}/other")
    assert story.run(APP_UNIT, f"cat {MOUNT}/other") == "theirs"
    story.juju.remove_relation(f"{CLIENT}:juju-info", f"{OTHER_APP}:juju-info")
    story.until(f"{OTHER_APP}/0", f"! findmnt {MOUNT} && ! ls -d {MOUNT}")
    becomes(
        lambda: (
            f"{CLIENT}/1"
            in story.juju.status().apps[OTHER_APP].units[f"{OTHER_APP}/0"].subordinates
        ),
        expected=False,
    )
    assert story.run(APP_UNIT, f"cat {MOUNT}/other") == "theirs"


def test_removed_while_in_use(story: Story):
    """The directory is an ordinary one again when it is free."""
    hold = f"systemd-run --quiet --unit=holder --working-directory={MOUNT} sleep 600"
    story.run(APP_UNIT, hold)
    story.juju.remove_application(CLIENT)
    story.gone(CLIENT_UNIT)
    story.run(APP_UNIT, f"findmnt {MOUNT} && systemctl stop holder && umount {MOUNT}")
    story.run(APP_UNIT, f"echo x > {MOUNT}/x && rm -r {MOUNT}")
    story.run(APP_UNIT, NOTHING_FAILED)
    story.run(APP_UNIT, 'test -z "$(ls /etc/systemd/system | grep nfs-client)"')

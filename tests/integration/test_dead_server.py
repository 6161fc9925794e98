# SPDX-License-Identifier: Apache-2.0
"""A server that dies under a mount in use: no hook waits for it, nothing is lost, nothing deleted.

Times are printed (pytest -s, or -rP): the longest hook of each death, and how long a mount took to
be back. Files lie around the mount point, and at times beneath the mount where only a bind mount
shows them; they are hashed before and after everything.
"""

import base64
import shlex
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager

import pytest

from story import APP, CLIENT, DEPLOY_TIMEOUT_S, SERVER, Story, together

pytestmark = [pytest.mark.slow, pytest.mark.needs("power", "network", "hooks")]

AROUND = "/opt/around"
MOUNT = f"{AROUND}/data"
BENEATH = "/mnt/beneath"
# Private: else what is mounted on one appears on the other (mount_namespaces(7)).
HIDDEN = f"{BENEATH}/data/hidden"
# Somebody insists on it: what the charm has made, not even root writes into.
HIDE = f"chattr -i {BENEATH}/data && mv {AROUND}/deep/hidden {HIDDEN}"
BIND = f"mount --bind {AROUND} {BENEATH} && mount --make-private {BENEATH}"
SERVER_UNIT, CLIENT_UNIT, APP_UNIT = f"{SERVER}/0", f"{CLIENT}/0", f"{APP}/0"

MAX_HOOK_S = 60
MAX_FORCE_UMOUNT_S = 30
MAX_BACK_S = 60
CUT_S = 30
# What a dispatch executes before the charm's own commands: sh, its tools, python.
FIRST_EXEC = 6

# An application with a database on the share; what was committed is told outside of it.
DATABASE = """
import os, sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=600)
assert db.execute("PRAGMA journal_mode=DELETE").fetchone() == ("delete",)
db.execute("CREATE TABLE IF NOT EXISTS rows (number INTEGER, text TEXT)")
for number in range(1000000):
    with db:
        db.execute("INSERT INTO rows VALUES (?, ?)", (number, "text" * 100))
    with open("/run/committed.new", "w") as file:
        file.write(str(number + 1))
    os.replace("/run/committed.new", "/run/committed")
"""
CHECK_DATABASE = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], timeout=60)
print(*db.execute("PRAGMA integrity_check").fetchone())
print(*db.execute("SELECT COUNT(*) FROM rows").fetchone())
"""

RUN_DATABASE = f"systemd-run --quiet --unit=database python3 /opt/database.py {MOUNT}/app.db"

# The sandbox's kernel has no netfilter: what is dropped is what goes to the client.
FIREWALL = "ip route {} blackhole {}/32"


def _address(story: Story) -> str:
    return story.unit(APP_UNIT).public_address


Change = Callable[[Story], object]
DEATHS: Mapping[str, tuple[Change, Change]] = {
    "power cut": (
        lambda story: story.machines.power_cut(SERVER_UNIT),
        lambda story: story.machines.boot(SERVER_UNIT),
    ),
    "unplugged": (
        lambda story: story.machines.unplug(SERVER_UNIT),
        lambda story: story.machines.plug(SERVER_UNIT),
    ),
    "firewall": (
        lambda story: story.run(SERVER_UNIT, FIREWALL.format("add", _address(story))),
        lambda story: story.run(SERVER_UNIT, FIREWALL.format("delete", _address(story))),
    ),
    "nfsd stopped": (
        lambda story: story.run(SERVER_UNIT, "systemctl stop nfs-server"),
        lambda story: story.run(SERVER_UNIT, "systemctl start nfs-server"),
    ),
}


def _python(story: Story, program: str, name: str) -> None:
    """Write a program to the client's machine."""
    encoded = base64.b64encode(program.encode()).decode()
    story.run(APP_UNIT, f"echo {encoded} | base64 -d > /opt/{name}.py")


def _act(story: Story, name: str, **params: str) -> tuple[Mapping[str, str], str]:
    """Run an action of the client; its results, and why it failed."""
    task = story.act(CLIENT_UNIT, name, **params)
    return task.results, "" if task.success else task.message


def _says(story: Story, status: str, *says: str) -> None:
    """Wait until the client says something; then it has nothing left to do."""
    said = story.until_says(CLIENT_UNIT, status, says[0])
    assert all(it in said for it in says), said
    story.settle(CLIENT, status=status)


def _toggle(story: Story, value: str) -> None:
    """Change an option, so that a hook of the client runs."""
    story.configure(CLIENT, noexec=value)


def _wait_for_answer(story: Story) -> float:
    """Wait until the mount answers, with no hook; how long that took."""
    begin = time.monotonic()
    # What a file holds the client may know by itself, what is free it has to ask.
    ask = f"timeout 5 stat --file-system {MOUNT} && timeout 5 cat {MOUNT}/file"
    story.run(APP_UNIT, f"until findmnt {MOUNT} && {ask}; do sleep 0.5; done", timeout=180)
    return time.monotonic() - begin


def _local_tree(story: Story) -> str:
    return story.run(APP_UNIT, f"find {BENEATH} -type f -print0 | sort -z | xargs -0 sha256sum")


def _shared_tree(story: Story) -> str:
    files = "find /srv/nfs/* -type f ! -name 'app.db*' ! -name copy -print0"
    return story.run(SERVER_UNIT, f"{files} | sort -z | xargs -0 sha256sum")


@contextmanager
def _nothing_deleted(story: Story) -> Generator[None, None, None]:
    """What was on the client's disk and in the share before is there afterwards."""
    local, shared = _local_tree(story), _shared_tree(story)
    assert len(local.splitlines()) == 3, local
    yield
    assert _local_tree(story) == local
    assert _shared_tree(story) == shared


@contextmanager
def _timed_hooks(story: Story, what: str) -> Generator[None, None, None]:
    """No hook of the client takes longer than it may, and the longest one is told."""
    before = len(story.machines.hooks(CLIENT_UNIT))
    yield
    done = story.machines.hooks(CLIENT_UNIT)[before:]
    longest = max(done, key=lambda dispatch: dispatch["seconds"])
    print(f"{what}: longest of {len(done)} hooks: {longest['hook']} {longest['seconds']:.1f} s")
    assert longest["seconds"] < MAX_HOOK_S


@pytest.mark.incremental
def test_deploy(story: Story):
    # Hooks run when a test has one run; what mounts again does so by itself.
    story.juju.model_config({"update-status-hook-interval": "60m"})
    story.deploy(SERVER)
    story.deploy(APP)
    story.deploy_client(mountpoint=MOUNT, share_name="data", size=2)
    story.settle(APP, timeout=DEPLOY_TIMEOUT_S)
    story.run(
        APP_UNIT,
        f"mkdir -p {AROUND}/deep {BENEATH} && echo 1 > {AROUND}/file && echo 2 > {AROUND}/deep/x"
        f" && {BIND}",
    )
    story.integrate()
    story.settle(SERVER, APP, CLIENT, timeout=DEPLOY_TIMEOUT_S)
    assert story.try_to_run(APP_UNIT, f"echo 3 > {HIDDEN}")[0] != 0
    story.run(APP_UNIT, f"echo 3 > {BENEATH}/deep/hidden")
    story.run(APP_UNIT, f"mkdir {MOUNT}/d && echo kept | tee {MOUNT}/file > {MOUNT}/d/file")
    story.run(APP_UNIT, f"sync {MOUNT}/file {MOUNT}/d/file")
    _python(story, DATABASE, "database")
    _python(story, CHECK_DATABASE, "check")
    story.run(APP_UNIT, "dd if=/dev/urandom of=/opt/random bs=1M count=8")


def _start_application(story: Story) -> None:
    copy = f"dd if=/opt/random of={MOUNT}/copy bs=32k oflag=sync conv=fsync"
    story.run(APP_UNIT, RUN_DATABASE)
    story.run(APP_UNIT, f"systemd-run --quiet --unit=copy --remain-after-exit {copy}")
    story.run(APP_UNIT, "until test -s /run/committed; do sleep 0.1; done")


def _stop_application(story: Story) -> None:
    """It has gone on all the time, and every row and byte is there."""
    committed = story.run(APP_UNIT, "cat /run/committed")
    story.run(APP_UNIT, f"until [ $(cat /run/committed) -gt {committed} ]; do sleep 0.1; done")
    story.run(APP_UNIT, "systemctl is-active database && systemctl stop database")
    committed = story.run(APP_UNIT, "cat /run/committed")
    checked, rows = story.run(APP_UNIT, f"python3 /opt/check.py {MOUNT}/app.db").split()
    assert checked == "ok"
    assert int(rows) >= int(committed)
    ended = "systemctl show copy --property=SubState,Result"
    story.run(APP_UNIT, f"until {ended} | grep -q exited; do sleep 0.2; done", timeout=180)
    story.run(APP_UNIT, f"{ended} | grep success && cmp /opt/random {MOUNT}/copy")
    story.run(APP_UNIT, f"systemctl stop copy; rm {MOUNT}/copy {MOUNT}/app.db /run/committed")


@pytest.mark.parametrize("death", DEATHS)
def test_a_dead_server_under_a_mount_in_use(story: Story, death: str):
    kill, revive = DEATHS[death]
    _start_application(story)
    with _nothing_deleted(story), _timed_hooks(story, death):
        kill(story)
        died = time.monotonic()
        _toggle(story, "true")
        _says(story, "waiting", f"{SERVER} has not answered since")
        shown, problem = _act(story, "show-mount")
        assert shown["state"].startswith("unreachable since "), (shown, problem)
        assert "hard" in shown["options"].split(",")
        _, problem = _act(story, "remount")
        assert f"{MOUNT} is in use by " in problem
        assert "python3 (" in problem, problem
        time.sleep(max(0, died + CUT_S - time.monotonic()))  # The outage is the test.
        revive(story)
        print(f"{death}: answers {_wait_for_answer(story):.1f} s after the server's return")
        _toggle(story, "false")
        story.settle(CLIENT)
        shown, problem = _act(story, "show-mount")
        assert shown["state"] == "mounted", problem
        assert int(shown["size-bytes"]) > 1.9 * 2**30
    _stop_application(story)


STUB = "#!/bin/sh\\nexit 0\\n"
DISPATCH = "/var/lib/juju/agents/unit-{}/charm/dispatch"


@contextmanager
def _without_hooks(story: Story) -> Generator[None, None, None]:
    """Let hooks of both charms do nothing."""
    paths = {unit: DISPATCH.format(unit.replace("/", "-")) for unit in (SERVER_UNIT, CLIENT_UNIT)}
    where = {SERVER_UNIT: SERVER_UNIT, CLIENT_UNIT: APP_UNIT}
    for unit, path in paths.items():
        stub = f"mv {path} {path}.kept && printf '{STUB}' > {path} && chmod 755 {path} && sync"
        story.run(where[unit], stub)
    yield
    for unit, path in paths.items():
        story.run(where[unit], f"mv {path}.kept {path}")


SERVICE = f"""
[Unit]
RequiresMountsFor={MOUNT}
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/bin/cp {MOUNT}/file /run/seen
[Install]
WantedBy=multi-user.target opt-around-data.mount
"""


def test_the_reboot_matrix(story: Story, pytestconfig: pytest.Config):
    """Mounted and readable at the end of each, with no hook; a service that needs it, started."""
    absence_s: float = pytestconfig.getoption("--server-absence")  # pyright: ignore
    service = f"printf '%s' {shlex.quote(SERVICE)} > /etc/systemd/system/needs-mount.service"
    story.run(APP_UNIT, f"{service} && systemctl enable needs-mount && sync")
    machines = story.machines

    def cut_both():
        together(lambda: machines.power_cut(SERVER_UNIT), lambda: machines.power_cut(APP_UNIT))

    def client_alone():
        machines.reboot(APP_UNIT)

    def server_alone():
        machines.reboot(SERVER_UNIT)

    def both_server_first():
        cut_both()
        machines.boot(SERVER_UNIT)
        machines.boot(APP_UNIT)

    def both_server_absent():
        cut_both()
        machines.boot(APP_UNIT)
        time.sleep(absence_s)  # The absence is the test.
        story.run(APP_UNIT, f"! findmnt {MOUNT} && test ! -e /run/seen")
        machines.boot(SERVER_UNIT)

    with _without_hooks(story):
        for order in client_alone, server_alone, both_server_first, both_server_absent:
            order()
            seconds = _wait_for_answer(story)
            print(f"{order.__name__}: mounted and readable after {seconds:.1f} s")
            assert seconds < MAX_BACK_S
            story.run(APP_UNIT, "until grep -x kept /run/seen; do sleep 0.2; done")
    story.run(APP_UNIT, BIND)
    story.settle(CLIENT, SERVER)


OTHER_FILE_SYSTEM = """
path=$(echo /srv/nfs/data_*)
mount -t tmpfs none $path && touch $path/other
sed -Ei 's/fsid=[^, ]*/fsid=4711/' /etc/exports && exportfs -ra
"""


def test_a_stale_mount_is_mounted_anew_when_it_is_free(story: Story):
    """The server has another file system in the place of the share's, and then the share's."""
    hold = f"systemd-run --quiet --unit=holder --working-directory={MOUNT} sleep 600"
    with _nothing_deleted(story), _timed_hooks(story, "stale"):
        story.run(APP_UNIT, hold)
        story.run(SERVER_UNIT, OTHER_FILE_SYSTEM)
        _, said = story.try_to_run(APP_UNIT, f"stat --file-system {MOUNT}")
        assert "Stale file handle" in said, said
        _toggle(story, "true")
        _says(story, "waiting", f"{MOUNT} is stale since", "stop what uses it: sleep (")
        story.run(APP_UNIT, "systemctl stop holder")
        _toggle(story, "false")
        story.until(APP_UNIT, f"test -e {MOUNT}/other")
        story.settle(CLIENT)
        story.run(SERVER_UNIT, "umount --lazy /srv/nfs/data_*")
        # The server's charm has something to do, and puts its exports right.
        story.configure(CLIENT, allowlist="192.0.2.1")
        story.until(APP_UNIT, f"grep -x kept {MOUNT}/d/file")
        story.settle(CLIENT, SERVER)
    story.configure(CLIENT, allowlist="")
    story.settle(CLIENT, SERVER)


def test_a_wrong_export_under_a_mount_in_use(story: Story):
    """Another hand exports to somebody else; when it is put right, the mount goes on as it was."""
    hold = f"systemd-run --quiet --unit=holder --working-directory={MOUNT} sleep 600"
    wrong = f"sed -i 's/ {_address(story)}$/ 192.0.2.1/' /etc/exports && exportfs -ra"
    with _nothing_deleted(story), _timed_hooks(story, "wrong export"):
        story.run(APP_UNIT, hold)
        source = story.run(APP_UNIT, f"findmnt --noheadings --output SOURCE,ID {MOUNT}")
        story.run(SERVER_UNIT, wrong)
        _, said = story.try_to_run(APP_UNIT, f"stat --file-system {MOUNT}")
        assert "Permission denied" in said, said
        _toggle(story, "true")
        _says(story, "waiting", f"{SERVER} refuses this machine since")
        story.configure(CLIENT, allowlist="192.0.2.2")
        story.settle(SERVER)
        print(f"wrong export: answers {_wait_for_answer(story):.1f} s after it is right")
        story.run(APP_UNIT, "systemctl is-active holder")
        found = story.run(APP_UNIT, f"findmnt --noheadings --output SOURCE,ID {MOUNT}")
        assert found == source
        story.run(APP_UNIT, "systemctl stop holder")
        story.configure(CLIENT, noexec="false", allowlist="")
        story.settle(CLIENT, SERVER)


def test_force_umount_works_on_a_dead_server(story: Story):
    story.run(APP_UNIT, RUN_DATABASE)
    story.run(APP_UNIT, f"{HIDE}; until test -s /run/committed; do sleep 0.1; done")
    with _nothing_deleted(story), _timed_hooks(story, "force-umount"):
        story.machines.power_cut(SERVER_UNIT)
        _, problem = _act(story, "force-umount", mountpoint="/opt")
        assert problem == f"'/opt' is no mount of {CLIENT_UNIT}: it has {MOUNT}"
        begin = time.monotonic()
        results, problem = _act(story, "force-umount", mountpoint=MOUNT)
        seconds = time.monotonic() - begin
        print(f"force-umount, server dead, mount in use: {seconds:.1f} s")
        assert seconds < MAX_FORCE_UMOUNT_S
        assert "python3 (" in results["users"], problem
        story.run(APP_UNIT, f"! findmnt {MOUNT}")
        story.machines.boot(SERVER_UNIT)
        # A file was beneath the mount: it is not to be hidden again before somebody has seen it.
        _toggle(story, "true")
        _says(story, "blocked", f"{MOUNT}: the directory is not empty")
        story.run(APP_UNIT, f"mv {MOUNT}/hidden {AROUND}/deep/hidden")
        _toggle(story, "false")
        _says(story, "blocked", f"{MOUNT} was unmounted by force-umount")
        story.run(APP_UNIT, f"! findmnt {MOUNT}")
        shown, problem = _act(story, "show-mount")
        assert shown["state"].startswith("held since "), problem
        results, problem = _act(story, "remount")
        assert results["state"] == "mounted", problem
        story.settle(CLIENT)
        assert story.run(APP_UNIT, f"cat {MOUNT}/d/file") == "kept"
        story.run(APP_UNIT, HIDE)
    story.settle(CLIENT, SERVER)


def test_killed_at_every_command_beside_a_dead_server(story: Story):
    """SIGKILL at each command while an idle mount of a dead server moves, and moves back."""
    with _nothing_deleted(story), _timed_hooks(story, "killed at every command"):
        story.machines.power_cut(SERVER_UNIT)
        story.machines.kill_hook(CLIENT_UNIT, *range(FIRST_EXEC, FIRST_EXEC + 50))
        story.configure(CLIENT, mountpoint=f"{AROUND}/moved")
        _says(story, "waiting", f"{SERVER} is unreachable since")
        story.run(APP_UNIT, f"! findmnt {MOUNT} && test -e {MOUNT}/hidden")
        story.machines.boot(SERVER_UNIT)
        story.run(
            APP_UNIT, f"until grep -x kept {AROUND}/moved/file; do sleep 0.2; done", timeout=180
        )
    # Files are in the old place: it is refused until they are away, and nobody's are touched.
    story.configure(CLIENT, mountpoint=MOUNT)
    _says(story, "blocked", f"{MOUNT}: the directory is not empty")
    story.run(APP_UNIT, f"mv {MOUNT}/hidden {AROUND}/deep/hidden")
    _toggle(story, "true")
    story.settle(CLIENT)
    story.run(APP_UNIT, HIDE)


def test_removed_while_dead_and_in_use(story: Story):
    """First the integration, then the unit; the server dead, the mount in use, twice unmounted."""
    hold = f"systemd-run --quiet --unit=holder --working-directory={MOUNT} sleep 600"
    with _nothing_deleted(story):
        story.run(APP_UNIT, hold)
        story.machines.power_cut(SERVER_UNIT)
        with _timed_hooks(story, "integration removed, dead and in use"):
            story.separate()
            _says(story, "blocked", "in use by sleep (")
            _toggle(story, "false")
            story.settle(CLIENT, status="blocked")
        story.run(APP_UNIT, f"findmnt {MOUNT}")
        begin = time.monotonic()
        # The application itself stays until the server's unit has left the integration.
        story.juju.remove_application(CLIENT)
        story.gone(CLIENT_UNIT)
        seconds = time.monotonic() - begin
        print(f"unit removed, dead and in use: {seconds:.1f} s")
        assert seconds < 2 * MAX_HOOK_S
        units = "ls /etc/systemd/system | grep -E 'opt-around.*mount$|nfs-client'"
        story.run(APP_UNIT, f"findmnt {MOUNT} && ! {units}")
        story.machines.boot(SERVER_UNIT)
        story.settle(SERVER)
        story.run(APP_UNIT, f"systemctl stop holder && umount {MOUNT}", timeout=180)
        assert story.run(APP_UNIT, f"ls -A {MOUNT}") == "hidden"

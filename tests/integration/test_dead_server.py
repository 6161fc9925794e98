# SPDX-License-Identifier: Apache-2.0
"""A server that dies under a mount in use: no hook waits for it, nothing is lost, nothing deleted.

Times are printed (pytest -s, or -rP): the longest hook of each death, and how long a mount took to
be back. Files lie around the mount point, and beneath the mount where only a bind mount shows
them; they are hashed before and after everything.
"""

import asyncio
import base64
import shlex
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from story import APP, CLIENT, DEPLOY_TIMEOUT_S, SERVER, SETTLE_TIMEOUT_S, Story

AROUND = "/opt/around"
MOUNT = f"{AROUND}/data"
BENEATH = "/mnt/beneath"
# Private: else what is mounted on one appears on the other (mount_namespaces(7)).
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
    return story.model.units[APP_UNIT].public_address


Change = Callable[[Story], Awaitable[object]]
DEATHS: Mapping[str, tuple[Change, Change]] = {
    "power cut": (
        lambda story: story.substrate.power_cut(SERVER_UNIT),
        lambda story: story.substrate.boot(SERVER_UNIT),
    ),
    "unplugged": (
        lambda story: story.substrate.unplug(SERVER_UNIT),
        lambda story: story.substrate.plug(SERVER_UNIT),
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


async def _python(story: Story, program: str, name: str) -> None:
    """Write a program to the client's machine."""
    encoded = base64.b64encode(program.encode()).decode()
    await story.run(APP_UNIT, f"echo {encoded} | base64 -d > /opt/{name}.py")


async def _configure(story: Story, **options: str) -> None:
    await story.model.applications[CLIENT].set_config(options)


async def _act(story: Story, name: str, **params: str) -> tuple[Mapping[str, str], str]:
    """Run an action of the client; its results, and why it failed."""
    action = await story.model.units[CLIENT_UNIT].run_action(name, **params)
    await action.wait()
    return action.results, "" if action.status == "completed" else action.message


def _message(story: Story) -> str:
    return story.model.units[CLIENT_UNIT].workload_status_message


async def _wait_for_answer(story: Story) -> float:
    """Wait until the mount answers, with no hook; how long that took."""
    begin = time.monotonic()
    # What a file holds the client may know by itself, what is free it has to ask.
    ask = f"timeout 5 stat --file-system {MOUNT} && timeout 5 cat {MOUNT}/file"
    await story.run(APP_UNIT, f"until findmnt {MOUNT} && {ask}; do sleep 0.5; done", timeout=180)
    return time.monotonic() - begin


async def _local_tree(story: Story) -> str:
    return await story.run(
        APP_UNIT, f"find {BENEATH} -type f -print0 | sort -z | xargs -0 sha256sum"
    )


async def _shared_tree(story: Story) -> str:
    files = "find /srv/nfs/* -type f ! -name 'app.db*' ! -name copy -print0"
    return await story.run(SERVER_UNIT, f"{files} | sort -z | xargs -0 sha256sum")


@asynccontextmanager
async def _nothing_deleted(story: Story) -> AsyncGenerator[None, None]:
    """What was on the client's disk and in the share before is there afterwards."""
    local, shared = await _local_tree(story), await _shared_tree(story)
    assert len(local.splitlines()) == 3, local
    yield
    assert await _local_tree(story) == local
    assert await _shared_tree(story) == shared


@asynccontextmanager
async def _timed_hooks(story: Story, what: str) -> AsyncGenerator[None, None]:
    """No hook of the client takes longer than it may, and the longest one is told."""
    before = len(await story.substrate.hooks(CLIENT_UNIT))
    yield
    done = (await story.substrate.hooks(CLIENT_UNIT))[before:]
    longest = max(done, key=lambda dispatch: dispatch["seconds"])
    print(f"{what}: longest of {len(done)} hooks: {longest['hook']} {longest['seconds']:.1f} s")
    assert longest["seconds"] < MAX_HOOK_S


@pytest.mark.abort_on_fail
@pytest.mark.skip_if_deployed
async def test_deploy(story: Story, deploy_options: Mapping[str, Any], app_charm: Path):
    model = story.model
    # Hooks run when a test has one run; what mounts again does so by itself.
    await model.set_config({"update-status-hook-interval": "60m"})
    await model.deploy(story.charms[SERVER], application_name=SERVER, **deploy_options)
    await model.deploy(app_charm, application_name=APP, **deploy_options)
    config = {"mountpoint": MOUNT, "share-name": "data", "size": 2}
    await model.deploy(story.charms[CLIENT], application_name=CLIENT, num_units=0, config=config)
    await model.wait_for_idle(apps=[APP], status="active", timeout=DEPLOY_TIMEOUT_S, idle_period=1)
    await story.run(
        APP_UNIT,
        f"mkdir -p {AROUND}/deep {BENEATH} && echo 1 > {AROUND}/file && echo 2 > {AROUND}/deep/x"
        f" && {BIND}",
    )
    await model.integrate(f"{CLIENT}:juju-info", f"{APP}:juju-info")
    await model.integrate(f"{CLIENT}:nfs-share", f"{SERVER}:nfs-share")
    await model.wait_for_idle(
        apps=[SERVER, APP, CLIENT], status="active", timeout=DEPLOY_TIMEOUT_S, idle_period=1
    )
    await story.run(APP_UNIT, f"echo 3 > {BENEATH}/data/hidden")
    await story.run(APP_UNIT, f"mkdir {MOUNT}/d && echo kept | tee {MOUNT}/file > {MOUNT}/d/file")
    await story.run(APP_UNIT, f"sync {MOUNT}/file {MOUNT}/d/file")
    await _python(story, DATABASE, "database")
    await _python(story, CHECK_DATABASE, "check")
    await story.run(APP_UNIT, "dd if=/dev/urandom of=/opt/random bs=1M count=8")


async def _start_application(story: Story) -> None:
    copy = f"dd if=/opt/random of={MOUNT}/copy bs=32k oflag=sync conv=fsync"
    await story.run(APP_UNIT, RUN_DATABASE)
    await story.run(APP_UNIT, f"systemd-run --quiet --unit=copy --remain-after-exit {copy}")
    await story.run(APP_UNIT, "until test -s /run/committed; do sleep 0.1; done")


async def _stop_application(story: Story) -> None:
    """It has gone on all the time, and every row and byte is there."""
    committed = await story.run(APP_UNIT, "cat /run/committed")
    await story.run(
        APP_UNIT, f"until [ $(cat /run/committed) -gt {committed} ]; do sleep 0.1; done"
    )
    await story.run(APP_UNIT, "systemctl is-active database && systemctl stop database")
    committed = await story.run(APP_UNIT, "cat /run/committed")
    checked, rows = (await story.run(APP_UNIT, f"python3 /opt/check.py {MOUNT}/app.db")).split()
    assert checked == "ok"
    assert int(rows) >= int(committed)
    ended = "systemctl show copy --property=SubState,Result"
    await story.run(APP_UNIT, f"until {ended} | grep -q exited; do sleep 0.2; done", timeout=180)
    await story.run(APP_UNIT, f"{ended} | grep success && cmp /opt/random {MOUNT}/copy")
    await story.run(
        APP_UNIT, f"systemctl stop copy; rm {MOUNT}/copy {MOUNT}/app.db /run/committed"
    )


@pytest.mark.parametrize("death", DEATHS)
async def test_a_dead_server_under_a_mount_in_use(story: Story, death: str):
    kill, revive = DEATHS[death]
    await _start_application(story)
    async with _nothing_deleted(story), _timed_hooks(story, death):
        await kill(story)
        died = time.monotonic()
        await _configure(story, noexec="true")
        await story.settle(CLIENT, status="waiting")
        assert f"{SERVER} has not answered since" in _message(story), _message(story)
        shown, problem = await _act(story, "show-mount")
        assert shown["state"].startswith("silent since "), (shown, problem)
        assert "hard" in shown["options"].split(",")
        _, problem = await _act(story, "remount")
        assert f"{MOUNT} is in use by " in problem
        assert "python3 (" in problem, problem
        await asyncio.sleep(max(0, died + CUT_S - time.monotonic()))  # The outage is the test.
        await revive(story)
        print(f"{death}: answers {await _wait_for_answer(story):.1f} s after the server's return")
        await _configure(story, noexec="false")
        await story.settle(CLIENT)
        shown, problem = await _act(story, "show-mount")
        assert shown["state"] == "mounted", problem
        assert int(shown["size-bytes"]) > 1.9 * 2**30
    await _stop_application(story)


STUB = "#!/bin/sh\\nexit 0\\n"
DISPATCH = "/var/lib/juju/agents/unit-{}/charm/dispatch"


@asynccontextmanager
async def _without_hooks(story: Story) -> AsyncGenerator[None, None]:
    """Let hooks of both charms do nothing."""
    paths = {unit: DISPATCH.format(unit.replace("/", "-")) for unit in (SERVER_UNIT, CLIENT_UNIT)}
    where = {SERVER_UNIT: SERVER_UNIT, CLIENT_UNIT: APP_UNIT}
    for unit, path in paths.items():
        stub = f"mv {path} {path}.kept && printf '{STUB}' > {path} && chmod 755 {path} && sync"
        await story.run(where[unit], stub)
    yield
    for unit, path in paths.items():
        await story.run(where[unit], f"mv {path}.kept {path}")


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


async def test_the_reboot_matrix(story: Story, pytestconfig: pytest.Config):
    """Mounted and readable at the end of each, with no hook; a service that needs it, started."""
    absence_s: float = pytestconfig.getoption("--server-absence")  # pyright: ignore
    service = f"printf '%s' {shlex.quote(SERVICE)} > /etc/systemd/system/needs-mount.service"
    await story.run(APP_UNIT, f"{service} && systemctl enable needs-mount && sync")
    substrate = story.substrate

    async def client_alone():
        await substrate.reboot(APP_UNIT)

    async def server_alone():
        await substrate.reboot(SERVER_UNIT)

    async def both_server_first():
        await asyncio.gather(substrate.power_cut(SERVER_UNIT), substrate.power_cut(APP_UNIT))
        await substrate.boot(SERVER_UNIT)
        await substrate.boot(APP_UNIT)

    async def both_server_absent():
        await asyncio.gather(substrate.power_cut(SERVER_UNIT), substrate.power_cut(APP_UNIT))
        await substrate.boot(APP_UNIT)
        await asyncio.sleep(absence_s)  # The absence is the test.
        await story.run(APP_UNIT, f"! findmnt {MOUNT} && test ! -e /run/seen")
        await substrate.boot(SERVER_UNIT)

    async with _without_hooks(story):
        for order in client_alone, server_alone, both_server_first, both_server_absent:
            await order()
            seconds = await _wait_for_answer(story)
            print(f"{order.__name__}: mounted and readable after {seconds:.1f} s")
            assert seconds < MAX_BACK_S
            await story.run(APP_UNIT, "until grep -x kept /run/seen; do sleep 0.2; done")
    await story.run(APP_UNIT, BIND)
    await story.settle(CLIENT, SERVER)


OTHER_FILE_SYSTEM = """
path=$(echo /srv/nfs/data_*)
mount -t tmpfs none $path && touch $path/other
sed -Ei 's/fsid=[^, ]*/fsid=4711/' /etc/exports && exportfs -ra
"""


async def test_a_stale_mount_is_mounted_anew_when_it_is_free(story: Story):
    """The server has another file system in the place of the share's, and then the share's."""
    hold = f"systemd-run --quiet --unit=holder --working-directory={MOUNT} sleep 600"
    async with _nothing_deleted(story), _timed_hooks(story, "stale"):
        await story.run(APP_UNIT, hold)
        await story.run(SERVER_UNIT, OTHER_FILE_SYSTEM)
        _, said = await story.try_to_run(APP_UNIT, f"stat --file-system {MOUNT}")
        assert "Stale file handle" in said, said
        await _configure(story, noexec="true")
        await story.settle(CLIENT, status="waiting")
        assert f"{MOUNT} is stale since" in _message(story), _message(story)
        assert "in use by sleep (" in _message(story), _message(story)
        await story.run(APP_UNIT, "systemctl stop holder")
        await _configure(story, noexec="false")
        await story.settle(CLIENT)
        assert await story.run(APP_UNIT, f"ls -A {MOUNT}") == "other"
        await story.run(SERVER_UNIT, "umount --lazy /srv/nfs/data_*")
        # The server's charm has something to do, and puts its exports right.
        await _configure(story, allowlist="192.0.2.1")
        await story.settle(CLIENT, SERVER)
        assert await story.run(APP_UNIT, f"cat {MOUNT}/d/file") == "kept"
    await _configure(story, allowlist="")
    await story.settle(CLIENT, SERVER)


async def test_a_wrong_export_under_a_mount_in_use(story: Story):
    """Another hand exports to somebody else; when it is put right, the mount goes on as it was."""
    hold = f"systemd-run --quiet --unit=holder --working-directory={MOUNT} sleep 600"
    wrong = f"sed -i 's/ {_address(story)}$/ 192.0.2.1/' /etc/exports && exportfs -ra"
    async with _nothing_deleted(story), _timed_hooks(story, "wrong export"):
        await story.run(APP_UNIT, hold)
        source = await story.run(APP_UNIT, f"findmnt --noheadings --output SOURCE,ID {MOUNT}")
        await story.run(SERVER_UNIT, wrong)
        _, said = await story.try_to_run(APP_UNIT, f"stat --file-system {MOUNT}")
        assert "Permission denied" in said, said
        await _configure(story, noexec="true")
        await story.settle(CLIENT, status="waiting")
        assert f"{SERVER} refuses this machine since" in _message(story), _message(story)
        await _configure(story, allowlist="192.0.2.2")
        await story.settle(SERVER)
        print(f"wrong export: answers {await _wait_for_answer(story):.1f} s after it is right")
        await story.run(APP_UNIT, "systemctl is-active holder")
        found = await story.run(APP_UNIT, f"findmnt --noheadings --output SOURCE,ID {MOUNT}")
        assert found == source
        await story.run(APP_UNIT, "systemctl stop holder")
        await _configure(story, noexec="false", allowlist="")
        await story.settle(CLIENT, SERVER)


async def test_force_umount_works_on_a_dead_server(story: Story):
    await story.run(APP_UNIT, RUN_DATABASE)
    await story.run(APP_UNIT, "until test -s /run/committed; do sleep 0.1; done")
    async with _nothing_deleted(story), _timed_hooks(story, "force-umount"):
        await story.substrate.power_cut(SERVER_UNIT)
        _, problem = await _act(story, "force-umount", mountpoint="/opt")
        assert problem == f"'/opt' is no mount of {CLIENT_UNIT}: it has {MOUNT}"
        begin = time.monotonic()
        results, problem = await _act(story, "force-umount", mountpoint=MOUNT)
        seconds = time.monotonic() - begin
        print(f"force-umount, server dead, mount in use: {seconds:.1f} s")
        assert seconds < MAX_FORCE_UMOUNT_S
        assert "python3 (" in results["users"], problem
        await story.run(APP_UNIT, f"! findmnt {MOUNT}")
        await story.substrate.boot(SERVER_UNIT)
        # A file was beneath the mount: it is not to be hidden again before somebody has seen it.
        await _configure(story, noexec="true")
        await story.settle(CLIENT, status="blocked")
        assert f"{MOUNT}: the directory is not empty" in _message(story), _message(story)
        await story.run(APP_UNIT, f"mv {MOUNT}/hidden {AROUND}/deep/hidden")
        await _configure(story, noexec="false")
        await story.settle(CLIENT, status="blocked")
        assert f"{MOUNT} was unmounted by force-umount" in _message(story), _message(story)
        await story.run(APP_UNIT, f"! findmnt {MOUNT}")
        shown, problem = await _act(story, "show-mount")
        assert shown["state"].startswith("held since "), problem
        results, problem = await _act(story, "remount")
        assert results["state"] == "mounted", problem
        await story.settle(CLIENT)
        assert await story.run(APP_UNIT, f"cat {MOUNT}/d/file") == "kept"
        await story.run(APP_UNIT, f"mv {AROUND}/deep/hidden {BENEATH}/data/hidden")
    await story.settle(CLIENT, SERVER)


async def test_killed_at_every_command_beside_a_dead_server(story: Story):
    """SIGKILL at each command while an idle mount of a dead server moves, and moves back."""
    async with _nothing_deleted(story), _timed_hooks(story, "killed at every command"):
        await story.substrate.power_cut(SERVER_UNIT)
        await story.substrate.kill_hook(CLIENT_UNIT, *range(FIRST_EXEC, FIRST_EXEC + 50))
        await _configure(story, mountpoint=f"{AROUND}/moved")
        await story.settle(CLIENT, status="waiting")
        assert f"{SERVER} is unreachable since" in _message(story), _message(story)
        await story.run(APP_UNIT, f"! findmnt {MOUNT} && test -e {MOUNT}/hidden")
        await story.substrate.boot(SERVER_UNIT)
        await story.run(
            APP_UNIT, f"until grep -x kept {AROUND}/moved/file; do sleep 0.2; done", timeout=180
        )
    # Files are in the old place: it is refused until they are away, and nobody's are touched.
    await _configure(story, mountpoint=MOUNT)
    await story.settle(CLIENT, status="blocked")
    assert f"{MOUNT}: the directory is not empty" in _message(story), _message(story)
    await story.run(APP_UNIT, f"mv {MOUNT}/hidden {AROUND}/deep/hidden")
    await _configure(story, noexec="true")
    await story.settle(CLIENT)
    await story.run(APP_UNIT, f"mv {AROUND}/deep/hidden {BENEATH}/data/hidden")


async def test_removed_while_dead_and_in_use(story: Story):
    """First the integration, then the unit; the server dead, the mount in use, twice unmounted."""
    hold = f"systemd-run --quiet --unit=holder --working-directory={MOUNT} sleep 600"
    async with _nothing_deleted(story):
        await story.run(APP_UNIT, hold)
        await story.substrate.power_cut(SERVER_UNIT)
        async with _timed_hooks(story, "integration removed, dead and in use"):
            server = story.model.applications[SERVER]
            await server.destroy_relation("nfs-share", f"{CLIENT}:nfs-share")
            await story.settle(CLIENT, status="blocked")
            assert "in use by sleep (" in _message(story), _message(story)
            await _configure(story, noexec="false")
            await story.settle(CLIENT, status="blocked")
        await story.run(APP_UNIT, f"findmnt {MOUNT}")
        begin = time.monotonic()
        # The application itself stays until the server's unit has left the integration.
        await story.model.remove_application(CLIENT)
        await story.model.block_until(
            lambda: CLIENT_UNIT not in story.model.units, timeout=SETTLE_TIMEOUT_S
        )
        seconds = time.monotonic() - begin
        print(f"unit removed, dead and in use: {seconds:.1f} s")
        assert seconds < 2 * MAX_HOOK_S
        units = "ls /etc/systemd/system | grep -E 'opt-around.*mount$|nfs-client'"
        await story.run(APP_UNIT, f"findmnt {MOUNT} && ! {units}")
        await story.substrate.boot(SERVER_UNIT)
        await story.settle(SERVER)
        await story.run(APP_UNIT, f"systemctl stop holder && umount {MOUNT}", timeout=180)
        assert await story.run(APP_UNIT, f"ls -A {MOUNT}") == "hidden"

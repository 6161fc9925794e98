# SPDX-License-Identifier: Apache-2.0
"""Real machines, booted as seldom as the assertions allow."""

import asyncio
import ctypes
import io
import os
import signal
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from revisions import PACKAGES
from sandbox.machines import images, machines

REPOSITORY = Path(__file__).parents[2]
CLONE_NEWNET = 0x40000000
BOOT_ID = ["cat", "/proc/sys/kernel/random/boot_id"]
TOOLS = "/var/lib/juju/tools/unit-a-0"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HOOK_ENV = {
    "JUJU_CONTEXT_ID": "a/0-install-00",
    "JUJU_AGENT_SOCKET_ADDRESS": "/var/lib/juju/agents/unit-a-0/agent.socket",
    "PATH": f"{TOOLS}:{PATH}",
}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="machines need root")


@pytest.fixture(scope="module")
def event_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """Give all tests one loop, whose children the machines are."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture(scope="module")
async def image() -> Path:
    return await images.build(PACKAGES, print)


@pytest.fixture(scope="module")
async def network(image: Path) -> AsyncIterator[None]:
    """Make a network in a namespace that this thread is in meanwhile."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as before:
        assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        try:
            await machines.make_bridge()
            yield
        finally:
            assert libc.setns(before.fileno(), CLONE_NEWNET) == 0


@pytest.fixture(scope="module")
async def pair(
    network: None, image: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[machines.Machine, machines.Machine]]:
    directory = tmp_path_factory.mktemp("machines")
    both = machines.Machine("0", image, directory), machines.Machine("x0", image, directory)
    try:
        await asyncio.gather(*(it.boot() for it in both))
        yield both
    finally:
        await asyncio.gather(*(it.power_cut() for it in both))


@pytest.fixture
async def machine(pair: tuple[machines.Machine, machines.Machine]) -> machines.Machine:
    """Give a machine that is up, whatever the test before did to it."""
    if not pair[0].is_running:
        await pair[0].boot()
    return pair[0]


@pytest.fixture
def bystander(pair: tuple[machines.Machine, machines.Machine]) -> machines.Machine:
    return pair[1]


@pytest.fixture
async def tools(machine: machines.Machine) -> None:
    link = "ln -sf /usr/lib/sandbox/hook_command"
    script = f"mkdir -p {TOOLS}; for i in relation-get relation-set; do {link} {TOOLS}/$i; done"
    assert (await machine.run(["sh", "-c", script])).returncode == 0


async def answer(argv: tuple[str, ...], stdin: str) -> tuple[int, str, str]:
    """Answer a hook command with what it asked."""
    return 3, f"{argv} {stdin!r} é\n", "complaint\n"


async def output_of(machine: machines.Machine, script: str) -> str:
    result = await machine.run(["sh", "-c", script])
    assert result.returncode == 0, result
    return result.stdout


async def reaches(source: machines.Machine, address: str) -> bool:
    ping = ["ping", "-c", "1", "-W", "2", address]
    return (await source.run(ping)).returncode == 0


async def test_result_has_status_streams_and_signal(machine):
    pieces: list[tuple[str, str]] = []
    script = "pwd; cat; printf 'é' >&2; kill -9 $$"
    result = await machine.run(
        ["sh", "-c", script],
        cwd="/usr/lib",
        stdin="in",
        on_output=lambda stream, text: pieces.append((stream, text)),
    )
    assert result == machines.Result(-9, "/usr/lib\nin", "é")
    assert "".join(text for stream, text in pieces if stream == "stdout") == result.stdout
    assert (await machine.run(["no-such-command"])).returncode == 127


async def test_large_output_and_input_pass_whole(machine):
    text = "0123456789abcde\n" * 60000
    assert (await machine.run(["cat"], stdin=text)).stdout == text


async def test_who_keeps_the_output_open_is_not_waited_for(machine):
    result = await machine.run(["sh", "-c", "sleep 71 & echo done"], timeout_s=20)
    assert result.stdout == "done\n"
    # It is no part of the hook any more: what a hook leaves running stays.
    assert await output_of(machine, "pkill -ex -f 'sleep 71'")


@pytest.mark.usefixtures("tools")
async def test_hook_commands_are_relayed(machine):
    script = """
        echo unread | { relation-get 'a  b' - é; echo $?; cat; }
        echo given | relation-set --file -
        echo given | relation-set -r 1 --file=-
        JUJU_CONTEXT_ID=other relation-get; echo $?
    """
    result = await machine.run(["sh", "-c", script], env=HOOK_ENV, on_hook_command=answer)
    assert result.stdout.splitlines() == [
        "('relation-get', 'a  b', '-', 'é') '' é",
        "3",
        "unread",
        "('relation-set', '--file', '-') 'given\\n' é",
        "('relation-set', '-r', '1', '--file=-') 'given\\n' é",
        "1",
    ]
    assert result.stderr == "complaint\n" * 3 + "ERROR no such hook context: other\n"


@pytest.mark.usefixtures("tools")
async def test_hook_command_outside_of_hooks_fails(machine):
    result = await machine.run([f"{TOOLS}/relation-get"], env={})
    assert result.returncode == 1
    assert result.stderr.startswith("ERROR relation-get runs in hooks only")


@pytest.mark.usefixtures("tools")
async def test_run_is_killed_exactly_at_the_exec_that_was_chosen(machine):
    # Execs: sh, echo, (relation-get isn't counted), setsid, sh, touch, echo.
    script = (
        "/bin/echo 1; relation-get; setsid sh -c 'echo up >/tmp/up; read never </tmp/never' &"
        " read up </tmp/up; touch /tmp/last; /bin/echo 2"
    )
    others = ["pgrep", "-f", "^sh -c echo up"]
    await output_of(machine, "mkfifo /tmp/up /tmp/never")

    async def killed_at(number: int) -> machines.Result:
        return await machine.run(
            ["sh", "-c", script], env=HOOK_ENV, on_hook_command=answer, kill_at_exec=number
        )

    assert await killed_at(1) == await killed_at(2) == machines.Result(-9, "", "")
    before_touch = await killed_at(5)
    assert (before_touch.returncode, before_touch.stdout) == (-9, "1\n('relation-get',) '' é\n")
    assert await output_of(machine, "ls /tmp") == "never\nup\n"
    after_touch = await killed_at(6)
    assert (after_touch.returncode, after_touch.stdout) == (-9, "1\n('relation-get',) '' é\n")
    assert "last\n" in await output_of(machine, "ls /tmp")
    assert (await machine.run(others)).stdout == ""
    unhurt = await killed_at(7)
    assert (unhurt.returncode, unhurt.stdout) == (0, "1\n('relation-get',) '' é\n2\n")
    assert (await machine.run(others)).stdout != ""


async def test_run_that_ends_before_the_exec_that_was_chosen_ends_as_it_would(machine):
    for script, returncode in (("exit 7", 7), ("kill -9 $$", -9), ("kill -2 $$", -2)):
        run = machine.run(["sh", "-c", script], kill_at_exec=9)
        assert await run == machines.Result(returncode, "", "")


async def test_timeout_and_cancelling_leave_no_process(machine):
    script = ["sh", "-c", "sleep 73 & sleep 73"]
    with pytest.raises(TimeoutError, match="longer than 1 s"):
        await machine.run(script, timeout_s=1)
    assert (await machine.run(["pgrep", "-f", "^sleep 73"])).stdout == ""
    task = asyncio.create_task(machine.run(script))
    while (await machine.run(["pgrep", "-f", "^sleep 73"])).stdout.count("\n") < 2:
        pass
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert (await machine.run(["pgrep", "-f", "^sleep 73"])).stdout == ""


async def test_a_machine_that_stands_still_for_a_while_is_waited_for(machine):
    await machine._monitor("stop")
    running = asyncio.create_task(machine.run(["true"]))
    await asyncio.sleep(3)  # Longer than a machine that boots is given.
    await machine._monitor("go")
    assert (await running).returncode == 0


async def test_unpack_keeps_modes_and_links(machine):
    await machine.unpack(charm(), "/root/charm")
    await machine.unpack(charm(), "/root/charm")
    assert await output_of(machine, "cd /root/charm; stat -c '%A %N' dispatch src/* link") == (
        "-rwxr-xr-x 'dispatch'\n-rw-r--r-- 'src/charm.py'\nlrwxrwxrwx 'link' -> 'src/charm.py'\n"
    )


def charm() -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for name, kind, text in (
            ("dispatch", stat.S_IFREG | 0o755, "#!/bin/sh\n"),
            ("src/charm.py", stat.S_IFREG | 0o644, ""),
            ("link", stat.S_IFLNK | 0o777, "src/charm.py"),
        ):
            entry = zipfile.ZipInfo(name)
            entry.create_system = 3  # Unix
            entry.external_attr = kind << 16
            file.writestr(entry, text)
    return archive.getvalue()


async def test_unplugging_cuts_machines_off_but_not_control(machine, bystander):
    assert await reaches(machine, bystander.address)
    await machine.unplug()
    await machine.unplug()
    assert not await reaches(machine, bystander.address)
    assert not await reaches(bystander, machine.address)
    await machine.plug()
    await machine.plug()
    assert await reaches(bystander, machine.address)


async def test_disk_is_attached_at_once_and_stays(machine, bystander, tmp_path):
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    assert await machine.attach_disk(disk) == "/dev/ubdb"
    await output_of(machine, "mkfs.ext4 -q /dev/ubdb; mount /dev/ubdb /mnt; echo kept >/mnt/f")
    boot = (await machine.run(BOOT_ID)).stdout
    await machine.reboot()
    assert (await machine.run(BOOT_ID)).stdout != boot
    assert await output_of(machine, "mount /dev/ubdb /mnt; cat /mnt/f; umount /mnt") == "kept\n"
    await machine.detach_disk(disk)
    assert await output_of(machine, "! test -e /dev/ubdb") == ""
    assert await bystander.attach_disk(disk) == "/dev/ubdb"
    assert await output_of(bystander, "mount /dev/ubdb /mnt; cat /mnt/f") == "kept\n"


async def test_a_machine_that_is_rebooted_by_hand_is_to_be_started_again(machine):
    # It ends with the machine, at the latest.
    reboot = ["sh", "-c", "systemctl reboot >/root/said 2>&1; sync"]
    with suppress(machines.MachineError):
        await machine.run(reboot)
    assert await machine.reboots_itself()
    await machine.boot()
    # dbus may be ended before logind's answer has come, here as on any machine.
    said = await output_of(machine, "cat /root/said")
    assert said == "" or said.startswith("Call to Reboot failed: ")


async def test_power_cut_loses_what_was_not_synced(machine):
    await output_of(machine, "echo kept >/root/synced; sync; echo lost >/root/unsynced")
    files = machine.console.parent
    others = processes_in(files)
    task = asyncio.create_task(machine.run(["sleep", "60"]))
    while (await machine.run(["pgrep", "-f", "^sleep 60"])).returncode != 0:
        pass
    started = time.monotonic()
    await machine.power_cut()
    with pytest.raises(machines.MachineError, match="machine-0 stopped"):
        await task
    assert time.monotonic() - started < 5
    assert not machine.is_running
    assert len(others) > len(processes_in(files)) > 0
    with pytest.raises(machines.MachineError, match="isn't running"):
        await machine.run(["true"])
    await machine.boot()
    script = "cat /root/synced; cat /root/unsynced 2>/dev/null || true"
    assert await output_of(machine, script) == "kept\n"


async def test_a_machine_that_has_just_ended_is_not_moved(image, tmp_path):
    machine = machines.Machine("8", image, tmp_path)
    machine._process = await asyncio.create_subprocess_exec("/bin/true")
    await machine._process.wait()
    machine._end = asyncio.create_task(asyncio.sleep(60))  # It is not told yet.
    machine.move(machine._processor + 1)
    machine._end.cancel()


@pytest.mark.usefixtures("network")
async def test_boot_that_fails_says_what_the_console_said(image, tmp_path):
    missing = tmp_path / "missing.img"
    for suffix in (".kernel", ".so"):
        missing.with_suffix(suffix).symlink_to(image.with_suffix(suffix))
    machine = machines.Machine("9", missing, tmp_path)
    with pytest.raises(machines.MachineError, match=r"missing\.img"):
        await machine.boot()
    assert not machine.is_running


def test_nothing_is_left_when_the_starter_is_killed(image, tmp_path):
    program = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from sandbox.machines import machines\n"
        "async def main():\n"
        "    await machines.make_bridge()\n"
        "    machine = machines.Machine('5', Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "    await machine.boot()\n"
        "    print('up', flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    unshare = ["/usr/bin/unshare", "--net", "--pid", "--mount-proc", "--fork", "--kill-child"]
    before = left_on_host(tmp_path)
    with subprocess.Popen(
        [*unshare, sys.executable, "-c", program, str(image), str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
    ) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == b"up\n"
        assert processes_in(tmp_path)
        starter.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    while left_on_host(tmp_path) != before:
        assert time.monotonic() < deadline, (before, left_on_host(tmp_path))
        time.sleep(0.05)


def processes_in(directory: Path) -> list[str]:
    """Return the processes that work in a directory, as those of a machine do in its own."""
    found: list[str] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "cwd").readlink() == directory:
                found.append(process.name)
        except OSError:
            # It has ended meanwhile.
            continue
    return found


def left_on_host(directory: Path) -> tuple[list[str], str, str, str]:
    """Return what a machine could leave: processes, links, mounts, loop devices."""

    def output(*argv: str) -> str:
        return subprocess.run(argv, capture_output=True, check=True, text=True, timeout=10).stdout

    mounts = Path("/proc/self/mountinfo").read_text()
    links = output("/usr/sbin/ip", "-br", "link")
    return processes_in(directory), links, mounts, output("/usr/sbin/losetup", "--all")

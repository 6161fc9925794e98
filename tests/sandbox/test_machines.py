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
from collections.abc import Iterator
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
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def image(runner: asyncio.Runner) -> Path:
    return runner.run(images.build(PACKAGES, print))


@pytest.fixture(scope="module")
def network(runner: asyncio.Runner, image: Path) -> Iterator[None]:
    """Make a network in a namespace that this thread is in meanwhile."""
    libc = ctypes.CDLL(None, use_errno=True)
    with Path("/proc/thread-self/ns/net").open() as before:
        assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
        try:
            runner.run(machines.make_bridge())
            yield
        finally:
            assert libc.setns(before.fileno(), CLONE_NEWNET) == 0


@pytest.fixture(scope="module")
def pair(
    runner: asyncio.Runner,
    network: None,
    image: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[machines.Machine, machines.Machine]]:
    directory = tmp_path_factory.mktemp("machines")
    machine = machines.Machine("0", image, directory)
    bystander = machines.Machine("x0", image, directory)

    async def boot_both() -> None:
        await asyncio.gather(machine.boot(), bystander.boot())

    async def cut_both() -> None:
        await asyncio.gather(machine.power_cut(), bystander.power_cut())

    try:
        runner.run(boot_both())
        yield machine, bystander
    finally:
        runner.run(cut_both())


@pytest.fixture
def machine(
    pair: tuple[machines.Machine, machines.Machine], runner: asyncio.Runner
) -> machines.Machine:
    """Give a machine that is up, whatever the test before did to it."""
    if not pair[0].is_running:
        runner.run(pair[0].boot())
    return pair[0]


@pytest.fixture
def bystander(pair: tuple[machines.Machine, machines.Machine]) -> machines.Machine:
    return pair[1]


@pytest.fixture
def tools(machine: machines.Machine, runner: asyncio.Runner) -> None:
    link = "ln -sf /usr/lib/sandbox/hook_command"
    script = f"mkdir -p {TOOLS}; for i in relation-get relation-set; do {link} {TOOLS}/$i; done"
    assert runner.run(machine.run(["sh", "-c", script])).returncode == 0


async def answer(argv: tuple[str, ...], stdin: str) -> tuple[int, str, str]:
    """Answer a hook command with what it asked."""
    return 3, f"{argv} {stdin!r} é\n", "complaint\n"


def output_of(runner: asyncio.Runner, machine: machines.Machine, script: str) -> str:
    result = runner.run(machine.run(["sh", "-c", script]))
    assert result.returncode == 0, result
    return result.stdout


def reaches(runner: asyncio.Runner, source: machines.Machine, address: str) -> bool:
    ping = ["ping", "-c", "1", "-W", "2", address]
    return runner.run(source.run(ping)).returncode == 0


def test_result_has_status_streams_and_signal(runner, machine):
    pieces: list[tuple[str, str]] = []
    script = "pwd; cat; printf 'é' >&2; kill -9 $$"
    result = runner.run(
        machine.run(
            ["sh", "-c", script],
            cwd="/usr/lib",
            stdin="in",
            on_output=lambda stream, text: pieces.append((stream, text)),
        )
    )
    assert result == machines.Result(-9, "/usr/lib\nin", "é")
    assert "".join(text for stream, text in pieces if stream == "stdout") == result.stdout
    assert runner.run(machine.run(["no-such-command"])).returncode == 127


def test_kernel_is_the_images_with_its_own_c_library(machine):
    assert machine._process is not None
    process = machine._process.pid
    kernel = int(Path(f"/proc/{process}/task/{process}/children").read_text())
    files = machine._image.with_suffix(".kernel")
    program = os.stat(f"/proc/{kernel}/exe")
    assert os.path.samestat(program, (files / "linux.uml").stat())
    mapped = {line.split()[4] for line in Path(f"/proc/{kernel}/maps").read_text().splitlines()}
    assert str((files / "lib/libc.so.6").stat().st_ino) in mapped


def test_large_output_and_input_pass_whole(runner, machine):
    text = "0123456789abcde\n" * 60000
    assert runner.run(machine.run(["cat"], stdin=text)).stdout == text


def test_who_keeps_the_output_open_is_not_waited_for(runner, machine):
    result = runner.run(machine.run(["sh", "-c", "sleep 71 & echo done"], timeout_s=20))
    assert result.stdout == "done\n"
    # It is no part of the hook any more: what a hook leaves running stays.
    assert output_of(runner, machine, "pkill -ex -f 'sleep 71'")


@pytest.mark.usefixtures("tools")
def test_hook_commands_are_relayed(runner, machine):
    script = """
        echo unread | { relation-get 'a  b' - é; echo $?; cat; }
        echo given | relation-set --file -
        echo given | relation-set -r 1 --file=-
        JUJU_CONTEXT_ID=other relation-get; echo $?
    """
    result = runner.run(machine.run(["sh", "-c", script], env=HOOK_ENV, on_hook_command=answer))
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
def test_hook_command_outside_of_hooks_fails(runner, machine):
    result = runner.run(machine.run([f"{TOOLS}/relation-get"], env={}))
    assert result.returncode == 1
    assert result.stderr.startswith("ERROR relation-get runs in hooks only")


@pytest.mark.usefixtures("tools")
def test_run_is_killed_exactly_at_the_exec_that_was_chosen(runner, machine):
    # Execs: sh, echo, (relation-get isn't counted), setsid, sh, touch, echo.
    script = (
        "/bin/echo 1; relation-get; setsid sh -c 'echo up >/tmp/up; read never </tmp/never' &"
        " read up </tmp/up; touch /tmp/last; /bin/echo 2"
    )
    others = ["pgrep", "-f", "^sh -c echo up"]
    output_of(runner, machine, "mkfifo /tmp/up /tmp/never")

    def killed_at(number: int) -> machines.Result:
        run = machine.run(
            ["sh", "-c", script], env=HOOK_ENV, on_hook_command=answer, kill_at_exec=number
        )
        return runner.run(run)

    assert killed_at(1) == killed_at(2) == machines.Result(-9, "", "")
    before_touch = killed_at(5)
    assert (before_touch.returncode, before_touch.stdout) == (-9, "1\n('relation-get',) '' é\n")
    assert output_of(runner, machine, "ls /tmp") == "never\nup\n"
    after_touch = killed_at(6)
    assert (after_touch.returncode, after_touch.stdout) == (-9, "1\n('relation-get',) '' é\n")
    assert "last\n" in output_of(runner, machine, "ls /tmp")
    assert runner.run(machine.run(others)).stdout == ""
    unhurt = killed_at(7)
    assert (unhurt.returncode, unhurt.stdout) == (0, "1\n('relation-get',) '' é\n2\n")
    assert runner.run(machine.run(others)).stdout != ""


def test_run_that_ends_before_the_exec_that_was_chosen_ends_as_it_would(runner, machine):
    for script, returncode in (("exit 7", 7), ("kill -9 $$", -9), ("kill -2 $$", -2)):
        run = machine.run(["sh", "-c", script], kill_at_exec=9)
        assert runner.run(run) == machines.Result(returncode, "", "")


def test_timeout_and_cancelling_leave_no_process(runner, machine):
    script = ["sh", "-c", "sleep 73 & sleep 73"]

    async def cancel() -> None:
        task = asyncio.create_task(machine.run(script))
        while (await machine.run(["pgrep", "-f", "^sleep 73"])).stdout.count("\n") < 2:
            pass
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()

    with pytest.raises(TimeoutError, match="longer than 1 s"):
        runner.run(machine.run(script, timeout_s=1))
    assert runner.run(machine.run(["pgrep", "-f", "^sleep 73"])).stdout == ""
    runner.run(cancel())
    assert runner.run(machine.run(["pgrep", "-f", "^sleep 73"])).stdout == ""


def test_a_machine_that_stands_still_for_a_while_is_waited_for(runner, machine):
    async def go_on() -> None:
        await asyncio.sleep(3)  # Longer than a machine that boots is given.
        await machine._monitor("go")

    async def run() -> machines.Result:
        await machine._monitor("stop")
        result, _ = await asyncio.gather(machine.run(["true"]), go_on())
        return result

    assert runner.run(run()).returncode == 0


def test_unpack_keeps_modes_and_links(runner, machine):
    runner.run(machine.unpack(charm(), "/root/charm"))
    runner.run(machine.unpack(charm(), "/root/charm"))
    assert output_of(runner, machine, "cd /root/charm; stat -c '%A %N' dispatch src/* link") == (
        "-rwxr-xr-x 'dispatch'\n-rw-r--r-- 'src/charm.py'\nlrwxrwxrwx 'link' -> 'src/charm.py'\n"
    )


def test_unpack_stays_in_its_directory(runner, machine):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../escaped", "")
    with pytest.raises(machines.MachineError, match="leads out"):
        runner.run(machine.unpack(archive.getvalue(), "/root/charm"))
    assert output_of(runner, machine, "! test -e /root/escaped") == ""


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


def test_unplugging_cuts_machines_off_but_not_control(runner, machine, bystander):
    assert reaches(runner, machine, bystander.address)
    runner.run(machine.unplug())
    runner.run(machine.unplug())
    assert not reaches(runner, machine, bystander.address)
    assert not reaches(runner, bystander, machine.address)
    runner.run(machine.plug())
    assert reaches(runner, bystander, machine.address)


def test_disk_is_attached_at_once_and_stays(runner, machine, bystander, tmp_path):
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(64 << 20)
    assert runner.run(machine.attach_disk(disk)) == "/dev/ubdb"
    output_of(runner, machine, "mkfs.ext4 -q /dev/ubdb; mount /dev/ubdb /mnt; echo kept >/mnt/f")
    boot = runner.run(machine.run(BOOT_ID)).stdout
    runner.run(machine.reboot())
    assert runner.run(machine.run(BOOT_ID)).stdout != boot
    assert output_of(runner, machine, "mount /dev/ubdb /mnt; cat /mnt/f; umount /mnt") == "kept\n"
    runner.run(machine.detach_disk(disk))
    assert output_of(runner, machine, "! test -e /dev/ubdb") == ""
    assert runner.run(bystander.attach_disk(disk)) == "/dev/ubdb"
    assert output_of(runner, bystander, "mount /dev/ubdb /mnt; cat /mnt/f") == "kept\n"


def test_a_machine_that_is_rebooted_by_hand_is_to_be_started_again(runner, machine):
    # It ends with the machine, at the latest.
    reboot = ["sh", "-c", "systemctl reboot >/root/said 2>&1; sync"]
    with suppress(machines.MachineError):
        runner.run(machine.run(reboot))
    assert runner.run(machine.reboots_itself())
    runner.run(machine.boot())
    # dbus may be ended before logind's answer has come, here as on any machine.
    said = output_of(runner, machine, "cat /root/said")
    assert said in ("", "Call to Reboot failed: Connection reset by peer\n")


def test_power_cut_loses_what_was_not_synced(runner, machine):
    output_of(runner, machine, "echo kept >/root/synced; sync; echo lost >/root/unsynced")
    files = machine.console.parent
    others = processes_in(files)

    async def cut_in_mid_run() -> None:
        task = asyncio.create_task(machine.run(["sleep", "60"]))
        while (await machine.run(["pgrep", "-f", "^sleep 60"])).returncode != 0:
            pass
        started = time.monotonic()
        await machine.power_cut()
        with pytest.raises(machines.MachineError, match="machine-0 stopped"):
            await task
        assert time.monotonic() - started < 5

    runner.run(cut_in_mid_run())
    assert not machine.is_running
    assert len(others) > len(processes_in(files)) > 0
    with pytest.raises(machines.MachineError, match="isn't running"):
        runner.run(machine.run(["true"]))
    runner.run(machine.boot())
    script = "cat /root/synced; cat /root/unsynced 2>/dev/null || true"
    assert output_of(runner, machine, script) == "kept\n"


@pytest.mark.usefixtures("network")
def test_boot_that_fails_says_what_the_console_said(runner, image, tmp_path):
    missing = tmp_path / "missing.img"
    for suffix in (".kernel", ".so"):
        missing.with_suffix(suffix).symlink_to(image.with_suffix(suffix))
    machine = machines.Machine("9", missing, tmp_path)
    with pytest.raises(machines.MachineError, match=r"missing\.img"):
        runner.run(machine.boot())
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

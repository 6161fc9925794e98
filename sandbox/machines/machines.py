# SPDX-License-Identifier: Apache-2.0
"""Machines: user-mode-linux processes on one bridge, and the way to their agents.

Everything lives in the network namespace that the caller is in. A machine is a process that is
alone in a pid namespace, and it dies with the process that started it: when the caller and its
namespace are gone, by whatever signal, so are machines, taps and bridge.
"""

import asyncio
import binascii
import fcntl
import functools
import io
import json
import os
import shutil
import socket
import stat
import struct
import tarfile
import time
import zipfile
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from sandbox.machine.agent import PORT
from sandbox.machines.images import CACHE, LIBRARIES, REBOOTS, ImageError, run_on_host

BRIDGE = "sandbox"
HOST_ADDRESS = "10.77.0.1"

_BOOT_TIMEOUT_S = 120.0
SHUTDOWN_TIMEOUT_S = 60.0
# While a machine boots, a connection that came too early is not to be waited for.
_PROBE_TIMEOUT_S = 1.0
# Its processor may be another machine's for a while.
_CONNECT_TIMEOUT_S = 20.0
_HANG_UP_TIMEOUT_S = 10.0
_COMMAND_TIMEOUT_S = 30.0
_FIRST_MODEL_NUMBER = 10
_FIRST_BYSTANDER_NUMBER = 200
_MAX_DISKS = 15
_MEMORY_MB = 512
_RETRY_S = 0.1
_CONSOLE_TAIL_LINES = 20
_MCONSOLE_MAGIC = 0xCAFEBABE
_MCONSOLE_VERSION = 2
_MCONSOLE_ANSWER_BYTES = 4096

# A machine that is unplugged loses what the bridge forwards. What the bridge delivers to the host
# itself, the control channel, isn't forwarded. Setting the tap down instead would be for ever:
# the kernel's vector driver doesn't recover.
_RULES = f"""
table bridge {BRIDGE} {{
    set unplugged {{ type ifname; }}
    chain forward {{
        type filter hook forward priority 0; policy accept;
        iifname @unplugged drop
        oifname @unplugged drop
    }}
}}
"""
_LINKS = f"""
link set lo up
link add name {BRIDGE} type bridge forward_delay 0 mcast_snooping 0
address add {HOST_ADDRESS}/24 dev {BRIDGE}
link set {BRIDGE} up
"""

Message = dict[str, object]
_Answer = TypeVar("_Answer")


class MachineError(Exception):
    """A machine, its agent or its network failed."""


@dataclass(frozen=True)
class Result:
    """How a command ended; ``returncode`` is negative after a signal."""

    returncode: int
    stdout: str
    stderr: str


HookCommands = Callable[[tuple[str, ...], str], Awaitable[tuple[int, str, str]]]
Output = Callable[[str, str], None]


async def make_bridge() -> None:
    """Make the bridge between machines; the caller's network namespace must not have one yet."""
    await _command("/usr/sbin/ip", "-batch", "-", stdin=_LINKS)
    await _command("/usr/sbin/nft", "-f", "-", stdin=_RULES)


class _Processors:
    """The processors of the host, and the machines at work on each.

    A user-mode-linux kernel and the processes that it traces take turns. On one processor a turn
    is a switch; across two it wakes a sleeping one, and all takes 2.5 times as long. So a machine
    is on one at a time, and moves when it begins to work or when another one has ended.

    Models that run at the same time know nothing of each other: each has a home, the processor
    that is the fewest others', and prefers it.
    """

    def __init__(self) -> None:
        self._at_work: dict[int, list[Machine]] = {
            number: [] for number in sorted(os.sched_getaffinity(0))
        }

    def begin(self, machine: "Machine") -> int:
        """Note that a machine begins to work; where it is to be."""
        number = min(self._at_work, key=self._load)
        self._at_work[number].append(machine)
        return number

    def end(self, machine: "Machine") -> None:
        """Note that a machine has ended its work, and let another have its place if that helps."""
        number = next(it for it, machines in self._at_work.items() if machine in machines)
        self._at_work[number].remove(machine)
        idlest, busiest = min(self._at_work, key=self._load), max(self._at_work, key=self._load)
        count, is_away = self._load(idlest)
        if (count + 1, is_away) < self._load(busiest):
            moved = self._at_work[busiest].pop()
            self._at_work[idlest].append(moved)
            moved.move(idlest)

    def _load(self, number: int) -> tuple[int, bool]:
        return len(self._at_work[number]), number != self._home

    @functools.cached_property
    def _home(self) -> int:
        """Take a place at a processor, for as long as this process lives."""
        CACHE.mkdir(parents=True, exist_ok=True)
        place = 0
        while True:
            for number in self._at_work:
                if _locked(CACHE / f"processor-{number}-{place}.lock"):
                    return number
            place += 1


def _locked(path: Path) -> bool:
    """Lock a file for as long as this process lives; False if another one has it."""
    lock = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return False
    return True


_PROCESSORS = _Processors()


class Machine:
    """A computer with a disk of its own over the base image.

    Args:
        name: "0", "1", … in the model; "x0", "x1", … for machines that aren't in it.
        image: the base image.
        directory: where its files are made: copy-on-write disk, console, control socket.
    """

    def __init__(self, name: str, image: Path, directory: Path) -> None:
        number = _host_number(name)
        self.name = name
        self.host_name = f"machine-{name}"
        self.address = f"10.77.0.{number}"
        self.mac = f"02:77:00:00:00:{number:02x}"
        self.console = directory / f"{self.host_name}.console"
        self._processor = min(os.sched_getaffinity(0))
        self._image = image
        self._directory = directory
        self._disks: list[Path | None] = []
        self._tap = f"tap{name}"
        self._has_tap = False
        self._process: asyncio.subprocess.Process | None = None
        self._end: asyncio.Task[int] | None = None
        self._is_up = False
        self._tasks = 0

    @property
    def is_running(self) -> bool:
        """Whether the machine has power."""
        return self._end is not None and not self._end.done()

    async def boot(self) -> None:
        """Start the machine; returns when its agent answers.

        Raises:
            MachineError: it doesn't come up; the message carries the end of the console.
        """
        if self.is_running:
            raise MachineError(f"{self.host_name} is already running")
        if not self._has_tap:
            await self._add_tap()
            self._has_tap = True
        with self._on_one_processor():
            await self._boot()

    async def _add_tap(self) -> None:
        lines = (
            f"tuntap add dev {self._tap} mode tap",
            f"link set {self._tap} master {BRIDGE}",
            f"link set {self._tap} up",
            # With the neighbour known beforehand no connection waits for an ARP retry of 1 s.
            f"neighbour replace {self.address} lladdr {self.mac} dev {BRIDGE} nud permanent",
        )
        await _command("/usr/sbin/ip", "-batch", "-", stdin="\n".join(lines) + "\n")

    async def _boot(self) -> None:
        # What an earlier kernel left there is taken for a machine that runs: both are process 1.
        shutil.rmtree(self._directory / self.host_name, ignore_errors=True)
        with self.console.open("wb") as console:
            self._process = await asyncio.create_subprocess_exec(
                *self._command_line(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                cwd=self._directory,
                # See ptrace.c.
                env={**os.environ, "LD_PRELOAD": str(self._image.with_suffix(".so"))},
                start_new_session=True,
            )
        self._end = asyncio.create_task(self._process.wait())
        self._is_up = False
        try:
            async with asyncio.timeout(_BOOT_TIMEOUT_S):
                await self._wait_for_agent()
        except (TimeoutError, MachineError) as error:
            await self.power_cut()
            raise MachineError(f"{self.host_name} didn't boot:\n{self._console_tail()}") from error

    async def power_cut(self) -> None:
        """Stop the machine as a power cut does; returns when every process of it is gone."""
        process, end = self._process, self._end
        if process is None or end is None or end.done():
            return
        # The first process of the pid namespace is the child of unshare. The kernel lets unshare
        # see its end only when all others of the namespace are gone.
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        for pid in children or [str(process.pid)]:
            os.kill(int(pid), 9)
        await asyncio.wait({end})

    async def reboot(self, timeout_s: float = SHUTDOWN_TIMEOUT_S) -> None:
        """Shut the machine down in order and start it again; returns when its agent answers."""
        await self.shutdown(timeout_s)
        await self.boot()

    async def shutdown(self, timeout_s: float = SHUTDOWN_TIMEOUT_S) -> None:
        """Power the machine off in order; returns when it is gone."""
        if self._end is None or not self.is_running:
            raise MachineError(f"{self.host_name} isn't running")
        # The agent may be stopped before it can answer; the end of the machine is what counts.
        with suppress(MachineError):
            await self.run(["systemctl", "--no-block", "poweroff"])
        done, _ = await asyncio.wait({self._end}, timeout=timeout_s)
        if not done:
            raise MachineError(
                f"{self.host_name} didn't shut down in {timeout_s:.0f} s:\n{self._console_tail()}"
            )

    async def reboots_itself(self) -> bool:
        """Wait until the machine is off; whether that is to be started again."""
        if self._end is not None:
            await asyncio.wait({self._end})
        return REBOOTS in self._console_tail()

    async def unplug(self) -> None:
        """Cut the machine off from the other machines; the agent is still reached."""
        await self._change_unplugged("add")

    async def plug(self) -> None:
        """Undo ``unplug``."""
        # What is not there can't be deleted; what is there already can be added.
        await self._change_unplugged("add", "delete")

    async def _change_unplugged(self, *verbs: str) -> None:
        rules = [f"{verb} element bridge {BRIDGE} unplugged {{ {self._tap} }}" for verb in verbs]
        await _command("/usr/sbin/nft", "-f", "-", stdin="\n".join(rules) + "\n")

    async def attach_disk(self, disk: Path) -> str:
        """Add a disk, at once if the machine is running; return its device, as /dev/ubdb.

        The disk is there after a reboot too, until it is detached.
        """
        if None in self._disks:
            index = self._disks.index(None)
        elif len(self._disks) < _MAX_DISKS:
            index = len(self._disks)
            self._disks.append(None)
        else:
            raise MachineError(f"{self.host_name} has {_MAX_DISKS} disks already, the most it can")
        if self.is_running:
            await self._monitor(f"config ubd{index + 1}={disk}")
        self._disks[index] = disk
        return f"/dev/ubd{chr(ord('b') + index)}"

    async def detach_disk(self, disk: Path) -> None:
        """Take a disk away; it must not be mounted."""
        index = self._disks.index(disk)
        if self.is_running:
            await self._monitor(f"remove ubd{index + 1}")
        self._disks[index] = None

    async def run(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        stdin: str = "",
        timeout_s: float = 60.0,
        on_hook_command: HookCommands | None = None,
        on_output: Output | None = None,
        kill_at_exec: int | None = None,
    ) -> Result:
        """Run a command as root, in a session and process group of its own.

        Args:
            argv: the command; its first word is looked up in PATH.
            env: exactly its environment; by default, PATH and what systemd gives to a service.
            cwd: its working directory.
            stdin: what it reads.
            timeout_s: when it is killed.
            on_hook_command: answers the hook commands of processes of this run, given their words
                and what they read, with exit status, output and errors. ``env`` must then have
                JUJU_CONTEXT_ID and JUJU_AGENT_SOCKET_ADDRESS, where the agent listens.
            on_output: told "stdout" or "stderr", and text, as it comes, in pieces of any length.
            kill_at_exec: the exec, counted from 1 and without hook commands, at which all
                processes are killed by SIGKILL.

        Raises:
            TimeoutError: it took too long; no process of its group is left.
            MachineError: the machine stopped meanwhile, or isn't running.
        """
        request: Message = {
            "argv": list(argv),
            "env": None if env is None else dict(env),
            "cwd": cwd,
            "stdin": stdin,
            "hook_commands": on_hook_command is not None,
            "kill_at_exec": kill_at_exec,
        }
        texts: dict[str, list[str]] = {"stdout": [], "stderr": []}

        async def converse(channel: _Channel) -> Result:
            await channel.send(request)
            while True:
                message = await channel.receive()
                if "stream" in message:
                    stream, text = cast("str", message["stream"]), cast("str", message["text"])
                    texts[stream].append(text)
                    if on_output:
                        on_output(stream, text)
                elif "call" in message and on_hook_command:
                    words = tuple(cast("list[str]", message["argv"]))
                    answer = await on_hook_command(words, cast("str", message["stdin"]))
                    await channel.send({"call": message["call"], "answer": answer})
                else:
                    stdout, stderr = "".join(texts["stdout"]), "".join(texts["stderr"])
                    return Result(cast("int", message["returncode"]), stdout, stderr)

        return await self._with_agent(converse, timeout_s, f"running {argv[0]}")

    async def unpack(self, archive: bytes, directory: str) -> None:
        """Unpack a zip archive, with file modes and symbolic links."""
        encoded = binascii.b2a_base64(_tar_of(archive), newline=False).decode()
        script = 'mkdir -p "$1" && base64 --decode | tar -xf - -C "$1" && sync'
        # A power cut is to find a charm's bugs, not a charm in parts.
        result = await self.run(["/bin/sh", "-c", script, "sh", directory], stdin=encoded)
        if result.returncode != 0:
            raise MachineError(f"{self.host_name}: {result.stderr.strip()}")

    async def _with_agent(
        self, converse: Callable[["_Channel"], Awaitable[_Answer]], timeout_s: float, doing: str
    ) -> _Answer:
        """Talk to the agent, for as long as there is time, the machine, and a caller."""
        end = self._end
        if end is None or not self.is_running:
            raise MachineError(f"{self.host_name} isn't running: {doing}")
        with self._on_one_processor():
            async with self._connect(end) as channel:
                talk = asyncio.ensure_future(converse(channel))
                try:
                    await asyncio.wait(
                        {talk, end}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
                    )
                    if talk.done():
                        return talk.result()
                    if not self.is_running:
                        raise MachineError(f"{self.host_name} stopped while {doing}")
                    raise TimeoutError(
                        f"{self.host_name}: {doing} took longer than {timeout_s:g} s"
                    )
                finally:
                    talk.cancel()
                    await asyncio.wait({talk})
                    if self.is_running:
                        await channel.hang_up()

    @contextmanager
    def _on_one_processor(self) -> Generator[None]:
        """Have a processor, from the first of several tasks at once to the end of the last."""
        if self._tasks == 0:
            self.move(_PROCESSORS.begin(self))
        self._tasks += 1
        try:
            yield
        finally:
            self._tasks -= 1
            if self._tasks == 0:
                _PROCESSORS.end(self)

    def move(self, processor: int) -> None:
        """Move all processes of the machine to a processor of the host; it may not run yet."""
        if processor == self._processor:
            return
        self._processor = processor
        if self._process is None or not self.is_running:
            return
        try:
            machine = os.stat(f"/proc/{self._process.pid}/ns/pid_for_children").st_ino
        except FileNotFoundError:
            return  # It has just ended.
        if machine == os.stat("/proc/self/ns/pid").st_ino:
            return  # It is just being started.
        for _ in range(2):  # What is started beside the first round is where its parent was.
            for process in Path("/proc").glob("[0-9]*"):
                with suppress(OSError):  # One that ends meanwhile needs no place.
                    if (process / "ns/pid").stat().st_ino == machine:
                        os.sched_setaffinity(int(process.name), {processor})

    @asynccontextmanager
    async def _connect(self, end: asyncio.Task[int]) -> AsyncGenerator["_Channel"]:
        connecting = asyncio.ensure_future(asyncio.open_connection(self.address, PORT))
        timeout_s = _CONNECT_TIMEOUT_S if self._is_up else _PROBE_TIMEOUT_S
        try:
            await asyncio.wait(
                {connecting, end}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if not connecting.done():
                raise MachineError(f"{self.host_name}: its agent doesn't answer")
            if error := connecting.exception():
                raise MachineError(f"{self.host_name}: its agent doesn't answer: {error}")
            reader, writer = connecting.result()
            # A machine that starts again within itself says nothing: probe its end.
            connection = cast("socket.socket", writer.get_extra_info("socket"))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 2)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 2)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 15)
            yield _Channel(self.host_name, reader, writer)
        finally:
            # Whoever is cancelled as it has connected has a connection all the same.
            if not connecting.cancel() and not connecting.exception():
                connecting.result()[1].close()

    async def _wait_for_agent(self) -> None:
        """Wait until the agent answers; MachineError if it never will."""
        while True:
            try:
                await self.run(["true"])
            except MachineError:
                # A kernel that panics stays: the first process of a namespace can't abort itself.
                if not self.is_running or "Kernel panic" in self._console_tail():
                    raise
                await asyncio.sleep(_RETRY_S)
            else:
                self._is_up = True
                return

    def _command_line(self) -> list[str]:
        kernel = self._image.with_suffix(".kernel")
        disks = [f"ubd{i + 1}={disk}" for i, disk in enumerate(self._disks) if disk]
        return [
            *("/usr/bin/setpriv", "--pdeathsig", "KILL"),
            *("/usr/bin/taskset", "--cpu-list", str(self._processor)),
            *("/usr/bin/unshare", "--pid", "--mount-proc", "--fork", "--kill-child"),
            # Of another release than the host, it has that one's C library, in its own mount
            # namespace: where each program looks, as it starts itself anew, for a reboot too.
            *("/bin/sh", "-ec", 'mount --bind "$0" "$1" && shift && exec "$@"'),
            *(str(kernel / "lib"), str(LIBRARIES), str(kernel / "linux.uml")),
            # Relative to the machine's directory: the path of a Unix socket can't be long.
            "uml_dir=.",
            f"umid={self.host_name}",
            f"mem={_MEMORY_MB}M",
            f"ubd0={self.host_name}.cow,{self._image}",
            *disks,
            *("root=/dev/ubda", "rw", "rootflags=noinit_itable"),
            # Where the kernel can: see images.py.
            "seccomp=auto",
            # It measures for most of a second how quick RAID 6 would be; by 7.2's name and 6.12's.
            "initcall_blacklist=raid6_init,raid6_select_algo",
            *("con=null", "con0=null,fd:1", "quiet"),
            f"vec0:transport=tap,ifname={self._tap},mac={self.mac},depth=128,gro=1",
            f"systemd.hostname={self.host_name}",
            f"systemd.machine_id={self.mac.replace(':', ''):0>32}",
            f"sandbox.address={self.address}/24",
        ]

    def _console_tail(self) -> str:
        """Return the end of what the console shows of this boot, without stack traces."""
        lines = self.console.read_text(errors="replace").splitlines()
        return "\n".join([line for line in lines if line[:1] != " "][-_CONSOLE_TAIL_LINES:])

    async def _monitor(self, command: str) -> None:
        """Give a command to the kernel's management console (its Unix socket, datagrams).

        The request is magic, version, length and text; the answer error, more and length, and
        text: arch/um/drivers/mconsole.h of the kernel.
        """
        text = command.encode()
        request = struct.pack("III512s", _MCONSOLE_MAGIC, _MCONSOLE_VERSION, len(text), text)
        answer = await self._exchange_with_monitor(request)
        error, _, length = struct.unpack_from("III", answer)
        if error:
            said = answer[12 : 12 + length].rstrip(b"\0\n").decode(errors="replace")
            raise MachineError(f"{self.host_name}: {command}: {said}")

    async def _exchange_with_monitor(self, request: bytes) -> bytes:
        loop = asyncio.get_running_loop()
        directory = os.open(self._directory, os.O_PATH)
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as monitor:
                monitor.setblocking(False)
                # An address for the answer, made up by the kernel (autobind, unix(7)).
                monitor.bind("")
                monitor.connect(f"/proc/self/fd/{directory}/{self.host_name}/mconsole")
                async with asyncio.timeout(_COMMAND_TIMEOUT_S):
                    await loop.sock_sendall(monitor, request)
                    return await loop.sock_recv(monitor, _MCONSOLE_ANSWER_BYTES)
        except OSError as error:
            raise MachineError(f"{self.host_name}: its console doesn't answer: {error}") from error
        finally:
            os.close(directory)


def _tar_of(archive: bytes) -> bytes:
    """Return an archive of zip as one of tar, which every machine can unpack with all modes."""
    written, now = io.BytesIO(), int(time.time())
    with (
        zipfile.ZipFile(io.BytesIO(archive)) as packed,
        tarfile.open(fileobj=written, mode="w") as tar,
    ):
        for entry in packed.infolist():
            # The upper half of external_attr is st_mode if the archive was made on Unix.
            mode, data = entry.external_attr >> 16, packed.read(entry)
            member = tarfile.TarInfo(entry.filename)
            member.mode, member.mtime = stat.S_IMODE(mode) or 0o644, now
            if stat.S_ISLNK(mode):
                member.type, member.linkname = tarfile.SYMTYPE, data.decode()
            elif entry.is_dir():
                member.type, member.mode = tarfile.DIRTYPE, 0o755
            else:
                member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return written.getvalue()


class _Channel:
    """A connection to an agent: frames of JSON both ways."""

    def __init__(
        self, host_name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._host_name = host_name
        self._reader = reader
        self._writer = writer

    async def send(self, message: Mapping[str, object]) -> None:
        """Send a frame."""
        data = json.dumps(message).encode()
        self._writer.write(len(data).to_bytes(4, "big") + data)
        await self._writer.drain()

    async def receive(self) -> Message:
        """Receive a frame; MachineError if it says so, or if the agent is gone."""
        try:
            length = int.from_bytes(await self._reader.readexactly(4), "big")
            message = cast("Message", json.loads(await self._reader.readexactly(length)))
        except (OSError, asyncio.IncompleteReadError) as error:
            raise MachineError(f"{self._host_name}: its agent hung up") from error
        if "error" in message:
            raise MachineError(f"{self._host_name}: {message['error']}")
        return message

    async def hang_up(self) -> None:
        """End the request; returns when the agent has ended what it was running for it."""
        try:
            async with asyncio.timeout(_HANG_UP_TIMEOUT_S):
                self._writer.write_eof()
                while await self._reader.read(65536):
                    pass
        except OSError as error:
            raise MachineError(f"{self._host_name}: its agent doesn't end: {error}") from error


def _host_number(name: str) -> int:
    """Return the last part of a machine's addresses."""
    if name.startswith("x"):
        number, limit = _FIRST_BYSTANDER_NUMBER + int(name[1:]), 255
    else:
        number, limit = _FIRST_MODEL_NUMBER + int(name), _FIRST_BYSTANDER_NUMBER
    if number >= limit:
        raise MachineError(f"the network has no address for a machine {name}")
    return number


async def _command(*argv: str, stdin: str) -> None:
    """Run a command of the host; MachineError if it fails."""
    try:
        await run_on_host(argv, stdin=stdin)
    except ImageError as error:
        raise MachineError(str(error)) from error

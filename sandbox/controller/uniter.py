# SPDX-License-Identifier: Apache-2.0
"""Runs the hooks and actions of one unit on its machine, as the unit agent of Juju does.

Hooks of one machine run one at a time, under the machine's lock, as do actions and `juju exec`.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

from sandbox.controller.debug_log import DebugLog, LineBuffer
from sandbox.machine import agent
from sandbox.machines import machines
from sandbox.rules import hook_commands, hooks, operations
from sandbox.rules.context import AGENTS_DIRECTORY, TOOLS_DIRECTORY, Action, Context, FlushError
from sandbox.rules.model import RETRIES, Hook, Model, Status, Storage, Unit

# Juju lets a hook take as long as it likes. Here somebody waits for the end of a test.
HOOK_TIMEOUT_S = 1800.0
# It doubles up to 5 min (apiserver/facades/agent/retrystrategy).
RETRY_BASE_S = 5.0
RETRY_LIMIT = 60

# SIGTERM and SIGKILL of a hook are not its failure: it is run again. An action isn't.
_TERMINATED = (-15, -9)

_INSTALL_TOOLS = """
mkdir -p "$1" && cd "$1" && to="$2" && shift 2 && for name; do ln -sf "$to" "$name"; done
"""
# Either may have been interrupted by a power cut and is run again then; none undoes it later.
_ATTACH_DISK = """
set -e
blkid "$1" >/dev/null || mkfs.ext4 -q "$1"
mkdir -p "$2"
grep -qF " $2 ext4 " /etc/fstab || echo "$1 $2 ext4 nofail 0 2" >> /etc/fstab
sync --file-system /etc
mountpoint -q "$2" || mount "$2"
"""
_DETACH_DISK = """
set -e
! mountpoint -q "$1" || umount "$1"
{ grep -vF " $1 ext4 " /etc/fstab || true; } > /etc/fstab.new
mv /etc/fstab.new /etc/fstab
sync --file-system /etc
"""


class Dispatch(TypedDict):
    """One run of a hook or action: its seconds, its hook commands, what it asked repeatedly."""

    hook: str
    returncode: int
    seconds: float
    commands: int
    repeated: list[str]


@dataclass(frozen=True)
class Disk:
    """A disk of a machine that is a storage instance: its file, device and mount point."""

    path: Path
    device: str
    location: str


@dataclass
class Host:
    """A machine, and what the unit agents on it share.

    `ready` is set while the machine is up; `disks` are those attached, by storage id.
    """

    machine: machines.Machine
    directory: Path
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    disks: dict[str, Disk] = field(default_factory=dict[str, Disk])

    async def shell(self, script: str, *arguments: str) -> None:
        """Run a shell script of ours on the machine."""
        result = await self.machine.run(["/bin/sh", "-c", script, "sh", *arguments])
        if result.returncode:
            raise machines.MachineError(f"{self.machine.name}: {result.stderr.strip()}")

    async def attach(self, storage: Storage) -> None:
        """Make a storage instance available at its location."""
        if storage.pool == "rootfs":
            await self.shell('mkdir -p "$1"', storage.location)
        else:
            if storage.id not in self.disks:
                self.disks[storage.id] = await self._add_disk(storage)
            await self.shell(_ATTACH_DISK, self.disks[storage.id].device, storage.location)
        storage.is_provisioned = True

    async def _add_disk(self, storage: Storage) -> Disk:
        path = self.directory / f"{storage.id.replace('/', '-')}.disk"
        if not path.exists():
            with path.open("wb") as file:
                file.truncate(storage.size_mib * 1024**2)
        return Disk(path, await self.machine.attach_disk(path), storage.location)

    async def detach(self, identity: str) -> None:
        """Take a disk away; it can be attached to another machine then."""
        disk = self.disks[identity]
        await self.shell(_DETACH_DISK, disk.location)
        await self.machine.detach_disk(disk.path)
        del self.disks[identity]


@dataclass
class Task:
    """An action or `juju exec` that was enqueued, and what came of it."""

    action: Action
    command: str = ""
    timeout_s: float = HOOK_TIMEOUT_S
    unit: str = ""
    status: str = "pending"
    message: str = ""
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def finish(self, status: str, message: str = "") -> None:
        """Note the end."""
        self.status, self.message = status, message
        self.done.set()


class Uniter:
    """The agent of one unit.

    `changed` is called after whatever may give another unit something to do.
    """

    def __init__(
        self,
        model: Model,
        unit: Unit,
        host: Host,
        log: DebugLog,
        changed: Callable[[], None],
        retry_base_s: float = RETRY_BASE_S,
    ) -> None:
        self.model = model
        self.unit = unit
        self.host = host
        self.log = log
        self.changed = changed
        self.wake = asyncio.Event()
        self.tasks: list[Task] = []
        self._interrupted: list[Task] = []
        self.history: list[Dispatch] = []
        self.kills_due: list[int] = []
        self._retry_base_s = retry_base_s
        self._failures = 0
        self._retry: asyncio.TimerHandle | None = None
        self._charm_files: frozenset[str] | None = None
        self._charm_directory = f"{AGENTS_DIRECTORY}/{unit.tag}/charm"
        self._tools_directory = f"{TOOLS_DIRECTORY}/{unit.tag}"

    @property
    def is_gone(self) -> bool:
        """Whether the unit has been removed."""
        return self.model.units.get(self.unit.name) is not self.unit

    @property
    def has_work(self) -> bool:
        """Whether something is to run, now or once storage is there."""
        return bool(
            (self.tasks and self._runs_tasks())
            or hooks.next_hook(self.model, self.unit)
            or self._missing_storage()
        )

    async def run(self) -> None:
        """Run what there is to run until the unit is gone."""
        while not self.is_gone:
            await self.host.ready.wait()
            await self.wake.wait()
            self.wake.clear()
            try:
                while await self._step():
                    pass
            except (machines.MachineError, TimeoutError) as error:
                self.log.write(self.unit.name, "WARNING", "sandbox.uniter", str(error))
                self._await_machine()
        for task in [*self._interrupted, *self.tasks]:
            task.finish("cancelled", f'unit "{self.unit.name}" was removed')

    def _await_machine(self) -> None:
        """Wait until the machine is up; run what was interrupted again soon if it is."""
        if self.host.machine.is_running:
            asyncio.get_running_loop().call_later(self._retry_base_s, self.wake.set)
            self._fail_interrupted()
        else:
            self.host.ready.clear()
            place = self.model.machines[self.unit.machine]
            place.status, place.is_heard = Status("down"), False
            self.changed()

    def start(self, *, is_cut: bool) -> None:
        """Start anew as the machine boots, `is_cut` after a power cut."""
        hooks.start_agent(self.unit, is_cut=is_cut)
        self._forget_retries()
        if self.unit.local.has_failed:
            self._retry_later()
        self._fail_interrupted()

    def _fail_interrupted(self) -> None:
        """Fail actions whose end nobody saw (uniter/actions/resolver.go, failaction.go)."""
        while self._interrupted:
            self._interrupted.pop().finish("failed", "action terminated")

    def resolve(self, *, retry: bool) -> None:
        """Retry the failed hook at once, or skip it."""
        pending = self.unit.local.pending
        if pending is None or not self.unit.local.has_failed:
            raise operations.OperationError(f'unit "{self.unit.name}" is not in an error state')
        self._forget_retries()
        if retry:
            self.unit.local.has_failed = False
        else:
            hooks.commit(self.model, self.unit, pending)
        self.changed()

    def wake_up(self) -> None:
        """Look for something to run, and show whether there is."""
        if not self.is_gone and self.has_work and self.unit.agent_status.status == "idle":
            self.unit.agent_status = Status("executing")
        self.wake.set()

    async def _step(self) -> bool:
        """Run one hook or action; False when there is none."""
        async with self.host.lock:
            if self.is_gone or not self.host.ready.is_set():
                return False
            for storage in self._missing_storage():
                await self.host.attach(storage)
            await self._detach_disks()
            if self.tasks and self._runs_tasks():
                await self._run_task(self.tasks.pop(0))
            elif hook := hooks.next_hook(self.model, self.unit):
                if hooks.is_moot(self.model, self.unit, hook):
                    hooks.commit(self.model, self.unit, hook)
                else:
                    await self._run_hook(hook)
            else:
                if self.unit.agent_status.status == "executing":
                    self.unit.agent_status = Status("idle")
                return False
        self.changed()
        return True

    def _runs_tasks(self) -> bool:
        """Say whether actions can run: the charm is there, and no hook is to be run next."""
        local = self.unit.local
        is_free = local.has_failed or not (local.pending or local.queued)
        return local.charm_version is not None and is_free

    def _missing_storage(self) -> list[Storage]:
        if self.unit.life == "dying":
            return []
        owned = self.model.storage_of(self.unit)
        return [s for s in owned if s.life == "alive" and not s.is_provisioned]

    async def _detach_disks(self) -> None:
        here = {u.name for u in self.model.units.values() if u.machine == self.unit.machine}
        for identity in list(self.host.disks):
            storage = self.model.storage.get(identity)
            if storage is None or storage.owner not in here:
                try:
                    await self.host.detach(identity)
                except machines.MachineError as error:
                    # Somebody still uses it. It is tried again after the next hook.
                    self.log.write(self.unit.name, "ERROR", "sandbox.uniter", str(error))

    # Hooks.

    async def _run_hook(self, hook: Hook) -> None:
        await self._put_charm(hook)
        hooks.begin(self.model, self.unit, hook)
        context = self._context(hook=hook)
        returncode = 1
        try:
            returncode = await self._dispatch(hook.name, context)
            failure = f"exit status {returncode}" if returncode else self._flush(context)
        except TimeoutError as error:
            failure = str(error)
        if not failure:
            self._failures = 0
            hooks.commit(self.model, self.unit, hook)
        elif returncode not in _TERMINATED:
            message = f'hook "{hook.name}" failed: {failure}'
            self.log.write(self.unit.name, "ERROR", "juju.worker.uniter.operation", message)
            self.unit.local.has_failed = True
            self._retry_later()

    def _flush(self, context: Context) -> str:
        """Make a hook's writes true; return why not."""
        try:
            context.flush()
        except FlushError as error:
            message = f"cannot apply changes: {error}"
            self.log.write(self.unit.name, "ERROR", "juju.worker.uniter.context", message)
            return str(error)
        return ""

    def _forget_retries(self) -> None:
        """Begin with the shortest wait at the next failure."""
        if self._retry:
            self._retry.cancel()
        self._failures = 0

    def _retry_later(self) -> None:
        if self.model.config[RETRIES].lower() != "true":
            return
        delay = self._retry_base_s * min(2**self._failures, RETRY_LIMIT)
        self._failures += 1
        self._retry = asyncio.get_running_loop().call_later(delay, self._retry_now)

    def _retry_now(self) -> None:
        if self.unit.local.has_failed:
            self.unit.local.has_failed = False
            self.changed()

    async def _put_charm(self, hook: Hook) -> None:
        """Put the charm's files in place before the first hook and before upgrade-charm."""
        app = self.model.applications[self.unit.app]
        local = self.unit.local
        is_upgrade = hook.kind == "upgrade-charm" and local.charm_version != app.charm_version
        if local.charm_version is not None and not is_upgrade:
            return
        await self.host.machine.unpack(app.charm.archive, self._charm_directory)
        if self._charm_files is None:
            await self._put_tools()
        elif stale := self._charm_files - app.charm.files:
            # What the charm itself wrote stays, such as .unit-state.db.
            await self.host.machine.run(
                ["/usr/bin/xargs", "-0", "/bin/rm", "-f", "--"],
                cwd=self._charm_directory,
                stdin="\0".join(sorted(stale)),
            )
        self._charm_files = app.charm.files

    async def _put_tools(self) -> None:
        names = hook_commands.COMMANDS
        await self.host.shell(_INSTALL_TOOLS, self._tools_directory, agent.HOOK_COMMAND, *names)

    # Actions.

    async def _run_task(self, task: Task) -> None:
        action = task.action
        task.status = "running"
        context = self._context(action=action)
        argv = ["/bin/sh", "-c", task.command] if action.is_exec else None
        output: dict[str, str] = {"stdout": "", "stderr": ""}
        try:
            returncode = await self._dispatch(
                action.name, context, argv, output, timeout_s=task.timeout_s
            )
        except TimeoutError as error:
            task.finish("failed", str(error))
            return
        except machines.MachineError:
            self._interrupted.append(task)
            raise
        action.results |= {k: v for k, v in output.items() if v}
        action.results["return-code"] = returncode
        failure = action.failure
        if returncode == 0 or action.is_exec:
            if refusal := self._flush(context):
                # finalizeAction in runner/context/context.go
                action.results["stderr"] = "\n".join(filter(None, (output["stderr"], refusal)))
                action.results["return-code"] = returncode or 1
                failure = failure or "committing requested changes failed"
        elif returncode in _TERMINATED:
            failure = "terminated"
        else:
            failure = f"exit status {returncode}"
        if failure is None:
            task.finish("completed")
        else:
            task.finish("failed", failure)

    # Both.

    def _context(self, hook: Hook | None = None, action: Action | None = None) -> Context:
        logger = f"unit.{self.unit.name}.juju-log"
        return Context(
            self.model,
            self.unit,
            hook,
            action,
            log=lambda level, message: self.log.write(self.unit.name, level, logger, message),
        )

    async def _dispatch(
        self,
        name: str,
        context: Context,
        argv: list[str] | None = None,
        output: dict[str, str] | None = None,
        timeout_s: float = HOOK_TIMEOUT_S,
    ) -> int:
        """Run the charm's dispatch, or `argv`, in a context; return its exit status.

        `output` takes what it prints.
        """
        commands = 0
        asked: set[tuple[str, ...]] = set()
        repeated: list[str] = []
        kill_at_exec = self.kills_due.pop(0) if self.kills_due else None
        buffers = self._log_buffers(name)

        async def answer(argv: tuple[str, ...], stdin: str) -> hook_commands.Answer:
            nonlocal commands
            commands += 1
            if argv in asked:
                repeated.append(" ".join(argv))
            elif hook_commands.is_question(argv):
                asked.add(argv)
            return hook_commands.execute(context, argv, stdin)

        def relay(stream: str, text: str) -> None:
            buffers[stream].add(text)
            if output is not None:
                output[stream] += text

        started = time.monotonic()
        returncode = _TERMINATED[-1]
        try:
            result = await self.host.machine.run(
                argv or [f"{self._charm_directory}/dispatch"],
                env=context.environment(),
                cwd=self._charm_directory,
                timeout_s=timeout_s,
                on_hook_command=answer,
                on_output=relay,
                kill_at_exec=kill_at_exec,
            )
            returncode = result.returncode
        finally:
            for buffer in buffers.values():
                buffer.close()
            seconds = round(time.monotonic() - started, 3)
            self.history.append(
                Dispatch(
                    hook=name,
                    returncode=returncode,
                    seconds=seconds,
                    commands=commands,
                    repeated=repeated,
                )
            )
        if returncode != _TERMINATED[-1]:
            self.kills_due.clear()
        return returncode

    def _log_buffers(self, name: str) -> dict[str, LineBuffer]:
        """Juju logs what a hook prints: stdout as DEBUG, stderr as WARNING."""
        logger = f"unit.{self.unit.name}.{name}"
        return {
            stream: LineBuffer(
                lambda line, level=level: self.log.write(self.unit.name, level, logger, line)
            )
            for stream, level in (("stdout", "DEBUG"), ("stderr", "WARNING"))
        }


def note_elected(unit: Unit) -> None:
    """Note that a leader lost the lead and won it again: leader-elected is to run anew."""
    unit.local.is_leader = False


def note_update_status(unit: Unit) -> None:
    """Note that it is time for update-status."""
    if unit.local.is_started and unit.life == "alive":
        unit.local.wants_update_status = True

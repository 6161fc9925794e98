# SPDX-License-Identifier: Apache-2.0
"""One model: serves its socket, boots its machines, and lets each unit's agent run.

Not Juju: a stand-in that runs packed charms for real, for trying and for testing.

The controller is the first process of a pid namespace, in a network and a mount namespace of its
own. When it ends, by whatever signal, the kernel takes every machine, tap and bridge with it.
"""

import argparse
import asyncio
import fcntl
import json
import os
import re
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from sandbox.controller.client import LINE_LIMIT, RUN, ControllerError, RunDirectory
from sandbox.controller.debug_log import DebugLog, Line
from sandbox.controller.uniter import (
    RETRY_BASE_S,
    Dispatch,
    Host,
    Task,
    Uniter,
    note_elected,
    note_update_status,
)
from sandbox.machines import machines
from sandbox.rules import charm as charms
from sandbox.rules import gnuflag, hooks, operations
from sandbox.rules.context import JUJU_VERSIONS, Action
from sandbox.rules.full_status import full_status
from sandbox.rules.model import INTERVAL, Model, Profile, Status, Storage
from sandbox.rules.status import Status as FullStatus

BOOTS_AT_A_TIME = 2
# A leader claims the lead for 60 s and does so anew every 30 s (worker/leadership/tracker.go).
LEASE_S = 60.0

_ROOT = Path(__file__).resolve().parents[2]
_START_TIMEOUT_S = 30.0
_STOP_TIMEOUT_S = 10.0
_POLL_S = 0.05
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")

# What somebody asks for that cannot be done. Anything else that is raised is a fault of ours.
_REFUSALS = (
    operations.OperationError,
    charms.CharmError,
    gnuflag.UsageError,
    machines.MachineError,
    TimeoutError,
)

NewMachine = Callable[[str], machines.Machine]


class Controller:
    """A model with its machines and its units' agents; the public methods are the socket's."""

    def __init__(
        self,
        model: Model,
        directory: Path,
        new_machine: NewMachine,
        tasks: asyncio.TaskGroup,
        *,
        retry_base_s: float = RETRY_BASE_S,
    ) -> None:
        self._model = model
        self._directory = directory
        self._new_machine = new_machine
        self._tasks = tasks
        self._retry_base_s = retry_base_s
        self._debug_log = DebugLog(directory / "debug.log")
        seed = f"the order of relations and storages is that of --seed {model.seed}"
        self._debug_log.write("controller", "INFO", "sandbox.controller", seed)
        self._lease_s = LEASE_S
        self._leases: dict[str, asyncio.TimerHandle] = {}
        self._hosts: dict[str, Host] = {}
        self._uniters: dict[str, Uniter] = {}
        self._records: dict[str, Task] = {}
        self._last_id = 0
        self._bystanders = 0
        self._boots = asyncio.Semaphore(BOOTS_AT_A_TIME)
        self._interval_changed = asyncio.Event()
        self.destroyed = asyncio.Event()
        tasks.create_task(self._time_update_status())

    # What Juju's clients ask for.

    def deploy(self, charm: str, application: str | None = None, **options: Any) -> None:
        """Deploy a packed charm, under its own name or another."""
        found = charms.read(Path(charm))
        operations.deploy(self._model, found, application or found.name, **options)
        self._changed()

    def change(self, operation: str, **params: object) -> object:
        """Do one of CHANGES; return what it gives."""
        result = CHANGES[operation](self._model, **params)
        self._changed()
        return result

    def refresh(self, application: str, charm: str) -> None:
        """Give an application another packed charm."""
        operations.refresh(self._model, application, charms.read(Path(charm)))
        self._changed()

    def enqueue_action(
        self, unit: str, name: str, params: Mapping[str, object] | None = None
    ) -> str:
        """Enqueue an action; return its id."""
        app = operations.unit(self._model, unit).app
        actions = self._model.applications[app].charm.actions
        if name not in actions:
            raise operations.OperationError(f'action "{name}" not defined on unit "{unit}"')
        try:
            complete = actions[name].complete(
                params or {}, allows_others=self._model.juju == "3.6"
            )
        except charms.CharmError as error:
            if self._model.juju == "3.6":
                raise
            # Juju 4 takes it, and the unit's agent finds the fault.
            refused = Task(Action(self._next_id(), name), unit=unit)
            self._records[refused.action.id] = refused
            refused.finish("failed", f'cannot run "{name}" action: {error}')
            return refused.action.id
        return self._enqueue(unit, Task(Action(self._next_id(), name, complete)))

    def enqueue_exec(self, unit: str, command: str, timeout_s: float = 300.0) -> str:
        """Enqueue a shell command that runs in a hook context; return its id."""
        action = Action(self._next_id(), "juju-exec")
        return self._enqueue(unit, Task(action, command, timeout_s))

    async def wait_action(self, action: str, timeout_s: float | None = None) -> dict[str, object]:
        """Wait for the end of an action, not longer than that; return what came of it."""
        task = self._records[action]
        try:
            async with asyncio.timeout(timeout_s):
                await task.done.wait()
        except TimeoutError as error:
            reason = f"timed out waiting for results from: unit {task.unit}"
            raise operations.OperationError(reason) from error
        return {"status": task.status, "results": task.action.results, "message": task.message}

    def status(self) -> FullStatus:
        """Return what `juju status --format=json` tells."""
        return full_status(self._model, JUJU_VERSIONS[self._model.juju])

    def set_model_config(self, values: Mapping[str, str]) -> None:
        """Set the interval of update-status, whether failed hooks are retried, what is logged."""
        for key in values.keys() - self._model.config.keys():
            raise operations.OperationError(f'model config "{key}" is not one of the sandbox\'s')
        if INTERVAL in values:
            gnuflag.duration_s(values[INTERVAL])
            self._interval_changed.set()
        self._model.config |= values

    def model_config(self) -> Mapping[str, str]:
        """Return the model's options, those that the sandbox has."""
        return self._model.config

    def resolved(self, unit: str, retry: bool = True) -> None:
        """Retry the failed hook of a unit, or skip it."""
        operations.unit(self._model, unit)
        self._uniters[unit].resolve(retry=retry)

    def get_config(self, name: str) -> dict[str, dict[str, charms.Value]]:
        """Return an application's options."""
        return operations.get_config(self._model, name)

    def storage(self) -> list[dict[str, object]]:
        """Return the storage instances."""
        return [
            {
                "id": storage.id,
                "owner": storage.owner,
                "pool": storage.pool,
                "location": storage.location,
                "size": storage.size_mib,
                "status": _storage_status(storage),
            }
            for storage in self._model.storage.values()
        ]

    def destroy(self) -> None:
        """End everything, at once."""
        self.destroyed.set()

    # What Juju has no word for.

    async def add_bystander(self) -> str:
        """Boot a machine that is not in the model; return its id."""
        name = f"x{self._bystanders}"
        self._bystanders += 1
        host = self._add_host(name)
        async with self._boots:
            await host.machine.boot()
        host.ready.set()
        return name

    async def ssh(self, machine: str, command: str, timeout_s: float = 60.0) -> dict[str, object]:
        """Run a shell command on a machine, or a unit's, as root."""
        result = await self._host(machine).machine.run(
            ["/bin/sh", "-c", command], timeout_s=timeout_s
        )
        return vars(result)

    async def reboot(self, machine: str, timeout_s: float = machines.SHUTDOWN_TIMEOUT_S) -> None:
        """Reboot a machine in order; fail unless it is down in time."""
        host = self._host(machine)
        host.ready.clear()
        await host.machine.reboot(timeout_s)
        self._note_boot(host, is_cut=False)

    async def power_cut(self, machine: str) -> None:
        """Stop a machine as a power cut does."""
        host = self._host(machine)
        host.ready.clear()
        await host.machine.power_cut()
        if known := self._model.machines.get(host.machine.name):
            known.status, known.is_heard = Status("down"), False
            self._changed()

    async def boot(self, machine: str) -> None:
        """Boot a machine that has no power."""
        host = self._host(machine)
        async with self._boots:
            await host.machine.boot()
        self._note_boot(host)

    async def unplug(self, machine: str) -> None:
        """Cut a machine off from all others; its leaders lose the lead after the lease.

        Its units go on with their hooks, for the sandbox still reaches it.
        """
        host = self._host(machine)
        await host.machine.unplug()
        self._note_heard(host, is_heard=False)

    async def plug(self, machine: str) -> None:
        """Undo `unplug`."""
        host = self._host(machine)
        await host.machine.plug()
        self._note_heard(host, is_heard=True)

    def _note_heard(self, host: Host, *, is_heard: bool) -> None:
        if known := self._model.machines.get(host.machine.name):
            known.is_heard = is_heard
            self._changed()

    def integrate_many(
        self, unit: str, endpoint: str, charm: str, remotes: Sequence[operations.Remote]
    ) -> None:
        """Integrate a unit with applications, all hooks of that held for run.

        They are of one unit each, on a machine that never boots.
        """
        found = operations.unit(self._model, unit)
        place = operations.integrate_many(
            self._model, found.app, endpoint, charms.read(Path(charm)), remotes
        )
        self._add_host(place.id)
        hooks.pass_over_relations(self._model, found)
        self._changed()

    def due(self, unit: str, hook: str) -> None:
        """Let a unit run a hook that may come at any time."""
        notes = {"leader-elected": note_elected, "update-status": note_update_status}
        notes[hook](operations.unit(self._model, unit))
        self._changed()

    def kill_hook(self, unit: str, at_exec: list[int]) -> None:
        """Let the unit's next dispatches be killed, each at the exec that a number names (from 1).

        The first dispatch that ends before it makes so many execs ends the series.
        """
        self._uniter(unit).kills_due = at_exec

    def log(self, unit: str | None = None, tail: int | None = None, start: int = 0) -> list[Line]:
        """Return the debug log, without its first `start` lines."""
        return self._debug_log.lines(unit, tail, start)

    def hooks(self, unit: str) -> list[Dispatch]:
        """Return what the unit ran; that of a unit that is gone too."""
        return self._uniter(unit).history

    # What follows of it.

    def _changed(self) -> None:
        """Let every agent look again, and make the machines those of the model."""
        operations.settle(self._model)
        self._time_leases()
        for name in self._model.machines.keys() - self._hosts.keys():
            self._tasks.create_task(self._bring_up(self._add_host(name)))
        for name in self._hosts.keys() - self._model.machines.keys():
            if not name.startswith("x"):
                gone = self._hosts.pop(name)
                # Its agents end, wherever they wait.
                gone.ready.set()
                self._tasks.create_task(gone.machine.power_cut())
        for name, unit in self._model.units.items():
            if name not in self._uniters:
                host = self._hosts[unit.machine]
                log, changed, base_s = self._debug_log, self._changed, self._retry_base_s
                uniter = Uniter(self._model, unit, host, log, changed, base_s)
                self._uniters[name] = uniter
                self._tasks.create_task(uniter.run())
        for uniter in self._uniters.values():
            uniter.wake_up()

    def _time_leases(self) -> None:
        for name, machine in self._model.machines.items():
            if not machine.is_heard and name not in self._leases:
                loop = asyncio.get_running_loop()
                self._leases[name] = loop.call_later(self._lease_s, self._expire, name)
            elif machine.is_heard and name in self._leases:
                self._leases.pop(name).cancel()

    def _expire(self, machine: str) -> None:
        operations.expire_leases(self._model, machine)
        self._changed()

    def _add_host(self, name: str) -> Host:
        host = Host(self._new_machine(name), self._directory)
        self._hosts[name] = host
        return host

    async def _bring_up(self, host: Host, *, is_cut: bool = True) -> None:
        name = host.machine.name
        try:
            async with self._boots:
                # It may have been removed while others booted.
                if name in self._model.machines:
                    await host.machine.boot()
        except machines.MachineError as error:
            self._debug_log.write(f"machine-{name}", "ERROR", "sandbox.controller", str(error))
            if name in self._model.machines:
                self._model.machines[name].status = Status("error", str(error))
            return
        if name in self._model.machines:
            self._note_boot(host, is_cut=is_cut)
        else:
            await host.machine.power_cut()

    async def _watch(self, host: Host) -> None:
        """Start a machine again that somebody on it has rebooted."""
        if await host.machine.reboots_itself():
            host.ready.clear()
            await self._bring_up(host, is_cut=False)

    def _note_boot(self, host: Host, *, is_cut: bool = True) -> None:
        name = host.machine.name
        host.ready.set()
        self._tasks.create_task(self._watch(host))
        if name not in self._model.machines:
            return
        known = self._model.machines[name]
        known.status, known.is_heard = Status("started"), True
        for unit in self._model.units.values():
            if unit.machine == name:
                if unit.local.charm_version is None:
                    operations.set_status(unit, "waiting", "agent initialising")
                self._uniters[unit.name].start(is_cut=is_cut)
        self._changed()

    def _host(self, name: str) -> Host:
        """Find a machine by its id, or a unit's by the unit's name."""
        if name in self._model.units:
            name = self._model.units[name].machine
        if name not in self._hosts:
            known = ", ".join([*self._hosts, *self._model.units]) or "none"
            raise operations.OperationError(f"no machine or unit {name}; there are: {known}")
        return self._hosts[name]

    def _uniter(self, unit: str) -> Uniter:
        if unit not in self._uniters:
            operations.unit(self._model, unit)
        return self._uniters[unit]

    def _next_id(self) -> str:
        self._last_id += 1
        return str(self._last_id)

    def _enqueue(self, unit: str, task: Task) -> str:
        operations.unit(self._model, unit)
        task.unit = unit
        self._records[task.action.id] = task
        self._uniters[unit].tasks.append(task)
        self._changed()
        return task.action.id

    async def _time_update_status(self) -> None:
        while True:
            try:
                async with asyncio.timeout(gnuflag.duration_s(self._model.config[INTERVAL])):
                    await self._interval_changed.wait()
                self._interval_changed.clear()
            except TimeoutError:
                for unit in self._model.units.values():
                    note_update_status(unit)
                self._changed()

    # The socket.

    async def serve(self, path: Path) -> asyncio.Server:
        """Answer requests at a socket."""
        return await asyncio.start_unix_server(self._converse, path, limit=LINE_LIMIT)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the one question of a connection; who hangs up wants no answer any more."""
        if line := await reader.readline():
            request = cast("dict[str, object]", json.loads(line))
            answer = asyncio.create_task(self._answer(request, writer))
            hung_up = asyncio.create_task(reader.read())
            await asyncio.wait({answer, hung_up}, return_when=asyncio.FIRST_COMPLETED)
            answer.cancel()
            hung_up.cancel()
        writer.close()

    async def _answer(self, request: Mapping[str, object], writer: asyncio.StreamWriter) -> None:
        answer: dict[str, object] = {}
        try:
            answer["result"] = await self.call(
                str(request["method"]), cast("dict[str, object]", request["params"])
            )
        except _REFUSALS as error:
            answer["error"] = str(error)
        except Exception as error:
            # A fault of ours must not leave whoever asked waiting.
            self._debug_log.write(
                "controller", "ERROR", "sandbox.controller", traceback.format_exc()
            )
            answer["error"] = f"the sandbox failed: {error!r}; see its debug.log"
        writer.write(json.dumps(answer).encode() + b"\n")
        await writer.drain()

    async def call(self, method: str, params: Mapping[str, object]) -> object:
        """Do what one request asks."""
        if method in CHANGES:
            return self.change(method, **params)
        if method not in METHODS:
            raise operations.OperationError(f'the sandbox has no method "{method}"')
        result = getattr(self, method)(**params)
        return await cast("Awaitable[object]", result) if asyncio.iscoroutine(result) else result


CHANGES: Mapping[str, Callable[..., object]] = {
    operation.__name__: operation
    for operation in (
        operations.add_unit,
        operations.attach_storage,
        operations.detach_storage,
        operations.integrate,
        operations.lead,
        operations.lose_unit,
        operations.remove_application,
        operations.remove_relation,
        operations.remove_unit,
        operations.set_config,
    )
}
"""What is asked for and is a rule alone, with the model as its first argument."""
METHODS = {it for it in vars(Controller) if not it.startswith("_")} - {"call", "change", "serve"}


def _storage_status(storage: Storage) -> str:
    if storage.is_provisioned:
        return "attached"
    return "pending" if storage.owner else "detached"


# The process.


@contextmanager
def start(
    *, name: str, base: Path, juju: str = "3.6", keep: bool = False, seed: int | None = None
) -> Generator[RunDirectory, None, None]:
    """Start a model's controller; end it, and all machines, on the way out unless it is kept.

    `seed` repeats the order in which another model went through relations and storages; its
    debug log names it.

    Raises:
        ControllerError: it does not come up; the message has what it wrote.
    """
    RUN.mkdir(parents=True, exist_ok=True)
    options = ["--base", str(base), "--juju", juju]
    options += [] if seed is None else ["--seed", str(seed)]
    with _locked(RUN):
        directory = _new_run_directory(name)
        process = _spawn(directory, options, keep=keep)
    try:
        yield directory
    finally:
        if keep:
            # It outlives this process, which has not forgotten to wait for it.
            process.returncode = 0
        else:
            _end(process, directory)


@contextmanager
def _locked(path: Path) -> Generator[None, None, None]:
    """Keep another start from taking a directory whose controller comes up for a stale one."""
    lock = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _new_run_directory(name: str) -> RunDirectory:
    """Make a model's run directory; those that a controller has left behind are removed."""
    if not _NAME.fullmatch(name):
        raise ControllerError(f'invalid model name "{name}": use a-z, 0-9 and -')
    for path in RUN.iterdir():
        if not RunDirectory(path).is_running():
            shutil.rmtree(path, ignore_errors=True)  # Who has ended it may remove it too.
    directory = RunDirectory(RUN / name)
    try:
        directory.path.mkdir()
    except FileExistsError as error:
        raise ControllerError(f"model {name} is running; ./dev destroy {name} ends it") from error
    return directory


def _spawn(
    directory: RunDirectory, options: Sequence[str], *, keep: bool
) -> subprocess.Popen[bytes]:
    """Start the process of a controller; return when it answers."""
    unshare = ["/usr/bin/unshare", "--net", "--pid", "--mount-proc", "--fork", "--kill-child"]
    python = [sys.executable, "-m", "sandbox.controller.controller", "--name", directory.name]
    with (directory.path / "debug.log").open("ab") as log:
        process = subprocess.Popen(
            [*unshare, "--", *python, "--run-dir", str(directory.path), *options],
            stdin=subprocess.DEVNULL if keep else subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=_ROOT,
            # A Ctrl-C is for whoever started this, who ends it.
            start_new_session=True,
        )
    # unshare is in the network namespace too, and its number is one of this pid namespace.
    (directory.path / "controller.pid").write_text(f"{process.pid}\n")
    try:
        _listening(process, directory)
    except BaseException:
        _end(process, directory)
        raise
    return process


def _listening(process: subprocess.Popen[bytes], directory: RunDirectory) -> None:
    """Wait until the controller answers."""
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not directory.is_running():
        if process.poll() is not None:
            raise ControllerError(
                f"the controller of {directory.name} ended with status {process.returncode}:\n"
                f"{directory.last_words()}"
            )
        if time.monotonic() > deadline:
            raise ControllerError(
                f"the controller of {directory.name} does not answer after"
                f" {_START_TIMEOUT_S:.0f} s:\n{directory.last_words()}"
            )
        time.sleep(_POLL_S)


def _end(process: subprocess.Popen[bytes], directory: RunDirectory) -> None:
    """End a controller; returns when the kernel has ended everything in its namespaces."""
    if process.stdin:
        process.stdin.close()
    else:
        process.terminate()
    try:
        process.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    shutil.rmtree(directory.path, ignore_errors=True)  # The next start may be at it already.


async def run(name: str, run_dir: Path, base: Path, juju: Profile, seed: int) -> None:
    """Be the controller, until told to end or the lifeline is cut."""
    await machines.make_bridge()

    def new_machine(name: str) -> machines.Machine:
        return machines.Machine(name, base, run_dir)

    async with asyncio.TaskGroup() as tasks:
        controller = Controller(Model(name, juju, seed), run_dir, new_machine, tasks)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, controller.destroy)
        lifeline = sys.stdin.fileno()
        # One that is kept has none. Nobody writes to it: it becomes readable at its end only.
        if stat.S_ISFIFO(os.fstat(lifeline).st_mode):
            loop.add_reader(lifeline, controller.destroy)
        # The socket appears under its name when it answers.
        await controller.serve(run_dir / "controller.sock")
        await controller.destroyed.wait()
        # At once: the kernel ends the machines, and there is nothing of theirs to save.
        os._exit(0)


def main() -> None:
    """Run from the command line that `start` makes."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.controller.controller")
    parser.add_argument("--name", required=True)
    parser.add_argument("--run-dir", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--juju", choices=["3.6", "4.0"], default="3.6")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(2**32))
    asyncio.run(run(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""The model that is judged and its machines: all that is done to them, and all that is seen."""

import asyncio
import base64
import functools
import json
import shlex
import uuid
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from sandbox.controller.client import ControllerError, RunDirectory, call
from sandbox.rules.status import PlacedUnit, Status, table, units
from tests.torture.ledger import Client, Ledger, Share

SERVER, CLIENT, APP = "nfs-server", "nfs-client", "any-app"
SECOND = "second-server"
MOUNT = "/data"
DISK = "14G"
PROGRAMS = "/opt/torture"
WRITER = f"{PROGRAMS}/[w]riter.py"
PROGRAMS_LEFT = 'systemctl list-units --plain --no-legend "writer-*"'
END_S = 170.0
KILL_S = 5.0
"""How long a program that is killed may take to go, unless it waits for a server."""
ON_MACHINE = Path(__file__).parent / "on_machine"
RUN_TIMEOUT_S = 60.0
GONE_TIMEOUT_S = 240.0
POLL_S = 0.2
# Nothing is to come when no unit had anything to do for so long.
IDLE_S = 0.5
INTERVAL = "update-status-hook-interval"
ACTION_TRIES = 3
KILLED = -9


@dataclass(frozen=True)
class Outcome:
    """How an action ended, and whether it was killed before and run again."""

    completed: bool
    message: str
    results: Mapping[str, Any]
    was_killed: bool


@dataclass(frozen=True)
class Seen:
    """What the programs say that look at a client's and a server's machine."""

    clients: Mapping[str, Any]
    """By unit of the principal."""
    servers: Mapping[str, Any]
    """By unit."""


class Machines:
    """One model with what is deployed in it."""

    def __init__(
        self,
        directory: RunDirectory,
        charms: Mapping[str, Path],
        before: Mapping[str, Path],
        *,
        is_loud: bool = False,
    ) -> None:
        """Do and see through the controller of a model.

        Args:
            directory: where that is.
            charms: the packed charms.
            before: those of an older commit.
            is_loud: whether to say what is waited for.
        """
        self.ask = functools.partial(call, directory)
        self.charms = charms
        self.before = before
        self.is_loud = is_loud
        self.seen = Status(model={"name": directory.name}, machines={}, applications={})
        """The status of the model, as it was last seen."""
        self._dispatches: dict[str, int] = {}
        self._hands_on = defaultdict[str, asyncio.Lock](asyncio.Lock)
        self._outsider = ""
        self._stuck: dict[str, set[str]] = {}
        """Programs that wait in the kernel for good, of a mount that was forced off, by unit."""

    # Deploying

    async def deploy(self, ledger: Ledger) -> None:
        """Deploy three servers with a disk each, and the clients of the ledger."""
        await self._deploy(SERVER, SERVER, num_units=3, storage={"shares": DISK})
        for client in ledger.clients.values():
            await self._deploy_client(client)
        self._outsider = str(await self.ask("add_bystander"))
        await self.idle(600)
        for client in ledger.clients.values():
            client.units = {unit: self.address(unit) for unit in self.units_of(client.principal)}
            for unit in client.units:
                await self.install(unit)
        for unit in self.units_of(SERVER):
            await self.install(unit)
            ledger.servers[unit] = await self.storage_of(unit)

    async def _deploy(self, charm: str, application: str, **options: object) -> None:
        await self.ask("deploy", charm=str(self.charms[charm]), application=application, **options)

    async def deploy_second(self, unit: str) -> None:
        """Deploy another nfs-server on the machine of a unit."""
        await self._deploy(SERVER, SECOND, to=self.units[unit]["machine"])

    async def _deploy_client(self, client: Client) -> None:
        config = {"mountpoint": MOUNT, "share-name": client.share_name, "size": str(client.size)}
        model = client.model
        await self._deploy(APP, client.principal, other_model=model)
        await self._deploy(CLIENT, client.application, config=config, other_model=model)
        await self.ask(
            "integrate", a=f"{client.application}:juju-info", b=f"{client.principal}:juju-info"
        )

    async def install(self, unit: str) -> None:
        """Put our programs on a machine."""
        for path in ON_MACHINE.glob("*.py"):
            encoded = base64.b64encode(path.read_bytes()).decode()
            await self.run(
                unit,
                f"mkdir -p {PROGRAMS} && echo {encoded} | base64 -d > {PROGRAMS}/{path.name}",
            )
        await self.run(unit, "sync")

    # Doing

    async def run(self, unit: str, command: str, timeout: float = RUN_TIMEOUT_S) -> str:
        """Run a command on a unit's machine; its output. It must succeed."""
        async with self._hands_on[unit]:
            returncode, stdout, stderr = await self._ssh(unit, command, timeout)
        assert returncode == 0, f"on {unit}: {command}: {returncode}: {(stdout + stderr).strip()}"
        return stdout.strip()

    async def cut(self, unit: str) -> None:
        """Cut the power of a unit's machine, whatever it does but a command of ours; boot it."""
        async with self._hands_on[unit]:
            await self.ask("power_cut", machine=unit)
            await self.ask("boot", machine=unit)

    async def _ssh(self, where: str, command: str, timeout: float) -> tuple[int, str, str]:
        answer = await self.ask("ssh", machine=where, command=command, timeout_s=timeout)
        found = cast("dict[str, Any]", answer)
        return found["returncode"], found["stdout"], found["stderr"]

    async def configure(self, application: str, **options: str | int) -> None:
        """Set options of an application."""
        values = {name.replace("_", "-"): str(value) for name, value in options.items()}
        await self.ask("set_config", name=application, values=values)

    async def integrate(self, client: Client) -> None:
        """Integrate a client with the server, once its last integration is gone."""
        ends = {"a": f"{client.application}:nfs-share", "b": f"{SERVER}:nfs-share"}
        async with asyncio.timeout(RUN_TIMEOUT_S):
            while True:
                try:
                    await self.ask("integrate", **ends)
                except ControllerError as error:
                    if "is dying" not in str(error):
                        raise
                    await asyncio.sleep(POLL_S)
                else:
                    return

    async def separate(self, client: Client) -> None:
        """Remove the integration of a client."""
        ends = {"a": f"{client.application}:nfs-share", "b": f"{SERVER}:nfs-share"}
        await self.ask("remove_relation", **ends)

    async def act(self, unit: str, name: str, /, **params: Any) -> Outcome:
        """Run an action; one that is killed is run again, until one ends by itself."""
        was_killed = False
        for _ in range(ACTION_TRIES):
            action = await self.ask("enqueue_action", unit=unit, name=name, params=params)
            done = cast("dict[str, Any]", await self.ask("wait_action", action=action))
            if done["results"].get("return-code") not in (KILLED, None):
                break
            was_killed = True
        else:
            raise AssertionError(f"{name} on {unit} was killed {ACTION_TRIES} times")
        return Outcome(done["status"] == "completed", done["message"], done["results"], was_killed)

    @property
    def units(self) -> Mapping[str, PlacedUnit]:
        """The units as they were last seen, subordinates too."""
        return units(self.seen)

    def units_of(self, application: str) -> list[str]:
        """Return the units of an application that were last seen."""
        return [name for name, it in self.units.items() if it["application"] == application]

    def status_of(self, unit: str) -> tuple[str, str]:
        """Return the status of a unit and its message, as they were last seen; empty for none."""
        if unit not in self.units:
            return "", ""
        status = self.units[unit]["status"]["workload-status"]
        return status["current"], status.get("message", "")

    async def leader(self) -> str:
        """Return the unit that leads the servers."""
        await self.look_at_model()
        for unit in self.units_of(SERVER):
            if self.units[unit]["status"].get("leader"):
                return unit
        raise AssertionError("no server leads")

    async def listed(self, name: str) -> Mapping[str, str]:
        """Return what list-shares on the leader says of a share; empty if nothing."""
        outcome = await self.act(await self.leader(), "list-shares")
        entries = [cast("Any", it) for it in outcome.results.values() if isinstance(it, dict)]
        return next((it for it in entries if it.get("name") == name), {})

    def subordinate(self, unit: str) -> str:
        """Return the unit of nfs-client beside a unit of a principal."""
        return next(name for name, it in self.units.items() if it["principal"] == unit)

    def has(self, unit: str) -> bool:
        """Whether the model has a unit."""
        return unit in self.units

    async def look_at_model(self) -> None:
        """See what the model is like now."""
        self.seen = cast("Status", await self.ask("status"))

    async def until(self, condition: Callable[[], bool], timeout: float) -> None:
        """Wait until the model is as it should be."""
        async with asyncio.timeout(timeout):
            await self.look_at_model()
            while not condition():
                await asyncio.sleep(POLL_S)
                await self.look_at_model()

    async def gone(self, unit: str) -> None:
        """Wait until a unit is gone."""
        await self.until(lambda: not self.has(unit), GONE_TIMEOUT_S)

    async def detached(self, storage: str) -> None:
        """Wait until no unit has a storage instance."""
        async with asyncio.timeout(180):
            while storage in (await self._storages()).values():
                await asyncio.sleep(0.3)

    async def storage_of(self, unit: str) -> str:
        """Return the storage instance of a unit; empty for none."""
        return (await self._storages()).get(unit, "")

    async def _storages(self) -> dict[str, str]:
        """Return the storage instances that units have."""
        stored = cast("list[dict[str, str]]", await self.ask("storage"))
        return {it["owner"]: it["id"] for it in stored if it["owner"]}

    async def idle(self, timeout: float) -> None:
        """Wait until no unit has anything to do, and no failed hook waits to be run again."""
        since = asyncio.get_running_loop().time()

        def is_idle() -> bool:
            nonlocal since
            now = asyncio.get_running_loop().time()
            states = [it["status"] for it in self.units.values()]
            if any(
                it["juju-status"]["current"] != "idle"
                or it["workload-status"]["current"] == "error"
                for it in states
            ):
                since = now
            return now - since >= IDLE_S

        await self.until(is_idle, timeout)

    @asynccontextmanager
    async def hooks_every(self, interval: str) -> AsyncGenerator[None]:
        """Let update-status come often for a while."""
        await self.ask("set_model_config", values={INTERVAL: interval})
        yield
        await self.ask("set_model_config", values={INTERVAL: "5m"})

    async def add_unit(self, application: str, *attach: str) -> str:
        """Add a unit, with storage that is detached if any is named; the unit's name."""
        added = await self.ask("add_unit", app=application, attach=attach)
        (unit,) = cast("list[str]", added)
        return unit

    async def refresh(self, application: str, charm: Path) -> None:
        """Give an application another charm."""
        await self.ask("refresh", application=application, charm=str(charm))

    # Programs on a share

    async def write(self, unit: str, share: Share) -> None:
        """Start the program that writes to a share."""
        command = f"/usr/bin/python3 {PROGRAMS}/writer.py {MOUNT} {share.file(unit)}"
        name = f"writer-{share.id}-{uuid.uuid4().hex[:6]}"
        await self.run(unit, f"systemd-run --quiet --collect --unit={name} {command}")

    async def stop_writing(self, *units: str, kill: bool = False) -> None:
        """End programs in order, or kill them; returns when they are gone."""
        await asyncio.gather(*(self._kill(it) if kill else self._end(it) for it in units))

    async def _end(self, unit: str) -> None:
        await self.run(unit, f"pkill -TERM -f {WRITER}; {self._gone(unit, END_S)}", END_S + 10)

    async def _kill(self, unit: str) -> None:
        """Kill programs, as an operator has to who can't wait for a server.

        A program that waits in fsync(2) for one that is gone can't be killed (filemap_fdatawait()
        in the kernel's mm/filemap.c).
        """
        is_gone = await self.run(
            unit, f"pkill -KILL -f {WRITER}; {self._gone(unit, KILL_S)} && echo gone; true"
        )
        if not is_gone:
            client = self.subordinate(unit)
            await self.act(client, "force-umount", mountpoint=MOUNT)
            said = await self.run(unit, f"pkill -KILL -f {WRITER}; {PROGRAMS_LEFT}")
            self._stuck[unit] = {line.split()[0] for line in said.splitlines()}
            # It says that nothing is mounted yet; but the mount is tried again from then on.
            await self.act(client, "remount")

    def _gone(self, unit: str, timeout: float) -> str:
        """Return the command that waits until no program writes any more.

        systemd knows a program until its last file is closed, which may wait for a server; by then
        it has no command line any more that pgrep(1) could find.
        """
        left = " | grep -v ".join([PROGRAMS_LEFT, *sorted(self._stuck.get(unit, ()))])
        return (
            f"timeout {timeout} sh -c 'while {left} | grep -q .; do sleep 0.1; done' > /dev/null"
        )

    async def note_acknowledged(self, ledger: Ledger, unit: str) -> None:
        """Note what the programs of a unit that is to go were told."""
        for file, count in (await self._said(unit, f"client.py {MOUNT}"))["acked"].items():
            ledger.acknowledge(file, count)

    async def write_on_server(self, unit: str, path: str, file: str, count: int) -> None:
        """Write records as an operator does who puts data on a share, and sync them."""
        code = (
            f"import sys; sys.argv[1:] = ['{path}', '{file}']; sys.path.insert(0, '{PROGRAMS}');"
            f" import os, writer; f = os.open('{path}/{file}', os.O_CREAT | os.O_WRONLY);"
            f" [os.write(f, writer.record(n)) for n in range({count})]; os.fsync(f)"
        )
        await self.run(unit, f"mountpoint -q {path} && python3 -c {shlex.quote(code)}")

    # Seeing

    async def look(self, clients: list[str], servers: list[str]) -> Seen:
        """Look at clients' machines and then at servers': what was acknowledged comes first."""
        return Seen(
            await self._all({unit: self._said(unit, f"client.py {MOUNT}") for unit in clients}),
            await self._all({unit: self._said(unit, "server.py") for unit in servers}),
        )

    async def _all(self, asked: Mapping[str, Awaitable[Any]]) -> dict[str, Any]:
        return dict(zip(asked, await asyncio.gather(*asked.values()), strict=True))

    async def _said(self, unit: str, program: str) -> Any:
        said = await self.run(unit, f"python3 {PROGRAMS}/{program}")
        assert said.startswith("{"), f"{program} on {unit} said {said!r}"
        return json.loads(said)

    async def outsider_mounts(self, address: str, path: str) -> bool:
        """Whether the machine that is in nobody's model can mount a path."""
        source = shlex.quote(f"{address}:{path}")
        command = (
            "mkdir -p /mnt/other && modprobe nfsv4 && timeout 40 mount --rw -i -t nfs4"
            f" -o vers=4.2,addr={address} {source} /mnt/other && umount /mnt/other"
        )
        return (await self._ssh(self._outsider, command, RUN_TIMEOUT_S))[0] == 0

    async def wrong_dispatches(self) -> list[str]:
        """Return the hooks and actions that failed since this was asked last."""
        wrong: list[str] = []
        for unit in {*self.units, *self._dispatches}:
            ran = cast("list[dict[str, Any]]", await self.ask("hooks", unit=unit))
            new = ran[self._dispatches.get(unit, 0) :]
            self._dispatches[unit] = len(ran)
            wrong += [
                f"{unit}: {it['hook']}: exit status {it['returncode']}"
                for it in new
                if it["returncode"] not in (0, KILLED)
            ]
        return wrong

    def address(self, unit: str) -> str:
        """Return the address of a unit's machine."""
        return self.units[unit]["status"].get("public-address", "")

    async def log(self, lines: int) -> list[str]:
        """Return the end of the debug log."""
        found = cast("list[dict[str, str]]", await self.ask("log", tail=lines))
        return [" ".join(map(str, it.values())) for it in found]

    async def nfs_log(self, unit: str) -> str:
        """Return what a machine's kernel said last of NFS; on a server, who may reclaim, too."""
        command = "journalctl --dmesg --no-pager --output=short-iso | grep -i nfs | tail -n 20"
        if unit.startswith(SERVER):
            command += "; nfsdclddb print"
        try:
            said = map(str, await self._ssh(unit, command, RUN_TIMEOUT_S))
        except ControllerError as error:  # What failed may have taken the machine with it.
            said = [str(error)]
        return "\n".join([f"{unit}:", *said])

    def status(self) -> str:
        """Return what `juju status` prints."""
        return table(self.seen)


OUTSIDER = "10.77.0.200"
"""The address of the machine that is in nobody's model."""

# SPDX-License-Identifier: Apache-2.0
"""The model that is judged and its machines: all that is done to them, and all that is seen."""

import asyncio
import base64
import json
import shlex
import uuid
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from juju.errors import JujuAPIError

from sandbox.ops_test import Bystander, Dispatch, RunningModel
from tests.torture.ledger import Client, Ledger, Share

SERVER, CLIENT, APP = "nfs-server", "nfs-client", "any-app"
SECOND = "second-server"
MOUNT = "/data"
DISK = "14G"
PROGRAMS = "/opt/torture"
ON_MACHINE = Path(__file__).parent / "on_machine"
RUN_TIMEOUT_S = 60.0
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
        running: RunningModel,
        charms: Mapping[str, Path],
        before: Mapping[str, Path],
        *,
        is_loud: bool = False,
    ) -> None:
        """Do and see through a running model.

        Args:
            running: the model.
            charms: the packed charms.
            before: those of an older commit.
            is_loud: whether to say what is waited for.
        """
        self.model = running.ops_test.model
        self.substrate = running.substrate
        self.hooks_every = running.ops_test.fast_forward
        self.charms = charms
        self.before = before
        self.is_loud = is_loud
        self._juju = running.ops_test.juju
        self._dispatches: dict[str, int] = {}
        self._outsider: Bystander | None = None

    # Deploying

    async def deploy(self, ledger: Ledger) -> None:
        """Deploy three servers with a disk each, and the clients of the ledger."""
        storage = {"shares": DISK}
        await self.model.deploy(self.charms[SERVER], SERVER, num_units=3, storage=storage)
        for client in ledger.clients.values():
            await self._deploy_client(client)
        self._outsider = await self.substrate.bystander()
        await self.idle(600)
        for client in ledger.clients.values():
            client.units = {
                unit.name: str(unit.public_address)
                for unit in self.model.applications[client.principal].units
            }
            for unit in client.units:
                await self.install(unit)
        for unit in self.model.applications[SERVER].units:
            await self.install(unit.name)
            ledger.servers[unit.name] = await self.storage_of(unit.name)

    async def _deploy_client(self, client: Client) -> None:
        config = {"mountpoint": MOUNT, "share-name": client.share_name, "size": client.size}
        if client.model:
            elsewhere = self.substrate.deploy_elsewhere
            await elsewhere(client.model, self.charms[APP], client.principal)
            await elsewhere(
                client.model, self.charms[CLIENT], client.application, num_units=0, **config
            )
        else:
            await self.model.deploy(self.charms[APP], client.principal)
            await self.model.deploy(
                self.charms[CLIENT], client.application, num_units=0, config=config
            )
        await self.model.integrate(
            f"{client.application}:juju-info", f"{client.principal}:juju-info"
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
        result = await self.substrate.run(unit, command, timeout=timeout)
        said = (result.stdout + result.stderr).strip()
        assert result.returncode == 0, f"on {unit}: {command}: {result.returncode}: {said}"
        return result.stdout.strip()

    async def configure(self, client: Client, **options: str | int) -> None:
        """Set options of a client."""
        values = {name.replace("_", "-"): str(value) for name, value in options.items()}
        await self.model.applications[client.application].set_config(values)

    async def integrate(self, client: Client) -> None:
        """Integrate a client with the server, once its last integration is gone."""
        async with asyncio.timeout(RUN_TIMEOUT_S):
            while True:
                try:
                    await self.model.integrate(
                        f"{client.application}:nfs-share", f"{SERVER}:nfs-share"
                    )
                except JujuAPIError as error:
                    if "is dying" not in str(error):
                        raise
                    await asyncio.sleep(0.3)
                else:
                    return

    async def separate(self, client: Client) -> None:
        """Remove the integration of a client."""
        server = self.model.applications[SERVER]
        await server.destroy_relation("nfs-share", f"{client.application}:nfs-share")

    async def act(self, unit: str, name: str, **params: Any) -> Outcome:
        """Run an action; one that is killed is run again, until one ends by itself."""
        was_killed = False
        for _ in range(ACTION_TRIES):
            action = await (await self.model.units[unit].run_action(name, **params)).wait()
            code = action.results.get("return-code")
            if code not in (KILLED, None):
                break
            was_killed = True
        else:
            raise AssertionError(f"{name} on {unit} was killed {ACTION_TRIES} times")
        return Outcome(action.status == "completed", action.message, action.results, was_killed)

    async def leader(self) -> str:
        """Return the unit that leads the servers."""
        for unit in self.model.applications[SERVER].units:
            if await unit.is_leader_from_status():
                return unit.name
        raise AssertionError("no server leads")

    async def listed(self, name: str) -> Mapping[str, str]:
        """Return what list-shares on the leader says of a share; empty if nothing."""
        outcome = await self.act(await self.leader(), "list-shares")
        entries = [cast("Any", it) for it in outcome.results.values() if isinstance(it, dict)]
        return next((it for it in entries if it.get("name") == name), {})

    def subordinate(self, unit: str) -> str:
        """Return the unit of nfs-client beside a unit of a principal."""
        units = self.model.units.values()
        return next(it.name for it in units if it.principal_unit == unit)

    def has(self, unit: str) -> bool:
        """Whether the model has a unit."""
        return unit in self.model.units

    async def gone(self, unit: str, timeout: float = 180) -> None:
        """Wait until a unit is gone."""
        await self.model.block_until(lambda: not self.has(unit), timeout=timeout)

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
        found: dict[str, str] = {}
        for it in await self.model.list_storage():
            if owner := str(it["owner-tag"]):
                application, _, number = owner.removeprefix("unit-").rpartition("-")
                kind, _, count = str(it["storage-tag"]).removeprefix("storage-").rpartition("-")
                found[f"{application}/{number}"] = f"{kind}/{count}"
        return found

    async def idle(self, timeout: float) -> None:
        """Wait until no unit has anything to do."""
        await self.model.wait_for_idle(
            raise_on_error=False, timeout=timeout, idle_period=1, check_freq=0.2
        )

    # Programs on a share

    async def write(self, unit: str, share: Share) -> None:
        """Start the program that writes to a share."""
        command = f"/usr/bin/python3 {PROGRAMS}/writer.py {MOUNT} {share.file(unit)}"
        name = f"writer-{share.id}-{uuid.uuid4().hex[:6]}"
        await self.run(unit, f"systemd-run --quiet --collect --unit={name} {command}")

    async def stop_writing(self, *units: str, kill: bool = False) -> None:
        """End programs in order, or kill them; returns when they are gone."""
        signal = "KILL" if kill else "TERM"
        command = (
            f"pkill -{signal} -f {PROGRAMS}/[w]riter.py;"
            f" timeout 170 sh -c 'while pgrep -f {PROGRAMS}/[w]riter.py; do sleep 0.1; done'"
            " > /dev/null"
        )
        await asyncio.gather(*(self.run(unit, command, timeout=180) for unit in units))

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
        assert self._outsider
        source = shlex.quote(f"{address}:{path}")
        command = (
            "mkdir -p /mnt/other && modprobe nfsv4 && timeout 40 mount --rw -i -t nfs4"
            f" -o vers=4.2,addr={address} {source} /mnt/other && umount /mnt/other"
        )
        return (await self._outsider.run(command, timeout=60)).returncode == 0

    async def wrong_dispatches(self) -> list[str]:
        """Return the hooks and actions that failed since this was asked last."""
        wrong: list[str] = []
        for unit in set(self.model.units) | self._dispatches.keys():
            ran: list[Dispatch] = await self.substrate.hooks(unit)
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
        return str(self.model.units[unit].public_address)

    async def log(self) -> list[str]:
        """Return the debug log."""
        return (await self._juju("debug-log"))[1].splitlines()

    async def status(self) -> str:
        """Return what `juju status` prints."""
        return (await self._juju("status"))[1]


OUTSIDER = "10.77.0.200"
"""The address of the machine that is in nobody's model."""

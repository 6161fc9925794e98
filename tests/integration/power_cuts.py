# SPDX-License-Identifier: Apache-2.0
"""The server's power is cut at random moments, while shares are made and grown and one is written.

A cut takes all that the machine had not handed to its disk. What is looked at afterwards is what
the disk has.
"""

import asyncio
import random
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

STORAGE = "/var/lib/juju/storage/shares/0"
SERVER, CLIENT, APP = "nfs-server", "nfs-client", "my-app"
OTHER_CLIENT, OTHER_APP = "other-client", "other-app"
SERVER_UNIT, APP_UNIT = f"{SERVER}/0", f"{APP}/0"
# The server's unit, as the debug log has it.
SERVER_TAG = f"unit-{SERVER}-0"
MOUNT = "/data"
ACKED = "/var/tmp/acked"  # noqa: S108 - on the client's machine, which is ours.
TIMEOUT_S = 180.0
# In it falls whatever a dispatch does about a share.
MAX_DELAY_S = 4.0
MAX_SIZE = 3

RECORD = 64
# Each record says its own number; that it is synced is noted on the client's own disk.
WRITER = f"""
import os
log = os.open("{MOUNT}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
acked = os.open("{ACKED}", os.O_WRONLY | os.O_CREAT)
number = os.fstat(log).st_size // {RECORD}
while True:
    os.write(log, b"%0{RECORD - 1}d\\n" % number)
    os.fsync(log)
    number += 1
    os.pwrite(acked, b"%020d" % number, 0)
"""
# On the server's disk: the records that the client was told of, each whole. In the end there are
# more of them than its memory holds.
CHECK = f"""
import sys, glob
(path,) = glob.glob("/srv/nfs/data_*/log")
acked = int(sys.argv[1])
with open(path, "rb") as log:
    for number in range(acked):
        found = log.read({RECORD})
        if found != b"%0{RECORD - 1}d\\n" % number:
            sys.exit(f"record {{number}} of {{acked}} acknowledged ones is {{found}}")
"""


@dataclass
class PowerCuts:
    """The model, the chance, and what was promised so far."""

    model: Any
    substrate: Any
    charms: Mapping[str, Path]
    seed: int
    hooks: Callable[[str], Any]
    """Context in which update-status fires as often as is said."""
    log: Callable[[], Any]
    """Reads the debug log."""
    deploy_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    say: Callable[[str], None] = print
    granted: dict[str, int] = field(default_factory=dict[str, int])
    """Sizes of the shares that have an endpoint, or had one."""

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)  # noqa: S311 - chance, not secrets.

    async def run(self, where: str, command: str, timeout: float = TIMEOUT_S) -> str:
        """Run a command on a unit's machine; its output. It must succeed."""
        result = await self.substrate.run(where, command, timeout=timeout)
        said = (result.stdout + result.stderr).strip()
        assert result.returncode == 0, f"on {where}: {command}: {result.returncode}: {said}"
        return result.stdout.strip()

    async def deploy(self) -> None:
        """Deploy a server, a client that writes, and one that asks for ever more shares."""
        model, options = self.model, self.deploy_options
        await model.deploy(self.charms[SERVER], application_name=SERVER, **options)
        await model.deploy(self.charms[APP], application_name=APP, **options)
        for client, mountpoint in ((CLIENT, MOUNT), (OTHER_CLIENT, "/other")):
            await model.deploy(
                self.charms[CLIENT],
                application_name=client,
                num_units=0,
                config={"mountpoint": mountpoint, "share-name": mountpoint, "size": 1},
            )
            await model.integrate(f"{client}:nfs-share", f"{SERVER}:nfs-share")
        await model.integrate(f"{CLIENT}:juju-info", f"{APP}:juju-info")
        await model.wait_for_idle(apps=[APP], status="active", timeout=900, idle_period=1)
        place = model.units[APP_UNIT].machine.id
        await model.deploy(self.charms[APP], application_name=OTHER_APP, to=place, **options)
        await model.integrate(f"{OTHER_CLIENT}:juju-info", f"{OTHER_APP}:juju-info")
        await self._settle()
        self.granted = {MOUNT: 1, "/other": 1}
        write = f"systemd-run --quiet --unit=writer python3 -c {shlex.quote(WRITER)}"
        await self.run(APP_UNIT, write)
        begun = f"timeout 100 sh -c 'until test -s {ACKED}; do sleep 0.2; done'"
        await self.run(APP_UNIT, begun)

    async def _settle(self) -> None:
        await self.model.wait_for_idle(timeout=TIMEOUT_S, idle_period=1)
        if not self._is_active():
            # A client that found the server dead says so until its next hook.
            async with self.hooks("6s"):
                await self.model.block_until(self._is_active, timeout=TIMEOUT_S)
        await self.model.wait_for_idle(status="active", timeout=TIMEOUT_S, idle_period=1)

    def _is_active(self) -> bool:
        return all(unit.workload_status == "active" for unit in self.model.units.values())

    async def round(self, number: int) -> None:
        """Ask for a share or for a larger one, cut the power, and look at what is left."""
        name, size = await self._ask(number)
        delay = self.chance.uniform(0, MAX_DELAY_S)
        await asyncio.sleep(delay)  # The moment is what is tried out.
        await self.substrate.power_cut(SERVER_UNIT)
        acked = int(await self.run(APP_UNIT, f"cat {ACKED}"))
        await self.substrate.boot(SERVER_UNIT)
        await self.run(SERVER_UNIT, f"python3 -c {shlex.quote(CHECK)} {acked}")
        await self._shares_are_served()
        await self._settle()
        self.granted[name] = size
        await self._shares_are_served()
        await self._images_are_whole()
        await self._next_hook_finds_nothing()
        await self.run(
            APP_UNIT,
            f"timeout 100 sh -c 'until [ $(cat {ACKED}) -gt {acked} ]; do sleep 0.2; done'",
        )
        self.say(
            f"round {number}: {name} {size}G, cut after {delay:.2f} s:"
            f" {acked} records synced, all there"
        )

    async def _ask(self, number: int) -> tuple[str, int]:
        """Ask for another share, or for more of the one there is."""
        name = list(self.granted)[-1]
        size = self.granted[name] + 1
        if size > MAX_SIZE or self.chance.random() < 0.5:
            await self._make_room(name)
            name, size = f"/cut{number}", self.chance.randint(1, 2)
        config = {"share-name": name, "size": str(size)}
        await self.model.applications[OTHER_CLIENT].set_config(config)
        return name, size

    async def _make_room(self, keep: str) -> None:
        """Take away images that nobody asks for: the storage is to last for all rounds."""
        for name in [name for name in self.granted if name not in (MOUNT, keep)]:
            unit = self.model.units[SERVER_UNIT]
            action = await unit.run_action("delete-share", share=name, confirm=name)
            done = await action.wait()
            assert done.status == "completed", done.message
            del self.granted[name]

    async def _shares_are_served(self) -> None:
        """Every share is mounted, and as large as was granted; what is asked for is exported."""
        found = await self.run(
            SERVER_UNIT, "df --block-size=1M --output=size,target --type=ext4 | grep /srv/nfs"
        )
        sizes = {target: int(mib) for mib, target in re.findall(r"(\d+) (\S+)", found)}
        exported = await self.run(SERVER_UNIT, "exportfs -s")
        for name, size in self.granted.items():
            (there,) = (
                mib for path, mib in sizes.items() if path.startswith(f"/srv/nfs/{name[1:]}_")
            )
            assert there > size * 1024 * 0.93, f"{name}: {size}G granted, {there}M there"
        assert f"/srv/nfs/{MOUNT[1:]}_" in exported, exported

    async def _images_are_whole(self) -> None:
        files = (await self.run(SERVER_UNIT, f"ls -A {STORAGE}")).split()
        names = sorted({file.partition(".")[0] for file in files})
        assert sorted(files) == [f"{name}.{end}" for name in names for end in ("img", "json")]
        assert len(names) == len(self.granted), (files, self.granted)
        for name in names:
            # While it is frozen its journal is empty and its file is what it is.
            await self.run(
                SERVER_UNIT,
                f"fsfreeze --freeze /srv/nfs/{name}; e2fsck -fn {STORAGE}/{name}.img; code=$?;"
                f" fsfreeze --unfreeze /srv/nfs/{name}; exit $code",
            )

    async def _next_hook_finds_nothing(self) -> None:
        """An update-status that comes now runs no command."""
        before = len(await self.substrate.hooks(SERVER_UNIT))
        async with self.hooks("1s"), asyncio.timeout(TIMEOUT_S):
            while len(await self.substrate.hooks(SERVER_UNIT)) < before + 1:
                await asyncio.sleep(0.1)
        lines = [line for line in await self.log() if line.startswith(f"{SERVER_TAG}: ")]
        event = "Emitting Juju event update_status"
        last = max(n for n, line in enumerate(lines) if event in line)
        ran = [line for line in lines[last:] if "running (" in line or " WARNING " in line]
        assert not ran, ran


async def begin(
    ops_test: Any, substrate: Any, charms: Mapping[str, Path], seed: int, **more: Any
) -> PowerCuts:
    """Deploy what the power is to be cut of; say the seed, whatever becomes of it."""

    async def log() -> list[str]:
        _, text, _ = await ops_test.juju("debug-log", "--replay", "--no-tail")
        return text.splitlines()

    cuts = PowerCuts(ops_test.model, substrate, charms, seed, ops_test.fast_forward, log, **more)
    cuts.say(f"seed: {seed}")
    await cuts.deploy()
    return cuts

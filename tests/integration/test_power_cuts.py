# SPDX-License-Identifier: Apache-2.0
"""The server's power is cut at random moments, while shares are made and grown and one is written.

A cut takes all that the machine had not handed to its disk. What is looked at afterwards is what
the disk has.
"""

import random
import re
import secrets
import shlex
import time
from dataclasses import dataclass, field

import pytest

from machines import machine_of
from story import APP, CLIENT, DEPLOY_TIMEOUT_S, MOUNT, SERVER, Story

pytestmark = [pytest.mark.slow, pytest.mark.needs("power")]
ROUNDS = 6
OTHER_CLIENT, OTHER_APP = "other-client", "other-app"
SERVER_UNIT, APP_UNIT = f"{SERVER}/0", f"{APP}/0"
ACKED = "/var/tmp/acked"  # noqa: S108 - on the client's machine, which is ours.
RUN_TIMEOUT_S = 180.0
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
    """The story, the chance, and what was promised so far."""

    story: Story
    chance: random.Random
    granted: dict[str, int] = field(default_factory=lambda: {MOUNT: 1, "/other": 1})
    """Sizes of the shares that have an endpoint, or had one."""

    def run(self, where: str, command: str) -> str:
        return self.story.run(where, command, timeout=RUN_TIMEOUT_S)

    def begin(self) -> None:
        """Deploy a server, a client that writes, and one that asks for ever more shares."""
        story = self.story
        story.deploy(SERVER)
        story.deploy(APP)
        for client, mountpoint in ((CLIENT, MOUNT), (OTHER_CLIENT, "/other")):
            story.deploy_client(client, mountpoint=mountpoint, share_name=mountpoint, size=1)
            story.juju.integrate(f"{client}:nfs-share", SERVER)
        story.juju.integrate(f"{CLIENT}:juju-info", APP)
        story.settle(APP, timeout=DEPLOY_TIMEOUT_S)
        place = machine_of(story.juju.status(), APP_UNIT)
        story.deploy(OTHER_APP, charm=APP, to=place, constraints=None)
        story.juju.integrate(f"{OTHER_CLIENT}:juju-info", OTHER_APP)
        self._settle()
        self.run(APP_UNIT, f"systemd-run --quiet --unit=writer python3 -c {shlex.quote(WRITER)}")
        story.until(APP_UNIT, f"test -s {ACKED}")

    def _settle(self) -> None:
        # A client that found the server dead says so until its next hook.
        with self.story.update_status_every("6s"):
            for client in CLIENT, OTHER_CLIENT:
                self.story.until_says(f"{client}/0", "active", timeout=DEPLOY_TIMEOUT_S)
        self.story.settle(SERVER, CLIENT, OTHER_CLIENT)

    def round(self, number: int) -> None:
        """Ask for a share or for a larger one, cut the power, and look at what is left."""
        name, size = self._ask(number)
        delay = self.chance.uniform(0, MAX_DELAY_S)
        time.sleep(delay)  # The moment is what is tried out.
        self.story.machines.power_cut(SERVER_UNIT)
        acked = int(self.run(APP_UNIT, f"cat {ACKED}"))
        self.story.machines.boot(SERVER_UNIT)
        self.run(SERVER_UNIT, f"python3 -c {shlex.quote(CHECK)} {acked}")
        # By its units alone; that the machine is up doesn't say that they have all started.
        self.story.until(SERVER_UNIT, f"exportfs -s | grep /srv/nfs/{MOUNT[1:]}_")
        self._shares_are_served()
        self.story.until(
            f"{OTHER_APP}/0",
            f"test $(df --block-size=1M --output=size /other | tail -n 1) -gt {size * 952}"
            f" && findmnt --noheadings --output SOURCE /other | grep {name[1:]}_",
        )
        self._settle()
        self.granted[name] = size
        self._shares_are_served()
        self._images_are_whole()
        self._next_hook_finds_nothing()
        self.story.until(APP_UNIT, f"[ $(cat {ACKED}) -gt {acked} ]")
        print(
            f"round {number}: {name} {size}G, cut after {delay:.2f} s:"
            f" {acked} records synced, all there"
        )

    def _ask(self, number: int) -> tuple[str, int]:
        """Ask for another share, or for more of the one there is."""
        name = list(self.granted)[-1]
        size = self.granted[name] + 1
        if size > MAX_SIZE or self.chance.random() < 0.5:
            self._make_room(name)
            name, size = f"/cut{number}", self.chance.randint(1, 2)
        self.story.configure(OTHER_CLIENT, share_name=name, size=size)
        return name, size

    def _make_room(self, keep: str) -> None:
        """Take away images that nobody asks for: the storage is to last for all rounds."""
        for name in [name for name in self.granted if name not in (MOUNT, keep)]:
            for action in "delete-share", "purge-share":
                task = self.story.act(SERVER_UNIT, action, share=name, confirm=name)
                assert task.success, task
            del self.granted[name]

    def _shares_are_served(self) -> None:
        """Every share is mounted, and as large as was granted; what is asked for is exported."""
        found = self.run(
            SERVER_UNIT, "df --block-size=1M --output=size,target --type=ext4 | grep /srv/nfs"
        )
        sizes = {target: int(mib) for mib, target in re.findall(r"(\d+) (\S+)", found)}
        exported = self.run(SERVER_UNIT, "exportfs -s")
        for name, size in self.granted.items():
            (there,) = (
                mib for path, mib in sizes.items() if path.startswith(f"/srv/nfs/{name[1:]}_")
            )
            assert there > size * 1024 * 0.93, f"{name}: {size}G granted, {there}M there"
        assert f"/srv/nfs/{MOUNT[1:]}_" in exported, exported

    def _images_are_whole(self) -> None:
        storage = self.story.storage(SERVER_UNIT)
        files = self.run(SERVER_UNIT, f"ls -A {storage}").split()
        names = sorted({file.partition(".")[0] for file in files})
        assert sorted(files) == [f"{name}.{end}" for name in names for end in ("img", "json")]
        assert len(names) == len(self.granted), (files, self.granted)
        for name in names:
            # While it is frozen its journal is empty and its file is what it is.
            self.run(
                SERVER_UNIT,
                f"fsfreeze --freeze /srv/nfs/{name}; e2fsck -fn {storage}/{name}.img; code=$?;"
                f" fsfreeze --unfreeze /srv/nfs/{name}; exit $code",
            )

    def _next_hook_finds_nothing(self) -> None:
        """An update-status that comes now runs no command."""
        self.story.update_status(SERVER_UNIT)
        lines = self.story.log(SERVER_UNIT)
        event = "Emitting Juju event update_status"
        last = max(n for n, line in enumerate(lines) if event in line)
        ran = [line for line in lines[last:] if "running (" in line or " WARNING " in line]
        assert not ran, ran


def test_power_cuts(story: Story):
    seed = secrets.randbits(32)
    print(f"seed: {seed}")
    cuts = PowerCuts(story, random.Random(seed))  # noqa: S311 - chance, not secrets.
    cuts.begin()
    for number in range(1, ROUNDS + 1):
        cuts.round(number)

# SPDX-License-Identifier: Apache-2.0
"""The main job from the first command to the last: told once, for the test suite and for the demo.

Every step asks the machines what is there (findmnt, df, exportfs, the files themselves), not the
charms what they believe, and raises AssertionError with what it saw instead of what it should.
"""

import asyncio
import re
import shlex
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MOUNT = "/data"
SERVER = "nfs-server"
CLIENT = "nfs-client"
APP = "my-app"
PACKAGES = ("nfs-common", "nfs-kernel-server")
"""What the charms install: the sandbox's machines have no other source of packages."""

DEPLOY_TIMEOUT_S = 900
SETTLE_TIMEOUT_S = 300


@dataclass
class Story:
    """The model, the machines, and what is remembered from one step to the next."""

    model: Any
    """libjuju's Model, or the sandbox's stand-in."""
    substrate: Any
    charms: Mapping[str, Path]
    """Packed charms by application name."""
    deploy_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    say: Callable[[str], None] = lambda _: None
    """Told of each command and what came back."""

    async def run(self, where: str, command: str, timeout: float = 120) -> str:
        """Run a command on a unit's machine; its output. It must succeed."""
        returncode, output = await self.try_to_run(where, command, timeout)
        assert returncode == 0, f"on {where}: {command}: exit status {returncode}: {output}"
        return output

    async def try_to_run(self, where: str, command: str, timeout: float = 120) -> tuple[int, str]:
        """Run a command on a unit's machine; exit status and all that it printed."""
        result = await self.substrate.run(where, command, timeout=timeout)
        output = (result.stdout + result.stderr).strip()
        self.say(f"{where}$ {command}\n{output}")
        return result.returncode, output

    async def settle(self, *applications: str, status: str = "active") -> None:
        """Wait until applications have no hooks left to run and are in a status."""
        await self.model.wait_for_idle(
            apps=list(applications), status=status, timeout=SETTLE_TIMEOUT_S, idle_period=1
        )

    async def deploy(self) -> None:
        """Deploy both charms and an application of two units; integrate them."""
        for name, units, config in (
            (SERVER, 1, {}),
            (APP, 2, {}),
            (CLIENT, 0, {"mountpoint": MOUNT, "share-name": MOUNT, "size": 1}),
        ):
            options = self.deploy_options if units else {}
            await self.model.deploy(
                self.charms[name], application_name=name, num_units=units, config=config, **options
            )
        await self.model.integrate(f"{CLIENT}:juju-info", f"{APP}:juju-info")
        await self.model.integrate(f"{CLIENT}:nfs-share", f"{SERVER}:nfs-share")
        await self.model.wait_for_idle(
            apps=[SERVER, APP, CLIENT], status="active", timeout=DEPLOY_TIMEOUT_S, idle_period=1
        )

    async def size(self, where: str) -> int:
        """Whole GiB of the file system at the mount point; ext4's own overhead rounded away."""
        text = await self.run(where, f"df --block-size=1M --output=size {MOUNT} | tail -n 1")
        return round(int(text) / 1024)


async def mounted_with_the_size_asked_for(story: Story) -> None:
    """Both clients have the share mounted, with the size that was asked for."""
    for unit in f"{APP}/0", f"{APP}/1":
        found = await story.run(unit, f"findmnt --noheadings --output FSTYPE,OPTIONS {MOUNT}")
        assert found.startswith("nfs4 "), found
        assert "hard" in found.split()[1].split(","), found
        assert await story.size(unit) == 1


async def written_on_one_read_on_the_other(story: Story) -> None:
    """A file that one client writes, the other reads."""
    await story.run(f"{APP}/0", f"echo 'from unit 0' > {MOUNT}/hello && sync {MOUNT}/hello")
    assert await story.run(f"{APP}/1", f"cat {MOUNT}/hello") == "from unit 0"


async def a_full_share_disturbs_nobody(story: Story) -> None:
    """A client that fills its share gets ENOSPC, and the server's own disk loses nothing."""
    free = "df --block-size=1M --output=avail / | tail -n 1"
    before = int(await story.run(f"{SERVER}/0", free))
    returncode, said = await story.try_to_run(
        f"{APP}/0", f"dd if=/dev/zero of={MOUNT}/filler bs=1M count=2048 conv=fsync", timeout=300
    )
    assert returncode != 0, "the share took more than its size"
    assert "No space left on device" in said, said
    after = int(await story.run(f"{SERVER}/0", free))
    assert before - after < 16, f"{before - after} MiB of the server's own disk are gone"
    await story.run(f"{APP}/0", f"rm {MOUNT}/filler && cat {MOUNT}/hello")


async def an_outsider_is_refused(story: Story) -> None:
    """A machine outside the allowlist can't mount the share; one in it can, the same way."""
    outsider = await story.substrate.bystander()
    source = await story.run(f"{APP}/0", f"findmnt --noheadings --output SOURCE {MOUNT}")
    address = source.partition(":")[0]
    # The kernel's own mount, without mount.nfs: the outsider has no NFS packages. By mount(2), as
    # for fsconfig(2), mount(8) shows what the kernel logged, and that is the same for any error.
    command = (
        "mkdir -p /mnt/other && modprobe nfsv4 && LIBMOUNT_FORCE_MOUNT2=always timeout 60"
        f" mount --rw -i -t nfs4 -o vers=4.2,addr={address} {shlex.quote(source)} /mnt/other"
    )
    await story.run(f"{APP}/1", f"{command} && umount /mnt/other")
    result = await outsider.run(command, timeout=90)
    assert result.returncode != 0, "a machine outside the allowlist mounted the share"
    # What mount(8) makes of EACCES, by its version.
    assert re.search("permission denied|write-protected", result.stderr), result.stderr
    said = result.stderr.strip()
    story.say(f"outsider$ {command}\n{said}\n# mount(8)'s words for EACCES, permission denied")


async def it_grows_under_a_writer(story: Story) -> None:
    """The share is grown while a client goes on writing, without one error."""
    writer = (
        f"while echo line >> {MOUNT}/log && sync {MOUNT}/log; do sleep 0.05; done 2> /tmp/errors"
    )
    await story.run(
        f"{APP}/0", f"systemd-run --quiet --unit=writer /bin/sh -c {shlex.quote(writer)}"
    )
    lines = f"wc -l < {MOUNT}/log"
    await story.model.applications[CLIENT].set_config({"size": "2"})
    await story.settle(SERVER, CLIENT)
    assert await story.size(f"{APP}/1") == 2
    so_far = int(await story.run(f"{APP}/0", lines))
    await story.run(
        f"{APP}/0", f"timeout 60 sh -c 'until [ $({lines}) -gt {so_far} ]; do sleep 0.1; done'"
    )
    await story.run(f"{APP}/0", "systemctl is-active writer && test ! -s /tmp/errors")
    await story.run(f"{APP}/0", "systemctl stop writer")


async def the_server_reboots(story: Story) -> None:
    """The server's machine is rebooted; the mount works again, with the same data and no hook."""
    digest = f"cat {MOUNT}/hello {MOUNT}/log | sha256sum"
    before = await story.run(f"{APP}/0", digest)
    await story.substrate.reboot(f"{SERVER}/0")
    # A server that has just started lets nobody open a file before every client of before is
    # back. An idle one is when it renews its lease (RFC 8881, section 8.4.2), and reads what it
    # has a delegation for without the server: so both write.
    units = f"{APP}/0", f"{APP}/1"
    write = f"echo again > {MOUNT}/$(hostname) && sync {MOUNT}/$(hostname)"
    await asyncio.gather(*(story.run(unit, write, timeout=180) for unit in units))
    assert [await story.run(unit, digest) for unit in units] == [before, before]


async def unrelated_and_related_again(story: Story) -> None:
    """Without its integration the client unmounts; with it, the same data is there again."""
    server = story.model.applications[SERVER]
    await server.destroy_relation("nfs-share", f"{CLIENT}:nfs-share")
    await story.settle(CLIENT, status="blocked")
    await story.settle(SERVER)
    await _is_gone(story)
    await story.model.integrate(f"{CLIENT}:nfs-share", f"{SERVER}:nfs-share")
    await story.settle(SERVER, CLIENT)
    assert await story.run(f"{APP}/1", f"cat {MOUNT}/hello") == "from unit 0"


async def removed_and_the_data_stays(story: Story) -> None:
    """The client is removed: unmounted, unexported; its data is kept."""
    image = "ls --size --block-size=1 /var/lib/juju/storage/shares/0/*.img"
    kept = await story.run(f"{SERVER}/0", image)
    await story.model.remove_application(CLIENT, block_until_done=True)
    await story.settle(SERVER)
    await _is_gone(story)
    assert await story.run(f"{SERVER}/0", image) == kept
    assert await story.run(f"{SERVER}/0", "cat /srv/nfs/*/hello") == "from unit 0"


async def _is_gone(story: Story) -> None:
    for unit in f"{APP}/0", f"{APP}/1":
        await story.run(unit, f"! findmnt {MOUNT} && ls -d {MOUNT} 2>&1 | grep 'No such file'")
    assert await story.run(f"{SERVER}/0", "exportfs -v") == ""


Step = Callable[[Story], Awaitable[None]]

STEPS: tuple[Step, ...] = (
    mounted_with_the_size_asked_for,
    written_on_one_read_on_the_other,
    a_full_share_disturbs_nobody,
    an_outsider_is_refused,
    it_grows_under_a_writer,
    the_server_reboots,
    unrelated_and_related_again,
    removed_and_the_data_stays,
)

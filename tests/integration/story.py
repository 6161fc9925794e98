# SPDX-License-Identifier: Apache-2.0
"""The main job from the first command to the last: told once, for the test suite and for the demo.

Every step asks the machines what is there (findmnt, df, exportfs, the files themselves), not the
charms what they believe, and raises AssertionError with what it saw instead of what it should.
"""

import base64
import re
import shlex
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jubilant
from jubilant.statustypes import UnitStatus

MOUNT = "/data"
SERVER = "nfs-server"
CLIENT = "nfs-client"
APP = "my-app"

DEPLOY_TIMEOUT_S = 900.0
SETTLE_TIMEOUT_S = 300.0
RUN_TIMEOUT_S = 120.0
# Ubuntu's own, snaps for one, are no affair of ours.
LOOPS = "losetup --noheadings --list --output BACK-FILE | sed '/^.var.lib.snapd/d'"
NOTHING_FAILED = "! systemctl list-units --failed --plain --no-legend | grep -E 'nfs|rpc|[.]mount'"
POLL_S = 0.25
UNTIL_TRIES = 20
STATUS_INTERVAL = "update-status-hook-interval"


@dataclass(frozen=True)
class Story:
    """A model in which the charms are, and its machines.

    Between a change and its hook, units are idle: wait for the effect (`until`, `becomes`,
    `until_says`), not for units that have nothing to do.
    """

    juju: jubilant.Juju
    machines: Any
    """One of machines.py: what Juju has no word for."""
    charms: Mapping[str, Path]
    """Packed charms by application name."""
    placement: Callable[[int], Mapping[str, Any]] = lambda _: {}
    """The options of `deploy` that give so many units machines that can serve NFS."""
    pool: str = ""
    """The storage pool of disks that have the size that is asked for; empty: Juju's default."""
    say: Callable[[str], None] = lambda _: None
    """Told of each command and what came back."""

    # Machines

    def run(self, where: str, command: str, timeout: float = RUN_TIMEOUT_S) -> str:
        """Run a command on a unit's machine as root; its output. It must succeed."""
        returncode, output = self.try_to_run(where, command, timeout)
        assert returncode == 0, f"on {where}: {command}: exit status {returncode}: {output}"
        return output

    def try_to_run(
        self, where: str, command: str, timeout: float = RUN_TIMEOUT_S
    ) -> tuple[int, str]:
        """Run a command on a unit's machine as root; exit status and all that it printed."""
        shell = f"sudo timeout {timeout:.0f} /bin/sh -c {shlex.quote(command)}"
        try:
            returncode, output = 0, self.juju.ssh(where, f"{shell} 2>&1")
        except jubilant.CLIError as error:
            returncode, output = error.returncode, error.stdout + error.stderr
        self.say(f"{where}$ {command}\n{output.strip()}")
        return returncode, output.strip()

    def python(self, where: str, program: str, prefix: str = "") -> str:
        """Run a Python program on a unit's machine as root, by a command; what it printed."""
        encoded = base64.b64encode(program.encode()).decode()
        code = f"import base64; exec(base64.b64decode('{encoded}'))"
        return self.run(where, f'{prefix} /usr/bin/python3 -c "{code}"')

    def until(self, where: str, command: str, timeout: float = SETTLE_TIMEOUT_S) -> None:
        """Wait until a command succeeds on a unit's machine."""
        deadline = time.monotonic() + timeout
        # There, as each ssh costs more than most commands; anew, as the machine may go.
        each = f"do ({command}) && exit; sleep {POLL_S}; done"
        tries = f"for n in $(seq {UNTIL_TRIES}); {each}; false"
        while (found := self.try_to_run(where, tries))[0] != 0:
            assert time.monotonic() < deadline, f"on {where}, in vain: {command}: {found[1]}"
            time.sleep(POLL_S)

    def size(self, where: str, path: str = MOUNT) -> int:
        """Whole GiB of the file system at a mount point; ext4's own overhead rounded away."""
        text = self.run(where, f"df --block-size=1M --output=size {path} | tail -n 1")
        return round(int(text) / 1024)

    def storage(self, unit: str, name: str = "shares") -> str:
        """Return where a unit's storage is: Juju 4 names it otherwise than 3.6."""
        get = f"storage-get -s $(storage-list {name}) location"
        return self.juju.exec(get, unit=unit).stdout.strip()

    # The model

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self.juju.model).rpartition(":")[2]

    def unit(self, name: str) -> UnitStatus:
        """Return a unit's status, a subordinate's too."""
        return units(self.juju.status())[name]

    def message(self, unit: str) -> str:
        """Return what a unit says."""
        return self.unit(unit).workload_status.message

    def app_message(self, app: str = SERVER) -> str:
        """Return what an application says."""
        return self.juju.status().apps[app].app_status.message

    def leader(self, app: str = SERVER) -> str:
        """Return the unit that leads an application; empty between two leaders."""
        its = self.juju.status().get_units(app)
        return next((name for name, unit in its.items() if unit.leader), "")

    def settle(
        self, *apps: str, status: str = "active", timeout: float = SETTLE_TIMEOUT_S
    ) -> None:
        """Wait until all units of applications are in a status, and have no hooks left to run."""

        def is_settled(found: jubilant.Status) -> bool:
            its = [unit for name, unit in units(found).items() if name.partition("/")[0] in apps]
            return all(app in found.apps for app in apps) and all(
                (unit.workload_status.current, unit.juju_status.current) == (status, "idle")
                for unit in its
            )

        self.juju.wait(is_settled, delay=POLL_S, timeout=timeout)

    def until_says(
        self, unit: str, status: str, says: str = "", timeout: float = SETTLE_TIMEOUT_S
    ) -> str:
        """Wait for a unit's status and for a part of its message; the message."""

        def does(found: jubilant.Status) -> bool:
            its = units(found).get(unit)
            return (
                its is not None
                and its.workload_status.current == status
                and says in its.workload_status.message
            )

        found = self.juju.wait(does, delay=POLL_S, timeout=timeout, successes=1)
        return units(found)[unit].workload_status.message

    def deploy(
        self, app: str, units: int = 1, *, charm: str = "", disk: str = "", **options: Any
    ) -> None:
        """Deploy a principal charm, that of the application's name or another.

        Args:
            app: name of the application.
            units: how many.
            charm: its charm, if that has another name.
            disk: the size of a disk of its own for the shares of each unit.
            options: of jubilant's `deploy`.
        """
        path = self.charms[charm or app]
        if disk:
            options["storage"] = {"shares": f"{self.pool},{disk}" if self.pool else disk}
        self.juju.deploy(path, app, num_units=units, **{**self.placement(units), **options})

    def add_unit(self, app: str, **options: Any) -> None:
        """Add a unit, on a machine as the others' are."""
        place = {key: it for key, it in self.placement(1).items() if key == "to"}
        self.juju.add_unit(app, **place, **options)

    def deploy_client(self, app: str = CLIENT, **config: str | int) -> None:
        """Deploy nfs-client, which has the units of what it is integrated with."""
        options = {name.replace("_", "-"): value for name, value in config.items()}
        self.juju.deploy(self.charms[CLIENT], app, config=options)

    def configure(self, app: str, **options: str | int) -> None:
        """Set options of an application."""
        self.juju.config(app, {name.replace("_", "-"): it for name, it in options.items()})

    def integrate(self, client: str = CLIENT, app: str = APP) -> None:
        """Integrate a client with the server and with an application, whichever is still to be."""
        for one, other in (f"{client}:nfs-share", SERVER), (f"{client}:juju-info", app):
            self.juju.integrate(one, other)

    def separate(self, client: str = CLIENT) -> None:
        """Remove a client's integration with the server."""
        self.juju.remove_relation(f"{client}:nfs-share", SERVER)

    def rejoin(self, client: str = CLIENT) -> None:
        """Integrate a client with the server again, once its removed integration is gone."""

        def is_gone(found: jubilant.Status) -> bool:
            related = found.apps[SERVER].relations.get("nfs-share", ())
            return all(it.related_app != client for it in related)

        self.juju.wait(is_gone, delay=POLL_S, timeout=SETTLE_TIMEOUT_S, successes=1)
        self.juju.integrate(f"{client}:nfs-share", SERVER)

    def act(self, unit: str, action: str, /, **params: Any) -> jubilant.Task:
        """Run an action to its end, which may be that it failed."""
        try:
            return self.juju.run(unit, action, params, wait=SETTLE_TIMEOUT_S)
        except jubilant.TaskError as error:
            return error.task

    def gone(self, unit: str, timeout: float = SETTLE_TIMEOUT_S) -> None:
        """Wait until a unit is gone."""
        self.juju.wait(lambda found: unit not in units(found), delay=POLL_S, timeout=timeout)

    @contextmanager
    def update_status_every(self, interval: str) -> Generator[None, None, None]:
        """Let update-status come often for a while."""
        before = self.juju.model_config()[STATUS_INTERVAL]
        self.juju.model_config({STATUS_INTERVAL: interval})
        yield
        self.juju.model_config({STATUS_INTERVAL: before})

    def log(self, unit: str) -> list[str]:
        """Return the debug log of a unit."""
        name = f"unit-{unit.replace('/', '-')}"
        options = ["--replay", "--no-tail", "--level", "DEBUG", "--include", name]
        return self.juju.cli("debug-log", *options).splitlines()

    def ran(self, unit: str, event: str) -> int:
        """Return how often a unit ran an event, upgrade_charm for one, as its debug log has it."""
        return sum(f"Emitting Juju event {event}." in line for line in self.log(unit))

    def update_status(self, *units: str, times: int = 1) -> None:
        """Let update-status come on units, so many times each."""
        wanted = {unit: self.ran(unit, "update_status") + times for unit in units}
        with self.update_status_every("2s"):
            for unit, count in wanted.items():
                becomes(lambda u=unit, n=count: self.ran(u, "update_status") >= n, expected=True)

    def refresh(self, app: str, unit: str, charm: Path) -> None:
        """Give an application of one unit another charm; its unit has it afterwards."""
        wanted = self.ran(unit, "upgrade_charm") + 1
        self.juju.refresh(app, path=charm)
        becomes(lambda: self.ran(unit, "upgrade_charm"), wanted)

    # The beginning

    def begin(self) -> None:
        """Deploy both charms and an application of two units; integrate them."""
        self.deploy(SERVER)
        self.deploy(APP, 2)
        self.deploy_client(mountpoint=MOUNT, share_name=MOUNT, size=1)
        self.integrate()
        self.settle(SERVER, APP, CLIENT, timeout=DEPLOY_TIMEOUT_S)


def units(status: jubilant.Status) -> dict[str, UnitStatus]:
    """Return every unit of a model by its name, subordinates too."""
    found: dict[str, UnitStatus] = {}
    for app in status.apps.values():
        for name, unit in app.units.items():
            found |= {name: unit, **unit.subordinates}
    return found


def becomes(
    ask: Callable[[], object], expected: object, timeout: float = SETTLE_TIMEOUT_S
) -> None:
    """Wait until something is what it should be."""
    deadline = time.monotonic() + timeout
    while (found := ask()) != expected:
        assert time.monotonic() < deadline, f"{found!r}, not {expected!r}"
        time.sleep(POLL_S)


def together(*calls: Callable[[], object]) -> list[Any]:
    """Do things at the same time; what each returned."""
    with ThreadPoolExecutor(len(calls)) as threads:
        return [it.result() for it in [threads.submit(call) for call in calls]]


def mounted_with_the_size_asked_for(story: Story) -> None:
    """Both clients have the share mounted, with the size that was requested."""
    for unit in f"{APP}/0", f"{APP}/1":
        found = story.run(unit, f"findmnt --noheadings --output FSTYPE,OPTIONS {MOUNT}")
        assert found.startswith("nfs4 "), found
        assert "hard" in found.split()[1].split(","), found
        assert story.size(unit) == 1


def written_on_one_read_on_the_other(story: Story) -> None:
    """A file that one client writes, the other reads."""
    story.run(f"{APP}/0", f"echo 'from unit 0' > {MOUNT}/hello && sync {MOUNT}/hello")
    assert story.run(f"{APP}/1", f"cat {MOUNT}/hello") == "from unit 0"


def a_full_share_disturbs_nobody(story: Story) -> None:
    """A client that fills its share gets ENOSPC, and the server's own disk loses nothing."""
    free = "df --block-size=1M --output=avail / | tail -n 1"
    before = int(story.run(f"{SERVER}/0", free))
    returncode, said = story.try_to_run(
        f"{APP}/0", f"dd if=/dev/zero of={MOUNT}/filler bs=1M count=2048 conv=fsync", timeout=300
    )
    assert returncode != 0, "the share took more than its size"
    assert "No space left on device" in said, said
    after = int(story.run(f"{SERVER}/0", free))
    assert before - after < 16, f"{before - after} MiB of the server's own disk are gone"
    story.run(f"{APP}/0", f"rm {MOUNT}/filler && cat {MOUNT}/hello")


def an_outsider_is_refused(story: Story) -> None:
    """A machine outside the allowlist can't mount the share; one in it can, the same way."""
    outsider = story.machines.outsider()
    source = story.run(f"{APP}/0", f"findmnt --noheadings --output SOURCE {MOUNT}")
    address = source.partition(":")[0]
    # The kernel's own mount, without mount.nfs: the outsider has no NFS packages. By mount(2), as
    # for fsconfig(2), mount(8) shows what the kernel logged, and that is the same for any error.
    command = (
        "mkdir -p /mnt/other && modprobe nfsv4 && LIBMOUNT_FORCE_MOUNT2=always timeout 60"
        f" mount --rw -i -t nfs4 -o vers=4.2,addr={address} {shlex.quote(source)} /mnt/other"
    )
    story.run(f"{APP}/1", f"{command} && umount /mnt/other")
    returncode, said = outsider.run(command)
    assert returncode != 0, "a machine outside the allowlist mounted the share"
    # What mount(8) makes of EACCES, by its version.
    assert re.search("permission denied|write-protected", said), said
    story.say(f"outsider$ {command}\n{said}\n# mount(8)'s words for EACCES, permission denied")


def it_grows_under_a_writer(story: Story) -> None:
    """The share is grown while a client goes on writing, without one error."""
    writer = (
        f"while echo line >> {MOUNT}/log && sync {MOUNT}/log; do sleep 0.05; done 2> /tmp/errors"
    )
    story.run(f"{APP}/0", f"systemd-run --quiet --unit=writer /bin/sh -c {shlex.quote(writer)}")
    lines = f"wc -l < {MOUNT}/log"
    story.configure(CLIENT, size=2)
    becomes(lambda: story.size(f"{APP}/1"), 2)
    so_far = int(story.run(f"{APP}/0", lines))
    story.until(f"{APP}/0", f"[ $({lines}) -gt {so_far} ]", timeout=60)
    story.run(f"{APP}/0", "systemctl is-active writer && test ! -s /tmp/errors")
    story.run(f"{APP}/0", "systemctl stop writer")
    story.settle(SERVER, CLIENT)


def the_server_reboots(story: Story) -> None:
    """The server's machine is rebooted; the mount works again, with the same data and no hook."""
    digest = f"cat {MOUNT}/hello {MOUNT}/log | sha256sum"
    before = story.run(f"{APP}/0", digest)
    story.machines.reboot(f"{SERVER}/0")
    # A server that has just started lets nobody open a file before every client of before is
    # back. An idle one is when it renews its lease (RFC 8881, section 8.4.2), and reads what it
    # has a delegation for without the server: so both write.
    write = f"echo again > {MOUNT}/$(hostname) && sync {MOUNT}/$(hostname)"
    together(
        lambda: story.run(f"{APP}/0", write, timeout=180),
        lambda: story.run(f"{APP}/1", write, timeout=180),
    )
    assert [story.run(f"{APP}/{number}", digest) for number in (0, 1)] == [before, before]


def unrelated_and_related_again(story: Story) -> None:
    """Without its integration the client unmounts; with it, the same data is there again."""
    story.separate()
    _is_gone(story)
    story.settle(CLIENT, status="blocked")
    story.rejoin()
    story.until(f"{APP}/1", f"grep 'from unit 0' {MOUNT}/hello")
    story.settle(SERVER, CLIENT)


def removed_and_the_data_stays(story: Story) -> None:
    """The client is removed: unmounted, unexported; its data is kept."""
    image = f"ls --size --block-size=1 {story.storage(f'{SERVER}/0')}/*.img"
    kept = story.run(f"{SERVER}/0", image)
    story.juju.remove_application(CLIENT)
    for number in 0, 1:
        story.gone(f"{CLIENT}/{number}")
    _is_gone(story)
    story.settle(SERVER)
    assert story.run(f"{SERVER}/0", image) == kept
    assert story.run(f"{SERVER}/0", "cat /srv/nfs/*/hello") == "from unit 0"


def _is_gone(story: Story) -> None:
    for unit in f"{APP}/0", f"{APP}/1":
        story.until(unit, f"! findmnt {MOUNT} && ls -d {MOUNT} 2>&1 | grep 'No such file'")
    story.until(f"{SERVER}/0", 'test -z "$(exportfs -v)"')


Step = Callable[[Story], None]

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

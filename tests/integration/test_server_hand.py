# SPDX-License-Identifier: Apache-2.0
"""Another hand on the server's machine, the operator's settings, and space that is promised.

What a client can do is asked on the client, what the machine does of the machine.
"""

import asyncio
import base64
import json
import re
import shlex
from collections.abc import AsyncGenerator, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import pytest_asyncio

from pages import indented, juju
from story import APP, CLIENT, DEPLOY_TIMEOUT_S, MOUNT, SERVER, SETTLE_TIMEOUT_S, Story

SERVER_UNIT, APP_UNIT = f"{SERVER}/0", f"{APP}/0"
STORAGE = "/var/lib/juju/storage/shares/0"
SIZE = "4"
BLOCKS = int(SIZE) << 21  # Of 512 bytes.
UNITS = "/etc/systemd/system"
REPOSITORY = Path(__file__).resolve().parent.parent.parent
STARTED = "systemctl show --property ActiveEnterTimestampMonotonic nfs-server"


async def _until(story: Story, where: str, command: str) -> None:
    """Wait until a command succeeds on a unit's machine."""
    async with asyncio.timeout(SETTLE_TIMEOUT_S):
        while (await story.try_to_run(where, command))[0] != 0:
            await asyncio.sleep(0.5)


async def _until_status(story: Story, status: str, says: str = "") -> None:
    """Wait for a status while update-status fires all the time, so that nothing is ever idle."""
    async with asyncio.timeout(SETTLE_TIMEOUT_S):
        unit = story.model.units[SERVER_UNIT]
        while unit.workload_status != status or says not in unit.workload_status_message:
            await asyncio.sleep(0.5)
            unit = story.model.units[SERVER_UNIT]


async def _configure(story: Story, *, status: str = "active", **options: str) -> None:
    await story.model.applications[SERVER].set_config(
        {name.replace("_", "-"): value for name, value in options.items()}
    )
    await story.settle(SERVER, status=status)


async def _request(story: Story, **options: str) -> None:
    await story.model.applications[CLIENT].set_config(
        {name.replace("_", "-"): value for name, value in options.items()}
    )
    await story.settle(SERVER)
    await story.settle(CLIENT)


def _message(story: Story) -> str:
    return story.model.units[SERVER_UNIT].workload_status_message


FIRST, *OTHERS = indented((REPOSITORY / "README.md").read_text())
(PACKED,) = ([line for line in it if "juju " in line] for it in OTHERS if "charmcraft" in it[0])


async def _type(story: Story, ops_test: Any, command: str) -> None:
    returncode, printed = await juju(story, ops_test, command)
    assert returncode == 0, f"{command}: {printed}"


@pytest.mark.abort_on_fail
@pytest.mark.skip_if_deployed
async def test_the_commands_of_the_readme(
    story: Story, ops_test: Any, deploy_options: Mapping[str, Any], app_charm: Path
):
    """Those for charms that were packed by hand, and a disk; test_readme.py has the first ones."""
    await story.model.deploy(app_charm, application_name=APP, **deploy_options)
    for command in PACKED + FIRST[2:]:
        await _type(story, ops_test, command)
    await story.model.wait_for_idle(status="active", timeout=DEPLOY_TIMEOUT_S, idle_period=1)
    assert await story.size(APP_UNIT) == 2
    assert _message(story) == "", "the shares are on the root disk"
    await _request(story, size=SIZE)
    assert await story.size(APP_UNIT) == int(SIZE)


def _readable(story: Story) -> str:
    """What the names of the files of the client's share begin with: that of model and client."""
    return re.sub("[^a-z0-9]+", "_", f"{story.model.name}/{CLIENT}".lower())[:24]


@pytest_asyncio.fixture
async def often(ops_test: Any) -> AsyncGenerator[None, None]:
    """Let update-status come at once."""
    async with ops_test.fast_forward("4s"):
        yield


HANDS = {
    # What is done: the command, how one sees that it is mended, what is logged.
    "exports widened": (
        "sed -i -E 's/no_root_squash/insecure,no_root_squash/; s/ [0-9.]+$/ */' /etc/exports"
        " && echo '/mnt 192.0.2.1(ro)' >> /etc/exports && exportfs -ra"
        " && exportfs -v | grep world",
        "! exportfs -v | grep -E 'world|insecure'"
        " && exportfs -v | grep -A 1 '^/mnt' && grep '^/mnt 192' /etc/exports.d/*",
        "",
    ),
    "exports removed": ("rm /etc/exports; exportfs -ra; true", "test -e /etc/exports", ""),
    "unexported": ("exportfs -ua", "exportfs -v | grep /srv/nfs", "exportfs's table is not"),
    "exported by hand": (
        "exportfs -o rw,no_root_squash '*':/srv/nfs/$(ls /srv/nfs)",
        "! exportfs -v | grep world",
        "exportfs's table is not",
    ),
    "server stopped": (
        "systemctl disable --now nfs-server",
        "systemctl is-active nfs-server && systemctl is-enabled nfs-server",
        "nfs-server.service did not run",
    ),
    "image unmounted": (
        "systemctl stop nfs-server && umount /srv/nfs/*",
        "findmnt /srv/nfs/* && systemctl is-active nfs-server",
        "nfs-server.service did not run",  # It wants the mount: systemd mounts it before.
    ),
    "mount unit edited": (
        f"sed -i s/nosuid/suid/ {UNITS}/srv-nfs-*.mount",
        f"grep nosuid {UNITS}/srv-nfs-*.mount",
        "",
    ),
    "mount unit removed": (
        f"rm {UNITS}/srv-nfs-*.mount && systemctl daemon-reload",
        f"grep nosuid {UNITS}/srv-nfs-*.mount",
        "",
    ),
    "settings edited": (
        "sed -i s/vers4.0=n/vers4.0=y/ /etc/nfs.conf.d/nfs-server-charm.conf"
        " && systemctl restart nfs-server && ! grep -e -4.0 /proc/fs/nfsd/versions",
        "grep -e -4.0 /proc/fs/nfsd/versions && systemctl is-active nfs-server",
        "",
    ),
    "threads taken away": ("echo 1 > /proc/fs/nfsd/threads", "grep 8 /proc/fs/nfsd/threads", ""),
    "udev rule removed": (
        "rm /etc/udev/rules.d/61-nfs-share-loop.rules",
        "test -e /etc/udev/rules.d/61-nfs-share-loop.rules",
        "",
    ),
    "space given back": (
        f"fallocate --dig-holes --offset 1GiB --length 1GiB {STORAGE}/*.img"
        f" && test $(stat -c %b {STORAGE}/*.img) -lt {BLOCKS}",
        f"test $(stat -c %b {STORAGE}/*.img) -ge {BLOCKS}",
        "some of its space was freed",
    ),
    "package removed": (
        "apt-get -qq --yes remove nfs-kernel-server && ! test -e /usr/sbin/exportfs",
        "systemctl is-active nfs-server",
        "",
    ),
}


@pytest.mark.parametrize("hand", HANDS)
async def test_a_hand_on_the_machine(story: Story, ops_test: Any, hand: str):
    harm, mended, logged = HANDS[hand]
    await story.settle(SERVER)  # No hook is to come in between.
    await story.run(SERVER_UNIT, "exportfs -s | grep /srv/nfs > /tmp/before")
    await story.run(SERVER_UNIT, harm)
    async with ops_test.fast_forward("4s"):
        await _until(
            story, SERVER_UNIT, f"{mended} && exportfs -s | grep /srv/nfs | diff - /tmp/before"
        )
    written = f"{MOUNT}/{hand.replace(' ', '-')}"
    await story.run(APP_UNIT, f"echo {hand} > {written} && sync {written}")
    await story.run(SERVER_UNIT, f"grep '{hand}' /srv/nfs/*/{Path(written).name}")
    _, log, _ = await ops_test.juju("debug-log")
    assert logged in log


@pytest.mark.usefixtures("often")
async def test_what_cannot_be_put_right_is_in_the_status(story: Story):
    """It is not the charm's to take away what it did not put there."""
    other = "/etc/exports.d/other.exports"
    await story.run(SERVER_UNIT, f'echo "$(ls -d /srv/nfs/*) *(rw)" > {other} && exportfs -ra')
    await _until_status(story, "blocked", "is exported to *, not by this charm")
    await story.run(SERVER_UNIT, f"rm {other}")
    await _until_status(story, "active")
    assert "world" not in await story.run(SERVER_UNIT, "exportfs -v")
    await story.run(SERVER_UNIT, "systemctl stop nfs-server && systemctl mask nfs-server")
    await _until_status(story, "blocked", "The NFS server does not run: see journalctl")
    await story.run(SERVER_UNIT, "systemctl unmask nfs-server")
    await _until_status(story, "active")
    await story.run(APP_UNIT, f"echo again > {MOUNT}/again && sync {MOUNT}/again")


async def test_threads_change_without_a_restart(story: Story):
    before = await story.run(SERVER_UNIT, STARTED)
    await _configure(story, threads="3")
    assert await story.run(SERVER_UNIT, "cat /proc/fs/nfsd/threads") == "3"
    assert await story.run(SERVER_UNIT, STARTED) == before


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("threads", "-1", "threads -1: use 1 to 1024, or 0 for a number that fits the machine"),
        ("squash", "x,insecure", "squash 'x,insecure': use none, root, all"),
        ("overcommit-ratio", "0.5", "overcommit-ratio 0.5: use a number from 1 to 100"),
    ],
)
async def test_a_bad_setting_changes_nothing(story: Story, option: str, value: str, says: str):
    before = await story.run(SERVER_UNIT, "exportfs -s; cat /etc/exports /etc/nfs.conf.d/*")
    await _configure(story, status="blocked", **{option: value})
    assert _message(story) == says
    found = await story.run(SERVER_UNIT, "exportfs -s; cat /etc/exports /etc/nfs.conf.d/*")
    assert found == before
    assert await story.run(SERVER_UNIT, "cat /proc/fs/nfsd/threads") == "3"
    good = {"threads": "3", "squash": "none", "overcommit-ratio": "1"}
    await _configure(story, **{option: good[option]})


async def test_squash(story: Story):
    started = await story.run(SERVER_UNIT, STARTED)
    await story.run(APP_UNIT, f"mkdir --mode=1777 {MOUNT}/all")
    write = f"rm -f {MOUNT}/all/file && touch {MOUNT}/all/file && stat -c %u {MOUNT}/all/file"
    assert await story.run(APP_UNIT, write) == "0"
    as_daemon = f"setpriv --reuid=1 --clear-groups --regid=1 sh -c '{write}'"
    for squash, root, daemon in (("root", "65534", "1"), ("all", "65534", "65534")):
        await _configure(story, squash=squash)
        await story.run(SERVER_UNIT, "rm -f /srv/nfs/*/all/file")
        assert await story.run(APP_UNIT, write) == root
        await story.run(SERVER_UNIT, "rm -f /srv/nfs/*/all/file")
        assert await story.run(APP_UNIT, as_daemon) == daemon
    await _configure(story, squash="none")
    await story.run(SERVER_UNIT, "rm -f /srv/nfs/*/all/file")
    assert await story.run(APP_UNIT, write) == "0"
    assert await story.run(SERVER_UNIT, STARTED) == started


async def _listening(story: Story) -> set[str]:
    """Ports that the server's machine can be reached on."""
    said = await story.run(SERVER_UNIT, "ss -Hltun | grep -v -e '127.0.0.1:' -e '\\[::1\\]:'")
    return set(re.findall(r":(\d+) ", said))


async def test_nfsv3(story: Story):
    v3 = {"111", "20048", "32765", "32768"}
    before = await _listening(story)
    assert "2049" in before
    assert not before & v3
    source = await story.run(APP_UNIT, f"findmnt --noheadings --output SOURCE {MOUNT}")
    mount = (
        f"mkdir -p /mnt/v3 && timeout 60 mount -t nfs -o vers=3,nolock,retry=0 {source} /mnt/v3"
    )
    assert (await story.try_to_run(APP_UNIT, mount))[0] != 0
    await _configure(story, nfsv3="true")
    await story.run(APP_UNIT, f"{mount} && echo three > /mnt/v3/three && umount /mnt/v3")
    assert await story.run(APP_UNIT, f"cat {MOUNT}/three", timeout=180) == "three"
    assert await _listening(story) == before | v3
    await _configure(story, nfsv3="false")
    assert await _listening(story) == before
    assert (await story.try_to_run(APP_UNIT, mount))[0] != 0
    assert await story.run(APP_UNIT, f"cat {MOUNT}/three", timeout=180) == "three"


CHARM = "/var/lib/juju/agents/unit-nfs-server-0/charm"
# Renders what clients ask for with the packed charm's own code, as far as it lets them.
RENDER = """
import json, random, sys, uuid
from ipaddress import ip_network
from pathlib import Path
import exports
from charms.storage_libs.v0.nfs_interfaces import parse_allowlist, parse_name
from values import Export

def accepted(parse, texts):
    for text in texts:
        try:
            yield parse(text)
        except ValueError:
            pass

chance = random.Random(2049)
corpus = json.load(open("/run/corpus.json"))
letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/._:@+-"
drawn = ("".join(chance.choices(letters, k=chance.randint(1, 128))) for _ in range(1200))
names = dict.fromkeys([*accepted(parse_name, [*corpus, *drawn]), *map(str, range(len(corpus)))])
allowlists = [networks for networks in accepted(parse_allowlist, corpus) if networks]

def network():
    bits = chance.choice((32, 128))
    prefix = chance.randint(0, bits)
    address = (chance.getrandbits(bits) >> (bits - prefix)) << (bits - prefix)
    return f"{ip_network((address, bits)).network_address}/{prefix}"

wanted = []
for name in names:
    drawn = ",".join(network() for _ in range(chance.randint(1, 5)))
    networks = allowlists.pop() if allowlists else parse_allowlist(drawn)
    wanted.append(Export(name, str(uuid.UUID(int=chance.getrandbits(128))), networks))
Path("/run/corpus.exports").write_text(exports.render(wanted, "none"))
Path("/run/corpus.paths").write_text("".join(f"{it.path}\\n" for it in wanted))
meant = {str(it.path): (it.uuid, sorted(map(str, it.networks))) for it in wanted}
json.dump(meant, sys.stdout)
"""
# exportfs reads them where nobody else does, and says what it has read.
READ_BACK = (
    "mount -t tmpfs none /srv/nfs && mount -t tmpfs none /var/lib/nfs"
    " && mount -t tmpfs none /etc/exports.d"
    " && mount --bind /run/corpus.exports /etc/exports && xargs mkdir < /run/corpus.paths"
    " && exportfs -ra && exportfs -s"
)


async def test_exportfs_reads_what_was_meant(story: Story):
    """A corpus of injections, and a thousand names that are allowed: no other path, host, option.

    What exportfs reads is compared with what the charm let in, parsed by Python's ipaddress.
    """
    ours = await story.run(SERVER_UNIT, f"exportfs -s | grep /srv/nfs/{_readable(story)}")
    options = re.sub("fsid=[^,]+", "fsid={}", ours.rpartition("(")[2].rstrip(")"))
    corpus = base64.b64encode((REPOSITORY / "tests/injections.json").read_bytes()).decode()
    python = (
        f"cd {CHARM} && PYTHONPATH=src:lib:$(echo venv/lib/python3*/site-packages)"
        f" python3 -c {shlex.quote(RENDER)}"
    )
    await story.run(SERVER_UNIT, f"echo {corpus} | base64 -d > /run/corpus.json")
    meant = json.loads(await story.run(SERVER_UNIT, python))
    assert len(meant) > 1000
    said = await story.run(SERVER_UNIT, f"unshare --mount sh -c {shlex.quote(READ_BACK)}")
    read: dict[str, list[str]] = {path: [] for path in meant}
    for line in said.splitlines():
        path, client = line.split()
        host, _, found = client.rstrip(")").partition("(")
        assert found == options.format(meant[path][0]), line
        read[path].append(host)
    assert await story.run(SERVER_UNIT, "exportfs -s | grep /srv/nfs/") == ours
    for path, (_, networks) in meant.items():
        hosts = {"*" if it.endswith("/0") else ip_network(it) for it in networks}
        assert {it if it == "*" else ip_network(it) for it in read[path]} == hosts
        assert len(read[path]) == len(hosts)


async def test_more_is_promised_than_there_is(story: Story):
    total = await story.run(SERVER_UNIT, f"df --block-size=1G --output=size {STORAGE} | tail -n 1")
    size = int(total) + 1
    await _configure(story, overcommit_ratio="3")
    await _request(story, share_name="/thin", size=str(size))
    assert 0.97 * size < await story.size(APP_UNIT) <= size
    options = await story.run(SERVER_UNIT, "findmnt --noheadings --output OPTIONS /srv/nfs/thin_*")
    assert "discard" in options.split(",")
    taken = f"echo $(($(stat -c %b {STORAGE}/thin_*.img) / 2048))"
    empty = int(await story.run(SERVER_UNIT, taken))
    await story.run(APP_UNIT, f"dd if=/dev/urandom of={MOUNT}/big bs=1M count=300 conv=fsync")
    assert int(await story.run(SERVER_UNIT, taken)) >= empty + 300
    await story.run(APP_UNIT, f"rm {MOUNT}/big && sync -f {MOUNT}")
    await _until(story, SERVER_UNIT, f"sync; test $({taken}) -lt {empty + 100}")
    # What was reserved before stays reserved.
    await story.run(
        SERVER_UNIT, f"test $(stat -c %b {STORAGE}/{_readable(story)}*.img) -ge {BLOCKS}"
    )
    await story.run(SERVER_UNIT, f"! fstrim /srv/nfs/{_readable(story)}*")


async def test_an_application_without_requests_gets_what_the_options_say(
    story: Story, ops_test: Any
):
    """The endpoint `filesystem`; its requirer does what the interface says, by hand."""
    await _configure(story, filesystem_share="/hpc", filesystem_size="2")
    await story.model.integrate(f"{APP}:filesystem", f"{SERVER}:filesystem")
    await story.settle(SERVER, APP)
    read = f"relation-get --app -r $(relation-ids filesystem) endpoint {SERVER}"
    _, uri, _ = await ops_test.juju("exec", "--unit", APP_UNIT, "--", read, check=True)
    match = re.fullmatch(r"nfs://\(([^()]+)\)(/\S+)", uri.strip())
    assert match, uri
    mount = (
        f"mkdir -p /mnt/hpc && timeout 60 mount -t nfs4 {unquote(match[1])}:{match[2]} /mnt/hpc"
    )
    await story.run(APP_UNIT, f"{mount} && echo hpc > /mnt/hpc/file")
    size = await story.run(APP_UNIT, "df --block-size=1M --output=size /mnt/hpc | tail -n 1")
    assert round(int(size) / 1024) == 2
    hosts = f"exportfs -v | grep -A1 {match[2]} | grep -o '[0-9.]*(' | tr -d '('"
    address = story.model.units[APP_UNIT].public_address
    assert (await story.run(SERVER_UNIT, hosts)).split() == [address]
    await story.run(APP_UNIT, "umount /mnt/hpc")
    await story.model.applications[SERVER].destroy_relation("filesystem", f"{APP}:filesystem")
    await story.settle(SERVER, APP)
    assert "hpc" not in await story.run(SERVER_UNIT, "exportfs -v")
    assert await story.run(SERVER_UNIT, "cat /srv/nfs/hpc_*/file") == "hpc"


async def test_what_does_not_fit_is_refused_with_what_is_free(story: Story):
    await story.model.applications[CLIENT].set_config({"share-name": "/huge", "size": "5000"})
    await story.settle(CLIENT, status="blocked")
    said = story.model.units[f"{CLIENT}/0"].workload_status_message
    assert re.fullmatch(rf"{SERVER}: share /huge: 5000G requested, \d+G free", said), said
    assert "huge" not in await story.run(SERVER_UNIT, f"ls -A {STORAGE}")
    await _request(story, share_name=MOUNT, size=SIZE)


async def test_a_refusal_costs_nothing(story: Story, ops_test: Any):
    """Nothing is tried first: the hook that refuses runs no command."""
    if not hasattr(story.substrate, "hooks"):
        pytest.skip("the history of hooks is the sandbox's")
    before = await story.substrate.hooks(SERVER_UNIT), await _commands(ops_test)
    await story.model.applications[CLIENT].set_config({"size": "5000"})
    await story.settle(CLIENT, status="blocked")
    refusing = (await story.substrate.hooks(SERVER_UNIT))[len(before[0]) :]
    assert await _commands(ops_test) == before[1]
    longest = max(it["seconds"] for it in refusing)
    idle = min(it["seconds"] for it in before[0])
    print(f"refused in a hook of {longest:.1f} s; the shortest hook took {idle:.1f} s")
    await _request(story, size=SIZE)


async def _commands(ops_test: Any) -> list[str]:
    """What the server's charm has run on its machine so far."""
    _, log, _ = await ops_test.juju("debug-log")
    lines = [line for line in log.splitlines() if line.startswith(f"{SERVER_UNIT}: ")]
    return [line for line in lines if "running (" in line]


@pytest.mark.usefixtures("often")
async def test_scarce_space_is_in_the_status(story: Story):
    filler = f"{STORAGE}/filler"
    free = int(
        await story.run(SERVER_UNIT, f"df --block-size=1M --output=avail {STORAGE} | tail -n 1")
    )
    await story.run(SERVER_UNIT, f"fallocate -l {free - 512}M {filler}")
    await _until_status(story, "blocked", "of the storage are free, and when none is, writing")
    await story.run(SERVER_UNIT, f"rm {filler}")
    await _until_status(story, "active")

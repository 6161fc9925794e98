# SPDX-License-Identifier: Apache-2.0
"""Another hand on the server's machine, the operator's settings, and space that is promised.

What a client can do is asked on the client, what the machine does of the machine.
"""

import base64
import contextlib
import json
import re
import shlex
from collections.abc import Generator
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import unquote

import pytest

from story import APP, CLIENT, DEPLOY_TIMEOUT_S, MOUNT, NOTHING_FAILED, SERVER, Story, becomes

pytestmark = [pytest.mark.bare, pytest.mark.needs("disks")]

SERVER_UNIT, CLIENT_UNIT, APP_UNIT = f"{SERVER}/0", f"{CLIENT}/0", f"{APP}/0"
SIZE = "4"
BLOCKS = int(SIZE) << 21  # Of 512 bytes.
UNITS = "/etc/systemd/system"
REPOSITORY = Path(__file__).resolve().parent.parent.parent
STARTED = "systemctl show --property ActiveEnterTimestampMonotonic nfs-server"


def _configure(story: Story, effect: str, **options: str) -> None:
    """Set options of the server; wait until a command on its machine sees what they do."""
    story.configure(SERVER, **options)
    story.until(SERVER_UNIT, effect)
    story.settle(SERVER)


def _request(story: Story, size: str, **options: str) -> None:
    """Have the client request a share; wait until it has it with that size, about."""
    story.configure(CLIENT, size=size, **options)
    mib = f"df --block-size=1M --output=size {MOUNT} | tail -n 1"
    story.until(APP_UNIT, f"test $({mib}) -gt {int(size) * 1024 * 93 // 100}")
    story.settle(SERVER, CLIENT)


@pytest.fixture(scope="module")
def storage(story: Story) -> str:
    """Where the server's storage is."""
    return story.storage(SERVER_UNIT)


@pytest.mark.incremental
def test_a_storage_of_its_own(story: Story):
    story.deploy(APP)
    story.deploy(SERVER, disk="20G")
    story.deploy_client(mountpoint=MOUNT, size=2)
    story.integrate()
    story.settle(SERVER, CLIENT, APP, timeout=DEPLOY_TIMEOUT_S)
    assert story.size(APP_UNIT) == 2
    assert story.message(SERVER_UNIT) == "", "the shares are on the root disk"
    _request(story, SIZE)
    assert story.size(APP_UNIT) == int(SIZE)


def _readable(story: Story) -> str:
    """What the names of the files of the client's share begin with: that of model and client."""
    return re.sub("[^a-z0-9]+", "_", f"{story.model}/{CLIENT}".lower())[:24]


@pytest.fixture
def often(story: Story) -> Generator[None, None, None]:
    """Let update-status come at once."""
    with story.update_status_every("4s"):
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
        "fallocate --dig-holes --offset 1GiB --length 1GiB $IMAGES"
        f" && test $(stat -c %b $IMAGES) -lt {BLOCKS}",
        f"test $(stat -c %b $IMAGES) -ge {BLOCKS}",
        "some of its space was freed",
    ),
    "package removed": (
        "apt-get -qq --yes remove nfs-kernel-server && ! test -e /usr/sbin/exportfs",
        "systemctl is-active nfs-server",
        "",
    ),
}


@pytest.mark.parametrize("hand", HANDS)
def test_a_hand_on_the_machine(story: Story, storage: str, hand: str):
    harm, mended, logged = HANDS[hand]
    images = f"IMAGES={storage}/*.img;"
    story.settle(SERVER)  # No hook is to come in between.
    lines = len(story.log(SERVER_UNIT))
    story.run(SERVER_UNIT, "exportfs -s | grep /srv/nfs > /tmp/before")
    story.run(SERVER_UNIT, f"{images} {harm}")
    with story.update_status_every("4s"):
        same = "exportfs -s | grep /srv/nfs | diff - /tmp/before"
        story.until(SERVER_UNIT, f"{images} {mended} && {same}")
    written = f"{MOUNT}/{hand.replace(' ', '-')}"
    story.run(APP_UNIT, f"echo {hand} > {written} && sync {written}")
    story.run(SERVER_UNIT, f"grep '{hand}' /srv/nfs/*/{Path(written).name}")
    assert any(logged in line for line in story.log(SERVER_UNIT)[lines:])


# Opens the file once: in a grace period an open waits for its end.
LOCKED = f"""\
import fcntl, os, time
file = os.open("{MOUNT}/locked", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_DSYNC)
fcntl.lockf(file, fcntl.LOCK_EX)
while os.write(file, b"line\\n"):
    time.sleep(0.1)
"""
LINES = "timeout 10 cat /srv/nfs/*/locked | wc -l"
LATE = """\
dmesg --clear; late=$(pidof nfsdcld); kill -STOP $late
systemctl --no-block restart nfs-server
for i in $(seq 100); do dmesg | grep "client recovery tracking!" && break; sleep 0.05; done
kill -CONT $late
"""


@contextlib.contextmanager
def _locked(story: Story) -> Generator[None, None, None]:
    """Have a program of the client write to a file that it has locked, and goes on afterwards."""
    begin = f"systemd-run --quiet --unit=locked python3 -c {shlex.quote(LOCKED)}"
    story.run(APP_UNIT, begin)
    _goes_on(story)
    yield
    _goes_on(story)
    story.run(APP_UNIT, "systemctl is-active locked && systemctl stop locked")


def _goes_on(story: Story) -> None:
    story.until(SERVER_UNIT, f"test $({LINES}) -gt {story.run(SERVER_UNIT, LINES)}")


def test_locks_outlive_a_start_with_a_late_nfsdcld(story: Story):
    """As on a machine that is busy while it boots: the kernel waits for it for a second only."""
    with _locked(story):
        story.run(SERVER_UNIT, LATE)
    story.run(SERVER_UNIT, NOTHING_FAILED)


# nfsdcld's note of a client that is gone for good: the grace period lasts as long as it may.
GONE = """\
import sqlite3
notes = sqlite3.connect("/var/lib/nfs/nfsdcld/main.sqlite")
((epoch,),) = notes.execute("SELECT current FROM grace")
notes.execute(f'INSERT INTO "rec-{epoch:016x}" (id) VALUES (?)', [b"Linux NFSv4.2 gone"])
notes.commit()
"""


def test_locks_outlive_a_look_at_the_file_in_the_grace_period(story: Story):
    """As by a backup on the server. A delegation would be recalled then, and not returned."""
    in_grace = "grep N /proc/fs/nfsd/v4_end_grace"
    with _locked(story):
        story.run(SERVER_UNIT, f"python3 -c {shlex.quote(GONE)} && systemctl restart nfs-server")
        _goes_on(story)
        story.run(SERVER_UNIT, in_grace)
        story.until(SERVER_UNIT, f"! {in_grace}")


HELD, GO = "/run/held", "/run/go"
HOLDER = f"""\
exec 9<>{MOUNT}/held; flock 9; touch {HELD}
until test -e {GO}; do sleep 0.1; done
echo held >&9 && sync {MOUNT}/held
"""


@pytest.mark.needs("power")
def test_a_lock_outlives_a_power_cut_right_after_it(story: Story):
    """That the client may reclaim it is on the server's disk by then."""
    unit = story.run(APP_UNIT, f"systemd-escape --path --suffix=mount {MOUNT}")
    story.run(APP_UNIT, f"touch {MOUNT}/held && sync {MOUNT}/held && systemctl stop {unit}")
    story.settle(SERVER)
    story.run(
        APP_UNIT,
        f"systemctl start {unit} && systemd-run --quiet --remain-after-exit --unit=holder"
        f" sh -c {shlex.quote(HOLDER)}; until test -e {HELD}; do sleep 0.01; done",
    )
    story.machines.power_cut(SERVER_UNIT)
    story.machines.boot(SERVER_UNIT)
    story.run(APP_UNIT, f"touch {GO}")
    story.until(APP_UNIT, "systemctl show --property=SubState holder | grep -v running")
    story.run(APP_UNIT, f"systemctl is-active holder && grep held {MOUNT}/held")


@pytest.mark.usefixtures("often")
def test_what_cannot_be_put_right_is_in_the_status(story: Story):
    """It is not the charm's to take away what it did not put there."""
    other = "/etc/exports.d/other.exports"
    story.run(SERVER_UNIT, f'echo "$(ls -d /srv/nfs/*) *(rw)" > {other} && exportfs -ra')
    story.until_says(SERVER_UNIT, "blocked", "is exported to *, not by this charm")
    story.run(SERVER_UNIT, f"rm {other}")
    story.until_says(SERVER_UNIT, "active")
    assert "world" not in story.run(SERVER_UNIT, "exportfs -v")
    story.run(SERVER_UNIT, "systemctl stop nfs-server && systemctl mask nfs-server")
    story.until_says(SERVER_UNIT, "blocked", "The NFS server does not run: see journalctl")
    story.run(SERVER_UNIT, "systemctl unmask nfs-server")
    story.until_says(SERVER_UNIT, "active")
    story.run(APP_UNIT, f"echo again > {MOUNT}/again && sync {MOUNT}/again")


def test_threads_change_without_a_restart(story: Story):
    before = story.run(SERVER_UNIT, STARTED)
    _configure(story, "grep -x 3 /proc/fs/nfsd/threads", threads="3")
    assert story.run(SERVER_UNIT, STARTED) == before


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("threads", "-1", "threads -1: use 1 to 1024, or 0 for a number that fits the machine"),
        ("squash", "x,insecure", "squash 'x,insecure': use none, root, all"),
        ("overcommit-ratio", "0.5", "overcommit-ratio 0.5: use a number from 1 to 100"),
    ],
)
def test_a_bad_setting_changes_nothing(story: Story, option: str, value: str, says: str):
    before = story.run(SERVER_UNIT, "exportfs -s; cat /etc/exports /etc/nfs.conf.d/*")
    story.configure(SERVER, **{option: value})
    assert story.until_says(SERVER_UNIT, "blocked", says) == says
    found = story.run(SERVER_UNIT, "exportfs -s; cat /etc/exports /etc/nfs.conf.d/*")
    assert found == before
    assert story.run(SERVER_UNIT, "cat /proc/fs/nfsd/threads") == "3"
    good = {"threads": "3", "squash": "none", "overcommit-ratio": "1"}
    story.configure(SERVER, **{option: good[option]})
    story.settle(SERVER)


def test_squash(story: Story):
    started = story.run(SERVER_UNIT, STARTED)
    story.run(APP_UNIT, f"mkdir --mode=1777 {MOUNT}/all")
    write = f"rm -f {MOUNT}/all/file && touch {MOUNT}/all/file && stat -c %u {MOUNT}/all/file"
    assert story.run(APP_UNIT, write) == "0"
    as_daemon = f"setpriv --reuid=1 --clear-groups --regid=1 sh -c '{write}'"
    for squash, exported, root, daemon in (
        ("root", ",root_squash,no_all_squash", "65534", "1"),
        ("all", ",root_squash,all_squash", "65534", "65534"),
    ):
        _configure(story, f"exportfs -v | grep {exported}", squash=squash)
        story.run(SERVER_UNIT, "rm -f /srv/nfs/*/all/file")
        assert story.run(APP_UNIT, write) == root
        story.run(SERVER_UNIT, "rm -f /srv/nfs/*/all/file")
        assert story.run(APP_UNIT, as_daemon) == daemon
    _configure(story, "exportfs -v | grep no_root_squash", squash="none")
    story.run(SERVER_UNIT, "rm -f /srv/nfs/*/all/file")
    assert story.run(APP_UNIT, write) == "0"
    assert story.run(SERVER_UNIT, STARTED) == started


def _listening(story: Story) -> set[str]:
    """Ports that the server's machine can be reached on."""
    said = story.run(SERVER_UNIT, "ss -Hltun | grep -v -e '127.0.0.1:' -e '\\[::1\\]:'")
    return set(re.findall(r":(\d+) ", said))


def test_nfsv3(story: Story):
    v3 = {"111", "20048", "32765", "32768"}
    before = _listening(story)
    assert "2049" in before
    assert not before & v3
    source = story.run(APP_UNIT, f"findmnt --noheadings --output SOURCE {MOUNT}")
    mount = (
        f"mkdir -p /mnt/v3 && timeout 60 mount -t nfs -o vers=3,nolock,retry=0 {source} /mnt/v3"
    )
    assert (story.try_to_run(APP_UNIT, mount))[0] != 0
    _configure(story, "grep -F +3 /proc/fs/nfsd/versions", nfsv3="true")
    story.run(APP_UNIT, f"{mount} && echo three > /mnt/v3/three && umount /mnt/v3")
    assert story.run(APP_UNIT, f"cat {MOUNT}/three", timeout=180) == "three"
    assert _listening(story) == before | v3
    story.configure(SERVER, nfsv3="false")
    becomes(lambda: _listening(story), before)
    story.settle(SERVER)
    assert (story.try_to_run(APP_UNIT, mount))[0] != 0
    assert story.run(APP_UNIT, f"cat {MOUNT}/three", timeout=180) == "three"


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


# A client asks for the share right after two flushes, and mountd answers.
ASKED = """
set -e
exportfs -f
exportfs -f
until=$(($(date +%s) + 600))
echo "nfsd 192.0.2.9 $until -test-" > /proc/net/rpc/auth.unix.ip/channel
echo "-test- {path} $until 1024 65534 65534 0" > /proc/net/rpc/nfsd.export/channel
grep -q {path} /proc/net/rpc/nfsd.export/content
cd {charm}
export PYTHONPATH=src:lib:$(echo venv/lib/python3*/site-packages)
python3 -c 'import exports; exports.flush()'
! grep {path} /proc/net/rpc/nfsd.export/content
"""


def test_a_flush_after_another_one_frees_what_is_cached(story: Story):
    """Else a share that nobody has any more would stay busy: the kernel takes two for none."""
    made = story.act(SERVER_UNIT, "create-share", share="/asked", size=1)
    assert made.success, made
    path = made.results["path"]
    story.run(SERVER_UNIT, ASKED.format(path=path, charm=CHARM))
    story.run(SERVER_UNIT, f"umount {path}")
    for action in "delete-share", "purge-share":
        done = story.act(SERVER_UNIT, action, share="/asked", confirm="/asked")
        assert done.success, done


def test_exportfs_reads_what_was_meant(story: Story):
    """A corpus of injections, and a thousand names that are allowed: no other path, host, option.

    What exportfs reads is compared with what the charm let in, parsed by Python's ipaddress.
    """
    ours = story.run(SERVER_UNIT, f"exportfs -s | grep /srv/nfs/{_readable(story)}")
    options = re.sub("fsid=[^,]+", "fsid={}", ours.rpartition("(")[2].rstrip(")"))
    corpus = base64.b64encode((REPOSITORY / "tests/injections.json").read_bytes()).decode()
    python = (
        f"cd {CHARM} && PYTHONPATH=src:lib:$(echo venv/lib/python3*/site-packages)"
        f" python3 -c {shlex.quote(RENDER)}"
    )
    story.run(SERVER_UNIT, f"echo {corpus} | base64 -d > /run/corpus.json")
    meant = json.loads(story.run(SERVER_UNIT, python))
    assert len(meant) > 1000
    said = story.run(SERVER_UNIT, f"unshare --mount sh -c {shlex.quote(READ_BACK)}")
    read: dict[str, list[str]] = {path: [] for path in meant}
    for line in said.splitlines():
        path, client = line.split()
        host, _, found = client.rstrip(")").partition("(")
        assert found == options.format(meant[path][0]), line
        read[path].append(host)
    assert story.run(SERVER_UNIT, "exportfs -s | grep /srv/nfs/") == ours
    for path, (_, networks) in meant.items():
        hosts = {"*" if it.endswith("/0") else ip_network(it) for it in networks}
        assert {it if it == "*" else ip_network(it) for it in read[path]} == hosts
        assert len(read[path]) == len(hosts)


def test_more_is_promised_than_there_is(story: Story, storage: str):
    total = story.run(SERVER_UNIT, f"df --block-size=1G --output=size {storage} | tail -n 1")
    size = int(total) + 1
    story.configure(SERVER, overcommit_ratio="3")
    _request(story, str(size), share_name="/thin")
    options = story.run(SERVER_UNIT, "findmnt --noheadings --output OPTIONS /srv/nfs/thin_*")
    assert "discard" in options.split(",")
    taken = f"echo $(($(stat -c %b {storage}/thin_*.img) / 2048))"
    empty = int(story.run(SERVER_UNIT, taken))
    story.run(APP_UNIT, f"dd if=/dev/urandom of={MOUNT}/big bs=1M count=300 conv=fsync")
    assert int(story.run(SERVER_UNIT, taken)) >= empty + 300
    story.run(APP_UNIT, f"rm {MOUNT}/big && sync -f {MOUNT}")
    story.until(SERVER_UNIT, f"sync; test $({taken}) -lt {empty + 100}")
    # What was reserved before stays reserved.
    story.run(SERVER_UNIT, f"test $(stat -c %b {storage}/{_readable(story)}*.img) -ge {BLOCKS}")
    story.run(SERVER_UNIT, f"! fstrim /srv/nfs/{_readable(story)}*")


def test_an_application_without_requests_gets_what_the_options_say(story: Story):
    """The endpoint `filesystem`; its requirer does what the interface says, by hand."""
    story.configure(SERVER, filesystem_share="/hpc", filesystem_size="2")
    story.juju.integrate(f"{APP}:filesystem", f"{SERVER}:filesystem")
    story.until(SERVER_UNIT, "exportfs -s | grep /srv/nfs/hpc_")
    story.settle(SERVER, APP)
    read = f"relation-get --app -r $(relation-ids filesystem) endpoint {SERVER}"
    uri = story.juju.exec(read, unit=APP_UNIT).stdout.strip()
    match = re.fullmatch(r"nfs://\(([^()]+)\)(/\S+)", uri)
    assert match, uri
    mount = (
        f"mkdir -p /mnt/hpc && timeout 60 mount -t nfs4 {unquote(match[1])}:{match[2]} /mnt/hpc"
    )
    story.run(APP_UNIT, f"{mount} && echo hpc > /mnt/hpc/file")
    assert story.size(APP_UNIT, "/mnt/hpc") == 2
    hosts = f"exportfs -v | grep -A1 {match[2]} | grep -o '[0-9.]*(' | tr -d '('"
    assert story.run(SERVER_UNIT, hosts).split() == [story.unit(APP_UNIT).public_address]
    story.run(APP_UNIT, "umount /mnt/hpc")
    story.juju.remove_relation(f"{APP}:filesystem", f"{SERVER}:filesystem")
    story.until(SERVER_UNIT, "! exportfs -v | grep hpc")
    story.settle(SERVER, APP)
    assert story.run(SERVER_UNIT, "cat /srv/nfs/hpc_*/file") == "hpc"


def test_what_does_not_fit_is_refused_with_what_is_free(story: Story, storage: str):
    story.configure(CLIENT, share_name="/huge", size="5000")
    said = story.until_says(CLIENT_UNIT, "blocked", "5000G requested")
    assert re.fullmatch(rf"{SERVER}: share /huge: 5000G requested, \d+G free", said), said
    assert "huge" not in story.run(SERVER_UNIT, f"ls -A {storage}")
    _request(story, SIZE, share_name=MOUNT)


@pytest.mark.needs("hooks")
def test_a_refusal_costs_nothing(story: Story):
    """Nothing is tried first: the hook that refuses runs no command."""
    before = story.machines.hooks(SERVER_UNIT), _commands(story)
    story.configure(CLIENT, size="5000")
    story.until_says(CLIENT_UNIT, "blocked")
    story.settle(SERVER)
    refusing = story.machines.hooks(SERVER_UNIT)[len(before[0]) :]
    assert _commands(story) == before[1]
    longest = max(it["seconds"] for it in refusing)
    idle = min(it["seconds"] for it in before[0])
    print(f"refused in a hook of {longest:.1f} s; the shortest hook took {idle:.1f} s")
    story.configure(CLIENT, size=SIZE)
    story.settle(CLIENT)


def _commands(story: Story) -> list[str]:
    """What the server's charm has run on its machine so far."""
    return [line for line in story.log(SERVER_UNIT) if "running (" in line]


@pytest.mark.usefixtures("often")
def test_scarce_space_is_in_the_status(story: Story, storage: str):
    filler = f"{storage}/filler"
    free = int(story.run(SERVER_UNIT, f"df --block-size=1M --output=avail {storage} | tail -n 1"))
    story.run(SERVER_UNIT, f"fallocate -l {free - 512}M {filler}")
    story.until_says(SERVER_UNIT, "blocked", "of the storage are free, and when none is, writing")
    story.run(SERVER_UNIT, f"rm {filler}")
    story.until_says(SERVER_UNIT, "active")

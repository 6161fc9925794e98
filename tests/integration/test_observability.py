# SPDX-License-Identifier: Apache-2.0
"""nfs-server seen from outside: by a Prometheus that is told what a collector is told.

Each alert fires when its cause is made on the machine, and resolves after. What is told agrees
with what the machine and the client say.
"""

import base64
import json
import lzma
import re
import shlex
import zipfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

import prometheus
from prometheus import Prometheus
from story import APP, CLIENT, DEPLOY_TIMEOUT_S, MOUNT, SERVER, Story, becomes

pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs("prometheus", "ssh", "disks"),
    pytest.mark.incremental,
]
SERVER_UNIT, OTHER_UNIT, APP_UNIT = f"{SERVER}/0", f"{SERVER}/1", f"{APP}/0"
COLLECTOR = "collector"
COLLECTOR_UNIT = f"{COLLECTOR}/0"
PORT = 20490
UNITS = "nfs-server-exporter.socket nfs-server-exporter.service"
SCRAPE = (
    '/usr/bin/python3 -c "import urllib.request as r;'
    f" print(r.urlopen('http://127.0.0.1:{PORT}/metrics', timeout=20).read().decode())\""
)
SHARE = f'{{share="{MOUNT}"}}'
DISK = "8G"
SIZE = 2
MIB = 2**20


def told(story: Story, collector: str = COLLECTOR_UNIT, unit: str = SERVER_UNIT) -> dict[str, Any]:
    """What a collector is told by a unit."""
    read = f"relation-get -r $(relation-ids cos-agent) config {unit}"
    return json.loads(story.juju.exec(read, unit=collector).stdout)


def topology(story: Story, unit: str = SERVER_UNIT) -> dict[str, str]:
    """What a collector says of a unit with all that it scrapes there."""
    get = 'echo "$JUJU_MODEL_NAME $JUJU_MODEL_UUID"'
    name, uuid = story.juju.exec(get, unit=unit).stdout.split()
    labels = {"model": name, "model_uuid": uuid, "application": SERVER, "unit": unit}
    return {f"juju_{key}": value for key, value in labels.items()}


def scraped(story: Story, unit: str = SERVER_UNIT) -> str:
    """What the exporter says on its machine."""
    return story.run(unit, SCRAPE)


def listening(story: Story, unit: str) -> list[str]:
    """Where something listens at the exporter's port."""
    found = story.run(unit, f"ss -Hltn 'sport = {PORT}'")
    return [line.split()[3] for line in found.splitlines()]


def stays_nothing(story: Story, where: str) -> None:
    """No trace of the exporter is left on a machine."""
    becomes(lambda: listening(story, where), [])
    story.until(where, f"! systemctl is-active {UNITS} && ! systemctl cat {UNITS}")
    story.run(where, "test ! -e /var/lib/nfs-server-charm/monitoring.json")
    story.run(where, "! pgrep -f [s]rc/exporter.py")


def test_deploy(story: Story, collector_charm: Path):
    story.deploy(SERVER, disk=DISK)
    story.deploy(APP)
    story.deploy_client(mountpoint=MOUNT, share_name=MOUNT, size=SIZE)
    story.integrate()
    story.settle(SERVER, APP, CLIENT, timeout=DEPLOY_TIMEOUT_S)
    stays_nothing(story, SERVER_UNIT)
    story.juju.deploy(collector_charm, COLLECTOR)
    story.juju.integrate(f"{COLLECTOR}:cos-agent", f"{SERVER}:cos-agent")
    story.settle(SERVER, COLLECTOR, timeout=DEPLOY_TIMEOUT_S)
    becomes(lambda: len(told(story)["metrics_scrape_jobs"]), 1)


def test_it_listens_for_its_machine_alone(story: Story):
    """And starts only when it is asked."""
    assert listening(story, SERVER_UNIT) == [f"127.0.0.1:{PORT}"]
    story.run(SERVER_UNIT, "! pgrep -f [s]rc/exporter.py")
    assert "\nnfs_server_up 1.0\n" in scraped(story)
    user = story.run(SERVER_UNIT, "ps -o user= -p $(pgrep -f [s]rc/exporter.py)")
    assert user.strip() not in ("root", "nobody", "")
    within = "nsenter --target $(pgrep -f [s]rc/exporter.py) --mount"
    story.run(SERVER_UNIT, f"! {within} ls /etc/shadow && {within} ls /srv/nfs/data_*")
    shown = "systemctl show --property=MemoryCurrent,CPUUsageNSec nfs-server-exporter"
    print(story.run(SERVER_UNIT, shown))
    print(scraped(story))


@pytest.fixture(scope="module")
def watch(story: Story, tmp_path_factory: pytest.TempPathFactory) -> Generator[Prometheus]:
    ssh = story.machines.ssh(story.unit(SERVER_UNIT).public_address)
    directory = tmp_path_factory.mktemp("prometheus")
    with prometheus.running(directory, told(story), topology(story), ssh) as found:
        yield found


def test_all_is_well(watch: Prometheus):
    """No alert, with everything that the rules look at there."""
    watch.until(lambda found: not found, "something fires")
    assert watch.value("nfs_server_shares") == 1
    assert watch.query(f"nfs_share_info{SHARE}")[0]["metric"]["application"] == CLIENT
    labels = watch.query("nfs_server_up")[0]["metric"]
    assert labels["juju_unit"] == SERVER_UNIT


def _df(story: Story, where: str, path: str, *columns: str) -> list[int]:
    text = story.run(where, f"df --block-size=1 --output={','.join(columns)} {path} | tail -n 1")
    return [int(it) for it in text.split()]


def test_numbers_are_those_of_df(story: Story, watch: Prometheus):
    story.run(APP_UNIT, f"dd if=/dev/zero of={MOUNT}/file bs=1M count=100 conv=fsync")
    path = "/srv/nfs/data_*"
    names = ("size", "used", "avail", "itotal", "iused")
    df = _df(story, SERVER_UNIT, path, *names)
    metrics = ("size_bytes", "used_bytes", "available_bytes", "inodes", "used_inodes")

    def said() -> list[int]:
        return [int(watch.value(f"nfs_share_{name}{SHARE}")) for name in metrics]

    becomes(said, df)
    # The client counts in blocks of 1 MiB or less, as the server tells it.
    size, used = _df(story, APP_UNIT, MOUNT, "size", "used")
    assert abs(size - df[0]) < 2 * MIB
    assert abs(used - df[1]) < 2 * MIB
    storage = story.storage(SERVER_UNIT)
    free = _df(story, SERVER_UNIT, storage, "size", "avail")
    assert int(watch.value("nfs_server_storage_size_bytes")) == free[0]
    assert abs(watch.value("nfs_server_storage_free_bytes") - free[1]) < MIB
    taken = story.run(SERVER_UNIT, f"stat -c '%s %b' {storage}/data_*.img").split()
    assert watch.value(f"nfs_share_image_size_bytes{SHARE}") == int(taken[0])
    assert watch.value(f"nfs_share_image_allocated_bytes{SHARE}") == int(taken[1]) * 512


def _client_bytes(story: Story) -> list[int]:
    """What the client's kernel has read from the server and written to it, in bytes."""
    stats = story.run(APP_UNIT, f"grep -A 20 ' mounted on {MOUNT} ' /proc/self/mountstats")
    found = re.search(r"bytes:\t\d+ \d+ \d+ \d+ (\d+) (\d+)", stats)
    assert found, stats
    return [int(it) for it in found.groups()]


def test_bytes_are_those_of_the_client(story: Story, watch: Prometheus):
    """Across exports that are made anew, too."""
    names = ("read", "written")

    def said() -> list[int]:
        return [int(watch.value(f"nfs_share_{name}_bytes_total{SHARE}")) for name in names]

    def since(now: list[int], then: list[int]) -> list[int]:
        return [one - other for one, other in zip(now, then, strict=True)]

    before, client_before = said(), _client_bytes(story)
    for count in 1, 2:
        story.run(APP_UNIT, f"dd if=/dev/zero of={MOUNT}/more bs=1M count=20 conv=fsync")
        read = f"echo 3 > /proc/sys/vm/drop_caches; cat {MOUNT}/more > /dev/null"
        story.run(APP_UNIT, read)
        client = since(_client_bytes(story), client_before)
        assert min(client) >= count * 20 * MIB
        becomes(lambda: since(said(), before), client)
        story.run(SERVER_UNIT, "exportfs -f && exportfs -ra")


def test_clients_are_those_that_are_there(story: Story, watch: Prometheus):
    hold = f"exec 9> {MOUNT}/held; flock 9; sleep 600"
    story.run(APP_UNIT, f"systemd-run --quiet --unit=holder /bin/bash -c {shlex.quote(hold)}")
    becomes(lambda: watch.value(f"nfs_share_clients{SHARE}"), 1)
    becomes(lambda: watch.value('nfs_server_client_states{type="lock"}'), 1)
    assert watch.value('nfs_server_clients{state="active"}') == 1
    story.run(APP_UNIT, "systemctl stop holder")
    becomes(lambda: watch.value('nfs_server_client_states{type="lock"}'), 0)
    exported = story.run(SERVER_UNIT, "exportfs -s | grep -c '^/srv/nfs/data_'")
    assert watch.value(f"nfs_share_exported{SHARE}") == int(exported) == 1


def test_each_query_of_the_dashboard(story: Story, watch: Prometheus):
    """It is understood, and all but what looks for what is bad finds something."""
    (packed,) = told(story)["dashboards"]
    dashboard = json.loads(lzma.decompress(base64.b64decode(packed)))
    queries = [
        (panel["title"], target["expr"])
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]
    assert len(queries) > 15
    for variable in dashboard["templating"]["list"][1:]:
        metric = re.match(r"label_values\((\w+)\{", variable["definition"])
        assert metric, variable
        (found,) = watch.query(metric[1])
        assert variable["name"] in found["metric"]
    for title, text in queries:
        query = re.sub(r"\$(juju_\w+|share)", ".*", text).replace("$__rate_interval", "1m")
        assert "$" not in query
        found = watch.query(query)
        assert found or title.startswith("Full within a day"), (title, query)


# The causes of alerts


def test_the_server_is_stopped_and_an_image_unmounted(story: Story, watch: Prometheus):
    unit = "$(basename -a /etc/systemd/system/srv-nfs-*.mount)"
    story.run(SERVER_UNIT, f"systemctl stop nfs-server && systemctl stop {unit}")
    watch.until_fires("NfsServerDown", "NfsShareNotMounted")
    story.run(SERVER_UNIT, f"systemctl start {unit} && systemctl start nfs-server")
    watch.until_silent("NfsServerDown", "NfsShareNotMounted")
    story.run(APP_UNIT, f"timeout 100 ls {MOUNT}")


def test_a_share_is_not_exported(story: Story, watch: Prometheus):
    story.run(SERVER_UNIT, "exportfs -ua")
    watch.until_fires("NfsShareNotExported")
    story.run(SERVER_UNIT, "exportfs -ra")
    watch.until_silent("NfsShareNotExported")


def test_a_share_is_filled(story: Story, watch: Prometheus):
    story.try_to_run(APP_UNIT, f"dd if=/dev/zero of={MOUNT}/filler bs=1M conv=fsync", timeout=300)
    watch.until_fires("NfsShareNearlyFull", "NfsShareFull", "NfsShareFilling")
    story.run(APP_UNIT, f"rm {MOUNT}/filler")
    watch.until_silent("NfsShareNearlyFull", "NfsShareFull", "NfsShareFilling")


def test_inodes_run_out(story: Story, watch: Prometheus):
    """They are taken on the server: a client would be an hour at it."""
    make = "cd /srv/nfs/data_* && mkdir many && cd many && seq 1 125000 | xargs touch"
    story.run(SERVER_UNIT, make, timeout=600)
    watch.until_fires("NfsShareInodesNearlyFull")
    story.run(SERVER_UNIT, "rm -r /srv/nfs/data_*/many", timeout=600)
    watch.until_silent("NfsShareInodesNearlyFull")


def test_the_space_of_a_share_is_given_back(story: Story, watch: Prometheus):
    image = f"{story.storage(SERVER_UNIT)}/data_*.img"
    story.run(SERVER_UNIT, f"fallocate --dig-holes {image}", timeout=300)
    watch.until_fires("NfsShareNotReserved")
    story.update_status(SERVER_UNIT)
    watch.until_silent("NfsShareNotReserved")


def test_the_reserve_is_broken(story: Story, watch: Prometheus):
    filler = f"{story.storage(SERVER_UNIT)}/filler"
    free = int(watch.value("nfs_server_storage_free_bytes"))
    reserve = int(watch.value("nfs_server_storage_reserve_bytes"))
    story.run(SERVER_UNIT, f"fallocate -l {free - reserve // 2} {filler}")
    watch.until_fires("NfsServerStorageReserveBroken")
    story.run(SERVER_UNIT, f"rm {filler}")
    watch.until_silent("NfsServerStorageReserveBroken")


def test_a_file_system_has_errors(story: Story, watch: Prometheus):
    device = "$(basename $(findmnt --noheadings --output SOURCE /srv/nfs/data_*))"
    story.run(SERVER_UNIT, f"echo test > /sys/fs/ext4/{device}/trigger_fs_error")
    watch.until_fires("NfsShareFilesystemErrors")
    task = story.act(SERVER_UNIT, "check-share", share=MOUNT, repair=True)
    assert task.success, task
    watch.until_silent("NfsShareFilesystemErrors", "NfsShareNotMounted", "NfsShareNotExported")


def test_a_disk_hangs(story: Story, watch: Prometheus):
    """Asking for the image waits for a mount that does not come; all else is told as ever."""
    service = "[Service]\\nType=oneshot\\nTimeoutStartSec=infinity\\nExecStart=/bin/sleep infinity"
    mount = "[Unit]\\nRequires=hang.service\\nAfter=hang.service\\n"
    mount += "[Mount]\\nWhat=tmpfs\\nType=tmpfs\\nWhere=/hang\\nTimeoutSec=infinity"
    units = {
        "hang.service": service,
        "hang.mount": mount,
        "hang.automount": "[Automount]\\nWhere=/hang",
    }
    for name, text in units.items():
        story.run(SERVER_UNIT, f"printf '{text}\\n' > /run/systemd/system/{name}")
    facts = "/var/lib/nfs-server-charm/monitoring.json"
    story.run(SERVER_UNIT, "systemctl daemon-reload && systemctl start hang.automount")
    story.run(SERVER_UNIT, f'sed -i.kept \'s|"image": "[^"]*"|"image": "/hang/a"|\' {facts}')
    watch.until_fires("NfsShareNotAnswering")
    assert watch.value("up") == 1
    assert watch.value("nfs_server_storage_size_bytes") > 0
    story.run(SERVER_UNIT, f"mv {facts}.kept {facts}")
    story.run(SERVER_UNIT, "systemctl stop hang.automount hang.service")
    watch.until_silent("NfsShareNotAnswering")
    story.run(SERVER_UNIT, "rm /run/systemd/system/hang.* && systemctl daemon-reload")


def test_threads_are_too_few(story: Story, watch: Prometheus):
    story.configure(SERVER, threads=1)
    becomes(lambda: watch.value("node_nfsd_server_threads"), 1)
    write = f"for i in 1 2 3 4 5 6 7 8; do dd if=/dev/zero of={MOUNT}/w$i bs=4k count=100000"
    write += " oflag=dsync & done; wait"
    story.run(APP_UNIT, f"systemd-run --quiet --unit=load /bin/sh -c {shlex.quote(write)}")
    watch.until_fires("NfsServerThreadsBusy")
    story.run(APP_UNIT, "systemctl stop load")
    story.configure(SERVER, threads=0)
    watch.until_silent("NfsServerThreadsBusy")


def test_no_hook_comes(story: Story, watch: Prometheus):
    story.settle(SERVER)
    story.run(SERVER_UNIT, "touch -d '3 hours ago' /var/lib/nfs-server-charm/held")
    watch.until_fires("NfsServerNoHooks")
    story.update_status(SERVER_UNIT)
    watch.until_silent("NfsServerNoHooks")


def test_the_exporter_is_stopped_and_its_port_taken(story: Story, watch: Prometheus):
    """The unit says so, and serves; the charm has it listen again when it can."""
    take = f"socket.create_server(('127.0.0.1', {PORT})), time.sleep(3600)"
    python = f'/usr/bin/python3 -c "import socket, time; {take}"'
    story.run(SERVER_UNIT, f"systemctl stop {UNITS}")
    story.run(SERVER_UNIT, f"systemd-run --quiet --unit=taker {python}")
    watch.until_fires("NfsServerMetricsMissing")
    with story.update_status_every("5s"):
        says = f"Metrics are not served: port {PORT} is taken: end who has it, ss -ltnp"
        story.until_says(SERVER_UNIT, "blocked", says)
        becomes(lambda: told(story)["metrics_scrape_jobs"], [])
        story.run(SERVER_UNIT, "systemctl stop taker")
        story.until_says(SERVER_UNIT, "active")
    becomes(lambda: len(told(story)["metrics_scrape_jobs"]), 1)
    watch.until_silent("NfsServerMetricsMissing")


# Its life


def test_a_refresh_starts_the_new_code(story: Story, tmp_path: Path, watch: Prometheus):
    """What has not changed is left alone."""
    pid = "systemctl show --property=MainPID --value nfs-server-exporter"
    before = story.run(SERVER_UNIT, pid)
    assert before != "0"
    story.refresh(SERVER, SERVER_UNIT, story.charms[SERVER])
    story.settle(SERVER)
    assert story.run(SERVER_UNIT, pid) == before
    changed = tmp_path / story.charms[SERVER].name
    with zipfile.ZipFile(story.charms[SERVER]) as old, zipfile.ZipFile(changed, "w") as new:
        for entry in old.infolist():
            more = b"# changed\n" if entry.filename == "src/exporter.py" else b""
            new.writestr(entry, old.read(entry) + more)
    story.refresh(SERVER, SERVER_UNIT, changed)
    story.settle(SERVER)
    becomes(lambda: story.run(SERVER_UNIT, pid) not in (before, "0"), expected=True)
    watch.until(lambda found: not found, "something fires")


def test_after_a_reboot(story: Story):
    story.machines.reboot(SERVER_UNIT)
    assert "\nnfs_server_up 1.0\n" in scraped(story)
    assert listening(story, SERVER_UNIT) == [f"127.0.0.1:{PORT}"]
    story.settle(SERVER)
    assert f'nfs_share_mounted{{share="{MOUNT}"}} 1.0' in scraped(story)


def test_a_second_unit(story: Story):
    """It is beside the application: its machine stays when it goes."""
    machine = story.juju.status().apps[APP].units[APP_UNIT].machine
    story.juju.add_unit(SERVER, to=machine)
    story.settle(SERVER, COLLECTOR, timeout=DEPLOY_TIMEOUT_S)
    (other,) = story.unit(OTHER_UNIT).subordinates
    becomes(lambda: len(told(story, other, OTHER_UNIT)["metrics_scrape_jobs"]), 1)
    same = ("metrics_alert_rules", "dashboards")
    one, two = told(story), told(story, other, OTHER_UNIT)
    assert [one[key] for key in same] == [two[key] for key in same]
    assert "\nnfs_server_shares 0.0\n" in scraped(story, OTHER_UNIT)
    assert "nfs_server_storage_size_bytes" in scraped(story, OTHER_UNIT)


def test_a_unit_without_storage(story: Story):
    found: list[dict[str, str]] = story.machines.ask("storage")
    (storage,) = [it["id"] for it in found if it["owner"] == OTHER_UNIT]
    story.machines.ask("detach_storage", identity=storage)
    with story.update_status_every("5s"):
        story.until_says(OTHER_UNIT, "blocked", "No storage")
    becomes(lambda: "nfs_server_storage_size_bytes" in scraped(story, OTHER_UNIT), expected=False)
    assert listening(story, OTHER_UNIT) == [f"127.0.0.1:{PORT}"]


def test_it_goes_with_its_unit(story: Story):
    story.juju.remove_unit(OTHER_UNIT)
    story.gone(OTHER_UNIT)
    stays_nothing(story, APP_UNIT)
    assert listening(story, SERVER_UNIT) == [f"127.0.0.1:{PORT}"]


def test_it_goes_and_comes_with_its_collector(story: Story, collector_charm: Path):
    story.juju.remove_application(COLLECTOR)
    story.gone(COLLECTOR_UNIT)
    stays_nothing(story, SERVER_UNIT)
    story.settle(SERVER)
    story.juju.deploy(collector_charm, "again")
    story.juju.integrate("again:cos-agent", f"{SERVER}:cos-agent")
    story.settle(SERVER, "again", timeout=DEPLOY_TIMEOUT_S)
    assert "\nnfs_server_up 1.0\n" in scraped(story)
    # What it looked at is not kept in use.
    story.juju.remove_application(CLIENT)
    story.gone(f"{CLIENT}/0")
    becomes(lambda: 'nfs_share_exported{share="/data"} 0.0' in scraped(story), expected=True)
    task = story.act(SERVER_UNIT, "delete-share", share=MOUNT, confirm=MOUNT)
    assert task.success, task
    story.run(SERVER_UNIT, 'test -z "$(losetup --list --noheadings)"')
    story.juju.remove_application(SERVER)
    story.gone(SERVER_UNIT)

# SPDX-License-Identifier: Apache-2.0
"""Several server units, and what an operator does by hand.

Two units with a disk each, and two applications that have a share each: one on either unit.
"""

from typing import Any

import pytest

from story import APP, CLIENT, DEPLOY_TIMEOUT_S, SERVER, Story, becomes

pytestmark = pytest.mark.needs("disks")

FIRST, SECOND, THIRD = f"{SERVER}/0", f"{SERVER}/1", f"{SERVER}/2"
OTHER_CLIENT = "other-client"
APP_UNIT = f"{APP}/0"
DATA, LOGS = "/data", "/logs"
DISK = "8G"


def _do(story: Story, unit: str, name: str, **params: Any) -> dict[str, Any]:
    """Run an action that has to succeed; its results."""
    task = story.act(unit, name, **params)
    assert task.success, task
    story.settle(SERVER)
    return task.results


def _refused(story: Story, unit: str, name: str, **params: Any) -> str:
    """Run an action that has to be refused; the reason."""
    task = story.act(unit, name, **params)
    assert task.status == "failed", task
    return task.message


def _share(story: Story, unit: str, name: str) -> dict[str, str]:
    """What list-shares on a unit says of a share."""
    results = _do(story, unit, "list-shares")
    found = [it for it in results.values() if isinstance(it, dict) and it["name"] == name]
    assert len(found) == 1, results
    return found[0]


def _exported(story: Story, unit: str) -> str:
    return story.run(unit, "exportfs -v")


@pytest.mark.incremental
def test_deploy(story: Story):
    story.deploy(SERVER, 2, disk=DISK)
    story.deploy(APP)
    story.settle(SERVER, APP, timeout=DEPLOY_TIMEOUT_S)
    for client, mountpoint in (CLIENT, DATA), (OTHER_CLIENT, LOGS):
        story.deploy_client(client, mountpoint=mountpoint, share_name=mountpoint, size=1)
        story.integrate(client)
        story.until(APP_UNIT, f"findmnt {mountpoint}")
        story.settle(SERVER, client)


@pytest.mark.incremental
def test_a_share_on_each_unit(story: Story):
    for name, unit in (DATA, FIRST), (LOGS, SECOND):
        share = _share(story, FIRST, name)
        assert (share["unit"], share["state"], share["size"]) == (unit, "exported", "1G")
        exports = _exported(story, unit)
        assert exports.count("/srv/nfs/") == 1
        assert share["path"] in exports
        story.run(APP_UNIT, f"echo {name} > {name}/file && sync {name}/file")
    sources = story.run(APP_UNIT, "findmnt --noheadings --types nfs4 --output SOURCE")
    assert len({source.partition(":")[0] for source in sources.split()}) == 2


@pytest.mark.needs("hooks")
def test_a_change_of_leader_moves_nothing(story: Story):
    before = [_exported(story, unit) for unit in (FIRST, SECOND)]
    leader = story.leader()
    other = SECOND if leader == FIRST else FIRST
    story.machines.lead(other)
    story.settle(SERVER, CLIENT, OTHER_CLIENT)
    assert story.leader() == other
    assert before == [_exported(story, unit) for unit in (FIRST, SECOND)]
    assert story.run(APP_UNIT, f"cat {DATA}/file {LOGS}/file") == f"{DATA}\n{LOGS}"
    story.machines.lead(leader)
    story.settle(SERVER)


@pytest.mark.needs("power")
def test_a_leader_that_is_gone_is_a_follower_when_it_is_back(story: Story):
    """Its lease runs out; another unit decides meanwhile, by what it heard of it before."""
    leader = story.leader()
    other = SECOND if leader == FIRST else FIRST
    before = _exported(story, other)
    story.machines.power_cut(leader)
    becomes(story.leader, other)
    made = story.act(other, "create-share", share="/meanwhile", size=1)
    assert made.success, made
    story.machines.boot(leader)
    story.until_says(leader, "active", timeout=DEPLOY_TIMEOUT_S)
    with story.update_status_every("10s"):
        story.settle(CLIENT, OTHER_CLIENT)
    story.settle(SERVER)
    assert story.leader() == other
    assert set(before.split()) <= set(_exported(story, other).split())
    share = _share(story, other, "/meanwhile")
    assert share["state"] == "kept"
    assert story.run(APP_UNIT, f"cat {DATA}/file {LOGS}/file") == f"{DATA}\n{LOGS}"
    for action in "delete-share", "purge-share":
        _do(story, share["unit"], action, share="/meanwhile", confirm="/meanwhile")


def test_a_share_by_hand(story: Story):
    leader = story.leader()
    follower = SECOND if leader == FIRST else FIRST
    said = _refused(story, follower, "create-share", share="/hand", size=1)
    assert said == "run it on the leader: juju run nfs-server/leader create-share …"
    said = _refused(story, leader, "create-share", share="/hand", size=400)
    assert said.startswith("share /hand: 400G requested, "), said
    client = story.run(APP_UNIT, "hostname -I | cut -d' ' -f1")
    for _ in range(2):
        _do(story, leader, "create-share", share="/hand", size=1, allowlist=client)
    share = _share(story, leader, "/hand")
    owner = share["unit"]
    assert (share["state"], share["size"], share["allowlist"]) == ("exported", "1G", client)
    mount = _share(story, owner, "/hand")["mount"]
    story.run(APP_UNIT, f"mkdir /mnt/hand && {mount}/hand && echo by hand > /mnt/hand/file")
    assert client in (_share(story, owner, "/hand"))["clients"]
    confirmed = {"share": "/hand", "confirm": "/hand"}
    said = _refused(story, owner, "delete-share", **confirmed)
    assert f"{client} is connected" in said
    _do(story, leader, "resize-share", share="/hand", size=2)
    size = "df --block-size=1M --output=size /mnt/hand | tail -n 1"
    assert int(story.run(APP_UNIT, size)) > 1900
    said = _refused(story, leader, "resize-share", share="/hand", size=1)
    assert said == "share /hand: 1G requested, it has 2G; a share never shrinks"
    assert story.run(APP_UNIT, "cat /mnt/hand/file && umount /mnt/hand") == "by hand"


def test_access_by_hand(story: Story):
    leader = story.leader()
    _do(story, leader, "grant-access", share=DATA, allowlist="192.0.2.0/24")
    story.configure(CLIENT, size="2")
    story.until(APP_UNIT, f"test $(df --block-size=1M --output=size {DATA} | tail -n 1) -gt 1900")
    story.settle(SERVER, CLIENT)
    share = _share(story, leader, DATA)
    assert share["granted-by-action"] == "192.0.2.0/24"
    assert "192.0.2.0/24" in _exported(story, share["unit"])
    client = story.run(APP_UNIT, "hostname -I | cut -d' ' -f1")
    results = _do(story, leader, "revoke-access", share=DATA, allowlist=f"192.0.2.0/24,{client}")
    assert results["still-allowed"] == f"{client} by {CLIENT}"
    assert "192.0.2.0" not in _exported(story, share["unit"])
    story.run(APP_UNIT, f"cat {DATA}/file")


def test_a_check(story: Story):
    leader = story.leader()
    client = story.run(APP_UNIT, "hostname -I | cut -d' ' -f1")
    owner = (_share(story, leader, "/hand"))["unit"]
    data_owner = (_share(story, leader, DATA))["unit"]
    # Its clients wait meanwhile, and get back what they have open.
    reader = f"exec 9< {DATA}/file; sleep 30; cat <&9 > /run/read"
    story.run(APP_UNIT, f"systemd-run --quiet --unit=reader sh -c '{reader}'")
    results = _do(story, data_owner, "check-share", share=DATA)
    assert results["state"] == "clean", results
    story.run(APP_UNIT, f"echo after > {DATA}/after && sync {DATA}/after && cat {DATA}/file")
    story.run(APP_UNIT, "timeout 60 sh -c 'until test -s /run/read; do sleep 0.2; done'")
    assert story.run(APP_UNIT, "cat /run/read") == DATA
    _do(story, leader, "revoke-access", share="/hand", allowlist=client)
    results = _do(story, owner, "check-share", share="/hand", repair=True)
    assert results["state"] == "clean"
    assert (_share(story, owner, "/hand"))["state"] == "kept"


def test_a_share_is_deleted(story: Story):
    leader = story.leader()
    owner = (_share(story, leader, "/hand"))["unit"]
    said = _refused(story, owner, "delete-share", share="/hand", confirm="hand")
    assert said == "confirm: type the name of the share again, confirm=/hand"
    data_owner = (_share(story, leader, DATA))["unit"]
    said = _refused(story, data_owner, "delete-share", share=DATA, confirm=DATA)
    assert said == f"share {DATA} is requested by {CLIENT}: remove that integration first"
    _do(story, owner, "delete-share", share="/hand", confirm="/hand")
    other = SECOND if owner == FIRST else FIRST
    for action in "restore-share", "purge-share":
        confirm = {"confirm": "/hand"} if action == "purge-share" else {}
        said = _refused(story, other, action, share="/hand", **confirm)
        assert said == f"share /hand: deleted, and kept on {owner}: run it there"
    said = _refused(story, leader, "create-share", share="/hand", size=1)
    assert said.startswith(f"share /hand: deleted, and kept on {owner}: run restore-share or ")
    _do(story, owner, "restore-share", share="/hand")
    becomes(lambda: _share(story, leader, "/hand")["state"], "kept")
    for action in "delete-share", "purge-share":
        _do(story, owner, action, share="/hand", confirm="/hand")
    for unit in FIRST, SECOND:
        story.run(unit, "! find / -xdev -path '*shares*' -name 'hand_*' | grep .")
        story.run(unit, "! findmnt --noheadings --output TARGET | grep hand")
    said = _refused(story, leader, "resize-share", share="/hand", size=5)
    assert said == "there is no share /hand: see list-shares"


def _remove(story: Story, unit: str) -> str:
    """Remove a server's unit; the storage that it leaves."""
    storage = story.juju.exec("storage-list shares", unit=unit).stdout.strip()
    story.juju.remove_unit(unit)
    story.gone(unit)
    return storage


def _add(story: Story, storage: str) -> str:
    """Add a unit that has a storage that there was before; its name."""
    before = {*story.juju.status().get_units(SERVER)}
    story.add_unit(SERVER, attach_storage=storage)
    (added,) = {*story.juju.status().get_units(SERVER)} - before
    return added


@pytest.fixture(scope="module")
def left(story: Story) -> list[str]:
    """The storage that removed units left."""
    return []


def test_a_unit_that_goes_takes_its_shares_with_it(story: Story, left: list[str]):
    left.append(_remove(story, SECOND))
    gone = f"share {LOGS} was on {SECOND}, which is gone"
    story.until_says(f"{OTHER_CLIENT}/0", "blocked", gone)
    assert story.app_message().startswith(gone)
    story.settle(CLIENT)
    story.run(APP_UNIT, f"echo still > {DATA}/still && cat {DATA}/file")
    assert "logs" not in _exported(story, FIRST)
    assert not story.run(FIRST, "find / -xdev -path '*shares*' -name 'logs_*'")


def test_a_share_comes_back_with_its_storage(story: Story, left: list[str]):
    added = _add(story, left[-1])
    story.until_says(f"{OTHER_CLIENT}/0", "active", timeout=DEPLOY_TIMEOUT_S)
    story.settle(SERVER, CLIENT, OTHER_CLIENT)
    share = _share(story, FIRST, LOGS)
    assert (share["unit"], share["state"]) == (added, "exported")
    assert story.app_message() == ""
    address = story.run(added, "hostname -I | cut -d' ' -f1")
    source = story.run(APP_UNIT, f"findmnt --noheadings --output SOURCE {LOGS}")
    assert source == f"{address}:{share['path']}"
    assert story.run(APP_UNIT, f"cat {LOGS}/file") == LOGS
    story.run(APP_UNIT, f"echo again > {LOGS}/again && sync {LOGS}/again")


def test_a_lost_share_is_made_anew_only_when_it_is_forgotten(story: Story, left: list[str]):
    owner = _share(story, FIRST, LOGS)["unit"]
    said = _refused(story, FIRST, "forget-share", share=LOGS, confirm=LOGS)
    assert said == f"share {LOGS} is on {owner}: use delete-share to delete its data"
    left.append(_remove(story, owner))
    story.until_says(f"{OTHER_CLIENT}/0", "blocked")
    _do(story, FIRST, "forget-share", share=LOGS, confirm=LOGS)
    story.until_says(f"{OTHER_CLIENT}/0", "active")
    story.settle(SERVER, OTHER_CLIENT)
    assert story.run(APP_UNIT, f"ls -A {LOGS}") == ""
    assert _share(story, FIRST, LOGS)["unit"] == FIRST


def test_an_old_image_that_comes_back_too_late_is_named(story: Story, left: list[str]):
    added = _add(story, left[-1])
    said = f"share {LOGS} is on {FIRST}, another image of it is here: move it off the storage"
    story.until_says(added, "blocked", said, timeout=DEPLOY_TIMEOUT_S)
    storage = story.storage(added)
    old = story.run(added, f"ls {storage}/logs_*.img").strip()
    assert story.run(added, f"debugfs -R 'cat again' {old} 2> /dev/null") == "again"
    story.run(added, "! findmnt --noheadings --output TARGET | grep logs")
    assert "logs" not in _exported(story, added)


@pytest.mark.needs("hooks")
def test_hooks_that_come_before_the_storage(story: Story):
    """As after a boot where Juju's agent mounts it: nobody is shut out, nothing made beneath."""
    path, exported = story.storage(FIRST), _exported(story, FIRST)
    story.run(FIRST, f"sed -i '\\#{path}#s/^/#late#/' /etc/fstab && sync")
    story.machines.reboot(FIRST)
    story.update_status(FIRST)
    story.until_says(FIRST, "waiting", f"which is not mounted on {path}")
    assert set(_exported(story, FIRST).split()) == set(exported.split())
    assert story.run(FIRST, f"ls --almost-all {path}") == ""
    story.run(FIRST, "sed -i 's/^#late#//' /etc/fstab && systemctl daemon-reload")
    story.run(FIRST, f"mount {path}")
    story.update_status(FIRST)
    story.until_says(FIRST, "active")
    story.run(FIRST, "findmnt --types ext4 | grep /srv/nfs/data_")

# SPDX-License-Identifier: Apache-2.0
"""Several server units, and what an operator does by hand.

Two units with a disk each, and two applications that have a share each: one on either unit.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from story import APP, CLIENT, DEPLOY_TIMEOUT_S, SERVER, SETTLE_TIMEOUT_S, Story

FIRST, SECOND, THIRD = f"{SERVER}/0", f"{SERVER}/1", f"{SERVER}/2"
OTHER_CLIENT = "other-client"
APP_UNIT = f"{APP}/0"
DATA, LOGS = "/data", "/logs"
DISK = "8G"
STORAGE = "/var/lib/juju/storage/shares/1"


async def _run_action(story: Story, unit: str, name: str, **params: Any) -> Any:
    action = await story.model.units[unit].run_action(name, **params)
    return await action.wait()


async def _do(story: Story, unit: str, name: str, **params: Any) -> dict[str, Any]:
    """Run an action that has to succeed; its results."""
    action = await _run_action(story, unit, name, **params)
    assert action.status == "completed", action.message
    await story.settle(SERVER)
    return action.results


async def _refused(story: Story, unit: str, name: str, **params: Any) -> str:
    """Run an action that has to be refused; the reason."""
    action = await _run_action(story, unit, name, **params)
    assert action.status == "failed"
    return action.message


async def _share(story: Story, unit: str, name: str) -> dict[str, str]:
    """What list-shares on a unit says of a share."""
    results = await _do(story, unit, "list-shares")
    found = [it for it in results.values() if isinstance(it, dict) and it["name"] == name]
    assert len(found) == 1, results
    return found[0]


async def _leader(story: Story) -> str:
    units = story.model.applications[SERVER].units
    (leader,) = [unit.name for unit in units if await unit.is_leader_from_status()]
    return leader


async def _exported(story: Story, unit: str) -> str:
    return await story.run(unit, "exportfs -v")


def _message(story: Story, unit: str) -> str:
    return story.model.units[unit].workload_status_message


async def _mount(story: Story, where: str, share: Mapping[str, str], server: str) -> None:
    """Mount a share by hand, as clients outside Juju do."""
    address = await story.run(server, "hostname -I | cut -d' ' -f1")
    source = f"{address}:{share['path']}"
    await story.run(where, f"mkdir -p /mnt/hand && mount -t nfs4 {source} /mnt/hand")


@pytest.mark.abort_on_fail
@pytest.mark.skip_if_deployed
async def test_deploy(story: Story, deploy_options: Mapping[str, Any], app_charm: Path):
    model = story.model
    await model.deploy(
        story.charms[SERVER],
        application_name=SERVER,
        num_units=2,
        storage={"shares": DISK},
        **deploy_options,
    )
    await model.deploy(app_charm, application_name=APP, **deploy_options)
    await model.wait_for_idle(
        apps=[SERVER, APP], status="active", timeout=DEPLOY_TIMEOUT_S, idle_period=1
    )
    for client, mountpoint in (CLIENT, DATA), (OTHER_CLIENT, LOGS):
        await model.deploy(
            story.charms[CLIENT],
            application_name=client,
            num_units=0,
            config={"mountpoint": mountpoint, "share-name": mountpoint, "size": 1},
        )
        await model.integrate(f"{client}:juju-info", f"{APP}:juju-info")
        await model.integrate(f"{client}:nfs-share", f"{SERVER}:nfs-share")
        await story.settle(SERVER, client)


@pytest.mark.abort_on_fail
async def test_a_share_on_each_unit(story: Story):
    for name, unit in (DATA, FIRST), (LOGS, SECOND):
        share = await _share(story, FIRST, name)
        assert (share["unit"], share["state"], share["size"]) == (unit, "exported", "1G")
        exports = await _exported(story, unit)
        assert exports.count("/srv/nfs/") == 1
        assert share["path"] in exports
        await story.run(APP_UNIT, f"echo {name} > {name}/file && sync {name}/file")
    sources = await story.run(APP_UNIT, "findmnt --noheadings --types nfs4 --output SOURCE")
    assert len({source.partition(":")[0] for source in sources.split()}) == 2


async def test_a_change_of_leader_moves_nothing(story: Story):
    before = [await _exported(story, unit) for unit in (FIRST, SECOND)]
    leader = await _leader(story)
    other = SECOND if leader == FIRST else FIRST
    await story.substrate.lead(other)
    await story.settle(SERVER, CLIENT, OTHER_CLIENT)
    assert await _leader(story) == other
    assert before == [await _exported(story, unit) for unit in (FIRST, SECOND)]
    assert await story.run(APP_UNIT, f"cat {DATA}/file {LOGS}/file") == f"{DATA}\n{LOGS}"
    await story.substrate.lead(leader)
    await story.settle(SERVER)


async def test_a_share_by_hand(story: Story):
    leader = await _leader(story)
    follower = SECOND if leader == FIRST else FIRST
    said = await _refused(story, follower, "create-share", share="/hand", size=1)
    assert said == "run it on the leader: juju run nfs-server/leader create-share …"
    said = await _refused(story, leader, "create-share", share="/hand", size=400)
    assert said.startswith("share /hand: 400G requested, "), said
    client = await story.run(APP_UNIT, "hostname -I | cut -d' ' -f1")
    for _ in range(2):
        await _do(story, leader, "create-share", share="/hand", size=1, allowlist=client)
    share = await _share(story, leader, "/hand")
    owner = share["unit"]
    assert (share["state"], share["size"], share["allowlist"]) == ("exported", "1G", client)
    await _mount(story, APP_UNIT, share, owner)
    await story.run(APP_UNIT, "echo by hand > /mnt/hand/file")
    assert client in (await _share(story, owner, "/hand"))["clients"]
    confirmed = {"share": "/hand", "confirm": "/hand"}
    said = await _refused(story, owner, "delete-share", **confirmed)
    assert f"{client} is connected" in said
    await _do(story, leader, "resize-share", share="/hand", size=2)
    size = "df --block-size=1M --output=size /mnt/hand | tail -n 1"
    assert int(await story.run(APP_UNIT, size)) > 1900
    said = await _refused(story, leader, "resize-share", share="/hand", size=1)
    assert said == "share /hand: 1G requested, it has 2G; a share never shrinks"
    assert await story.run(APP_UNIT, "cat /mnt/hand/file && umount /mnt/hand") == "by hand"


async def test_access_by_hand(story: Story):
    leader = await _leader(story)
    await _do(story, leader, "grant-access", share=DATA, allowlist="192.0.2.0/24")
    await story.model.applications[CLIENT].set_config({"size": "2"})
    await story.settle(SERVER, CLIENT)
    share = await _share(story, leader, DATA)
    assert share["granted-by-action"] == "192.0.2.0/24"
    assert "192.0.2.0/24" in await _exported(story, share["unit"])
    client = await story.run(APP_UNIT, "hostname -I | cut -d' ' -f1")
    results = await _do(
        story, leader, "revoke-access", share=DATA, allowlist=f"192.0.2.0/24,{client}"
    )
    assert results["still-allowed"] == f"{client} by {CLIENT}"
    assert "192.0.2.0" not in await _exported(story, share["unit"])
    await story.run(APP_UNIT, f"cat {DATA}/file")


async def test_a_check(story: Story):
    leader = await _leader(story)
    client = await story.run(APP_UNIT, "hostname -I | cut -d' ' -f1")
    owner = (await _share(story, leader, "/hand"))["unit"]
    data_owner = (await _share(story, leader, DATA))["unit"]
    # Its clients wait meanwhile, and get back what they have open.
    reader = f"exec 9< {DATA}/file; sleep 30; cat <&9 > /run/read"
    await story.run(APP_UNIT, f"systemd-run --quiet --unit=reader sh -c '{reader}'")
    results = await _do(story, data_owner, "check-share", share=DATA)
    assert results["state"] == "clean", results
    await story.run(APP_UNIT, f"echo after > {DATA}/after && sync {DATA}/after && cat {DATA}/file")
    await story.run(APP_UNIT, "timeout 60 sh -c 'until test -s /run/read; do sleep 0.2; done'")
    assert await story.run(APP_UNIT, "cat /run/read") == DATA
    await _do(story, leader, "revoke-access", share="/hand", allowlist=client)
    results = await _do(story, owner, "check-share", share="/hand", repair=True)
    assert results["state"] == "clean"
    assert (await _share(story, owner, "/hand"))["state"] == "kept"


async def test_a_share_is_deleted(story: Story):
    leader = await _leader(story)
    owner = (await _share(story, leader, "/hand"))["unit"]
    said = await _refused(story, owner, "delete-share", share="/hand", confirm="hand")
    assert said == "confirm: type the name of the share again, confirm=/hand"
    data_owner = (await _share(story, leader, DATA))["unit"]
    said = await _refused(story, data_owner, "delete-share", share=DATA, confirm=DATA)
    assert said == f"share {DATA} is requested by {CLIENT}: remove that integration first"
    await _do(story, owner, "delete-share", share="/hand", confirm="/hand")
    for unit in FIRST, SECOND:
        await story.run(unit, "! find / -xdev -path '*shares*' -name 'hand_*' | grep .")
        await story.run(unit, "! findmnt --noheadings --output TARGET | grep hand")
    said = await _refused(story, leader, "resize-share", share="/hand", size=5)
    assert said == "there is no share /hand: see list-shares"


async def test_a_unit_that_goes_takes_its_shares_with_it(story: Story):
    model = story.model
    await model.applications[SERVER].destroy_unit(SECOND)
    await model.block_until(lambda: SECOND not in model.units, timeout=SETTLE_TIMEOUT_S)
    await story.settle(OTHER_CLIENT, status="blocked")
    gone = f"share {LOGS} was on {SECOND}, which is gone"
    assert gone in _message(story, f"{OTHER_CLIENT}/0"), _message(story, f"{OTHER_CLIENT}/0")
    assert model.applications[SERVER].status_message.startswith(gone)
    await story.settle(CLIENT)
    await story.run(APP_UNIT, f"echo still > {DATA}/still && cat {DATA}/file")
    assert "logs" not in await _exported(story, FIRST)
    assert not await story.run(FIRST, "find / -xdev -path '*shares*' -name 'logs_*'")


async def test_a_share_comes_back_with_its_storage(story: Story):
    server = story.model.applications[SERVER]
    (added,) = await server.add_unit(attach_storage=["shares/1"])
    await story.model.wait_for_idle(apps=[SERVER], timeout=DEPLOY_TIMEOUT_S, idle_period=1)
    await story.settle(SERVER, CLIENT, OTHER_CLIENT)
    share = await _share(story, FIRST, LOGS)
    assert (share["unit"], share["state"]) == (added.name, "exported")
    assert server.status_message == ""
    address = await story.run(added.name, "hostname -I | cut -d' ' -f1")
    source = await story.run(APP_UNIT, f"findmnt --noheadings --output SOURCE {LOGS}")
    assert source == f"{address}:{share['path']}"
    assert await story.run(APP_UNIT, f"cat {LOGS}/file") == LOGS
    await story.run(APP_UNIT, f"echo again > {LOGS}/again && sync {LOGS}/again")


async def test_a_lost_share_is_made_anew_only_when_it_is_forgotten(story: Story):
    server = story.model.applications[SERVER]
    owner = (await _share(story, FIRST, LOGS))["unit"]
    said = await _refused(story, FIRST, "forget-share", share=LOGS, confirm=LOGS)
    assert said == f"share {LOGS} is on {owner}: use delete-share to delete its data"
    await server.destroy_unit(owner)
    await story.model.block_until(lambda: owner not in story.model.units, timeout=SETTLE_TIMEOUT_S)
    await story.settle(OTHER_CLIENT, status="blocked")
    await _do(story, FIRST, "forget-share", share=LOGS, confirm=LOGS)
    await story.settle(SERVER, OTHER_CLIENT)
    assert await story.run(APP_UNIT, f"ls -A {LOGS}") == ""
    assert (await _share(story, FIRST, LOGS))["unit"] == FIRST


async def test_an_old_image_that_comes_back_too_late_is_named(story: Story):
    server = story.model.applications[SERVER]
    (added,) = await server.add_unit(attach_storage=["shares/1"])
    await story.model.wait_for_idle(apps=[SERVER], timeout=DEPLOY_TIMEOUT_S, idle_period=1)
    said = _message(story, added.name)
    assert (
        said == f"share {LOGS} is on {FIRST}, another image of it is here: move it off the storage"
    )
    old = (await story.run(added.name, f"ls {STORAGE}/logs_*.img")).strip()
    assert await story.run(added.name, f"debugfs -R 'cat again' {old} 2> /dev/null") == "again"
    await story.run(added.name, "! findmnt --noheadings --output TARGET | grep logs")
    assert "logs" not in await _exported(story, added.name)

# SPDX-License-Identifier: Apache-2.0
"""The charms beside what others made: autofs, charms with library 0.3, the retired nfs-client."""

from pathlib import Path

import pytest

from story import APP, CLIENT, DEPLOY_TIMEOUT_S, MOUNT, SERVER, Story, becomes

pytestmark = pytest.mark.slow
SERVER_UNIT, CLIENT_UNIT, APP_UNIT = f"{SERVER}/0", f"{CLIENT}/0", f"{APP}/0"
OLD, OLD_SERVER, OLD_CLIENT = "old", "old-server", "client-of-old"
SCRATCH = "/scratch"
AUTOFS_REMARK = f"{APP}: autofs, if it mounts, needs NFSv3 or fstype=nfs4"
LIBRARY_REMARK = f"{OLD} has library 0.3: it unmounts for good when a unit of {SERVER} is removed"


def _source(story: Story, share: str) -> str:
    """Where a share can be mounted from."""
    path = story.run(SERVER_UNIT, f"ls -d /srv/nfs/{share}_*")
    return f"{story.unit(SERVER_UNIT).public_address}:{path}"


def _map(story: Story, name: str, line: str) -> None:
    """Give autofs a direct map, as filesystem-client and the retired nfs-client did."""
    story.run(
        APP_UNIT,
        f"echo '/- /etc/auto.{name}' > /etc/auto.master.d/{name}.autofs"
        f" && echo '{line}' > /etc/auto.{name} && systemctl restart autofs",
    )


@pytest.mark.incremental
def test_deploy(story: Story):
    story.deploy(SERVER, config={"filesystem-share": "hpc", "filesystem-size": 1})
    story.deploy(APP)
    story.juju.integrate(f"{APP}:filesystem", f"{SERVER}:filesystem")
    story.settle(SERVER, APP, timeout=DEPLOY_TIMEOUT_S)
    story.run(APP_UNIT, "apt-get update && apt-get install --yes autofs nfs-common", timeout=300)


def test_autofs_mounts_by_the_version(story: Story):
    """Named in the map; else the server has to speak NFSv3, and says so."""
    becomes(lambda: AUTOFS_REMARK in story.app_message(), expected=True)
    source = _source(story, "hpc")
    for options in "fstype=nfs4", "fstype=nfs,vers=4.2":
        _map(story, "scratch", f"{SCRATCH} -{options} {source}")
        story.run(APP_UNIT, f"timeout 60 touch {SCRATCH}/file && findmnt --types nfs4 {SCRATCH}")
        story.run(APP_UNIT, f"systemctl stop autofs && ! findmnt {SCRATCH}")
    _map(story, "scratch", f"{SCRATCH} -fstype=nfs {source}")
    assert story.try_to_run(APP_UNIT, f"timeout 60 ls {SCRATCH}/file")[0] != 0
    story.configure(SERVER, nfsv3="true")
    story.until(SERVER_UNIT, "rpcinfo -t localhost nfs 3")
    story.settle(SERVER)
    becomes(story.app_message, "")
    story.run(APP_UNIT, "systemctl restart autofs")
    story.until(APP_UNIT, f"timeout 60 ls {SCRATCH}/file", timeout=180)
    story.run(
        APP_UNIT, "systemctl stop autofs && rm /etc/auto.scratch /etc/auto.master.d/scratch.autofs"
    )
    story.configure(SERVER, nfsv3="false")
    becomes(lambda: AUTOFS_REMARK in story.app_message(), expected=True)
    story.settle(SERVER)


def test_a_client_with_library_03(story: Story, library_03_charm: Path):
    """It has its share, and the server names it."""
    story.juju.deploy(library_03_charm, OLD, **story.placement(1))
    story.juju.integrate(f"{OLD}:share", f"{SERVER}:nfs-share")
    story.until_says(f"{OLD}/0", "active", "nfs://", timeout=DEPLOY_TIMEOUT_S)
    source = _source(story, "old")
    assert story.message(f"{OLD}/0") == f"nfs://{source.replace(':', '', 1)}"
    becomes(lambda: LIBRARY_REMARK in story.app_message(), expected=True)
    # To everyone, as it asked.
    becomes(lambda: "share /old is open to all" in story.app_message(), expected=True)


def test_a_server_with_library_03(story: Story, library_03_charm: Path):
    """It says nothing but the endpoint."""
    path = _source(story, "old")
    story.juju.deploy(
        library_03_charm,
        OLD_SERVER,
        config={"endpoint": f"nfs://{path.replace(':', '', 1)}"},
        **story.placement(1),
    )
    story.deploy_client(OLD_CLIENT, mountpoint="/old", size=1)
    story.juju.integrate(f"{OLD_CLIENT}:nfs-share", f"{OLD_SERVER}:serve")
    story.juju.integrate(f"{OLD_CLIENT}:juju-info", APP)
    story.until(APP_UNIT, "findmnt --types nfs4 /old", timeout=DEPLOY_TIMEOUT_S)
    story.settle(OLD_CLIENT)
    story.juju.remove_relation(f"{OLD_CLIENT}:nfs-share", f"{OLD_SERVER}:serve")
    story.until(APP_UNIT, "! findmnt /old && ! ls -d /old")


def test_the_retired_client_is_taken_over_from(story: Story):
    """What autofs has is left alone; as the how-to says, it is taken over, with nothing lost."""
    source = _source(story, "old")
    _map(story, "data", f"{MOUNT} -fstype=nfs4 {source}")
    story.run(APP_UNIT, f"echo kept > {MOUNT}/file && sync {MOUNT}/file")
    story.deploy_client(mountpoint=MOUNT, size=1, share_name="/old")
    story.integrate()
    says = f"{MOUNT}: autofs has it in /etc/auto.data, take it out and"
    said = story.until_says(CLIENT_UNIT, "blocked", says, timeout=DEPLOY_TIMEOUT_S)
    assert len(said) <= 120
    story.run(APP_UNIT, f"grep -x kept {MOUNT}/file")
    for command in (
        "rm /etc/auto.data /etc/auto.master.d/data.autofs",
        "systemctl reload autofs",
        f"sh -c 'umount {MOUNT} || ! findmnt {MOUNT}'",
    ):
        story.run(APP_UNIT, command)
    story.update_status(CLIENT_UNIT)
    story.until(APP_UNIT, f"systemctl is-active data.mount && grep -x kept {MOUNT}/file")
    story.settle(CLIENT)

# SPDX-License-Identifier: Apache-2.0
"""The charm to copy, as the author of another one copies it: from the page to a running charm."""

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pages import REPOSITORY, Step, follow, steps
from story import Story

MAKING, *TRYING = steps((REPOSITORY / "interface" / "README.md").read_text())
PACK = re.compile(r"\(cd (\S+) && charmcraft pack --platform ubuntu@24\.04:amd64\)")
UNIT = "my-charm/0"
LOG, MOUNT, SERVICE = "/srv/logbook/log", "srv-logbook.mount", "logbook.service"
SHELL_TIMEOUT_S = 60
SYSTEMD_TIMEOUT_S = 60


@pytest.fixture(scope="module")
def author(
    story: Story, pack: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> Story:
    """One who has typed the first commands of the page, in a checkout."""
    checkout = tmp_path_factory.mktemp("checkout")
    ours = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "examples", checkout / "examples", ignore=ours)
    charms = {**story.charms}
    for command in MAKING.commands:
        if packing := PACK.fullmatch(command):
            directory = checkout / packing[1]
            if directory.exists():  # The others are packed.
                charms[directory.name] = pack(directory)
        else:
            shell = ["/bin/sh", "-ec", command]
            subprocess.run(shell, cwd=checkout, check=True, timeout=SHELL_TIMEOUT_S)
    return replace(story, charms=charms)


@pytest.mark.incremental
@pytest.mark.parametrize("step", TRYING, ids=str)
def test_the_half_hour(author: Story, step: Step):
    follow(author, step)


def test_the_service_goes_and_comes_with_the_mount(author: Story):
    """What systemd does between hooks, also where another unmounts."""
    before = author.run(UNIT, f"cat {LOG}")
    author.run(UNIT, "umount --lazy /srv/logbook")
    author.until(UNIT, f"! systemctl is-active {SERVICE} && ! test -e {LOG}")
    author.run(UNIT, f"systemctl start {MOUNT}")
    # Long before the next hook, which would start it too.
    is_back = f"systemctl is-active {SERVICE} && findmnt --types nfs4 /srv/logbook"
    author.until(UNIT, is_back, timeout=SYSTEMD_TIMEOUT_S)
    author.until(UNIT, f"test $(wc -l < {LOG}) -gt {len(before.splitlines())}")
    assert author.run(UNIT, f"cat {LOG}").startswith(before)


def test_it_runs_again_after_a_boot(author: Story):
    lines = len(author.run(UNIT, f"cat {LOG}").splitlines())
    author.machines.reboot(UNIT)
    author.until(UNIT, f"systemctl is-active {SERVICE} && test $(wc -l < {LOG}) -gt {lines}")


def test_it_leaves_with_its_application(author: Story):
    (machine,) = {it.machine for it in author.juju.status().apps["my-charm"].units.values()}
    author.juju.deploy(author.charms["my-app"], "stays", to=machine)
    author.settle("stays")
    author.juju.remove_application("my-charm")
    author.gone(UNIT)
    author.run("stays/0", f"! systemctl is-active {SERVICE} {MOUNT} && ! findmnt /srv/logbook")

# SPDX-License-Identifier: Apache-2.0
"""The integration suite is the same on Juju as here, but for what Juju's machines can't do."""

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def collected(*options: str) -> set[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *options]
    done = subprocess.run(
        [*command, "tests/integration"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
        text=True,
        timeout=120,
    )
    return {line for line in done.stdout.splitlines() if "::" in line}


def test_it_is_collected_alike():
    here = collected("--substrate=sandbox")
    assert len(here) > 100
    assert collected("--substrate=juju") == here
    assert collected("--substrate=juju", "--machines=ssh:ubuntu@192.0.2.1") == here

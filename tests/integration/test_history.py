# SPDX-License-Identifier: Apache-2.0
"""A short history of all that can happen; long ones are for a person who changes the rules."""

import subprocess
import sys

import pytest

from pages import REPOSITORY

pytestmark = [pytest.mark.needs("hooks"), pytest.mark.slow]
TIMEOUT_S = 3600


def test_a_short_history():
    command = [sys.executable, "-m", "tests.torture", "--seed=1", "--steps=40", "--shrink=0"]
    subprocess.run(command, cwd=REPOSITORY, check=True, timeout=TIMEOUT_S)

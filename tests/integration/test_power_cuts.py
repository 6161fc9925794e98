# SPDX-License-Identifier: Apache-2.0
"""Ten power cuts at random moments."""

import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import power_cuts
from story import APP, CLIENT, SERVER

ROUNDS = 10


async def test_power_cuts(
    ops_test: Any,
    substrate: Any,
    deploy_options: Mapping[str, Any],
    server_charm: Path,
    client_charm: Path,
    app_charm: Path,
):
    if not hasattr(substrate, "kill_hook"):
        pytest.skip("the history of hooks is the sandbox's")
    charms = {SERVER: server_charm, CLIENT: client_charm, APP: app_charm}
    begun = await power_cuts.begin(
        ops_test, substrate, charms, secrets.randbits(32), deploy_options=deploy_options
    )
    for number in range(1, ROUNDS + 1):
        await begun.round(number)

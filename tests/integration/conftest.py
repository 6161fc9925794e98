# SPDX-License-Identifier: Apache-2.0
"""Where the suite runs, and the charms that it deploys.

``--substrate`` decides: on ``juju``, pytest-operator gives ``ops_test``; in the ``sandbox``,
``sandbox_substrate.py`` gives one with the same interface. Both give ``substrate``, for what
Juju's interface has no word for.
"""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from story import APP, CLIENT, SERVER, Story

REPOSITORY = Path(__file__).resolve().parent.parent.parent
CONTROLLERS_TIMEOUT_S = 60


def pytest_addoption(parser: pytest.Parser):
    group = parser.getgroup("substrate", "where the charms are deployed")
    group.addoption(
        "--substrate",
        choices=["juju", "sandbox"],
        help="default: juju where it has a controller, else the sandbox",
    )
    group.addoption(
        "--juju",
        choices=["3.6", "4.0"],
        default="3.6",
        help="whose ways the sandbox follows (default: 3.6)",
    )


def pytest_configure(config: pytest.Config):
    chosen = config.getoption("--substrate") or _default_substrate()
    config.pluginmanager.import_plugin(f"{chosen}_substrate")


def _default_substrate() -> str:
    juju = shutil.which("juju")
    if juju is None:
        return "sandbox"
    listed = subprocess.run(
        [juju, "controllers", "--format=json"],
        capture_output=True,
        check=True,
        timeout=CONTROLLERS_TIMEOUT_S,
    )
    return "juju" if json.loads(listed.stdout).get("controllers") else "sandbox"


async def _packed(ops_test: Any, directory: Path) -> Path:
    """Return the charm that CHARM_PATH_<NAME> names, or else the one that ops_test has."""
    variable = f"CHARM_PATH_{directory.name.upper().replace('-', '_')}"
    if given := os.environ.get(variable):
        return Path(given).resolve(strict=True)
    return await ops_test.build_charm(directory)


@pytest_asyncio.fixture(scope="module")
async def server_charm(ops_test: Any) -> Path:
    return await _packed(ops_test, REPOSITORY / "charms" / "nfs-server")


@pytest_asyncio.fixture(scope="module")
async def client_charm(ops_test: Any) -> Path:
    return await _packed(ops_test, REPOSITORY / "charms" / "nfs-client")


@pytest_asyncio.fixture(scope="module")
async def app_charm(ops_test: Any) -> Path:
    """A principal charm that does nothing."""
    return await _packed(ops_test, Path(__file__).parent / "charms" / "any-app")


@pytest.fixture(scope="module")
def story(
    ops_test: Any,
    substrate: Any,
    deploy_options: Mapping[str, Any],
    server_charm: Path,
    client_charm: Path,
    app_charm: Path,
) -> Story:
    return Story(
        model=ops_test.model,
        substrate=substrate,
        charms={SERVER: server_charm, CLIENT: client_charm, APP: app_charm},
        deploy_options=deploy_options,
    )

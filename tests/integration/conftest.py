# SPDX-License-Identifier: Apache-2.0
"""Where the suite runs, and the charms that it deploys.

``--substrate`` decides: on ``juju``, pytest-operator gives ``ops_test``; on ``juju4`` and in the
``sandbox``, ``juju4_substrate.py`` and ``sandbox_substrate.py`` give one with the same interface.
All give ``substrate``, for what Juju's interface has no word for.
"""

import json
import os
import platform
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from sandbox.images import host_release
from story import APP, CLIENT, SERVER, Story

REPOSITORY = Path(__file__).resolve().parent.parent.parent
CONTROLLERS_TIMEOUT_S = 60
# They come first, so that where modules run side by side none is left to run alone.
LONGEST = ("test_units", "test_server_hand")
PLUGINS = {
    "juju": ["juju_machines", "juju_substrate"],
    "juju4": ["juju_machines", "juju4_substrate"],
    "sandbox": ["sandbox_substrate"],
}


def pytest_addoption(parser: pytest.Parser):
    group = parser.getgroup("substrate", "where the charms are deployed")
    group.addoption(
        "--substrate",
        choices=list(PLUGINS),
        help="default: where `juju` has a controller, the one for its version; else the sandbox",
    )
    group.addoption(
        "--base",
        help="what the charms are packed for and deployed on: on Juju, Ubuntu 22.04 or 24.04"
        " (default); in the sandbox, Debian 12 or 13 (default: as this computer)",
    )
    group.addoption(
        "--machines",
        metavar="0,1,2",
        help="place units on these machines, which are in the model already (with --model)",
    )
    group.addoption(
        "--juju",
        choices=["3.6", "4.0"],
        default="3.6",
        help="whose ways the sandbox follows (default: 3.6)",
    )
    group.addoption(
        "--server-absence",
        type=float,
        default=180.0,
        help="seconds that the server is absent at a client's boot (default: 180)",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]):
    items.sort(key=lambda item: item.path.stem not in LONGEST)


def pytest_configure(config: pytest.Config):
    if config.getoption("--machines") and not config.getoption("--model"):
        raise pytest.UsageError("--machines names machines of a model: say which with --model")
    chosen = config.getoption("--substrate") or _default_substrate()
    for name in PLUGINS[chosen]:
        config.pluginmanager.import_plugin(name)
    if config.option.base is None:
        config.option.base = host_release() if chosen == "sandbox" else "24.04"
    # The charms are for several releases of Ubuntu: charmcraft would pack them all.
    ubuntu = f"ubuntu@{config.option.base}:{_architecture()}"
    config.option.charmcraft_args.append(f"--platform={ubuntu}")


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
    found = json.loads(listed.stdout)
    controllers = found.get("controllers") or {}
    current = controllers.get(found.get("current-controller"))
    if current is None:
        return "sandbox"
    major = current.get("agent-version", "").partition(".")[0]
    return "juju4" if major.isdecimal() and int(major) >= 4 else "juju"


def _architecture() -> str:
    """Return Debian's name of this computer's architecture."""
    return {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]


async def _packed(request: pytest.FixtureRequest, ops_test: Any, directory: Path) -> Path:
    """Return the charm that CHARM_PATH_<NAME> names, or else the one that ops_test has."""
    variable = f"CHARM_PATH_{directory.name.upper().replace('-', '_')}"
    given = os.environ.get(variable)
    charm = Path(given).resolve(strict=True) if given else await ops_test.build_charm(directory)
    base: str = request.config.option.base
    # pytest-operator takes any charm that it finds in the directory.
    assert base in charm.name, f"{charm} is not for --base {base}: remove it, or name another"
    return charm


@pytest_asyncio.fixture(scope="module")
async def server_charm(request: pytest.FixtureRequest, ops_test: Any) -> Path:
    return await _packed(request, ops_test, REPOSITORY / "charms" / "nfs-server")


@pytest_asyncio.fixture(scope="module")
async def client_charm(request: pytest.FixtureRequest, ops_test: Any) -> Path:
    return await _packed(request, ops_test, REPOSITORY / "charms" / "nfs-client")


@pytest_asyncio.fixture(scope="module")
async def app_charm(request: pytest.FixtureRequest, ops_test: Any) -> Path:
    """A principal charm that does nothing."""
    return await _packed(request, ops_test, Path(__file__).parent / "charms" / "any-app")


@pytest_asyncio.fixture(scope="module")
async def own_share_charm(request: pytest.FixtureRequest, ops_test: Any) -> Path:
    """A principal charm that asks for its share itself."""
    if not request.config.pluginmanager.hasplugin("sandbox_substrate"):
        pytest.skip("charmcraft does not follow its link to the library; ./dev pack does")
    return await _packed(request, ops_test, Path(__file__).parent / "charms" / "own-share")


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

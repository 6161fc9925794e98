# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the suite in the sandbox: one model for each module of tests."""

import secrets
from collections.abc import AsyncGenerator, Generator, Mapping
from typing import Any, cast

import pytest
import pytest_asyncio
import pytest_operator.plugin

from sandbox import images
from sandbox.client import RUN, ControllerError, RunDirectory, ask
from sandbox.ops_test import (
    LogLine,
    OpsTest,
    RunningModel,
    Substrate,
    connected,
    log_line,
    running_model,
)
from sandbox.status import Status, table
from story import PACKAGES

REPORTED_LOG_LINES = 40
RUNNING = pytest.StashKey[RunDirectory]()


@pytest_asyncio.fixture(scope="module")
async def sandbox_model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncGenerator[RunningModel, None]:
    config = request.config
    base: str = config.option.base
    tmp_path = tmp_path_factory.mktemp("sandbox")
    module = request.module.__name__.rpartition(".")[-1].replace("_", "-")
    name: str = config.getoption("--model") or f"{module}-{secrets.token_hex(2)}"
    directory = RunDirectory(RUN / name)
    if directory.is_running():
        model = connected(directory, tmp_path, base=base)
    else:
        image = await images.build(PACKAGES, _say(config), base)
        model = running_model(
            name,
            image,
            tmp_path,
            base=base,
            juju=config.option.juju,
            keep=config.option.keep_models,
        )
    async with model as running:
        config.stash[RUNNING] = directory
        # Where pytest-operator's marker abort_on_fail looks whether a test may run.
        pytest_operator.plugin.OpsTest._instance = cast("Any", running.ops_test)
        yield running
        pytest_operator.plugin.OpsTest._instance = None
        del config.stash[RUNNING]


@pytest.fixture(scope="module")
def ops_test(sandbox_model: RunningModel) -> OpsTest:
    return sandbox_model.ops_test


@pytest.fixture(scope="module")
def substrate(sandbox_model: RunningModel) -> Substrate:
    return sandbox_model.substrate


@pytest.fixture(scope="session")
def deploy_options() -> Mapping[str, Any]:
    """What ``Model.deploy`` needs beside the charm to get a machine that can serve NFS."""
    return {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show with a failure what the model looks like, and what its units said last."""
    report = yield
    directory = item.config.stash.get(RUNNING, None)
    if report.failed and directory is not None:
        report.sections.append((f"model {directory.name}", _described(directory)))
    return report


def _described(directory: RunDirectory) -> str:
    try:
        status = cast("Status", ask(directory, "status"))
        lines = cast("list[LogLine]", ask(directory, "log", tail=REPORTED_LOG_LINES))
    except ControllerError as error:
        return str(error)
    return "\n".join([table(status), "", *map(log_line, lines)])


def _say(config: pytest.Config):
    """Return a function that shows the progress of the base image, which takes a while once."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    return (lambda _: None) if reporter is None else reporter.write_line

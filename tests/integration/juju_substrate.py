# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the suite on Juju 3.6, with python-libjuju and pytest-operator.

python-libjuju can't speak to Juju 4, whose controllers no longer have the API that it watches a
model with: ``juju4_substrate.py`` is for those. Nothing outside this file knows python-libjuju.
"""

import functools
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from typing import Any

import pytest
from juju.application import Application
from juju.model import Model

from juju_machines import CONSTRAINTS, free_machines, given_machines


@pytest.fixture(scope="session")
def deploy_options(request: pytest.FixtureRequest) -> Mapping[str, Any]:
    """What ``Model.deploy`` needs beside the charm to get a machine that can serve NFS."""
    if given_machines(request.config):
        return {}
    return {"constraints": " ".join(f"{key}={value}" for key, value in CONSTRAINTS.items())}


@pytest.fixture(scope="session", autouse=True)
def placed(request: pytest.FixtureRequest) -> Generator[None, None, None]:
    """Let units that no test places go to the machines that ``--machines`` names."""
    given = given_machines(request.config)
    with pytest.MonkeyPatch.context() as patch:
        if given:
            patch.setattr(Model, "deploy", placing(Model.deploy, given, "num_units"))
            for name in ("add_unit", "add_units"):
                patch.setattr(Application, name, placing(Application.add_unit, given, "count"))
        yield


def placing(
    method: Callable[..., Awaitable[Any]], given: Sequence[str], count: str
) -> Callable[..., Awaitable[Any]]:
    """Wrap a method of libjuju that makes units, as many as its argument ``count`` says."""

    @functools.wraps(method)
    async def place(self: Model | Application, *args: Any, **kwargs: Any) -> Any:
        wanted: int = kwargs.get(count, 1)
        if wanted and not kwargs.get("to"):
            model = self if isinstance(self, Model) else self.model
            kwargs["to"] = free_machines(given, await _used(model), wanted)
        return await method(self, *args, **kwargs)

    return place


async def _used(model: Model) -> set[str]:
    """Return the machines that have units, by Juju's own status: libjuju's view of it lags."""
    status: Any = await model.get_status()
    applications = status.applications.values()
    return {unit.machine for app in applications for unit in (app.units or {}).values()}

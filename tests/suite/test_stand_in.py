# SPDX-License-Identifier: Apache-2.0
"""The stand-ins for python-libjuju and pytest-operator take what the real ones take."""

import inspect
from pathlib import Path

import juju.action
import juju.application
import juju.model
import juju.unit
import pytest
from pytest_operator.plugin import OpsTest

import stand_in

PAIRS = [
    (stand_in.Model, juju.model.Model),
    (stand_in.Application, juju.application.Application),
    (stand_in.Unit, juju.unit.Unit),
    (stand_in.Action, juju.action.Action),
    (stand_in.OpsTest, OpsTest),
]


def public(kind: type) -> dict[str, object]:
    return {name: it for name, it in vars(kind).items() if not name.startswith("_")}


@pytest.mark.parametrize(("ours", "real"), PAIRS, ids=lambda it: it.__name__)
def test_what_it_has_the_real_one_has(ours: type, real: type):
    for name, member in public(ours).items():
        assert hasattr(real, name), f"{real.__name__} has no {name}"
        if inspect.iscoroutinefunction(member):
            assert inspect.iscoroutinefunction(inspect.unwrap(getattr(real, name)))
            takes = inspect.signature(getattr(real, name)).parameters
            anything = any(it.kind is it.VAR_KEYWORD for it in takes.values())
            for parameter in list(inspect.signature(member).parameters.values())[1:]:
                assert parameter.name in takes or anything, f"{name}({parameter.name})"


def test_it_is_small():
    """It is for one module: whatever else is wanted of libjuju is tried on Juju."""
    assert len(Path(stand_in.__file__).read_text().splitlines()) <= 200

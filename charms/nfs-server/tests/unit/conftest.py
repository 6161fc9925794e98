# SPDX-License-Identifier: Apache-2.0
"""What holds for all unit tests of this charm."""

from collections.abc import Iterator

import fake_machine
import hypothesis
import pytest
import yaml

from nfs_charms import machine as charms_machine

# The same YAML, more quickly: most of the time of a test went into reading the charm's.
yaml.SafeLoader, yaml.SafeDumper = yaml.CSafeLoader, yaml.CSafeDumper

hypothesis.settings.register_profile(
    "unit",
    # Other work on the computer must not make a test fail.
    deadline=None,
    suppress_health_check=[
        hypothesis.HealthCheck.too_slow,
        # Each example puts a new machine in place of the one before.
        hypothesis.HealthCheck.function_scoped_fixture,
    ],
)
hypothesis.settings.load_profile("unit")


@pytest.fixture(autouse=True, scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what the charm keeps away from the computer's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(charms_machine, "RENDERED", tmp_path_factory.mktemp("rendered"))
        patch.setattr(fake_machine, "KEPT", tmp_path_factory.mktemp("kept"))
        yield


# Imported when they are used: what is decorated with hypothesis' settings takes the profile above.


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> fake_machine.FakeMachine:
    """Put a machine without anything in place of the real one."""
    from test_charm import put_in

    return put_in(fake_machine.FakeMachine(), monkeypatch)


@pytest.fixture
def context() -> object:
    """Return what runs the charm's hooks."""
    from test_charm import new_context

    return new_context()

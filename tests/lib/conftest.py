# SPDX-License-Identifier: Apache-2.0
"""What all tests of lib/ share."""

from collections.abc import Iterator

import hypothesis
import pytest
import yaml

from nfs_charms import machine

# The same YAML, more quickly: most of the time of a test went into reading the charm's.
yaml.SafeLoader, yaml.SafeDumper = yaml.CSafeLoader, yaml.CSafeDumper

# Other work on the computer must not make a test fail.
hypothesis.settings.register_profile("unit", deadline=None)
hypothesis.settings.load_profile("unit")


@pytest.fixture(autouse=True, scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep rendered texts away from the computer's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(machine, "RENDERED", tmp_path_factory.mktemp("rendered"))
        yield

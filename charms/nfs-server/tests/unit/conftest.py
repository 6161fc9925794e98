# SPDX-License-Identifier: Apache-2.0
"""What holds for all unit tests of this charm."""

import hypothesis

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

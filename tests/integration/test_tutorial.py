# SPDX-License-Identifier: Apache-2.0
"""The tutorial, as a reader follows it: its own commands, and what it says that they print."""

import pytest

from pages import REPOSITORY, Step, follow, is_printed, steps
from story import Story

pytestmark = [pytest.mark.bare, pytest.mark.slow]
PAGE = REPOSITORY / "docs" / "tutorial.md"


@pytest.mark.incremental
@pytest.mark.parametrize("step", list(steps(PAGE.read_text())), ids=str)
def test_step(story: Story, step: Step):
    follow(story, step)


@pytest.mark.parametrize(
    ("expected", "printed", "fits"),
    [
        ("hello", "hello\n", True),
        ("hello", "hello, world\n", False),
        ("hello", "say hello\n", False),
        ("a ... c", "a   b   c", True),
        ("a ... d", "a   b   c", False),
        ("one\nthree", "one\ntwo\nthree", True),
        ("three\none", "one\ntwo\nthree", False),
        ("...\none\n...\ntwo", "one\ntwo", True),
        ("size (GiB)", "  size (GiB)", True),
        ("app/0*  active", "app/0   active", True),
        ("app/0*  active", "app/1*  active", False),
    ],
)
def test_what_counts_as_printed(expected: str, printed: str, fits: bool):
    assert is_printed(expected.splitlines(), printed) is fits

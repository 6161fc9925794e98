# SPDX-License-Identifier: Apache-2.0
"""The main job, step by step; see story.py."""

import pytest

from story import STEPS, Step, Story

pytestmark = pytest.mark.bare


@pytest.mark.incremental
def test_begin(story: Story):
    story.begin()


@pytest.mark.incremental
@pytest.mark.needs("outsider")
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
def test_step(story: Story, step: Step):
    step(story)

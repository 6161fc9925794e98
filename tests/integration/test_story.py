# SPDX-License-Identifier: Apache-2.0
"""The main job, step by step; see story.py."""

import pytest

from story import STEPS, Step, Story


@pytest.mark.abort_on_fail
@pytest.mark.skip_if_deployed
async def test_deploy(story: Story):
    await story.deploy()


@pytest.mark.abort_on_fail
@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.__name__)
async def test_story(story: Story, step: Step):
    await step(story)

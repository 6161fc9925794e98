# SPDX-License-Identifier: Apache-2.0
"""A model on machines that are namespaces of this computer."""

import tempfile
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from world import DirectoryMachine, Tasks, World

from sandbox.controller.controller import Controller
from sandbox.machine import agent
from sandbox.machines import images
from sandbox.rules.model import Model, Profile


@pytest.fixture
def profile() -> Profile:
    """Whose ways the model follows, where a test is not parametrized with it."""
    return "3.6"


@pytest.fixture
def retry_base_s() -> float:
    """How long a hook that failed waits first, where a test is not parametrized with it."""
    return 0.05


@pytest.fixture
async def it(
    profile: Profile, retry_base_s: float, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[World, None]:
    monkeypatch.setattr(agent, "HOOK_COMMAND", "/var/lib/hook_command")
    # A socket's path is short: pytest's own temporary directories can be too deep.
    with tempfile.TemporaryDirectory(prefix="sandbox-") as directory:
        root = Path(directory)
        (root / "scripts").mkdir()
        await images.compile_hook_command(root / "hook_command")
        made: dict[str, DirectoryMachine] = {}

        def new_machine(name: str) -> DirectoryMachine:
            return made.setdefault(name, DirectoryMachine(name, root))

        model, tasks = Model("test", profile), Tasks()
        controller = Controller(model, root, new_machine, tasks, retry_base_s=retry_base_s)
        yield World(controller, root, made)
        try:
            await tasks.end()
        finally:
            for machine in made.values():
                await machine.power_cut()

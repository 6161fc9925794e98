# SPDX-License-Identifier: Apache-2.0
"""Shows the main job on machines of the sandbox: what was run where, and what came back.

`./dev demo` sets up what it needs and runs it. Exit status 0 only if every step held.
"""

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from sandbox import images
from sandbox.client import RUN, RunDirectory
from sandbox.ops_test import RunningModel, running_model
from tests.integration.story import (
    APP,
    CLIENT,
    PACKAGES,
    SERVER,
    STEPS,
    Step,
    Story,
    removed_and_the_data_stays,
    unrelated_and_related_again,
)

NAME = "demo"
MAX_LINES = 12


def main() -> int:
    """Run the demo; the exit status."""
    parser = argparse.ArgumentParser(prog="./dev demo", description=__doc__)
    parser.add_argument("--keep", action="store_true", help="leave the machines up at the end")
    parser.add_argument("--base", help="the Debian of the machines, 12 or 13 (default: as here)")
    arguments = parser.parse_args()
    if RunDirectory(RUN / NAME).is_running():
        print("The machines of an earlier demo are up: end them with ./dev destroy")
        return 1
    with tempfile.TemporaryDirectory() as directory:
        return asyncio.run(_demo(Path(directory), arguments.base, keep=arguments.keep))


async def _demo(directory: Path, base: str | None, *, keep: bool) -> int:
    image = await images.build(PACKAGES, print, base)
    async with running_model(NAME, image, directory, base=base, keep=keep) as running:
        story = await _story(running)
        _headline("Deploying nfs-server, two units of my-app, and nfs-client beside each")
        await story.deploy()
        print((await running.ops_test.juju("status"))[1])
        left_out = {unrelated_and_related_again, removed_and_the_data_stays if keep else None}
        steps = [step for step in STEPS if step not in left_out]
        failed = [step for step in steps if not await _holds(step, story)]
    _report(steps, failed)
    if keep:
        print("\nThe machines are up: ./dev status, ./dev ssh nfs-client/0, ./dev destroy")
    return 1 if failed else 0


async def _story(running: RunningModel) -> Story:
    build = running.ops_test.build_charm
    charms = {
        SERVER: await build("charms/nfs-server"),
        CLIENT: await build("charms/nfs-client"),
        APP: await build("tests/integration/charms/any-app"),
    }
    return Story(running.ops_test.model, running.substrate, charms, say=_show)


async def _holds(step: Step, story: Story) -> bool:
    _headline(step.__doc__ or step.__name__)
    begun = time.monotonic()
    try:
        await step(story)
    except (AssertionError, TimeoutError) as error:
        print(f"  FAILED: {error}")
        return False
    print(f"  held ({time.monotonic() - begun:.0f} s)")
    return True


def _headline(text: str) -> None:
    print(f"\n== {text}", flush=True)


def _show(text: str) -> None:
    command, *output = text.splitlines()
    print(f"  {command}")
    for line in output[:MAX_LINES]:
        print(f"    {line}")
    if len(output) > MAX_LINES:
        print(f"    … {len(output) - MAX_LINES} more lines")
    sys.stdout.flush()


def _report(steps: Sequence[Step], failed: Sequence[Step]) -> None:
    print()
    for step in steps:
        print(f"{'FAILED' if step in failed else 'held  '}  {step.__doc__}")


if __name__ == "__main__":
    sys.exit(main())

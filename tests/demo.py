# SPDX-License-Identifier: Apache-2.0
"""Shows the main job on machines of the sandbox: what was run where, and what came back.

`./dev demo` sets up what it needs and runs it. Exit status 0 only if every step held.
"""

import argparse
import sys
import time
from collections.abc import Sequence

from sandbox.controller.client import RUN, RunDirectory
from tests.integration.machines import sandbox_model
from tests.integration.revisions import packed_charm
from tests.integration.story import (
    APP,
    CLIENT,
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
        print("The machines of an earlier demo are up: end them with ./dev destroy demo")
        return 1
    base, keep = arguments.base, arguments.keep
    with sandbox_model(NAME, print, base=base, keep=keep) as (juju, machines):
        charms = {name: packed_charm(name, base) for name in (SERVER, CLIENT)}
        charms[APP] = packed_charm("any-app", base)
        story = Story(juju, machines, charms, say=_show)
        _headline("Deploying nfs-server, two units of my-app, and nfs-client beside each")
        story.begin()
        print(juju.cli("status"))
        left_out = {unrelated_and_related_again, removed_and_the_data_stays if keep else None}
        steps = [step for step in STEPS if step not in left_out]
        failed = [step for step in steps if not _holds(step, story)]
    _report(steps, failed)
    if keep:
        print("\nThe machines are up: ./dev juju status, ./dev juju ssh my-app/0, ./dev destroy")
    return 1 if failed else 0


def _holds(step: Step, story: Story) -> bool:
    _headline(step.__doc__ or step.__name__)
    begun = time.monotonic()
    try:
        step(story)
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

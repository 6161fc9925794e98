# SPDX-License-Identifier: Apache-2.0
"""Cuts the power of a server's machine, on machines of the sandbox, at random moments.

Shares are made and grown meanwhile, and a client writes. What was promised must be there after
each boot; the first time that it is not, this ends and says what was found.
"""

import argparse
import asyncio
import secrets
import sys
import tempfile
from pathlib import Path

from sandbox import images
from sandbox.ops_test import running_model
from tests.integration import power_cuts
from tests.integration.story import APP, CLIENT, PACKAGES, SERVER

# Of the debug log, when a round fails: what every unit did in it, and what it did not end.
SHOWN_LINES = 300
# And of each machine: what runs there, and what its journal says.
STATE = "ps axf -o pid,stat,etime,args; systemctl list-jobs; journalctl --no-pager --lines=100"


def main() -> int:
    """Run as many rounds as are asked for; the exit status says whether all of them held."""
    parser = argparse.ArgumentParser(prog="./dev torture", description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=secrets.randbits(32))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        return asyncio.run(_torture(Path(directory), options.rounds, options.seed))


async def _torture(directory: Path, rounds: int, seed: int) -> int:
    image = await images.build(PACKAGES, print)
    async with running_model(f"torture-{seed}", image, directory) as running:
        build = running.ops_test.build_charm
        charms = {
            SERVER: await build("charms/nfs-server"),
            CLIENT: await build("charms/nfs-client"),
            APP: await build("tests/integration/charms/any-app"),
        }
        begun = await power_cuts.begin(running.ops_test, running.substrate, charms, seed)
        for number in range(1, rounds + 1):
            try:
                await begun.round(number)
            except (AssertionError, TimeoutError) as error:
                print(f"round {number} of seed {seed} FAILED: {error}")
                print(*(await begun.log())[-SHOWN_LINES:], sep="\n")
                for unit in (power_cuts.SERVER_UNIT, power_cuts.APP_UNIT):
                    print(f"on the machine of {unit}:", await begun.run(unit, STATE), sep="\n")
                return 1
    print(f"{rounds} rounds held; seed: {seed}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

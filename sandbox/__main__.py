# SPDX-License-Identifier: Apache-2.0
"""``python3 -m sandbox``: what can be done to a model's machines that ``juju`` has no word for."""

import argparse
import sys
from collections.abc import Sequence

from sandbox.command.line import CommandError, model_named
from sandbox.controller.client import ControllerError, ask, running_models

# Booting a machine takes its time on a computer that has much to do.
_ANSWER_TIMEOUT_S = 600.0
_ON_MACHINES = {
    "power-cut": "stop a machine as a power cut does",
    "boot": "boot a machine that has no power",
    "reboot": "reboot a machine in good order",
    "unplug": "cut a machine off from all others",
    "plug": "connect it again",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do as the command line says; the exit status."""
    given = _parser().parse_args(arguments)
    try:
        if given.command == "destroy":
            return _destroy(given.name or given.model, is_all=given.all)
        method = given.command.replace("-", "_")
        model = model_named(given.model)
        ask(model, method, answer_timeout_s=_ANSWER_TIMEOUT_S, machine=given.where)
        return 0
    except (CommandError, ControllerError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m sandbox", description=__doc__)
    parser.add_argument("--model", default="", help="else the one that `juju` would take")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in _ON_MACHINES.items():
        commands.add_parser(name, help=text).add_argument(
            "where", help="a unit, or a machine's id"
        )
    destroy = commands.add_parser("destroy", help="end a model and its machines")
    destroy.add_argument("name", nargs="?", default="", help="else the one in focus")
    destroy.add_argument("--all", action="store_true", help="end every model")
    return parser


def _destroy(name: str, *, is_all: bool) -> int:
    running = running_models()
    if not running:
        sys.stdout.write("no model is running\n")
        return 0
    ends = running if is_all else [model_named(name)]
    for model in ends:
        ask(model, "destroy")
        sys.stdout.write(f"{model.name}: destroyed\n")
    if left := ", ".join(model.name for model in running if model not in ends):
        sys.stdout.write(f"still running: {left}; ./dev destroy --all ends every model\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

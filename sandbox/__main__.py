# SPDX-License-Identifier: Apache-2.0
"""``python -m sandbox status|ssh|destroy``: a model that was left running by ``--keep``."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import cast

from sandbox.client import ControllerError, RunDirectory, ask, running_models
from sandbox.status import Status, address, table, units


def main(arguments: Sequence[str] | None = None) -> int:
    """Do as the command line says; the exit status."""
    parsed = _parser().parse_args(arguments)
    try:
        if parsed.command == "destroy":
            _destroy()
        elif parsed.command == "status":
            sys.stdout.write(table(_status(_the_model())) + "\n")
        else:
            _ssh(_the_model(), parsed.where, parsed.words)
    except ControllerError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("status", help="show the model, as juju status does")
    ssh = commands.add_parser("ssh", help="log in to a machine, or run a command there")
    ssh.add_argument("where", help="a unit (nfs-client/0) or a machine's number")
    ssh.add_argument("words", nargs=argparse.REMAINDER, help="a command")
    commands.add_parser("destroy", help="end every model and its machines")
    return parser


def _the_model() -> RunDirectory:
    """Return the model that runs; the one that was started last, if there are several."""
    running = running_models()
    if not running:
        raise ControllerError("no model is running: ./dev demo --keep leaves one")
    return max(running, key=lambda model: model.socket.stat().st_mtime)


def _status(model: RunDirectory) -> Status:
    return cast("Status", ask(model, "status"))


def _ssh(model: RunDirectory, where: str, words: Sequence[str]) -> None:
    """Become an ssh to a machine."""
    status = _status(model)
    placed = units(status)
    number = placed[where]["machine"] if where in placed else where
    machine = status["machines"].get(number)
    if machine is None:
        known = ", ".join([*placed, *status["machines"]]) or "none yet"
        raise ControllerError(f"no unit or machine {where} in {model.name}; there are: {known}")
    host = address(machine)
    if host is None:
        raise ControllerError(f"machine {number} has no address yet: it is still booting")
    command = [*model.ssh(), f"root@{host}", *words]
    os.execv(command[0], command)


def _destroy() -> None:
    running = running_models()
    for model in running:
        ask(model, "destroy")
        sys.stdout.write(f"{model.name}: destroyed\n")
    if not running:
        sys.stdout.write("no model is running\n")


if __name__ == "__main__":
    sys.exit(main())

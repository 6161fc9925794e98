# SPDX-License-Identifier: Apache-2.0
"""The commands of `juju` that an operator needs first, on a model of the sandbox."""

import argparse
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NoReturn, cast

import yaml
from juju.errors import JujuError

from sandbox.libjuju import Application, Model, Unit, View
from sandbox.status import table

_EXEC_TIMEOUT_S = 300.0


class CommandError(Exception):
    """The command failed; the message is what Juju would print after ERROR."""


class UsageError(Exception):
    """The sandbox has no such command, or no such option of it."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print before it exits."""
        raise UsageError(message)


async def run(view: View, words: Sequence[str]) -> str:
    """Run a command, given without `juju`; what it prints.

    Raises:
        CommandError: it was understood, and refused.
        UsageError: the sandbox has no such command.
    """
    arguments = _parser().parse_args(words)
    command = cast("Callable[[View, argparse.Namespace], Awaitable[str | None]]", arguments.run)
    try:
        return await command(view, arguments) or ""
    except (JujuError, ValueError) as error:
        raise CommandError(str(error)) from error


def _parser() -> _Parser:
    parser = _Parser(prog="juju", add_help=False)
    commands = parser.add_subparsers(required=True, parser_class=_Parser)

    def command(function: Callable[..., object], *positional: str) -> argparse.ArgumentParser:
        name = function.__name__.strip("_").replace("_", "-")
        found = commands.add_parser(name, add_help=False)
        found.set_defaults(run=function)
        for word in positional:
            found.add_argument(word.rstrip("?*"), nargs=word[-1] if word[-1] in "?*" else None)
        return found

    command(_status)
    deploy = command(_deploy, "charm", "application?")
    deploy.add_argument("--config", action="append", default=[])
    deploy.add_argument("--storage", action="append", default=[])
    deploy.add_argument("--constraints", help="the sandbox has one kind of machine")
    deploy.add_argument("--to")
    command(_integrate, "one", "other")
    command(_remove_relation, "one", "other")
    config = command(_config, "application", "values*")
    config.add_argument("--reset")
    for counted in (deploy, command(_add_unit, "application")):
        counted.add_argument("-n", "--num-units", type=int)
    for removal in (command(_remove_unit, "unit"), command(_remove_application, "application")):
        removal.add_argument("--no-prompt", action="store_true", required=True)
        removal.add_argument("--destroy-storage", action="store_true")
    command(_refresh, "application").add_argument("--path", required=True)
    execute = command(_exec)
    execute.add_argument("--unit", required=True)
    execute.add_argument("command", nargs="+")
    command(_run, "unit", "action", "parameters*")
    return parser


async def _status(view: View, _: argparse.Namespace) -> str:
    return table(await view.refresh()) + "\n"


async def _deploy(view: View, given: argparse.Namespace) -> None:
    await view.change(
        "deploy",
        charm=given.charm,
        application=given.application or _charm_name(given.charm),
        # None: one unit, or none of a subordinate.
        num_units=given.num_units,
        config=_pairs(given.config),
        storage=_pairs(given.storage),
        to=given.to.split(",") if given.to else None,
    )


def _charm_name(charm: str) -> str:
    return charm.rpartition("/")[2].partition("_")[0]


async def _integrate(view: View, given: argparse.Namespace) -> None:
    await Model(view).integrate(given.one, given.other)


async def _remove_relation(view: View, given: argparse.Namespace) -> None:
    await view.change("remove_relation", a=given.one, b=given.other)


async def _config(view: View, given: argparse.Namespace) -> None:
    application = Application(given.application, view)
    if given.reset:
        await application.reset_config(given.reset.split(","))
    if given.values:
        await application.set_config(_pairs(given.values))


async def _add_unit(view: View, given: argparse.Namespace) -> None:
    await Application(given.application, view).add_unit(given.num_units or 1)


async def _remove_unit(view: View, given: argparse.Namespace) -> None:
    await Model(view).destroy_unit(given.unit, destroy_storage=given.destroy_storage)


async def _remove_application(view: View, given: argparse.Namespace) -> None:
    await Model(view).remove_application(given.application, destroy_storage=given.destroy_storage)


async def _refresh(view: View, given: argparse.Namespace) -> None:
    await Application(given.application, view).refresh(path=given.path)


async def _exec(view: View, given: argparse.Namespace) -> str:
    unit = Unit(given.unit, view)
    action = await unit.run(" ".join(given.command), timeout=_EXEC_TIMEOUT_S, block=True)
    if action.results.get("return-code"):
        raise CommandError(f"the command failed: {action.results}")
    return str(action.results.get("stdout", ""))


async def _run(view: View, given: argparse.Namespace) -> str:
    parameters = {name: yaml.safe_load(it) for name, it in _pairs(given.parameters).items()}
    action = await (await Unit(given.unit, view).run_action(given.action, **parameters)).wait()
    if action.status != "completed":
        raise CommandError(f"the action failed: {action.message}")
    results = {name: it for name, it in action.results.items() if name != "return-code"}
    return yaml.safe_dump(results) if results else ""


def _pairs(words: Sequence[str]) -> Mapping[str, str]:
    """Read `name=value` words."""
    return {name: value for name, _, value in (word.partition("=") for word in words)}

# SPDX-License-Identifier: Apache-2.0
"""A command line as Juju's programs read it, with the Go package gnuflag. No I/O."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_TRUE, _FALSE = ("true", "t", "1"), ("false", "f", "0")


class UsageError(Exception):
    """A command can't be run as it was given."""


@dataclass(frozen=True)
class Arguments:
    """Options by their first name, each with all that it was given, and other words."""

    options: Mapping[str, Sequence[str]]
    words: list[str]

    def has(self, option: str) -> bool:
        """Whether an option that takes no value is on."""
        return self.one(option, "false") == "true"

    def one(self, option: str, default: str = "") -> str:
        """Return an option's value; the last, if it was given repeatedly."""
        return self.options.get(option, [default])[-1]


def parse(
    spec: str, words: Sequence[str], unknown: str = "option provided but not defined: {}"
) -> Arguments:
    """Read the words of a command.

    In `spec`, `name=` takes a value and `name/n` has a shorter name too; options and words come in
    any order, but one that begins with `!` ends at the first word.

    Raises:
        UsageError: there is no such option (`unknown` says so), or its value is missing or wrong.
    """
    known: dict[str, tuple[str, bool]] = {}
    for option in spec.lstrip("!").split():
        names = option.rstrip("=").split("/")
        known |= dict.fromkeys(names, (names[0], option.endswith("=")))
    options: dict[str, list[str]] = {}
    others: list[str] = []
    rest = list(words)
    while rest and not (others and spec.startswith("!")):
        word = rest.pop(0)
        if word == "--":
            break
        if not word.startswith("-") or word == "-":
            others.append(word)
            continue
        spelt, equals, value = word.partition("=")
        given = spelt.lstrip("-")
        if given not in known or spelt.startswith("--") != (len(given) > 1):
            raise UsageError(unknown.format(spelt))
        name, takes_value = known[given]
        if not takes_value:
            value = _boolean(spelt, value) if equals else "true"
        elif not equals:
            if not rest:
                raise UsageError(f"option needs an argument: {spelt}")
            value = rest.pop(0)
        options.setdefault(name, []).append(value)
    return Arguments(options, others + rest)


def _boolean(spelt: str, value: str) -> str:
    if value.lower() not in (*_TRUE, *_FALSE):
        raise UsageError(f'invalid value "{value}" for option {spelt}')
    return "true" if value.lower() in _TRUE else "false"


def duration_s(text: str) -> float:
    """Read a duration as Go writes it: "10s", "1h30m", "200ms".

    Raises:
        UsageError: it is none.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s)", text)
    if not text or "".join(number + unit for number, unit in parts) != text:
        raise UsageError(f'time: invalid duration "{text}"')
    seconds = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
    return sum(float(number) * seconds[unit] for number, unit in parts)

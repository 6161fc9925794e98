# SPDX-License-Identifier: Apache-2.0
"""The model's debug log, as `juju debug-log` shows it: in memory and in a file."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypedDict


class Line(TypedDict):
    """One line of the log."""

    time: str
    unit: str
    level: str
    logger: str
    message: str


class DebugLog:
    """Keeps lines, and appends them to `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[Line] = []

    def write(self, unit: str, level: str, logger: str, message: str) -> None:
        """Add a line; `unit` is a unit's name, or "machine-0", or "controller"."""
        time = datetime.now(UTC).strftime("%H:%M:%S.%f")[:-3]
        line = Line(time=time, unit=unit, level=level, logger=logger, message=message)
        self._lines.append(line)
        with self._path.open("a") as file:
            file.write(f"{unit}: {time} {level} {logger} {message}\n")

    def lines(
        self, unit: str | None = None, tail: int | None = None, start: int = 0
    ) -> list[Line]:
        """Return the last `tail` lines of a unit, or all, that come after the first `start`."""
        found = [line for line in self._lines[start:] if unit in (None, line["unit"])]
        return found[-tail:] if tail else found


class LineBuffer:
    """Gives on whole lines of text that comes in pieces."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._rest = ""

    def add(self, text: str) -> None:
        """Take a piece of text."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            self._write(line)

    def close(self) -> None:
        """Give on what has no line end."""
        if self._rest:
            self._write(self._rest)
        self._rest = ""

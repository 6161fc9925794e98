# SPDX-License-Identifier: Apache-2.0
"""Asks the controller of a running sandbox: a connection, with a line of JSON each way.

It imports little: every ``juju`` that somebody types waits for it.
"""

import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

RUN = Path(__file__).resolve().parents[2] / ".cache" / "sandbox" / "run"
"""Where each running model has a directory of its own."""

LINE_LIMIT = 64 * 1024 * 1024
"""The longest answer: a whole debug log."""

_CONNECT_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 30.0


class ControllerError(Exception):
    """The controller refused a request; the message is the one that Juju would give."""


@dataclass(frozen=True)
class RunDirectory:
    """Where one model's controller lives."""

    path: Path

    @property
    def name(self) -> str:
        """The model's name."""
        return self.path.name

    @property
    def socket(self) -> Path:
        """Where the controller listens."""
        return self.path / "controller.sock"

    def is_running(self) -> bool:
        """Whether a controller answers here."""
        try:
            with _connect(self.socket):
                return True
        except OSError:
            return False

    def ssh(self) -> list[str]:
        """Return the words that start ssh in the model's network, as root."""
        pid = (self.path / "controller.pid").read_text().strip()
        controller = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        key = Path(controller[controller.index("--base") + 1]).with_suffix(".key")
        # Every machine of every sandbox has the same host key: there is nothing to remember.
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        # What ssh would choose, with sntrup761 in it, takes half of the time of a short command.
        options += ["KexAlgorithms=curve25519-sha256"]
        words = ["/usr/bin/nsenter", "--target", pid, "--net", "--", "/usr/bin/ssh"]
        return [*words, "-i", str(key), *(word for option in options for word in ("-o", option))]

    def last_words(self) -> str:
        """Return the end of what the controller logged."""
        log = self.path / "debug.log"
        if not log.exists():
            return f"(no log in {self.path})"
        return "\n".join(log.read_text(errors="replace").splitlines()[-15:])


def running_models() -> list[RunDirectory]:
    """Return the models that have a live controller."""
    directories = sorted(RUN.iterdir()) if RUN.is_dir() else []
    return [found for found in map(RunDirectory, directories) if found.is_running()]


def ask(
    directory: RunDirectory,
    method: str,
    *,
    answer_timeout_s: float = _ANSWER_TIMEOUT_S,
    **params: object,
) -> object:
    """Ask one question and wait for its answer.

    Raises:
        ControllerError: it was refused, or nobody answers.
    """
    try:
        with _connect(directory.socket) as connection:
            connection.settimeout(answer_timeout_s)
            connection.sendall(_line(method, params))
            answer = connection.makefile("rb").readline()
    except OSError as error:
        raise _gone(directory) from error
    return _result(directory, answer)


async def call(directory: RunDirectory, method: str, **params: object) -> object:
    """Ask one question while other things go on, for as long as its answer takes.

    Raises:
        ControllerError: it was refused, or nobody answers.
    """
    import asyncio

    try:
        reader, writer = await asyncio.open_unix_connection(directory.socket, limit=LINE_LIMIT)
        try:
            writer.write(_line(method, params))
            answer = await reader.readline()
        finally:
            writer.close()
    except OSError as error:
        raise _gone(directory) from error
    return _result(directory, answer)


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(_CONNECT_TIMEOUT_S)
    try:
        connection.connect(os.fspath(path))
    except OSError:
        connection.close()
        raise
    return connection


def _line(method: str, params: Mapping[str, object]) -> bytes:
    """Return a request as it is sent."""
    return json.dumps({"method": method, "params": params}).encode() + b"\n"


def _result(directory: RunDirectory, answer: bytes) -> object:
    """Return what an answer says, or raise what it refuses with; an empty one is nobody's."""
    if not answer:
        raise _gone(directory)
    message: Mapping[str, object] = json.loads(answer)
    if "error" in message:
        raise ControllerError(str(message["error"]))
    return message["result"]


def _gone(directory: RunDirectory) -> ControllerError:
    """Return the error that says what a controller wrote last."""
    return ControllerError(
        f"the controller of model {directory.name} is gone; its last words:\n"
        + directory.last_words()
    )

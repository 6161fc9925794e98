# SPDX-License-Identifier: Apache-2.0
"""Talks to the controller of a running sandbox over its socket, one JSON object per line.

``ask`` is for one question from a synchronous program; ``Client`` keeps a connection on which
many questions may be outstanding.
"""

import asyncio
import json
import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

RUN = Path(__file__).resolve().parent.parent / ".cache" / "sandbox" / "run"
"""Where each running model has a directory of its own."""

_CONNECT_TIMEOUT_S = 5.0
_ANSWER_TIMEOUT_S = 30.0
_LINE_LIMIT = 64 * 1024 * 1024
"""The longest answer: a whole debug log."""


class ControllerError(Exception):
    """The controller refused a request; the message is the one that Juju would give."""


class ControllerGoneError(ControllerError):
    """No controller answers; the message says what the last one wrote."""


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

    def ssh(self, program: str = "/usr/bin/ssh") -> list[str]:
        """Return the words that start ``program`` (ssh, scp) in the model's network, as root."""
        pid = (self.path / "controller.pid").read_text().strip()
        controller = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        key = Path(controller[controller.index("--base") + 1]).with_suffix(".key")
        # Every machine of every sandbox has the same host key: there is nothing to remember.
        options = ["StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR"]
        words = ["/usr/bin/nsenter", "--target", pid, "--net", "--", program, "-i", str(key)]
        return [*words, *(word for option in options for word in ("-o", option))]

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


def ask(directory: RunDirectory, method: str, **params: object) -> object:
    """Ask one quick question and wait for its answer.

    Raises:
        ControllerError: it was refused, or nobody answers.
    """
    try:
        with _connect(directory.socket) as connection:
            connection.settimeout(_ANSWER_TIMEOUT_S)
            connection.sendall(_line(1, method, params))
            line = connection.makefile("rb").readline()
    except OSError as error:
        raise _gone(directory) from error
    if not line:
        raise _gone(directory)
    return _result(cast("Mapping[str, object]", json.loads(line)))


class Client:
    """A connection to a controller."""

    def __init__(
        self,
        directory: RunDirectory,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        """Use the streams of an open connection; see ``connect``."""
        self.directory = directory
        self._writer = writer
        self._pending: dict[int, asyncio.Future[Mapping[str, object]]] = {}
        self._last_id = 0
        self._answers = asyncio.create_task(self._read_answers(reader))

    @classmethod
    async def connect(cls, directory: RunDirectory) -> "Client":
        """Connect to the controller of a model.

        Raises:
            ControllerGoneError: nobody listens.
        """
        try:
            streams = await asyncio.open_unix_connection(directory.socket, limit=_LINE_LIMIT)
        except OSError as error:
            raise _gone(directory) from error
        return cls(directory, *streams)

    @property
    def model(self) -> str:
        """The model's name."""
        return self.directory.name

    async def call(self, method: str, **params: object) -> object:
        """Send a request and return its result.

        Raises:
            ControllerError: it was refused, or the controller is gone.
        """
        if self._answers.done():
            raise _gone(self.directory)
        self._last_id += 1
        identity = self._last_id
        answer = asyncio.get_running_loop().create_future()
        self._pending[identity] = answer
        try:
            self._writer.write(_line(identity, method, params))
            await self._writer.drain()
            return _result(await answer)
        except OSError as error:
            raise _gone(self.directory) from error
        finally:
            del self._pending[identity]

    async def close(self) -> None:
        """Hang up."""
        self._answers.cancel()
        await asyncio.gather(self._answers, return_exceptions=True)
        self._writer.close()

    async def _read_answers(self, reader: asyncio.StreamReader) -> None:
        try:
            while line := await reader.readline():
                message = cast("Mapping[str, object]", json.loads(line))
                waiting = self._pending.get(cast("int", message["id"]))
                # Whoever asked may have been cancelled since.
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)
        finally:
            for waiting in self._pending.values():
                if not waiting.done():
                    waiting.set_exception(_gone(self.directory))


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(_CONNECT_TIMEOUT_S)
    try:
        connection.connect(os.fspath(path))
    except OSError:
        connection.close()
        raise
    return connection


def _line(identity: int, method: str, params: Mapping[str, object]) -> bytes:
    return json.dumps({"id": identity, "method": method, "params": params}).encode() + b"\n"


def _result(message: Mapping[str, object]) -> object:
    if "error" in message:
        raise ControllerError(str(message["error"]))
    return message["result"]


def _gone(directory: RunDirectory) -> ControllerGoneError:
    return ControllerGoneError(
        f"the controller of model {directory.name} is gone; its last words:\n"
        + directory.last_words()
    )

# SPDX-License-Identifier: Apache-2.0
"""A connection to a controller on which many questions may be outstanding."""

import asyncio
import json
from typing import TYPE_CHECKING, cast

from sandbox.controller.client import RunDirectory, gone, line, result

if TYPE_CHECKING:
    from collections.abc import Mapping

_LINE_LIMIT = 64 * 1024 * 1024
"""The longest answer: a whole debug log."""


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
            raise gone(directory) from error
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
            raise gone(self.directory)
        self._last_id += 1
        identity = self._last_id
        answer = asyncio.get_running_loop().create_future()
        self._pending[identity] = answer
        try:
            self._writer.write(line(identity, method, params))
            await self._writer.drain()
            return result(await answer)
        except OSError as error:
            raise gone(self.directory) from error
        finally:
            del self._pending[identity]

    async def close(self) -> None:
        """Hang up."""
        self._answers.cancel()
        await asyncio.gather(self._answers, return_exceptions=True)
        self._writer.close()

    async def _read_answers(self, reader: asyncio.StreamReader) -> None:
        try:
            while answer := await reader.readline():
                message = cast("Mapping[str, object]", json.loads(answer))
                waiting = self._pending.get(cast("int", message["id"]))
                # Whoever asked may have been cancelled since.
                if waiting is not None and not waiting.done():
                    waiting.set_result(message)
        finally:
            for waiting in self._pending.values():
                if not waiting.done():
                    waiting.set_exception(gone(self.directory))

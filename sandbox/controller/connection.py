# SPDX-License-Identifier: Apache-2.0
"""Asks a controller while other things go on."""

import asyncio

from sandbox.controller.client import RunDirectory, gone, line, result

LINE_LIMIT = 64 * 1024 * 1024
"""The longest answer: a whole debug log."""


async def call(directory: RunDirectory, method: str, **params: object) -> object:
    """Ask one question and wait for its answer, as long as that takes.

    Raises:
        ControllerError: it was refused, or nobody answers.
    """
    try:
        reader, writer = await asyncio.open_unix_connection(directory.socket, limit=LINE_LIMIT)
        try:
            writer.write(line(method, params))
            answer = await reader.readline()
        finally:
            writer.close()
    except OSError as error:
        raise gone(directory) from error
    return result(directory, answer)

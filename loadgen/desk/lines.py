"""How do Locust and its desk talk? JSON, a line for each message, over a pair of sockets that nobody else has."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import socket

MAX_LINE_BYTES = 32 << 20
"""The longest line that is read here, a tally or the text of a rule, is far below. What is sent, a report with its plots, has no limit."""


class Lines:
    """The desk's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def on(cls, sock: socket.socket) -> Self:
        """Make the end of a connected socket."""
        return cls(*await asyncio.open_unix_connection(sock=sock, limit=MAX_LINE_BYTES))

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; it is dropped if the other end is gone."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    async def receive(self) -> dict[str, Any]:
        """Wait for a message.

        Raises EOFError when the other end is gone.
        """
        try:
            line = await self._reader.readline()
        except (OSError, ValueError) as error:
            raise EOFError from error
        if not line.endswith(b"\n"):
            raise EOFError
        message: dict[str, Any] = json.loads(line)
        return message

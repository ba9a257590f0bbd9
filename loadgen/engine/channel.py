"""How do two of our processes talk? Over a pair of sockets that nobody else has: a length and a pickled value, one after the other."""

from __future__ import annotations

import asyncio
import pickle
import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket

_LENGTH = struct.Struct("<I")


class Channel:
    """One end. Both ends are this program's own, so what comes may be unpickled."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def on(cls, sock: socket.socket) -> Channel:
        """Make one end of a connected socket."""
        return cls(*await asyncio.open_unix_connection(sock=sock))

    def send(self, value: Any) -> None:
        """Send a value; it is dropped if the other end is gone."""
        if not self._writer.is_closing():
            data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
            self._writer.write(_LENGTH.pack(len(data)) + data)

    async def receive(self) -> Any:
        """Wait for a value.

        Raises EOFError when the other end is gone.
        """
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            return pickle.loads(await self._reader.readexactly(length))  # noqa: S301  # it is our own process
        except (asyncio.IncompleteReadError, OSError) as error:
            raise EOFError from error

    def close(self) -> None:
        """Close this end; the other one hears of it."""
        self._writer.close()

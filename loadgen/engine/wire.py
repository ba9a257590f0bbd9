"""One HTTP/1.1 keep-alive connection, with at most one request on it; everything that the peer can do becomes one outcome.

The law: for every ``send`` the owner hears exactly once, either ``answered`` or ``failed``. A connection that is not busy and closes
says ``closed``. Bytes nobody asked for, a response larger than the cap, or anything that is not HTTP ends the connection.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import httptools

from loadgen.cause import LENGTH, TELLING, TELLING_BYTES, TELLING_LINES
from loadgen.errors import MeshError
from loadgen.outcome import Outcome, Response

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_RESPONSE_BYTES = 64 * 1024
MAX_HEAD_BYTES = 64 * 1024
KEPT_BYTES = 64 * 1024
_STATUSES = range(100, 600)
_VERSIONS = frozenset({"1.0", "1.1"})
_SWITCHING_PROTOCOLS = 101
_SERVICE_TIME = b"x-envoy-upstream-service-time"
_CONNECTION = b"connection"
_FRAMING = frozenset({LENGTH, b"transfer-encoding"})
_READ = frozenset({_SERVICE_TIME, _CONNECTION, *_FRAMING, *TELLING})
"""The header lines that mean something here."""
_FIRST_FINAL_STATUS = 200
_OK = 200


class Owner(Protocol):
    """Who hears what became of a request."""

    def answered(self, connection: Any, response: Response) -> None:
        """A complete response came."""

    def failed(self, connection: Any, outcome: Outcome) -> None:
        """No complete response will come; the connection is of no more use."""

    def closed(self, connection: Any) -> None:
        """The peer closed a connection that was waiting for work."""


class Connection(asyncio.Protocol):
    """One connection. ``usable`` says whether another request may be sent on it after an answer.

    A response of more than ``max_bytes`` is not HTTP to us; of its body the first ``kept_bytes`` are kept. ``headless`` says that responses have no body whatever their header says, as those to HEAD. ``keep_headers`` keeps all header
    lines for the owner, in ``Response.headers``; without it those few are there that tell why a request failed.
    """

    __slots__ = (
        "_body",
        "_busy",
        "_complete",
        "_cut",
        "_framed",
        "_from_upstream",
        "_head_done",
        "_headers",
        "_keep",
        "_kept",
        "_owner",
        "_parser",
        "_received",
        "_says_close",
        "_status",
        "_transport",
        "_unsound",
        "_write",
        "headless",
        "keep_headers",
        "kept_bytes",
        "max_bytes",
        "usable",
    )

    def __init__(self, owner: Owner, *, max_bytes: int = MAX_RESPONSE_BYTES, kept_bytes: int = KEPT_BYTES) -> None:
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._write: Callable[[bytes], None] = _unconnected
        self._parser: httptools.HttpResponseParser | None = None  # made when it is needed: ten thousand of them are 15 MB
        self.max_bytes = max_bytes
        self.kept_bytes = kept_bytes
        self.headless = False
        self.keep_headers = False
        self.usable = True
        self._busy = False
        self._unsound = False
        self._body: list[bytes] = []
        self._headers: list[tuple[bytes, bytes]] = []
        self._reset()

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} {'busy' if self._busy else 'idle'} {'usable' if self.usable else 'spent'} received={self._received}>"
        )

    def send(self, data: bytes) -> None:
        """Write one request; its end is reported to the owner."""
        self._busy = True
        self._write(data)

    def unwritten(self) -> int:
        """Give how many bytes the event loop still has to write."""
        return self._transport.get_write_buffer_size() if self._transport is not None else 0

    def abort(self) -> None:
        """Drop the connection without a word to the owner."""
        self._busy = False
        self.usable = False
        if self._transport is not None:
            self._transport.abort()

    def _reset(self) -> None:
        self._received = 0
        self._kept = 0
        self._status = 0
        self._head_done = False
        self._framed = False
        self._from_upstream = False
        self._says_close = False
        self._complete = False
        self._cut = False
        self._keep = False
        if self._body:
            self._body = []
        if self._headers:
            self._headers = []

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream's transport is a Transport; the base class's signature is wider
        self._write = transport.write  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self.parse(data)

    def parse(self, data: bytes) -> None:
        """Read what came, and tell the owner if that ends the request."""
        self._received += len(data)
        parser = self._parser
        if parser is None:
            parser = self._parser = httptools.HttpResponseParser(self)
        try:
            parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(Outcome.PROTOCOL)
            return
        head_too_long = not self._head_done and self._received > MAX_HEAD_BYTES
        if not self._busy or self._unsound or self._received > self.max_bytes or head_too_long:
            self._fail(Outcome.PROTOCOL)
        elif self._complete:
            self._answer(keep=self._keep)

    def eof_received(self) -> None:
        self.usable = False  # the loop closes it in its next round; nothing may be sent on it in this one

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        if not self._busy:
            self._owner.closed(self)
        elif exc is None and self._head_done and not self._framed:
            self._answer(keep=False)  # a response without a length ends with the connection
        elif exc is None and self._head_done:
            self._fail(Outcome.PROTOCOL)  # a short body
        else:
            self._fail(Outcome.RESET)

    def _answer(self, *, keep: bool) -> None:
        response = Response(self._status, b"".join(self._body), self._from_upstream, tuple(self._headers), whole=not self._cut)
        self._busy = False
        self._reset()
        if self.headless:
            self._parser = None  # it still waits for a body
        self.usable = self.usable and keep
        if self._transport is not None and self.unwritten():
            self.usable = False  # answered before it was asked to the end: the next request would wait for the rest of this one
            self._transport.abort()
        elif self._transport is not None and not self.usable:
            self._transport.close()
        self._owner.answered(self, response)

    def _fail(self, outcome: Outcome) -> None:
        was_busy = self._busy
        self.abort()
        if was_busy:
            self._owner.failed(self, outcome)

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._complete:
            self._unsound = True

    def on_header(self, name: bytes, value: bytes) -> None:
        lowered = name.lower()
        if lowered in _READ:
            if lowered == _SERVICE_TIME:
                self._from_upstream = True
            elif lowered in _FRAMING:
                self._framed = True
            elif lowered == _CONNECTION:
                self._says_close |= b"close" in value.lower()
            if (lowered in TELLING or (self.headless and lowered == LENGTH)) and not self.keep_headers:
                self._keep_telling(lowered, value)
        if self.keep_headers:
            self._headers.append((name, value))

    def _keep_telling(self, name: bytes, value: bytes) -> None:
        if len(self._headers) < TELLING_LINES:
            self._headers.append((name, value[:TELLING_BYTES]))

    def on_headers_complete(self) -> None:
        assert self._parser is not None, "called by it"
        self._status = self._parser.get_status_code()
        self._head_done = True
        version = self._parser.get_http_version()
        if self._status not in _STATUSES or version not in _VERSIONS:
            self._unsound = True  # the parser takes "HTTP/0.9 099" for an answer
        elif self.headless and self._status >= _FIRST_FINAL_STATUS:
            self._complete = True
            self._keep = version == "1.1" and not self._says_close

    def on_body(self, body: bytes) -> None:
        if self.headless:
            self._unsound = True
        elif self._kept < self.kept_bytes:
            self._body.append(body)
            self._kept += len(body)
        else:
            self._cut = True

    def on_message_complete(self) -> None:
        if self._status < _FIRST_FINAL_STATUS and self._status != _SWITCHING_PROTOCOLS:
            received = self._received
            self._reset()  # an interim answer (100 Continue, 103 Early Hints): the final one follows, or has begun to
            self._received = received
        elif not self.headless:
            assert self._parser is not None, "called by it"
            self._complete = True
            self._keep = self._parser.should_keep_alive()  # known only here: the parser forgets it when it returns


def _unconnected(_data: bytes) -> None:
    raise AssertionError("send before connection_made")


class _Once:
    """The owner of a connection that carries a single request."""

    def __init__(self) -> None:
        self.result: asyncio.Future[Response | Outcome] = asyncio.get_running_loop().create_future()

    def answered(self, _connection: Connection, response: Response) -> None:
        self._set(response)

    def failed(self, _connection: Connection, outcome: Outcome) -> None:
        self._set(outcome)

    def closed(self, connection: Connection) -> None:
        """Nothing waits for it."""

    def _set(self, result: Response | Outcome) -> None:
        if not self.result.done():
            self.result.set_result(result)


async def fetch(host: str, port: int, path: str, *, method: str = "GET", timeout_s: float = 2.0, max_bytes: int = 4 << 20) -> bytes:
    """Fetch one page of an admin interface on a connection of its own and return its body.

    Raises MeshError if there is no answer in time, or one with another status than 200.
    """
    once = _Once()
    where = f"{host}:{port}{path.partition('?')[0]}"  # what a query asks for, hundreds of escapes, tells a person nothing
    try:
        with anyio.fail_after(timeout_s):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: Connection(once, max_bytes=max_bytes, kept_bytes=max_bytes), host, port
            )
            try:
                connection.send(
                    f"{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n".encode("ascii")
                )
                result = await once.result
            finally:
                connection.abort()
    except TimeoutError as error:
        raise MeshError(f"no answer from {where} within {timeout_s} s") from error
    except OSError as error:
        raise MeshError(f"cannot reach {where}: {error}") from error
    if isinstance(result, Outcome):
        raise MeshError(f"no answer from {where}: {_why(result, max_bytes)}")
    if result.status != _OK:
        raise MeshError(f"{where} answered {result.status}: {result.body[:200]!r}")
    return result.body


def _why(outcome: Outcome, max_bytes: int) -> str:
    if outcome is Outcome.RESET:
        return "the connection was closed or reset"
    return f"what came is no HTTP, cut off or more than {max_bytes:,} bytes"

"""One connection of a client to this process: how does its request come in, and what if it never comes in whole?

A server of our own on httptools, which the engine brings along: what it takes to survive a hostile client (sizes, deadlines, places) is most of
what there is here and would have to be added to uvicorn all the same, and aiohttp would cost each pod 0.3 s of CPU at its start, 16 MB of memory and
13 MB of image (measured).

The laws: one request at a time; whoever sends more before it is answered gets that answer, and then the end. A request that is too large, too
slow or no HTTP is refused with a status and ends the connection, which lingers a moment so that the refusal is read. A connection is in one
of these states:

=========  ===========================================  =============================================
state      waits for                                    after
=========  ===========================================  =============================================
IDLE       a request's first byte                       ``FIRST_BYTE_S`` or ``KEEP_S``: closed
RECEIVING  the rest of the request                      ``RECEIVE_S``: 408
ANSWERING  the answer; nothing is read                  (whoever answers has deadlines of its own)
SENDING    the client to take the answer                ``SEND_S``: aborted
ENDING     the client to close; what comes is dropped   ``LINGER_S``: aborted
=========  ===========================================  =============================================
"""

from __future__ import annotations

import asyncio
from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

import httptools

from loadgen.serving.exchange import Request, refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadgen.serving.exchange import Reply

MAX_HEAD_BYTES = 16 * 1024
MAX_BODY_BYTES = 64 * 1024
FIRST_BYTE_S = 5.0
KEEP_S = 120.0
"""Longer than the 90 s after which Kubernetes' API server gives up an idle connection: it must not use one that we close just then."""
RECEIVE_S = 5.0
SEND_S = 5.0
LINGER_S = 1.0
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class State(Enum):
    """What a connection waits for."""

    IDLE = auto()
    RECEIVING = auto()
    ANSWERING = auto()
    SENDING = auto()
    ENDING = auto()


class Owner(Protocol):
    """Who has the connections, and answers."""

    def made(self, connection: Connection) -> bool:
        """A connection was made; tells whether there is a place for it."""

    def asked(self, connection: Connection, request: Request) -> None:
        """A request came; ``connection.reply`` is to be called once."""

    def lost(self, connection: Connection) -> None:
        """A connection is gone."""


class Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self, owner: Owner) -> None:
        self.state = State.IDLE
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._writable = True
        self._begin()

    def __repr__(self) -> str:
        return f"<Connection {self.state.name} {self._head_bytes}+{self._body_bytes} bytes>"

    def _begin(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self._url = b""
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._head_bytes = 0
        self._body_bytes = 0
        self._raw_bytes = 0
        self._head_done = False
        self._complete = False
        self._keep = False

    def abort(self) -> None:
        """Drop the connection."""
        if self._transport is not None:
            self._transport.abort()

    def reply(self, reply: Reply) -> None:
        """Send the answer, if there is still somebody to get it."""
        if self._transport is None or self._transport.is_closing():
            return
        method = self._parser.get_method()
        self._transport.write(reply.as_bytes(keep=self._keep, headless=method == b"HEAD"))
        if not self._keep:
            self._end()
        elif self._writable:
            self._await_next()
        else:
            self._enter(State.SENDING, SEND_S, self.abort)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream's transport is a Transport; the base class's signature is wider
        assert self._transport is not None
        self._transport.set_write_buffer_limits(high=0)
        if self._owner.made(self):
            self._enter(State.IDLE, FIRST_BYTE_S, self._end)
        else:
            self._refuse(503, "too many connections")

    def connection_lost(self, _exc: Exception | None) -> None:
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
        self._owner.lost(self)

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        if self.state is State.SENDING and self._keep:
            self._await_next()
        elif self.state is State.SENDING:
            self._end()

    def eof_received(self) -> bool:
        self._keep = False
        return self.state in {State.ANSWERING, State.SENDING}  # it says nothing more, but may listen

    def data_received(self, data: bytes) -> None:
        if self.state is State.ENDING:
            return
        if self.state in {State.ANSWERING, State.SENDING}:
            self._keep = False
            return
        if self.state is State.IDLE:
            self._enter(State.RECEIVING, RECEIVE_S, lambda: self._refuse(408, f"the request was not there within {RECEIVE_S:g} s"))
        self._raw_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._keep = False
        except httptools.HttpParserCallbackError:
            raise
        except httptools.HttpParserError:
            if not self._complete:
                self._refuse(400, "this is no HTTP")
                return
            self._keep = False  # what came after the request is none
        self._look()

    def _look(self) -> None:
        """See how much of the request there is."""
        if self._head_bytes > MAX_HEAD_BYTES or (not self._head_done and self._raw_bytes > MAX_HEAD_BYTES):
            self._refuse(431, f"the head of a request may have {MAX_HEAD_BYTES:,} bytes")
        elif self._body_bytes > MAX_BODY_BYTES:
            self._refuse(413, f"the body of a request may have {MAX_BODY_BYTES:,} bytes")
        elif self._complete:
            self._ask()

    def _ask(self) -> None:
        assert self._transport is not None, "data came on it"
        self._transport.pause_reading()
        self._enter(State.ANSWERING)
        path = self._url.partition(b"?")[0].decode("latin-1")
        self._owner.asked(self, Request(self._parser.get_method().decode("latin-1"), path, self._headers, b"".join(self._body)))

    # How it goes on.

    def _enter(self, state: State, within_s: float = 0.0, otherwise: Callable[[], None] | None = None) -> None:
        self.state = state
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if otherwise is not None:
            self._timer = self._loop.call_later(within_s, otherwise)

    def _await_next(self) -> None:
        assert self._transport is not None, "an answer was sent on it"
        self._begin()
        self._enter(State.IDLE, KEEP_S, self._end)
        self._transport.resume_reading()

    def _refuse(self, status: int, error: str) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(refusal(status, error).as_bytes(keep=False))
            self._end()

    def _end(self) -> None:
        """Send nothing more, and let the client read what was sent: to close with unread data would take it away."""
        if self._transport is None or self._transport.is_closing():
            return
        self._enter(State.ENDING, LINGER_S if self._writable else SEND_S, self.abort)
        self._transport.write_eof()
        self._transport.resume_reading()

    # What the parser calls. After the end of the request: what belongs to the next one, which is not wanted.

    def on_message_begin(self) -> None:
        if self._complete:
            self._keep = False

    def on_url(self, url: bytes) -> None:
        if not self._complete:
            self._url += url
            self._head_bytes += len(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._complete:
            return
        self._head_bytes += len(name) + len(value)
        if self._head_bytes <= MAX_HEAD_BYTES:
            key = name.decode("latin-1").lower()
            text = value.decode("latin-1")
            self._headers[key] = f"{self._headers[key]}, {text}" if key in self._headers else text

    def on_headers_complete(self) -> None:
        if self._complete:
            return
        self._head_done = True
        length = self._headers.get("content-length", "")
        if length.isdigit() and int(length[:20]) > MAX_BODY_BYTES:
            self._body_bytes = MAX_BODY_BYTES + 1
        elif self._headers.get("expect", "").lower() == "100-continue" and self._transport is not None:
            self._transport.write(_CONTINUE)

    def on_body(self, body: bytes) -> None:
        if not self._complete:
            self._body_bytes += len(body)
            if self._body_bytes <= MAX_BODY_BYTES:
                self._body.append(body)

    def on_message_complete(self) -> None:
        if not self._complete:
            self._complete = True
            self._keep = self._parser.should_keep_alive()

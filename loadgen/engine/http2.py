"""How does an httpx request get to its target over HTTP/2? On httpcore's connections, without its pool: one for each request in flight.

So a user of the load is a connection, as on HTTP/1.1, and a broken connection is the end of one request. Nobody reads from a connection
that is idle: that the peer has closed it is seen by the next request on it, which then becomes a reset.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import anyio
import httpcore
import httpx

from loadgen.engine.load import clock
from loadgen.engine.transport import SENTENCES, TIMEOUT_S, deadline_s, origin_of, whole
from loadgen.engine.wire import MAX_RESPONSE_BYTES
from loadgen.outcome import Outcome

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    from loadgen.engine.transport import Origin

_CLOSE_S = 1.0


class Http2Transport(httpx.AsyncBaseTransport):
    """HTTP/2 under httpx, with the promises of ``WireTransport``: one connection for each request in flight, used again afterwards.

    With TLS the server may choose HTTP/1.1 instead; without, it must know that HTTP/2 is coming.
    """

    def __init__(
        self,
        *,
        timeout_s: float = TIMEOUT_S,
        max_bytes: int = MAX_RESPONSE_BYTES,
        tls: ssl.SSLContext | None = None,
        addresses: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._timeout_s = timeout_s
        self._addresses = addresses
        self._max_bytes = max_bytes
        self._tls = tls
        self._idle: dict[Origin, list[_Http2Line]] = defaultdict(list)

    def __repr__(self) -> str:
        return f"<Http2Transport idle={sum(map(len, self._idle.values()))}>"

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and give its answer, read as a whole."""
        origin = origin_of(request.url)
        timeout_s = deadline_s(request, self._timeout_s)
        try:
            with anyio.fail_after(timeout_s):
                return await self._exchange(request, origin)
        except TimeoutError as error:
            raise httpx.ReadTimeout(SENTENCES[Outcome.TIMEOUT].format(timeout_s=timeout_s)) from error

    async def aclose(self) -> None:
        """Close the idle connections."""
        for idle in self._idle.values():
            while idle:
                await idle.pop().close()

    async def _exchange(self, request: httpx.Request, origin: Origin) -> httpx.Response:
        framed = _framed(request)
        idle = self._idle[origin]
        while True:
            line = idle.pop() if idle else _Http2Line(framed.url.origin, self._tls, self._addresses)
            try:
                response = await self._send(line, framed)
            except httpcore.ConnectionNotAvailable:
                continue  # the peer had announced its end before this request was sent
            if line.connection.is_idle():
                idle.append(line)
            else:
                await line.close()
            return response

    async def _send(self, line: _Http2Line, framed: httpcore.Request) -> httpx.Response:
        began = clock()
        try:
            response = await line.connection.handle_async_request(framed)
            try:
                body = await self._read(response)
            finally:
                await response.aclose()
            return whole(
                response.status, response.headers, body, max_bytes=self._max_bytes, began=began, extensions=dict(response.extensions)
            )
        except BaseException as error:
            await line.close()
            if isinstance(error, (httpx.HTTPError, httpcore.ConnectionNotAvailable)) or not isinstance(error, Exception):
                raise
            raise _translated(error, line.connection) from error

    async def _read(self, response: httpcore.Response) -> bytes:
        parts, size = [], 0
        async for part in response.aiter_stream():
            parts.append(part)
            size += len(part)
            if size > self._max_bytes:
                raise httpx.RemoteProtocolError(SENTENCES[Outcome.PROTOCOL].format(max_bytes=self._max_bytes))
        return b"".join(parts)


def _framed(request: httpx.Request) -> httpcore.Request:
    url = request.url
    where = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
    return httpcore.Request(request.method, where, headers=request.headers.raw, content=request.stream)


class _Http2Line:
    """A connection of httpcore's, and the socket under it."""

    __slots__ = ("_dialer", "connection")

    def __init__(self, origin: httpcore.Origin, tls: ssl.SSLContext | None, addresses: Mapping[str, str]) -> None:
        self._dialer = _Dialer(addresses)
        self.connection = httpcore.AsyncHTTPConnection(
            origin, ssl_context=tls, http1=origin.scheme == b"https", http2=True, network_backend=self._dialer
        )

    async def close(self) -> None:
        """Close it, in whatever state it is and whoever wants everything to end."""
        with anyio.move_on_after(_CLOSE_S, shield=True):
            with contextlib.suppress(Exception):  # it may be broken in any way
                await self.connection.aclose()
            if self._dialer.stream is not None:
                await self._dialer.stream.aclose()


class _Dialer(httpcore.AnyIOBackend):
    """Knows where hosts are, and remembers the socket: httpcore forgets it when a request is cancelled while TLS is being agreed on."""

    def __init__(self, addresses: Mapping[str, str]) -> None:
        self.stream: httpcore.AsyncNetworkStream | None = None
        self._addresses = addresses

    async def connect_tcp(self, host: str, *port: Any, **options: Any) -> httpcore.AsyncNetworkStream:
        """Open a connection."""
        self.stream = await super().connect_tcp(self._addresses.get(host, host), *port, **options)
        return self.stream


def _translated(error: Exception, connection: httpcore.AsyncHTTPConnection) -> httpx.TransportError:
    """Say it in httpx's words.

    httpcore lets through what it did not expect: groups of exceptions, bare ssl and h2 errors. It calls a closed connection, a reset stream
    and garbage alike a protocol error; of these only the last one wraps an exception of the parser's.
    """
    if connection.info() == "CONNECTION FAILED":
        return httpx.ConnectError(str(error) or type(error).__name__)
    gone = isinstance(error, httpcore.RemoteProtocolError) and not isinstance(error.args[0], Exception)
    if gone or isinstance(error, (httpcore.NetworkError, OSError)):
        return httpx.ReadError(str(error) or "the connection was closed or reset")
    return httpx.RemoteProtocolError(str(error))

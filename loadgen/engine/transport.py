"""How does an httpx request get to its target on the wire engine's HTTP/1.1 connections?

The law: an answer is read as a whole before it is given, within one deadline and one cap, so that neither a drip nor a gzip bomb gets past
them. A request that fails or is cancelled takes its connection with it; one that ended well leaves it to the next request.

httpx's own pool looks through all connections and polls their sockets at every request. Here the connections are a stack for each origin.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
import socket
import ssl
from collections import defaultdict
from datetime import timedelta
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

import anyio
import httpx

from loadgen.engine.load import clock
from loadgen.engine.wire import MAX_RESPONSE_BYTES, Connection
from loadgen.outcome import Outcome, Response

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Headers = Sequence[tuple[bytes, bytes]]

TIMEOUT_S = 10.0
HEADER_NAMES = "loadgen.header_names"
"""The extension of a response that holds the lowered names of its headers: to ask httpx for one header costs more than to make the set."""
_PORTS = {"http": 80, "https": 443}
_CRUMB_BYTES = 64
"""So much of a compressed body is unpacked at a time: gzip makes at most a thousand times as much of it."""


class Origin(NamedTuple):
    """Where a connection leads; ``host`` is a name or an address as a socket wants it."""

    scheme: str
    host: str
    port: int


def origin_of(url: httpx.URL) -> Origin:
    """Tell where a URL's connection leads.

    Raises httpx.UnsupportedProtocol if the URL is not an absolute one of http or https.
    """
    if url.scheme not in _PORTS or not url.raw_host:
        raise httpx.UnsupportedProtocol(f"{str(url)!r} is no http:// or https:// URL")
    return Origin(url.scheme, url.raw_host.decode("ascii"), url.port or _PORTS[url.scheme])


class WireTransport(httpx.AsyncBaseTransport):
    """The wire engine under ``httpx.AsyncClient(transport=WireTransport())``.

    ``timeout_s`` bounds a request as a whole, from its connection to the last byte of its answer; a read timeout that httpx gives for the
    request does so, too, if it is shorter. ``max_bytes`` bounds the answer as it comes, and its body once more when it is unpacked.
    Without ``tls`` an https URL is an unsupported protocol. ``addresses`` says where hosts are that are not to be looked up.
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
        self._lines: set[_Line] = set()
        self._idle: dict[Origin, dict[_Line, None]] = defaultdict(dict)

    def __repr__(self) -> str:
        return f"<WireTransport {len(self._lines)} idle={sum(map(len, self._idle.values()))}>"

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and give its answer, read as a whole."""
        began = clock()
        origin = self._origin(request.url)
        timeout_s = deadline_s(request, self._timeout_s)
        data = await _request_bytes(request, timeout_s)
        line = self._free_line(origin) or await self._connect(origin, timeout_s)
        try:
            answer = await line.exchange(data, headless=request.method == "HEAD", timeout_s=began + timeout_s - clock())
        except BaseException:
            self._drop(line)
            raise
        if isinstance(answer, Outcome):
            self._drop(line)
            raise _FAULTS[answer](SENTENCES[answer].format(timeout_s=timeout_s, max_bytes=self._max_bytes))
        self._take_back(origin, line)
        return whole(answer.status, list(answer.headers), answer.body, max_bytes=self._max_bytes, began=began)

    async def connect(self, url: httpx.URL) -> None:
        """Open a connection for a later request."""
        origin = self._origin(url)
        self._take_back(origin, await self._connect(origin, self._timeout_s))

    async def aclose(self) -> None:
        """Close all connections; what is on them fails."""
        for line in list(self._lines):
            line.hang_up()
        self._lines.clear()
        self._idle.clear()

    def _origin(self, url: httpx.URL) -> Origin:
        origin = origin_of(url)
        if self._tls is None and origin.scheme == "https":
            raise httpx.UnsupportedProtocol(f"{str(url)!r} needs TLS, which this transport was not given")
        return origin

    def _free_line(self, origin: Origin) -> _Line | None:
        idle = self._idle[origin]
        while idle:
            line, _ = idle.popitem()
            if line.connection.usable:
                return line
        return None

    async def _connect(self, origin: Origin, timeout_s: float) -> _Line:
        line = _Line(self, origin, self._max_bytes)
        tls = self._tls if origin.scheme == "https" else None
        with contextlib.ExitStack() as undo:
            undo.callback(line.connection.abort)
            try:
                with anyio.fail_after(timeout_s):
                    await asyncio.get_running_loop().create_connection(
                        lambda: line.connection,
                        self._addresses.get(origin.host, origin.host),
                        origin.port,
                        ssl=tls,
                        server_hostname=origin.host if tls else None,
                    )
            except TimeoutError as error:
                raise httpx.ConnectTimeout(f"no connection to {origin.host}:{origin.port} within {timeout_s:g} s") from error
            except (OSError, OverflowError, UnicodeError) as error:  # the latter two: no such port, no such name
                raise httpx.ConnectError(f"no connection to {origin.host}:{origin.port}: {error}") from error
            undo.pop_all()
        self._lines.add(line)
        return line

    def _take_back(self, origin: Origin, line: _Line) -> None:
        if line.connection.usable:
            self._idle[origin][line] = None
        else:
            self._lines.discard(line)

    def _drop(self, line: _Line) -> None:
        line.connection.abort()
        self._lines.discard(line)

    def forget(self, origin: Origin, line: _Line) -> None:
        """Forget an idle connection that was closed."""
        self._idle[origin].pop(line, None)
        self._lines.discard(line)


class _Line:
    """A connection, and the request that waits for an answer on it."""

    __slots__ = ("_answer", "_origin", "_transport", "connection")

    def __init__(self, transport: WireTransport, origin: Origin, max_bytes: int) -> None:
        self.connection = Connection(self, max_bytes=max_bytes, kept_bytes=max_bytes)
        self.connection.keep_headers = True
        self._transport = transport
        self._origin = origin
        self._answer: asyncio.Future[Response | Outcome] | None = None

    async def exchange(self, data: bytes, *, headless: bool, timeout_s: float) -> Response | Outcome:
        """Send a request; give its answer, or how it failed."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Response | Outcome] = loop.create_future()
        self._answer = answer
        self.connection.headless = headless
        deadline = loop.call_later(timeout_s, self._end, Outcome.TIMEOUT)  # a third of the price of a cancel scope
        try:
            self.connection.send(data)
            return await answer
        finally:
            deadline.cancel()

    def hang_up(self) -> None:
        """Close, whatever is going on."""
        self.connection.abort()
        self._end(Outcome.RESET)

    def answered(self, _connection: Connection, response: Response) -> None:
        """A complete response came."""
        self._end(response)

    def failed(self, _connection: Connection, outcome: Outcome) -> None:
        """No complete response will come."""
        self._end(outcome)

    def closed(self, _connection: Connection) -> None:
        """The peer closed it while it was idle."""
        self._transport.forget(self._origin, self)

    def _end(self, answer: Response | Outcome) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(answer)


# What it has in common with the transport for HTTP/2.

_FAULTS = {Outcome.TIMEOUT: httpx.ReadTimeout, Outcome.RESET: httpx.ReadError, Outcome.PROTOCOL: httpx.RemoteProtocolError}
SENTENCES = {
    Outcome.TIMEOUT: "no complete answer within {timeout_s:g} s",
    Outcome.RESET: "the connection was closed or reset",
    Outcome.PROTOCOL: "what came is no HTTP, cut off or more than {max_bytes:,} bytes",
}


def deadline_s(request: httpx.Request, timeout_s: float) -> float:
    wanted = request.extensions.get("timeout", {}).get("read")
    return timeout_s if wanted is None else min(timeout_s, wanted)


async def _request_bytes(request: httpx.Request, timeout_s: float) -> bytes:
    """Write a request as HTTP/1.1 has it.

    Raises httpx.LocalProtocolError if a header would become two.
    """
    body = await _request_body(request, timeout_s)
    headers = request.headers.raw
    lines = b"".join([b"%b: %b\r\n" % header for header in headers])
    head = b"%b %b HTTP/1.1\r\n%b\r\n" % (request.method.encode("ascii"), request.url.raw_path, lines)
    if head.count(b"\n") != len(headers) + 2 or head.count(b"\r") != len(headers) + 2:
        raise httpx.LocalProtocolError("a header of the request holds a line break")
    if any(name.lower() == b"transfer-encoding" for name, _ in headers):
        body = (b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)) if body else b"0\r\n\r\n"
    return head + body


async def _request_body(request: httpx.Request, timeout_s: float) -> bytes:
    if isinstance(request.stream, httpx.ByteStream):
        return await request.aread()  # it is there; after a redirect it only has not been asked for
    try:
        with anyio.fail_after(timeout_s):
            return await request.aread()
    except TimeoutError as error:
        raise httpx.WriteTimeout(f"the request's body was not there within {timeout_s:g} s") from error


def whole(
    status: int, headers: Headers, body: bytes, *, max_bytes: int, began: float, extensions: dict[str, object] | None = None
) -> httpx.Response:
    """Make a response whose body is there.

    Raises httpx.DecodingError or httpx.RemoteProtocolError if it cannot be unpacked or is too large then.
    """
    names = frozenset([name.lower() for name, _ in headers])
    content = _unpacked(headers, body, max_bytes) if body and b"content-encoding" in names else body
    response = httpx.Response(
        status, headers=list(headers), stream=httpx.ByteStream(body), extensions={**(extensions or {}), HEADER_NAMES: names}
    )
    response._content = content  # noqa: SLF001  # what reading the stream would find out, and a fifth of the price of the whole request
    response.elapsed = timedelta(seconds=clock() - began)
    return response


def _unpacked(headers: Headers, body: bytes, max_bytes: int) -> bytes:
    if sum(value.count(b",") + 1 for name, value in headers if name.lower() == b"content-encoding") > 1:
        raise httpx.DecodingError("the body is packed more than once, so nobody knows what it becomes")
    parts, size = [], 0
    for part in httpx.Response(200, headers=list(headers), stream=_Crumbs(body)).iter_bytes():
        parts.append(part)
        size += len(part)
        if size > max_bytes:
            raise httpx.RemoteProtocolError(f"the body is more than {max_bytes:,} bytes when it is unpacked")
    return b"".join(parts)


class _Crumbs(httpx.SyncByteStream):
    """A body in so small parts that none of them becomes much."""

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        for start in range(0, len(self._body), _CRUMB_BYTES):
            yield self._body[start : start + _CRUMB_BYTES]


# What its failures mean.


def outcome_of(error: Exception) -> Outcome:
    """Tell what became of a request that got no complete response; a transport speaks httpx."""
    if isinstance(error, httpx.TimeoutException):
        return Outcome.TIMEOUT
    if isinstance(error, httpx.ConnectError):
        return Outcome.CONNECT
    return Outcome.RESET if isinstance(error, httpx.NetworkError) else Outcome.PROTOCOL


_RESOLVER = {value: name for name, value in vars(socket).items() if name.startswith("EAI_")}


def connect_error(error: BaseException) -> str:
    """Give the system's name of the error that kept a connection from being opened; the certificate and the rest of TLS have one each.

    Whoever tries several addresses buries the reasons: behind causes, in groups, or as ``[Errno 111]`` in a sentence.
    """
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return "CERTIFICATE"
        if isinstance(cause, ssl.SSLError):
            return "TLS"
        if isinstance(cause, socket.gaierror):
            return _RESOLVER.get(cause.errno or 0, "OTHER")
        if isinstance(cause, OSError):
            number = re.search(r"\[Errno (\d+)\]", str(cause))
            if name := errno.errorcode.get(cause.errno or int(number[1] if number else 0)):
                return name
    return "OTHER"


def _causes(error: BaseException) -> Iterator[BaseException]:
    yield error
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _causes(each)
    if (cause := error.__cause__ or error.__context__) is not None:
        yield from _causes(cause)

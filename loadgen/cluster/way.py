"""How does one request get to the API server and its answer back, and what does it mean if it does not?

Two ways: one for the API itself, and one for what is passed on to pods. Those answer when they like, and must not keep the renewal of a
lease waiting. Both speak HTTP/1.1: an API server ends its HTTP/2 connections with GOAWAY whenever it likes, and with every 401, and httpcore
then loses the answers that are on their way.
"""

from __future__ import annotations

import json
import ssl
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import anyio
import httpx

from loadgen.cluster.failure import ApiError, LostError, UnreachableError, UnusableError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from loadgen.cluster.access import Access
    from loadgen.cluster.paths import Call

MAX_BODY_BYTES = 32 << 20
MAX_POD_BYTES = 2 << 20
"""A snapshot has some 40 KB, and many pods are asked at the same time."""
POD_CONNECTIONS = 32
_SILENCE = 0.9
"""The share of a time-out after which a silent connection is given up, so that it is httpx who does: then nobody uses it again."""
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
_NEVER = (httpx.UnsupportedProtocol, httpx.InvalidURL)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, read as a whole. The names of the headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def is_json(self) -> bool:
        """Tell whether the body is JSON, whatever the headers say."""
        try:
            json.loads(self.body)
        except (ValueError, RecursionError):
            return False
        return True


class TooLargeError(httpx.TransportError):
    """The body is larger than any that the API gives."""


@dataclass(slots=True)
class _Connections:
    """What was made with one access; ``users`` is how many requests are on their way."""

    access: Access
    api: httpx.AsyncClient
    pods: httpx.AsyncClient
    users: int = 0


class Way:
    """The connections of one access. ``open`` makes new ones; the ones before are closed as soon as nobody uses them, ``close`` closes all."""

    def __init__(self) -> None:
        self._connections: list[_Connections] = []
        """Those for new requests last; before them those that are still in use."""

    @property
    def access(self) -> Access:
        """What the connections are made with."""
        assert self._connections, "used before it was opened"
        return self._connections[-1].access

    async def open(self, access: Access) -> None:
        """Make new connections from now on, with this access."""
        limits = httpx.Limits(max_connections=POD_CONNECTIONS, max_keepalive_connections=POD_CONNECTIONS)
        self._connections.append(_Connections(access, _client(access, httpx.Limits()), _client(access, limits)))
        await self._close_unused()

    async def close(self) -> None:
        """Close all connections."""
        while self._connections:
            await _close(self._connections.pop())

    async def _close_unused(self) -> None:
        for each in [each for each in self._connections[:-1] if not each.users]:
            self._connections.remove(each)
            await _close(each)

    async def exchange(
        self, call: Call, query: Mapping[str, str], headers: Mapping[str, str], body: bytes, timeout_s: float, *, for_pod: bool = False
    ) -> Answer | ApiError:
        """Send one request; give its answer, whatever it is, or how it failed."""
        connections = self._connections[-1]
        connections.users += 1
        try:
            with anyio.fail_after(timeout_s):
                return await _exchange(connections, call, query, headers, body, timeout_s, for_pod=for_pod)
        except (OSError, httpx.HTTPError, httpx.InvalidURL, BaseExceptionGroup) as error:
            return _failure(call, error, timeout_s)
        finally:
            connections.users -= 1
            await self._close_unused()


async def _exchange(
    connections: _Connections,
    call: Call,
    query: Mapping[str, str],
    headers: Mapping[str, str],
    body: bytes,
    timeout_s: float,
    *,
    for_pod: bool,
) -> Answer:
    access = connections.access
    client, most = (connections.pods, MAX_POD_BYTES) if for_pod else (connections.api, MAX_BODY_BYTES)
    authorization = access.authorization()
    proof = {"authorization": authorization} if authorization else {}
    opening = _Opening()
    request = client.build_request(
        call.method,
        access.server.rstrip("/") + call.path,
        params=dict(query) if query else None,
        headers={**headers, **proof},
        content=body or None,
        timeout=timeout_s * _SILENCE,
        extensions={"trace": opening.hear, **({"sni_hostname": access.server_name} if access.server_name else {})},
    )
    try:
        response = await client.send(request, stream=True)
    except BaseException:
        await opening.give_up()
        raise
    try:
        content = bytearray()
        async for part in response.aiter_raw():
            content += part
            if len(content) > most:
                raise TooLargeError(f"the answer is larger than {most:,} bytes")
    finally:
        await response.aclose()
    return Answer(response.status_code, response.headers, bytes(content))


class _Opening:
    """The socket that a request opens, if it finds no open connection.

    httpcore loses it if the request is cancelled before it is sent: while TLS is being agreed on it forgets the socket, and a connection that was just
    made it takes for one in use.
    """

    def __init__(self) -> None:
        self._socket: _Closes | None = None

    async def hear(self, event: str, about: Mapping[str, Any]) -> None:
        """Take in an event of httpx's ``trace`` extension."""
        if event == "connection.connect_tcp.complete":
            self._socket = about["return_value"]

    async def give_up(self) -> None:
        """Close the socket of a request that has failed; httpcore may have done so, and never uses it again."""
        if self._socket is not None:
            with anyio.CancelScope(shield=True):
                await self._socket.aclose()


class _Closes(Protocol):
    async def aclose(self) -> None: ...


async def _close(connections: _Connections) -> None:
    with anyio.CancelScope(shield=True):
        await connections.api.aclose()
        await connections.pods.aclose()


def _client(access: Access, limits: httpx.Limits) -> httpx.AsyncClient:
    headers = {"accept": "application/json", "accept-encoding": "identity", "user-agent": "loadgen"}
    return httpx.AsyncClient(verify=access.tls or True, limits=limits, headers=headers, proxy=access.proxy)


def _failure(call: Call, error: BaseException, timeout_s: float) -> ApiError:
    """Say what a request that got no answer means for the one who asked."""
    causes = list(_causes(error))
    untrusted = next((cause for cause in causes if isinstance(cause, ssl.SSLCertVerificationError)), None)
    failure: ApiError
    if untrusted is not None:
        hint = "the kubeconfig's certificate-authority must be the one that signed the server's certificate"
        failure = UnusableError(call, 0, f"the server's certificate is not trusted: {untrusted.verify_message}", hint=hint)
    elif isinstance(error, httpx.LocalProtocolError):  # its text may hold a header, and so a secret
        failure = UnusableError(call, 0, "the request holds what HTTP does not allow", hint="is the token of the kubeconfig in order?")
    elif isinstance(error, (*_NEVER, TooLargeError)):
        failure = UnusableError(call, 0, str(error))
    elif isinstance(error, _NOT_SENT):
        failure = UnreachableError(call, 0, f"the API server cannot be reached: {_reason(causes, timeout_s)}")
    else:
        failure = LostError(call, 0, f"the API server did not answer: {_reason(causes, timeout_s)}")
    failure.__cause__ = error
    return failure


def _reason(causes: list[BaseException], timeout_s: float) -> str:
    if any(isinstance(cause, TimeoutError | httpx.TimeoutException) for cause in causes):
        return f"nothing came within {timeout_s:.1f} s"
    system = next((cause for cause in reversed(causes) if isinstance(cause, OSError) and cause.strerror), None)
    return (system.strerror if system and system.strerror else "") or str(causes[0]) or type(causes[0]).__name__


def _causes(error: BaseException) -> Iterator[BaseException]:
    yield error
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _causes(each)
    cause = error.__cause__ or error.__context__
    if cause is not None:
        yield from _causes(cause)

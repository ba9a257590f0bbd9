"""Who are Locust's users? Clients of the mesh that send through their own sidecar and know an overflow from other failures."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any, ClassVar

import gevent
from geventhttpclient._parser import HTTPParseError
from geventhttpclient.response import HTTPConnectionClosed
from locust import FastHttpUser
from locust.exception import CatchResponseError, StopUser

from loadgen.cause import TELLING, TELLING_BYTES
from loadgen.errors import UsageError
from loadgen.locust.book import clock
from loadgen.outcome import Outcome, Response, classify

if TYPE_CHECKING:
    from collections.abc import Mapping

    from geventhttpclient.header import Headers
    from locust import User
    from locust.contrib.fasthttp import ResponseContextManager
    from locust.env import Environment

    from loadgen.locust.node import Node

MAX_BODY_BYTES = 64 << 10
"""More of an answer is not read: nobody else decides how much memory a user takes."""
_ANY_STATUS = frozenset(range(100, 1000))
_TELLING = tuple(sorted(name.decode("ascii") for name in TELLING))
_UPSTREAM = "x-envoy-upstream-service-time"
_FAILURES = {outcome: CatchResponseError(outcome.value) for outcome in Outcome}
"""One for each outcome: Locust shows each text as a row of its own."""


def check_plugged_in(user: User) -> None:
    """Check that the plugin has told a user's class where its mesh is.

    Raises UsageError if it was not imported.
    """
    if not hasattr(user, "node"):
        raise UsageError("there is no mesh for this user", hint="the locustfile needs the line: import loadgen.locust.plugin")


class _NotYours:
    """What stands where Locust's own client is: it would go round the sidecar, and nobody would count it."""

    def __getattr__(self, name: str) -> Any:
        raise UsageError(f"self.client.{name} goes round the sidecar", hint="call self.request, self.get or self.post")


class SidecarUser(FastHttpUser):
    """A user whose requests go through the sidecar of the client that it belongs to. ``request`` sends one; ``get`` and ``post`` are short for it.

    The law: where a request goes is decided by the test's owner only. Locust's POST /user sets any attribute of the class, so
    what would take a request elsewhere is not read from there: a proxy, a pool of connections, a factory of TLS contexts, a certificate for
    anybody. ``network_timeout`` is how long a request may take, whatever comes of it meanwhile: a drop now and then would last for days.
    """

    abstract = True
    host = "http://user.base.svc.cluster.local:7000"
    network_timeout = 5.0
    connection_timeout = 5.0
    node: ClassVar[Node]

    def __init__(self, environment: Environment) -> None:
        self.proxy_host = self.proxy_port = self.client_pool = self.ssl_context_factory = None
        self.insecure = False
        super().__init__(environment)
        check_plugged_in(self)
        self._wire = self.client
        self._wire.client.valid_response_codes = _ANY_STATUS  # type: ignore[misc]  # or it reads the whole body of an error, and raises
        self.client = _NotYours()  # type: ignore[assignment]  # nobody is to use it
        self._at = self.node.client()
        self._headers = {
            "Host": self.node.authority,
            "x-loadgen-client": self._at.book.name if self._at else "",
            "Accept-Encoding": "identity",
        }

    def get(self, path: str = "/", **how: Any) -> Outcome:
        """Send a GET; see ``request``."""
        return self.request("GET", path, **how)

    def post(self, path: str = "/", **how: Any) -> Outcome:
        """Send a POST; see ``request``."""
        return self.request("POST", path, **how)

    def request(
        self,
        method: str,
        path: str = "/",
        *,
        name: str | None = None,
        headers: Mapping[str, str] | None = None,
        data: str | None = None,
        json: object = None,
    ) -> Outcome:
        """Send a request and say what became of it; ``name`` is that of its entry in the statistics, where an overflow has one of its own.

        The headers that lead it to the service are ours. Raises StopUser if the test is over, or was refused; UsageError if the path does not
        begin with a slash: what stands there would be read as a part of the host.
        """
        if not path.startswith("/"):
            raise UsageError(f"the path {path[:100]!r} does not begin with /")
        if (at := self._at) is None:
            raise StopUser
        url, given = at.origin + path, {**headers, **self._headers} if headers else self._headers
        with at.book.request() as ended:
            began = clock()
            with gevent.Timeout(self.network_timeout, TimeoutError("the answer took too long")):
                answer = self._wire.request(
                    method,
                    url,
                    name=name or path,
                    headers=given,
                    data=data,
                    json=json,
                    catch_response=True,
                    stream=True,
                    allow_redirects=False,
                )
                outcome, response = self._judge(answer)
            latency_s = clock() - began
            with answer:
                ended(outcome, latency_s, response)
                self._enter(answer, outcome, response, latency_s)
        return outcome

    def _judge(self, answer: ResponseContextManager) -> tuple[Outcome, Response | None]:
        error: BaseException | None = answer.request_meta["exception"]
        if answer.headers is None or not answer.status_code:
            return _broken(error), None
        try:
            body = _read(answer)
        except Exception as broken:  # noqa: BLE001  # whatever it is, the answer did not come whole
            return _broken(broken), None
        headers, whole = _telling(answer.headers), len(body) <= MAX_BODY_BYTES
        response = Response(answer.status_code, body[:MAX_BODY_BYTES], _UPSTREAM in answer.headers, headers, whole=whole)
        return classify(response, self.node.expected), response

    def _enter(self, answer: ResponseContextManager, outcome: Outcome, response: Response | None, latency_s: float) -> None:
        """Enter the end of a request into Locust's statistics."""
        meta: dict[str, Any] = answer.request_meta
        meta["response_time"] = latency_s * 1000
        meta["response_length"] = len(response.body) if response is not None else 0
        if outcome is Outcome.OVERFLOW:
            meta["name"] += " (overflow)"
        if outcome is Outcome.OK or (outcome is Outcome.OVERFLOW and not self.node.failed(self.node.ruled)):
            answer.success()
        else:
            answer.failure(_FAILURES[outcome])


def _telling(headers: Headers) -> tuple[tuple[bytes, bytes], ...]:
    """Give the header lines that tell why a request failed, as far as they are kept."""
    found = [(name, headers[name]) for name in _TELLING if name in headers]
    return tuple((name.encode("ascii"), str(value)[:TELLING_BYTES].encode("latin-1", "replace")) for name, value in found)


def _read(answer: ResponseContextManager) -> bytes:
    """Read an answer's body, or as much of it as is kept, and give the connection back, or close it."""
    stream = answer._response  # noqa: SLF001  # the library has no other way to read a part
    assert stream is not None, "an answer with a status has one"
    body = bytearray()
    try:
        while len(body) <= MAX_BODY_BYTES and (chunk := stream.read(MAX_BODY_BYTES + 1 - len(body))):
            body += chunk
    finally:
        stream.release()
    return bytes(body)


def _broken(error: BaseException | None) -> Outcome:
    """Say why there is no answer."""
    if isinstance(error, (TimeoutError, gevent.Timeout)):
        return Outcome.TIMEOUT
    if isinstance(error, (HTTPConnectionClosed, ConnectionResetError, BrokenPipeError)):
        return Outcome.RESET
    if isinstance(error, (ConnectionRefusedError, ssl.SSLError, OSError)):
        return Outcome.CONNECT
    return Outcome.PROTOCOL if isinstance(error, HTTPParseError) else Outcome.RESET

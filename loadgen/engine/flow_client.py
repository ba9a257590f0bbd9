"""What does a flow get into its hands? An httpx client whose requests are counted, and whose hosts are checked."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol

import httpx

from loadgen.engine.load import clock
from loadgen.engine.transport import HEADER_NAMES

if TYPE_CHECKING:
    from loadgen.engine.http2 import Http2Transport
    from loadgen.engine.transport import WireTransport
    from loadgen.outcome import Outcome

KNOWN_URLS = 256
_DEFAULT = httpx.USE_CLIENT_DEFAULT


class Owner(Protocol):
    """Who counts requests. ``due`` is on ``clock``."""

    def check_host(self, url: httpx.URL) -> None:
        """Raise UsageError if nothing may be sent there."""

    def answered(self, due: float, response: httpx.Response) -> Outcome:
        """A complete response came."""

    def failed(self, due: float, error: Exception) -> Outcome:
        """No complete response will come."""

    def given_up(self, due: float) -> Outcome:
        """The flow itself waits no longer."""


class Counted(httpx.AsyncBaseTransport):
    """A transport that tells the load how every request on it ended. ``due``: when the next one was, if not when it is sent."""

    def __init__(self, transport: WireTransport | Http2Transport, owner: Owner) -> None:
        self.due: float | None = None
        self.sent = 0
        self.last_outcome: Outcome | None = None
        self._transport = transport
        self._owner = owner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and count how it ended."""
        self._owner.check_host(request.url)
        self.sent += 1
        sent_at = clock()
        due = sent_at if self.due is None else self.due
        self.due = None
        try:
            response = await self._transport.handle_async_request(request)
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError):
            self.sent -= 1  # a mistake in the flow: nothing has left
            raise
        except asyncio.CancelledError:
            self.last_outcome = self._owner.given_up(due)
            raise
        except Exception as error:
            self.last_outcome = self._owner.failed(due, error)
            raise
        self.last_outcome = self._owner.answered(due, response)
        return response

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()


class FlowClient(httpx.AsyncClient):
    """httpx's client at half its price: it reads a URL once only, looks for cookies where there are some, and takes the short way.

    The long way of httpx's own is taken whenever something is to happen on it.
    """

    def __init__(self, transport: Counted, **options: Any) -> None:
        super().__init__(transport=transport, **options)
        self._counted = transport
        self._urls: dict[str, httpx.URL] = {}
        self._urls_of = self.base_url

    async def send(
        self, request: httpx.Request, *, stream: bool = False, auth: Any = _DEFAULT, follow_redirects: Any = _DEFAULT
    ) -> httpx.Response:
        """Send a request as httpx does."""
        hooks = self.event_hooks
        chosen = auth is not _DEFAULT or follow_redirects is not _DEFAULT or request.url.userinfo
        if chosen or self.auth or self.follow_redirects or hooks["request"] or hooks["response"] or self.is_closed:
            return await super().send(request, stream=stream, auth=auth, follow_redirects=follow_redirects)
        try:
            response = await self._counted.handle_async_request(request)
        except httpx.RequestError as error:
            error.request = request
            raise
        response.request = request
        if b"set-cookie" in response.extensions[HEADER_NAMES]:
            self.cookies.extract_cookies(response)
        if response.has_redirect_location:
            response.next_request = self._build_redirect_request(request, response)
        return response

    def build_request(self, method: str, url: httpx.URL | str, **options: Any) -> httpx.Request:
        """Build a request as httpx does."""
        if isinstance(url, httpx.URL) or options.get("params") is not None or self.params:
            return super().build_request(method, url, **options)
        if self._urls_of is not self.base_url or len(self._urls) >= KNOWN_URLS:
            self._urls.clear()
            self._urls_of = self.base_url
        request = super().build_request(method, self._urls.get(url, url), **options)
        self._urls[url] = request.url
        return request

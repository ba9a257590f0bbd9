"""How does a load get to the target with httpx? The carrier for HTTP/2, for TLS, and for flows that users write.

A flow is a coroutine function of one ``httpx.AsyncClient``. Each of its HTTP requests counts as one request: the latency of the first runs
from the moment the iteration was due, that of the others from the moment they were sent. Every user of the load has a client of its own,
with its own cookies and connections.

What a mistake in a flow does: the requests that were sent stay counted as they ended. An iteration that sent none counts as one unsent
request, and the next one waits a little, as after a refused connection. The failure itself is counted in ``Tally.flow_failures``.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import ssl
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import anyio
import httpx

from loadgen.cause import TELLING, cause_of
from loadgen.engine.flow import Failures, load_flow
from loadgen.engine.flow_client import Counted, FlowClient
from loadgen.engine.http2 import Http2Transport
from loadgen.engine.lanes import CONNECT_PAUSE_S, CONNECTING_AT_ONCE
from loadgen.engine.load import clock
from loadgen.engine.transport import HEADER_NAMES, WireTransport, connect_error, outcome_of
from loadgen.engine.wire import MAX_RESPONSE_BYTES
from loadgen.errors import UsageError
from loadgen.outcome import Expected, Origin, Outcome, Response, classify, origin

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from loadgen.cause import Found
    from loadgen.engine.load import ClientLoad

STOP_S = 1.0
"""How long ``on_stop`` may take."""


# What is sent.


@dataclass(frozen=True, slots=True)
class HttpShot:
    """What is sent where, what is expected back, and how long that may take; or the ``flow`` that says so, as ``module:function``.

    ``verify``: whether a server's certificate is checked, or the file with the authorities to check it with. A flow may talk to the host of
    ``url``, to which its relative URLs belong, and to ``hosts``. All of its answers are held against ``expected``. ``address`` is where the
    host of ``url`` is: a name that was checked must not mean another machine at the next connection. Empty, the name is looked up.
    """

    url: str
    method: str = "GET"
    headers: tuple[tuple[str, str], ...] = ()
    content: bytes = b""
    expected: Expected = field(default_factory=Expected)
    timeout_s: float = 10.0
    max_bytes: int = MAX_RESPONSE_BYTES
    http2: bool = False
    verify: bool | str = True
    flow: str = ""
    hosts: tuple[str, ...] = ()
    address: str = ""

    def __post_init__(self) -> None:
        try:
            url = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise UsageError(f"{self.url!r} is no URL: {error}") from error
        if url.scheme not in {"http", "https"} or not url.host:
            raise UsageError(f"{self.url!r} is no http:// or https:// URL")
        if self.http2 and importlib.util.find_spec("h2") is None:
            raise UsageError("HTTP/2 needs the package h2, which is not installed", hint="pip install 'httpx[http2]'")

    def check(self) -> None:
        """Find out whether it can be sent.

        Raises ValueError (UnicodeError is one) if httpx makes no request of it.
        """
        try:
            httpx.Request(self.method, self.url, headers=list(self.headers), content=self.content or None)
            for host in self.hosts:
                httpx.URL(host=host.strip("[]"))
        except httpx.InvalidURL as error:
            raise ValueError(str(error)) from error

    def tls(self) -> ssl.SSLContext:
        """Make the rules for TLS connections.

        Raises UsageError if the file with the authorities cannot be used.
        """
        if isinstance(self.verify, bool):
            context = httpx.create_ssl_context(verify=self.verify)
        else:
            try:
                context = ssl.create_default_context(cafile=self.verify)
            except OSError as error:
                raise UsageError(
                    f"the certificates in {self.verify!r} cannot be used: {error}", hint="name a file with certificates in PEM form"
                ) from error
        context.set_alpn_protocols(["http/1.1"])  # httpcore sets its own before it connects
        return context


class _User:
    """One user of the load: it waits for an iteration to be due, does it, and gives its place back."""

    __slots__ = ("busy", "carried_at", "client", "counted", "due", "ready", "scope", "transport", "work")

    def __init__(self, transport: WireTransport | Http2Transport, counted: Counted, client: httpx.AsyncClient | None) -> None:
        self.transport = transport
        self.counted = counted
        self.client = client
        self.work = asyncio.Event()
        self.scope = anyio.CancelScope()
        self.due = 0.0
        self.carried_at = 0.0
        self.busy = False
        self.ready = client is None

    def take(self, due: float, now: float) -> None:
        """Be busy with an iteration."""
        self.due = due
        self.carried_at = now
        self.busy = True
        self.work.set()


class HttpCarrier:
    """The carrier: a user for each request or iteration at the same time. What flows did wrong is in ``failures``."""

    def __init__(self, load: ClientLoad, shot: HttpShot, tasks: TaskGroup) -> None:
        self._load = load
        self._shot = shot
        self._tasks = tasks
        self._flow = load_flow(shot.flow) if shot.flow else None
        self.failures = Failures(self._flow.file if self._flow else "")
        self._url = httpx.URL(shot.url)
        self._request = httpx.Request(shot.method, shot.url, headers=list(shot.headers), content=shot.content or None)
        self._tls = shot.tls() if shot.flow or self._url.scheme == "https" else None
        self._hosts = {self._url.host, *(httpx.URL(host=host.strip("[]")).host for host in shot.hosts)}
        self._addresses = {self._url.raw_host.decode("ascii"): shot.address} if shot.address else {}
        self._users: set[_User] = set()
        self._idle: list[_User] = []
        self._dropped = False

    def __repr__(self) -> str:
        return f"<HttpCarrier {len(self._users)} idle={len(self._idle)}{' dropped' if self._dropped else ''}>"

    # What the load asks for.

    async def open(self, count: int) -> None:
        """Get so many users ready. HTTP/1.1 connections are opened; an HTTP/2 connection is opened by its first request."""
        limiter = anyio.CapacityLimiter(CONNECTING_AT_ONCE)
        with anyio.move_on_after(self._shot.timeout_s):
            async with anyio.create_task_group() as tasks:
                for _ in range(count - len(self._idle)):
                    tasks.start_soon(self._open_user, limiter)

    async def _open_user(self, limiter: anyio.CapacityLimiter) -> None:
        async with limiter:
            user = self._new_user()
            try:
                if isinstance(user.transport, WireTransport):
                    with contextlib.suppress(httpx.HTTPError):  # the request that needs it will tell
                        await user.transport.connect(self._url)
                await self._start(user)
            except Exception as error:  # noqa: BLE001  # a user's code may raise anything; it is tried again by the first iteration
                self._note(error)
            finally:
                self._idle.append(user)

    def carry(self, due: float, now: float) -> None:
        """Have an iteration done by the user that was free last, or by a new one."""
        user = self._idle.pop() if self._idle else self._new_user()
        user.take(due, now)

    def recount(self) -> None:
        """Nothing is remembered between requests."""

    def drop(self) -> None:
        """Drop all users, and what they are doing."""
        self._dropped = True
        self._idle.clear()
        for user in self._users:
            user.scope.cancel()

    def all_done_since(self, moment: float) -> bool:
        """Tell whether every iteration that was begun until a moment on ``clock`` has ended."""
        return not any(user.busy and user.carried_at <= moment for user in self._users)

    # Users.

    def _new_user(self) -> _User:
        make = Http2Transport if self._shot.http2 else WireTransport
        transport = make(timeout_s=self._shot.timeout_s, max_bytes=self._shot.max_bytes, tls=self._tls, addresses=self._addresses)
        counted = Counted(transport, self)
        user = _User(transport, counted, self._make_client(counted) if self._flow else None)
        self._users.add(user)
        self._tasks.start_soon(self._serve, user)
        return user

    def _make_client(self, transport: Counted) -> httpx.AsyncClient:
        headers = httpx.Headers({"accept-encoding": "identity"})  # to unpack is work that is not to be measured
        headers.update(list(self._shot.headers))
        return FlowClient(transport, base_url=self._shot.url, headers=headers, timeout=self._shot.timeout_s, trust_env=False)

    async def _serve(self, user: _User) -> None:
        """Do what becomes due for a user, until it is dropped."""
        try:
            with user.scope:
                while True:
                    await user.work.wait()
                    user.work.clear()
                    await self._iterate(user)
                    await asyncio.sleep(0)  # a flow that never waits must not keep the loop from everything else
        finally:
            self._users.discard(user)
            await self._end(user)

    async def _iterate(self, user: _User) -> None:
        counted = user.counted
        counted.sent = 0
        counted.last_outcome = None
        try:
            if not user.ready:
                await self._start(user)
            await self._shoot_or_flow(user)
        except asyncio.CancelledError as error:
            if _cancelled_from_outside():
                raise
            self._note(error)
        except (Exception, SystemExit) as error:  # noqa: BLE001  # a user's code may raise anything
            self._note(error)
        if self._dropped:
            return
        now = clock()
        if not counted.sent:
            self._load.ended(now, now, Outcome.UNSENT)
        user.busy = False
        self._idle.append(user)
        pause = not counted.sent or counted.last_outcome is Outcome.CONNECT
        self._load.follow(now, pause_s=CONNECT_PAUSE_S if pause else 0.0)

    async def _shoot_or_flow(self, user: _User) -> None:
        user.counted.due = user.due
        if self._flow is None or user.client is None:
            await user.counted.handle_async_request(self._request)
        else:
            await self._flow.run(user.client)
            if not user.counted.sent:
                self._load.tally.flow_failures["it sent no request"] += 1

    async def _start(self, user: _User) -> None:
        if self._flow is not None and self._flow.on_start is not None and user.client is not None:
            user.counted.due = None
            await self._flow.on_start(user.client)
        user.ready = True

    async def _end(self, user: _User) -> None:
        """Let the user's code say goodbye, and close its connections, whoever wants everything to end."""
        with anyio.move_on_after(STOP_S, shield=True):
            if self._flow is not None and self._flow.on_stop is not None and user.client is not None and user.ready:
                try:
                    await self._flow.on_stop(user.client)
                except Exception as error:  # noqa: BLE001  # a user's code may raise anything
                    self._note(error)
        with anyio.CancelScope(shield=True):
            await (user.counted if user.client is None else user.client).aclose()

    # What a transport reports.

    def check_host(self, url: httpx.URL) -> None:
        """Raise UsageError if a flow talks to a host that nobody allowed."""
        if url.host not in self._hosts:
            raise UsageError(
                f"a flow wants to send to {url.host!r}, which is not the target", hint="name it with --allow-host if it is yours"
            )

    def answered(self, due: float, response: httpx.Response) -> Outcome:
        """Count a complete response."""
        names = response.extensions[HEADER_NAMES]
        headers = () if TELLING.isdisjoint(names) else tuple(response.headers.raw)
        answer = Response(response.status_code, response.content, b"x-envoy-upstream-service-time" in names, headers)
        outcome = classify(answer, self._shot.expected)
        if not self._dropped:
            if outcome is Outcome.OVERFLOW and origin(answer) is Origin.SERVER:
                self._load.tally.server_overflow += 1
            self._load.ended(due, clock(), outcome, answer, _cause(outcome, answer, response))
        return outcome

    def given_up(self, due: float) -> Outcome:
        """Count a request that the flow itself did not wait for any longer."""
        if not self._dropped:
            self._load.ended(due, clock(), Outcome.TIMEOUT)
        return Outcome.TIMEOUT

    def failed(self, due: float, error: Exception) -> Outcome:
        """Count a request that got no complete response."""
        outcome = outcome_of(error)
        if not self._dropped:
            if outcome is Outcome.CONNECT:
                self._load.tally.connect_errors[connect_error(error)] += 1
            self._load.ended(due, clock(), outcome)
        return outcome

    def _note(self, error: BaseException) -> None:
        """Keep what is a mistake in the flow; what a transport or ``raise_for_status`` raises has been counted as an outcome."""
        mistake = error.split(_is_data)[1] if isinstance(error, BaseExceptionGroup) else error
        if mistake is not None and not _is_data(mistake):
            self._load.tally.flow_failures[self.failures.note(mistake)] += 1


def _cause(outcome: Outcome, answer: Response, response: httpx.Response) -> Found | None:
    """Give the cause of what is not ok: nothing else needs all header lines."""
    return (
        None
        if outcome is Outcome.OK
        else cause_of(outcome, answer if answer.headers else replace(answer, headers=tuple(response.headers.raw)))
    )


def _is_data(error: BaseException) -> bool:
    mistakes = (httpx.UnsupportedProtocol, httpx.LocalProtocolError, httpx.TooManyRedirects)
    return isinstance(error, httpx.HTTPError) and not isinstance(error, mistakes)


def _cancelled_from_outside() -> bool:
    """Tell whether it is the owner who wants this task to end, and not a flow that awaited something that it had cancelled itself."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

"""The way to pods without an API server between: straight to ports of this machine, with what can go wrong on the way."""

from __future__ import annotations

import ssl
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from loadgen.cluster.access import Access
from loadgen.cluster.failure import ApiError, LostError, NotFoundError, UnreachableError
from loadgen.cluster.paths import Call, pod_proxy
from loadgen.cluster.way import Way

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMESPACE = "test"
Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Asked:
    """What a pod was asked: the path, and the name of the call."""

    pod: str
    path: str
    call: str


@dataclass
class Direct:
    """An async context manager. ``addresses`` says where each pod is; it may change at any time.

    Answers are lost on the way back, as often as ``lose`` says for a path, or replaced by what ``say`` has for it; a pod in ``away`` cannot be
    reached, one in ``deleted`` does not exist any more. ``asked`` is everything that was asked, ``waiting`` how much of it has no answer yet.
    """

    addresses: dict[str, Address]
    asked: list[Asked] = field(default_factory=list)
    lose: Counter[str] = field(default_factory=Counter)
    say: dict[str, bytes] = field(default_factory=dict)
    away: set[str] = field(default_factory=set)
    deleted: set[str] = field(default_factory=set)
    waiting: int = 0
    most_waiting: int = 0
    _ways: dict[Address, Way] = field(default_factory=dict)
    _stack: AsyncExitStack = field(default_factory=AsyncExitStack)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def calls(self, path: str) -> list[str]:
        """Give the names of the calls of a path."""
        return [asked.call for asked in self.asked if asked.path == path]

    async def proxy(
        self,
        namespace: str,
        pod: str,
        port: int,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] = {},
        timeout_s: float,
    ) -> tuple[int, bytes]:
        """Ask a pod, and fail as the API server's client would."""
        method = "GET" if body is None else "POST"
        call = Call(method, pod_proxy(namespace, pod, port, path))
        self.asked.append(Asked(pod, path, headers.get("x-loadgen-call", "")))
        if pod in self.deleted:
            raise NotFoundError(call, 404, f'pods "{pod}" not found')
        if pod in self.away:
            raise UnreachableError(call, 0, "the API server cannot be reached: it was taken away")
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        try:
            way = await self._way(self.addresses[pod])
            answer = await way.exchange(Call(method, path), {}, headers, body or b"", timeout_s, for_pod=True)
        finally:
            self.waiting -= 1
        if isinstance(answer, ApiError):
            raise type(answer)(call, answer.status, answer.said) from answer
        if self.lose[path] > 0:
            self.lose[path] -= 1
            raise LostError(call, 0, "the API server did not answer: it was lost")
        return (200, self.say[path]) if path in self.say else (answer.status, answer.body)

    async def _way(self, address: Address) -> Way:
        if address not in self._ways:
            way = self._ways[address] = Way()
            self._stack.push_async_callback(way.close)
            await way.open(Access("http://{}:{}".format(*address), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), lambda: None))
        return self._ways[address]

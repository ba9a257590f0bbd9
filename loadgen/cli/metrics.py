"""``--metrics-port`` of ``loadgen run``: the page for Prometheus, from before the run until its last counts were read."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Self

import anyio
import click
from prometheus_client import CollectorRegistry

from loadgen.cli.signals import ending_signals
from loadgen.families import CONTENT_TYPE, PATH
from loadgen.runner.live import Live
from loadgen.runner.metrics import RunMetrics
from loadgen.serving.exchange import Reply, not_allowed, refusal
from loadgen.serving.server import Server, listen

if TYPE_CHECKING:
    import signal
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence

    from loadgen.cli.signals import HeldBack
    from loadgen.serving.exchange import Request

_READ = frozenset({"GET", "HEAD"})
SEND_S = 2.0


class MetricsPort:
    """A port that is listened at as long as the context lasts, so that a run is refused before it begins if it cannot be had."""

    def __init__(self, bind: str, port: int, linger_s: float) -> None:
        self._listening = listen(bind, port, hint="--metrics-port names another; 0 takes any")
        self._linger_s = linger_s
        self._scrapes = 0
        self._last = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.close()

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = self._listening.getsockname()[:2]
        return f"http://{f'[{host}]' if ':' in host else host}:{port}{PATH}"

    @contextlib.asynccontextmanager
    async def serving(self, phases: Sequence[str]) -> AsyncIterator[Live]:
        """Serve the metrics of a run through ``phases``, which notes in what this gives how it goes on."""
        live = Live(phases)
        page = RunMetrics(CollectorRegistry(), live).page
        async with anyio.create_task_group() as tasks:
            server = Server(partial(self._answer, page.read), tasks, _Stderr())
            await server.open(self._listening.dup())
            try:
                yield live
                self._last = await page.read(fresh_s=0.0)
            finally:
                server.close()
                tasks.cancel_scope.cancel()

    async def _answer(self, read: Callable[[], Awaitable[bytes]], request: Request) -> Reply:
        if request.path != PATH:
            return refusal(404, f"there is no such page; there is {PATH}")
        if request.method not in _READ:
            return not_allowed("GET, HEAD")
        self._scrapes += request.method == "GET"
        return Reply(200, await read(), CONTENT_TYPE)

    def linger(self, held: HeldBack, *, quiet: bool) -> None:
        """Keep the last page until it was read once, if anybody has read one before; a signal ends the wait, and nothing else.

        So does one that was ``held`` back before, and those that come later are.
        """
        if not (self._scrapes and self._last and self._linger_s):
            return
        anyio.run(partial(self._linger, held, quiet=quiet), backend_options={"use_uvloop": True})

    async def _linger(self, held: HeldBack, *, quiet: bool) -> None:
        with anyio.open_signal_receiver(*ending_signals()) as received:
            if not held.came:
                await self._wait_for_scrape(received, quiet=quiet)
        held.hold()

    async def _wait_for_scrape(self, signals: AsyncIterable[signal.Signals], *, quiet: bool) -> None:
        over, before = anyio.Event(), self._scrapes

        async def read() -> bytes:
            return self._last

        async def answer(request: Request) -> Reply:
            reply = await self._answer(read, request)
            if self._scrapes > before:
                over.set()
            return reply

        async def attend() -> None:
            async for _ in signals:
                over.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(attend)
            server = Server(answer, tasks, _Stderr())
            await server.open(self._listening.dup())
            if not quiet:  # only now: a signal that comes before somebody listens is not heard
                click.echo(f"the metrics stay until they are scraped once more, at most {self._linger_s:g} s; ^C ends that", err=True)
            with anyio.move_on_after(self._linger_s):
                await over.wait()
            with anyio.move_on_after(SEND_S):
                await server.wait_sent()
            server.close()
            tasks.cancel_scope.cancel()


class _Stderr:
    """Says what went wrong with the page: a run does not end for that."""

    def say(self, line: str, *, kind: str) -> None:
        """Write a line."""
        del kind
        with contextlib.suppress(OSError):
            click.echo(f"loadgen: {line}", err=True)

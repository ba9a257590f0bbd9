"""How is one question put to an API server until there is an answer that is final?

The law: every try has a time-out, every question a deadline. What surely did not happen is tried again after a pause that grows; the first
401 logs in again, and a login that fails is a failure of the question, no other kind of error. The server is told to give a request up when
we do, so that nothing happens long after it was given up here.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from loadgen.cluster.failure import Advice, ApiError, LostError, UnusableError, failure_of, is_status
from loadgen.cluster.marks import FIELD_MANAGER
from loadgen.cluster.paths import Call, pod_proxy
from loadgen.cluster.way import Answer, Way
from loadgen.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from loadgen.cluster.access import Access, Source

LOGIN_S = 30.0
FIRST_ERROR = 400
PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0


class Server:
    """One API server, and our way to it. Call ``log_in`` first, ``close`` in the end."""

    def __init__(self, source: Source, try_s: float) -> None:
        self.clock = Clock()
        self._source = source
        self._try_s = try_s
        self._way = Way()
        self._login = anyio.Lock()

    @property
    def url(self) -> str:
        """Where it is."""
        return self._way.access.server

    async def log_in(self, *, instead_of: Access | None = None) -> None:
        """Make the way to the server, or make it anew if it still is the one that was refused."""
        async with self._login:
            if instead_of is not None and instead_of is not self._way.access:
                return
            thread: list[int] = []

            def ask_source() -> Access:
                thread.append(threading.get_native_id())
                return self._source()

            try:
                with anyio.fail_after(LOGIN_S):
                    access = await anyio.to_thread.run_sync(ask_source, abandon_on_cancel=True)
            except TimeoutError as error:
                _end_what_was_started_by(thread)
                message = f"logging in to the cluster took more than {LOGIN_S:.0f} s"
                raise RefusedError(
                    message, hint="does the kubeconfig's plugin wait for something? see what kubectl version does"
                ) from error
            await self._way.open(access)

    async def close(self) -> None:
        """Close all connections."""
        await self._way.close()

    async def ask(self, call: Call, query: Mapping[str, str], headers: Mapping[str, str], content: bytes, until: float) -> Answer:
        """Ask until there is an answer that is final, but not past ``until`` (on anyio's clock).

        Raises LostError for a write that may have happened; it is not tried again here.
        """
        tries = Tries()
        reloaded = False
        while True:
            tries.count += 1
            access = self._way.access
            answer = await self._try(call, query, headers, content, until)
            if isinstance(answer, Answer):
                return answer
            if answer.advice is Advice.RELOAD and not reloaded:
                failure = await self._log_in_again(answer, access, until)
                if failure is None:
                    reloaded = True
                elif call.is_write:
                    raise tries.final(failure)
                else:
                    await tries.rest(failure, until)
            elif answer.advice is Advice.RETRY or (answer.advice is Advice.LOOK and not call.is_write):
                await tries.rest(answer, until)
            else:
                raise tries.final(answer)

    async def _log_in_again(self, refused: ApiError, access: Access, until: float) -> ApiError | None:
        """Log in anew after a 401, but not past ``until``; give how that failed. It may go better soon."""
        try:
            with anyio.fail_after(max(until - anyio.current_time(), 0.0)):
                await self.log_in(instead_of=access)
        except (RefusedError, TimeoutError) as error:
            said, hint = (error.message, error.hint) if isinstance(error, RefusedError) else ("it took too long", "")
            message = f"{refused.said}, and logging in again failed: {said}"
            failure = LostError(refused.call, refused.status, message, hint=hint or refused.hint, retry_after_s=LONGEST_PAUSE_S)
            failure.__cause__ = error
            return failure
        return None

    async def _try(
        self, call: Call, query: Mapping[str, str], headers: Mapping[str, str], content: bytes, until: float
    ) -> Answer | ApiError:
        try_s = min(self._try_s, max(until - anyio.current_time(), 0.01))
        asked = {**query, "timeout": f"{try_s * 1000:.0f}ms"}
        if call.is_write and call.method != "DELETE":
            asked["fieldManager"] = FIELD_MANAGER
        answer = await self._way.exchange(call, asked, headers, content, try_s)
        if isinstance(answer, ApiError):
            return answer
        self.clock.hear(answer.headers.get("date", ""))
        failure = failure_of(call, answer.status, answer.headers, answer.body)
        if failure is None and not answer.is_json:
            failure = (LostError if call.is_write else UnusableError)(call, answer.status, "what came with it is no JSON")
        return failure or answer

    async def ask_pod(
        self, namespace: str, pod: str, port: int, path: str, headers: Mapping[str, str], body: bytes | None, timeout_s: float
    ) -> tuple[int, bytes]:
        """GET a path of a pod through the API server, or POST a body there; give status and body. It is asked once.

        Raises an ApiError if nothing came, or if it is the API server that refuses.
        """
        call = Call("GET" if body is None else "POST", pod_proxy(namespace, pod, port, path))
        for reloaded in (False, True):
            access = self._way.access
            answer = await self._way.exchange(call, {}, headers, body or b"", timeout_s, for_pod=True)
            if isinstance(answer, ApiError):
                raise answer
            failure = (
                None
                if answer.status < FIRST_ERROR or not is_status(answer.body)
                else failure_of(call, answer.status, answer.headers, answer.body)
            )
            if failure is None:
                return answer.status, answer.body
            if reloaded or failure.advice is not Advice.RELOAD:
                raise failure
            refused = await self._log_in_again(failure, access, anyio.current_time() + LOGIN_S)
            if refused:
                raise refused
        raise AssertionError("the second round ends the loop")


def _end_what_was_started_by(threads: Iterable[int]) -> None:
    """End the plugin that a login waits for; only Linux tells which one that is. Whoever leaves Python waits for the thread, and so for it."""
    for thread in threads:
        with contextlib.suppress(OSError):
            for pid in Path(f"/proc/self/task/{thread}/children").read_text(encoding="ascii").split():
                os.kill(int(pid), signal.SIGTERM)


@dataclass(slots=True)
class Tries:
    """How often one thing was tried, and how long to wait before the next time."""

    began: float = field(default_factory=anyio.current_time)
    count: int = 0

    async def rest(self, failure: ApiError, until: float) -> None:
        """Wait before the next try.

        Raises the failure if the next try would come too late.
        """
        pause_s = min(PAUSE_S * 2.0 ** (self.count - 1), LONGEST_PAUSE_S) * random.uniform(0.5, 1.0)
        pause_s = max(pause_s, failure.retry_after_s)
        if anyio.current_time() + pause_s >= until:
            raise self.final(failure)
        await anyio.sleep(pause_s)

    def final(self, failure: ApiError) -> ApiError:
        """Give the failure with what was tried."""
        return failure.after(self.count, anyio.current_time() - self.began)


@dataclass(slots=True)
class Clock:
    """What the server's clock showed last, and when that was on ours, which only goes forward."""

    moment: datetime | None = None
    heard_at: float = 0.0

    def hear(self, date: str) -> None:
        """Take in a Date header."""
        try:
            moment = parsedate_to_datetime(date)
        except ValueError:
            return
        self.moment, self.heard_at = moment + timedelta(seconds=0.5), anyio.current_time()  # it comes cut to whole seconds

    def now(self) -> datetime:
        """Say what it shows now; our own time until it was heard."""
        if self.moment is None:
            return datetime.now(UTC)
        return self.moment + timedelta(seconds=anyio.current_time() - self.heard_at)

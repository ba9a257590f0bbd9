"""What have the users of one client seen? Their tally, who is waiting for an answer, and the gate at which they can be held.

Greenlets take turns only where they wait, so whatever is asked of a book is answered at one moment, between two requests.
"""

from __future__ import annotations

import os
import resource
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gevent.event import Event
from locust.exception import StopUser

from loadgen.cause import cause_of
from loadgen.outcome import Origin, Outcome, origin
from loadgen.recorder import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from loadgen.outcome import Response

clock = time.perf_counter


class Book:
    """One client's book."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.stopped = False
        self._tally = Tally()
        self._gate = Event()
        self._gate.set()
        self._flying: dict[int, float] = {}
        """When each request was sent that has not ended."""
        self._next = 0
        self._earlier = 0
        self._earlier_overflow = 0

    def __repr__(self) -> str:
        return f"<Book {self.name} sent={self.sent} in_flight={len(self._flying)}>"

    # For the users.

    @contextmanager
    def request(self) -> Iterator[Callable[[Outcome, float, Response | None], None]]:
        """Wait at the gate, and send within; what is given takes how it ended. A user that is killed meanwhile takes its request along.

        Raises StopUser when the test is over.
        """
        self._gate.wait()
        if self.stopped:
            raise StopUser
        number = self._next = self._next + 1
        self._flying[number] = clock()
        try:
            yield self._ended
        finally:
            del self._flying[number]

    def _ended(self, outcome: Outcome, latency_s: float, response: Response | None) -> None:
        tally = self._tally
        cause = None if response is None else cause_of(outcome, response)
        tally.record(outcome, latency_s, response.status if response else 0, cause)
        if outcome is Outcome.OVERFLOW and response is not None and origin(response) is Origin.SERVER:
            tally.server_overflow += 1

    # What the desk asks.

    def obey(self, verb: str, **arguments: Any) -> Any:
        """Do what the desk wants, by name."""
        return _VERBS[verb](self, **arguments)

    def hold(self) -> None:
        """Keep back what is to be sent."""
        self._gate.clear()

    def release(self) -> None:
        """Let it go."""
        self._gate.set()

    def stop(self) -> None:
        """Send nothing more: a user that wants to ends."""
        self.stopped = True
        self._gate.set()

    def begin_tally(self, if_overflow: int | None = None) -> dict[str, Any] | None:
        """Count in a new tally from now on, and give the one that ended; with ``if_overflow``, only if so many overflows were seen."""
        if if_overflow is not None and if_overflow != self.sidecar_overflow:
            return None
        ended, self._tally = self._tally, Tally(self._tally.number + 1)
        self._earlier += ended.requests
        self._earlier_overflow += ended.sidecar_overflow
        return ended.snapshot()

    def look(self) -> dict[str, Any]:
        """Say what was seen until now, and how much CPU time this process took."""
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "outcomes": self._tally.outcomes,
            "sidecar_overflow": self.sidecar_overflow,
            "sent": self.sent,
            "in_flight": len(self._flying),
            "process": os.getpid(),
            "cpu_s": usage.ru_utime + usage.ru_stime,
        }

    def snapshot(self) -> dict[str, Any]:
        """Give the present tally."""
        return self._tally.snapshot()

    def all_done_since(self, age_s: float) -> bool:
        """Tell whether everything has ended that was sent before so many seconds."""
        return not self._flying or min(self._flying.values()) > clock() - age_s

    @property
    def sent(self) -> int:
        """How many requests were sent since the beginning."""
        return self._earlier + self._tally.requests + len(self._flying)

    @property
    def sidecar_overflow(self) -> int:
        """The overflows by the own sidecar since the beginning."""
        return self._earlier_overflow + self._tally.sidecar_overflow


_VERBS: dict[str, Callable[..., Any]] = {
    verb: getattr(Book, verb) for verb in ("hold", "release", "stop", "begin_tally", "look", "snapshot", "all_done_since")
}

"""How late does the event loop come to what is due? Whatever holds it up holds up every answer, so the lag belongs to the measurement.

The law: each moment of a delay counts, not only its end (coordinated omission), and the time without one counts, too.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from loadgen.recorder import Histogram

BEAT_S = 0.05
SLOT_S = 0.01
"""The lag is a sample for so long each."""
MISSED_AT_MOST = 10_000


class Beat:
    """Calls ``each`` every ``BEAT_S`` seconds with how late that is, in seconds; the first time at once."""

    def __init__(self, each: Callable[[float], None]) -> None:
        self.due = 0.0
        """When the next one is, on ``time.perf_counter``."""
        self._each = each
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin; it goes on until ``cancel``."""
        self.due = time.perf_counter()
        self._beat()

    def cancel(self) -> None:
        """Call nobody any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _beat(self) -> None:
        now = time.perf_counter()
        self._each(now - self.due)
        self.due = now + BEAT_S
        self._timer = self._loop.call_later(BEAT_S, self._beat)


def record(lag: Histogram, late_s: float) -> None:
    """Enter what a beat that came so late says of the time since the one before."""
    for missed in range(min(int(late_s / SLOT_S), MISSED_AT_MOST) + 1):
        lag.record(late_s - missed * SLOT_S)
    lag.record_zeros(round(BEAT_S / SLOT_S) - 1)

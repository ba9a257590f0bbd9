"""What may a pod's log hold? A line now and then, on one line, harmless to a terminal; and never so many that the log becomes the load.

The law: to log never waits. Whoever reads our output may be slow, or gone; a line that cannot be written at once is dropped, and counted.
"""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING

from loadgen.errors import printable

if TYPE_CHECKING:
    from collections.abc import Callable

EVERY_S = 1.0
"""At most one line of a kind in so long."""
MAX_BYTES = 1000
"""Longer lines are cut. What is shorter than 4,096 bytes (PIPE_BUF) goes into a pipe that is said to be writable without waiting."""
MAX_KINDS = 100
LAST_WORD_S = 0.5
"""How long the last line may wait for its reader."""


class Log:
    """The lines that go to a file descriptor. ``clock`` gives seconds."""

    def __init__(self, descriptor: int, clock: Callable[[], float]) -> None:
        self._descriptor = descriptor
        self._clock = clock
        self._said_at: dict[str, float] = {}
        self._dropped = 0

    def say(self, line: str, *, kind: str = "") -> bool:
        """Write a line. Of a ``kind`` at most one a second is written; one without a kind always. Tells whether it was."""
        now = self._clock()
        if kind:
            if now - self._said_at.get(kind, -EVERY_S) < EVERY_S:
                return False
            if len(self._said_at) >= MAX_KINDS:
                self._said_at.clear()
            self._said_at[kind] = now
        return self._write(line, wait_s=0.0)

    def say_last(self, line: str) -> None:
        """Write the last line, with a little patience."""
        self._write(line, wait_s=LAST_WORD_S)

    def _write(self, line: str, *, wait_s: float) -> bool:
        if self._dropped:
            line = f"{line} ({self._dropped:,} lines before this one could not be written)"
        data = printable(line[:MAX_BYTES]).encode("utf-8", "backslashreplace")[:MAX_BYTES]
        try:
            writable = select.poll()
            writable.register(self._descriptor, select.POLLOUT)
            if not any(event & select.POLLOUT for _, event in writable.poll(wait_s * 1000)):
                self._dropped += 1
                return False
            os.write(self._descriptor, data + b"\n")
        except OSError:  # nobody reads any more, or the disk is full
            self._dropped += 1
            return False
        self._dropped = 0
        return True

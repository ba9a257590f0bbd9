"""What do ^C, SIGTERM and a closed terminal do? The first asks to end in order, the second leaves at once."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import Callable

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SIGNAL_EXIT = 128


class Interruption:
    """Whether and by what the process was asked to end.

    ``on_first`` is called with a sentence when the first signal comes, ``on_second`` before the process leaves at once.
    """

    def __init__(self) -> None:
        self.exit_code = 0
        self.on_first: Callable[[str], None] = lambda _reason: None
        self.on_second: Callable[[], None] = lambda: None

    async def listen(self) -> None:
        """Wait for signals for as long as the task lives. Handlers are installed even where SIGINT came in ignored (``cmd &`` in a script)."""
        with anyio.open_signal_receiver(*SIGNALS) as received:
            async for number in received:
                if self.exit_code:
                    self.on_second()
                    os._exit(_SIGNAL_EXIT + number)
                self.exit_code = _SIGNAL_EXIT + number
                self.on_first(f"interrupted by {signal.Signals(number).name}")

"""How does a test end that may not be? It may still be about to run, and Locust stops none that has not begun: it would go on with it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import gevent
from locust.runners import STATE_INIT, STATE_STOPPED

if TYPE_CHECKING:
    from collections.abc import Callable

    from locust.runners import Runner

LOOK_S = 0.05
STARTED_S = 30.0
"""How long a test that is refused may take to begin all the same."""


def stop_refused(runner: Runner, is_last: Callable[[], bool]) -> None:
    """Wait until the test that is refused runs, and stop it; ``is_last`` tells whether no other one has begun meanwhile, which goes on."""
    until = time.monotonic() + STARTED_S
    while runner.state in {STATE_INIT, STATE_STOPPED} and is_last() and time.monotonic() < until:
        gevent.sleep(LOOK_S)
    if is_last():
        runner.stop()

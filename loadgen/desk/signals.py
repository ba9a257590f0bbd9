"""Whose business are signals to the processes beside Locust? Locust's: they see its end, by the socket that they share, and end after it."""

from __future__ import annotations

import signal


def leave_signals_to_locust() -> None:
    """Ignore what ends a program: who signals a whole group of processes means Locust, which still needs us then."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)

"""Whom does a ^C meet? Locust's main greenlet, which ends in order; and with ``--processes`` the master first, for it ends the test with its workers.

Python raises a ^C in whatever greenlet runs: one that hears the desk would be gone, and Locust would wait for it in vain. And a terminal gives it
to the workers, too, which would be gone before anybody could ask them what they have counted.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Any

import gevent
from locust.argument_parser import parse_locustfile_option
from locust.runners import WorkerRunner

if TYPE_CHECKING:
    from locust.env import Environment

PATIENCE_S = 60.0
"""How long a worker waits for the master to say that it is over."""
LOOK_S = 0.5


class Interrupts:
    """Takes ^C from now on. To be made in the main greenlet."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._main = gevent.getcurrent()
        self._parent = os.getppid()
        self._seen = 0
        parsed: Any = parse_locustfile_option()  # its types say that there are two, and there may be one
        self._by_itself = bool((parsed[0] if isinstance(parsed, tuple) else parsed).worker)
        """Whether it was asked to be a worker, on the command line or in a file: then ``--processes`` makes workers of somebody else's."""
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # otherwise somebody wants it another way
            gevent.signal_handler(signal.SIGINT, self._interrupt)

    def _interrupt(self) -> None:
        self._seen += 1
        if self._seen > 1 or not self._is_masters_child():
            gevent.kill(self._main, KeyboardInterrupt)
        else:
            gevent.spawn(self._wait_for_master)

    def _is_masters_child(self) -> bool:
        options = self._environment.parsed_options
        return isinstance(self._environment.runner, WorkerRunner) and bool(options and options.processes) and not self._by_itself

    def _wait_for_master(self) -> None:
        """End when the master has not said so and is gone, or silent."""
        for _ in range(int(PATIENCE_S / LOOK_S)):
            gevent.sleep(LOOK_S)
            if os.getppid() != self._parent:
                break
        gevent.kill(self._main, KeyboardInterrupt)

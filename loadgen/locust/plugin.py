"""What must a locustfile do to have all this? Import this module: it listens to Locust's events, in whatever role the process runs."""

from __future__ import annotations

import signal
from typing import Any

import gevent
from locust import events
from locust.runners import MasterRunner, WorkerRunner

from loadgen.locust import options, page
from loadgen.locust.control import Control
from loadgen.locust.node import Node
from loadgen.locust.users import SidecarUser
from loadgen.locust.wire import WireUser


@events.init_command_line_parser.add_listener
def _add_options(parser: Any, **_: object) -> None:
    options.add(parser)


@events.init.add_listener
def _init(environment: Any, web_ui: Any, **_: object) -> None:
    _let_main_be_interrupted()
    runner = environment.runner
    if not isinstance(runner, MasterRunner):
        SidecarUser.node = WireUser.node = Node(environment)
    if not isinstance(runner, WorkerRunner):
        environment.loadgen = Control(environment)
        if web_ui is not None:
            page.install(environment, web_ui, environment.loadgen)


def _let_main_be_interrupted() -> None:
    """See to it that a ^C meets Locust's main greenlet, which ends in order.

    Python raises it in whatever greenlet runs; one that hears the desk would be gone, and Locust would wait for it in vain.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # otherwise somebody wants it another way
        main = gevent.getcurrent()
        gevent.signal_handler(signal.SIGINT, lambda: gevent.kill(main, KeyboardInterrupt, block=False))

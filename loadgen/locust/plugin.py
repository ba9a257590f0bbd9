"""What must a locustfile do to have all this? Import this module: it listens to Locust's events, in whatever role the process runs."""

from __future__ import annotations

import logging
from typing import Any

from locust import events
from locust.runners import MasterRunner, WorkerRunner

from loadgen.errors import ExitCode
from loadgen.locust import options, page
from loadgen.locust.control import Control
from loadgen.locust.interrupts import Interrupts
from loadgen.locust.node import Node
from loadgen.locust.users import SidecarUser
from loadgen.locust.wire import WireUser

log = logging.getLogger("loadgen")


@events.init_command_line_parser.add_listener
def _add_options(parser: Any, **_: object) -> None:
    options.add(parser)


@events.quitting.add_listener
def _say_the_code(environment: Any, **_: object) -> None:
    """Say the exit code after everybody else: of the listeners to this event the first one comes last, and Locust's documentation writes a code here."""
    if (control := getattr(environment, "loadgen", None)) is not None:
        control.verdicts.say()


@events.init.add_listener
def _init(environment: Any, web_ui: Any, **_: object) -> None:
    try:
        _install(environment, web_ui)
    except Exception as error:  # Locust would log it, and go on without us: nobody would check whom it loads
        log.exception("loadgen could not be installed into Locust")
        raise SystemExit(ExitCode.BUG) from error


def _install(environment: Any, web_ui: Any) -> None:
    Interrupts(environment)
    runner = environment.runner
    if not isinstance(runner, MasterRunner):
        SidecarUser.node = WireUser.node = Node(environment)
    if not isinstance(runner, WorkerRunner):
        environment.loadgen = Control(environment)
        if web_ui is not None:
            page.install(environment, web_ui, environment.loadgen)

"""What must a locustfile do to have all this? Import this module: it listens to Locust's events, in whatever role the process runs."""

from __future__ import annotations

from typing import Any

from locust import events
from locust.runners import MasterRunner, WorkerRunner

from loadgen.locust import options, page
from loadgen.locust.control import Control
from loadgen.locust.interrupts import Interrupts
from loadgen.locust.node import Node
from loadgen.locust.users import SidecarUser
from loadgen.locust.wire import WireUser


@events.init_command_line_parser.add_listener
def _add_options(parser: Any, **_: object) -> None:
    options.add(parser)


@events.init.add_listener
def _init(environment: Any, web_ui: Any, **_: object) -> None:
    Interrupts(environment)
    runner = environment.runner
    if not isinstance(runner, MasterRunner):
        SidecarUser.node = WireUser.node = Node(environment)
    if not isinstance(runner, WorkerRunner):
        environment.loadgen = Control(environment)
        if web_ui is not None:
            page.install(environment, web_ui, environment.loadgen)

"""Who are Locust's users if the engine sends for them? A user is no more than one of the engine's, in a process of Locust's own beside it.

Locust's statistics are told once a second what the engine has counted: a request costs no greenlet and no event. What such a user cannot do
is anything but to send the same request, wait for the answer and think: no tasks, no events for single requests.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any, ClassVar

import gevent
from locust import User, task

from loadgen.locust.statistics import Statistics
from loadgen.recorder import Tally

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from locust.env import Environment

    from loadgen.locust.node import Node

CLOSE_S = 5.0
LOOK_S = 0.2
"""How long a user that is to stop may take to notice."""
log = logging.getLogger("loadgen")


class Engine:
    """The engine's process. ``answered`` takes what it says, as the desk does of users that live here."""

    def __init__(self, environment: Environment, answered: Callable[[dict[str, Any]], None], failed: Callable[[], bool]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "loadgen.desk.wire", str(theirs.fileno())],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # it ends with Locust, not before
            )
        self._socket = ours
        self._answered = answered
        self._statistics = Statistics(environment.stats, failed)
        self._ended: dict[int, str] = {}
        """By question: the client whose tally it ends."""
        self._listener = gevent.spawn(self._listen)
        environment.events.quit.add_listener(self._close)

    def make(self, clients: Sequence[dict[str, Any]], user: type[WireUser], said: dict[str, Any]) -> None:
        """Have a load without users for each client."""
        addresses = {client["name"]: {"host": client["host"], "port": client["port"]} for client in clients}
        about = {"path": user.path, "think": user.think, "timeout_s": user.timeout_s, "seed": os.getpid()}
        self._statistics.begin(user.name or user.path)
        self._send({"make": addresses, **about, **{each: said[each] for each in ("authority", "status", "body")}})

    def ask(self, number: int, client: str, verb: str, args: dict[str, Any]) -> None:
        """Pass a question on."""
        if verb == "begin_tally":
            self._ended[number] = client
        self._send({"ask": number, "client": client, "verb": verb, "args": args})

    def _send(self, message: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # whoever waits for an answer will miss it
            self._socket.sendall(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def _listen(self) -> None:
        with contextlib.suppress(OSError), self._socket.makefile("rb") as lines:
            for line in lines:
                message = json.loads(line)
                if "seen" in message:
                    self._statistics.notice(message["seen"], Tally.from_snapshot(message["tally"]))
                elif (client := self._ended.pop(message["answer"], None)) is not None and message["value"] is not None:
                    self._statistics.notice(client, Tally.from_snapshot(message["value"]))
                self._answered(message)
        log.error("the engine's process is gone: its users send nothing more")

    def _close(self, **_: object) -> None:
        self._listener.kill()
        self._socket.close()
        try:
            self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()


class WireUser(User):
    """A user of the engine: sends a GET of ``path``, waits for the answer, thinks, and sends again.

    ``think`` is as in a scenario: ``none``, ``30ms`` or ``exponential 30ms``. ``name`` is that of the entry in the statistics.
    """

    abstract = True
    host = "http://user.base.svc.cluster.local:7000"
    path: ClassVar[str] = "/"
    name: ClassVar[str] = ""
    think: ClassVar[str] = "none"
    timeout_s: ClassVar[float] = 5.0
    node: ClassVar[Node]

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._client = self.node.client().book.name

    def on_start(self) -> None:
        """Join the engine's users."""
        self.node.engine(self._client, "join")

    def on_stop(self) -> None:
        """Leave them; the request that is on its way ends."""
        self.node.engine(self._client, "leave")

    @task
    def be(self) -> None:
        """Let the engine send."""
        gevent.sleep(LOOK_S)

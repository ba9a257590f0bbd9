"""How does Locust reach its desk? Over a socket that both have, a line of JSON for each message. If Locust dies, the desk sees it and undoes."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import gevent
from gevent.event import AsyncResult
from gevent.queue import Queue

from loadgen.errors import ExitCode, LoadgenError, MeshError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

ASK_S = 20.0
WAITING_AT_MOST = 2000
"""So many messages may wait for a desk that is busy; after that what is only news is dropped."""
GONE = "the desk is gone: its process ended"
CLOSE_S = 40.0
"""How long the desk may take to put everything back when Locust ends."""


class AskError(LoadgenError):
    """The desk says that something cannot be done; ``problems`` are the mistakes in a rule."""

    def __init__(self, said: dict[str, Any]) -> None:
        super().__init__(said["message"], hint=said["hint"])
        self.problems: list[dict[str, Any]] = said["problems"]
        self.exit_code = ExitCode(said["exit_code"])


class Link:
    """The desk's process and what goes to and fro. ``heard`` takes what the desk says by itself; ``died`` hears that it is gone unasked."""

    def __init__(
        self, options: Mapping[str, object], heard: Callable[[dict[str, Any]], None], died: Callable[[], None] = lambda: None
    ) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "loadgen.desk", str(theirs.fileno()), json.dumps(dict(options))],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # a ^C at the terminal is for Locust, whose end the desk sees
            )
        self._socket = ours
        self._heard = heard
        self._died = died
        self._questions: dict[int, AsyncResult] = {}
        self._numbers = itertools.count(1)
        self._greeted = False
        """Whether it has ever answered: one that has not is not there to be missed."""
        self._waiting: Queue[bytes] = Queue()
        """Written by one greenlet alone: two would write into each other's messages when the socket is full."""
        self.death = ""
        """Why the desk is gone; empty while it is there."""
        self._listener = gevent.spawn(self._listen)
        self._writer = gevent.spawn(self._write)

    def send(self, message: dict[str, Any]) -> None:
        """Send a message; it is dropped if the desk is gone, and news are if it is far behind."""
        if not self.death and ("seen" not in message or self._waiting.qsize() < WAITING_AT_MOST):
            self._waiting.put(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def ask(self, do: str, *, timeout_s: float = ASK_S, **arguments: object) -> Any:
        """Have the desk do something, and wait for what comes of it; other greenlets go on.

        Raises AskError with what the desk says if it cannot be done, MeshError if the desk is gone or silent.
        """
        if self.death:
            raise MeshError(self.death)
        number, answer = next(self._numbers), AsyncResult()
        self._questions[number] = answer
        try:
            self.send({"do": do, "number": number, "args": arguments})
            return answer.get(timeout=timeout_s)
        except gevent.Timeout as error:
            raise MeshError(f"the desk did not answer within {timeout_s:.0f} s") from error
        finally:
            del self._questions[number]

    def close(self) -> None:
        """Let the desk put everything back and end; end it if it takes too long."""
        self.death = self.death or "Locust ends"
        self._writer.kill()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        self._reap()

    def _reap(self) -> None:
        """Wait for the process, which may still put something back; end it if that takes too long."""
        try:
            self._process.wait(CLOSE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _write(self) -> None:
        try:
            while True:
                self._socket.sendall(self._waiting.get())
        except OSError:
            self._bury(GONE)

    def _listen(self) -> None:
        with contextlib.suppress(OSError), self._socket.makefile("rb") as lines:
            for line in lines:
                self._take(json.loads(line))
        missed = self._greeted and self.death in {"", GONE}
        self._bury(GONE)
        if missed:
            self._reap()  # who is no more, but still has a number, looks alive to the next one
            self._died()

    def _take(self, message: dict[str, Any]) -> None:
        if message.get("event") == "refused":
            self._bury(f"{message['message']}; {message['hint']}" if message["hint"] else message["message"])
            return
        if "done" not in message:
            self._heard(message)
            return
        question = self._questions.get(message["done"])
        if question is None or question.ready():
            return
        self._greeted = True
        if (error := message.get("error")) is not None:
            question.set_exception(AskError(error))
        else:
            question.set(message["value"])

    def _bury(self, death: str) -> None:
        self.death = self.death or death
        for question in list(self._questions.values()):
            if not question.ready():
                question.set_exception(RefusedError(self.death))

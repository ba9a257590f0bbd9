"""How does Locust talk to a process of ours beside it? Over a socket that both have, a line of JSON for each message.

The law: one greenlet writes. Two would write into each other's messages when the socket is full.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import gevent
from gevent.queue import Queue

if TYPE_CHECKING:
    from collections.abc import Callable

REAP_S = 5.0
"""How long a process may take to end that has closed its end of the socket."""
log = logging.getLogger("loadgen")


class Child:
    """A process that runs a module of ours. ``heard`` takes each message of its; ``gone`` hears that it has ended, asked or not."""

    def __init__(self, module: str, *arguments: str, heard: Callable[[dict[str, Any]], None], gone: Callable[[], None]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(theirs.fileno()), *arguments],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,  # a ^C at the terminal is for Locust, whose end the process sees
            )
        self._socket = ours
        self._heard = heard
        self._gone = gone
        self._queue: Queue[bytes] = Queue()
        gevent.spawn(self._listen)
        self._writer = gevent.spawn(self._write)

    def __repr__(self) -> str:
        return f"<Child {self.pid} waiting={self.waiting}>"

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def waiting(self) -> int:
        """How many messages wait to be written."""
        waiting: int = self._queue.qsize()
        return waiting

    def send(self, message: dict[str, Any]) -> None:
        """Send a message, in the order of the calls, without waiting; it is lost if the process is gone."""
        self._queue.put(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    def close(self, patience_s: float) -> bool:
        """Let the process see the end of what it is told, and wait for its own; tell whether it has ended."""
        self._writer.kill()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience_s)
        return self._process.poll() is not None

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # whoever listens hears of it
            while True:
                self._socket.sendall(self._queue.get())

    def _take(self, message: dict[str, Any]) -> None:
        try:
            self._heard(message)
        except Exception:  # a bug; but nobody would hear anything any more
            log.exception("a message of %r was lost", self)

    def _listen(self) -> None:
        with contextlib.suppress(OSError), self._socket.makefile("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):  # it was killed in the middle of it
                    break
                self._take(json.loads(line))
        self._writer.kill()
        self._socket.close()
        try:
            self._process.wait(REAP_S)  # who is no more, but still has a number, looks alive to the next one
        except subprocess.TimeoutExpired:
            self.kill()
        self._gone()

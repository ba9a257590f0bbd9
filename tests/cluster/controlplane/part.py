"""How does one program of the control plane live? It can be killed and started again at any time, for tests of what happens then.

Nothing is ended gently: the state is thrown away anyway, and a lost server is a harder test than one that says goodbye.
"""

from __future__ import annotations

import contextlib
import random
import socket
import time
from typing import TYPE_CHECKING

from loadgen.errors import MeshError
from loadgen.mesh.children import Children
from tests.cluster.controlplane.patience import PATIENCE_S, POLL_S

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from loadgen.mesh.children import Child

_PORTS = range(20_000, 32_000)
"""Below those that Linux gives to connections (32768 and up), so that no connection takes one between our choice and its use."""


class Part:
    """One program, with its log ``<folder>/<name>-<n>.log`` for the n-th start. It dies with the thread that starts it."""

    def __init__(self, name: str, command: Sequence[str], folder: Path) -> None:
        self.name = name
        self._command = command
        self._folder = folder
        self._children = Children()
        self._child: Child | None = None
        self._starts = 0

    @property
    def pid(self) -> int:
        """The process id, to stop and continue it."""
        assert self._child is not None, f"{self.name} was not started"
        return self._child.process.pid

    def start(self, is_ready: Callable[[], bool], *, patience_s: float = PATIENCE_S) -> float:
        """Start it and wait until it is ready; give the seconds that it took.

        Raises MeshError if it dies or is not ready in time.
        """
        assert self._child is None, f"{self.name} runs already"
        self._starts += 1
        started = time.monotonic()
        self._child = self._children.start(self.name, self._command, self._folder / f"{self.name}-{self._starts}.log")
        while not is_ready():
            if (death := self._child.death()) is not None:
                raise death
            if time.monotonic() > started + patience_s:
                raise MeshError(f"{self.name} was not ready within {patience_s:.0f} s", hint=f"see {self._child.log}")
            time.sleep(POLL_S)
        return time.monotonic() - started

    def kill(self) -> None:
        """End it at once."""
        self._children.kill()
        self._children.stop()
        self._child = None


def free_ports(address: str, count: int) -> list[int]:
    """Give ports that nobody listens on. Somebody may still take one before its program does: then that does not start, and says so."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        while len(found) < count:
            number = random.choice(_PORTS)
            with contextlib.suppress(OSError):
                held.enter_context(socket.socket()).bind((address, number))
                found.append(number)
    return found

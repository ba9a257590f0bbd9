"""Which processes did we start, do they still live, and what did they say last?

Linux kills every child when this process dies, however it dies (``PR_SET_PDEATHSIG``): after ``kill -9`` nothing is left. Children have
a session of their own, so that a ^C at the terminal reaches only us and the mesh outlives it until the report is written.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from loadgen.errors import MeshError, RefusedError, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

_PR_SET_PDEATHSIG = 1
_INTERRUPT = {signal.SIGINT}
_TAIL_BYTES = 4096
_TAIL_LINES = 5
STOP_S = 1.0
"""How long the children may take together to end after SIGTERM before they are killed."""


def tail(log: Path) -> str:
    """Give the last lines of a log, harmless to a terminal."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(printable(line) for line in text.splitlines()[-_TAIL_LINES:])


@dataclass(frozen=True, slots=True)
class Child:
    """One process of ours, by the name that a person knows it by."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def death(self) -> MeshError | None:
        """Say that the child died, if it did."""
        code = self.process.poll()
        if code is None:
            return None
        how = f"was killed by {_signal_name(-code)}" if code < 0 else f"ended with exit code {code}"
        lines = tail(self.log)
        said = f"; the last lines of its log:\n{lines}" if lines else "; its log is empty"
        return MeshError(f"{self.name} (process {self.process.pid}) {how}{said}")


def _signal_name(number: int) -> str:
    """Give ``SIGKILL`` for 9; most real-time signals have no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _die_with(parent: int) -> Callable[[], None]:
    """Make the function that a child runs between fork and exec. libc is loaded here: nothing may be imported after the fork."""
    libc = ctypes.CDLL(None)

    def die_with_parent() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPT)

    return die_with_parent


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let a ^C wait: one that comes while CPython runs its hooks after a fork is printed as ignored, and lost."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPT)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Children:
    """All processes of one mesh. Use as a context manager: leaving it ends them all."""

    def __init__(self) -> None:
        self._children: list[Child] = []
        self._die_with_us = _die_with(os.getpid())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self, name: str, command: Sequence[str], log: Path, *, inherited: Sequence[int] = ()) -> Child:
        """Start a process whose output goes to ``log``; ``inherited`` are the file descriptors that it gets.

        Raises RefusedError if it cannot be started.
        """
        try:
            with log.open("wb") as output, _uninterrupted():
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    pass_fds=inherited,
                    start_new_session=True,
                    preexec_fn=self._die_with_us,  # noqa: PLW1509  # we start children while there is one thread, and it only makes a system call
                )
                child = Child(name, process, log)
                self._children.append(child)
        except OSError as error:
            raise RefusedError(
                f"{name} cannot be started: {error}",
                hint="check that the file exists and may be executed, and that there is memory and disk space",
            ) from error
        return child

    def dead(self) -> list[Child]:
        """Give the children that died."""
        return [child for child in self._children if child.process.poll() is not None]

    def deaths(self) -> list[MeshError]:
        """Say which children died, and how."""
        return [death for child in self.dead() if (death := child.death()) is not None]

    def stop(self) -> None:
        """End all children: SIGTERM to all of them, and SIGKILL to those that do not listen."""
        children, self._children = self._children, []
        for child in children:
            child.process.terminate()
        deadline = time.monotonic() + STOP_S
        for child in children:
            try:
                child.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()

    def kill(self) -> None:
        """End all children at once."""
        for child in self._children:
            child.process.kill()

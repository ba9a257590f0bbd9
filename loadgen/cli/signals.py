"""What do ^C, SIGTERM and a closed terminal do? The first asks to end in order, the second leaves at once."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, TypeVar

import anyio

from loadgen.errors import LoadgenError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_SIGNAL_EXIT = 128


class Interruption:
    """Whether and by what the process was asked to end.

    ``on_first`` is called with a sentence when the first signal comes, ``on_second`` before the process leaves at once. ``say`` tells the user.
    """

    def __init__(self) -> None:
        self.exit_code = 0
        self.ending = "ending in order: the policy is removed and the report is written; once more leaves at once"
        self.say: Callable[[str], None] = lambda _text: None
        self.on_first: Callable[[str], None] = lambda _reason: None
        self.on_second: Callable[[], None] = lambda: None

    async def listen(self) -> None:
        """Wait for signals for as long as the task lives. Handlers are installed even where SIGINT came in ignored (``cmd &`` in a script)."""
        with anyio.open_signal_receiver(*ending_signals()) as received:
            async for number in received:
                if self.exit_code == _SIGNAL_EXIT + number == _SIGNAL_EXIT + signal.SIGHUP:
                    continue  # a closing terminal often says so twice
                if self.exit_code:
                    self.say("left at once; no report was written")
                    self.on_second()
                    os._exit(_SIGNAL_EXIT + number)
                self.exit_code = _SIGNAL_EXIT + number
                self.say(self.ending)
                self.on_first(f"interrupted by {signal.Signals(number).name}")


def ending_signals() -> tuple[signal.Signals, ...]:
    """Give the signals that ask to end: all but a SIGHUP that came in ignored, so that nohup stays nohup."""
    return tuple(number for number in _SIGNALS if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN)


class HeldBack:
    """The signals that ask to end, while what is left takes a moment: they end nothing, and ``came`` says whether there was one.

    They are not ignored, so that those that nohup ignores can still be told from them.
    """

    def __init__(self) -> None:
        self.came = False

    def hold(self) -> None:
        """Hold them back from now on. An event loop that has listened to them lets each do what it does by default."""
        for number in ending_signals():
            signal.signal(number, self._note)

    def _note(self, _number: int, _frame: object) -> None:
        self.came = True


async def attended(job: Callable[[Interruption], Awaitable[T]], held: HeldBack | None = None) -> tuple[T | None, int]:
    """Do a job while signals are listened to; the first one cancels it, unless the job has set ``on_first`` to something better.

    Gives the job's result (None if it was cancelled) and the exit code of the interruption (0 without one). Signals that come after the job are
    ``held`` back. An error of ours leaves the task group as itself.
    """
    interruption = Interruption()
    result: T | None = None
    failure: LoadgenError | None = None
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(interruption.listen)
        with anyio.CancelScope() as scope:
            interruption.on_first = lambda _reason: scope.cancel()
            try:
                result = await job(interruption)
            except LoadgenError as error:
                failure = error
            except BaseExceptionGroup as group:
                ours, others = group.split(LoadgenError)
                if ours is None or others is not None:
                    raise
                failure = _first(ours)
        tasks.cancel_scope.cancel()
    if held is not None:
        held.hold()
    if failure is not None:
        raise failure
    return result, interruption.exit_code


def _first(group: BaseExceptionGroup[LoadgenError]) -> LoadgenError:
    """Give the first error of a group of ours."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error

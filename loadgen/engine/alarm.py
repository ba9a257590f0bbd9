"""Who wakes the hammer at a moment, and not a millisecond later? A timer of the kernel's that the event loop waits for like for a socket.

uvloop's own timers tick in milliseconds. ``timerfd`` is as exact as the kernel's high-resolution timers are; Python has it from 3.13 on,
so it is called in libc (timerfd_create(2)). Its clock is the one behind ``time.perf_counter`` on Linux: CLOCK_MONOTONIC.

To set that timer, to sleep and to be woken costs some 50 µs on a virtual machine, so a moment as near as that is waited for awake: the
event loop turns until it has come, and does meanwhile whatever else there is to do.
"""

from __future__ import annotations

import asyncio
import ctypes
import math
import os
import time
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable

SPIN_S = 0.0001
"""A moment nearer than that is waited for awake: at constant rates from 10,000 per second on, all of them."""
CALIBRATION_TURNS = 100
EMPTY_TURN_S = 10e-6
"""A turn of the event loop that takes longer, even on a slow machine, was not empty."""
_NANOSECONDS = 1_000_000_000
_ABSOLUTE = 1
_EXPIRATIONS_BYTES = 8


class _Times(ctypes.Structure):
    """``struct itimerspec``: no interval, and the moment."""

    _fields_ = (("interval_s", ctypes.c_long), ("interval_ns", ctypes.c_long), ("s", ctypes.c_long), ("ns", ctypes.c_long))


class _Spinner:
    """Turns the event loop until the next of the near moments has come; one for all alarms of a loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.spun_s = 0.0
        self._empty_turn_s = 0.0
        """What a turn takes in which nothing happens; while that is unknown, nothing is counted."""
        self._calibrating = False
        self._loop = loop
        self._moments: dict[Alarm, float] = {}
        self._turning = False
        self._turned_at = 0.0

    def wait(self, alarm: Alarm, moment: float, now: float) -> None:
        """Let an alarm ring at a moment."""
        self._moments[alarm] = moment
        if not self._turning:
            self._turn_again(now)

    def forget(self, alarm: Alarm) -> None:
        """Do not let an alarm ring."""
        self._moments.pop(alarm, None)

    async def calibrate(self) -> None:
        """Find out what an empty turn takes: nothing that is measured later can be told from work."""
        if self._calibrating:
            return
        self._calibrating = True
        turns = []
        for _ in range(CALIBRATION_TURNS):
            before = time.perf_counter()
            await asyncio.sleep(0)
            turns.append(time.perf_counter() - before)
        self._empty_turn_s = min(EMPTY_TURN_S, *turns)

    def _turn_again(self, now: float) -> None:
        self._turning = True
        self._turned_at = now
        self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        now = time.perf_counter()
        took = now - self._turned_at
        if took < 2 * self._empty_turn_s:  # else something else was done in it
            self.spun_s += min(took, self._empty_turn_s)
        for alarm in [alarm for alarm, moment in self._moments.items() if moment <= now]:
            if self._moments.get(alarm, math.inf) > now:
                continue  # moved or cancelled by the one that rang before it
            del self._moments[alarm]
            try:
                alarm.ring()
            except Exception as error:  # noqa: BLE001  # a bug behind one alarm must not silence the others; the loop reports it
                self._loop.call_exception_handler({"message": "an alarm failed", "exception": error})
        self._turning = False
        if self._moments:
            self._turn_again(time.perf_counter())


_spinners: WeakKeyDictionary[asyncio.AbstractEventLoop, _Spinner] = WeakKeyDictionary()


def _spinner() -> _Spinner:
    loop = asyncio.get_running_loop()
    if loop not in _spinners:
        _spinners[loop] = _Spinner(loop)
    return _spinners[loop]


def spun_s() -> float:
    """Give how long the running loop has waited awake for near moments with nothing else to do, in seconds: at least so long."""
    return _spinner().spun_s


class Alarm:
    """Calls ``ring`` once at the moment last set; setting it again moves it. ``close`` it at the end, after which it never rings."""

    def __init__(self, ring: Callable[[], None]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.ring = ring
        self._settime = libc.timerfd_settime
        self._times = _Times()
        self._pointer = ctypes.byref(self._times)
        self._descriptor: int = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._rang)
        self._spinner = _spinner()
        self._armed = False

    async def calibrate(self) -> None:
        """Find out what it costs to wait awake, so that ``spun_s`` counts."""
        await self._spinner.calibrate()

    def set(self, moment: float) -> None:
        """Ring at this moment of ``time.perf_counter``, or soon if it is past."""
        if self._descriptor < 0:
            return
        now = time.perf_counter()
        if moment - now < SPIN_S:
            self._set_timer(0)
            self._spinner.wait(self, moment, now)
        else:
            self._spinner.forget(self)
            self._set_timer(int(moment * _NANOSECONDS))

    def cancel(self) -> None:
        """Do not ring."""
        self._spinner.forget(self)
        self._set_timer(0)

    def close(self) -> None:
        """Give the timer back."""
        self._spinner.forget(self)
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _set_timer(self, nanoseconds: int) -> None:
        """Set the kernel's timer to a moment of its clock; 0 disarms it."""
        if nanoseconds or self._armed:
            self._armed = nanoseconds > 0
            self._times.s, self._times.ns = divmod(nanoseconds, _NANOSECONDS)
            self._settime(self._descriptor, _ABSOLUTE, self._pointer, None)

    def _rang(self) -> None:
        try:
            os.read(self._descriptor, _EXPIRATIONS_BYTES)
        except BlockingIOError:
            return  # it was set anew after the loop had noticed it
        self._armed = False
        self.ring()

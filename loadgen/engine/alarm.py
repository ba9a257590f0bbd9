"""Who wakes the hammer at a moment, and not a millisecond later? A timer of the kernel's that the event loop waits for like for a socket.

uvloop's own timers tick in milliseconds. ``timerfd`` is as exact as the kernel's high-resolution timers are; Python has it from 3.13 on,
so it is called in libc (timerfd_create(2)). Its clock is the one behind ``time.perf_counter`` on Linux: CLOCK_MONOTONIC.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_NANOSECONDS = 1_000_000_000
_ABSOLUTE = 1
_EXPIRATIONS_BYTES = 8


class _Times(ctypes.Structure):
    """``struct itimerspec``: no interval, and the moment."""

    _fields_ = (("interval_s", ctypes.c_long), ("interval_ns", ctypes.c_long), ("s", ctypes.c_long), ("ns", ctypes.c_long))


class Alarm:
    """Calls ``ring`` once at the moment last set; setting it again moves it. ``close`` it at the end."""

    def __init__(self, ring: Callable[[], None]) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._ring = ring
        self._settime = libc.timerfd_settime
        self._times = _Times()
        self._pointer = ctypes.byref(self._times)
        self._descriptor: int = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._rang)

    def set(self, moment: float) -> None:
        """Ring at this moment of ``time.perf_counter``, or at once if it is past."""
        times = self._times
        nanoseconds = max(1, int(moment * _NANOSECONDS))  # 0 would disarm it
        times.s, times.ns = divmod(nanoseconds, _NANOSECONDS)
        self._settime(self._descriptor, _ABSOLUTE, self._pointer, None)

    def cancel(self) -> None:
        """Do not ring."""
        self._times.s = self._times.ns = 0
        self._settime(self._descriptor, _ABSOLUTE, self._pointer, None)

    def close(self) -> None:
        """Give the timer back."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _rang(self) -> None:
        try:
            os.read(self._descriptor, _EXPIRATIONS_BYTES)
        except BlockingIOError:
            return  # it was set anew after the loop had noticed it
        self._ring()

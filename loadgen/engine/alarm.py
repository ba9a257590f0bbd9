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

if TYPE_CHECKING:
    from collections.abc import Callable

SPIN_S = 0.0001
"""A moment nearer than that is waited for awake: at constant rates from 10,000 per second on, all of them."""
_NANOSECONDS = 1_000_000_000
_ABSOLUTE = 1
_EXPIRATIONS_BYTES = 8


class _Times(ctypes.Structure):
    """``struct itimerspec``: no interval, and the moment."""

    _fields_ = (("interval_s", ctypes.c_long), ("interval_ns", ctypes.c_long), ("s", ctypes.c_long), ("ns", ctypes.c_long))


class Alarm:
    """Calls ``ring`` once at the moment last set; setting it again moves it. ``close`` it at the end.

    ``spun_s`` is how long all alarms of this process have waited awake with nothing else to do, in seconds: at least so long.
    """

    spun_s = 0.0

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
        self._armed = False
        self._spin_until = math.inf
        self._spin_handle: asyncio.Handle | None = None
        self._turned_at = 0.0
        self._shortest_turn_s = math.inf

    def set(self, moment: float) -> None:
        """Ring at this moment of ``time.perf_counter``, or soon if it is past."""
        now = time.perf_counter()
        if moment - now < SPIN_S:
            self._set_timer(0)
            self._spin_until = moment
            if self._spin_handle is None:
                self._turned_at = now
                self._spin_handle = self._loop.call_soon(self._turn)
            return
        self._stop_spinning()
        self._set_timer(int(moment * _NANOSECONDS))

    def cancel(self) -> None:
        """Do not ring."""
        self._stop_spinning()
        self._set_timer(0)

    def close(self) -> None:
        """Give the timer back."""
        self._stop_spinning()
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

    def _turn(self) -> None:
        now = time.perf_counter()
        if now >= self._spin_until:
            self._spin_handle = None
            self._ring()
            return
        self._shortest_turn_s = min(self._shortest_turn_s, now - self._turned_at)
        Alarm.spun_s += self._shortest_turn_s  # what a turn takes longer may have been work
        self._turned_at = now
        self._spin_handle = self._loop.call_soon(self._turn)

    def _stop_spinning(self) -> None:
        if self._spin_handle is not None:
            self._spin_handle.cancel()
            self._spin_handle = None

    def _rang(self) -> None:
        try:
            os.read(self._descriptor, _EXPIRATIONS_BYTES)
        except BlockingIOError:
            return  # it was set anew after the loop had noticed it
        self._armed = False
        self._ring()

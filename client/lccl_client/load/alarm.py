"""Wakes an event loop at a point in time to a fraction of a millisecond; the loop's own timers know whole ones only."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time
from typing import Protocol

_CLOCK_MONOTONIC, _TFD_NONBLOCK, _TFD_TIMER_ABSTIME = 1, 0o4000, 1


class Alarm(Protocol):
    """Sleeps until a time of ``time.monotonic()``; for one sleeper at once."""

    async def until(self, when: float) -> None: ...

    def close(self) -> None: ...


def alarm() -> Alarm:
    """The most precise one that this platform has; call it inside a running loop."""
    return _TimerFile() if sys.platform == "linux" else _LoopTimer()


class _LoopTimer:
    async def until(self, when: float) -> None:
        await asyncio.sleep(when - time.monotonic())

    def close(self) -> None:
        pass


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


class _TimerFile:
    """A timerfd, which epoll reports when it is due (timerfd_create(2); Python has it from 3.13 on)."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._file = self._libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK)
        if self._file < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._spec = _TimerSpec()
        self._loop = asyncio.get_running_loop()
        self._due: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self._file, self._ring)

    async def until(self, when: float) -> None:
        # A time of 0 would disarm the timer.
        nanoseconds = max(1, int(when * 1e9))
        self._spec.value.seconds, self._spec.value.nanoseconds = divmod(nanoseconds, 1_000_000_000)
        self._due = self._loop.create_future()
        if self._libc.timerfd_settime(self._file, _TFD_TIMER_ABSTIME, ctypes.byref(self._spec), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")
        await self._due

    def close(self) -> None:
        self._loop.remove_reader(self._file)
        os.close(self._file)

    def _ring(self) -> None:
        os.read(self._file, 8)
        if not self._due.done():
            self._due.set_result(None)

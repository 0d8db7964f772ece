"""Wakes an event loop at a point in time to a fraction of a millisecond; a loop's own timers count milliseconds."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
import time

_CLOCK_MONOTONIC, _TFD_NONBLOCK, _TFD_TIMER_ABSTIME = 1, 0o4000, 1


class Alarm:
    """Sleeps until a time of ``time.monotonic()``, for one sleeper at a time, with the loop's own timers."""

    async def until(self, when: float) -> None:
        await asyncio.sleep(when - time.monotonic())

    def close(self) -> None: ...


class _TimerFile(Alarm):
    """A timerfd, which epoll reports when it is due (timerfd_create(2); Python has it from 3.13 on)."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._file = self._libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_NONBLOCK)
        if self._file < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create failed")
        self._loop = asyncio.get_running_loop()
        self._due: asyncio.Future[None] = self._loop.create_future()
        self._loop.add_reader(self._file, self._ring)

    async def until(self, when: float) -> None:
        # struct itimerspec: seconds and nanoseconds of the interval, then of the time; a time of 0 disarms the timer.
        timer = (ctypes.c_long * 4)(0, 0, *divmod(max(1, int(when * 1e9)), 1_000_000_000))
        self._due = self._loop.create_future()
        if self._libc.timerfd_settime(self._file, _TFD_TIMER_ABSTIME, timer, None):
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")
        await self._due

    def close(self) -> None:
        self._loop.remove_reader(self._file)
        os.close(self._file)

    def _ring(self) -> None:
        os.read(self._file, 8)
        if not self._due.done():
            self._due.set_result(None)


def alarm() -> Alarm:
    """The most precise alarm of this platform; call it inside a running loop."""
    return _TimerFile() if sys.platform == "linux" else Alarm()

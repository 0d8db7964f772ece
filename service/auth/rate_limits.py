"""How many requests a caller may send: windows of fixed length, counted in memory that cannot grow without bound."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated

from limits import RateLimitItem, parse_many
from limits.storage import Storage
from limits.strategies import FixedWindowRateLimiter
from pydantic import AfterValidator

from ..errors import RateLimitedError

CALLERS = 1 << 16


def parse_rate(text: str) -> RateLimitItem | None:
    """Read ``100/second``, ``5 per 10 minutes`` and the like; empty text is no limit.

    Raises:
        ValueError: the text is no rate, or several.

    """
    if not text:
        return None
    try:
        rate, *more = parse_many(text)
    except ValueError:
        raise ValueError(f"{text!r} is no rate: write it like 100/second or 5000/hour") from None
    if more or not rate.amount:
        raise ValueError(f"{text!r} is not one rate of at least one request")
    return rate


def _checked(text: str) -> str:
    parse_rate(text)
    return text


RateText = Annotated[str, AfterValidator(_checked)]


class Counters(Storage):
    """Windows in memory for ``limits``: at most ``capacity`` of them, where the longest untouched gives way.

    Of the storage that comes with the library a moving window is never freed, and fixed windows are looked through
    every 10 ms by a thread of their own, all of them.
    """

    STORAGE_SCHEME = None
    base_exceptions = ()

    def __init__(self, capacity: int = CALLERS, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._capacity, self._clock = capacity, clock
        self._windows: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._lock = threading.Lock()

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Count in the window of ``key``; a new one of ``expiry`` seconds begins where the last has ended."""
        with self._lock:
            now = self._clock()
            count, end = self._windows.pop(key, (0, now))
            if end <= now:
                count, end = 0, now + expiry
            self._windows[key] = count + amount, end
            if len(self._windows) > self._capacity:
                self._windows.popitem(last=False)
            return count + amount

    def get(self, key: str) -> int:
        count, end = self._windows.get(key, (0, 0.0))
        return count if end > self._clock() else 0

    def get_expiry(self, key: str) -> float:
        """When the window of ``key`` ends, on the storage's clock."""
        return self._windows.get(key, (0, self._clock()))[1]

    def check(self) -> bool:
        return True

    def reset(self) -> int:
        count = len(self._windows)
        self._windows.clear()
        return count

    def clear(self, key: str) -> None:
        self._windows.pop(key, None)


class RateLimits:
    """Counts requests by caller."""

    def __init__(self, default: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self._default, self._clock = parse_rate(default), clock
        self._limiter = FixedWindowRateLimiter(Counters(clock=clock))

    def count(self, caller: str, own: RateLimitItem | None = None) -> None:
        """Count a request of a caller under its own rate, or else the default one.

        Raises:
            RateLimitedError: it has no more in this window.

        """
        rate = own or self._default
        if rate is None or self._limiter.hit(rate, caller):
            return
        wait_s = self._limiter.get_window_stats(rate, caller).reset_time - self._clock()
        told = f"{rate.amount} requests in {rate.get_expiry()} s are allowed: wait {wait_s:.1f} s"
        raise RateLimitedError(told, wait_s)

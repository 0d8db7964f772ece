"""How many requests a caller may send: windows of fixed length, counted in memory that cannot grow without bound."""

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated

from limits import RateLimitItem, parse_many
from pydantic import AfterValidator

from ..errors import ServiceError

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


def check_count(rate: RateLimitItem, count: int, left_s: float) -> None:
    """Whether a window has room for as many requests; it ends in ``left_s``.

    Raises:
        ServiceError, rate_limited: it has not.

    """
    if count > rate.amount:
        told = f"{rate.amount} requests in {rate.get_expiry()} s are allowed: wait {left_s:.1f} s"
        raise ServiceError("rate_limited", told, left_s)


class RateLimits:
    """Counts requests by caller, in windows that begin with a caller's first request.

    Attributes:
        default: the rate of callers without one of their own; None is no limit.

    Args:
        default: the rate of callers without one of their own; empty is no limit.
        capacity: callers that are remembered; the one that was quiet longest gives way.
        clock: monotone seconds.

    """

    def __init__(self, default: str = "", capacity: int = CALLERS, clock: Callable[[], float] = time.monotonic) -> None:
        self.default, self._capacity, self._clock = parse_rate(default), capacity, clock
        self._windows: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def count(self, caller: str, own: RateLimitItem | None = None) -> None:
        """Count a request of a caller under its own rate, or else the default one.

        Raises:
            ServiceError, rate_limited: it has no more in this window.

        """
        rate = own or self.default
        if rate is None:
            return
        now = self._clock()
        count, end = self._windows.pop(caller, (0, now))
        if end <= now:
            count, end = 0, now + rate.get_expiry()
        self._windows[caller] = count + 1, end
        if len(self._windows) > self._capacity:
            self._windows.popitem(last=False)
        check_count(rate, count + 1, end - now)

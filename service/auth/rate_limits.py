"""How many requests a caller may send: in windows of fixed length, each of which begins with its first request."""

import time
from collections.abc import Callable
from typing import Annotated

from limits import RateLimitItem, parse_many
from pydantic import AfterValidator

from ..errors import ServiceError
from .windows import OwnWindows, Windows


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
    """Counts requests by caller.

    Attributes:
        default: the rate of callers without one of their own; None is no limit.

    Args:
        default: the rate of callers without one of their own; empty is no limit.
        windows: where they are counted; by default for this process alone.
        clock: monotone seconds.

    """

    def __init__(
        self, default: str = "", windows: Windows | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.default, self._windows, self._clock = parse_rate(default), windows or OwnWindows(), clock

    def count(self, caller: str, own: RateLimitItem | None = None) -> None:
        """Count a request of a caller under its own rate, or else the default one.

        Raises:
            ServiceError, rate_limited: it has no more in this window.

        """
        rate = own or self.default
        if rate is None:
            return
        now = self._clock()
        count, end = self._windows.count(caller, rate.get_expiry(), now)
        check_count(rate, count + 1, end - now)

"""Counts of requests in windows of fixed length, each of which begins with its first request."""

from collections import OrderedDict
from typing import Protocol

CALLERS = 1 << 16


class Windows(Protocol):
    """Remembers a bounded number of callers; those that are not remembered begin a new window."""

    def count(self, caller: str, length_s: float, now: float) -> tuple[int, float]:
        """Count a request of a caller.

        Args:
            length_s: of a window, if one begins now.
            now: monotone seconds.

        Returns:
            the requests that it had in this window before, and when the window ends.

        """


class OwnWindows:
    """Those of one process.

    Args:
        capacity: callers that are remembered; the one that was quiet longest gives way.

    """

    def __init__(self, capacity: int = CALLERS) -> None:
        self._capacity = capacity
        self._windows: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def count(self, caller: str, length_s: float, now: float) -> tuple[int, float]:
        count, end = self._windows.pop(caller, (0, now))
        if end <= now:
            count, end = 0, now + length_s
        self._windows[caller] = count + 1, end
        if len(self._windows) > self._capacity:
            self._windows.popitem(last=False)
        return count, end

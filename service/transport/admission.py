"""Admission: requests beyond what can be answered in time are refused with a 429 before the application sees them.

A refusal by the application costs the event loop about as much as an answer. Under overload the loop would spend its
time on refusals, and accepted requests would wait for it where neither deadlines nor the queue's bound see them.
"""

import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self

from ..errors import ServiceError, problem

WORK = ("/v1/", "/v2/models/")  # paths whose POST requests are work; probes, metrics and descriptions always pass


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer that no application writes.

    Attributes:
        head: status and headers, without the server's own and the empty line.

    """

    head: bytes
    body: bytes

    @classmethod
    def of(cls, error: ServiceError, open_inference: bool = False) -> Self:
        """The answer to an error in its protocol's form, ready to be written."""
        told, headers = problem(error)
        body = json.dumps({"error": told["detail"], **told} if open_inference else told).encode()
        headers |= {
            "Content-Type": "application/json" if open_inference else "application/problem+json",
            "Content-Length": str(len(body)),
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-store",
        }
        lines = "".join(f"{name.lower()}: {value}\r\n" for name, value in headers.items())
        return cls(f"HTTP/1.1 {told['status']} {told['title']}\r\n{lines}".encode(), body)


class AdmissionControl:
    """Counts requests that were read whole and are not answered yet, and refuses new work while there are too many.

    Args:
        most: how many there may be now; without it any number.
        waiting_s: how long what waits will take; the advice to those refused.
        report: told the code of each refusal.

    Attributes:
        inside: the requests; before one was read whole it is not among them, so that slow uploads shut nobody out.

    """

    def __init__(
        self,
        most: Callable[[], int] = lambda: sys.maxsize,
        waiting_s: Callable[[], float] = lambda: 0.0,
        report: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._most, self._waiting_s, self._report = most, waiting_s, report
        self.inside: set[object] = set()

    def refuses(self, scope: Any) -> bool:
        """Whether a request that begins now is refused."""
        return len(self.inside) >= self._most() and scope["method"] == "POST" and scope["path"].startswith(WORK)

    def refusal(self, path: str) -> Refusal:
        """The answer to a refused request at a path; the refusal is reported."""
        self._report("overloaded")
        return _refusal(max(1, math.ceil(self._waiting_s())), path.startswith("/v2/"))


@lru_cache(maxsize=64)
def _refusal(retry_after_s: int, open_inference: bool) -> Refusal:
    told = "more requests arrive than can be answered: try again later"
    return Refusal.of(ServiceError("overloaded", told, retry_after_s), open_inference)


def requests_in_time(queue_limit: int, limit_s: float, per_s: float) -> int:
    """How many requests may be under way: what leaves within a third of the time that they have.

    At most two queues full: up to there the queue itself refuses, which knows whose share is used up.
    """
    return 2 * queue_limit if not per_s else min(2 * queue_limit, max(32, math.ceil(per_s * limit_s / 3)))

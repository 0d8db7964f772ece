"""Admission: requests beyond what can be answered in time are refused with a 429 before the application sees them.

A refusal by the application costs the event loop about as much as an answer. Under overload the loop would spend its
time on refusals, and accepted requests would wait for it where neither deadlines nor the queue's bound see them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..errors import OverloadedError, problem

Header = tuple[bytes, bytes]
CLOSE: Header = (b"connection", b"close")
OVERLOADED = "overloaded"
WORK = ("/v1/", "/v2/models/")  # paths whose POST requests are work; probes, metrics and descriptions always pass


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer in its protocol's form, ready to be written.

    Attributes:
        headers: without the server's own.

    """

    status: int
    headers: Sequence[Header]
    body: bytes


class AdmissionControl:
    """Counts requests that were read whole and are not answered yet, and refuses new work while there are too many.

    Args:
        most: how many there may be now.
        waiting_s: how long what waits will take; the advice to those refused.
        report: told the code of each refusal.

    """

    def __init__(self, most: Callable[[], int], waiting_s: Callable[[], float], report: Callable[[str], None]) -> None:
        self._most, self._waiting_s, self._report = most, waiting_s, report
        self._inside: set[object] = set()

    def refuses(self, scope: Any) -> bool:
        """Whether a request that begins now is refused."""
        return len(self._inside) >= self._most() and scope["method"] == "POST" and scope["path"].startswith(WORK)

    def enter(self, request: object) -> None:
        """A request was read whole. Until then it holds up nobody: a slow upload must not shut others out."""
        self._inside.add(request)

    def leave(self, request: object) -> None:
        """A request was answered, or its connection is gone."""
        self._inside.discard(request)

    def refusal(self, path: str) -> Refusal:
        """What a request to a path is refused with; it counts as refused."""
        self._report(OVERLOADED)
        return _refusal(max(1, math.ceil(self._waiting_s())), path.startswith("/v2/"))


@lru_cache(maxsize=64)
def _refusal(retry_after_s: int, open_inference: bool) -> Refusal:
    text = "more requests arrive than can be answered: try again later"
    answer = problem(OverloadedError(text, retry_after_s))
    form = {"error": text} if open_inference else {}
    content = json.dumps({**form, **answer.to_json()}).encode()
    kind = "application/json" if open_inference else "application/problem+json"
    headers = (*answer_headers(kind, content, answer.retry_after), (b"cache-control", b"no-store"))
    return Refusal(answer.status, headers, content)


def answer_headers(kind: str, body: bytes, retry_after: int | None) -> list[Header]:
    """The headers of an answer that no application writes."""
    headers = [
        (b"content-type", kind.encode()),
        (b"content-length", b"%d" % len(body)),
        (b"x-content-type-options", b"nosniff"),
    ]
    return headers if retry_after is None else [*headers, (b"retry-after", b"%d" % retry_after)]


def requests_in_time(queue_limit: int, limit_s: float, per_s: float) -> int:
    """How many requests may be under way: what leaves within a third of the time that they have.

    At most two queues full: up to there the queue itself refuses, which knows whose share is used up.
    """
    return 2 * queue_limit if not per_s else min(2 * queue_limit, max(32, math.ceil(per_s * limit_s / 3)))

"""Refusing cheaply: requests beyond what can be answered in time get a 429 before the application sees them.

To refuse a request in the application costs the event loop about as much as to serve it. So under overload it would
spend its time on refusals, and those that it accepts would wait for it, unseen by deadlines and by the queue's bound.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from service.errors import OverloadedError, problem

if TYPE_CHECKING:
    from uvicorn._types import (
        ASGIReceiveCallable,
        ASGISendCallable,
        HTTPResponseBodyEvent,
        HTTPResponseStartEvent,
        Scope,
    )
    from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

OVERLOADED = "overloaded"
WORK = ("/v1/", "/v2/models/")  # paths whose POST requests are work; probes, metrics and descriptions always pass


class Gate:
    """Counts requests that were read whole and are not answered yet, and refuses new work while there are too many.

    Args:
        most: how many there may be now.
        waiting_s: how long what waits will take; the advice to those refused.
        report: told the code of each refusal.

    """

    def __init__(self, most: Callable[[], int], waiting_s: Callable[[], float], report: Callable[[str], None]) -> None:
        self._most, self._waiting_s, self._report = most, waiting_s, report
        self._inside: set[RequestResponseCycle] = set()

    def shuts_out(self, scope: Any) -> bool:
        """Whether a request that begins now is refused."""
        return len(self._inside) >= self._most() and scope["method"] == "POST" and scope["path"].startswith(WORK)

    def enter(self, cycle: RequestResponseCycle) -> None:
        """A request was read whole. Until then it holds up nobody: a slow upload must not shut others out."""
        self._inside.add(cycle)

    def leave(self, cycle: RequestResponseCycle | None) -> None:
        """A request was answered, or its connection is gone."""
        if cycle is not None:
            self._inside.discard(cycle)

    async def refuse(self, scope: Scope, _: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        """The application of those who are refused."""
        open_inference = scope["type"] == "http" and scope["path"].startswith("/v2/")
        start, body = _refusal(max(1, math.ceil(self._waiting_s())), open_inference)
        self._report(OVERLOADED)
        await send(start)
        await send(body)


@lru_cache(maxsize=64)
def _refusal(retry_after_s: int, open_inference: bool) -> tuple[HTTPResponseStartEvent, HTTPResponseBodyEvent]:
    """The answer to a request that is refused, as an application's two messages, in its protocol's form."""
    text = "more requests arrive than can be answered: try again later"
    answer = problem(OverloadedError(text, retry_after_s))
    form = {"error": text} if open_inference else {}
    content = json.dumps(form | answer.to_json()).encode()
    headers = [
        (b"content-type", b"application/json" if open_inference else b"application/problem+json"),
        (b"content-length", str(len(content)).encode()),
        (b"retry-after", str(answer.retry_after).encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"cache-control", b"no-store"),
    ]
    return (
        {"type": "http.response.start", "status": answer.status, "headers": headers, "trailers": False},
        {"type": "http.response.body", "body": content, "more_body": False},
    )


def requests_in_time(queue_limit: int, limit_s: float, per_s: float) -> int:
    """How many requests may be under way: what leaves within a quarter of the time that they have.

    At most two queues full: up to there the queue itself refuses, which knows whose share is used up.
    """
    return 2 * queue_limit if not per_s else min(2 * queue_limit, max(32, math.ceil(per_s * limit_s / 4)))

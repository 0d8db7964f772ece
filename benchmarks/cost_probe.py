"""``lccl-serve`` that tells at ``GET /cost`` where its processor time went since the last such request.

Parts of the event loop's thread are functions that wait for nothing, timed by that thread's own processor time. The
engine's time is that of the threads that call it, and of its own threads.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import wraps
from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from starlette.routing import Route

from benchmarks.probed import serve_with
from lccl.engines.cpu.engine import CpuEngine
from lccl.preprocessing import Preprocessing
from service.api.middleware import RequestObserver
from service.api.operation import Json
from service.inference.batcher import Batcher
from service.inference.runner import Runner
from service.transport.protocol import BoundedProtocol

PATH = "/cost"
ENGINE = "engine"
PARTS: tuple[tuple[str, type, str], ...] = (
    (ENGINE, CpuEngine, "run"),
    ("device threads", Runner, "_serve"),
    ("bytes parsed", BoundedProtocol, "data_received"),
    ("images decoded", Preprocessing, "decode"),
    ("put into the queue", Batcher, "put"),
    ("answers encoded", Json, "render"),
    ("metrics and log", RequestObserver, "_record"),
)


class Costs:
    """Seconds of processor time by part."""

    def __init__(self) -> None:
        self._seconds: Counter[str] = Counter()
        self._before: Counter[str] = Counter()
        self._loop = 0

    def time(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its thread's time counted."""

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                self._seconds[part] += time.thread_time() - began

        return timed

    async def take(self, _: Request) -> Response:
        """Answer the seconds of each part, of the loop's thread and of the process since the last such request."""
        now = Counter({**self._seconds, "loop": time.thread_time(), "process": time.process_time()})
        told = {part: now[part] - self._before[part] for part in now}
        self._before = now
        return JSONResponse({**told, "threads": threading.active_count()})


def main() -> None:
    """Run ``lccl-serve`` with the route."""
    costs = Costs()
    for part, kind, name in PARTS:
        setattr(kind, name, costs.time(part, getattr(kind, name)))
    serve_with(lambda app: app.router.routes.append(Route(PATH, costs.take)))


if __name__ == "__main__":
    main()

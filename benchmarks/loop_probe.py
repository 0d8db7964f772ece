"""``lccl-serve`` that tells at ``GET /loop-gap`` how long its event loop was held up since the last such request."""

from __future__ import annotations

import asyncio
import time

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.routing import Route

from benchmarks.probed import serve_with

PATH = "/loop-gap"
SLEEP_S = 0.001


class LoopProbe:
    """The longest gap between two awakenings of a task, and the longest work of the loop's thread between two.

    The gap counts all that the loop waits for: its own work, threads that keep the interpreter's lock, and other
    processes that keep the processor. It starts when it is first asked.
    """

    def __init__(self) -> None:
        self._gap_s = self._work_s = 0.0
        self._task: asyncio.Task[None] | None = None

    async def take(self, _: Request) -> Response:
        """Answer both since the last such request, in milliseconds."""
        if self._task is None:
            self._task = asyncio.create_task(self._look())
        await asyncio.sleep(2 * SLEEP_S)  # a gap that has just ended is seen
        told = {"gap_ms": 1000 * self._gap_s, "work_ms": 1000 * self._work_s}
        self._gap_s = self._work_s = 0.0
        return JSONResponse(told)

    async def _look(self) -> None:
        last, worked = time.perf_counter(), time.thread_time()
        while True:
            await asyncio.sleep(SLEEP_S)
            now, work = time.perf_counter(), time.thread_time()
            self._gap_s, self._work_s = max(self._gap_s, now - last), max(self._work_s, work - worked)
            last, worked = now, work


def add_probe(app: FastAPI) -> None:
    """Give an application the route."""
    app.router.routes.append(Route(PATH, LoopProbe().take))


def main() -> None:
    """Run ``lccl-serve`` with the route."""
    serve_with(add_probe)


if __name__ == "__main__":
    main()

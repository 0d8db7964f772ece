"""``lccl-serve`` that tells how long its event loop was held up: ``GET /loop-gap`` is the longest time since the last.

A task of the loop sleeps for a millisecond again and again; the longest time between two awakenings is the gap.
"""

from __future__ import annotations

import asyncio
import contextlib
import time

from fastapi import FastAPI, Request, Response
from pydantic_settings import CliApp
from starlette.routing import Route

from service.app import create_app
from service.settings import Settings
from service.telemetry.logs import configure
from service.transport.server import Server, server_config

PATH = "/loop-gap"
SLEEP_S = 0.001


class LoopProbe:
    """The longest gap between two awakenings of a task; it starts when it is first asked."""

    def __init__(self) -> None:
        self._longest_s = 0.0
        self._task: asyncio.Task[None] | None = None

    async def take(self, _: Request) -> Response:
        """Answer the longest gap since the last such request, in milliseconds."""
        if self._task is None:
            self._task = asyncio.create_task(self._look())
        await asyncio.sleep(2 * SLEEP_S)  # a gap that has just ended is seen
        longest_s, self._longest_s = self._longest_s, 0.0
        return Response(f"{1000 * longest_s:.3f}")

    async def _look(self) -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(SLEEP_S)
            now = time.perf_counter()
            self._longest_s, last = max(self._longest_s, now - last), now


def add_probe(app: FastAPI) -> None:
    """Give an application the route."""
    app.router.routes.append(Route(PATH, LoopProbe().take))


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    settings = CliApp.run(Settings)
    configure(settings.log_level)
    app = create_app(settings)
    add_probe(app)
    with contextlib.suppress(KeyboardInterrupt):
        Server(server_config(app, settings)).run()


if __name__ == "__main__":
    main()

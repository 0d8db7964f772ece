"""Sends a plan's requests at their times, or so many at once, and records what became of each."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from lccl_client.load.alarm import alarm
from lccl_client.load.connections import BrokenConnectionError, Connections
from lccl_client.load.plan import Closed, Open, Plan
from lccl_client.load.records import CONNECTION, NOT_SENT, TIMEOUT, Records
from lccl_client.load.schedule import arrivals, picks

PROGRESS_EVERY_S = 0.5
HEAD_START_S = 0.05


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    elapsed_s: float
    ended: int
    in_flight: int


async def send(plan: Plan, progress: Callable[[Progress], None] | None = None) -> Records:
    """Run a plan to its end, requests under way included.

    Args:
        plan: what is sent, and how.
        progress: called twice a second, between requests: it delays them by what it costs.

    """
    connections = Connections(plan.base_url, plan.timeout_s)
    sender = Sender(plan, connections)
    try:
        async with _reporting(sender, progress):
            if isinstance(plan.pace, Open):
                await sender.open(plan.pace)
            else:
                await sender.closed(plan.pace)
    finally:
        connections.close()
    return sender.records


class Sender:
    """One run under way."""

    def __init__(self, plan: Plan, connections: Connections) -> None:
        self._plan, self._connections, self._start = plan, connections, time.monotonic()
        self._heads = [connections.head(one.method, one.path, one.headers) for one in plan.streams]
        self._seconds = plan.warmup_s + plan.duration_s
        self.records, self._in_flight = Records(), 0

    async def open(self, pace: Open) -> None:
        """Start every request at its time, late ones at once; none waits for another."""
        clock, tasks = alarm(), set[asyncio.Task[None]]()
        chosen = picks(self._plan.streams, self._plan.seed)
        offsets = arrivals(pace.rate_per_s, self._seconds, pace.arrivals, self._plan.seed).tolist()
        self._start = time.monotonic() + HEAD_START_S
        try:
            for offset in offsets:
                due = self._start + offset
                # A sender that is late still lets the loop send and receive.
                await (clock.until(due) if due > time.monotonic() else asyncio.sleep(0))
                what = next(chosen)
                if self._in_flight >= pace.concurrency_limit:
                    self.records.add(what, NOT_SENT, offset, math.nan, math.nan)
                    continue
                self._in_flight += 1
                task = asyncio.create_task(self._ask(what, due))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            await asyncio.gather(*tasks)
        finally:
            clock.close()

    async def closed(self, pace: Closed) -> None:
        """Keep requests under way until the time is over."""
        chosen = picks(self._plan.streams, self._plan.seed)

        async def keep_asking() -> None:
            while (now := time.monotonic()) < self._start + self._seconds:
                self._in_flight += 1
                await self._ask(next(chosen), now)

        self._start = time.monotonic()
        await asyncio.gather(*(keep_asking() for _ in range(pace.in_flight)))

    def progress(self) -> Progress:
        return Progress(max(0.0, time.monotonic() - self._start), len(self.records.status), self._in_flight)

    async def _ask(self, what: tuple[int, int], due: float) -> None:
        """Send one request and enter it into the records when it has ended."""
        stream, body = what
        content = self._plan.streams[stream].bodies[body].content
        sent, answer = time.monotonic(), None
        try:
            answer = await self._connections.ask(self._heads[stream], content)
            status, done = answer.status, answer.at
        except TimeoutError:
            status, done = TIMEOUT, time.monotonic()
        except BrokenConnectionError:
            status, done = CONNECTION, time.monotonic()
        self._in_flight -= 1
        self.records.add(what, status, due - self._start, sent - self._start, done - self._start)
        if answer is not None and 200 <= status < 300:
            self.records.keep(self._plan, answer.content)


@asynccontextmanager
async def _reporting(sender: Sender, progress: Callable[[Progress], None] | None) -> AsyncIterator[None]:
    async def report() -> None:
        while progress is not None:
            progress(sender.progress())
            await asyncio.sleep(PROGRESS_EVERY_S)

    task = asyncio.create_task(report())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

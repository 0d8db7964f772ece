"""Sends a plan's requests at their times, or a number of them at once, and records the outcome of each."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass

from lccl_client.load.alarm import alarm
from lccl_client.load.connections import BrokenConnectionError, Connections
from lccl_client.load.plan import Closed, Open, Plan
from lccl_client.load.report import CONNECTION, NOT_SENT, TIMEOUT, Records
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
    sender = _Sender(plan)
    reporting = asyncio.create_task(sender.report(progress))
    try:
        await (sender.open(plan.pace) if isinstance(plan.pace, Open) else sender.closed(plan.pace))
    finally:
        reporting.cancel()
        sender.connections.close()
        with suppress(asyncio.CancelledError):
            await reporting
    return sender.records


class _Sender:
    """One run under way."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._start = plan, time.monotonic()
        self.connections, self.records, self._in_flight = Connections(plan.base_url, plan.timeout_s), Records(), 0
        self._heads = [self.connections.head(one.method, one.path, one.headers) for one in plan.streams]
        self._seconds = plan.warmup_s + plan.duration_s
        self._chosen = picks(plan.streams, plan.seed)

    async def open(self, pace: Open) -> None:
        """Start every request at its time, late ones at once; none waits for another."""
        offsets = arrivals(pace.rate_per_s, self._seconds, pace.arrivals, self._plan.seed).tolist()
        self._start = time.monotonic() + HEAD_START_S
        with closing(alarm()) as clock:
            async with asyncio.TaskGroup() as tasks:
                for offset in offsets:
                    due = self._start + offset
                    # A sender that is late still lets the loop send and receive.
                    await (clock.until(due) if due > time.monotonic() else asyncio.sleep(0))
                    if self._in_flight < pace.concurrency_limit:
                        tasks.create_task(self._ask(next(self._chosen), due))
                    else:
                        self.records.add(next(self._chosen), NOT_SENT, offset, math.nan, math.nan)

    async def closed(self, pace: Closed) -> None:
        """Keep requests under way until the time is over."""
        self._start = time.monotonic()

        async def keep_asking() -> None:
            while (now := time.monotonic()) < self._start + self._seconds:
                await self._ask(next(self._chosen), now)

        await asyncio.gather(*(keep_asking() for _ in range(pace.in_flight)))

    async def report(self, progress: Callable[[Progress], None] | None) -> None:
        while progress is not None:
            progress(Progress(max(0.0, time.monotonic() - self._start), len(self.records), self._in_flight))
            await asyncio.sleep(PROGRESS_EVERY_S)

    async def _ask(self, what: tuple[int, int], due: float) -> None:
        """Send one request and enter it into the records when it has ended."""
        self._in_flight += 1
        stream, body = what
        content = self._plan.streams[stream].bodies[body].content
        sent, answer = time.monotonic(), None
        try:
            answer = await self.connections.ask(self._heads[stream], content)
            status = answer.status
        except TimeoutError:
            status = TIMEOUT
        except BrokenConnectionError:
            status = CONNECTION
        done = answer.at if answer else time.monotonic()
        self._in_flight -= 1
        self.records.add(what, status, due - self._start, sent - self._start, done - self._start)
        if answer and self._plan.reader and 200 <= status < 300 and len(self.records) % self._plan.read_every == 0:
            self.records.answers[len(self.records) - 1] = answer.content

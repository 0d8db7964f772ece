"""Threads that decode images, shared fairly: clients take turns, and large images leave a thread to small ones."""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

LARGE_PIXELS = 1 << 20  # more take some 10 ms to decode
Value = TypeVar("Value")


@dataclass(slots=True, eq=False)
class _Job:
    call: Callable[[], Any]
    pixels: int
    future: asyncio.Future[Any]


@dataclass(slots=True)
class _Line:
    """Jobs of one size that wait, a queue for each client; clients take turns."""

    clients: OrderedDict[str, deque[_Job]] = field(default_factory=OrderedDict)

    def push(self, client: str, job: _Job) -> None:
        self.clients.setdefault(client, deque()).append(job)

    def first(self) -> _Job | None:
        """The next in turn; jobs that nobody waits for any more are dropped before it."""
        while self.clients:
            client, jobs = next(iter(self.clients.items()))
            while jobs and jobs[0].future.cancelled():
                jobs.popleft()
            if jobs:
                return jobs[0]
            del self.clients[client]
        return None

    def pop(self) -> None:
        """Take the first away; its client goes to the end."""
        client, jobs = next(iter(self.clients.items()))
        jobs.popleft()
        self.clients.move_to_end(client)


class Decoders:
    """Runs calls in threads for clients in turn, small and large ones in turn; used on one event loop.

    Large calls run in all threads but one, so that a small one waits for small ones alone. With one thread they
    alternate, and a small one waits for one large call, since a call that runs cannot be interrupted.

    Args:
        threads: how many.
        most_pixels: how many pixels may be in decoding at once; an image with more is the only large one then.

    """

    def __init__(self, threads: int, most_pixels: int) -> None:
        self._executor = ThreadPoolExecutor(threads, "decode")
        self._threads, self._large_threads, self._most_pixels = threads, max(1, threads - 1), most_pixels
        self._small, self._large = _Line(), _Line()
        self._running = self._running_large = self._running_pixels = 0
        self._small_next = True

    def submit(self, client: str, pixels: int, call: Callable[[], Value]) -> asyncio.Future[Value]:
        """Call a function in a thread when it is its client's turn; one whose future is cancelled before is not called.

        Args:
            client: whose turn it takes.
            pixels: how many it will decode.

        """
        job = _Job(call, pixels, asyncio.get_running_loop().create_future())
        (self._large if pixels > LARGE_PIXELS else self._small).push(client, job)
        self._start()
        return job.future

    def close(self) -> None:
        """Start no more calls; what waits is cancelled."""
        for line in (self._small, self._large):
            while (job := line.first()) is not None:
                job.future.cancel()
        self._executor.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> None:
        while self._running < self._threads and (job := self._next()) is not None:
            self._count(job, 1)
            done = asyncio.get_running_loop().run_in_executor(self._executor, job.call)
            done.add_done_callback(partial(self._end, job))

    def _next(self) -> _Job | None:
        small, large = self._small.first(), self._large.first()
        if large is not None and not self._has_room_for(large):
            large = None
        line = self._small if small is not None and (large is None or self._small_next) else self._large
        job = small if line is self._small else large
        if job is not None:
            line.pop()
            self._small_next = line is self._large
        return job

    def _has_room_for(self, large: _Job) -> bool:
        if not self._running_large:
            return True
        return self._running_large < self._large_threads and self._running_pixels + large.pixels <= self._most_pixels

    def _count(self, job: _Job, by: int) -> None:
        self._running += by
        if job.pixels > LARGE_PIXELS:
            self._running_large += by
            self._running_pixels += by * job.pixels

    def _end(self, job: _Job, done: asyncio.Future[Any]) -> None:
        self._count(job, -1)
        error = None if done.cancelled() else done.exception()
        if job.future.done():
            pass
        elif done.cancelled():
            job.future.cancel()
        elif error is not None:
            job.future.set_exception(error)
        else:
            job.future.set_result(done.result())
        self._start()

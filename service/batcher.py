"""Bounded queues → batches, without a timer: whoever is free takes all that waits, up to a limit."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from service.errors import OverloadedError, UnavailableError

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(slots=True, eq=False)
class Job(Generic[Item, Result]):
    """One item that waits; its future is how the result, an error or a cancellation travels."""

    item: Item
    enqueued_at: float
    future: Future[Result] = field(default_factory=Future)


class Batcher(Generic[Key, Item, Result]):
    """A bounded queue per key. Items are put in by any thread and taken, as batches of one key, by one.

    Args:
        limit: how many items of a key may wait.
        batch_limit: largest batch of a key.
        clock: monotone seconds.

    """

    def __init__(self, limit: int, batch_limit: Callable[[Key], int], clock: Callable[[], float]) -> None:
        self._limit, self._batch_limit, self._clock = limit, batch_limit, clock
        self._queues: dict[Key, deque[Job[Item, Result]]] = {}
        self._changed = threading.Condition()
        self._closed = False
        self._drained_per_s = 0.0

    def put(self, key: Key, items: Sequence[Item]) -> list[Job[Item, Result]]:
        """Queue all items or none.

        Raises:
            OverloadedError: they do not fit; it says when they may.
            UnavailableError: closed.

        """
        with self._changed:
            if self._closed:
                raise UnavailableError("the server is shutting down: send the request elsewhere")
            queue = self._queues.setdefault(key, deque())
            if len(queue) + len(items) > self._limit:
                raise OverloadedError(
                    f"{len(queue)} pictures are waiting, at most {self._limit} may: try again later",
                    retry_after_s=len(queue) / self._drained_per_s if self._drained_per_s else 1.0,
                )
            jobs: list[Job[Item, Result]] = [Job(item, self._clock()) for item in items]
            queue.extend(jobs)
            self._changed.notify()
            return jobs

    def take(self, timeout: float) -> tuple[Key, list[Job[Item, Result]]] | None:
        """Wait for work and take the longest waiting key's items, abandoned ones dropped first.

        None after ``timeout`` seconds without work, or when closed and empty.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._closed or any(self._queues.values()), timeout):
                return None
            waiting = [key for key, queue in self._queues.items() if queue]
            if not waiting:
                return None
            key = min(waiting, key=lambda one: self._queues[one][0].enqueued_at)
            queue, limit = self._queues[key], self._batch_limit(key)
            batch: list[Job[Item, Result]] = []
            while queue and len(batch) < limit:
                job = queue.popleft()
                if job.future.set_running_or_notify_cancel():
                    batch.append(job)
            return key, batch

    def drained(self, items: int, seconds: float) -> None:
        """Learn the rate at which items leave, for the advice in :class:`OverloadedError`."""
        if seconds > 0:
            rate = items / seconds
            self._drained_per_s = rate if not self._drained_per_s else 0.8 * self._drained_per_s + 0.2 * rate

    def depth(self, key: Key) -> int:
        """Items of a key that wait."""
        with self._changed:
            return len(self._queues.get(key, ()))

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Take nothing new; what waits is still handed out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

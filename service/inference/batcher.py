"""Bounded, fair queues → batches, without a timer: whoever is free takes all that waits, up to a limit."""

import asyncio
import math
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from ..errors import ServiceError
from ..shares import SHARE

Item = TypeVar("Item")
Result = TypeVar("Result")

LATELY_S = 5.0  # seconds since another client put something in, or under another key: then it may again at any moment
MEMORY = 0.8  # what a batch still weighs in the rate of leaving when the next one ends


@dataclass(slots=True, eq=False)
class Job(Generic[Item, Result]):
    """One item that waits; its future, of the event loop that put it, carries the result or a cancellation."""

    item: Item
    client: str
    enqueued_at: float
    future: asyncio.Future[Result]


@dataclass(slots=True)
class _Queue(Generic[Item, Result]):
    """The jobs of one key, a line for each client; clients take turns.

    Attributes:
        served_s: device seconds that this key had; one that was idle starts where the last batch's key did
            (start-time fair queueing, Goyal, Vin and Cheng 1996).
        left: jobs whose batch has run, earlier ones forgotten by and by.
        left_in_s: seconds in which any of those batches ran.
        last_left_at: monotone seconds.
        gone: whether it is forgotten as soon as nothing waits.

    """

    clients: OrderedDict[str, deque[Job[Item, Result]]] = field(default_factory=OrderedDict)
    size: int = 0
    served_s: float = 0.0
    left: float = 0.0
    left_in_s: float = 0.0
    last_left_at: float = -math.inf
    gone: bool = False

    def push(self, job: Job[Item, Result]) -> None:
        self.clients.setdefault(job.client, deque()).append(job)
        self.size += 1

    @property
    def drained_per_s(self) -> float:
        """Jobs that leave in a second while any run; 0 when none has left yet."""
        return self.left / self.left_in_s if self.left_in_s else 0.0

    def pop(self) -> Job[Item, Result]:
        client, line = next(iter(self.clients.items()))
        job = line.popleft()
        if line:
            self.clients.move_to_end(client)
        else:
            del self.clients[client]
        self.size -= 1
        return job


class Batcher(Generic[Item, Result]):
    """A bounded queue per key, fair to its clients and to other keys.

    Items are put in on an event loop and taken, as batches of one key, by any threads.

    Args:
        limit: how many items of a key may wait.
        batch_limit: largest batch that an item may be part of.
        clock: monotone seconds.

    """

    def __init__(self, limit: int, batch_limit: Callable[[Item], int], clock: Callable[[], float]) -> None:
        self._limit, self._batch_limit, self._clock = limit, batch_limit, clock
        self._queues: dict[str, _Queue[Item, Result]] = {}
        self._changed = threading.Condition()
        self.closed = False
        self._virtual_s = 0.0
        self._last_put, self._changed_hands_at = ("", ""), -math.inf

    def put(self, key: str, items: Sequence[Item], client: str = "") -> list[Job[Item, Result]]:
        """Queue all items or none. Runs on the event loop whose futures the jobs get.

        Raises:
            ServiceError, overloaded: they do not fit, or their client has its share already; it says when they may.
            ServiceError, unavailable: closed.

        """
        loop = asyncio.get_running_loop()
        with self._changed:
            if self.closed:
                raise ServiceError("unavailable", "the server is shutting down: send the request elsewhere")
            queue = self._queues.setdefault(key, _Queue())
            self._check_room(queue, len(items), client)
            if not queue.size:
                queue.served_s = max(queue.served_s, self._virtual_s)
            now = self._clock()
            if self._last_put != (key, client):
                self._changed_hands_at = now if self._last_put != ("", "") else -math.inf
                self._last_put = key, client
            jobs: list[Job[Item, Result]] = [Job(item, client, now, loop.create_future()) for item in items]
            for job in jobs:
                queue.push(job)
            self._changed.notify()
            return jobs

    def check_room(self, key: str, count: int, client: str) -> None:
        """Whether so many items could be put in now, for those who have work to do before.

        Raises:
            ServiceError, overloaded: as :meth:`put`.

        """
        with self._changed:
            if key in self._queues:
                self._check_room(self._queues[key], count, client)

    def _check_room(self, queue: _Queue[Item, Result], count: int, client: str) -> None:
        left = self._limit - queue.size - count
        own = len(queue.clients.get(client, ()))
        if left >= 0 and (not own or own + count <= SHARE * left):
            return
        rate = queue.drained_per_s
        waiting, whose = (queue.size, "") if left < 0 else (own, " of this client")
        raise ServiceError(
            "overloaded",
            f"{waiting} images{whose} are waiting, and no more may: try again later",
            retry_after_s=waiting / rate if rate else 1.0,
        )

    def take(self, timeout: float) -> tuple[str, list[Job[Item, Result]]] | None:
        """Wait for work and take items of the key that had the device least, one client after the other.

        Abandoned items are dropped. None after ``timeout`` seconds without work, or when closed and empty.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.closed or any(q.size for q in self._queues.values()), timeout):
                return None
            waiting = [key for key, queue in self._queues.items() if queue.size]
            if not waiting:
                return None
            key = min(waiting, key=lambda one: self._queues[one].served_s)
            queue = self._queues[key]
            self._virtual_s = queue.served_s
            batch: list[Job[Item, Result]] = []
            limit = 1
            while queue.size and len(batch) < limit:
                job = queue.pop()
                if not job.future.cancelled():
                    limit = limit if batch else self._batch_limit(job.item)
                    batch.append(job)
            if queue.gone and not queue.size:
                del self._queues[key]
            return key, batch

    def is_shared(self, key: str, clients: Collection[str]) -> bool:
        """Whether others than these clients of a key wait, or several came lately: of its clients, or other keys'."""
        with self._changed:
            if self._clock() - self._changed_hands_at < LATELY_S:
                return True
            return any(
                queue.size and (other != key or any(client not in clients for client in queue.clients))
                for other, queue in self._queues.items()
            )

    def give_back(self, key: str, jobs: Sequence[Job[Item, Result]]) -> None:
        """Put taken jobs back to where they were, in front of what came after them."""
        with self._changed:
            queue = self._queues.setdefault(key, _Queue())
            for job in reversed(jobs):
                queue.clients.setdefault(job.client, deque()).appendleft(job)
                queue.clients.move_to_end(job.client, last=False)
                queue.size += 1

    def drained(self, key: str, items: int, seconds: float) -> None:
        """Learn what a batch took that has just ended: for fairness between keys and for advice to the refused."""
        with self._changed:
            queue, now = self._queues.setdefault(key, _Queue()), self._clock()
            queue.served_s += seconds
            queue.left = MEMORY * queue.left + items
            queue.left_in_s = MEMORY * queue.left_in_s + now - max(now - seconds, queue.last_left_at)
            queue.last_left_at = now

    def waiting_s(self) -> float:
        """Seconds until all that waits would have left, at the rates seen so far."""
        with self._changed:
            return sum(queue.size / queue.drained_per_s for queue in self._queues.values() if queue.drained_per_s)

    def drained_per_s(self, key: str) -> float:
        """Items of a key that leave in a second while there are any; 0 when none has left yet."""
        with self._changed:
            queue = self._queues.get(key)
            return queue.drained_per_s if queue else 0.0

    def depth(self, key: str) -> int:
        """Items of a key that wait."""
        with self._changed:
            queue = self._queues.get(key)
            return queue.size if queue else 0

    def forget(self, key: str) -> None:
        """Drop what was learnt of a key that will not be used again; what waits under it is still handed out."""
        with self._changed:
            queue = self._queues.get(key)
            if queue is not None and queue.size:
                queue.gone = True
            elif queue is not None:
                del self._queues[key]

    def close(self) -> None:
        """Take nothing new; what waits is still handed out."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()

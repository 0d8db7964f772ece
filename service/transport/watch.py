"""Timeouts of one connection: for what it waits for, and for a peer that does not read its answer."""

import asyncio
import math
from collections.abc import Callable
from typing import Literal

# What a connection waits for: the head or body of a request, the application's answer, the rest of a body that was
# answered before it was there, another request, or its peer to read a refusal.
Phase = Literal["head", "body", "answer", "rest", "idle", "linger"]


class Watch:
    """Tells when a wait is over, and cuts the connection when nothing of an answer was taken for ``stall_s`` seconds.

    One timer serves all waits: it looks often enough to see each one's end in time, and no request sets or cancels it.

    Args:
        shortest_s: no wait is shorter than this but a lingering one.
        on_over: called at the end of a wait.

    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        transport: asyncio.Transport,
        shortest_s: float,
        stall_s: float,
        on_over: Callable[[Phase], None],
    ) -> None:
        self._loop, self._transport, self._on_over = loop, transport, on_over
        self._shortest_s, self._stall_s = shortest_s, stall_s
        self._phase: Phase = "answer"
        self._end = math.inf
        self._unsent, self._moved = 0, loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._look_later()

    def expect(self, phase: Phase, seconds: float) -> None:
        """Wait for something, from now on unless that was waited for already."""
        if phase is not self._phase:
            self._phase, self._end = phase, self._loop.time() + seconds
            if seconds < self._shortest_s:
                self._look_later()

    def moved(self) -> None:
        """The peer has read some of an answer."""
        self._moved = self._loop.time()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look_later(self) -> None:
        self.stop()
        wait_s = min(self._end - self._loop.time(), self._shortest_s)
        self._timer = self._loop.call_later(max(0.0, wait_s), self._look)

    def _look(self) -> None:
        now, unsent = self._loop.time(), self._transport.get_write_buffer_size()
        if unsent < self._unsent or not unsent:
            self._moved = now
        self._unsent = unsent
        if now - self._moved >= self._stall_s:
            self._transport.abort()
            return
        if now >= self._end:
            self._end = math.inf
            self._on_over(self._phase)
        self._look_later()

"""One time limit for all requests, with one timer, which is set again when the oldest request has ended."""

import asyncio


class TimeLimit:
    """Cancels tasks that have not ended within the limit; used on one event loop.

    Args:
        limit_s: seconds from a task's :meth:`begin`, alike for all, so that they run out in the order of beginning.

    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._ends: dict[asyncio.Task[object], float] = {}
        self._over: set[asyncio.Task[object]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self) -> asyncio.Task[object]:
        """Limit the current task from now on, until :meth:`end`; a task has one limit at a time."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        self._ends[task] = end = loop.time() + self.limit_s
        if self._timer is None:
            self._timer = loop.call_at(end, self._look, loop)
        return task

    def end(self, task: asyncio.Task[object]) -> bool:
        """Limit a task no more; returns whether it was cancelled for its time, and for nothing else."""
        self._ends.pop(task, None)
        if task not in self._over:
            return False
        self._over.discard(task)
        return task.uncancel() == 0

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        for task, end in list(self._ends.items()):
            if end > now:
                self._timer = loop.call_at(end, self._look, loop)
                return
            del self._ends[task]
            self._over.add(task)
            task.cancel()
        self._timer = None

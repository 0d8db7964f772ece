"""What happened to each request: numbers alone, nothing per request that the garbage collector would have to visit."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from lccl_client.load.plan import Plan

# Statuses of requests without an answer, beside those of HTTP.
NOT_SENT, TIMEOUT, CONNECTION = -1, -2, -3
NAMES = {NOT_SENT: "not_sent", TIMEOUT: "timeout", CONNECTION: "connection"}
COLUMNS = 6


@dataclass(slots=True)
class Records:
    """One row per request, in the order of their ends.

    Attributes:
        rows: stream, body, status, and the times at which it was due, sent and done, in seconds after the run's start.
        answers: bodies kept for the plan's reader, by row.

    """

    rows: array[float] = field(default_factory=lambda: array("d"))
    answers: dict[int, bytes] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows) // COLUMNS

    def add(self, what: tuple[int, int], status: int, due: float, sent: float, done: float) -> None:
        """Enter a request: its stream and body, and its times."""
        self.rows.extend((*what, status, due, sent, done))

    def keep(self, plan: Plan, content: bytes) -> None:
        """Keep the answer of the row entered last, when the plan wants to read it."""
        if plan.reader is not None and len(self) % plan.read_every == 0:
            self.answers[len(self) - 1] = content

"""What happened to each request, in columns: nothing per request that the garbage collector would have to visit."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from lccl_client.load.plan import Plan

# Statuses of requests without an answer, beside those of HTTP.
NOT_SENT, TIMEOUT, CONNECTION = -1, -2, -3
NAMES = {NOT_SENT: "not_sent", TIMEOUT: "timeout", CONNECTION: "connection"}


@dataclass(slots=True)
class Records:
    """One row per request, in the order of their ends; times in seconds after the start of the run."""

    stream: array[int] = field(default_factory=lambda: array("i"))
    body: array[int] = field(default_factory=lambda: array("i"))
    status: array[int] = field(default_factory=lambda: array("i"))
    scheduled: array[float] = field(default_factory=lambda: array("d"))
    sent: array[float] = field(default_factory=lambda: array("d"))
    done: array[float] = field(default_factory=lambda: array("d"))
    answers: dict[int, bytes] = field(default_factory=dict)

    def add(self, what: tuple[int, int], status: int, scheduled: float, sent: float, done: float) -> None:
        """Enter a request: its stream and body, and its times."""
        self.stream.append(what[0])
        self.body.append(what[1])
        self.status.append(status)
        self.scheduled.append(scheduled)
        self.sent.append(sent)
        self.done.append(done)

    def keep(self, plan: Plan, content: bytes) -> None:
        """Keep the answer of the row entered last, when the plan wants to read it."""
        if plan.reader is not None and len(self.status) % plan.read_every == 0:
            self.answers[len(self.status) - 1] = content

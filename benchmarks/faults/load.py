"""Load beside a trial, from the open-loop generator, and what became of its requests."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

from benchmarks.faults.outcome import FAILED, NOT_SENT, TIMEOUT, Counts, Outcome
from benchmarks.faults.rest import Rest
from benchmarks.server import Server
from lccl_client.load import Open, Plan, Report, allow_connections, run

LOST_AFTER_S = 60.0  # the service answers 504 10 s after it has read a head; this is late, and what comes never is lost
BUSY = frozenset({"429", "504"})


@dataclass(slots=True)
class Loaded:
    """What became of a load, once it has ended.

    Attributes:
        strange: answers by stream that neither rest nor overload explains.
        p99_ms: of good answers, from when their requests were due.
        late_p99_ms: how late the generator itself sent requests.
        not_sent: requests that it did not send, since too many were under way.

    """

    counts: Counts = field(default_factory=Counts)
    strange: list[str] = field(default_factory=list)
    p99_ms: float = 0.0
    late_p99_ms: float = 0.0
    not_sent: int = 0

    def enter(self, outcome: Outcome, rest: Rest, may_fail: bool = False) -> None:
        """Add to a trial's outcome; connections may fail only in some."""
        outcome.counts.add(self.counts)
        outcome.faults += self.strange
        outcome.faults += [f"wrong answer to {difference}" for difference in rest.differences]
        if self.counts.failed and not may_fail:
            outcome.faults.append(f"{self.counts.failed} connections of good clients failed")
        if not self.counts.sent:
            outcome.faults.append("no load was sent")
        steps: list[dict[str, float]] = outcome.figures.setdefault("loads", [])
        told = {"sent": self.counts.sent, "not_sent": self.not_sent}
        steps.append(told | {"p99_ms": round(self.p99_ms, 1), "generator_late_p99_ms": round(self.late_p99_ms, 1)})


def load(server: Server, rest: Rest, rate_per_s: float, seconds: float, busy: frozenset[str] = BUSY) -> Loaded:
    """Send the streams of ``rest`` at a rate; blocks until all requests have ended."""
    plan = Plan(
        server.base, tuple(rest.streams), Open(rate_per_s), seconds, timeout_s=LOST_AFTER_S, reader=rest.read
    )  # fmt: skip
    return _judge(run(plan), rest, busy)


@contextmanager
def loading(
    server: Server, rest: Rest, rate_per_s: float, seconds: float, busy: frozenset[str] = BUSY
) -> Iterator[Loaded]:
    """The same beside what is done inside ``with``, at whose end the load has ended too, and is told of."""
    allow_connections()
    loaded = Loaded()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(load, server, rest, rate_per_s, seconds, busy)
        time.sleep(min(0.5, seconds / 4))
        yield loaded
        found = running.result()
    loaded.counts, loaded.strange = found.counts, found.strange
    loaded.p99_ms, loaded.late_p99_ms, loaded.not_sent = found.p99_ms, found.late_p99_ms, found.not_sent


def _judge(report: Report, rest: Rest, busy: frozenset[str]) -> Loaded:
    latency, late = report.total.latency_ms, report.generator.late_ms
    loaded = Loaded(p99_ms=latency.p99 if latency else 0.0, late_p99_ms=late.p99 if late else 0.0)
    for name, stream in report.streams.items():
        statuses = dict(stream.statuses)
        loaded.not_sent += statuses.pop(NOT_SENT, 0)
        statuses.pop(TIMEOUT, 0)  # lost, for they are sent and nothing else
        failed = statuses.pop(FAILED, 0)
        unreadable = stream.means.get("unreadable")
        wrong = round(unreadable.value * unreadable.answers) if unreadable else 0
        for status, count in statuses.items():
            if status != rest.statuses[name] and status not in busy:
                loaded.strange.append(f"{count} of {name} were answered {status}")
        loaded.counts.add(
            Counts(stream.requests - stream.statuses.get(NOT_SENT, 0), Counter(statuses), failed, wrong=wrong)
        )
    return loaded

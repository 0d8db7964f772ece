"""Records of a run → counts, latencies from the scheduled times, goodput, and means of what was read."""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lccl_client.load.plan import Closed, Open, Plan

# Statuses of requests without an answer, beside those of HTTP.
NOT_SENT, TIMEOUT, CONNECTION = -1, -2, -3
NAMES = {NOT_SENT: "not_sent", TIMEOUT: "timeout", CONNECTION: "connection"}
UNREADABLE = "unreadable"
LATE_MS = 5.0
BUSY_SHARE = 0.8


@dataclass(slots=True)
class Records:
    """What happened to each request, in the order of their ends: no objects that the garbage collector would visit.

    Attributes:
        rows: six numbers a request: stream, body, status, and when it was due, sent and done, in seconds after the
            run's start.
        answers: bodies kept for the plan's reader, by row.

    """

    rows: array[float] = field(default_factory=lambda: array("d"))
    answers: dict[int, bytes] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows) // 6

    def add(self, what: tuple[int, int], status: int, due: float, sent: float, done: float) -> None:
        """Enter a request: its stream and body, its status, and its times."""
        self.rows.extend((*what, status, due, sent, done))


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Milliseconds."""

    p50: float
    p90: float
    p99: float
    max: float


@dataclass(frozen=True, slots=True)
class Mean:
    """The mean of a number that the reader found in so many answers."""

    value: float
    answers: int


@dataclass(frozen=True, slots=True)
class Summary:
    """The outcome of the requests that were due between warm-up and end.

    Attributes:
        requests: how many.
        statuses: how many of each HTTP status, ``timeout``, ``connection`` (none, or broken) or ``not_sent``; they add
            up to ``requests``.
        successes_per_s: answers with a 2xx that came between warm-up and end, whenever they were due.
        goodput_per_s: requests answered with a 2xx within the plan's objective; None without one.
        latency_ms: of 2xx, from when a request was due to the last byte of its answer; None without any.
        means: what the reader found, by name; ``unreadable`` counts the answers it refused.

    """

    requests: int
    statuses: dict[str, int]
    successes_per_s: float
    goodput_per_s: float | None
    latency_ms: Quantiles | None
    means: dict[str, Mean]


@dataclass(frozen=True, slots=True)
class Generator:
    """The cost of the load generator itself, and whether it kept its times.

    Attributes:
        cpu_s: processor seconds from the first request to the last answer.
        cpu_us_per_request: the same per request.
        cpu_share: the same as a share of one core's time.
        late_ms: from when a request was due to when it was sent; None if none was.
        event_loop: ``uvloop`` or ``asyncio``.
        warnings: sentences; without any, the generator was fast enough.

    """

    cpu_s: float
    cpu_us_per_request: float
    cpu_share: float
    late_ms: Quantiles | None
    event_loop: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """The result of a run: over all streams, by stream, and of the generator."""

    rate_per_s: float | None
    in_flight: int | None
    duration_s: float
    warmup_s: float
    slo_ms: float | None
    total: Summary
    streams: dict[str, Summary]
    generator: Generator


def summarise(plan: Plan, records: Records, cpu_s: float, wall_s: float, event_loop: str) -> Report:
    """The report of a run that took the generator so many processor and wall-clock seconds."""
    table, pace = _Table(plan, records), plan.pace
    return Report(
        rate_per_s=pace.rate_per_s if isinstance(pace, Open) else None,
        in_flight=pace.in_flight if isinstance(pace, Closed) else None,
        duration_s=plan.duration_s,
        warmup_s=plan.warmup_s,
        slo_ms=plan.slo_ms,
        total=table.summary(np.full(len(records), True)),
        streams={stream.name: table.summary(table.stream == number) for number, stream in enumerate(plan.streams)},
        generator=table.generator(cpu_s, wall_s, event_loop),
    )


class _Table:
    """The records as arrays [requests], and what the reader found in each answer kept."""

    def __init__(self, plan: Plan, records: Records) -> None:
        self._plan = plan
        rows = np.array(records.rows).reshape(-1, 6).T
        self.stream, self.body, self.status = rows[:3].astype(np.int64)
        self.due, self.sent, self.done = rows[3:]
        self.good = (self.status >= 200) & (self.status < 300)
        self.counts = _within(self.due, plan)
        self._numbers = {row: self._read(row, content) for row, content in records.answers.items() if self.counts[row]}

    def summary(self, rows: NDArray[np.bool_]) -> Summary:
        """Summarise some of the rows."""
        plan, counted = self._plan, rows & self.counts
        latencies = 1000 * (self.done - self.due)[counted & self.good]
        return Summary(
            requests=int(counted.sum()),
            statuses={
                NAMES.get(code, str(code)): number
                for code, number in Counter(np.sort(self.status[counted]).tolist()).items()
            },
            successes_per_s=float((rows & self.good & _within(self.done, plan)).sum() / plan.duration_s),
            goodput_per_s=None if plan.slo_ms is None else float((latencies <= plan.slo_ms).sum() / plan.duration_s),
            latency_ms=quantiles(latencies),
            means=self._means(rows),
        )

    def generator(self, cpu_s: float, wall_s: float, event_loop: str) -> Generator:
        """What the run took of the generator."""
        sent = self.status != NOT_SENT
        late = quantiles(1000 * (self.sent - self.due)[sent])
        late_ms = late.p99 if late and isinstance(self._plan.pace, Open) else 0.0
        share = cpu_s / wall_s
        checks = (
            (
                late_ms > LATE_MS,
                f"1 % of the requests were sent {late_ms:.1f} ms late or more: give the generator a core of its own, "
                "or ask for a lower rate",
            ),
            (share > BUSY_SHARE, f"the generator was busy {100 * share:.0f} % of the time: it may limit the figures"),
            (not sent.all(), f"{(~sent).sum()} requests were not sent: too many were under way"),
        )
        warnings = tuple(text for failed, text in checks if failed)
        return Generator(cpu_s, 1e6 * cpu_s / max(1, int(sent.sum())), share, late, event_loop, warnings)

    def _read(self, row: int, content: bytes) -> Mapping[str, float]:
        assert self._plan.reader is not None
        try:
            numbers = self._plan.reader(self._plan.streams[self.stream[row]].bodies[self.body[row]], content)
            return {**numbers, UNREADABLE: 0.0}
        except ValueError:
            return {UNREADABLE: 1.0}

    def _means(self, rows: NDArray[np.bool_]) -> dict[str, Mean]:
        values = defaultdict[str, list[float]](list)
        for row, numbers in self._numbers.items():
            for name in numbers if rows[row] else ():
                values[name].append(numbers[name])
        return {name: Mean(float(np.mean(some)), len(some)) for name, some in values.items()}


def quantiles(milliseconds: NDArray[np.float64]) -> Quantiles | None:
    """Quantiles of some durations; None of none."""
    return Quantiles(*np.quantile(milliseconds, (0.5, 0.9, 0.99, 1)).tolist()) if len(milliseconds) else None


def _within(times: NDArray[np.float64], plan: Plan) -> NDArray[np.bool_]:
    return np.logical_and(times >= plan.warmup_s, times < plan.warmup_s + plan.duration_s)

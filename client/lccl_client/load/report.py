"""Records of a run → what it shows: counts, latencies from the scheduled times, goodput, means of what was read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lccl_client.load.plan import Closed, Plan
from lccl_client.load.records import NAMES, NOT_SENT, Records

UNREADABLE = "unreadable"
LATE_MS = 5.0
BUSY_SHARE = 0.8


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
    """What became of the requests that were due between warm-up and end.

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
    """What the load generator itself took, and whether it kept its times.

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
    """What a run showed: over all streams, by stream, and of the generator."""

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
    table = _Table(plan, records)
    everything = np.ones(len(table.status), dtype=bool)
    closed = isinstance(plan.pace, Closed)
    return Report(
        rate_per_s=None if isinstance(plan.pace, Closed) else plan.pace.rate_per_s,
        in_flight=plan.pace.in_flight if isinstance(plan.pace, Closed) else None,
        duration_s=plan.duration_s,
        warmup_s=plan.warmup_s,
        slo_ms=plan.slo_ms,
        total=table.summary(everything),
        streams={stream.name: table.summary(table.stream == number) for number, stream in enumerate(plan.streams)},
        generator=_generator(table, cpu_s, wall_s, event_loop, closed),
    )


class _Table:
    """The records as arrays [requests], and what the reader found in each answer kept."""

    def __init__(self, plan: Plan, records: Records) -> None:
        self._plan = plan
        self.stream = np.array(records.stream, dtype=np.int64)
        self.status = np.array(records.status, dtype=np.int64)
        self.scheduled, self.sent, self.done = (
            np.array(column, dtype=np.float64) for column in (records.scheduled, records.sent, records.done)
        )
        self.good = (self.status >= 200) & (self.status < 300)
        self.counts = _within(self.scheduled, plan)
        self._found = {row: _read(plan, records, row) for row in records.answers if self.counts[row]}

    def summary(self, rows: NDArray[np.bool_]) -> Summary:
        """Sum up some of the rows."""
        plan, counted = self._plan, rows & self.counts
        latencies = 1000 * (self.done - self.scheduled)[counted & self.good]
        found = [column.tolist() for column in np.unique(self.status[counted], return_counts=True)]
        goodput = None if plan.slo_ms is None else float((latencies <= plan.slo_ms).sum() / plan.duration_s)
        return Summary(
            requests=int(counted.sum()),
            statuses={NAMES.get(code, str(code)): number for code, number in zip(*found, strict=True)},
            successes_per_s=float((rows & self.good & _within(self.done, plan)).sum() / plan.duration_s),
            goodput_per_s=goodput,
            latency_ms=quantiles(latencies),
            means=self._means(rows),
        )

    def _means(self, rows: NDArray[np.bool_]) -> dict[str, Mean]:
        values: dict[str, list[float]] = {}
        for row, found in self._found.items():
            if rows[row]:
                for name, value in found.items():
                    values.setdefault(name, []).append(value)
        return {name: Mean(float(np.mean(some)), len(some)) for name, some in values.items()}


def quantiles(milliseconds: NDArray[np.float64]) -> Quantiles | None:
    """Quantiles of some durations; None of none."""
    if not len(milliseconds):
        return None
    p50, p90, p99, most = (float(value) for value in np.quantile(milliseconds, (0.5, 0.9, 0.99, 1)))
    return Quantiles(p50, p90, p99, most)


def _within(times: NDArray[np.float64], plan: Plan) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (times >= plan.warmup_s) & (times < plan.warmup_s + plan.duration_s)
    return found


def _read(plan: Plan, records: Records, row: int) -> dict[str, float]:
    assert plan.reader is not None
    body = plan.streams[records.stream[row]].bodies[records.body[row]]
    try:
        return {**plan.reader(body, records.answers[row]), UNREADABLE: 0.0}
    except ValueError:
        return {UNREADABLE: 1.0}


def _generator(table: _Table, cpu_s: float, wall_s: float, event_loop: str, closed: bool) -> Generator:
    sent = table.status != NOT_SENT
    late = quantiles(1000 * (table.sent - table.scheduled)[sent])
    share = cpu_s / wall_s
    warnings: list[str] = []
    if late is not None and late.p99 > LATE_MS and not closed:
        warnings.append(
            f"1 % of the requests were sent {late.p99:.1f} ms late or more: give the generator a core of its own, "
            "or ask for a lower rate"
        )
    if share > BUSY_SHARE:
        warnings.append(f"the generator was busy {100 * share:.0f} % of the time: it may be what limits the figures")
    if not sent.all():
        warnings.append(f"{(~sent).sum()} requests were not sent: too many were under way")
    return Generator(cpu_s, 1e6 * cpu_s / max(1, int(sent.sum())), share, late, event_loop, tuple(warnings))

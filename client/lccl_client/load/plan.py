"""What a run sends and how fast: plain data, prepared before the run so that sending costs little."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

Arrivals = Literal["poisson", "uniform"]


@dataclass(frozen=True, slots=True)
class Body:
    """A request's body, and what a reader may compare the answer with."""

    content: bytes
    label: str | None = None


# Reads one successful answer, given the body it answers, as numbers by name; the report states each name's mean.
# A ValueError says that the answer is not right. Runs after the load, so what it costs disturbs nothing.
Reader = Callable[[Body, bytes], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class Stream:
    """Requests of one kind, which differ in their bodies.

    Attributes:
        name: what the report calls it.
        weight: its share of all requests, relative to the other streams'.
        path: with the query, encoded as it is to be sent.
        bodies: taken in turn, in an order drawn from the plan's seed.

    """

    name: str
    method: str
    path: str
    headers: Mapping[str, str]
    bodies: tuple[Body, ...]
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not self.bodies or not self.weight > 0:
            raise ValueError(f"stream {self.name} needs a body and a positive weight")
        if self.method == "HEAD":
            raise ValueError("HEAD is not sent: its answers have a length but no body")
        if not self.path.startswith("/") or any(mark in self.path for mark in " \r\n"):
            raise ValueError(f"stream {self.name}: {self.path!r} is not an encoded path")


@dataclass(frozen=True, slots=True)
class Open:
    """Requests at their own times, whatever the server does: the load of many independent clients.

    Attributes:
        rate_per_s: mean number of requests a second.
        concurrency_limit: requests under way at most; what comes beyond is counted as ``not_sent``.

    """

    rate_per_s: float
    arrivals: Arrivals = "poisson"
    concurrency_limit: int = 4096

    def __post_init__(self) -> None:
        if not self.rate_per_s > 0 or self.concurrency_limit < 1:
            raise ValueError("an open load needs a positive rate and a concurrency limit of at least 1")


@dataclass(frozen=True, slots=True)
class Closed:
    """A constant number of requests under way: measures capacity, not the latency of independent clients."""

    in_flight: int

    def __post_init__(self) -> None:
        if self.in_flight < 1:
            raise ValueError("a closed load needs at least one request under way")


@dataclass(frozen=True, slots=True)
class Plan:
    """One run of load.

    Attributes:
        base_url: scheme, host and port.
        duration_s: seconds that count.
        warmup_s: seconds of the same load before them that do not.
        timeout_s: a request without an answer after so many seconds is given up.
        slo_ms: an answer within so many milliseconds of its scheduled time counts as goodput.
        seed: of arrivals, of which stream sends when, and of the order of bodies.
        reader: reads answers, see :data:`Reader`.
        read_every: one answer of so many is kept and read.

    """

    base_url: str
    streams: tuple[Stream, ...]
    pace: Open | Closed
    duration_s: float
    warmup_s: float = 0.0
    timeout_s: float = 30.0
    slo_ms: float | None = None
    seed: int = 0
    reader: Reader | None = None
    read_every: int = 1

    def __post_init__(self) -> None:
        if not self.streams or len({stream.name for stream in self.streams}) != len(self.streams):
            raise ValueError("a plan needs streams with different names")
        if not self.duration_s > 0 or not self.warmup_s >= 0 or not self.timeout_s > 0 or self.read_every < 1:
            raise ValueError("duration, timeout and read_every must be positive, warmup not negative")

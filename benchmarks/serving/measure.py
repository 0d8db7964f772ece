"""Load on one server at a time: saturated, at a given rate, and one request after the other."""

from __future__ import annotations

import asyncio
import json
import math
import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving import processes
from benchmarks.serving.servers import Ask, Server
from lccl_client.load import Body, Closed, Open, Plan, Report, Stream, run_apart
from lccl_client.load.connections import Connections

IN_FLIGHT = 64
OVERLOAD = 1.15
WARM_UP_S = 1.0
READ_EVERY = 5


@dataclass(frozen=True, slots=True, eq=False)
class Contestant:
    """A line of the comparison: a server and how it is asked.

    Attributes:
        name: as tables show it.
        kind: ``dense`` (a peer with a runtime people use), ``whole`` (one that decodes JPEGs whole, too), ``native`` (a
            peer with this project's engine) or ``own``.
        asks: one, or several that are mixed evenly.
        precision: that the network is computed in.
        accuracy: on test images; None where nobody measured it.

    """

    name: str
    kind: str
    server: Server
    asks: tuple[Ask, ...]
    precision: str = "fp32"
    accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a server did under a load.

    Attributes:
        answers_per_s: answers with a 200, from warm-up to end.
        answered: share of the requests that got one.
        p50_ms, p99_ms: from when a request was due; None without answers.
        cpu_ms_per_answer: the server's processor time, all processes.
        generator_share: of one core.
        others_cores: cores' worth of processor time that neither server nor generator took: near 0 on a quiet machine.
        skip_ratio: mean of what the answers say; None where they say nothing.

    """

    answers_per_s: float
    answered: float
    p50_ms: float | None
    p99_ms: float | None
    cpu_ms_per_answer: float
    generator_share: float
    others_cores: float
    skip_ratio: float | None


@dataclass(frozen=True, slots=True)
class Alone:
    """One request at a time, medians in milliseconds.

    Attributes:
        total_ms: what a client waits for.
        outside_ms: that without the engine's time.
        served_ms: of this, what passed in the server, from a request's head to its answer; None where it does not say.

    """

    total_ms: float
    outside_ms: float
    served_ms: float | None


@contextmanager
def awake(server: Server) -> Iterator[None]:
    """Let a frozen server run."""
    server.thaw()
    try:
        yield
    finally:
        server.freeze()


def saturate(contestant: Contestant, seconds: float) -> tuple[Loaded, Loaded]:
    """A closed load, then an open one beyond what that gave."""
    closed = load(contestant, Closed(IN_FLIGHT), seconds)
    return closed, load(contestant, Open(OVERLOAD * max(1.0, closed.answers_per_s)), seconds)


def load(contestant: Contestant, pace: Closed | Open, seconds: float, seed: int = 0) -> Loaded:
    """Put a load on a server that is awake."""
    streams = tuple(
        Stream(ask.path, "POST", ask.path, {"Content-Type": ask.content_type}, tuple(map(Body, ask.bodies)))
        for ask in contestant.asks
    )
    plan = Plan(
        contestant.server.base, streams, pace, seconds, WARM_UP_S, seed=seed, reader=read_answer, read_every=READ_EVERY
    )
    before = _clocks(contestant.server)
    report = run_apart(plan, {max(os.sched_getaffinity(0))})
    passed, machine, server, here = _clocks(contestant.server) - before
    return summarise(report, server, (machine - server - here) / passed)


def _clocks(server: Server) -> NDArray[np.float64]:
    """Seconds of the wall clock, and of processors: the machine's, the server's, and the benchmark's own."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    here = sum(usage.ru_utime + usage.ru_stime for usage in usages)
    return np.array([time.monotonic(), processes.machine_seconds(), server.cpu_seconds(), here])


def summarise(report: Report, cpu_s: float, others_cores: float) -> Loaded:
    """What a report says, with the server's processor time over all of its run."""
    total, seconds = report.total, report.warmup_s + report.duration_s
    answers = total.statuses.get("200", 0)
    latency, skipped = total.latency_ms, total.means.get("skip_ratio")
    return Loaded(
        answers_per_s=total.successes_per_s,
        answered=answers / max(1, total.requests),
        p50_ms=latency.p50 if latency else None,
        p99_ms=latency.p99 if latency else None,
        cpu_ms_per_answer=1000 * cpu_s / max(1.0, answers * seconds / report.duration_s),
        generator_share=report.generator.cpu_share,
        others_cores=max(0.0, others_cores),
        skip_ratio=skipped.value if skipped else None,
    )


def read_answer(_: Body, content: bytes) -> dict[str, float]:
    """The skip ratio in an answer of this service; nothing in a peer's."""
    answer = json.loads(content)
    if not isinstance(answer, dict) or "predictions" not in answer:
        return {}
    return {"skip_ratio": answer["predictions"][0]["skip_ratio"]}


def engine_ms(content: bytes) -> tuple[float, float | None]:
    """How long the engine took, and the server without it, as an answer says; the latter is None where it does not."""
    answer = json.loads(content)
    if isinstance(answer, list):
        answer = answer[0]
    if "timing_ms" not in answer:
        return float(answer["compute_ms"]), None
    timing = answer["timing_ms"]
    return float(timing["compute"]), float(timing["total"] - timing["compute"])


def alone(contestant: Contestant, seconds: float) -> Alone:
    """Ask a server that is awake about one image after the other."""
    return asyncio.run(_alone(contestant, seconds))


async def _alone(contestant: Contestant, seconds: float) -> Alone:
    ask, connections = contestant.asks[0], Connections(contestant.server.base, timeout_s=30)
    head = connections.head("POST", ask.path, {"Content-Type": ask.content_type})
    rows: list[tuple[float, float, float]] = []
    deadline = time.monotonic() + WARM_UP_S + seconds
    while (started := time.monotonic()) < deadline:
        reply = await connections.ask(head, ask.bodies[len(rows) % len(ask.bodies)])
        if reply.status != 200:
            raise RuntimeError(f"{contestant.name} answered {reply.status}: {reply.content[:200]!r}")
        total = 1000 * (reply.at - started)
        engine, served = engine_ms(reply.content)
        rows.append((total, total - engine, math.nan if served is None else served))
        # A pause, so that the next request finds a server at rest.
        await asyncio.sleep(0.002)
    connections.close()
    total_ms, outside_ms, served_ms = np.median(rows[len(rows) // 4 :], axis=0).tolist()
    return Alone(total_ms, outside_ms, None if math.isnan(served_ms) else served_ms)

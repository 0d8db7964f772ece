"""Clients that are many: 5,000 connections."""

from __future__ import annotations

import asyncio
import time

from benchmarks.faults.cases import small_cases
from benchmarks.faults.load import BUSY, loading
from benchmarks.faults.outcome import Counts, Outcome
from benchmarks.faults.raw import Connection, request
from benchmarks.faults.rest import Rest, ask, at_rest
from benchmarks.faults.scale import Scale
from benchmarks.server import Server


def many_connections(scale: Scale, outcome: Outcome) -> None:
    """5,000 connections at once: most are idle, some ask all the time, at the end all ask together."""
    count = 500 if scale.quick else 5000
    with Server("connections") as server:
        rest = at_rest(server.base, small_cases())
        with loading(server, rest, 100, 5 if scale.quick else 30, BUSY) as loaded:
            counts, figures = asyncio.run(_crowd(server, rest, count))
        loaded.enter(outcome, rest)
        outcome.counts.add(counts)
        outcome.figures |= figures
        outcome.require(figures["held"] >= count, f"only {figures['held']} connections were held")
        outcome.require(not counts.failed, f"{counts.failed} of the crowd's connections failed")
        outcome.require(set(counts.answered) <= {"200", *BUSY}, f"the crowd was answered {dict(counts.answered)}")
        outcome.require("200" in counts.answered, "nobody of the crowd was served")
        outcome.faults += server.unready()
        outcome.faults += server.errors()


async def _crowd(server: Server, rest: Rest, count: int) -> tuple[Counts, dict[str, float]]:
    body = rest.streams[0].bodies[0]
    asked, counts = request(rest.streams[0].path, body.content, rest.streams[0].headers), Counts()
    before = server.memory_bytes()
    crowd = []
    for _ in range(0, count, 100):
        crowd += await asyncio.gather(*(Connection.open(server.base) for _ in range(100)))
    deadline = time.monotonic() + 30
    while (held := server.open_files()) < count and time.monotonic() < deadline:
        await asyncio.sleep(0.1)  # connected, but not yet accepted

    async def ask_on(connections: list[Connection]) -> None:
        await asyncio.gather(*(ask(each, asked, counts, rest, str(body.label)) for each in connections))

    for _ in range(5):
        await ask_on(crowd[::10])
    began = time.monotonic()
    await ask_on(crowd)
    figures = {"held": held, "together_s": round(time.monotonic() - began, 2)}
    figures["bytes_per_connection"] = round((server.memory_bytes() - before) / count)
    for connection in crowd:
        connection.close()
    return counts, figures

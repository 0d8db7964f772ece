"""A greedy client and a modest one: whatever the greedy one sends within the limits, the modest one is served."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import httpx

import lccl
from benchmarks.faults.cases import CLASSIFY, FORM, JPEG, MODEL, form, images, large, small_cases
from benchmarks.faults.load import ENDED, Connection, Rest, at_rest, load, request
from benchmarks.faults.outcome import Counts, Outcome, Scale
from benchmarks.faults.program import PROGRAM, SLOW
from benchmarks.server import BUILD, MODELS, Server
from lccl_client.load import allow_connections

GREEDY = "127.0.0.2"  # the modest client has the machine's usual address, 127.0.0.1
RATE_PER_S = 20.0
TIMES = 5  # what the modest client's p99 may be, of its own without the greedy one, plus one batch
REFUSED_S = 0.2  # until a refused request is sent again
GIVES_WAY = 10  # the nice value of greedy clients


@dataclass(frozen=True, slots=True)
class Greed:
    """What a greedy client sends on each of its connections, one request after the other."""

    connections: int
    path: str
    headers: dict[str, str]
    body: bytes


def kinds() -> dict[str, Greed]:
    """Every way to ask for much within the limits."""
    small = images(8, 32)
    return {
        "large PNGs": Greed(8, CLASSIFY, FORM, form([huge_png(5000)] * 8)),
        "photographs": Greed(8, CLASSIFY, FORM, form([large(3500)] * 16)),
        "many images": Greed(16, CLASSIFY, FORM, form([*small] * 8)),
        "connections": Greed(400, CLASSIFY, JPEG, small[0]),
        "slow model": Greed(64, f"/v1/models/{SLOW}/classify", FORM, form([*small] * 8)),
    }


def huge_png(side: int) -> bytes:
    """A grey PNG that is small as a file."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = chunk(b"IHDR", side.to_bytes(4, "big") * 2 + bytes((8, 0, 0, 0, 0)))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes((1 + side) * side))) + chunk(b"IEND", b"")


def greedy(scale: Scale, outcome: Outcome) -> None:
    """The modest client's requests are all answered, and in at most five times their time alone plus one batch."""
    seconds = 5.0 if scale.quick else 30.0
    flags = ("--default-model", MODEL, "--models", str(_two_models()))
    with Server("greedy", *flags, program=PROGRAM) as server:
        rest, files = at_rest(server.base, small_cases()[:3]), server.open_files()
        batch_ms = max(_batch_ms(server.base, model) for model in (MODEL, SLOW))
        load(server, rest, RATE_PER_S, 2).enter(outcome, rest)
        alone = load(server, rest, RATE_PER_S, seconds)
        alone.enter(outcome, rest)
        allowed_ms = TIMES * alone.p99_ms + batch_ms
        told = {"alone_p99_ms": round(alone.p99_ms, 1), "one_batch_ms": round(batch_ms, 1)}
        for kind, greed in kinds().items():
            told[kind] = _beside(server, rest, kind, greed, seconds, allowed_ms, outcome)
        outcome.figures["modest"] = told
        outcome.faults += rest.surprises + server.settled(files) + server.unready() + server.errors()


def _beside(
    server: Server, rest: Rest, kind: str, greed: Greed, seconds: float, allowed_ms: float, outcome: Outcome
) -> dict[str, object]:
    """The modest client's load beside one kind of greed."""
    with greedy_client(server.base, greed) as counts:
        time.sleep(1.0)
        loaded = load(server, rest, RATE_PER_S, seconds, frozenset())
    loaded.enter(outcome, rest)
    outcome.counts.add(counts)
    p99_ms, good = loaded.p99_ms, loaded.counts.answered["200"]
    outcome.require(good == loaded.counts.sent, f"{kind}: {loaded.counts.sent - good} modest requests were not served")
    outcome.require(p99_ms <= allowed_ms, f"{kind}: the modest p99 is {p99_ms:.0f} ms, over {allowed_ms:.0f} ms")
    strange = set(counts.answered) - {"200", "429", "504"}
    outcome.require(not strange, f"{kind}: the greedy client was answered {', '.join(sorted(strange))}")
    outcome.require(counts.sent > 0, f"{kind}: nothing greedy was sent")
    return {"p99_ms": round(p99_ms, 1), "greedy": dict(counts.answered)}


def _two_models() -> Path:
    """A folder with the shipped model, and the same as a slow one."""
    folder, bundle = BUILD / "greedy-models", lccl.load(MODELS / MODEL)
    shutil.rmtree(folder, ignore_errors=True)
    lccl.save(bundle, folder / MODEL)
    lccl.save(replace(bundle, version=SLOW), folder / SLOW)
    return folder


def _batch_ms(base: str, model: str) -> float:
    """What a batch may cost the modest client: one image's time, at least 30 ms, thrice what the service cuts it to."""
    path = f"{base}/v1/models/{model}/classify"
    times = [httpx.post(path, content=images(1, 32)[0], headers=JPEG, timeout=30).json()["timing_ms"] for _ in range(5)]
    return max(30.0, *(float(one["compute"]) for one in times))


def greedy_client(base: str, greed: Greed) -> AbstractContextManager[Counts]:
    """A greedy client until the context ends."""
    return in_a_process(_take_all, base, greed)


@contextmanager
def in_a_process(client: Callable[..., None], *given: object) -> Iterator[Counts]:
    """A client in a process of its own until the context ends; then what became of its requests.

    It gives way to the load generator on the same processors, whose lateness would be taken for the server's. It says
    ``"begun"`` into the pipe that is its last argument, and is told there when to end.
    """
    start, counts = multiprocessing.get_context("spawn"), Counts()
    here, there = start.Pipe()
    process = start.Process(target=client, args=(*given, there), daemon=True)
    process.start()
    assert process.pid is not None
    os.setpriority(os.PRIO_PROCESS, process.pid, GIVES_WAY)
    try:
        assert here.recv() == "begun"
        yield counts
        here.send("stop")
        sent, answered, failed = here.recv()
        counts.add(Counts(sent, Counter(answered), failed))
    finally:
        process.join(5)
        process.kill()


def _take_all(base: str, greed: Greed, pipe: Pipe) -> None:
    allow_connections()
    asyncio.run(_send_all(base, greed, pipe))


async def _send_all(base: str, greed: Greed, pipe: Pipe) -> None:
    asked, counts, stop = request(greed.path, greed.body, greed.headers), Counts(), asyncio.Event()

    async def ask_on() -> None:
        connection = None
        while not stop.is_set():
            counts.sent += 1
            try:
                connection = connection or await Connection.open(base, GREEDY)
                await connection.send(asked)
                status, _ = await connection.answer()
            except ENDED:
                counts.failed += 1
                connection = None
                continue
            counts.answered[str(status)] += 1
            if status != 200:
                await asyncio.sleep(REFUSED_S)
        if connection is not None:
            connection.close()

    senders = [asyncio.create_task(ask_on()) for _ in range(greed.connections)]
    pipe.send("begun")
    await asyncio.to_thread(pipe.recv)
    stop.set()
    await asyncio.gather(*senders)
    pipe.send((counts.sent, dict(counts.answered), counts.failed))

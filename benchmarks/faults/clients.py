"""Clients that leave at every stage, that are slow on purpose, and that are many."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.faults.cases import CLASSIFY, FORM, JPEG, SEED, form, images, large, small_cases
from benchmarks.faults.load import BUSY, Rest, ask, at_rest, loading
from benchmarks.faults.outcome import Counts, Outcome, Scale
from benchmarks.faults.raw import ENDED, Connection, pieces, request
from benchmarks.server import Server

LEAVERS_AT_ONCE = 50
HEAD_S, BODY_S, IDLE_S = 2, 3, 3


def disconnects(scale: Scale, outcome: Outcome) -> None:
    """Thousands of clients leave, politely or with a reset, at each stage of a request."""
    leavers = 200 if scale.quick else 5000
    with Server("disconnects") as server:
        rest = at_rest(server.base, small_cases())
        files = server.open_files()
        with loading(server, rest, 100, 4 if scale.quick else 60) as loaded:
            stages, counts = asyncio.run(_leave_all(server.base, leavers))
        loaded.enter(outcome, rest)
        outcome.counts.add(counts)
        outcome.figures["left"] = dict(stages)
        outcome.faults += server.settled(files) + server.unready() + server.errors()


async def _leave_all(base: str, count: int) -> tuple[Counter[str], Counts]:
    chance, room, stages = random.Random(SEED), asyncio.Semaphore(LEAVERS_AT_ONCE), Counter[str]()
    whole = {
        "image": request(CLASSIFY, images(1, 32)[0], JPEG),
        "photograph": request(CLASSIFY, large(1500), JPEG),
        "form": request(CLASSIFY, form(images(60, 32)), FORM),
    }

    async def leave() -> None:
        async with room:
            stage, kind, reset = chance.choice(list(STAGES)), chance.choice(list(whole)), chance.random() < 0.5
            connection = await Connection.open(base)
            try:
                await _go_to(STAGES[stage], connection, whole[kind])
            except ENDED:
                stage = "the server was faster"
            finally:
                connection.close(reset)
            stages[stage] += 1

    await asyncio.gather(*(leave() for _ in range(count)))
    return stages, Counts(sent=count, abandoned=count)


@dataclass(frozen=True, slots=True)
class Stage:
    """How far a client goes before it leaves: what of a request it sends, how long it waits, and what it reads."""

    part: Callable[[bytes], bytes] = bytes
    wait_s: float = 0.0
    reads: str = ""


STAGES = {
    "connected": Stage(lambda whole: b""),
    "within the head": Stage(lambda whole: whole[:40]),
    "before the body": Stage(lambda whole: whole[: whole.index(b"\r\n\r\n") + 4], 0.005),
    "within the body": Stage(lambda whole: whole[:-100], 0.005),
    "at once after the request": Stage(),
    "while it waits": Stage(wait_s=0.02),
    "with eight sent ahead": Stage(lambda whole: whole * 8, 0.1),
    "within the answer": Stage(reads="first bytes"),
    "within the next head": Stage(reads="answer"),
}


async def _go_to(stage: Stage, connection: Connection, whole: bytes) -> None:
    if part := stage.part(whole):
        await connection.send(part)
    await asyncio.sleep(stage.wait_s)
    if stage.reads == "first bytes":
        await connection.reader.read(20)
    elif stage.reads:
        await connection.answer()
        await connection.send(whole[:100])


def slow_loris(scale: Scale, outcome: Outcome) -> None:
    """Hundreds of connections send heads and bodies byte by byte, or take no answer, beside good load."""
    each = 20 if scale.quick else 500
    limits = ("--header-timeout-s", f"{HEAD_S}", "--request-timeout-s", f"{BODY_S}", "--idle-timeout-s", f"{IDLE_S}")
    with Server("slow-loris", *limits) as server:
        rest = at_rest(server.base, small_cases())
        files = server.open_files()
        with loading(server, rest, 50, 20) as loaded:
            ends, counts = asyncio.run(_trickle_all(server.base, each))
        loaded.enter(outcome, rest)
        outcome.counts.add(counts)
        outcome.figures |= {
            kind: {"ended": dict(ended), "longest_s": round(longest, 1)} for kind, (ended, longest) in ends.items()
        }
        for kind, (_, longest) in ends.items():
            outcome.require(
                longest < HEAD_S + BODY_S + IDLE_S + 2, f"{kind}: a connection was held for {longest:.1f} s"
            )
        outcome.faults += server.settled(files) + server.errors()


async def _trickle_all(base: str, each: int) -> tuple[dict[str, tuple[Counter[str], float]], Counts]:
    whole, counts = request(CLASSIFY, images(1, 32)[0], JPEG), Counts()
    begin = whole.index(b"\r\n\r\n") + 4
    kinds = {"heads": (b"", whole), "bodies": (whole[:begin], whole[begin:]), "silence": (b"", b"")}
    ends: dict[str, tuple[Counter[str], float]] = {}

    async def trickle(first: bytes, rest: bytes) -> tuple[str, float]:
        connection = await Connection.open(base)
        began = time.monotonic()
        sending = asyncio.create_task(_drip(connection, first, rest))
        try:
            told = await asyncio.wait_for(connection.reader.read(), 60)
        except ENDED:
            told = b""
        finally:
            sending.cancel()
            connection.close()
        return (told.split(b" ", 2)[1].decode() if told else "closed"), time.monotonic() - began

    for kind, parts in kinds.items():
        found = await asyncio.gather(*(trickle(*parts) for _ in range(each)))
        ended = Counter(how for how, _ in found)
        ends[kind] = ended, max(seconds for _, seconds in found)
        if kind != "silence":
            answered = Counter({how: number for how, number in ended.items() if how != "closed"})
            counts.add(Counts(each, answered, each - answered.total()))
    return ends, counts


async def _drip(connection: Connection, first: bytes, rest: bytes) -> None:
    try:
        await connection.send(first)
        for piece in pieces(rest, 400) if rest else ():
            await asyncio.sleep(0.1)
            await connection.send(piece)
    except ENDED:
        return


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
        outcome.faults += server.unready() + server.errors()


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

"""Clients that leave at every stage, and that are slow on purpose."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable

from benchmarks.faults.cases import CLASSIFY, FORM, JPEG, form, small_cases
from benchmarks.faults.images import SEED, images, large
from benchmarks.faults.load import loading
from benchmarks.faults.outcome import Counts, Outcome
from benchmarks.faults.raw import ENDED, Connection, pieces, request
from benchmarks.faults.rest import at_rest
from benchmarks.faults.scale import Scale
from benchmarks.server import Server

LEAVERS_AT_ONCE = 50
HEAD_S, BODY_S, IDLE_S = 2, 3, 3


def disconnects(scale: Scale) -> Outcome:
    """Thousands of clients leave, politely or with a reset, at each stage of a request."""
    outcome = Outcome("clients leave at every stage of a request, with FIN or with RST, beside good load")
    leavers = 200 if scale.quick else 5000
    with Server("disconnects") as server:
        rest = at_rest(server.base, small_cases())
        files = server.open_files()
        with loading(server, rest, 100, 4 if scale.quick else 60) as loaded:
            stages, counts = asyncio.run(_leave_all(server.base, leavers))
        loaded.enter(outcome, rest)
        outcome.counts.add(counts)
        outcome.figures["left"] = dict(stages)
        outcome.faults += server.settled(files)
        outcome.require(server.status("/health/ready") == 200, "the server is not ready afterwards")
        outcome.faults += [f"logged: {error}" for error in server.errors()]
    return outcome


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
                await STAGES[stage](connection, whole[kind])
            except ENDED:
                stage = "the server was faster"
            finally:
                connection.close(reset)
            stages[stage] += 1

    await asyncio.gather(*(leave() for _ in range(count)))
    return stages, Counts(sent=count, abandoned=count)


async def _connected(connection: Connection, whole: bytes) -> None:
    pass


async def _within_head(connection: Connection, whole: bytes) -> None:
    await connection.send(whole[:40])


async def _before_body(connection: Connection, whole: bytes) -> None:
    await connection.send(whole[: whole.index(b"\r\n\r\n") + 4])
    await asyncio.sleep(0.005)


async def _within_body(connection: Connection, whole: bytes) -> None:
    await connection.send(whole[:-100])
    await asyncio.sleep(0.005)


async def _at_once(connection: Connection, whole: bytes) -> None:
    await connection.send(whole)


async def _while_it_waits(connection: Connection, whole: bytes) -> None:
    await connection.send(whole)
    await asyncio.sleep(0.02)


async def _when_it_is_watched(connection: Connection, whole: bytes) -> None:
    await connection.send(whole * 8)
    await asyncio.sleep(0.1)


async def _within_answer(connection: Connection, whole: bytes) -> None:
    await connection.send(whole)
    await connection.first_bytes()


async def _between_requests(connection: Connection, whole: bytes) -> None:
    await connection.send(whole)
    await connection.answer()
    await connection.send(whole[:100])


STAGES: dict[str, Callable[[Connection, bytes], Awaitable[None]]] = {
    "connected": _connected,
    "within the head": _within_head,
    "before the body": _before_body,
    "within the body": _within_body,
    "at once after the request": _at_once,
    "while it waits": _while_it_waits,
    "with eight sent ahead": _when_it_is_watched,
    "within the answer": _within_answer,
    "within the next head": _between_requests,
}


def slow_loris(scale: Scale) -> Outcome:
    """Hundreds of connections send heads and bodies byte by byte, or take no answer, beside good load."""
    outcome = Outcome("connections that trickle heads or bodies, or do not read, beside good load")
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
        outcome.faults += server.settled(files) + [f"logged: {error}" for error in server.errors()]
    return outcome


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
            told = await asyncio.wait_for(connection.ended(), 60)
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


TRIALS: dict[str, Callable[[Scale], Outcome]] = {
    "disconnects": disconnects,
    "slow-loris": slow_loris,
}

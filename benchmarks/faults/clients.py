"""What clients do: they leave at every stage, are slow, are many, and send load of all kinds for long."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.faults.cases import (
    CLASSIFY,
    FORM,
    JPEG,
    SEED,
    Case,
    bad_cases,
    form,
    good_cases,
    images,
    large,
    shuffled,
    small_cases,
)
from benchmarks.faults.load import BUSY, ENDED, Connection, Rest, ask, at_rest, load, loading, pieces, request, weighted
from benchmarks.faults.outcome import Counts, Outcome, Scale
from benchmarks.faults.program import PROGRAM
from benchmarks.server import BUILD, HOME, Server

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


SCHEMATHESIS = HOME / "build" / "schemathesis" / "bin" / "st"
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance,"
    "response_headers_conformance"
)
RATES_PER_S = (100, 300, 1000)  # the last is more than a small machine can do
MALFORMED = 0.3
ENDS_AFTER_S = 60.0


def mixed(scale: Scale, outcome: Outcome) -> None:
    """All at once."""
    seconds = 60 * scale.minutes
    step_s = min(20.0, seconds / len(RATES_PER_S))
    with Server("mixed", "--self-test-interval-s", "2") as server:
        rest = weighted(at_rest(server.base, good_cases()), MALFORMED, at_rest(server.base, bad_cases(scale.mutations)))
        files, memory = server.open_files(), server.memory_bytes()
        other = _schemathesis(server, seconds)
        try:
            began, step = time.monotonic(), 0
            while time.monotonic() - began < seconds:
                load(server, rest, RATES_PER_S[step % len(RATES_PER_S)], step_s).enter(outcome, rest)
                outcome.require(server.status("/health/live") == 200, f"the server is not alive in step {step}")
                step += 1
            _read_schemathesis(other, outcome)
        finally:
            other.kill()
            other.wait()
        outcome.faults += rest.surprises + server.settled(files) + server.errors() + server.unready()
        outcome.figures["memory_mib"] = [round(one / 2**20) for one in (memory, server.memory_bytes())]
        outcome.figures["downgraded"] = server.metric("lccl_downgraded_total")


def _schemathesis(server: Server, seconds: float) -> subprocess.Popen[bytes]:
    """Requests made from the API's own description, also such as it forbids, until the time is over.

    Raises:
        RuntimeError: it is not installed.

    """
    if not SCHEMATHESIS.exists():
        raise RuntimeError(f"{SCHEMATHESIS} is missing: `make faults` installs it")
    folder = BUILD / "schemathesis"
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        str(SCHEMATHESIS), "--config-file", str(HOME / "benchmarks" / "faults" / "schemathesis.toml"), "run",
        f"{server.base}/openapi.json", "--max-time", str(max(1, int(seconds))), "--checks", CHECKS,
        "--suppress-health-check", "all", "--continue-on-failure", "--no-shrink", "--generation-database", "none",
    ]  # fmt: skip
    with (BUILD / "schemathesis.log").open("wb") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, cwd=folder)


def _read_schemathesis(process: subprocess.Popen[bytes], outcome: Outcome) -> None:
    try:
        process.wait(ENDS_AFTER_S)
    except subprocess.TimeoutExpired:
        outcome.faults.append("schemathesis does not end")
        return
    text = (BUILD / "schemathesis.log").read_text(encoding="utf-8", errors="replace")
    found = re.search(r"(\d+) generated", text)
    outcome.figures["schemathesis_cases"] = int(found[1]) if found else 0
    outcome.require(found is not None, "schemathesis sent nothing")
    if process.returncode:
        kinds = re.findall(r"❌ (ST\d+ [^\n]+)", text)
        outcome.faults.append(f"schemathesis found {'; '.join(kinds) or 'a fault'}: see build/faults/schemathesis.log")


CONNECTIONS = 16
KEPT_FOR = 200  # requests on one connection; then another address of this machine asks
PER_REQUEST_BYTES = 20.0  # what may be left of each; of 200,000 requests 4 MB
NOISE_BYTES = 1 << 20
SMALL_BYTES = 20_000  # cases with larger bodies are left out: they would only take time
EXCLUDED = ("deep JSON", "too many pixels", "too many images", "many", "openapi")
QUALITIES = ("", "?sparsity={:.6f}", "?max_accuracy_drop={:.4f}", "?operating_point=exact&max_accuracy_drop={:.4f}")


def flat_memory(scale: Scale, outcome: Outcome) -> None:
    """Every route, targets, floors and request ids that never come twice, 254 addresses, bad requests."""
    # Caches of what clients ask for are full after some 17,000 requests: only then memory can be flat.
    count, every = (40_000, 4_000) if scale.quick else (200_000, 5_000)
    flags = ("--log-level", "info", "--rate-limit", "1000000/second")
    with open(os.devnull, "wb") as nowhere, Server("memory", *flags, program=PROGRAM, stdout=nowhere) as server:
        cases = [*good_cases(), *bad_cases(5)]
        cases = [one for one in cases if one.name not in EXCLUDED and max(map(len, one.bodies)) < SMALL_BYTES]
        rest = at_rest(server.base, cases)
        files = server.open_files()
        samples: list[tuple[int, int]] = []
        began = time.monotonic()
        asyncio.run(_send(server, rest, cases, count, every, outcome.counts, samples))
        seconds = time.monotonic() - began
        outcome.faults += rest.surprises + rest.differences + server.settled(files)
        _judge(outcome, samples, seconds)


def _judge(outcome: Outcome, samples: list[tuple[int, int]], seconds: float) -> None:
    """Memory over requests, the first tenth left out: caches fill, and the allocator finds its size."""
    first = samples[-1][0] // 10
    requests, memory = np.array([one for one in samples if one[0] >= first], dtype=np.float64).T
    slope = float(np.polyfit(requests, memory, 1)[0])
    late = requests >= requests[-1] / 2
    late_slope = float(np.polyfit(requests[late], memory[late], 1)[0])
    outcome.figures |= {
        "memory_mib_by_requests": {str(number): round(size / 2**20, 1) for number, size in samples},
        "bytes_per_request": round(slope, 1),
        "bytes_per_request_second_half": round(late_slope, 1),
        "requests_per_s": round(outcome.counts.sent / seconds),
    }
    grown = late_slope * (requests[-1] - requests[late][0])
    allowed = late_slope < PER_REQUEST_BYTES or grown < NOISE_BYTES
    outcome.require(allowed, f"memory grows by {late_slope:.0f} bytes with every request")
    strange = [status for status in outcome.counts.answered if status.startswith("5") and status != "504"]
    outcome.require(not strange, f"requests were answered {', '.join(strange)}")
    outcome.require(not outcome.counts.failed, f"{outcome.counts.failed} connections failed")


async def _send(
    server: Server,
    rest: Rest,
    cases: list[Case],
    count: int,
    every: int,
    counts: Counts,
    samples: list[tuple[int, int]],
) -> None:
    order, chance = itertools.cycle(shuffled(cases)), random.Random(SEED)
    image, numbers = images(1, 32)[0], itertools.count()
    addresses = (f"127.0.0.{one}" for one in itertools.cycle(range(1, 255)))

    async def ask_next(connection: Connection, number: int) -> bool:
        case, index = next(order)
        label = f"{case.name} {index}"
        if number % 3 == 0:
            quality = chance.choice(QUALITIES).format(chance.uniform(0.1, 0.6))
            case, index, label = Case("ever new", CLASSIFY + quality, (image,), JPEG), 0, ""
        headers = {"X-Request-ID": f"{chance.getrandbits(128):032x}", **case.headers}
        return await ask(connection, request(case.path, case.bodies[index], headers, case.method), counts, rest, label)

    async def client() -> None:
        while counts.sent < count:
            connection = await Connection.open(server.base, next(addresses))
            for _ in range(KEPT_FOR):
                if counts.sent >= count:
                    break
                number = next(numbers)
                if number and number % every == 0:
                    server.signal(signal.SIGUSR1)
                    samples.append((number, server.memory_bytes()))
                if not await ask_next(connection, number):
                    break
            connection.close()

    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))

"""Load of all kinds for long: in waves up to overload with schemathesis beside it, and 200,000 requests.

Memory must not grow with the number of the latter.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import re
import subprocess
import time

import numpy as np

from benchmarks.faults.cases import CLASSIFY, JPEG, SEED, Case, bad_cases, good_cases, images, shuffled
from benchmarks.faults.load import Rest, ask, at_rest, load, weighted
from benchmarks.faults.outcome import Counts, Outcome, Scale
from benchmarks.faults.raw import Connection, request
from benchmarks.server import BUILD, HOME, Server

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
    """Every route, wishes and request ids that never come twice, 254 addresses, bad requests."""
    count, every = (20_000, 2_000) if scale.quick else (200_000, 5_000)
    flags = ("--log-level", "info", "--rate-limit", "1000000/second")
    with open(os.devnull, "wb") as nowhere, Server("memory", *flags, stdout=nowhere) as server:
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
                    samples.append((number, server.memory_bytes()))
                if not await ask_next(connection, number):
                    break
            connection.close()

    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))

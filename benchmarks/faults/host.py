"""The host fails: the disk that takes the log is full, nobody reads the log, and the calendar clock jumps."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from benchmarks.faults.cases import CLASSIFY, JPEG, classify, small_cases
from benchmarks.faults.images import images
from benchmarks.faults.keys import CLIENT, LIMITED, key_file
from benchmarks.faults.load import load, loading
from benchmarks.faults.outcome import Counts, Outcome
from benchmarks.faults.rest import at_rest
from benchmarks.faults.scale import Scale
from benchmarks.server import BUILD, Server

DAY_S = 86_400
JUMPS_S = (DAY_S, -DAY_S, 3600, -3600, 20 * 365 * DAY_S, 0)
PIPE_BYTES = 4096


def full_disk(scale: Scale, outcome: Outcome) -> None:
    """Every request is logged to where it cannot be."""
    for name, sink in {"full disk": _full(), "unread pipe": _pipe(True), "closed pipe": _pipe(False)}.items():
        with sink as stdout, Server("log", "--log-level", "info", stdout=stdout) as server:
            rest = at_rest(server.base, small_cases())
            loaded = load(server, rest, 150, 4 if scale.quick else 30)
            loaded.enter(outcome, rest)
            outcome.figures[f"{name}, p99_ms"] = round(loaded.p99_ms, 1)
            outcome.require(server.status("/health/ready") == 200, f"{name}: the server is not ready afterwards")
            words = server.log.stat().st_size
            outcome.require(words < 5000, f"{name}: {words} bytes of complaints on standard error")
            server.process.terminate()
            try:
                server.process.wait(20)
            except subprocess.TimeoutExpired:
                outcome.faults.append(f"{name}: the server does not end")
                server.kill()


@contextmanager
def _full() -> Iterator[int]:
    with open("/dev/full", "wb") as device:
        yield device.fileno()


@contextmanager
def _pipe(is_open: bool) -> Iterator[int]:
    """A pipe that nobody reads from, open at its other end or not."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    if not is_open:
        os.close(reader)
    try:
        yield writer
    finally:
        os.close(writer)
        if is_open:
            os.close(reader)


def clock_jump(scale: Scale, outcome: Outcome) -> None:
    """The calendar clock jumps by hours, days and years, both ways, under load with deadlines and rates."""
    with tempfile.TemporaryDirectory() as made:
        offset = Path(made) / "offset"
        _write(offset, 0)
        keys = key_file(Path(made))
        environment = {"LD_PRELOAD": str(_library()), "CLOCK_OFFSET": str(offset)}
        flags = ("--api-keys", str(keys), "--self-test-interval-s", "0.5", "--idle-timeout-s", "30")
        with Server("clock", *flags, environment=environment) as server:
            deadlines = classify("deadline", images(8, 32), free=True, deadline_ms=2000)
            rest = at_rest(server.base, [one.with_headers(CLIENT) for one in [*small_cases(), deadlines]])
            with (
                httpx.Client(base_url=server.base, timeout=20) as idle,
                loading(server, rest, 60, 3 * len(JUMPS_S) if scale.quick else 10 * len(JUMPS_S)) as loaded,
            ):
                _use_up(idle, outcome)
                for jump in JUMPS_S:
                    _write(offset, jump)
                    time.sleep(2 if scale.quick else 8)
                    _look(idle, outcome, jump)
            loaded.enter(outcome, rest)
            outcome.require(not loaded.counts.answered["504"] or scale.quick, "deadlines were missed")
            outcome.faults += server.errors()


def _use_up(client: httpx.Client, outcome: Outcome) -> None:
    """Send all that the limited key may send in an hour."""
    statuses = [_ask(client, outcome.counts) for _ in range(7)]
    outcome.require(statuses == [200] * 5 + [429] * 2, f"a rate of 5 an hour is answered {statuses}")


def _look(client: httpx.Client, outcome: Outcome, jump: int) -> None:
    ready = client.get("/health/ready")
    told = parsedate_to_datetime(ready.headers["Date"]).timestamp() - time.time()
    outcome.require(abs(told - jump) < 5, f"the clock did not jump by {jump} s but by {told:.0f} s: nothing was tried")
    outcome.require(ready.status_code == 200, f"after a jump of {jump} s the server is not ready")
    status = _ask(client, outcome.counts)
    outcome.require(status == 429, f"after a jump of {jump} s a used up rate is answered {status}")


def _ask(client: httpx.Client, counts: Counts) -> int:
    answer = client.post(CLASSIFY, content=images(1, 32)[0], headers=JPEG | LIMITED)
    counts.sent += 1
    counts.answered[str(answer.status_code)] += 1
    return answer.status_code


def _write(file: Path, seconds: int) -> None:
    with file.open("r+b" if file.exists() else "wb") as opened:  # the server has mapped this very file
        opened.write(struct.pack("l", seconds))


def _library() -> Path:
    made = BUILD / "clock.so"
    BUILD.mkdir(parents=True, exist_ok=True)
    compiler = os.environ.get("CC", "cc")
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", str(made), str(source)], check=True)
    return made

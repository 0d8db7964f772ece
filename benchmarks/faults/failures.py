"""Parts of the service fail: its process, its bundles on disk, its device, its memory, and its host."""

from __future__ import annotations

import asyncio
import fcntl
import os
import resource
import shutil
import signal
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path

import httpx

from benchmarks.faults.cases import (
    CLASSIFY,
    CLIENT,
    FORM,
    JPEG,
    LIMITED,
    MODEL,
    OPERATOR,
    PNG,
    Case,
    blank,
    classify,
    form,
    images,
    key_file,
    large,
    small_cases,
)
from benchmarks.faults.load import BUSY, Connection, Rest, ask, at_rest, load, loading, request
from benchmarks.faults.outcome import Counts, Outcome, Scale
from benchmarks.faults.program import NO_MEMORY, NOT_FINITE, PROGRAM, RAISES, STALLS
from benchmarks.server import BUILD, MODELS, Server, memory_bytes

ACCEPTED = 30
EVERY_S = 12.0


def kill_and_restart(scale: Scale, outcome: Outcome) -> None:
    """SIGKILL under load, then a new process on the same port, several times."""
    kills = 1 if scale.quick else 5
    down = []
    with Server("kill") as server:
        rest = at_rest(server.base, small_cases())
        with loading(server, rest, 150, kills * EVERY_S) as loaded:
            for number in range(kills):
                time.sleep(EVERY_S / 4)
                server.kill()
                began = time.monotonic()
                server.start()
                server.wait_ready()
                down.append(round(time.monotonic() - began, 2))
                if number + 1 < kills:
                    time.sleep(max(0.0, EVERY_S / 2 - down[-1]))
        loaded.enter(outcome, rest, may_fail=True)
        outcome.require(loaded.counts.failed > 0, "the kill was not felt: nothing was tried")
        load(server, rest, 50, 2).enter(outcome, rest)
        outcome.figures["down_s"] = down


def kill_one(scale: Scale, outcome: Outcome) -> None:
    """SIGKILL to one of several processes under load, several times; the others answer, and it is replaced."""
    kills = 1 if scale.quick else 5
    back = []
    with Server("kill-one", environment={"LCCL_PROCESSES": "2"}) as server:
        server.processes = 2
        rest = at_rest(server.base, small_cases())
        with loading(server, rest, 150, kills * EVERY_S) as loaded:
            for _ in range(kills):
                time.sleep(EVERY_S / 4)
                images = server.metric("lccl_images_total")
                os.kill(server.workers()[0], signal.SIGKILL)
                began = time.monotonic()
                outcome.require(server.status("/health/ready") == 200, "the others are not ready")
                outcome.require(server.metric("lccl_images_total") >= images, "what was counted is lost")
                while server.metric("lccl_processes") < server.processes and time.monotonic() - began < EVERY_S:
                    time.sleep(0.1)
                back.append(round(time.monotonic() - began, 2))
                time.sleep(max(0.0, EVERY_S / 2 - back[-1]))
        loaded.enter(outcome, rest, may_fail=True)
        outcome.require(server.metric("lccl_processes_died_total") == kills, "not every end was counted")
        load(server, rest, 50, 2).enter(outcome, rest)
        outcome.faults += server.unready()
        outcome.figures["back_s"] = back


def sigterm(scale: Scale, outcome: Outcome) -> None:
    """SIGTERM under load: what was accepted is answered, the rest is refused."""
    rounds = 1 if scale.quick else 5
    exits = []
    for _ in range(rounds):
        with Server("sigterm", "--queue-limit", "4000", "--drain-timeout-s", "30") as server:
            many = Case("form", CLASSIFY, (form(images(60, 32)),), FORM)
            forms, rest = at_rest(server.base, [many]), at_rest(server.base, small_cases())
            with loading(server, rest, 100, 6, BUSY | {"503"}) as loaded:
                counts, seconds = asyncio.run(_stop(server, forms))
            loaded.enter(outcome, rest, may_fail=True)
            outcome.counts.add(counts)
            exits.append((server.process.returncode, round(seconds, 2)))
            accepted = counts.answered["200"]
            outcome.require(
                accepted == ACCEPTED + 1, f"{accepted} of {ACCEPTED + 1} accepted requests were answered 200"
            )
            outcome.require(exits[-1][0] in {0, -signal.SIGTERM}, f"the process ended with {exits[-1][0]}")
            outcome.faults += server.errors()
    outcome.figures["exit_status_and_seconds"] = exits


async def _stop(server: Server, forms: Rest) -> tuple[Counts, float]:
    stream, counts = forms.streams[0], Counts()
    asked = request(stream.path, stream.bodies[0].content, stream.headers)
    crowd = [await Connection.open(server.base) for _ in range(ACCEPTED)]
    upload, idle = await Connection.open(server.base), await Connection.open(server.base)
    await upload.send(asked[:-500])
    for connection in crowd:
        await connection.send(asked)
    await _accepted(server)
    began = time.monotonic()
    server.process.terminate()
    await asyncio.sleep(0.3)
    await upload.send(asked[-500:])
    for connection in [*crowd, upload]:  # which have sent their requests already
        await ask(connection, b"", counts, forms, str(stream.bodies[0].label))
    await asyncio.wait_for(idle.reader.read(), 40)
    await asyncio.to_thread(server.process.wait, 60)
    return counts, time.monotonic() - began


async def _accepted(server: Server) -> None:
    """Return when the last of the crowd's requests was read: then all that was before it was, too."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        waiting = await asyncio.to_thread(server.metric, "lccl_inflight_requests")
        if waiting > ACCEPTED / 2:
            return


LOAD_S = 60.0


def corrupt_bundle(scale: Scale, outcome: Outcome) -> None:
    """Each kind of damage is loaded under load; then a whole bundle is."""
    rounds = 1 if scale.quick else 5
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        shutil.copytree(MODELS / MODEL, folder / "models" / MODEL)
        with Server("bundles", "--models", str(folder / "models"), "--api-keys", str(key_file(folder))) as server:
            cases = [one.with_headers(CLIENT) for one in small_cases()]
            rest = at_rest(server.base, cases)
            with loading(server, rest, 100, rounds * (3 + 2 * len(DAMAGES))) as loaded:
                for _ in range(rounds):
                    for name in DAMAGES:
                        _try(outcome, server, folder / "models" / MODEL, name)
            loaded.enter(outcome, rest)
            outcome.faults += server.unready() + rest.surprises + server.errors()


def _try(outcome: Outcome, server: Server, home: Path, name: str) -> None:
    """Load a damaged bundle, then the whole one."""
    file, change = DAMAGES[name]
    if change is None:
        (home / file).unlink()
    else:
        (home / file).write_bytes(change((home / file).read_bytes()))
    refused, state = _load(server, outcome.counts), _state(server)
    outcome.require(refused in {404, 422}, f"a bundle with {name} is answered {refused}")
    outcome.require(state == "READY" or refused == 404, f"with {name} on disk, the index calls the old version {state}")
    for whole in (MODELS / MODEL).iterdir():
        if whole.is_file():
            shutil.copy(whole, home)
    taken = _load(server, outcome.counts)
    outcome.require(taken == 200, f"after {name}, the whole bundle is answered {taken}")


def _load(server: Server, counts: Counts) -> int:
    path = f"{server.base}/v2/repository/models/{MODEL}/load"
    status = httpx.post(path, headers=OPERATOR, timeout=LOAD_S).status_code
    counts.sent += 1
    counts.answered[str(status)] += 1
    return status


def _state(server: Server) -> str:
    entries = httpx.post(f"{server.base}/v2/repository/index", headers=CLIENT, timeout=LOAD_S).json()
    return str(next((entry["state"] for entry in entries if entry["version"] == "1"), "gone"))


def _flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


WEIGHTS, DESCRIPTION = "model.safetensors", "bundle.json"
DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes] | None]] = {  # a file, and what becomes of its content
    "one bit of the weights flipped": (WEIGHTS, _flip),
    "the weights cut off in place": (WEIGHTS, lambda content: content[:1000]),
    "the weights removed": (WEIGHTS, None),
    "its description cut off": (DESCRIPTION, lambda content: content[:-100]),
    "its description edited": (DESCRIPTION, lambda content: content.replace(b"airplane", b"aeroplane", 1)),
}


LITTLE = 24 << 20


def failing_engine(scale: Scale, outcome: Outcome) -> None:
    """Failing images share batches with good ones."""
    with Server("engine", program=PROGRAM) as server:
        failing = [
            classify("raises", (blank(RAISES),), PNG, weight=0.2, status=500),
            classify("no memory", (blank(NO_MEMORY),), PNG, weight=0.2, status=500),
            classify("not finite", (blank(NOT_FINITE),), PNG, weight=0.2, status=500),
            classify("stalls", (blank(STALLS),), PNG, weight=0.02),
        ]
        rest = at_rest(server.base, [*small_cases(), *failing])
        files = server.open_files()
        load(server, rest, 300, 5 if scale.quick else 60).enter(outcome, rest)
        outcome.faults += rest.surprises + server.settled(files) + server.unready()
        halves = server.log.read_text(encoding="utf-8").count("is run in halves")
        outcome.figures["batches_run_in_halves"] = halves
        outcome.require(halves > 0 or scale.quick, "no good image shared a batch with a failing one")


def out_of_memory(scale: Scale, outcome: Outcome) -> None:
    """The address space is limited to hardly more than is taken, while large and small images arrive."""
    seconds = 3 if scale.quick else 30
    big = classify("large", (large(4500, "PNG"), large(4500, "WEBP")), {}, weight=0.5)
    with Server("memory-limit") as server:
        rest = at_rest(server.base, [*small_cases(), big])
        files, workers = server.open_files(), server.workers()
        with loading(server, rest, 60, 3 * seconds, BUSY | {"413"}) as loaded:
            time.sleep(seconds)
            for worker in workers:
                taken = min(_sizes(worker))  # without images under way
                resource.prlimit(worker, resource.RLIMIT_AS, (taken + LITTLE, resource.RLIM_INFINITY))
            time.sleep(seconds)
            outcome.require(server.status("/health/live") == 200, "the server is not alive without memory")
            for worker in workers:
                resource.prlimit(worker, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        loaded.enter(outcome, rest)
        outcome.require(loaded.counts.answered["413"] > 0, "memory never was short")
        load(server, rest, 30, 2).enter(outcome, rest)
        outcome.faults += server.settled(files)


def _sizes(process: int) -> Iterator[int]:
    for _ in range(50):
        yield memory_bytes(process, "VmSize")
        time.sleep(0.02)


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

"""The process ends: killed and started again under load, and told to stop under load."""

from __future__ import annotations

import asyncio
import signal
import time

from benchmarks.faults.cases import CLASSIFY, FORM, Case, form, small_cases
from benchmarks.faults.images import images
from benchmarks.faults.load import BUSY, load, loading
from benchmarks.faults.outcome import Counts, Outcome
from benchmarks.faults.raw import Connection, request
from benchmarks.faults.rest import Rest, ask, at_rest
from benchmarks.faults.scale import Scale
from benchmarks.server import Server

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
        after = load(server, rest, 50, 2)
        after.enter(outcome, rest)
        outcome.figures["down_s"] = down


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
    await asyncio.wait_for(idle.ended(), 40)
    await asyncio.to_thread(server.process.wait, 60)
    return counts, time.monotonic() - began


async def _accepted(server: Server) -> None:
    """Return when the last of the crowd's requests was read: then all that was before it was, too."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        waiting = await asyncio.to_thread(server.metric, "lccl_inflight_requests")
        if waiting > ACCEPTED / 2:
            return

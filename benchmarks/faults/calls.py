"""The same over gRPC: clients that leave, malformed messages, deadlines, floods, and the end, beside load over HTTP."""

from __future__ import annotations

import asyncio
import random
import signal
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import grpc.aio

from benchmarks.faults.cases import CLIENT, MODEL, OPERATOR, SEED, damaged, images, key_file, small_cases
from benchmarks.faults.failures import ACCEPTED
from benchmarks.faults.fairness import RATE_PER_S, REFUSED_S, TIMES, in_a_process
from benchmarks.faults.load import ANSWER_WITHIN_S, ENDED, Connection, at_rest, load, loading
from benchmarks.faults.outcome import Counts, Outcome, Scale
from benchmarks.server import Server
from service.api.grpc.messages import InferParameter, ModelInferRequest, ModelInferResponse

INFER = "/inference.GRPCInferenceService/ModelInfer"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CHANNELS, AT_ONCE = 8, 32
BUSY = {"RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"}
REFUSED = {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "NOT_FOUND", "DEADLINE_EXCEEDED"}  # what a damaged message may be
FLOOD, ONE_BATCH_MS = 400, 30.0
OWN = [("grpc.use_local_subchannel_pool", 1)]  # a connection for each channel


@contextmanager
def _serving(name: str, *flags: str) -> Iterator[tuple[Server, str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with Server(name, "--grpc-port", str(port), *flags) as server:
        yield server, f"127.0.0.1:{port}"


def message(content: list[bytes], **quality: str) -> bytes:
    """A request for images."""
    sent = ModelInferRequest(model_name=MODEL)
    sent.inputs.add(name="image", datatype="BYTES", shape=[len(content)]).contents.bytes_contents.extend(content)
    for name, value in quality.items():
        sent.parameters[name].CopyFrom(InferParameter(string_param=value))
    return sent.SerializeToString()


def _infer(channel: grpc.aio.Channel) -> Any:
    return channel.unary_unary(INFER, response_deserializer=ModelInferResponse.FromString)


@dataclass(slots=True)
class Known:
    """Right answers: by request and operating point those given at rest."""

    answers: dict[tuple[bytes, str], ModelInferResponse] = field(default_factory=dict)

    async def learn(self, channel: grpc.aio.Channel, content: bytes) -> None:
        """Ask for an image at every point."""
        exact = await _infer(channel)(message([content]))
        self._enter(content, exact)
        for number in range(5, 91):
            try:
                self._enter(content, await _infer(channel)(message([content], operating_point=f"p{number}")))
            except grpc.aio.AioRpcError:  # no such point
                continue

    def _enter(self, content: bytes, answer: ModelInferResponse) -> None:
        self.answers[content, answer.parameters["operating_point"].string_param] = answer

    def is_right(self, content: bytes, answer: ModelInferResponse) -> bool:
        known = self.answers.get((content, answer.parameters["operating_point"].string_param))
        return known is not None and list(known.outputs) == list(answer.outputs)


async def _ask(call: Any, counts: Counts, known: Known | None = None, content: bytes = b"") -> str:
    """Count what becomes of a call; one without an answer in time is lost, and counted as sent alone."""
    counts.sent += 1
    try:
        answer = await asyncio.wait_for(call, ANSWER_WITHIN_S)
    except TimeoutError:
        return "lost"
    except grpc.aio.AioRpcError as error:
        status: str = error.code().name
        if status == "UNAVAILABLE":
            counts.failed += 1
        else:
            counts.answered[status] += 1
        return status
    counts.answered["OK"] += 1
    counts.wrong += known is not None and not known.is_right(content, answer)
    return "OK"


def mixed(scale: Scale, outcome: Outcome) -> None:
    """Good calls, with deadlines and without, damaged ones and some that are left, on a few connections."""
    seconds = 6.0 if scale.quick else 60.0
    with _serving("grpc") as (server, address):
        rest, strange = at_rest(server.base, small_cases()), Counter[str]()
        known = asyncio.run(_learn(address))
        asyncio.run(_mix(address, known, 1.0, Counter()))  # gRPC opens what it needs for itself
        files = server.open_files()
        with loading(server, rest, 60, seconds) as loaded:
            counts = asyncio.run(_mix(address, known, seconds, strange))
        loaded.enter(outcome, rest)
        outcome.counts.add(counts)
        outcome.figures["kinds"] = dict(sorted(strange.items()))
        for kind, allowed in ALLOWED.items():
            odd = [one for one in strange if one.startswith(f"{kind}: ") and one.partition(": ")[2] not in allowed]
            outcome.require(not odd, f"strange answers: {', '.join(odd)}")
            outcome.require(any(one.startswith(f"{kind}: ") for one in strange), f"no {kind} call was made")
        outcome.faults += server.settled(files) + server.unready() + server.errors()


ALLOWED = {
    "good": {"OK", *BUSY}, "deadline": {"OK", *BUSY}, "too short": {"DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"},
    "damaged": {"OK", *REFUSED}, "left": {"left", "OK", *BUSY}, "torn": {"torn"},
}  # fmt: skip


async def _learn(address: str) -> Known:
    known = Known()
    async with grpc.aio.insecure_channel(address) as channel:
        for content in images(4, 32):
            await known.learn(channel, content)
    return known


async def _mix(address: str, known: Known, seconds: float, strange: Counter[str]) -> Counts:
    chance, counts, contents = random.Random(SEED), Counts(), images(4, 32)
    junk = damaged([message([one]) for one in contents], 500)
    channels = [grpc.aio.insecure_channel(address, options=OWN) for _ in range(CHANNELS)]
    deadline = time.monotonic() + seconds

    async def one(kind: str) -> str:
        infer, content = _infer(chance.choice(channels)), chance.choice(contents)
        if kind == "good":
            return await _ask(infer(message([content])), counts, known, content)
        if kind == "deadline":
            return await _ask(infer(message([content]), timeout=chance.uniform(0.02, 2)), counts, known, content)
        if kind == "too short":
            return await _ask(infer(message([content] * 32), timeout=0.0005), counts)
        if kind == "damaged":
            return await _ask(infer(chance.choice(junk)), counts)
        if kind == "torn":
            return await _tear(address, chance, counts)
        return await _leave(infer(message([content] * 16)), chance, counts)

    async def client() -> None:
        while time.monotonic() < deadline:
            kind = chance.choice(list(ALLOWED))
            strange[f"{kind}: {await one(kind)}"] += 1

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    await asyncio.gather(*(channel.close() for channel in channels))
    return counts


async def _leave(call: Any, chance: random.Random, counts: Counts) -> str:
    """Cancel a call that may have got its answer before."""
    await asyncio.sleep(chance.uniform(0, 0.02))
    if call.cancel():
        counts.sent += 1
        counts.abandoned += 1
        return "left"
    return await _ask(call, counts)


async def _tear(address: str, chance: random.Random, counts: Counts) -> str:
    """Connect, send the beginning of HTTP/2 and noise, and go, with FIN or with RST."""
    connection = await Connection.open(f"http://{address}")
    counts.sent += 1
    counts.abandoned += 1
    try:
        await connection.send(PREFACE[: chance.randrange(1, 25)] + chance.randbytes(chance.randrange(40)))
        await asyncio.sleep(chance.uniform(0, 0.02))
    except ENDED:
        pass
    finally:
        connection.close(chance.random() < 0.5)
    return "torn"


def flood(scale: Scale, outcome: Outcome) -> None:
    """Hundreds of calls at once by one key, and a modest client of another key over HTTP, who is served."""
    seconds = 5.0 if scale.quick else 30.0
    with (
        tempfile.TemporaryDirectory() as made,
        _serving("grpc-flood", "--api-keys", str(key_file(Path(made)))) as (server, address),
    ):
        rest = at_rest(server.base, [one.with_headers(OPERATOR) for one in small_cases()[:3]])
        load(server, rest, RATE_PER_S, 2).enter(outcome, rest)
        alone = load(server, rest, RATE_PER_S, seconds)
        alone.enter(outcome, rest)
        with in_a_process(_flood, address) as counts:
            time.sleep(1.0)
            loaded = load(server, rest, RATE_PER_S, seconds, frozenset())
        loaded.enter(outcome, rest)
        outcome.counts.add(counts)
        good, allowed_ms = loaded.counts.answered["200"], TIMES * alone.p99_ms + ONE_BATCH_MS
        outcome.require(good == loaded.counts.sent, f"{loaded.counts.sent - good} modest requests were not served")
        told = f"the modest p99 is {loaded.p99_ms:.0f} ms, over {allowed_ms:.0f} ms"
        outcome.require(loaded.p99_ms <= allowed_ms, told)
        strange = set(counts.answered) - {"OK", *BUSY}
        outcome.require(not strange and not counts.failed, f"the flood was answered {', '.join(sorted(strange))}")
        outcome.require(counts.answered["OK"] > 0, "nobody of the flood was served")
        outcome.figures["flood"] = dict(counts.answered)
        outcome.figures["modest_p99_ms"] = {"alone": round(alone.p99_ms, 1), "beside": round(loaded.p99_ms, 1)}
        outcome.faults += server.unready() + server.errors()


def _flood(address: str, pipe: Pipe) -> None:
    asyncio.run(_flood_on(address, pipe))


async def _flood_on(address: str, pipe: Pipe) -> None:
    counts, stop, asked = Counts(), asyncio.Event(), message([images(8, 32)[0]])
    key = tuple((name.lower(), value) for name, value in CLIENT.items())
    channels = [grpc.aio.insecure_channel(address, options=OWN) for _ in range(CHANNELS)]

    async def ask_on(channel: grpc.aio.Channel) -> None:
        while not stop.is_set():
            if await _ask(_infer(channel)(asked, metadata=key), counts) != "OK":
                await asyncio.sleep(REFUSED_S)

    senders = [asyncio.create_task(ask_on(channels[number % CHANNELS])) for number in range(FLOOD)]
    pipe.send("begun")
    await asyncio.to_thread(pipe.recv)
    stop.set()
    await asyncio.gather(*senders)
    pipe.send((counts.sent, dict(counts.answered), counts.failed))


def drain(scale: Scale, outcome: Outcome) -> None:
    """SIGTERM while calls wait: the accepted are answered, and later ones are unavailable."""
    exits = []
    for _ in range(1 if scale.quick else 5):
        with _serving("grpc-sigterm", "--queue-limit", "4000") as (server, address):
            statuses, counts, seconds = asyncio.run(_stop(server, address))
            outcome.counts.add(counts)
            outcome.require(counts.answered["OK"] == ACCEPTED, f"the accepted were answered {dict(counts.answered)}")
            outcome.require(statuses <= {"UNAVAILABLE"}, f"later calls were answered {', '.join(sorted(statuses))}")
            exits.append((server.process.returncode, round(seconds, 2)))
            outcome.require(exits[-1][0] in {0, -signal.SIGTERM}, f"the process ended with {exits[-1][0]}")
            outcome.faults += server.errors()
    outcome.figures["exit_status_and_seconds"] = exits


async def _stop(server: Server, address: str) -> tuple[set[str], Counts, float]:
    counts, later, asked = Counts(), Counts(), message(list(images(60, 32)))
    async with grpc.aio.insecure_channel(address, options=OWN) as channel:
        running = [asyncio.create_task(_ask(_infer(channel)(asked), counts)) for _ in range(ACCEPTED)]
        begun = 0
        while begun < ACCEPTED:
            under_way = int(await asyncio.to_thread(server.metric, "lccl_inflight_requests")) - 1  # it counts itself
            begun = under_way + sum(one.done() for one in running)
            assert not all(one.done() for one in running), "nothing waits: nothing was tried"
        began = time.monotonic()
        server.process.terminate()
        await asyncio.sleep(0.5)
        statuses = set()
        async with grpc.aio.insecure_channel(address, options=OWN) as other:
            for _ in range(5):
                statuses.add(await _ask(_infer(other)(asked), later))
        await asyncio.gather(*running)
        await asyncio.to_thread(server.process.wait, 60)
    counts.add(later)
    return statuses, counts, time.monotonic() - began

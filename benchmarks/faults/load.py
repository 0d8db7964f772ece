"""What a server answers at rest, and load beside a trial, held against these answers; and bare connections."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import httpx

from benchmarks.faults.cases import CLASSIFY, Case
from benchmarks.faults.outcome import FAILED, NOT_SENT, TIMEOUT, Counts, Outcome
from benchmarks.server import Server
from lccl_client.load import Body, Open, Plan, Report, Stream, allow_connections, run

ENDED = (ConnectionError, asyncio.IncompleteReadError, OSError)
RESET = struct.pack("ii", 1, 0)


class Connection:
    """One connection of a client."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self._writer = reader, writer

    @classmethod
    async def open(cls, base: str, source: str | None = None) -> Connection:
        """Connect, from an address of this machine if one is given."""
        parts = urlsplit(base)
        local = (source, 0) if source else None
        return cls(*await asyncio.open_connection(parts.hostname, parts.port, local_addr=local))

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def answer(self) -> tuple[int, bytes]:
        """The next answer's status and content.

        Raises:
            ENDED: the connection ended before it was whole.

        """
        head = await self.reader.readuntil(b"\r\n\r\n")
        status, length = int(head.split(b" ", 2)[1]), 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        return status, await self.reader.readexactly(length)

    def close(self, reset: bool = False) -> None:
        """Close; with a reset, what is on its way is dropped."""
        if reset:
            connection: socket.socket = self._writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._writer.transport.abort()
        else:
            self._writer.close()


def request(path: str, content: bytes = b"", headers: Mapping[str, str] | None = None, method: str = "POST") -> bytes:
    """A whole request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + content


def pieces(data: bytes, count: int) -> Sequence[bytes]:
    """Data in so many parts."""
    size = max(1, -(-len(data) // count))
    return [data[start : start + size] for start in range(0, len(data), size)]


OWN = ("request_id", "timing_ms")  # of one answer, not of what was asked
SAMPLES = 5
ANSWER_WITHIN_S = 40.0


@dataclass(slots=True)
class Rest:
    """Streams of requests with one status each at rest, and the answers they got there.

    Attributes:
        streams: their bodies' labels are keys of ``answers``.
        statuses: by stream.
        answers: by label the answers that are right, by the operating point they name.
        surprises: sentences about what was not answered as it should, at rest already.
        differences: the first few answers that were found to be wrong.

    """

    streams: list[Stream] = field(default_factory=list)
    statuses: dict[str, str] = field(default_factory=dict)
    answers: dict[str, dict[str, Any]] = field(default_factory=dict)
    surprises: list[str] = field(default_factory=list)
    differences: list[str] = field(default_factory=list)

    def read(self, body: Body, content: bytes) -> Mapping[str, float]:
        """A reader for the load generator: a ValueError for an answer that is not what it was at rest."""
        if not self.right(str(body.label), content):
            raise ValueError("not the answer given at rest")
        return {}

    def right(self, label: str, content: bytes) -> bool:
        """Whether this successful answer is one given at rest to the same request."""
        try:
            found = json.loads(content)
            point, answer = _essence(found)
        except ValueError:
            point, answer = "unreadable", None
        known = self.answers.get(label, {})
        if point in known and known[point] == answer:
            return True
        if len(self.differences) < SAMPLES:
            self.differences.append(f"{label}, {point}: {content[:300]!r}; right at {', '.join(known) or 'no point'}")
        return False


def at_rest(base: str, cases: Sequence[Case]) -> Rest:
    """Ask every body of every case once, where the service may choose the operating point at each of them."""
    rest = Rest()
    with httpx.Client(base_url=base, timeout=60) as client:
        points = _points(client, cases[0].headers)
        for case in cases:
            _ask_all(client, case, points, rest)
    return rest


def _ask_all(client: httpx.Client, case: Case, points: Sequence[str], rest: Rest) -> None:
    by_status: dict[int, list[Body]] = defaultdict(list)
    for index, content in enumerate(case.bodies):
        label = f"{case.name} {index}"
        paths = [f"{CLASSIFY}?operating_point={point}" for point in points] if case.free else [case.path]
        answers = [client.request(case.method, path, content=content, headers=case.headers) for path in paths]
        status = answers[0].status_code
        if status != case.status and (case.status is not None or status >= 500):
            rest.surprises.append(f"{label} is answered {status} at rest: {answers[0].text[:200]}")
        if status == 200:
            rest.answers[label] = dict(_essence(answer.json()) for answer in answers)
        by_status[status].append(Body(content, label))
    for status, bodies in by_status.items():
        stream = Stream(
            f"{case.name} ({status})", case.method, case.path, case.headers, tuple(bodies),
            case.weight * len(bodies) / len(case.bodies),
        )  # fmt: skip
        rest.streams.append(stream)
        rest.statuses[stream.name] = str(status)


def weighted(rest: Rest, share: float, other: Rest) -> Rest:
    """Two sets of streams as one, the second with a share of the requests."""
    whole = sum(stream.weight for stream in rest.streams), sum(stream.weight for stream in other.streams)
    streams = [replace(one, weight=one.weight / whole[0] * (1 - share)) for one in rest.streams]
    streams += [replace(one, weight=one.weight / whole[1] * share) for one in other.streams]
    return Rest(streams, rest.statuses | other.statuses, rest.answers | other.answers, rest.surprises + other.surprises)


def _points(client: httpx.Client, headers: Mapping[str, str]) -> list[str]:
    model = client.get("/v1/models", headers=headers).json()["models"][0]
    return [point["name"] for point in model["operating_points"]]


def _essence(answer: Any) -> tuple[str, Any]:
    """The operating point that an answer names, and all of it that the same question must get again."""
    if not isinstance(answer, dict):
        return "", answer
    kept = {name: value for name, value in answer.items() if name not in OWN}
    point = kept.get("operating_point")
    if not isinstance(point, dict):
        return "", kept
    kept["operating_point"] = {name: value for name, value in point.items() if name != "downgraded"}
    return str(point["name"] or point["sparsity"]), kept


async def ask(connection: Connection, asked: bytes, counts: Counts, rest: Rest, label: str) -> bool:
    """Send a request and count what becomes of it; one without an answer in time is lost, and counted as sent alone.

    Args:
        label: of its answers at rest; empty where there are none to compare with.

    Returns:
        whether it was answered.

    """
    counts.sent += 1
    try:
        await connection.send(asked)
        status, content = await asyncio.wait_for(connection.answer(), ANSWER_WITHIN_S)
    except TimeoutError:
        return False
    except ENDED:
        counts.failed += 1
        return False
    counts.answered[str(status)] += 1
    counts.wrong += bool(label) and status == 200 and not rest.right(label, content)
    return True


LOST_AFTER_S = 60.0  # the service answers 504 10 s after it has read a head; this is late, and what comes never is lost
BUSY = frozenset({"429", "504"})


@dataclass(slots=True)
class Loaded:
    """What became of a load, once it has ended.

    Attributes:
        strange: answers by stream that neither rest nor overload explains.
        p99_ms: of good answers, from when their requests were due.
        late_p99_ms: how late the generator itself sent requests.
        not_sent: requests that it did not send, since too many were under way.

    """

    counts: Counts = field(default_factory=Counts)
    strange: list[str] = field(default_factory=list)
    p99_ms: float = 0.0
    late_p99_ms: float = 0.0
    not_sent: int = 0

    def enter(self, outcome: Outcome, rest: Rest, may_fail: bool = False) -> None:
        """Add to a trial's outcome; connections may fail only in some."""
        outcome.counts.add(self.counts)
        outcome.faults += self.strange
        wrong = [f"wrong answer to {difference}" for difference in rest.differences]
        outcome.faults += [one for one in wrong if one not in outcome.faults]
        if self.counts.failed and not may_fail:
            outcome.faults.append(f"{self.counts.failed} connections of good clients failed")
        if not self.counts.sent:
            outcome.faults.append("no load was sent")
        steps: list[dict[str, float]] = outcome.figures.setdefault("loads", [])
        told = {"sent": self.counts.sent, "not_sent": self.not_sent}
        steps.append(told | {"p99_ms": round(self.p99_ms, 1), "generator_late_p99_ms": round(self.late_p99_ms, 1)})


def load(server: Server, rest: Rest, rate_per_s: float, seconds: float, busy: frozenset[str] = BUSY) -> Loaded:
    """Send the streams of ``rest`` at a rate; blocks until all requests have ended."""
    plan = Plan(
        server.base, tuple(rest.streams), Open(rate_per_s), seconds, timeout_s=LOST_AFTER_S, reader=rest.read
    )  # fmt: skip
    return _judge(run(plan), rest, busy)


@contextmanager
def loading(
    server: Server, rest: Rest, rate_per_s: float, seconds: float, busy: frozenset[str] = BUSY
) -> Iterator[Loaded]:
    """The same beside what is done inside ``with``, at whose end the load has ended too, and is told of."""
    allow_connections()
    loaded = Loaded()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(load, server, rest, rate_per_s, seconds, busy)
        time.sleep(min(0.5, seconds / 4))
        yield loaded
        found = running.result()
    loaded.counts, loaded.strange = found.counts, found.strange
    loaded.p99_ms, loaded.late_p99_ms, loaded.not_sent = found.p99_ms, found.late_p99_ms, found.not_sent


def _judge(report: Report, rest: Rest, busy: frozenset[str]) -> Loaded:
    latency, late = report.total.latency_ms, report.generator.late_ms
    loaded = Loaded(p99_ms=latency.p99 if latency else 0.0, late_p99_ms=late.p99 if late else 0.0)
    for name, stream in report.streams.items():
        statuses = dict(stream.statuses)
        loaded.not_sent += statuses.pop(NOT_SENT, 0)
        statuses.pop(TIMEOUT, 0)  # lost, for they are sent and nothing else
        failed = statuses.pop(FAILED, 0)
        unreadable = stream.means.get("unreadable")
        wrong = round(unreadable.value * unreadable.answers) if unreadable else 0
        for status, count in statuses.items():
            if status != rest.statuses[name] and status not in busy:
                loaded.strange.append(f"{count} of {name} were answered {status}")
        loaded.counts.add(
            Counts(stream.requests - stream.statuses.get(NOT_SENT, 0), Counter(statuses), failed, wrong=wrong)
        )
    return loaded

"""What a server answers at rest, and whether an answer under load is the same."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import httpx

from benchmarks.faults.cases import CLASSIFY, Case
from benchmarks.faults.outcome import Counts
from benchmarks.faults.raw import ENDED, Connection
from lccl_client.load import Body, Stream

OWN = ("request_id", "timing_ms")  # of one answer, not of what was asked
SAMPLES = 5
LOST_AFTER_S = 40.0


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
        status, content = await asyncio.wait_for(connection.answer(), LOST_AFTER_S)
    except TimeoutError:
        return False
    except ENDED:
        counts.failed += 1
        return False
    counts.answered[str(status)] += 1
    counts.wrong += bool(label) and status == 200 and not rest.right(label, content)
    return True

"""Wishes with weights → streams of requests for the LCCL server, and the reader of its answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlencode

from lccl_client import wire
from lccl_client.answers import Answer
from lccl_client.errors import ImageError, UnreadableAnswerError
from lccl_client.load import Body, Stream

QUALITIES = ("sparsity", "operating_point", "max_accuracy_drop", "deadline_ms", "exit_confidence", "top_k")
EXACT = "exact"
# Names of what `read_answer` finds.
SKIPPED, DOWNGRADED, LEFT, CORRECT = "skip_ratio", "downgraded", "left_early", "correct"


@dataclass(frozen=True, slots=True)
class WeightedWish:
    """A wish's fields, and its share of the requests relative to the others'."""

    name: str
    fields: Mapping[str, str]
    weight: float


def parse_wish(text: str) -> WeightedWish:
    """Read ``FIELD=VALUE&FIELD=VALUE:WEIGHT``; ``exact`` asks for nothing, and a weight left out is 1.

    Raises:
        ValueError: an unknown field, or no positive weight.

    """
    name, _, weight = text.rpartition(":") if ":" in text else (text, "", "1")
    fields = {} if name == EXACT else dict(parse_qsl(name, keep_blank_values=True, strict_parsing=True))
    if not name:
        raise ValueError(f"{text!r} is no quality: say exact, or FIELD=VALUE")
    unknown = set(fields) - set(QUALITIES)
    if unknown:
        raise ValueError(f"{text!r}: {min(unknown)!r} is no field of a quality: use {', '.join(QUALITIES)}")
    if not float(weight) > 0:
        raise ValueError(f"{text!r}: the weight must be positive")
    return WeightedWish(name, fields, float(weight))


def streams(
    requests: Sequence[WeightedWish],
    bodies: Sequence[Body],
    model: str | None,
    version: str | None,
    api_key: str | None,
) -> tuple[Stream, ...]:
    """One stream of single images per wish."""
    made = []
    for quality in requests:
        call = wire.classify([b""], model=model, version=version, **quality.fields)
        path = f"{call.path}?{urlencode(call.params)}" if call.params else call.path
        headers = call.headers | wire.key_headers(api_key)
        made.append(Stream(quality.name, call.method, path, headers, tuple(bodies), quality.weight))
    return tuple(made)


def read_answer(body: Body, content: bytes) -> dict[str, float]:
    """What an answer says: skip ratio, whether downgraded, milliseconds in queue and compute, and whether it is right.

    Of a model with early exits also whether one of them answered.

    Raises:
        ValueError: not an answer of this server.

    """
    try:
        answer = wire.parse(Answer, content)
        best = answer.best
    except (UnreadableAnswerError, ImageError) as error:
        raise ValueError(str(error)) from error
    found = {
        DOWNGRADED: float(answer.operating_point.downgraded),
        "queue_ms": answer.timing_ms.queue,
        "compute_ms": answer.timing_ms.compute,
    }
    prediction = answer.predictions[0]
    if prediction.skip_ratio is not None:
        found[SKIPPED] = prediction.skip_ratio
    if answer.operating_point.exit_confidence:
        found[LEFT] = float(prediction.exit is not None)
    if body.label is not None:
        found[CORRECT] = float(best.label == body.label)
    return found

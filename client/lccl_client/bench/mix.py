"""A quality request and its weight → a stream of requests for the LCCL server, and the reader of its answers."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import parse_qsl, urlencode

from lccl_client import wire
from lccl_client.answers import Answer
from lccl_client.errors import ImageError, UnreadableAnswerError
from lccl_client.load import Body, Stream

FIELDS = ("sparsity", "operating_point", "max_accuracy_drop", "deadline_ms", "exit_confidence", "top_k")
EXACT = "exact"
# Names of the numbers that `read_answer` returns.
SKIPPED, DOWNGRADED, EXITED, CORRECT = "skip_ratio", "downgraded", "left_early", "correct"


def stream(text: str, bodies: Sequence[Body], model: str | None, version: str | None, api_key: str | None) -> Stream:
    """Requests of single images with one quality.

    Args:
        text: ``FIELD=VALUE&FIELD=VALUE:WEIGHT``; ``exact`` sets no field, and a weight left out is 1.
        bodies: the images.
        model: None: the server's default.
        version: None: the newest.
        api_key: None: none is sent.

    Raises:
        ValueError: an unknown field, no positive weight, or a version without a model.

    """
    name, _, weight = text.rpartition(":") if ":" in text else (text, "", "1")
    if not name:
        raise ValueError(f"{text!r} is no quality request: say exact, or FIELD=VALUE")
    fields = {} if name == EXACT else dict(parse_qsl(name, keep_blank_values=True, strict_parsing=True))
    unknown = set(fields) - set(FIELDS)
    if unknown:
        raise ValueError(f"{text!r}: {min(unknown)!r} is no field of a quality request: use {', '.join(FIELDS)}")
    call = wire.classify([b""], model=model, version=version, **fields)
    path = f"{call.path}?{urlencode(call.params)}" if call.params else call.path
    return Stream(name, call.method, path, call.headers | wire.key_headers(api_key), tuple(bodies), float(weight))


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
    prediction = answer.predictions[0]
    numbers = {
        DOWNGRADED: answer.operating_point.downgraded,
        "queue_ms": answer.timing_ms.queue,
        "compute_ms": answer.timing_ms.compute,
        SKIPPED: prediction.skip_ratio,
        EXITED: prediction.exit is not None if answer.operating_point.exit_confidence else None,
        CORRECT: None if body.label is None else best.label == body.label,
    }
    return {name: float(number) for name, number in numbers.items() if number is not None}

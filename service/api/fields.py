"""The fields that a request gives beside its images, as query, as headers or in its body: alike in all protocols."""

import itertools
from collections.abc import Iterator
from functools import cached_property, lru_cache
from typing import Annotated, Any, TypeVar
from urllib.parse import parse_qsl

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError

from lccl.request import QualityRequest

from ..errors import ServiceError, complaint

HEADER_PREFIX = b"x-lccl-"
REMEMBERED_BYTES = 256  # of a request's query and headers of fields, at most

Headers = tuple[tuple[bytes, bytes], ...]


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


Number = Annotated[float, BeforeValidator(_no_boolean), Field(allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(_no_boolean)]


class Fields(BaseModel):
    """The fields of a request beside its images, as query, form or JSON fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    sparsity: Number | None = Field(None, description="target: wanted mean skip ratio, 0 to 1")
    operating_point: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        None, description="target: an operating point's name"
    )
    max_accuracy_drop: Number | None = Field(
        None, description="floor: accuracy that may be lost against exact, in percentage points"
    )
    deadline_ms: Number | None = Field(
        None, gt=0, description="target: milliseconds after which an answer is of no use; sets how sparse it must be"
    )
    exit_confidence: Number | None = Field(
        None, description="target: how sure an early exit must be, 0.5 to 1, with exact gates; at 1 no image leaves"
    )
    top_k: Count = Field(5, ge=1, le=1000, description="classes to name, at most all of them")

    @cached_property
    def quality(self) -> QualityRequest:
        """The target and floor among them.

        Raises:
            QualityError: out of range, or two targets.

        """
        return QualityRequest(
            sparsity=self.sparsity,
            operating_point=self.operating_point,
            max_accuracy_drop=self.max_accuracy_drop,
            deadline_ms=self.deadline_ms,
            exit_confidence=self.exit_confidence,
        )


class SkipMapFields(Fields):
    """The fields of a request for a skip map."""

    layer: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        None, description="the layer to show; without it all of them, on a PNG weighted by MACs"
    )


AnyFields = TypeVar("AnyFields", bound=Fields)


def fields_of(request: Request, body: dict[str, Any], kind: type[AnyFields]) -> AnyFields:
    """Join the fields given as query, as headers and in the body; ``kind`` names those that there are.

    Raises:
        ServiceError, invalid_field: a field that is unknown, out of range, or given twice.

    """
    query: bytes = request.scope["query_string"]
    headers = tuple(one for one in request.scope["headers"] if one[0].startswith(HEADER_PREFIX))
    if not body and len(query) + sum(len(value) for _, value in headers) <= REMEMBERED_BYTES:
        known: AnyFields = _usual_fields(query, headers, kind)
        return known
    return _join(query, headers, body, kind)


@lru_cache(maxsize=4096)
def _usual_fields(query: bytes, headers: Headers, kind: type[AnyFields]) -> AnyFields:
    """As :func:`_join`, with results remembered, because clients repeat their fields."""
    return _join(query, headers, {}, kind)


def _join(query: bytes, headers: Headers, body: dict[str, Any], kind: type[AnyFields]) -> AnyFields:
    given: dict[str, Any] = {}
    asked = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    for name, value in itertools.chain(asked, _named(headers, kind), body.items()):
        if name in given:
            raise ServiceError("invalid_field", f"{name[:64]} is given twice: give it once")
        given[name] = value
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise ServiceError("invalid_field", explain(error, kind)) from error


def _named(headers: Headers, kind: type[Fields]) -> Iterator[tuple[str, str]]:
    """The fields that are given as headers: ``X-LCCL-Sparsity: 0.4`` is the field ``sparsity``.

    Raises:
        ServiceError, invalid_field: a header with the prefix that is none of them.

    """
    for raw_name, raw_value in headers:
        name = raw_name[len(HEADER_PREFIX) :].decode("latin-1").replace("-", "_")
        if name not in kind.model_fields:
            raise ServiceError(
                "invalid_field", f"unknown header X-LCCL-{name[:64]}: use {', '.join(kind.model_fields)}"
            )
        yield name, raw_value.decode("latin-1")


def explain(error: ValidationError, kind: type[Fields]) -> str:
    """A validation's first complaint as one sentence with the field's name."""
    first = error.errors()[0]
    if first["type"] == "extra_forbidden":
        return f"unknown field {str(first['loc'][0])[:64]!r}: use {', '.join(kind.model_fields)}"
    return complaint(error, "the request")

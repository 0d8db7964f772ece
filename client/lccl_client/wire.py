"""The protocol: builds each request and reads each answer, for both clients and the load generator."""

from __future__ import annotations

import email.utils
import functools
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypedDict, TypeVar, cast
from urllib.parse import quote

import httpx
from pydantic import TypeAdapter, ValidationError

from lccl_client.errors import KINDS, LcclServerError, UnreadableAnswerError

T = TypeVar("T")


class Options(TypedDict, total=False):
    """The fields that a request for classes may have beside its images.

    Attributes:
        model: the served model's name; without it the server's default.
        version: one of the model's versions; without it the newest. Needs ``model``.
        sparsity: target: share of the gated work to skip on average, 0..1.
        operating_point: target: an operating point's name.
        deadline_ms: target: milliseconds within which the answer is of use.
        exit_confidence: target: how sure an early exit must be, 0.5..1, of models that have some.
        max_accuracy_drop: floor: accuracy that may be lost against exact, in percentage points.
        top_k: how many classes to name.
        request_id: finds the request in the server's log; ``[A-Za-z0-9._-]``, up to 128.

    """

    model: str | None
    version: str | None
    sparsity: float | None
    operating_point: str | None
    deadline_ms: float | None
    exit_confidence: float | None
    max_accuracy_drop: float | None
    top_k: int
    request_id: str | None


class Call(NamedTuple):
    """One request, before a transport sends it: the arguments of ``httpx.Client.request``."""

    method: str
    url: str
    params: Mapping[str, str] = MappingProxyType({})
    headers: Mapping[str, str] = MappingProxyType({})
    content: bytes | None = None
    files: list[tuple[str, tuple[str, bytes, str]]] | None = None


BINARY = "application/octet-stream"
MODELS = Call("GET", "/v1/models")


def classify(
    images: Sequence[bytes],
    *,
    model: str | None = None,
    version: str | None = None,
    request_id: str | None = None,
    **fields: str | float | None,
) -> Call:
    """Ask for the classes of encoded images: one goes as the body, several as a form. A field that is None is left out.

    Raises:
        ValueError: no image, or a version without a model.

    """
    if not images:
        raise ValueError("there is no image to classify")
    params = {name: str(value) for name, value in fields.items() if value is not None}
    headers = {"X-Request-ID": request_id} if request_id is not None else {}
    path = f"{_model_path(model, version)}/classify"
    if len(images) == 1:
        return Call("POST", path, params, headers | {"Content-Type": BINARY}, images[0])
    files = [("file", (f"{number}", image, BINARY)) for number, image in enumerate(images)]
    return Call("POST", path, params, headers, files=files)


def describe_model(name: str) -> Call:
    return Call("GET", _model_path(name, None))


def key_headers(api_key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key is not None else {}


def read(kind: type[T], response: httpx.Response) -> T:
    """Read an answer as one of the dataclasses in :mod:`lccl_client.answers`.

    Raises:
        LcclServerError: the answer is an error; its subclass says which.
        UnreadableAnswerError: a success that is not what was asked for.

    """
    if not response.is_success:
        raise _problem(response)
    return parse(kind, response.content)


def parse(kind: type[T], content: bytes) -> T:
    """Read a successful answer's body.

    Raises:
        UnreadableAnswerError: it does not have the fields of ``kind``.

    """
    try:
        return cast(T, _adapter(kind).validate_json(content))  # type: ignore[arg-type]  # a class is hashable
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise UnreadableAnswerError(f"the answer is no {kind.__name__}: {where}: {first['msg']}") from error


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _model_path(model: str | None, version: str | None) -> str:
    if model is None and version is not None:
        raise ValueError("a version needs the name of its model")
    path = "/v1" if model is None else f"/v1/models/{quote(model, safe='')}"
    return path if version is None else f"{path}/versions/{quote(version, safe='')}"


def _problem(response: httpx.Response) -> LcclServerError:
    """The exception for an error: the server's problem, or what something before it (a proxy) sent."""
    is_problem = response.headers.get("content-type", "").partition(";")[0] == "application/problem+json"
    try:
        fields = _adapter(dict[str, Any]).validate_json(response.content if is_problem else b"{}")
    except ValidationError:
        fields = {}
    status, code = response.status_code, str(fields.get("code", ""))
    kind = KINDS.get((status, code)) or KINDS.get((status, ""), LcclServerError)
    return kind(
        status,
        code,
        str(fields.get("detail", "")) or f"{response.reason_phrase}: {response.text[:200]}",
        str(fields.get("request_id", "")) or response.headers.get("x-request-id", ""),
        retry_after(response.headers.get("retry-after", ""), time.time()),
    )


def retry_after(header: str, now: float) -> float | None:
    """Seconds to wait, from a ``Retry-After`` in seconds or as a date (RFC 9110, section 10.2.3).

    Args:
        header: empty where there is none.
        now: Unix time.

    """
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - now)
    except ValueError:
        return None

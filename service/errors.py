"""What can go wrong with a request, and the single table from its code to a status."""

import math
from http import HTTPStatus
from typing import Any, Literal

from typing_extensions import TypedDict

from lccl.errors import (
    BundleError,
    DamagedImageError,
    ImageTooLargeError,
    InputError,
    LcclError,
    NotAnImageError,
    QualityError,
)

# What a request can be refused for, as its answer and the ``reason`` of the rejection metric say it.
Code = Literal[
    "malformed",  # a body that cannot be read as what it claims to be
    "damaged_image",  # in a known format, and cannot be decoded
    "client_gone",  # it closed the connection before its answer; nobody reads this one
    "wrong_host",  # the name in Host is none of this service
    "unauthorised",  # a missing or wrong API key
    "forbidden",  # a route that this caller may not use, or that nobody may because it is switched off
    "unknown_model",
    "too_slow",  # a request's head, or its body, did not arrive in time
    "too_large",  # too many bytes, pixels or files
    "not_an_image",  # bytes, or a content type, that are no image this service reads
    "invalid_field",  # unknown, given twice, or out of range
    "bad_wish", "bad_input", "bad_bundle",  # the library's errors
    "rate_limited",  # the caller has used up its requests for now
    "overloaded",  # the queue, or the memory for request bodies, is full
    "head_too_large",  # the head, or what trails the body
    "engine_failed",  # the batch that held this image failed inside the engine
    "internal",
    "unavailable",  # loading or draining
    "too_many_connections",
    "timeout",  # the server-side time limit passed before the answer was there
    "deadline",  # the request's cannot be met, however sparse; found before any compute was spent
]  # fmt: skip
CLIENT_GONE = 499  # no status of HTTP, but the one that proxies' logs have for it
# The status of an answer over HTTP, and over gRPC (https://grpc.io/docs/guides/status-codes). gRPC itself answers a
# message with too many bytes as too_large is answered here.
STATUS: dict[Code, tuple[int, str]] = {
    "malformed": (HTTPStatus.BAD_REQUEST, "INVALID_ARGUMENT"),
    "damaged_image": (HTTPStatus.BAD_REQUEST, "INVALID_ARGUMENT"),
    "client_gone": (CLIENT_GONE, "CANCELLED"),
    "wrong_host": (HTTPStatus.MISDIRECTED_REQUEST, "INVALID_ARGUMENT"),
    "unauthorised": (HTTPStatus.UNAUTHORIZED, "UNAUTHENTICATED"),
    "forbidden": (HTTPStatus.FORBIDDEN, "PERMISSION_DENIED"),
    "unknown_model": (HTTPStatus.NOT_FOUND, "NOT_FOUND"),
    "too_slow": (HTTPStatus.REQUEST_TIMEOUT, "DEADLINE_EXCEEDED"),
    "too_large": (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "RESOURCE_EXHAUSTED"),
    "not_an_image": (HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "INVALID_ARGUMENT"),
    "invalid_field": (HTTPStatus.UNPROCESSABLE_ENTITY, "INVALID_ARGUMENT"),
    "bad_wish": (HTTPStatus.UNPROCESSABLE_ENTITY, "INVALID_ARGUMENT"),
    "bad_input": (HTTPStatus.UNPROCESSABLE_ENTITY, "INVALID_ARGUMENT"),
    "bad_bundle": (HTTPStatus.UNPROCESSABLE_ENTITY, "FAILED_PRECONDITION"),
    "rate_limited": (HTTPStatus.TOO_MANY_REQUESTS, "RESOURCE_EXHAUSTED"),
    "overloaded": (HTTPStatus.TOO_MANY_REQUESTS, "RESOURCE_EXHAUSTED"),
    "head_too_large": (HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "RESOURCE_EXHAUSTED"),
    "engine_failed": (HTTPStatus.INTERNAL_SERVER_ERROR, "INTERNAL"),
    "internal": (HTTPStatus.INTERNAL_SERVER_ERROR, "INTERNAL"),
    "unavailable": (HTTPStatus.SERVICE_UNAVAILABLE, "UNAVAILABLE"),
    "too_many_connections": (HTTPStatus.SERVICE_UNAVAILABLE, "UNAVAILABLE"),
    "timeout": (HTTPStatus.GATEWAY_TIMEOUT, "DEADLINE_EXCEEDED"),
    "deadline": (HTTPStatus.GATEWAY_TIMEOUT, "DEADLINE_EXCEEDED"),
}
LIBRARY: dict[type[Exception], Code] = {
    QualityError: "bad_wish", InputError: "bad_input", BundleError: "bad_bundle",
    DamagedImageError: "damaged_image", NotAnImageError: "not_an_image", ImageTooLargeError: "too_large",
}  # fmt: skip


class ServiceError(LcclError):
    """A request, or one of its images, that is refused; the text is shown to the client.

    Attributes:
        retry_after_s: when trying again makes sense.

    """

    def __init__(self, code: Code, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.code, self.retry_after_s = code, retry_after_s

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.code, str(self), self.retry_after_s)


class StartError(LcclError):
    """The service cannot start: a file, a port, a source of models, or an installed package does not fit."""


class SignatureError(BundleError):
    """A bundle that lacks the signature that the policy asks for."""


class ProblemBody(TypedDict):
    """An error as the client reads it (RFC 9457); ``code`` is also the ``reason`` of the rejection metric."""

    type: str
    title: str
    status: int
    code: str
    detail: str


def problem(error: Exception) -> tuple[ProblemBody, dict[str, str]]:
    """The body and headers that an error is answered with; one that nobody foresaw is a 500 that tells nothing."""
    headers, text = {}, str(error)
    if isinstance(error, ServiceError):
        code = error.code
        if error.retry_after_s is not None:
            headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    elif isinstance(error, MemoryError):
        code, text = "unavailable", "the server has no memory left for this: try again later"
        headers["Retry-After"] = "1"
    else:
        code = next((code for kind, code in LIBRARY.items() if isinstance(error, kind)), "internal")
    if code == "unauthorised":
        headers["WWW-Authenticate"] = "Bearer"
    if code == "internal":
        text = "the server failed to answer; its log says why"
    return problem_body(STATUS[code][0], code, text), headers


def problem_body(status: int, code: str, detail: str) -> ProblemBody:
    """The body of an answer with that status."""
    title = "Client Closed Request" if status == CLIENT_GONE else HTTPStatus(status).phrase
    return {"type": "about:blank", "title": title, "status": int(status), "code": code, "detail": detail}


def complaint(error: Any, about: str) -> str:
    """The first complaint of pydantic's ValidationError, with the place it is about, or else what it is about."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in first["loc"])[:64].encode("ascii", "backslashreplace").decode()
    return f"{place or about}: {first['msg'][:200]}"

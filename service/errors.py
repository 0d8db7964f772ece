"""What can go wrong with a request, and the single table from error to status code."""

import math
from dataclasses import dataclass
from http import HTTPStatus

from typing_extensions import TypedDict

from lccl.errors import BundleError, InputError, LcclError, QualityError


class ServiceError(LcclError):
    """Base of the service's own errors; the text is shown to the client."""


class KeyFileError(LcclError):
    """The file of API keys cannot be used; ends the start."""


class TracingError(LcclError):
    """Tracing was asked for and its packages are missing."""


class MalformedRequestError(ServiceError):
    """A body that cannot be read as what it claims to be."""


class InvalidFieldError(ServiceError):
    """A field that is unknown, given twice, or out of range."""


class DamagedImageError(ServiceError):
    """An image in a known format that cannot be decoded."""


class NotAnImageError(ServiceError):
    """Bytes, or a content type, that are no image this service reads."""


class TooLargeError(ServiceError):
    """Too many bytes, pixels or files."""


class UnauthorisedError(ServiceError):
    """A missing or wrong API key."""


class ForbiddenError(ServiceError):
    """A route that this caller may not use, or that nobody may because it is switched off."""


class UnknownModelError(ServiceError):
    """No model of that name is served."""


class OverloadedError(ServiceError):
    """The queue, or the memory for request bodies, is full.

    Attributes:
        retry_after_s: when trying again makes sense.

    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class RateLimitedError(OverloadedError):
    """The caller has used up its requests for now."""


class UnavailableError(ServiceError):
    """Loading or draining."""


class TooManyConnectionsError(OverloadedError):
    """The server holds as many connections as it may."""


class TooSlowError(ServiceError):
    """A request's head, or its body, did not arrive in time."""


class HeadTooLargeError(ServiceError):
    """A request's head, or what trails its body, has too many bytes."""


class OutOfTimeError(ServiceError):
    """The server-side time limit passed before the answer was there."""


class DeadlineError(ServiceError):
    """The request's deadline cannot be met, however sparse; found before any compute was spent."""


class TransportError(LcclError):
    """The installed uvicorn does not fit; ends the start."""


class ClientGoneError(ServiceError):
    """The client closed the connection before its answer; nobody reads this one."""


class EngineFailedError(ServiceError):
    """The batch that held this image failed inside the engine."""


# The first row that an error is an instance of decides.
STATUS: tuple[tuple[type[Exception], HTTPStatus, str], ...] = (
    (MalformedRequestError, HTTPStatus.BAD_REQUEST, "malformed"),
    (DamagedImageError, HTTPStatus.BAD_REQUEST, "damaged_image"),
    (ClientGoneError, HTTPStatus.BAD_REQUEST, "client_gone"),
    (UnauthorisedError, HTTPStatus.UNAUTHORIZED, "unauthorised"),
    (ForbiddenError, HTTPStatus.FORBIDDEN, "forbidden"),
    (UnknownModelError, HTTPStatus.NOT_FOUND, "unknown_model"),
    (TooSlowError, HTTPStatus.REQUEST_TIMEOUT, "too_slow"),
    (TooLargeError, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too_large"),
    (NotAnImageError, HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "not_an_image"),
    (InvalidFieldError, HTTPStatus.UNPROCESSABLE_ENTITY, "invalid_field"),
    (QualityError, HTTPStatus.UNPROCESSABLE_ENTITY, "bad_wish"),
    (InputError, HTTPStatus.UNPROCESSABLE_ENTITY, "bad_input"),
    (BundleError, HTTPStatus.UNPROCESSABLE_ENTITY, "bad_bundle"),
    (RateLimitedError, HTTPStatus.TOO_MANY_REQUESTS, "rate_limited"),
    (TooManyConnectionsError, HTTPStatus.SERVICE_UNAVAILABLE, "too_many_connections"),
    (OverloadedError, HTTPStatus.TOO_MANY_REQUESTS, "overloaded"),
    (HeadTooLargeError, HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large"),
    (UnavailableError, HTTPStatus.SERVICE_UNAVAILABLE, "unavailable"),
    (OutOfTimeError, HTTPStatus.GATEWAY_TIMEOUT, "timeout"),
    (DeadlineError, HTTPStatus.GATEWAY_TIMEOUT, "deadline"),
    (EngineFailedError, HTTPStatus.INTERNAL_SERVER_ERROR, "engine_failed"),
)


class ProblemBody(TypedDict):
    """An error as the client reads it (RFC 9457)."""

    type: str
    title: str
    status: int
    code: str
    detail: str


@dataclass(frozen=True, slots=True)
class Problem:
    """An error as it is answered.

    Attributes:
        code: a short word for programs; also the ``reason`` of the rejection metric.
        retry_after: whole seconds for the Retry-After header.

    """

    status: int
    title: str
    code: str
    detail: str
    retry_after: int | None = None

    def to_json(self) -> ProblemBody:
        return {
            "type": "about:blank", "title": self.title, "status": self.status, "code": self.code, "detail": self.detail,
        }  # fmt: skip


def problem(error: Exception) -> Problem:
    """The problem that an error is answered with; what is not in the table is a 500 that tells nothing."""
    for kind, status, code in STATUS:
        if isinstance(error, kind):
            retry = max(1, math.ceil(error.retry_after_s)) if isinstance(error, OverloadedError) else None
            return Problem(int(status), status.phrase, code, str(error), retry)
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    return Problem(int(status), status.phrase, "internal", "the server failed to answer; its log says why")

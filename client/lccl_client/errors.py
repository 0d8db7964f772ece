"""The client's exceptions, and the single table from the server's statuses and codes to them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING


class LcclClientError(Exception):
    """Base of all errors of this package."""


class ConnectionFailedError(LcclClientError):
    """No answer: the server cannot be reached, the connection broke, or the client's own timeout passed."""


class UnreadableAnswerError(LcclClientError):
    """An answer that this server does not send; another program may listen at the address."""


class ImageError(LcclClientError):
    """The classes of an image were asked for, and it has an error instead."""


class LcclServerError(LcclClientError):
    """The server answered with an error.

    Attributes:
        status: the HTTP status.
        code: a short word for programs, such as ``overloaded``; empty when a proxy answered.
        detail: a sentence that says what to do.
        request_id: finds the request in the server's log; empty when none was sent.
        retry_after_s: seconds after which trying again makes sense; None when the server does not say.

    """

    def __init__(self, status: int, code: str, detail: str, request_id: str, retry_after_s: float | None) -> None:
        super().__init__(f"{status} {code}: {detail}" if code else f"{status}: {detail}")
        self.status, self.code, self.detail = status, code, detail
        self.request_id, self.retry_after_s = request_id, retry_after_s


class MalformedRequestError(LcclServerError):
    """400: a body, or an image, that cannot be read as what it claims to be."""


class UnauthorisedError(LcclServerError):
    """401: a missing or wrong API key."""


class ForbiddenError(LcclServerError):
    """403: a route that this caller may not use."""


class NotFoundError(LcclServerError):
    """404: no such model, version or route."""


class TooLargeError(LcclServerError):
    """413: too many bytes, pixels or images."""


class NotAnImageError(LcclServerError):
    """415: no image that the server reads."""


class QualityError(LcclServerError):
    """422: a target, floor or other field that is unknown, out of range or contradicts another."""


class OverloadedError(LcclServerError):
    """429: the server is overloaded; ``retry_after_s`` says when to try again."""


class RateLimitedError(OverloadedError):
    """429 with code ``rate_limited``: this caller is at its rate limit."""


class UnavailableError(LcclServerError):
    """503: the server is loading, shutting down, or at its limit of connections."""


class OutOfTimeError(LcclServerError):
    """504: the server's own time limit passed."""


class DeadlineError(OutOfTimeError):
    """504 with code ``deadline``: the request's ``deadline_ms`` cannot be met, or was not."""


# By status and code; an empty code stands for every other one.
KINDS: dict[tuple[int, str], type[LcclServerError]] = {
    (400, ""): MalformedRequestError,
    (401, ""): UnauthorisedError,
    (403, ""): ForbiddenError,
    (404, ""): NotFoundError,
    (413, ""): TooLargeError,
    (415, ""): NotAnImageError,
    (422, ""): QualityError,
    (429, ""): OverloadedError,
    (429, "rate_limited"): RateLimitedError,
    (503, ""): UnavailableError,
    (504, ""): OutOfTimeError,
    (504, "deadline"): DeadlineError,
}


if not TYPE_CHECKING:  # for a type checker, a module with __getattr__ has every name
    _RENAMED = {"PictureError": ImageError, "WishError": QualityError}

    def __getattr__(name: str) -> type[LcclClientError]:
        """Names of the previous release, kept for one release."""
        if name not in _RENAMED:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        warnings.warn(f"{name} is now {_RENAMED[name].__name__}", DeprecationWarning, stacklevel=2)
        return _RENAMED[name]

"""A typed client of the LCCL model server; ``lccl_client.load`` is a load generator (extra ``bench``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lccl_client.answers import (
    Answer,
    ClassProbability,
    Macs,
    ModelInput,
    ModelList,
    ModelMetadata,
    OfferedConfidence,
    OfferedExit,
    OfferedPoint,
    OperatingPointUsed,
    Prediction,
    Problem,
    Timing,
)
from lccl_client.client import AsyncClient, Client
from lccl_client.errors import (
    ConnectionFailedError,
    DeadlineError,
    ForbiddenError,
    ImageError,
    LcclClientError,
    LcclServerError,
    MalformedRequestError,
    NotAnImageError,
    NotFoundError,
    OutOfTimeError,
    OverloadedError,
    QualityError,
    RateLimitedError,
    TooLargeError,
    UnauthorisedError,
    UnavailableError,
    UnreadableAnswerError,
)

if not TYPE_CHECKING:
    from lccl_client.errors import __getattr__ as __getattr__

__all__ = [
    "Answer",
    "AsyncClient",
    "ClassProbability",
    "Client",
    "ConnectionFailedError",
    "DeadlineError",
    "ForbiddenError",
    "ImageError",
    "LcclClientError",
    "LcclServerError",
    "Macs",
    "MalformedRequestError",
    "ModelInput",
    "ModelList",
    "ModelMetadata",
    "NotAnImageError",
    "NotFoundError",
    "OfferedConfidence",
    "OfferedExit",
    "OfferedPoint",
    "OperatingPointUsed",
    "OutOfTimeError",
    "OverloadedError",
    "Prediction",
    "Problem",
    "QualityError",
    "RateLimitedError",
    "Timing",
    "TooLargeError",
    "UnauthorisedError",
    "UnavailableError",
    "UnreadableAnswerError",
]

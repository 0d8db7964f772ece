"""The server's answers, as frozen dataclasses with the wire's field names; unknown fields are ignored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lccl_client.errors import ImageError


@dataclass(frozen=True, slots=True)
class ClassProbability:
    label: str
    index: int
    probability: float


@dataclass(frozen=True, slots=True)
class Macs:
    """Multiply-accumulates: of the network without gates, in theory (gates + kept cells + the rest), and executed."""

    dense: int
    gated: int
    executed: int


@dataclass(frozen=True, slots=True)
class Problem:
    """The error of one image among several (RFC 9457)."""

    status: int
    code: str
    detail: str
    title: str = ""
    type: str = "about:blank"


@dataclass(frozen=True, slots=True)
class Prediction:
    """One image's classes, the likeliest first, and cost; or its error.

    Attributes:
        confidence: the likeliest class's probability.
        exit: the early exit that answered, from 0; None where the network ran to its end.

    """

    classes: tuple[ClassProbability, ...] = ()
    skip_ratio: float | None = None
    macs: Macs | None = None
    error: Problem | None = None
    confidence: float | None = None
    exit: int | None = None

    @property
    def best(self) -> ClassProbability:
        """The likeliest class.

        Raises:
            ImageError: this image has an error instead.

        """
        if self.error is not None or not self.classes:
            raise ImageError(self.error.detail if self.error else "the answer names no class")
        return self.classes[0]


@dataclass(frozen=True, slots=True)
class OperatingPointUsed:
    """The setting the images were run with, and what to expect of it: accuracies 0..1, drop in percentage points.

    ``exit_confidence`` has one confidence for each early exit of the model: an image above it leaves by that exit.
    ``norm_set`` is always 0; servers will leave it out.
    """

    name: str | None
    sparsity: float
    expected_accuracy: float
    accuracy_interval: tuple[float, float]
    expected_accuracy_drop: float
    downgraded: bool
    exit_confidence: tuple[float, ...] = ()
    norm_set: int = 0


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds in the server; for several images the longest of each stage."""

    decode: float
    queue: float
    compute: float
    total: float


@dataclass(frozen=True, slots=True)
class Answer:
    """The predictions of one request, in the order of its images; servers from before int8 name no ``precision``."""

    model: str
    version: str
    request_id: str
    operating_point: OperatingPointUsed
    predictions: tuple[Prediction, ...]
    timing_ms: Timing
    precision: str | None = None

    @property
    def best(self) -> ClassProbability:
        """The likeliest class of the first image."""
        return self.predictions[0].best


@dataclass(frozen=True, slots=True)
class _Measured:
    """What was measured with a setting: accuracies 0..1, drops in percentage points against exact."""

    skip_ratio: float
    gated_macs: float
    accuracy: float
    accuracy_interval: tuple[float, float]
    accuracy_drop: float
    accuracy_drop_interval: tuple[float, float]
    accuracy_drop_bound: float


@dataclass(frozen=True, slots=True)
class OfferedPoint(_Measured):
    """One operating point of a model: accuracies 0..1, drops in percentage points against exact."""

    name: str
    exit_confidence: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class OfferedConfidence(_Measured):
    """What was measured with exact gates and this confidence at every early exit; units as of :class:`OfferedPoint`."""

    exit_confidence: float


@dataclass(frozen=True, slots=True)
class OfferedExit:
    """An early exit, and the share of held-out images that leave by it at each operating point, where recorded."""

    number: int
    after_block: int
    images: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class ModelInput:
    width: int
    height: int
    formats: tuple[str, ...]
    max_body_bytes: int
    max_pixels: int
    max_images: int


@dataclass(frozen=True, slots=True)
class ModelMetadata:
    """What a model offers."""

    name: str
    version: str
    digest: str
    architecture: Mapping[str, Any]
    engine: str
    precision: str
    labels: tuple[str, ...]
    input: ModelInput
    dense_macs: int
    sparsity_range: tuple[float, float]
    smallest_certified_drop: float | None
    measured_images: int
    operating_points: tuple[OfferedPoint, ...]
    exits: tuple[OfferedExit, ...] = ()
    exit_confidence_range: tuple[float, float] | None = None
    exit_points: tuple[OfferedConfidence, ...] = ()
    experimental: bool = False


@dataclass(frozen=True, slots=True)
class ModelList:
    default: str | None
    models: tuple[ModelMetadata, ...]

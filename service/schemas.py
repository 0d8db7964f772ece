"""Wire types of the v1 routes."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints

from lccl.request import QualityRequest


def _no_boolean(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number, not true or false")
    return value


Number = Annotated[float, BeforeValidator(_no_boolean), Field(allow_inf_nan=False)]
Count = Annotated[int, BeforeValidator(_no_boolean)]


class Fields(BaseModel):
    """What a request may say beside its images, as query, form or JSON fields."""

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
    """The same beside an image whose skip map is asked for."""

    layer: Annotated[str, StringConstraints(max_length=64)] | None = Field(
        None, description="the layer to show; without it all of them, on a PNG weighted by MACs"
    )


class ClassifyBody(BaseModel):
    """A JSON request: one image or several, as base64, with the fields beside them."""

    model_config = ConfigDict(extra="allow", frozen=True)

    image: str | None = Field(None, description="base64 of a JPEG, PNG, WebP, GIF or BMP")
    images: list[str] | None = Field(None, description="several of them")


class ClassProbability(BaseModel):
    label: str
    index: int
    probability: float


class Macs(BaseModel):
    """Multiply-accumulates: of the plain twin, of theory (gates + kept cells + the rest), and really run."""

    dense: int
    gated: int
    executed: int


class ProblemBody(BaseModel):
    """An error, as in RFC 9457."""

    type: str
    title: str
    status: int
    code: str
    detail: str


def problems(*statuses: int, media_type: str = "application/problem+json") -> dict[int | str, dict[str, Any]]:
    """How a route's errors are documented."""
    return {status: {"model": ProblemBody, "content": {media_type: {}}} for status in statuses}


class Prediction(BaseModel):
    """What one image got: classes and cost, or the error that kept it from them.

    ``confidence`` is the first class's probability; ``exit`` counts from 0, null where the network ran to its end.
    """

    classes: list[ClassProbability] | None = None
    confidence: float | None = None
    exit: int | None = None
    skip_ratio: float | None = None
    macs: Macs | None = None
    error: ProblemBody | None = None


class OperatingPointUsed(BaseModel):
    """The setting the images were run with, and what to expect of it; ``exit_confidence`` has one for each exit."""

    name: str | None
    sparsity: float
    norm_set: int
    exit_confidence: list[float]
    expected_accuracy: float
    accuracy_interval: tuple[float, float]
    expected_accuracy_drop: float
    downgraded: bool


class Timing(BaseModel):
    """Milliseconds; for several images the longest of each stage."""

    decode: float
    queue: float
    compute: float
    total: float


class ClassifyAnswer(BaseModel):
    model: str
    version: str
    request_id: str
    operating_point: OperatingPointUsed
    predictions: list[Prediction]
    timing_ms: Timing


class SeenImage(BaseModel):
    """What the network sees of an image: ``seen`` of its shorter side, a central square, scaled to this size."""

    width: int
    height: int
    seen: float


class MaskedLayer(BaseModel):
    """One gated convolution and its cells. ``mask``: per gate group its rows, 1 where the convolution was computed."""

    name: str
    height: int
    width: int
    cells: int
    kept: int
    skip_ratio: float
    macs: int
    mask: list[list[str]]


class SkipMapAnswer(BaseModel):
    """An image's classes and cost, and where the network computed for it."""

    model: str
    version: str
    request_id: str
    operating_point: OperatingPointUsed
    prediction: Prediction
    image: SeenImage
    layers: list[MaskedLayer]
    timing_ms: Timing


class OfferedPoint(BaseModel):
    """One operating point as the model's metadata shows it; ``exit_confidence`` has one for each early exit."""

    name: str
    exit_confidence: list[float]
    skip_ratio: float
    gated_macs: float
    accuracy: float
    accuracy_interval: tuple[float, float]
    accuracy_drop: float
    accuracy_drop_interval: tuple[float, float]
    accuracy_drop_bound: float


class OfferedConfidence(BaseModel):
    """What was measured with exact gates and this confidence at every early exit."""

    exit_confidence: float
    skip_ratio: float
    gated_macs: float
    accuracy: float
    accuracy_interval: tuple[float, float]
    accuracy_drop: float
    accuracy_drop_interval: tuple[float, float]
    accuracy_drop_bound: float


class OfferedExit(BaseModel):
    """One early exit.

    ``images`` has the share of held-out images that leave by it at each operating point, where that is recorded.
    """

    number: int
    after_block: int
    images: dict[str, float]


class ModelInput(BaseModel):
    width: int
    height: int
    formats: list[str]
    max_body_bytes: int
    max_pixels: int
    max_images: int


class ModelMetadata(BaseModel):
    """What a model offers.

    ``experimental`` says that the engine's tests have not passed on a device of this model.
    """

    name: str
    version: str
    digest: str
    architecture: dict[str, Any]
    engine: str
    precision: str
    experimental: bool
    labels: list[str]
    input: ModelInput
    dense_macs: int
    sparsity_range: tuple[float, float]
    smallest_certified_drop: float | None
    measured_images: int
    operating_points: list[OfferedPoint]
    exits: list[OfferedExit]
    exit_confidence_range: tuple[float, float] | None
    exit_points: list[OfferedConfidence]


class ModelList(BaseModel):
    default: str
    models: list[ModelMetadata]

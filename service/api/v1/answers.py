"""What the v1 routes answer: the types that shape the answers and their schemas in the OpenAPI document."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field
from typing_extensions import TypedDict

from ...errors import ProblemBody


class ClassProbability(TypedDict):
    label: str
    index: int
    probability: float


class Macs(TypedDict):
    """Multiply-accumulates: of the plain twin; in theory (gates, kept cells and the rest); executed by the engine."""

    dense: int
    gated: int
    executed: int


class Prediction(TypedDict):
    """The result of one image.

    ``confidence`` is the first class's probability; ``exit`` counts from 0, null where the network ran to its end.
    """

    classes: list[ClassProbability]
    confidence: float
    exit: int | None
    skip_ratio: float
    macs: Macs


class FailedPrediction(TypedDict):
    """The error of one image among several."""

    error: ProblemBody


class OperatingPointUsed(TypedDict):
    """The setting the images were run with, and what to expect of it; ``exit_confidence`` has one for each exit."""

    name: str | None
    sparsity: float
    norm_set: Annotated[int, Field(deprecated="always 0; it will go with the next release")]
    exit_confidence: Sequence[float]
    expected_accuracy: float
    accuracy_interval: tuple[float, float]
    expected_accuracy_drop: float
    downgraded: bool


class Timing(TypedDict):
    """Milliseconds; for several images the longest of each stage."""

    decode: float
    queue: float
    compute: float
    total: float


class Heading(TypedDict):
    """Who answers, in what arithmetic, with what setting, and how long it took."""

    model: str
    version: str
    precision: str
    request_id: str
    operating_point: OperatingPointUsed
    timing_ms: Timing


class ClassifyAnswer(Heading):
    """Classes and cost of each image, in their order."""

    predictions: list[Prediction | FailedPrediction]


class SeenImage(TypedDict):
    """What the network sees of an image: ``seen`` of its shorter side, a central square, scaled to this size.

    Where ``fit`` is ``stretch``, it is that share of both sides instead.
    """

    width: int
    height: int
    seen: float
    fit: str


class MaskedLayer(TypedDict):
    """One gated convolution and its cells. ``mask``: per gate group its rows, 1 where the convolution was computed."""

    name: str
    height: int
    width: int
    cells: int
    kept: int
    skip_ratio: float
    macs: int
    mask: list[list[str]]


class SkipMapAnswer(Heading):
    """An image's classes and cost, and where the network computed for it."""

    prediction: Prediction
    image: SeenImage
    layers: list[MaskedLayer]


class Measured(TypedDict):
    """What was measured on held-out images with one setting."""

    skip_ratio: float
    gated_macs: float
    accuracy: float
    accuracy_interval: tuple[float, float]
    accuracy_drop: float
    accuracy_drop_interval: tuple[float, float]
    accuracy_drop_bound: float


class OfferedPoint(Measured):
    """One operating point as the model's metadata shows it; ``exit_confidence`` has one for each early exit."""

    name: str
    exit_confidence: Sequence[float]


class OfferedConfidence(Measured):
    """What was measured with exact gates and this confidence at every early exit."""

    exit_confidence: float


class OfferedExit(TypedDict):
    """One early exit.

    ``images`` has the share of held-out images that leave by it at each operating point, where that is recorded.
    """

    number: int
    after_block: int
    images: dict[str, float]


class ModelInput(TypedDict):
    width: int
    height: int
    formats: Sequence[str]
    max_body_bytes: int
    max_pixels: int
    max_images: int


class ModelMetadata(TypedDict):
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
    labels: Sequence[str]
    input: ModelInput
    dense_macs: int
    sparsity_range: tuple[float, float]
    smallest_certified_drop: float | None
    measured_images: int
    operating_points: list[OfferedPoint]
    exits: list[OfferedExit]
    exit_confidence_range: tuple[float, float] | None
    exit_points: list[OfferedConfidence]


class ModelList(TypedDict):
    default: str | None
    models: list[ModelMetadata]

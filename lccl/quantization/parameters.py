"""What a network needs beside its float weights to run in int8: scales of its maps, and its weights as integers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lccl.errors import QuantisationError

SMALLEST, LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max) / 256
LARGEST_WEIGHT = 127  # −128 is left out: weights are symmetric


@dataclass(frozen=True, slots=True, eq=False)
class QuantisedWeight:
    """The weights of one convolution or gate.

    Attributes:
        weight: int8 [T, C, k, k], −127..127. The stem's stand for weights of pixels, ``w / (255 · std)``.
        scale: float32 [T]: an integer stands for itself times its channel's scale.
        correction: float32 [T], added to what the convolution gives after its normalisation: what rounding
            takes off on average.

    """

    weight: NDArray[np.int8]
    scale: NDArray[np.float32]
    correction: NDArray[np.float32]

    def complaint(self) -> str | None:
        """What keeps it from being used; None where it is sound."""
        if self.weight.dtype != np.int8 or self.weight.ndim != 4 or (self.weight < -LARGEST_WEIGHT).any():
            return "weights must be int8 [T, C, k, k] within −127..127"
        for name, values in (("scales", self.scale), ("corrections", self.correction)):
            if values.dtype != np.float32 or values.shape != (len(self.weight),):
                return f"{name} must be float32 [{len(self.weight)}], not {values.dtype} {list(values.shape)}"
            if not np.isfinite(values).all():
                return f"{name} must be finite"
        return None if (self.scale > 0).all() else "scales must lie above 0"


@dataclass(frozen=True, slots=True, eq=False)
class Quantisation:
    """All choices that turn a float plan into a quantised one.

    Attributes:
        scales: of every map but the image, by the name of its buffer.
        weights: by the name of the buffer that a step writes first, a gate's by that and ``.gate``.

    Raises:
        QuantisationError: a scale is not finite and above 0, or a weight is unsound.

    """

    scales: Mapping[str, float]
    weights: Mapping[str, QuantisedWeight]

    def __post_init__(self) -> None:
        for name, scale in self.scales.items():
            if not SMALLEST <= scale <= LARGEST:
                raise QuantisationError(f"the scale of {name} is {scale:g}: it must be finite and above 0 in float32")
        for name, weight in self.weights.items():
            complaint = weight.complaint()
            if complaint is not None:
                raise QuantisationError(f"{name}: its {complaint}")


def weight_scales(weight: NDArray[np.floating], *, by_error: bool = False) -> NDArray[np.float32]:
    """A scale per output channel for weights [T, C, k, k]: the largest fits, or the squared error is least.

    Channels that are 0 throughout get 1.
    """
    rows = np.abs(weight.astype(np.float64).reshape(len(weight), -1))
    largest = rows.max(axis=1) / LARGEST_WEIGHT
    largest = np.where(largest < np.finfo(np.float32).tiny, 1.0, largest).astype(np.float32)
    if not by_error:
        return largest
    shares = np.linspace(1.0, 0.5, 51, dtype=np.float32)
    candidates = largest[:, None] * shares  # [T, candidates]
    errors = np.stack([_squared_error(rows, scale) for scale in candidates.T], axis=1)
    return np.take_along_axis(candidates, errors.argmin(axis=1)[:, None], axis=1)[:, 0]


def rounded(weight: NDArray[np.floating], scale: NDArray[np.float32]) -> NDArray[np.int8]:
    """Weights [T, …] in units of their channels' scales, to the nearest integer that is stored."""
    units = weight.astype(np.float64) / scale.astype(np.float64).reshape(-1, *[1] * (weight.ndim - 1))
    return np.rint(np.clip(units, -LARGEST_WEIGHT, LARGEST_WEIGHT)).astype(np.int8)


def _squared_error(rows: NDArray[np.float64], scale: NDArray[np.float32]) -> NDArray[np.float64]:
    width = scale.astype(np.float64)[:, None]
    error: NDArray[np.float64] = ((np.minimum(np.rint(rows / width), LARGEST_WEIGHT) * width - rows) ** 2).sum(axis=1)
    return error

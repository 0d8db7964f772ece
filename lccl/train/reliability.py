"""How far confidences can be believed: calibration errors, temperatures, and risk against coverage."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15
COVERAGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.05, 20.0
GOLDEN = (5**0.5 - 1) / 2

Logits = NDArray[np.floating]
Labels = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers whose confidences lie in one of ``BINS`` equal parts of 0..1."""

    images: int
    confidence: float
    accuracy: float


def softmax(logits: Logits, temperature: float = 1.0) -> NDArray[np.float64]:
    """[N, classes] → [N, classes]."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    shares: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return shares


def fit_temperature(logits: Logits, labels: Labels) -> float:
    """The temperature T at which ``softmax(logits / T)`` gives the labels their highest likelihood.

    Args:
        logits: [N, classes], on images that the classifier was not trained on.
        labels: [N].

    Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2.

    """
    low, high = np.log(LOWEST_TEMPERATURE), np.log(HIGHEST_TEMPERATURE)
    for _ in range(40):
        left, right = high - GOLDEN * (high - low), low + GOLDEN * (high - low)
        if _loss(logits, labels, float(np.exp(left))) < _loss(logits, labels, float(np.exp(right))):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def reliability(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> list[Bin]:
    """The bins of a reliability diagram that hold any answers; both arrays [N]."""
    number = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return [
        Bin(int(inside.sum()), float(confidence[inside].mean()), float(right[inside].mean()))
        for inside in (number == one for one in range(BINS))
        if inside.any()
    ]


def expected_calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Mean distance between confidence and accuracy over ``BINS`` bins, weighted by their answers; 0..1.

    Source: Naeini et al., AAAI 2015; Guo et al., ICML 2017.
    """
    bins = reliability(confidence, right)
    return sum(one.images * abs(one.accuracy - one.confidence) for one in bins) / len(right)


def risk_coverage(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> list[tuple[float, float]]:
    """Share of wrong answers among the surest ones, for each share of answers in ``COVERAGES``: (coverage, risk).

    Source: Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks", NeurIPS 2017.
    """
    surest = right[np.argsort(-confidence, kind="stable")]
    counts = [max(1, round(coverage * len(right))) for coverage in COVERAGES]
    return [(coverage, float(1 - surest[:count].mean())) for coverage, count in zip(COVERAGES, counts, strict=True)]


def _loss(logits: Logits, labels: Labels, temperature: float) -> float:
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    return float((np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(labels)), labels]).mean())

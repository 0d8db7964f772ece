"""How well confidences match accuracies: calibration errors, temperatures, and risk against coverage."""

import numpy as np
from numpy.typing import NDArray

from lccl.bundle.training_record import ReliabilityBin

BINS = 15
COVERAGES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE = 0.05, 20.0
GOLDEN = (5**0.5 - 1) / 2

Logits = NDArray[np.floating]
Labels = NDArray[np.int64]


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


def reliability(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[ReliabilityBin, ...]:
    """The bins of a reliability diagram that hold any answers; both arrays [N]."""
    number = np.minimum((confidence * BINS).astype(int), BINS - 1)
    return tuple(
        ReliabilityBin(int(inside.sum()), float(confidence[inside].mean()), float(right[inside].mean()))
        for inside in (number == index for index in range(BINS))
        if inside.any()
    )


def expected_calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Mean distance between confidence and accuracy over ``BINS`` bins, weighted by their answers; 0..1.

    Source: Naeini et al., AAAI 2015; Guo et al., ICML 2017.
    """
    bins = reliability(confidence, right)
    return sum(each.images * abs(each.accuracy - each.confidence) for each in bins) / len(right)


def risk_coverage(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> tuple[tuple[float, float], ...]:
    """Share of wrong answers among the most confident ones, as (coverage, risk) for each of ``COVERAGES``.

    Source: Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks", NeurIPS 2017.
    """
    ranked = right[np.argsort(-confidence, kind="stable")]
    counts = [max(1, round(coverage * len(right))) for coverage in COVERAGES]
    pairs = zip(COVERAGES, counts, strict=True)
    return tuple((coverage, float(1 - ranked[:count].mean())) for coverage, count in pairs)


def _loss(logits: Logits, labels: Labels, temperature: float) -> float:
    scaled = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    return float((np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(labels)), labels]).mean())

"""Chooses a quantisation by what it costs: how far the network's answers move on held-out images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lccl.engines.base import Engine, Images
from lccl.engines.reference import ReferenceEngine
from lccl.errors import QuantisationError
from lccl.plan.run import RunOptions, Setting
from lccl.plan.steps import Plan
from lccl.quantization.correction import corrected
from lccl.quantization.parameters import Quantisation
from lccl.quantization.plan import quantise, round_weights, shared_scales, zero_of
from lccl.quantization.ranges import BATCH_BYTES, Histogram, image_bytes, value_ranges

SHARES = (1.0, 0.99999, 0.9999, 0.999)  # of a map's values that are not clipped
NUDGES = (0.8, 1.25)
CORRECTED = 256
LEVELS = {0: 255, 128: 127}

Progress = Callable[[str], None]
MakeEngine = Callable[[Plan], Engine]
Group = tuple[str, ...]
LEAST_ERROR = "scales of least error"


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    """A quantisation and its mean divergence from the float network's answers, in nats."""

    quantisation: Quantisation
    cost: float


def choose_quantisation(
    plan: Plan,
    ranged: NDArray[np.uint8],
    weighed: NDArray[np.uint8],
    settings: Sequence[Setting],
    make_engine: MakeEngine | None = None,
    progress: Progress = lambda _: None,
) -> Quantisation:
    """Find scales, integer weights and corrections for a float plan.

    What a choice costs is the mean Kullback–Leibler divergence of the int8 answers from the float ones on the
    ``weighed`` images, over all ``settings``. Every choice is kept only where it costs less: how much of each map's
    values to clip, the same for all maps (percentiles and the least squared error), then each map's scale on its own,
    weights that fit their largest or the least squared error, and a correction of biases.

    Args:
        plan: a float plan without split convolutions.
        ranged: images uint8 [N, H, W, 3] that values are ranged and biases corrected on; like those that are weighed,
            none that the network was trained on.
        weighed: images uint8 [M, H, W, 3].
        settings: under which it is to run.
        make_engine: what runs quantised plans; without it the reference engine.

    Raises:
        QuantisationError: the plan has split convolutions, or values are not finite.

    """
    weights = round_weights(plan)
    progress("ranging values")
    histograms = value_ranges(plan, ranged)
    if not all(np.isfinite(histogram.largest) for histogram in histograms.values()):
        raise QuantisationError("the network's values are not finite on these images: it cannot be quantised")
    weighing = _Weighing(plan, weighed, settings, make_engine or _reference, progress)
    candidates = [
        weighing.weigh(name, Quantisation(scales, weights)) for name, scales in _scales(plan, histograms).items()
    ]
    best = min(candidates, key=lambda candidate: candidate.cost)
    best = _nudge(plan, best, weighing)
    by_error = replace(best.quantisation, weights=round_weights(plan, by_error=True))
    best = min(best, weighing.weigh("weights of least error", by_error), key=lambda candidate: candidate.cost)
    few = max(1, min(CORRECTED, 4 * BATCH_BYTES // image_bytes(plan)))
    unbiased = weighing.weigh("corrected biases", corrected(plan, best.quantisation, ranged[:few]))
    return min(best, unbiased, key=lambda candidate: candidate.cost).quantisation


def least_error(plan: Plan, images: NDArray[np.uint8]) -> Quantisation:
    """Scales of the least squared error on some images, and rounded weights; what they cost is not weighed."""
    return Quantisation(_scales(plan, value_ranges(plan, images))[LEAST_ERROR], round_weights(plan))


class _Weighing:
    """Finds what quantisations cost, beside the float network's answers."""

    def __init__(
        self, plan: Plan, images: Images, settings: Sequence[Setting], make_engine: MakeEngine, progress: Progress
    ) -> None:
        self._plan, self._images, self._settings = plan, images, settings
        self._make_engine, self._progress = make_engine, progress
        floating = ReferenceEngine(plan)
        self._wanted = [log_probabilities(answers(floating, images, setting)) for setting in settings]

    def weigh(self, name: str, quantisation: Quantisation) -> _Candidate:
        engine = self._make_engine(quantise(self._plan, quantisation))
        costs = []
        for setting, wanted in zip(self._settings, self._wanted, strict=True):
            own = log_probabilities(answers(engine, self._images, setting))
            costs.append(float((np.exp(wanted) * (wanted - own)).sum(axis=1).mean()))
        cost = float(np.mean(costs))
        self._progress(f"{name}: {cost:.5f} nats from fp32")
        return _Candidate(quantisation, cost if np.isfinite(cost) else np.inf)


def answers(engine: Engine, images: Images, setting: Setting) -> NDArray[np.float64]:
    """Logits float64 [N, classes] of images under one setting, in batches that suit the engine."""
    batch = engine.batch_limit
    parts = [images[start : start + batch] for start in range(0, len(images), batch)]
    return np.concatenate([engine.run(part, RunOptions.of([setting] * len(part))).logits for part in parts]).astype(
        np.float64
    )


def log_probabilities(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logarithm of the softmax, [N, classes]."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    logarithms: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logarithms


def _scales(plan: Plan, histograms: Mapping[Group, Histogram]) -> dict[str, dict[str, float]]:
    """Ways to choose all scales, by what they are called."""
    levels = {group: LEVELS[zero_of(plan, group[0])] for group in histograms}

    def of(clip: Callable[[Histogram, int], float]) -> dict[str, float]:
        scales: dict[str, float] = {}
        for group, histogram in histograms.items():
            scale = float(np.float32((clip(histogram, levels[group]) or 1.0) / levels[group]))
            scales |= dict.fromkeys(group, scale)
        return scales

    ways = {
        f"{100 * share:g} % of the values": of(lambda histogram, _, share=share: histogram.quantile(share))  # type: ignore[misc]
        for share in SHARES
    }
    return ways | {LEAST_ERROR: of(Histogram.least_error)}


def _nudge(plan: Plan, best: _Candidate, weighing: _Weighing) -> _Candidate:
    """Try each map's scale smaller, and where that does not help larger."""
    for group in shared_scales(plan):
        for nudge in NUDGES:
            scale = float(np.float32(best.quantisation.scales[group[0]] * nudge))
            scales = {**best.quantisation.scales, **dict.fromkeys(group, scale)}
            tried = weighing.weigh(f"{group[0]} × {nudge:g}", replace(best.quantisation, scales=scales))
            if tried.cost < best.cost:
                best = tried
                break
    return best


def _reference(plan: Plan) -> Engine:
    return ReferenceEngine(plan, precision="int8")

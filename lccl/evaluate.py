"""Running a model over labelled images: what it gets right, what it skips, and how sure both figures are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lccl.controls import Controls, Output
from lccl.data import Split
from lccl.engines.base import Engine
from lccl.errors import DataError
from lccl.flops import NetworkShape
from lccl.operating_points import Interval, OperatingPoint, Setting
from lccl.statistics import Z_TWO_SIDED, largest_loss, paired_difference, wilson

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Measurement:
    """One setting over a split of N images.

    Attributes:
        right: bool [N].
        kept: int64 [N, L], cells kept.
        executed_macs: int64 [N].
        left_by: int64 [N], the exit that answered; the number of exits at the network's end.

    """

    thresholds: tuple[float, ...]
    norm_set: int
    exit_confidence: tuple[float, ...]
    right: NDArray[np.bool_]
    kept: NDArray[np.int64]
    executed_macs: NDArray[np.int64]
    left_by: NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    def skip_ratio(self, shape: NetworkShape) -> float:
        """Mean skip ratio over the images."""
        return float(shape.skip_ratio(self.kept).mean())

    def gated_macs(self, shape: NetworkShape) -> float:
        """Mean theoretical MACs of an image."""
        return float(shape.gated(self.kept, self.left_by).mean())


def outputs_over(
    engine: Engine,
    split: Split,
    thresholds: Sequence[float],
    norm_set: int = 0,
    exit_confidence: Sequence[float] = (),
) -> Iterator[tuple[Output, NDArray[np.int64]]]:
    """Run a split under the same thresholds in batches that suit the engine: each batch's output and labels."""
    for start in range(0, len(split), engine.batch_limit):
        images = split.images[start : start + engine.batch_limit]
        controls = Controls.uniform(len(images), thresholds, norm_set, exit_confidence=exit_confidence)
        output = engine.run(images, controls)
        yield output, split.labels[start : start + engine.batch_limit]


def measure(
    engine: Engine,
    split: Split,
    thresholds: Sequence[float],
    norm_set: int = 0,
    progress: Progress = lambda _: None,
    exit_confidence: Sequence[float] = (),
) -> Measurement:
    """Run every image of a split under the same thresholds; ``progress`` is told how many are done.

    Without exit confidences no image leaves early.

    Raises:
        DataError: the split is empty.

    """
    if not len(split):
        raise DataError("there are no images to measure on: the data set is too small to hold any out")
    right, kept, executed, left_by = [], [], [], []
    for output, labels in outputs_over(engine, split, thresholds, norm_set, exit_confidence):
        right.append(output.logits.argmax(1) == labels)
        kept.append(output.kept)
        executed.append(output.executed_macs)
        left_by.append(output.exit)
        progress(len(labels))
    return Measurement(
        tuple(float(value) for value in thresholds),
        norm_set,
        tuple(float(value) for value in exit_confidence) or (1.0,) * len(engine.shape.exits),
        np.concatenate(right),
        np.concatenate(kept),
        np.concatenate(executed),
        np.concatenate(left_by),
    )


def measure_setting(
    engine: Engine, split: Split, setting: Setting | OperatingPoint, progress: Progress = lambda _: None
) -> Measurement:
    """Run every image of a split as a wish or an operating point has it; see :func:`measure`."""
    return measure(engine, split, setting.thresholds, setting.norm_set, progress, setting.exit_confidence)


def operating_point(
    name: str,
    found: Measurement,
    exact: Measurement,
    shape: NetworkShape,
    unchosen: NDArray[np.bool_] | None = None,
) -> OperatingPoint:
    """State a measurement as an operating point, its loss paired with exact image by image.

    Args:
        unchosen: what exact got right on more images than ``exact`` was measured on, these first. The
            stated accuracy is exact's over all of them less the paired loss: both without bias, and
            surer than the accuracy on the fewer images alone.

    """
    count = len(found.right)
    lost = int((exact.right & ~found.right).sum())
    won = int((found.right & ~exact.right).sum())
    low, high = paired_difference(lost, won, count)
    accuracy, interval = _accuracy(found, exact, exact.right if unchosen is None else unchosen)
    return OperatingPoint(
        name=name,
        thresholds=found.thresholds,
        norm_set=found.norm_set,
        skip_ratio=found.skip_ratio(shape),
        gated_macs=found.gated_macs(shape),
        accuracy=accuracy,
        accuracy_interval=interval,
        drop=100 * (lost - won) / count,
        drop_interval=Interval(100 * low, 100 * high),
        drop_bound=100 * largest_loss(lost, won, count),
        exit_confidence=found.exit_confidence,
    )


def _accuracy(found: Measurement, exact: Measurement, unchosen: NDArray[np.bool_]) -> tuple[float, Interval]:
    """Exact's accuracy over all images less the loss on those of ``found``; for exact itself Wilson's interval."""
    loss = exact.right.astype(np.float64) - found.right
    if not loss.any():
        return float(unchosen.mean()), Interval(*wilson(int(unchosen.sum()), len(unchosen)))
    accuracy = min(1.0, max(0.0, float(unchosen.mean() - loss.mean())))
    shared = np.cov(exact.right, loss, bias=True)
    variance = (unchosen.var() - 2 * shared[0, 1]) / len(unchosen) + shared[1, 1] / len(loss)
    spread = Z_TWO_SIDED * math.sqrt(max(0.0, variance))
    return accuracy, Interval(max(0.0, accuracy - spread), min(1.0, accuracy + spread))

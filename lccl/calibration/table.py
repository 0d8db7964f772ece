"""Measurements → operating points: the only builder of tables."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lccl.calibration.intervals import Z_TWO_SIDED, largest_loss, paired_difference, wilson
from lccl.data import HeldOut
from lccl.engines.base import Engine
from lccl.measurement import Measurement, Progress, exact_setting, measure
from lccl.operating_points import EXACT, LOWEST_CONFIDENCE, Interval, OperatingPoint, OperatingPointTable
from lccl.plan.geometry import NetworkShape
from lccl.plan.run import Setting

EXIT_CONFIDENCES = (0.9999, 0.999, 0.995, 0.99, 0.95, 0.9, 0.8, 0.7, 0.6, LOWEST_CONFIDENCE)


def build_table(
    engine: Engine, data: HeldOut, settings: Mapping[str, Setting], progress: Progress = lambda _: None
) -> tuple[OperatingPointTable, dict[str, Measurement]]:
    """Measure settings on the held-out part that was not used for choosing, and state them as a table beside exact.

    Exact's accuracy is from both parts, since its thresholds are 0 whatever is chosen. A network with early exits also
    gets ``exit_points``. A setting that skips no more than one before it, which only few images can bring about, is
    left out.

    Args:
        settings: by name, ordered by skip ratio; exact is added in front.
        progress: is told how many more images have been run.

    Returns:
        the table, and each of its points' measurement by name.

    """
    exact = measure(engine, data.measure, exact_setting(engine), progress)
    unchosen = np.concatenate([exact.right, measure(engine, data.choose, exact.setting, progress).right])

    def state(name: str, measured: Measurement) -> OperatingPoint:
        return operating_point(name, measured, exact, engine.shape, unchosen)

    points, measurements = [state(EXACT, exact)], {EXACT: exact}
    for name, setting in settings.items():
        measured = measure(engine, data.measure, setting, progress)
        point = state(name, measured)
        if point.skip_ratio > points[-1].skip_ratio:
            points.append(point)
            measurements[name] = measured
    exits = len(engine.shape.exits)
    confident = (
        replace(exact.setting, exit_confidence=(confidence,) * exits) for confidence in EXIT_CONFIDENCES if exits
    )
    exit_points = tuple(
        state(f"exit {setting.exit_confidence[0]:g}", measure(engine, data.measure, setting, progress))
        for setting in confident
    )
    return OperatingPointTable(tuple(points), len(data.measure), exit_points), measurements


def operating_point(
    name: str,
    measured: Measurement,
    exact: Measurement,
    shape: NetworkShape,
    unchosen: NDArray[np.bool_] | None = None,
) -> OperatingPoint:
    """State a measurement as an operating point, its loss paired with exact image by image.

    Args:
        unchosen: what exact got right on more images than ``exact`` was measured on, these first. The
            stated accuracy is exact's over all of them less the paired loss: both are unbiased, and the interval is
            narrower than that of the accuracy on the fewer images alone.

    """
    count = len(measured.right)
    lost = int((exact.right & ~measured.right).sum())
    won = int((measured.right & ~exact.right).sum())
    low, high = paired_difference(lost, won, count)
    accuracy, interval = _accuracy(measured, exact, exact.right if unchosen is None else unchosen)
    return OperatingPoint(
        name=name,
        setting=measured.setting,
        skip_ratio=measured.skip_ratio(shape),
        gated_macs=measured.gated_macs(shape),
        accuracy=accuracy,
        accuracy_interval=interval,
        drop=100 * (lost - won) / count,
        drop_interval=Interval(100 * low, 100 * high),
        drop_bound=100 * largest_loss(lost, won, count),
    )


def _accuracy(measured: Measurement, exact: Measurement, unchosen: NDArray[np.bool_]) -> tuple[float, Interval]:
    """Exact's accuracy over all images less the loss on those of ``measured``; for exact itself Wilson's interval."""
    loss = exact.right.astype(np.float64) - measured.right
    if not loss.any():
        return float(unchosen.mean()), Interval(*wilson(int(unchosen.sum()), len(unchosen)))
    accuracy = min(1.0, max(0.0, float(unchosen.mean() - loss.mean())))
    shared = np.cov(exact.right, loss, bias=True)
    variance = (unchosen.var() - 2 * shared[0, 1]) / len(unchosen) + shared[1, 1] / len(loss)
    spread = Z_TWO_SIDED * math.sqrt(max(0.0, variance))
    return accuracy, Interval(max(0.0, accuracy - spread), min(1.0, accuracy + spread))

"""Calibration: choose a model's operating points on one held-out part, measure them on the other."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lccl.bundle.format import Bundle
from lccl.calibration.intervals import paired_difference
from lccl.calibration.search import (
    LARGEST_COST,
    Closing,
    ThresholdCurve,
    exit_candidates,
    gate_candidates,
    gate_values,
    search_thresholds,
)
from lccl.calibration.table import build_table
from lccl.data import HeldOut, Split
from lccl.engines.base import Engine
from lccl.errors import LcclError
from lccl.measurement import Measurement, measure
from lccl.operating_points import EXACT
from lccl.plan.geometry import NetworkShape
from lccl.plan.run import Setting

Progress = Callable[[str], None]
STEP = 0.05
LARGEST_DROP = 10.0
RATIO_TOLERANCE = 0.01
ACCURACY_STEP = 1.2
FINEST_STEP = 0.012
MOST_TRIES = 16
SEARCHED = 2000
WEIGHED, WEIGHED_PHOTOGRAPHS, LARGE = 1000, 200, 64


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """A setting, what it came to on the choosing part, and its position on the curve, where it lies on it."""

    setting: Setting
    position: float
    skip_ratio: float
    right: NDArray[np.bool_]

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    def falls_to(self, sparser: Self) -> bool:
        """Whether more accuracy is lost on the way than a step should lose, and more than chance explains."""
        lost, won = int((self.right & ~sparser.right).sum()), int((sparser.right & ~self.right).sum())
        least, _ = paired_difference(lost, won, len(self.right))
        return 100 * (self.accuracy - sparser.accuracy) > ACCURACY_STEP and least > 0


def calibrate(
    bundle: Bundle,
    engine: Engine,
    data: HeldOut,
    progress: Progress = lambda _: None,
    weighed: int = WEIGHED,
    closing: Closing = "blocks",
) -> Bundle:
    """Return the bundle with a fresh table of operating points of the engine's precision: fp32 or int8.

    Each layer has a threshold of its own and each early exit its confidence, moved in the order of what that costs
    for the work it saves (:func:`lccl.calibration.search.search_thresholds`): points in steps of about 0.05 of skip
    ratio until ten points of accuracy are lost, closer where the curve is steep or bends. All of that is decided on
    images of ``data.choose``; every stated loss and skip ratio is from ``data.measure``, and nothing is dropped for
    the losses it shows: only what skips no more there than the point before.

    Args:
        weighed: how many images of ``data.choose`` costs are found on; the search runs over them some 700 times,
            with early exits more often.
        closing: when the search may close layers.

    Raises:
        DataError: the data is not what the bundle was made from.
        LcclError: the network has no gates.

    """
    if not engine.shape.layers:
        raise LcclError("a plain twin has no gates: there is nothing to calibrate")
    bundle.check_held_out(data.digest)
    weighed_on = data.choose.first(weighed).loaded()
    candidates = gate_candidates(gate_values(bundle.network, bundle.preprocessing, data.choose))
    candidates += exit_candidates(engine, weighed_on)
    curve = search_thresholds(engine, candidates, weighed_on, LARGEST_COST, progress, closing=closing)
    return calibrate_along(curve, bundle, engine, data, progress)


def usual_search(size: int) -> int:
    """How many images to find costs on, by their pixels a side: a photograph takes as long as many thumbnails."""
    return WEIGHED if size < LARGE else WEIGHED_PHOTOGRAPHS


def calibrate_along(
    curve: ThresholdCurve, bundle: Bundle, engine: Engine, data: HeldOut, progress: Progress = lambda _: None
) -> Bundle:
    """Choose operating points on a curve of thresholds, and measure them; see :func:`calibrate`."""
    _, *chosen = _choose(_Trials(engine, curve, data.choose.first(SEARCHED), progress))
    done = 0

    def measured(images: int) -> None:
        nonlocal done
        done += images
        progress(f"measuring {1 + len(chosen)} points: {done:,} images")

    table, measurements = build_table(engine, data, _named(chosen), measured)
    return bundle.with_points(engine.precision, table, _by_layer_and_exit(measurements, engine.shape))


class _Trials:
    """Looks along the curve for skip ratios, on the choosing part, remembering what was tried."""

    def __init__(self, engine: Engine, curve: ThresholdCurve, split: Split, progress: Progress) -> None:
        self._engine, self._curve, self._split, self._progress = engine, curve, split, progress
        self.exact = self._at(0.0)
        self._on_curve = [self.exact, self._at(curve.length)]

    def reaching(
        self, skip_ratio: float, tolerance: float = RATIO_TOLERANCE, *, after: _Trial, before: _Trial | None = None
    ) -> _Trial | None:
        """A trial whose skip ratio comes within a third of the usual tolerance, or at least within this one.

        It lies between two positions on the curve, so that points' thresholds rise even where the ratio falls for a
        while. None beyond the curve's end, and where the ratio jumps: closing a layer may close or open others.
        """
        end = self._curve.length if before is None else before.position
        for _ in range(MOST_TRIES):
            inside = [trial for trial in self._on_curve if after.position <= trial.position <= end]
            below = max((trial for trial in inside if trial.skip_ratio < skip_ratio), key=lambda trial: trial.position)
            beyond = (trial for trial in inside if trial.skip_ratio >= skip_ratio and trial.position > below.position)
            above = min(beyond, key=lambda trial: trial.position, default=below)
            best = min((below, above), key=lambda trial: abs(trial.skip_ratio - skip_ratio))
            if abs(best.skip_ratio - skip_ratio) <= RATIO_TOLERANCE / 3:
                return best
            if above is below:
                return None
            share = (skip_ratio - below.skip_ratio) / (above.skip_ratio - below.skip_ratio)
            self._on_curve.append(
                self._at(below.position + min(0.9, max(0.1, share)) * (above.position - below.position))
            )
        return best if abs(best.skip_ratio - skip_ratio) <= tolerance else None

    def halfway(self, first: _Trial, second: _Trial) -> _Trial:
        """What serving gives for a request halfway between two points."""
        return self._try(first.setting.mixed(second.setting, 0.5), (first.position + second.position) / 2)

    def _at(self, position: float) -> _Trial:
        return self._try(self._curve.at(position), position)

    def _try(self, setting: Setting, position: float) -> _Trial:
        measured = measure(self._engine, self._split, setting)
        trial = _Trial(setting, position, measured.skip_ratio(self._engine.shape), measured.right)
        self._progress(f"skip ratio {trial.skip_ratio:.3f}, accuracy {trial.accuracy:.4f}")
        return trial


def _choose(trials: _Trials) -> list[_Trial]:
    """Exact, then a point each step until ten points are lost; more of them where a midpoint says so."""
    chosen = [trials.exact]
    target = STEP * np.floor(chosen[0].skip_ratio / STEP + 1.4)
    while target < 1 - STEP / 2:
        point = trials.reaching(float(target), after=chosen[-1])
        target += STEP
        if point is None:
            continue
        if 100 * (chosen[0].accuracy - point.accuracy) > LARGEST_DROP:
            break
        if point.skip_ratio > chosen[-1].skip_ratio:
            chosen.append(point)
    index = 0
    while index + 1 < len(chosen):
        added = _between(trials, chosen[index], chosen[index + 1])
        if added is None:
            index += 1
        else:
            chosen.insert(index + 1, added)
    return chosen


def _between(trials: _Trials, first: _Trial, second: _Trial) -> _Trial | None:
    """A point to put between two others where the curve asks for it: in the middle, or on an edge of a jump."""
    if second.skip_ratio - first.skip_ratio <= 2 * FINEST_STEP:
        return None
    middle = (first.skip_ratio + second.skip_ratio) / 2
    bent = abs(trials.halfway(first, second).skip_ratio - middle) > RATIO_TOLERANCE
    wanted = bent or first.falls_to(second)
    added = trials.reaching(middle, np.inf, after=first, before=second) if wanted else None
    if added is None or min(added.skip_ratio - first.skip_ratio, second.skip_ratio - added.skip_ratio) < FINEST_STEP:
        return None
    return added


def _named(chosen: list[_Trial]) -> dict[str, Setting]:
    """``p45`` for a skip ratio of 0.45; more digits where that name is taken."""
    named: dict[str, Setting] = {}
    for trial in chosen:
        names = (f"p{100 * trial.skip_ratio:02.{digits}f}" for digits in count())
        named[next(name for name in names if name not in (EXACT, *named))] = trial.setting
    return named


def _by_layer_and_exit(measurements: Mapping[str, Measurement], shape: NetworkShape) -> dict[str, Any]:
    """What a bundle records of each point: layers' skip ratios (mean, deviation) and the share each exit answers."""
    record: dict[str, Any] = {
        "layers": [layer.name for layer in shape.layers],
        "skip_ratio_mean_std": {name: _layer_spread(measured, shape) for name, measured in measurements.items()},
    }
    if shape.exits:
        record["images_by_exit"] = {
            name: _rounded(np.bincount(each.exit_index, minlength=len(shape.exits) + 1) / len(each.exit_index))
            for name, each in measurements.items()
        }
    return record


def _layer_spread(measured: Measurement, shape: NetworkShape) -> list[list[float]]:
    ratios = shape.layer_skip_ratios(measured.kept)
    return [_rounded(np.array(pair)) for pair in zip(ratios.mean(0), ratios.std(0), strict=True)]


def _rounded(values: np.ndarray[Any, np.dtype[np.float64]]) -> list[float]:
    return [round(float(value), 4) for value in values]

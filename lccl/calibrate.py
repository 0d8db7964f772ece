"""Calibration: choose a model's operating points on one held-out part, measure them on the other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count

import numpy as np

from lccl.bundle import Bundle
from lccl.data import HeldOut, Split
from lccl.engines.base import Engine
from lccl.errors import DataError, LcclError
from lccl.evaluate import Measurement, measure, operating_point
from lccl.flops import NetworkShape
from lccl.operating_points import EXACT, OperatingPointTable

Progress = Callable[[str], None]
STEP = 0.05
LARGEST_DROP = 10.0
RATIO_TOLERANCE = 0.01
ACCURACY_STEP = 1.2
FINEST_STEP = 0.012
MOST_TRIES = 16
SEARCHED = 2000


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    """A common threshold and what it did on the choosing part."""

    threshold: float
    skip_ratio: float
    accuracy: float


def calibrate(bundle: Bundle, engine: Engine, data: HeldOut, progress: Progress = lambda _: None) -> Bundle:
    """Return the bundle with a fresh table of operating points.

    One threshold for all layers, the path that training prepared the network for: points in steps of
    about 0.05 of skip ratio until ten points of accuracy are lost, closer where the curve is steep or
    bends. All of that is decided on pictures of ``data.choose``; every stated loss and skip ratio is from
    ``data.measure``, and nothing is dropped for what it shows. Exact's accuracy is from both parts: its
    thresholds are 0, whatever is chosen.

    Raises:
        DataError: the data is not what the bundle was made from.
        LcclError: the network has no gates.

    """
    shape = engine.shape
    if not shape.layers:
        raise LcclError("a plain twin has no gates: there is nothing to calibrate")
    if bundle.splits.get("digest") != data.digest:
        raise DataError("this is not the data that the bundle was trained on: its held-out pictures differ")
    chosen = _choose(_Search(engine, data.choose.first(SEARCHED), progress))
    progress(f"measuring {len(chosen)} points")
    measured = [measure(engine, data.measure, _row(shape, one.threshold)) for one in chosen]
    exact = measured[0]
    unchosen = np.concatenate([exact.right, measure(engine, data.choose, _row(shape, 0.0)).right])
    names = _names(chosen)
    points = tuple(
        operating_point(name, found, exact, shape, unchosen) for name, found in zip(names, measured, strict=True)
    )
    spread = {name: _layer_spread(found, shape) for name, found in zip(names, measured, strict=True)}
    return replace(
        bundle,
        table=OperatingPointTable(points, len(data.measure)),
        calibration={"layers": [layer.name for layer in shape.layers], "skip_ratio_mean_std": spread},
        digest="",
    )


class _Search:
    """Looks for thresholds on the choosing part, remembering what was tried."""

    def __init__(self, engine: Engine, split: Split, progress: Progress) -> None:
        self._engine, self._shape, self._split, self._progress = engine, engine.shape, split, progress
        self.tried: list[_Candidate] = []
        self._try(0.0)

    def reaching(self, skip_ratio: float) -> _Candidate | None:
        """A threshold whose skip ratio comes within a third of the tolerance, looked for between the nearest tried.

        None where there is none: far out a layer's shutting shuts others, and the ratio jumps.
        """
        for _ in range(MOST_TRIES):
            best = min(self.tried, key=lambda one: abs(one.skip_ratio - skip_ratio))
            if abs(best.skip_ratio - skip_ratio) <= RATIO_TOLERANCE / 3:
                return best
            below = max((one for one in self.tried if one.skip_ratio < skip_ratio), key=lambda one: one.skip_ratio)
            above = min(
                (one for one in self.tried if one.skip_ratio > skip_ratio), key=lambda one: one.skip_ratio, default=None
            )
            if above is None:
                self._try(max(0.05, 1.5 * below.threshold))
                continue
            share = (skip_ratio - below.skip_ratio) / (above.skip_ratio - below.skip_ratio)
            share = min(0.9, max(0.1, share))
            self._try(below.threshold + share * (above.threshold - below.threshold))
        return None

    def between(self, first: _Candidate, second: _Candidate) -> _Candidate:
        """What serving gives for a wish halfway between two points."""
        return self._try((first.threshold + second.threshold) / 2)

    def _try(self, threshold: float) -> _Candidate:
        for one in self.tried:
            if one.threshold == threshold:
                return one
        found = measure(self._engine, self._split, _row(self._shape, threshold))
        candidate = _Candidate(threshold, found.skip_ratio(self._shape), found.accuracy)
        self._progress(
            f"threshold {threshold:.4f}: skip ratio {candidate.skip_ratio:.3f}, accuracy {candidate.accuracy:.4f}"
        )
        self.tried.append(candidate)
        return candidate


def _choose(search: _Search) -> list[_Candidate]:
    """Exact, then a point each step until ten points are lost; more of them where a midpoint says so."""
    chosen = [search.tried[0]]
    target = STEP * np.floor(chosen[0].skip_ratio / STEP + 1.4)
    while target < 1 - STEP / 2:
        point = search.reaching(float(target))
        if point is None or 100 * (chosen[0].accuracy - point.accuracy) > LARGEST_DROP:
            break
        chosen.append(point)
        target += STEP
    index = 0
    while index + 1 < len(chosen):
        first, second = chosen[index], chosen[index + 1]
        middle = search.between(first, second)
        bent = abs(middle.skip_ratio - (first.skip_ratio + second.skip_ratio) / 2) > RATIO_TOLERANCE
        steep = 100 * (first.accuracy - second.accuracy) > ACCURACY_STEP
        wide = second.skip_ratio - first.skip_ratio > 2 * FINEST_STEP
        if (bent or steep) and wide and first.skip_ratio < middle.skip_ratio < second.skip_ratio:
            chosen.insert(index + 1, middle)
        else:
            index += 1
    return chosen


def _names(chosen: list[_Candidate]) -> list[str]:
    """``p45`` for a skip ratio of 0.45; more digits where that name is taken."""
    names = [EXACT]
    for one in chosen[1:]:
        names.append(next(name for digits in count() if (name := f"p{100 * one.skip_ratio:02.{digits}f}") not in names))
    return names


def _row(shape: NetworkShape, threshold: float) -> list[float]:
    return [threshold] * len(shape.layers)


def _layer_spread(found: Measurement, shape: NetworkShape) -> list[list[float]]:
    ratios = shape.layer_skip_ratios(found.kept)
    return [
        [round(float(mean), 4), round(float(std), 4)] for mean, std in zip(ratios.mean(0), ratios.std(0), strict=True)
    ]

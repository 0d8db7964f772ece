"""Calibration: choose a model's operating points on one held-out part, measure them on the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import count

import numpy as np
from numpy.typing import NDArray

from lccl.bundle import Bundle
from lccl.data import HeldOut, Split
from lccl.engines.base import Engine
from lccl.errors import DataError, LcclError
from lccl.evaluate import Measurement, measure, operating_point
from lccl.flops import NetworkShape
from lccl.operating_points import EXACT, LOWEST_CONFIDENCE, OperatingPoint, OperatingPointTable
from lccl.threshold_path import (
    LARGEST_COST,
    ThresholdPath,
    Thresholds,
    exit_notches,
    find_path,
    gate_values,
    notches_in,
    row_parts,
)

Progress = Callable[[str], None]
STEP = 0.05
LARGEST_DROP = 10.0
RATIO_TOLERANCE = 0.01
ACCURACY_STEP = 1.2
FINEST_STEP = 0.012
MOST_TRIES = 16
SEARCHED = 2000
WEIGHED = 1000
EXIT_CONFIDENCES = (0.9999, 0.999, 0.995, 0.99, 0.95, 0.9, 0.8, 0.7, 0.6, LOWEST_CONFIDENCE)


@dataclass(frozen=True, slots=True, eq=False)
class _Candidate:
    """Thresholds and exit confidences, as a row of the path, and what they did on the choosing part.

    ``place`` is theirs on the path, where they lie on it.
    """

    row: Thresholds
    place: float
    skip_ratio: float
    accuracy: float


def calibrate(
    bundle: Bundle, engine: Engine, data: HeldOut, progress: Progress = lambda _: None, weighed: int = WEIGHED
) -> Bundle:
    """Return the bundle with a fresh table of operating points.

    Each layer has a threshold of its own and each early exit its confidence, moved in the order of what that costs
    for the work it saves (:func:`lccl.threshold_path.find_path`): points in steps of about 0.05 of skip ratio until
    ten points of accuracy are lost, closer where the curve is steep or bends. All of that is decided on images of
    ``data.choose``; every stated loss and skip ratio is from ``data.measure``, and nothing is dropped for the losses
    it shows: only what skips no more there than the point before. Exact's accuracy is from both parts: its thresholds
    are 0, whatever is chosen.

    Args:
        weighed: how many images of ``data.choose`` costs are found on; the search runs over them some 700 times,
            with early exits more often.

    Raises:
        DataError: the data is not what the bundle was made from.
        LcclError: the network has no gates.

    """
    shape = engine.shape
    if not shape.layers:
        raise LcclError("a plain twin has no gates: there is nothing to calibrate")
    if bundle.splits.get("digest") != data.digest:
        raise DataError("this is not the data that the bundle was trained on: its held-out images differ")
    weighed_on = data.choose.first(weighed)
    notches = notches_in(gate_values(bundle.network, bundle.preprocessing, data.choose))
    path = find_path(engine, [*notches, *exit_notches(engine, weighed_on)], weighed_on, LARGEST_COST, progress)
    return calibrate_along(path, bundle, engine, data, progress)


def calibrate_along(
    path: ThresholdPath, bundle: Bundle, engine: Engine, data: HeldOut, progress: Progress = lambda _: None
) -> Bundle:
    """Choose operating points on a path of thresholds, and measure them; see :func:`calibrate`."""
    shape = engine.shape
    chosen = _choose(_Search(engine, path, data.choose.first(SEARCHED), progress))
    progress(f"measuring {len(chosen)} points")
    measured = [_measure(engine, data.measure, one.row) for one in chosen]
    exact = measured[0]
    unchosen = np.concatenate([exact.right, _measure(engine, data.choose, chosen[0].row).right])
    names = _names(chosen)
    points = rising(
        operating_point(name, found, exact, shape, unchosen) for name, found in zip(names, measured, strict=True)
    )
    spreads = {name: _layer_spread(found, shape) for name, found in zip(names, measured, strict=True)}
    return replace(
        bundle,
        table=OperatingPointTable(points, len(data.measure), exit_points(engine, data, exact, unchosen)),
        calibration={
            "layers": [layer.name for layer in shape.layers],
            "skip_ratio_mean_std": {point.name: spreads[point.name] for point in points},
        }
        | _by_exit(names, measured, points, shape),
        digest="",
    )


def exit_points(
    engine: Engine, data: HeldOut, exact: Measurement, unchosen: NDArray[np.bool_]
) -> tuple[OperatingPoint, ...]:
    """What is to be expected where a client sets the exits' confidence by hand, with exact gates.

    Args:
        exact: over ``data.measure``.
        unchosen: what exact got right on all held-out images, see :func:`lccl.evaluate.operating_point`.

    """
    nothing, exits = [0.0] * len(engine.shape.layers), len(engine.shape.exits)
    points = []
    for confidence in EXIT_CONFIDENCES if exits else ():
        found = measure(engine, data.measure, nothing, exit_confidence=[confidence] * exits)
        points.append(operating_point(f"exit {confidence:g}", found, exact, engine.shape, unchosen))
    return tuple(points)


class _Search:
    """Looks along the path for skip ratios, on the choosing part, remembering what was tried."""

    def __init__(self, engine: Engine, path: ThresholdPath, split: Split, progress: Progress) -> None:
        self._engine, self._path, self._split, self._progress = engine, path, split, progress
        self.exact = self._try(path.at(0.0), 0.0)
        self._on_path = [self.exact, self._try(path.at(path.length), path.length)]

    def reaching(
        self,
        skip_ratio: float,
        tolerance: float = RATIO_TOLERANCE,
        *,
        after: _Candidate,
        before: _Candidate | None = None,
    ) -> _Candidate | None:
        """A place whose skip ratio comes within a third of the usual tolerance, or at least within this one.

        It lies between two places on the path, so that points' thresholds rise even where the ratio falls for a while.
        None beyond the path's end, and where the ratio jumps: a layer's shutting may shut others, or open them.
        """
        end = self._path.length if before is None else before.place
        for _ in range(MOST_TRIES):
            inside = [one for one in self._on_path if after.place <= one.place <= end]
            below = max((one for one in inside if one.skip_ratio < skip_ratio), key=lambda one: one.place)
            beyond = (one for one in inside if one.skip_ratio >= skip_ratio and one.place > below.place)
            above = min(beyond, key=lambda one: one.place, default=below)
            best = min((below, above), key=lambda one: abs(one.skip_ratio - skip_ratio))
            if abs(best.skip_ratio - skip_ratio) <= RATIO_TOLERANCE / 3:
                return best
            if above is below:
                return None
            share = (skip_ratio - below.skip_ratio) / (above.skip_ratio - below.skip_ratio)
            place = below.place + min(0.9, max(0.1, share)) * (above.place - below.place)
            self._on_path.append(self._try(self._path.at(place), place))
        return best if abs(best.skip_ratio - skip_ratio) <= tolerance else None

    def halfway(self, first: _Candidate, second: _Candidate) -> _Candidate:
        """What serving gives for a wish halfway between two points."""
        return self._try((first.row + second.row) / 2, (first.place + second.place) / 2)

    def _try(self, row: Thresholds, place: float) -> _Candidate:
        found = _measure(self._engine, self._split, row)
        candidate = _Candidate(row, place, found.skip_ratio(self._engine.shape), found.accuracy)
        self._progress(f"skip ratio {candidate.skip_ratio:.3f}, accuracy {candidate.accuracy:.4f}")
        return candidate


def _choose(search: _Search) -> list[_Candidate]:
    """Exact, then a point each step until ten points are lost; more of them where a midpoint says so."""
    chosen = [search.exact]
    target = STEP * np.floor(chosen[0].skip_ratio / STEP + 1.4)
    while target < 1 - STEP / 2:
        point = search.reaching(float(target), after=chosen[-1])
        target += STEP
        if point is None:
            continue
        if 100 * (chosen[0].accuracy - point.accuracy) > LARGEST_DROP:
            break
        if point.skip_ratio > chosen[-1].skip_ratio:
            chosen.append(point)
    index = 0
    while index + 1 < len(chosen):
        added = _between(search, chosen[index], chosen[index + 1])
        if added is None:
            index += 1
        else:
            chosen.insert(index + 1, added)
    return chosen


def _between(search: _Search, first: _Candidate, second: _Candidate) -> _Candidate | None:
    """A point to put between two others where the curve asks for it: in the middle, or on an edge of a jump."""
    if second.skip_ratio - first.skip_ratio <= 2 * FINEST_STEP:
        return None
    middle = (first.skip_ratio + second.skip_ratio) / 2
    bent = abs(search.halfway(first, second).skip_ratio - middle) > RATIO_TOLERANCE
    steep = 100 * (first.accuracy - second.accuracy) > ACCURACY_STEP
    found = search.reaching(middle, np.inf, after=first, before=second) if bent or steep else None
    if found is None or min(found.skip_ratio - first.skip_ratio, second.skip_ratio - found.skip_ratio) < FINEST_STEP:
        return None
    return found


def rising(points: Iterable[OperatingPoint]) -> tuple[OperatingPoint, ...]:
    """Without points that skip no more than one before them, which only few images can bring about."""
    kept: list[OperatingPoint] = []
    for point in points:
        if not kept or point.skip_ratio > kept[-1].skip_ratio:
            kept.append(point)
    return tuple(kept)


def _names(chosen: list[_Candidate]) -> list[str]:
    """``p45`` for a skip ratio of 0.45; more digits where that name is taken."""
    names = [EXACT]
    for one in chosen[1:]:
        names.append(next(name for digits in count() if (name := f"p{100 * one.skip_ratio:02.{digits}f}") not in names))
    return names


def _measure(engine: Engine, split: Split, row: Thresholds) -> Measurement:
    thresholds, confidences = row_parts(engine, row)
    return measure(engine, split, thresholds, exit_confidence=confidences)


def _by_exit(
    names: list[str], measured: list[Measurement], points: tuple[OperatingPoint, ...], shape: NetworkShape
) -> dict[str, dict[str, list[float]]]:
    """Share of the images that each exit answered at each point, the network's end last; for the bundle."""
    if not shape.exits:
        return {}
    known = {point.name for point in points}
    shares = {
        name: np.bincount(found.left_by, minlength=len(shape.exits) + 1) / len(found.left_by)
        for name, found in zip(names, measured, strict=True)
        if name in known
    }
    return {"images_by_exit": {name: [round(float(share), 4) for share in row] for name, row in shares.items()}}


def _layer_spread(found: Measurement, shape: NetworkShape) -> list[list[float]]:
    ratios = shape.layer_skip_ratios(found.kept)
    return [
        [round(float(mean), 4), round(float(std), 4)] for mean, std in zip(ratios.mean(0), ratios.std(0), strict=True)
    ]

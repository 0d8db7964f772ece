"""A bundle with fresh weights whose operating points skip what they say; its accuracies say nothing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

import lccl
from lccl.bench.workload import Workload
from lccl.bundle.format import Bundle
from lccl.engines.base import Engine
from lccl.errors import LcclError
from lccl.networks.lowering import lower
from lccl.operating_points import EXACT, Interval, OperatingPoint, OperatingPointTable
from lccl.plan.geometry import NetworkShape, shape_of
from lccl.plan.run import RunOptions

HALF = 0.5
AROUND = (0.35, 0.65)
WITHIN = 0.002
FURTHEST, STEPS = 0.5, 30
UNKNOWN = Interval(0.0, 1.0)


def fresh_bundle(workload: Workload) -> Bundle:
    """Offer exact, ``HALF`` with the workload's thresholds, and points around it with all of these shifted alike."""
    shape = shape_of(lower(workload.network, workload.preprocessing))
    measure = Measure(workload, shape)
    half = next(setting.thresholds for setting in workload.settings if setting.wanted == HALF)
    low, high = (measure.shifted(np.array(half), wanted) for wanted in AROUND)
    points = {EXACT: np.zeros(len(half)), "p35": low, "p50": np.array(half), "p65": high}
    return Bundle(
        architecture=workload.architecture,
        network=workload.network,
        labels=tuple(f"class {index}" for index in range(workload.architecture.classes)),
        preprocessing=workload.preprocessing,
        table=OperatingPointTable(
            tuple(measure.point(name, thresholds) for name, thresholds in points.items()),
            len(workload.images.images),
        ),
        splits={},
        training={},
    )


class Measure:
    """What thresholds come to on the workload's images, by the native engine."""

    def __init__(self, workload: Workload, shape: NetworkShape) -> None:
        self._images, self._shape = workload.images.images, shape
        self._engine: Engine = lccl.compile(workload.network, engine="cpu", preprocessing=workload.preprocessing)

    def kept(self, thresholds: NDArray[np.float64]) -> NDArray[np.int64]:
        """Cells kept, [images, layers]."""
        return self._engine.run(self._images, RunOptions.uniform(len(self._images), thresholds.tolist())).kept

    def skipped(self, thresholds: NDArray[np.float64]) -> float:
        """The mean skip ratio."""
        return float(self._shape.skip_ratio(self.kept(thresholds)).mean())

    def shifted(self, thresholds: NDArray[np.float64], wanted: float) -> NDArray[np.float64]:
        """Thresholds all higher or lower by the same, so that the mean skip ratio is the wanted one.

        Raises:
            LcclError: no shift does that.

        """
        low, high = -FURTHEST, FURTHEST
        for _ in range(STEPS):
            middle = (low + high) / 2
            found = self.skipped(thresholds + middle)
            if abs(found - wanted) <= WITHIN:
                return thresholds + middle
            low, high = (middle, high) if found < wanted else (low, middle)
        raise LcclError(f"no thresholds skip {wanted:g}")

    def point(self, name: str, thresholds: NDArray[np.float64]) -> OperatingPoint:
        """An operating point whose skip ratio and MACs are measured."""
        kept = self.kept(thresholds)
        return OperatingPoint(
            name=name,
            thresholds=tuple(thresholds.tolist()),
            norm_set=0,
            skip_ratio=float(self._shape.skip_ratio(kept).mean()),
            gated_macs=float(self._shape.gated(kept).mean()),
            accuracy=0.0,
            accuracy_interval=UNKNOWN,
            drop=0.0,
            drop_interval=UNKNOWN,
            drop_bound=100.0,
        )

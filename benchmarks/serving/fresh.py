"""A bundle with fresh weights whose operating points skip what they say; its accuracies say nothing."""

from __future__ import annotations

import lccl
from lccl.bench.workload import Workload
from lccl.bundle.format import Bundle
from lccl.errors import LcclError
from lccl.measurement import exact_setting
from lccl.operating_points import EXACT, Interval, OperatingPoint, OperatingPointTable
from lccl.plan.run import RunOptions, Setting

HALF = 0.5
AROUND = {"p35": 0.35, "p65": 0.65}
WITHIN = 0.002
FURTHEST, STEPS = 0.5, 30
UNKNOWN = Interval(0.0, 1.0)


def fresh_bundle(workload: Workload) -> Bundle:
    """Offer exact, ``HALF`` with the workload's thresholds, and points around it with all of these shifted alike."""
    measure = Measure(workload)
    half = next(named.setting for named in workload.settings if named.wanted == HALF)
    shifted = {name: measure.shifted(half, ratio) for name, ratio in AROUND.items()}
    settings = {EXACT: exact_setting(measure.engine), "p35": shifted["p35"], "p50": half, "p65": shifted["p65"]}
    points = tuple(measure.point(name, setting) for name, setting in settings.items())
    return Bundle(
        architecture=workload.architecture,
        network=workload.network,
        labels=tuple(f"class {index}" for index in range(workload.architecture.classes)),
        preprocessing=workload.preprocessing,
        table=OperatingPointTable(points, len(workload.images.images)),
        splits={},
    )


class Measure:
    """What thresholds come to on the workload's images, by the native engine."""

    def __init__(self, workload: Workload) -> None:
        self._images = workload.images.images
        self.engine = lccl.compile(workload.network, engine="cpu", preprocessing=workload.preprocessing)

    def shifted(self, setting: Setting, wanted: float) -> Setting:
        """Thresholds all higher or lower by the same, so that the mean skip ratio is the wanted one.

        Raises:
            LcclError: no shift does that.

        """
        low, high = -FURTHEST, FURTHEST
        for _ in range(STEPS):
            middle = (low + high) / 2
            moved = Setting(tuple(threshold + middle for threshold in setting.thresholds))
            reached = self.point("", moved).skip_ratio
            if abs(reached - wanted) <= WITHIN:
                return moved
            low, high = (middle, high) if reached < wanted else (low, middle)
        raise LcclError(f"no thresholds skip {wanted:g}")

    def point(self, name: str, setting: Setting) -> OperatingPoint:
        """An operating point whose skip ratio and MACs are measured."""
        kept = self.engine.run(self._images, RunOptions.of([setting] * len(self._images))).kept
        return OperatingPoint(
            name=name,
            setting=setting,
            skip_ratio=float(self.engine.shape.skip_ratio(kept).mean()),
            gated_macs=float(self.engine.shape.gated(kept).mean()),
            accuracy=0.0,
            accuracy_interval=UNKNOWN,
            drop=0.0,
            drop_interval=UNKNOWN,
            drop_bound=100.0,
        )

"""One set of weights at every skip ratio, on test images: what is lost, and whether calibration kept its word.

    python -m benchmarks.any_sparsity DATA --twin FOLDER [--model FOLDER] [--attached FOLDER]

DATA is a data set with test images, as for ``lccl evaluate``; the twin's folder holds the bundle of the plain twin,
trained on the same images with the same budget, and that of ``--attached`` a calibrated network that ``lccl attach``
made of a plain one. Every figure is paired, image by image.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import lccl
from benchmarks import results
from benchmarks.models import at, load_model, model_command_line, paired, varying
from benchmarks.stated_and_reached import z_score
from lccl.bundle.format import Bundle
from lccl.data import Split, hold_out
from lccl.engines.base import Engine
from lccl.measurement import Measurement, measure
from lccl.plan.geometry import NetworkShape
from lccl.plan.run import Setting

LOST_AT_MOST = {0.3: 0.3, 0.4: 0.5, 0.5: 1.0, 0.6: 1.8, 0.7: 4.0}
AGAINST_REMOVAL = (0.3, 0.45, 0.6)
ATTACHED_BEHIND_AT_MOST = {0.4: 0.5}
FLOORS = (0.5, 1.0, 2.0, 5.0)
WEIGHED = 1000
CLOSED = float(np.finfo(np.float32).max)


def main() -> None:
    """Measure, print, write the result file."""
    options = model_command_line(
        __doc__,
        results.argument("--twin", type=Path, required=True),
        results.argument("--attached", type=Path),
    ).parse_args()
    (bundle, dataset), twin = load_model(options), lccl.load(options.twin)
    served = serve(bundle, dataset.test)
    right_of_twin = measure(lccl.compile(twin, precision="fp32"), dataset.test, Setting(())).right
    figures = {
        "model": options.model.name,
        "digest": bundle.digest,
        "twin": {"digest": twin.digest, "accuracy": float(right_of_twin.mean())},
        "images": len(dataset.test),
        "lost": [_lost(served, right_of_twin, ratio) for ratio in LOST_AT_MOST],
        "removal": _against_removal(served, hold_out(dataset.train, by=bundle.held_out_by).choose, dataset.test),
        "points": _points(bundle, served.engine, dataset.test),
        "floors": [_floor(bundle, served.engine, dataset.test, floor) for floor in FLOORS],
    }
    if options.attached is not None:
        attached = serve(lccl.load(options.attached), dataset.test)
        figures["attached"] = [_attached(served, attached, ratio) for ratio in LOST_AT_MOST]
    results.publish("any_sparsity", figures)


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """A calibrated network on the test images, at each skip ratio that its own table reaches, up to ``highest``."""

    engine: Engine
    highest: float
    at: dict[float, Measurement]


def serve(bundle: Bundle, test: Split) -> Served:
    """Measure a calibrated network at every skip ratio that is asked of it here."""
    engine, highest = lccl.compile(bundle, precision="fp32"), bundle.table.sparsity_range[1]
    reached = sorted(ratio for ratio in {*LOST_AT_MOST, *AGAINST_REMOVAL} if ratio <= highest)
    return Served(
        engine, highest, {ratio: measure(engine, test, at(bundle, sparsity=ratio).setting) for ratio in reached}
    )


def _lost(served: Served, right_of_twin: NDArray[np.bool_], ratio: float) -> dict[str, Any]:
    """Percentage points lost against the plain twin at a skip ratio; missed where the whole interval lies beyond."""
    if ratio not in served.at:
        return {"skip_ratio": ratio, "out_of_reach": served.highest}
    measured = served.at[ratio]
    lost, interval = paired(right_of_twin, measured.right)
    return {
        "skip_ratio": ratio,
        "reached": measured.skip_ratio(served.engine.shape),
        "accuracy": measured.accuracy,
        "lost": lost,
        "interval": interval,
        "goal": LOST_AT_MOST[ratio],
        "met": interval[0] <= LOST_AT_MOST[ratio],
    }


def _attached(served: Served, attached: Served, ratio: float) -> dict[str, Any]:
    """How far an attached network lies behind this one at a skip ratio, both by their own tables."""
    for one in (served, attached):
        if ratio not in one.at:
            return {"skip_ratio": ratio, "out_of_reach": one.highest}
    ours, theirs = served.at[ratio], attached.at[ratio]
    behind, interval = paired(ours.right, theirs.right)
    goal = ATTACHED_BEHIND_AT_MOST.get(ratio)
    return {
        "skip_ratio": ratio, "reached": theirs.skip_ratio(attached.engine.shape), "accuracy": theirs.accuracy,
        "trained_in_accuracy": ours.accuracy, "behind": behind, "interval": interval,
        "goal": goal, "met": goal is None or interval[0] <= goal,
    }  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Removed:
    """A network without some of its blocks' branches: a setting that closes them, and its MACs without their gates."""

    blocks: tuple[int, ...]
    setting: Setting
    macs: int


def _against_removal(served: Served, choose: Split, test: Split) -> list[dict[str, Any]]:
    """The same network with whole branches removed, for all images alike, at no fewer MACs than skipping takes.

    Branches are removed one after the other, each time the one that costs the fewest of the choosing part's images;
    a removed branch's gates cost nothing, and those of the others are not counted either.
    """
    engine = served.engine
    rivals = removals(engine, choose.first(WEIGHED))
    rows = []
    for ratio, ours in served.at.items():
        if ratio not in AGAINST_REMOVAL:
            continue
        macs = ours.gated_macs(engine.shape)
        rival = min((one for one in rivals if one.macs >= macs), key=lambda one: one.macs)
        theirs = measure(engine, test, rival.setting)
        ahead, interval = paired(ours.right, theirs.right)
        rows.append(
            {
                "skip_ratio": ratio, "macs": macs, "accuracy": ours.accuracy, "removed_macs": rival.macs,
                "removed_blocks": list(rival.blocks), "removed_accuracy": theirs.accuracy,
                "ahead": ahead, "interval": interval, "met": interval[1] >= 0,
                "layers_that_vary": varying(engine, ours), "layers": len(engine.shape.layers),
            }
        )  # fmt: skip
    return rows


def removals(engine: Engine, choose: Split) -> list[Removed]:
    """A network without any branch, then without one more each time: the one whose loss costs the fewest images."""
    shape = engine.shape
    gone: tuple[int, ...] = ()
    fewer = [Removed((), _without(shape, ()), shape.dense)]
    while len(gone) < len(shape.blocks):
        left = set(range(len(shape.blocks))) - set(gone)
        tried = [measure(engine, choose, _without(shape, (*gone, block))) for block in left]
        best = max(zip(tried, left, strict=True), key=lambda pair: pair[0].accuracy)[1]
        gone = (*gone, best)
        saved = sum(shape.layers[layer].convolution.macs for layer in shape.blocks[best])
        fewer.append(Removed(gone, _without(shape, gone), fewer[-1].macs - saved))
    return fewer


def _without(shape: NetworkShape, blocks: tuple[int, ...]) -> Setting:
    """Exact but for these blocks, whose layers skip everything."""
    closed = {layer for block in blocks for layer in shape.blocks[block]}
    return Setting(tuple(CLOSED if layer in closed else 0.0 for layer in range(len(shape.layers))))


def _points(bundle: Bundle, engine: Engine, test: Split) -> list[dict[str, Any]]:
    """Each operating point's stated skip ratio and accuracy beside those reached, and the difference over its error."""
    rows = []
    for point in bundle.table.points:
        measured = measure(engine, test, point.setting)
        interval = point.accuracy_interval
        rows.append(
            {
                "point": point.name, "skip_stated": point.skip_ratio, "skip_reached": measured.skip_ratio(engine.shape),
                "accuracy_stated": point.accuracy, "accuracy_reached": measured.accuracy,
                "z": z_score(measured.accuracy, len(test), point.accuracy, interval.low, interval.high),
                "layers_that_vary": varying(engine, measured),
            }
        )  # fmt: skip
    return rows


def _floor(bundle: Bundle, engine: Engine, test: Split, floor: float) -> dict[str, Any]:
    """What a floor alone is served with, and what that loses on the test images; broken where surely more."""
    point = at(bundle, max_accuracy_drop=floor)
    exact = measure(engine, test, bundle.table.exact.setting)
    lost, interval = paired(exact.right, measure(engine, test, point.setting).right)
    kept = interval[0] <= floor
    return {"floor": floor, "point": point.name, "skip_ratio": point.skip_ratio, "lost": lost, "interval": interval,
            "met": kept}  # fmt: skip


if __name__ == "__main__":
    main()

"""One set of weights at every skip ratio, on test images: what is lost, and whether calibration kept its word.

    python -m benchmarks.any_sparsity DATA --twin FOLDER [--model FOLDER] [--attached FOLDER]

DATA is a data set with test images, as for ``lccl evaluate``; the twin's folder holds the bundle of the plain twin,
trained on the same images with the same budget, and that of ``--attached`` a calibrated network that ``lccl attach``
made of a plain one. Every figure is paired, image by image.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import lccl
from benchmarks import results
from benchmarks.stated_and_reached import z_score
from lccl.bundle.format import Bundle
from lccl.calibration.intervals import paired_difference
from lccl.data import Split, hold_out, load_dataset
from lccl.engines.base import Engine
from lccl.measurement import Measurement, measure, measure_setting
from lccl.operating_points import QualityRequest

LOST_AT_MOST = {0.3: 0.3, 0.4: 0.5, 0.5: 1.0, 0.6: 1.8, 0.7: 4.0}
AGAINST_REMOVAL = (0.3, 0.45, 0.6)
ATTACHED_BEHIND_AT_MOST = {0.4: 0.5}
FLOORS = (0.5, 1.0, 2.0, 5.0)
VARIES = 0.02
WEIGHED = 1000


def main() -> None:
    """Measure, print, write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--twin", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=Path("models/resnet20-cifar10"))
    parser.add_argument("--attached", type=Path)
    options = parser.parse_args()
    bundle, twin = lccl.load(options.model), lccl.load(options.twin)
    dataset = load_dataset(options.data, bundle.preprocessing).in_order_of(bundle.labels)
    served = serve(bundle, dataset.test)
    right_of_twin = measure(lccl.compile(twin), dataset.test, []).right
    found = {
        "model": options.model.name,
        "digest": bundle.digest,
        "twin": {"digest": twin.digest, "accuracy": float(right_of_twin.mean())},
        "images": len(dataset.test),
        "lost": [_lost(served, right_of_twin, ratio) for ratio in LOST_AT_MOST],
        "removal": _against_removal(served, hold_out(dataset.train).choose, dataset.test),
        "points": _points(bundle, served.engine, dataset.test),
        "floors": [_floor(bundle, served.engine, dataset.test, floor) for floor in FLOORS],
    }
    command = f"python -m benchmarks.any_sparsity {options.data.name} --twin TWIN"
    if options.attached is not None:
        attached = serve(lccl.load(options.attached), dataset.test)
        found["attached"] = [_attached(served, attached, ratio) for ratio in LOST_AT_MOST]
        command += " --attached ATTACHED"
    print_tables(found)
    print(results.write("any_sparsity", command, found))


@dataclass(frozen=True, slots=True, eq=False)
class Served:
    """A calibrated network on the test images, at each skip ratio that its own table reaches, up to ``highest``."""

    engine: Engine
    highest: float
    at: dict[float, Measurement]


def serve(bundle: Bundle, test: Split) -> Served:
    """Measure a calibrated network at every skip ratio that is asked of it here."""
    engine, table = lccl.compile(bundle), bundle.table
    highest = table.sparsity_range[1]
    reached = sorted(ratio for ratio in {*LOST_AT_MOST, *AGAINST_REMOVAL} if ratio <= highest)
    found = {ratio: measure_setting(engine, test, table.resolve(QualityRequest(sparsity=ratio))) for ratio in reached}
    return Served(engine, highest, found)


def _lost(served: Served, right_of_twin: NDArray[np.bool_], ratio: float) -> dict[str, Any]:
    """Percentage points lost against the plain twin at a skip ratio; missed where the whole interval lies beyond."""
    if ratio not in served.at:
        return {"skip_ratio": ratio, "out_of_reach": served.highest}
    found = served.at[ratio]
    lost, interval = paired(right_of_twin, found.right)
    return {
        "skip_ratio": ratio,
        "reached": found.skip_ratio(served.engine.shape),
        "accuracy": found.accuracy,
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
class _Removed:
    """A network without some of its blocks' branches: thresholds that shut them, and its MACs without their gates."""

    blocks: tuple[int, ...]
    thresholds: NDArray[np.float64]
    macs: int


def _against_removal(served: Served, choose: Split, test: Split) -> list[dict[str, Any]]:
    """The same network with whole branches removed, for all images alike, at no fewer MACs than skipping takes.

    Branches are removed one after the other, each time the one that costs the fewest of the choosing part's images;
    a removed branch's gates cost nothing, and those of the others are not counted either.
    """
    engine = served.engine
    rivals = _removals(engine, choose.first(WEIGHED))
    rows = []
    for ratio, ours in served.at.items():
        if ratio not in AGAINST_REMOVAL:
            continue
        macs = ours.gated_macs(engine.shape)
        rival = min((one for one in rivals if one.macs >= macs), key=lambda one: one.macs)
        theirs = measure(engine, test, rival.thresholds.tolist())
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


def _removals(engine: Engine, choose: Split) -> list[_Removed]:
    shape = engine.shape
    members = [list(block) for block in shape.blocks]
    thresholds, macs = np.zeros(len(shape.layers)), shape.dense
    gone: tuple[int, ...] = ()
    found = [_Removed((), thresholds, macs)]
    while len(gone) < len(members):
        tried = {}
        for block in set(range(len(members))) - set(gone):
            row = thresholds.copy()
            row[members[block]] = np.finfo(np.float32).max
            tried[block] = (measure(engine, choose, row.tolist()).accuracy, row)
        best = max(tried, key=lambda block: tried[block][0])
        thresholds, gone = tried[best][1], (*gone, best)
        macs -= sum(shape.layers[layer].convolution.macs for layer in members[best])
        found.append(_Removed(gone, thresholds, macs))
    return found


def _points(bundle: Bundle, engine: Engine, test: Split) -> list[dict[str, Any]]:
    """Each operating point's stated skip ratio and accuracy beside those reached, and the difference over its error."""
    rows = []
    for point in bundle.table.points:
        found = measure_setting(engine, test, point)
        interval = point.accuracy_interval
        rows.append(
            {
                "point": point.name, "skip_stated": point.skip_ratio, "skip_reached": found.skip_ratio(engine.shape),
                "accuracy_stated": point.accuracy, "accuracy_reached": found.accuracy,
                "z": z_score(found.accuracy, len(test), point.accuracy, interval.low, interval.high),
                "layers_that_vary": varying(engine, found),
            }
        )  # fmt: skip
    return rows


def _floor(bundle: Bundle, engine: Engine, test: Split, floor: float) -> dict[str, Any]:
    """What a floor alone is served with, and what that loses on the test images; broken where surely more."""
    setting = bundle.table.resolve(QualityRequest(max_accuracy_drop=floor))
    exact = measure_setting(engine, test, bundle.table.exact)
    lost, interval = paired(exact.right, measure_setting(engine, test, setting).right)
    kept = interval[0] <= floor
    return {"floor": floor, "point": setting.name, "skip_ratio": setting.sparsity, "lost": lost, "interval": interval,
            "met": kept}  # fmt: skip


def varying(engine: Engine, found: Measurement) -> int:
    """How many layers' skip ratios differ between images by more than 0.02, as a standard deviation."""
    return int((engine.shape.layer_skip_ratios(found.kept).std(axis=0) > VARIES).sum())


def paired(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> tuple[float, list[float]]:
    """Percentage points by which the first is right more often, with the 95 % interval."""
    lost, won = int((first & ~second).sum()), int((second & ~first).sum())
    low, high = paired_difference(lost, won, len(first))
    return 100 * (lost - won) / len(first), [100 * low, 100 * high]


def print_tables(found: Mapping[str, Any]) -> None:
    """Print those of a result's values that are lists of rows as tables, each under its name."""
    console = Console()
    for name, rows in found.items():
        if not isinstance(rows, list):
            continue
        columns = list(dict.fromkeys(column for row in rows for column in row))
        table = Table(box=None, header_style="bold", title=name)
        for column in columns:
            table.add_column(column.replace("_", " "), justify="right")
        for row in rows:
            table.add_row(*(_text(row.get(column, "")) for column in columns))
        console.print(table)


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return " ".join(_text(one) for one in value)
    return str(value)


if __name__ == "__main__":
    main()

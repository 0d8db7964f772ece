"""Early exits on test images: what they save beside skipping, whether they are rightly sure, and the time it takes.

    python -m benchmarks.early_exits DATA [--model FOLDER] [--threads 0]

DATA is a data set with test images, as for ``lccl evaluate``. Gates alone and exits alone follow curves that are found
on the choosing part, as calibration finds that of both. Work is told in MACs of the plain network.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

import lccl
from benchmarks import results
from benchmarks.models import Position, accuracy_at, ahead_at, load_model, model_command_line, paired, turn_of
from lccl.bench.turns import take_turns
from lccl.bundle.format import Bundle
from lccl.calibration.search import (
    LARGEST_COST,
    ThresholdCurve,
    exit_candidates,
    gate_candidates,
    gate_values,
    search_thresholds,
)
from lccl.data import Split, hold_out
from lccl.engines.base import Engine
from lccl.measurement import exact_setting, measure, outputs_over
from lccl.plan.run import NEVER, RunOptions, Setting
from lccl.train.reliability import expected_calibration_error, softmax

WORK = (0.3, 0.4, 0.5, 0.6, 0.7)
WEIGHED, POSITIONS = 1000, 30
NO_LOSS_AT_MOST, HALF_TIME_AT_MOST, CALIBRATION_ERROR_AT_MOST = 0.65, 0.6, 0.02
BATCH, ROUNDS = 32, 31


def main() -> None:
    """Measure, print, write the result file."""
    options = model_command_line(
        __doc__,
        results.argument("--threads", type=int, default=0),
    ).parse_args()
    bundle, dataset = load_model(options)
    engine = lccl.compile(bundle, precision="fp32", threads=options.threads)  # as its points were measured
    choose = hold_out(dataset.train, by=bundle.held_out_by).choose
    points = [Position.of(engine, measure(engine, dataset.test, point.setting)) for point in bundle.table.points]
    figures = {
        "model": options.model.name,
        "digest": bundle.digest,
        "images": len(dataset.test),
        "no_loss": _no_loss(bundle, points),
        "curves": _curves(bundle, engine, choose, dataset.test, points),
        "exits": _exits(engine, dataset.test),
        "latency": _latency(bundle, engine, dataset.test),
    }
    results.publish("early_exits", figures)


def _no_loss(bundle: Bundle, points: list[Position]) -> list[dict[str, Any]]:
    """The sparsest point that states no sure loss: MACs of exact's, and what it loses on images that chose nothing.

    Chosen by the table alone, where the interval of the paired loss against exact touches 0.
    """
    number = max(number for number, point in enumerate(bundle.table.points) if point.drop_interval.low <= 0)
    lost, interval = paired(points[0].right, points[number].right)
    work = points[number].work / points[0].work
    met = work <= NO_LOSS_AT_MOST and interval[0] <= 0
    return [{
        "point": bundle.table.points[number].name, "work": work, "lost": lost, "interval": interval,
        "goal": NO_LOSS_AT_MOST, "met": met,
    }]  # fmt: skip


def _curves(bundle: Bundle, engine: Engine, choose: Split, test: Split, both: list[Position]) -> list[dict[str, Any]]:
    """Accuracy at equal MACs, linear between positions: gates and exits together, gates alone, exits alone."""
    weighed = choose.first(WEIGHED)
    gates = gate_candidates(gate_values(bundle.network, bundle.preprocessing, choose))
    exits = exit_candidates(engine, weighed)
    nothing = [np.empty(0)]
    alone = {
        "gates": search_thresholds(engine, [*gates, *nothing * len(exits)], weighed, LARGEST_COST),
        "exits": search_thresholds(engine, [*nothing * len(gates), *exits], weighed, LARGEST_COST),
    }
    positions = {"both": both} | {name: _along(engine, curve, test) for name, curve in alone.items()}
    rows: list[dict[str, Any]] = []
    for work in WORK:
        row: dict[str, Any] = {"work": work, **{name: accuracy_at(curve, work) for name, curve in positions.items()}}
        for name in alone:
            row[f"ahead_of_{name}"], row[f"interval_{name}"] = ahead_at(both, positions[name], work)
        rows.append(row)
    return rows


def _along(engine: Engine, curve: ThresholdCurve, test: Split) -> list[Position]:
    settings = [curve.at(position) for position in np.linspace(0, curve.length, POSITIONS)]
    return [Position.of(engine, measure(engine, test, setting)) for setting in settings]


def _exits(engine: Engine, test: Split) -> list[dict[str, Any]]:
    """Each exit if all images took it, with exact gates; the network's end last."""
    exits = len(engine.shape.exits)
    rows = []
    for number in range(exits + 1):
        confidences = tuple(NEVER * (number != other) for other in range(exits))
        parts = list(outputs_over(engine, test, replace(exact_setting(engine), exit_confidence=confidences)))
        logits, labels = (np.concatenate(column) for column in ([o.logits for o, _ in parts], [y for _, y in parts]))
        right, sure = logits.argmax(1) == labels, softmax(logits).max(1)
        error = expected_calibration_error(sure, right)
        rows.append({
            "exit": "end" if number == exits else str(number), "accuracy": float(right.mean()),
            "calibration_error": error, "goal": CALIBRATION_ERROR_AT_MOST, "met": error <= CALIBRATION_ERROR_AT_MOST,
        })  # fmt: skip
    return rows


def _latency(bundle: Bundle, engine: Engine, test: Split) -> list[dict[str, Any]]:
    """Time of a batch at the point that halves exact's MACs, against exact, by turns; medians and quartiles."""
    exact = bundle.table.exact
    half = min(bundle.table.points, key=lambda point: abs(point.gated_macs - exact.gated_macs / 2))
    random = np.random.default_rng(0)
    batches = [test.images[random.permutation(len(test))[:BATCH]] for _ in range(8)]
    settings = {"exact": exact.setting, "half": half.setting}
    samples = take_turns({name: turn_of(engine, batches, each) for name, each in settings.items()}, ROUNDS, 1)
    quartiles = np.quantile(samples.seconds["half"] / samples.seconds["exact"], [0.25, 0.5, 0.75]).tolist()
    macs = {name: _macs(engine, batches, each) for name, each in settings.items()}
    return [{
        "point": half.name, "batch": BATCH, "threads": getattr(engine, "threads", 1),
        "macs": macs["half"] / macs["exact"], "time": quartiles[1], "quartiles": quartiles,
        "goal": HALF_TIME_AT_MOST, "met": quartiles[1] <= HALF_TIME_AT_MOST,
    }]  # fmt: skip


def _macs(engine: Engine, batches: list[NDArray[np.uint8]], setting: Setting) -> float:
    """Mean gated MACs of an image."""
    outputs = [engine.run(batch, RunOptions.of([setting] * len(batch))) for batch in batches]
    return float(np.mean([engine.shape.gated(output.kept, output.exit_index).mean() for output in outputs]))


if __name__ == "__main__":
    main()

"""At equal accuracy: the network that skips, in int8, beside its plain twin in the fastest engines for int8.

    python -m benchmarks.equal_accuracy DATA [--model FOLDER] [--twin FOLDER] [--rounds N]

The network runs at its sparsest point that loses at most half a percentage point against the twin on held-out images.
Test images are read once that is chosen: for accuracies, and as what all engines classify in turns, two threads each.
The peers' tools quantise the twin on images of the part that this project's scales are chosen on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console

import lccl
from benchmarks import results
from benchmarks.models import data_of, sparsest_as_good
from benchmarks.serving import twins
from lccl.bench.images import choose
from lccl.bench.report import showing
from lccl.bench.run import Options, run
from lccl.bench.workload import OWN, find_model, images_needed, make_workload
from lccl.bundle.format import Bundle
from lccl.data import Dataset, hold_out
from lccl.measurement import measure
from lccl.operating_points import OperatingPoint

RESULT = "equal_accuracy"
BATCHES, THREADS, PRECISION = (1, 8), 2, "int8"
CALIBRATED = 300  # images that the peers' tools see
GOAL = 1.3
MODEL, TWIN = "models/resnet18-imagenette", "benchmarks/twins/resnet18-imagenette"
ANSWERS = {"OpenVINO int8": "openvino int8", "ONNX Runtime int8": "onnxruntime int8"}  # of baselines in int8

Row = dict[str, Any]


def main() -> None:
    """Measure, print, write the result file."""
    options = results.command_line(
        __doc__,
        results.argument("data", type=Path),
        results.argument("--model", type=Path, default=results.HOME / MODEL),
        results.argument("--twin", type=Path, default=results.HOME / TWIN),
        results.argument("--rounds", type=int, default=Options().rounds),
    ).parse_args()
    torch.set_num_threads(THREADS)
    bundle, twin = lccl.load(options.model), lccl.load(options.twin)
    point, dataset = sparsest_as_good(bundle), data_of(bundle, options.data)
    accuracies, absent = accuracies_of(bundle, twin, point, dataset)
    measured = times(options.model, twin, point, dataset, options.data.name, options.rounds)
    rows = [{"batch": batch} | row(figures, point, accuracies) for batch, figures in measured]
    results.publish(
        RESULT,
        {
            "model": options.model.name, "data": options.data.name, "threads": THREADS, "point": point.name,
            "skip_ratio": point.skip_ratio, "held_out": held_out(bundle, point), "test_images": len(dataset.test),
            "test_accuracies": accuracies, "absent": absent, "goal": GOAL, "rows": rows,
        },
    )  # fmt: skip


def held_out(bundle: Bundle, point: OperatingPoint) -> Row:
    """Accuracies on held-out images, by which the point was chosen, and the points lost."""
    assert bundle.training.plain_twin is not None
    accuracy = bundle.training.plain_twin.accuracy
    return {"point": point.accuracy, "twin": accuracy, "lost": 100 * (accuracy - point.accuracy)}


def accuracies_of(
    bundle: Bundle, twin: Bundle, point: OperatingPoint, dataset: Dataset
) -> tuple[dict[str, float], dict[str, str]]:
    """On test images: of the network at its point, and of the twin in fp32 and as peers quantise it; who is absent."""
    engine = lccl.compile(bundle, engine="cpu", precision=PRECISION)
    found = {"point": measure(engine, dataset.test, point.setting).accuracy}
    choosing = hold_out(dataset.train, by=bundle.held_out_by).choose
    images = choosing.first(min(CALIBRATED, len(choosing))).images[:]
    with TemporaryDirectory(prefix="lccl-bench-") as folder:
        absent = twins.write(Path(folder), twin.network, bundle, images)
        answers = twins.answer(Path(folder), twin.network, bundle, images, dataset.test)
    return found | {name: each.accuracy for name, each in answers.items() if each.accuracy is not None}, absent


def times(
    model: Path, twin: Bundle, point: OperatingPoint, dataset: Dataset, source: str, rounds: int
) -> Iterator[tuple[int, Row]]:
    """For each batch size what ``lccl bench`` finds of the network and the twin."""
    found = replace(find_model(str(model), precision=PRECISION), twin=twin.network)
    for batch in BATCHES:
        images = choose(dataset, source, found.preprocessing, images_needed(found, batch))
        workload = make_workload(found, images, batch, (point.skip_ratio,))
        with showing(Console()) as stages:
            yield batch, run(workload, Options(THREADS, PRECISION, rounds, layers=False), stages)


def row(figures: Mapping[str, Any], point: OperatingPoint, accuracies: Mapping[str, float]) -> Row:
    """The network's time at its point against the fastest peer's, whatever its precision, and that one's accuracy."""
    times = {each["name"]: each["median_ms"] for each in figures["contestants"] if each["absent"] is None}
    own, best = f"{OWN} {point.skip_ratio:g}", figures["best_baseline"]
    speeds = {each["name"]: each.get("speed_against_best_baseline") for each in figures["contestants"]}
    known = ANSWERS.get(best, "fp32" if str(best).endswith("fp32") else None)
    return {
        "own_ms": times[own], "best_peer": best, "best_peer_ms": times.get(best),
        "best_peer_accuracy": accuracies.get(known or ""), "times_as_fast": speeds[own], "all_ms": times,
    }  # fmt: skip


if __name__ == "__main__":
    main()

"""What a client gains at which accuracy: a shipped model's time per image under each budget of accuracy.

    python -m benchmarks.trade_off [--images DATA] [--rounds N] [--model FOLDER --result NAME]

The whole engine, batches of 32 on all threads, in interleaved rounds: exact, then the sparsest point within each
``max_accuracy_drop``. DATA is a data set with test images; without it noise like that of natural images is drawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import lccl
from benchmarks import results
from benchmarks.models import at, turn_of
from lccl.bench.images import dataset_images, noise_images
from lccl.bench.turns import Samples, take_turns
from lccl.operating_points import OperatingPoint

MODEL = results.HOME / "models" / "resnet20-cifar10"
DROPS = (0.5, 1.0, 2.0, 5.0)
BATCH, IMAGES, REPEATS = 32, 512, 2


def main() -> None:
    """Measure, print a table, write the result file."""
    options = results.command_line(
        __doc__,
        results.argument("--images", type=Path, default=results.usual_data()),
        results.argument("--rounds", type=int, default=21),
        results.argument("--model", type=Path, default=MODEL),
        results.argument("--result", default="trade_off", help="the result file's name"),
    ).parse_args()
    bundle = lccl.load(options.model)
    if options.images is None:
        images = noise_images(IMAGES, bundle.preprocessing.size)
    else:
        images = dataset_images(options.images, bundle.preprocessing, IMAGES)
    engine = lccl.compile(bundle)
    points = {"exact": at(bundle), **{f"{drop:g}": at(bundle, max_accuracy_drop=drop) for drop in DROPS}}
    batches = np.split(images.images, len(images.images) // BATCH)
    turns = {str(point.name): turn_of(engine, batches, point.setting) for point in points.values()}  # each once
    samples = take_turns(turns, options.rounds, REPEATS)
    rows = [_row(name, point, samples) for name, point in points.items()]
    results.print_rows(rows, "trade-off")
    figures = {"model": options.model.name, "source": images.source, "batch": BATCH, "rounds": options.rounds}
    print(results.write(options.result, {**figures, "dense_macs": engine.shape.dense, "rows": rows}))


def _row(name: str, point: OperatingPoint, samples: Samples) -> dict[str, Any]:
    return {
        "asked": name,
        "point": point.name,
        "sparsity": point.skip_ratio,
        "gated_macs": point.gated_macs,
        "accuracy": point.accuracy,
        "drop": point.drop,
        "ms_per_image": round(1000 * samples.median(str(point.name)) / BATCH, 5),
        "speed_up": round(samples.ratio("exact", str(point.name)), 4),
    }


if __name__ == "__main__":
    main()

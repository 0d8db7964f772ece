"""What a client gains at which accuracy: a shipped model's time per image under each budget of accuracy.

    python -m benchmarks.trade_off [--images DATA] [--rounds N] [--model FOLDER --result NAME]

The whole engine in the precision that the service takes, batches of 32 on all threads, in interleaved rounds: exact,
then the sparsest point within each ``max_accuracy_drop``; on the CPU's fastest instruction set, and without AMX where
it has that. Where the precision is int8, exact in fp32 as well. DATA is a data set with test images; without it noise
like that of natural images is drawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import lccl
from benchmarks import results
from benchmarks.models import at, turn_of
from lccl.bench.images import dataset_images, noise_images
from lccl.bench.turns import Samples, Turn, take_turns
from lccl.engines.cpu.engine import instruction_sets
from lccl.operating_points import OperatingPoint

MODEL = results.HOME / "models" / "resnet20-cifar10"
DROPS = (0.5, 1.0, 2.0, 5.0)
BATCH, IMAGES, REPEATS = 32, 512, 2
EXACT, FLOAT = "exact", "exact, fp32"


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
    batches = np.split(images.images, len(images.images) // BATCH)
    precision = lccl.compile(bundle, device="cpu").precision
    served = bundle.in_precision(precision)
    points = {EXACT: at(served), **{f"{drop:g}": at(served, max_accuracy_drop=drop) for drop in DROPS}}
    sets = _instruction_sets(precision)
    turns: dict[str, Turn] = {}
    for name in sets:
        engine = lccl.compile(bundle, device="cpu", precision=precision, instruction_set=name)
        turns |= {f"{name} {point.name}": turn_of(engine, batches, point.setting) for point in points.values()}
    if precision == "int8":
        floating = lccl.compile(bundle, device="cpu", precision="fp32")
        turns[FLOAT] = turn_of(floating, batches, bundle.table.exact.setting)
    samples = take_turns(turns, options.rounds, REPEATS)
    rows = [_row(name, precision, point, samples, sets) for name, point in points.items()]
    if precision == "int8":
        rows.insert(0, _row(FLOAT, "fp32", bundle.table.exact, samples, sets))
    results.print_rows(rows, "trade-off")
    figures = {"model": options.model.name, "source": images.source, "batch": BATCH, "rounds": options.rounds}
    figures |= {"instruction_sets": sets, "dense_macs": engine.shape.dense, "rows": rows}
    print(results.write(options.result, figures))


def _instruction_sets(precision: str) -> list[str]:
    """Those that are measured, the fastest last."""
    here = [name for name, its_precision in instruction_sets() if its_precision == precision]
    return [here[1], here[0]] if here[0] == "amx" else here[:1]


def _row(name: str, precision: str, point: OperatingPoint, samples: Samples, sets: list[str]) -> dict[str, Any]:
    turns = [FLOAT if name == FLOAT else f"{each} {point.name}" for each in sets]
    return {
        "asked": name,
        "precision": precision,
        "point": point.name,
        "sparsity": point.skip_ratio,
        "gated_macs": point.gated_macs,
        "accuracy": point.accuracy,
        "drop": point.drop,
        "ms_per_image": [round(1000 * samples.median(turn) / BATCH, 5) for turn in turns],
        "speed_up": [round(samples.ratio(f"{each} {EXACT}", turn), 4) for each, turn in zip(sets, turns, strict=True)],
    }


if __name__ == "__main__":
    main()

"""What a client gains at which accuracy: the shipped model's time per image under each budget of accuracy.

    python -m benchmarks.trade_off [--images DATA] [--rounds N]

The whole engine, batches of 32 on all threads, in interleaved rounds: exact, then the sparsest point within each
``max_accuracy_drop``. DATA is a data set with test images; without it noise like that of natural images is drawn.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

import lccl
from benchmarks import results
from benchmarks.serving.workload import DATA
from lccl.bench.images import Images, dataset_images, noise_images
from lccl.bundle.format import Bundle, load
from lccl.engines.base import Engine
from lccl.operating_points import QualityRequest, Setting, controls_for

MODEL = Path(__file__).parents[1] / "models" / "resnet20-cifar10"
DROPS = (0.5, 1.0, 2.0, 5.0)
BATCH, IMAGES, REPEATS = 32, 512, 2


def main() -> None:
    """Measure, print a table, write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, default=DATA if DATA.exists() else None)
    parser.add_argument("--rounds", type=int, default=21)
    options = parser.parse_args()
    bundle = load(MODEL)
    images = _images(bundle, options.images)
    engine = lccl.compile(bundle)
    settings = {"exact": bundle.table.resolve(QualityRequest())}
    settings |= {f"{drop:g}": bundle.table.resolve(QualityRequest(max_accuracy_drop=drop)) for drop in DROPS}
    seconds = measure(engine, images.images, settings, options.rounds)
    rows = [_row(name, setting, seconds[name], seconds["exact"]) for name, setting in settings.items()]
    _print(rows)
    figures = {"model": MODEL.name, "source": images.source, "batch": BATCH, "rounds": options.rounds}
    command = f"python -m benchmarks.trade_off --rounds {options.rounds}"
    print(results.write("trade_off", command, {**figures, "dense_macs": engine.shape.dense, "rows": rows}))


def measure(
    engine: Engine, images: NDArray[np.uint8], settings: dict[str, Setting], rounds: int
) -> dict[str, NDArray[np.float64]]:
    """Seconds per image in each round, by setting; the order within a round changes."""
    batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    random = np.random.default_rng(0)
    seconds = {name: np.zeros(rounds) for name in settings}
    for number in range(rounds):
        for name in random.permutation(list(settings)):
            options = controls_for([settings[name]] * BATCH)
            began = time.perf_counter()
            for batch in batches * REPEATS:
                engine.run(batch, options)
            seconds[name][number] = (time.perf_counter() - began) / (REPEATS * len(images))
    return seconds


def _images(bundle: Bundle, path: Path | None) -> Images:
    if path is None:
        return noise_images(IMAGES, bundle.preprocessing.size)
    return dataset_images(path, bundle.preprocessing, IMAGES)


def _row(name: str, setting: Setting, seconds: NDArray[np.float64], exact: NDArray[np.float64]) -> dict[str, Any]:
    return {
        "asked": name,
        "point": setting.name,
        "sparsity": setting.sparsity,
        "gated_macs": setting.gated_macs,
        "accuracy": setting.expected_accuracy,
        "drop": setting.expected_accuracy_drop,
        "ms_per_image": round(1000 * float(np.median(seconds)), 5),
        "speed_up": round(float(np.median(exact / seconds)), 4),
    }


def _print(rows: list[dict[str, Any]]) -> None:
    table = Table(*rows[0], box=None, header_style="bold")
    for row in rows:
        table.add_row(*(value if isinstance(value, str) else f"{value:g}" for value in row.values()))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()

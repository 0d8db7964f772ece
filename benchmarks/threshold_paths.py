"""The same weights, and three ways to choose thresholds for a skip ratio.

    python -m benchmarks.threshold_paths DATA [--model FOLDER]

One threshold for all layers; one for each layer, raised by what that costs; and as calibration does it, where a block
may also be shut at once. Costs are weighed on images of the choosing part, accuracies are of the measuring part. No
image leaves at an early exit.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

import lccl
from benchmarks import results
from benchmarks.any_sparsity import print_tables
from benchmarks.recipes import along
from lccl.calibration.search import (
    LARGEST_COST,
    ThresholdPath,
    Thresholds,
    find_path,
    gate_values,
    notches_in,
    row_parts,
)
from lccl.calibration.table import WEIGHED
from lccl.data import Split, hold_out, load_dataset
from lccl.engines.base import Engine
from lccl.measurement import measure
from lccl.operating_points import NEVER

STEPS = 40


def main() -> None:
    """Find the three ways, measure along them, print, write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", type=Path, default=Path("models/resnet20-cifar10"))
    options = parser.parse_args()
    bundle = lccl.load(options.model)
    dataset = load_dataset(options.data, bundle.preprocessing).in_order_of(bundle.labels)
    data, engine = hold_out(dataset.train), lccl.compile(bundle)
    weighed, values = data.choose.first(WEIGHED), gate_values(bundle.network, bundle.preprocessing, data.choose)
    notches = [*notches_in(values), *[np.array([])] * len(engine.shape.exits)]
    ways = {
        "one threshold for all layers": common_path(engine, values, weighed),
        "one for each layer, by what raising it costs": find_path(
            engine, notches, weighed, LARGEST_COST, whole_blocks=False
        ),
        "so, and a block may be shut at once": find_path(engine, notches, weighed, LARGEST_COST),
    }
    found = {
        "model": options.model.name,
        "digest": bundle.digest,
        "images": len(data.measure),
        "ways": [{"way": name, **along(path, engine, data.measure)} for name, path in ways.items()],
    }
    print_tables(found)
    print(results.write("threshold_paths", f"python -m benchmarks.threshold_paths {options.data.name}", found))


def common_path(engine: Engine, values: list[Thresholds], split: Split) -> ThresholdPath:
    """One threshold for all layers, that rises through the gates' values; no image leaves early."""
    pooled = np.concatenate(values)
    rising = np.unique([0.0, *np.quantile(pooled, np.linspace(0, 1, STEPS)).clip(0)])
    exits = np.full(len(engine.shape.exits), NEVER)
    corners = np.stack([np.concatenate([np.full(len(values), threshold), exits]) for threshold in rising])
    found = [measure(engine, split, row_parts(engine, row)[0]) for row in corners]
    return ThresholdPath(corners, np.array([one.skip_ratio(engine.shape) for one in found]))


if __name__ == "__main__":
    main()

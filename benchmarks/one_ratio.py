"""One network for every skip ratio against networks that were trained for one ratio alone, at equal budgets.

    python -m benchmarks.one_ratio DATA --plain FOLDER [--seed 0] [--images 20000] [--epochs 3] [--threads 1]

All give fresh gates to the same plain network and train on the same pictures for the same time: one as ``path`` in
:mod:`benchmarks.recipes` does, the others with every picture at their own ratio. Each then takes the way from exact to
sparse that calibration finds for it, as far as the ratio; on test pictures they are compared picture by picture.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np
import torch

import lccl
from benchmarks import results
from benchmarks.any_sparsity import paired, print_tables
from benchmarks.recipes import WEIGHED, budgeted, part_of, shared_recipe, trained
from lccl.bundle import Bundle
from lccl.data import HeldOut, Split, load_dataset
from lccl.engines.base import Engine
from lccl.evaluate import Measurement, measure
from lccl.networks import ResNet
from lccl.threshold_path import LARGEST_COST, ThresholdPath, find_path, gate_values, notches_in

SKIP_RATIOS = (0.3, 0.45, 0.6)


class _Candidate:
    """A trained network on its way from exact to sparse."""

    def __init__(self, network: ResNet, plain: Bundle, data: HeldOut, threads: int) -> None:
        self.engine: Engine = lccl.compile(network, preprocessing=plain.preprocessing, threads=threads)
        notches = notches_in(gate_values(network, plain.preprocessing, data.choose))
        self._path: ThresholdPath = find_path(self.engine, notches, data.choose.first(WEIGHED), LARGEST_COST)

    def measured(self, skip_ratio: float, split: Split) -> Measurement:
        """On these pictures, where its way reaches a skip ratio; at its end if it does not."""
        rising = np.maximum.accumulate(self._path.skip_ratios)
        place = float(np.interp(skip_ratio, rising, np.arange(len(rising))))
        return measure(self.engine, split, self._path.at(place).tolist())


def main() -> None:
    """Train what has no checkpoint yet, measure, print, write the result file."""
    parser = budgeted(
        argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    plain = lccl.load(options.plain)
    dataset = load_dataset(options.data, plain.preprocessing).in_order_of(plain.labels)
    data, recipe = part_of(dataset, options), shared_recipe(options)
    every = _Candidate(trained("path", plain, data, recipe)[0], plain, data, options.threads)
    rows = []
    for ratio in SKIP_RATIOS:
        alone = replace(recipe, exact_share=0.0, skip_bottom=ratio, skip_top=ratio)
        network, _ = trained(f"alone-{ratio:g}", plain, data, alone)
        rows.append(_row(ratio, every, _Candidate(network, plain, data, options.threads), dataset.test))
    found = {
        "images": len(dataset.test),
        "budget": {"images": options.images, "epochs": options.epochs, "seed": options.seed},
        "rows": rows,
    }
    print_tables(found, ("rows",))
    print(results.write("one_ratio", f"python -m benchmarks.one_ratio {options.data.name} --plain PLAIN", found))


def _row(ratio: float, every: _Candidate, alone: _Candidate, test: Split) -> dict[str, Any]:
    ours, theirs = every.measured(ratio, test), alone.measured(ratio, test)
    ahead, interval = paired(ours.right, theirs.right)
    return {
        "skip_ratio": ratio, "reached": ours.skip_ratio(every.engine.shape), "accuracy": ours.accuracy,
        "alone_reached": theirs.skip_ratio(alone.engine.shape), "alone_accuracy": theirs.accuracy,
        "ahead": ahead, "interval": interval, "met": interval[1] >= 0,
    }  # fmt: skip


if __name__ == "__main__":
    main()

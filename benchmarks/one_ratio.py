"""One network for every skip ratio against networks that were trained for one ratio alone, at equal budgets.

    python -m benchmarks.one_ratio DATA --plain FOLDER [--seed 0] [--images 20000] [--epochs 3] [--threads 1]

All give fresh gates to the same plain network and train on the same pictures for the same time: one as ``path`` in
:mod:`benchmarks.recipes` does, the others with every picture that does not run exactly at their own ratio. The one
takes the way from exact to sparse that calibration finds for it. Of the others' two sets of thresholds, calibration's
and those that training ended with, each takes the one that is right more often on held-out pictures. On test pictures
they are compared picture by picture.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

import lccl
from benchmarks import results
from benchmarks.any_sparsity import paired, print_tables
from benchmarks.recipes import WEIGHED, budgeted, part_of, run_folder, shared_recipe, trained
from lccl.bundle import Bundle
from lccl.data import HeldOut, load_dataset
from lccl.engines.base import Engine
from lccl.evaluate import Measurement, measure
from lccl.networks import ResNet
from lccl.threshold_path import LARGEST_COST, find_path, gate_values, notches_in
from lccl.train.loop import layer_macs
from lccl.train.thresholds import ThresholdSampler

SKIP_RATIOS = (0.3, 0.45, 0.6)


def calibrated(network: ResNet, engine: Engine, plain: Bundle, data: HeldOut, ratio: float) -> list[float]:
    """Thresholds [L] where calibration's way from exact to sparse reaches a skip ratio; its end if it does not."""
    notches = notches_in(gate_values(network, plain.preprocessing, data.choose))
    path = find_path(engine, notches, data.choose.first(WEIGHED), LARGEST_COST)
    rising = np.maximum.accumulate(path.skip_ratios)
    place = float(np.interp(ratio, rising, np.arange(len(rising))))
    return [float(threshold) for threshold in path.at(place)]


def trained_with(network: ResNet, folder: Path, ratio: float) -> list[float]:
    """Thresholds [L] that a run would draw for a skip ratio after its last step, from its checkpoint."""
    state = load_file(folder / "checkpoint.safetensors")
    sampler = ThresholdSampler(layer_macs(network), torch.device("cpu"))
    own = {name.removeprefix("sampler."): value for name, value in state.items() if name.startswith("sampler.")}
    sampler.restore(own, seen=1)
    thresholds: list[float] = sampler.shared_out(torch.tensor([ratio]), "path")[0].tolist()
    return thresholds


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
    every, _ = trained("path", plain, data, recipe)
    rows = []
    for ratio in SKIP_RATIOS:
        name, alone = f"alone-{ratio:g}", replace(recipe, skip_bottom=ratio, skip_top=ratio)
        network, _ = trained(name, plain, data, alone)
        engines = [_engine(one, plain, options.threads) for one in (every, network)]
        ours = calibrated(every, engines[0], plain, data, ratio)
        theirs = [
            calibrated(network, engines[1], plain, data, ratio),
            trained_with(network, run_folder(name, data, alone), ratio),
        ]
        best = max(theirs, key=lambda thresholds: measure(engines[1], data.choose, thresholds).accuracy)
        measured = [measure(engine, dataset.test, row) for engine, row in zip(engines, (ours, best), strict=True)]
        rows.append(_row(ratio, engines, measured))
    found = {
        "images": len(dataset.test),
        "budget": {"images": options.images, "epochs": options.epochs, "seed": options.seed},
        "rows": rows,
    }
    print_tables(found, ("rows",))
    print(results.write("one_ratio", f"python -m benchmarks.one_ratio {options.data.name} --plain PLAIN", found))


def _engine(network: ResNet, plain: Bundle, threads: int) -> Engine:
    return lccl.compile(network, preprocessing=plain.preprocessing, threads=threads)


def _row(ratio: float, engines: list[Engine], measured: list[Measurement]) -> dict[str, Any]:
    ours, theirs = measured
    reached, alone_reached = (found.skip_ratio(engine.shape) for engine, found in zip(engines, measured, strict=True))
    ahead, interval = paired(ours.right, theirs.right)
    return {
        "skip_ratio": ratio, "reached": reached, "accuracy": ours.accuracy,
        "alone_reached": alone_reached, "alone_accuracy": theirs.accuracy,
        "ahead": ahead, "interval": interval, "met": interval[1] >= 0,
    }  # fmt: skip


if __name__ == "__main__":
    main()

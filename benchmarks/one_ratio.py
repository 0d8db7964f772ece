"""One network for every skip ratio against networks that were trained for one ratio alone, at equal budgets.

    python -m benchmarks.one_ratio DATA --plain FOLDER [--start FOLDER] [--images 20000] [--epochs 3] …

All go on from the same network, on the same images for the same time: one as ``path`` in :mod:`benchmarks.recipes`
does, the others with every image that does not run exactly at their own ratio. That network is the plain one, with
fresh gates, or the one that ``--start`` names; the plain one teaches. The one takes the way from exact to sparse that
calibration finds for it. Of the others' two sets of thresholds, calibration's and those that training ended with, each
takes the one that is right more often on held-out images, of those that skip what is asked for. On test images they
are compared image by image.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

import lccl
from benchmarks import results
from benchmarks.models import data_of, paired
from benchmarks.recipes import BUDGET, calibrated_curve, part_of, run_folder, shared_recipe, trained
from lccl.bundle.format import Bundle
from lccl.calibration.search import ThresholdCurve
from lccl.data import HeldOut, Split
from lccl.engines.base import Engine
from lccl.measurement import measure
from lccl.plan.run import Setting
from lccl.train.recipe import Recipe, continued
from lccl.train.thresholds import ThresholdSampler

SKIP_RATIOS = (0.3, 0.45, 0.6)
WITHIN = 0.02
FURTHER_LR = 0.02


@dataclass(frozen=True, slots=True, eq=False)
class Contender:
    """A network's engine, and the curve from exact to sparse that calibration finds for it."""

    engine: Engine
    curve: ThresholdCurve

    def calibrated(self, ratio: float) -> Setting:
        """The setting where the curve reaches a skip ratio; its end if it does not."""
        rising = np.maximum.accumulate(self.curve.skip_ratios)
        return self.curve.at(float(np.interp(ratio, rising, np.arange(len(rising)))))


def contender(
    name: str, plain: Bundle, start: Bundle, data: HeldOut, recipe: Recipe, options: argparse.Namespace
) -> Contender:
    """Train a network by a recipe, or go on from its checkpoint, and find calibration's curve for it."""
    network, _ = trained(name, plain, data, recipe, options, start)
    engine = lccl.compile(network, preprocessing=plain.preprocessing, threads=options.threads)
    return Contender(engine, calibrated_curve(network, engine, plain, data))


def trained_with(macs: list[int], folder: Path, ratio: float) -> Setting:
    """The setting that a run would draw for a skip ratio after its last step, from its checkpoint."""
    state = load_file(folder / "checkpoint.safetensors")
    sampler = ThresholdSampler(macs, torch.device("cpu"))
    own = {name.removeprefix("sampler."): value for name, value in state.items() if name.startswith("sampler.")}
    sampler.restore(own, seen=1)
    return Setting(tuple(sampler.shared_out(torch.tensor([ratio]), "path")[0].tolist()))


def main() -> None:
    """Train what has no checkpoint yet, measure, print, write the result file."""
    options = results.command_line(
        __doc__,
        *BUDGET,
        results.argument("--start", type=Path, help="a bundle of a network with gates to go on from"),
        results.argument("--ratios", type=float, nargs="+", default=list(SKIP_RATIOS)),
    ).parse_args()
    torch.set_num_threads(options.threads)
    plain = lccl.load(options.plain)
    start = lccl.load(options.start) if options.start else plain
    dataset = data_of(plain, options.data)
    data, recipe = part_of(plain, dataset, options), shared_recipe(options)
    if options.start:
        recipe = continued(replace(recipe, lr=FURTHER_LR))
    every = contender("path", plain, start, data, recipe, options)
    rows = []
    for ratio in options.ratios:
        name, recipe_alone = f"alone-{ratio:g}", replace(recipe, skip_bottom=ratio, skip_top=ratio)
        alone = contender(name, plain, start, data, recipe_alone, options)
        macs = [layer.convolution.macs for layer in alone.engine.shape.layers]
        learned = trained_with(macs, run_folder(name, recipe_alone, len(data.train)), ratio)
        theirs = better_at(ratio, alone, [alone.calibrated(ratio), learned], data.choose)
        rows.append(_row(ratio, dataset.test, (every, every.calibrated(ratio)), (alone, theirs)))
    figures = {
        "images": len(dataset.test),
        "budget": {name: getattr(options, name) for name in ("images", "epochs", "seed", "precision")},
        "rows": rows,
    }
    results.publish("one_ratio", figures)


def better_at(ratio: float, one: Contender, settings: list[Setting], choose: Split) -> Setting:
    """Of several settings the most accurate one that skips as much as is asked for, within 0.02.

    The first where none does.
    """
    tried = [measure(one.engine, choose, setting) for setting in settings]
    near = [measured for measured in tried if abs(measured.skip_ratio(one.engine.shape) - ratio) <= WITHIN]
    return max(near or tried[:1], key=lambda measured: measured.accuracy).setting


def _row(
    ratio: float, test: Split, ours: tuple[Contender, Setting], theirs: tuple[Contender, Setting]
) -> dict[str, Any]:
    every, alone = (measure(one.engine, test, setting) for one, setting in (ours, theirs))
    ahead, interval = paired(every.right, alone.right)
    return {
        "skip_ratio": ratio, "reached": every.skip_ratio(ours[0].engine.shape), "accuracy": every.accuracy,
        "alone_reached": alone.skip_ratio(theirs[0].engine.shape), "alone_accuracy": alone.accuracy,
        "ahead": ahead, "interval": interval, "met": interval[1] >= 0,
    }  # fmt: skip


if __name__ == "__main__":
    main()

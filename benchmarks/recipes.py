"""Ways to train one network for every skip ratio, compared at equal budgets.

    python -m benchmarks.recipes DATA --plain FOLDER [NAME …] [--seed 0] [--images 20000] [--epochs 3] [--threads 1]

Every variant gives fresh gates to the same plain network, trains on the same images for the same time, takes the way
from exact to sparse that calibration finds, and is measured on held-out images that chose nothing. FOLDER holds the
plain network's bundle, made from DATA. A run whose result is there already is left out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

import lccl
from benchmarks import results
from benchmarks.models import data_of, varying
from lccl.bundle.format import Bundle
from lccl.calibration.search import LARGEST_COST, ThresholdCurve, gate_candidates, gate_values, search_thresholds
from lccl.data import Dataset, HeldOut, Split, hold_out
from lccl.engines.base import Engine
from lccl.measurement import exact_setting, measure
from lccl.networks import ResNet
from lccl.train.loop import train
from lccl.train.recipe import Recipe, attached

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "path": ("as shipped: thresholds along the way that calibration takes, a teacher", {}),
    "common": ("one common threshold for all layers", {"allocation": "common"}),
    "random": ("each layer's share drawn at random around the network's", {"allocation": "random"}),
    "no-teacher": ("labels alone, no teacher", {"distill": 0.0}),
    "teacher-alone": ("the teacher alone, no labels", {"distill": 1.0}),
    "wide-gates": ("gates begin as 1 ± 1 instead of 1 ± 0.25", {"gate_scale": 1.0}),
    "narrow-gates": ("gates begin as 1 ± 0.05", {"gate_scale": 0.05}),
    "few-exact": ("5 % of the images exact instead of 30 %", {"exact_share": 0.05}),
}
SKIP_RATIOS = (0.3, 0.4, 0.5, 0.6, 0.7)
POSITIONS = 25
WEIGHED = 500
# The images, the plain network that all begin from, and the budget.
BUDGET = (
    results.argument("data", type=Path),
    results.argument("--plain", type=Path, required=True),
    results.argument("--seed", type=int, default=0),
    results.argument("--images", type=int, default=20_000),
    results.argument("--epochs", type=int, default=3),
    results.argument("--precision", default="fp32"),
    results.argument("--compile", action="store_true", dest="compile_network"),
    results.argument("--threads", type=int, default=1),
)


def main() -> None:
    """Train and measure the variants named, or all."""
    parser = results.command_line(
        __doc__,
        *BUDGET,
        results.argument("names", nargs="*", help=f"of {', '.join(VARIANTS)}; all of them without any"),
    )
    options = parser.parse_intermixed_args()
    unknown = set(options.names) - set(VARIANTS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(VARIANTS)}")
    torch.set_num_threads(options.threads)
    plain = lccl.load(options.plain)
    data = part_of(plain, data_of(plain, options.data), options)
    for name in options.names or VARIANTS:
        description, changes = VARIANTS[name]
        recipe = dataclasses.replace(shared_recipe(options), **changes)
        file = f"recipes/{run_name(name, recipe, options.images)}"
        if results.read(file) is not None:
            continue
        figures = _run(name, plain, data, recipe, options)
        budget = {"images": options.images, "epochs": options.epochs, "seed": options.seed}
        print(results.write(file, {"variant": name, "description": description, **budget, **figures}))


def part_of(plain: Bundle, dataset: Dataset, options: argparse.Namespace) -> HeldOut:
    """The plain network's held-out parts, and as many of the training images as the budget has."""
    held = hold_out(dataset.train, by=plain.held_out_by)
    order = np.random.default_rng(options.seed).permutation(len(held.train))[: options.images]
    return dataclasses.replace(held, train=held.train.subset(order))


def shared_recipe(options: argparse.Namespace) -> Recipe:
    """The recipe that every variant changes in one place."""
    recipe = Recipe(epochs=options.epochs, lr=0.05, seed=options.seed, precision=options.precision)
    return dataclasses.replace(attached(recipe), gate_scale=0.25)


def _run(name: str, plain: Bundle, data: HeldOut, recipe: Recipe, options: argparse.Namespace) -> dict[str, Any]:
    """Train a network, and measure calibration's way through it, and the plain one, on the measuring part."""
    network, seconds = trained(name, plain, data, recipe, options)
    engine, twin = (
        lccl.compile(network, preprocessing=plain.preprocessing, threads=options.threads),
        lccl.compile(plain),
    )
    return {
        "recipe": dataclasses.asdict(recipe), "seconds": seconds,
        "plain_accuracy": measure(twin, data.measure, exact_setting(twin)).accuracy,
        **along(calibrated_curve(network, engine, plain, data), engine, data.measure),
    }  # fmt: skip


def trained(
    name: str,
    plain: Bundle,
    data: HeldOut,
    recipe: Recipe,
    options: argparse.Namespace,
    start: Bundle | None = None,
) -> tuple[ResNet, float]:
    """A network trained by a recipe, taught by the plain one, and the seconds that took; goes on from its checkpoint.

    It begins from the plain one with fresh gates, or from ``start``.
    """
    architecture = dataclasses.replace(plain.architecture, gate="shared")
    network, record = train(
        architecture, data, recipe, run_folder(name, recipe, len(data.train)),
        device=torch.device("cpu"), compile_network=options.compile_network, report=_report,
        start=(start or plain).network, teacher=plain.network if recipe.distill else None,
        statistics=(plain.preprocessing.mean, plain.preprocessing.std),
    )  # fmt: skip
    return network, sum(epoch["seconds"] for epoch in record.epochs)


def run_name(name: str, recipe: Recipe, images: int) -> str:
    """What a run is kept under: its variant and all of the budget."""
    precision = "" if recipe.precision == "fp32" else f"-{recipe.precision}"
    return f"{name}-{images}x{recipe.epochs}-seed{recipe.seed}{precision}"


def run_folder(name: str, recipe: Recipe, images: int) -> Path:
    """Where a run's checkpoint is kept."""
    return Path("runs") / "recipes" / run_name(name, recipe, images)


def calibrated_curve(network: ResNet, engine: Engine, plain: Bundle, data: HeldOut) -> ThresholdCurve:
    """The way from exact to sparse that calibration finds for a network, on fewer images."""
    candidates = gate_candidates(gate_values(network, plain.preprocessing, data.choose))
    return search_thresholds(engine, candidates, data.choose.first(WEIGHED), LARGEST_COST)


def along(curve: ThresholdCurve, engine: Engine, split: Split) -> dict[str, Any]:
    """Accuracy at exact and at each skip ratio, linear in between, and how many layers vary at 0.45."""
    settings = [curve.at(position) for position in np.linspace(0, curve.length, POSITIONS)]
    measured = [measure(engine, split, setting) for setting in settings]
    ratios = np.maximum.accumulate([one.skip_ratio(engine.shape) for one in measured]).tolist()
    accuracies = [one.accuracy for one in measured]
    at = {f"{ratio:g}": float(np.interp(ratio, ratios, accuracies)) for ratio in SKIP_RATIOS if ratio <= ratios[-1]}
    middle = measured[int(np.abs(np.array(ratios) - 0.45).argmin())]
    return {
        "exact_skip_ratio": ratios[0], "exact_accuracy": accuracies[0], "accuracy_at": at,
        "layers_that_vary_at_0.45": varying(engine, middle), "layers": len(engine.shape.layers),
    }  # fmt: skip


def _report(kind: str, done: int, of: int, figures: dict[str, float]) -> None:
    if kind == "epoch":
        print(f"epoch {done}/{of} {json.dumps({name: round(value, 3) for name, value in figures.items()})}", flush=True)


if __name__ == "__main__":
    main()

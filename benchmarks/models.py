"""What commands that measure a model on labelled images share: the model, its images, and paired differences."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import lccl
from benchmarks.results import Argument, argument, command_line
from lccl.bench.turns import Turn, WallClock
from lccl.bundle.format import Bundle
from lccl.calibration.intervals import paired_difference
from lccl.data import Dataset, load_dataset
from lccl.engines.base import Engine
from lccl.errors import LcclError
from lccl.measurement import Measurement
from lccl.operating_points import OperatingPoint
from lccl.plan.run import RunOptions, Setting
from lccl.request import QualityRequest, resolve

VARIES = 0.02
LOSS = 0.005  # of accuracy against the plain twin, at most, at a point that counts as good as it


def model_command_line(description: str | None, *arguments: Argument) -> argparse.ArgumentParser:
    """A parser for a data set and a calibrated model, by default the shipped one."""
    shipped = argument("--model", type=Path, default=Path("models/resnet20-cifar10"))
    return command_line(description, argument("data", type=Path), shipped, *arguments)


def load_model(options: argparse.Namespace) -> tuple[Bundle, Dataset]:
    """The model, and the data set with classes in the model's order."""
    bundle = lccl.load(options.model)
    return bundle, data_of(bundle, options.data)


def data_of(bundle: Bundle, path: Path) -> Dataset:
    """A data set as a bundle's network takes it, with classes in the bundle's order."""
    return load_dataset(path, bundle.preprocessing).in_order_of(bundle.labels)


def at(bundle: Bundle, **quality: float | str) -> OperatingPoint:
    """The point that a client with this target or floor is served."""
    return resolve(bundle.table, QualityRequest(**quality)).wanted  # type: ignore[arg-type]


def sparsest_as_good(bundle: Bundle) -> OperatingPoint:
    """The sparsest point that loses at most ``LOSS`` against the plain twin on held-out images, as a CPU serves it.

    Raises:
        LcclError: the bundle does not say how good its twin was, or no point is as good.

    """
    twin = bundle.training.plain_twin
    if twin is None:
        raise LcclError(f"{bundle.architecture.name} does not record its plain twin: see lccl compare")
    table = bundle.in_precision(lccl.compile(bundle, engine="cpu").precision).table
    good = [point for point in table.points if point.accuracy >= twin.accuracy - LOSS]
    if not good:
        raise LcclError(f"no point loses at most {LOSS} against the plain twin")
    return max(good, key=lambda point: point.skip_ratio)


def turn_of(engine: Engine, batches: Sequence[NDArray[np.uint8]], setting: Setting) -> Turn:
    """A contestant's turn: runs over the batches, all of one size, under one setting."""
    options = RunOptions.of([setting] * len(batches[0]))
    launches = [partial(engine.run, batch, options) for batch in batches]
    return partial(WallClock().seconds, launches)


def paired(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> tuple[float, list[float]]:
    """Percentage points by which the first is right more often, with the 95 % interval."""
    lost, won = int((first & ~second).sum()), int((second & ~first).sum())
    low, high = paired_difference(lost, won, len(first))
    return 100 * (lost - won) / len(first), [100 * low, 100 * high]


def varying(engine: Engine, found: Measurement) -> int:
    """How many layers' skip ratios differ between images by more than 0.02, as a standard deviation."""
    return int((engine.shape.layer_skip_ratios(found.kept).std(axis=0) > VARIES).sum())


@dataclass(frozen=True, slots=True, eq=False)
class Position:
    """A setting on the test images: its MACs of the plain network's, and what it got right."""

    work: float
    right: NDArray[np.bool_]

    @classmethod
    def of(cls, engine: Engine, measured: Measurement) -> Position:
        return cls(measured.gated_macs(engine.shape) / engine.shape.dense, measured.right)


def rights_at(positions: list[Position], work: float) -> NDArray[np.float64] | None:
    """Each image's chance of being right at that work, between the neighbours' answers; None out of reach."""
    above = min((one for one in positions if one.work >= work), key=lambda one: one.work, default=None)
    below = max((one for one in positions if one.work <= work), key=lambda one: one.work, default=None)
    if above is None or below is None:
        return None
    span = above.work - below.work
    share = (work - below.work) / span if span else 0.0
    rights: NDArray[np.float64] = (1 - share) * below.right + share * above.right
    return rights


def accuracy_at(positions: list[Position], work: float) -> float | None:
    rights = rights_at(positions, work)
    return None if rights is None else float(rights.mean())


def ahead_at(
    ours: list[Position], theirs: list[Position], work: float, z: float = 1.96
) -> tuple[float | None, list[float]]:
    """Percentage points ahead at equal work, with an interval (95 % by default) from the images' differences."""
    mine, other = rights_at(ours, work), rights_at(theirs, work)
    if mine is None or other is None:
        return None, []
    difference = mine - other
    ahead, spread = float(difference.mean()), z * float(difference.std()) / len(difference) ** 0.5
    return 100 * ahead, [100 * (ahead - spread), 100 * (ahead + spread)]

"""What commands that measure a model on labelled images share: the model, its images, and paired differences."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
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
from lccl.measurement import Measurement
from lccl.operating_points import OperatingPoint
from lccl.plan.run import RunOptions, Setting
from lccl.request import QualityRequest, resolve

VARIES = 0.02


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

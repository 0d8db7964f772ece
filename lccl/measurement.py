"""Measuring a model over labelled images: right answers, kept cells, MACs and exits."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lccl.data import Split
from lccl.engines.base import Engine
from lccl.errors import DataError
from lccl.plan.geometry import NetworkShape
from lccl.plan.run import RunOptions, RunOutput, Setting

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True, eq=False)
class Measurement:
    """One setting over a split of N images.

    Attributes:
        right: bool [N].
        kept: int64 [N, L], cells kept.
        executed_macs: int64 [N].
        exit_index: int64 [N], the exit that answered; the number of exits at the network's end.

    """

    setting: Setting
    right: NDArray[np.bool_]
    kept: NDArray[np.int64]
    executed_macs: NDArray[np.int64]
    exit_index: NDArray[np.int64]

    @property
    def accuracy(self) -> float:
        return float(self.right.mean())

    def skip_ratio(self, shape: NetworkShape) -> float:
        """Mean skip ratio over the images."""
        return float(shape.skip_ratio(self.kept).mean())

    def gated_macs(self, shape: NetworkShape) -> float:
        """Mean theoretical MACs of an image."""
        return float(shape.gated(self.kept, self.exit_index).mean())


def exact_setting(engine: Engine) -> Setting:
    """Exact gates, and no image leaves early."""
    return Setting.exact(len(engine.shape.layers), len(engine.shape.exits))


def outputs_over(engine: Engine, split: Split, setting: Setting) -> Iterator[tuple[RunOutput, NDArray[np.int64]]]:
    """Run a split under one setting in batches that suit the engine: each batch's output and labels."""
    for images, labels in split.batches(engine.batch_limit):
        yield engine.run(images, RunOptions.of([setting] * len(images))), labels


def measure(engine: Engine, split: Split, setting: Setting, progress: Progress = lambda _: None) -> Measurement:
    """Run every image of a split under one setting; ``progress`` is told how many are done.

    Raises:
        DataError: the split is empty.

    """
    if not len(split):
        raise DataError("there are no images to measure on: the data set is too small to hold any out")
    outputs, right = [], []
    for output, labels in outputs_over(engine, split, setting):
        outputs.append(output)
        right.append(output.logits.argmax(1) == labels)
        progress(len(labels))
    names = ("kept", "executed_macs", "exit_index")
    counts = (np.concatenate([getattr(output, name) for output in outputs]) for name in names)
    return Measurement(setting, np.concatenate(right), *counts)

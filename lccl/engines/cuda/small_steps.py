"""The steps of a plan beside its convolutions, a kernel each: pixels, pooling, early exits and the classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lccl.engines.cuda.batch import Batch
from lccl.engines.cuda.kernels.linear import classify, early_exit
from lccl.engines.cuda.kernels.normalise import begin
from lccl.engines.cuda.kernels.pooling import average_pool, max_pool
from lccl.engines.cuda.launch import Launch
from lccl.engines.cuda.packing import filled, pack_features
from lccl.engines.cuda.workspace import Workspace
from lccl.plan.steps import AveragePool, Classify, Exit, MaxPool, Normalise

PIXELS = 256  # positions that the first kernel takes at once
ROWS, CHANNELS = 64, 64  # positions and channels of a map
IMAGES, COLUMNS, FEATURES = 16, 64, 32  # images, outputs and inputs of a linear layer


@dataclass(frozen=True, slots=True)
class SmallStep:
    """A step of one kernel, and the MACs that it runs for each active image."""

    launch: Callable[[Batch], Launch]
    macs_of_image: int = 0

    def launches(self, batch: Batch, forced: tuple[Tensor, ...] | None) -> Iterator[Launch]:
        """See :class:`lccl.engines.cuda.program.Kernels`."""
        yield self.launch(batch)

    def macs(self, active: NDArray[np.bool_]) -> NDArray[np.int64]:
        """See :class:`lccl.engines.cuda.program.Kernels`."""
        return active * np.int64(self.macs_of_image)


def normalisation(step: Normalise, workspace: Workspace) -> SmallStep:
    """Pixels to values; it also sets every image's state and every count to what a run starts with."""
    mean, std = workspace.floats(step.mean), workspace.floats(step.std)
    image, layers = workspace.places[step.raw].map, len(workspace.plan.layers)

    def launch(batch: Batch) -> Launch:
        items = max(len(batch) * image.height * image.width, len(batch) * layers, batch.listed.numel())
        return Launch(
            begin,
            (-(-items // PIXELS),),
            {
                "images": batch.images, "mean": mean, "std": std, "image": workspace.map(step.raw),
                "valid": batch.valid, "active": workspace.active, "exit_index": batch.exit_index, "kept": batch.kept,
                "count": batch.listed, "batch": len(batch), "layers": layers, "counts": batch.listed.numel(),
                "exits": workspace.plan.exits, "PIXELS": batch.images.dtype == torch.uint8, "MAP": image,
                "BLOCK": PIXELS,
            },
        )  # fmt: skip

    return SmallStep(launch)


def max_pooling(step: MaxPool, workspace: Workspace) -> SmallStep:
    """Largest values under windows."""
    before, after = workspace.places[step.input].map, workspace.places[step.raw].map

    def launch(batch: Batch) -> Launch:
        rows = len(batch) * after.height * after.width
        return Launch(
            max_pool,
            (-(-rows // ROWS), -(-after.channels // CHANNELS)),
            {
                "x": workspace.map(step.input), "out": workspace.map(step.raw), "rows": rows, "FROM": before,
                "TO": after, "K": step.kernel, "STRIDE": step.stride, "BM": ROWS, "BT": CHANNELS,
            },
        )  # fmt: skip

    return SmallStep(launch)


def average_pooling(step: AveragePool, workspace: Workspace) -> SmallStep:
    """Means over parts of a map."""
    before = workspace.places[step.input].map

    def launch(batch: Batch) -> Launch:
        return Launch(
            average_pool,
            (len(batch), step.grid**2, -(-before.channels // CHANNELS)),
            {
                "x": workspace.map(step.input), "out": workspace.features[step.raw], "FROM": before,
                "GRID": step.grid, "BT": CHANNELS,
            },
        )  # fmt: skip

    return SmallStep(launch)


def exit_classifier(step: Exit, workspace: Workspace) -> SmallStep:
    """An early exit: two linear layers, and the images that are confident enough leave."""
    hidden_weight, hidden_bias = pack_features(step.hidden_weight, workspace.device), workspace.floats(step.hidden_bias)
    weight, bias = pack_features(step.weight, workspace.device), workspace.floats(step.bias)
    classes, hidden = step.weight.shape
    features, columns = step.hidden_weight[0].size, max(16, 1 << (classes - 1).bit_length())

    def launch(batch: Batch) -> Launch:
        return Launch(
            early_exit,
            (-(-len(batch) // IMAGES),),
            {
                "x": workspace.features[step.input], "hidden_weight": hidden_weight, "hidden_bias": hidden_bias,
                "hidden": workspace.hidden, "weight": weight, "bias": bias, "confidence": batch.exit_confidence,
                "active": workspace.active, "exit_index": batch.exit_index, "logits": batch.logits,
                "batch": len(batch), "number": step.exit, "exits": workspace.plan.exits, "FEATURES": features,
                "HIDDEN": hidden, "CLASSES": classes, "BM": IMAGES, "BH": COLUMNS, "BN": columns, "BK": FEATURES,
            },
        )  # fmt: skip

    return SmallStep(launch, filled(hidden, COLUMNS) * filled(features, FEATURES) + columns * filled(hidden, FEATURES))


def classifier(step: Classify, workspace: Workspace) -> SmallStep:
    """The linear layer at the end, for the images that have not left."""
    weight, bias = pack_features(step.weight, workspace.device), workspace.floats(step.bias)
    classes, features = step.weight.shape

    def launch(batch: Batch) -> Launch:
        return Launch(
            classify,
            (-(-len(batch) // IMAGES), -(-classes // COLUMNS)),
            {
                "x": workspace.features[step.input], "weight": weight, "bias": bias, "active": workspace.active,
                "logits": batch.logits, "batch": len(batch), "FEATURES": features, "CLASSES": classes, "BM": IMAGES,
                "BN": COLUMNS, "BK": FEATURES,
            },
        )  # fmt: skip

    return SmallStep(launch, filled(classes, COLUMNS) * filled(features, FEATURES))

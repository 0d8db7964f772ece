"""The steps of a plan beside its convolutions, a kernel each: pixels, pooling, early exits and the classifier."""

from __future__ import annotations

import torch

from lccl.engines.cuda.executed import Product
from lccl.engines.cuda.kernels.linear import classify, early_exit
from lccl.engines.cuda.kernels.normalise import begin
from lccl.engines.cuda.kernels.pooling import average_pool, max_pool
from lccl.engines.cuda.launch import Kernel, Launch
from lccl.engines.cuda.packing import filled, pack_features
from lccl.engines.cuda.workspace import Workspace
from lccl.plan.steps import AveragePool, Classify, Exit, MaxPool, Normalise

PIXELS = 256  # positions that the first kernel takes at once
ROWS, CHANNELS = 64, 64  # positions and channels of a map
IMAGES, COLUMNS, FEATURES = 16, 64, 32  # images, outputs and inputs of a linear layer


def normalisation(step: Normalise, workspace: Workspace) -> Kernel:
    """Pixels to values; it also sets every image's state and every count to what a run starts with."""
    image, layers = workspace.places[step.raw].map, len(workspace.plan.layers)
    arguments = {
        "mean": workspace.floats(step.mean), "std": workspace.floats(step.std), "image": workspace.map(step.raw),
        "active": workspace.active, "layers": layers, "exits": workspace.plan.exits, "MAP": image, "BLOCK": PIXELS,
    }  # fmt: skip
    return Kernel(
        lambda batch: Launch(
            begin,
            (-(-max(len(batch) * image.height * image.width, len(batch) * layers, batch.listed.numel()) // PIXELS),),
            {
                **arguments, "images": batch.images, "valid": batch.valid, "exit_index": batch.exit_index,
                "kept": batch.kept, "count": batch.listed, "batch": len(batch), "counts": batch.listed.numel(),
                "PIXELS": batch.images.dtype == torch.uint8,
            },
        )
    )  # fmt: skip


def max_pooling(step: MaxPool, workspace: Workspace) -> Kernel:
    """Largest values under windows."""
    before, after = workspace.places[step.input].map, workspace.places[step.raw].map
    positions = after.height * after.width
    arguments = {
        "x": workspace.map(step.input), "out": workspace.map(step.raw), "FROM": before, "TO": after, "K": step.kernel,
        "STRIDE": step.stride, "BM": ROWS, "BT": CHANNELS,
    }  # fmt: skip
    return Kernel(
        lambda batch: Launch(
            max_pool,
            (-(-len(batch) * positions // ROWS), -(-after.channels // CHANNELS)),
            {**arguments, "rows": len(batch) * positions},
        )
    )


def average_pooling(step: AveragePool, workspace: Workspace) -> Kernel:
    """Means over parts of a map."""
    before = workspace.places[step.input].map
    arguments = {
        "x": workspace.map(step.input), "out": workspace.features[step.raw], "FROM": before, "GRID": step.grid,
        "BT": CHANNELS,
    }  # fmt: skip
    return Kernel(
        lambda batch: Launch(average_pool, (len(batch), step.grid**2, -(-before.channels // CHANNELS)), arguments)
    )


def exit_classifier(step: Exit, workspace: Workspace) -> Kernel:
    """An early exit: two linear layers, and the images that are confident enough leave."""
    (classes, hidden), features = step.weight.shape, step.hidden_weight[0].size
    columns = max(16, 1 << (classes - 1).bit_length())
    arguments = {
        "x": workspace.features[step.input], "hidden_weight": pack_features(step.hidden_weight, workspace.device),
        "hidden_bias": workspace.floats(step.hidden_bias), "hidden": workspace.hidden,
        "weight": pack_features(step.weight, workspace.device), "bias": workspace.floats(step.bias),
        "active": workspace.active, "number": step.exit, "exits": workspace.plan.exits, "FEATURES": features,
        "HIDDEN": hidden, "CLASSES": classes, "BM": IMAGES, "BH": COLUMNS, "BN": columns, "BK": FEATURES,
    }  # fmt: skip
    macs = filled(hidden, COLUMNS) * filled(features, FEATURES) + columns * filled(hidden, FEATURES)
    return Kernel(
        lambda batch: Launch(
            early_exit,
            (-(-len(batch) // IMAGES),),
            {
                **arguments, "confidence": batch.exit_confidence, "exit_index": batch.exit_index,
                "logits": batch.logits, "batch": len(batch),
            },
        ),
        Product(rows=1, tile=1, macs=macs),
    )  # fmt: skip


def classifier(step: Classify, workspace: Workspace) -> Kernel:
    """The linear layer at the end, for the images that have not left."""
    classes, features = step.weight.shape
    arguments = {
        "x": workspace.features[step.input], "weight": pack_features(step.weight, workspace.device),
        "bias": workspace.floats(step.bias), "active": workspace.active, "FEATURES": features, "CLASSES": classes,
        "BM": IMAGES, "BN": COLUMNS, "BK": FEATURES,
    }  # fmt: skip
    return Kernel(
        lambda batch: Launch(
            classify,
            (-(-len(batch) // IMAGES), -(-classes // COLUMNS)),
            {**arguments, "logits": batch.logits, "batch": len(batch)},
        ),
        Product(rows=1, tile=1, macs=filled(classes, COLUMNS) * filled(features, FEATURES)),
    )

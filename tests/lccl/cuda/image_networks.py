"""Small networks for the program that runs whole images, batches of their pictures, and where its values may differ."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from lccl.controls import Controls, Output
from lccl.engines.base import exit_confidence
from lccl.engines.cuda.batch import Batch
from lccl.engines.reference import ReferenceEngine
from lccl.gates import GateSpec
from lccl.lowering import lower, shape_of
from lccl.networks.resnet import ResNet, Stem
from lccl.preprocessing import Preprocessing
from lccl.sidenet import SideNetSpec

SIZE = 12  # then 6 and 3: maps whose positions fill no whole tile


def small_plan(form="post", gate: GateSpec | None = None, exits=False, size=SIZE, seed=0):
    """A plan with a block a stage, whose normalisations hold the statistics of noise under exact thresholds."""
    torch.manual_seed(seed)
    stem = Stem(channels=16, kernel=3, stride=1, pool=False)
    network = ResNet(
        widths=(16, 32, 64), depths=(1, 1, 1), stem=stem, form=form, gate=gate,
        projection=False, classes=10, image_size=size,
    )  # fmt: skip
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.3)
            module.momentum = None
    for module in network.skip_convs.values():
        module.gate.norm.weight.data *= 0.3
        module.gate.norm.bias.data.uniform_(0.2, 0.4)
    if exits:
        network.add_sidenets([SideNetSpec(0, 2, 7), SideNetSpec(1, 1, 20)])
    with torch.no_grad():
        network.train()(torch.from_numpy(pictures(16, size, seed=1)).permute(0, 3, 1, 2) / 64 - 2)
    return lower(network.eval().requires_grad_(False), Preprocessing(size, size, (0.5, 0.48, 0.52), (0.25, 0.24, 0.26)))


def pictures(count, size=SIZE, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def mixed(images, layers, seed=0):
    """Rows 0, −∞ and +∞, then rows whose layers have thresholds of their own."""
    levels = np.array([-np.inf, 0, 0.1, 0.2, 0.3, 0.4, np.inf])
    chosen = np.random.default_rng(seed).choice(levels, (images, layers), p=[0.05, 0.15, 0.2, 0.2, 0.2, 0.15, 0.05])
    chosen[:3] = np.array([0, -np.inf, np.inf])[: min(3, images), None]
    return chosen.astype(np.float32)

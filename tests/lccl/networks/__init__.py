"""Networks as the engines' tests run them: their names, their images' sizes, and the deepest one shortened."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import torch

from lccl.networks import Architecture, ResNet, build

# Every kind of block, shortcut and stem: other networks differ from one of these in depth or width alone.
EVERY_KIND = [
    Architecture("resnet20"), Architecture("resnet20", "pre"), Architecture("resnet164"), Architecture("wrn-16-4"),
    Architecture("wrn-40-1"), Architecture("resnet18"), Architecture("resnet50"),
]  # fmt: skip
KEPT = {"resnet164": (0, 1, 18, 19, 36, 37), "resnet50": (0, 1, 3, 7, 13), "wrn-28-10": (0, 1, 4, 8)}


def called(architecture: Architecture) -> str:
    words = [architecture.name, architecture.form, architecture.gate]
    if architecture.placement != "aft-aft":
        words.append(architecture.placement)
    if architecture.split != "none":
        words.append(f"split-{architecture.split}")
    return "-".join(words if architecture.gate_norm else [*words, "bare"])


def shortened(architecture: Architecture, blocks: Sequence[int] | None = None) -> ResNet:
    """The network, or some of its blocks, with a classifier that fits the last one.

    Of bottlenecks it is always one or two a stage, for through many layers rounding errors multiply; and of the widest.
    """
    network = build(architecture)
    blocks = KEPT.get(architecture.name) if blocks is None else blocks
    if blocks is not None:
        network.blocks = torch.nn.ModuleList(network.blocks[number] for number in blocks)
        if network.block_channels[-1] != network.classifier.in_features:
            network.classifier = torch.nn.Linear(network.block_channels[-1], network.classifier.out_features)
    return network


@lru_cache
def layers_of(architecture: Architecture, blocks: tuple[int, ...] | None = None) -> int:
    """How many gated convolutions :func:`shortened` leaves."""
    with torch.device("meta"):
        return len(shortened(architecture, blocks).skip_convs)

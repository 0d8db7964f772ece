"""Networks as the engines' tests run them: their names, their pictures' sizes, and the deepest one shortened."""

from __future__ import annotations

import torch

from lccl.networks import Architecture, ResNet, build

KEPT = {"resnet164": (0, 1, 18, 19, 36, 37), "resnet50": (0, 1, 3, 7, 13)}


def called(architecture: Architecture) -> str:
    words = [architecture.name, architecture.form, architecture.gate]
    if architecture.placement != "aft-aft":
        words.append(architecture.placement)
    if architecture.split != "none":
        words.append(f"split-{architecture.split}")
    return "-".join(words if architecture.gate_norm else [*words, "bare"])


def shortened(architecture: Architecture) -> ResNet:
    """The network; of bottlenecks one or two a stage, for through many layers rounding errors multiply."""
    network = build(architecture)
    if architecture.name in KEPT:
        network.blocks = torch.nn.ModuleList(network.blocks[number] for number in KEPT[architecture.name])
    return network


def layers_of(architecture: Architecture) -> int:
    """How many gated convolutions :func:`shortened` leaves."""
    with torch.device("meta"):
        return len(shortened(architecture).skip_convs)

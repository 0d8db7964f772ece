"""Networks as the engines' tests run them: their names, their pictures' sizes, and the deepest one shortened."""

from __future__ import annotations

import torch

from lccl.networks import Architecture, ResNet, build


def called(architecture: Architecture) -> str:
    words = [architecture.name, architecture.form, architecture.gate]
    if architecture.placement != "aft-aft":
        words.append(architecture.placement)
    return "-".join(words if architecture.gate_norm else [*words, "bare"])


def shortened(architecture: Architecture) -> ResNet:
    """The network; of resnet164's 54 blocks two a stage, for through 108 gates rounding errors multiply."""
    network = build(architecture)
    if architecture.name == "resnet164":
        network.blocks = torch.nn.ModuleList(network.blocks[number] for number in (0, 1, 18, 19, 36, 37))
    return network


def layers_of(architecture: Architecture) -> int:
    """How many gated convolutions :func:`shortened` leaves."""
    with torch.device("meta"):
        return len(shortened(architecture).skip_convs)

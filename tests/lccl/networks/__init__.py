"""Networks as the engines' tests run them: their names, their images' sizes, and the deepest one shortened."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray

from lccl.networks import Architecture, ResNet, build
from lccl.preprocessing import Preprocessing

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


@cache
def layers_of(architecture: Architecture, blocks: tuple[int, ...] | None = None) -> int:
    """How many gated convolutions :func:`shortened` leaves."""
    with torch.device("meta"):
        return len(shortened(architecture, blocks).skip_convs)


def gated(
    architecture: Architecture,
    pixels: NDArray[np.uint8],
    thresholds: NDArray[np.floating],
    preprocessing: Preprocessing,
    blocks: Sequence[int] | None = None,
    seed: int = 0,
) -> ResNet:
    """:func:`shortened` in float64, random, its gates reaching zero, with the statistics of these very images.

    Gates multiply, and values that fit no statistics grow without bounds.
    """
    torch.manual_seed(seed)
    network = shortened(architecture, blocks).double().eval().requires_grad_(False)
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.weight.uniform_(0.5, 1.5)
        norm.bias.normal_(0, 0.3)
    hooks = [norm.register_forward_pre_hook(_fit) for norm in norms]
    for gate in (module.gate for module in network.skip_convs.values()):
        if gate.norm is None:
            hooks.append(gate.conv.register_forward_hook(_shrink))
        else:
            gate.norm.weight *= 0.3
            gate.norm.bias.uniform_(0.2, 0.4)
    images = torch.from_numpy((pixels / 255 - preprocessing.mean) / preprocessing.std).permute(0, 3, 1, 2)
    network(images, torch.from_numpy(np.asarray(thresholds)).double())
    for hook in hooks:
        hook.remove()
    return network


def _fit(norm: torch.nn.BatchNorm2d, inputs: tuple[torch.Tensor]) -> None:
    norm.running_mean.copy_(inputs[0].mean((0, 2, 3)))
    norm.running_var.copy_(inputs[0].var((0, 2, 3), unbiased=False))


def _shrink(conv: torch.nn.Conv2d, _: object, maps: torch.Tensor) -> torch.Tensor:
    size = maps.std() / 0.4
    conv.weight /= size
    return maps / size

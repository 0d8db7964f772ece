"""What a network of any kind computes for one image."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from lccl.networks import ResNet


def convolution_macs(network: ResNet) -> dict[str, int]:
    """Multiply-accumulates of each convolution, by name, for one image of the size that the network is made for."""
    counted: dict[str, int] = {}
    copied = copy.deepcopy(network).eval()

    def count(name: str) -> Any:
        def hook(module: nn.Conv2d, _: object, output: Tensor) -> None:
            counted[name] = output.numel() * module.weight[0].numel()

        return hook

    for name, module in copied.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(count(name))
    with torch.no_grad():
        copied(torch.zeros(1, 3, network.image_size, network.image_size))
    return counted

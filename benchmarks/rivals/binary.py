"""Binary weights (BWN), and binary weights and inputs (XNOR-Net).

Source: Rastegari et al., "XNOR-Net: ImageNet Classification Using Binary Convolutional Neural Networks", ECCV 2016.
Real weights are kept and updated; gradients pass a sign where its input lies in -1..1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lccl.errors import LcclError
from lccl.networks.resnet import PreActivationBlock, ResNet


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return torch.where(x < 0, -1.0, 1.0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        return gradient * (x.abs() <= 1)


def sign(x: Tensor) -> Tensor:
    """-1 below 0, else 1."""
    signs: Tensor = _Sign.apply(x)  # type: ignore[no-untyped-call]
    return signs


class BinaryWeight(nn.Module):
    """Each filter of [T, C, k, k] as its signs times the mean of its absolute values."""

    def forward(self, weight: Tensor) -> Tensor:
        return sign(weight) * weight.abs().mean(dim=(1, 2, 3), keepdim=True)


class XnorBlock(nn.Module):
    """A block of signs in place of ReLUs: ``y = scale · conv2(sign(BN(scale · conv1(sign(BN(x)))))) + shortcut``.

    ``scale`` is the mean of the absolute values that a window's signs stand for.

    Raises:
        LcclError: the block is gated, or no pre-activation one.

    """

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        if not isinstance(block, PreActivationBlock) or block.projects or any(
            conv.gate is not None for conv in block.convs.values()
        ):  # fmt: skip
            raise LcclError("XNOR-Net takes plain pre-activation blocks with identity shortcuts")
        self.norms = nn.ModuleList(block.norms)
        self.convs = nn.ModuleList(conv.conv for conv in block.convs.values())
        self.shortcut = block.shortcut

    def forward(self, x: Tensor, _: Sequence[Tensor] = ()) -> tuple[Tensor, list[Tensor]]:
        y = x
        for norm, conv in zip(self.norms, self.convs, strict=True):
            normed = norm(y)
            size, stride = conv.kernel_size[0], conv.stride[0]
            scale = F.avg_pool2d(normed.abs().mean(1, keepdim=True), size, stride, size // 2)
            y = scale * conv(sign(normed))
        return y + self.shortcut(x), []


def binarise_weights(network: ResNet) -> None:
    """Give all convolutions of the blocks binary weights; stem and classifier stay real."""
    for module in network.blocks.modules():
        if isinstance(module, nn.Conv2d):
            parametrize.register_parametrization(module, "weight", BinaryWeight())


def binarise(network: ResNet) -> None:
    """Give all blocks of a plain pre-activation network binary weights and inputs; stem and classifier stay real.

    Raises:
        LcclError: it is another network.

    """
    network.blocks = nn.ModuleList(XnorBlock(block) for block in network.blocks)
    binarise_weights(network)

"""Pruned filters (PFEC): those of the smallest absolute weights go, in one shot, and the rest is trained on.

Source: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.rivals.operations import convolution_macs
from lccl.errors import LcclError
from lccl.networks.resnet import Block, PreActivationBlock, ResNet


@dataclass(frozen=True, slots=True)
class Pruning:
    """Prunes the first convolution of a plain network's basic blocks.

    As in its source, a block's second convolution keeps its filters, which the shortcut needs, and blocks in which
    the number of channels changes keep all: they are the ones that pruning harms most.

    Attributes:
        saved: share of the network's multiply-accumulates that is to be saved.

    """

    saved: float

    def __call__(self, network: ResNet) -> None:
        """Prune in place.

        Raises:
            LcclError: it is no plain network of basic blocks, or has too few to save that much.

        """
        macs = convolution_macs(network)
        blocks = {
            f"blocks.{number}.": block
            for number, block in enumerate(network.blocks)
            if isinstance(block, Block) and _inner(block).in_channels == block.out_channels
        }
        share = self.saved * sum(macs.values()) / sum(
            count for name, count in macs.items() if name.startswith(tuple(blocks))
        )  # fmt: skip
        if share >= 1:
            raise LcclError(f"pruning cannot save {self.saved:.0%} of this network")
        for block in blocks.values():
            _prune(block, share)


def _inner(block: Block) -> nn.Conv2d:
    first, *others = block.convs.values()
    if len(others) != 1 or first.gate is not None or not isinstance(first.conv, nn.Conv2d):
        raise LcclError("PFEC prunes plain networks of basic blocks")
    return first.conv


def _prune(block: Block, share: float) -> None:
    first, second = block.convs.values()
    inner = _inner(block)
    kept = max(1, round((1 - share) * inner.out_channels))
    largest = inner.weight.detach().abs().sum(dim=(1, 2, 3)).topk(kept).indices.sort().values
    norm = block.norms[1] if isinstance(block, PreActivationBlock) else first.norm
    _take(inner, "weight", largest)
    inner.out_channels = kept
    for name in ("weight", "bias", "running_mean", "running_var"):
        _take(norm, name, largest)
    norm.num_features = kept
    _take(second.conv, "weight", largest, dim=1)
    second.conv.in_channels = kept


def _take(module: nn.Module, name: str, kept: Tensor, dim: int = 0) -> None:
    value = getattr(module, name)
    taken = value.detach().index_select(dim, kept)
    if isinstance(value, nn.Parameter):
        with torch.no_grad():
            setattr(module, name, nn.Parameter(taken.contiguous(memory_format=_format(taken))))
    else:
        setattr(module, name, taken)


def _format(tensor: Tensor) -> torch.memory_format:
    return torch.channels_last if tensor.dim() == 4 else torch.contiguous_format

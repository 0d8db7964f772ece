"""One batch on the device: what a program of kernels reads and what it writes, in buffers that never move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lccl.plan.geometry import NetworkShape
from lccl.plan.steps import Plan

Dense = tuple[bool, ...]  # per SkipConv: whether all positions are listed, and not the kept ones alone


@dataclass(frozen=True, slots=True)
class Batch:
    """Room for B images; a batch of fewer leaves the last ones invalid.

    Attributes:
        images: uint8 [B, H, W, 3] pixels, or float32 [B, H, W, 3], already normalised.
        thresholds: float32 [B, L].
        norm_set: int32 [B].
        confidence: float32 [B, E], the confidence above which an image leaves by each exit.
        valid: int32 [B], 1 for an image that is there; the others are never kept, counted or let out.
        logits: float32 [B, classes].
        kept: int32 [B, L], kept cells.
        left: int32 [B], the exit that answered, E at the end.
        masks: per layer uint8 [B, G, H, W], 1 where kept.

    """

    images: Tensor
    thresholds: Tensor
    norm_set: Tensor
    confidence: Tensor
    valid: Tensor
    logits: Tensor
    kept: Tensor
    left: Tensor
    masks: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.valid)

    @classmethod
    def of(cls, plan: Plan, shape: NetworkShape, size: int, device: torch.device, images: torch.dtype) -> Batch:
        """Room for ``size`` images, all of them invalid."""
        image = plan.image

        def room(*sides: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(sides, dtype=dtype, device=device)

        return cls(
            images=room(size, image.height, image.width, image.channels, dtype=images),
            thresholds=room(size, len(plan.layers), dtype=torch.float32),
            norm_set=room(size),
            confidence=room(size, plan.exits, dtype=torch.float32),
            valid=room(size),
            logits=room(size, plan.classes, dtype=torch.float32),
            kept=room(size, len(plan.layers)),
            left=room(size),
            masks=tuple(
                room(size, layer.gate_groups, layer.convolution.height, layer.convolution.width, dtype=torch.uint8)
                for layer in shape.layers
            ),
        )


class Program(Protocol):
    """The kernels of a plan for batches of up to ``size`` images; launching waits for nothing."""

    def launch(self, batch: Batch, dense: Dense, forced: tuple[Tensor, ...] | None = None) -> None:
        """Put all kernels on the current stream, from ``batch``'s inputs to its outputs.

        Args:
            batch: of ``size`` images or fewer.
            dense: which SkipConvs compute every position; the answer is bitwise the same.
            forced: masks like ``batch.masks``, used instead of the threshold test; for tests only.

        """
        ...

    def executed_macs(self, kept: NDArray[np.int64], left: NDArray[np.int64], dense: Dense) -> NDArray[np.int64]:
        """What a launch really ran for each of its valid images, tiles' padding included.

        Args:
            kept: int64 [N, L].
            left: int64 [N].
            dense: as launched.

        Returns:
            int64 [N].

        """
        ...

"""One batch on the device: what the kernels read and what they write, in buffers that never move."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from lccl.engines.cuda.layout import ALIGNED
from lccl.engines.cuda.packing import filled
from lccl.plan.geometry import NetworkShape
from lccl.plan.steps import Plan


@dataclass(frozen=True, slots=True)
class Batch:
    """Room for B images; a batch of fewer leaves the last ones invalid.

    Attributes:
        images: uint8 [B, H, W, 3] pixels, or float32 [B, H, W, 3], already normalised.
        thresholds: float32 [B, L].
        exit_confidence: float32 [B, E], the confidence above which an image leaves by each exit.
        valid: int32 [B], 1 for an image that is there; the others are never kept, counted or let out.
        logits: float32 [B, classes].
        kept: int32 [B, L], kept cells.
        exit_index: int32 [B], the exit that answered, E at the end.
        listed: int32 [L, G], rows in the list of each layer and group; G fits the layer with the most groups.
        masks: per layer uint8 [B, G, H, W], 1 where kept.

    """

    images: Tensor
    thresholds: Tensor
    exit_confidence: Tensor
    valid: Tensor
    logits: Tensor
    kept: Tensor
    exit_index: Tensor
    listed: Tensor
    masks: tuple[Tensor, ...]

    def __len__(self) -> int:
        return len(self.valid)

    @classmethod
    def of(cls, plan: Plan, shape: NetworkShape, size: int, device: torch.device, images: torch.dtype) -> Batch:
        """Room for ``size`` images, all of them invalid."""
        image, layers = plan.image, shape.layers

        def room(*sides: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(sides, dtype=dtype, device=device)

        return cls(
            images=room(size, image.height, image.width, image.channels, dtype=images),
            thresholds=room(size, len(layers), dtype=torch.float32),
            exit_confidence=room(size, plan.exits, dtype=torch.float32),
            valid=room(size),
            logits=room(size, plan.classes, dtype=torch.float32),
            kept=room(size, len(layers)),
            exit_index=room(size),
            # Rows start at multiples of 16 bytes: Triton compiles a kernel anew for an address that is none.
            listed=room(max(len(layers), 1), filled(max((layer.gate_groups for layer in layers), default=1), ALIGNED)),
            masks=tuple(
                room(size, layer.gate_groups, layer.convolution.height, layer.convolution.width, dtype=torch.uint8)
                for layer in layers
            ),
        )

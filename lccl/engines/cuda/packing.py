"""Weights as the kernels read them: runs of taps and channels, in blocks, channels of the output side by side."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from lccl.plan.steps import Weights

BLOCK = 16  # channels: the narrowest block of a matrix product


def block_of(stored: int, kernel: int) -> int:
    """How many values of a window a kernel takes at once; a divisor of the channels where there are 16 or more."""
    if stored % 16 == 0:
        return next(block for block in (64, 32, 16) if stored % block == 0)
    return next(block for block in (16, 32, 64) if block >= min(kernel * stored, 64))


def filled(count: int, block: int) -> int:
    """A count rounded up to whole blocks."""
    return -(-count // block) * block


def depth_of(stored: int, kernel: int) -> int:
    """Products of one cell, with those that only fill up blocks."""
    return kernel * filled(kernel * stored, block_of(stored, kernel))


def pack(weight: Weights, stored: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[T, C, k, k] → [depth, T], contiguous."""
    return torch.from_numpy(_runs(weight, stored)).to(device, dtype)


def pack_gate(weight: Weights, stored: int, group_block: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """[G, C, k, k] → [depth, blocks · 2 · group_block]: of each block of groups what ``dtype`` takes, then the rest."""
    runs = torch.from_numpy(_runs(weight, stored))
    missing = -runs.shape[1] % group_block
    runs = torch.nn.functional.pad(runs, (0, missing)).view(len(runs), -1, group_block)
    high = runs.to(dtype)
    low = (runs - high.to(runs.dtype)).to(dtype)
    return torch.stack([high, low], dim=2).flatten(1).contiguous().to(device)


def _runs(weight: Weights, stored: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Taps of a row and their channels as one run, filled up to whole blocks: float32 [depth, T]."""
    outputs, channels, kernel, _ = weight.shape
    padded = np.zeros((kernel, kernel, stored, outputs), np.float32)
    padded[:, :, :channels] = weight.transpose(2, 3, 1, 0)
    runs = padded.reshape(kernel, kernel * stored, outputs)
    missing = depth_of(stored, kernel) // kernel - runs.shape[1]
    return np.ascontiguousarray(np.pad(runs, ((0, 0), (0, missing), (0, 0))).reshape(-1, outputs))


def pack_features(weight: Weights, device: torch.device) -> Tensor:
    """A linear layer's [outputs, C] or [outputs, C, g, g] → float32 [g · g · C, outputs], as features are laid down."""
    by_place = weight.reshape(len(weight), weight.shape[1], -1).transpose(2, 1, 0)
    return torch.from_numpy(np.ascontiguousarray(by_place.reshape(-1, len(weight)), np.float32)).to(device)

"""The memory of the GPUs that models run on, read when metrics are."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch


def gpus_in_use() -> list[int]:
    """The GPUs on which this process holds memory."""
    return [gpu for gpu in range(torch.cuda.device_count()) if torch.cuda.memory_reserved(gpu)]


def _allocated(gpu: int) -> float:
    return torch.cuda.memory_allocated(gpu)


def _reserved(gpu: int) -> float:
    return torch.cuda.memory_reserved(gpu)


def _used(gpu: int) -> float:
    free, total = _whole(gpu)
    return total - free


def _total(gpu: int) -> float:
    return _whole(gpu)[1]


def _whole(gpu: int) -> tuple[float, float]:
    """Free and total bytes; NaN of a device that failed, for the other metrics are wanted most then."""
    try:
        return torch.cuda.mem_get_info(gpu)
    except RuntimeError:
        return math.nan, math.nan


# By kind: the first two are this process's (in tensors; held for tensors to come, too), the others the whole device's.
READINGS: dict[str, Callable[[int], float]] = {
    "allocated": _allocated, "reserved": _reserved, "used": _used, "total": _total,
}  # fmt: skip

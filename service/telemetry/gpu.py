"""The memory of the GPUs that models run on, read at each scrape."""

import math

import torch

# The first two are this process's (in tensors; held for tensors to come, too), the others the whole device's.
KINDS = ("allocated", "reserved", "used", "total")


def gpus_in_use() -> list[int]:
    """The GPUs on which this process holds memory."""
    return [gpu for gpu in range(torch.cuda.device_count()) if torch.cuda.memory_reserved(gpu)]


def memory(gpu: int, kind: str) -> float:
    """Bytes of one of :data:`KINDS`; NaN of a device that failed, for the other metrics are needed most then."""
    try:
        free, total = map(float, torch.cuda.mem_get_info(gpu))
    except RuntimeError:
        free = total = math.nan
    allocated, reserved = torch.cuda.memory_allocated(gpu), torch.cuda.memory_reserved(gpu)
    return dict(zip(KINDS, (allocated, reserved, total - free, total), strict=True))[kind]

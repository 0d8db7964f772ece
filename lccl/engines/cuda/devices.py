"""The GPU models on which the cuda engine's tests have passed; ``benchmarks/on_gpu.sh`` writes a record for each."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from lccl.errors import EngineError

if TYPE_CHECKING:
    import torch

PROVEN = Path(__file__).parent / "proven"


def experimental(device: torch.device) -> bool:
    """Whether the engine's tests have not passed on a GPU of this model; always so where kernels are interpreted.

    Raises:
        EngineError: see :func:`proven`.

    """
    if device.type != "cuda":
        return True
    from torch.cuda import get_device_name

    return not proven(get_device_name(device))


def proven(name: str, folder: Path | None = None) -> bool:
    """Whether a record says that all the engine's tests passed on that GPU model, such as ``NVIDIA H200``.

    Raises:
        EngineError: there is a record, and it cannot be read.

    """
    file = (folder or PROVEN) / f"{slug(name)}.json"
    if not file.exists():
        return False
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        device, *counts = (record[key] for key in ("device", "passed", "failed", "errors"))
        if any(type(count) is not int for count in counts):
            raise ValueError(f"counts are whole numbers, not {counts}")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(
            f"{file} is no record of the cuda engine's tests: write it with benchmarks/on_gpu.sh, or delete it"
        ) from error
    passed, failed, errors = counts
    return bool(device == name and passed > 0 and failed == errors == 0)


def slug(name: str) -> str:
    """The name of a GPU model's file: ``NVIDIA H200`` is ``nvidia-h200``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")

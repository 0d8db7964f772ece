"""The machine that figures are taken on: commit, processor, GPU, driver and versions.

``python -m benchmarks.gpu.environment OUT`` begins OUT/summary.json with it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.summary import write
from lccl import provenance
from lccl.errors import EngineError, LcclError

ASKED = (
    "name", "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "power.limit",
    "temperature.gpu", "compute_cap",
)  # fmt: skip


def commit() -> str:
    """The commit in the environment's COMMIT, for copies without a repository; else that of the working tree."""
    return os.environ.get("COMMIT") or provenance.commit()


def device_of(name: str) -> torch.device:
    """The device to measure on.

    Raises:
        EngineError: it is a GPU, and there is none.

    """
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise EngineError("torch sees no GPU here: run this on a machine with an NVIDIA GPU and a CUDA build of torch")
    return device


def describe(device: torch.device) -> dict[str, Any]:
    """The fields ``commit`` and ``machine`` of a result file; a CPU has no ``gpu``."""
    machine = provenance.machine() | {"triton": triton_version(), "cuda": torch.version.cuda}
    if device.type == "cuda":
        machine["gpu"] = _gpu(device)
    return {"commit": commit(), "machine": machine}


def _gpu(device: torch.device) -> dict[str, Any]:
    found = torch.cuda.get_device_properties(device)
    return {
        "name": found.name,
        "capability": f"{found.major}.{found.minor}",
        "multiprocessors": found.multi_processor_count,
        "memory_mib": found.total_memory >> 20,
        "l2_mib": found.L2_cache_size >> 20,
        "cudnn": torch.backends.cudnn.version(),
        "nvidia_smi": _nvidia_smi(),
    }


def _nvidia_smi() -> dict[str, str]:
    """What the driver's tool says of the first GPU; nothing where there is no such tool."""
    command = ["nvidia-smi", f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader", "--id=0"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(ASKED, (value.strip() for value in done.stdout.strip().split(",")), strict=False))


def triton_version() -> str | None:
    """The installed Triton's version; None without one."""
    try:
        return version("triton")
    except PackageNotFoundError:
        return None


def main(words: Sequence[str] | None = None) -> int:
    """Note the machine; 1 where there is no GPU, for then nothing that follows means anything."""
    folder, *rest = sys.argv[1:] if words is None else words
    out = Path(folder)
    try:
        found = describe(device_of(*rest or ["cuda"]))
    except LcclError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    write(out / "summary.json", {"command": f"bash benchmarks/on_gpu.sh {out.name}", **found, "stages": {}})
    return 0


if __name__ == "__main__":
    sys.exit(main())

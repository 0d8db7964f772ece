"""The plain twin as peers want it: an ONNX file that starts from pixels, weights, and what describes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from lccl.bench.baselines import FromPixels, export_onnx
from lccl.bundle.format import Bundle


def save_twin(folder: Path, twin: FromPixels, bundle: Bundle) -> None:
    """Write ``twin.onnx`` for batches of any size, ``twin.safetensors`` and ``twin.json``."""
    size = bundle.preprocessing.size
    export_onnx(twin, torch.zeros((2, size, size, 3), dtype=torch.uint8), folder / "twin.onnx", any_batch=True)
    state = {name: value.contiguous() for name, value in twin.twin.state_dict().items()}
    save_file(state, folder / "twin.safetensors")
    described: dict[str, Any] = {
        "architecture": bundle.architecture.plain_twin.to_json(),
        "preprocessing": bundle.preprocessing.to_json(),
        "labels": list(bundle.labels),
    }
    (folder / "twin.json").write_text(json.dumps(described), encoding="utf-8")

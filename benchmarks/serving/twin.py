"""The plain twin as peers want it: an ONNX file that starts from pixels, weights, and what describes them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from lccl.bundle.format import Bundle
from lccl.networks import ResNet
from lccl.preprocessing import Preprocessing


class FromPixels(nn.Module):
    """The plain twin from uint8 [N, H, W, 3] to logits [N, classes]: a runtime normalises faster than numpy does."""

    scale: Tensor
    shift: Tensor

    def __init__(self, twin: ResNet, preprocessing: Preprocessing) -> None:
        super().__init__()
        mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
        self.twin = twin
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        values = images.permute(0, 3, 1, 2).float() * self.scale + self.shift
        return cast(Tensor, self.twin(values).logits)


def save_twin(folder: Path, twin: FromPixels, bundle: Bundle) -> None:
    """Write ``twin.onnx`` for batches of any size, ``twin.safetensors`` and ``twin.json``."""
    size, any_number = bundle.preprocessing.size, {0: "images"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter without onnxscript calls itself deprecated
        torch.onnx.export(
            twin, (torch.zeros((2, size, size, 3), dtype=torch.uint8),), str(folder / "twin.onnx"),
            dynamo=False, opset_version=17, input_names=["images"], output_names=["logits"],
            dynamic_axes={"images": any_number, "logits": any_number},
        )  # fmt: skip
    state = {name: value.contiguous() for name, value in twin.twin.state_dict().items()}
    save_file(state, folder / "twin.safetensors")
    described: dict[str, Any] = {
        "architecture": bundle.architecture.plain_twin.to_json(),
        "preprocessing": bundle.preprocessing.to_json(),
        "labels": list(bundle.labels),
    }
    (folder / "twin.json").write_text(json.dumps(described), encoding="utf-8")

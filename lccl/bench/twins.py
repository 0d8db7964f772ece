"""The plain twin as other runtimes take it: exported, and quantised by their own tools."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lccl.bench.turns import AbsentError
from lccl.networks import ResNet
from lccl.preprocessing import Preprocessing

Logits = NDArray[np.float32]
Classify = Callable[[int], Logits]  # the batch of that number → logits float32 [N, classes]


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """What a baseline is built from: the plain twin, and normalised batches, each float32 [N, 3, H, W]."""

    twin: ResNet
    batches: tuple[NDArray[np.float32], ...]
    threads: int
    precision: str
    folder: Path


class FromPixels(nn.Module):
    """A twin of type ``dtype`` behind its input's normalisation: uint8 [N, H, W, 3] → float32 logits [N, classes]."""

    scale: Tensor
    shift: Tensor

    def __init__(self, twin: ResNet, preprocessing: Preprocessing, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (preprocessing.mean, preprocessing.std))
        self.twin, self.dtype = twin, dtype
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        images = pixels.permute(0, 3, 1, 2).float() * self.scale + self.shift
        return cast(Tensor, self.twin(images.to(self.dtype)).logits).float()


class LogitsOnly(nn.Module):
    """The plain twin with logits [N, classes] as its only output, as exporters want it."""

    def __init__(self, twin: ResNet) -> None:
        super().__init__()
        self.twin = twin
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.twin(images).logits)


def export_onnx(module: nn.Module, images: Tensor, file: Path, *, any_batch: bool = False) -> None:
    """Export a module from ``images`` to ``logits``, for this batch size or any; normalisations are folded."""
    axes = {name: {0: "batch"} for name in ("images", "logits")} if any_batch else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter without onnxscript calls itself deprecated
        torch.onnx.export(
            module, (images,), str(file), dynamo=False, opset_version=17, input_names=["images"],
            output_names=["logits"], dynamic_axes=axes,
        )  # fmt: skip


def quantise_onnx(file: Path, batches: Iterable[NDArray[Any]], target: Path) -> None:
    """Quantise an ONNX file statically by ONNX Runtime's tool: QDQ, weights by channel, the first convolution onwards.

    Args:
        file: as :func:`export_onnx` writes it.
        batches: what its input ``images`` is fed to find the values' ranges.
        target: the file to write.

    Raises:
        AbsentError: the tool is not installed.

    """
    nodes, tool = installed("onnx").load(str(file)).graph.node, installed("onnxruntime.quantization")
    before = list(takewhile(lambda node: node.op_type != "Conv", nodes))
    tool.quantize_static(
        str(file), str(target), _Reader(batches), quant_format=tool.QuantFormat.QDQ, per_channel=True,
        activation_type=tool.QuantType.QUInt8, weight_type=tool.QuantType.QInt8,
        nodes_to_exclude=[node.name for node in before],
    )  # fmt: skip


class _Reader:
    """Gives batches one after the other, as ONNX Runtime's tool asks for them."""

    def __init__(self, batches: Iterable[NDArray[Any]]) -> None:
        self._left = iter(batches)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """The next batch by its input's name; None after the last."""
        batch = next(self._left, None)
        return None if batch is None else {"images": batch}


def quantise_open_vino(file: Path, batches: Sequence[NDArray[Any]]) -> Any:
    """An ONNX file as an OpenVINO model, quantised by NNCF as it does without options; see :func:`quantise_onnx`.

    Raises:
        AbsentError: OpenVINO or NNCF is not installed.

    """
    model, nncf = installed("openvino").Core().read_model(str(file)), installed("nncf")
    with contextlib.redirect_stdout(io.StringIO()):  # its bars
        return nncf.quantize(model, nncf.Dataset(batches), subset_size=len(batches))


def installed(package: str) -> Any:
    """The module of a runtime that not everybody has.

    Raises:
        AbsentError: it is not installed, or lacks something itself.

    """
    from importlib import import_module

    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        wanted = package.partition(".")[0]
        raise AbsentError("not installed" if error.name == wanted else str(error)) from error

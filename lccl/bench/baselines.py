"""The dense baselines: the plain twin on the inference engines that people use, each in the wanted precision."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lccl.errors import LcclError
from lccl.networks import ResNet

Logits = NDArray[np.float32]


class NotOfferedError(LcclError):
    """A baseline that is not to be had here; its text says why, in a few words for a table."""


@dataclass(frozen=True, slots=True)
class Baseline:
    """A dense network made ready: ``run(index)`` classifies the batch of that number, logits float32 [N, classes]."""

    name: str
    run: Callable[[int], Logits]


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """What a baseline is built from: the plain twin, and normalised batches, each float32 [N, 3, H, W]."""

    twin: ResNet
    batches: tuple[NDArray[np.float32], ...]
    threads: int
    precision: str
    folder: Path


class LogitsOnly(nn.Module):
    """The plain twin with logits [N, classes] as its only output, as exporters want it."""

    def __init__(self, twin: ResNet) -> None:
        super().__init__()
        self.twin = twin
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return cast(Tensor, self.twin(images).logits)


def eager(job: Job) -> Baseline:
    """PyTorch as it is, without a compiler."""
    return _torch_baseline("torch eager", job, LogitsOnly(job.twin), torch.contiguous_format)


def compiled(job: Job) -> Baseline:
    """``torch.compile`` with its weights frozen."""
    return _compiled("torch.compile", job, torch.contiguous_format)


def compiled_channels_last(job: Job) -> Baseline:
    """``torch.compile`` with its weights frozen, on images and weights in channels-last order."""
    return _compiled("torch.compile NHWC", job, torch.channels_last)


def onnx_runtime(job: Job) -> Baseline:
    """ONNX Runtime's CPU provider with all graph optimisations."""
    onnxruntime = _installed("onnxruntime")
    if job.precision != "fp32":
        raise NotOfferedError(f"no {job.precision} convolutions on the CPU")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = job.threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(_onnx(job)), options, providers=["CPUExecutionProvider"])
    return Baseline("ONNX Runtime", lambda index: cast(Logits, session.run(None, {"images": job.batches[index]})[0]))


def open_vino(job: Job) -> Baseline:
    """OpenVINO's CPU plugin, one stream over all threads, in exactly the wanted precision."""
    openvino = _installed("openvino")
    core = openvino.Core()
    if job.precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise NotOfferedError("no bf16 on this CPU")
    hint = {"fp32": "f32", "bf16": "bf16"}[job.precision]
    options = {
        "INFERENCE_NUM_THREADS": job.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": hint,
    }
    request = core.compile_model(str(_onnx(job)), "CPU", options).create_infer_request()

    def run(index: int) -> Logits:
        request.infer([job.batches[index]], share_inputs=True)
        return cast(Logits, request.get_output_tensor(0).data)

    return Baseline("OpenVINO", run)


BASELINES: dict[str, Callable[[Job], Baseline]] = {
    "torch eager": eager,
    "torch.compile": compiled,
    "torch.compile NHWC": compiled_channels_last,
    "ONNX Runtime": onnx_runtime,
    "OpenVINO": open_vino,
}


def _compiled(name: str, job: Job, layout: torch.memory_format) -> Baseline:
    import torch._inductor.config as inductor

    inductor.freezing = True
    inductor.compile_threads = 1
    module = cast(nn.Module, torch.compile(LogitsOnly(job.twin)))
    return _torch_baseline(name, job, module, layout)


def _torch_baseline(name: str, job: Job, module: nn.Module, layout: torch.memory_format) -> Baseline:
    """Weights and images are brought to their type and layout beforehand, which costs the baseline nothing."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[job.precision]
    job.twin.to(dtype).to(memory_format=layout)  # type: ignore[call-overload]
    batches = [torch.from_numpy(batch).to(dtype).contiguous(memory_format=layout) for batch in job.batches]

    def run(index: int) -> Logits:
        with torch.inference_mode():
            return cast(Logits, module(batches[index]).float().numpy())

    return Baseline(name, run)


def _onnx(job: Job) -> Path:
    """Export the twin for batches of the measured shape; the exporter folds its normalisations."""
    _installed("onnx")
    file = job.folder / f"twin-{job.threads}.onnx"
    images = torch.from_numpy(job.batches[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter without onnxscript calls itself deprecated
        torch.onnx.export(
            LogitsOnly(job.twin), (images,), str(file),
            dynamo=False, opset_version=17, input_names=["images"], output_names=["logits"],
        )  # fmt: skip
    return file


def _installed(package: str) -> Any:
    from importlib import import_module

    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise NotOfferedError("not installed" if error.name == package else str(error)) from error

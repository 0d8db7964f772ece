"""The dense baselines: the plain twin on the inference engines that people use, each in the wanted precision."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
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


def eager(job: Job) -> Classify:
    """PyTorch as it is, without a compiler."""
    return _torch_baseline(job, LogitsOnly(job.twin), torch.contiguous_format)


def compiled(job: Job, layout: torch.memory_format = torch.contiguous_format) -> Classify:
    """``torch.compile`` with its weights frozen, on images and weights in a layout."""
    import torch._inductor.config as inductor

    inductor.freezing = True
    inductor.compile_threads = 1
    module = cast(nn.Module, torch.compile(LogitsOnly(job.twin)))
    return _torch_baseline(job, module, layout)


def onnx_runtime(job: Job) -> Classify:
    """ONNX Runtime's CPU provider with all graph optimisations."""
    if job.precision != "fp32":
        raise AbsentError(f"no {job.precision} convolutions on the CPU")
    return _onnx_session(job, _onnx(job))


def onnx_runtime_int8(job: Job) -> Classify:
    """ONNX Runtime's CPU provider, quantised statically by its own tool (QDQ, weights by channel) on the batches."""
    tool, quantised = _installed("onnxruntime.quantization"), job.folder / "int8.onnx"
    tool.quantize_static(
        str(_onnx(job)), str(quantised), _Reader(job.batches), quant_format=tool.QuantFormat.QDQ, per_channel=True,
        activation_type=tool.QuantType.QUInt8, weight_type=tool.QuantType.QInt8,
    )  # fmt: skip
    return _onnx_session(job, quantised)


class _Reader:
    """Gives batches one after the other, as ONNX Runtime's tool asks for them."""

    def __init__(self, batches: Iterable[NDArray[np.float32]]) -> None:
        self._left = iter(batches)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next batch by its input's name; None after the last."""
        batch = next(self._left, None)
        return None if batch is None else {"images": batch}


def _onnx_session(job: Job, file: Path) -> Classify:
    onnxruntime = _installed("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = job.threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda index: cast(Logits, session.run(None, {"images": job.batches[index]})[0])


def open_vino(job: Job) -> Classify:
    """OpenVINO's CPU plugin, one stream over all threads, in exactly the wanted precision."""
    openvino = _installed("openvino")
    core = openvino.Core()
    if job.precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise AbsentError("no bf16 on this CPU")
    hint = {"fp32": "f32", "bf16": "bf16"}[job.precision]
    return _open_vino_request(job, core, core.read_model(str(_onnx(job))), hint)


def open_vino_int8(job: Job) -> Classify:
    """OpenVINO's CPU plugin, quantised by NNCF as it does without options, on the batches; the rest in float32."""
    core, nncf = _installed("openvino").Core(), _installed("nncf")
    model = core.read_model(str(_onnx(job)))
    with contextlib.redirect_stdout(io.StringIO()):  # its bars
        model = nncf.quantize(model, nncf.Dataset(job.batches), subset_size=len(job.batches))
    return _open_vino_request(job, core, model, "f32")


def _open_vino_request(job: Job, core: Any, model: Any, hint: str) -> Classify:
    options = {
        "INFERENCE_NUM_THREADS": job.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": hint,
    }
    request = core.compile_model(model, "CPU", options).create_infer_request()

    def run(index: int) -> Logits:
        request.infer([job.batches[index]], share_inputs=True)
        return cast(Logits, request.get_output_tensor(0).data)

    return run


BASELINES: dict[str, Callable[[Job], Classify]] = {
    "torch eager": eager,
    "torch.compile": compiled,
    "torch.compile NHWC": partial(compiled, layout=torch.channels_last),
    "ONNX Runtime": onnx_runtime,
    "OpenVINO": open_vino,
}


# In int8 the best that a user could have is the fastest of any precision.
INT8: dict[str, tuple[Callable[[Job], Classify], str]] = {
    "OpenVINO int8": (open_vino_int8, "int8"),
    "ONNX Runtime int8": (onnx_runtime_int8, "int8"),
    "OpenVINO bf16": (open_vino, "bf16"),
    "OpenVINO fp32": (open_vino, "fp32"),
    "ONNX Runtime fp32": (onnx_runtime, "fp32"),
}


def baselines_beside(precision: str) -> dict[str, tuple[Callable[[Job], Classify], str]]:
    """What an own engine in a precision is compared with, by name, and the precision that each computes in."""
    return INT8 if precision == "int8" else {name: (build, precision) for name, build in BASELINES.items()}


def _torch_baseline(job: Job, module: nn.Module, layout: torch.memory_format) -> Classify:
    """Weights and images are brought to their type and layout beforehand, which costs the baseline nothing."""
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[job.precision]
    job.twin.to(dtype).to(memory_format=layout)  # type: ignore[call-overload]
    batches = [torch.from_numpy(batch).to(dtype).contiguous(memory_format=layout) for batch in job.batches]

    def run(index: int) -> Logits:
        with torch.inference_mode():
            return cast(Logits, module(batches[index]).float().numpy())

    return run


def _onnx(job: Job) -> Path:
    """The twin's ONNX file, for batches of the measured shape."""
    _installed("onnx")
    file = job.folder / f"twin-{job.threads}.onnx"
    export_onnx(LogitsOnly(job.twin), torch.from_numpy(job.batches[0]), file)
    return file


def export_onnx(module: nn.Module, images: Tensor, file: Path, *, any_batch: bool = False) -> None:
    """Export a module from ``images`` to ``logits``, for this batch size or any; normalisations are folded."""
    axes = {name: {0: "batch"} for name in ("images", "logits")} if any_batch else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter without onnxscript calls itself deprecated
        torch.onnx.export(
            module, (images,), str(file), dynamo=False, opset_version=17, input_names=["images"],
            output_names=["logits"], dynamic_axes=axes,
        )  # fmt: skip


def _installed(package: str) -> Any:
    from importlib import import_module

    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        wanted = package.partition(".")[0]
        raise AbsentError("not installed" if error.name == wanted else str(error)) from error

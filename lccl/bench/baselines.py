"""The dense baselines: the plain twin on the inference engines that people use, each in the wanted precision."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from lccl.bench.ncnn import ncnn, ncnn_int8
from lccl.bench.turns import AbsentError
from lccl.bench.twins import (
    Classify,
    Job,
    Logits,
    LogitsOnly,
    export_onnx,
    installed,
    quantise_onnx,
    quantise_open_vino,
)


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
    quantised = job.folder / "int8.onnx"
    quantise_onnx(_onnx(job), job.batches, quantised)
    return _onnx_session(job, quantised)


def _onnx_session(job: Job, file: Path) -> Classify:
    onnxruntime = installed("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = job.threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return lambda index: cast(Logits, session.run(None, {"images": job.batches[index]})[0])


def open_vino(job: Job) -> Classify:
    """OpenVINO's CPU plugin, one stream over all threads, in exactly the wanted precision."""
    openvino = installed("openvino")
    core = openvino.Core()
    if job.precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise AbsentError("no bf16 on this CPU")
    hint = {"fp32": "f32", "bf16": "bf16"}[job.precision]
    return _open_vino_request(job, core, core.read_model(str(_onnx(job))), hint)


def open_vino_int8(job: Job) -> Classify:
    """OpenVINO's CPU plugin, quantised by NNCF as it does without options, on the batches; the rest in float32."""
    model = quantise_open_vino(_onnx(job), job.batches)
    return _open_vino_request(job, installed("openvino").Core(), model, "f32")


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
    installed("onnx")
    file = job.folder / f"twin-{job.threads}.onnx"
    export_onnx(LogitsOnly(job.twin), torch.from_numpy(job.batches[0]), file)
    return file


BASELINES: dict[str, Callable[[Job], Classify]] = {
    "torch eager": eager,
    "torch.compile": compiled,
    "torch.compile NHWC": partial(compiled, layout=torch.channels_last),
    "ONNX Runtime": onnx_runtime,
    "OpenVINO": open_vino,
    "ncnn": ncnn,
}


# In int8 the best that a user could have is the fastest of any precision.
INT8: dict[str, tuple[Callable[[Job], Classify], str]] = {
    "OpenVINO int8": (open_vino_int8, "int8"),
    "ONNX Runtime int8": (onnx_runtime_int8, "int8"),
    "ncnn int8": (ncnn_int8, "int8"),
    "ncnn int8 Winograd": (partial(ncnn_int8, winograd=True), "int8"),
    "OpenVINO bf16": (open_vino, "bf16"),
    "ncnn bf16": (ncnn, "bf16"),
    "OpenVINO fp32": (open_vino, "fp32"),
    "ONNX Runtime fp32": (onnx_runtime, "fp32"),
    "ncnn fp32": (ncnn, "fp32"),
}


def baselines_beside(precision: str) -> dict[str, tuple[Callable[[Job], Classify], str]]:
    """What an own engine in a precision is compared with, by name, and the precision that each computes in."""
    return INT8 if precision == "int8" else {name: (build, precision) for name, build in BASELINES.items()}

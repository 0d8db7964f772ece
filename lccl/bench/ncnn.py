"""The plain twin in ncnn: written by pnnx, and quantised here, as no wheel brings ncnn's own programs for int8."""

from __future__ import annotations

import copy
import subprocess
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from lccl.bench.turns import AbsentError
from lccl.bench.twins import Classify, Job, Logits, LogitsOnly, installed
from lccl.networks import ResNet
from lccl.networks.resnet import IdentityShortcut
from lccl.provenance import machine
from lccl.quantization.ranges import Histogram

INPUT, OUTPUT = "in0", "out0"
LEVELS = 127
WINOGRAD_LEVELS = 31  # of its weights: the transformed ones have to fit into 8 bits
IS_INT8 = np.uint32(0x000D4B38).tobytes()
QUANTISED = {"Convolution", "InnerProduct"}
OFF = ("use_vulkan_compute", "use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic")

Array = NDArray[np.float32]


def ncnn(job: Job) -> Classify:
    """The twin in ncnn with its own choice of kernels, Winograd's among them, in exactly the wanted precision.

    Raises:
        AbsentError: ncnn is not installed, or it would only emulate bf16.

    """
    if job.precision == "bf16" and "avx512_bf16" not in machine()["flags"]:
        raise AbsentError("no bf16 on this CPU")
    return _classify(job, _load(*_convert(job), job.threads, use_bf16_storage=job.precision == "bf16"))


def ncnn_int8(job: Job, winograd: bool = False) -> Classify:
    """The twin in ncnn in int8, quantised statically on the batches; all between convolutions in float32.

    With ``winograd`` the 3 × 3 convolutions of stride 1 have weights of six bits, as Winograd's transformation asks
    for; without it nothing is transformed. Every weight's step is chosen as ncnn2table does, by the largest of its
    output channel; inputs are clipped where the squared error on the batches is least.

    Raises:
        AbsentError: ncnn is not installed, or does not know the network.

    """
    layers = read_files(*_convert(job))
    files = job.folder / "int8.param", job.folder / "int8.bin"
    write_files(list(quantise(layers, _input_scales(job, layers), winograd)), *files)
    return _classify(job, _load(*files, job.threads, use_winograd_convolution=winograd))


class _Shortcut(nn.Module):
    """A shortcut without weights, with its stride as a pool over single positions: pnnx knows no strided slices."""

    def __init__(self, shortcut: IdentityShortcut) -> None:
        super().__init__()
        self.stride, self.new_channels = shortcut.stride, shortcut.new_channels

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(F.max_pool2d(x, 1, self.stride), (0, 0, 0, 0, 0, self.new_channels))


def _with_pools(twin: ResNet) -> ResNet:
    """A copy of the twin that computes the same, in operations that pnnx knows."""
    twin = copy.deepcopy(twin)
    for block in twin.blocks:
        if isinstance(block.shortcut, IdentityShortcut) and block.shortcut.stride > 1:
            block.shortcut = _Shortcut(block.shortcut)
    return twin


def _convert(job: Job) -> tuple[Path, Path]:
    """The twin's files for one image, weights in float32."""
    installed("ncnn")
    program, traced = installed("pnnx").EXEC_PATH, job.folder / "twin.pt"
    image = torch.from_numpy(job.batches[0][:1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing calls itself deprecated
        torch.jit.trace(LogitsOnly(_with_pools(job.twin)), image).save(str(traced))  # type: ignore[no-untyped-call]
    shape = ",".join(map(str, image.shape))
    subprocess.run([program, traced, f"inputshape=[{shape}]", "fp16=0"], check=True, capture_output=True)
    return job.folder / "twin.ncnn.param", job.folder / "twin.ncnn.bin"


def _load(param: Path, model: Path, threads: int, **options: bool) -> Any:
    net = installed("ncnn").Net()
    net.opt.num_threads = threads
    for name, value in {**dict.fromkeys(OFF, False), **options}.items():
        setattr(net.opt, name, value)
    if net.load_param(str(param)) or net.load_model(str(model)):
        raise AbsentError("it cannot read the twin")
    return net


def _classify(job: Job, net: Any) -> Classify:
    """Neither batches nor two calls at a time are to be had: images follow each other, each on all threads."""
    mat = installed("ncnn").Mat
    batches = [[mat(image) for image in batch] for batch in job.batches]

    def run(index: int) -> Logits:
        return np.stack([_extract(net, image, (OUTPUT,))[0] for image in batches[index]])

    return run


def _extract(net: Any, image: Any, blobs: Sequence[str], *, keep: bool = False) -> list[Array]:
    """Blobs by name of one image; ``keep`` keeps what one is computed from for the next."""
    with net.create_extractor() as extractor:
        extractor.set_light_mode(not keep)
        extractor.input(INPUT, image)
        found = [extractor.extract(blob) for blob in blobs]
        if any(status for status, _ in found):
            raise AbsentError("it does not compute the twin")
        return [np.array(values) for _, values in found]


@dataclass(slots=True, eq=False)
class Layer:
    """A line of a param file with its weights; ``parts`` are what the bin file holds of it, in order."""

    kind: str
    name: str
    bottoms: list[str]
    tops: list[str]
    values: dict[str, str]
    parts: list[bytes] = field(default_factory=list)

    @property
    def line(self) -> str:
        values = (f"{key}={value}" for key, value in self.values.items())
        return " ".join([self.kind, self.name, str(len(self.bottoms)), str(len(self.tops)), *self.bottoms,
                         *self.tops, *values])  # fmt: skip

    def size(self, key: str) -> int:
        return int(self.values.get(key, "0"))

    @property
    def is_transformed(self) -> bool:
        """Whether Winograd's way may be taken: 3 × 3 at every position."""
        kernel, step = (self.values.get(key, "1") for key in ("1", "3"))
        return (self.kind, kernel, step) == ("Convolution", "3", "1")


def _sizes(layer: Layer) -> list[int]:
    """Bytes of a layer's parts: the kind of its weights, weights, bias; or a normalisation's four vectors."""
    if layer.kind == "BatchNorm":
        return [16 * layer.size("0")]
    if layer.kind == "Convolution":
        return [4, 4 * layer.size("6"), 4 * layer.size("0") * layer.size("5")]
    if layer.kind == "InnerProduct":
        return [4, 4 * layer.size("2"), 4 * layer.size("0") * layer.size("1")]
    return []


def read_files(param: Path, model: Path) -> list[Layer]:
    """All layers of float32 files.

    Raises:
        AbsentError: a layer has weights that are not known here.

    """
    layers = []
    with model.open("rb") as weights:
        for line in param.read_text(encoding="utf-8").splitlines()[2:]:
            kind, name, bottoms, tops, *rest = line.split()
            ends = int(bottoms), int(bottoms) + int(tops)
            values = dict(each.split("=", 1) for each in rest[ends[1] :])
            layer = Layer(kind, name, rest[: ends[0]], rest[ends[0] : ends[1]], values)
            layer.parts = [weights.read(size) for size in _sizes(layer)]
            layers.append(layer)
        if weights.read(1):
            raise AbsentError("its file holds weights of unknown layers")
    return layers


def write_files(layers: Sequence[Layer], param: Path, model: Path) -> None:
    blobs = sum(len(layer.tops) for layer in layers)
    lines = ["7767517", f"{len(layers)} {blobs}", *(layer.line for layer in layers)]
    param.write_text("\n".join(lines) + "\n", encoding="utf-8")
    model.write_bytes(b"".join(part for layer in layers for part in layer.parts))


def _input_scales(job: Job, layers: Sequence[Layer]) -> dict[str, float]:
    """Steps per unit of what each quantised layer reads, by blob: of the least squared error on the batches."""
    net, mat = _load(job.folder / "twin.ncnn.param", job.folder / "twin.ncnn.bin", job.threads), installed("ncnn").Mat
    histograms = {layer.bottoms[0]: Histogram() for layer in layers if layer.kind in QUANTISED}
    for image in (image for batch in job.batches for image in batch):
        for histogram, values in zip(
            histograms.values(), _extract(net, mat(image), tuple(histograms), keep=True), strict=True
        ):
            histogram.add(values)
    return {blob: LEVELS / (histogram.least_error(LEVELS) or 1.0) for blob, histogram in histograms.items()}


def quantise(layers: Sequence[Layer], scales: Mapping[str, float], winograd: bool) -> Iterator[Layer]:
    """The layers with integer weights; one that only a convolution reads writes that one's integers."""
    readers = {layer.bottoms[0]: layer for layer in layers if layer.kind == "Convolution"}
    for layer in layers:
        if layer.kind not in QUANTISED:
            yield layer
            continue
        _, weight, bias = layer.parts
        levels = WINOGRAD_LEVELS if winograd and layer.is_transformed else LEVELS
        rows = np.frombuffer(weight, np.float32).reshape(layer.size("0"), -1)
        largest = np.abs(rows).max(axis=1)
        steps = (levels / np.where(largest > 0, largest, 1)).astype(np.float32)
        integers = np.rint(rows * steps[:, None]).astype(np.int8).tobytes()
        integers += bytes(-len(integers) % 4)
        follows = layer.kind == "Convolution" and layer.tops[0] in readers
        ends = [scales[layer.bottoms[0]]] + ([scales[layer.tops[0]]] if follows else [])
        values = layer.values | {"8": "102" if follows else "2"}
        parts = [IS_INT8, integers, bias, steps.tobytes(), np.array(ends, np.float32).tobytes()]
        yield replace(layer, values=values, parts=parts)

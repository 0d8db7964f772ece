"""What own kernels are held against: cuDNN's convolution, and the plain twin in eager PyTorch and torch.compile.

Everything is in channels-last order and half precision. A network takes pixels, uint8 [N, H, W, 3] on the device, as
the own engine does, and gives logits.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from typing import Any, cast

import torch
import torch._inductor
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.gpu.timing import Clock, Launch
from lccl.networks import ResNet
from lccl.preprocessing import Preprocessing

PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16}
COMPILED = "torch.compile"
MODE = "max-autotune-no-cudagraphs"  # the graph is captured here, as everybody's is


class FromPixels(nn.Module):
    """A network in half precision behind its input's normalisation: uint8 [N, H, W, 3] → float32 [N, classes]."""

    scale: Tensor
    shift: Tensor

    def __init__(self, network: ResNet, preprocessing: Preprocessing, dtype: torch.dtype) -> None:
        super().__init__()
        half = copy.deepcopy(network).to(dtype)
        self.network = cast(ResNet, half.to(memory_format=torch.channels_last))  # type: ignore[call-overload]
        mean, std = (torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std))
        self.register_buffer("scale", 1 / (255 * std))
        self.register_buffer("shift", -mean / std)
        self.dtype = dtype
        self.eval().requires_grad_(False)

    def forward(self, pixels: Tensor) -> Tensor:
        images = pixels.permute(0, 3, 1, 2).float() * self.scale + self.shift
        return cast(Tensor, self.network(images.to(self.dtype)).logits.float())


@dataclass(frozen=True, slots=True, eq=False)
class Baseline:
    """A dense network made ready for one batch.

    Attributes:
        pixels: uint8 [N, H, W, 3] on the device; what a launch reads.
        launch: the network.
        answers: holds what a launch wrote last, float32 [N, classes] on the device.

    """

    pixels: Tensor
    launch: Launch
    answers: list[Tensor]

    @property
    def logits(self) -> Tensor:
        """What a launch wrote last, float32 [N, classes]."""
        return self.answers[0]


@dataclass(slots=True, eq=False)
class Baselines:
    """The dense networks that were to be had, and why others were not."""

    ready: dict[str, Baseline] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def dense_networks(
    twin: ResNet, preprocessing: Preprocessing, pixels: Tensor, clock: Clock, until: float = float("inf")
) -> Baselines:
    """Make ready the plain twin in each precision, eager and compiled, under a graph.

    Compiling takes minutes. The faster precision is always compiled, with frozen weights; whether the other, or weights
    that are not frozen, are faster yet is seen as far as that can begin before ``until``, a time of
    :func:`time.monotonic`. What was left out is told.
    """
    torch.backends.cudnn.benchmark = True
    torch._dynamo.reset()
    found = Baselines()
    modules = {name: FromPixels(twin, preprocessing, dtype).to(pixels.device) for name, dtype in PRECISIONS.items()}
    for name, module in modules.items():
        _add(found, f"eager {name}", partial(_eager, module), pixels, clock)
    faster = _faster_first(found, list(modules), clock)
    for number, (frozen, name) in enumerate(product((True, False), faster)):
        label = f"{COMPILED} frozen {name}" if frozen else f"{COMPILED} {name}"
        if number and time.monotonic() > until:
            found.failed[label] = "no time was left to compile it"
        else:
            _add(found, label, partial(_compiled, modules[name], frozen), pixels, clock)
    return found


def convolutions(
    images: tuple[int, int, int, int], weight: tuple[int, int, int, int], stride: int, device: torch.device
) -> dict[str, Launch]:
    """CuDNN's convolution alone, by precision; ``images`` [N, C, H, W] and ``weight`` [T, C, k, k], random values."""
    torch.backends.cudnn.benchmark = True
    return {name: _convolution(images, weight, stride, dtype, device) for name, dtype in PRECISIONS.items()}


def _convolution(
    images: tuple[int, ...], weight: tuple[int, ...], stride: int, dtype: torch.dtype, device: torch.device
) -> Launch:
    def draw(sides: tuple[int, ...]) -> Tensor:
        return torch.randn(sides, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)

    x, kernel = draw(images), draw(weight)

    def launch() -> Tensor:
        with torch.inference_mode():
            return F.conv2d(x, kernel, stride=stride, padding=weight[-1] // 2)

    return launch


def _eager(module: FromPixels) -> Callable[[Tensor], Tensor]:
    return module


def _compiled(module: FromPixels, frozen: bool) -> Callable[[Tensor], Tensor]:
    options: dict[str, Any] = {**torch._inductor.list_mode_options(MODE), "freezing": frozen}
    return cast("Callable[[Tensor], Tensor]", torch.compile(module, fullgraph=True, options=options))


def _add(
    found: Baselines, name: str, make: Callable[[], Callable[[Tensor], Tensor]], pixels: Tensor, clock: Clock
) -> None:
    """Make one ready, or note why not: a compiler's failure is a result too, and the others still count."""
    try:
        network = make()
        answers: list[Tensor] = []

        def launch() -> None:
            with torch.inference_mode():
                answers[:] = [network(pixels)]

        launch()
        found.ready[name] = Baseline(pixels, clock.graph(launch), answers)
    except Exception as error:  # compilers raise all sorts
        found.failed[name] = f"{type(error).__name__}: {error}"[:500]


def _faster_first(found: Baselines, names: list[str], clock: Clock) -> list[str]:
    """Precisions in the order of their eager networks' times."""

    def seconds(name: str) -> float:
        baseline = found.ready.get(f"eager {name}")
        return float("inf") if baseline is None else float(sorted(clock.seconds(baseline.launch, 5))[2])

    return sorted(names, key=seconds)

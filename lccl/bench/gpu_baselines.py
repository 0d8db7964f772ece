"""Dense baselines on a GPU: the plain twin in eager PyTorch and torch.compile, in half precision under CUDA graphs.

Weights and images are in channels-last order. A network takes pixels, uint8 [N, H, W, 3] on the device, as the own
engine does, and gives logits.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any, cast

import numpy as np
import torch
import torch._inductor
from numpy.typing import NDArray
from torch import Tensor

from lccl.bench.baselines import FromPixels
from lccl.bench.child import in_one_line
from lccl.bench.clock import Clock, Launch, Seconds
from lccl.bench.names import DENSE
from lccl.bench.turns import Contestant, Runner, check_logits
from lccl.bench.workload import Workload

PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16}
COMPILED = "torch.compile"
MODE = "max-autotune-no-cudagraphs"  # the graph is captured here, as everybody's is
NAMES = (*PRECISIONS, *product((True, False), PRECISIONS))

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class DenseRunner(Runner):
    """A dense network made ready for one batch.

    Attributes:
        images: uint8 [N, H, W, 3] in the host's memory.
        pixels: the same on the device; what a launch reads.
        launch: the network.
        answers: holds what a launch wrote last, float32 [N, classes] on the device.

    """

    clock: Clock
    images: NDArray[np.uint8]
    pixels: Tensor
    launch: Launch
    answers: list[Tensor]

    def time(self, setting: str, repeats: int) -> Seconds:
        return self.clock.seconds([self.launch], repeats)

    def end_to_end(self, setting: str) -> Launch:
        """From the host's memory to the host's, pixels through memory that the device reads by itself."""
        staged = torch.empty(self.images.shape, dtype=torch.uint8, pin_memory=self.pixels.is_cuda)

        def run() -> Tensor:
            staged.copy_(torch.from_numpy(self.images))
            self.pixels.copy_(staged, non_blocking=True)
            self.launch()
            return self.answers[0].cpu()

        return run


def start(workload: Workload, device: torch.device, clock: Clock, until: float) -> Iterator[Contestant]:
    """Make ready the plain twin in each precision, eager and compiled, under a graph: one for each of ``NAMES``.

    Compiling takes minutes. The faster precision is always compiled, with frozen weights; whether the other, or weights
    that are not frozen, are faster yet is seen as far as that can begin before ``until``, a time of
    :func:`time.monotonic`. What is left out, or fails, is absent.
    """
    torch.backends.cudnn.benchmark = True
    torch._dynamo.reset()
    modules = {name: _module(workload, dtype).to(device) for name, dtype in PRECISIONS.items()}
    seconds = {}
    for name, module in modules.items():
        contestant = _contestant(f"eager {name}", name, partial(_same, module), workload, device, clock)
        seconds[name] = float("inf") if contestant.absent else float(np.median(contestant.turn(5)))
        yield contestant
    faster = sorted(modules, key=seconds.__getitem__)
    for number, (frozen, name) in enumerate(product((True, False), faster)):
        label = f"{COMPILED} frozen {name}" if frozen else f"{COMPILED} {name}"
        if number and time.monotonic() > until:
            yield Contestant(label, "baseline", 1, DENSE, absent="no time was left to compile it")
        else:
            yield _contestant(label, name, partial(compiled, modules[name], frozen), workload, device, clock)


def compiled(module: FromPixels, frozen: bool) -> Network:
    """The module compiled by Inductor, with frozen weights or not."""
    options: dict[str, Any] = {**torch._inductor.list_mode_options(MODE), "freezing": frozen}
    return cast(Network, torch.compile(module, fullgraph=True, options=options))


def _same(network: Network) -> Network:
    return network


def _module(workload: Workload, dtype: torch.dtype) -> FromPixels:
    half = copy.deepcopy(workload.twin).to(dtype).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return FromPixels(half, workload.preprocessing, dtype)


def _contestant(
    name: str, precision: str, make: Callable[[], Network], workload: Workload, device: torch.device, clock: Clock
) -> Contestant:
    """Make one ready, or note why not: a compiler's failure is a result too, and the others still count."""
    images = workload.batches[0]
    pixels = torch.from_numpy(images).to(device)
    answers: list[Tensor] = []
    try:
        network = make()

        def launch() -> None:
            with torch.inference_mode():
                answers[:] = [network(pixels)]

        launch()
        check_logits(answers[0].cpu().numpy(), workload.logits[DENSE], precision)
        runner = DenseRunner(clock, images, pixels, clock.graph(launch), answers)
    except Exception as error:  # compilers raise all sorts
        return Contestant(name, "baseline", 1, DENSE, absent=in_one_line(error))
    return Contestant(name, "baseline", 1, DENSE, runner)

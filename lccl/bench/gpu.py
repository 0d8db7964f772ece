"""Contestants on a GPU, as CUDA graphs in this process: the own engine, gated and dense, and others' dense networks.

Those are the plain twin in eager PyTorch and torch.compile, in half precision, with weights and images in channels-last
order. A network takes pixels, uint8 [N, H, W, 3] on the device, as the own engine does, and gives logits.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import TYPE_CHECKING, Any, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lccl.bench.cpu import in_one_line
from lccl.bench.turns import (
    AbsentError,
    Clock,
    Contestant,
    DeviceClock,
    Launch,
    Runner,
    Samples,
    Seconds,
    Turn,
    WallClock,
    check_logits,
    take_turns,
)
from lccl.bench.twins import FromPixels
from lccl.bench.workload import DENSE, OPEN, OWN, OWN_DENSE, Counts, Workload, count_outputs
from lccl.errors import LcclError
from lccl.plan.run import RunOptions, RunOutput
from lccl.plan.steps import Plan

if TYPE_CHECKING:
    from lccl.engines.cuda.batch import Batch
    from lccl.engines.cuda.engine import CudaEngine
    from lccl.engines.cuda.tiles import Tiles

PRECISIONS = {"fp16": torch.float16, "bf16": torch.bfloat16}
COMPILED = "torch.compile"
MODE = "max-autotune-no-cudagraphs"  # the graph is captured here, as everybody's is
BASELINES = (*PRECISIONS, *product((True, False), PRECISIONS))

Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class GraphRunner(Runner):
    """A network made ready for one batch.

    Attributes:
        launches: the device's work by setting.
        runs: the same end to end, from the host's memory to the host's.
        outputs: what these gave; own engines only.

    """

    clock: Clock
    launches: Mapping[str, Launch]
    runs: Mapping[str, Launch]
    outputs: Mapping[str, RunOutput]

    def time(self, setting: str, repeats: int) -> Seconds:
        return self.clock.seconds([self.launches[setting]], repeats)

    def end_to_end(self, setting: str) -> Launch:
        """From the host's memory to the host's."""
        return self.runs[setting]

    def count(self, setting: str) -> Counts:
        return count_outputs([self.outputs[setting]])


def start_baselines(workload: Workload, device: torch.device, clock: Clock, until: float) -> Iterator[Contestant]:
    """Make ready the plain twin in each precision, eager and compiled, under a graph: one for each of ``BASELINES``.

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
        graph = clock.graph(launch)
        staged = torch.empty(images.shape, dtype=torch.uint8, pin_memory=pixels.is_cuda)

        def run() -> Tensor:
            staged.copy_(torch.from_numpy(images))  # pixels go through memory that the device reads by itself
            pixels.copy_(staged, non_blocking=True)
            graph()
            return answers[0].cpu()

        runner = GraphRunner(clock, {DENSE: graph}, {DENSE: run}, {})
    except Exception as error:  # compilers raise all sorts
        return Contestant(name, "baseline", 1, DENSE, absent=in_one_line(error))
    return Contestant(name, "baseline", 1, DENSE, runner)


Pixels = NDArray[np.uint8]

TURN_S = 0.05


class OwnNetwork(Protocol):
    """A plan on the own engine."""

    def run(self, images: Pixels, options: RunOptions) -> RunOutput:
        """From the host's memory to the host's."""

    def launch(self, images: Pixels, options: RunOptions) -> Launch:
        """The device's part of that run, its inputs laid down already."""


@dataclass(frozen=True, slots=True)
class Gpu:
    """What is measured on.

    Attributes:
        clock: of the device's work.
        make: ``make(plan, batch)``: the own engine with room for ``batch`` images.
        precision: of the own engine, ``fp16`` or ``bf16``.
        until: a time of :func:`time.monotonic` after which no further baseline is compiled.

    """

    device: torch.device
    clock: Clock
    make: Callable[[Plan, int], OwnNetwork]
    precision: str
    until: float = float("inf")

    @classmethod
    def on(cls, device: torch.device, precision: str, tiles: Tiles | None = None) -> Gpu:
        """The own engine by a table of tiles, or by the device model's own."""
        from lccl.engines.cuda.engine import CudaEngine

        def make(plan: Plan, batch: int) -> OwnNetwork:
            return _Network(CudaEngine(plan, device, precision, tiles=tiles, batch_limit=batch))

        return cls(device, DeviceClock(device), make, precision)


def start(workload: Workload, gpu: Gpu, baselines: bool, advance: Callable[[], None]) -> list[Contestant]:
    """Make all contestants ready for the workload's first batch; ``advance`` is called after each.

    Raises:
        LcclError: the own engine gives other logits than the reference engine.

    """
    contestants = []
    for contestant in start_baselines(workload, gpu.device, gpu.clock, gpu.until) if baselines else ():
        contestants.append(contestant)
        advance()
    for which, plan, settings in (
        (OWN_DENSE, workload.dense_plan, workload.dense_settings), (OWN, workload.plan, workload.settings),
    ):  # fmt: skip
        network, images = gpu.make(plan, workload.batch), workload.batches[0]
        options = {each.name: RunOptions.of([each.setting] * len(images)) for each in settings}
        runs = {name: partial(network.run, images, each) for name, each in options.items()}
        outputs = {name: run() for name, run in runs.items()}
        known = OPEN if which == OWN else DENSE
        try:
            check_logits(outputs[known].logits, workload.logits[known], gpu.precision)
        except AbsentError as error:
            raise LcclError(f"{which} cannot be measured: {error}") from error
        launches = {name: gpu.clock.graph(network.launch(images, each)) for name, each in options.items()}
        runner = GraphRunner(gpu.clock, launches, runs, outputs)
        names = {each.name: OWN_DENSE if which == OWN_DENSE else f"{OWN} {each.name}" for each in settings}
        contestants += [Contestant(name, "own", 1, setting, runner) for setting, name in names.items()]
        advance()
    return contestants


def end_to_end(contestants: list[Contestant], rounds: int, advance: Callable[[], None]) -> Samples:
    """Contestants that are not absent, by the wall clock from the host's memory to the host's."""

    def turn(contestant: Contestant) -> Turn:
        launch = contestant.runner.end_to_end(contestant.setting)
        return lambda repeats: WallClock().seconds([launch], repeats)

    return take_turns({each.name: turn(each) for each in contestants}, rounds, advance=advance, turn_s=TURN_S)


@dataclass(frozen=True, slots=True, eq=False)
class _Network:
    """A plan on the engine; each launch has a batch of its own."""

    engine: CudaEngine

    def run(self, images: Pixels, options: RunOptions) -> RunOutput:
        return self.engine.run(images, options)

    def launch(self, images: Pixels, options: RunOptions) -> Launch:
        batch = filled_batch(self.engine.plan, images, options, self.engine.device)
        return lambda: self.engine.program.launch(batch)


def filled_batch(plan: Plan, images: Pixels, options: RunOptions, device: torch.device) -> Batch:
    """A batch of its own on the device, with these images and options in it."""
    from lccl.engines.cuda.batch import Batch
    from lccl.engines.cuda.replay import Staging

    staging = Staging(Batch.of(plan, len(images), device, torch.uint8))
    staging.fill(plan, images, options)
    staging.send()
    if device.type == "cuda":  # the memory that is copied from may be gone after this
        torch.cuda.synchronize(device)
    return staging.batch

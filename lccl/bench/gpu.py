"""Contestants on a GPU, as CUDA graphs in this process: the own engine, gated and dense, and others' dense networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from lccl.bench import gpu_baselines
from lccl.bench.clock import Clock, DeviceClock, Launch, Seconds, WallClock
from lccl.bench.names import DENSE, OPEN, OWN, OWN_DENSE
from lccl.bench.turns import AbsentError, Contestant, Runner, Samples, Turn, check_logits, take_turns
from lccl.bench.workload import Counts, Workload, count_outputs
from lccl.errors import LcclError
from lccl.plan.run import RunOptions, RunOutput
from lccl.plan.steps import Plan

if TYPE_CHECKING:
    from lccl.engines.cuda.batch import Batch
    from lccl.engines.cuda.engine import CudaEngine
    from lccl.engines.cuda.tiles import Tiles

Pixels = NDArray[np.uint8]

TURN_S = 0.05


class OwnNetwork(Protocol):
    """A plan on the own engine."""

    def run(self, images: Pixels, options: RunOptions) -> RunOutput:
        """From the host's memory to the host's."""
        ...

    def launch(self, images: Pixels, options: RunOptions) -> Launch:
        """The device's part of that run, its inputs laid down already."""
        ...


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


@dataclass(frozen=True, slots=True, eq=False)
class OwnRunner(Runner):
    """The own engine on one batch.

    Attributes:
        launches: the device's work by setting.
        runs: the same end to end.
        outputs: what these gave.

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


def start(workload: Workload, gpu: Gpu, baselines: bool, advance: Callable[[], None]) -> list[Contestant]:
    """Make all contestants ready for the workload's first batch; ``advance`` is called after each.

    Raises:
        LcclError: the own engine gives other logits than the reference engine.

    """
    contestants = []
    for contestant in gpu_baselines.start(workload, gpu.device, gpu.clock, gpu.until) if baselines else ():
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
        runner = OwnRunner(gpu.clock, launches, runs, outputs)
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

"""Finds the fastest tile for each convolution of a plan on the GPU at hand, and where lists stop to pay."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import replace
from itertools import product

import torch

from lccl.engines.cuda.batch import Batch
from lccl.engines.cuda.layer_program import Launch, LayerProgram
from lccl.engines.cuda.tiles import Shape, Tile, Tiles
from lccl.plan.geometry import NetworkShape
from lccl.plan.steps import Convolve, Plan

TUNED_AT = 0.5  # kept share that tiles are compared at
STAGES = (3, 1, 2, 4, 5)  # sizes are compared at the first, the others tried with the best size
Timer = Callable[[Callable[[], None]], float]  # milliseconds that a launch takes


def timed_on_gpu(launch: Callable[[], None]) -> float:
    """The median over a twentieth of a second, the L2 cache overwritten before each.

    A graph starts the kernel: what Triton takes on the host to do so is longer than many a layer.
    """
    from triton.testing import do_bench

    launch()  # compiles, which a capture may not
    graph, aside = torch.cuda.CUDAGraph(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    with torch.cuda.stream(aside):
        graph.capture_begin()
        launch()
        graph.capture_end()
    return float(do_bench(graph.replay, warmup=10, rep=50, return_mode="median"))


def tune(
    plan: Plan,
    shape: NetworkShape,
    images: int,
    device: torch.device,
    dtype: torch.dtype,
    timer: Timer = timed_on_gpu,
    report: Callable[[Shape, Tile], None] = lambda *_: None,
    known: Container[Shape] = (),
) -> dict[Shape, Tile]:
    """The fastest tile for every distinct convolution of a plan at a batch of ``images``.

    Args:
        plan: with random or trained weights; they do not matter.
        shape: its geometry.
        images: of the batch that is timed.
        device: the GPU.
        dtype: float16 or bfloat16.
        timer: what takes the time of a launch.
        report: is told of each tile that was found.
        known: shapes that are left out.

    """
    program = LayerProgram(plan, shape, images, device, dtype, Tiles("tuning", {}))
    batch = Batch.of(plan, shape, images, device, torch.uint8)
    batch.valid.fill_(1)
    program.reset(batch)
    found: dict[Shape, Tile] = {}
    for number, step in enumerate(plan.steps):
        if not isinstance(step, Convolve):
            continue
        tiled = program.shape_of(step)
        if tiled not in found and tiled not in known:
            trial = _Trial(program, batch, number, step)
            found[tiled] = trial.with_break_even(trial.fastest(timer), timer)
            report(tiled, found[tiled])
    return found


class _Trial:
    """One convolution with different tiles, on random values and a list of random positions."""

    def __init__(self, program: LayerProgram, batch: Batch, number: int, step: Convolve) -> None:
        self._program, self._batch, self._number, self._step = program, batch, number, step
        self._listed_at: float | None = None
        values, there = program.map_of(step.input, len(batch))
        values.normal_()  # zeros take less power, and so less time
        if there is not None:
            there.bernoulli_(TUNED_AT)

    def fastest(self, timer: Timer) -> Tile:
        """The fastest size, with the fastest number of stages for it: each trial is a compilation of its own."""
        size = min(self.sizes(), key=lambda tile: self.time(tile, timer))
        return min((replace(size, stages=stages) for stages in STAGES), key=lambda tile: self.time(tile, timer))

    def sizes(self) -> Iterator[Tile]:
        """What to try: no more channels than there are, and work for every warp, but not more than it has room for."""
        widest = self._program.shape_of(self._step).channels
        for rows, channels, warps in product((64, 128, 256), (16, 32, 64, 128, 256), (4, 8)):
            fits = min(widest, 32) <= channels < 2 * widest
            accumulators = rows * channels / (32 * warps)
            if fits and min(widest / 2, 32) <= accumulators <= 128 and (warps == 4 or accumulators >= 64):
                yield Tile(rows, channels, warps, STAGES[0])

    def time(self, tile: Tile, timer: Timer, share: float = TUNED_AT, *, dense: bool = False) -> float:
        """Milliseconds at a kept share; infinite where the tile is more than the device has room for."""
        from triton.runtime.errors import OutOfResources

        self._list(share)
        try:
            return timer(self._launch(tile, dense))
        except OutOfResources:
            return float("inf")

    def with_break_even(self, tile: Tile, timer: Timer) -> Tile:
        """The tile with the kept share at which lists take as long as all positions; time grows evenly with it."""
        if self._step.gate is None:
            return tile
        half, whole = (self.time(tile, timer, share) for share in (0.5, 1.0))
        everything = self.time(tile, timer, 1.0, dense=True)
        share = 1.0 if whole <= half else 0.5 + 0.5 * (everything - half) / (whole - half)
        return replace(tile, break_even=min(max(share, 0.0), 1.0))

    def _launch(self, tile: Tile, dense: bool) -> Launch:
        everywhere = (dense,) * len(self._program.plan.layers)
        *_, convolution = self._program.step(self._number, self._batch, everywhere, tile=tile)
        return convolution

    def _list(self, share: float) -> None:
        """Have the gate's kernel list random positions."""
        gate = self._step.gate
        if gate is None or share == self._listed_at:
            return
        generator = torch.Generator().manual_seed(0)
        masks = list(self._batch.masks)
        kept = torch.rand(masks[gate.layer].shape, generator=generator) < share
        masks[gate.layer] = kept.to(masks[gate.layer])
        self._program.reset(self._batch)
        listing, _ = self._program.step(
            self._number, self._batch, (False,) * len(self._program.plan.layers), tuple(masks)
        )
        listing()
        self._listed_at = share

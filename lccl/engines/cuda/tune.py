"""Finds the fastest tile for each convolution of a plan on the GPU at hand."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from dataclasses import replace
from itertools import product

import torch

from lccl.engines.cuda.batch import Batch
from lccl.engines.cuda.convolutions import Convolution
from lccl.engines.cuda.program import Program
from lccl.engines.cuda.tiles import Shape, Tile, Tiles
from lccl.plan.geometry import shape_of
from lccl.plan.steps import Plan

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
        images: of the batch that is timed.
        device: the GPU.
        dtype: float16 or bfloat16.
        timer: what takes the time of a launch.
        report: is told of each tile that was found.
        known: shapes that are left out.

    """
    program = Program(plan, images, device, dtype, Tiles("tuning", {}))
    batch = Batch.of(plan, shape_of(plan), images, device, torch.uint8)
    batch.valid.fill_(1)
    fastest: dict[Shape, Tile] = {}
    for convolution in program.steps:
        if not isinstance(convolution, Convolution) or convolution.shape in known or convolution.shape in fastest:
            continue
        put_random_values(program, batch, convolution)
        tile = fastest_tile(convolution, batch, timer)
        fastest[convolution.shape] = tile
        report(convolution.shape, tile)
    return fastest


def put_random_values(program: Program, batch: Batch, convolution: Convolution) -> None:
    """Random values in a convolution's input, and random positions in its lists."""
    for launch in program.steps[0].launches(batch, None):
        launch()  # counts start at 0, and every image is there
    values, there = program.workspace.as_laid(convolution.step.input, len(batch))
    values.normal_()  # zeros take less power, and so less time
    if there is not None:
        there.bernoulli_(TUNED_AT)
    if convolution.gate is not None:
        generator = torch.Generator().manual_seed(0)
        masks = [torch.rand(mask.shape, generator=generator) < TUNED_AT for mask in batch.masks]
        convolution.gate.launch(batch, tuple(mask.to(batch.valid.device, torch.uint8) for mask in masks))()


def fastest_tile(convolution: Convolution, batch: Batch, timer: Timer) -> Tile:
    """The fastest size, with the fastest number of stages for it: each trial is a compilation of its own."""

    def duration(tile: Tile) -> float:
        from triton.runtime.errors import OutOfResources

        try:
            return timer(convolution.launch(batch, tile))
        except OutOfResources:  # the tile is more than the device has room for
            return float("inf")

    size = min(sizes(convolution.shape.channels), key=duration)
    return min((replace(size, stages=stages) for stages in STAGES), key=duration)


def sizes(widest: int) -> Iterator[Tile]:
    """What to try: no more channels than there are, and work for every warp, but not more than it has room for."""
    for rows, channels, warps in product((64, 128, 256), (16, 32, 64, 128, 256), (4, 8)):
        fits = min(widest, 32) <= channels < 2 * widest
        accumulators = rows * channels / (32 * warps)
        if fits and min(widest / 2, 32) <= accumulators <= 128 and (warps == 4 or accumulators >= 64):
            yield Tile(rows, channels, warps, STAGES[0])

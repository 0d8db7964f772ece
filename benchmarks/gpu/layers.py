"""Own kernels of a single layer on a GPU, with a mask laid down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from benchmarks.gpu.kernels import Layer, OwnLayer
from lccl.bench.gpu import PRECISIONS, filled_batch
from lccl.engines.cuda.program import Program
from lccl.engines.cuda.tiles import Tiles
from lccl.plan.run import RunOptions, Setting
from lccl.plan.steps import Affine, Array, AveragePool, Buffer, Classify, Convolve, Gate, Normalise, Plan

HEAD = 16  # channels of what reads a single layer's output


def layers_on(device: torch.device, precision: str, tiles: Tiles) -> Callable[[Layer, int, float], OwnLayer]:
    """``own(layer, batch, skip)``: kernels that list random rows, all but the share ``skip``."""

    def own(layer: Layer, batch: int, skip: float) -> OwnLayer:
        plan, random = layer_plan(layer), np.random.default_rng(0)
        program = Program(plan, batch, device, PRECISIONS[precision], tiles)
        images = random.integers(0, 256, (batch, plan.image.height, plan.image.width, 3), dtype=np.uint8)
        filled = filled_batch(plan, images, RunOptions.of([Setting((0.0,))] * batch), device)
        keep = random.random((batch, 1, layer.height, layer.width)) >= skip
        forced = (torch.from_numpy(keep.astype(np.uint8)).to(device),)
        filled = replace(filled, forced=forced)
        program.launch(filled)  # so that the lists, gates and maps that the timed kernels read are there
        convolution = next(each for each in program.convolutions.values() if each.gate is not None)
        assert convolution.gate is not None
        listing = convolution.gate.launch(filled)

        def gate() -> None:
            filled.listed.zero_()  # the list would grow past its end
            listing()

        return OwnLayer(float(keep.mean()), convolution.launch(filled), gate)

    return own


def layer_plan(layer: Layer) -> Plan:
    """A plan around one gated convolution: a 1×1 of pixels to its channels, itself, and a 1×1 that reads it."""
    random = np.random.default_rng(0)
    height, width = layer.height * layer.stride, layer.width * layer.stride

    def draw(*sides: int) -> Array:
        return random.standard_normal(sides, np.float32) / np.float32(np.prod(sides[1:])) ** np.float32(0.5)

    def affine(channels: int) -> Affine:
        return Affine(np.full(channels, 1.1, np.float32), np.full(channels, 0.1, np.float32))

    gate = Gate("layer", 0, "input", draw(1, layer.in_channels, layer.kernel, layer.kernel), affine(1))
    return Plan(
        buffers=(
            Buffer("image", 3, height, width),
            Buffer("input", layer.in_channels, height, width),
            Buffer("output", layer.out_channels, layer.height, layer.width),
            Buffer("head", HEAD, layer.height, layer.width),
            Buffer("features", HEAD, 1, 1),
        ),
        steps=(
            Normalise(np.full(3, 0.5, np.float32), np.full(3, 0.25, np.float32), "image"),
            Convolve("stem", "image", draw(layer.in_channels, 3, 1, 1), 1, None, relu=True, raw="input"),
            Convolve(
                "layer", "input", draw(*layer.weight), layer.stride, affine(layer.out_channels), relu=True, gate=gate,
                raw="output",
            ),
            Convolve("head", "output", draw(HEAD, layer.out_channels, 1, 1), 1, None, relu=False, raw="head"),
            AveragePool("head", "features"),
            Classify("features", draw(10, HEAD), np.zeros(10, np.float32)),
        ),
        layers=("layer",),
        classes=10,
    )  # fmt: skip

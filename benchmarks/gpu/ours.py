"""The own engine as the benchmarks see it: one layer's kernels with a mask laid down, and whole networks."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.kernels import Layer, MakeLayer, OwnLayer
from benchmarks.gpu.networks import MakeNetwork, OwnNetwork, Pixels
from benchmarks.gpu.timing import Launch
from lccl.engines.cuda.batch import Batch
from lccl.engines.cuda.engine import PRECISIONS, CudaEngine, ProgramName
from lccl.engines.cuda.kernels.convolution import convolve
from lccl.engines.cuda.kernels.gate import gate_and_compact
from lccl.engines.cuda.layer_program import LayerProgram
from lccl.engines.cuda.replay import Staging
from lccl.engines.cuda.tiles import Tile, Tiles, tiles_for
from lccl.errors import EngineError
from lccl.plan.geometry import NetworkShape, shape_of
from lccl.plan.run import RunOptions, RunOutput
from lccl.plan.steps import Affine, Array, AveragePool, Buffer, Classify, Convolve, Gate, Normalise, Plan

HEAD = 16  # channels of what reads a single layer's output


def find_tiles(path: Path | None, device: torch.device) -> Tiles:
    """The table that ``lccl tune`` wrote to ``path``; without one that of the device model, or defaults.

    Raises:
        EngineError: there is no table there, or it is of another kind of GPU.

    """
    model = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    if path is None:
        return tiles_for(model)
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        known = {shape: Tile(**tile) for shape, tile in table["tiles"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise EngineError(f"{path} is no table of tiles: make it with `lccl tune`") from error
    if table.get("device") != model:
        raise EngineError(f"{path} is a table for {table.get('device')}, not for {model}: make one with `lccl tune`")
    return Tiles(f"table {path.name}", known)


def networks_on(device: torch.device, precision: str, tiles: Tiles, program: ProgramName = "auto") -> MakeNetwork:
    """``make(plan, batch)``: an engine with room for ``batch`` images."""

    def make(plan: Plan, batch: int) -> OwnNetwork:
        shape = shape_of(plan)
        return _Network(CudaEngine(plan, device, precision, tiles=tiles, batch_limit=batch, program=program))

    return make


def layers_on(device: torch.device, precision: str, tiles: Tiles) -> MakeLayer:
    """``make(layer, batch, skip)``: kernels that list random rows, all but the share ``skip``."""

    def make(layer: Layer, batch: int, skip: float) -> OwnLayer:
        return _own_layer(layer, batch, skip, device, PRECISIONS[precision], tiles)

    return make


@dataclass(frozen=True, slots=True, eq=False)
class _Network:
    """A plan on the engine; each launch has a batch of its own."""

    engine: CudaEngine

    @property
    def shape(self) -> NetworkShape:
        return self.engine.shape

    def run(self, images: Pixels, options: RunOptions) -> RunOutput:
        return self.engine.run(images, options)

    def launch(self, images: Pixels, options: RunOptions) -> Launch:
        """The kernels as the engine would dispatch them once it knows what these thresholds keep."""
        engine = self.engine
        engine.run(images, options)
        dense = engine._dispatch.choose(options.thresholds)
        batch = _filled(engine.plan, engine.shape, images, options, engine.device)
        return lambda: engine.program.launch(batch, dense)


def _own_layer(
    layer: Layer, batch: int, skip: float, device: torch.device, dtype: torch.dtype, tiles: Tiles
) -> OwnLayer:
    plan = layer_plan(layer)
    shape = shape_of(plan)
    program = LayerProgram(plan, shape, batch, device, dtype, tiles)
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (batch, plan.image.height, plan.image.width, 3), dtype=np.uint8)
    filled = _filled(plan, shape, images, RunOptions.uniform(batch, [0.0]), device)
    keep = random.random((batch, 1, layer.height, layer.width)) >= skip
    forced = (torch.from_numpy(keep.astype(np.uint8)).to(device),)
    # All of the plan runs once, so that the lists, gates and maps that the timed kernels read are there.
    launches = list(program.launches(filled, (False,), forced))
    for launch in launches:
        launch()
    number = next(at for at, launch in enumerate(launches) if launch.kernel is gate_and_compact)
    listed, dense = launches[number + 1], list(program.launches(filled, (True,), forced))[number + 1]
    assert listed.kernel is dense.kernel is convolve

    def gate() -> None:
        program._count.zero_()  # the list would grow past its end
        launches[number]()

    return OwnLayer(float(keep.mean()), listed, dense, gate)


def layer_plan(layer: Layer) -> Plan:
    """A plan around one gated convolution: a 1×1 of pixels to its channels, itself, and a 1×1 that reads it."""
    random = np.random.default_rng(0)
    height, width = layer.height * layer.stride, layer.width * layer.stride

    def draw(*sides: int) -> Array:
        return random.standard_normal(sides, np.float32) / np.float32(np.prod(sides[1:])) ** np.float32(0.5)

    def affine(channels: int) -> Affine:
        return Affine(np.full((1, channels), 1.1, np.float32), np.full((1, channels), 0.1, np.float32))

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


def _filled(plan: Plan, shape: NetworkShape, images: Pixels, options: RunOptions, device: torch.device) -> Batch:
    """A batch of its own on the device, with these images and controls in it."""
    staging = Staging(Batch.of(plan, shape, len(images), device, torch.uint8))
    staging.fill(plan, images, options)
    staging.send()
    _wait(staging.batch.valid)
    return staging.batch


def _wait(tensor: Tensor) -> None:
    """Until the device has its copies: the memory they are from may be gone then."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)

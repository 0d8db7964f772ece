"""A plan as a sequence of kernels: for every gated convolution one that lists positions, and one that computes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lccl.engines.cuda.batch import Batch, Dense
from lccl.engines.cuda.executed import rows_of_tiles, shared_out, tiles_of
from lccl.engines.cuda.kernels.convolution import convolve
from lccl.engines.cuda.kernels.ends import classify, leave
from lccl.engines.cuda.kernels.gate import gate_and_compact
from lccl.engines.cuda.kernels.pixels import begin
from lccl.engines.cuda.kernels.pooling import average_pool, max_pool
from lccl.engines.cuda.layer_layout import ALIGNED, BLOCK, lay_out
from lccl.engines.cuda.packing import (
    TAP_CELLS,
    TAP_COLUMNS,
    block_of,
    depth_of,
    pack,
    pack_features,
    pack_gate,
    pack_taps,
)
from lccl.engines.cuda.tiles import Shape, Tile, Tiles
from lccl.errors import EngineError
from lccl.plan import steps
from lccl.plan.geometry import NetworkShape
from lccl.plan.steps import Plan

GATE_ROWS = 128
GATES_AT_ONCE = 8  # programs of the gate's kernel per multiprocessor
ADDRESSABLE = 2**31  # kernels count values in 32 bits
PIXELS, FILLED, IMAGES = 256, 32, 16  # positions, channels and images that the smaller kernels take at once


class TooManyImagesError(EngineError):
    """A batch is larger than kernels can address."""


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel, its grid, and what it is given: tensors and numbers by position, constants by name."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: tuple[Any, ...]
    constants: dict[str, Any]
    warps: int = 4
    stages: int = 2

    def __call__(self) -> None:
        self.kernel[self.grid](*self.arguments, **self.constants, **self.options)

    @property
    def options(self) -> dict[str, Any]:
        """What a compiler is told beside the constants.

        It fuses no multiplication with an addition: where it could would differ from tile to tile, and so would bits.
        """
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": False}


class LayerProgram:
    """Keeps the contract of ``Program`` for every plan without split convolutions."""

    def __init__(
        self, plan: Plan, shape: NetworkShape, limit: int, device: torch.device, dtype: torch.dtype, tiles: Tiles
    ) -> None:
        """Pack weights and take memory for up to ``limit`` images.

        Raises:
            TooManyImagesError: a map of so many images is more than kernels can address.

        """
        self.plan, self.shape = plan, shape
        self._device, self._dtype = device, dtype
        self._places = lay_out(plan)
        largest = max(place.elements for place in self._places.values())
        if limit * largest >= ADDRESSABLE:
            raise TooManyImagesError(
                f"{limit} images are too many at once: at most {ADDRESSABLE // largest} of this network"
            )
        self._processors = _processors(device)
        self._tiles = {
            step.name: tiles.of(self.shape_of(step)) for step in plan.steps if isinstance(step, steps.Convolve)
        }
        self._taps = {step.name: self._cells_of_tiles(step, limit) for step in plan.gated if self._by_taps(step)}
        self._take_memory(limit)
        self._pack()

    def tile(self, step: steps.Convolve) -> Tile:
        """The tile that a step's convolution works in."""
        return self._tiles[step.name]

    def launch(self, batch: Batch, dense: Dense, forced: tuple[Tensor, ...] | None = None) -> None:
        """See :meth:`lccl.engines.cuda.batch.Program.launch`."""
        for launch in self.launches(batch, dense, forced):
            launch()

    def launches(self, batch: Batch, dense: Dense, forced: tuple[Tensor, ...] | None = None) -> Iterator[Launch]:
        """The kernels of a launch, in order."""
        for number in range(len(self.plan.steps)):
            yield from self.step(number, batch, dense, forced)

    def step(
        self,
        number: int,
        batch: Batch,
        dense: Dense,
        forced: tuple[Tensor, ...] | None = None,
        tile: Tile | None = None,
    ) -> Iterator[Launch]:
        """The kernels of one step, a convolution's in another tile if one is given."""
        match self.plan.steps[number]:
            case steps.Normalise() as step:
                yield self._begin(step, batch)
            case steps.Convolve() as step:
                if step.gate is not None:
                    mask = None if forced is None else forced[step.gate.layer]
                    yield self._gate(number, step, step.gate, batch, dense, mask)
                yield self._convolve(number, step, batch, dense, tile or self.tile(step))
            case steps.MaxPool() as step:
                yield self._max_pool(step, batch)
            case steps.AveragePool() as step:
                yield self._average_pool(step, batch)
            case steps.Exit() as step:
                yield self._leave(number, step, batch)
            case steps.Classify() as step:
                yield self._classify(number, step, batch)

    def reset(self, batch: Batch) -> None:
        """Count from nothing, as a run's first kernel does."""
        for launch in self.step(0, batch, (False,) * len(self.plan.layers)):
            launch()

    def map_of(self, name: str, images: int) -> tuple[Tensor, Tensor | None]:
        """A map as it lies there, border and all, [N, H', W', C'], and which of its positions are there at all.

        For tests and tuning; the second, uint8 [N, H', W'], is None where all are.
        """
        place = self._places[name]
        sides = (images, place.height + 2 * place.border, place.pitch)
        values = self._map(name)[: images * place.elements].view(*sides, place.stored)
        spread = self._spread.get(name)
        return values, None if spread is None else spread[: images * place.positions].view(sides)

    # Memory and weights

    def _take_memory(self, limit: int) -> None:
        def room(count: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(count, dtype=dtype, device=self._device)

        places = self._places
        self._maps = {
            name: room(limit * place.elements, self._dtype) for name, place in places.items() if place.storage == name
        }
        self._spread = {
            name: room(limit * place.positions, torch.uint8)
            for name, place in places.items()
            if place.skipped == "absent"
        }
        cells = [self._positions(step) * len(step.gate.weight) for step in self.plan.gated if step.gate is not None]
        self._gates = room(limit * max(cells, default=1), torch.float32)
        self._listed = room(limit * max(cells, default=1), torch.int32)
        self._groups = _filled(max((layer.gate_groups for layer in self.shape.layers), default=1), ALIGNED)
        self._gate_programs = self._processors * GATES_AT_ONCE
        taps = [self._room_for_taps(step) * step.gate.weight.shape[2] ** 2 for step in self.plan.gated if step.gate]
        self._products = room(self._gate_programs * max(taps, default=1), torch.float32)
        self._count = room(max(len(self.plan.layers), 1) * self._groups, torch.int32)
        self._active = room(limit, torch.int32)
        pools = [step for step in self.plan.steps if isinstance(step, steps.AveragePool)]
        self._features = {
            step.raw: room(limit * self._places[step.input].channels * step.grid**2, torch.float32) for step in pools
        }
        hidden = [len(step.hidden_weight) for step in self.plan.steps if isinstance(step, steps.Exit)]
        self._hidden = room(limit * max(hidden, default=1), torch.float32)

    def _pack(self) -> None:
        device, dtype = self._device, self._dtype
        self._weights: dict[int, tuple[Tensor, ...]] = {}
        for number, step in enumerate(self.plan.steps):
            match step:
                case steps.Normalise():
                    self._weights[number] = self._floats(step.mean, step.std)
                case steps.Convolve():
                    activated = None if step.activated is None else step.activated.affine
                    weight = pack(step.weight, self._places[step.input].stored, device, dtype)
                    self._weights[number] = (weight, *self._affine(step.affine), *self._affine(activated))
                    if step.gate is not None:
                        stored = self._places[step.gate.input].stored
                        if step.name in self._taps:
                            gate = pack_taps(step.gate.weight, stored, device, dtype)
                        else:
                            gate = pack_gate(step.gate.weight, stored, _group_block(step.gate), device, dtype)
                        self._weights[number] += (gate, *self._affine(step.gate.affine))
                case steps.Exit():
                    hidden, answer = pack_features(step.hidden_weight, device), pack_features(step.weight, device)
                    self._weights[number] = (hidden, *self._floats(step.hidden_bias), answer, *self._floats(step.bias))
                case steps.Classify():
                    self._weights[number] = (pack_features(step.weight, device), *self._floats(step.bias))

    def _floats(self, *arrays: steps.Array) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(np.ascontiguousarray(one, np.float32)).to(self._device) for one in arrays)

    def _affine(self, affine: steps.Affine | None) -> tuple[Tensor, ...]:
        """Scale and shift; where there are none something that is not read."""
        return (self._active, self._active) if affine is None else self._floats(affine.scale, affine.shift)

    # Kernels

    def _begin(self, step: steps.Normalise, batch: Batch) -> Launch:
        place, (mean, std) = self._places[step.raw], self._weights[0]
        size, layers = len(batch), len(self.plan.layers)
        items = max(size * place.height * place.width, size * layers, len(self._count))
        return Launch(
            begin,
            (-(-items // PIXELS),),
            (batch.images, mean, std, self._map(step.raw), batch.valid, self._active, batch.left, batch.kept,
             self._count, size, layers, len(self._count), self.plan.exits),
            {"PIXELS": batch.images.dtype == torch.uint8, "HEIGHT": place.height, "WIDTH": place.width,
             "BORDER": place.border, "CHANNELS": place.channels, "STORED": place.stored, "BLOCK": PIXELS},
        )  # fmt: skip

    def _gate(
        self, number: int, step: steps.Convolve, gate: steps.Gate, batch: Batch, dense: Dense, forced: Tensor | None
    ) -> Launch:
        _, _, _, scale, shift, weight, gate_scale, gate_shift = self._weights[number]
        height, width = self._output(step)
        groups, cells = len(gate.weight), self._room_for_taps(step)
        block = 1 if cells else _group_block(gate)
        absent = step.raw if step.raw in self._spread else None
        if absent is None and step.activated is not None and step.activated.buffer in self._spread:
            absent = step.activated.buffer
        rows = len(batch) * height * width
        fills = not self._by_cells(step)
        residual, residual_constants = self._residual(step)
        (raw, activated), outputs = self._outputs(step, written=("written",) if fills else ())
        x, x_mask, window = self._window(gate.input, gate.weight.shape[2])
        return Launch(
            gate_and_compact,
            (min(-(-rows // GATE_ROWS), self._gate_programs), -(-groups // block)),
            (x, x_mask, weight, gate_scale, gate_shift, batch.thresholds, batch.norm_set, self._active,
             self._active if forced is None else forced, self._gates, batch.masks[gate.layer],
             batch.masks[gate.layer] if absent is None else self._spread[absent], self._listed,
             self._count[gate.layer * self._groups :], batch.kept, residual, raw, activated, scale, shift,
             self._products, rows, gate.layer, len(self.plan.layers)),
            {**window, "STRIDE": step.stride, "HEIGHT": height, "WIDTH": width, "GROUPS": groups, "GROUP_BLOCK": block,
             "SETS": self.plan.norm_sets, "FORCED": forced is not None, "LISTS": self._lists(step, dense),
             "CHANNELS": len(step.weight), "SPREAD": -1 if absent is None else self._places[absent].border,
             **residual_constants, **outputs, "CELLS": cells, "BM": GATE_ROWS, "BT": FILLED},
        )  # fmt: skip

    def _convolve(self, number: int, step: steps.Convolve, batch: Batch, dense: Dense, tile: Tile) -> Launch:
        weight, scale, shift, activated_scale, activated_shift = self._weights[number][:5]
        height, width = self._output(step)
        rows = len(batch) * height * width
        listed, layer = self._lists(step, dense), 0 if step.gate is None else step.gate.layer
        groups = 0 if step.gate is None else len(step.gate.weight)
        lists = groups if listed else 1
        residual, residual_constants = self._residual(step)
        (raw, activated), outputs = self._outputs(step, written=("none", "in place", "absent", "written"))
        x, x_mask, window = self._window(step.input, step.weight.shape[2])
        tiles = -(-rows // tile.rows) * -(-len(step.weight) // lists // tile.channels)
        mask = batch.masks[layer] if groups else self._active
        return Launch(
            convolve,
            (min(tiles, self._processors * (16 // tile.warps)), lists),
            (x, x_mask, weight, scale, shift, batch.norm_set, self._active, self._gates, mask, self._listed,
             self._count[layer * self._groups :], residual, raw, activated, activated_scale, activated_shift, rows),
            {**window, "STRIDE": step.stride, "HEIGHT": height, "WIDTH": width, "CHANNELS": len(step.weight),
             "SETS": self.plan.norm_sets, "LISTED": listed, "GROUPS": groups, "CELLS": self._by_cells(step),
             "AFFINE": step.affine is not None, "RELU": step.relu, **residual_constants, **outputs, "BM": tile.rows,
             "BN": tile.channels},
            warps=tile.warps,
            stages=tile.stages,
        )  # fmt: skip

    def _max_pool(self, step: steps.MaxPool, batch: Batch) -> Launch:
        before, after = self._places[step.input], self._places[step.raw]
        rows = len(batch) * after.height * after.width
        return Launch(
            max_pool,
            (-(-rows // 64), -(-after.channels // 64)),
            (self._map(step.input), self._map(step.raw), rows),
            {"CHANNELS": after.channels, "STORED": before.stored, "IN_HEIGHT": before.height, "IN_WIDTH": before.width,
             "IN_BORDER": before.border, "HEIGHT": after.height, "WIDTH": after.width, "OUT_STORED": after.stored,
             "OUT_BORDER": after.border, "K": step.kernel, "STRIDE": step.stride, "BM": 64, "BT": 64},
        )  # fmt: skip

    def _average_pool(self, step: steps.AveragePool, batch: Batch) -> Launch:
        place = self._places[step.input]
        return Launch(
            average_pool,
            (len(batch), step.grid**2, -(-place.channels // 64)),
            (self._map(step.input), self._features[step.raw]),
            {"CHANNELS": place.channels, "STORED": place.stored, "HEIGHT": place.height, "WIDTH": place.width,
             "BORDER": place.border, "GRID": step.grid, "BT": 64},
        )  # fmt: skip

    def _leave(self, number: int, step: steps.Exit, batch: Batch) -> Launch:
        classes, hidden = step.weight.shape
        return Launch(
            leave,
            (-(-len(batch) // IMAGES),),
            (self._features[step.input], *self._weights[number][:2], self._hidden, *self._weights[number][2:],
             batch.confidence, self._active, batch.left, batch.logits, len(batch), step.exit, self.plan.exits),
            {"FEATURES": step.hidden_weight[0].size, "HIDDEN": hidden, "CLASSES": classes, "BM": IMAGES, "BH": 64,
             "BN": _power_of_two(classes), "BK": 32},
        )  # fmt: skip

    def _classify(self, number: int, step: steps.Classify, batch: Batch) -> Launch:
        classes, features = step.weight.shape
        return Launch(
            classify,
            (-(-len(batch) // IMAGES), -(-classes // 64)),
            (self._features[step.input], *self._weights[number], self._active, batch.logits, len(batch)),
            {"FEATURES": features, "CLASSES": classes, "BM": IMAGES, "BN": 64, "BK": 32},
        )

    # Arguments that several kernels share

    def _map(self, name: str) -> Tensor:
        return self._maps[self._places[name].storage]

    def _window(self, name: str, kernel: int) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """A map that windows are read from, its mask where cells may be absent, and its geometry."""
        place = self._places[name]
        return (
            self._map(name),
            self._spread.get(name, self._active),
            {
                "STORED": place.stored, "K": kernel, "BK": block_of(place.stored, kernel),
                "IN_HEIGHT": place.height + 2 * place.border, "IN_PITCH": place.pitch,
                "IN_SHIFT": place.border - kernel // 2, "MASKED": name in self._spread,
            },
        )  # fmt: skip

    def _residual(self, step: steps.Convolve) -> tuple[Tensor, dict[str, Any]]:
        names = ("", "_STRIDE", "_CHANNELS", "_STORED", "_HEIGHT", "_PITCH", "_BORDER")
        if step.residual is None:
            return self._active, {f"RESIDUAL{name}": 0 for name in names} | {"RESIDUAL": False}
        place = self._places[step.residual.buffer]
        values = (
            True, step.residual.stride, place.channels, place.stored, place.height + 2 * place.border, place.pitch,
            place.border,
        )  # fmt: skip
        return self._map(step.residual.buffer), {
            f"RESIDUAL{name}": one for name, one in zip(names, values, strict=True)
        }

    def _outputs(self, step: steps.Convolve, written: tuple[str, ...]) -> tuple[tuple[Tensor, Tensor], dict[str, Any]]:
        """Where a step's outputs go, as far as their skipped cells get values in one of the ways named."""
        affine = step.activated is not None and step.activated.affine is not None
        constants: dict[str, Any] = {"ACTIVATED_AFFINE": affine}
        maps: list[Tensor] = []
        for kind, name in (("RAW", step.raw), ("ACTIVATED", None if step.activated is None else step.activated.buffer)):
            place = None if name is None else self._places[name]
            is_written = place is not None and place.skipped in written
            constants[kind] = is_written
            constants[f"{kind}_STORED"] = place.stored if place is not None and is_written else 0
            constants[f"{kind}_BORDER"] = place.border if place is not None and is_written else 0
            maps.append(self._map(name) if name is not None and is_written else self._active)
        return (maps[0], maps[1]), constants

    def _output(self, step: steps.Convolve) -> tuple[int, int]:
        name = step.raw or (step.activated.buffer if step.activated else "")
        return self._places[name].height, self._places[name].width

    def _positions(self, step: steps.Convolve) -> int:
        height, width = self._output(step)
        return height * width

    def _by_cells(self, step: steps.Convolve) -> bool:
        """Whether groups are too narrow for lists of rows, so that all cells are computed."""
        return step.gate is not None and len(step.gate.weight) > 1 and _share(step) < BLOCK

    def _by_taps(self, step: steps.Convolve) -> bool:
        """Whether a gate is a shared one that is formed from its taps."""
        gate = step.gate
        if gate is None or len(gate.weight) > 1 or gate.weight.shape[2] ** 2 > TAP_COLUMNS:
            return False
        return self._places[gate.input].stored % BLOCK == 0

    def _cells_of_tiles(self, step: steps.Convolve, limit: int) -> NDArray[np.int64]:
        """How many cells the windows of each of a gate's tiles span."""
        assert step.gate is not None
        reach = (step.gate.weight.shape[2] - 1) * (self._places[step.gate.input].pitch + 1)
        first = np.arange(-(-limit * self._positions(step) // GATE_ROWS)) * GATE_ROWS
        span = self._corner(step, step.gate, first + GATE_ROWS - 1) - self._corner(step, step.gate, first)
        cells: NDArray[np.int64] = span + reach + 1
        return cells

    def _room_for_taps(self, step: steps.Convolve) -> int:
        """Cells that a program has room for where the gate is formed from its taps; else 0."""
        return _filled(int(self._taps[step.name].max()), BLOCK) if step.name in self._taps else 0

    def _corner(self, step: steps.Convolve, gate: steps.Gate, row: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first cell of the windows under a gate's rows, which are numbered through all images."""
        height, width = self._output(step)
        place, image, within = self._places[gate.input], row // (height * width), row % (height * width)
        y, x = within // width * step.stride, within % width * step.stride
        corner: NDArray[np.int64] = (image * (place.height + 2 * place.border) + y) * place.pitch + x
        return corner

    def _lists(self, step: steps.Convolve, dense: Dense) -> bool:
        return step.gate is not None and not self._by_cells(step) and not dense[step.gate.layer]

    def shape_of(self, step: steps.Convolve) -> Shape:
        """What a step's tile is chosen by."""
        height, width = self._output(step)
        share = len(step.weight) if step.gate is None or self._by_cells(step) else _share(step)
        return Shape(self._places[step.input].stored, share, step.weight.shape[2], step.stride, height, width)

    # Counting

    def executed_macs(self, kept: NDArray[np.int64], left: NDArray[np.int64], dense: Dense) -> NDArray[np.int64]:
        """See :meth:`lccl.engines.cuda.batch.Program.executed_macs`."""
        spent, active = np.zeros(len(kept), np.int64), np.ones(len(kept), dtype=bool)
        listed = self.listed_rows()
        for step in self.plan.steps:
            spent += self.step_macs(step, kept, active, dense, listed)
            if isinstance(step, steps.Exit):
                active &= left != step.exit
        return spent

    def listed_rows(self) -> NDArray[np.int64]:
        """How many rows the last launch listed, int64 [L, groups]."""
        return self._count.cpu().numpy().reshape(-1, self._groups).astype(np.int64)

    def step_macs(
        self,
        step: steps.Step,
        kept: NDArray[np.int64],
        active: NDArray[np.bool_],
        dense: Dense,
        listed: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        """What a step of the last launch ran for each image, int64 [N]; for those alone that are still ``active``."""
        match step:
            case steps.Convolve():
                return self._convolution_macs(step, kept, active, dense, listed)
            case steps.Exit():
                classes, hidden = step.weight.shape
                macs = _filled(hidden, 64) * _filled(step.hidden_weight[0].size, 32)
                return active * (macs + _power_of_two(classes) * _filled(hidden, 32))
            case steps.Classify():
                classes, features = step.weight.shape
                return active * (_filled(classes, 64) * _filled(features, 32))
        return np.zeros(len(kept), np.int64)

    def _gate_macs(self, step: steps.Convolve, gate: steps.Gate, active: NDArray[np.bool_]) -> NDArray[np.int64]:
        positions, place = self._positions(step), self._places[gate.input]
        if step.name not in self._taps:
            row = depth_of(place.stored, gate.weight.shape[2]) * 2 * _filled(len(gate.weight), _group_block(gate))
            return rows_of_tiles(active, positions, GATE_ROWS) * row
        blocks = np.concatenate([[0], np.cumsum(-(-self._taps[step.name] // TAP_CELLS))])
        first, last = tiles_of(active, positions, GATE_ROWS)
        cells = int((blocks[last + 1] - blocks[first]).sum()) * TAP_CELLS
        return shared_out(cells * place.stored * 2 * TAP_COLUMNS, active.astype(np.int64))

    def _convolution_macs(
        self,
        step: steps.Convolve,
        kept: NDArray[np.int64],
        active: NDArray[np.bool_],
        dense: Dense,
        listed: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        positions, tile = self._positions(step), self.tile(step)
        depth = depth_of(self._places[step.input].stored, step.weight.shape[2])
        spent = np.zeros(len(kept), np.int64)
        if step.gate is not None:
            spent += self._gate_macs(step, step.gate, active)
        if step.gate is None or not self._lists(step, dense):
            row = depth * _filled(len(step.weight), tile.channels)
            return spent + rows_of_tiles(active, positions, tile.rows) * row
        layer, groups = step.gate.layer, len(step.gate.weight)
        row = depth * _filled(_share(step), tile.channels)
        rows = int((-(-listed[layer, :groups] // tile.rows) * tile.rows).sum())
        return spent + shared_out(rows, kept[:, layer]) * row


def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 2


def _group_block(gate: steps.Gate) -> int:
    """Maps of a gate that one program forms: with their two parts at least as many columns as a product needs."""
    return next(block for block in (4, 8, 16, 32, 64) if block >= min(len(gate.weight), 64))


def _share(step: steps.Convolve) -> int:
    assert step.gate is not None
    return len(step.weight) // len(step.gate.weight)


def _filled(count: int, block: int) -> int:
    return -(-count // block) * block


def _power_of_two(count: int) -> int:
    return max(16, 1 << (count - 1).bit_length())

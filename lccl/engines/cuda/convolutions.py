"""A plan's convolution as kernels: one that lists what its gate keeps, if it has one, and one that computes it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lccl.engines.cuda.batch import Batch
from lccl.engines.cuda.executed import rows_of_tiles, shared_out, tiles_of
from lccl.engines.cuda.kernels.convolution import convolve
from lccl.engines.cuda.kernels.gate import gate_and_compact
from lccl.engines.cuda.kernels.shapes import Map, Output
from lccl.engines.cuda.launch import Launch
from lccl.engines.cuda.layout import channels_of_group, has_lists
from lccl.engines.cuda.packing import TAP_CELLS, TAP_COLUMNS, depth_of, filled, pack, pack_gate, pack_taps
from lccl.engines.cuda.taps import GATE_ROWS, cells_under_tiles, from_taps, room_for_taps
from lccl.engines.cuda.tiles import Shape, Tile, Tiles
from lccl.engines.cuda.workspace import Workspace
from lccl.plan.steps import Convolve, Gate

FILLED = 32  # channels of skipped cells that are written at once


class Convolution:
    """One convolution of a plan.

    Attributes:
        tile: what its kernel works in, chosen by ``shape``.
        gate: the kernel of its gate.
        has_lists: whether it computes listed rows alone.

    """

    def __init__(self, step: Convolve, workspace: Workspace, tiles: Tiles) -> None:
        self.step, self._workspace = step, workspace
        output, stored = workspace.places[step.writes[0]].map, workspace.places[step.input].map.stored
        kernel, self.has_lists = step.weight.shape[2], has_lists(step)
        self._across = channels_of_group(step) if self.has_lists else output.channels
        self._positions, self._depth = output.height * output.width, depth_of(stored, kernel)
        self.shape = Shape(stored, self._across, kernel, step.stride, output.height, output.width)
        self.tile = tiles.of(self.shape)
        self.gate = None if step.gate is None else GateKernel(step, step.gate, workspace)
        groups = 0 if step.gate is None else len(step.gate.weight)
        self._lists = groups if self.has_lists else 1
        self._arguments = {
            **workspace.reads(step.input, kernel, step.stride),
            **workspace.affine(step.affine),
            **_outputs(step, workspace),
            "weight": pack(step.weight, stored, workspace.device, workspace.dtype),
            "active": workspace.active,
            "gate": workspace.gates,
            "listed": workspace.listed,
            "GROUPS": groups,
            "LISTED": self.has_lists,
            "AFFINE": step.affine is not None,
            "RELU": step.relu,
        }

    def launches(self, batch: Batch, forced: tuple[Tensor, ...] | None) -> Iterator[Launch]:
        """The gate and the convolution; ``forced`` masks, for tests, are used instead of the threshold test."""
        if self.gate is not None:
            yield self.gate.launch(batch, forced)
        yield self.launch(batch, self.tile)

    def launch(self, batch: Batch, tile: Tile) -> Launch:
        """The convolution in tiles of that kind."""
        rows, processors = len(batch) * self._positions, self._workspace.processors
        tiles = -(-rows // tile.rows) * -(-self._across // tile.channels)
        count = batch.listed[self.step.gate.layer] if self.step.gate is not None else None
        return Launch(
            convolve,
            (min(tiles, processors * (16 // tile.warps)), self._lists),
            {**self._arguments, "count": count, "rows": rows, "BM": tile.rows, "BN": tile.channels},
            warps=tile.warps,
            stages=tile.stages,
        )

    @property
    def macs_of_row(self) -> int:
        """MACs of a row of the matrix product for one group, or for all channels where it has no lists."""
        return self._depth * filled(self._across, self.tile.channels)

    def macs(self, active: NDArray[np.bool_]) -> NDArray[np.int64]:
        """See :class:`lccl.engines.cuda.program.Kernels`."""
        spent = np.zeros(len(active), np.int64) if self.gate is None else self.gate.macs(active)
        if not self.has_lists:
            spent += rows_of_tiles(active, self._positions, self.tile.rows) * self.macs_of_row
        return spent


class GateKernel:
    """The gate of one convolution: its kernel lists what it keeps and writes what skipped cells hold."""

    def __init__(self, step: Convolve, gate: Gate, workspace: Workspace) -> None:
        self._gate, self._programs = gate, workspace.gate_programs
        stored, kernel = workspace.places[gate.input].map.stored, gate.weight.shape[2]
        output, device, dtype = workspace.places[step.writes[0]].map, workspace.device, workspace.dtype
        self._positions = output.height * output.width
        groups, block = len(gate.weight), _group_block(gate)
        if from_taps(gate, workspace.places):
            self._cells: NDArray[np.int64] | None = cells_under_tiles(step, gate, workspace.places, workspace.limit)
            self._depth, block = stored * 2 * TAP_COLUMNS, 1
            weight = pack_taps(gate.weight, stored, device, dtype)
        else:
            self._cells, self._depth = None, depth_of(stored, kernel) * 2 * filled(groups, block)
            weight = pack_gate(gate.weight, stored, block, device, dtype)
        self._blocks = -(-groups // block)
        self._arguments = {
            **workspace.reads(gate.input, kernel, step.stride),
            **workspace.affine(gate.affine),
            **_outputs(step, workspace, filled_alone=True),
            **_spread(step, workspace),
            "weight": weight,
            "active": workspace.active,
            "gate": workspace.gates,
            "listed": workspace.listed,
            "products": workspace.products,
            "layer": gate.layer,
            "layers": len(workspace.plan.layers),
            "GROUPS": groups,
            "GROUP_BLOCK": block,
            "LISTS": has_lists(step),
            "CELLS": room_for_taps(step, gate, workspace.places, workspace.limit),
            "BM": GATE_ROWS,
            "BT": FILLED,
        }

    def launch(self, batch: Batch, forced: tuple[Tensor, ...] | None) -> Launch:
        """The gate's kernel."""
        rows, layer = len(batch) * self._positions, self._gate.layer
        return Launch(
            gate_and_compact,
            (min(-(-rows // GATE_ROWS), self._programs), self._blocks),
            {
                **self._arguments,
                "thresholds": batch.thresholds,
                "forced": None if forced is None else forced[layer],
                "mask": batch.masks[layer],
                "count": batch.listed[layer],
                "kept": batch.kept,
                "rows": rows,
                "FORCED": forced is not None,
            },
        )

    def macs(self, active: NDArray[np.bool_]) -> NDArray[np.int64]:
        """What it ran for each image, int64 [N]."""
        if self._cells is None:
            return rows_of_tiles(active, self._positions, GATE_ROWS) * self._depth
        blocks = np.concatenate([[0], np.cumsum(-(-self._cells // TAP_CELLS))])
        first, last = tiles_of(active, self._positions, GATE_ROWS)
        cells = int((blocks[last + 1] - blocks[first]).sum()) * TAP_CELLS
        return shared_out(np.int64(cells * self._depth), active.astype(np.int64))


def _outputs(step: Convolve, workspace: Workspace, *, filled_alone: bool = False) -> dict[str, Any]:
    """Arguments of a kernel that writes a step's outputs, or those alone whose skipped cells have to be filled."""
    maps: dict[str, Map | None] = {"raw": None, "activated": None}
    memory: dict[str, Tensor | None] = {"raw": None, "activated": None}
    for kind, name in (("raw", step.raw), ("activated", None if step.activated is None else step.activated.buffer)):
        if name is not None and (workspace.places[name].skipped == "filled" or not filled_alone):
            maps[kind], memory[kind] = workspace.places[name].map, workspace.map(name)
    residual = step.residual if any(maps.values()) else None
    affine = None if step.activated is None or maps["activated"] is None else step.activated.affine
    whole = workspace.places[step.writes[0]].map
    output = Output(
        channels=whole.channels,
        height=whole.height,
        width=whole.width,
        residual=None if residual is None else workspace.places[residual.buffer].map,
        residual_stride=1 if residual is None else residual.stride,
        normalised=affine is not None,
        **maps,
    )
    return {
        "OUTPUT": output,
        "residual": None if residual is None else workspace.map(residual.buffer),
        **memory,
        **workspace.affine(affine, "activated_"),
    }


def _spread(step: Convolve, workspace: Workspace) -> dict[str, Any]:
    """Where the mask of an output goes whose skipped cells stay unwritten: a value a position, with borders."""
    name = step.writes[0]
    if name not in workspace.masks:
        return {"spread": None, "SPREAD": None}
    whole = workspace.places[name].map
    return {"spread": workspace.masks[name], "SPREAD": Map(1, 1, whole.height, whole.width, whole.border)}


def _group_block(gate: Gate) -> int:
    """Maps of a gate that one program forms: with their two parts at least as many columns as a product needs."""
    return next(block for block in (4, 8, 16, 32, 64) if block >= min(len(gate.weight), 64))

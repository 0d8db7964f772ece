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
from lccl.engines.cuda.layout import Skipped, channels_of_group, has_lists
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

    """

    def __init__(self, step: Convolve, workspace: Workspace, tiles: Tiles) -> None:
        self.step, self._workspace = step, workspace
        output, stored = workspace.places[step.writes[0]].map, workspace.places[step.input].map.stored
        kernel, self._listed = step.weight.shape[2], has_lists(step)
        self._across = channels_of_group(step) if self._listed else output.channels
        self._positions, self._depth = output.height * output.width, depth_of(stored, kernel)
        self.shape = Shape(stored, self._across, kernel, step.stride, output.height, output.width)
        self.tile = tiles.of(self.shape)
        self.gate = None if step.gate is None else GateOf(step, step.gate, workspace)
        groups = 0 if step.gate is None else len(step.gate.weight)
        self._lists = groups if self._listed else 1
        self._arguments = {
            **workspace.reads(step.input, kernel, step.stride),
            **workspace.affine(step.affine),
            **outputs(step, workspace, ("none", "masked", "filled")),
            "weight": pack(step.weight, stored, workspace.device, workspace.dtype),
            "active": workspace.active,
            "gate": workspace.gates,
            "listed": workspace.listed,
            "GROUPS": groups,
            "LISTED": self._listed,
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

    def macs(self, kept: NDArray[np.int64], active: NDArray[np.bool_], listed: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :meth:`lccl.engines.cuda.program.Kernels.macs`."""
        row = self._depth * filled(self._across, self.tile.channels)
        spent = np.zeros(len(kept), np.int64) if self.gate is None else self.gate.macs(active)
        if self.step.gate is None or not self._listed:
            return spent + rows_of_tiles(active, self._positions, self.tile.rows) * row
        layer = self.step.gate.layer
        rows = int((-(-listed[layer, : self._lists] // self.tile.rows) * self.tile.rows).sum())
        return spent + shared_out(rows, kept[:, layer]) * row


class GateOf:
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
            **outputs(step, workspace, ("filled",)),
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
        return shared_out(cells * self._depth, active.astype(np.int64))


def outputs(step: Convolve, workspace: Workspace, skipped: tuple[Skipped, ...]) -> dict[str, Any]:
    """Arguments of a kernel that writes those outputs of a step whose skipped cells are of these kinds."""
    shapes: dict[str, Map | None] = {}
    names = {"raw": step.raw, "activated": None if step.activated is None else step.activated.buffer}
    for output, name in names.items():
        is_written = name is not None and workspace.places[name].skipped in skipped
        shapes[output] = workspace.places[name].map if name is not None and is_written else None
    residual = step.residual if any(shapes.values()) else None
    affine = None if step.activated is None else step.activated.affine
    whole = workspace.places[step.writes[0]].map
    return {
        "residual": None if residual is None else workspace.map(residual.buffer),
        **{
            output: None if name is None or shapes[output] is None else workspace.map(name)
            for output, name in names.items()
        },
        **workspace.affine(affine, "activated_"),
        "OUTPUT": Output(
            channels=whole.channels,
            height=whole.height,
            width=whole.width,
            residual=None if residual is None else workspace.places[residual.buffer].map,
            residual_stride=1 if residual is None else residual.stride,
            raw=shapes["raw"],
            activated=shapes["activated"],
            normalised=affine is not None,
        ),
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

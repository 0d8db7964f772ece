"""A plan's convolution as kernels: one that lists what its gate keeps, if it has one, and one that computes it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

from lccl.engines.cuda.batch import Batch
from lccl.engines.cuda.executed import Product
from lccl.engines.cuda.kernels.convolution import convolve
from lccl.engines.cuda.kernels.gate import gate_and_compact
from lccl.engines.cuda.kernels.shapes import Output
from lccl.engines.cuda.launch import Kernel, Launch
from lccl.engines.cuda.layout import has_lists
from lccl.engines.cuda.packing import depth_of, filled, pack, pack_gate
from lccl.engines.cuda.tiles import Shape, Tile, Tiles
from lccl.engines.cuda.workspace import Workspace
from lccl.plan.steps import Convolve, Gate

GATE_ROWS = 128  # positions of a gate's tile
GATES_AT_ONCE = 8  # programs of the gate's kernel per multiprocessor
FILLED = 32  # channels of skipped cells that are written at once


class Convolution:
    """One convolution of a plan.

    Attributes:
        step: of the plan.
        shape: what its ``tile`` is chosen by.
        gate: the kernel of its gate.
        kernels: all its kernels in order.

    """

    def __init__(self, step: Convolve, workspace: Workspace, tiles: Tiles) -> None:
        self.step, self._processors = step, workspace.processors
        output, stored = workspace.places[step.writes[0]].map, workspace.places[step.input].map.stored
        kernel, groups = step.weight.shape[2], 0 if step.gate is None else len(step.gate.weight)
        self._layer = step.gate.layer if step.gate is not None and has_lists(step) else None
        self._lists = 1 if self._layer is None else groups
        self._positions, across = output.height * output.width, output.channels // self._lists
        self.shape = Shape(stored, across, kernel, step.stride, output.height, output.width)
        self.tile = tiles.of(self.shape)
        self._arguments = {
            **workspace.reads(step.input, kernel, step.stride),
            **workspace.affine(step.affine),
            **_outputs(step, workspace, step.writes),
            "weight": pack(step.weight, stored, workspace.device, workspace.dtype),
            "active": workspace.active,
            "gate": workspace.gates,
            "listed": workspace.listed,
            "GROUPS": groups,
            "LISTED": self._layer is not None,
            "AFFINE": step.affine is not None,
            "RELU": step.relu,
        }
        macs = depth_of(stored, kernel) * filled(across, self.tile.channels)
        itself = Kernel(self.launch, Product(self._positions, self.tile.rows, macs, self._layer))
        self.gate = None if step.gate is None else gate_kernel(step, step.gate, workspace)
        self.kernels = (itself,) if self.gate is None else (self.gate, itself)

    def launch(self, batch: Batch, tile: Tile | None = None) -> Launch:
        """The convolution alone, in its own tiles or others."""
        tile, rows = tile or self.tile, len(batch) * self._positions
        tiles = -(-rows // tile.rows) * -(-self.shape.channels // tile.channels)
        count = None if self._layer is None else batch.listed[self._layer]
        return Launch(
            convolve,
            (min(tiles, self._processors * (16 // tile.warps)), self._lists),
            {**self._arguments, "count": count, "rows": rows, "BM": tile.rows, "BN": tile.channels},
            warps=tile.warps,
            stages=tile.stages,
        )


def gate_kernel(step: Convolve, gate: Gate, workspace: Workspace) -> Kernel:
    """The gate of one convolution: its kernel lists what it keeps and writes what skipped cells hold."""
    groups, _, kernel, _ = gate.weight.shape
    # As many maps at once as a block of a product has columns for, the two parts of each weight side by side.
    block = next(block for block in (4, 8, 16, 32, 64) if block >= min(groups, 64))
    stored, output = workspace.places[gate.input].map.stored, workspace.places[step.writes[0]].map
    spread, positions = workspace.masks.get(step.writes[0]), output.height * output.width
    arguments = {
        **workspace.reads(gate.input, kernel, step.stride),
        **workspace.affine(gate.affine),
        **_outputs(step, workspace, [name for name in step.writes if workspace.places[name].skipped == "filled"]),
        "weight": pack_gate(gate.weight, stored, block, workspace.device, workspace.dtype),
        "active": workspace.active,
        "gate": workspace.gates,
        "listed": workspace.listed,
        "spread": spread,
        "layer": gate.layer,
        "layers": len(workspace.plan.layers),
        "SPREAD": None if spread is None else replace(output, channels=1, stored=1),
        "GROUPS": groups,
        "GROUP_BLOCK": block,
        "LISTS": has_lists(step),
        "BM": GATE_ROWS,
        "BT": FILLED,
    }

    def launch(batch: Batch) -> Launch:
        tiles = -(-len(batch) * positions // GATE_ROWS)
        return Launch(
            gate_and_compact,
            (min(tiles, workspace.processors * GATES_AT_ONCE), -(-groups // block)),
            {
                **arguments,
                "thresholds": batch.thresholds,
                "forced": None if batch.forced is None else batch.forced[gate.layer],
                "mask": batch.masks[gate.layer],
                "count": batch.listed[gate.layer],
                "kept": batch.kept,
                "rows": len(batch) * positions,
                "FORCED": batch.forced is not None,
            },
        )

    return Kernel(launch, Product(positions, GATE_ROWS, depth_of(stored, kernel) * 2 * filled(groups, block)))


def _outputs(step: Convolve, workspace: Workspace, names: Collection[str]) -> dict[str, Any]:
    """Arguments of a kernel that writes those of a step's outputs."""
    places, raw = workspace.places, step.raw if step.raw in names else None
    activated = step.activated if step.activated is not None and step.activated.buffer in names else None
    residual, whole = step.residual if names else None, places[step.writes[0]].map
    output = Output(
        channels=whole.channels,
        height=whole.height,
        width=whole.width,
        residual=None if residual is None else places[residual.buffer].map,
        residual_stride=1 if residual is None else residual.stride,
        raw=None if raw is None else places[raw].map,
        activated=None if activated is None else places[activated.buffer].map,
        normalised=activated is not None and activated.affine is not None,
    )
    return {
        "OUTPUT": output,
        "residual": None if residual is None else workspace.map(residual.buffer),
        "raw": None if raw is None else workspace.map(raw),
        "activated": None if activated is None else workspace.map(activated.buffer),
        **workspace.affine(None if activated is None else activated.affine, "activated_"),
    }

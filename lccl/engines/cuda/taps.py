"""Shared gates that are formed from their taps: which those are, and how many cells lie under each of their tiles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lccl.engines.cuda.layout import Place
from lccl.engines.cuda.packing import BLOCK, TAP_COLUMNS, filled
from lccl.plan.steps import Convolve, Gate

GATE_ROWS = 128  # positions of a gate's tile


def from_taps(gate: Gate, places: dict[str, Place]) -> bool:
    """Whether a gate's kernel forms it from its taps."""
    groups, _, kernel, _ = gate.weight.shape
    return groups == 1 and kernel**2 <= TAP_COLUMNS and places[gate.input].map.stored % BLOCK == 0


def cells_under_tiles(step: Convolve, gate: Gate, places: dict[str, Place], limit: int) -> NDArray[np.int64]:
    """How many cells, borders counted, the windows of each of a gate's tiles span in a batch of ``limit``."""
    output = places[step.writes[0]].map
    windows = places[gate.input].windows(gate.weight.shape[2], step.stride)

    def first_cell(row: NDArray[np.int64]) -> NDArray[np.int64]:
        image, within = np.divmod(row, output.height * output.width)
        y, x = np.divmod(within, output.width)
        cell: NDArray[np.int64] = (image * windows.height + y * step.stride) * windows.pitch + x * step.stride
        return cell

    first = np.arange(-(-limit * output.height * output.width // GATE_ROWS)) * GATE_ROWS
    under_window = (windows.kernel - 1) * (windows.pitch + 1) + 1
    return first_cell(first + GATE_ROWS - 1) - first_cell(first) + under_window


def room_for_taps(step: Convolve, gate: Gate, places: dict[str, Place], limit: int) -> int:
    """Cells that each of the gate's programs keeps products of; 0 where they are not formed from taps."""
    if not from_taps(gate, places):
        return 0
    return filled(int(cells_under_tiles(step, gate, places, limit).max()), BLOCK)

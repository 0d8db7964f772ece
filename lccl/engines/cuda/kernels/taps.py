"""A shared gate from its taps: each input cell's product with every tap is formed once, then added up shifted."""

from __future__ import annotations

import triton
import triton.language as tl

from lccl.engines.cuda import packing
from lccl.engines.cuda.kernels.rows import first_cell

TAP_COLUMNS, CELL_ROWS = tl.constexpr(packing.TAP_COLUMNS), tl.constexpr(packing.TAP_CELLS)


@triton.jit
def tap_products(
    x, x_mask, weight, products, first, cells, WINDOWS: tl.constexpr, CELLS: tl.constexpr
):  # fmt: skip
    """Products of ``cells`` neighbouring cells of a padded map from ``first`` on, to ``products`` [K · K, CELLS].

    So a cell is read once and not once per tap. The weight, [STORED, 2 · TAP_COLUMNS], holds what 16 bits take of each
    value and what they leave.
    """
    STORED: tl.constexpr = WINDOWS.stored
    BK: tl.constexpr = WINDOWS.block
    k, tap = tl.arange(0, BK), tl.arange(0, TAP_COLUMNS)
    for start in range(0, cells, CELL_ROWS):
        place = start + tl.arange(0, CELL_ROWS)
        there = place < cells
        cell = first + place
        read = there
        if WINDOWS.masked:
            read = there & (tl.load(x_mask + cell, mask=there, other=0) != 0)
        sums = tl.zeros((CELL_ROWS, TAP_COLUMNS), dtype=tl.float32)
        for block in range(0, STORED, BK):
            at = x + cell[:, None] * STORED + (block + k)[None, :]
            values = tl.load(at, mask=tl.broadcast_to(read[:, None], (CELL_ROWS, BK)), other=0.0)
            weights = weight + (block + k)[:, None] * (2 * TAP_COLUMNS) + tap[None, :]
            sums = tl.dot(values, tl.load(weights + TAP_COLUMNS), sums)
            sums = tl.dot(values, tl.load(weights), sums)
        to = products + tap[None, :] * CELLS + place[:, None]
        tl.store(to, sums, mask=there[:, None] & (tap < WINDOWS.kernel * WINDOWS.kernel)[None, :])


@triton.jit
def gate_from_taps(
    x, x_mask, weight, products, image, y, at, inside, there, WINDOWS: tl.constexpr, CELLS: tl.constexpr,
    BM: tl.constexpr,
):  # fmt: skip
    """The gate's convolution at positions that are ``there``, float32 [BM]; ``products`` is this program's own room.

    ``inside`` are all of the tile's positions, of images that have left too: what it spans does not depend on these.

    What the program's threads store there they read after a barrier of the program, which orders its own global
    accesses; the loads are ordinary ones, through the same L1 cache as the stores.
    """
    K: tl.constexpr = WINDOWS.kernel
    corner = first_cell(image, y, at, WINDOWS)
    first = tl.min(corner, axis=0)
    last = tl.max(tl.where(inside, corner, 0), axis=0) + (K - 1) * (WINDOWS.pitch + 1)
    cells = (last - first + 1) * tl.max(there.to(tl.int32), axis=0)
    tl.debug_barrier()  # the room's last use is over
    tap_products(x, x_mask, weight, products, first, cells, WINDOWS, CELLS)
    tl.debug_barrier()
    total = tl.zeros((BM,), dtype=tl.float32)
    for tap in tl.static_range(K * K):
        under = corner - first + tap // K * WINDOWS.pitch + tap % K
        total += tl.load(products + tap * CELLS + under, mask=there, other=0.0)
    return total

"""Largest values under windows, and means over parts of a map."""

from __future__ import annotations

import triton
import triton.language as tl

from lccl.engines.cuda.kernels.rows import offset, position


@triton.jit(do_not_specialize=["rows"])
def max_pool(
    x, out, rows,
    FROM: tl.constexpr, TO: tl.constexpr, K: tl.constexpr, STRIDE: tl.constexpr, BM: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """One program: ``BM`` output positions × ``BT`` channels; what lies outside the map never wins."""
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    channel = tl.program_id(1) * BT + tl.arange(0, BT)
    inside = (row < rows)[:, None] & (channel < TO.channels)[None, :]
    image, y, at = position(row, TO.height, TO.width)
    largest = tl.full((BM, BT), float("-inf"), dtype=tl.float32)
    for tap in range(0, K * K):
        from_y, from_x = y * STRIDE + tap // K - K // 2, at * STRIDE + tap % K - K // 2
        within = (from_y >= 0) & (from_y < FROM.height) & (from_x >= 0) & (from_x < FROM.width)
        place = offset(image, from_y, from_x, FROM)
        read = inside & within[:, None]
        value = tl.load(x + place[:, None] + channel[None, :], mask=read, other=float("-inf"))
        largest = tl.maximum(largest, value.to(tl.float32))
    place = offset(image, y, at, TO)
    tl.store(out + place[:, None] + channel[None, :], largest.to(out.dtype.element_ty), mask=inside)


@triton.jit
def average_pool(x, out, FROM: tl.constexpr, GRID: tl.constexpr, BT: tl.constexpr):
    """One program: an image's part of the map × ``BT`` channels, summed in one order; features [batch, GRID², C]."""
    image, part = tl.program_id(0), tl.program_id(1)
    channel = tl.program_id(2) * BT + tl.arange(0, BT)
    is_channel = channel < FROM.channels
    top, bottom = part // GRID * FROM.height // GRID, ((part // GRID + 1) * FROM.height + GRID - 1) // GRID
    begin, end = part % GRID * FROM.width // GRID, ((part % GRID + 1) * FROM.width + GRID - 1) // GRID
    total = tl.zeros((BT,), dtype=tl.float32)
    for y in range(top, bottom):
        for at in range(begin, end):
            place = offset(image, y, at, FROM)
            total += tl.load(x + place + channel, mask=is_channel, other=0.0).to(tl.float32)
    mean = total / ((bottom - top) * (end - begin))
    tl.store(out + (image * GRID * GRID + part) * FROM.channels + channel, mean, mask=is_channel)

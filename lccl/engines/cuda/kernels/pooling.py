"""Largest values under windows, and means over parts of a map."""

from __future__ import annotations

import triton
import triton.language as tl

from lccl.engines.cuda.kernels.rows import position


@triton.jit(do_not_specialize=["rows"])
def max_pool(
    x, out, rows,
    CHANNELS: tl.constexpr, STORED: tl.constexpr, IN_HEIGHT: tl.constexpr, IN_WIDTH: tl.constexpr,
    IN_BORDER: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, OUT_STORED: tl.constexpr,
    OUT_BORDER: tl.constexpr, K: tl.constexpr, STRIDE: tl.constexpr, BM: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """One program: ``BM`` output positions × ``BT`` channels; what lies outside the map never wins."""
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    channel = tl.program_id(1) * BT + tl.arange(0, BT)
    inside = (row < rows)[:, None] & (channel < CHANNELS)[None, :]
    image, y, at = position(row, HEIGHT, WIDTH)
    largest = tl.full((BM, BT), float("-inf"), dtype=tl.float32)
    for tap in range(0, K * K):
        from_y, from_x = y * STRIDE + tap // K - K // 2, at * STRIDE + tap % K - K // 2
        within = (from_y >= 0) & (from_y < IN_HEIGHT) & (from_x >= 0) & (from_x < IN_WIDTH)
        from_row = (image * (IN_HEIGHT + 2 * IN_BORDER) + from_y + IN_BORDER) * (IN_WIDTH + 2 * IN_BORDER)
        from_row = (from_row + from_x + IN_BORDER) * STORED
        read = inside & within[:, None]
        value = tl.load(x + from_row[:, None] + channel[None, :], mask=read, other=float("-inf"))
        largest = tl.maximum(largest, value.to(tl.float32))
    to_row = (image * (HEIGHT + 2 * OUT_BORDER) + y + OUT_BORDER) * (WIDTH + 2 * OUT_BORDER)
    to_row = (to_row + at + OUT_BORDER) * OUT_STORED
    tl.store(out + to_row[:, None] + channel[None, :], largest.to(out.dtype.element_ty), mask=inside)


@triton.jit
def average_pool(
    x, out,
    CHANNELS: tl.constexpr, STORED: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, BORDER: tl.constexpr,
    GRID: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """One program: an image's part of the map × ``BT`` channels, summed in one order; features [batch, GRID², C]."""
    image, part = tl.program_id(0), tl.program_id(1)
    channel = tl.program_id(2) * BT + tl.arange(0, BT)
    is_channel = channel < CHANNELS
    top, bottom = part // GRID * HEIGHT // GRID, ((part // GRID + 1) * HEIGHT + GRID - 1) // GRID
    begin, end = part % GRID * WIDTH // GRID, ((part % GRID + 1) * WIDTH + GRID - 1) // GRID
    total = tl.zeros((BT,), dtype=tl.float32)
    for y in range(top, bottom):
        for at in range(begin, end):
            from_row = (image * (HEIGHT + 2 * BORDER) + y + BORDER) * (WIDTH + 2 * BORDER) + at + BORDER
            total += tl.load(x + from_row * STORED + channel, mask=is_channel, other=0.0).to(tl.float32)
    mean = total / ((bottom - top) * (end - begin))
    tl.store(out + (image * GRID * GRID + part) * CHANNELS + channel, mean, mask=is_channel)

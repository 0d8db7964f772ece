"""The convolution over listed positions, or over all of them: one matrix product with the whole step's epilogue."""

from __future__ import annotations

import triton
import triton.language as tl

from lccl.engines.cuda.kernels.rows import finish, load_affine, position, window


@triton.jit(do_not_specialize=["rows"])
def convolve(
    x, x_mask, weight, scale, shift, norm_set, active,
    gate, mask, listed, count,
    residual, raw, activated, activated_scale, activated_shift,
    rows,
    STORED: tl.constexpr, K: tl.constexpr, STRIDE: tl.constexpr, BK: tl.constexpr,
    IN_HEIGHT: tl.constexpr, IN_PITCH: tl.constexpr, IN_SHIFT: tl.constexpr, MASKED: tl.constexpr,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, SETS: tl.constexpr,
    LISTED: tl.constexpr, GROUPS: tl.constexpr, CELLS: tl.constexpr, AFFINE: tl.constexpr, RELU: tl.constexpr,
    RESIDUAL: tl.constexpr, RESIDUAL_STRIDE: tl.constexpr, RESIDUAL_CHANNELS: tl.constexpr,
    RESIDUAL_STORED: tl.constexpr, RESIDUAL_HEIGHT: tl.constexpr, RESIDUAL_PITCH: tl.constexpr,
    RESIDUAL_BORDER: tl.constexpr,
    RAW: tl.constexpr, RAW_STORED: tl.constexpr, RAW_BORDER: tl.constexpr,
    ACTIVATED: tl.constexpr, ACTIVATED_STORED: tl.constexpr, ACTIVATED_BORDER: tl.constexpr,
    ACTIVATED_AFFINE: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """A fixed number of programs take tiles of ``BM`` rows × ``BN`` channels until there are none left.

    With LISTED, the rows of group ``program_id(1)`` are the first ``count`` of its list, a number that is read here, on
    the device. Without, they are all positions, and the same sums are formed for them.

    GROUPS is 0 without a gate. Only kept cells are written, but with CELLS (a gate per few channels, which no list of
    rows can follow) all are.
    """
    group = tl.program_id(1)
    lists: tl.constexpr = GROUPS if LISTED and GROUPS > 0 else 1
    SHARE: tl.constexpr = CHANNELS // lists
    ACROSS: tl.constexpr = (SHARE + BN - 1) // BN
    total = rows
    if LISTED:
        total = tl.load(count + group)
    tiles = tl.cdiv(total, BM) * ACROSS
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        number = (tile // ACROSS) * BM + tl.arange(0, BM)
        there = number < total
        row = number
        if LISTED:
            row = tl.load(listed + group * rows + number, mask=there, other=0)
        image, y, at = position(row, HEIGHT, WIDTH)
        if not LISTED:
            there = there & (tl.load(active + image, mask=there, other=0) != 0)
        within = (tile % ACROSS) * BN + tl.arange(0, BN)
        channel = group * SHARE + within
        is_channel = within < SHARE
        work = tl.max(there.to(tl.int32), axis=0)
        value = window(
            x, x_mask, weight + group * SHARE, image, y, at, there, work, CHANNELS, within, is_channel,
            STORED, K, STRIDE, BK, IN_HEIGHT, IN_PITCH, IN_SHIFT, MASKED, BM, BN, SHARE % BN == 0,
        )  # fmt: skip
        if AFFINE:
            a, b = load_affine(scale, shift, norm_set, image, there, channel, is_channel, CHANNELS, SETS)
            value = value * a + b
        if RELU:
            value = tl.maximum(value, 0.0)
        write = there[:, None] & is_channel[None, :]
        if GROUPS > 0:
            of_group = channel // (CHANNELS // GROUPS)
            if LISTED or GROUPS == 1:
                factor = tl.load(gate + row * GROUPS + group, mask=there, other=0.0)[:, None]
            else:
                factor = tl.load(gate + row[:, None] * GROUPS + of_group[None, :], mask=write, other=0.0)
            value = value * factor
            if not LISTED:
                if GROUPS == 1:
                    keep = (tl.load(mask + row, mask=there, other=0) != 0)[:, None]
                else:
                    cell = (image * GROUPS * HEIGHT * WIDTH + y * WIDTH + at)[:, None]
                    cell = cell + (of_group * (HEIGHT * WIDTH))[None, :]
                    keep = tl.load(mask + cell, mask=write, other=0) != 0
                if CELLS:
                    value = tl.where(keep, value, 0.0)
                else:
                    write = write & keep
        finish(
            value, image, y, at, there, channel, write, norm_set,
            residual, raw, activated, activated_scale, activated_shift,
            HEIGHT, WIDTH, CHANNELS, SETS,
            RESIDUAL, RESIDUAL_STRIDE, RESIDUAL_CHANNELS,
            RESIDUAL_STORED, RESIDUAL_HEIGHT, RESIDUAL_PITCH, RESIDUAL_BORDER,
            RAW, RAW_STORED, RAW_BORDER, ACTIVATED, ACTIVATED_STORED, ACTIVATED_BORDER, ACTIVATED_AFFINE,
        )  # fmt: skip

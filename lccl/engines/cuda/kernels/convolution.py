"""The convolution over listed positions, or over all of them: one matrix product with the whole step's epilogue."""

from __future__ import annotations

import triton
import triton.language as tl

from lccl.engines.cuda.kernels.rows import finish, normalise, position, window


@triton.jit(do_not_specialize=["rows"])
def convolve(
    x, x_mask, weight, scale, shift, active, gate, listed, count,
    residual, raw, activated, activated_scale, activated_shift, rows,
    WINDOWS: tl.constexpr, OUTPUT: tl.constexpr, GROUPS: tl.constexpr, LISTED: tl.constexpr,
    AFFINE: tl.constexpr, RELU: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """A fixed number of programs take tiles of ``BM`` rows × ``BN`` channels until there are none left.

    With LISTED, the rows of group ``program_id(1)`` are the first ``count`` of its list, a number that is read here, on
    the device. Without, they are all positions of active images: there is no gate (GROUPS 0), or one with so few
    channels a group that no list of rows can follow it, and skipped cells become 0.
    """
    group = tl.program_id(1)
    SHARE: tl.constexpr = OUTPUT.channels // GROUPS if LISTED else OUTPUT.channels
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
        image, y, at = position(row, OUTPUT.height, OUTPUT.width)
        if not LISTED:
            there = there & (tl.load(active + image, mask=there, other=0) != 0)
        within = (tile % ACROSS) * BN + tl.arange(0, BN)
        channel = group * SHARE + within
        is_channel = within < SHARE
        work = tl.max(there.to(tl.int32), axis=0)
        value = window(
            x, x_mask, weight + group * SHARE, image, y, at, there, work, OUTPUT.channels, within, is_channel,
            WINDOWS, BM, BN, SHARE % BN == 0,
        )  # fmt: skip
        if AFFINE:
            value = normalise(value, scale, shift, channel, is_channel)
        if RELU:
            value = tl.maximum(value, 0.0)
        write = there[:, None] & is_channel[None, :]
        if LISTED:
            value = value * tl.load(gate + row * GROUPS + group, mask=there, other=0.0)[:, None]
        elif GROUPS > 0:
            of_group = channel // (OUTPUT.channels // GROUPS)
            factor = tl.load(gate + row[:, None] * GROUPS + of_group[None, :], mask=write, other=0.0)
            value = tl.where(factor > 0, value * factor, 0.0)
        finish(value, image, y, at, channel, write, residual, raw, activated, activated_scale, activated_shift, OUTPUT)

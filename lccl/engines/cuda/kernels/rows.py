"""What the gate's and the convolution's kernel share: rows of a matrix product that are positions of a map."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def position(row, HEIGHT: tl.constexpr, WIDTH: tl.constexpr):
    """Row number → image, y, x."""
    image = row // (HEIGHT * WIDTH)
    within = row % (HEIGHT * WIDTH)
    return image, within // WIDTH, within % WIDTH


@triton.jit
def load_affine(scale, shift, norm_set, image, there, channel, is_channel, CHANNELS: tl.constexpr, SETS: tl.constexpr):
    """Scale and shift of each row's normalisation set: [1, channels] with one set, else [rows, channels]."""
    if SETS == 1:
        at = channel[None, :]
        mask = is_channel[None, :]
    else:
        at = (tl.load(norm_set + image, mask=there, other=0) * CHANNELS)[:, None] + channel[None, :]
        mask = there[:, None] & is_channel[None, :]
    return tl.load(scale + at, mask=mask, other=0.0), tl.load(shift + at, mask=mask, other=0.0)


@triton.jit
def window(
    x, x_mask, weight, image, y, at, there, work, columns, column, is_column,
    STORED: tl.constexpr, K: tl.constexpr, STRIDE: tl.constexpr, BK: tl.constexpr,
    IN_HEIGHT: tl.constexpr, IN_PITCH: tl.constexpr, IN_SHIFT: tl.constexpr, MASKED: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """The windows under rows times a block of the weight's columns: float32 [BM, BN].

    A window is K runs of K · STORED neighbouring values; each is read in blocks of BK, in the same order for every
    row. With MASKED, what a producer skipped is not read: it is 0. ``IN_SHIFT`` is the border less K // 2. ``work`` 0
    leaves everything out. WHOLE says that the weight has all BN columns.
    """
    RUN: tl.constexpr = K * STORED
    BLOCKS: tl.constexpr = (RUN + BK - 1) // BK
    corner = (image * IN_HEIGHT + y * STRIDE + IN_SHIFT) * IN_PITCH + at * STRIDE + IN_SHIFT
    k = tl.arange(0, BK)
    # The loop adds one number to each operand's addresses, and looks at no mask in memory: a load that others wait
    # for, or a change of layout, would hold up every step.
    offsets = (corner * STORED)[:, None] + k[None, :]
    weight_offsets = k[:, None] * columns + column[None, :]
    sums = tl.zeros((BM, BN), dtype=tl.float32)
    if MASKED:
        tl.static_assert(K * K <= 32, "a bit for each tap")
        taps = tl.zeros((BM,), dtype=tl.int32)
        for tap in tl.static_range(K * K):
            kept = tl.load(x_mask + corner + tap // K * IN_PITCH + tap % K, mask=there, other=0) != 0
            taps |= kept.to(tl.int32) << tap
        taps = taps[:, None]
    for step in range(0, K * BLOCKS * work):
        tap_row = step // BLOCKS
        run = (step % BLOCKS) * BK
        read = tl.broadcast_to(there[:, None], (BM, BK))
        if MASKED:
            read = tl.broadcast_to(taps, (BM, BK)) >> (tap_row * K + run // STORED) & 1 != 0
        elif RUN % BK != 0:
            read = read & (run + k < RUN)[None, :]
        # Neighbouring taps read the same cells again: from the L1 cache, which asynchronous copies else pass by.
        at_values = x + (tap_row * IN_PITCH * STORED + run) + offsets
        values = tl.load(at_values, mask=read, other=0.0, cache_modifier=".ca")
        at_weights = weight + step * BK * columns + weight_offsets
        if WHOLE:
            weights = tl.load(at_weights)
        else:
            weights = tl.load(at_weights, mask=tl.broadcast_to(is_column[None, :], (BK, BN)), other=0.0)
        sums = tl.dot(values, weights, sums)
    return sums


@triton.jit
def finish(
    value, image, y, at, there, channel, write, norm_set,
    residual, raw, activated, activated_scale, activated_shift,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, SETS: tl.constexpr,
    RESIDUAL: tl.constexpr, RESIDUAL_STRIDE: tl.constexpr, RESIDUAL_CHANNELS: tl.constexpr,
    RESIDUAL_STORED: tl.constexpr, RESIDUAL_HEIGHT: tl.constexpr, RESIDUAL_PITCH: tl.constexpr,
    RESIDUAL_BORDER: tl.constexpr,
    RAW: tl.constexpr, RAW_STORED: tl.constexpr, RAW_BORDER: tl.constexpr,
    ACTIVATED: tl.constexpr, ACTIVATED_STORED: tl.constexpr, ACTIVATED_BORDER: tl.constexpr,
    ACTIVATED_AFFINE: tl.constexpr,
):  # fmt: skip
    """Add the residual to ``value`` [rows, channels], and write where ``write`` says so what the step keeps of it."""
    if RESIDUAL:
        from_row = (image * RESIDUAL_HEIGHT + y * RESIDUAL_STRIDE + RESIDUAL_BORDER) * RESIDUAL_PITCH
        from_row = (from_row + at * RESIDUAL_STRIDE + RESIDUAL_BORDER) * RESIDUAL_STORED
        has = write & (channel < RESIDUAL_CHANNELS)[None, :]
        value += tl.load(residual + from_row[:, None] + channel[None, :], mask=has, other=0.0).to(tl.float32)
    if RAW:
        to_row = (image * (HEIGHT + 2 * RAW_BORDER) + y + RAW_BORDER) * (WIDTH + 2 * RAW_BORDER)
        to_row = (to_row + at + RAW_BORDER) * RAW_STORED
        tl.store(raw + to_row[:, None] + channel[None, :], value.to(raw.dtype.element_ty), mask=write)
    if ACTIVATED:
        if ACTIVATED_AFFINE:
            is_channel = channel < CHANNELS
            scale, shift = load_affine(
                activated_scale, activated_shift, norm_set, image, there, channel, is_channel, CHANNELS, SETS
            )
            value = value * scale + shift
        value = tl.maximum(value, 0.0)
        to_row = (image * (HEIGHT + 2 * ACTIVATED_BORDER) + y + ACTIVATED_BORDER) * (WIDTH + 2 * ACTIVATED_BORDER)
        to_row = (to_row + at + ACTIVATED_BORDER) * ACTIVATED_STORED
        tl.store(activated + to_row[:, None] + channel[None, :], value.to(activated.dtype.element_ty), mask=write)

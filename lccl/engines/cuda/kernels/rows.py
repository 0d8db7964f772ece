"""What the kernels share: positions of maps as rows of a matrix product, their windows, and the epilogue."""

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
def offset(image, y, at, MAP: tl.constexpr):
    """Where a position's channels start in a map (``shapes.Map``)."""
    HEIGHT: tl.constexpr = MAP.height + 2 * MAP.border
    PITCH: tl.constexpr = MAP.width + 2 * MAP.border
    return ((image * HEIGHT + y + MAP.border) * PITCH + at + MAP.border) * MAP.stored


@triton.jit
def normalise(value, scale, shift, channel, is_channel):
    """``scale · value + shift`` per channel of value [rows, channels]."""
    a = tl.load(scale + channel, mask=is_channel, other=0.0)
    b = tl.load(shift + channel, mask=is_channel, other=0.0)
    return value * a[None, :] + b[None, :]


@triton.jit
def window(
    x, x_mask, weight, image, y, at, there, work, columns, column, is_column,
    WINDOWS: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """The windows under rows times a block of the weight's columns: float32 [BM, BN].

    A window (``shapes.Windows``) is K runs of K · STORED neighbouring values; each is read in blocks of BK, in the same
    order for every row. ``work`` 0 leaves everything out. WHOLE says that the weight has all BN columns.
    """
    K: tl.constexpr = WINDOWS.kernel
    STORED: tl.constexpr = WINDOWS.stored
    PITCH: tl.constexpr = WINDOWS.pitch
    BK: tl.constexpr = WINDOWS.block
    RUN: tl.constexpr = K * STORED
    BLOCKS: tl.constexpr = (RUN + BK - 1) // BK
    corner = first_cell(image, y, at, WINDOWS)
    k = tl.arange(0, BK)
    # The loop adds one number to each operand's addresses, and looks at no mask in memory: a load that others wait
    # for, or a change of layout, would hold up every step.
    offsets = (corner * STORED)[:, None] + k[None, :]
    weight_offsets = k[:, None] * columns + column[None, :]
    sums = tl.zeros((BM, BN), dtype=tl.float32)
    if WINDOWS.masked:
        tl.static_assert(K * K <= 32, "a bit for each tap")
        taps = tl.zeros((BM,), dtype=tl.int32)
        for tap in tl.static_range(K * K):
            kept = tl.load(x_mask + corner + tap // K * PITCH + tap % K, mask=there, other=0) != 0
            taps |= kept.to(tl.int32) << tap
        taps = taps[:, None]
    for step in range(0, K * BLOCKS * work):
        tap_row = step // BLOCKS
        run = (step % BLOCKS) * BK
        read = tl.broadcast_to(there[:, None], (BM, BK))
        if WINDOWS.masked:
            read = tl.broadcast_to(taps, (BM, BK)) >> (tap_row * K + run // STORED) & 1 != 0
        elif RUN % BK != 0:
            read = read & (run + k < RUN)[None, :]
        # Neighbouring taps read the same cells again: from the L1 cache, which asynchronous copies else pass by.
        at_values = x + (tap_row * PITCH * STORED + run) + offsets
        values = tl.load(at_values, mask=read, other=0.0, cache_modifier=".ca")
        at_weights = weight + step * BK * columns + weight_offsets
        if WHOLE:
            weights = tl.load(at_weights)
        else:
            weights = tl.load(at_weights, mask=tl.broadcast_to(is_column[None, :], (BK, BN)), other=0.0)
        sums = tl.dot(values, weights, sums)
    return sums


@triton.jit
def first_cell(image, y, at, WINDOWS: tl.constexpr):
    """The number of the map's cell, borders counted, under the first tap of each position's window."""
    row = image * WINDOWS.height + y * WINDOWS.stride + WINDOWS.shift
    return row * WINDOWS.pitch + at * WINDOWS.stride + WINDOWS.shift


@triton.jit
def finish(
    value, image, y, at, channel, write, residual, raw, activated, activated_scale, activated_shift,
    OUTPUT: tl.constexpr,
):  # fmt: skip
    """Add the residual to ``value`` [rows, channels], and write it as ``shapes.Output`` says where ``write`` is set."""
    FROM: tl.constexpr = OUTPUT.residual
    RAW: tl.constexpr = OUTPUT.raw
    ACTIVATED: tl.constexpr = OUTPUT.activated
    if FROM is not None:
        place = offset(image, y * OUTPUT.residual_stride, at * OUTPUT.residual_stride, FROM)
        has = write & (channel < FROM.channels)[None, :]
        value += tl.load(residual + place[:, None] + channel[None, :], mask=has, other=0.0).to(tl.float32)
    if RAW is not None:
        place = offset(image, y, at, RAW)
        tl.store(raw + place[:, None] + channel[None, :], value.to(raw.dtype.element_ty), mask=write)
    if ACTIVATED is not None:
        if OUTPUT.normalised:
            value = normalise(value, activated_scale, activated_shift, channel, channel < OUTPUT.channels)
        value = tl.maximum(value, 0.0)
        place = offset(image, y, at, ACTIVATED)
        tl.store(activated + place[:, None] + channel[None, :], value.to(activated.dtype.element_ty), mask=write)

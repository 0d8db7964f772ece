"""The gate: its convolution, the threshold test, the list of kept positions and what skipped cells hold, in one go."""

from __future__ import annotations

import triton
import triton.language as tl

from lccl.engines.cuda.kernels.rows import finish, load_affine, position, window
from lccl.engines.cuda.kernels.taps import gate_from_taps


@triton.jit(do_not_specialize=["rows", "layer", "layers"])
def gate_and_compact(
    x, x_mask, weight, scale, shift, thresholds, norm_set, active, forced,
    gate, mask, spread_mask, listed, count, kept,
    residual, raw, activated, activated_scale, activated_shift,
    products, rows, layer, layers,
    STORED: tl.constexpr, K: tl.constexpr, STRIDE: tl.constexpr, BK: tl.constexpr,
    IN_HEIGHT: tl.constexpr, IN_PITCH: tl.constexpr, IN_SHIFT: tl.constexpr, MASKED: tl.constexpr,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, GROUPS: tl.constexpr, GROUP_BLOCK: tl.constexpr, SETS: tl.constexpr,
    FORCED: tl.constexpr, LISTS: tl.constexpr, CHANNELS: tl.constexpr, SPREAD: tl.constexpr,
    RESIDUAL: tl.constexpr, RESIDUAL_STRIDE: tl.constexpr, RESIDUAL_CHANNELS: tl.constexpr,
    RESIDUAL_STORED: tl.constexpr, RESIDUAL_HEIGHT: tl.constexpr, RESIDUAL_PITCH: tl.constexpr,
    RESIDUAL_BORDER: tl.constexpr,
    RAW: tl.constexpr, RAW_STORED: tl.constexpr, RAW_BORDER: tl.constexpr,
    ACTIVATED: tl.constexpr, ACTIVATED_STORED: tl.constexpr, ACTIVATED_BORDER: tl.constexpr,
    ACTIVATED_AFFINE: tl.constexpr,
    CELLS: tl.constexpr, BM: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """Programs take ``BM`` output positions and ``GROUP_BLOCK`` of the gate's maps at a time until there are none left.

    With CELLS, the gate is a shared one that is formed from its taps, see ``gate_from_taps``; a program's room for them
    is [K · K, CELLS] of ``products``. Else the weight, [runs, 2 · GROUP_BLOCK] per block of groups, holds what 16 bits
    take of each value and what they leave, side by side, so that the matrix units give gates at float32's accuracy.

    With LISTS, kept positions go to ``listed`` [GROUPS, rows] at a place that an atomic addition to ``count`` [GROUPS]
    reserves. Their order differs from run to run; nothing that is computed from a row depends on it. With SPREAD, the
    mask is laid down a second time with the border of the map that it stands for.
    """
    block = tl.program_id(1)
    products += tl.program_id(0) * K * K * CELLS
    for tile in range(tl.program_id(0), tl.cdiv(rows, BM), tl.num_programs(0)):
        row = tile * BM + tl.arange(0, BM)
        there = row < rows
        image, y, at = position(row, HEIGHT, WIDTH)
        there = there & (tl.load(active + image, mask=there, other=0) != 0)
        groups = block * GROUP_BLOCK + tl.arange(0, GROUP_BLOCK)
        is_group = groups < GROUPS
        if CELLS > 0:
            maps = gate_from_taps(
                x, x_mask, weight, products, image, y, at, row < rows, there,
                STORED, K, STRIDE, BK, IN_HEIGHT, IN_PITCH, IN_SHIFT, MASKED, CELLS, BM,
            )[:, None]  # fmt: skip
        else:
            pair = tl.arange(0, 2 * GROUP_BLOCK)
            columns: tl.constexpr = (GROUPS + GROUP_BLOCK - 1) // GROUP_BLOCK * 2 * GROUP_BLOCK
            work = tl.max(there.to(tl.int32), axis=0)
            pairs = window(
                x, x_mask, weight + block * 2 * GROUP_BLOCK, image, y, at, there, work, columns, pair, pair >= 0,
                STORED, K, STRIDE, BK, IN_HEIGHT, IN_PITCH, IN_SHIFT, MASKED, BM, 2 * GROUP_BLOCK, True,
            )  # fmt: skip
            maps = tl.sum(tl.reshape(pairs, (BM, 2, GROUP_BLOCK)), axis=1)
        gate_scale, gate_shift = load_affine(scale, shift, norm_set, image, there, groups, is_group, GROUPS, SETS)
        maps = tl.maximum(maps * gate_scale + gate_shift, 0.0)
        cell = (image * GROUPS * HEIGHT * WIDTH + y * WIDTH + at)[:, None] + (groups * HEIGHT * WIDTH)[None, :]
        inside = there[:, None] & is_group[None, :]
        if FORCED:
            keep = inside & (tl.load(forced + cell, mask=inside, other=0) != 0)
        else:
            keep = inside & (maps > tl.load(thresholds + image * layers + layer, mask=there, other=0.0)[:, None])
        tl.store(gate + row[:, None] * GROUPS + groups[None, :], maps, mask=inside)
        tl.store(mask + cell, keep.to(tl.uint8), mask=(row < rows)[:, None] & is_group[None, :])
        ones = keep.to(tl.int32)

        first = tl.min(image, axis=0)
        last = tl.max(tl.where(row < rows, image, 0), axis=0)
        kept_here = tl.sum(ones, axis=1)
        for number in range(first, last + 1):
            cells = tl.sum(tl.where(image == number, kept_here, 0), axis=0) * (CHANNELS // GROUPS)
            tl.atomic_add(kept + number * layers + layer, cells, sem="relaxed")

        if LISTS:
            base = tl.atomic_add(count + groups, tl.sum(ones, axis=0), mask=is_group, sem="relaxed")
            place = base[None, :] + tl.cumsum(ones, axis=0) - 1
            tl.store(
                listed + groups[None, :] * rows + place, tl.broadcast_to(row[:, None], (BM, GROUP_BLOCK)), mask=keep
            )
        if SPREAD >= 0:
            pitch = WIDTH + 2 * SPREAD
            spread = (image * (HEIGHT + 2 * SPREAD) + y + SPREAD) * pitch + at + SPREAD
            tl.store(spread_mask + spread, tl.sum(ones, axis=1).to(tl.uint8), mask=row < rows)
        if RAW or ACTIVATED:
            for group in tl.static_range(GROUPS):
                skipped = there & (tl.sum(tl.where((groups == group)[None, :], ones, 0), axis=1) == 0)
                for start in range(group * (CHANNELS // GROUPS), (group + 1) * (CHANNELS // GROUPS), BT):
                    channel = start + tl.arange(0, BT)
                    is_channel = channel < (group + 1) * (CHANNELS // GROUPS)
                    write = skipped[:, None] & is_channel[None, :]
                    nothing = tl.zeros((BM, BT), dtype=tl.float32)
                    finish(
                        nothing, image, y, at, there, channel, write, norm_set,
                        residual, raw, activated, activated_scale, activated_shift,
                        HEIGHT, WIDTH, CHANNELS, SETS,
                        RESIDUAL, RESIDUAL_STRIDE, RESIDUAL_CHANNELS,
                        RESIDUAL_STORED, RESIDUAL_HEIGHT, RESIDUAL_PITCH, RESIDUAL_BORDER,
                        RAW, RAW_STORED, RAW_BORDER, ACTIVATED, ACTIVATED_STORED, ACTIVATED_BORDER, ACTIVATED_AFFINE,
                    )  # fmt: skip

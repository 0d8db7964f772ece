"""The gate: its convolution, the threshold test, the list of kept positions and what skipped cells hold, in one go."""

from __future__ import annotations

import triton
import triton.language as tl

from lccl.engines.cuda.kernels.rows import finish, normalise, offset, position, window
from lccl.engines.cuda.kernels.taps import gate_from_taps


@triton.jit(do_not_specialize=["rows", "layer", "layers"])
def gate_and_compact(
    x, x_mask, weight, scale, shift, thresholds, active, forced,
    gate, mask, spread, listed, count, kept, products,
    residual, raw, activated, activated_scale, activated_shift, rows, layer, layers,
    WINDOWS: tl.constexpr, OUTPUT: tl.constexpr, SPREAD: tl.constexpr, GROUPS: tl.constexpr,
    GROUP_BLOCK: tl.constexpr, LISTS: tl.constexpr, FORCED: tl.constexpr, CELLS: tl.constexpr, BM: tl.constexpr,
    BT: tl.constexpr,
):  # fmt: skip
    """Programs take ``BM`` output positions and ``GROUP_BLOCK`` of the gate's maps at a time until there are none left.

    With CELLS, the gate is a shared one that is formed from its taps, see ``gate_from_taps``; a program's room for them
    is [K · K, CELLS] of ``products``. Else the weight, [runs, 2 · GROUP_BLOCK] per block of groups, holds what 16 bits
    take of each value and what they leave, side by side, so that the matrix units give gates at float32's accuracy.

    ``gate`` [rows, GROUPS] becomes the gate's value, 0 where it is not kept. With LISTS, kept positions go to
    ``listed`` [GROUPS, rows] at a place that an atomic addition to ``count`` [GROUPS] reserves. Their order differs
    from run to run; nothing that is computed from a row depends on it. With a map SPREAD, whose skipped cells stay
    unwritten, its mask is laid down with its borders. Outputs in OUTPUT have their skipped cells written.
    """
    block = tl.program_id(1)
    SHARE: tl.constexpr = OUTPUT.channels // GROUPS
    PLANE: tl.constexpr = OUTPUT.height * OUTPUT.width
    for tile in range(tl.program_id(0), tl.cdiv(rows, BM), tl.num_programs(0)):
        row = tile * BM + tl.arange(0, BM)
        inside = row < rows
        image, y, at = position(row, OUTPUT.height, OUTPUT.width)
        there = inside & (tl.load(active + image, mask=inside, other=0) != 0)
        groups = block * GROUP_BLOCK + tl.arange(0, GROUP_BLOCK)
        is_group = groups < GROUPS
        if CELLS > 0:
            own = products + tl.program_id(0) * (WINDOWS.kernel * WINDOWS.kernel * CELLS)
            maps = gate_from_taps(x, x_mask, weight, own, image, y, at, inside, there, WINDOWS, CELLS, BM)[:, None]
        else:
            pair = tl.arange(0, 2 * GROUP_BLOCK)
            COLUMNS: tl.constexpr = (GROUPS + GROUP_BLOCK - 1) // GROUP_BLOCK * 2 * GROUP_BLOCK
            work = tl.max(there.to(tl.int32), axis=0)
            pairs = window(
                x, x_mask, weight + block * 2 * GROUP_BLOCK, image, y, at, there, work, COLUMNS, pair, pair >= 0,
                WINDOWS, BM, 2 * GROUP_BLOCK, True,
            )  # fmt: skip
            maps = tl.sum(tl.reshape(pairs, (BM, 2, GROUP_BLOCK)), axis=1)
        maps = tl.maximum(normalise(maps, scale, shift, groups, is_group), 0.0)
        cell = (image * GROUPS * PLANE + y * OUTPUT.width + at)[:, None] + (groups * PLANE)[None, :]
        keep = there[:, None] & is_group[None, :]
        if FORCED:
            keep = keep & (tl.load(forced + cell, mask=keep, other=0) != 0)
        else:
            keep = keep & (maps > tl.load(thresholds + image * layers + layer, mask=there, other=0.0)[:, None])
        written = inside[:, None] & is_group[None, :]
        tl.store(gate + row[:, None] * GROUPS + groups[None, :], tl.where(keep, maps, 0.0), mask=written)
        tl.store(mask + cell, keep.to(tl.uint8), mask=written)
        ones = keep.to(tl.int32)

        first = tl.min(image, axis=0)
        last = tl.max(tl.where(inside, image, 0), axis=0)
        kept_here = tl.sum(ones, axis=1)
        for number in range(first, last + 1):
            cells = tl.sum(tl.where(image == number, kept_here, 0), axis=0) * SHARE
            tl.atomic_add(kept + number * layers + layer, cells, sem="relaxed")

        if LISTS:
            base = tl.atomic_add(count + groups, tl.sum(ones, axis=0), mask=is_group, sem="relaxed")
            place = base[None, :] + tl.cumsum(ones, axis=0) - 1
            tl.store(
                listed + groups[None, :] * rows + place, tl.broadcast_to(row[:, None], (BM, GROUP_BLOCK)), mask=keep
            )
        if SPREAD is not None:
            tl.store(spread + offset(image, y, at, SPREAD), kept_here.to(tl.uint8), mask=inside)
        if OUTPUT.raw is not None or OUTPUT.activated is not None:
            for group in tl.static_range(GROUPS):
                skipped = there & (tl.sum(tl.where((groups == group)[None, :], ones, 0), axis=1) == 0)
                for start in range(group * SHARE, (group + 1) * SHARE, BT):
                    channel = start + tl.arange(0, BT)
                    write = skipped[:, None] & (channel < (group + 1) * SHARE)[None, :]
                    finish(
                        tl.zeros((BM, BT), dtype=tl.float32), image, y, at, channel, write,
                        residual, raw, activated, activated_scale, activated_shift, OUTPUT,
                    )  # fmt: skip

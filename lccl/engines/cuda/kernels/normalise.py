"""The first kernel of a run: the state of every image, and its pixels as normalised values."""

from __future__ import annotations

import triton
import triton.language as tl

from lccl.engines.cuda.kernels.rows import offset, position


@triton.jit(do_not_specialize=["batch", "layers", "counts", "exits"])
def begin(
    images, mean, std, image, valid, active, exit_index, kept, count, batch, layers, counts, exits,
    PIXELS: tl.constexpr, MAP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: ``BLOCK`` positions of all images; the first ones also reset what is counted.

    With PIXELS, images are uint8 and become ``(pixel / 255 − mean) / std``; without, they are values already.
    """
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = row < batch * MAP.height * MAP.width
    channel = tl.arange(0, MAP.stored)
    is_channel = channel < MAP.channels
    inside = there[:, None] & is_channel[None, :]
    value = tl.load(images + row[:, None] * MAP.channels + channel[None, :], mask=inside, other=0).to(tl.float32)
    if PIXELS:
        centre = tl.load(mean + channel, mask=is_channel, other=0.0)
        spread = tl.load(std + channel, mask=is_channel, other=1.0)
        value = (value / 255.0 - centre[None, :]) / spread[None, :]
    number, y, at = position(row, MAP.height, MAP.width)
    to = offset(number, y, at, MAP)
    tl.store(image + to[:, None] + channel[None, :], value.to(image.dtype.element_ty), mask=inside)

    tl.store(active + row, tl.load(valid + row, mask=row < batch, other=0), mask=row < batch)
    tl.store(exit_index + row, exits, mask=row < batch)
    tl.store(kept + row, 0, mask=row < batch * layers)
    tl.store(count + row, 0, mask=row < counts)

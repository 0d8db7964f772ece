"""The first kernel of a run: every image's state, and its pixels as normalised values."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["batch", "layers", "counts", "exits"])
def begin(
    images, mean, std, image, valid, active, left, kept, count, batch, layers, counts, exits,
    PIXELS: tl.constexpr, WIDTH: tl.constexpr, BORDER: tl.constexpr, HEIGHT: tl.constexpr,
    CHANNELS: tl.constexpr, STORED: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: ``BLOCK`` positions of all images; the first ones also reset what is counted.

    With PIXELS, images are uint8 and become ``(pixel / 255 − mean) / std``; without, they are values already.
    """
    program = tl.program_id(0)
    row = program * BLOCK + tl.arange(0, BLOCK)
    there = row < batch * HEIGHT * WIDTH
    channel = tl.arange(0, STORED)
    inside = there[:, None] & (channel < CHANNELS)[None, :]
    value = tl.load(images + row[:, None] * CHANNELS + channel[None, :], mask=inside, other=0).to(tl.float32)
    if PIXELS:
        is_channel = channel < CHANNELS
        centre = tl.load(mean + channel, mask=is_channel, other=0.0)
        spread = tl.load(std + channel, mask=is_channel, other=1.0)
        value = (value / 255.0 - centre[None, :]) / spread[None, :]
    number = row // (HEIGHT * WIDTH)
    y, x = row % (HEIGHT * WIDTH) // WIDTH, row % WIDTH
    to = ((number * (HEIGHT + 2 * BORDER) + y + BORDER) * (WIDTH + 2 * BORDER) + x + BORDER) * STORED
    tl.store(image + to[:, None] + channel[None, :], value.to(image.dtype.element_ty), mask=inside)

    tl.store(active + row, tl.load(valid + row, mask=row < batch, other=0), mask=row < batch)
    tl.store(left + row, exits, mask=row < batch)
    tl.store(kept + row, 0, mask=row < batch * layers)
    tl.store(count + row, 0, mask=row < counts)

"""The images that are sent: always the same, of several sizes and formats, and some that are none."""

from __future__ import annotations

import io
import random
from collections.abc import Sequence

import numpy as np
from PIL import Image

from lccl.bench.images import noise_images

SEED = 7


def images(count: int, size: int, kind: str = "JPEG") -> tuple[bytes, ...]:
    """Encoded images of noise, ``size`` pixels square."""
    return tuple(encode(Image.fromarray(pixels), kind) for pixels in noise_images(count, size, SEED).images)


def blank(shade: int, kind: str = "PNG") -> bytes:
    """An image of one shade."""
    return encode(Image.fromarray(np.full((32, 32, 3), shade, np.uint8)), kind)


def large(side: int) -> bytes:
    """An image that is small as a file and large in memory."""
    return encode(Image.new("RGB", (side, side), (90, 120, 30)), "JPEG")


def huge() -> bytes:
    """An image of 65,000 × 65,000 pixels, it says."""
    content = bytearray(blank(1, "BMP"))
    content[18:26] = (65_000).to_bytes(4, "little") * 2
    return bytes(content)


def damaged(contents: Sequence[bytes], count: int) -> tuple[bytes, ...]:
    """Copies with bytes changed, cut out, doubled, exchanged for another's, or cut off."""
    chance = random.Random(SEED)
    return tuple(_damage(chance, chance.choice(contents), chance.choice(contents)) for _ in range(count))


def _damage(chance: random.Random, content: bytes, other: bytes) -> bytes:
    damaged = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 8))):
        start = chance.randrange(len(damaged) + 1)
        end = min(len(damaged), start + chance.choice((1, 1, 4, 64)))
        match chance.randrange(5):
            case 0:
                damaged[start:end] = chance.randbytes(end - start)
            case 1:
                del damaged[start:end]
            case 2:
                damaged[start:start] = damaged[start:end]
            case 3:
                damaged[start:end] = other[start:end]
            case _:
                del damaged[max(1, start) :]
    return bytes(damaged)


def encode(image: Image.Image, kind: str, **options: int) -> bytes:
    """An image as a file of that kind."""
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()

"""Encoded images: any error but the declared one is a find, and so are two ways of decoding that disagree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from hypothesis import given
from PIL import Image

from lccl.decoding import pixels
from lccl.decoding.containers import JPEG_START, read_container
from lccl.errors import ImageError
from tests.fuzz.damage import damaged
from tests.lccl.decoding.corpus import encoded, exif, png, smooth, with_segment, with_webp_chunk

MAX_PIXELS = 1 << 22
LEVELS = 2  # that the two ways may differ by
TOKENS = [
    b"\xff\xd8", b"\xff\xd9", b"\xff\xda", b"\xff\xc0", b"\xff\xc2", b"\xff\xc4", b"\xff\xdb", b"\xff\xdd\0\4",
    b"\xff\xe1", b"\xff\xee\0\x0eAdobe", b"\xff\xff", b"\xff\xd0", b"IHDR", b"IDAT", b"tRNS", b"PLTE", b"acTL",
    b"fcTL", b"IEND", b"RIFF", b"VP8X", b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"EXIF", b"ftypavif", b"meta",
    b"iloc", b"GIF89a", b"\x21\xf9\4", b"\x2c", b"\x3b", b"BM", b"\x28\0\0\0", b"Exif\0\0", b"II*\0", b"MM\0*",
]  # fmt: skip


def seeds() -> list[bytes]:
    """Small images in every format, mode and form."""
    colour = smooth()
    image, alpha = Image.fromarray(colour), Image.fromarray(smooth(4))
    grey = image.convert("L")
    jpegs = [
        *(encoded(image, "JPEG", subsampling=how, progressive=way) for how in (0, 1, 2) for way in (False, True)),
        encoded(grey, "JPEG"), encoded(image.convert("CMYK"), "JPEG"), encoded(image, "JPEG", restart_marker_blocks=1),
    ]  # fmt: skip
    samples = np.random.default_rng(0).integers(0, 1 << 16, (20, 24, 4))
    pngs = [
        png(samples[..., :channels] >> (16 - depth), depth, kind)
        for channels, kind, depths in ((1, 0, (1, 2, 4, 8, 16)), (3, 2, (8, 16)), (2, 4, (8, 16)), (4, 6, (8, 16)))
        for depth in depths
    ]
    webps = [encoded(one, "WEBP", lossless=how) for one in (image, alpha) for how in (False, True)]
    others = [
        encoded(one, kind)
        for kind, modes in (("PNG", ("P", "1")), ("GIF", ("P", "L")), ("BMP", ("RGB", "L", "P", "1", "RGBA")))
        for one in (alpha.convert(mode) if mode == "RGBA" else image.convert(mode) for mode in modes)
    ]
    animated = [
        encoded(image, kind, save_all=True, append_images=[grey.convert("RGB")]) for kind in ("GIF", "WEBP", "PNG")
    ]
    turned = [with_segment(jpegs[0], 0xE1, exif(6)), with_webp_chunk(webps[0], b"EXIF", exif(8), 8)]
    return [
        *jpegs,
        *pngs,
        *webps,
        *others,
        *animated,
        *turned,
        encoded(alpha, "AVIF"),
        encoded(image, "AVIF", quality=50),
    ]


def check(content: bytes) -> None:
    """Decode, whole and as a small network asks for it, and compare the two ways where there are two.

    Raises:
        AssertionError: they disagree.
        Exception: not the declared one.

    """
    for cover in (0, 8):
        check_for(content, cover)


def check_for(content: bytes, cover: int) -> None:
    try:
        found = pixels.decode_rgb(content, MAX_PIXELS, cover)
    except ImageError as error:
        str(error).encode()
        return
    assert found.dtype == np.uint8
    assert found.ndim == 3
    assert found.shape[2] == 3
    assert found.flags.c_contiguous
    container = read_container(content)
    if content.startswith(JPEG_START) or container.plain:
        slow = pixels.upright(*pixels._with_pillow(container, MAX_PIXELS, cover))
        assert slow.shape == found.shape
        assert np.abs(slow.astype(int) - found).max() <= LEVELS


@contextmanager
def target(save: Callable[[bytes], None]) -> Iterator[Callable[[], None]]:
    """The test, which tells ``save`` each input before it is tried."""

    @given(damaged(seeds(), TOKENS))
    def decoders(content: bytes) -> None:
        save(content)
        check(content)

    yield decoders

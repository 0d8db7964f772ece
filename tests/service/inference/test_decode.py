"""Decoding: every format and colour mode, and what is refused."""

from __future__ import annotations

import contextlib
import io
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from lccl.preprocessing import Preprocessing
from service.errors import ServiceError
from service.inference.decode import decode
from tests.service.refusals import refused

PREPROCESSING = Preprocessing(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def encode(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("JPEG", mode) for mode in ("RGB", "L", "CMYK")),
        *(("PNG", mode) for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "I;16")),
        *(("WEBP", mode) for mode in ("RGB", "RGBA")),
        *(("GIF", mode) for mode in ("P", "L")),
        *(("BMP", mode) for mode in ("RGB", "L", "P", "1")),
    ],
)
def test_formats_and_modes(kind, mode):
    gradient = np.linspace(0, 255, 48 * 40, dtype=np.uint8).reshape(40, 48)
    image = Image.fromarray(np.stack([gradient] * 3, axis=2))
    if mode == "I;16":
        image = Image.fromarray(gradient.astype(np.uint16) * 257)
    array = decode(encode(image.convert(mode) if mode != "I;16" else image, kind), PREPROCESSING, 10**6)
    assert array.shape == (32, 32, 3)
    assert array.dtype == np.uint8
    assert array[2].mean() + 40 < array[-3].mean()


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    content = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(content, PREPROCESSING, 10**6)[16, 16].argmax() == 0


def test_orientation_is_obeyed():
    image = Image.new("RGB", (32, 32), "white")
    image.paste("black", (0, 0, 32, 16))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    assert decode(encode(image, "PNG", exif=exif), PREPROCESSING, 10**6)[4, 16].mean() == 255


def test_other_formats_are_no_images():
    image = Image.new("RGB", (32, 32))
    for kind in ("TIFF", "PPM", "ICO", "TGA"):
        with refused("not_an_image"):
            decode(encode(image, kind), PREPROCESSING, 10**6)


def test_pixels_are_limited_on_both_sides():
    content = encode(Image.new("L", (100, 100)), "PNG")
    assert decode(content, PREPROCESSING, 10_000).shape == (32, 32, 3)
    with refused("too_large"):
        decode(content, PREPROCESSING, 9_999)


def test_a_huge_header_costs_nothing():
    content = bytearray(encode(Image.new("RGB", (8, 8)), "BMP"))
    content[18:26] = (50_000).to_bytes(4, "little") * 2
    tracemalloc.start()
    with refused("too_large"):
        decode(bytes(content), PREPROCESSING, 10**6)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_every_cut_is_refused_or_decoded_whole(kind):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = encode(Image.fromarray(noise), kind)
    for length in range(0, len(content) * 9 // 10, max(1, len(content) // 40)):
        with pytest.raises(ServiceError) as caught:
            decode(content[:length], PREPROCESSING, 10**6)
        assert caught.value.code in {"damaged_image", "not_an_image"}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_flipped_bytes_never_raise_anything_else(kind):
    random = np.random.default_rng(1)
    content = encode(Image.fromarray(random.integers(0, 256, (48, 48, 3), dtype=np.uint8)), kind)
    for _ in range(60):
        broken = bytearray(content)
        for place in random.integers(0, len(broken), 4):
            broken[place] = random.integers(0, 256)
        with contextlib.suppress(ServiceError):
            assert decode(bytes(broken), PREPROCESSING, 10**6).shape == (32, 32, 3)

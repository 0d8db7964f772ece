"""Images are converted in stripes, and look as if they were converted at once."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from lccl.decoding import pixels
from tests.fuzz.decoders import seeds
from tests.lccl.decoding.corpus import SIZE, smooth

MODES = (
    "1",
    "L",
    "LA",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "LAB",
    "HSV",
    "I",
    "F",
    "I;16",
)


def in_stripes_and_at_once(monkeypatch, convert):
    found = []
    for most in (1, 3 * SIZE[0], 1 << 18):
        monkeypatch.setattr(pixels, "STRIPE_PIXELS", most)
        found.append(convert())
    return found


@pytest.mark.parametrize("content", seeds(), ids=lambda content: f"{content[:4]!r}-{len(content)}")
def test_files(monkeypatch, content):
    first, second, whole = in_stripes_and_at_once(monkeypatch, lambda: pixels.decode_rgb(content, 10**6))
    assert np.array_equal(first, whole)
    assert np.array_equal(second, whole)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("transparency", [None, 0])
def test_modes(monkeypatch, mode, transparency):
    image = Image.fromarray(smooth(4))
    if mode in {"I", "F", "I;16"}:
        grey = np.asarray(image.convert("L")).astype({"I": np.int32, "F": np.float32, "I;16": np.uint16}[mode])
        image = Image.fromarray(grey * (1 if mode == "F" else 200))
    elif mode in {"LA", "PA"}:
        image = image.convert("LA").convert(mode)
    elif mode == "LAB":
        image = Image.merge("LAB", image.convert("RGB").split())
    else:
        image = (image if mode in {"RGBA", "RGBa"} else image.convert("RGB")).convert(mode)
    if transparency is not None and mode in {"P", "L"}:
        image.info["transparency"] = transparency
    first, second, whole = in_stripes_and_at_once(monkeypatch, lambda: pixels.image_to_rgb(image))
    assert np.array_equal(first, whole)
    assert np.array_equal(second, whole)

"""PNGs and WebPs decoded by imagecodecs have the pixels that Pillow gives, and what Pillow refuses is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import lccl.decoding.pixels as decoding
from lccl.decoding.containers import read_container
from lccl.decoding.pixels import decode_rgb
from lccl.errors import ImageError
from tests.lccl.decoding.corpus import encoded, smooth

imagecodecs = pytest.importorskip("imagecodecs")
MOST = 1_000_000
MODES = ("RGB", "RGBA", "L", "LA")
FILES = [
    *(("PNG", mode, options) for mode in MODES for options in ({}, {"compress_level": 0})),
    *(("WEBP", mode, options) for mode in MODES for options in ({}, {"lossless": True}, {"quality": 10})),
]


def both(content, most=MOST):
    """What each way gives: pixels, or None for a reason why there are none."""
    return answer(content, most), with_pillow_alone(content, most)


def answer(content, most):
    try:
        pixels = decode_rgb(content, most)
    except ImageError:
        return None
    return pixels.shape, pixels.tobytes()


def with_pillow_alone(content, most):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "imagecodecs", None)
        return answer(content, most)


@pytest.mark.parametrize(("kind", "mode", "options"), FILES)
def test_both_ways_give_the_same_pixels(kind, mode, options, monkeypatch):
    content = encoded(Image.fromarray(smooth(4)).convert(mode), kind, **options)
    fast, slow = both(content)
    assert fast == slow
    monkeypatch.setattr(decoding, "_with_pillow", None)
    assert answer(content, MOST) == fast


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
@pytest.mark.parametrize("mode", MODES)
def test_both_ways_see_the_same_damage(kind, mode):
    content = encoded(Image.fromarray(smooth(4)).convert(mode), kind)

    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def every(data):
        damaged = bytearray(content)
        for _ in range(data.draw(st.integers(1, 3))):
            damaged[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        cut = data.draw(st.integers(len(content) // 2, len(content)))
        for one in (bytes(damaged), content[:cut]):
            fast, slow = both(one)
            assert fast == slow

    every()


def test_palettes_16_bits_and_animations_are_pillows():
    first = Image.fromarray(smooth())
    moving = encoded(first, "WEBP", save_all=True, append_images=[Image.fromarray(smooth(seed=1))], lossless=True)
    deep = encoded(Image.new("I;16", (8, 8), 30_000), "PNG")
    for content in (encoded(first.convert("P"), "PNG"), encoded(first.convert("1"), "PNG"), deep, moving):
        assert not read_container(content).plain
        fast, slow = both(content)
        assert fast == slow
    assert both(moving)[0][1] == smooth().tobytes()


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_too_many_pixels_are_not_decoded(kind, monkeypatch):
    content = encoded(Image.new("RGB", (100, 100)), kind)
    monkeypatch.setattr(decoding, "imagecodecs", "not asked")
    with pytest.raises(ImageError, match="100 × 100"):
        decode_rgb(content, 9_999)

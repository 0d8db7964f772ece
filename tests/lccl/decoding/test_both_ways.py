"""PNGs and WebPs decoded by imagecodecs have the pixels that Pillow gives, and what Pillow refuses is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import lccl.decoding.pixels as decoding
from lccl.decoding.containers import read_container
from lccl.decoding.pixels import decode_rgb
from lccl.errors import ImageError
from tests.lccl.decoding.corpus import chunk, encoded, png, smooth

imagecodecs = pytest.importorskip("imagecodecs", reason="only service installations have imagecodecs")
MOST = 1_000_000
MODES = ("RGB", "RGBA", "L", "LA")
FILES = [
    *(("PNG", mode, options) for mode in MODES for options in ({}, {"compress_level": 0})),
    *(("WEBP", mode, options) for mode in MODES for options in ({}, {"lossless": True}, {"quality": 10})),
]

KINDS = [  # of PNG: colour type, channels, depth
    *((0, 1, depth) for depth in (1, 2, 4, 8, 16)), *((3, 1, depth) for depth in (1, 2, 4, 8)),
    *((colour_type, channels, depth) for colour_type, channels in ((2, 3), (4, 2), (6, 4)) for depth in (8, 16)),
]  # fmt: skip


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


@pytest.mark.parametrize(("colour_type", "channels", "depth"), KINDS)
@pytest.mark.parametrize("seen_through", [False, True])
def test_both_ways_agree_on_every_kind_of_png(colour_type, channels, depth, seen_through):
    random = np.random.default_rng(depth)
    samples = random.integers(0, 1 << depth, (20, 23, channels))
    palette = [chunk(b"PLTE", random.integers(0, 256, 3 << min(depth, 8), np.uint8).tobytes())] * (colour_type == 3)
    keys = {0: samples[0, 0], 2: samples[0, 0], 3: random.integers(0, 256, 1 << min(depth, 8))}
    trns = b""
    if seen_through and colour_type in keys:
        trns = keys[colour_type].astype(np.uint8 if colour_type == 3 else ">u2").tobytes()
    content = png(samples, depth, colour_type, *palette, *([chunk(b"tRNS", trns)] if trns else []))
    fast, slow = both(content)
    assert fast is not None
    assert fast == slow


def test_animations_are_pillows():
    first, second = Image.fromarray(smooth()), Image.fromarray(smooth(seed=1))
    moving = encoded(first, "WEBP", save_all=True, append_images=[second], lossless=True)
    assert not read_container(moving).plain
    assert both(moving)[0] == both(moving)[1] == ((20, 24, 3), smooth().tobytes())


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_too_many_pixels_are_not_decoded(kind, monkeypatch):
    content = encoded(Image.new("RGB", (100, 100)), kind)
    monkeypatch.setattr(decoding, "imagecodecs", "not asked")
    with pytest.raises(ImageError, match="100 × 100"):
        decode_rgb(content, 9_999)

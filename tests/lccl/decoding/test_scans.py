"""JPEGs by their scans: how many there may be, and what long files are spared that have one."""

from __future__ import annotations

import re
import struct

import numpy as np
import pytest
from PIL import Image

from lccl.decoding.containers import first_scan
from lccl.decoding.pixels import LONG_BYTES, decode_rgb, upright
from lccl.errors import DamagedImageError, UnsupportedImageError
from tests.lccl.decoding.corpus import encoded, exif, smooth

MOST = 10**6


def test_a_jpeg_of_endless_scans_is_refused():
    """Each takes a pass over all pixels, for a few bytes; those of encoders are some ten."""
    content = encoded(Image.fromarray(smooth()), "JPEG", progressive=True)
    scan = re.search(rb"\xff\xda.{8,14}?\x00", content, re.DOTALL).group()
    assert decode_rgb(content, MOST).shape == smooth().shape
    with pytest.raises(UnsupportedImageError, match="100 scans"):
        decode_rgb(content[:-2] + scan * 100 + content[-2:], MOST)


def detailed():
    """An image whose JPEGs are long: they are searched differently."""
    return np.random.default_rng(1).integers(0, 256, (160, 200, 3), dtype=np.uint8)


def test_a_long_jpeg_of_endless_scans_is_refused():
    content = encoded(Image.fromarray(detailed()), "JPEG", progressive=True)
    scan = re.search(rb"\xff\xda.{8,14}?\x00", content, re.DOTALL).group()
    assert len(content) > LONG_BYTES
    assert decode_rgb(content, MOST).shape == detailed().shape
    with pytest.raises(UnsupportedImageError, match="100 scans"):
        decode_rgb(content[:-2] + scan * 100 + content[-2:], MOST)


def test_scans_behind_the_only_one_are_damage():
    content = encoded(Image.fromarray(detailed()), "JPEG")
    (start, only), at = first_scan(content), content.index(b"\xff\xda")
    assert only
    assert start == at + 4
    scan = content[at : start + 10] + b"\0"
    with pytest.raises(DamagedImageError):
        decode_rgb(content[:-2] + scan * 1000 + content[-2:], MOST)


def test_scans_cannot_be_hidden_behind_a_fake_one():
    """A decoder passes over a stuffed zero; whoever takes it for a marker sees a frame and a scan where none are."""
    content = encoded(Image.fromarray(detailed()), "JPEG", progressive=True)
    last = content.rindex(b"\xff\xda")
    scan = content[last : last + 10] + b"\0"
    frame = b"\xff\xc0\0\x11\x08\0\xa0\0\xc8\3\1\x11\0\2\x11\0\3\x11\0"
    fake = frame + b"\xff\xda\0\x0c\3\1\0\2\0\3\0\0\x3f\0"
    hidden = b"\xff\0\0\6\xff\xe5" + struct.pack(">H", 2 + len(fake)) + fake
    for place in (2, 20):  # before JFIF's segment, and behind it
        evil = content[:place] + hidden + content[place:-2] + scan * 101 + content[-2:]
        with pytest.raises(UnsupportedImageError, match="100 scans"):
            decode_rgb(evil, MOST)


def test_where_the_first_scan_is_may_not_be_seen():
    content = encoded(Image.fromarray(detailed()), "JPEG")
    for strange in (content[: content.index(b"\xff\xda")], content[:2] + b"\0" + content[2:]):
        assert first_scan(strange) == (len(strange), False)
    assert not first_scan(encoded(Image.fromarray(detailed()), "JPEG", progressive=True))[1]


@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_a_long_jpeg_is_turned_by_its_exif_alone(orientation):
    pixels = Image.fromarray(detailed())
    content = encoded(pixels, "JPEG", exif=exif(orientation))
    plain = encoded(pixels, "JPEG")
    assert len(plain) > LONG_BYTES
    assert np.array_equal(decode_rgb(content, MOST), upright(decode_rgb(plain, MOST), orientation))

"""What headers claim, and what is left of a file."""

from __future__ import annotations

import struct

import pytest
from PIL import Image

from lccl.decoding.containers import claimed_size, read_container
from tests.lccl.decoding.corpus import encoded, smooth


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *((kind, {}) for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "AVIF")),
        ("JPEG", {"progressive": True}), ("WEBP", {"lossless": True}), ("WEBP", {"exif": b"Exif\0\0"}),
    ],
)  # fmt: skip
def test_a_header_claims_the_size(kind, options):
    content = encoded(Image.fromarray(smooth(size=(40, 33))), kind, **options)
    assert claimed_size(content) == (40, 33)
    for length in range(min(len(content), 200)):
        assert claimed_size(content[:length]) in (None, (40, 33))


def test_a_bmp_with_the_oldest_header_claims_its_size():
    header = struct.pack("<IHHHH", 12, 40, 33, 1, 24)
    assert claimed_size(b"BM" + struct.pack("<IHHI", 26, 0, 0, 26) + header) == (40, 33)


def test_what_is_no_image_claims_nothing():
    for content in (b"", b"no image", b"\xff\xd8\xff", bytes(100), b"RIFF....WEBPVP9 " + bytes(20)):
        assert claimed_size(content) is None


def test_metadata_is_cut_out():
    content = encoded(Image.fromarray(smooth()), "JPEG", exif=b"Exif\0\0secret", comment=b"a comment")
    assert b"secret" in content
    left = read_container(content).content
    assert b"secret" not in left
    assert b"a comment" not in left

"""What headers claim, and what is left of a file."""

from __future__ import annotations

import struct
import time

import pytest
from PIL import Image

from lccl.decoding.containers import claimed_size, read_container
from lccl.errors import ImageError
from tests.lccl.decoding.corpus import chunk, encoded, smooth


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


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xd8" + b"\xff" * 4_000_000,
        b"\xff\xd8" + b"\xff\xd0" * 2_000_000,
        b"\xff\xd8" + b"\xff\xfe\0\2" * 1_000_000,
        b"\x89PNG\r\n\x1a\n" + chunk(b"tEXt", b"") * 400_000,
    ],
    ids=["fill bytes", "markers", "comments", "chunks"],
)
def test_files_of_endless_parts_are_given_up_soon(content):
    began = time.process_time()
    claimed_size(content)
    assert time.process_time() - began < 0.05
    with pytest.raises(ImageError):
        read_container(content)
    assert time.process_time() - began < 0.5


def test_fill_bytes_before_a_marker_are_skipped():
    content = encoded(Image.fromarray(smooth(size=(40, 33))), "JPEG")
    assert claimed_size(content[:2] + b"\xff" * 1000 + content[2:]) == (40, 33)

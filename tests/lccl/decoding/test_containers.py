"""What headers claim, and what is left of a file."""

from __future__ import annotations

import struct
import time

import pytest
from PIL import Image

from lccl.decoding.containers import PNG_SIGNATURE, claimed_size, exif_orientation, read_container
from lccl.errors import DamagedImageError, ImageError, NotAnImageError, UnsupportedImageError
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


def jpeg(**options: object) -> bytes:
    return encoded(Image.fromarray(smooth()), "JPEG", **options)


def png(*chunks: bytes, mode: str = "L") -> bytes:
    """A PNG with more chunks after its header."""
    content = encoded(Image.fromarray(smooth()).convert(mode), "PNG")
    after_header = len(PNG_SIGNATURE) + 25
    return b"".join((content[:after_header], *chunks, content[after_header:]))


@pytest.mark.parametrize("exif", [
    b"",
    b"II*\0\x08\0\0\0",  # cut before its entries
    b"II*\0\xff\xff\0\0",  # entries that lie outside
    b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x0112, 2, 1, 6, 0),  # a text
    b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIHH", 0x0112, 3, 1, 9, 0),  # there is no ninth orientation
    b"MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x0110, 3, 1, 6, 0),  # another tag
])  # fmt: skip
def test_what_is_no_orientation_turns_nothing(exif):
    assert exif_orientation(exif) == 1


def test_orientation_may_have_either_order_and_width():
    assert exif_orientation(b"II*\0\x08\0\0\0\x01\0" + struct.pack("<HHII", 0x0112, 4, 1, 6)) == 6
    assert exif_orientation(b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHIHH", 0x0112, 3, 1, 8, 0)) == 8


@pytest.mark.parametrize(("content", "error", "sentence"), [
    (b"", NotAnImageError, "not an image that is read here"),
    (b"\xff\xd8\xff\xd9", DamagedImageError, "the JPEG ends before its pixels"),
    (jpeg()[:-len(jpeg()) // 2][:200], DamagedImageError, "the JPEG ends before its pixels"),
    (b"\xff\xd8\xff\xfe\0\4ab\0\0\0\0", DamagedImageError, "bytes where a marker belongs"),
    (PNG_SIGNATURE + bytes(30), DamagedImageError, "ends early|no header"),
    (png()[:60], DamagedImageError, "the PNG ends early"),
    (png(chunk(b"ABCD", b"")), UnsupportedImageError, "a PNG with the chunk ABCD"),
    (png(chunk(b"tRNS", b"\0")), DamagedImageError, "transparent colour does not fit"),
    (png(chunk(b"tRNS", b"\0\1"), mode="RGB"), DamagedImageError, "transparent colour does not fit"),
    (b"RIFF\x20\0\0\0WEBPVP8 \xff\0\0\0", DamagedImageError, "the WebP ends early"),
    (b"RIFF\x20\0\0\0WEBPVP8 \4\0\0\0abcd", DamagedImageError, "the WebP ends early"),
    (b"\0\0\0\x18ftypisom", NotAnImageError, "not an image that is read here"),
    (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", UnsupportedImageError, "HEIC"),
])  # fmt: skip
def test_what_is_wrong_is_named(content, error, sentence):
    with pytest.raises(error, match=sentence):
        read_container(content)


def test_fill_bytes_and_markers_without_a_segment_are_passed_over():
    content = jpeg()
    assert read_container(content[:2] + b"\xff\xff\x01" + content[2:]).kind == "JPEG"


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

"""Pixels of encoded images: as an independent decoder sees them, by one rule for all formats."""

from __future__ import annotations

import contextlib
import io
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from lccl.decoding import pixels as decoding
from lccl.decoding.containers import exif_orientation
from lccl.decoding.pixels import decode_rgb, image_to_rgb, reduction, upright
from lccl.errors import (
    DamagedImageError,
    ImageError,
    ImageTooLargeError,
    NotAnImageError,
    UnsupportedImageError,
)
from tests.lccl.decoding.corpus import chunk, encoded, exif, png, smooth, with_segment, with_webp_chunk

cv2 = pytest.importorskip("cv2", reason="the independent decoder needs opencv-python-headless")
FAULTS = Path(__file__).parents[4] / "shared" / "faults"
MOST = 10**6
LEVELS = 2


def independent(content):
    """As OpenCV decodes it, not turned, transparency over white: uint8 [height, width, 3]."""
    flags = cv2.IMREAD_UNCHANGED | getattr(cv2, "IMREAD_IGNORE_ORIENTATION", 0)
    found = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    assert found is not None
    found = (found >> 8).astype(np.uint8) if found.dtype == np.uint16 else found
    found = found[..., None].repeat(3, axis=2) if found.ndim == 2 else found
    if found.shape[2] == 2:
        found = np.concatenate([found[..., :1].repeat(3, axis=2), found[..., 1:]], axis=2)
    colours = found[..., 2::-1].astype(np.float64)
    if found.shape[2] == 4:
        alpha = found[..., 3:] / 255
        colours = colours * alpha + 255 * (1 - alpha)
    return colours.round().astype(np.uint8)


def assert_alike(ours, theirs, levels=LEVELS):
    assert ours.shape == theirs.shape
    assert np.abs(ours.astype(int) - theirs).max() <= levels


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        *(("JPEG", mode, {"quality": 90}) for mode in ("RGB", "L")),
        ("JPEG", "RGB", {"progressive": True}),
        *(("JPEG", "RGB", {"subsampling": subsampling}) for subsampling in (0, 1, 2)),
        *(("PNG", mode, {}) for mode in ("RGB", "RGBA", "L", "LA", "1")),
        ("PNG", "RGB", {"interlace": 1}),
        *(("WEBP", mode, {"lossless": True}) for mode in ("RGB", "RGBA")),
        *(("BMP", mode, {}) for mode in ("RGB", "L", "1")),
        ("AVIF", "RGB", {"quality": 100, "subsampling": "4:4:4"}),
    ],
)
def test_formats_and_modes(kind, mode, options):
    image = Image.fromarray(smooth(4), "RGBA" if mode in ("RGBA", "LA") else None).convert(mode)
    content = encoded(image, kind, **options)
    assert_alike(decode_rgb(content, MOST), independent(content), 3 if kind == "AVIF" else LEVELS)


@pytest.mark.parametrize("mode", ["P", "RGBA"])
def test_palettes_with_transparency(mode):
    image = Image.fromarray(smooth(3)).quantize(16)
    content = encoded(image, "PNG", transparency=3) if mode == "P" else encoded(image.convert("RGBA"), "GIF")
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGBA")).astype(float)
    alpha = expected[..., 3:] / 255
    assert_alike(decode_rgb(content, MOST), (expected[..., :3] * alpha + 255 * (1 - alpha)).round(), 1)


def samples_of(depth, channels):
    return np.random.default_rng(depth).integers(0, 1 << depth, (20, 24, channels), dtype=np.uint16)


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("transparent", [False, True])
def test_grey_pngs_of_every_depth(depth, transparent):
    samples = samples_of(depth, 1)
    sample = int(samples[3, 5, 0])
    extra = [chunk(b"tRNS", struct.pack(">H", sample))] if transparent else []
    content = png(samples, depth, 0, *extra)
    expected = (samples >> 8 if depth == 16 else samples * 255 // ((1 << depth) - 1)).repeat(3, axis=2)
    if transparent:
        expected[samples[..., 0] == sample] = 255  # OpenCV does not know of a transparent grey
    else:
        assert_alike(decode_rgb(content, MOST), independent(content))
    assert np.array_equal(decode_rgb(content, MOST), expected)


@pytest.mark.parametrize("depth", [8, 16])
def test_colour_pngs_with_a_transparent_colour(depth):
    samples = samples_of(depth, 3)
    content = png(samples, depth, 2, chunk(b"tRNS", struct.pack(">3H", *samples[3, 5])))
    expected = (samples >> 8 if depth == 16 else samples).copy()
    expected[3, 5] = 255
    assert np.array_equal(decode_rgb(content, MOST), expected)


@pytest.mark.parametrize("depth", [8, 16])
def test_pngs_with_alpha(depth):
    content = png(samples_of(depth, 4), depth, 6)
    assert_alike(decode_rgb(content, MOST), independent(content))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_orientation_in_every_format(orientation, order):
    data, flat = exif(orientation, order), Image.fromarray(smooth())
    jpeg, webp = encoded(flat, "JPEG", quality=95), encoded(flat, "WEBP", lossless=True)
    turned = {
        "JPEG": (jpeg, with_segment(jpeg, 0xE1, data)),
        "PNG": (encoded(flat, "PNG"), png(smooth(), 8, 2, chunk(b"eXIf", data[6:]))),
        "WEBP": (webp, with_webp_chunk(webp, b"EXIF", data, 0x08)),
    }
    for plain, content in turned.values():
        assert np.array_equal(decode_rgb(content, MOST), upright(decode_rgb(plain, MOST), orientation))
    image = Image.open(io.BytesIO(turned["JPEG"][1]))
    assert np.array_equal(image_to_rgb(image), decode_rgb(turned["JPEG"][1], MOST))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turning_is_pillows(orientation):
    image = Image.fromarray(smooth())
    image.getexif()[0x0112] = orientation
    assert np.array_equal(upright(smooth(), orientation), np.asarray(ImageOps.exif_transpose(image)))


def test_other_metadata_turns_nothing_and_is_not_parsed():
    flat = encoded(Image.fromarray(smooth()), "JPEG")
    xmp = b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><tiff:Orientation>6</tiff:Orientation></x:xmpmeta>"
    profile = b"ICC_PROFILE\0\x01\x01" + b"junk" * 9
    for marker, data in (
        (0xE1, xmp),
        (0xE2, profile),
        (0xE1, b"Exif\0\0junk"),
        (0xED, b"Photoshop"),
        (0xFE, b"Exif\0\0"),
    ):
        assert np.array_equal(decode_rgb(with_segment(flat, marker, data), MOST), decode_rgb(flat, MOST))
    bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(8 << 20)))
    wrong = chunk(b"pHYs", bytes(9), checksum=1)
    junk = chunk(b"eXIf", b"junk")
    clean = png(smooth(), 8, 2)
    for extra in (bomb, wrong, junk, chunk(b"iCCP", b"x\0\0" + zlib.compress(b"no profile"))):
        assert np.array_equal(decode_rgb(png(smooth(), 8, 2, extra), MOST), decode_rgb(clean, MOST))


def test_orientation_of_strange_exif_is_upright():
    for strange in (b"", b"II*\0", b"MM\0*" + b"\xff" * 4, exif(9), exif(0), exif(6)[:12], b"II*\0\x08\0\0\0\xff\xff"):
        assert exif_orientation(strange) == 1


def test_an_alpha_mask_that_is_all_zero_is_opaque():
    pixels = smooth(4)
    pixels[..., 3] = 0
    header = struct.pack("<IiiHHIIiiII", 124, 24, -20, 1, 32, 3, 0, 2835, 2835, 0, 0)
    header += struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(64)
    content = (
        b"BM"
        + struct.pack("<IHHI", 14 + 124 + pixels.size, 0, 0, 14 + 124)
        + header
        + pixels[..., [2, 1, 0, 3]].tobytes()
    )
    assert np.array_equal(decode_rgb(content, MOST), pixels[..., :3])


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "blue")]
    for kind in ("GIF", "WEBP", "PNG"):
        content = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
        assert decode_rgb(content, MOST)[16, 16].tolist() == pytest.approx([255, 0, 0], abs=3)


def test_a_missing_end_marker_alone_is_no_damage():
    jpeg = encoded(Image.fromarray(smooth()), "JPEG")
    assert jpeg.endswith(b"\xff\xd9")
    assert np.array_equal(decode_rgb(jpeg[:-2], MOST), decode_rgb(jpeg, MOST))
    content = png(smooth(), 8, 2)
    assert np.array_equal(decode_rgb(png(smooth(), 8, 2, end=False), MOST), decode_rgb(content, MOST))


@pytest.mark.parametrize("damage", ["header", "pixels"])
def test_a_wrong_checksum_in_what_makes_the_pixels_is_damage(damage):
    content = bytearray(png(smooth(), 8, 2))
    content[{"header": 29, "pixels": -13}[damage]] ^= 1
    with pytest.raises(DamagedImageError, match="checksum"):
        decode_rgb(bytes(content), MOST)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *((kind, {}) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF")),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"quality": 100, "subsampling": 0}),
        ("JPEG", {"restart_marker_blocks": 3}),
        ("JPEG", {"restart_marker_rows": 1}),
    ],
)
@pytest.mark.parametrize("alone", [False, True], ids=["fast decoders", "Pillow alone"])
def test_every_cut_is_refused(kind, options, alone, monkeypatch):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), kind, **options)
    if alone:
        monkeypatch.setattr(decoding, "simplejpeg", None)
        monkeypatch.setattr(decoding, "imagecodecs", None)
    before_restarts = {found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", content)} if options else set()
    cuts = {*range(0, len(content) * 99 // 100, max(1, len(content) // 60)), *before_restarts}
    for length in sorted(cuts):
        with pytest.raises((DamagedImageError, NotAnImageError)):
            decode_rgb(content[:length], MOST)


@pytest.mark.parametrize("rows", [0, 1])
def test_a_jpeg_that_was_closed_after_it_was_cut_is_refused(rows):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), "JPEG", restart_marker_rows=rows)
    cuts = [found.start() for found in re.finditer(rb"\xff[\xd0-\xd7]", content)] or [len(content) // 2]
    for length in cuts:
        with pytest.raises(DamagedImageError, match="ends early"):
            decode_rgb(content[:length] + b"\xff\xd9", MOST)


def test_damage_that_the_decoder_tells_of_is_not_classified():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    content = encoded(Image.fromarray(noise), "JPEG")
    middle = len(content) // 2
    with pytest.raises(DamagedImageError, match="corrupt"):
        decode_rgb(content[:middle] + b"\xff\0" * 32 + content[middle + 64 :], MOST)


def test_bytes_too_many_before_the_end_do_no_harm():
    content = encoded(Image.fromarray(smooth()), "JPEG")
    assert np.array_equal(decode_rgb(content[:-2] + bytes(7) + content[-2:], MOST), decode_rgb(content, MOST))


def test_unsupported_forms_say_what_to_do():
    twelve = bytearray(encoded(Image.fromarray(smooth()), "JPEG"))
    twelve[twelve.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(UnsupportedImageError, match="12 bits"):
        decode_rgb(bytes(twelve), MOST)
    with pytest.raises(UnsupportedImageError, match="HEIC is not read here: send"):
        decode_rgb(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", MOST)
    for kind in ("TIFF", "PPM", "ICO", "TGA"):
        with pytest.raises(NotAnImageError, match="JPEG, PNG"):
            decode_rgb(encoded(Image.fromarray(smooth()), kind), MOST)
    with pytest.raises(DamagedImageError, match="empty"):
        decode_rgb(b"", MOST)


def test_pixels_are_limited_on_both_sides():
    content = encoded(Image.new("L", (100, 100)), "PNG")
    assert decode_rgb(content, 10_000).shape == (100, 100, 3)
    for kind in ("PNG", "JPEG", "BMP"):
        with pytest.raises(ImageTooLargeError, match="100 × 100"):
            decode_rgb(encoded(Image.new("L", (100, 100)), kind), 9_999)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_both_ways_give_the_same_pixels(mode, options, monkeypatch):
    content = encoded(Image.fromarray(smooth()).convert(mode), "JPEG", **options)
    fast = decode_rgb(content, MOST)
    monkeypatch.setattr(decoding, "simplejpeg", None)
    assert np.array_equal(decode_rgb(content, MOST), fast)


# JPEGs decoded reduced


def large(width, height):
    """A smooth image of that size with some detail."""
    rows, columns = np.mgrid[:height, :width]
    waves = [127 + 60 * np.sin(rows / 7 + shift) + 60 * np.cos(columns / (5 + shift)) for shift in range(3)]
    return np.stack(waves, -1).astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "cover", "factor"),
    [
        ((224, 224), 0, 1), ((224, 224), 113, 1), ((224, 224), 112, 2), ((223, 300), 112, 2), ((222, 300), 112, 1),
        ((225, 225), 58, 2), ((225, 225), 57, 4), ((4000, 3000), 256, 8), ((3000, 4000), 375, 8), ((9, 900), 8, 1),
        ((64, 64), 8, 8), ((64, 64), 7, 1), ((32, 32), 32, 1), ((16, 16), 32, 1),
    ],
)  # fmt: skip
def test_a_jpeg_is_reduced_as_far_as_it_still_covers(size, cover, factor):
    assert reduction(*size, cover) == factor
    pixels = decode_rgb(encoded(Image.new("L", size), "JPEG"), 1 << 24, cover)
    assert pixels.shape == (-(-size[1] // factor), -(-size[0] // factor), 3)


@pytest.mark.parametrize("cover", [8, 16, 24, 48])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"subsampling": 1}])
@pytest.mark.parametrize("size", [(96, 97), (131, 70), (75, 200)])
def test_both_ways_give_the_same_reduced_pixels(cover, mode, options, size, monkeypatch):
    content = encoded(Image.fromarray(large(*size)).convert(mode), "JPEG", **options)
    fast = decode_rgb(content, MOST, cover)
    assert np.array_equal(image_to_rgb(Image.open(io.BytesIO(content)), cover), fast)
    monkeypatch.setattr(decoding, "simplejpeg", None)
    assert np.array_equal(decode_rgb(content, MOST, cover), fast)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_jpeg_is_turned_like_a_whole_one(orientation, monkeypatch):
    pixels = Image.fromarray(large(150, 97))
    plain, turned = encoded(pixels, "JPEG"), encoded(pixels, "JPEG", exif=exif(orientation))
    expected = upright(decode_rgb(plain, MOST, 24), orientation)
    assert min(expected.shape[:2]) == 25
    assert np.array_equal(decode_rgb(turned, MOST, 24), expected)
    monkeypatch.setattr(decoding, "simplejpeg", None)
    assert np.array_equal(decode_rgb(turned, MOST, 24), expected)


def test_reduced_pixels_look_like_the_whole_image_made_small():
    pixels = large(200, 160)
    content = encoded(Image.fromarray(pixels), "JPEG", quality=95)
    small = np.asarray(Image.fromarray(pixels).resize((100, 80), Image.Resampling.BOX))
    assert np.abs(decode_rgb(content, MOST, 80).astype(int) - small).mean() < 4


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "GIF"])
def test_other_formats_are_decoded_whole(kind):
    assert decode_rgb(encoded(Image.fromarray(large(96, 96)), kind), MOST, 24).shape == (96, 96, 3)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"]), st.data())
def test_whatever_is_changed_gives_an_image_or_a_reason(kind, data):
    content = bytearray(encoded(Image.fromarray(smooth()), kind))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(content)))
    for damaged in (bytes(content), bytes(content[:cut])):
        with contextlib.suppress(ImageError):
            found = decode_rgb(damaged, MOST)
            assert (found.dtype, found.shape[2]) == (np.uint8, 3)


@pytest.mark.skipif(not FAULTS.is_dir(), reason="the files of faults found from outside are not beside this checkout")
@pytest.mark.parametrize(
    ("file", "right"),
    [
        ("bmp_alpha0.bmp", "bmp_alpha0_expected.png"),
        ("grey4_trns.png", "grey4_trns_expected.png"),
        ("exif_o6_xres_text.jpg", "exif_o6_clean.jpg"),
        ("exif_o6_clean.jpg", "clean_rotated6.png"),
        *((file, "clean.png") for file in (
            "xmp6.jpg", "jpeg_without_eoi.jpg", "png_bad_crc_in_pHYs.png", "png_ztxt_2MB.png", "png_exif_junk.png",
        )),
    ],
)  # fmt: skip
def test_files_found_from_outside(file, right):
    decoded, expected = (decode_rgb((FAULTS / name).read_bytes(), MOST) for name in (file, right))
    assert np.array_equal(decoded, expected)

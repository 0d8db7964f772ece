"""A Pillow image gets the answer that its file gets: the pixels that the service decodes are the same."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from lccl.decoding.pixels import decode_rgb, image_to_rgb
from lccl_client.images import encoded as sent
from tests.lccl.decoding.corpus import chunk, encoded, exif, png, smooth

MOST = 10**6


def drawn(mode):
    """An image in any of Pillow's modes, with values at the ends of its range and beyond."""
    if mode in ("I", "F"):
        values = np.linspace(-90, 70_000 if mode == "I" else 300, 480).reshape(20, 24)
        values.flat[7:9] = (0, 0) if mode == "I" else (np.nan, np.inf)
        return Image.fromarray(values.astype(np.int32 if mode == "I" else np.float32))
    if mode.startswith("I;16"):
        return Image.frombytes(mode, (24, 20), np.linspace(0, 65535, 480).astype("<u2").tobytes())
    colours = Image.fromarray(smooth(4), "RGBA")
    if mode in ("La", "LA", "PA"):
        grey = colours.convert("LA")
        return grey if mode == "LA" else grey.convert(mode)
    return colours.convert(mode) if mode in ("RGBA", "RGBa") else colours.convert("RGB").convert(mode)


MODES = (
    "1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16",
    "I;16B", "I;16L",
)  # fmt: skip


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_sent(mode, orientation):
    image = drawn(mode)
    image.info["exif"] = exif(orientation)
    expected = image.convert("LA") if mode == "La" else image  # the service never meets premultiplied grey
    expected.info["exif"] = exif(orientation)
    assert np.array_equal(decode_rgb(sent(image), MOST), image_to_rgb(expected))


@pytest.mark.parametrize("transparency", [3, bytes(range(0, 256, 16))])
def test_palettes_keep_their_transparency(transparency):
    image = Image.fromarray(smooth()).quantize(16)
    image.info["transparency"] = transparency
    assert np.array_equal(decode_rgb(sent(image), MOST), image_to_rgb(image))


def transparent_png(depth, colours):
    """A PNG whose transparent colour is one of its pixels'."""
    samples = (smooth(colours).astype(int) * 257) >> (16 - depth)
    return png(samples, depth, 0 if colours == 1 else 2, chunk(b"tRNS", struct.pack(f">{colours}H", *samples[3, 3])))


def jpeg_cmyk():
    return encoded(Image.fromarray(smooth()).convert("CMYK"), "JPEG")


def bmp_without_alpha():
    """32 bits with a mask of alpha that is 0 everywhere."""
    pixels = np.concatenate([smooth()[::-1, :, ::-1], np.zeros((20, 24, 1), np.uint8)], axis=2).tobytes()
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    head = struct.pack("<IiiHHIIiiII", 108, 24, 20, 1, 32, 3, len(pixels), 0, 0, 0, 0) + masks + bytes(52)
    start = 14 + len(head)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + head + pixels


def gif():
    return encoded(Image.fromarray(smooth()).quantize(16), "GIF", transparency=3)


def short_palette():
    """A BMP of 8 bits whose pixels name colours beyond its palette of two."""
    head = struct.pack("<IiiHHIIiiII", 40, 4, 1, 1, 8, 0, 4, 0, 0, 2, 0) + bytes((1, 2, 3, 0, 200, 150, 100, 0))
    return b"BM" + struct.pack("<IHHI", 18 + len(head), 0, 0, 14 + len(head)) + head + bytes((0, 1, 2, 5))


FILES = {
    **{
        f"PNG, {colours} colours of {depth} bits": transparent_png(depth, colours)
        for depth, colours in ((1, 1), (2, 1), (4, 1), (8, 1), (16, 1), (8, 3), (16, 3))
    },
    "JPEG, CMYK": jpeg_cmyk(), "BMP, alpha 0": bmp_without_alpha(), "GIF": gif(), "BMP, short palette": short_palette(),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_an_opened_file_is_sent_as_its_path_is(name, tmp_path):
    (tmp_path / "image").write_bytes(FILES[name])
    with Image.open(tmp_path / "image") as image:
        content = sent(image)
    assert np.array_equal(decode_rgb(content, MOST), decode_rgb(sent(tmp_path / "image"), MOST))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_orientations_are_those_of_the_file(kind, orientation):
    metadata = Image.Exif()
    metadata[0x0112] = orientation
    file = encoded(Image.fromarray(smooth()), kind, exif=metadata if kind == "AVIF" else exif(orientation), quality=90)
    image = Image.open(io.BytesIO(file))
    by_path = decode_rgb(file, MOST)
    assert np.array_equal(decode_rgb(sent(image), MOST), by_path)
    image = image.convert("CMYK").convert("RGB")
    assert decode_rgb(sent(image), MOST).shape == by_path.shape


def test_what_is_no_image_is_refused():
    with pytest.raises(TypeError, match="not ndarray"):
        sent(smooth())


def test_the_server_answers_an_image_as_its_path(ask, address, tmp_path):
    file = tmp_path / "turned.jpg"
    Image.fromarray(smooth(size=(64, 32))).save(file, exif=exif(6), quality=95)
    answers = [ask(address, "classify", image, top_k=3) for image in (file, Image.open(file))]
    assert answers[0].predictions == answers[1].predictions

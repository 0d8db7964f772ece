"""Any image becomes the same upright 8-bit RGB square, and an image of the right size passes unchanged."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from lccl.decoding.pixels import decode_rgb, image_to_rgb
from lccl.errors import InputError
from lccl.preprocessing import Preprocessing

HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SMALL = Preprocessing(32, 32, *HALVES)
MARGIN = Preprocessing(56, 64, *HALVES)


def noise(width, height, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def reopened(image, kind, **options):
    """The image after a trip through a file."""
    out = io.BytesIO()
    image.save(out, kind, **options)
    return Image.open(io.BytesIO(out.getvalue()))


def test_a_image_of_the_right_size_passes_unchanged():
    pixels = noise(32, 32)
    assert np.array_equal(SMALL.apply(Image.fromarray(pixels)), pixels)


@pytest.mark.parametrize("size", [(32, 32), (33, 32), (1, 1), (1, 500), (500, 1), (640, 480), (31, 47)])
@pytest.mark.parametrize("preprocessing", [SMALL, MARGIN])
def test_every_size_becomes_a_square(preprocessing, size):
    out = preprocessing.apply(Image.fromarray(noise(*size)))
    assert out.shape == (preprocessing.size, preprocessing.size, 3)
    assert out.dtype == np.uint8


@pytest.mark.parametrize(("width", "height"), [(60, 32), (32, 60)])
def test_the_central_square_is_kept(width, height):
    pixels = noise(width, height)
    left, top = (width - 32) // 2, (height - 32) // 2
    assert np.array_equal(SMALL.apply(Image.fromarray(pixels)), pixels[top : top + 32, left : left + 32])


def test_the_margin_is_cut_off_after_scaling_the_shorter_side():
    pixels = np.zeros((128, 128, 3), dtype=np.uint8)
    pixels[8:120, 8:120] = 255  # at 64 pixels a side the margin is 4, at 128 it is 8
    out = MARGIN.apply(Image.fromarray(pixels))
    assert (out[2:-2, 2:-2] == 255).all()


def test_shrinking_is_antialiased():
    board = (np.indices((320, 320)).sum(0) % 2 * 255).astype(np.uint8)
    assert np.ptp(SMALL.apply(Image.fromarray(np.stack([board] * 3, -1)))[2:-2, 2:-2]) <= 2


def test_only_the_square_of_a_very_long_image_is_scaled(monkeypatch):
    asked = []
    resize = Image.Image.resize

    def spy(image, size, *args, box=None, **options):
        asked.append((size, box))
        return resize(image, size, *args, box=box, **options)

    monkeypatch.setattr(Image.Image, "resize", spy)
    SMALL.apply(Image.fromarray(noise(20_000, 10)))
    assert asked == [((32, 32), (9995, 0, 10005, 10))]


# other kinds of image


@pytest.mark.parametrize("tag", range(1, 9))
def test_a_image_is_turned_upright_by_its_exif_tag(tag):
    upright = np.zeros((32, 32, 3), dtype=np.uint8)
    upright[:16, :16] = (255, 0, 0)
    upright[:16, 16:] = (0, 255, 0)
    upright[16:, :16] = (0, 0, 255)
    back = {
        1: lambda a: a, 2: np.fliplr, 3: lambda a: np.rot90(a, 2), 4: np.flipud, 5: lambda a: a.swapaxes(0, 1),
        6: np.rot90, 7: lambda a: np.rot90(a, 2).swapaxes(0, 1), 8: lambda a: np.rot90(a, -1),
    }  # fmt: skip
    stored = Image.fromarray(np.ascontiguousarray(back[tag](upright)))
    exif = Image.Exif()
    exif[0x0112] = tag
    assert np.array_equal(SMALL.apply(reopened(stored, "PNG", exif=exif)), upright)


def test_a_palette_is_looked_up():
    image = Image.fromarray(noise(32, 32)).quantize(16)
    assert image.mode == "P"
    assert np.array_equal(SMALL.apply(reopened(image, "PNG")), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize(("alpha", "shown"), [(0, 255), (255, 100), (128, 177)])
def test_transparency_lies_over_white(mode, alpha, shown):
    image = Image.new(mode, (32, 32), (100,) * (len(mode) - 1) + (alpha,))
    assert np.abs(SMALL.apply(reopened(image, "PNG")).astype(int) - shown).max() <= 1


@pytest.mark.parametrize("mode", ["P", "L", "RGB"])
def test_a_transparent_colour_becomes_white(mode):
    image = Image.new(mode, (32, 32), 0)
    image.paste(Image.new(mode, (16, 32), 1 if mode == "P" else "white"), (0, 0))
    if mode == "P":
        image.putpalette([9, 9, 9, 200, 100, 50])
    saved = reopened(image, "PNG", transparency=(0, 0, 0) if mode == "RGB" else 0)
    out = SMALL.apply(saved)
    assert (out[:, 16:] == 255).all()
    assert (out[:, :16] == ((200, 100, 50) if mode == "P" else 255)).all()


def test_grey_fills_all_three_channels():
    pixels = noise(32, 32, channels=1)
    assert np.array_equal(SMALL.apply(Image.fromarray(pixels)), np.stack([pixels] * 3, -1))


def test_one_bit_is_black_and_white():
    assert set(np.unique(SMALL.apply(Image.fromarray(noise(32, 32)).convert("1")))) == {0, 255}


def test_cmyk_is_converted():
    image = Image.new("CMYK", (32, 32), (0, 255, 255, 0))
    out = SMALL.apply(reopened(image, "JPEG", quality=95))
    assert np.abs(out.astype(int) - (255, 0, 0)).max() < 8


@pytest.mark.parametrize("mode", ["I;16", "I"])
def test_sixteen_bits_become_their_upper_eight(mode):
    values = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32) * 64
    image = Image.fromarray(values) if mode == "I;16" else Image.fromarray(values.astype(np.int32))
    assert image.mode == mode
    expected = np.stack([(values >> 8).astype(np.uint8)] * 3, -1)
    assert np.array_equal(SMALL.apply(reopened(image, "PNG" if mode == "I;16" else "TIFF")), expected)


def test_values_out_of_range_are_clipped():
    assert np.array_equal(np.unique(SMALL.apply(Image.fromarray(np.full((32, 32), 1e9, dtype=np.float32)))), [255])
    assert np.array_equal(np.unique(SMALL.apply(Image.fromarray(np.full((32, 32), np.nan, dtype=np.float32)))), [0])
    assert np.array_equal(np.unique(SMALL.apply(Image.fromarray(np.full((32, 32), -5, dtype=np.int32)))), [0])


@pytest.mark.parametrize(
    "mode",
    ["1", "L", "P", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA", "I;16"],
)
def test_every_mode_becomes_rgb(mode):
    assert image_to_rgb(Image.new(mode, (3, 2))).shape == (2, 3, 3)


# the definition itself


@pytest.mark.parametrize(
    ("size", "resize", "mean", "std"),
    [
        (0, 32, *HALVES), (33, 32, *HALVES), (32, 4097, *HALVES), (-1, 32, *HALVES),
        (32, 32, (0.5, 0.5), (0.5, 0.5)), (32, 32, (0.5, 0.5, np.nan), HALVES[1]), (32, 32, HALVES[0], (0.5, 0.5, 0)),
        (32, 32, HALVES[0], (0.5, 0.5, -1)), (32, 32, HALVES[0], (0.5, 0.5, np.inf)),
    ],
)  # fmt: skip
def test_an_impossible_definition_is_refused(size, resize, mean, std):
    with pytest.raises(InputError):
        Preprocessing(size, resize, mean, std)


@pytest.mark.parametrize(
    "preprocessing", [SMALL, Preprocessing(224, 256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))]
)
def test_it_survives_json(preprocessing):
    assert Preprocessing.from_json(json.loads(json.dumps(preprocessing.to_json()))) == preprocessing


@pytest.mark.parametrize(
    "change",
    [
        {"size": None}, {"size": "big"}, {"size": 0}, {"resize": 5000}, {"resize": 1e400},
        {"mean": None}, {"mean": 0.5}, {"mean": [0.5, 0.5]}, {"mean": [0.5] * 4}, {"mean": ["a", "b", "c"]},
        {"std": [1, 1, 0]}, {"std": [1, 1, np.nan]}, {"std": [1, 1, 10**400]},
    ],
)  # fmt: skip
def test_other_json_is_refused(change):
    with pytest.raises(InputError):
        Preprocessing.from_json(SMALL.to_json() | change)


@pytest.mark.parametrize("value", [None, [], "32", 32, {}, {"size": 32, "resize": 32}])
def test_json_that_is_no_definition_is_refused(value):
    with pytest.raises(InputError):
        Preprocessing.from_json(value)


# fit, and JPEGs decoded reduced


def test_stretching_keeps_the_whole_image():
    pixels = np.zeros((60, 120, 3), np.uint8)
    pixels[:, :30] = 200
    pixels[:15, 30:] = 100
    out = replace(MARGIN, resize=56, fit="stretch").apply(Image.fromarray(pixels))
    assert out.shape == (56, 56, 3)
    assert (out[20, :12] == 200).all()
    assert (out[20, 18:] == 0).all()
    assert (out[:11, 20:] == 100).all()


def test_stretching_with_a_margin_cuts_each_side_by_its_share():
    pixels = noise(160, 80)
    out = Preprocessing(70, 80, *HALVES, fit="stretch").apply(Image.fromarray(pixels))
    expected = Image.fromarray(pixels).resize((70, 70), Image.Resampling.BICUBIC, box=(10, 5, 150, 75))
    assert np.array_equal(out, np.asarray(expected))


def test_a_square_image_is_the_same_stretched_and_cropped():
    image = Image.fromarray(noise(90, 90))
    assert np.array_equal(MARGIN.apply(image), replace(MARGIN, fit="stretch").apply(image))


def jpeg(*size):
    out = io.BytesIO()
    Image.fromarray(noise(*size)).save(out, "JPEG", quality=90)
    return out.getvalue()


def test_a_model_from_before_decodes_jpegs_whole():
    content = jpeg(300, 260)
    old = Preprocessing.from_json({name: MARGIN.to_json()[name] for name in ("size", "resize", "mean", "std")})
    assert (old.fit, old.scaled, old.cover) == ("crop", False, 0)
    assert np.array_equal(old.decode(content, 10**6), old.apply_to_pixels(decode_rgb(content, 10**6)))


def test_an_encoded_and_an_opened_jpeg_are_reduced_alike():
    content, scaled = jpeg(300, 260), replace(MARGIN, scaled=True)
    reduced = decode_rgb(content, 10**6, scaled.cover)
    assert reduced.shape == (65, 75, 3)
    expected = scaled.apply_to_pixels(reduced)
    assert np.array_equal(scaled.decode(content, 10**6), expected)
    assert np.array_equal(scaled.apply(Image.open(io.BytesIO(content))), expected)
    assert not np.array_equal(MARGIN.decode(content, 10**6), expected)


def test_an_unknown_fit_is_refused():
    with pytest.raises(InputError, match="unknown fit 'squash'"):
        replace(SMALL, fit="squash")

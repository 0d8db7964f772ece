"""From an encoded image to the network's input; formats and damage are tested beside lccl.decoding."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lccl.preprocessing import Preprocessing
from service.inference.decode import decode, decode_if_small
from tests.lccl.decoding.corpus import encoded, smooth
from tests.service.refusals import refused

PREPROCESSING = Preprocessing(32, 32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
FAULTS = Path(__file__).parents[4] / "shared" / "faults"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "AVIF"])
def test_an_image_becomes_the_networks_input(kind):
    array = decode(encoded(Image.fromarray(smooth(size=(48, 40))), kind), PREPROCESSING, 10**6)
    assert (array.shape, array.dtype) == ((32, 32, 3), np.uint8)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "damaged_image"),
        (b"no image", "not_an_image"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "not_an_image"),
        (encoded(Image.fromarray(smooth()), "PNG")[:-40], "damaged_image"),
        (encoded(Image.new("L", (1001, 1000)), "PNG"), "too_large"),
    ],
)
def test_what_is_refused_has_its_code(content, code):
    with refused(code):
        decode(content, PREPROCESSING, 10**6)


def test_a_huge_header_costs_nothing():
    content = bytearray(encoded(Image.new("RGB", (8, 8)), "BMP"))
    content[18:26] = (50_000).to_bytes(4, "little") * 2
    tracemalloc.start()
    with refused("too_large"):
        decode(bytes(content), PREPROCESSING, 10**6)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_only_small_jpegs_are_decoded_at_once():
    small, large = (encoded(Image.fromarray(smooth(size=(side, side))), "JPEG") for side in (128, 129))
    assert np.array_equal(decode_if_small(small, PREPROCESSING), decode(small, PREPROCESSING, 10**6))
    assert decode_if_small(large, PREPROCESSING) is None
    assert decode_if_small(encoded(Image.fromarray(smooth()), "PNG"), PREPROCESSING) is None
    assert decode_if_small(small, Preprocessing(224, 256, *PREPROCESSING.statistics)) is None


@pytest.mark.skipif(not FAULTS.is_dir(), reason="the files of faults found from outside are not beside this checkout")
@pytest.mark.parametrize(
    ("file", "right"),
    [
        ("bmp_alpha0.bmp", "bmp_alpha0_expected.png"), ("grey4_trns.png", "grey4_trns_expected.png"),
        ("exif_o6_xres_text.jpg", "exif_o6_clean.jpg"), ("png_ztxt_2MB.png", "clean.png"), ("xmp6.jpg", "clean.png"),
        ("png_bad_crc_in_pHYs.png", "clean.png"), ("png_exif_junk.png", "clean.png"),
        ("jpeg_without_eoi.jpg", "clean.png"),
    ],
)  # fmt: skip
def test_files_found_from_outside_are_answered_alike_over_http(file, right, client):
    answers = [client.post("/v1/classify", content=(FAULTS / name).read_bytes()).json() for name in (file, right)]
    assert answers[0]["predictions"][0]["classes"] == answers[1]["predictions"][0]["classes"]


def test_photographs_are_decoded_as_in_training(tmp_path, draw_image):
    """A large JPEG, reduced by the decoder and stretched: the same pixels as from a data set."""
    from lccl.data import load_dataset

    preprocessing = Preprocessing(96, 96, *PREPROCESSING.statistics, fit="stretch", scaled=True)
    content = draw_image("JPEG", size=(500, 400))
    (tmp_path / "train/a").mkdir(parents=True)
    (tmp_path / "train/a/b.jpg").write_bytes(content)
    trained_on = load_dataset(tmp_path, preprocessing).train.images[0]
    assert np.array_equal(decode(content, preprocessing, 10**6), trained_on)
    assert not np.array_equal(decode(content, replace(preprocessing, scaled=False), 10**6), trained_on)
    assert not np.array_equal(decode(content, replace(preprocessing, fit="crop"), 10**6), trained_on)

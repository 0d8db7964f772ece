"""Thumbnails are shifted and flipped; parts of photographs lie inside them, of the areas and shapes asked for."""

import itertools
import math

import numpy as np
import pytest

from lccl.train.augmentation import augment, crop_box, random_crop


@pytest.mark.parametrize(("width", "height"), [(1.0, 1.0), (640, 480), (300, 900)])
def test_parts_are_drawn_as_asked_for(width, height):
    random = np.random.default_rng(0)
    boxes = np.array([crop_box(width, height, 0.35, 4 / 3, random) for _ in range(2000)])
    wide, high = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, 2] <= width * (1 + 1e-9)).all()
    assert (boxes[:, 3] <= height * (1 + 1e-9)).all()
    shapes, areas = wide / high, wide * high / (width * height)
    assert 3 / 4 - 1e-9 <= shapes.min() < shapes.max() <= 4 / 3 + 1e-9
    assert areas.max() <= 1 + 1e-9
    if width == 1.0:
        assert 0.35 <= areas.min() < 0.4
        assert np.log(shapes).mean() == pytest.approx(0, abs=0.02)
        assert boxes[:, 0].mean() == pytest.approx((1 - wide.mean()) / 2, abs=0.02)


def test_a_long_image_gives_the_largest_part_in_its_middle():
    box = crop_box(1000, 100, 0.9, 4 / 3, np.random.default_rng(0))
    assert box == pytest.approx((500 - 200 / 3, 0, 500 + 200 / 3, 100))


def picture(width, height):
    columns, rows = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return np.stack([columns, rows, np.zeros_like(rows)], -1).astype(np.uint8)


def test_parts_are_scaled_to_the_size_asked_for_and_flipped_half_the_time():
    random, flipped = np.random.default_rng(1), 0
    for _ in range(200):
        out = random_crop(picture(90, 60), 32, 0.5, 4 / 3, False, random)
        assert (out.shape, out.dtype) == ((32, 32, 3), np.uint8)
        assert np.array_equal(out[..., 1], np.sort(out[..., 1], axis=0))
        flipped += int(out[0, 0, 0] > out[0, -1, 0])
    assert 70 < flipped < 130


def test_a_stretched_image_counts_as_a_square():
    whole = random_crop(picture(300, 60), 32, 1.0, 1.0, True, np.random.default_rng(2))
    middle = random_crop(picture(300, 60), 32, 1.0, 1.0, False, np.random.default_rng(2))
    assert np.ptp(whole[..., 0].astype(int)) > 240
    assert np.ptp(middle[..., 0].astype(int)) < 60


def test_a_part_repeats_by_seed():
    first, again, other = (
        random_crop(picture(90, 60), 16, 0.35, 4 / 3, False, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert math.isfinite(float(other.mean()))


def test_images_are_only_shifted_and_flipped():
    images = np.random.default_rng(0).integers(0, 200, (300, 8, 8, 3), dtype=np.uint8)
    fill = np.array([201, 202, 203], dtype=np.uint8)
    out = augment(images, fill, np.random.default_rng(1))
    assert (out.shape, out.dtype) == (images.shape, np.uint8)
    seen = set()
    for image, changed in zip(images, out, strict=True):
        padded = np.broadcast_to(fill, (10, 10, 3)).copy()
        padded[1:9, 1:9] = image
        for top, left, flip in itertools.product(range(3), range(3), (False, True)):
            cut = padded[top : top + 8, left : left + 8]
            if np.array_equal(changed, cut[:, ::-1] if flip else cut):
                seen.add((top, left, flip))
                break
        else:
            pytest.fail("neither shifted nor flipped")
    assert len(seen) == 18


def test_augmentation_leaves_its_input_alone_and_repeats_by_seed():
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    before, fill = images.copy(), np.zeros(3, np.uint8)
    first, second, other = (augment(images, fill, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(images, before)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)

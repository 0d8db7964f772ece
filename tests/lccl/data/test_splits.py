"""Splits are cut without copying rules; held-out parts are fixed, and follow from the files alone."""

from dataclasses import replace

import numpy as np
import pytest

from lccl.data import Split, hold_out
from lccl.errors import DataError


def noise(count, seed=0, size=32):
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_the_first_images_of_a_split():
    whole = Split(noise(5), np.arange(5))
    assert np.array_equal(whole.first(2).images, whole.images[:2])
    assert whole.first(2).labels.tolist() == [0, 1]
    assert len(whole.first(9)) == 5


# held-out parts


def split_of(images):
    return Split(images, np.arange(len(images)))


def keys(split):
    return {image.tobytes() for image in split.images}


@pytest.mark.parametrize(("count", "held"), [(60, 6), (69, 6), (9, 0), (200, 20)])
def test_a_tenth_goes_into_each_held_out_part(count, held):
    found = hold_out(split_of(noise(count)))
    assert (len(found.choose), len(found.measure), len(found.train)) == (held, held, count - 2 * held)


def test_at_most_5000_go_into_each_held_out_part():
    images = np.arange(52_000, dtype=np.uint32).view(np.uint8).reshape(-1, 2, 2, 1)
    found = hold_out(split_of(images))
    assert (len(found.choose), len(found.measure), len(found.train)) == (5000, 5000, 42_000)


def test_the_parts_are_disjoint_and_complete_and_keep_their_labels():
    whole = split_of(noise(100))
    found = hold_out(whole)
    parts = (found.train, found.choose, found.measure)
    assert sum(len(keys(part)) for part in parts) == 100
    assert set.union(*map(keys, parts)) == keys(whole)
    for part in parts:
        assert np.array_equal(whole.images[part.labels], part.images)


def test_the_parts_do_not_depend_on_the_order_of_the_images():
    images = noise(100)
    first, second = hold_out(split_of(images)), hold_out(split_of(images[np.random.default_rng(1).permutation(100)]))
    assert first.digest == second.digest
    assert np.array_equal(first.choose.images, second.choose.images)
    assert np.array_equal(first.measure.images, second.measure.images)
    assert keys(first.train) == keys(second.train)


def test_training_images_stay_in_their_order():
    assert (np.diff(hold_out(split_of(noise(100))).train.labels) > 0).all()


@pytest.mark.parametrize("part", ["choose", "measure"])
def test_the_digest_changes_with_a_held_out_image(part):
    images = noise(100)
    found = hold_out(split_of(images))
    images[getattr(found, part).labels[3], 0, 0, 0] ^= 1
    assert hold_out(split_of(images)).digest != found.digest


def test_the_digest_does_not_change_with_the_labels():
    images = noise(100)
    assert hold_out(Split(images, np.zeros(100, np.int64))).digest == hold_out(split_of(images)).digest


def test_identities_deal_the_parts_where_there_are_any():
    images = noise(100)
    named = replace(split_of(images), identities=images.reshape(100, -1)[::-1].copy())
    assert hold_out(named).digest == hold_out(split_of(images)).digest  # the same identities, on other images
    assert keys(hold_out(named).choose) != keys(hold_out(split_of(images)).choose)
    assert keys(hold_out(named, by="pixels").choose) == keys(hold_out(split_of(images)).choose)


def test_an_unknown_rule_is_refused():
    with pytest.raises(DataError, match="dealt by 'names'"):
        hold_out(split_of(noise(20)), by="names")


def test_another_salt_holds_out_others():
    whole = split_of(noise(100))
    first, second = hold_out(whole), hold_out(whole, salt="other")
    assert first.digest != second.digest
    assert keys(first.choose) != keys(second.choose)

"""An image's result depends, to the bit, on nothing but the image and its options."""

from __future__ import annotations

import numpy as np
import pytest

from lccl.networks import Architecture
from lccl.plan import steps
from tests.lccl.convolutions import weights
from tests.lccl.cpu.networks import HUGE, POST, PRE, mixed
from tests.lccl.networks import called
from tests.lccl.settings import uniform


@pytest.mark.parametrize("architecture", [POST, PRE], ids=called)
def test_an_image_gives_the_same_bits_in_any_batch(architecture, arithmetic, small, make_cpu, rows, draw_images):
    """Alone, at any place of any batch, on any number of threads, with small weights and with large."""
    reference, _, _ = small(architecture, 9)
    pixels, thresholds = draw_images(17, 9, seed=1), mixed(17, 18, seed=1)
    first = make_cpu(reference.plan, arithmetic)
    alone = [first.run(pixels[i : i + 1], rows(thresholds[i : i + 1], want_masks=True)) for i in range(17)]
    random = np.random.default_rng(0)
    for threads, cache_bytes in ((1, 0), (1, HUGE), (2, None), (2, 0), (3, 0), (3, HUGE), (5, 0), (5, None)):
        engine = make_cpu(reference.plan, arithmetic, threads, cache_bytes)
        for count in (1, 2, 3, 5, 9, 17, 17):
            chosen = random.permutation(17)[:count]
            out = engine.run(pixels[chosen], rows(thresholds[chosen], want_masks=True))
            for place, image in enumerate(chosen):
                assert np.array_equal(out.logits[place], alone[image].logits[0])
                assert np.array_equal(out.kept[place], alone[image].kept[0])
                masks = zip(out.masks, alone[image].masks, strict=True)
                assert all(np.array_equal(mask[place], wanted[0]) for mask, wanted in masks)


def test_large_networks_give_the_same_bits_too(arithmetic, small, make_cpu, rows):
    reference, pixels, thresholds = small(Architecture("resnet18"))
    one, other = make_cpu(reference.plan, arithmetic), make_cpu(reference.plan, arithmetic, 3, 0)
    together = other.run(np.concatenate([pixels[::-1], pixels]), rows(np.concatenate([thresholds[::-1], thresholds])))
    alone = one.run(pixels[1:4], rows(thresholds[1:4]))
    for part in (together.logits[3:0:-1], together.logits[6:9]):
        assert np.array_equal(part, alone.logits)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_map_made_and_pooled_in_bands_gives_the_same_bits(arithmetic, small, make_cpu, rows, threads):
    reference, pixels, thresholds = small(Architecture("resnet18"))
    pool = next(number for number, step in enumerate(reference.plan.steps) if isinstance(step, steps.MaxPool))
    expected = make_cpu(reference.plan, arithmetic, 1, HUGE).run(pixels[:3], rows(thresholds[:3]))
    engine = make_cpu(reference.plan, arithmetic, threads, 100_000)
    assert engine.profile(pixels[:1], rows(thresholds[:1]), 1)[pool] == 0  # it ran with the convolution before it
    found = engine.run(pixels[:3], rows(thresholds[:3]))
    assert np.array_equal(found.logits, expected.logits)
    assert np.array_equal(found.kept, expected.kept)


def test_a_pooled_map_smaller_than_the_image_gives_the_same_bits_in_bands(arithmetic, make_cpu, draw_images):
    """The pool of the first bands must not be written over what later bands read."""
    random, pixels = np.random.default_rng(0), draw_images(2, 96)
    names = steps.Buffer("image", 3, 96, 96), steps.Buffer("stem", 4, 48, 48), steps.Buffer("pooled", 4, 24, 24)
    plan = steps.Plan(
        (*names, steps.Buffer("features", 4, 1, 1)),
        (
            steps.Normalise(np.full(3, 0.5), np.full(3, 0.25), "image"),
            steps.Convolve("stem", "image", weights(random, 4, 3, 7, 7), 2, None, relu=True, raw="stem"),
            steps.MaxPool("stem", 3, 2, "pooled"),
            steps.AveragePool("pooled", "features"),
            steps.Classify("features", weights(random, 10, 4), weights(random, 10)),
        ),
        (),
        10,
    )
    engine, options = make_cpu(plan, arithmetic, 1, 20_000), uniform(2, [])
    assert engine.profile(pixels, options, 1)[2] == 0  # it ran with the convolution before it
    expected = make_cpu(plan, arithmetic, 1, HUGE).run(pixels, options)
    assert np.array_equal(engine.run(pixels, options).logits, expected.logits)

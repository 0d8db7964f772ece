"""Recipes that cannot be are refused; the learning rate and the range of skip ratios follow the run."""

import math

import numpy as np
import pytest

from lccl.errors import LcclError
from lccl.train.recipe import Recipe


@pytest.mark.parametrize(
    "fields",
    [
        {"epochs": 0}, {"batch": 1}, {"lr": 0}, {"lr": -0.1}, {"lr": math.nan}, {"first_lr": 0}, {"skip_top": 1},
        {"skip_top": -0.1}, {"skip_bottom": -0.1}, {"skip_bottom": 0.8}, {"exact_share": 1.1}, {"exact_share": -0.1},
        {"closing": "first"},
        {"precision": "fp16"}, {"precision": ""},
    ],
)  # fmt: skip
def test_an_impossible_recipe_is_refused(fields):
    with pytest.raises(LcclError):
        Recipe(**fields)


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero():
    recipe = Recipe(lr=0.2, first_lr=0.01, warm_up=0.25)
    rates = np.array([recipe.lr_at(progress) for progress in np.linspace(0, 1, 101)])
    assert rates[0] == 0.01
    assert rates.argmax() == 25
    assert rates[25] == 0.2
    assert (np.diff(rates[:26]) > 0).all()
    assert (np.diff(rates[25:]) < 0).all()
    assert rates[-1] == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(("progress", "top"), [(0, 0), (0.3, 0), (0.4, 0.4), (0.5, 0.8), (0.6, 0.8), (1, 0.8)])
def test_the_largest_skip_ratio_grows_over_its_ramp(progress, top):
    assert Recipe(skip_from=0.3, skip_ramp=0.2, skip_top=0.8).skip_range_at(progress) == pytest.approx((0, top))


@pytest.mark.parametrize(("progress", "top"), [(0.29, 0), (0.3, 0.8), (1, 0.8)])
def test_without_a_ramp_it_jumps(progress, top):
    assert Recipe(skip_from=0.3, skip_ramp=0, skip_top=0.8).skip_range_at(progress) == (0, top)


@pytest.mark.parametrize(
    ("progress", "expected"), [(0.3, (0, 0)), (0.35, (0.2, 0.2)), (0.45, (0.5, 0.6)), (1, (0.5, 0.8))]
)
def test_the_smallest_skip_ratio_waits_for_the_ramp(progress, expected):
    recipe = Recipe(skip_from=0.3, skip_ramp=0.2, skip_top=0.8, skip_bottom=0.5)
    assert recipe.skip_range_at(progress) == pytest.approx(expected)

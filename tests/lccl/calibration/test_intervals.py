"""Intervals match published values and their own definitions, and cover what they claim to cover."""

import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lccl.calibration.intervals import Z_ONE_SIDED, Z_TWO_SIDED, largest_loss, paired_difference, wilson


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe, Statistics in Medicine 17 (1998) 857, table I
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_agrees_with_published_values(successes, trials, low, high):
    assert wilson(successes, trials) == pytest.approx((low, high), abs=5e-5)


def test_wilson_bounds_are_where_the_score_statistic_reaches_z():
    for bound in wilson(37, 90):
        assert abs(37 / 90 - bound) / math.sqrt(bound * (1 - bound) / 90) == pytest.approx(Z_TWO_SIDED)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 5), (6, 5), (1, -1)])
def test_wilson_refuses_what_is_no_proportion(successes, trials):
    with pytest.raises(ValueError, match="is no proportion"):
        wilson(successes, trials)


def test_tango_agrees_with_a_published_example():
    """Airway hyper-responsiveness before and after transplantation: 1 and 7 of 21 pairs changed.

    Fagerland, Lydersen and Laake, Statistical Analysis of Contingency Tables (2017), chapter 8.
    """
    assert paired_difference(1, 7, 21) == pytest.approx((-0.517, -0.026), abs=5e-4)


paired_counts = st.integers(1, 6000).flatmap(
    lambda trials: st.integers(0, trials).flatmap(
        lambda lost: st.tuples(st.just(lost), st.integers(0, trials - lost), st.just(trials))
    )
)


@given(paired_counts)
def test_tango_is_an_interval_around_the_estimate(counts):
    lost, won, trials = counts
    low, high = paired_difference(lost, won, trials)
    assert -1 <= low <= (lost - won) / trials <= high <= 1
    assert low < high


@given(paired_counts)
def test_tango_mirrors_when_the_two_change_places(counts):
    lost, won, trials = counts
    low, high = paired_difference(lost, won, trials)
    assert paired_difference(won, lost, trials) == pytest.approx((-high, -low), abs=1e-9)


@pytest.mark.parametrize(("lost", "won"), [(12, 2), (9, 3), (10, 2), (8, 1), (7, 1), (30, 16), (30, 17)])
def test_tango_excludes_zero_exactly_when_mcnemars_test_does(lost, won):
    significant = (lost - won) ** 2 / (lost + won) > Z_TWO_SIDED**2
    assert (paired_difference(lost, won, 200)[0] > 0) == significant


def score(lost, won, trials, difference):
    """Tango's statistic, its nuisance parameter by direct search for the greatest likelihood."""
    low, high = max(0.0, -difference), (1 - difference) / 2

    def likelihood(q):
        return (
            lost * math.log(max(q + difference, 1e-300))
            + won * math.log(max(q, 1e-300))
            + (trials - lost - won) * math.log(max(1 - 2 * q - difference, 1e-300))
        )

    for _ in range(200):
        third = (high - low) / 3
        if likelihood(low + third) < likelihood(high - third):
            low += third
        else:
            high -= third
    q = (low + high) / 2
    return (lost - won - trials * difference) / math.sqrt(trials * (2 * q + difference * (1 - difference)))


@pytest.mark.parametrize("z", [Z_TWO_SIDED, Z_ONE_SIDED])
@pytest.mark.parametrize(("lost", "won", "trials"), [(14, 3, 100), (40, 20, 160), (5, 9, 30), (60, 41, 5000)])
def test_tango_bounds_are_where_the_score_statistic_reaches_z(lost, won, trials, z):
    low, high = paired_difference(lost, won, trials, z)
    assert score(lost, won, trials, low) == pytest.approx(z, rel=1e-5)
    assert score(lost, won, trials, high) == pytest.approx(-z, rel=1e-5)


@pytest.mark.parametrize(("lost", "won"), [(0.006, 0.006), (0.008, 0.005), (0.015, 0.01), (0.03, 0.02)])
def test_the_one_sided_bound_covers_small_drops(lost, won):
    """Of 20,000 splits of 5,000 images, at least 94 % have a bound at or above the true drop."""
    bound = cache(lambda first, second: paired_difference(first, second, 5000, Z_ONE_SIDED)[1])
    draws = np.random.default_rng(0).multinomial(5000, [lost, won, 1 - lost - won], 20_000)
    covered = np.mean([bound(int(first), int(second)) >= lost - won for first, second, _ in draws])
    assert 0.94 <= covered <= 0.97


def test_a_bound_overlooks_at_most_one_loss_in_twenty_where_few_images_change_sides():
    """Exactly, by adding up all that 5,000 images can show: a true loss above the bound has at most 5 %."""
    trials, most = 5000, 50
    bounds = np.array([[largest_loss(lost, won, trials) for won in range(most)] for lost in range(most)])
    lost, won = np.meshgrid(np.arange(most), np.arange(most), indexing="ij")
    ways = np.vectorize(math.lgamma)(trials + 1) - np.vectorize(math.lgamma)(trials - lost - won + 1)
    ways -= np.vectorize(math.lgamma)(lost + 1) + np.vectorize(math.lgamma)(won + 1)
    for wins in (1e-9, 0.3, 1.0, 3.0, 6.0):
        for losses in np.arange(wins + 0.1, wins + 15, 0.1):
            rest = (trials - lost - won) * np.log1p(-(losses + wins) / trials)
            chance = np.exp(ways + lost * np.log(losses / trials) + won * np.log(wins / trials) + rest)
            assert chance[bounds < (losses - wins) / trials].sum() <= 0.05


def test_without_any_change_the_bound_is_small_but_not_zero():
    low, high = paired_difference(0, 0, 5000, Z_ONE_SIDED)
    assert 0 < high < 0.001
    assert low == pytest.approx(-high)


@pytest.mark.parametrize(("lost", "won", "trials"), [(0, 0, 0), (-1, 0, 5), (0, -1, 5), (3, 3, 5)])
def test_tango_refuses_what_are_no_paired_counts(lost, won, trials):
    with pytest.raises(ValueError, match="are no paired counts"):
        paired_difference(lost, won, trials)

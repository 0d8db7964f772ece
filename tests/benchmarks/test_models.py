"""Accuracy at equal work lies between the neighbouring positions, and what is compared is the same images."""

import numpy as np
import pytest

from benchmarks.models import Position, accuracy_at, ahead_at

FULL = Position(1.0, np.array([True, True, True, True]))
HALF = Position(0.5, np.array([True, True, False, False]))
LITTLE = Position(0.3, np.array([False, True, False, False]))


def test_between_two_positions_accuracy_is_linear_in_work():
    assert accuracy_at([FULL, HALF, LITTLE], 0.75) == pytest.approx(0.75)
    assert accuracy_at([FULL, HALF, LITTLE], 0.4) == pytest.approx(0.375)


def test_at_a_position_it_is_that_positions():
    assert accuracy_at([FULL, HALF], 0.5) == pytest.approx(0.5)


def test_out_of_reach_there_is_none():
    assert accuracy_at([FULL, HALF], 0.4) is None
    assert ahead_at([FULL, HALF], [LITTLE, HALF], 0.4) == (None, [])


def test_ahead_is_paired_by_image():
    ahead, (low, high) = ahead_at([FULL, HALF], [FULL, LITTLE], 0.5)
    theirs = np.array([2, 7, 2, 2]) / 7  # 2/7 of the way from LITTLE to FULL
    difference = HALF.right - theirs
    assert ahead == pytest.approx(100 * difference.mean())
    assert high - low == pytest.approx(2 * 196 * difference.std() / 2)

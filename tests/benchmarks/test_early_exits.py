"""Accuracy at equal work lies between the neighbouring positions, and what is compared is the same images."""

import numpy as np
import pytest

from benchmarks.early_exits import _accuracy_at, _ahead, _Position
from benchmarks.training_tables import fronts_table, saved_table

FULL = _Position(1.0, np.array([True, True, True, True]))
HALF = _Position(0.5, np.array([True, True, False, False]))
LITTLE = _Position(0.3, np.array([False, True, False, False]))


def test_between_two_positions_accuracy_is_linear_in_work():
    assert _accuracy_at([FULL, HALF, LITTLE], 0.75) == pytest.approx(0.75)
    assert _accuracy_at([FULL, HALF, LITTLE], 0.4) == pytest.approx(0.375)


def test_at_a_position_it_is_that_positions():
    assert _accuracy_at([FULL, HALF], 0.5) == pytest.approx(0.5)


def test_out_of_reach_there_is_none():
    assert _accuracy_at([FULL, HALF], 0.4) is None
    assert _ahead([FULL, HALF], [LITTLE, HALF], 0.4) == (None, [])


def test_ahead_is_paired_by_image():
    ahead, (low, high) = _ahead([FULL, HALF], [FULL, LITTLE], 0.5)
    theirs = np.array([2, 7, 2, 2]) / 7  # 2/7 of the way from LITTLE to FULL
    difference = HALF.right - theirs
    assert ahead == pytest.approx(100 * difference.mean())
    assert high - low == pytest.approx(2 * 196 * difference.std() / 2)


def test_the_tables_say_what_was_reached_and_what_was_missed():
    place = {"point": "p40", "lost": 0.2, "interval": [-0.1, 0.5], "work": 0.7, "goal": 0.65, "met": False}
    half = {"point": "p50", "batch": 32, "threads": 2, "macs": 0.5, "time": 0.58, "quartiles": [0.55, 0.58, 0.6]}
    lines = list(saved_table({"no_loss": [place], "latency": [half | {"goal": 0.6, "met": True}]}))
    assert lines[2].endswith("| 0.70 | ≤ 0.65 at no loss | missed |")
    assert lines[3].endswith("| 0.58 | ≤ 0.6 | reached |")
    row = {"work": 0.3, "both": 0.8, "gates": 0.79, "ahead_of_gates": 1.0, "interval_gates": [0.5, 1.5]}
    out_of_reach = {"exits": None, "ahead_of_exits": None, "interval_exits": []}
    assert list(fronts_table({"curves": [row | out_of_reach]}))[-1].startswith("| 0.3 | 80.0 | 79.0 | +1.00 (+0.50")

"""The brown-out's level: rises past the target, stays in between, falls slowly, forgets in idleness."""

from __future__ import annotations

import math

import pytest

from service.inference.brownout import FALL_S, RISE_S, BrownOut


def follow(brownout, wait_s, seconds, start, step=0.01):
    for number in range(round(seconds / step)):
        brownout.look(wait_s, start + number * step)
    return start + seconds


def test_a_short_wait_changes_nothing():
    brownout = BrownOut(0.05)
    follow(brownout, 0.04, 10, 0)
    assert brownout.level == 0


def test_it_rises_to_the_floor_and_no_further():
    brownout = BrownOut(0.05)
    now = follow(brownout, 0.2, RISE_S / 2, 1000)
    assert 0.3 < brownout.level < 0.7 + 0.5
    follow(brownout, 0.2, 10, now)
    assert brownout.level == 1


def test_between_half_the_target_and_the_target_it_stays():
    brownout = BrownOut(0.05)
    now = follow(brownout, 0.2, 1, 0)
    follow(brownout, 0.03, 10, now)
    assert brownout.level == 1


def test_it_falls_more_slowly_than_it_rose():
    brownout = BrownOut(0.05)
    now = follow(brownout, 0.2, 1, 0)
    now = follow(brownout, 0.01, FALL_S / 2, now)
    assert brownout.level == pytest.approx(0.5, abs=0.05)
    follow(brownout, 0.01, FALL_S, now)
    assert brownout.level == 0


def test_after_an_idle_time_one_look_is_enough():
    brownout = BrownOut(0.05)
    now = follow(brownout, 0.2, 1, 0)
    assert brownout.look(0.0, now + 60) == 0


def test_the_first_look_after_a_long_time_does_not_jump_to_the_floor():
    brownout = BrownOut(0.05)
    assert brownout.look(0.2, 1e6) < 1


def test_an_infinite_target_never_browns_out():
    brownout = BrownOut(math.inf)
    follow(brownout, 1e9, 10, 0)
    assert brownout.level == 0

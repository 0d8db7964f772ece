"""Turns, rounds, and the clocks they are measured by; no test looks at how fast anything is."""

import time
from functools import partial

import numpy as np
import pytest

from lccl.bench.turns import Contestant, Samples, WallClock, profile, profile_turns, take_turns
from tests.lccl.bench.conftest import FakeRunner


def test_every_contestant_has_a_turn_in_each_round_in_changing_order():
    turns = []
    contestants = [Contestant(name, "own", 1, name, FakeRunner(1.0, turns=turns)) for name in "abc"]
    samples = take_turns({each.name: each.turn for each in contestants}, 6)
    rounds = np.reshape(turns[3:], (6, 3))  # the first three find out how long a turn takes
    assert all(sorted(order) == list("abc") for order in rounds)
    assert len({tuple(order) for order in rounds}) > 1
    assert {name: len(seconds) for name, seconds in samples.seconds.items()} == {"a": 6, "b": 6, "c": 6}
    assert samples.runs_per_turn == 2


def test_turns_of_the_slowest_contestant_last_about_as_long_as_they_should():
    turns = {name: partial(FakeRunner(seconds).time, "") for name, seconds in (("fast", 0.001), ("slow", 0.01))}
    assert take_turns(turns, 1).runs_per_turn == 2 * 15
    assert take_turns(turns, 1, repeats=3).runs_per_turn == 2 * 3


def test_ratios_are_paired_by_round():
    samples = Samples({"a": np.array([2.0, 8.0, 4.0]), "b": np.array([1.0, 2.0, 4.0])}, 1)
    assert samples.ratio("a", "b") == 2
    assert samples.figures("b") == {"median_ms": 2000, "p20_ms": pytest.approx(1400), "p80_ms": pytest.approx(3200)}


def test_a_profile_covers_all_batches_equally():
    turns = []
    found = profile([Contestant("a", "own", 1, "s", FakeRunner(0.5, turns=turns))], 3)
    assert profile_turns(3) == 9
    assert turns == [("s", index) for index in (0, 1, 2)] * 3
    assert found["a"].tolist() == [0.5, 10.0]


def test_timing_runs_every_batch_as_often():
    runs = []
    seconds = WallClock().seconds([partial(runs.append, index) for index in range(3)], 2)
    assert seconds.shape == (2, 3)
    assert runs == [2, 0, 1, 2, 0, 1, 2]


def test_the_wall_clock_tells_seconds():
    assert 0.02 <= WallClock().seconds([lambda: time.sleep(0.02)], 2).min() < 1

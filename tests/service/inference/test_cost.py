"""The cost model: finds a line, keeps sizes apart, follows change, bears outliers."""

from __future__ import annotations

import numpy as np
import pytest

from service.inference.cost import CostModel


def learnt(line, sizes=(8,), rounds=60, noise=0.0, seed=0):
    random, model = np.random.default_rng(seed), CostModel()
    for _ in range(rounds):
        for size in sizes:
            macs = size * random.uniform(0.4, 1.0)
            model.learn("m", size, macs, line(size, macs) * (1 + noise * random.standard_normal()))
    return model


def test_an_unknown_model_costs_nothing_yet():
    assert CostModel().predict("m", 8, 1.0) == 0.0


def test_one_batch_is_enough_for_a_first_guess_in_proportion():
    model = CostModel()
    model.learn("m", 8, 100.0, 2.0)
    assert model.predict("m", 8, 100.0) == pytest.approx(2.0)
    assert model.predict("m", 8, 50.0) == pytest.approx(1.0)


def test_a_fixed_part_and_a_part_by_macs_are_told_apart():
    model = learnt(lambda size, macs: 0.003 + 0.01 * macs)
    for macs in (3.5, 5.0, 8.0):
        assert model.predict("m", 8, macs) == pytest.approx(0.003 + 0.01 * macs, rel=0.05)


def test_sizes_have_lines_of_their_own():
    model = learnt(lambda size, macs: macs * (0.02 if size == 1 else 0.01), sizes=(1, 32))
    assert model.predict("m", 1, 0.7) == pytest.approx(0.014, rel=0.05)
    assert model.predict("m", 32, 20.0) == pytest.approx(0.2, rel=0.05)


def test_batches_that_share_the_device_have_lines_of_their_own():
    model = CostModel()
    model.learn("m", 8, 100.0, 2.0)
    assert model.predict("m", 8, 100.0, sharing=True) == pytest.approx(2.0)  # nothing better is known yet
    model.learn("m", 8, 100.0, 4.0, sharing=True)
    assert model.predict("m", 8, 100.0) == pytest.approx(2.0)
    assert model.predict("m", 8, 100.0, sharing=True) == pytest.approx(4.0)


def test_a_size_never_seen_costs_what_the_nearest_does():
    model = learnt(lambda size, macs: 0.01 * macs, sizes=(8,))
    assert model.predict("m", 2, 1.5) == pytest.approx(0.015, rel=0.2)


def test_a_machine_that_became_slower_is_noticed():
    model = learnt(lambda size, macs: 0.01 * macs)
    for _ in range(100):
        model.learn("m", 8, 6.0, 0.12)
    assert model.predict("m", 8, 6.0) == pytest.approx(0.12, rel=0.05)


def test_one_stall_does_not_spoil_the_line():
    model = learnt(lambda size, macs: 0.01 * macs)
    model.learn("m", 8, 6.0, 60.0)
    assert model.predict("m", 8, 6.0) < 0.08


def test_a_safe_prediction_is_rarely_exceeded():
    model = learnt(lambda size, macs: 0.01 * macs, noise=0.1, rounds=300)
    random = np.random.default_rng(1)
    times = [0.06 * (1 + 0.1 * random.standard_normal()) for _ in range(1000)]
    safe = model.predict("m", 8, 6.0, safe=True)
    assert np.mean([seconds > safe for seconds in times]) < 0.12
    assert model.predict("m", 8, 6.0) < safe < 0.09


def test_a_forgotten_model_is_unknown_again():
    model = learnt(lambda size, macs: 0.01 * macs)
    model.forget("m")
    assert model.predict("m", 8, 1.0) == 0.0

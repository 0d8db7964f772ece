"""Lists or all positions: predicted from thresholds that ran before, with few patterns."""

from __future__ import annotations

import numpy as np

from lccl.engines.cuda.dispatch import Dispatch, KeptShares


def test_shares_lie_between_those_of_known_thresholds():
    shares = KeptShares(2)
    shares.learn(np.float32([[0.0, 0.0], [0.4, 0.4]]), np.array([[0.9, 1.0], [0.5, 0.2]]))
    assert np.allclose(shares.predict(np.float32([[0.2, 0.2]])), [0.7, 0.6])
    assert np.allclose(shares.predict(np.float32([[0.0, 0.4], [0.4, 0.4]])), [0.7, 0.2])
    assert np.allclose(shares.predict(np.float32([[-np.inf, np.inf]])), [0.9, 0.2])


def test_what_is_known_follows_slowly():
    shares = KeptShares(1)
    shares.learn(np.float32([[0.1]]), np.array([[0.5]]))
    shares.learn(np.float32([[0.1]]), np.array([[1.0]]))
    assert 0.5 < shares.predict(np.float32([[0.1]]))[0] < 0.6


def test_a_client_cannot_fill_the_memory_with_thresholds():
    shares = KeptShares(1)
    for threshold in np.linspace(0, 1, 200, dtype=np.float32):
        shares.learn(np.float32([[threshold]]), np.array([[0.5]]))
    assert len(shares._thresholds[0]) <= 32


def test_nothing_known_means_lists():
    assert Dispatch([0.9, 0.9]).choose(np.float32([[0.0, 0.0]])) == (False, False)


def test_layers_that_keep_nearly_all_are_not_listed():
    dispatch = Dispatch([0.9, 0.9])
    dispatch.shares.learn(np.float32([[0.0, 0.0]]), np.array([[0.95, 0.5]]))
    assert dispatch.choose(np.float32([[0.0, 0.0]])) == (True, False)


def test_patterns_are_few_and_the_nearest_that_lists_no_less_is_taken():
    dispatch = Dispatch([0.5] * 4, patterns=3)
    levels = np.float32([[0.0] * 4, [1.0] * 4])
    dispatch.shares.learn(levels, np.array([[1.0] * 4, [0.0] * 4]))
    rows = [np.float32([[0.0 if layer < dense else 1.0 for layer in range(4)]]) for dense in range(5)]
    assert [sum(dispatch.choose(row)) for row in rows] == [0, 1, 2, 2, 2]

"""When requests are due and what each one is, without a network."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lccl_client.load import Body, Stream
from lccl_client.load.schedule import arrivals, picks

rates = st.floats(0.1, 5000)
seconds = st.floats(0.01, 20)


def stream(name, bodies, weight=1.0):
    return Stream(name, "POST", "/", {}, tuple(Body(bytes([number])) for number in range(bodies)), weight)


@given(rates, seconds, st.sampled_from(["poisson", "uniform"]), st.integers(0, 2**32))
def test_arrivals_are_sorted_and_within_the_run(rate, length, kind, seed):
    times = arrivals(rate, length, kind, seed)
    assert (np.diff(times) >= 0).all()
    assert ((times >= 0) & (times < length)).all()
    assert abs(len(times) - rate * length) <= (1 if kind == "uniform" else 8 * np.sqrt(rate * length) + 8)
    assert (times == arrivals(rate, length, kind, seed)).all()


def test_uniform_arrivals_are_equally_spaced():
    assert arrivals(4, 1, "uniform", 0).tolist() == [0, 0.25, 0.5, 0.75]


def test_poisson_arrivals_have_exponential_gaps_and_counts_as_variable_as_their_mean():
    times = arrivals(1000, 60, "poisson", 1)
    gaps = np.sort(np.diff(times))
    expected = -np.log1p(-(np.arange(len(gaps)) + 0.5) / len(gaps)) / 1000
    assert np.abs(gaps - expected)[: -len(gaps) // 100].max() < 1e-4
    counts = np.histogram(times, bins=600, range=(0, 60))[0]
    assert counts.var() / counts.mean() == pytest.approx(1, abs=0.2)
    assert not np.array_equal(times, arrivals(1000, 60, "poisson", 2))


def test_streams_are_picked_by_weight_and_their_bodies_in_turn():
    streams = [stream("rare", 3, 1), stream("often", 5, 3)]
    taken = list(islice(picks(streams, 7), 8000))
    often = [body for number, body in taken if number == 1]
    assert len(often) == pytest.approx(6000, abs=200)
    rounds = [often[start : start + 5] for start in range(0, 5000, 5)]
    assert all(sorted(one) == [0, 1, 2, 3, 4] for one in rounds)
    assert taken == list(islice(picks(streams, 7), 8000))
    assert taken != list(islice(picks(streams, 8), 8000))

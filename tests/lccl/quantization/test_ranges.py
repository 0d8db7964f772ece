"""Histograms of magnitudes, and the ranges of a network's maps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lccl.engines.reference import ReferenceEngine
from lccl.networks import Architecture
from lccl.networks.lowering import lower
from lccl.plan.run import RunOptions, Setting
from lccl.quantization import ranges
from lccl.quantization.ranges import BINS, Histogram, batches, value_ranges, walk


def filled(*parts):
    histogram = Histogram()
    for part in parts:
        histogram.add(np.asarray(part, np.float32))
    return histogram


@given(st.lists(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=50), min_size=1, max_size=5))
def test_a_quantile_is_right_to_a_bin_whatever_the_order(parts):
    sizes = np.abs(np.concatenate([np.asarray(part, np.float32) for part in parts]))
    sizes = np.sort(sizes[sizes > 0])
    histogram = filled(*parts)
    assert histogram.largest == (sizes[-1] if len(sizes) else 0)
    if len(sizes):
        for share in (0.1, 0.5, 0.9, 1.0):
            exact = sizes[int(np.ceil(share * len(sizes))) - 1]
            assert exact * (1 - 1e-6) <= histogram.quantile(share) <= exact + 2.01 * histogram.largest / BINS


def test_memory_does_not_grow():
    histogram = filled(*(np.full(1000, 2.0**power) for power in range(30)))
    assert histogram._counts.shape == (BINS,)
    assert histogram._counts.sum() == 30_000


def test_nothing_but_zeros_has_no_range():
    histogram = filled(np.zeros(5))
    assert (histogram.largest, histogram.quantile(0.5), histogram.least_error(255)) == (0, 0, 0)


@pytest.mark.parametrize("levels", [127, 255])
def test_the_clip_of_least_error_is_that_of_the_values_themselves(levels):
    values = np.random.default_rng(0).standard_t(6, 100_000).astype(np.float32)

    def error(clip):
        step = clip / levels
        return ((np.clip(np.rint(values / step), -levels, levels) * step - values) ** 2).mean()

    clip, largest = filled(values).least_error(levels), float(np.abs(values).max())
    assert clip < largest
    assert error(clip) < 1.02 * min(error(largest * share) for share in np.linspace(0.02, 1, 200))


def test_ranges_are_of_all_maps_that_share_a_scale(random_network, square, draw_images):
    plan, images = lower(random_network(Architecture("resnet20")), square(32)), draw_images(5)
    histograms = value_ranges(plan, images)
    _, state = ReferenceEngine(plan).trace(images, RunOptions.of([Setting.exact(18)] * 5))
    for group, histogram in histograms.items():
        largest = max(float(state.values[name].max()) for name in group)
        assert histogram.largest == pytest.approx(largest, rel=1e-4)
        assert histogram._counts.sum() == sum(int((state.values[name] != 0).sum()) for name in group)


def test_a_walk_keeps_no_map_that_is_not_read_again(random_network, square, draw_images):
    plan = lower(random_network(Architecture("resnet20")), square(32))
    kept = [len(state.values) for _, state in walk(ReferenceEngine(plan), draw_images(1), Setting.exact(18))]
    assert len(kept) == len(plan.steps)
    assert max(kept) <= 5


def test_batches_are_bounded_in_memory(random_network, square, draw_images, monkeypatch):
    plan = lower(random_network(Architecture("resnet20")), square(32))
    assert [len(batch) for batch in batches(plan, draw_images(70))] == [32, 32, 6]
    monkeypatch.setattr(ranges, "BATCH_BYTES", 2.5 * ranges.image_bytes(plan))
    assert [len(batch) for batch in batches(plan, draw_images(5))] == [2, 2, 1]

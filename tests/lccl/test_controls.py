"""Uniform controls repeat one row of thresholds and one normalisation set for every image."""

import numpy as np
import pytest

from lccl.plan.run import RunOptions


def test_uniform_controls():
    options = RunOptions.uniform(3, [0.0, 0.5, np.inf], norm_set=1)
    assert options.thresholds.tolist() == [[0.0, 0.5, np.inf]] * 3
    assert options.norm_set.tolist() == [1, 1, 1]
    assert options.exit_confidence.shape == (3, 0)
    assert (options.thresholds.dtype, options.norm_set.dtype) == (np.float32, np.int64)
    assert not options.want_masks
    assert options.forced_masks is None
    assert len(options) == 3


def test_controls_of_a_plain_twin_have_no_columns():
    assert RunOptions.uniform(2, []).thresholds.shape == (2, 0)


def test_controls_cannot_be_changed():
    with pytest.raises(AttributeError):
        RunOptions.uniform(1, [0.0]).want_masks = True

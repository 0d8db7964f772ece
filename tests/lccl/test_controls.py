"""Uniform controls repeat one row of thresholds and one normalisation set for every image."""

import numpy as np
import pytest

from lccl.controls import Controls


def test_uniform_controls():
    controls = Controls.uniform(3, [0.0, 0.5, np.inf], norm_set=1)
    assert controls.thresholds.tolist() == [[0.0, 0.5, np.inf]] * 3
    assert controls.norm_set.tolist() == [1, 1, 1]
    assert controls.exit_confidence.shape == (3, 0)
    assert (controls.thresholds.dtype, controls.norm_set.dtype) == (np.float32, np.int64)
    assert not controls.want_masks
    assert controls.forced_masks is None
    assert len(controls) == 3


def test_controls_of_a_plain_twin_have_no_columns():
    assert Controls.uniform(2, []).thresholds.shape == (2, 0)


def test_controls_cannot_be_changed():
    with pytest.raises(AttributeError):
        Controls.uniform(1, [0.0]).want_masks = True

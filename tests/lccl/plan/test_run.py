"""Settings are mixed linearly, and options have one row per setting."""

import numpy as np
import pytest

from lccl.plan.run import NEVER, RunOptions, Setting


def test_options_have_a_row_per_setting():
    settings = [Setting((0.0, 0.5, np.inf), (0.9,)), Setting.exact(3, 1)]
    options = RunOptions.of(settings, want_masks=True)
    assert options.thresholds.tolist() == [[0.0, 0.5, np.inf], [0.0, 0.0, 0.0]]
    assert options.exit_confidence.tolist() == [[pytest.approx(0.9)], [NEVER]]
    assert options.thresholds.dtype == options.exit_confidence.dtype == np.float32
    assert options.want_masks
    assert not RunOptions.of(settings).want_masks
    assert options.forced_masks is None
    assert len(options) == 2


def test_options_of_a_plain_twin_have_no_columns():
    options = RunOptions.of([Setting(())] * 2)
    assert options.thresholds.shape == options.exit_confidence.shape == (2, 0)


def test_options_cannot_be_changed():
    with pytest.raises(AttributeError):
        RunOptions.of([Setting((0.0,))]).want_masks = True


@pytest.mark.parametrize(
    ("weight", "mixed"), [(0, ((0, 1), (1,))), (0.25, ((0.5, 2), (0.875,))), (1, ((2, 5), (0.5,)))]
)
def test_settings_are_mixed_linearly(weight, mixed):
    assert Setting((0, 1), (1,)).mixed(Setting((2, 5), (0.5,)), weight) == Setting(*mixed)

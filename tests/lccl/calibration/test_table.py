"""Operating points state measurements with paired intervals."""

import numpy as np
import pytest

from lccl.calibration.intervals import Z_TWO_SIDED, largest_loss, paired_difference, wilson
from lccl.calibration.table import operating_point
from lccl.measurement import Measurement
from lccl.plan.geometry import Convolution, GatedConvolution, NetworkShape
from lccl.plan.run import Setting

SHAPE = NetworkShape((GatedConvolution("only", Convolution(2, 10, 1, 1, 1), 1, 1),), 7)


def measurement(right, kept):
    count = len(right)
    nothing = np.zeros(count, np.int64)
    return Measurement(Setting((0.5,)), np.array(right, dtype=bool), np.array(kept)[:, None], nothing, nothing)


EXACT = measurement([1] * 80 + [0] * 20, [9] * 100)
FOUND = measurement([0] * 6 + [1] * 74 + [1] * 2 + [0] * 18, [4] * 50 + [2] * 50)  # loses 6, gains 2


def test_a_point_states_its_measurement():
    point = operating_point("p70", FOUND, EXACT, SHAPE)
    assert (point.name, point.setting) == ("p70", Setting((0.5,)))
    assert point.skip_ratio == pytest.approx(0.7)
    assert point.gated_macs == pytest.approx(7 + 2 + 3 * 2)
    assert point.accuracy == pytest.approx(0.76)
    assert point.drop == pytest.approx(4)
    low, high = paired_difference(6, 2, 100)
    assert (point.drop_interval.low, point.drop_interval.high) == pytest.approx((100 * low, 100 * high))
    assert point.drop_bound == pytest.approx(100 * largest_loss(6, 2, 100))
    assert point.drop < point.drop_bound < point.drop_interval.high


def test_on_the_same_images_the_accuracys_interval_is_that_of_a_proportion():
    point = operating_point("p70", FOUND, EXACT, SHAPE)
    spread = Z_TWO_SIDED * (0.76 * 0.24 / 100) ** 0.5
    assert (point.accuracy_interval.low, point.accuracy_interval.high) == pytest.approx((0.76 - spread, 0.76 + spread))


def test_more_images_of_exact_move_every_points_accuracy_but_not_its_loss():
    unchosen = np.concatenate([EXACT.right, np.arange(300) < 270])  # 0.8 on 100, 0.9 on 300 more
    exact, found = (operating_point("any", one, EXACT, SHAPE, unchosen) for one in (EXACT, FOUND))
    assert exact.accuracy == pytest.approx(0.875)
    assert (exact.accuracy_interval.low, exact.accuracy_interval.high) == wilson(350, 400)
    assert found.accuracy == pytest.approx(0.875 - 0.04)
    assert found.drop == pytest.approx(4)


def test_the_accuracys_interval_covers_the_truth():
    """Exact is right on 85 % of 1,000 images, half of them shared with a point that loses 4 % and gains 1 %."""
    random, covered, widths = np.random.default_rng(0), 0, []
    for _ in range(1000):
        right = random.random(1000) < 0.85
        chance = random.random(500)
        found = np.where(right[:500], chance >= 0.04 / 0.85, chance < 0.01 / 0.15)
        one, other = measurement(right[:500], [9] * 500), measurement(found, [5] * 500)
        interval = operating_point("p50", other, one, SHAPE, right).accuracy_interval
        covered += interval.low <= 0.82 <= interval.high
        widths.append(interval.high - interval.low)
    assert 0.93 <= covered / 1000 <= 0.97
    assert np.mean(widths) < 0.85 * 2 * Z_TWO_SIDED * (0.82 * 0.18 / 500) ** 0.5


def test_a_point_that_gets_nothing_right_has_accuracy_zero():
    none = measurement([0] * 100, [0] * 100)
    for unchosen in (None, np.concatenate([EXACT.right, np.zeros(100, dtype=bool)])):
        point = operating_point("p99", none, EXACT, SHAPE, unchosen)
        assert point.accuracy == pytest.approx(0, abs=1e-12)
        assert 0 <= point.accuracy_interval.low <= point.accuracy <= point.accuracy_interval.high <= 1


def test_exact_loses_nothing_against_itself():
    point = operating_point("exact", EXACT, EXACT, SHAPE)
    assert point.drop == 0
    assert point.drop_interval.low == pytest.approx(-point.drop_interval.high)
    assert (point.accuracy_interval.low, point.accuracy_interval.high) == wilson(80, 100)


def test_a_gain_is_a_negative_drop():
    exact, better = measurement([1, 0, 0, 0], [9] * 4), measurement([1, 1, 0, 0], [5] * 4)
    assert operating_point("p50", better, exact, SHAPE).drop == -25

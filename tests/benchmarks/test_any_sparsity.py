"""The rival is removed branch by branch, the cheapest first; losses are paired and their verdicts follow."""

import numpy as np
import pytest

from benchmarks.any_sparsity import Served, _attached, _lost, removals
from benchmarks.models import paired
from benchmarks.one_ratio import Contender, better_at
from benchmarks.threshold_paths import common_curve
from lccl.calibration.search import ThresholdCurve
from lccl.data import Split
from lccl.measurement import measure
from lccl.plan.geometry import Convolution, GatedConvolution, NetworkShape
from lccl.plan.run import RunOutput, Setting

IMAGES = 40
SPLIT = Split(np.zeros((IMAGES, 1, 1, 3), dtype=np.uint8), np.ones(IMAGES, dtype=np.int64))


class BlocksEngine:
    """Three blocks of two layers; closing a block's branch makes the first so many of the images wrong."""

    batch_limit = IMAGES
    harm = (10, 1, 5)
    shape = NetworkShape(
        tuple(
            GatedConvolution(f"blocks.{block}.conv{conv}", Convolution(1, 1, 1, 10, 10), 1, 1)
            for block in range(3)
            for conv in (1, 2)
        ),
        50,
    )

    def run(self, images, options):
        shut = options.thresholds[0] > 1e30
        assert (shut[::2] == shut[1::2]).all()
        wrong = sum(harm for harm, block in zip(self.harm, shut[::2], strict=True) if block)
        right = np.arange(len(images)) >= wrong
        logits = np.stack([~right, right], axis=1).astype(np.float32)
        kept = np.where(shut, 0, 100)[None].repeat(len(images), 0)
        return RunOutput(logits, kept, kept.sum(1), np.zeros(len(images), np.int64))


def test_branches_fall_cheapest_first_and_cost_nothing_any_more():
    found = removals(BlocksEngine(), SPLIT)
    assert [one.blocks for one in found] == [(), (1,), (1, 2), (1, 2, 0)]
    assert [one.macs for one in found] == [650, 450, 250, 50]


def test_differences_are_paired():
    first, second = np.array([True] * 60 + [False] * 40), np.array([True] * 50 + [False] * 45 + [True] * 5)
    lost, (low, high) = paired(first, second)
    assert lost == pytest.approx(5)
    assert low < 5 < high


def test_one_threshold_for_all_layers_rises_from_exact():
    curve = common_curve(BlocksEngine(), [np.array([0.0, 1.0, 2e30])] * 6, SPLIT)
    assert not curve.thresholds[0].any()
    assert (curve.thresholds == curve.thresholds[:, :1]).all()
    assert (np.diff(curve.thresholds[:, 0]) > 0).all()
    assert curve.skip_ratios[-1] > curve.skip_ratios[0]


CLOSED = 1e31


def closing(*blocks):
    """A setting that closes the named blocks' branches, and leaves all else exact."""
    return Setting(tuple(CLOSED if layer // 2 in blocks else 0.0 for layer in range(6)))


def contender():
    return Contender(BlocksEngine(), ThresholdCurve((closing(), closing(0)), np.array([0.0, 0.33])))


def test_a_rival_may_not_win_by_skipping_less_than_was_asked_for():
    assert better_at(0.333, contender(), [closing(0), closing(1), closing()], SPLIT) == closing(1)
    assert better_at(0.333, contender(), [closing(0), closing()], SPLIT) == closing(0)


def test_where_none_skips_what_was_asked_for_a_rival_keeps_calibrations_thresholds():
    assert better_at(0.5, contender(), [closing(0), closing(1)], SPLIT) == closing(0)


def test_thresholds_for_a_ratio_lie_between_the_knots_of_calibrations_curve():
    knots = tuple(map(Setting, ((0.0, 0.0), (1.0, 0.0), (1.0, 2.0))))
    one = Contender(BlocksEngine(), ThresholdCurve(knots, np.array([0.1, 0.3, 0.7])))
    assert one.calibrated(0.2).thresholds == pytest.approx((0.5, 0.0))
    assert one.calibrated(0.6).thresholds == pytest.approx((1.0, 1.5))
    assert one.calibrated(0.9).thresholds == (1.0, 2.0)


def test_what_no_table_reaches_is_out_of_reach():
    engine = BlocksEngine()
    far, near = (
        Served(engine, highest, {0.3: measure(engine, SPLIT, closing(1))} | more)
        for highest, more in ((0.7, {0.4: measure(engine, SPLIT, closing(2))}), (0.35, {}))
    )
    assert _lost(near, np.ones(IMAGES, dtype=bool), 0.4) == {"skip_ratio": 0.4, "out_of_reach": 0.35}
    assert _lost(near, np.ones(IMAGES, dtype=bool), 0.3)["lost"] == pytest.approx(2.5)
    assert _attached(far, near, 0.4)["out_of_reach"] == 0.35
    assert _attached(near, far, 0.4)["out_of_reach"] == 0.35
    assert _attached(far, near, 0.3)["behind"] == 0

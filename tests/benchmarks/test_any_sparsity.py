"""The rival is removed branch by branch, the cheapest first; losses are paired and their verdicts follow."""

import numpy as np
import pytest

from benchmarks.any_sparsity import Served, _attached, _lost, _removals
from benchmarks.models import paired
from benchmarks.one_ratio import Contender, better_at
from benchmarks.threshold_paths import common_curve
from benchmarks.training_tables import (
    attached_table,
    floors_table,
    lost_table,
    one_ratio_table,
    paths_table,
    recipes_table,
)
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
    found = _removals(BlocksEngine(), SPLIT)
    assert [one.blocks for one in found] == [(), (1,), (1, 2), (1, 2, 0)]
    assert [one.macs for one in found] == [650, 450, 250, 50]


def test_differences_are_paired():
    first, second = np.array([True] * 60 + [False] * 40), np.array([True] * 50 + [False] * 45 + [True] * 5)
    lost, (low, high) = paired(first, second)
    assert lost == pytest.approx(5)
    assert low < 5 < high


def test_an_aim_inside_the_interval_is_neither_reached_nor_missed():
    row = {"accuracy": 0.8, "goal": 1.0}
    rows = [
        {"skip_ratio": 0.3, "lost": 0.9, "interval": [0.1, 1.5], "met": True} | row,
        {"skip_ratio": 0.4, "lost": 1.2, "interval": [0.6, 1.8], "met": True} | row,
        {"skip_ratio": 0.5, "lost": 1.9, "interval": [1.1, 2.5], "met": False} | row,
        {"skip_ratio": 0.9, "out_of_reach": 0.7},
    ]
    verdicts = [line.split("|")[-2].strip() for line in list(lost_table({"lost": rows}))[2:]]
    assert verdicts == ["reached", "not excluded", "missed", "missed"]


def test_a_broken_floor_is_called_broken():
    row = {"floor": 1.0, "point": "p40", "skip_ratio": 0.4, "lost": 2.0, "interval": [1.5, 2.5], "met": False}
    assert list(floors_table({"floors": [row]}))[-1].endswith("| broken |")


def test_variants_without_a_reading_show_a_dash():
    def result(variant, at):
        return {
            "variant": variant, "description": variant, "seed": 0, "exact_accuracy": 0.8, "accuracy_at": at,
            "layers": 18, "layers_that_vary_at_0.45": 12,
        }  # fmt: skip

    lines = list(recipes_table([result("random", {"0.3": 0.7}), result("path", {"0.3": 0.8, "0.4": 0.75})]))
    assert lines[2].startswith("| path |")
    assert "| 80.0 | 75.0 |" in lines[2]
    assert "| 70.0 | – |" in lines[3]


def test_ways_that_end_early_show_a_dash_too():
    row = {"exact_accuracy": 0.8, "layers": 18, "layers_that_vary_at_0.45": 12}
    ways = [
        {"way": "one", "accuracy_at": {"0.3": 0.7}} | row,
        {"way": "each", "accuracy_at": {"0.3": 0.8, "0.4": 0.75}} | row,
    ]
    assert list(paths_table({"ways": ways}))[2:] == [
        "| one | 80.0 | 70.0 | – | 12 of 18 |",
        "| each | 80.0 | 80.0 | 75.0 | 12 of 18 |",
    ]


def test_one_threshold_for_all_layers_rises_from_exact():
    curve = common_curve(BlocksEngine(), [np.array([0.0, 1.0, 2e30])] * 6, SPLIT)
    assert not curve.thresholds[0].any()
    assert (curve.thresholds == curve.thresholds[:, :1]).all()
    assert (np.diff(curve.thresholds[:, 0]) > 0).all()
    assert curve.skip_ratios[-1] > curve.skip_ratios[0]


def test_an_attached_network_is_judged_where_there_is_an_aim():
    row = {"accuracy": 0.8, "trained_in_accuracy": 0.82, "behind": 2.0, "interval": [1.2, 2.8]}
    rows = [
        {"skip_ratio": 0.3, "goal": None, "met": True} | row,
        {"skip_ratio": 0.4, "goal": 0.5, "met": False} | row,
        {"skip_ratio": 0.7, "out_of_reach": 0.66},
    ]
    lines = list(attached_table({"attached": rows}))[2:]
    assert [line.split("|")[-3:-1] for line in lines] == [["  ", "  "], [" ≤ 0.5 ", " missed "], [" ", " "]]


def test_only_a_whole_interval_below_is_below():
    row = {"skip_ratio": 0.3, "accuracy": 0.8, "alone_accuracy": 0.82}
    rows = [
        {"ahead": -0.5, "interval": [-1.2, 0.2], "met": True} | row,
        {"ahead": -2.0, "interval": [-2.8, -1.2], "met": False} | row,
    ]
    assert [line.split("|")[-2].strip() for line in list(one_ratio_table({"rows": rows}))[2:]] == ["not below", "below"]


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

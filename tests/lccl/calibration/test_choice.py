"""Calibration chooses on one part and measures on the other, in even steps, closer where the curve asks for it."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from lccl.calibration.choice import calibrate, calibrate_along
from lccl.calibration.search import ThresholdCurve
from lccl.compiler import compile_network
from lccl.data import HeldOut, Split
from lccl.errors import DataError, LcclError
from lccl.networks import Architecture
from lccl.plan.geometry import Convolution, GatedConvolution, NetworkShape
from lccl.plan.run import RunOutput, Setting

CHOOSE, MEASURE, IMAGES = 0, 1, 1000
BOTH_ALIKE = ThresholdCurve(tuple(Setting((value, value)) for value in np.linspace(0, 10, 21).tolist()), np.zeros(21))


class CurveEngine:
    """Skips and errs by given curves of the threshold; an image says which part it is of, and its number there."""

    name, precision, batch_limit = "curve", "fp32", IMAGES
    shape = NetworkShape(
        (
            GatedConvolution("first", Convolution(1, 1, 1, 1000, 1000), 1, 1),
            GatedConvolution("second", Convolution(1, 1, 1, 1000, 1000), 1, 1),
        ),
        0,
    )

    def __init__(self, skipped, accuracy):
        self.skipped, self.accuracy, self.measured = skipped, accuracy, []

    def run(self, images, options):
        threshold = float(options.thresholds[0, 0])
        assert (options.thresholds == np.float32(threshold)).all()
        part, number = images[:, 0, 0, 0], images[:, 0, 0, 1] * 256 + images[:, 0, 0, 2].astype(int)
        if part[0] == MEASURE:
            self.measured.append(threshold)
        curve = self.accuracy[part[0]] if isinstance(self.accuracy, tuple) else self.accuracy
        logits = np.where(number < IMAGES * curve(threshold), 1.0, -1.0)[:, None] * [0, 1]
        kept = np.full((len(images), 2), round(1e6 * (1 - self.skipped(threshold))), dtype=np.int64)
        return RunOutput(logits, kept, kept.sum(1), np.zeros(len(images), np.int64))


def split(part):
    images = np.zeros((IMAGES, 1, 1, 3), dtype=np.uint16)
    images[:, 0, 0, 0] = part
    images[:, 0, 0, 1], images[:, 0, 0, 2] = np.divmod(np.arange(IMAGES), 256)
    return Split(images, np.ones(IMAGES, dtype=np.int64))


def smooth(threshold):
    """From 0.12 upwards."""
    return 1 - 0.88 * np.exp(-threshold)


def always(accuracy):
    return lambda _: accuracy


@pytest.fixture
def run(bundle):
    data = HeldOut(split(CHOOSE), split(CHOOSE), split(MEASURE), "digest")
    known = replace(bundle, splits={"digest": "digest"})

    def calibrated(skipped=smooth, accuracy=always(0.9), engine=None):  # noqa: B008
        return calibrate_along(BOTH_ALIKE, known, engine or CurveEngine(skipped, accuracy), data)

    return calibrated


def ratios(table):
    return [point.skip_ratio for point in table.points]


def test_the_table_starts_with_exact_and_goes_on_in_even_steps(run):
    table = run().table
    assert table.exact.setting.thresholds == (0.0, 0.0)
    assert table.exact.skip_ratio == pytest.approx(0.12, abs=1e-5)
    assert ratios(table)[1:] == pytest.approx(np.arange(0.15, 0.96, 0.05), abs=0.01 / 3 + 1e-5)
    assert [point.name for point in table.points[:4]] == ["exact", "p15", "p20", "p25"]
    assert table.images == IMAGES


def test_the_first_step_is_never_a_tiny_one(run):
    """Exact skips 0.148: a point at 0.15 would not be worth having."""
    assert ratios(run(lambda threshold: 1 - 0.852 * np.exp(-threshold)).table)[1] == pytest.approx(0.2, abs=0.004)


def test_it_stops_where_ten_points_are_lost(run):
    table = run(accuracy=lambda threshold: 0.9 - 0.2 * (smooth(threshold) - 0.12)).table
    assert table.points[-1].skip_ratio == pytest.approx(0.6, abs=0.01)
    assert 9 < table.points[-1].drop <= 10


def test_points_lie_closer_where_accuracy_falls_steeply(run):
    def falling(threshold):
        return 0.9 - 0.6 * max(0.0, smooth(threshold) - 0.4)

    table = run(accuracy=falling).table
    gaps = {high.skip_ratio: high.skip_ratio - low.skip_ratio for low, high in pairwise(table.points)}
    assert all(gap == pytest.approx(0.05, abs=0.01) for ratio, gap in gaps.items() if 0.2 < ratio < 0.4)
    assert all(gap < 0.03 for ratio, gap in gaps.items() if ratio > 0.42)


def test_a_fall_that_chance_explains_adds_no_points(run):
    """Of images that are as often right as wrong at any threshold, some steps lose two points of a thousand by luck."""

    class Wavering(CurveEngine):
        def run(self, images, options):
            output = super().run(images, options)
            luck = np.random.default_rng(round(1e6 * float(options.thresholds[0, 0]))).random(len(images))
            wavers = np.arange(len(images)) % 3 == 0
            return replace(output, logits=np.where((wavers & (luck < 0.5))[:, None], [1, 0], output.logits))

    assert min(np.diff(ratios(run(engine=Wavering(smooth, always(1.0))).table))[1:]) > 0.04


def test_points_lie_closer_where_the_curve_bends(run):
    """Between 0.3 and 0.35 nearly all happens late; serving would reach 0.305 when asked for 0.325."""

    def bent(threshold):
        return float(np.interp(threshold, [0, 1, 2.0, 2.2, 6], [0.1, 0.3, 0.31, 0.35, 0.99]))

    table = run(bent).table
    between = [ratio for ratio in ratios(table) if 0.304 < ratio < 0.346]
    assert between
    thresholds = {point.skip_ratio: point.setting.thresholds[0] for point in table.points}
    for low, high in pairwise(sorted(thresholds)):
        if high - low > 0.03:
            assert abs(bent((thresholds[low] + thresholds[high]) / 2) - (low + high) / 2) <= 0.01


@pytest.mark.parametrize("late", [1.9, 1.95, 1.99])
def test_a_flat_stretch_is_parted_by_skip_ratio_not_by_threshold(run, late):
    """Halfway in threshold between the points at 0.40 and 0.45 the ratio is still about 0.40."""

    def flat(threshold):
        return float(np.interp(threshold, [0, 1, late, 2, 8], [0.1, 0.4, 0.402, 0.45, 0.99]))

    table = run(flat).table
    around = [ratio for ratio in ratios(table) if 0.39 < ratio < 0.46]
    assert 3 <= len(around) <= 6
    assert min(np.diff(around)) > 0.005
    assert max(np.diff(around)) < 0.03
    assert len({point.name for point in table.points}) == len(table.points)


def test_a_jump_is_not_parted_for_ever(run):
    """From 0.262 to 0.29 at once, where many gates have the same value: no point lies between, and none is added."""
    table = run(
        lambda threshold: 0.1 + 0.162 * min(threshold, 1) + 0.028 * (threshold > 1) + 0.1 * max(0, threshold - 1)
    )
    assert len(table.table.points) < 40
    assert min(np.diff(ratios(table.table))) > 0.004


def test_a_jump_has_a_point_on_each_edge(run):
    """From 0.24 to 0.33 at once: what is served between two points then is off by half the jump at most."""

    def jumping(threshold):
        return min(0.9, 0.12 + 0.04 * threshold + 0.09 * (threshold >= 3))

    found = ratios(run(jumping).table)
    assert max(ratio for ratio in found if ratio < 0.28) == pytest.approx(0.24, abs=0.01)
    assert min(ratio for ratio in found if ratio > 0.28) == pytest.approx(0.33, abs=0.01)


def test_an_edge_close_to_a_point_gets_none_of_its_own(run):
    """From 0.258 to 0.3 at once: 0.258 and the point at 0.25 could hardly be told apart."""

    def jumping(threshold):
        return min(0.9, 0.13 + 0.04 * threshold + 0.042 * (threshold >= 3.2))

    assert min(np.diff(ratios(run(jumping).table))) > 0.0115


def test_thresholds_rise_where_the_ratio_falls_for_a_while(run):
    """A layer that is closed may open others: from 0.29 back to 0.23, and on from there."""

    def dipping(threshold):
        return float(np.interp(threshold, [0, 2, 4, 10], [0.12, 0.29, 0.23, 0.9]))

    found = ratios(run(dipping).table)
    assert max(np.diff(found)) < 0.06
    assert found[-1] > 0.8


def test_it_stops_where_the_ratio_jumps(run):
    """From 0.52 to 0.92 at once: there is nothing between, and nothing beyond is looked for."""
    table = run(lambda threshold: 0.1 + 0.42 * min(threshold, 1) + 0.4 * (threshold > 1)).table
    assert 0.44 < ratios(table)[-1] < 0.53


def test_losses_and_skip_ratios_are_from_the_measuring_part(run):
    """The choosing part loses nothing and the measuring part does; exact's accuracy is that of both."""
    table = run(accuracy=(always(0.9), lambda threshold: 0.6 - 0.1 * smooth(threshold))).table
    exact = np.ceil(IMAGES * (0.6 - 0.1 * smooth(0))) / IMAGES
    assert table.exact.accuracy == pytest.approx((0.9 + exact) / 2)
    for point in table.points:
        threshold = float(np.float32(point.setting.thresholds[0]))
        loss = exact - np.ceil(IMAGES * (0.6 - 0.1 * smooth(threshold))) / IMAGES
        assert point.skip_ratio == pytest.approx(smooth(threshold), abs=1e-6)
        assert point.drop == pytest.approx(100 * loss)
        assert point.accuracy == pytest.approx(table.exact.accuracy - loss)
        assert point.accuracy_interval.low < point.accuracy < point.accuracy_interval.high
        assert point.drop_interval.low <= point.drop <= point.drop_bound


def test_no_point_is_dropped_for_what_the_measuring_part_shows(run):
    good, bad = run(accuracy=always(0.9)), run(accuracy=(always(0.9), lambda threshold: 0.9 * (threshold == 0)))
    assert ratios(good.table) == ratios(bad.table)
    assert bad.table.points[1].drop == pytest.approx(90)


def test_the_measuring_part_is_run_once_per_point(run):
    engine = CurveEngine(smooth, always(0.9))
    table = run(engine=engine).table
    assert engine.measured == pytest.approx([point.setting.thresholds[0] for point in table.points])


def test_each_layers_skip_ratio_is_noted(run):
    done = run()
    assert done.calibration["layers"] == ["first", "second"]
    noted = done.calibration["skip_ratio_mean_std"]
    assert list(noted) == [point.name for point in done.table.points]
    assert noted["p30"] == [[pytest.approx(0.3, abs=0.004), 0.0]] * 2
    assert done.digest == ""


def test_other_data_is_refused(bundle, run):
    engine = CurveEngine(smooth, always(0.9))
    data = HeldOut(split(CHOOSE), split(CHOOSE), split(MEASURE), "other")
    with pytest.raises(DataError, match="not the data that the bundle was trained on"):
        calibrate(replace(bundle, splits={"digest": "digest"}), engine, data)
    assert not engine.measured


def test_a_plain_twin_is_refused(random_bundle, toy_data):
    twin = random_bundle(Architecture("resnet20", gate="none"))
    with pytest.raises(LcclError, match="no gates"):
        calibrate(twin, compile_network(twin), toy_data())


def test_a_real_network_gets_a_table(random_bundle, draw_images):
    bundle = replace(random_bundle(), splits={"digest": "noise"})
    parts = [Split(draw_images(8, seed=seed), np.arange(8)) for seed in (1, 2)]
    told = []
    done = calibrate(bundle, compile_network(bundle), HeldOut(parts[0], *parts, digest="noise"), told.append)
    assert len(done.table.points) > 3
    assert len(done.table.exact.setting.thresholds) == 18
    assert done.table.images == 8
    assert done.calibration["layers"] == list(bundle.network.skip_convs)
    assert told[-1].startswith("measuring ")
    spared = calibrate(bundle, compile_network(bundle), HeldOut(parts[0], *parts, digest="noise"), closing="last")
    at_half = {name: np.array(rows)[:, 0] for name, rows in spared.calibration["skip_ratio_mean_std"].items()}["p50"]
    assert at_half.max() < 1

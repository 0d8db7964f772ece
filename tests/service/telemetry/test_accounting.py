"""What a batch leaves in the metrics: costs of everyone, and what clients' images tell."""

from __future__ import annotations

import operator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from lccl.bundle.format import load
from lccl.networks.lowering import lower
from lccl.operating_points import ROUNDING
from lccl.plan.geometry import EarlyExit, shape_of
from lccl.request import QualityRequest, resolve
from service.inference.registry import ServedModel
from service.inference.runner import Result
from service.telemetry.accounting import Accounting
from service.telemetry.metrics import MOST_CLASSES, Metrics
from tests.conftest import SHIPPED_MODELS


@pytest.fixture(scope="module")
def bundle():
    return load(SHIPPED_MODELS / "resnet20-cifar10")


@pytest.fixture(scope="module")
def shape(bundle):
    return shape_of(lower(bundle.network, bundle.preprocessing))


@pytest.fixture
def enter(bundle, shape):
    """Enters results, for the shipped model or one that differs from it, and returns how to look up a sample."""
    registry = CollectorRegistry()
    accounting = Accounting(Metrics(registry))

    def enter(*results, exits=0, **changes):
        engine = SimpleNamespace(shape=replace(shape, exits=(EarlyExit(1, 1, 1),) * exits))
        accounting.enter(ServedModel("m", "1", "m:1", replace(bundle, **changes), engine, np.zeros(1)), results)
        return lambda name, **labels: registry.get_sample_value(f"lccl_{name}", {"model": "m"} | labels)

    return enter


@pytest.fixture
def result(bundle, shape):
    """An image's result: its class, how sure it is, what it was asked with and what it skipped."""

    def result(best=3, confidence=0.8, quality=None, skip_ratio=0.4, probe=False, finite=True, exit_index=None):
        probabilities = np.full(max(best + 1, 10), 0.01 if finite else np.nan)
        probabilities[best] *= confidence / 0.01
        logits = probabilities
        point = resolve(bundle.table, quality or QualityRequest(sparsity=0.42)).wanted
        kept, ranking = (shape.cells // 2).astype(np.int64), np.argsort(-probabilities)
        return Result(
            point, False, logits, probabilities, ranking, kept, skip_ratio, 20, 25, 1.0, 1.5, 2.0, probe,
            exit_index=exit_index,
        )  # fmt: skip

    return result


def test_classes_and_confidence_are_counted(enter, result):
    sample = enter(result(best=3), result(best=3, confidence=0.97), result(best=0))
    assert sample("predictions_total", **{"class": "cat"}) == 2
    assert sample("predictions_total", **{"class": "airplane"}) == 1
    assert sample("confidence_count") == 3
    assert sample("confidence_bucket", le="0.95") == 2


def test_batches_wait_until_they_are_many_or_the_metrics_are_read(bundle, shape, result, monkeypatch):
    monkeypatch.setattr("service.telemetry.accounting.MOST_WAITING", 5)
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    accounting, images = Accounting(metrics), metrics.images.labels("m", "interpolated")
    model = ServedModel("m", "1", "m:1", bundle, SimpleNamespace(shape=shape), np.zeros(1))
    for expected in (0, 0, 6, 6):
        accounting.enter(model, [result(), result()])
        assert images._value.get() == expected
    assert registry.get_sample_value("lccl_images_total", {"model": "m", "operating_point": "interpolated"}) == 8
    assert registry.get_sample_value("lccl_batch_size_bucket", {"model": "m", "le": "2.0"}) == 4


def test_classes_beyond_the_bound_are_counted_together(enter, result):
    many = tuple(f"class {number}" for number in range(MOST_CLASSES + 2))
    sample = enter(*[result(best=MOST_CLASSES + shift) for shift in (-1, 0, 1)], labels=many)
    assert sample("predictions_total", **{"class": f"class {MOST_CLASSES - 1}"}) == 1
    assert sample("predictions_total", **{"class": "other"}) == 2


def test_clients_images_are_counted_by_exit_where_there_are_any(enter, result):
    sample = enter(
        *[result(exit_index=number) for number in (0, 0, 1, None)], result(exit_index=0, probe=True), exits=2
    )
    assert [sample("exits_total", exit=name) for name in ("0", "1", "end")] == [2, 1, 1]


def test_models_without_exits_have_no_series_for_them(enter, result):
    assert enter(result())("exits_total", exit="end") is None


def spread(bundle, name):
    """The layers' deviations between images, weighted by their MACs; a bundle notes them to four digits."""
    macs = [layer.convolution.macs for layer in shape_of(lower(bundle.network, bundle.preprocessing)).layers]
    deviations = [deviation for _, deviation in bundle.calibration["skip_ratio_mean_std"][name]]
    return sum(map(operator.mul, macs, deviations)) / sum(macs)


def test_what_a_point_reached_stands_beside_what_was_expected_of_it(enter, result, bundle):
    point = {point.name: point for point in bundle.table.points}["p40"]
    sample = enter(*[result(quality=QualityRequest(operating_point="p40"), skip_ratio=ratio) for ratio in (0.5, 0.6)])

    def of(kind):
        return sample("point_skip_ratio_total", operating_point="p40", kind=kind)

    assert of("reached") == pytest.approx(1.1)
    assert of("expected") == pytest.approx(2 * point.skip_ratio)
    assert of("spread") == pytest.approx(2 * spread(bundle, "p40"))
    assert sample("image_duration_seconds_sum", operating_point="p40") == 2.0


def test_settings_between_points_have_what_lies_between(enter, result, bundle):
    sample = enter(result(quality=QualityRequest(sparsity=0.42), skip_ratio=0.4))
    labels = {"operating_point": "interpolated"}
    assert sample("point_skip_ratio_total", kind="expected", **labels) == pytest.approx(0.42)
    low, high = sorted(spread(bundle, name) for name in ("p40", "p45"))
    assert low < sample("point_skip_ratio_total", kind="spread", **labels) < high


@pytest.mark.parametrize(
    "calibration", [{}, {"skip_ratio_mean_std": {"exact": [[0.1, 0.1]]}}, {"skip_ratio_mean_std": 3}]
)
def test_without_calibrations_spread_there_is_none(enter, result, calibration):
    sample = enter(result(), calibration=calibration)
    assert sample("point_skip_ratio_total", operating_point="interpolated", kind="reached") == pytest.approx(0.4)
    assert sample("point_skip_ratio_total", operating_point="interpolated", kind="spread") is None


def test_a_spread_is_no_smaller_than_what_engines_differ_by(enter, result, bundle):
    """Divided by 0, a difference in the last bits would be a drift beyond all bounds."""
    recorded = bundle.calibration["skip_ratio_mean_std"]
    still = {name: [[mean, 0.0] for mean, _ in layers] for name, layers in recorded.items()}
    sample = enter(result(), calibration={"skip_ratio_mean_std": still})
    assert sample("point_skip_ratio_total", operating_point="interpolated", kind="spread") == pytest.approx(ROUNDING)


def test_self_tests_and_images_without_an_answer_cost_but_tell_nothing(enter, result):
    sample = enter(result(probe=True), result(finite=False))
    assert sample("images_total", operating_point="interpolated") == 2
    assert sample("macs_total", kind="executed") == 50
    assert sample("skip_ratio_count") == 2
    assert sample("confidence_count") == 0
    assert sample("image_duration_seconds_count", operating_point="interpolated") is None

"""Calibration errors, temperatures and risk–coverage curves on answers made up to have known ones."""

import numpy as np
import pytest

from lccl.train.reliability import (
    COVERAGES,
    expected_calibration_error,
    fit_temperature,
    reliability,
    risk_coverage,
    softmax,
)


def answers(temperature, count=20_000, classes=5, seed=0):
    """Logits whose softmax at ``temperature`` is the truth: labels are drawn from it."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (count, classes))
    shares = softmax(logits, temperature).cumsum(1)
    return logits, (random.random((count, 1)) > shares).sum(1).clip(max=classes - 1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_that_labels_were_drawn_at_is_found(temperature):
    assert fit_temperature(*answers(temperature)) == pytest.approx(temperature, rel=0.03)


@pytest.mark.parametrize("temperature", [0.5, 2.5])
def test_a_temperature_mends_confidences(temperature):
    logits, labels = answers(temperature)
    right = logits.argmax(1) == labels
    before = expected_calibration_error(softmax(logits).max(1), right)
    after = expected_calibration_error(softmax(logits, temperature).max(1), right)
    assert before > 0.05
    assert after < 0.015


def test_the_calibration_error_is_the_weighted_distance_of_confidence_and_accuracy():
    confidence = np.array([0.9, 0.9, 0.9, 0.9, 0.5, 0.5])
    right = np.array([True, True, True, False, True, True])
    assert expected_calibration_error(confidence, right) == pytest.approx((4 * 0.15 + 2 * 0.5) / 6)


def test_the_ends_of_the_range_fall_into_bins():
    bins = reliability(np.array([0.0, 1.0, 1.0]), np.array([False, True, False]))
    assert [(one.images, one.confidence, one.accuracy) for one in bins] == [(1, 0, 0), (2, 1, 0.5)]


def test_risk_is_that_of_the_most_confident_answers():
    confidence = np.linspace(0.99, 0.1, 10)
    right = np.array([True] * 5 + [False, True, False, False, False])
    curve = dict(risk_coverage(confidence, right))
    assert tuple(curve) == COVERAGES
    assert curve[0.5] == 0
    assert curve[0.6] == pytest.approx(1 / 6)
    assert curve[1.0] == pytest.approx(0.4)


def test_logits_of_any_size_have_a_softmax():
    shares = softmax(np.array([[1e4, 0, -1e4], [0, 0, 0]], dtype=np.float32))
    assert shares == pytest.approx(np.array([[1, 0, 0], [1 / 3] * 3]))

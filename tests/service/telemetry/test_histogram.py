"""The histogram of batches tells the same as the library's, and no value is lost between threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from service.telemetry.histogram import BatchHistogram

BOUNDS = (0.1, 0.5, 1.0)


@pytest.fixture
def registry():
    return CollectorRegistry()


def test_it_is_written_as_the_librarys_own(registry):
    theirs = CollectorRegistry()
    expected = Histogram("seen", "Values seen.", ("model",), namespace="x", registry=theirs, buckets=BOUNDS)
    histogram = BatchHistogram("seen", "Values seen.", ("model",), namespace="x", buckets=BOUNDS, registry=registry)
    for model, values in {"a": (0.0, 0.1, 0.1000001, 0.5, 0.75), "b": (1.0, 1.5), 'c"\n': (0.3,)}.items():
        histogram.labels(model).observe(*values)
        for value in values:
            expected.labels(model).observe(value)
    written = [line for line in generate_latest(theirs).decode().splitlines() if "_created" not in line]
    assert generate_latest(registry).decode().splitlines() == written


def test_values_under_the_same_labels_are_one_series(registry):
    histogram = BatchHistogram("seen", "Values seen.", ("model",), namespace="x", buckets=BOUNDS, registry=registry)
    assert histogram.labels("a") is histogram.labels("a")
    histogram.labels("a").observe()
    assert registry.get_sample_value("x_seen_count", {"model": "a"}) == 0


def test_a_name_can_be_taken_once(registry):
    BatchHistogram("seen", "Values seen.", (), namespace="x", buckets=BOUNDS, registry=registry)
    with pytest.raises(ValueError, match="Duplicated"):
        BatchHistogram("seen", "Values seen.", (), namespace="x", buckets=BOUNDS, registry=registry)


def test_threads_lose_nothing(registry):
    histogram = BatchHistogram("seen", "Values seen.", ("model",), namespace="x", buckets=BOUNDS, registry=registry)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(400):
            pool.submit(lambda: histogram.labels("a").observe(*[0.5] * 25))
    assert registry.get_sample_value("x_seen_sum", {"model": "a"}) == 5000
    assert registry.get_sample_value("x_seen_bucket", {"model": "a", "le": "0.5"}) == 10_000


def test_waiting_values_are_counted_when_there_are_many(registry, monkeypatch):
    monkeypatch.setattr("service.telemetry.histogram.MOST_WAITING", 10)
    series = BatchHistogram("seen", "Values.", (), namespace="x", buckets=BOUNDS, registry=registry).labels()
    for number in range(25):
        series.observe(0.5)
        assert len(series._waiting) == (number + 1) % 10
    assert registry.get_sample_value("x_seen_count") == 25


def test_a_bucket_has_the_exemplar_that_was_given_last(registry):
    histogram = BatchHistogram("seen", "Values.", (), namespace="x", buckets=BOUNDS, registry=registry)
    histogram.labels().observe(0.2, 0.3, 7.0)
    histogram.labels().mark(0.2, {"trace_id": "a"})
    histogram.labels().mark(0.3, {"trace_id": "b"})
    buckets = {one.labels["le"]: one for family in registry.collect() for one in family.samples if "le" in one.labels}
    assert buckets["0.5"].exemplar.labels == {"trace_id": "b"}
    assert buckets["0.5"].exemplar.value == 0.3
    assert [le for le, one in buckets.items() if one.exemplar] == ["0.5"]


def test_a_former_name_tells_the_same_values(registry):
    histogram = BatchHistogram(
        "seen", "Values seen.", ("model",), namespace="x", buckets=BOUNDS, registry=registry, former="met"
    )
    histogram.labels("a").observe(0.2, 0.7)
    for name in ("seen", "met"):
        assert registry.get_sample_value(f"x_{name}_sum", {"model": "a"}) == pytest.approx(0.9)
        assert registry.get_sample_value(f"x_{name}_bucket", {"model": "a", "le": "0.5"}) == 1
    assert "# HELP x_met Deprecated: x_seen." in generate_latest(registry).decode()
    with pytest.raises(ValueError, match="Duplicated"):
        BatchHistogram("met", "Values met.", (), namespace="x", buckets=BOUNDS, registry=registry)

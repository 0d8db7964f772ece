"""The metrics of several processes, told as those of one service."""

from __future__ import annotations

import pickle
import time

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.openmetrics.exposition import generate_latest

from service.telemetry.histogram import BatchHistogram
from service.telemetry.together import Together, lasting, snapshot


@pytest.fixture
def process():
    """Makes the registry of one process, filled by keyword."""

    def make(requests=(), seconds=(), **gauges):
        registry = CollectorRegistry()
        counter = Counter("requests", "…", ["route"], namespace="lccl", registry=registry)
        for route, count in requests:
            counter.labels(route).inc(count)
        histogram = BatchHistogram("seconds", "…", ("route",), namespace="lccl", buckets=(0.1, 1.0), registry=registry)
        for value in seconds:
            histogram.labels("a").observe(value)
        for name, value in gauges.items():
            Gauge(name, "…", namespace="lccl", registry=registry).set(value)
        registry.histogram = histogram
        return registry

    return make


def told(*snapshots):
    text = generate_latest(Together(snapshots)).decode()
    return dict(line.split(" # ")[0].rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")), text


def test_counters_and_histograms_add_up(process):
    first = process([("a", 2)], [0.05, 0.5], queue_depth=1)
    second = process([("a", 3), ("b", 1)], [5.0], queue_depth=2)
    values, _ = told(snapshot(first), snapshot(second))
    assert values['lccl_requests_total{route="a"}'] == "5.0"
    assert values['lccl_requests_total{route="b"}'] == "1.0"
    buckets = [values[f'lccl_seconds_bucket{{le="{le}",route="a"}}'] for le in ("0.1", "1.0", "+Inf")]
    assert buckets == ["1.0", "2.0", "3.0"]
    assert (values['lccl_seconds_count{route="a"}'], values['lccl_seconds_sum{route="a"}']) == ("3.0", "5.55")
    assert values["lccl_queue_depth"] == "3.0"


def test_what_is_no_sum_is_the_most_or_the_least(process):
    gauges = [{"predicted_wait_seconds": wait, "model_info": 1, "source_up": up} for wait, up in ((1, 1), (3, 0))]
    values, _ = told(*(snapshot(process(**given)) for given in gauges))
    assert values["lccl_predicted_wait_seconds"] == "3.0"
    assert values["lccl_model_info"] == "1.0"
    assert values["lccl_source_up"] == "0.0"


def test_the_newest_exemplar_of_a_bucket_stays(process):
    registries = [process(seconds=[0.05]), process(seconds=[0.05])]
    for registry, trace in zip(registries, ("old", "new"), strict=True):
        registry.histogram.labels("a").mark(0.05, {"trace_id": trace})
    _, text = told(*map(snapshot, reversed(registries)))
    assert 'trace_id="new"' in text
    assert 'trace_id="old"' not in text


def test_what_a_process_counted_stays_when_it_is_gone_and_its_gauges_go(process):
    gone = lasting(snapshot(process([("a", 2)], [0.05], queue_depth=7)))
    values, _ = told(gone, snapshot(process([("a", 1)], queue_depth=1)))
    assert values['lccl_requests_total{route="a"}'] == "3.0"
    assert values['lccl_seconds_count{route="a"}'] == "1.0"
    assert values["lccl_queue_depth"] == "1.0"


def test_metrics_are_packed_without_rests_and_unpacked_with_them(process, monkeypatch):
    registry = process([(f"/{number}", number) for number in range(300)])
    rested = []
    monkeypatch.setattr(time, "sleep", rested.append)
    packed = pickle.dumps(snapshot(registry))
    unpacked = pickle.loads(packed)
    assert not rested
    assert told(unpacked)[0] == told(snapshot(registry))[0]
    assert rested

"""The metrics of several processes as those of one service."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from .metrics import OF_ALL

PIECE, REST_S = 100, 0.0001  # samples, some 15 µs each to encode; time in which another thread wakes
Key = tuple[str, tuple[tuple[str, str], ...]]


class Samples(list[Sample]):
    """A metric's samples, which whoever goes through them in a thread takes in pieces, resting between them.

    The interpreter takes its lock from a busy thread only after 5 ms, and the event loop needs it more than once for a
    request.
    """

    def __iter__(self) -> Iterator[Sample]:
        for number, sample in enumerate(super().__iter__()):
            if number % PIECE == PIECE - 1:
                time.sleep(REST_S)
            yield sample

    def __reduce__(self) -> tuple[Any, ...]:
        """Packed as plain tuples, in a quarter of the time, and without the rests."""
        return _unpacked, ([tuple(sample) for sample in super().__iter__()],)


def _unpacked(samples: list[tuple[Any, ...]]) -> Samples:
    return Samples(map(Sample._make, samples))


def snapshot(registry: CollectorRegistry) -> list[Metric]:
    """The metrics of this process, with :class:`Samples`."""
    metrics = list(registry.collect())
    for metric in metrics:
        metric.samples = Samples(metric.samples)
    return metrics


class Unhurried(Collector):
    """The metrics of a registry, as :func:`snapshot` takes them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        yield from snapshot(self._registry)


class Together(Collector):
    """The metrics of snapshots: counters and histograms added up, gauges as :data:`service.telemetry.metrics.OF_ALL`.

    Of the exemplars of a bucket the newest stays.
    """

    def __init__(self, snapshots: Sequence[Sequence[Metric]]) -> None:
        self._snapshots = snapshots

    def collect(self) -> Iterator[Metric]:
        if len(self._snapshots) == 1:
            yield from self._snapshots[0]
            return
        families: dict[str, list[Metric]] = {}
        for snapshot_ in self._snapshots:
            for metric in snapshot_:
                families.setdefault(metric.name, []).append(metric)
        for name, members in families.items():
            yield _merge(members, OF_ALL.get(name, sum))


def lasting(metrics: Sequence[Metric]) -> list[Metric]:
    """What stays counted of a process that has ended."""
    return [metric for metric in metrics if metric.type in {"counter", "histogram"}]


def _merge(members: Sequence[Metric], of_all: Callable[[Sequence[float]], float]) -> Metric:
    first = members[0]
    series: dict[Key, list[Sample]] = {}
    for metric in members:
        for sample in metric.samples:
            series.setdefault((sample.name, tuple(sample.labels.items())), []).append(sample)
    merged = Metric(first.name, first.documentation, first.type, first.unit)
    merged.samples = Samples(_merge_samples(samples, of_all) for samples in series.values())
    return merged


def _merge_samples(samples: Sequence[Sample], of_all: Callable[[Sequence[float]], float]) -> Sample:
    exemplars = [sample.exemplar for sample in samples if sample.exemplar is not None]
    newest = max(exemplars, key=lambda exemplar: exemplar.timestamp or 0.0, default=None)
    return samples[0]._replace(value=of_all([sample.value for sample in samples]), exemplar=newest)

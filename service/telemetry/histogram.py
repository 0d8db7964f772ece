"""A histogram that only notes its values, and counts them when it is read, or when many wait."""

import math
import threading
import time
from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar
from prometheus_client.utils import floatToGoString

MOST_WAITING = 1000  # values


class Series:
    """The values seen under one set of labels; safe from any thread.

    Args:
        bounds: the buckets' upper bounds, ascending, without infinity.

    """

    __slots__ = ("_bounds", "_counts", "_exemplars", "_lock", "_sum", "_waiting")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds, self._counts, self._sum = bounds, [0] * (len(bounds) + 1), 0.0
        self._exemplars: list[Any] = [None] * len(self._counts)  # Exemplar, or None
        self._waiting: list[float] = []
        self._lock = threading.Lock()

    def observe(self, *values: float) -> None:
        self._waiting.extend(values)
        if len(self._waiting) >= MOST_WAITING:
            with self._lock:
                self._count()

    def mark(self, value: float, labels: dict[str, str]) -> None:
        """Give a value's bucket an exemplar, such as the trace of the request that took so long."""
        self._exemplars[bisect_left(self._bounds, value)] = Exemplar(labels, value, time.time())

    def read(self) -> tuple[list[int], float, list[Any]]:
        """Cumulative counts, one per bound and one for infinity, the values' sum, and each bucket's exemplar."""
        with self._lock:
            self._count()
            return list(accumulate(self._counts)), self._sum, list(self._exemplars)

    def _count(self) -> None:
        values = self._waiting[:]
        del self._waiting[: len(values)]  # others may have noted more
        for value in values:
            self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += sum(values)


class BatchHistogram(Collector):
    """Like :class:`prometheus_client.Histogram`, for values that come often or in batches.

    Args:
        former: an earlier name, under which the same values are told, too.

    """

    def __init__(
        self,
        name: str,
        text: str,
        labels: tuple[str, ...],
        *,
        namespace: str,
        buckets: tuple[float, ...],
        registry: CollectorRegistry,
        former: str = "",
    ) -> None:
        full = f"{namespace}_{name}"
        self._texts = {full: text} | ({f"{namespace}_{former}": f"Deprecated: {full}."} if former else {})
        self._labels, self._bounds = labels, buckets
        self._names = [str(floatToGoString(bound)) for bound in (*buckets, math.inf)]  # type: ignore[no-untyped-call]
        self._series: dict[tuple[str, ...], Series] = {}
        registry.register(self)

    def labels(self, *values: str) -> Series:
        """The series of these label values, made when first asked for."""
        known = self._series.get(values)
        return known if known is not None else self._series.setdefault(values, Series(self._bounds))

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """The metrics without their values, by which the registry finds names that are taken."""
        for name, text in self._texts.items():
            yield HistogramMetricFamily(name, text, labels=self._labels)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        for family in self.describe():
            for values, series in sorted(self._series.copy().items()):
                counts, total, exemplars = series.read()
                family.add_metric(values, list(zip(self._names, map(float, counts), exemplars, strict=True)), total)
            yield family

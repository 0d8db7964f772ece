"""Enters the costs, savings and answers of batches into the metrics: of many at once, or whenever these are read."""

import itertools
import math
import threading
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import cache, partial
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from lccl.operating_points import ROUNDING

from ..inference.registry import ServedModel
from ..inference.runner import Result
from .metrics import END, INTERPOLATED, MOST_CLASSES, OTHER, Metrics

MOST_WAITING = 256  # images: counting them takes less than a millisecond


class Accounting:
    """Counts the images that ran, whoever still waits for them.

    Costs include those of self-tests; counters of classes, confidence, exits and latency have clients' images alone.
    Batches wait until they have :data:`MOST_WAITING` images or the metrics are read: a device thread that counted each
    would spend as much time on it as on the rest of a small batch. Safe from any thread.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._ledgers: WeakKeyDictionary[ServedModel, _Ledger] = WeakKeyDictionary()
        self._waiting: list[tuple[_Ledger, Sequence[Result]]] = []
        self._images = 0  # that wait
        self._lock = threading.Lock()
        metrics.before_read(self.settle)

    def enter(self, model: ServedModel, results: Sequence[Result]) -> None:
        """Take the results of a batch."""
        with self._lock:
            ledger = self._ledgers.get(model)
            if ledger is None:
                ledger = self._ledgers[model] = _Ledger(self._metrics, model)
            self._waiting.append((ledger, results))
            self._images += len(results)
            if self._images >= MOST_WAITING:
                self._settle()

    def settle(self) -> None:
        """Count what waits."""
        with self._lock:
            self._settle()

    def _settle(self) -> None:
        batches: dict[_Ledger, list[Sequence[Result]]] = defaultdict(list)
        for ledger, results in self._waiting:
            batches[ledger].append(results)
        self._waiting.clear()
        self._images = 0
        for ledger, members in batches.items():
            ledger.enter(members)


class _Ledger:
    """A model's counters, each looked up once, because finding one by its labels costs more than counting."""

    def __init__(self, metrics: Metrics, model: ServedModel) -> None:
        name, shape, labels = model.name, model.engine.shape, model.bundle.labels
        self._dense = shape.dense
        self._batch_size = metrics.batch_size.labels(name)
        self._macs = tuple(metrics.macs.labels(name, kind) for kind in ("dense", "gated", "executed"))
        self._skip_ratio = metrics.skip_ratio.labels(name)
        self._requested = metrics.requested_sparsity.labels(name)
        self._queue, self._compute = (metrics.stage_duration.labels(name, stage) for stage in ("queue", "compute"))
        self._confidence = metrics.confidence.labels(name)
        self._layers = [
            (
                layer.convolution.cells,
                metrics.layer_cells.labels(name, layer.name),
                metrics.layer_cells_skipped.labels(name, layer.name),
            )
            for layer in shape.layers
        ]
        self._spreads = _spreads(model)
        ends = [*enumerate(map(str, range(len(shape.exits)))), (None, END)] if shape.exits else []
        self._exits = {number: metrics.exits.labels(name, label) for number, label in ends}
        self._images = cache(partial(metrics.images.labels, name))
        self._class = cache(
            lambda index: metrics.predictions.labels(name, labels[index] if index < MOST_CLASSES else OTHER)
        )
        self._downgraded = metrics.downgraded.labels(name)
        kinds = ("reached", "expected") if self._spreads is None else ("reached", "expected", "spread")
        self._durations = cache(partial(metrics.image_duration.labels, name))
        self._sums = cache(lambda point: [metrics.point_skip_ratio.labels(name, point, kind) for kind in kinds])
        self._ratios = [point.skip_ratio for point in model.bundle.table.points]

    def enter(self, batches: Sequence[Sequence[Result]]) -> None:
        """Count the results of batches."""
        self._batch_size.observe(*map(len, batches))
        results = list(itertools.chain.from_iterable(batches))
        self._enter_costs(results)
        asked = [result for result in results if not result.probe and not math.isnan(result.confidence)]
        if asked:
            self._enter_answers(asked)

    def _enter_costs(self, results: Sequence[Result]) -> None:
        count, dense, gated, executed = len(results), *self._macs
        dense.inc(self._dense * count)
        gated.inc(sum(result.gated_macs for result in results))
        executed.inc(sum(result.executed_macs for result in results))
        self._skip_ratio.observe(*[result.skip_ratio for result in results])
        self._requested.observe(*[result.point.skip_ratio for result in results])
        self._queue.observe(*[result.queue_s for result in results])
        self._compute.observe(*[result.compute_s for result in results])
        kept = np.sum([result.kept for result in results], axis=0).tolist()
        for (cells, whole, skipped), cells_kept in zip(self._layers, kept, strict=True):
            whole.inc(cells * count)
            skipped.inc(cells * count - cells_kept)
        for point, images in Counter(result.point.name or INTERPOLATED for result in results).items():
            self._images(point).inc(images)
        self._downgraded.inc(sum(result.downgraded for result in results))

    def _enter_answers(self, results: Sequence[Result]) -> None:
        found = [int(result.ranking[0]) for result in results]
        for index, count in Counter(found).items():
            self._class(index).inc(count)
        self._confidence.observe(*[result.confidence for result in results])
        if self._exits:
            for exit_index, count in Counter(result.exit_index for result in results).items():
                self._exits[exit_index].inc(count)
        by_point: dict[str, list[Result]] = defaultdict(list)
        for result in results:
            by_point[result.point.name or INTERPOLATED].append(result)
        for point, members in by_point.items():
            self._durations(point).observe(*[result.finished_at - result.enqueued_at for result in members])
            expected = [result.point.skip_ratio for result in members]
            sums = [sum(result.skip_ratio for result in members), sum(expected)]
            if self._spreads is not None:
                sums.append(float(np.interp(expected, self._ratios, self._spreads).sum()))
            for counter, amount in zip(self._sums(point), sums, strict=True):
                counter.inc(max(0.0, amount))


def _spreads(model: ServedModel) -> NDArray[np.float64] | None:
    """At each point, the standard deviation of the skip ratio between held-out images, at most: [points].

    Calibration recorded each layer's; their sum, weighted by MACs, is the whole's if all layers vary together, and
    more than it otherwise; never less than what engines differ by. None where it recorded nothing that fits.
    """
    recorded: Any = model.bundle.calibration.get("skip_ratio_mean_std")
    shape = model.engine.shape
    macs = shape.cells * shape.cell_macs
    try:
        deviations = [[layer[1] for layer in recorded[point.name]] for point in model.bundle.table.points]
        spreads: NDArray[np.float64] = np.array(deviations, dtype=np.float64) @ macs / macs.sum()
    except (IndexError, KeyError, TypeError, ValueError):
        return None
    if not np.isfinite(spreads).all() or (spreads < 0).any():
        return None
    return spreads.clip(ROUNDING)

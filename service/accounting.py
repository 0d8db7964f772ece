"""What a batch cost and saved, entered into the metrics: once per batch, on the device thread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from prometheus_client import Counter as Metric

from service.metrics import INTERPOLATED, Metrics
from service.registry import ServedModel
from service.runner import Result


class Accounting:
    """Counts the pictures that ran, whoever still waits for them; the canary's too, for they cost the same."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._layers: dict[str, list[tuple[int, Metric, Metric]]] = {}

    def forget(self, model: ServedModel) -> None:
        """Drop what is kept to be fast for a model that is gone; its metrics stay."""
        self._layers.pop(model.key, None)

    def enter(self, model: ServedModel, results: Sequence[Result]) -> None:
        metrics, shape, name = self._metrics, model.engine.shape, model.name
        metrics.batch_size.labels(name).observe(len(results))
        for point, count in Counter(result.setting.name or INTERPOLATED for result in results).items():
            metrics.images.labels(name, point).inc(count)
        metrics.macs.labels(name, "dense").inc(shape.dense * len(results))
        metrics.macs.labels(name, "gated").inc(sum(result.gated_macs for result in results))
        metrics.macs.labels(name, "executed").inc(sum(result.executed_macs for result in results))
        ratios, requested = metrics.skip_ratio.labels(name), metrics.requested_sparsity.labels(name)
        queued, computed = (metrics.stage_timer(name, stage) for stage in ("queue", "compute"))
        for result in results:
            ratios.observe(result.skip_ratio)
            requested.observe(result.setting.sparsity)
            queued.observe(result.queue_s)
            computed.observe(result.compute_s)
        kept = np.sum([result.kept for result in results], axis=0).tolist()
        for (cells, whole, skipped), cells_kept in zip(self._counters(model), kept, strict=True):
            whole.inc(cells * len(results))
            skipped.inc(cells * len(results) - cells_kept)
        downgraded = sum(result.setting.downgraded for result in results)
        if downgraded:
            metrics.downgraded.labels(name).inc(downgraded)

    def _counters(self, model: ServedModel) -> list[tuple[int, Metric, Metric]]:
        """Per layer its cells and its two counters, found once: labels cost more than counting does."""
        known = self._layers.get(model.key)
        if known is None:
            cells, skipped = self._metrics.layer_cells, self._metrics.layer_cells_skipped
            known = [
                (layer.convolution.cells, cells.labels(model.name, layer.name), skipped.labels(model.name, layer.name))
                for layer in model.engine.shape.layers
            ]
            self._layers[model.key] = known
        return known

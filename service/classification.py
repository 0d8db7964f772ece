"""Pictures → predictions, for one request: decode in the pool, queue, await the device, count what was spent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lccl.operating_points import Setting
from service.decode import decode
from service.errors import EngineFailedError, problem
from service.metrics import INTERPOLATED, Metrics
from service.parts import Parts
from service.registry import ServedModel
from service.runner import Result, Work
from service.schemas import ClassProbability, Macs, Prediction, ProblemBody, Timing


@dataclass(frozen=True, slots=True)
class Classified:
    """A request's predictions, in the order of its pictures, and what each stage took at most."""

    predictions: list[Prediction]
    decode_s: float
    queue_s: float
    compute_s: float

    def timing(self, total_s: float) -> Timing:
        stages = (self.decode_s, self.queue_s, self.compute_s, total_s)
        decode_ms, queue_ms, compute_ms, total_ms = (round(1000 * seconds, 3) for seconds in stages)
        return Timing(decode=decode_ms, queue=queue_ms, compute=compute_ms, total=total_ms)


async def classify(
    parts: Parts, model: ServedModel, pictures: Sequence[bytes], setting: Setting, top_k: int
) -> Classified:
    """Classify pictures under one setting. A picture's own error takes its place among the predictions.

    Raises:
        Exception: the first picture's error, when no picture is left; or what fails the whole request.

    """
    decoded = await asyncio.gather(*(_decode(parts, model, picture) for picture in pictures), return_exceptions=True)
    good = [one for one in decoded if not isinstance(one, BaseException)]
    jobs = parts.batcher.put(model, [Work(image, setting) for image, _ in good]) if good else []
    done = await asyncio.gather(*(asyncio.wrap_future(job.future) for job in jobs))
    results = iter(done)
    outcomes = [one if isinstance(one, BaseException) else _outcome(model, next(results), top_k) for one in decoded]
    errors = [one for one in outcomes if isinstance(one, BaseException)]
    if len(errors) == len(outcomes):
        raise errors[0]
    _count(parts.metrics, model, setting, done)
    return Classified(
        [_refused(parts.metrics, model, one) if isinstance(one, BaseException) else one for one in outcomes],
        max(seconds for _, seconds in good),
        max(result.queue_s for result in done),
        max(result.compute_s for result in done),
    )


def _outcome(model: ServedModel, result: Result, top_k: int) -> Prediction | EngineFailedError:
    try:
        return predict(model, result, top_k)
    except EngineFailedError as error:
        return error


def _refused(metrics: Metrics, model: ServedModel, error: BaseException) -> Prediction:
    """A picture's own error in its place among the predictions."""
    if not isinstance(error, Exception):
        raise error
    answer = problem(error)
    metrics.rejected.labels(model.name, answer.code).inc()
    return Prediction(error=ProblemBody(**answer.to_json()))


def predict(model: ServedModel, result: Result, top_k: int) -> Prediction:
    """Name the likeliest classes and the work of one picture.

    Raises:
        EngineFailedError: the logits are not finite; gates multiply, and a strange picture can overflow.

    """
    if not np.isfinite(result.logits).all():
        raise EngineFailedError("the model has no finite answer for this picture: it is too unlike its training data")
    shifted = np.exp(result.logits - result.logits.max(), dtype=np.float64)
    probabilities = shifted / shifted.sum()
    order = np.argsort(-probabilities, kind="stable")[:top_k]
    shape = model.engine.shape
    return Prediction(
        classes=[
            ClassProbability(label=model.bundle.labels[index], index=index, probability=float(probabilities[index]))
            for index in map(int, order)
        ],
        skip_ratio=float(shape.skip_ratio(result.kept[None])[0]),
        macs=Macs(dense=shape.dense, gated=int(shape.gated(result.kept[None])[0]), executed=result.executed_macs),
    )


async def _decode(parts: Parts, model: ServedModel, picture: bytes) -> tuple[NDArray[np.uint8], float]:
    """The picture as an array, and the seconds that took, waiting for a decoder included."""
    started = time.monotonic()
    image = await asyncio.get_running_loop().run_in_executor(
        parts.decoders, decode, picture, model.bundle.preprocessing, parts.settings.max_pixels
    )
    return image, time.monotonic() - started


def _count(metrics: Metrics, model: ServedModel, setting: Setting, results: Sequence[Result]) -> None:
    """Enter a request's pictures into the metrics."""
    shape, name = model.engine.shape, model.name
    kept = np.stack([result.kept for result in results])
    metrics.images.labels(name, setting.name or INTERPOLATED).inc(len(results))
    metrics.macs.labels(name, "dense").inc(shape.dense * len(results))
    metrics.macs.labels(name, "gated").inc(int(shape.gated(kept).sum()))
    metrics.macs.labels(name, "executed").inc(sum(result.executed_macs for result in results))
    for ratio, result in zip(shape.skip_ratio(kept), results, strict=True):
        metrics.skip_ratio.labels(name).observe(ratio)
        metrics.requested_sparsity.labels(name).observe(setting.sparsity)
        metrics.stage_duration.labels(name, "queue").observe(result.queue_s)
        metrics.stage_duration.labels(name, "compute").observe(result.compute_s)
    for layer, cells in zip(shape.layers, kept.sum(axis=0), strict=True):
        whole = layer.convolution.cells * len(results)
        metrics.layer_cells.labels(name, layer.name).inc(whole)
        metrics.layer_cells_skipped.labels(name, layer.name).inc(whole - int(cells))
    if setting.downgraded:
        metrics.downgraded.labels(name).inc(len(results))

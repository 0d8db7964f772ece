"""v1: classify images, each request with its own setting."""

import time
from dataclasses import replace
from typing import Any

from fastapi import Request, Response
from prometheus_client import Counter

from ...errors import problem
from ...inference.pipeline import Classified
from ...inference.registry import ServedModel
from ...inference.runner import Result
from ..exchange import Asked, Exchange
from ..fields import Fields
from ..operation import Json, Operation
from .answers import ClassifyAnswer, FailedPrediction, Heading, Prediction
from .bodies import read_images

LONG_RANKING = 100  # classes of each image; longer ones are written in turns of the event loop
ERRORS = (400, 401, 404, 413, 415, 422, 429, 500, 503, 504)


def operations(exchange: Exchange, rejected: Counter, max_images: int) -> list[Operation]:
    """Routes that classify with the default model, a model, or a version of it; ``rejected`` counts images' errors."""

    async def classify(request: Request) -> Response:
        return await exchange.run(request, read, write)

    async def read(request: Request, body: bytes, _: ServedModel) -> Asked[Fields]:
        return await read_images(request, body, Fields, max_images, exchange.turns)

    async def write(request: Request, model: ServedModel, fields: Fields, classified: Classified) -> Response:
        predictions: list[Prediction | FailedPrediction] = []
        for result in classified.results:
            if fields.top_k > LONG_RANKING:
                await exchange.turns.next()
            predictions.append(
                failed(model, result) if isinstance(result, Exception) else prediction(model, result, fields.top_k)
            )
        answer: ClassifyAnswer = {**heading(request, model, classified), "predictions": predictions}
        return Json(answer)

    def failed(model: ServedModel, error: Exception) -> FailedPrediction:
        told, _ = problem(error)
        rejected.labels(model.name, told["code"]).inc()
        return {"error": told}

    default = Operation(
        "POST", "/v1/classify", "Classify images with the default model", "classify", classify, ClassifyAnswer, ERRORS,
        query=Fields, body=image_bodies(Fields),
    )  # fmt: skip
    paths = {
        "/v1/models/{model}/classify": "Classify images with a model",
        "/v1/models/{model}/versions/{version}/classify": "Classify images with one version of a model",
    }
    return [default, *(replace(default, path=path, summary=summary) for path, summary in paths.items())]


def image_bodies(kind: type[Fields]) -> dict[str, Any]:
    """The bodies of a route that takes images and these fields, as OpenAPI has them."""
    fields: dict[str, Any] = kind.model_json_schema()["properties"]
    image, text = {"type": "string", "format": "binary"}, {"type": "string", "format": "byte"}
    form = {"file": {"type": "array", "items": image}, **fields}
    texts = {"image": text, "images": {"type": "array", "items": text}, **fields}
    return {
        "image/jpeg": {"schema": image},
        "image/png": {"schema": image},
        "multipart/form-data": {"schema": {"type": "object", "required": ["file"], "properties": form}},
        "application/json": {"schema": {"type": "object", "properties": texts}},
    }


def heading(request: Request, model: ServedModel, classified: Classified) -> Heading:
    """What classify and the skip map answer alike; for several images the longest time of each stage."""
    state, done = request.scope["state"], classified.done
    used = classified.sparsest
    point = used.point
    return {
        "model": model.name,
        "version": model.version,
        "precision": model.engine.precision,
        "request_id": state["request_id"],
        "operating_point": {
            "name": point.name,
            "sparsity": point.skip_ratio,
            "norm_set": 0,
            "exit_confidence": point.setting.exit_confidence,
            "expected_accuracy": point.accuracy,
            "accuracy_interval": (point.accuracy_interval.low, point.accuracy_interval.high),
            "expected_accuracy_drop": point.drop,
            "downgraded": used.downgraded,
        },
        "timing_ms": {
            "decode": round(1000 * classified.decode_s, 3),
            "queue": round(1000 * max(result.queue_s for result in done), 3),
            "compute": round(1000 * max(result.compute_s for result in done), 3),
            "total": round(1000 * (time.monotonic() - state["arrived"]), 3),
        },
    }


def prediction(model: ServedModel, result: Result, top_k: int) -> Prediction:
    """The likeliest classes and the work of one image."""
    best, labels = result.ranking[:top_k], model.bundle.labels
    likeliest = zip(best.tolist(), result.probabilities[best].tolist(), strict=True)
    return {
        "classes": [{"label": labels[index], "index": index, "probability": share} for index, share in likeliest],
        "confidence": result.confidence,
        "exit": result.exit_index,
        "skip_ratio": result.skip_ratio,
        "macs": {"dense": model.dense_macs, "gated": result.gated_macs, "executed": result.executed_macs},
    }

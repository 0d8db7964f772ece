"""v1: classify images, each request under its own wish."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from service.body import AnyFields, fields_of, parse
from service.classification import Classified, Order, classify
from service.errors import OutOfTimeError, TooLargeError, problem
from service.parts import Parts, parts_of
from service.registry import ServedModel
from service.routes.access import require_key
from service.routes.direct import DirectRoute, JsonAnswer
from service.runner import Result
from service.schemas import ClassifyAnswer, Fields, problems

router = APIRouter(prefix="/v1", tags=["classify"], route_class=DirectRoute)

_IMAGE = {"schema": {"type": "string", "format": "binary"}}
_ERRORS = problems(400, 401, 404, 413, 415, 422, 429, 500, 503, 504)


def documented(*path: str, answer: type[BaseModel] = ClassifyAnswer, kind: type[Fields] = Fields) -> dict[str, Any]:
    """What a route that takes images and these fields says of itself; ``path`` names what its path holds."""
    fields: dict[str, Any] = kind.model_json_schema()["properties"]
    names = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in path]
    query = [{"name": name, "in": "query", "schema": schema} for name, schema in fields.items()]
    return {
        "response_model": answer,
        "responses": _ERRORS,
        "openapi_extra": {"requestBody": _body(fields), "parameters": names + query},
    }


def _body(fields: dict[str, Any]) -> dict[str, Any]:
    images = {"file": {"type": "array", "items": _IMAGE["schema"]}, **fields}
    texts = {
        "image": {"type": "string", "format": "byte"},
        "images": {"type": "array", "items": {"type": "string", "format": "byte"}},
        **fields,
    }
    return {
        "required": True,
        "content": {
            "image/jpeg": _IMAGE,
            "image/png": _IMAGE,
            "multipart/form-data": {"schema": {"type": "object", "required": ["file"], "properties": images}},
            "application/json": {"schema": {"type": "object", "properties": texts}},
        },
    }


@router.post("/classify", summary="Classify images with the default model", **documented())
async def classify_default(request: Request) -> Response:
    return await _answer(request, None, None)


@router.post("/models/{model}/classify", summary="Classify images with a model", **documented("model"))
async def classify_with(request: Request) -> Response:
    return await _answer(request, request.path_params["model"], None)


@router.post(
    "/models/{model}/versions/{version}/classify",
    summary="Classify images with one version of a model",
    **documented("model", "version"),
)
async def classify_with_version(request: Request) -> Response:
    return await _answer(request, request.path_params["model"], request.path_params["version"])


async def _answer(request: Request, name: str | None, version: str | None) -> Response:
    model, fields, classified = await ask(request, name, version, Fields)
    return _encode(parts_of(request), request, model, classified, fields.top_k)


async def ask(
    request: Request, name: str | None, version: str | None, kind: type[AnyFields], want_masks: bool = False
) -> tuple[ServedModel, AnyFields, Classified]:
    """Read a request, find its model and classify its images; with masks it may hold one image.

    Raises:
        LcclError: whatever the request is refused for.

    """
    parts, started = parts_of(request), request.state.arrived
    held_s = time.monotonic() - started
    caller = require_key(request)
    model = parts.registry.find(name, version)
    request.state.model = model.name
    limit_s = parts.settings.request_timeout_s
    try:
        async with asyncio.timeout(limit_s):
            with parts.bodies.lease() as lease:
                content = await parse(request, await lease.read(request), parts.settings)
                if want_masks and len(content.images) > 1:
                    raise TooLargeError(f"{len(content.images)} images: a skip map is made of one at a time")
                fields = fields_of(request, content.fields, kind)
                order = Order(fields.quality(), caller.name, started, held_s, request.receive, want_masks)
                classified = await classify(parts, model, order, content.images)
    except TimeoutError as error:
        raise OutOfTimeError(f"no answer within {limit_s:g} s: the server is busy, or the upload was slow") from error
    request.scope["state"]["classified"] = classified
    return model, fields, classified


def _encode(parts: Parts, request: Request, model: ServedModel, classified: Classified, top_k: int) -> Response:
    """Write a :class:`ClassifyAnswer`, without making one: that takes several times as long."""
    encoding = time.monotonic()
    content = orjson.dumps(
        {
            **heading(request, model, classified),
            "predictions": [prediction(parts, model, result, top_k) for result in classified.results],
            "timing_ms": timing(classified, request.state.arrived, encoding),
        }
    )
    parts.metrics.stage_timer(model.name, "decode").observe(classified.decode_s)
    parts.metrics.stage_timer(model.name, "encode").observe(time.monotonic() - encoding)
    return JsonAnswer(content)


def heading(request: Request, model: ServedModel, classified: Classified) -> dict[str, Any]:
    """Who answers, and with what setting."""
    return {
        "model": model.name,
        "version": model.version,
        "request_id": request.scope["state"]["request_id"],
        "operating_point": _operating_point(classified.done),
    }


def timing(classified: Classified, started: float, ended: float) -> dict[str, float]:
    """Milliseconds by stage; for several images the longest of each."""
    done = classified.done
    return {
        "decode": round(1000 * classified.decode_s, 3),
        "queue": round(1000 * max(result.queue_s for result in done), 3),
        "compute": round(1000 * max(result.compute_s for result in done), 3),
        "total": round(1000 * (ended - started), 3),
    }


def _operating_point(results: Sequence[Result]) -> dict[str, Any]:
    """The setting of the images; where brown-out came between them, the sparsest, which promises least."""
    used = max(results, key=lambda result: result.point.skip_ratio)
    point = used.point
    return {
        "name": point.name,
        "sparsity": point.skip_ratio,
        "norm_set": 0,
        "exit_confidence": point.setting.exit_confidence,
        "expected_accuracy": point.accuracy,
        "accuracy_interval": (point.accuracy_interval.low, point.accuracy_interval.high),
        "expected_accuracy_drop": point.drop,
        "downgraded": used.downgraded,
    }


def prediction(parts: Parts, model: ServedModel, result: Result | Exception, top_k: int) -> dict[str, Any]:
    """The likeliest classes and the work of one image, or its own error."""
    if isinstance(result, Exception):
        answer = problem(result)
        parts.metrics.rejected.labels(model.name, answer.code).inc()
        return {"error": answer.to_json()}
    best, labels = result.ranking[:top_k], model.bundle.labels
    likeliest = zip(best.tolist(), result.probabilities[best].tolist(), strict=True)
    return {
        "classes": [{"label": labels[index], "index": index, "probability": share} for index, share in likeliest],
        "confidence": result.confidence,
        "exit": result.exit,
        "skip_ratio": result.skip_ratio,
        "macs": {"dense": model.dense_macs, "gated": result.gated_macs, "executed": result.executed_macs},
    }

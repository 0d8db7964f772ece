"""v1: classify pictures, each request under its own wish."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from lccl.operating_points import Wish
from service.body import fields_of, parse
from service.classification import Classified, Order, classify
from service.errors import OutOfTimeError, problem
from service.parts import Parts, parts_of
from service.registry import ServedModel
from service.routes.access import require_key
from service.routes.direct import DirectRoute, JsonAnswer
from service.runner import Result
from service.schemas import ClassifyAnswer, Fields, problems

router = APIRouter(prefix="/v1", tags=["classify"], route_class=DirectRoute)

_PICTURE = {"schema": {"type": "string", "format": "binary"}}
_FIELDS: dict[str, Any] = Fields.model_json_schema()["properties"]
_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "image/jpeg": _PICTURE,
        "image/png": _PICTURE,
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": {"type": "array", "items": _PICTURE["schema"]}, **_FIELDS},
            }
        },
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {
                    "image": {"type": "string", "format": "byte"},
                    "images": {"type": "array", "items": {"type": "string", "format": "byte"}},
                    **_FIELDS,
                },
            }
        },
    },
}
_ERRORS = problems(400, 401, 404, 413, 415, 422, 429, 500, 503, 504)


def _documented(*path: str) -> dict[str, Any]:
    names = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in path]
    query = [{"name": name, "in": "query", "schema": schema} for name, schema in _FIELDS.items()]
    return {
        "response_model": ClassifyAnswer,
        "responses": _ERRORS,
        "openapi_extra": {"requestBody": _BODY, "parameters": names + query},
    }


@router.post("/classify", summary="Classify pictures with the default model", **_documented())
async def classify_default(request: Request) -> Response:
    return await _answer(request, None, None)


@router.post("/models/{model}/classify", summary="Classify pictures with a model", **_documented("model"))
async def classify_with(request: Request) -> Response:
    return await _answer(request, request.path_params["model"], None)


@router.post(
    "/models/{model}/versions/{version}/classify",
    summary="Classify pictures with one version of a model",
    **_documented("model", "version"),
)
async def classify_with_version(request: Request) -> Response:
    return await _answer(request, request.path_params["model"], request.path_params["version"])


async def _answer(request: Request, name: str | None, version: str | None) -> Response:
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
                fields = fields_of(request, content.fields)
                wish = Wish(fields.sparsity, fields.operating_point, fields.max_accuracy_drop, fields.deadline_ms)
                order = Order(wish, caller.name, started, held_s, request.receive)
                classified = await classify(parts, model, order, content.pictures)
    except TimeoutError as error:
        raise OutOfTimeError(f"no answer within {limit_s:g} s: the server is busy, or the upload was slow") from error
    return _encode(parts, request, model, classified, fields.top_k, started)


def _encode(
    parts: Parts, request: Request, model: ServedModel, classified: Classified, top_k: int, started: float
) -> Response:
    """Write a :class:`ClassifyAnswer`, without making one: that takes several times as long."""
    encoding = time.monotonic()
    state: dict[str, Any] = request.scope["state"]
    state["classified"] = classified
    done = classified.done
    content = orjson.dumps(
        {
            "model": model.name,
            "version": model.version,
            "request_id": state["request_id"],
            "operating_point": _operating_point(done),
            "predictions": [_prediction(parts, model, result, top_k) for result in classified.results],
            "timing_ms": {
                "decode": round(1000 * classified.decode_s, 3),
                "queue": round(1000 * max(result.queue_s for result in done), 3),
                "compute": round(1000 * max(result.compute_s for result in done), 3),
                "total": round(1000 * (encoding - started), 3),
            },
        }
    )
    parts.metrics.stage_timer(model.name, "decode").observe(classified.decode_s)
    parts.metrics.stage_timer(model.name, "encode").observe(time.monotonic() - encoding)
    return JsonAnswer(content)


def _operating_point(results: Sequence[Result]) -> dict[str, Any]:
    """The setting of the pictures; where brown-out came between them, the sparsest, which promises least."""
    setting = results[0].setting
    if len(results) > 1:
        setting = max((result.setting for result in results), key=lambda one: one.sparsity)
    return {
        "name": setting.name,
        "sparsity": setting.sparsity,
        "norm_set": setting.norm_set,
        "expected_accuracy": setting.expected_accuracy,
        "accuracy_interval": (setting.accuracy_interval.low, setting.accuracy_interval.high),
        "expected_accuracy_drop": setting.expected_accuracy_drop,
        "downgraded": setting.downgraded,
    }


def _prediction(parts: Parts, model: ServedModel, result: Result | Exception, top_k: int) -> dict[str, Any]:
    """The likeliest classes and the work of one picture, or its own error."""
    if isinstance(result, Exception):
        answer = problem(result)
        parts.metrics.rejected.labels(model.name, answer.code).inc()
        return {"error": answer.to_json()}
    best, labels = result.ranking[:top_k], model.bundle.labels
    likeliest = zip(best.tolist(), result.probabilities[best].tolist(), strict=True)
    return {
        "classes": [{"label": labels[index], "index": index, "probability": share} for index, share in likeliest],
        "skip_ratio": result.skip_ratio,
        "macs": {"dense": model.dense_macs, "gated": result.gated_macs, "executed": result.executed_macs},
    }

"""v1: classify pictures, each request under its own wish."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response

from lccl.operating_points import Setting, Wish
from service.body import merge, parse
from service.classification import Classified, classify
from service.errors import ClientGoneError, OutOfTimeError
from service.parts import Parts, parts_of
from service.registry import ServedModel
from service.routes.access import require_key
from service.schemas import ClassifyAnswer, Fields, OperatingPointUsed, ProblemBody

router = APIRouter(prefix="/v1", tags=["classify"], dependencies=[Depends(require_key)])

_PICTURE = {"schema": {"type": "string", "format": "binary"}}
_WISH: dict[str, Any] = {name: {"type": kind} for name, kind in (
    ("sparsity", "number"), ("operating_point", "string"), ("max_accuracy_drop", "number"), ("top_k", "integer"),
)}  # fmt: skip
_BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "image/jpeg": _PICTURE,
        "image/png": _PICTURE,
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": {"type": "array", "items": _PICTURE["schema"]}, **_WISH},
            }
        },
        "application/json": {
            "schema": {
                "type": "object",
                "properties": {
                    "image": {"type": "string", "format": "byte"},
                    "images": {"type": "array", "items": {"type": "string", "format": "byte"}},
                    **_WISH,
                },
            }
        },
    },
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemBody, "content": {"application/problem+json": {}}}
    for status in (400, 401, 404, 413, 415, 422, 429, 503, 504)
}
_DOCUMENTED: dict[str, Any] = {
    "response_model": ClassifyAnswer,
    "responses": _ERRORS,
    "openapi_extra": {"requestBody": _BODY},
}


@router.post("/classify", summary="Classify pictures with the default model", **_DOCUMENTED)
async def classify_default(request: Request, fields: Annotated[Fields, Query()]) -> Response:
    return await _answer(request, None, fields)


@router.post("/models/{model}/classify", summary="Classify pictures with a model", **_DOCUMENTED)
async def classify_with(request: Request, model: str, fields: Annotated[Fields, Query()]) -> Response:
    return await _answer(request, model, fields)


async def _answer(request: Request, name: str | None, query: Fields) -> Response:
    parts, started = parts_of(request), time.monotonic()
    model = parts.registry.find(name)
    request.state.model = model.name
    times = Counter(key for key, _ in request.query_params.multi_items())
    repeated = {key for key, count in times.items() if count > 1}
    try:
        async with asyncio.timeout(parts.settings.request_timeout_s):
            with parts.bodies.lease() as lease:
                content = await parse(request, await lease.read(request), parts.settings)
                fields = merge(query, repeated, content.fields)
                wish = Wish(fields.sparsity, fields.operating_point, fields.max_accuracy_drop)
                setting = model.bundle.table.resolve(wish)
                work = classify(parts, model, content.pictures, setting, fields.top_k)
                classified = await _while_connected(request, work)
    except TimeoutError as error:
        limit = parts.settings.request_timeout_s
        raise OutOfTimeError(f"no answer within {limit:g} s: the server is busy, or the upload was slow") from error
    return _encode(parts, request, model, setting, classified, started)


async def _while_connected(request: Request, work: Coroutine[Any, Any, Classified]) -> Classified:
    """Await the work, but give it up, queued pictures too, as soon as the client has gone."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnect(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGoneError("the client closed the connection")
        return task.result()
    finally:
        gone.cancel()
        task.cancel()


async def _disconnect(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _encode(
    parts: Parts, request: Request, model: ServedModel, setting: Setting, classified: Classified, started: float
) -> Response:
    encoding = time.monotonic()
    answer = ClassifyAnswer(
        model=model.name,
        version=model.bundle.version,
        request_id=request.state.request_id,
        operating_point=OperatingPointUsed(
            name=setting.name,
            sparsity=setting.sparsity,
            norm_set=setting.norm_set,
            expected_accuracy=setting.expected_accuracy,
            accuracy_interval=(setting.accuracy_interval.low, setting.accuracy_interval.high),
            expected_accuracy_drop=setting.expected_accuracy_drop,
            downgraded=setting.downgraded,
        ),
        predictions=classified.predictions,
        timing_ms=classified.timing(encoding - started),
    )
    content = answer.model_dump_json(exclude_unset=True)
    stages = parts.metrics.stage_duration
    stages.labels(model.name, "decode").observe(classified.decode_s)
    stages.labels(model.name, "encode").observe(time.monotonic() - encoding)
    return Response(content, media_type="application/json")

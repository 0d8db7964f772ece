"""v2: the Open Inference Protocol over HTTP, as Triton's and KServe's clients speak it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from importlib.metadata import version as version_of
from typing import Any, ParamSpec, TypeVar

import numpy as np
from fastapi import APIRouter, Depends, Request, Response

from lccl.request import QualityRequest
from service.body import fields_of
from service.classification import Classified, Order, classify
from service.errors import (
    DamagedImageError,
    InvalidFieldError,
    NotAnImageError,
    OutOfTimeError,
    TooLargeError,
    UnavailableError,
)
from service.headers import header
from service.open_inference.description import configuration, interface_of, metadata
from service.open_inference.outputs import NO_EXIT, Answers, point_parameters, tensors
from service.open_inference.requests import JSON_SIZE, InferRequest, json_size, read_request, write_answer
from service.parts import Parts, parts_of
from service.registry import ServedModel
from service.routes.access import require_key
from service.routes.direct import DirectRoute
from service.routes.operations import LONGEST_BATCH_S, check_ready
from service.schemas import Fields, problems

PREFIX, JSON = "/v2", "application/json"
EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "model_repository", "parameters")
# What is longer is read and written beside the event loop.
INLINE_BYTES = 1 << 16
INLINE_NUMBERS = 1 << 13

router = APIRouter(tags=["open inference protocol"])
probes = APIRouter(prefix=PREFIX, responses=problems(503, media_type=JSON))
keyed = APIRouter(
    prefix=PREFIX, dependencies=[Depends(require_key)], responses=problems(401, 404, 429, 503, media_type=JSON)
)
direct = APIRouter(
    prefix=PREFIX, route_class=DirectRoute,
    responses=problems(400, 401, 404, 413, 415, 422, 429, 500, 503, 504, media_type=JSON),
)  # fmt: skip

# Documentation of what the endpoints take from the request themselves.
_MODEL, _VERSION = (
    {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in ("model", "version")
)
_BODY = {"required": True, "content": {"application/json": {}, "application/octet-stream": {}}}
_VERSIONED: dict[str, Any] = {"openapi_extra": {"parameters": [_VERSION]}}
_INFER: dict[str, Any] = {"openapi_extra": {"parameters": [_MODEL], "requestBody": _BODY}}
_INFER_VERSIONED: dict[str, Any] = {"openapi_extra": {"parameters": [_MODEL, _VERSION], "requestBody": _BODY}}

Arguments = ParamSpec("Arguments")
Value = TypeVar("Value")


@probes.get("/health/live", summary="Whether the device thread moves")
async def live(request: Request) -> dict[str, bool]:
    if not parts_of(request).runner.moves(LONGEST_BATCH_S):
        raise UnavailableError("the device thread does not move: restart the service")
    return {"live": True}


@probes.get("/health/ready", summary="Whether models answered their canary lately and the queue accepts")
async def ready(request: Request) -> dict[str, bool]:
    check_ready(parts_of(request))
    return {"ready": True}


@keyed.get("", summary="Describe the server")
async def describe_server() -> dict[str, Any]:
    return {"name": "lccl", "version": version_of("lccl"), "extensions": list(EXTENSIONS)}


@keyed.get("/models/{model}", summary="Describe a model")
@keyed.get("/models/{model}/versions/{version}", summary="Describe one version of a model", **_VERSIONED)
async def describe_model(request: Request, model: str) -> dict[str, Any]:
    found = _find(request, model)
    return metadata(found, [one.version for one in parts_of(request).registry.versions(found.name)])


@keyed.get("/models/{model}/ready", summary="Whether a model is loaded and the server ready")
@keyed.get(
    "/models/{model}/versions/{version}/ready",
    summary="Whether one version of a model is",
    **_VERSIONED,
)
async def model_ready(request: Request, model: str) -> dict[str, Any]:
    found = _find(request, model)
    check_ready(parts_of(request))
    return {"name": found.name, "ready": True}


@keyed.get("/models/{model}/config", summary="A model's configuration in Triton's form")
@keyed.get("/models/{model}/versions/{version}/config", summary="One version's configuration", **_VERSIONED)
async def model_configuration(request: Request, model: str) -> dict[str, Any]:
    return configuration(_find(request, model), parts_of(request).settings.max_images)


@direct.post("/models/{model}/infer", summary="Run a model on tensors", **_INFER)
@direct.post("/models/{model}/versions/{version}/infer", summary="Run one version on tensors", **_INFER_VERSIONED)
async def infer(request: Request) -> Response:
    parts, started = parts_of(request), request.state.arrived
    held_s = time.monotonic() - started
    caller = require_key(request)
    model = _find(request, request.path_params["model"])
    limit_s = parts.settings.request_timeout_s
    try:
        async with asyncio.timeout(limit_s):
            with parts.bodies.lease() as lease:
                asked = await _read(request, await lease.read(request), model)
                order = Order(_wish(request, asked), caller.name, started, held_s, request.receive)
                classified = request.state.classified = await _classify(parts, model, order, asked)
            return await _encode(parts, model, asked, classified)
    except TimeoutError as error:
        raise OutOfTimeError(f"no answer within {limit_s:g} s: the server is busy, or the upload was slow") from error


for part in (probes, keyed, direct):
    router.include_router(part)


def owns(path: str) -> bool:
    """Whether a path is the protocol's, whose errors are ``application/json`` with the text as ``error``."""
    return path == PREFIX or path.startswith(f"{PREFIX}/")


def _find(request: Request, name: str) -> ServedModel:
    model = parts_of(request).registry.find(name, request.path_params.get("version"))
    request.state.model = model.name
    return model


async def _read(request: Request, body: bytes, model: ServedModel) -> InferRequest:
    if header(request.scope, b"content-encoding", "identity").lower() != "identity":
        raise NotAnImageError("compressed bodies are not taken: send the request as it is")
    parts = parts_of(request)
    size = json_size(request.headers.getlist(JSON_SIZE), len(body))
    most = parts.settings.max_images
    return await _beside(parts, len(body) > INLINE_BYTES, read_request, body, size, interface_of(model), most)


def _wish(request: Request, asked: InferRequest) -> QualityRequest:
    fields = fields_of(request, dict(asked.quality), Fields)
    if "top_k" in fields.model_fields_set:
        raise InvalidFieldError("top_k is not of this protocol: set classification on an output")
    return fields.quality()


async def _classify(parts: Parts, model: ServedModel, order: Order, asked: InferRequest) -> Classified:
    """Classify all images; the protocol has no place for the error of one, so it is the request's."""
    try:
        classified = await classify(parts, model, order, list(asked.images))
    except (DamagedImageError, NotAnImageError, TooLargeError) as error:  # of every image; this is the first one's
        _name_element(error, 0)
        raise
    for index, result in enumerate(classified.results):
        if isinstance(result, Exception):
            _name_element(result, index)
            raise result
    return classified


def _name_element(error: Exception, index: int) -> None:
    error.args = (f"element {index}: {error}",)


async def _encode(parts: Parts, model: ServedModel, asked: InferRequest, classified: Classified) -> Response:
    encoding = time.monotonic()
    numbers = len(classified.results) * len(model.bundle.labels)
    content, size = await _beside(parts, numbers > INLINE_NUMBERS, _answer, model, asked, classified)
    parts.metrics.stage_timer(model.name, "decode").observe(classified.decode_s)
    parts.metrics.stage_timer(model.name, "encode").observe(time.monotonic() - encoding)
    if size is None:
        return Response(content, media_type="application/json")
    return Response(content, headers={JSON_SIZE: str(size)}, media_type="application/octet-stream")


def _answer(model: ServedModel, asked: InferRequest, classified: Classified) -> tuple[bytes, int | None]:
    results = classified.done
    answers = Answers(
        logits=np.stack([result.logits for result in results]),
        probabilities=np.stack([result.probabilities for result in results]),
        exit=np.array([NO_EXIT if result.exit is None else result.exit for result in results]),
        skip_ratio=np.array([result.skip_ratio for result in results]),
        macs=np.array([(model.engine.shape.dense, one.gated_macs, one.executed_macs) for one in results]),
    )
    # Where brown-out came between the images, the sparsest point, which promises least.
    used = max(results, key=lambda result: result.point.skip_ratio)
    head = {
        "model_name": model.name,
        "model_version": model.version,
        "parameters": point_parameters(used.point, used.downgraded),
    }
    if asked.id is not None:
        head["id"] = asked.id
    return write_answer(head, asked.outputs, tensors(answers, model.bundle.labels, asked.outputs))


async def _beside(
    parts: Parts,
    heavy: bool,
    function: Callable[Arguments, Value],
    *args: Arguments.args,
    **kwargs: Arguments.kwargs,
) -> Value:
    """Call a function here, or, when it has much to do, in the decoders' pool."""
    if not heavy:
        return function(*args, **kwargs)
    return await asyncio.get_running_loop().run_in_executor(parts.decoders, lambda: function(*args, **kwargs))

"""create_app(settings): the only place where the parts of the service are put together."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from importlib.metadata import version

import torch
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CollectorRegistry, disable_created_metrics
from starlette.exceptions import HTTPException

from lccl.errors import LcclError
from service.batcher import Batcher
from service.body import BodyMemory, explain
from service.errors import InvalidFieldError, Problem, UnknownModelError, problem
from service.metrics import UNKNOWN, Metrics
from service.middleware import RequestObserver
from service.parts import Parts, parts_of
from service.registry import EngineChoice, Registry, ServedModel
from service.routes import classify, models, operations
from service.runner import Runner, WorkBatcher
from service.settings import Settings

log = logging.getLogger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """Make the service, its models loaded and warm; its threads start with the application.

    Raises:
        BundleError: a model, or the folder of models, cannot be used.
        EngineError: the engine, device or precision is not to be had.

    """
    parts = _assemble(settings)
    _load(parts)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        parts.runner.start()
        yield
        parts.batcher.close()
        parts.runner.join(settings.drain_timeout_s)
        parts.decoders.shutdown(wait=False, cancel_futures=True)

    app: FastAPI = FastAPIOffline(
        redoc_url=None,
        title="LCCL model server",
        summary="Classifies pictures with ResNets that skip work; every request chooses how much.",
        version=version("lccl"),
        lifespan=lifespan,
    )
    app.state.parts = parts
    app.add_middleware(RequestObserver, metrics=parts.metrics)
    for router in (classify.router, models.router, operations.router):
        app.include_router(router)
    app.add_exception_handler(Exception, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(LcclError, _on_error)
    return app


def _assemble(settings: Settings) -> Parts:
    disable_created_metrics()  # type: ignore[no-untyped-call]
    metrics = Metrics(CollectorRegistry())
    batcher: WorkBatcher = Batcher(settings.queue_limit, lambda model: model.engine.batch_limit, time.monotonic)
    return Parts(
        settings=settings,
        registry=Registry(settings.default_model),
        batcher=batcher,
        runner=Runner(batcher, lambda model, size: metrics.batch_size.labels(model.name).observe(size)),
        metrics=metrics,
        decoders=ThreadPoolExecutor(settings.decode_threads, "decode"),
        bodies=BodyMemory(settings.max_body_bytes, settings.max_inflight_bytes),
    )


def _load(parts: Parts) -> None:
    settings, metrics = parts.settings, parts.metrics
    choice = EngineChoice(
        settings.engine, settings.device, settings.precision, settings.compute_threads, settings.instruction_set
    )
    parts.registry.load_folder(settings.models, choice)
    if all(model.engine.name == "cpu" for model in parts.registry):
        torch.set_num_threads(1)  # the engine has threads of its own; torch is done
    elif settings.compute_threads:
        torch.set_num_threads(settings.compute_threads)
    for model in parts.registry:
        _announce(parts, model)
    metrics.build_info.labels(version("lccl"), platform.python_version(), torch.__version__).set(1)


def _announce(parts: Parts, model: ServedModel) -> None:
    name, engine, bundle = model.name, model.engine, model.bundle
    parts.metrics.model_info.labels(name, bundle.version, engine.name, engine.precision, bundle.digest[:12]).set(1)
    parts.metrics.queue_depth.labels(name).set_function(lambda: parts.batcher.depth(model))
    log.info("serving %s", name, extra={"model": name, "engine": engine.name, "digest": bundle.digest})


async def _on_error(request: Request, error: Exception) -> Response:
    answer = problem(error)
    if answer.code == "internal":
        log.error("a request failed", exc_info=error, extra={"request_id": request.state.request_id})
    if isinstance(error, UnknownModelError):
        request.state.model = UNKNOWN
    return _respond(request, answer)


async def _on_invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _respond(request, problem(InvalidFieldError(explain(error.errors()))))


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    code = error.detail.lower().replace(" ", "_")
    answer = Problem(error.status_code, error.detail, code, f"{request.method} is not answered at this path: see /docs")
    response = _respond(request, answer)
    response.headers.update(error.headers or {})
    return response


def _respond(request: Request, answer: Problem) -> Response:
    parts_of(request).metrics.rejected.labels(getattr(request.state, "model", ""), answer.code).inc()
    headers = {}
    if answer.retry_after is not None:
        headers["Retry-After"] = str(answer.retry_after)
    if answer.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    content = answer.to_json() | {"request_id": request.state.request_id}
    return JSONResponse(content, answer.status, headers, media_type="application/problem+json")

"""create_app(settings): the only place where the parts of the service are put together."""

from __future__ import annotations

import asyncio
import logging
import math
import platform
import time
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from importlib.metadata import version
from typing import Any

import torch
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from prometheus_client import CollectorRegistry, disable_created_metrics
from starlette.exceptions import HTTPException
from starlette.types import Lifespan

from lccl.errors import LcclError
from service.accounting import Accounting
from service.batcher import Batcher
from service.body import BodyMemory, explain
from service.errors import InvalidFieldError, Problem, UnknownModelError, problem
from service.gpu import READINGS, gpus_in_use
from service.keys import KeyRing
from service.metrics import UNKNOWN, Metrics
from service.middleware import RequestObserver, content_security_policy
from service.parts import Parts, parts_of
from service.rates import RateLimits
from service.registry import EngineChoice, Registry, ServedModel
from service.routes import classify, models, open_inference, operations, playground, repository, skip_map
from service.routes.direct import DirectRoute
from service.runner import Runner, Work, WorkBatcher
from service.scheduling.brownout import BrownOut
from service.scheduling.cost import CostModel
from service.self_test import SelfTest, warm_up
from service.settings import Settings
from service.shortcut import Shortcut
from service.tracing import Tracing

log = logging.getLogger(__name__)


def create_app(settings: Settings) -> FastAPI:
    """Make the service, its models loaded and warm; its threads start with the application.

    Raises:
        KeyFileError: the file of API keys cannot be used.
        BundleError: a model, or the folder of models, cannot be used.
        EngineError: the engine, device or precision is not to be had.
        TracingError: tracing is asked for and its packages are missing.

    """
    tracing = Tracing.from_environment() if settings.tracing else None
    parts = _assemble(settings)
    _load(parts)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        streams = max(model.engine.streams for model in parts.registry)
        parts.runner.start(asyncio.get_running_loop(), streams)
        chores = [asyncio.create_task(chore) for chore in _chores(parts)]
        yield
        for chore in chores:
            chore.cancel()
        parts.batcher.close()
        await asyncio.to_thread(parts.runner.join, settings.drain_timeout_s)
        parts.decoders.shutdown(wait=False, cancel_futures=True)
        parts.registry.close()
        if tracing is not None:
            tracing.close()

    app = _new_app(lifespan, settings.docs)
    app.state.parts = parts
    for routes in (classify, skip_map, models, open_inference, repository, operations):
        app.include_router(routes.router)
    if settings.docs:
        app.include_router(playground.router)
    app.add_exception_handler(Exception, _on_error)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(LcclError, _on_error)
    direct = [route for route in classify.router.routes if isinstance(route, DirectRoute)]
    stack = Shortcut(app.build_middleware_stack(), direct, _on_error)
    app.middleware_stack = RequestObserver(stack, parts.metrics, _policies(app) if settings.docs else {}, tracing)
    return app


def _new_app(lifespan: Lifespan[FastAPI], docs: bool) -> FastAPI:
    described: dict[str, Any] = {
        "title": "LCCL model server",
        "summary": "Classifies images with ResNets that skip work; every request chooses how much.",
        "version": version("lccl"),
        "lifespan": lifespan,
        "redoc_url": None,
    }
    return FastAPIOffline(**described) if docs else FastAPI(**described, docs_url=None, openapi_url=None)


def _policies(app: FastAPI) -> dict[str, bytes]:
    """Swagger's page carries the script that starts it."""
    page = get_swagger_ui_html(
        openapi_url=str(app.openapi_url), title=app.title, oauth2_redirect_url=app.swagger_ui_oauth2_redirect_url
    )
    return {"/docs": content_security_policy(bytes(page.body))}


def _assemble(settings: Settings) -> Parts:
    disable_created_metrics()  # type: ignore[no-untyped-call]
    metrics = Metrics(CollectorRegistry())
    cost, accounting = CostModel(), Accounting(metrics)
    brownout = BrownOut(settings.queue_target_ms / 1000 if settings.brownout else math.inf)
    batcher: WorkBatcher = Batcher(settings.queue_limit, _batch_limit, time.monotonic)

    def begin(model: ServedModel) -> None:
        warm_up(model, cost)
        self_test.passed(model)
        _announce(metrics, registry, batcher, model)

    def end(model: ServedModel) -> None:
        for forget in (cost.forget, batcher.forget):
            forget(model.key)
        accounting.forget(model)
        self_test.forget(model)
        if _info(model) not in map(_info, registry):  # read anew, it may be the same
            metrics.model_info.remove(*_info(model))

    choice = EngineChoice(
        settings.engine, settings.device, settings.precision,
        settings.compute_threads, settings.compute_streams, settings.instruction_set,
    )  # fmt: skip
    registry = Registry(settings.models, choice, settings.default_model, begin, end)
    self_test = SelfTest(registry, batcher, settings.self_test_interval_s)
    metrics.predicted_wait.set_function(batcher.waiting_s)
    metrics.brownout_level.set_function(lambda: brownout.level)
    return Parts(
        settings=settings,
        registry=registry,
        batcher=batcher,
        runner=Runner(batcher, cost, brownout, accounting.enter),
        self_test=self_test,
        metrics=metrics,
        decoders=ThreadPoolExecutor(settings.decode_threads, "decode"),
        bodies=BodyMemory(settings.max_body_bytes, settings.max_inflight_bytes),
        keys=KeyRing.load(settings.api_keys, settings.api_key.get_secret_value() if settings.api_key else None),
        rates=RateLimits(settings.rate_limit),
    )


def _batch_limit(work: Work) -> int:
    engine = work.model.engine
    return max(1, engine.batch_limit // engine.streams)


def _load(parts: Parts) -> None:
    parts.registry.load_all()
    if all(model.engine.name == "cpu" for model in parts.registry):
        torch.set_num_threads(1)  # the engine has threads of its own; torch is done
    elif parts.settings.compute_threads:
        torch.set_num_threads(parts.settings.compute_threads)
    parts.metrics.build_info.labels(version("lccl"), platform.python_version(), torch.__version__).set(1)


def _announce(metrics: Metrics, registry: Registry, batcher: WorkBatcher, model: ServedModel) -> None:
    metrics.model_info.labels(*_info(model)).set(1)
    name = model.name  # and not the model, which the metric would keep in memory for ever
    metrics.queue_depth.labels(name).set_function(
        lambda: sum(batcher.depth(one.key) for one in registry.versions(name))
    )
    for gpu in gpus_in_use():
        for kind, reading in READINGS.items():
            metrics.gpu_memory.labels(f"cuda:{gpu}", kind).set_function(partial(reading, gpu))
    log.info(
        "serving %s version %s", model.name, model.version,
        extra={"model": model.name, "engine": model.engine.name, "digest": model.bundle.digest},
    )  # fmt: skip


def _info(model: ServedModel) -> tuple[str, str, str, str, str]:
    return model.name, model.version, model.engine.name, model.engine.precision, model.bundle.digest[:12]


def _chores(parts: Parts) -> list[Coroutine[Any, Any, None]]:
    """What goes on beside the requests."""
    chores = [parts.self_test.watch()]
    if parts.settings.watch_models_s:
        chores.append(_follow(parts.registry, parts.settings.watch_models_s))
    return chores


async def _follow(registry: Registry, interval_s: float) -> None:
    while True:
        await asyncio.sleep(interval_s)
        await asyncio.to_thread(registry.refresh)


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
    if open_inference.owns(request.scope["path"]):
        return JSONResponse({"error": answer.detail} | content, answer.status, headers)
    return JSONResponse(content, answer.status, headers, media_type="application/problem+json")

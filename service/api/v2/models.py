"""v2: health, and what the server and its models say of themselves."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from ...inference.registry import Registry
from ..exchange import Exchange
from ..operation import Handler, Json, Operation
from ..operations import Health
from .description import configuration, metadata
from .infer import TAG

EXTENSIONS = ("binary_tensor_data", "classification", "model_configuration", "model_repository", "parameters")
MODEL = "/v2/models/{model}"
VERSION = MODEL + "/versions/{version}"


def operations(exchange: Exchange, registry: Registry, health: Health, max_images: int) -> list[Operation]:
    """Routes that describe the server, its models, and whether they are ready."""

    async def describe_server(_: Request) -> Response:
        return Json({"name": "lccl", "version": version("lccl"), "extensions": EXTENSIONS})

    async def describe_model(request: Request) -> Response:
        model = exchange.find(request)
        return Json(metadata(model, [one.version for one in registry.versions(model.name)]))

    async def model_ready(request: Request) -> Response:
        model = exchange.find(request)
        health.check_ready()
        return Json({"name": model.name, "ready": True})

    async def model_configuration(request: Request) -> Response:
        return Json(configuration(exchange.find(request), max_images))

    def operation(path: str, summary: str, handler: Handler) -> Operation:
        return Operation("GET", path, summary, TAG, handler, dict[str, Any], (401, 404, 429, 503))

    return [
        *(_probe(f"/v2/health/{name}", summary, name, check) for name, summary, check in (
            ("live", "Whether the device thread moves", health.check_live),
            ("ready", "Whether models passed their self-tests and the queue accepts", health.check_ready),
        )),
        operation("/v2", "Describe the server", describe_server),
        operation(MODEL, "Describe a model", describe_model),
        operation(VERSION, "Describe one version of a model", describe_model),
        operation(f"{MODEL}/ready", "Whether a model is loaded and the server ready", model_ready),
        operation(f"{VERSION}/ready", "Whether one version of a model is", model_ready),
        operation(f"{MODEL}/config", "A model's configuration in Triton's form", model_configuration),
        operation(f"{VERSION}/config", "One version's configuration", model_configuration),
    ]  # fmt: skip


def _probe(path: str, summary: str, name: str, check: Callable[[], None]) -> Operation:
    async def probe(_: Request) -> Response:
        check()
        return Json({name: True})

    return Operation("GET", path, summary, TAG, probe, dict[str, bool], (503,), "open")

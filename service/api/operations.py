"""For operators: health and metrics."""

from typing import Any

from fastapi import Request, Response
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from ..errors import ServiceError
from ..inference.registry import Registry
from ..inference.runner import Runner, WorkBatcher
from ..inference.self_test import SelfTest
from .operation import Handler, Json, Operation

LONGEST_BATCH_S = 60.0


class Health:
    """Whether the process works, and whether requests should come to it."""

    def __init__(self, registry: Registry, batcher: WorkBatcher, runner: Runner, self_test: SelfTest) -> None:
        self._registry, self._batcher, self._runner, self._self_test = registry, batcher, runner, self_test

    def check_live(self) -> None:
        """Raises ServiceError (unavailable) while a device thread does not move."""
        if not self._runner.moves(LONGEST_BATCH_S):
            raise ServiceError("unavailable", "the device thread does not move: restart the service")

    def check_ready(self) -> None:
        """Raises ServiceError (unavailable) while requests should go elsewhere."""
        if not len(self._registry):
            raise ServiceError("unavailable", "not ready: no model is loaded")
        if self._batcher.closed or not self._runner.moves(LONGEST_BATCH_S):
            raise ServiceError(
                "unavailable", "not ready: the server is shutting down, or its device thread does not move"
            )
        if not self._self_test.is_healthy():
            raise ServiceError("unavailable", "not ready: a model did not pass its self-test lately; the log says more")


def operations(health: Health, registry: CollectorRegistry) -> list[Operation]:
    """Routes that everybody may use."""

    async def live(_: Request) -> Response:
        health.check_live()
        return Json({"status": "live"})

    async def ready(_: Request) -> Response:
        health.check_ready()
        return Json({"status": "ready"})

    async def metrics(request: Request) -> Response:
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry), media_type=kind)

    def operation(path: str, summary: str, handler: Handler, answer: Any = None) -> Operation:
        return Operation("GET", path, summary, "operations", handler, answer, (503,), "open")

    return [
        operation("/health/live", "Whether the device thread moves", live, dict[str, str]),
        operation(
            "/health/ready", "Whether models passed their self-tests and the queue accepts", ready, dict[str, str]
        ),
        operation("/metrics", "Prometheus metrics", metrics),
    ]

"""For operators: health and metrics."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import Request, Response
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from ..errors import ServiceError
from ..everywhere import Everywhere
from ..inference.registry import Registry, ServedModel
from ..inference.runner import Runner, WorkBatcher
from ..inference.self_test import SelfTest
from ..telemetry.together import Together, snapshot
from .operation import Json, Operation

LONGEST_BATCH_S = 60.0


class Health:
    """Whether all processes work, and whether requests should come to them."""

    def __init__(
        self, registry: Registry, batcher: WorkBatcher, runner: Runner, self_test: SelfTest, everywhere: Everywhere
    ) -> None:
        self._registry, self._batcher, self._runner, self._self_test = registry, batcher, runner, self_test
        self._everywhere = everywhere
        everywhere.add("live", self._live)
        everywhere.add("ready", self._ready)
        everywhere.add("model_ready", self._model_ready)

    async def check_live(self) -> None:
        """Raises ServiceError (unavailable) while a device thread does not move."""
        await self._everywhere.ask("live")

    async def check_ready(self) -> None:
        """Raises ServiceError (unavailable) while requests should go elsewhere: the default model's state decides."""
        await self._everywhere.ask("ready")

    async def check_model(self, model: ServedModel) -> None:
        """Raises ServiceError (unavailable) while requests for a model should go elsewhere."""
        await self._everywhere.ask("model_ready", model.name, model.version)

    async def _live(self) -> None:
        if not self._runner.moves(LONGEST_BATCH_S):
            raise ServiceError("unavailable", "the device thread does not move: restart the service")

    async def _ready(self) -> None:
        default = self._registry.default
        if default is None:
            raise ServiceError("unavailable", "not ready: the default model is not loaded")
        if not self._self_test.goes_on():
            raise ServiceError("unavailable", "not ready: the self-tests have ended; restart the service")
        self._check(default)

    async def _model_ready(self, name: str, version: str) -> None:
        self._check(self._registry.find(name, version))

    def _check(self, model: ServedModel) -> None:
        if self._batcher.closed or not self._runner.moves(LONGEST_BATCH_S):
            raise ServiceError(
                "unavailable", "not ready: the server is shutting down, or its device thread does not move"
            )
        if not self._self_test.is_healthy(model):
            told = f"not ready: {model.name} did not pass its self-test lately; the log says more"
            raise ServiceError("unavailable", told)


class Scrapes:
    """Encodes the metrics of all processes in a thread, in one form at a time, and once for all who ask meanwhile.

    A thousand classes of three models take 50 ms. With several threads at it, the event loop would wait for each.
    """

    def __init__(self, registry: CollectorRegistry, everywhere: Everywhere) -> None:
        self._registry, self._everywhere, self._one_at_a_time = registry, everywhere, asyncio.Lock()
        self._under_way: dict[str, asyncio.Task[bytes]] = {}
        everywhere.add("metrics", self._take)

    async def _take(self) -> list[Metric]:
        return await asyncio.to_thread(snapshot, self._registry)

    async def encode(self, accept: str) -> tuple[bytes, str]:
        """The metrics and their content type, by a request's ``Accept``."""
        encoder, kind = choose_encoder(accept)
        task = self._under_way.get(kind)
        if task is None:
            task = self._under_way[kind] = asyncio.create_task(self._encode(encoder))
            task.add_done_callback(lambda _: self._under_way.pop(kind))
        return await asyncio.shield(task), kind

    async def _encode(self, encoder: Callable[[Collector], bytes]) -> bytes:
        async with self._one_at_a_time:
            snapshots = await self._everywhere.ask("metrics")
            return await asyncio.to_thread(lambda: encoder(Together(snapshots)))


def probes(prefix: str, tag: str, health: Health, answers: dict[str, Any]) -> list[Operation]:
    """The routes ``live`` and ``ready`` under a prefix, and what they answer while all is well."""

    def probe(name: str, summary: str, check: Callable[[], Awaitable[None]]) -> Operation:
        async def answer(_: Request) -> Response:
            await check()
            return Json(answers[name])

        return Operation("GET", f"{prefix}/{name}", summary, tag, answer, dict[str, Any], (503,), "open")

    return [
        probe("live", "Whether the device thread moves", health.check_live),
        probe("ready", "Whether the default model passed its self-test and the queue accepts", health.check_ready),
    ]


def operations(health: Health, registry: CollectorRegistry, everywhere: Everywhere) -> list[Operation]:
    """Routes that everybody may use."""
    scrapes = Scrapes(registry, everywhere)

    async def metrics(request: Request) -> Response:
        content, kind = await scrapes.encode(request.headers.get("accept", ""))
        return Response(content, media_type=kind)

    return [
        *probes("/health", "operations", health, {"live": {"status": "live"}, "ready": {"status": "ready"}}),
        Operation("GET", "/metrics", "Prometheus metrics", "operations", metrics, None, (503,), "open"),
    ]

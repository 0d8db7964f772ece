"""For operators: health and metrics."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

from fastapi import Request, Response
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from ..errors import ServiceError
from ..inference.registry import Registry, ServedModel
from ..inference.runner import Runner, WorkBatcher
from ..inference.self_test import SelfTest
from .operation import Json, Operation

LONGEST_BATCH_S = 60.0
PIECE, REST_S = 100, 0.0001  # samples, some 15 µs each to encode; time in which another thread wakes


class Health:
    """Whether the process works, and whether requests should come to it."""

    def __init__(self, registry: Registry, batcher: WorkBatcher, runner: Runner, self_test: SelfTest) -> None:
        self._registry, self._batcher, self._runner, self._self_test = registry, batcher, runner, self_test

    def check_live(self) -> None:
        """Raises ServiceError (unavailable) while a device thread does not move."""
        if not self._runner.moves(LONGEST_BATCH_S):
            raise ServiceError("unavailable", "the device thread does not move: restart the service")

    def check_ready(self) -> None:
        """Raises ServiceError (unavailable) while requests should go elsewhere: the default model's state decides."""
        default = self._registry.default
        if default is None:
            raise ServiceError("unavailable", "not ready: the default model is not loaded")
        if not self._self_test.goes_on():
            raise ServiceError("unavailable", "not ready: the self-tests have ended; restart the service")
        self.check_model(default)

    def check_model(self, model: ServedModel) -> None:
        """Raises ServiceError (unavailable) while requests for a model should go elsewhere."""
        if self._batcher.closed or not self._runner.moves(LONGEST_BATCH_S):
            raise ServiceError(
                "unavailable", "not ready: the server is shutting down, or its device thread does not move"
            )
        if not self._self_test.is_healthy(model):
            told = f"not ready: {model.name} did not pass its self-test lately; the log says more"
            raise ServiceError("unavailable", told)


class Samples(list[Sample]):
    """A metric's samples, which whoever goes through them in a thread takes in pieces, resting between them.

    The interpreter takes its lock from a busy thread only after 5 ms, and the event loop needs it more than once for a
    request.
    """

    def __iter__(self) -> Iterator[Sample]:
        for number, sample in enumerate(super().__iter__()):
            if number % PIECE == PIECE - 1:
                time.sleep(REST_S)
            yield sample


class Unhurried(Collector):
    """The metrics of a registry with :class:`Samples`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = Samples(metric.samples)
            yield metric


class Scrapes:
    """Encodes the metrics in a thread, in one form at a time, and once for all who ask for it meanwhile.

    A thousand classes of three models take 50 ms. With several threads at it, the event loop would wait for each.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._metrics, self._one_at_a_time = Unhurried(registry), asyncio.Lock()
        self._under_way: dict[str, asyncio.Task[bytes]] = {}

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
            return await asyncio.to_thread(encoder, self._metrics)


def probes(prefix: str, tag: str, health: Health, answers: dict[str, Any]) -> list[Operation]:
    """The routes ``live`` and ``ready`` under a prefix, and what they answer while all is well."""

    def probe(name: str, summary: str, check: Callable[[], None]) -> Operation:
        async def answer(_: Request) -> Response:
            check()
            return Json(answers[name])

        return Operation("GET", f"{prefix}/{name}", summary, tag, answer, dict[str, Any], (503,), "open")

    return [
        probe("live", "Whether the device thread moves", health.check_live),
        probe("ready", "Whether the default model passed its self-test and the queue accepts", health.check_ready),
    ]


def operations(health: Health, registry: CollectorRegistry) -> list[Operation]:
    """Routes that everybody may use."""
    scrapes = Scrapes(registry)

    async def metrics(request: Request) -> Response:
        content, kind = await scrapes.encode(request.headers.get("accept", ""))
        return Response(content, media_type=kind)

    return [
        *probes("/health", "operations", health, {"live": {"status": "live"}, "ready": {"status": "ready"}}),
        Operation("GET", "/metrics", "Prometheus metrics", "operations", metrics, None, (503,), "open"),
    ]

"""The plain twin behind Ray Serve.

Its documentation says: ``serve.batch``, blocking work off the event loop, ``max_ongoing_requests`` well above the
batch size, and for throughput RAY_SERVE_THROUGHPUT_OPTIMIZED and HAProxy in front of the replicas (``front`` names it).
"""

from __future__ import annotations

import asyncio
import signal
from concurrent.futures import ThreadPoolExecutor

import ray
from model import Model, Settings
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import LoggingConfig
from starlette.requests import Request
from starlette.responses import Response

TOLD = Settings.from_environment()
SELDOM_S = 86_400  # a replica that was frozen for a while is not ill


@serve.deployment(
    num_replicas=TOLD.workers,
    max_ongoing_requests=512,
    health_check_period_s=SELDOM_S,
    health_check_timeout_s=SELDOM_S,
    ray_actor_options={"num_cpus": 2 / TOLD.workers},
)
class Classifier:
    """One image in, its classes out."""

    def __init__(self) -> None:
        self._model = Model(TOLD)
        self._thread = ThreadPoolExecutor(1)

    async def __call__(self, request: Request) -> Response:
        return Response(await self._answer(await request.body()), media_type="application/json")

    @serve.batch(max_batch_size=TOLD.batch, batch_wait_timeout_s=TOLD.window_ms / 1000)
    async def _answer(self, contents: list[bytes]) -> list[bytes]:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, contents)

    def _run(self, contents: list[bytes]) -> list[bytes]:
        return self._model.answers(self._model.decode(contents))


if __name__ == "__main__":
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=TOLD.port))
    quiet = LoggingConfig(enable_access_log=False, log_level="WARNING")
    serve.run(Classifier.options(logging_config=quiet).bind(), route_prefix="/classify")
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()

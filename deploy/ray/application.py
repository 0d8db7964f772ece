"""The service on Ray Serve: every replica is the whole application, with its models, queue and metrics.

    serve run deploy.ray.application:app        on this machine, from the repository's folder
    serve deploy deploy/ray/serve.yml           on a cluster

Settings are those of ``lccl-serve``, from the replica's environment. See docs/deploy.md.
"""

from __future__ import annotations

import os
from typing import Any, cast

import ray
from fastapi import FastAPI
from lccl.service.app import create_app
from lccl.service.errors import StartError
from lccl.service.run import settle_in
from lccl.service.settings import Settings
from lccl.service.telemetry.logs import configure
from lccl.service.telemetry.together import Unhurried
from prometheus_client import start_http_server
from ray import serve
from starlette.types import ASGIApp

from deploy.ray.entrance import Entrance, status_of
from deploy.ray.metrics import Directory, directory
from deploy.ray.routing import images_that_fill

MOST_UNDER_WAY = 512  # requests of a replica: twice the default LCCL_QUEUE_LIMIT, so that its queue refuses and not Ray
# HAProxy in front of the replicas sends to the one with fewest connections, and takes no router.
BEHIND_HAPROXY = os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1"
ROUTER = {} if BEHIND_HAPROXY else {"request_router_class": "deploy.ray.routing.FullBatches"}
HANDED_OVER = {
    "grpc_port": "gRPC is not offered under Ray: unset LCCL_GRPC_PORT",
    "tls_certificate": "Ray's proxies hold the connections: give the certificate to http_options",
}


@serve.deployment(
    name="lccl",
    max_ongoing_requests=MOST_UNDER_WAY,
    max_queued_requests=MOST_UNDER_WAY,
    backpressure_config={"status_code": 429, "retry_after_s": 1},
    request_router_config=ROUTER,
    autoscaling_config={
        "min_replicas": 1,
        "max_replicas": 4,
        "target_ongoing_requests": 8,
        "upscale_delay_s": 10,
        "downscale_delay_s": 300,
        "policy": {"policy_function": "deploy.ray.scaling:OngoingAndWait", "policy_kwargs": {"wait_s": 0.025}},
    },
    health_check_period_s=5,
    health_check_timeout_s=30,
    graceful_shutdown_timeout_s=45,  # LCCL_DRAIN_TIMEOUT_S and the end of the threads
    graceful_shutdown_wait_loop_s=0.5,
    logging_config={"enable_access_log": False},  # the service has its own
)
@serve.ingress()
class Replica:
    """One replica: the application, what Ray asks of it, and a port for its metrics."""

    _app: FastAPI
    _name: str
    _address: str
    _directory: Directory

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The application, its models loaded and warm; Ray runs its lifespan.

        Raises:
            StartError: a setting is Ray's to keep, or as ``create_app``.

        """
        settings = own_settings()
        configure(settings.log_level)
        self._app = create_app(settings)
        settle_in()
        self._name, self._directory = serve.get_replica_context().replica_tag, directory()
        host = ray.util.get_node_ip_address()
        server, _ = start_http_server(0, host, Unhurried(self._app.state.metrics.registry))
        self._address = f"{host}:{server.server_port}"
        return Entrance(self._app, settings.trusted_proxies, self._directory)

    def __del__(self) -> None:
        """Called by Ray when the replica has answered all and its application has ended."""
        self._directory.forget.remote(self._name)

    async def check_health(self) -> None:
        """Ask what the readiness probe asks: after three failures in a row Ray replaces the replica.

        Raises:
            RuntimeError: the device's threads do not move, or the default model does not pass its self-test.

        """
        if await status_of(self._app, "/health/ready") != 200:
            raise RuntimeError("/health/ready does not answer 200: the replica's log says why")
        self._directory.tell.remote(self._name, self._address)

    def record_replica_metadata(self) -> dict[str, Any]:
        """What the router knows of a replica, taken once."""
        return {
            "full": {model.name: images_that_fill(model.engine, model.bundle) for model in self._app.state.registry}
        }

    def record_autoscaling_stats(self) -> dict[str, float]:
        """What :class:`deploy.ray.scaling.OngoingAndWait` decides by, beside requests."""
        return {"predicted_wait_s": self._app.state.batcher.waiting_s()}


def own_settings() -> Settings:
    """The settings of a replica; its engine has the processors that Ray gave it, where nothing else is said.

    Raises:
        StartError: a setting is Ray's to keep.

    """
    settings = Settings()
    for name, advice in HANDED_OVER.items():
        if getattr(settings, name):
            raise StartError(advice)
    processors = int(ray.get_runtime_context().get_assigned_resources().get("CPU", 0))
    if not processors:
        return settings
    given = {"compute_threads": settings.compute_threads or processors}
    return settings.model_copy(update=given | {"decode_threads": settings.decode_threads or processors + 1})


app = cast(Any, Replica).bind()  # serve.deployment makes a Deployment of it

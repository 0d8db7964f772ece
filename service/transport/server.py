"""How uvicorn is run: event loop, protocol, limits on connections, and what it believes of proxies."""

from __future__ import annotations

import asyncio
import logging
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import cast

import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from service.parts import Parts
from service.settings import Settings
from service.transport.accept import Acceptor
from service.transport.gate import Gate, requests_in_time
from service.transport.protocol import BoundedProtocol, ConnectionLimits

log = logging.getLogger(__name__)
BACKLOG = 4096  # connections that wait for the event loop; the kernel's own limit may be lower
OTHER_FILES = 256  # what is open beside connections: models, pipes, sockets that listen


class Server(uvicorn.Server):
    """uvicorn, accepting all connections that wait and not one a turn."""

    _acceptor: Acceptor | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if sys.platform == "win32":
            return
        listening = [one for server in self.servers for one in server.sockets]
        self._acceptor = Acceptor(listening, self._make_protocol)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._acceptor is not None:
            self._acceptor.close()
        await super().shutdown(sockets)

    def _make_protocol(self) -> asyncio.Protocol:
        make = cast(Callable[..., asyncio.Protocol], self.config.http_protocol_class)
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """The configuration of a uvicorn server for an application of :func:`service.app.create_app`."""
    parts: Parts = app.state.parts

    def refused(code: str) -> None:
        parts.metrics.rejected.labels("", code).inc()

    def most() -> int:
        return requests_in_time(settings.queue_limit, settings.request_timeout_s, parts.batcher.drained_per_s())

    limits = ConnectionLimits(
        connections=connections_that_fit(settings.max_connections),
        head_s=settings.header_timeout_s,
        body_s=settings.request_timeout_s + settings.header_timeout_s,
        idle_s=settings.idle_timeout_s,
        gate=Gate(most, parts.batcher.waiting_s, refused),
    )
    protocol = partial(BoundedProtocol, limits, refused)
    return uvicorn.Config(
        _entrance(app),
        host=settings.host,
        port=settings.port,
        http=cast(type[asyncio.Protocol], protocol),
        ws="none",
        loop="asyncio" if sys.platform == "win32" else "uvloop",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
        backlog=BACKLOG,
        timeout_keep_alive=settings.idle_timeout_s,
        timeout_graceful_shutdown=max(1, int(settings.drain_timeout_s)),
    )


def _entrance(app: FastAPI) -> ASGIApp:
    """The application's own stack, without FastAPI's question before each request whether to trace it."""
    stack = app.middleware_stack or app.build_middleware_stack()

    async def enter(scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = app
        await stack(scope, receive, send)

    return enter


def connections_that_fit(wanted: int) -> int:
    """Raise this process's limit of open files as far as it may, and see how many connections that allows."""
    if sys.platform == "win32":
        return wanted
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    fitting = max(1, hard - OTHER_FILES) if hard != resource.RLIM_INFINITY else wanted
    if fitting < wanted:
        log.warning("holding %d connections instead of %d: only %d files may be open", fitting, wanted, hard)
    return min(wanted, fitting)

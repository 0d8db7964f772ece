"""How uvicorn is run: event loop, protocol, limits on connections, and what it believes of proxies."""

from __future__ import annotations

import asyncio
import logging
import sys
from functools import partial
from typing import cast

import uvicorn
from fastapi import FastAPI

from service.parts import Parts
from service.settings import Settings
from service.transport.protocol import BoundedProtocol, ConnectionLimits

log = logging.getLogger(__name__)
BACKLOG = 4096  # connections that wait for the event loop; the kernel's own limit may be lower
OTHER_FILES = 256  # what is open beside connections: models, pipes, sockets that listen


def server_config(app: FastAPI, settings: Settings) -> uvicorn.Config:
    """The configuration of a uvicorn server for an application of :func:`service.app.create_app`."""
    parts: Parts = app.state.parts
    limits = ConnectionLimits(
        connections=connections_that_fit(settings.max_connections),
        head_s=settings.header_timeout_s,
        body_s=settings.request_timeout_s + settings.header_timeout_s,
        idle_s=settings.idle_timeout_s,
    )
    protocol = partial(BoundedProtocol, limits, lambda code: parts.metrics.rejected.labels("", code).inc())
    return uvicorn.Config(
        app,
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

"""The configuration of uvicorn: event loop, protocol, limits on connections, trusted proxies."""

import asyncio
import logging
import re
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from functools import partial
from typing import cast

import uvicorn
from fastapi import FastAPI, Response
from prometheus_client import Counter
from starlette.types import ASGIApp, Receive, Send

from ..auth.access import AccessControl
from ..errors import ServiceError
from ..inference.registry import Registry, ServedModel
from ..inference.runner import WorkBatcher
from ..settings import Settings
from .acceptor import BACKLOG, Acceptor, Handed
from .admission import LEAST, AdmissionControl, Scope, requests_in_time
from .answers import WholeAnswer
from .limits import ConnectionLimits
from .protocol import BoundedProtocol, check_uvicorn
from .proxies import behind_proxies
from .starts import Starts
from .tls import Certificates

log = logging.getLogger(__name__)
OTHER_FILES = 256  # what is open beside connections: models, pipes, sockets that listen
LEAST_REST = 64 << 20  # bytes of a body that are read after its answer, or four times the largest body
MODEL = re.compile(r"/v[12]/models/([^/]+)/(?:versions/([^/]+)/)?")


class Server(uvicorn.Server):
    """uvicorn, accepting all waiting connections at every turn of the event loop.

    Args:
        reload: called at SIGHUP.
        drain: called when the server begins to end.
        handed: where connections come from, instead of from sockets that listen.
        on_start: called when the application has started, before connections are taken.
        on_end: called before the last connections are taken.

    """

    _acceptor: Acceptor | None = None

    def __init__(
        self,
        config: uvicorn.Config,
        reload: Callable[[], Awaitable[None]] | None = None,
        drain: Callable[[], None] = lambda: None,
        handed: Handed | None = None,
        on_start: Callable[[], Awaitable[None]] | None = None,
        on_end: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        super().__init__(config)
        self._reload, self._drain = reload, drain
        self._handed, self._on_start, self._on_end = handed, on_start, on_end
        self._reloading: asyncio.Future[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup([] if self._handed else sockets)
        if sys.platform == "win32":
            return
        if self._reload is not None and threading.current_thread() is threading.main_thread():
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._hang_up, self._reload)
        make = cast(Callable[..., asyncio.Protocol], self.config.http)
        connection = partial(make, self.config, self.server_state, self.lifespan.state)
        if self._on_start is not None:
            await self._on_start()
        listening = [one for server in self.servers for one in server.sockets]
        self._acceptor = Acceptor(listening, connection, self.config.ssl, self._handed)

    def _hang_up(self, reload: Callable[[], Awaitable[None]]) -> None:
        if self._reloading is None or self._reloading.done():
            self._reloading = asyncio.ensure_future(reload())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._drain()
        if self._acceptor is not None:
            if self._on_end is not None:
                await self._on_end()
            await self._acceptor.close()
        await super().shutdown(sockets)


def server_config(app: FastAPI, settings: Settings, left: Callable[[], None] = lambda: None) -> uvicorn.Config:
    """The configuration of a uvicorn server for an application of :func:`service.app.create_app`.

    Args:
        left: called for each connection that has ended.

    Raises:
        StartError: the installed uvicorn does not fit.

    """
    check_uvicorn()
    rejected: Counter = app.state.metrics.rejected

    def refused(code: str) -> None:
        rejected.labels("", code).inc()

    admission = app.state.admission = _admission(app, settings)
    certificates: Certificates | None = app.state.certificates
    limits = ConnectionLimits(
        connections=connections_that_fit(settings.max_connections),
        head_s=settings.header_timeout_s,
        body_s=settings.request_timeout_s + settings.header_timeout_s,
        idle_s=settings.idle_timeout_s,
        rest_bytes=max(LEAST_REST, 4 * settings.max_body_bytes),
        root_path=settings.root_path.encode(),
        admission=admission,
        starts=Starts(admission.is_crowded, admission.client_of),
        left=left,
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
        **(certificates.for_uvicorn() if certificates else {}),
    )


def _entrance(app: FastAPI) -> ASGIApp:
    """The application; its middleware is asked without what FastAPI looks at for each request and is not used here."""
    middleware = app.middleware_stack
    assert middleware is not None

    async def enter(scope: Scope, receive: Receive, send: Send) -> None:
        scope["app"] = app
        await (middleware if scope["type"] == "http" else app)(scope, receive, send)

    return enter


def _admission(app: FastAPI, settings: Settings) -> AdmissionControl:
    """Admission by the model that a path names, and by the callers that the application tells apart."""
    batcher: WorkBatcher = app.state.batcher
    registry: Registry = app.state.registry
    access: AccessControl = app.state.access
    refuse: Callable[[Scope, Exception, str | None], Response] = app.state.refuse
    see_through = behind_proxies(settings.trusted_proxies)

    def asked(scope: Scope) -> ServedModel | None:
        named = MODEL.match(scope["path"])
        try:
            return registry.find(*named.groups()) if named else registry.find(None)
        except ServiceError:
            return None

    def model_of(scope: Scope) -> str:
        model = asked(scope)
        return model.key if model else ""

    def client_of(scope: Scope) -> str | None:
        see_through(scope)
        return access.name_of(scope)

    def most(key: str) -> int:
        return requests_in_time(settings.queue_limit, settings.request_timeout_s, batcher.drained_per_s(key))

    def refusal(scope: Scope, error: ServiceError) -> WholeAnswer:
        model = asked(scope)
        answer = refuse(scope, error, model.name if model else None)
        return WholeAnswer.render(answer.status_code, answer.raw_headers, bytes(answer.body))

    return AdmissionControl(
        model_of, client_of, most, refusal, batcher.waiting_s, least=min(LEAST, 2 * settings.queue_limit)
    )


def connections_that_fit(wanted: int) -> int:
    """Raise this process's limit of open files as far as possible; returns how many connections that allows."""
    if sys.platform == "win32":
        return wanted
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    fitting = max(1, hard - OTHER_FILES) if hard != resource.RLIM_INFINITY else wanted
    if fitting < wanted:
        log.warning("holding %d connections instead of %d: only %d files may be open", fitting, wanted, hard)
    return min(wanted, fitting)

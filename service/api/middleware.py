"""Middleware around every request: id, answer to errors, metrics, log line, and headers that protect browsers."""

import base64
import hashlib
import logging
import random
import re
import time
from collections.abc import Awaitable, Callable, Mapping, MutableSequence
from functools import lru_cache
from typing import Any, cast

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.routing import BaseRoute, Match, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import ServiceError
from ..telemetry.logs import RequestRecord
from ..telemetry.metrics import UNKNOWN, Metrics
from ..telemetry.tracing import Tracing
from .exchange import header
from .origins import SharedOrigins
from .problems import Refused, answer, judge

log = logging.getLogger("service.access")
REMEMBERED_PATH = 256  # bytes of a path, at most, whose route is remembered
PROBES = {"/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready", "/metrics"}
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
INLINE_SCRIPT = re.compile(rb"<script>(.*?)</script>", re.DOTALL)
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'{scripts}; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
CACHED = {b"cache-control", b"etag"}
ALWAYS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer"))
NOT_STORED = (b"cache-control", b"no-store")
NOT_FRAMED = (b"x-frame-options", b"DENY")


def content_security_policy(page: bytes = b"") -> bytes:
    """The Content-Security-Policy of a page: scripts and styles are files of this service, or scripts within it."""
    hashes = (base64.b64encode(hashlib.sha256(script).digest()).decode() for script in INLINE_SCRIPT.findall(page))
    return CONTENT_SECURITY_POLICY.format(scripts="".join(f" 'sha256-{each}'" for each in hashes)).encode()


class RequestObserver:
    """Gives a request its id, times it, answers its errors, protects its answer, and writes its line to the log."""

    def __init__(
        self,
        app: Router,
        metrics: Metrics,
        policies: Mapping[str, bytes],
        tracing: Tracing | None = None,
        clock: Callable[[], float] = time.monotonic,
        is_our_name: Callable[[str], bool] | None = None,
        shared: SharedOrigins | None = None,
    ) -> None:
        """Takes the Content-Security-Policy of pages that need their own, by path, and what ``host_check`` made."""
        self._app, self._metrics, self._tracing, self._clock = app, metrics, tracing, clock
        self._policies, self._strict = policies, content_security_policy()
        self._is_our_name, self._shared = is_our_name, shared
        self._remembered = lru_cache(maxsize=1024)(self._match)
        self._inside = 0
        metrics.inflight_requests.set_function(lambda: self._inside)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status, method = self._begin(scope), 500, scope["method"]
        if method == "HEAD":
            scope = {**scope, "method": "GET"}  # the server leaves the body out

        async def observe(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message["headers"] = list(message.get("headers", ()))
                self._protect(headers, scope)
            await send(message)

        self._inside += 1
        try:
            if self._is_our_name is not None and not self._is_our_name(header(scope, b"host")):
                raise ServiceError("wrong_host", "this service has another name: LCCL_ALLOWED_HOSTS lists its names")
            preflight = self._shared.preflight(scope) if self._shared is not None else None
            await (preflight or self._route(scope))(scope, receive, observe)
        except Exception as error:
            await answer(Request(scope), error, self._metrics.rejected)(scope, receive, observe)
        finally:
            self._inside -= 1
            self._record(scope, method, status, started, self._clock())

    def refuse(self, scope: Scope, error: Exception, model: str | None) -> Response:
        """The answer to work that the application is not asked to do, with all that any other answer has.

        Args:
            model: the one that is asked; None where there is none of that name.

        """
        started = self._begin(scope)
        scope["state"]["model"] = model or UNKNOWN
        self._route(scope)
        response = answer(Request(scope), error, self._metrics.rejected)
        self._protect(response.raw_headers, scope)
        self._record(scope, scope["method"], response.status_code, started, self._clock())
        return response

    async def observe(self, scope: Scope, work: Callable[[], Awaitable[bytes]]) -> bytes | Refused:
        """Do work that another protocol asks for, with an id, metrics and a line in the log like any other request.

        Args:
            scope: as of HTTP, with the route.

        Returns:
            its answer, or the error that the protocol has to answer with.

        """
        started, status = self._begin(scope), 200
        self._inside += 1
        try:
            return await work()
        except Exception as error:
            refused = judge(scope, error, self._metrics.rejected)
            status = refused[0]["status"]
            return refused
        finally:
            self._inside -= 1
            self._record(scope, scope["method"], status, started, self._clock())

    def _route(self, scope: Scope) -> ASGIApp:
        """What answers a request: its route, remembered by its path; the router, where there is none."""
        method, path = scope["method"], scope["path"]
        found = (self._remembered if len(path) <= REMEMBERED_PATH else self._match)(method, path)
        if found is None:
            return self._app
        route, matched = found
        scope.update(matched)
        return cast(APIRoute, route).app

    def _match(self, method: str, path: str) -> tuple[BaseRoute, Scope] | None:
        scope = {"type": "http", "method": method, "path": path}
        for route in self._app.routes:
            how, matched = route.matches(scope)
            if how is Match.FULL:
                return route, {"route": route, **matched}
        return None

    def _begin(self, scope: Scope) -> float:
        """Give a request its id and its span; returns when it arrived, in monotone seconds."""
        given = header(scope, b"x-request-id")
        state = scope.setdefault("state", {})
        state["request_id"] = given if REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
        started: float = state.setdefault("arrived", self._clock())
        if self._tracing is not None:
            state["span"] = self._tracing.begin(scope, started)
        return started

    def _protect(self, headers: MutableSequence[tuple[bytes, bytes]], scope: Scope) -> None:
        """Add the id, and what forbids browsers to guess types, frame pages, run foreign scripts and store answers."""
        given = {name.lower(): value for name, value in headers}
        headers.append((b"x-request-id", scope["state"]["request_id"].encode()))
        headers.extend(ALWAYS)
        if self._shared is not None and b"vary" not in given:  # a preflight's answer has it all
            self._shared.tell(headers, scope)
        if not given.keys() & CACHED:
            headers.append(NOT_STORED)
        if given.get(b"content-type", b"").startswith(b"text/html"):
            headers.append(NOT_FRAMED)
            headers.append((b"content-security-policy", self._policies.get(scope["path"], self._strict)))

    def _record(self, scope: Scope, method: str, status: int, started: float, ended: float) -> None:
        state: dict[str, Any] = scope["state"]
        matched, model = getattr(scope.get("route"), "path", None), state.get("model", "")
        route = matched or "unmatched"
        trace = {}
        if self._tracing is not None:
            trace["trace_id"] = self._tracing.end(
                state["span"], method, matched, status, state.get("classified"), started, ended
            )
        timer = self._metrics.request_duration.labels(model, route, str(status))
        timer.observe(ended - started)
        if trace:
            timer.mark(ended - started, trace)
        level = logging.DEBUG if route in PROBES else logging.INFO
        if not log.isEnabledFor(level):
            return
        caller = state.get("caller")
        fields = {
            "request_id": state["request_id"], "route": route, "model": model, "status": status,
            "caller": caller.name if caller else "", "duration_ms": round(1000 * (ended - started), 3), **trace,
        }  # fmt: skip
        log.handle(RequestRecord(log.name, level, "%s %s %d", (method, route, status), fields))

"""Middleware around every request: id, answer to errors, metrics, log line, and headers that protect browsers."""

import base64
import hashlib
import logging
import random
import re
import time
from collections.abc import Callable, Mapping, MutableSequence
from typing import Any

from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..telemetry.metrics import Metrics
from ..telemetry.tracing import Tracing
from .exchange import header
from .problems import answer

log = logging.getLogger("service.access")
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
        app: ASGIApp,
        metrics: Metrics,
        policies: Mapping[str, bytes],
        tracing: Tracing | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``policies`` has the Content-Security-Policy of pages that need their own, by path."""
        self._app, self._metrics, self._tracing, self._clock = app, metrics, tracing, clock
        self._policies, self._strict = policies, content_security_policy()
        self._inside = 0
        metrics.inflight_requests.set_function(lambda: self._inside)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = header(scope, b"x-request-id")
        request_id = given if REQUEST_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        started, status = state.setdefault("arrived", self._clock()), 500
        if self._tracing is not None:
            state["span"] = self._tracing.begin(scope, started)

        async def observe(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = message["headers"] = list(message.get("headers", ()))
                headers.append((b"x-request-id", request_id.encode()))
                self._protect(headers, scope["path"])
            await send(message)

        self._inside += 1
        try:
            await self._app(scope, receive, observe)
        except Exception as error:
            await answer(Request(scope), error, self._metrics.rejected)(scope, receive, observe)
        finally:
            self._inside -= 1
            self._record(scope, status, started, self._clock())

    def _protect(self, headers: MutableSequence[tuple[bytes, bytes]], path: str) -> None:
        """Add headers that forbid browsers to guess types, frame pages, run foreign scripts and store answers."""
        given = {name.lower(): value for name, value in headers}
        headers.extend(ALWAYS)
        if not given.keys() & CACHED:
            headers.append(NOT_STORED)
        if given.get(b"content-type", b"").startswith(b"text/html"):
            headers.append(NOT_FRAMED)
            headers.append((b"content-security-policy", self._policies.get(path, self._strict)))

    def _record(self, scope: Scope, status: int, started: float, ended: float) -> None:
        state: dict[str, Any] = scope["state"]
        matched, model = getattr(scope.get("route"), "path", None), state.get("model", "")
        route = matched or "unmatched"
        trace = {}
        if self._tracing is not None:
            trace["trace_id"] = self._tracing.end(
                state["span"], scope["method"], matched, status, state.get("classified"), started, ended
            )
        self._metrics.request_timer(model, route, str(status)).observe(ended - started, trace or None)
        level = logging.DEBUG if route in PROBES else logging.INFO
        if not log.isEnabledFor(level):
            return
        caller = state.get("caller")
        log.log(
            level,
            "%s %s %d", scope["method"], route, status,
            extra={
                "request_id": state["request_id"], "route": route, "model": model, "status": status,
                "caller": caller.name if caller else "", "duration_ms": round(1000 * (ended - started), 3), **trace,
            },
        )  # fmt: skip

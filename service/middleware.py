"""Around every request: its id, its place in metrics and log, and a few headers."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.metrics import Metrics

log = logging.getLogger("service.access")
PROBES = {"/health/live", "/health/ready", "/metrics"}
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class RequestObserver:
    """Gives a request its id, times it, and writes its line to the log."""

    def __init__(self, app: ASGIApp, metrics: Metrics, clock: Callable[[], float] = time.monotonic) -> None:
        self._app, self._metrics, self._clock = app, metrics, clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        started, status = self._clock(), 500

        async def observe(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                headers["X-Content-Type-Options"] = "nosniff"
            await send(message)

        with self._metrics.inflight_requests.track_inprogress():
            try:
                await self._app(scope, receive, observe)
            finally:
                seconds = self._clock() - started
                route = getattr(scope.get("route"), "path", "unmatched")
                model = state.get("model", "")
                self._metrics.request_duration.labels(model, route, str(status)).observe(seconds)
                log.log(
                    logging.DEBUG if route in PROBES else logging.INFO,
                    "%s %s %d", scope["method"], route, status,
                    extra={
                        "request_id": request_id, "route": route, "model": model, "status": status,
                        "duration_ms": round(1000 * seconds, 3),
                    },
                )  # fmt: skip

"""The only place where errors become answers: ``application/problem+json``, or the form that the protocol has."""

import logging

from fastapi import Request
from prometheus_client import Counter
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import Problem, UnknownModelError, problem
from ..telemetry.metrics import UNKNOWN

log = logging.getLogger(__name__)
OPEN_INFERENCE = "/v2"


class Problems:
    """Middleware around the routes that answers what they raise, and counts it.

    Args:
        rejected: counts answers by model and code.

    """

    def __init__(self, app: ASGIApp, rejected: Counter) -> None:
        self._app, self._rejected = app, rejected

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            if scope["type"] != "http":
                raise
            response = self._answer(Request(scope), error)
            await response(scope, receive, send)

    def _answer(self, request: Request, error: Exception) -> Response:
        state = request.scope["state"]
        headers: dict[str, str] = {}
        if isinstance(error, HTTPException):
            told = _of_framework(request, error)
            headers.update(error.headers or {})
        else:
            told = problem(error)
        if told.code == "internal":
            log.error("a request failed", exc_info=error, extra={"request_id": state["request_id"]})
        if isinstance(error, UnknownModelError):
            state["model"] = UNKNOWN
        self._rejected.labels(state.get("model", ""), told.code).inc()
        if told.retry_after is not None:
            headers["Retry-After"] = str(told.retry_after)
        if told.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        path = request.scope["path"]
        content = {**told.to_json(), "request_id": state["request_id"]}
        if is_open_inference(path):
            content = {"error": told.detail, **content}
        return JSONResponse(content, told.status, headers, media_type=media_type(path))


def _of_framework(request: Request, error: HTTPException) -> Problem:
    """The problem of an error that Starlette raises itself: no such path, or no such method there."""
    code = error.detail.lower().replace(" ", "_")
    detail = f"{request.method} is not answered at this path: see /docs"
    return Problem(error.status_code, error.detail, code, detail)


def is_open_inference(path: str) -> bool:
    """Whether a path is of that protocol, whose errors are ``application/json`` with the text as ``error``."""
    return path == OPEN_INFERENCE or path.startswith(f"{OPEN_INFERENCE}/")


def media_type(path: str) -> str:
    """The content type of errors at a path."""
    return "application/json" if is_open_inference(path) else "application/problem+json"

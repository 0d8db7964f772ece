"""The only place where errors become answers: ``application/problem+json``, or the form that the protocol has."""

import logging
from typing import Any

from fastapi import Request
from prometheus_client import Counter
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from ..errors import ProblemBody, problem, problem_body
from ..telemetry.metrics import UNKNOWN

log = logging.getLogger(__name__)
OPEN_INFERENCE = "/v2"
Refused = tuple[ProblemBody, dict[str, str]]


def answer(request: Request, error: Exception, rejected: Counter) -> Response:
    """The answer to an error that a route raised; ``rejected`` counts it by model and code."""
    state, path = request.scope["state"], request.scope["path"]
    if isinstance(error, HTTPException):  # no such path, or no such method there
        detail = f"{request.method} is not answered at this path: see /docs"
        if path.endswith("/") and path != "/":
            detail = "no path here ends with a slash: leave it out"
        told = problem_body(error.status_code, error.detail.lower().replace(" ", "_"), detail)
        headers = dict(error.headers or {})
        if headers.get("Allow") == "GET":
            headers["Allow"] = "GET, HEAD"  # the middleware answers both alike
    else:
        told, headers = problem(error)
    _account(error, told["code"], state, rejected)
    content = {**told, "request_id": state["request_id"]}
    if is_open_inference(path):
        content = {"error": told["detail"], **content}
    return JSONResponse(content, told["status"], headers, media_type=media_type(path))


def judge(scope: Scope, error: Exception, rejected: Counter) -> Refused:
    """The same for a protocol that writes its errors itself: the problem, and the headers that go with it."""
    told, headers = problem(error)
    _account(error, told["code"], scope["state"], rejected)
    return told, headers


def _account(error: Exception, code: str, state: dict[str, Any], rejected: Counter) -> None:
    if code == "internal" or isinstance(error, MemoryError):
        log.error("a request failed", exc_info=error, extra={"request_id": state["request_id"]})
    if code == "unknown_model":
        state["model"] = UNKNOWN
    rejected.labels(state.get("model", ""), code).inc()


def is_open_inference(path: str) -> bool:
    """Whether a path is of that protocol, whose errors are ``application/json`` with the text as ``error``."""
    return path == OPEN_INFERENCE or path.startswith(f"{OPEN_INFERENCE}/")


def media_type(path: str) -> str:
    """The content type of errors at a path."""
    return "application/json" if is_open_inference(path) else "application/problem+json"

"""One definition of a route: how it is reached, who may ask, what it takes and answers, and what answers it.

The application's routes and the OpenAPI document are both made of these definitions.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ..auth.access import AccessControl, Level

Handler = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One route of one method.

    Attributes:
        answer: type of the JSON that it answers with, from which the document's schema is made; None for other answers.
        errors: statuses that it may answer with instead.
        level: who may use it.
        query: the fields that it takes in its query.
        body: schemas of the bodies that it takes, by media type.
        media_types: of its answers beside JSON.
        told: what its answer is.
        documented: whether it is a part of the interface, and not a page or a page's file.

    """

    method: str
    path: str
    summary: str
    tag: str
    handler: Handler
    answer: Any = None
    errors: tuple[int, ...] = ()
    level: Level = "key"
    query: type[BaseModel] | None = None
    body: Mapping[str, Any] = field(default_factory=dict)
    media_types: tuple[str, ...] = ()
    told: str = "Successful Response"
    documented: bool = True


class Endpoint:
    """An operation as an ASGI application: access is checked first, then the handler answers."""

    def __init__(self, operation: Operation, access: AccessControl) -> None:
        self.path = operation.path
        self._level, self._handler, self._access = operation.level, operation.handler, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        self._access.admit(request, self._level)
        response = await self._handler(request)
        await response(scope, receive, send)


def route(operation: Operation, access: AccessControl) -> Route:
    """The operation as a route, which answers its own method alone."""
    made = Route(operation.path, Endpoint(operation, access), methods=[operation.method], name=operation.summary)
    made.methods = {operation.method}  # without HEAD, which Starlette adds to GET
    return made


class Json(Response):
    """A 200 that carries JSON."""

    def __init__(self, content: Any) -> None:
        self.status_code, self.body, self.background = 200, orjson.dumps(content), None
        self.raw_headers = [(b"content-length", b"%d" % len(self.body)), (b"content-type", b"application/json")]

    async def __call__(self, _: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body})

"""One definition of a route: how it is reached, who may ask, what it takes and answers, and what answers it.

The application's routes and the OpenAPI document are both made of these definitions.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from ..auth.access import AccessControl, Level
from .problems import media_type

PROBLEM = "#/components/schemas/ProblemBody"
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


def route(operation: Operation, access: AccessControl) -> APIRoute:
    """The operation as a route, which FastAPI describes; it answers its own method alone, access checked first."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        await access.admit(request, operation.level)
        response = await operation.handler(request)
        await response(scope, receive, send)

    problem = {"content": {media_type(operation.path): {"schema": {"$ref": PROBLEM}}}}
    responses: dict[int | str, dict[str, Any]] = dict.fromkeys(operation.errors, problem)
    if operation.media_types:
        responses[200] = {"content": {kind: {} for kind in operation.media_types}}
    made = APIRoute(
        operation.path, operation.handler, methods=[operation.method], tags=[operation.tag], summary=operation.summary,
        response_model=operation.answer, response_class=Response if operation.answer is None else Json,
        responses=responses, response_description=operation.told, include_in_schema=operation.documented,
        openapi_extra=_taken(operation),
    )  # fmt: skip
    made.app = answer  # FastAPI's own would validate and serialise every answer
    return made


def _taken(operation: Operation) -> dict[str, Any]:
    """What a request has, as OpenAPI describes it."""
    names = re.findall(r"{(\w+)}", operation.path)
    fields = operation.query.model_json_schema()["properties"] if operation.query else {}
    parameters = [
        *({"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names),
        *({"name": name, "in": "query", "schema": schema} for name, schema in fields.items()),
    ]
    body = {"requestBody": {"required": True, "content": operation.body}} if operation.body else {}
    return {"parameters": parameters, **body}


class Json(JSONResponse):
    """A 200 that carries JSON."""

    def render(self, content: Any) -> bytes:
        return orjson.dumps(content)

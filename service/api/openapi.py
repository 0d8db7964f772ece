"""The OpenAPI document of the operations, and the page that shows it without any other host."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import fastapi_offline
from fastapi.openapi.docs import get_swagger_ui_html
from pydantic import TypeAdapter
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from ..errors import ProblemBody
from .operation import Json, Operation
from .problems import media_type

TITLE = "LCCL model server"
SUMMARY = "Classifies images with ResNets that skip work; every request chooses how much."
DOCUMENT, PAGE, ASSETS = "/openapi.json", "/docs", "/static-offline-docs"
SCHEMAS = "#/components/schemas/{model}"

Schema = dict[str, Any]


def document(operations: Sequence[Operation], version: str) -> Schema:
    """Describe the operations as OpenAPI 3.1."""
    adapters = [TypeAdapter(operation.answer or dict[str, Any]) for operation in operations]
    inputs = [
        (number, "serialization", adapter) for number, adapter in enumerate([*adapters, TypeAdapter(ProblemBody)])
    ]
    schemas, definitions = TypeAdapter.json_schemas(inputs, ref_template=SCHEMAS)  # type: ignore[arg-type]
    error = schemas[len(operations), "serialization"]
    paths: defaultdict[str, Schema] = defaultdict(dict)
    for number, operation in enumerate(operations):
        answer = schemas[number, "serialization"] if operation.answer is not None else None
        paths[operation.path][operation.method.lower()] = _describe(operation, answer, error)
    return {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "summary": SUMMARY, "version": version},
        "paths": paths,
        "components": {"schemas": definitions["$defs"]},
    }


def _describe(operation: Operation, answer: Schema | None, error: Schema) -> Schema:
    names = re.findall(r"{(\w+)}", operation.path)
    fields = operation.query.model_json_schema()["properties"] if operation.query else {}
    content: Schema = {kind: {} for kind in operation.media_types}
    if answer is not None:
        content["application/json"] = {"schema": answer}
    responses: Schema = {"200": {"description": operation.told} | ({"content": content} if content else {})}
    for status in operation.errors:
        shape = {"content": {media_type(operation.path): {"schema": error}}}
        responses[str(status)] = {"description": HTTPStatus(status).phrase, **shape}
    described: Schema = {
        "tags": [operation.tag],
        "summary": operation.summary,
        "operationId": re.sub(r"\W+", "_", f"{operation.method.lower()}{operation.path}").strip("_"),
        "parameters": [
            *({"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in names),
            *({"name": name, "in": "query", "schema": schema} for name, schema in fields.items()),
        ],
        "responses": responses,
    }
    if operation.body:
        described["requestBody"] = {"required": True, "content": dict(operation.body)}
    return described


def page() -> bytes:
    """The page that shows the document; its scripts and styles are files under :data:`ASSETS`."""
    html = get_swagger_ui_html(
        openapi_url=DOCUMENT,
        title=f"{TITLE} - Swagger UI",
        swagger_js_url=f"{ASSETS}/swagger-ui-bundle.js",
        swagger_css_url=f"{ASSETS}/swagger-ui.css",
        swagger_favicon_url=f"{ASSETS}/favicon.png",
    )
    return bytes(html.body)


def pages(operations: Sequence[Operation], version: str, html: bytes) -> list[Operation]:
    """The document and the page, open to everybody."""
    described = document([operation for operation in operations if operation.documented], version)

    async def show_document(_: Request) -> Response:
        return Json(described)

    async def show_page(_: Request) -> Response:
        return HTMLResponse(html)

    return [
        Operation("GET", DOCUMENT, "The OpenAPI document", "pages", show_document, level="open", documented=False),
        Operation("GET", PAGE, "The page that shows it", "pages", show_page, level="open", documented=False),
    ]


def assets() -> Mount:
    """The files of the page."""
    return Mount(ASSETS, StaticFiles(directory=Path(fastapi_offline.__file__).parent / "static"))

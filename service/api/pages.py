"""Pages for browsers: the OpenAPI document and what shows it without any other host, and the playground."""

from pathlib import Path

import fastapi_offline
from fastapi import HTTPException, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

from .operation import Handler, Json, Operation

TITLE = "LCCL model server"
DOCUMENT, PAGE, ASSETS = "/openapi.json", "/docs", "/static-offline-docs"


def documentation_page(root_path: str) -> bytes:
    """The page that shows the document; its scripts and styles are files under :data:`ASSETS`.

    Args:
        root_path: what browsers have before each path.

    """
    assets = root_path + ASSETS
    html = get_swagger_ui_html(
        openapi_url=root_path + DOCUMENT,
        title=f"{TITLE} - Swagger UI",
        swagger_js_url=f"{assets}/swagger-ui-bundle.js",
        swagger_css_url=f"{assets}/swagger-ui.css",
        swagger_favicon_url=f"{assets}/favicon.png",
    )
    return bytes(html.body)


def documentation(html: bytes) -> list[Operation]:
    """The document and the page, open to everybody."""

    async def show_document(request: Request) -> Response:
        return Json(request.app.openapi())

    async def show_page(_: Request) -> Response:
        return HTMLResponse(html)

    return [
        Operation("GET", DOCUMENT, "The OpenAPI document", "pages", show_document, level="open", documented=False),
        Operation("GET", PAGE, "The page that shows it", "pages", show_page, level="open", documented=False),
    ]


def assets() -> Operation:
    """The files of the page."""
    answer = _files(Path(fastapi_offline.__file__).parent / "static")
    return Operation("GET", f"{ASSETS}/{{name}}", "A file", "pages", answer, level="open", documented=False)


def playground() -> list[Operation]:
    """The page at / on which to try models, and its files, which are no part of the documented interface."""
    answer = _files(Path(__file__).parents[1] / "playground")

    async def file(request: Request) -> Response:
        """A file, or 304; browsers ask each time, so that a page never meets another release's files."""
        response = await answer(request)
        response.headers["Cache-Control"] = "no-cache"
        return response

    return [
        Operation("GET", path, "The playground", "pages", file, level="open", documented=False)
        for path in ("/", "/playground/{name}")
    ]


def _files(folder: Path) -> Handler:
    """Answers with a file of a folder."""
    files, names = StaticFiles(directory=folder), frozenset(file.name for file in folder.iterdir())

    async def file(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in names:  # so that no path from a request is looked up on the disk
            raise HTTPException(404)
        return await files.get_response(name, request.scope)

    return file

"""The playground: a page at / to try models by hand, and its files."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, HTTPException, Request, Response
from starlette.staticfiles import StaticFiles

router = APIRouter(include_in_schema=False)
_folder = Path(__file__).parents[1] / "playground"
_files, _names = StaticFiles(directory=_folder), frozenset(file.name for file in _folder.iterdir())


@router.get("/")
async def page(request: Request) -> Response:
    return await _file("index.html", request)


@router.get("/playground/{name}")
async def file(request: Request, name: str) -> Response:
    if name not in _names:  # so that no path of a request's making is looked for
        raise HTTPException(404, "the page has no such file")
    return await _file(name, request)


async def _file(name: str, request: Request) -> Response:
    """A file, or 304; browsers ask each time, so that a page never meets another release's files."""
    response = await _files.get_response(name, request.scope)
    response.headers["Cache-Control"] = "no-cache"
    return response

"""The playground: a page at / to try models by hand, and its files."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Request, Response
from starlette.staticfiles import StaticFiles

router = APIRouter(include_in_schema=False)
_files = StaticFiles(directory=Path(__file__).parents[1] / "playground")


@router.get("/")
async def page(request: Request) -> Response:
    return await _file("index.html", request)


@router.get("/playground/{name}")
async def file(request: Request, name: str) -> Response:
    return await _file(name, request)


async def _file(name: str, request: Request) -> Response:
    """A file, or 304; browsers ask each time, so that a page never meets another release's files."""
    response = await _files.get_response(name, request.scope)
    response.headers["Cache-Control"] = "no-cache"
    return response

"""The playground: a page at / on which to try models, and its files."""

from pathlib import Path

from fastapi import Request, Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from .operation import Operation


def operations() -> list[Operation]:
    """The page and its files, which are no part of the documented interface."""
    folder = Path(__file__).parents[1] / "playground"
    files, names = StaticFiles(directory=folder), frozenset(file.name for file in folder.iterdir())

    async def file(request: Request) -> Response:
        """A file, or 304; browsers ask each time, so that a page never meets another release's files."""
        name = request.path_params.get("name", "index.html")
        if name not in names:  # so that no path from a request is looked up on the disk
            raise HTTPException(404)
        response = await files.get_response(name, request.scope)
        response.headers["Cache-Control"] = "no-cache"
        return response

    return [
        Operation("GET", path, "The playground", "pages", file, level="open", documented=False)
        for path in ("/", "/playground/{name}")
    ]

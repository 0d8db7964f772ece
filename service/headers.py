"""One header of a request, without the mapping that a framework would make of all of them."""

from __future__ import annotations

from starlette.types import Scope


def header(scope: Scope, name: bytes, default: str = "") -> str:
    """The first header of that name, which is in lower case; ``default`` where there is none."""
    for given, value in scope["headers"]:
        if given == name:
            return str(value, "latin-1")
    return default

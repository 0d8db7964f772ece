"""Reading a request's body into memory, within limits on each body and on all together."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request
from starlette.types import Scope

from ..errors import ServiceError


def header(scope: Scope, name: bytes, default: str = "") -> str:
    """The first header of that name, given in lower case; cheaper than a mapping of all headers."""
    for given, value in scope["headers"]:
        if given == name:
            return str(value, "latin-1")
    return default


def refuse_compressed(request: Request) -> None:
    """Raises ServiceError (not_an_image) for a body with a content encoding."""
    if header(request.scope, b"content-encoding", "identity").lower() != "identity":
        raise ServiceError("not_an_image", "compressed bodies are not taken: send the request as it is")


class BodyMemory:
    """Counts the bytes of all bodies held at once and keeps them, each and together, under their limits."""

    def __init__(self, per_body: int, together: int) -> None:
        self._per_body, self._together, self._held = per_body, together, 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The whole body, whose bytes count until the context ends.

        Raises:
            ServiceError, too_large: more bytes, also declared ones, than one body may have.
            ServiceError, overloaded: more than all bodies together may have.
            ServiceError, client_gone: the client left.

        """
        declared = header(request.scope, b"content-length")
        self._check(int(declared) if declared.isascii() and declared.isdigit() else 0, 0)
        chunks, size, more = [], 0, True
        try:
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise ServiceError("client_gone", "the client closed the connection during its upload")
                chunk, more = message.get("body", b""), message.get("more_body", False)
                self._check(size + len(chunk), size)
                size += len(chunk)
                self._held += len(chunk)
                chunks.append(chunk)
            yield b"".join(chunks)
        finally:
            self._held -= size

    def _check(self, size: int, held: int) -> None:
        if size > self._per_body:
            raise ServiceError("too_large", f"the body has more than {self._per_body:,} bytes")
        if self._held + size - held > self._together:
            raise ServiceError("overloaded", "too many uploads are in progress: try again later", retry_after_s=1.0)

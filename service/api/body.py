"""Reading a request's body into memory, within limits on each body and on all together."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fastapi import Request
from starlette.types import Scope

from ..errors import ClientGoneError, NotAnImageError, OverloadedError, TooLargeError


def header(scope: Scope, name: bytes, default: str = "") -> str:
    """The first header of that name, given in lower case; cheaper than a mapping of all headers."""
    for given, value in scope["headers"]:
        if given == name:
            return str(value, "latin-1")
    return default


def refuse_compressed(request: Request) -> None:
    """Raises NotAnImageError for a body with a content encoding."""
    if header(request.scope, b"content-encoding", "identity").lower() != "identity":
        raise NotAnImageError("compressed bodies are not taken: send the request as it is")


@dataclass(slots=True)
class Lease:
    """One request's share of the memory for bodies, in bytes."""

    size: int = 0


class BodyMemory:
    """Counts the bytes of all bodies held at once and keeps them, each and together, under their limits."""

    def __init__(self, per_body: int, together: int) -> None:
        self._per_body, self._together, self._held = per_body, together, 0

    @contextmanager
    def lease(self) -> Iterator[Lease]:
        """A lease whose bytes are given back at the end."""
        lease = Lease()
        try:
            yield lease
        finally:
            self._held -= lease.size

    def grow(self, lease: Lease, size: int) -> None:
        """Count more bytes for a lease.

        Raises:
            TooLargeError: more than one body may have.
            OverloadedError: more than all bodies together may have.

        """
        self._check(lease, size)
        self._held += size
        lease.size += size

    def _check(self, lease: Lease, size: int) -> None:
        if lease.size + size > self._per_body:
            raise TooLargeError(f"the body has more than {self._per_body:,} bytes")
        if self._held + size > self._together:
            raise OverloadedError("too many uploads are in progress: try again later", retry_after_s=1.0)

    async def read(self, lease: Lease, request: Request) -> bytes:
        """Read the whole body; a declared length beyond the limits is refused before reading."""
        declared = header(request.scope, b"content-length")
        if declared.isascii() and declared.isdigit():
            self._check(lease, int(declared))
        chunks, more = [], True
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError("the client closed the connection during its upload")
            chunk, more = message.get("body", b""), message.get("more_body", False)
            self.grow(lease, len(chunk))
            chunks.append(chunk)
        return b"".join(chunks)

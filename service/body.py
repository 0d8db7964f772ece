"""Reading a request: its body under byte limits and in memory only, then the images and fields in it."""

from __future__ import annotations

import base64
import binascii
import itertools
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Self, TypeVar
from urllib.parse import parse_qsl

from fastapi import Request
from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from service.errors import (
    ClientGoneError,
    InvalidFieldError,
    MalformedRequestError,
    NotAnImageError,
    OverloadedError,
    TooLargeError,
)
from service.headers import header
from service.schemas import ClassifyBody, Fields
from service.settings import Settings

MAX_FIELDS = 16
WISH_PREFIX = b"x-lccl-"
REMEMBERED_BYTES = 256  # of a request's query and wish headers, at most
MAX_FIELD_BYTES = 1 << 10

Headers = tuple[tuple[bytes, bytes], ...]
AnyFields = TypeVar("AnyFields", bound=Fields)


@dataclass(frozen=True, slots=True)
class Content:
    """What a body holds: encoded images, and the fields given beside them."""

    images: list[bytes]
    fields: dict[str, Any]


class BodyMemory:
    """Counts the bytes of all bodies held at once and keeps them, each and together, under their limits."""

    def __init__(self, per_body: int, together: int) -> None:
        self._per_body, self._together, self._held = per_body, together, 0

    def lease(self) -> Lease:
        """A lease, entered as a context, gives its bytes back at the end."""
        return Lease(self)

    def check(self, lease: Lease, size: int) -> None:
        """See whether a lease may have ``size`` more bytes.

        Raises:
            TooLargeError: more than one body may have.
            OverloadedError: more than all bodies together may have.

        """
        if lease.size + size > self._per_body:
            raise TooLargeError(f"the body has more than {self._per_body:,} bytes")
        if self._held + size > self._together:
            raise OverloadedError("too many uploads are in progress: try again later", retry_after_s=1.0)

    def grow(self, lease: Lease, size: int) -> None:
        """Count ``size`` more bytes for a lease; raises as :meth:`check`."""
        self.check(lease, size)
        self._held += size
        lease.size += size

    def release(self, lease: Lease) -> None:
        """Take all bytes of a lease back."""
        self._held -= lease.size
        lease.size = 0


class Lease:
    """One request's share of the memory for bodies."""

    def __init__(self, memory: BodyMemory) -> None:
        self._memory, self.size = memory, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._memory.release(self)

    async def read(self, request: Request) -> bytes:
        """Read the whole body; one that declares itself too large is refused unread."""
        declared = header(request.scope, b"content-length")
        if declared.isascii() and declared.isdigit():
            self._memory.check(self, int(declared))
        chunks, more = [], True
        while more:
            message = await request.receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError("the client closed the connection during its upload")
            chunk, more = message.get("body", b""), message.get("more_body", False)
            self._memory.grow(self, len(chunk))
            chunks.append(chunk)
        return b"".join(chunks)


async def parse(request: Request, body: bytes, settings: Settings) -> Content:
    """Find the images and fields: a raw image, multipart with files named ``file``, or JSON with base64.

    Raises:
        MalformedRequestError: empty, or not what the content type says.
        NotAnImageError: a content type, or a content encoding, that is none of these.
        TooLargeError: more images than one request may carry.
        InvalidFieldError: a field of an unknown name or given twice.

    """
    if header(request.scope, b"content-encoding", "identity").lower() != "identity":
        raise NotAnImageError("compressed bodies are not taken: send the image as it is")
    kind = header(request.scope, b"content-type").partition(";")[0].strip().lower()
    if not body:
        raise MalformedRequestError("the body is empty: send an image")
    if kind == "application/json":
        content = _from_json(body)
    elif kind == "multipart/form-data":
        content = await _from_multipart(request, body, settings)
    elif not kind or kind.startswith("image/") or kind == "application/octet-stream":
        content = Content([body], {})
    else:
        raise NotAnImageError(
            f"content type {kind[:64]!r} is not taken: send an image as image/… or application/octet-stream, "
            "multipart/form-data with files named 'file', or application/json with base64"
        )
    if not content.images:
        raise MalformedRequestError("the body holds no image: multipart needs files named 'file', JSON needs 'image'")
    if len(content.images) > settings.max_images:
        raise TooLargeError(f"{len(content.images)} images in one request; at most {settings.max_images} are taken")
    return content


def fields_of(request: Request, body: dict[str, Any], kind: type[AnyFields]) -> AnyFields:
    """Join the fields given as query, as headers and in the body; ``kind`` names those that there are.

    Raises:
        InvalidFieldError: a field that is unknown, out of range, or given twice.

    """
    query: bytes = request.scope["query_string"]
    headers = tuple(one for one in request.scope["headers"] if one[0].startswith(WISH_PREFIX))
    if not body and len(query) + sum(len(value) for _, value in headers) <= REMEMBERED_BYTES:
        known: AnyFields = _usual_fields(query, headers, kind)
        return known
    return _join(query, headers, body, kind)


@lru_cache(maxsize=4096)
def _usual_fields(query: bytes, headers: Headers, kind: type[AnyFields]) -> AnyFields:
    """Clients repeat their wishes: what was read once is remembered."""
    return _join(query, headers, {}, kind)


def _join(query: bytes, headers: Headers, body: dict[str, Any], kind: type[AnyFields]) -> AnyFields:
    given: dict[str, Any] = {}
    asked = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    for name, value in itertools.chain(asked, _named(headers, kind), body.items()):
        if name in given:
            raise InvalidFieldError(f"{name[:64]} is given twice: give it once")
        given[name] = value
    try:
        return kind.model_validate(given)
    except ValidationError as error:
        raise InvalidFieldError(explain(error.errors(), kind)) from error


def _named(headers: Headers, kind: type[Fields]) -> list[tuple[str, str]]:
    """The fields that a wish may have as headers: ``X-LCCL-Sparsity: 0.4`` is the field ``sparsity``.

    Raises:
        InvalidFieldError: a header with the prefix that is none of them.

    """
    found = []
    for raw_name, raw_value in headers:
        name = raw_name[len(WISH_PREFIX) :].decode("latin-1").replace("-", "_")
        if name not in kind.model_fields:
            raise InvalidFieldError(f"unknown header X-LCCL-{name[:64]}: use {', '.join(kind.model_fields)}")
        found.append((name, raw_value.decode("latin-1")))
    return found


def explain(errors: Any, kind: type[Fields] = Fields) -> str:
    """A validation's first complaint as one sentence with the field's name."""
    first = errors[0]
    name = ".".join(str(part) for part in first["loc"] if part not in ("query", "body", "path"))[:64]
    if first["type"] == "extra_forbidden":
        return f"unknown field {name!r}: use {', '.join(kind.model_fields)}"
    return f"{name or 'the request'}: {first['msg'][:200]}"


def _from_json(body: bytes) -> Content:
    try:
        parsed = ClassifyBody.model_validate_json(body)
    except ValidationError as error:
        raise MalformedRequestError(explain(error.errors())) from error
    if (parsed.image is None) == (parsed.images is None):
        raise MalformedRequestError("JSON needs either 'image', one base64 text, or 'images', a list of them")
    texts = parsed.images if parsed.images is not None else [parsed.image or ""]
    return Content([_from_base64(text) for text in texts], parsed.model_extra or {})


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MalformedRequestError(f"an image is not valid base64: {error}") from error


class _InMemoryParser(MultiPartParser):
    """Files never reach the disk: the body is in memory already, and under its limit."""

    spool_max_size = 1 << 31


async def _from_multipart(request: Request, body: bytes, settings: Settings) -> Content:
    async def once() -> AsyncGenerator[bytes, None]:
        yield body

    parser = _InMemoryParser(
        request.headers, once(),
        max_files=settings.max_images, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES,
    )  # fmt: skip
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many"):
            raise TooLargeError(f"{error.message} At most {settings.max_images} files are taken.") from error
        raise MalformedRequestError(f"the multipart body cannot be read: {error.message}") from error
    except (KeyError, ValueError, UnicodeError) as error:
        raise MalformedRequestError("the multipart body cannot be read: check its boundary and headers") from error
    images: list[bytes] = []
    fields: dict[str, Any] = {}
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name != "file":
                    raise InvalidFieldError(f"a file named {name[:64]!r}: name every file 'file'")
                images.append(await value.read())
            elif name in fields:
                raise InvalidFieldError(f"{name[:64]} is given twice: give it once")
            else:
                fields[name] = value
    finally:
        await form.close()
    return Content(images, fields)

"""The images and fields in a body: a raw image, multipart, or JSON with base64."""

import base64
import binascii
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from ...errors import ServiceError
from ..body import header, refuse_compressed
from ..fields import explain

MAX_FIELDS = 16
MAX_FIELD_BYTES = 1 << 10


Content = tuple[list[bytes], dict[str, Any]]  # encoded images, and the fields given beside them


class ClassifyBody(BaseModel):
    """A JSON request: one image or several, as base64, with the fields beside them."""

    model_config = ConfigDict(extra="allow", frozen=True)

    image: str | None = Field(None, description="base64 of a JPEG, PNG, WebP, GIF or BMP")
    images: list[str] | None = Field(None, description="several of them")


async def parse(request: Request, body: bytes, max_images: int) -> Content:
    """Find the images and fields: a raw image, multipart with files named ``file``, or JSON with base64.

    Raises:
        ServiceError, malformed: empty, or not what the content type says.
        ServiceError, not_an_image: a content type, or a content encoding, that is none of these.
        ServiceError, too_large: more images than one request may carry.
        ServiceError, invalid_field: a field of an unknown name or given twice.

    """
    refuse_compressed(request)
    kind = header(request.scope, b"content-type").partition(";")[0].strip().lower()
    if not body:
        raise ServiceError("malformed", "the body is empty: send an image")
    if kind == "application/json":
        images, fields = _from_json(body)
    elif kind == "multipart/form-data":
        images, fields = await _from_multipart(request, body, max_images)
    elif not kind or kind.startswith("image/") or kind == "application/octet-stream":
        images, fields = [body], {}
    else:
        raise ServiceError(
            "not_an_image",
            f"content type {kind[:64]!r} is not taken: send an image as image/… or application/octet-stream, "
            "multipart/form-data with files named 'file', or application/json with base64",
        )
    if not images:
        raise ServiceError(
            "malformed", "the body holds no image: multipart needs files named 'file', JSON needs 'image'"
        )
    if len(images) > max_images:
        raise ServiceError("too_large", f"{len(images)} images in one request; at most {max_images} are taken")
    return images, fields


def _from_json(body: bytes) -> Content:
    try:
        parsed = ClassifyBody.model_validate_json(body)
    except ValidationError as error:
        raise ServiceError("malformed", explain(error.errors())) from error
    if (parsed.image is None) == (parsed.images is None):
        raise ServiceError("malformed", "JSON needs either 'image', one base64 text, or 'images', a list of them")
    texts = parsed.images if parsed.images is not None else [parsed.image or ""]
    return [_from_base64(text) for text in texts], parsed.model_extra or {}


def _from_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ServiceError("malformed", f"an image is not valid base64: {error}") from error


async def _from_multipart(request: Request, body: bytes, max_images: int) -> Content:
    async def once() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(
        request.headers, once(),
        max_files=max_images, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES,
    )  # fmt: skip
    parser.spool_max_size = len(body) + 1  # files never reach the disk: the body is in memory already
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many"):
            raise ServiceError("too_large", f"{error.message} At most {max_images} files are taken.") from error
        raise ServiceError("malformed", f"the multipart body cannot be read: {error.message}") from error
    except (KeyError, ValueError, UnicodeError) as error:
        raise ServiceError("malformed", "the multipart body cannot be read: check its boundary and headers") from error
    images: list[bytes] = []
    fields: dict[str, Any] = {}
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                if name != "file":
                    raise ServiceError("invalid_field", f"a file named {name[:64]!r}: name every file 'file'")
                images.append(await value.read())
            elif name in fields:
                raise ServiceError("invalid_field", f"{name[:64]} is given twice: give it once")
            else:
                fields[name] = value
    finally:
        await form.close()
    return images, fields

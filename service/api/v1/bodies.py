"""v1: the images and fields in a request's body: a raw image, multipart, or JSON with base64."""

from typing import Any

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...errors import ServiceError, complaint
from ..exchange import Asked, header, refuse_compressed
from ..fields import AnyFields, fields_of
from ..json_text import check_names, shorten
from ..turns import LoopTurns
from .forms import read_form

Content = tuple[list[bytes], dict[str, Any]]  # encoded images, and the fields given beside them


class ClassifyBody(BaseModel):
    """A JSON request: one image or several, as base64, with the fields beside them."""

    model_config = ConfigDict(extra="allow", frozen=True)

    image: str | None = Field(None, description="base64 of a JPEG, PNG, WebP, GIF, BMP or AVIF")
    images: list[str] | None = Field(None, description="several of them")


async def read_images(
    request: Request, body: bytes, kind: type[AnyFields], max_images: int, turns: LoopTurns, *, one: bool = False
) -> Asked[AnyFields]:
    """The images in a body (raw, multipart with files named ``file``, or JSON with base64), and a request's fields.

    Args:
        turns: of the event loop, for what takes long.
        one: refuse more than one image.

    Raises:
        ServiceError, malformed: empty, or not what the content type says.
        ServiceError, not_an_image: a content type, or a content encoding, that is none of these.
        ServiceError, too_large: more images, or longer fields, than one request may carry.
        ServiceError, invalid_field: a field of an unknown name, given twice, or out of range.

    """
    refuse_compressed(request)
    content_type = header(request.scope, b"content-type")
    sent_as = content_type.partition(";")[0].strip().lower()
    if not body:
        raise ServiceError("malformed", "the body is empty: send an image")
    if sent_as == "application/json":
        images, given = await _from_json(body, max_images, turns)
    elif sent_as == "multipart/form-data":
        images, given = await read_form(content_type, body, max_images, turns)
    elif not sent_as or sent_as.startswith("image/") or sent_as == "application/octet-stream":
        images, given = [body], {}
    else:
        raise ServiceError(
            "not_an_image",
            f"content type {sent_as[:64]!r} is not taken: send an image as image/… or application/octet-stream, "
            "multipart/form-data with files named 'file', or application/json with base64",
        )
    if not images:
        raise ServiceError(
            "malformed", "the body holds no image: multipart needs files named 'file', JSON needs 'image'"
        )
    if one and len(images) > 1:
        raise ServiceError("too_large", f"{len(images)} images: a skip map is made of one at a time")
    fields = fields_of(request, given, kind)
    return images, fields.quality, fields, float("inf")


async def _from_json(body: bytes, max_images: int, turns: LoopTurns) -> Content:
    short = await shorten(body, max_images, turns)
    try:
        parsed = ClassifyBody.model_validate_json(short.text)
    except ValidationError as error:
        raise ServiceError("malformed", complaint(error, "the request")) from error
    if short.text.count(b":") != len(parsed.model_fields_set):  # a text with a colon, or a name twice
        check_names(short.text)
    if (parsed.image is None) == (parsed.images is None):
        raise ServiceError("malformed", "JSON needs either 'image', one base64 text, or 'images', a list of them")
    texts = parsed.images if parsed.images is not None else [parsed.image or ""]
    if len(texts) > max_images:
        raise ServiceError("too_large", f"{len(texts)} images in one request; at most {max_images} are taken")
    try:
        images = [await short.from_base64(text, turns) for text in texts]
    except ValueError as error:
        raise ServiceError("malformed", f"an image is not valid base64: {str(error)[:120]}") from error
    short.check_all_taken()
    return images, parsed.model_extra or {}

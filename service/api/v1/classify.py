"""v1: classify images, each request with its own setting. A body is a raw image, multipart, or JSON with base64."""

import base64
import binascii
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from fastapi import Request, Response
from prometheus_client import Counter
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from ...errors import ServiceError, complaint, problem
from ...inference.pipeline import Classified
from ...inference.registry import ServedModel
from ...inference.runner import Result
from ..exchange import Asked, Exchange, header, refuse_compressed
from ..fields import AnyFields, Fields, fields_of
from ..operation import Json, Operation
from .answers import ClassifyAnswer, FailedPrediction, Heading, Prediction

MAX_FIELDS = 16
MAX_FIELD_BYTES = 1 << 10


Content = tuple[list[bytes], dict[str, Any]]  # encoded images, and the fields given beside them
ERRORS = (400, 401, 404, 413, 415, 422, 429, 500, 503, 504)


def operations(exchange: Exchange, rejected: Counter, max_images: int) -> list[Operation]:
    """Routes that classify with the default model, a model, or a version of it; ``rejected`` counts images' errors."""

    async def classify(request: Request) -> Response:
        return await exchange.run(request, read, write)

    async def read(request: Request, body: bytes, _: ServedModel) -> Asked[Fields]:
        return await read_images(request, body, Fields, max_images)

    async def write(request: Request, model: ServedModel, fields: Fields, classified: Classified) -> Response:
        predictions = [
            failed(model, result) if isinstance(result, Exception) else prediction(model, result, fields.top_k)
            for result in classified.results
        ]
        answer: ClassifyAnswer = {**heading(request, model, classified), "predictions": predictions}
        return Json(answer)

    def failed(model: ServedModel, error: Exception) -> FailedPrediction:
        told, _ = problem(error)
        rejected.labels(model.name, told["code"]).inc()
        return {"error": told}

    default = Operation(
        "POST", "/v1/classify", "Classify images with the default model", "classify", classify, ClassifyAnswer, ERRORS,
        query=Fields, body=image_bodies(Fields),
    )  # fmt: skip
    paths = {
        "/v1/models/{model}/classify": "Classify images with a model",
        "/v1/models/{model}/versions/{version}/classify": "Classify images with one version of a model",
    }
    return [default, *(replace(default, path=path, summary=summary) for path, summary in paths.items())]


def image_bodies(kind: type[Fields]) -> dict[str, Any]:
    """The bodies of a route that takes images and these fields, as OpenAPI has them."""
    fields: dict[str, Any] = kind.model_json_schema()["properties"]
    image, text = {"type": "string", "format": "binary"}, {"type": "string", "format": "byte"}
    form = {"file": {"type": "array", "items": image}, **fields}
    texts = {"image": text, "images": {"type": "array", "items": text}, **fields}
    return {
        "image/jpeg": {"schema": image},
        "image/png": {"schema": image},
        "multipart/form-data": {"schema": {"type": "object", "required": ["file"], "properties": form}},
        "application/json": {"schema": {"type": "object", "properties": texts}},
    }


def heading(request: Request, model: ServedModel, classified: Classified) -> Heading:
    """What classify and the skip map answer alike; for several images the longest time of each stage."""
    state, done = request.scope["state"], classified.done
    used = classified.sparsest
    point = used.point
    return {
        "model": model.name,
        "version": model.version,
        "precision": model.engine.precision,
        "request_id": state["request_id"],
        "operating_point": {
            "name": point.name,
            "sparsity": point.skip_ratio,
            "norm_set": 0,
            "exit_confidence": point.setting.exit_confidence,
            "expected_accuracy": point.accuracy,
            "accuracy_interval": (point.accuracy_interval.low, point.accuracy_interval.high),
            "expected_accuracy_drop": point.drop,
            "downgraded": used.downgraded,
        },
        "timing_ms": {
            "decode": round(1000 * classified.decode_s, 3),
            "queue": round(1000 * max(result.queue_s for result in done), 3),
            "compute": round(1000 * max(result.compute_s for result in done), 3),
            "total": round(1000 * (time.monotonic() - state["arrived"]), 3),
        },
    }


def prediction(model: ServedModel, result: Result, top_k: int) -> Prediction:
    """The likeliest classes and the work of one image."""
    best, labels = result.ranking[:top_k], model.bundle.labels
    likeliest = zip(best.tolist(), result.probabilities[best].tolist(), strict=True)
    return {
        "classes": [{"label": labels[index], "index": index, "probability": share} for index, share in likeliest],
        "confidence": result.confidence,
        "exit": result.exit_index,
        "skip_ratio": result.skip_ratio,
        "macs": {"dense": model.dense_macs, "gated": result.gated_macs, "executed": result.executed_macs},
    }


class ClassifyBody(BaseModel):
    """A JSON request: one image or several, as base64, with the fields beside them."""

    model_config = ConfigDict(extra="allow", frozen=True)

    image: str | None = Field(None, description="base64 of a JPEG, PNG, WebP, GIF, BMP or AVIF")
    images: list[str] | None = Field(None, description="several of them")


async def read_images(
    request: Request, body: bytes, kind: type[AnyFields], max_images: int, *, one: bool = False
) -> Asked[AnyFields]:
    """The images in a body (raw, multipart with files named ``file``, or JSON with base64), and a request's fields.

    Args:
        one: refuse more than one image.

    Raises:
        ServiceError, malformed: empty, or not what the content type says.
        ServiceError, not_an_image: a content type, or a content encoding, that is none of these.
        ServiceError, too_large: more images than one request may carry.
        ServiceError, invalid_field: a field of an unknown name, given twice, or out of range.

    """
    refuse_compressed(request)
    sent_as = header(request.scope, b"content-type").partition(";")[0].strip().lower()
    if not body:
        raise ServiceError("malformed", "the body is empty: send an image")
    if sent_as == "application/json":
        images, given = _from_json(body)
    elif sent_as == "multipart/form-data":
        images, given = await _from_multipart(request, body, max_images)
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
    if len(images) > max_images:
        raise ServiceError("too_large", f"{len(images)} images in one request; at most {max_images} are taken")
    if one and len(images) > 1:
        raise ServiceError("too_large", f"{len(images)} images: a skip map is made of one at a time")
    fields = fields_of(request, given, kind)
    return images, fields.quality(), fields


def _from_json(body: bytes) -> Content:
    try:
        parsed = ClassifyBody.model_validate_json(body)
    except ValidationError as error:
        raise ServiceError("malformed", complaint(error, "the request")) from error
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

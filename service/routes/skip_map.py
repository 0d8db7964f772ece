"""v1: where a network computed for an image, as JSON or drawn on it."""

from __future__ import annotations

import asyncio
import io
import json
import time
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from PIL import Image, PngImagePlugin

from lccl.skip_map import LayerMask, SkipMap
from service.classification import Classified
from service.parts import Parts, parts_of
from service.registry import ServedModel
from service.routes.classify import ask, documented, heading, prediction, timing
from service.routes.direct import DirectRoute, JsonAnswer
from service.schemas import SkipMapAnswer, SkipMapFields

router = APIRouter(prefix="/v1", tags=["classify"], route_class=DirectRoute)
PNG = "image/png"
ZERO = ord("0")


def _documented(*path: str) -> dict[str, Any]:
    described = documented(*path, answer=SkipMapAnswer, kind=SkipMapFields)
    answer = {"description": "Masks as JSON, or a PNG where Accept asks for image/png", "content": {PNG: {}}}
    return described | {"responses": {200: answer, **described["responses"]}}


@router.post("/models/{model}/skip-map", summary="Show where a model computes", **_documented("model"))
async def skip_map_with(request: Request) -> Response:
    return await _answer(request, request.path_params["model"], None)


@router.post(
    "/models/{model}/versions/{version}/skip-map",
    summary="Show where one version of a model computes",
    **_documented("model", "version"),
)
async def skip_map_with_version(request: Request) -> Response:
    return await _answer(request, request.path_params["model"], request.path_params["version"])


async def _answer(request: Request, name: str | None, version: str | None) -> Response:
    model, fields, classified = await ask(request, name, version, SkipMapFields, want_masks=True)
    parts, encoding = parts_of(request), time.monotonic()
    skips = _skip_map(model, classified)
    told = {
        **heading(request, model, classified),
        "prediction": prediction(parts, model, classified.results[0], fields.top_k),
        "timing_ms": timing(classified, request.state.arrived, encoding),
    }
    shown = skips.layers if fields.layer is None else (skips.layer(fields.layer),)
    response: Response
    if _wants_png(request):
        response = await _drawn(parts, skips, classified, fields.layer, told)
    else:
        response = JsonAnswer(orjson.dumps(told | {"image": _seen(model), "layers": [_layer(one) for one in shown]}))
    parts.metrics.stage_timer(model.name, "decode").observe(classified.decode_s)
    parts.metrics.stage_timer(model.name, "encode").observe(time.monotonic() - encoding)
    return response


def _skip_map(model: ServedModel, classified: Classified) -> SkipMap:
    (result,) = classified.done
    shape, image = model.engine.shape, model.engine.plan.image
    return SkipMap.of_masks(shape, (image.height, image.width), result.masks or (), result.kept)


def _wants_png(request: Request) -> bool:
    accepted = request.headers.get("accept", "").lower().split(",")
    return any(one.partition(";")[0].strip() == PNG for one in accepted)


async def _drawn(
    parts: Parts, skips: SkipMap, classified: Classified, layer: str | None, told: dict[str, Any]
) -> Response:
    """The map on what the network saw, drawn beside the event loop; the rest of the answer is the PNG's comment."""
    (seen,) = classified.images
    assert not isinstance(seen, Exception)

    def draw() -> bytes:
        out, comment = io.BytesIO(), PngImagePlugin.PngInfo()
        comment.add_text("Comment", json.dumps(told))
        skips.draw(Image.fromarray(seen), layer).save(out, "PNG", pnginfo=comment, compress_level=3)
        return out.getvalue()

    return Response(await asyncio.get_running_loop().run_in_executor(parts.decoders, draw), media_type=PNG)


def _seen(model: ServedModel) -> dict[str, Any]:
    image, preprocessing = model.engine.plan.image, model.bundle.preprocessing
    return {"width": image.width, "height": image.height, "seen": preprocessing.size / preprocessing.resize}


def _layer(layer: LayerMask) -> dict[str, Any]:
    _, height, width = layer.mask.shape
    return {
        "name": layer.name,
        "height": height,
        "width": width,
        "cells": layer.cells,
        "kept": layer.kept,
        "skip_ratio": layer.skip_ratio,
        "macs": layer.macs,
        "mask": _rows(layer),
    }


def _rows(layer: LayerMask) -> list[list[str]]:
    """Each group's rows as texts of 0 and 1."""
    groups, height, width = layer.mask.shape
    digits = (layer.mask + ZERO).tobytes().decode("ascii")
    rows = [digits[start : start + width] for start in range(0, len(digits), width)]
    return [rows[group * height : (group + 1) * height] for group in range(groups)]

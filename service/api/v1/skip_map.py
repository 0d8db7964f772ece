"""v1: where a network computed for an image, as JSON or drawn on it."""

import io
import json
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import Request, Response
from PIL import Image, PngImagePlugin

from lccl.skip_map import LayerMask, SkipMap

from ...inference.pipeline import Classified, Pipeline
from ...inference.registry import ServedModel
from ..exchange import Asked, Exchange
from ..fields import SkipMapFields
from ..operation import Json, Operation
from .answers import MaskedLayer, SkipMapAnswer
from .bodies import read_images
from .classify import ERRORS, heading, image_bodies, prediction

PNG = "image/png"


def operations(exchange: Exchange, pipeline: Pipeline, max_images: int) -> list[Operation]:
    """Routes that show where a model, or one version of it, computes."""

    async def skip_map(request: Request) -> Response:
        return await exchange.run(request, read, write, want_masks=True)

    async def read(request: Request, body: bytes, _: ServedModel) -> Asked[SkipMapFields]:
        return await read_images(request, body, SkipMapFields, max_images, exchange.turns, one=True)

    async def write(request: Request, model: ServedModel, fields: SkipMapFields, classified: Classified) -> Response:
        (result,), plan = classified.done, model.engine.plan
        size, preprocessing = (plan.image.height, plan.image.width), model.bundle.preprocessing
        skips = SkipMap.of_masks(model.engine.shape, size, result.masks, result.kept)
        answer: SkipMapAnswer = {
            **heading(request, model, classified),
            "prediction": prediction(model, result, fields.top_k),
            "image": {
                "width": size[1],
                "height": size[0],
                "seen": preprocessing.size / preprocessing.resize,
                "fit": preprocessing.fit,
            },
            "layers": [],
        }
        accepted = request.headers.get("accept", "").lower().split(",")
        if any(one.partition(";")[0].strip() == PNG for one in accepted):
            told = {name: value for name, value in answer.items() if name not in {"image", "layers"}}
            drawing = partial(_draw, skips, classified, fields.layer, told)
            png = await pipeline.beside(drawing, client=request.scope["state"]["caller"].name)
            return Response(png, media_type=PNG)
        answer["layers"] = [
            _layer(one) for one in (skips.layers if fields.layer is None else (skips.layer(fields.layer),))
        ]
        return Json(answer)

    named = Operation(
        "POST", "/v1/models/{model}/skip-map", "Show where a model computes", "classify", skip_map, SkipMapAnswer,
        ERRORS, query=SkipMapFields, body=image_bodies(SkipMapFields), media_types=(PNG,),
        told="Masks as JSON, or a PNG where Accept asks for image/png",
    )  # fmt: skip
    return [
        named,
        replace(
            named,
            path="/v1/models/{model}/versions/{version}/skip-map",
            summary="Show where one version of a model computes",
        ),
    ]


def _draw(skips: SkipMap, classified: Classified, layer: str | None, told: dict[str, Any]) -> bytes:
    """The map on what the network saw, as a PNG with the rest of the answer as its comment."""
    (seen,) = classified.images
    assert not isinstance(seen, Exception)
    out, comment = io.BytesIO(), PngImagePlugin.PngInfo()
    comment.add_text("Comment", json.dumps(told))
    skips.draw(Image.fromarray(seen), layer).save(out, "PNG", pnginfo=comment, compress_level=3)
    return out.getvalue()


def _layer(layer: LayerMask) -> MaskedLayer:
    """A layer with each of its groups' rows as texts of 0 and 1."""
    groups, height, width = layer.mask.shape
    digits = (layer.mask + ord("0")).tobytes().decode("ascii")
    rows = [digits[start : start + width] for start in range(0, len(digits), width)]
    return {
        "name": layer.name,
        "height": height,
        "width": width,
        "cells": layer.cells,
        "kept": layer.kept,
        "skip_ratio": layer.skip_ratio,
        "macs": layer.macs,
        "mask": [rows[group * height : (group + 1) * height] for group in range(groups)],
    }

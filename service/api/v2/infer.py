"""v2: inference over the Open Inference Protocol, as Triton's and KServe's clients speak it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, TypeVar

import numpy as np
from fastapi import Request, Response
from numpy.typing import NDArray

from ...errors import ServiceError
from ...inference.pipeline import Classified, Pipeline
from ...inference.registry import ServedModel
from ...inference.runner import Result
from ..exchange import Asked, Exchange, refuse_compressed
from ..fields import Fields, fields_of
from ..operation import Operation
from .head import InferRequest
from .requests import JSON_SIZE, json_size, read_request, write_answer
from .tensors import RANKED, Interface, Parameters, Tensor, point_parameters, tensors

Written = TypeVar("Written")
Values = NDArray[Any] | list[bytes]

NO_EXIT = -1
TAG = "open inference protocol"
ERRORS = (400, 401, 404, 413, 415, 422, 429, 500, 503, 504)
INLINE_NUMBERS = 1 << 13  # more are written beside the event loop


def operations(exchange: Exchange, pipeline: Pipeline, max_images: int) -> list[Operation]:
    """Routes that run a model, or one version of it, on tensors."""

    async def infer(request: Request) -> Response:
        return await exchange.run(request, read, write, whole=True)

    async def read(request: Request, body: bytes, model: ServedModel) -> Asked[InferRequest]:
        refuse_compressed(request)
        size = json_size(request.headers.getlist(JSON_SIZE), len(body))
        asked = await read_request(body, size, interface_of(model), max_images, exchange.turns)
        return list(asked.images), read_fields(request, asked).quality, asked, asked.limit_s

    async def write(request: Request, model: ServedModel, asked: InferRequest, classified: Classified) -> Response:
        content, size = await written(pipeline, request, model, classified, partial(_answer, model, asked, classified))
        if size is None:
            return Response(content, media_type="application/json")
        return Response(content, headers={JSON_SIZE: str(size)}, media_type="application/octet-stream")

    named = Operation(
        "POST", "/v2/models/{model}/infer", "Run a model on tensors", TAG, infer, dict[str, Any], ERRORS,
        body={"application/json": {}, "application/octet-stream": {}}, media_types=("application/octet-stream",),
    )  # fmt: skip
    return [
        named,
        replace(named, path="/v2/models/{model}/versions/{version}/infer", summary="Run one version on tensors"),
    ]


def interface_of(model: ServedModel) -> Interface:
    """The inputs and outputs of a model."""
    return _interface(model.bundle.preprocessing.size, len(model.bundle.labels), bool(model.engine.shape.exits))


@lru_cache(maxsize=64)
def _interface(size: int, classes: int, exits: bool) -> Interface:
    return Interface.of(size, size, classes, exits=exits)


async def written(
    pipeline: Pipeline, request: Request, model: ServedModel, classified: Classified, write: Callable[[], Written]
) -> Written:
    """What ``write`` makes of an answer; many numbers are written beside the event loop."""
    return await pipeline.beside(
        write,
        client=request.scope["state"]["caller"].name,
        if_worth_it=len(classified.results) * len(model.bundle.labels) > INLINE_NUMBERS,
    )


def _answer(model: ServedModel, asked: InferRequest, classified: Classified) -> tuple[bytes, int | None]:
    head: dict[str, Any] = {
        "model_name": model.name,
        "model_version": model.version,
        "parameters": answer_parameters(model, classified),
    }
    if asked.id is not None:
        head["id"] = asked.id
    return write_answer(head, asked.outputs, answer_tensors(model, asked, classified))


def answer_parameters(model: ServedModel, classified: Classified) -> Parameters:
    """The parameters of an answer: its operating point and the precision."""
    used = classified.sparsest
    return point_parameters(used.point, used.downgraded) | {"precision": model.engine.precision}


def answer_tensors(model: ServedModel, asked: InferRequest, classified: Classified) -> list[Tensor]:
    """The outputs that were asked for."""
    wanted = {output.name for output in asked.outputs} | {RANKED for output in asked.outputs if output.classes}
    values = {name: VALUES[name](model, classified.done) for name in wanted}
    return tensors(values, model.bundle.labels, asked.outputs)


def read_fields(request: Request, asked: InferRequest) -> Fields:
    """Target and floor, from a request's parameters, query and headers.

    Raises:
        ServiceError, invalid_field: a field that is unknown, out of range, or given twice.

    """
    fields = fields_of(request, dict(asked.quality), Fields)
    if "top_k" in fields.model_fields_set:
        raise ServiceError("invalid_field", "top_k is not of this protocol: set classification on an output")
    return fields


def _best(results: Sequence[Result]) -> list[int]:
    return [int(result.ranking[0]) for result in results]


def _labels(model: ServedModel, results: Sequence[Result]) -> list[bytes]:
    return [model.bundle.labels[index].encode() for index in _best(results)]


def _exits(_: ServedModel, results: Sequence[Result]) -> NDArray[np.int64]:
    return np.array([NO_EXIT if result.exit_index is None else result.exit_index for result in results], np.int64)


def _macs(model: ServedModel, results: Sequence[Result]) -> NDArray[np.int64]:
    return np.array([(model.dense_macs, result.gated_macs, result.executed_macs) for result in results], np.int64)


VALUES: Mapping[str, Callable[[ServedModel, Sequence[Result]], Values]] = {
    "logits": lambda _, results: np.array([result.logits for result in results], np.float32),
    "probabilities": lambda _, results: np.array([result.probabilities for result in results], np.float32),
    "index": lambda _, results: np.array(_best(results), np.int64),
    "label": _labels,
    "exit": _exits,
    "skip_ratio": lambda _, results: np.array([result.skip_ratio for result in results], np.float32),
    "macs": _macs,
}

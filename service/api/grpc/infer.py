"""ModelInfer: from a call to its answer, through the same exchange as a request over HTTP."""

import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

from fastapi import Request
from starlette.types import Scope

from lccl.request import TARGETS, QualityRequest

from ...errors import ServiceError
from ...inference.pipeline import Classified, Pipeline
from ...inference.registry import ServedModel
from ..exchange import Asked, Exchange
from ..v2.head import InferRequest
from ..v2.infer import answer_parameters, answer_tensors, interface_of, read_fields, written
from .calls import Call, Procedure
from .contents import check_parts, read_request, write_answer
from .messages import ModelInferRequest, ModelInferResponse

Admitted = Callable[[Scope], AbstractContextManager[None]]
Details = tuple[InferRequest, bool]
# A call is answered before its client gives up: by so many seconds, at most this share of its time.
BACK_S, BACK_SHARE = 0.005, 0.1
SOME_MS = 3_600_000.0  # a deadline that says that there is one; the time limit beside it says when


def infer(exchange: Exchange, pipeline: Pipeline, max_images: int, admitted: Admitted) -> Procedure:
    """The method that runs a model.

    Args:
        admitted: a context in which work counts as under way, of the request over HTTP that asks the same; raises
            ServiceError (overloaded) for more work than can be answered in time.

    """

    async def answer(call: Call) -> ModelInferResponse:
        check_parts(call.message, max_images)
        sent = ModelInferRequest()
        call.parse(sent)
        model = call.find(exchange, sent.model_name, sent.model_version)
        path = f"/v2/models/{model.name}/versions/{model.version}/infer"
        with admitted({**call.request.scope, "path": path}):
            return await exchange.run(call.request, partial(read, call, sent), write, whole=True, body=call.message)

    async def read(
        call: Call, sent: ModelInferRequest, request: Request, _: bytes, model: ServedModel
    ) -> Asked[Details]:
        asked, raw = await read_request(sent, interface_of(model), max_images, exchange.turns)
        quality, limit_s = in_time(read_fields(request, asked).quality, asked.limit_s, call.remaining_s)
        return list(asked.images), quality, (asked, raw), limit_s

    async def write(
        request: Request, model: ServedModel, details: Details, classified: Classified
    ) -> ModelInferResponse:
        return await written(pipeline, request, model, classified, partial(_answer, model, details, classified))

    return Procedure("ModelInfer", answer)


def in_time(quality: QualityRequest, limit_s: float, remaining_s: float) -> tuple[QualityRequest, float]:
    """What a call's own timeout (``grpc-timeout``) makes of its quality and time limit.

    Without another target it is one: the deadline. Beside a target it is a limit.

    Args:
        remaining_s: seconds that the client waits, infinity where it does not say.

    Raises:
        ServiceError, deadline: they have passed.

    """
    if remaining_s == math.inf:
        return quality, limit_s
    if remaining_s <= 0:
        raise ServiceError("deadline", "the call's timeout had passed when it arrived")
    limit_s = min(limit_s, remaining_s - min(BACK_S, BACK_SHARE * remaining_s))
    if any(getattr(quality, target) is not None for target in TARGETS):
        return quality, limit_s
    return replace(quality, deadline_ms=SOME_MS), limit_s


def _answer(model: ServedModel, details: Details, classified: Classified) -> ModelInferResponse:
    asked, raw = details
    return write_answer(
        model.name, model.version, asked.id, answer_parameters(model, classified),
        answer_tensors(model, asked, classified), raw,
    )  # fmt: skip

"""Infer requests from messages, and answers to messages. Every byte may be hostile.

What a request says is checked by the code that checks it over HTTP; only the form is another.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ServiceError
from ..turns import SHORT_BYTES, LoopTurns
from ..v2.head import Checked, Images, InferRequest, check, known, validate
from ..v2.tensors import (
    BYTES,
    Interface,
    Parameters,
    Signature,
    Tensor,
    finite,
    misshapen,
    read_bytes,
    to_numbers,
)
from .messages import InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse
from .wire import Parts

MAX_PARTS = 1000  # of a message, and one for each image; a good one has far fewer
SLICE = 1 << 15
LISTS = {"UINT8": "uint_contents", "FP32": "fp32_contents", "INT64": "int64_contents", BYTES: "bytes_contents"}


def check_parts(message: bytes, most: int) -> None:
    """See, of a long message, that parsing does not make it many times its size.

    Raises:
        ServiceError, too_large: it has more parts than ``most`` images need.
        ServiceError, malformed: it is no infer request.

    """
    if len(message) > SHORT_BYTES:
        Parts(message, MAX_PARTS + most).check()


async def read_request(
    message: ModelInferRequest, interface: Interface, most: int, turns: LoopTurns
) -> tuple[InferRequest, bool]:
    """Read an infer request.

    Args:
        most: how many images one request may carry.
        turns: of the event loop, for what takes long.

    Returns:
        The request, and whether its answer is to be raw: as its inputs are, where it does not say.

    Raises:
        ServiceError, malformed: sizes, shapes or lists that do not fit.
        ServiceError, invalid_field: a parameter that there is not, or out of range.
        ServiceError, too_large: too many images.
        InputError: numbers that are not finite.

    """
    raw = bool(message.raw_input_contents)
    head = validate(_described(message), "the message")
    asked = check(head, interface, most, binary=raw)
    if raw:
        images = await _from_raw(message, asked)
    else:
        images = await _from_contents(asked.signature, asked.input.shape, message.inputs[0].contents, turns)
    return asked.request(message.id, images), any(output.binary for output in asked.outputs)


def _described(message: ModelInferRequest) -> dict[str, Any]:
    """What a message says beside its tensors' values."""
    return {
        "id": message.id,
        "parameters": _parameters(message.parameters),
        "inputs": [
            {
                "name": one.name, "datatype": one.datatype, "shape": list(one.shape),
                "parameters": _parameters(one.parameters),
            } for one in message.inputs
        ],
        "outputs": [{"name": one.name, "parameters": _parameters(one.parameters)} for one in message.outputs],
    }  # fmt: skip


def _parameters(given: Mapping[str, InferParameter]) -> dict[str, Any]:
    """Parameters by name; one without a value is None, which no parameter may be."""
    kinds = {name: value.WhichOneof("parameter_choice") for name, value in given.items()}
    return {name: None if kind is None else getattr(given[name], kind) for name, kind in kinds.items()}


async def _from_raw(message: ModelInferRequest, asked: Checked) -> Images:
    name, (content, *more) = asked.input.name, message.raw_input_contents
    if more:
        raise ServiceError("malformed", f"{len(more) + 1} raw_input_contents for 1 input: send one for each")
    if message.inputs[0].HasField("contents"):
        raise ServiceError("malformed", f"input {name} has both contents and raw_input_contents: send one of them")
    size = known(f"input {name}", asked.input, ("binary_data_size",)).get("binary_data_size", len(content))
    if size != len(content):
        raise ServiceError("malformed", f"input {name} has {len(content)} bytes, and a binary_data_size of {size}")
    return await read_bytes(asked.signature, asked.input.shape, content)


async def _from_contents(
    signature: Signature, shape: list[int], contents: InferTensorContents, turns: LoopTurns
) -> Images:
    """The values of a tensor that is sent typed; many numbers are read in slices."""
    wanted, count = LISTS[signature.datatype], math.prod(shape)
    other = [field.name for field, _ in contents.ListFields() if field.name != wanted]
    if other:
        raise ServiceError("malformed", f"input {signature.name} has {other[0]}: send {signature.datatype} as {wanted}")
    values = getattr(contents, wanted)
    if len(values) != count:
        raise misshapen(signature, shape)
    if signature.datatype == BYTES:
        return list(values)
    slices: list[NDArray[Any]] = []
    for start in range(0, count, SLICE):
        if start:
            await turns.next()
        slices.append(finite(signature, to_numbers(signature, values[start : start + SLICE])))
    return np.concatenate(slices).reshape(shape)


def write_answer(
    name: str, version: str, request_id: str | None, parameters: Parameters, tensors: list[Tensor], raw: bool
) -> ModelInferResponse:
    """An answer as its message; ``raw`` puts the values of all tensors into ``raw_output_contents``."""
    answer = ModelInferResponse(model_name=name, model_version=version, id=request_id)
    for key, value in parameters.items():
        setattr(answer.parameters[key], _choice(value), value)
    for tensor in tensors:
        output = answer.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if raw:
            answer.raw_output_contents.append(tensor.to_binary())
        else:
            values = tensor.values
            flat = values if isinstance(values, list) else values.ravel().tolist()
            getattr(output.contents, LISTS[tensor.datatype]).extend(flat)
    return answer


def _choice(value: bool | int | float | str) -> str:
    kinds = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}
    return kinds[type(value)]

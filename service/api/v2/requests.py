"""Open Inference Protocol v2 over HTTP: infer requests from bytes, and answers to bytes. Every byte may be hostile.

The protocol: https://github.com/kserve/open-inference-protocol. Binary tensors and classification are Triton's
extensions: https://github.com/triton-inference-server/server/tree/main/docs/protocol.
"""

import asyncio
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import orjson
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...errors import ServiceError, complaint
from ..json_text import SHORT_BYTES, ShortJson, load_json, shorten
from ..turns import LoopTurns
from .arrays import read_long_array
from .tensors import (
    BYTES,
    CLASSIFIED,
    Interface,
    Parameters,
    RequestedOutput,
    Signature,
    Tensor,
    read_binary,
    read_numbers,
    texts_of,
)

JSON_SIZE = "Inference-Header-Content-Length"
# What other servers' clients say beside, and what means nothing here: there are no priorities and no sequences, and a
# tensor's content is known by its name.
WITHOUT_MEANING = ("priority", "sequence_id", "sequence_start", "sequence_end", "content_type")
QUALITIES = ("sparsity", "operating_point", "max_accuracy_drop", "deadline_ms", "exit_confidence")
MAX_TENSORS = 16
MAX_PARAMETERS = 64
MAX_ID = 1024
MAX_NAME = 64
MAX_TIMEOUT = 1 << 53  # microseconds; far more than any server waits
MAX_OBJECTS = 1000  # a request has far fewer, even with 16 tensors

Images = list[bytes] | NDArray[Any]


class _Part(BaseModel):
    """Fields that the protocol names have exactly its types; other fields are ignored, as by other servers."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    parameters: Annotated[Parameters, Field(max_length=MAX_PARAMETERS)] | None = None


class _Output(_Part):
    name: Annotated[str, Field(max_length=MAX_NAME)]


class _Input(_Part):
    name: Annotated[str, Field(max_length=MAX_NAME)]
    datatype: Annotated[str, Field(max_length=MAX_NAME)]
    shape: Annotated[list[Annotated[int, Field(ge=0, lt=1 << 63)]], Field(max_length=8)]
    data: list[Any] | None = None


class _Request(_Part):
    id: Annotated[str, Field(max_length=MAX_ID)] | None = None
    inputs: Annotated[list[_Input], Field(max_length=MAX_TENSORS)]
    outputs: Annotated[list[_Output], Field(max_length=MAX_TENSORS)] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class InferRequest:
    """A request that was read.

    Attributes:
        images: encoded ones, or an array [N, H, W, 3], uint8 or float32 and normalised.
        quality: the fields of a :class:`lccl.request.QualityRequest` by name, their values unchecked.
        limit_s: seconds that it may take, infinity without a limit of its own.

    """

    id: str | None
    images: Images
    quality: Parameters
    limit_s: float
    outputs: tuple[RequestedOutput, ...]


def json_size(headers: Sequence[str], size: int) -> int:
    """How many bytes of a body are JSON, from its headers of the name :data:`JSON_SIZE`: all without one.

    Raises:
        ServiceError, malformed: several, no whole number, or more than the body has.

    """
    if not headers:
        return size
    (given, *more) = headers
    if more or not (given.isascii() and given.isdigit() and len(given) < 20) or int(given) > size:
        raise ServiceError("malformed", f"{JSON_SIZE} must say, once, how many of the body's {size} bytes are JSON")
    return int(given)


async def read_request(body: bytes, json_bytes: int, interface: Interface, most: int, turns: LoopTurns) -> InferRequest:
    """Read an infer request: JSON, and behind it the binary tensors in the order of the inputs.

    Args:
        json_bytes: as of :func:`json_size`.
        most: how many images one request may carry.
        turns: of the event loop, for what takes long.

    Raises:
        ServiceError, malformed: no JSON, or none of the protocol's; sizes or shapes that do not fit.
        ServiceError, invalid_field: a parameter that there is not, or out of range; a name twice in the JSON.
        ServiceError, too_large: too many images, or JSON with more in it than these images have.
        InputError: numbers that are not finite.

    """
    short = await shorten(body[:json_bytes], most, turns)
    request = _read_json(short.text, interface, most)
    found = _one_input(request.inputs, interface)
    signature = next(one for one in interface.inputs if one.name == found.name)
    signature.check(found.datatype, found.shape, most)
    given = _known("the request", request, (*QUALITIES, "binary_data_output", "timeout"))
    binary = _flag(given, "binary_data_output", False)
    outputs = _outputs(request.outputs or [], binary, interface)
    rest = memoryview(body)[json_bytes:]
    if not _is_binary(found, len(rest)):
        images = await _from_json(signature, found, short, turns)
    elif len(rest) > SHORT_BYTES:
        images = await asyncio.to_thread(read_binary, signature, found.shape, rest)
    else:
        images = read_binary(signature, found.shape, rest)
    short.check_all_taken()
    quality = {name: value for name, value in given.items() if name in QUALITIES}
    return InferRequest(request.id, images, quality, _limit_s(given), outputs)


async def _from_json(signature: Signature, given: _Input, short: ShortJson, turns: LoopTurns) -> Images:
    """The values of a tensor that is sent in JSON."""
    data = given.data or []
    long = short.array(data)
    if long is not None:
        return await read_long_array(signature, given.shape, *long, turns)
    if signature.datatype != BYTES:
        return read_numbers(signature, given.shape, data)
    images = []
    for index, text in enumerate(texts_of(signature, given.shape, data)):
        try:
            images.append(await short.from_base64(text, turns))
        except ValueError as error:
            raise ServiceError(
                "malformed",
                f"element {index} of input {given.name} is not valid base64: JSON carries encoded images as base64",
            ) from error
    return images


def _read_json(text: bytes, interface: Interface, most: int) -> _Request:
    """Parse the JSON, unless it has more parts than any good request: parsed, they are many times its size."""
    values = most * max(math.prod(signature.shape[1:]) for signature in interface.inputs)
    if text.count(b"{") > MAX_OBJECTS or text.count(b",") + text.count(b"[") > 2 * values + MAX_OBJECTS:
        raise ServiceError("too_large", f"the JSON has more values than {most} images, the most in one request, have")
    hint = f"If binary tensors follow it, {JSON_SIZE} says where it ends"
    try:
        return _Request.model_validate(load_json(text, hint))
    except ValidationError as error:
        raise ServiceError("malformed", f"not an infer request: {complaint(error, 'the JSON')}") from error


def _one_input(inputs: Sequence[_Input], interface: Interface) -> _Input:
    names = [signature.name for signature in interface.inputs]
    for one in inputs:
        if one.name not in names:
            raise ServiceError("malformed", f"no input {one.name!r}: send one of {', '.join(names)}")
    if len(inputs) != 1:
        raise ServiceError("malformed", f"{len(inputs)} inputs: send exactly one, of {', '.join(names)}")
    return inputs[0]


def _is_binary(given: _Input, rest: int) -> bool:
    """Whether a tensor is sent in binary, as ``rest`` bytes behind the JSON, and not in it."""
    size = _known(f"input {given.name}", given, ("binary_data_size",)).get("binary_data_size")
    if size is None:
        if given.data is None:
            raise ServiceError("malformed", f"input {given.name} has no data: send data, or binary_data_size and bytes")
        if rest:
            raise ServiceError("malformed", f"{rest} bytes follow the JSON, and no input has a binary_data_size")
        return False
    if given.data is not None:
        raise ServiceError("malformed", f"input {given.name} has both data and binary_data_size: send one of them")
    if isinstance(size, bool) or not isinstance(size, int) or size != rest:
        raise ServiceError(
            "malformed",
            f"input {given.name} has binary_data_size {str(size)[:20]!r}, and {rest} bytes follow the JSON: "
            f"set {JSON_SIZE} and binary_data_size to what is sent",
        )
    return True


def _outputs(given: Sequence[_Output], binary: bool, interface: Interface) -> tuple[RequestedOutput, ...]:
    names = [signature.name for signature in interface.outputs]
    if not given:
        return tuple(RequestedOutput(name, binary) for name in names)
    outputs: dict[str, RequestedOutput] = {}
    for one in given:
        if one.name not in names:
            raise ServiceError("malformed", f"no output {one.name!r}: there are {', '.join(names)}")
        if one.name in outputs:
            raise ServiceError("malformed", f"output {one.name} is asked for twice: ask once")
        parameters = _known(f"output {one.name}", one, ("binary_data", "classification"))
        flag = _flag(parameters, "binary_data", binary)
        outputs[one.name] = RequestedOutput(one.name, flag, _classes(one.name, parameters))
    return tuple(outputs.values())


def _classes(output: str, parameters: Parameters) -> int:
    count = parameters.get("classification", 0)
    if isinstance(count, bool) or not isinstance(count, int) or count < 0:
        raise ServiceError("invalid_field", f"classification of output {output} must be a whole number from 0 on")
    if count and output not in CLASSIFIED:
        raise ServiceError("invalid_field", f"output {output} is not classified: ask it of {' or '.join(CLASSIFIED)}")
    return count


def _flag(parameters: Parameters, name: str, default: bool) -> bool:
    value = parameters.get(name, default)
    if not isinstance(value, bool):
        raise ServiceError("invalid_field", f"{name} must be true or false")
    return value


def _limit_s(parameters: Parameters) -> float:
    """Triton's timeout, in seconds; infinity where there is none, or it is 0."""
    timeout = parameters.get("timeout", 0)
    if isinstance(timeout, bool) or not isinstance(timeout, int) or timeout < 0:
        raise ServiceError("invalid_field", "timeout must be a whole number of microseconds, or 0 for none")
    return min(timeout, MAX_TIMEOUT) / 1e6 if timeout else math.inf


def _known(owner: str, part: _Part, names: Sequence[str]) -> Parameters:
    """A part's parameters; an unknown one is an error, because it may be a misspelt field of the quality."""
    for name in part.parameters or {}:
        if name not in names and name not in WITHOUT_MEANING:
            raise ServiceError(
                "invalid_field", f"{owner} has an unknown parameter {name[:MAX_NAME]!r}: use {', '.join(names)}"
            )
    return part.parameters or {}


def write_answer(
    head: Mapping[str, Any], outputs: Sequence[RequestedOutput], found: Sequence[Tensor]
) -> tuple[bytes, int | None]:
    """An answer's body, and how many of its bytes are JSON where binary tensors follow, else None.

    Args:
        head: the fields before the outputs: model_name, model_version, id, parameters.

    """
    described: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for output, tensor in zip(outputs, found, strict=True):
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if output.binary:
            parts.append(tensor.to_binary())
            entry["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            entry["data"] = tensor.to_json()
        described.append(entry)
    text = orjson.dumps({**head, "outputs": described})
    return b"".join([text, *parts]), len(text) if parts else None

"""Open Inference Protocol v2 over HTTP: infer requests from bytes, and answers to bytes. Every byte may be hostile.

The protocol: https://github.com/kserve/open-inference-protocol. Binary tensors and classification are Triton's
extensions: https://github.com/triton-inference-server/server/tree/main/docs/protocol.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from ...errors import ServiceError
from ..json_text import ShortJson, load_json, shorten
from ..turns import LoopTurns
from .arrays import read_long_array
from .head import Images, InferHead, InferRequest, InputHead, check, known, validate
from .tensors import BYTES, Interface, RequestedOutput, Signature, Tensor, read_bytes, read_numbers, texts_of

JSON_SIZE = "Inference-Header-Content-Length"
MAX_OBJECTS = 1000  # a request has far fewer, even with 16 tensors


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
    asked = check(request, interface, most)
    signature, found = asked.signature, asked.input
    rest = memoryview(body)[json_bytes:]
    if not _is_binary(found, len(rest)):
        images = await _from_json(signature, found, short, turns)
    else:
        images = await read_bytes(signature, found.shape, rest)
    short.check_all_taken()
    return asked.request(request.id, images)


async def _from_json(signature: Signature, given: InputHead, short: ShortJson, turns: LoopTurns) -> Images:
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


def _read_json(text: bytes, interface: Interface, most: int) -> InferHead:
    """Parse the JSON, unless it has more parts than any good request: parsed, they are many times its size."""
    values = most * max(math.prod(signature.shape[1:]) for signature in interface.inputs)
    if text.count(b"{") > MAX_OBJECTS or text.count(b",") + text.count(b"[") > 2 * values + MAX_OBJECTS:
        raise ServiceError("too_large", f"the JSON has more values than {most} images, the most in one request, have")
    hint = f"If binary tensors follow it, {JSON_SIZE} says where it ends"
    return validate(load_json(text, hint), "the JSON")


def _is_binary(given: InputHead, rest: int) -> bool:
    """Whether a tensor is sent in binary, as ``rest`` bytes behind the JSON, and not in it."""
    size = known(f"input {given.name}", given, ("binary_data_size",)).get("binary_data_size")
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

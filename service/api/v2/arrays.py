"""Long arrays of numbers in JSON, read in slices, so that none holds the event loop up."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from ...errors import ServiceError
from ..turns import LoopTurns
from .tensors import BYTES, NUMBERS, Signature, finite, misshapen, to_numbers

SLICE = 1 << 15
SPACES = b" \t\n\r"
BRACKETS = b"[]"
VALUE = b"0"
# Everything that is no bracket, comma or space is a part of a value.
SHAPES = bytes(byte if byte in b"[],\t\n\r " else VALUE[0] for byte in range(256))


async def read_long_array(
    signature: Signature, shape: Sequence[int], whole: bytes, span: tuple[int, int], turns: LoopTurns
) -> NDArray[Any]:
    """The numbers of a tensor whose claims were checked, from JSON: a flat list or one nested like its shape.

    Args:
        span: where in ``whole`` the list is, its brackets included.

    Raises:
        ServiceError, malformed: too few, too many or other values than the datatype has, or no JSON.
        InputError: a number that is not finite.

    """
    at, end = span[0] + 1, span[1] - 1
    count = math.prod(shape)
    if signature.datatype == BYTES:
        raise ServiceError("malformed", f"input {signature.name} holds something else than base64 texts")
    if end - at < 2 * count - 1:
        raise misshapen(signature, shape)
    element = _brackets(shape[1:]) if whole[at : at + SLICE].lstrip(SPACES).startswith(b"[") else b""
    period = element + b","
    expected = period * (SLICE // len(period) + 2)
    numbers = np.empty(count, NUMBERS[signature.datatype].newbyteorder("="))
    filled = seen = 0
    while at <= end:
        await turns.next()
        stop = end if end - at <= SLICE else whole.rfind(b",", at, at + SLICE)
        if stop < 0:
            raise misshapen(signature, shape)
        piece = whole[at:stop]
        shapes = piece.translate(SHAPES, SPACES)
        brackets = shapes.translate(None, VALUE) + b","
        fits = expected.startswith(brackets, seen % len(period)) and b"0[" not in shapes and b"]0" not in shapes
        values = _values(piece) if fits else []
        if not values or filled + len(values) > count:
            raise misshapen(signature, shape)
        numbers[filled : filled + len(values)] = finite(signature, to_numbers(signature, values))
        filled, seen, at = filled + len(values), seen + len(brackets), stop + 1
    if filled != count or seen % len(period):
        raise misshapen(signature, shape)
    return numbers.reshape(shape)


def _brackets(shape: Sequence[int]) -> bytes:
    """A nested list of that shape without its values."""
    return b"[" + b",".join([_brackets(shape[1:])] * shape[0]) + b"]" if shape else b""


def _values(piece: bytes) -> list[Any]:
    try:
        values: list[Any] = orjson.loads(b"[" + piece.translate(None, BRACKETS) + b"]")
    except orjson.JSONDecodeError as error:
        raise ServiceError("malformed", f"the JSON cannot be read: {str(error)[:60]}") from error
    return values

"""The wire format of infer requests, as far as it takes to see that a long one has no more parts than a good one.

Parsed, two bytes can become an object of a hundred. Described: https://protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Mapping
from typing import Any

from ...errors import ServiceError
from .messages import InferTensorContents, ModelInferRequest

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
SHAPE_BYTES = 128
Level = Mapping[int, Any]

_Input, _Output = ModelInferRequest.InferInputTensor, ModelInferRequest.InferRequestedOutputTensor
CONTENTS: Level = {}
INPUT: Level = {_Input.CONTENTS_FIELD_NUMBER: CONTENTS}
OUTPUT: Level = {_Output.PARAMETERS_FIELD_NUMBER: {}}
REQUEST: Level = {ModelInferRequest.INPUTS_FIELD_NUMBER: INPUT, ModelInferRequest.OUTPUTS_FIELD_NUMBER: OUTPUT}
# Lists whose numbers take one byte here, and up to eight once parsed; no input of a model needs them.
UNUSED = (
    InferTensorContents.INT_CONTENTS_FIELD_NUMBER,
    InferTensorContents.INT64_CONTENTS_FIELD_NUMBER,
    InferTensorContents.UINT64_CONTENTS_FIELD_NUMBER,
)


class Parts:
    """Goes through the fields of a message, those of the messages in it included.

    Args:
        most: how many there may be.

    """

    def __init__(self, message: bytes, most: int) -> None:
        self._message, self._left = message, most

    def check(self) -> None:
        """Look at all fields.

        Raises:
            ServiceError, too_large: there are too many.
            ServiceError, malformed: these are none, or such as no good request has.

        """
        self._look(0, len(self._message), REQUEST)

    def _look(self, at: int, end: int, level: Level) -> None:
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise ServiceError("too_large", "the message has more parts than any good request has")
            tag, at = self._varint(at, end)
            number, kind = tag >> 3, tag & 7
            size = {FIXED64: 8, FIXED32: 4}.get(kind, 0)
            if kind == DELIMITED:
                size, at = self._varint(at, end)
                self._check_list(number, size, level)
            elif kind == VARINT:
                _, at = self._varint(at, end)
            elif not size:
                raise ServiceError("malformed", f"the message has a field of the unknown kind {kind}")
            if size > end - at:
                raise ServiceError("malformed", "the message ends within a field")
            if kind == DELIMITED and number in level:
                self._look(at, at + size, level[number])
            at += size

    def _check_list(self, number: int, size: int, level: Level) -> None:
        if level is INPUT and number == _Input.SHAPE_FIELD_NUMBER and size > SHAPE_BYTES:
            raise ServiceError("malformed", "the shape of an input has too many numbers")
        if level is CONTENTS and number in UNUSED:
            raise ServiceError("malformed", "no input is of signed or 64-bit integers: see the model's metadata")

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = 0
        for index in range(10):
            if at >= end:
                break
            byte = self._message[at]
            at += 1
            value |= (byte & 127) << (7 * index)
            if byte < 128:  # the last of its bytes
                return value, at
        raise ServiceError("malformed", "the message ends within a number")

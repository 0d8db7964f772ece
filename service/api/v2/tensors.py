"""Tensors as the Open Inference Protocol sends them: typed, checked, from and to bytes and JSON."""

import asyncio
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from lccl.errors import InputError
from lccl.operating_points import OperatingPoint

from ...errors import ServiceError
from ..turns import SHORT_BYTES

BYTES = "BYTES"
NUMBERS: dict[str, np.dtype[Any]] = {"UINT8": np.dtype("u1"), "INT64": np.dtype("<i8"), "FP32": np.dtype("<f4")}
MACS = ("dense", "gated", "executed")
CLASSIFIED = ("logits", "probabilities")
RANKED = "logits"  # the output that says which classes are the best
LENGTH = struct.Struct("<I")
COPIED_BYTES = 1 << 20

Parameters = dict[str, bool | int | float | str]


@dataclass(frozen=True, slots=True)
class Signature:
    """Name, datatype and shape of one of a model's tensors; −1 in the shape is any number of images."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def check(self, datatype: str, shape: Sequence[int], most: int) -> None:
        """Compare a tensor's datatype and shape with this signature, before any of its data is read.

        Args:
            most: how many images one request may carry.

        Raises:
            ServiceError, malformed: another datatype or shape, or no image at all.
            ServiceError, too_large: too many images.

        """
        if datatype != self.datatype:
            raise ServiceError("malformed", f"input {self.name} has datatype {datatype!r}: send it as {self.datatype}")
        fits = len(shape) == len(self.shape) and all(
            wanted in {-1, size} for size, wanted in zip(shape, self.shape, strict=True)
        )
        if not fits:
            raise ServiceError(
                "malformed",
                f"input {self.name} has shape {list(shape)}: send {list(self.shape)}, -1 being the number of images",
            )
        if shape[0] > most:
            raise ServiceError("too_large", f"{shape[0]} images in one request; at most {most} are taken")
        if shape[0] < 1:
            raise ServiceError("malformed", f"input {self.name} holds no image: send at least one")


@dataclass(frozen=True, slots=True)
class Interface:
    """The inputs of a model, of which a request has exactly one, and its outputs."""

    inputs: tuple[Signature, ...]
    outputs: tuple[Signature, ...]

    @classmethod
    def of(cls, height: int, width: int, classes: int, *, exits: bool = False) -> Self:
        """The interface of a classifier of images of that size, with early exits or without."""
        return cls(
            inputs=(
                Signature("image", BYTES, (-1,)),
                Signature("pixels", "UINT8", (-1, height, width, 3)),
                Signature("normalised", "FP32", (-1, height, width, 3)),
            ),
            outputs=(
                Signature("logits", "FP32", (-1, classes)),
                Signature("probabilities", "FP32", (-1, classes)),
                Signature("index", "INT64", (-1,)),
                Signature("label", BYTES, (-1,)),
                Signature("skip_ratio", "FP32", (-1,)),
                Signature("macs", "INT64", (-1, len(MACS))),
                *([Signature("exit", "INT64", (-1,))] if exits else []),
            ),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A tensor that is sent: numbers as an array, BYTES as a list in row-major order with the shape beside it."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: NDArray[Any] | list[bytes]

    def to_json(self) -> list[Any]:
        """The values, flat; BYTES as texts."""
        if isinstance(self.values, list):
            return [value.decode() for value in self.values]
        flat: list[Any] = self.values.ravel().tolist()
        return flat

    def to_binary(self) -> bytes:
        """Little-endian numbers in row-major order; BYTES with 4 bytes of length before each."""
        if isinstance(self.values, list):
            return b"".join(LENGTH.pack(len(value)) + value for value in self.values)
        return self.values.astype(NUMBERS[self.datatype], order="C").tobytes()


def read_binary(signature: Signature, shape: Sequence[int], content: bytes | memoryview) -> NDArray[Any] | list[bytes]:
    """The values of a tensor whose claims were checked, from its own stretch of the body.

    Returns:
        An array of that shape, or the elements of BYTES.

    Raises:
        ServiceError, malformed: too few or too many bytes.
        InputError: a number that is not finite.

    """
    if signature.datatype == BYTES:
        return _read_elements(signature.name, shape[0], content)
    number = NUMBERS[signature.datatype]
    wanted = math.prod(shape) * number.itemsize
    if len(content) != wanted:
        raise ServiceError(
            "malformed",
            f"input {signature.name} has {len(content)} bytes: "
            f"{signature.datatype} of shape {list(shape)} has {wanted}",
        )
    numbers = np.require(np.frombuffer(content, number), requirements=["ALIGNED"])
    return finite(signature, numbers.reshape(shape))


async def read_bytes(
    signature: Signature, shape: Sequence[int], content: bytes | memoryview
) -> NDArray[Any] | list[bytes]:
    """As :func:`read_binary`; what is long is read in a thread."""
    if len(content) > SHORT_BYTES:
        return await asyncio.to_thread(read_binary, signature, shape, content)
    return read_binary(signature, shape, content)


def read_numbers(signature: Signature, shape: Sequence[int], data: list[Any]) -> NDArray[Any]:
    """The numbers of a tensor whose claims were checked, from a flat list or one nested like its shape.

    Raises:
        ServiceError, malformed: too few, too many or other values than the datatype has.
        InputError: a number that is not finite.

    """
    return finite(signature, to_numbers(signature, _flatten(signature, shape, data)).reshape(shape))


def texts_of(signature: Signature, shape: Sequence[int], data: list[Any]) -> list[str]:
    """The elements of BYTES in a list, as JSON carries them.

    Raises:
        ServiceError, malformed: too few, too many or other values.

    """
    values = _flatten(signature, shape, data)
    if set(map(type, values)) != {str}:
        raise ServiceError("malformed", f"input {signature.name} holds something else than base64 texts")
    return values


def to_numbers(signature: Signature, values: list[Any]) -> NDArray[Any]:
    """Numbers of the signature's datatype, perhaps not finite, from values of JSON.

    Raises:
        ServiceError, malformed: a value that the datatype lacks.

    """
    kinds = set(map(type, values))
    try:
        if signature.datatype == "UINT8" and kinds == {int}:
            return np.frombuffer(bytes(values), np.uint8)
        if signature.datatype == "FP32" and kinds <= {int, float}:
            with np.errstate(over="ignore"):
                return np.array(values, np.float64).astype(np.float32)
    except (ValueError, OverflowError) as error:
        raise ServiceError(
            "malformed", f"input {signature.name} holds a number that {signature.datatype} lacks"
        ) from error
    raise ServiceError("malformed", f"input {signature.name} holds a value that is no {signature.datatype}")


def _read_elements(name: str, count: int, content: bytes | memoryview) -> list[bytes]:
    elements: list[bytes] = []
    place = 0
    for index in range(count):
        start = place + LENGTH.size
        if start > len(content):
            raise ServiceError(
                "malformed", f"input {name} ends before element {index}: its shape says there are {count}"
            )
        place = start + LENGTH.unpack_from(content, place)[0]
        if place > len(content):
            raise ServiceError(
                "malformed",
                f"element {index} of input {name} claims {place - start} bytes, of which {len(content) - start} are "
                "there: before each element come 4 bytes with its length, little-endian",
            )
        elements.append(_copy(content, start, place))
    if place != len(content):
        raise ServiceError("malformed", f"input {name} has {len(content) - place} bytes after its {count} elements")
    return elements


def _copy(content: bytes | memoryview, start: int, end: int) -> bytes:
    """A stretch of the body; long ones in pieces, between which other threads of Python run."""
    pieces = (content[at : min(at + COPIED_BYTES, end)] for at in range(start, end, COPIED_BYTES))
    return b"".join([bytes(piece) for piece in pieces])


def _flatten(signature: Signature, shape: Sequence[int], data: list[Any]) -> list[Any]:
    nested = len(shape) > 1 and bool(data) and isinstance(data[0], list)
    rows: list[Any] = [data]
    for size in shape if nested else (math.prod(shape),):
        if not all(isinstance(row, list) and len(row) == size for row in rows):
            raise misshapen(signature, shape)
        rows = list(chain.from_iterable(rows))
    return rows


def misshapen(signature: Signature, shape: Sequence[int]) -> ServiceError:
    """The error for data in JSON that is neither flat nor nested like its shape."""
    return ServiceError(
        "malformed",
        f"the data of input {signature.name} does not have the shape {list(shape)}: send {math.prod(shape)} values, "
        "flat or nested like the shape",
    )


def finite(signature: Signature, numbers: NDArray[Any]) -> NDArray[Any]:
    """The numbers in this machine's byte order.

    Raises:
        InputError: one is not finite.

    """
    if numbers.dtype.kind == "f" and not np.isfinite(numbers).all():
        raise InputError(f"input {signature.name} holds NaN or infinity: send finite numbers")
    return numbers.astype(numbers.dtype.newbyteorder("="), copy=False)


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output that the answer shall have.

    Attributes:
        binary: whether its values follow the JSON as bytes.
        classes: how many of the best classes to name instead of the values; 0 for the values.

    """

    name: str
    binary: bool
    classes: int = 0


def tensors(
    values: Mapping[str, NDArray[Any] | list[bytes]], labels: Sequence[str], outputs: Sequence[RequestedOutput]
) -> list[Tensor]:
    """The requested outputs as tensors, in the order they were asked for.

    Args:
        values: of each requested output, and of :data:`RANKED` where classes are: numbers of its datatype [N, …], or
            N texts.

    """
    return [
        _classification(output.name, values[output.name], _best(values[RANKED], output.classes), labels)
        if output.classes
        else _plain(output.name, values[output.name])
        for output in outputs
    ]


def _best(ranked: Any, classes: int) -> NDArray[np.int64]:
    """The indices of each image's best classes, the best first."""
    return np.argsort(-np.asarray(ranked), axis=1, kind="stable")[:, :classes]


def _plain(name: str, values: NDArray[Any] | list[bytes]) -> Tensor:
    if isinstance(values, list):
        return Tensor(name, BYTES, (len(values),), values)
    return Tensor(name, "INT64" if values.dtype == np.int64 else "FP32", values.shape, values)


def _classification(name: str, values: Any, order: NDArray[np.int64], labels: Sequence[str]) -> Tensor:
    """The best classes of each image as ``value:index:label``, Triton's classification extension."""
    texts = [
        f"{row[index]:f}:{index}:{labels[index]}".encode()
        for row, best in zip(values, order, strict=True) for index in best
    ]  # fmt: skip
    return Tensor(name, BYTES, order.shape, texts)


def point_parameters(point: OperatingPoint, downgraded: bool) -> Parameters:
    """The operating point of an answer, as the protocol's parameters: texts, numbers and truth values only."""
    named: Parameters = {} if point.name is None else {"operating_point": point.name}
    return named | {
        "sparsity": point.skip_ratio,
        "expected_accuracy": point.accuracy,
        "expected_accuracy_low": point.accuracy_interval.low,
        "expected_accuracy_high": point.accuracy_interval.high,
        "expected_accuracy_drop": point.drop,
        "downgraded": downgraded,
    }

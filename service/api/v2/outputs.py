"""Output tensors of the Open Inference Protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lccl.operating_points import OperatingPoint

from .tensors import BYTES, Parameters, Tensor

CLASSIFIED = ("logits", "probabilities")


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
        values: of each output: numbers of its datatype [N, …], or N texts.

    """
    order = np.argsort(-np.asarray(values["logits"]), axis=1, kind="stable")
    return [
        _classification(output.name, values[output.name], order[:, : output.classes], labels)
        if output.classes
        else _tensor(output.name, values[output.name])
        for output in outputs
    ]


def _tensor(name: str, values: NDArray[Any] | list[bytes]) -> Tensor:
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

"""What an infer request says beside its tensors' values, checked alike whether it came as JSON or over gRPC."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...errors import ServiceError, complaint
from .tensors import CLASSIFIED, Interface, Parameters, RequestedOutput, Signature

# What other servers' clients say beside, and what means nothing here: there are no priorities and no sequences, and a
# tensor's content is known by its name.
WITHOUT_MEANING = ("priority", "sequence_id", "sequence_start", "sequence_end", "content_type")
QUALITIES = ("sparsity", "operating_point", "max_accuracy_drop", "deadline_ms", "exit_confidence")
MAX_TENSORS = 16
MAX_PARAMETERS = 64
MAX_ID = 1024
MAX_NAME = 64
MAX_TIMEOUT = 1 << 53  # microseconds; far more than any server waits

Images = list[bytes] | NDArray[Any]


class Part(BaseModel):
    """Fields that the protocol names have exactly its types; other fields are ignored, as by other servers."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    parameters: Annotated[Parameters, Field(max_length=MAX_PARAMETERS)] | None = None


class OutputHead(Part):
    name: Annotated[str, Field(max_length=MAX_NAME)]


class InputHead(Part):
    name: Annotated[str, Field(max_length=MAX_NAME)]
    datatype: Annotated[str, Field(max_length=MAX_NAME)]
    shape: Annotated[list[Annotated[int, Field(ge=0, lt=1 << 63)]], Field(max_length=8)]
    data: list[Any] | None = None


class InferHead(Part):
    id: Annotated[str, Field(max_length=MAX_ID)] | None = None
    inputs: Annotated[list[InputHead], Field(max_length=MAX_TENSORS)]
    outputs: Annotated[list[OutputHead], Field(max_length=MAX_TENSORS)] | None = None


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


@dataclass(frozen=True, slots=True)
class Checked:
    """What a request asks for.

    Attributes:
        signature: of the input that it sends.
        input: that input, whose datatype and shape fit.

    """

    signature: Signature
    input: InputHead
    quality: Parameters
    limit_s: float
    outputs: tuple[RequestedOutput, ...]

    def request(self, request_id: str | None, images: Images) -> InferRequest:
        """The request, once its images were read."""
        return InferRequest(request_id, images, self.quality, self.limit_s, self.outputs)


def validate(given: Any, about: str) -> InferHead:
    """A request's head from what it consists of.

    Raises:
        ServiceError, malformed: not the protocol's; ``about`` is what it was read from.

    """
    try:
        return InferHead.model_validate(given)
    except ValidationError as error:
        raise ServiceError("malformed", f"not an infer request: {complaint(error, about)}") from error


def check(request: InferHead, interface: Interface, most: int, *, binary: bool = False) -> Checked:
    """See what a request asks for, before any of its data is read.

    Args:
        most: how many images one request may carry.
        binary: whether outputs are binary where the request does not say.

    Raises:
        ServiceError, malformed: an input or output that there is not, or several inputs; shapes that do not fit.
        ServiceError, invalid_field: a parameter that there is not, or out of range.
        ServiceError, too_large: too many images.

    """
    found = _one_input(request.inputs, interface)
    signature = next(one for one in interface.inputs if one.name == found.name)
    signature.check(found.datatype, found.shape, most)
    given = known("the request", request, (*QUALITIES, "binary_data_output", "timeout"))
    outputs = _outputs(request.outputs or [], _flag(given, "binary_data_output", binary), interface)
    quality = {name: value for name, value in given.items() if name in QUALITIES}
    return Checked(signature, found, quality, _limit_s(given), outputs)


def _one_input(inputs: Sequence[InputHead], interface: Interface) -> InputHead:
    names = [signature.name for signature in interface.inputs]
    for one in inputs:
        if one.name not in names:
            raise ServiceError("malformed", f"no input {one.name!r}: send one of {', '.join(names)}")
    if len(inputs) != 1:
        raise ServiceError("malformed", f"{len(inputs)} inputs: send exactly one, of {', '.join(names)}")
    return inputs[0]


def _outputs(given: Sequence[OutputHead], binary: bool, interface: Interface) -> tuple[RequestedOutput, ...]:
    names = [signature.name for signature in interface.outputs]
    if not given:
        return tuple(RequestedOutput(name, binary) for name in names)
    outputs: dict[str, RequestedOutput] = {}
    for one in given:
        if one.name not in names:
            raise ServiceError("malformed", f"no output {one.name!r}: there are {', '.join(names)}")
        if one.name in outputs:
            raise ServiceError("malformed", f"output {one.name} is asked for twice: ask once")
        parameters = known(f"output {one.name}", one, ("binary_data", "classification"))
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


def known(owner: str, part: Part, names: Sequence[str]) -> Parameters:
    """A part's parameters; an unknown one is an error, because it may be a misspelt field of the quality."""
    for name in part.parameters or {}:
        if name not in names and name not in WITHOUT_MEANING:
            raise ServiceError(
                "invalid_field", f"{owner} has an unknown parameter {name[:MAX_NAME]!r}: use {', '.join(names)}"
            )
    return part.parameters or {}

"""The plan: a network as flat steps over named buffers; data only, what every engine runs.

A step reads buffers that earlier steps wrote and writes up to two: ``raw``, the step's value, and
``activated = ReLU(scale · raw + shift)``. Normalisation is never folded into weights: it is an
:class:`Affine` of its own. Every step says what it ``reads`` and ``writes``, in that order of importance: the first
name written is its output.

Arrays are float32 (float64 when a float64 network was lowered), C-contiguous, and never written to.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Weights = Array | NDArray[np.int8]  # int8 in a quantised plan


@dataclass(frozen=True, slots=True, eq=False)
class Affine:
    """``scale · x + shift`` per channel; both [channels]."""

    scale: Array
    shift: Array


@dataclass(frozen=True, slots=True)
class Quantum:
    """How a quantised buffer holds its values: the uint8 q stands for ``(q − zero) · scale``.

    Attributes:
        scale: finite and above 0.
        zero: 0 in buffers that are never negative, 128 elsewhere; padding holds it.

    """

    scale: float
    zero: int


@dataclass(frozen=True, slots=True)
class Buffer:
    """A map of ``channels`` × ``height`` × ``width`` values per image; padding around it is always 0.

    ``quantum`` is None where values are floating: everywhere but in the maps of a quantised plan.
    """

    name: str
    channels: int
    height: int
    width: int
    quantum: Quantum | None = None


class Read(NamedTuple):
    """A buffer that a step reads, through windows of ``kernel`` taps a side; 0 where it is not read by windows."""

    buffer: str
    kernel: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Activated:
    """The second output of a step: ``ReLU(affine(raw))``, or ``ReLU(raw)`` without an affine."""

    buffer: str
    affine: Affine | None = None


@dataclass(frozen=True, slots=True)
class Residual:
    """What is added to a step's value: ``buffer`` at every ``stride``-th position; channels it lacks add 0.

    ``scale`` is what one unit of a quantised buffer is in units of the step's value; a float32 number.
    """

    buffer: str
    stride: int = 1
    scale: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Gate:
    """``g = ReLU(affine(conv(input)))``; the step's cells are kept where ``g > thresholds[image, layer]``.

    ``weight`` is [G, C, k', k'] with padding k' // 2 and the convolution's stride; each of the G maps
    rules T / G neighbouring channels. ``layer`` is the column of the thresholds, kept counts and masks.
    ``offset`` is as a :class:`Convolve`'s.
    """

    name: str
    layer: int
    input: str
    weight: Weights
    affine: Affine
    offset: NDArray[np.int32] | None = None


class _MapStep:
    """A step that reads its ``input`` whole and writes ``raw``, as far as it has them."""

    __slots__ = ()

    @property
    def reads(self) -> tuple[Read, ...]:
        return (Read(self.input),) if hasattr(self, "input") else ()

    @property
    def writes(self) -> tuple[str, ...]:
        return (self.raw,) if hasattr(self, "raw") else ()


@dataclass(frozen=True, slots=True, eq=False)
class Normalise(_MapStep):
    """Pixels to values: ``(pixel / 255 − mean) / std`` per channel; the first step of every plan.

    In a quantised plan the buffer holds the pixels themselves, and ``zero``, uint8 [3], is the pixel that stands for 0.
    """

    mean: Array
    std: Array
    raw: str
    zero: NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """What makes a convolution a split one (SPConv); its own weight, [T, R / groups, k, k], reads the first R channels.

    ``u = affine(conv(representative) + pointwise · pool(representative))``, ``v = rest_affine(rest · pool(others))``;
    the value is ``β · u + (1 − β) · v`` with ``β = 1 / (1 + e^(mean v − mean u))`` per image and channel.

    ``pool`` is the mean of stride × stride inputs, at the border of those there are. Means over all positions are
    taken from the input: the weights times each tap's mean of what lies under it. So they do not depend on which cells
    are computed.

    Attributes:
        pointwise: [T, R, 1, 1], of the R representative channels.
        rest: [T, C − R, 1, 1], of the other ones.

    """

    pointwise: Array
    affine: Affine
    rest: Array
    rest_affine: Affine


@dataclass(frozen=True, slots=True, eq=False)
class Convolve:
    """``value = f(affine(conv(input))) · g + residual``, where g is the gate's value, 0 at skipped cells.

    f is ReLU or nothing (``relu``); without a gate g is 1. ``weight`` is [T, C, k, k], padding k // 2; with a
    ``split`` it is one of three, and conv the whole of :class:`Split`.

    A skipped cell holds exactly the residual in ``raw``; without a residual that is 0, and
    ``ReLU(shift)`` of its channel in ``activated`` (:meth:`fill`).

    In a quantised plan weights are int8, conv sums the stored integers, and ``offset``, int32 [T], is added to the sums:
    it takes off what the zeros of the input's values contribute.
    """

    name: str
    input: str
    weight: Weights
    stride: int
    affine: Affine | None = None
    relu: bool = False
    split: Split | None = None
    gate: Gate | None = None
    residual: Residual | None = None
    raw: str | None = None
    activated: Activated | None = None
    offset: NDArray[np.int32] | None = None

    @property
    def reads(self) -> tuple[Read, ...]:
        reads = [Read(self.input, self.weight.shape[2])]
        if self.gate is not None:
            reads.append(Read(self.gate.input, self.gate.weight.shape[2]))
        if self.residual is not None:
            reads.append(Read(self.residual.buffer))
        return tuple(reads)

    @property
    def writes(self) -> tuple[str, ...]:
        outputs = (self.raw, None if self.activated is None else self.activated.buffer)
        return tuple(name for name in outputs if name is not None)

    def fill(self, output: Literal["raw", "activated"]) -> Array | None:
        """What a skipped cell holds, [channels]; None where it is the residual's.

        Engines may leave skipped cells unwritten where the reader substitutes this.
        """
        if self.residual is not None:
            return None
        if output == "raw" or self.activated is None or self.activated.affine is None:
            return np.zeros(len(self.weight), dtype=self.weight.dtype)
        return np.maximum(self.activated.affine.shift, 0)


@dataclass(frozen=True, slots=True)
class MaxPool(_MapStep):
    """Largest value under a ``kernel`` × ``kernel`` window with padding kernel // 2, which never wins."""

    input: str
    kernel: int
    stride: int
    raw: str


@dataclass(frozen=True, slots=True)
class AveragePool(_MapStep):
    """Means over a map cut into ``grid`` × ``grid`` parts: a buffer of that height and width, 1 × 1 for the whole map.

    Part i of a side of n positions goes from i · n // grid to, but not including, ceil((i + 1) · n / grid).
    """

    input: str
    raw: str
    grid: int = 1


@dataclass(frozen=True, slots=True, eq=False)
class Classify(_MapStep):
    """``logits = weight · x + bias``; weight [classes, C], bias [classes]. Ends the run of every image it sees."""

    input: str
    weight: Array
    bias: Array


@dataclass(frozen=True, slots=True, eq=False)
class Exit(_MapStep):
    """An early exit, whose answer is ``logits = weight · ReLU(hidden_weight · x + hidden_bias) + bias``.

    An image leaves where its confidence, the largest value of ``softmax(logits)``, lies above
    ``exit_confidence[image, exit]``; no step after this sees it. ``hidden_weight`` is [h, C, grid, grid] for a pooled
    map x, ``weight`` [classes, h].

    Source: Morisot, "Add a SideNet to your MainNet", arXiv 2007.13512.
    """

    exit: int
    input: str
    hidden_weight: Array
    hidden_bias: Array
    weight: Array
    bias: Array


Step = Normalise | Convolve | MaxPool | AveragePool | Exit | Classify


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A network for images of one size.

    Attributes:
        buffers: every buffer that a step names.
        steps: in the order they run; ``Normalise`` first.
        layers: names of the SkipConvs, in the order of the thresholds' columns; L = len(layers).
        exits: E, how many early exits the steps hold.

    """

    buffers: tuple[Buffer, ...]
    steps: tuple[Step, ...]
    layers: tuple[str, ...]
    classes: int
    exits: int = 0

    def buffer(self, name: str) -> Buffer:
        """The buffer of that name.

        Raises:
            KeyError: there is none.

        """
        for buffer in self.buffers:
            if buffer.name == name:
                return buffer
        raise KeyError(name)

    @property
    def image(self) -> Buffer:
        """The buffer that normalised images fill."""
        first = self.steps[0]
        if not isinstance(first, Normalise):
            raise ValueError("a plan starts with Normalise")
        return self.buffer(first.raw)

    @property
    def gated(self) -> tuple[Convolve, ...]:
        """The steps that have a gate, in the order of the thresholds' columns."""
        return tuple(step for step in self.steps if isinstance(step, Convolve) and step.gate is not None)

    @property
    def quantised(self) -> bool:
        """Whether its maps hold integers."""
        return any(buffer.quantum is not None for buffer in self.buffers)

    @property
    def splits(self) -> bool:
        """Whether a convolution is split."""
        return any(isinstance(step, Convolve) and step.split is not None for step in self.steps)

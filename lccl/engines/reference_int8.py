"""Steps of a quantised plan in PyTorch and NumPy: the definition of int8 arithmetic, to the last bit.

Sums of integers are taken in floating arithmetic that is exact: in float64, or where all of a convolution's sums stay
below 2²⁴ in float32, which PyTorch's oneDNN adds up directly (no Winograd) and some five times as fast. All else is
float32, one operation after the other, each rounded on its own: no fused multiply-add, no other order. docs/int8.md has
the same lines in words.
"""

import math
import platform

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lccl.engines.reference_state import State
from lccl.plan import steps
from lccl.plan.steps import Plan, Quantum

SIGNED_LIMIT = 127
EXACT_IN_FLOAT32 = 1 << 24
ADDS_DIRECTLY = platform.machine() == "x86_64" and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


class IntegerSteps:
    """Runs a quantised plan's steps: maps are uint8 [N, C, H, W], pooled features float32."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._quanta = {buffer.name: buffer.quantum for buffer in plan.buffers}

    def run(self, step: steps.Step, state: State) -> None:
        """Run one step on the images still active."""
        values = state.values
        match step:
            case steps.Normalise():
                values[step.raw] = _pixels(step, values[""])
            case steps.Convolve():
                self._convolve(step, state)
            case steps.MaxPool():
                pooled = F.max_pool2d(values[step.input].float(), step.kernel, step.stride, step.kernel // 2)
                values[step.raw] = pooled.to(torch.uint8)
            case steps.AveragePool():
                values[step.raw] = _average(values[step.input], self._quantum(step.input), step.grid)
            case steps.Exit():
                hidden = torch.relu(linear(values[step.input], step.hidden_weight, step.hidden_bias))
                logits = linear(hidden, step.weight, step.bias)
                state.leave(confidence(logits) > state.confidence[:, step.exit].double(), logits, step.exit)
            case steps.Classify():
                state.logits[state.active] = linear(values[step.input], step.weight, step.bias)
                state.ended = True

    def before_activation(self, step: steps.Convolve, state: State) -> Tensor:
        """The scaled and shifted sums of a convolution, in units of its value, [N, T, H, W]."""
        assert step.affine is not None
        return _affine(step.affine, self._sums(step, step.input, step.stride, state))

    def gate_before_activation(self, gate: steps.Gate, stride: int, state: State) -> Tensor:
        """The scaled and shifted sums of a gate, [N, G, H, W]."""
        return _affine(gate.affine, self._sums(gate, gate.input, stride, state))

    def _convolve(self, step: steps.Convolve, state: State) -> None:
        value = self.before_activation(step, state)
        if step.relu:
            value = torch.relu(value)
        if step.gate is not None:
            gate = torch.relu(self.gate_before_activation(step.gate, step.stride, state))
            value = state.gated(step.gate, gate, value)
        if step.residual is not None:
            value = value + self._shortcut(step.residual, state, value)
        if step.raw is not None:
            state.values[step.raw] = _store(value, self._quantum(step.raw))
        if step.activated is not None:
            affine = step.activated.affine
            activated = torch.relu(value if affine is None else _affine(affine, value))
            state.values[step.activated.buffer] = _store(activated, self._quantum(step.activated.buffer))

    def _sums(self, part: steps.Convolve | steps.Gate, source: str, stride: int, state: State) -> Tensor:
        """``offset + Σ weight · q``, exact, then rounded to float32."""
        assert part.offset is not None
        pad, x = part.weight.shape[2] // 2, state.values[source]
        padded = self._zeros(source, x.shape[1]).repeat(len(x), 1, *(size + 2 * pad for size in x.shape[2:]))
        padded[:, :, pad : pad + x.shape[2], pad : pad + x.shape[3]] = x
        dtype = _exact_type(part.weight, part.offset)
        sums = F.conv2d(padded.to(dtype), torch.from_numpy(part.weight).to(dtype), stride=stride)
        return (sums + torch.from_numpy(part.offset).to(dtype)[:, None, None]).float()

    def _zeros(self, name: str, channels: int) -> Tensor:
        """What stands for 0 in a map, uint8 [1, channels, 1, 1]."""
        first = self._plan.steps[0]
        assert isinstance(first, steps.Normalise)
        if name == first.raw:
            assert first.zero is not None
            return torch.from_numpy(first.zero)[None, :, None, None]
        return torch.full((1, channels, 1, 1), self._quantum(name).zero, dtype=torch.uint8)

    def _shortcut(self, residual: steps.Residual, state: State, like: Tensor) -> Tensor:
        source = state.values[residual.buffer][:, :, :: residual.stride, :: residual.stride]
        value = source.float() - self._quantum(residual.buffer).zero
        if residual.scale != 1:
            value = value * residual.scale
        return F.pad(value, (0, 0, 0, 0, 0, like.shape[1] - source.shape[1]))

    def _quantum(self, name: str) -> Quantum:
        quantum = self._quanta[name]
        assert quantum is not None
        return quantum


def linear(x: Tensor, weight: steps.Array, bias: steps.Array) -> Tensor:
    """``((0 + w₀x₀) + w₁x₁) + … + bias`` in float32, x [N, C] or [N, C, h, w] in the order row, column, channel."""
    if weight.ndim > 2:
        weight = weight.transpose(0, 2, 3, 1)
    rows = x.permute(0, 2, 3, 1).flatten(1).numpy() if x.ndim > 2 else x.numpy()
    columns = np.ascontiguousarray(weight.reshape(len(weight), -1).T, np.float32)  # [features, outputs]
    total = np.zeros((len(rows), len(weight)), np.float32)
    for number, column in enumerate(columns):
        total += rows[:, number, None] * column
    return torch.from_numpy(total + bias)


def confidence(logits: Tensor) -> Tensor:
    """The largest value of the softmax, float64 [N]: ``1 / Σ exp(l − max l)``, terms added in their order."""
    values = []
    for row in logits.double().tolist():
        largest, total = max(row), 0.0
        for logit in row:
            total += math.exp(logit - largest)
        values.append(1 / total)
    return torch.tensor(values, dtype=torch.float64)


def _exact_type(weight: steps.Weights, offset: NDArray[np.int32]) -> torch.dtype:
    """What holds every partial sum of a convolution exactly, in any order."""
    largest = 255 * np.abs(weight.astype(np.int64)).sum(axis=(1, 2, 3)) + np.abs(offset.astype(np.int64))
    return torch.float32 if ADDS_DIRECTLY and largest.max() < EXACT_IN_FLOAT32 else torch.float64


def _pixels(step: steps.Normalise, images: Tensor) -> Tensor:
    """Pixels as they are; float images, which are normalised already, turned back into pixels."""
    if images.dtype == torch.uint8:
        return images
    scale, shift = np.float32(255) * step.std, np.float32(255) * step.mean
    pixels = _affine(steps.Affine(scale, shift), images.float())
    return pixels.round().clamp(0, 255).to(torch.uint8)


def _average(x: Tensor, quantum: Quantum, grid: int) -> Tensor:
    """Means over the parts of a map: an exact sum, then one product."""
    values, (height, width) = x.long() - quantum.zero, x.shape[2:]
    pooled = torch.empty(*x.shape[:2], grid, grid)
    for row, column in np.ndindex(grid, grid):
        part = values[:, :, _part(row, height, grid), _part(column, width, grid)]
        count = part.shape[2] * part.shape[3]
        pooled[:, :, row, column] = part.sum(dim=(2, 3)).float() * float(np.float32(quantum.scale / count))
    return pooled


def _part(number: int, size: int, grid: int) -> slice:
    return slice(number * size // grid, -(-(number + 1) * size // grid))


def _store(value: Tensor, quantum: Quantum) -> Tensor:
    low, high = (0, 255) if quantum.zero == 0 else (-SIGNED_LIMIT, SIGNED_LIMIT)
    return (value.clamp(low, high).round() + quantum.zero).to(torch.uint8)


def _affine(affine: steps.Affine, value: Tensor) -> Tensor:
    """A product, then a sum: two operations, each rounded."""
    scale, shift = (torch.from_numpy(_single(array))[:, None, None] for array in (affine.scale, affine.shift))
    return value * scale + shift


def _single(array: steps.Array) -> NDArray[np.float32]:
    return np.asarray(array, np.float32)

"""int8's arithmetic in NumPy, image by image and step by step: slow, and what every native path gives to the bit."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from lccl.plan.steps import AveragePool, Classify, Convolve, Exit, MaxPool, Normalise

F = np.float32


@dataclass
class State:
    """One image on its way: uint8 [C, H, W] by buffer (float32 of pooled features), and what layers and exits said."""

    values: dict[str, np.ndarray] = field(default_factory=dict)
    masks: dict[int, np.ndarray] = field(default_factory=dict)
    kept: dict[int, int] = field(default_factory=dict)
    logits: np.ndarray | None = None
    exit_index: int | None = None


def run(plan, image, thresholds, exit_confidence=(), forced=None):
    """A whole run of one image, [H, W, 3]; ``forced`` holds masks [G, H, W] by layer."""
    state = State()
    for step in plan.steps:
        do(plan, step, state, image, thresholds, exit_confidence, forced)
        if state.exit_index is not None:
            break
    return state


def do(plan, step, state, image=None, thresholds=(), exit_confidence=(), forced=None):
    """One step."""
    match step:
        case Normalise():
            state.values[step.raw] = pixels_of(step, image)
        case Convolve():
            convolve(plan, step, state, thresholds, forced)
        case MaxPool():
            state.values[step.raw] = max_pool(state.values[step.input], step.kernel, step.stride)
        case AveragePool():
            state.values[step.raw] = average_pool(plan.buffer(step.input), state.values[step.input], step.grid)
        case Exit():
            hidden = np.maximum(linear(step.hidden_weight, step.hidden_bias, state.values[step.input]), F(0))
            logits = linear(step.weight, step.bias, hidden)
            if len(exit_confidence) and confidence(logits) > float(F(exit_confidence[step.exit])):
                state.logits, state.exit_index = logits, step.exit
        case Classify():
            state.logits = linear(step.weight, step.bias, state.values[step.input])
            state.exit_index = plan.exits


def pixels_of(step, image):
    if image.dtype != np.uint8:
        scale, shift = F(255) * step.std.astype(F), F(255) * step.mean.astype(F)
        image = np.clip(np.rint(image.astype(F) * scale + shift), 0, 255).astype(np.uint8)
    return image.transpose(2, 0, 1)


def zeros_of(plan, name):
    """What stands for 0 in each channel of a buffer."""
    first, buffer = plan.steps[0], plan.buffer(name)
    return first.zero if name == first.raw else np.full(buffer.channels, buffer.quantum.zero, np.uint8)


def sums(plan, name, value, weight, stride, offset):
    """offset + Σ weight · q, exact: int64 [T, H, W]."""
    reach, kernel = weight.shape[2] // 2, weight.shape[2]
    _, height, width = value.shape
    padded = np.empty((len(value), height + 2 * reach, width + 2 * reach))
    padded[:] = zeros_of(plan, name)[:, None, None]
    padded[:, reach : reach + height, reach : reach + width] = value
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(1, 2))[:, ::stride, ::stride]
    total = np.tensordot(weight.astype(np.float64), windows, axes=((1, 2, 3), (0, 3, 4)))  # whole numbers below 2**53
    return total.astype(np.int64) + offset[:, None, None]


def through(affine, value):
    return value * affine.scale.astype(F)[:, None, None] + affine.shift.astype(F)[:, None, None]


def store(value, zero):
    low, high = (0, 255) if zero == 0 else (-127, 127)
    return (zero + np.rint(np.minimum(np.maximum(value, F(low)), F(high)))).astype(np.uint8)


def convolve(plan, step, state, thresholds, forced):
    total = sums(plan, step.input, state.values[step.input], step.weight, step.stride, step.offset)
    value = through(step.affine, total.astype(F))
    if step.relu:
        value = np.maximum(value, F(0))
    if step.gate is not None:
        gate = step.gate
        total = sums(plan, gate.input, state.values[gate.input], gate.weight, step.stride, gate.offset)
        found = np.maximum(through(gate.affine, total.astype(F)), F(0))
        mask = found > F(thresholds[gate.layer]) if forced is None else forced[gate.layer] != 0
        share = len(value) // len(found)
        value = np.where(mask.repeat(share, 0), value * found.repeat(share, 0), F(0))
        state.masks[gate.layer], state.kept[gate.layer] = mask.astype(np.uint8), int(mask.sum()) * share
    if step.residual is not None:
        one, by = step.residual.buffer, step.residual.stride
        residual = state.values[one][:, ::by, ::by].astype(F) - F(plan.buffer(one).quantum.zero)
        if step.residual.scale != 1:
            residual = residual * F(step.residual.scale)
        value[: len(residual)] = value[: len(residual)] + residual
    if step.raw is not None:
        state.values[step.raw] = store(value, plan.buffer(step.raw).quantum.zero)
    if step.activated is not None:
        affine = step.activated.affine
        value = value if affine is None else through(affine, value)
        state.values[step.activated.buffer] = store(np.maximum(value, F(0)), 0)


def max_pool(value, kernel, stride):
    reach = kernel // 2
    padded = np.pad(value, ((0, 0), (reach, reach), (reach, reach)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(1, 2))
    return windows[:, ::stride, ::stride].max((3, 4))


def average_pool(buffer, value, grid):
    out = np.empty((len(value), grid, grid), F)
    _, height, width = value.shape
    for row in range(grid):
        for column in range(grid):
            ys = slice(row * height // grid, -(-(row + 1) * height // grid))
            xs = slice(column * width // grid, -(-(column + 1) * width // grid))
            part = value[:, ys, xs].astype(np.int64) - buffer.quantum.zero
            share = F(buffer.quantum.scale / part[0].size)
            out[:, row, column] = part.sum((1, 2)).astype(F) * share
    return out


def linear(weight, bias, value):
    """Products and sums one by one, inputs in the order row, column, channel."""
    if weight.ndim == 4:
        weight = weight.transpose(0, 2, 3, 1)
    if value.ndim == 3:
        value = value.transpose(1, 2, 0)
    total = np.zeros(len(weight), F)
    for column, one in zip(weight.reshape(len(weight), -1).T.astype(F), value.ravel(), strict=True):
        total = total + column * one
    return total + bias.astype(F)


def confidence(logits):
    """The largest of softmax(logits), in float64."""
    total = 0.0
    for one in logits:
        total += math.exp(float(one) - float(logits.max()))
    return 1 / total

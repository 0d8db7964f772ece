"""int8 arithmetic cell by cell, with scalars of NumPy: what the reference engine is compared with."""

from __future__ import annotations

import math

import numpy as np

from lccl.plan import steps

ONE = np.float32


def convolve(plan, step, maps, thresholds):
    """A convolution of a quantised plan: uint8 maps [N, C, H, W] → what it writes, and its masks [N, G, H, W]."""
    images, out = len(thresholds), plan.buffer(step.writes[0])
    written = {name: np.zeros((images, out.channels, out.height, out.width), np.uint8) for name in step.writes}
    groups = len(step.gate.weight) if step.gate else 1
    masks = np.zeros((images, groups, out.height, out.width), np.uint8)
    for image, channel, y, x in np.ndindex(images, out.channels, out.height, out.width):
        value = _scaled(_sum(plan, step, step.input, maps, image, channel, y, x, step.stride), step.affine, channel)
        if step.relu:
            value = max(value, ONE(0))
        if step.gate is not None:
            group = channel // (out.channels // groups)
            total = _sum(plan, step.gate, step.gate.input, maps, image, group, y, x, step.stride)
            gate = max(_scaled(total, step.gate.affine, group), ONE(0))
            kept = bool(gate > ONE(thresholds[image]))
            masks[image, group, y, x] = kept
            value = value * gate if kept else ONE(0)
        if step.residual is not None:
            value = value + _residual(plan, step.residual, maps, image, channel, y, x)
        if step.raw is not None:
            written[step.raw][image, channel, y, x] = _stored(value, plan.buffer(step.raw).quantum.zero)
        if step.activated is not None:
            affine = step.activated.affine
            activated = value if affine is None else value * affine.scale[channel] + affine.shift[channel]
            written[step.activated.buffer][image, channel, y, x] = _stored(max(activated, ONE(0)), 0)
    return written, masks


def linear(x, weight, bias):
    """x [C] or [C, h, w] → [outputs]; features in the order row, column, channel."""
    order = list(np.ndindex(*x.shape[1:], x.shape[0])) if x.ndim > 1 else [(i,) for i in range(len(x))]
    logits = []
    for row, shift in zip(weight.reshape(len(weight), *x.shape), bias, strict=True):
        total = ONE(0)
        for at in order:
            index = (at[-1], *at[:-1])
            total = total + row[index] * x[index]
        logits.append(total + shift)
    return np.array(logits, np.float32)


def average(x, quantum, grid):
    """uint8 [C, H, W] → float32 [C, grid, grid]."""
    channels, height, width = x.shape
    pooled = np.zeros((channels, grid, grid), np.float32)
    for channel, row, column in np.ndindex(*pooled.shape):
        rows = range(row * height // grid, math.ceil((row + 1) * height / grid))
        columns = range(column * width // grid, math.ceil((column + 1) * width / grid))
        total = sum(int(x[channel, y, z]) - quantum.zero for y in rows for z in columns)
        pooled[channel, row, column] = ONE(total) * ONE(quantum.scale / (len(rows) * len(columns)))
    return pooled


def max_pool(x, kernel, stride):
    """uint8 [C, H, W] → the largest under each window."""
    channels, height, width = x.shape
    pooled = np.zeros((channels, -(-height // stride), -(-width // stride)), np.uint8)
    for channel, row, column in np.ndindex(*pooled.shape):
        top, left = row * stride - kernel // 2, column * stride - kernel // 2
        window = x[channel, max(0, top) : top + kernel, max(0, left) : left + kernel]
        pooled[channel, row, column] = window.max()
    return pooled


def _sum(plan, part, source, maps, image, channel, y, x, stride):
    """The int32 sum under one window, by Python's integers."""
    kernel, total = part.weight.shape[2], int(part.offset[channel])
    height, width = maps[source].shape[2:]
    for c, i, j in np.ndindex(*part.weight.shape[1:]):
        row, column = y * stride + i - kernel // 2, x * stride + j - kernel // 2
        inside = 0 <= row < height and 0 <= column < width
        q = maps[source][image, c, row, column] if inside else _zero(plan, source, c)
        total += int(part.weight[channel, c, i, j]) * int(q)
    assert abs(total) < 1 << 31
    return total


def _zero(plan, source, channel):
    first = plan.steps[0]
    assert isinstance(first, steps.Normalise)
    return first.zero[channel] if source == first.raw else plan.buffer(source).quantum.zero


def _scaled(total, affine, channel):
    return ONE(total) * affine.scale[channel] + affine.shift[channel]


def _residual(plan, residual, maps, image, channel, y, x):
    source = maps[residual.buffer]
    if channel >= source.shape[1]:
        return ONE(0)
    zero = plan.buffer(residual.buffer).quantum.zero
    value = ONE(int(source[image, channel, y * residual.stride, x * residual.stride]) - zero)
    return value if residual.scale == 1 else value * ONE(residual.scale)


def _stored(value, zero):
    low, high = (0, 255) if zero == 0 else (-127, 127)
    return zero + int(np.rint(min(max(value, ONE(low)), ONE(high))))

"""Quantised plans made crudely of float ones, for tests of int8's arithmetic: no care is taken for accuracy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lccl.plan.memory import assign_memory
from lccl.plan.steps import Affine, Convolve, MaxPool, Normalise, Quantum


def quantised(plan, most):
    """The plan in int8, with scales by the largest value of each buffer: a number, or numbers by name."""
    scales = _scales(plan, most if isinstance(most, dict) else {one.name: most for one in plan.buffers})
    memory = assign_memory(plan)
    first = plan.steps[0]
    image = replace(first, zero=np.clip(np.rint(255 * first.mean), 0, 255).astype(np.uint8))

    def quantum(buffer):
        if buffer.name not in scales:
            return buffer
        return replace(buffer, quantum=Quantum(scales[buffer.name], 128 if signed(memory, buffer.name) else 0))

    plan = replace(plan, buffers=tuple(map(quantum, plan.buffers)), steps=(image, *plan.steps[1:]))
    return replace(
        plan, steps=tuple(_convolution(plan, one) if isinstance(one, Convolve) else one for one in plan.steps)
    )


def signed(memory, name):
    """Whether a buffer of the same storage may be negative."""
    members = [one for one in memory.buffers.values() if one.storage == memory.buffers[name].storage]
    return not all(one.non_negative for one in members)


def _scales(plan, most):
    """Of every map: the same in all buffers of one storage, and around a max-pool."""
    memory = assign_memory(plan)
    first = plan.steps[0]
    maps = [name for name, one in memory.buffers.items() if not one.pooled and name != first.raw]
    by_storage = {}
    for name in maps:
        storage = memory.buffers[name].storage
        by_storage[storage] = max(by_storage.get(storage, 1e-6), most[name])
    for step in plan.steps:
        if isinstance(step, MaxPool):
            both = [memory.buffers[name].storage for name in (step.input, step.raw)]
            by_storage |= dict.fromkeys(both, max(by_storage[storage] for storage in both))
    return {name: by_storage[memory.buffers[name].storage] / (127 if signed(memory, name) else 255) for name in maps}


def _integers(plan, name, weight):
    """Of a weight [T, C, k, k] in float64: int8, the offset, real scales [T], and what else the sums hold [T]."""
    first = plan.steps[0]
    assert isinstance(first, Normalise)
    rest = np.zeros(len(weight))
    if name == first.raw:
        spread = 255 * first.std.astype(np.float64)
        rest = np.einsum("tckl,c->t", weight, (first.zero - 255 * first.mean.astype(np.float64)) / spread)
        weight, zero, scale = weight / spread[None, :, None, None], first.zero.astype(np.int64), 1.0
    else:
        quantum = plan.buffer(name).quantum
        zero, scale = np.full(weight.shape[1], quantum.zero), quantum.scale
    largest = np.maximum(np.abs(weight).max((1, 2, 3)), 1e-30) / 127
    whole = np.rint(weight / largest[:, None, None, None]).astype(np.int8)
    offset = -np.einsum("tckl,c->t", whole.astype(np.int64), zero).astype(np.int32)
    return whole, offset, largest * scale, rest


def _affine(affine, channels, scale, rest, unit):
    """What makes values in the given unit of sums whose unit is ``scale`` and that lack ``rest``."""
    factor = np.ones(channels) if affine is None else affine.scale.astype(np.float64)
    shift = np.zeros(channels) if affine is None else affine.shift.astype(np.float64)
    return Affine((factor * scale / unit).astype(np.float32), ((factor * rest + shift) / unit).astype(np.float32))


def _convolution(plan, step):
    whole, offset, scale, rest = _integers(plan, step.input, step.weight.astype(np.float64))
    unit, activated = 1.0, step.activated
    if step.raw is not None:
        unit = plan.buffer(step.raw).quantum.scale
    elif activated.affine is None:
        unit = plan.buffer(activated.buffer).quantum.scale
    residual, gate = step.residual, step.gate
    if residual is not None:
        ratio = plan.buffer(residual.buffer).quantum.scale / unit
        residual = replace(residual, scale=float(np.float32(ratio)))
    if activated is not None:
        after = plan.buffer(activated.buffer).quantum.scale
        if activated.affine is not None or after != unit:
            activated = replace(activated, affine=_affine(activated.affine, len(whole), unit, 0, after))
    if gate is not None:
        maps, gate_offset, gate_scale, gate_rest = _integers(plan, gate.input, gate.weight.astype(np.float64))
        affine = _affine(gate.affine, len(maps), gate_scale, gate_rest, 1)
        gate = replace(gate, weight=maps, offset=gate_offset, affine=affine)
    return replace(
        step, weight=whole, offset=offset, affine=_affine(step.affine, len(whole), scale, rest, unit),
        residual=residual, activated=activated, gate=gate,
    )  # fmt: skip

"""A float plan and its quantisation → a quantised plan: the only place that makes one.

Weights stay apart from normalisation, as in float plans: only the pixels' own is folded into the stem. Every number of
the float part is computed in float64 and rounded once, to float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from lccl.errors import QuantisationError, require
from lccl.plan.memory import assign_memory
from lccl.plan.steps import (
    Activated,
    Affine,
    AveragePool,
    Buffer,
    Classify,
    Convolve,
    Exit,
    Gate,
    MaxPool,
    Normalise,
    Plan,
    Quantum,
    Residual,
    Step,
)
from lccl.quantization.bounds import LARGEST_SUM, check_bounds
from lccl.quantization.parameters import Quantisation, QuantisedWeight, rounded, weight_scales

SIGNED_ZERO = 128
Wide = NDArray[np.float64]


def shared_scales(plan: Plan) -> list[tuple[str, ...]]:
    """The maps of a float plan in groups that have one quantum, in the order in which steps write them.

    A group is what lies in one memory, what a max-pool reads and writes, and what identity shortcuts join; maps that
    are never negative are apart from those that may be, since their zeros differ. The image is in none.
    """
    memory = assign_memory(plan).buffers
    group = {name: name for name, buffer in memory.items() if not buffer.pooled and name != plan.image.name}

    def join(one: str, other: str) -> None:
        if memory[one].non_negative == memory[other].non_negative:
            old, new = group[other], group[one]
            group.update({name: new for name, member in group.items() if member == old})

    for step in plan.steps:
        if isinstance(step, MaxPool):
            join(step.input, step.raw)
        if isinstance(step, Convolve) and step.residual is not None and step.residual.stride == 1:
            source, output = plan.buffer(step.residual.buffer), plan.buffer(step.writes[0])
            if (source.channels, source.height, source.width) == (output.channels, output.height, output.width):
                join(source.name, output.name)
    return [tuple(name for name in group if group[name] == first) for first in dict.fromkeys(group.values())]


def zero_of(plan: Plan, name: str) -> int:
    """What stands for 0 in a map of a float plan: 0 where nothing is negative, else the middle."""
    return 0 if assign_memory(plan).buffers[name].non_negative else SIGNED_ZERO


def float_weights(plan: Plan) -> dict[str, Wide]:
    """What is to be rounded, by the names of :class:`Quantisation`: float64 [T, C, k, k], of pixels in the stem."""
    weights: dict[str, Wide] = {}
    for step in _convolutions(plan):
        weights[step.writes[0]] = _of_pixels(plan, step.input, step.weight)
        if step.gate is not None:
            weights[gate_name(step)] = _of_pixels(plan, step.gate.input, step.gate.weight)
    return weights


def gate_name(step: Convolve) -> str:
    """Under which a quantisation has the weights of a step's gate."""
    return f"{step.writes[0]}.gate"


def value_unit(step: Convolve, quanta: Mapping[str, Quantum | None]) -> float:
    """What 1 of a step's value stands for: its output's scale where the value itself is stored, else 1."""
    affine_free = step.activated.buffer if step.activated is not None and step.activated.affine is None else None
    quantum = quanta.get(step.raw or affine_free or "")
    return 1.0 if quantum is None else quantum.scale


def round_weights(plan: Plan, *, by_error: bool = False) -> dict[str, QuantisedWeight]:
    """Every convolution's and gate's weights as integers, without corrections; see :func:`weight_scales`.

    Raises:
        QuantisationError: the plan has split convolutions.

    """
    _refuse_splits(plan)
    quantised = {}
    for name, weight in float_weights(plan).items():
        scale = weight_scales(weight, by_error=by_error)
        quantised[name] = QuantisedWeight(rounded(weight, scale), scale, np.zeros(len(weight), np.float32))
    return quantised


def quantise(plan: Plan, quantisation: Quantisation) -> Plan:
    """The quantised plan: uint8 maps, int8 weights, int32 sums. Its arithmetic is that of docs/int8.md.

    Raises:
        QuantisationError: the plan has split convolutions, a scale or weight is missing or does not fit, or a sum could
            overflow.

    """
    _refuse_splits(plan)
    builder = _Builder(plan, quantisation)
    with np.errstate(over="ignore", invalid="ignore"):  # the bounds see to what is not finite
        quantised = replace(
            plan,
            buffers=tuple(builder.buffer(buffer) for buffer in plan.buffers),
            steps=tuple(builder.step(step) for step in plan.steps),
        )
        check_bounds(quantised)
    return quantised


class _Builder:
    """Turns steps and buffers of a float plan into those of a quantised one."""

    def __init__(self, plan: Plan, quantisation: Quantisation) -> None:
        self._plan, self._weights = plan, quantisation.weights
        memory = assign_memory(plan).buffers
        groups = shared_scales(plan)
        surplus = sorted(set(quantisation.weights) - set(float_weights(plan)))
        missing = sorted({name for group in groups for name in group} - set(quantisation.scales))
        strange = sorted(set(quantisation.scales) - {name for group in groups for name in group})
        apart = [group for group in groups if len({quantisation.scales.get(name) for name in group}) > 1]
        require(
            QuantisationError,
            (not missing, f"the quantisation lacks a scale of {missing[:1]}"),
            (not strange, f"the quantisation has a scale of {strange[:1]}, which is no map of the network"),
            (not surplus, f"the quantisation has weights of {surplus[:1]}, which is no part of the network"),
            (not apart, f"{', '.join(apart[0] if apart else ())} lie in one memory and need one scale"),
        )
        self._quanta = {
            name: Quantum(float(scale), 0 if memory[name].non_negative else SIGNED_ZERO)
            for name, scale in quantisation.scales.items()
        }
        self._quanta[plan.image.name] = Quantum(1.0, 0)  # pixels; what their border holds is Normalise.zero

    def buffer(self, buffer: Buffer) -> Buffer:
        return replace(buffer, quantum=self._quanta.get(buffer.name))

    def step(self, step: Step) -> Step:
        match step:
            case Normalise():
                mean, std = _narrow(step.mean), _narrow(step.std)
                return replace(step, mean=mean, std=std, zero=self._pixel_zero)
            case Convolve():
                return self._convolve(step)
            case Exit():
                hidden, bias = _narrow(step.hidden_weight), _narrow(step.hidden_bias)
                return replace(
                    step, hidden_weight=hidden, hidden_bias=bias, weight=_narrow(step.weight), bias=_narrow(step.bias)
                )
            case Classify():
                return replace(step, weight=_narrow(step.weight), bias=_narrow(step.bias))
            case MaxPool() | AveragePool():
                return step

    @property
    def _pixel_zero(self) -> NDArray[np.uint8]:
        first = self._plan.steps[0]
        assert isinstance(first, Normalise)
        return np.clip(np.rint(255 * first.mean.astype(np.float64)), 0, 255).astype(np.uint8)

    def _convolve(self, step: Convolve) -> Convolve:
        unit = value_unit(step, self._quanta)
        weight, offset, affine = self._sums(step.writes[0], step.input, step.weight, step.affine, unit)
        return replace(
            step,
            weight=weight,
            offset=offset,
            affine=affine,
            gate=None if step.gate is None else self._gate(gate_name(step), step.gate),
            residual=None if step.residual is None else self._residual(step.residual, unit),
            activated=None if step.activated is None else self._activated(step.activated, unit),
        )

    def _gate(self, name: str, gate: Gate) -> Gate:
        weight, offset, affine = self._sums(name, gate.input, gate.weight, gate.affine, 1.0)
        return replace(gate, weight=weight, offset=offset, affine=affine)

    def _residual(self, residual: Residual, unit: float) -> Residual:
        return replace(residual, scale=float(np.float32(self._quanta[residual.buffer].scale / unit)))

    def _activated(self, activated: Activated, unit: float) -> Activated:
        own, affine = self._quanta[activated.buffer].scale, activated.affine
        channels = self._plan.buffer(activated.buffer).channels
        if affine is not None:
            scale, shift = affine.scale.astype(np.float64) * (unit / own), affine.shift.astype(np.float64) / own
        elif own == unit:
            return activated
        else:
            scale, shift = np.full(channels, unit / own), np.zeros(channels)
        return replace(activated, affine=Affine(_narrow(scale), _narrow(shift)))

    def _sums(
        self, name: str, source: str, weight: NDArray[np.generic], affine: Affine | None, unit: float
    ) -> tuple[NDArray[np.int8], NDArray[np.int32], Affine]:
        """Integer weights, the offset of their sums, and what takes sums to units of the value."""
        stored = self._weights.get(name)
        if stored is None or stored.weight.shape != weight.shape:
            raise QuantisationError(f"the quantisation has no weights of {name} in the shape {list(weight.shape)}")
        scale = stored.scale.astype(np.float64) * self._quanta[source].scale
        shift: Wide = np.zeros(len(weight))
        if source == self._plan.image.name:
            shift = shift + (_wide(weight) * self._remainder[:, None, None]).sum(axis=(1, 2, 3))
        if affine is not None:
            own = affine.scale.astype(np.float64)
            scale, shift = scale * own, shift * own + affine.shift.astype(np.float64)
        shift = (shift + stored.correction.astype(np.float64)) / unit
        return stored.weight, self._offset(stored.weight, source), Affine(_narrow(scale / unit), _narrow(shift))

    def _offset(self, weight: NDArray[np.int8], source: str) -> NDArray[np.int32]:
        if source == self._plan.image.name:
            zero = self._pixel_zero.astype(np.int64)
        else:
            zero = np.full(weight.shape[1], self._quanta[source].zero, np.int64)
        sums: NDArray[np.int64] = (weight.astype(np.int64) * zero[:, None, None]).sum(axis=(1, 2, 3))
        if (np.abs(sums) > LARGEST_SUM).any():
            raise QuantisationError(
                f"convolutions that read {source} could overflow int32: too many weights in a window"
            )
        return (-sums).astype(np.int32)

    @property
    def _remainder(self) -> Wide:
        """What the pixel that stands for 0 is after normalisation, [3]: it is rounded, so not quite 0."""
        first = self._plan.steps[0]
        assert isinstance(first, Normalise)
        return (self._pixel_zero - 255 * _wide(first.mean)) / (255 * _wide(first.std))


def _of_pixels(plan: Plan, source: str, weight: NDArray[np.generic]) -> Wide:
    first = plan.steps[0]
    assert isinstance(first, Normalise)
    wide = _wide(weight)
    return wide if source != first.raw else wide / (255 * _wide(first.std))[:, None, None]


def _convolutions(plan: Plan) -> list[Convolve]:
    return [step for step in plan.steps if isinstance(step, Convolve)]


def _refuse_splits(plan: Plan) -> None:
    if plan.splits:
        raise QuantisationError("split convolutions (SPConv) do not run in int8: use precision fp32")


def _wide(array: NDArray[np.generic]) -> Wide:
    return array.astype(np.float64)


def _narrow(array: NDArray[np.floating]) -> NDArray[np.float32]:
    return np.ascontiguousarray(array, np.float32)

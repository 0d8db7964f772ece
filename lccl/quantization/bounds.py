"""Proves from a quantised plan's own numbers that no int32 sum and no float32 result of it can overflow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lccl.errors import QuantisationError, require
from lccl.plan.steps import Affine, Convolve, Gate, Plan

LARGEST_SUM = (1 << 31) - 1
LARGEST_FLOAT = float(np.finfo(np.float32).max) / 2  # what is left covers the rounding of each operation
Wide = NDArray[np.float64]


def check_bounds(plan: Plan) -> None:
    """Refuse a quantised plan that could leave the range of its numbers, whatever the images.

    Raises:
        QuantisationError: with the step, and what is wrong.

    """
    for step in plan.steps:
        if isinstance(step, Convolve):
            _check_step(plan, step)


def _check_step(plan: Plan, step: Convolve) -> None:
    value = _largest(step.name, step, step.affine)
    stages = [value]
    if step.gate is not None:
        gate = _largest(f"{step.name}.gate", step.gate, step.gate.affine)
        value = value * np.repeat(gate, len(value) // len(gate))
        stages += [gate, value]
    if step.residual is not None:
        value = value + 255 * abs(step.residual.scale)
        stages.append(value)
    if step.activated is not None and step.activated.affine is not None:
        affine = step.activated.affine
        stages.append(value * np.abs(affine.scale) + np.abs(affine.shift))
    if not all((stage < LARGEST_FLOAT).all() for stage in stages):  # false for NaN too
        raise QuantisationError(
            f"{step.name} could leave the range of float32: its scales or normalisation are too large"
        )


def _largest(name: str, part: Convolve | Gate, affine: Affine | None) -> Wide:
    """The largest magnitude of what a convolution or gate gives before its ReLU, [T]."""
    assert part.offset is not None
    assert affine is not None
    weight = part.weight.astype(np.int64).reshape(len(part.weight), -1)
    sums = np.abs(part.offset.astype(np.int64)) + 255 * np.abs(weight).sum(axis=1)
    require(
        QuantisationError,
        (sums.max(initial=0) <= LARGEST_SUM, f"{name} could overflow int32: its windows hold too many weights"),
    )
    largest: Wide = sums * np.abs(affine.scale.astype(np.float64)) + np.abs(affine.shift.astype(np.float64))
    return largest

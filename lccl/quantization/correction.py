"""Bias correction: what rounding and clipping take off each convolution's outputs on average is added to its shift.

Source: Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", ICCV 2019, section 4.2,
its empirical form: errors are measured on images, layer by layer, each with all before it corrected.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lccl.engines.reference import ReferenceEngine
from lccl.engines.reference_state import State
from lccl.plan.memory import assign_memory
from lccl.plan.run import RunOptions, Setting
from lccl.plan.steps import Convolve, Plan
from lccl.quantization.parameters import Quantisation
from lccl.quantization.plan import gate_name, quantise, value_unit
from lccl.quantization.ranges import batches, drop_read


@torch.inference_mode()
def corrected(plan: Plan, quantisation: Quantisation, images: NDArray[np.uint8]) -> Quantisation:
    """The same scales and weights with corrections measured on these images, uint8 [N, H, W, 3], at exact thresholds.

    All images go through the networks together, so their maps must fit in memory.
    """
    floating, exact = ReferenceEngine(plan), Setting.exact(len(plan.layers), plan.exits)
    pairs = [
        (floating.begin(batch, options), floating.begin(batch, options))
        for batch in batches(plan, images)
        for options in [RunOptions.of([exact] * len(batch))]
    ]
    memory = assign_memory(plan).buffers
    for number, step in enumerate(plan.steps):
        if isinstance(step, Convolve):
            quantisation = _with_corrections(plan, quantisation, number, floating, pairs)
        engine = _engine(plan, quantisation)
        for state, rounded in pairs:
            floating.step(step, state)
            engine.step(engine.plan.steps[number], rounded)
            drop_read(state.values, memory, number)
            drop_read(rounded.values, memory, number)
    return quantisation


def _with_corrections(
    plan: Plan, quantisation: Quantisation, number: int, floating: ReferenceEngine, pairs: list[tuple[State, State]]
) -> Quantisation:
    """Correct one step, whose inputs the states hold."""
    engine, before = _engine(plan, quantisation), plan.steps[number]
    after = engine.plan.steps[number]
    assert isinstance(before, Convolve)
    assert isinstance(after, Convolve)
    unit = value_unit(after, {buffer.name: buffer.quantum for buffer in engine.plan.buffers})
    errors = {
        before.writes[0]: [
            _mean(floating.before_activation(before, state)) - unit * _mean(engine.before_activation(after, rounded))
            for state, rounded in pairs
        ]
    }
    if before.gate is not None and after.gate is not None:
        errors[gate_name(before)] = [
            _mean(floating.gate_before_activation(before.gate, before.stride, state))
            - _mean(engine.gate_before_activation(after.gate, before.stride, rounded))
            for state, rounded in pairs
        ]
    weights = dict(quantisation.weights)
    for name, measured in errors.items():
        shares = [len(state.active) for state, _ in pairs]
        correction = weights[name].correction + np.average(measured, axis=0, weights=shares)
        weights[name] = replace(weights[name], correction=correction.astype(np.float32))
    return replace(quantisation, weights=weights)


def _engine(plan: Plan, quantisation: Quantisation) -> ReferenceEngine:
    return ReferenceEngine(quantise(plan, quantisation), precision="int8")


def _mean(values: Tensor) -> NDArray[np.float64]:
    """Per channel, [T]."""
    mean: NDArray[np.float64] = values.double().mean(dim=(0, 2, 3)).numpy()
    return mean

"""int8 gives the bits of its arithmetic as the model states it, on every instruction set."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from tests.lccl.comparison import each_array_of
from tests.lccl.convolutions import GATES, OUTPUTS, RESIDUALS, cases, controls_for, plan_of, reads
from tests.lccl.cpu.int8_model import State, do, zeros_of
from tests.lccl.quantised import quantised


def drawn(plan, step, count, seed):
    """Integers of every buffer that a step reads, uint8 [N, C, H, W]: of a signed one from 1 to 255."""
    random, values = np.random.default_rng(seed), {}
    for name in reads(step):
        one = plan.buffer(name)
        least = 1 if one.quantum is not None and one.quantum.zero else 0
        spread = random.integers(least, 256, (count, one.channels, one.height, one.width))
        rare = random.random(spread.shape) < 0.5
        values[name] = np.where(rare, zeros_of(plan, name)[:, None, None], spread).astype(np.uint8)
    return values


def inside(plan, name, written):
    """What a step wrote without its border, which holds zeros."""
    one, whole = plan.buffer(name), written.astype(np.uint8)
    assert np.array_equal(whole, written)
    pad = (whole.shape[2] - one.height) // 2
    part = np.s_[:, :, pad : pad + one.height, pad : pad + one.width]
    border = whole.astype(np.int64) - zeros_of(plan, name)[:, None, None]
    border[part] = 0
    assert not border.any()
    return whole[part]


def expected(plan, step, values, thresholds, forced=None):
    states = []
    for image in range(len(next(iter(values.values())))):
        state = State({name: value[image] for name, value in values.items()})
        do(plan, step, state, None, thresholds[image], (), forced and [mask[image] for mask in forced])
        states.append(state)
    return states


def check(engine, number, values, options):
    """One convolution alone is what the model makes of it; returns its masks."""
    plan, step = engine.plan, engine.plan.steps[number]
    written, out = engine.run_step(number, each_array_of(values, np.float32), options)
    assert set(written) == set(step.writes)
    states = expected(plan, step, values, options.thresholds, options.forced_masks)
    for image, state in enumerate(states):
        if step.gate is not None:
            assert np.array_equal(out.masks[0][image], state.masks[0])
            assert out.kept[image, 0] == state.kept[0]
        for name in written:
            assert np.array_equal(inside(plan, name, written[name])[image], state.values[name]), name
    assert (out.executed_macs > 0).all() or step.gate is not None
    return out.masks


def run(case, int8, make_cpu):
    plan, _ = plan_of(case)
    plan = quantised(plan, 0.01 + (case.seed % 7) ** 2 / 8)
    number = next(n for n, step in enumerate(plan.steps) if getattr(step, "name", None) == "it")
    values = drawn(plan, plan.steps[number], len(case.thresholds), case.seed)
    engine, options = make_cpu(plan, int8, case.threads, case.cache_bytes), controls_for(case)
    masks = check(engine, number, values, options)
    if case.gate is None:
        return
    check(engine, number, values, replace(options, forced_masks=masks))
    random = np.random.default_rng(case.seed)
    check(engine, number, values, replace(options, forced_masks=(random.integers(0, 2, masks[0].shape, np.uint8),)))


@pytest.mark.parametrize("gate", GATES)
def test_convolutions_with_each_gate(gate, int8, make_cpu):
    @settings(max_examples=14)
    @given(case=cases(gate=gate))
    def every(case):
        run(case, int8, make_cpu)

    every()


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("residual", RESIDUALS)
def test_convolutions_with_each_residual_and_output(residual, outputs, int8, make_cpu):
    @settings(max_examples=6)
    @given(case=cases(residual=residual, outputs=outputs))
    def every(case):
        run(case, int8, make_cpu)

    every()

"""Each convolution alone agrees with the reference in float64, whatever its shape."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from lccl.networks import Architecture
from lccl.plan import steps
from tests.lccl.comparison import check, seen_by
from tests.lccl.convolutions import GATES, OUTPUTS, RESIDUALS, cases, controls_for, plan_of, reads, values_for


def run(case, arithmetic, make_cpu):
    plan, it = plan_of(case)
    values = values_for(plan, it, len(case.thresholds), case.seed, case.positive and "r" in reads(it))
    number = plan.steps.index(it)
    plan, values = seen_by(arithmetic[1], plan, values)
    engine = make_cpu(plan, arithmetic, case.threads, case.cache_bytes)
    options = controls_for(case)
    first, out = check(engine, number, values, options)
    if case.gate is None:
        return
    again, same = check(engine, number, values, replace(options, forced_masks=out.masks))
    assert all(np.array_equal(value, again[name]) for name, value in first.items())
    assert np.array_equal(same.kept, out.kept)
    random = np.random.default_rng(case.seed)
    check(engine, number, values, replace(options, forced_masks=(random.integers(0, 2, out.masks[0].shape, np.uint8),)))


@pytest.mark.parametrize("gate", GATES)
def test_convolutions_with_each_gate(gate, arithmetic, make_cpu):
    @settings(max_examples=14)
    @given(case=cases(gate=gate))
    def every(case):
        run(case, arithmetic, make_cpu)

    every()


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("residual", RESIDUALS)
def test_convolutions_with_each_residual_and_output(residual, outputs, arithmetic, make_cpu):
    @settings(max_examples=6)
    @given(case=cases(residual=residual, outputs=outputs))
    def every(case):
        run(case, arithmetic, make_cpu)

    every()


@pytest.mark.parametrize(
    "architecture", [Architecture("resnet20"), Architecture("resnet20", "pre", "grouped:4:1x1")], ids=str
)
def test_every_convolution_of_a_network(
    architecture, arithmetic, make_cpu, gated_network, make_reference, draw_images, rows
):
    """Each on what the reference's steps before it wrote."""
    pixels, thresholds = draw_images(3, 12), np.repeat(np.float32([[-np.inf], [0.0], [0.2]]), 18, 1)
    reference = make_reference(gated_network(architecture, pixels, thresholds).float(), size=12)
    options = rows(thresholds, want_masks=True)
    before = {name: value.float().numpy() for name, value in reference.trace(pixels, options)[1].values.items()}
    plan, before = seen_by(arithmetic[1], reference.plan, before)
    engine = make_cpu(plan, arithmetic, threads=2)
    for number, step in enumerate(plan.steps):
        if isinstance(step, steps.Convolve):
            check(engine, number, {name: before[name] for name in reads(step)}, options)

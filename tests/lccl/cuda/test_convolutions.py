"""Each convolution alone agrees with the reference in float64, whatever its shape; forced masks change nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import Phase, given, settings

from lccl.networks import Architecture
from lccl.plan import steps
from tests.lccl.comparison import check, seen_by
from tests.lccl.convolutions import GATES, OUTPUTS, RESIDUALS, cases, controls_for, plan_of, reads, values_for

FOUND_AS_DRAWN = (Phase.explicit, Phase.reuse, Phase.generate)  # an interpreter takes too long to shrink


def run(case, precision, make_stepper):
    plan, it = plan_of(case)
    values = values_for(plan, it, len(case.thresholds), case.seed, case.positive and "r" in reads(it))
    number = plan.steps.index(it)
    plan, values = seen_by(precision, plan, values)
    stepper, options = make_stepper(plan, precision), controls_for(case)
    first, out = check(stepper, number, values, options)
    if case.gate is None:
        return
    again, same = check(stepper, number, values, replace(options, forced_masks=out.masks))
    assert all(np.array_equal(value, again[name]) for name, value in first.items())
    assert np.array_equal(same.kept, out.kept)


@pytest.mark.parametrize("gate", GATES)
def test_convolutions_with_each_gate(gate, precision, make_stepper):
    @settings(max_examples=4, phases=FOUND_AS_DRAWN)
    @given(case=cases(gate=gate))
    def every(case):
        run(case, precision, make_stepper)

    every()


@pytest.mark.parametrize("outputs", OUTPUTS)
@pytest.mark.parametrize("residual", RESIDUALS)
def test_convolutions_with_each_residual_and_output(residual, outputs, make_stepper):
    @settings(max_examples=3, phases=FOUND_AS_DRAWN)
    @given(case=cases(residual=residual, outputs=outputs))
    def every(case):
        run(case, "fp16", make_stepper)

    every()


@pytest.mark.parametrize(
    "architecture", [Architecture("resnet20"), Architecture("resnet20", "pre", "grouped:4:1x1")], ids=str
)
def test_every_convolution_of_a_network(architecture, make_stepper, gated_network, make_reference, draw_images, rows):
    """Each on what the reference's steps before it wrote."""
    pixels, thresholds = draw_images(3, 12), np.repeat(np.float32([[-np.inf], [0.0], [0.2]]), 18, 1)
    reference = make_reference(gated_network(architecture, pixels, thresholds).float(), size=12)
    options = rows(thresholds, want_masks=True)
    before = {name: value.float().numpy() for name, value in reference.trace(pixels, options)[1].values.items()}
    plan, before = seen_by("fp16", reference.plan, before)
    stepper = make_stepper(plan, "fp16")
    for number, step in enumerate(plan.steps):
        if isinstance(step, steps.Convolve):
            check(stepper, number, {name: before[name] for name in reads(step)}, options)

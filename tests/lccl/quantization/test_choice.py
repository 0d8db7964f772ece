"""What is chosen costs least, corrections take errors off, and answers stay those of the float network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lccl.engines.reference import ReferenceEngine
from lccl.errors import QuantisationError
from lccl.networks import Architecture
from lccl.networks.lowering import lower
from lccl.plan.run import RunOptions, Setting
from lccl.plan.steps import Convolve
from lccl.quantization.choice import answers, choose_quantisation, log_probabilities
from lccl.quantization.correction import corrected
from lccl.quantization.parameters import Quantisation
from lccl.quantization.plan import gate_name, quantise, round_weights, value_unit
from tests.lccl.int8_plans import largest_scales

SETTINGS = (Setting.exact(6), Setting((0.25,) * 6))


@pytest.fixture(scope="module")
def pixels(draw_images):
    return draw_images(24)


@pytest.fixture(scope="module", params=["post", "pre"])
def plan(request, gated_network, pixels, square):
    network = gated_network(Architecture("resnet20", request.param), pixels, np.zeros((24, 6)), (0, 3, 6))
    return lower(network.float(), square(32))


def int8(plan, quantisation):
    return ReferenceEngine(quantise(plan, quantisation), precision="int8")


def cost(plan, quantisation, pixels):
    costs = []
    for setting in SETTINGS:
        wanted = log_probabilities(answers(ReferenceEngine(plan), pixels, setting))
        own = log_probabilities(answers(int8(plan, quantisation), pixels, setting))
        costs.append((np.exp(wanted) * (wanted - own)).sum(1).mean())
    return np.mean(costs)


def largest(plan, pixels):
    _, state = ReferenceEngine(plan).trace(pixels, RunOptions.of([SETTINGS[0]] * len(pixels)))
    return Quantisation(largest_scales(plan, state.values), round_weights(plan))


def test_the_choice_costs_no_more_than_what_was_tried(plan, pixels):
    said = []
    chosen = choose_quantisation(plan, pixels, pixels, SETTINGS, progress=said.append)
    reached = cost(plan, chosen, pixels)
    told = [float(line.split(": ")[1].split()[0]) for line in said if "nats" in line]
    assert len(told) > 15
    assert reached == pytest.approx(min(told), abs=1e-5)
    assert reached <= cost(plan, largest(plan, pixels), pixels)


def test_corrections_take_the_mean_error_off_every_channel(plan, pixels):
    before = largest(plan, pixels)
    coarse = replace(before, scales={name: 4 * scale for name, scale in before.scales.items()})
    after = corrected(plan, coarse, pixels)
    for name, weight in after.weights.items():
        np.testing.assert_array_equal(weight.weight, coarse.weights[name].weight)
    errors, left = mean_errors(plan, coarse, pixels), mean_errors(plan, after, pixels)
    assert set(errors) == set(coarse.weights)
    for name, error in errors.items():
        assert left[name].max() < 2e-3 * max(1, error.max()), name
    assert max(error.max() for error in errors.values()) > 0.01


def mean_errors(plan, quantisation, pixels):
    """Of every convolution and gate the mean error of each channel before its activation."""
    floating, engine = ReferenceEngine(plan), int8(plan, quantisation)
    options = RunOptions.of([SETTINGS[0]] * len(pixels))
    state, own = floating.begin(pixels, options), engine.begin(pixels, options)
    quanta = {buffer.name: buffer.quantum for buffer in engine.plan.buffers}
    errors = {}
    for before, after in zip(plan.steps, engine.plan.steps, strict=True):
        if isinstance(before, Convolve):
            value = value_unit(after, quanta) * engine.before_activation(after, own)
            errors[before.writes[0]] = floating.before_activation(before, state) - value
            if before.gate is not None:
                value = engine.gate_before_activation(after.gate, after.stride, own)
                errors[gate_name(before)] = floating.gate_before_activation(before.gate, before.stride, state) - value
        floating.step(before, state)
        engine.step(after, own)
    return {name: error.double().mean(dim=(0, 2, 3)).abs().numpy() for name, error in errors.items()}


def test_values_that_are_not_finite_are_refused(plan, pixels):
    stem = plan.steps[1]
    broken = replace(plan, steps=(plan.steps[0], replace(stem, weight=stem.weight * np.float32(3e38)), *plan.steps[2:]))
    with pytest.raises(QuantisationError, match="not finite"), np.errstate(all="ignore"):
        choose_quantisation(broken, pixels[:2], pixels[:2], SETTINGS)

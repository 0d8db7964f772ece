"""The reference engine in int8 equals a model that goes cell by cell, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings

from lccl.engines import reference_int8
from lccl.engines.reference import ReferenceEngine
from lccl.engines.reference_int8 import confidence, linear
from lccl.errors import EngineError
from lccl.networks import Architecture
from lccl.networks.lowering import lower
from lccl.plan import steps
from lccl.plan.memory import assign_memory
from lccl.plan.run import RunOptions, Setting
from lccl.quantization.parameters import Quantisation
from lccl.quantization.plan import quantise, round_weights
from tests.lccl import cells
from tests.lccl.convolutions import cases, controls_for, plan_of
from tests.lccl.int8_plans import drawn, drawn_maps, largest_scales
from tests.lccl.networks import called, layers_of

SMALL = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
KINDS = [
    Architecture("resnet20"),
    Architecture("resnet20", "pre", placement="bef-bef"),
    Architecture("resnet20", "post", "pointwise"),
    Architecture("resnet20", "pre", "grouped:4", gate_norm=False),
    Architecture("resnet164"),
]


def affordable(case):
    height, width = case.out_size
    macs = len(case.thresholds) * height * width * case.out * case.channels * case.kernel**2
    return macs < 60_000


def run_one(plan, step, maps, options):
    engine = ReferenceEngine(plan, precision="int8")
    state = engine.begin(np.zeros((len(options), plan.image.height, plan.image.width, 3), np.uint8), options)
    state.values |= {name: torch.from_numpy(one) for name, one in maps.items()}
    engine.step(step, state)
    return state


@SMALL
@given(cases())
def test_a_convolution_equals_its_cells(case):
    assume(affordable(case))
    plan = drawn(plan_of(case)[0], case.seed)
    step = next(step for step in plan.steps if isinstance(step, steps.Convolve) and step.name == "it")
    maps = drawn_maps(plan, step, len(case.thresholds), case.seed)
    state = run_one(plan, step, maps, controls_for(case))
    expected, masks = cells.convolve(plan, step, maps, case.thresholds)
    for name, value in expected.items():
        np.testing.assert_array_equal(state.values[name].numpy(), value)
    if step.gate is not None:
        np.testing.assert_array_equal(state.masks[0].numpy(), masks)


@SMALL
@given(cases(residual="identity"))
def test_a_skipped_cell_in_place_holds_the_residual(case):
    plan = drawn(plan_of(case)[0], case.seed)
    number, step = next(
        (number, step)
        for number, step in enumerate(plan.steps)
        if isinstance(step, steps.Convolve) and step.name == "it"
    )
    assume(step.gate is not None and number in assign_memory(plan).in_place)
    maps = drawn_maps(plan, step, len(case.thresholds), case.seed)
    state = run_one(plan, step, maps, controls_for(case))
    skipped = np.repeat(state.masks[0].numpy() == 0, case.out // state.masks[0].shape[1], axis=1)
    output = state.values[step.writes[0]].numpy()
    np.testing.assert_array_equal(output[skipped], maps["r"][skipped])


def stem_plan():
    """A stem with a border, a max-pool, pooled features and a classifier."""
    sizes = {"image": (3, 4, 5), "out": (4, 4, 5), "pool": (4, 2, 3), "features": (4, 2, 2), "rest": (4, 1, 1)}
    random = np.random.default_rng(0)
    mean, std = (np.array(values, np.float32) for values in ((0.1, 0.5, 0.93), (0.2, 0.25, 0.3)))
    exits = (random.normal(0, 0.3, shape).astype(np.float32) for shape in ((5, 4, 2, 2), 5, (2, 5), 2, (2, 4), 2))
    hidden, hidden_bias, answer, answer_bias, weight, bias = exits
    plan = steps.Plan(
        tuple(steps.Buffer(name, *size) for name, size in sizes.items()),
        (
            steps.Normalise(mean, std, "image"),
            steps.Convolve("stem", "image", random.normal(0, 0.3, (4, 3, 3, 3)).astype(np.float32), 1, raw="out"),
            steps.MaxPool("out", 3, 2, "pool"),
            steps.AveragePool("pool", "features", 2),
            steps.Exit(0, "features", hidden, hidden_bias, answer, answer_bias),
            steps.AveragePool("pool", "rest"),
            steps.Classify("rest", weight, bias),
        ),
        (),
        2,
        exits=1,
    )
    return drawn(plan)


def test_a_stem_reads_pixels_whose_border_holds_the_mean(draw_images):
    plan, pixels = stem_plan(), np.random.default_rng(0).integers(0, 256, (2, 4, 5, 3), dtype=np.uint8)
    _, state = ReferenceEngine(plan, precision="int8").trace(pixels, RunOptions.of([Setting((), (1.0,))] * 2))
    expected, _ = cells.convolve(plan, plan.steps[1], {"image": pixels.transpose(0, 3, 1, 2)}, (0, 0))
    np.testing.assert_array_equal(state.values["out"].numpy(), expected["out"])
    assert plan.steps[0].zero.tolist() == [26, 128, 237]
    assert len(np.unique(expected["out"])) > 20


def test_pools_exits_and_the_classifier_equal_their_cells():
    plan, pixels = stem_plan(), np.random.default_rng(1).integers(0, 256, (40, 4, 5, 3), dtype=np.uint8)
    engine = ReferenceEngine(plan, precision="int8")
    last, state = engine.trace(pixels, RunOptions.of([Setting((), (1.0,))] * 40))
    quantum, exit_step, classify = plan.buffer("out").quantum, plan.steps[4], plan.steps[6]
    assert plan.buffer("pool").quantum == quantum
    confidences, answers = [], []
    for image in range(40):
        pool = cells.max_pool(state.values["out"][image].numpy(), 3, 2)
        np.testing.assert_array_equal(state.values["pool"][image].numpy(), pool)
        features = cells.average(pool, quantum, 2)
        np.testing.assert_array_equal(state.values["features"][image].numpy(), features)
        hidden = np.maximum(cells.linear(features, exit_step.hidden_weight, exit_step.hidden_bias), np.float32(0))
        answers.append(cells.linear(hidden, exit_step.weight, exit_step.bias))
        confidences.append(confidence(torch.from_numpy(answers[-1][None])).item())
        rest = cells.average(pool, quantum, 1).ravel()
        np.testing.assert_array_equal(last.logits[image], cells.linear(rest, classify.weight, classify.bias))
    border = float(np.float32(np.median(confidences)))
    first = engine.run(pixels, RunOptions.of([Setting((), (border,))] * 40))
    leaves = np.array(confidences) > border
    assert 0 < leaves.sum() < 40
    np.testing.assert_array_equal(first.exit_index == 0, leaves)
    np.testing.assert_array_equal(first.logits[leaves], np.array(answers)[leaves])


def test_the_confidence_is_that_of_the_softmax():
    logits = torch.tensor([[1.0, 3.0, -2.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(confidence(logits), torch.softmax(logits.double(), 1).amax(1), rtol=1e-15)


def test_sums_of_a_classifier_are_taken_in_order():
    x, weight = np.array([[1e8, 1.0, -1e8]], np.float32), np.ones((1, 3), np.float32)
    assert linear(torch.from_numpy(x), weight, np.array([0.5], np.float32)).item() == 0.5
    turned = torch.from_numpy(np.ascontiguousarray(x[:, ::-1]))
    assert linear(turned, weight, np.array([0.5], np.float32)).item() == 0.5
    apart = torch.tensor([[1e8, -1e8, 1.0]])
    assert linear(apart, weight, np.array([0.5], np.float32)).item() == 1.5


def test_float_images_become_pixels(draw_images):
    plan, pixels = stem_plan(), np.random.default_rng(2).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    first = plan.steps[0]
    images = ((pixels / 255 - first.mean) / first.std).astype(np.float32)
    engine, options = ReferenceEngine(plan, precision="int8"), RunOptions.of([Setting((), (1.0,))] * 3)
    np.testing.assert_array_equal(engine.run(images, options).logits, engine.run(pixels, options).logits)
    outside = engine.trace(np.where(pixels > 127, np.float32(99), np.float32(-99)), options)[1]
    assert set(np.unique(outside.values["image"].numpy())) == {0, 255}


@pytest.mark.parametrize("architecture", KINDS, ids=called)
def test_whole_networks_run_close_to_their_float_plans(architecture, gated_network, square, draw_images, rows):
    pixels = draw_images(4, 32)
    layers = layers_of(architecture)
    network = gated_network(architecture, pixels, np.zeros((4, layers)))
    plan = lower(network, square(32))
    options = rows(np.zeros((4, layers)), want_masks=True)
    exact, state = ReferenceEngine(plan, precision="fp64").trace(pixels, options)
    quantised = quantise(plan, Quantisation(largest_scales(plan, state.values), round_weights(plan)))
    engine = ReferenceEngine(quantised, precision="int8")
    out, own = engine.trace(pixels, options)
    assert all(
        value.dtype == torch.uint8 for name, value in own.values.items() if name and quantised.buffer(name).quantum
    )
    stem = quantised.buffer(plan.steps[1].writes[0])
    values = (own.values[stem.name].double() - stem.quantum.zero) * stem.quantum.scale
    assert (values - state.values[stem.name]).abs().max() < 2 * stem.quantum.scale
    assert np.corrcoef(out.logits.ravel(), exact.logits.ravel())[0, 1] > 0.5
    alone = engine.run(pixels[2:3], rows(np.zeros((1, layers))))
    np.testing.assert_array_equal(alone.logits, out.logits[2:3])
    np.testing.assert_array_equal(alone.kept, out.kept[2:3])


def test_quantised_plans_run_in_int8_alone():
    plan = stem_plan()
    with pytest.raises(EngineError, match="int8 and quantised plans go together"):
        ReferenceEngine(plan)
    with pytest.raises(EngineError, match="int8 does not run on cuda"):
        ReferenceEngine(plan, torch.device("cuda"), "int8")


def test_sums_in_float32_and_in_float64_are_the_same(monkeypatch):
    plan, pixels = stem_plan(), np.random.default_rng(3).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    options = RunOptions.of([Setting((), (1.0,))] * 3)
    fast = ReferenceEngine(plan, precision="int8").run(pixels, options).logits
    monkeypatch.setattr(reference_int8, "ADDS_DIRECTLY", False)
    np.testing.assert_array_equal(ReferenceEngine(plan, precision="int8").run(pixels, options).logits, fast)

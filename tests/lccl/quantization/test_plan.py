"""Quantised plans: shared scales, folded pixels, units, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lccl.errors import QuantisationError
from lccl.networks import Architecture
from lccl.networks.lowering import lower
from lccl.plan import steps
from lccl.plan.memory import assign_memory
from lccl.plan.steps import Quantum
from lccl.quantization.parameters import Quantisation, QuantisedWeight, rounded, weight_scales
from lccl.quantization.plan import float_weights, quantise, shared_scales
from tests.lccl.int8_plans import drawn, drawn_quantisation
from tests.lccl.networks import called, shortened

ARCHITECTURES = [
    Architecture("resnet20"),
    Architecture("resnet20", "pre", placement="bef-bef"),
    Architecture("resnet164"),
    Architecture("wrn-16-4"),
    Architecture("resnet18"),
    Architecture("resnet50", gate="grouped:4"),
]


@pytest.fixture(scope="module")
def plan_of(square):
    def make(architecture):
        network = shortened(architecture, None).eval().requires_grad_(False)
        return lower(network, square(32))

    return make


@pytest.fixture(scope="module")
def plan(plan_of):
    return plan_of(Architecture("resnet20"))


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=called)
def test_one_quantum_per_memory_and_zeros_where_nothing_is_negative(architecture, plan_of):
    floating = plan_of(architecture)
    quantised = drawn(floating)
    memory, before = assign_memory(quantised), assign_memory(floating)
    assert memory.in_place == before.in_place
    quanta = {buffer.name: buffer.quantum for buffer in quantised.buffers}
    for name, buffer in memory.buffers.items():
        assert (quanta[name] is None) == buffer.pooled
        if not buffer.pooled and name != "image":
            assert quanta[name].zero == (0 if buffer.non_negative else 128)
            assert quanta[name] == quanta[buffer.storage]
    for number in memory.in_place:
        assert quantised.steps[number].residual.scale == 1
    for step in quantised.steps:
        if isinstance(step, steps.MaxPool):
            assert quanta[step.input] == quanta[step.raw]


def test_identity_blocks_share_a_scale_with_the_stage_before_them(plan):
    groups = shared_scales(plan)
    assert ("stem", "blocks.0.conv2", "blocks.1.conv2", "blocks.2.conv2") in groups
    assert ("blocks.0.conv1",) in groups
    assert not any("image" in group or "features" in group for group in groups)


def test_scales_of_a_step_are_in_units_of_what_it_writes(plan):
    quantisation = drawn_quantisation(plan)
    quantised = quantise(plan, quantisation)
    before, after = plan.gated[0], quantised.gated[0]
    weight, read, unit = quantisation.weights[before.raw], quantisation.scales["stem"], quantisation.scales[before.raw]
    scale = weight.scale.astype(np.float64) * read * before.affine.scale / unit
    shift = (before.affine.shift.astype(np.float64) + weight.correction) / unit
    np.testing.assert_array_equal(after.affine.scale, scale.astype(np.float32))
    np.testing.assert_array_equal(after.affine.shift, shift.astype(np.float32))
    gate = quantisation.weights[f"{before.raw}.gate"]
    own = gate.scale.astype(np.float64) * read * before.gate.affine.scale
    np.testing.assert_array_equal(after.gate.affine.scale, own.astype(np.float32))
    np.testing.assert_array_equal(after.offset, np.zeros(len(after.weight)))
    assert (after.weight.dtype, after.offset.dtype, after.affine.scale.dtype) == (np.int8, np.int32, np.float32)


def test_signed_maps_are_taken_off_by_the_offset(plan_of):
    quantised = drawn(plan_of(Architecture("resnet20", "pre", placement="bef-bef")))
    gated = next(step for step in quantised.gated if quantised.buffer(step.gate.input).quantum.zero == 128)
    expected = -128 * gated.gate.weight.astype(np.int64).sum((1, 2, 3))
    np.testing.assert_array_equal(gated.gate.offset, expected)


def test_pixels_are_folded_into_the_stem(plan):
    quantisation = drawn_quantisation(plan)
    stem, quantised = plan.steps[1], quantise(plan, quantisation)
    first, step = quantised.steps[:2]
    assert first.zero.tolist() == [128, 122, 133]  # 255 times 0.5, 0.48 and 0.52; halves go to even
    stored = quantisation.weights["stem"]
    folded = stem.weight.astype(np.float64) / (255 * first.std.astype(np.float64))[:, None, None]
    np.testing.assert_array_equal(stored.weight, rounded(folded, stored.scale))
    pixel = np.array([10.0, 200.0, 133.0])
    value = (pixel / 255 - first.mean) / first.std
    unit = quantisation.scales["stem"]
    real = (stem.weight * value[:, None, None]).sum((1, 2, 3)) * stem.affine.scale + stem.affine.shift
    total = (step.weight.astype(int) * pixel[:, None, None]).sum((1, 2, 3)) + step.offset
    own = (total * step.affine.scale + step.affine.shift) * unit - stored.correction
    error = np.abs(stem.affine.scale) * 127.5 * 27 * stored.scale
    assert (np.abs(own - real) < error).all()
    assert np.abs(own - real).max() < 0.05 * np.abs(real).max()


@pytest.mark.parametrize("by_error", [False, True])
def test_scales_of_weights_are_per_channel(by_error):
    random = np.random.default_rng(0)
    weight = random.normal(0, 1, (4, 128, 7, 7)) * np.array([1e-3, 1, 50, 0])[:, None, None, None]
    scale = weight_scales(weight, by_error=by_error)
    stored = rounded(weight, scale)
    assert (stored.dtype, scale.dtype, scale[3]) == (np.int8, np.float32, 1)
    assert np.abs(stored.astype(int)).max() == 127
    error = ((stored * scale[:, None, None, None].astype(np.float64) - weight) ** 2).sum((1, 2, 3))
    fits = weight_scales(weight)
    plainly = ((rounded(weight, fits) * fits[:, None, None, None].astype(np.float64) - weight) ** 2).sum((1, 2, 3))
    assert (error <= plainly).all()
    assert by_error == bool((error < plainly).any())


def changed(quantisation, name="blocks.0.conv1", **fields):
    return replace(quantisation, weights=quantisation.weights | {name: replace(quantisation.weights[name], **fields)})


def test_split_convolutions_are_refused(plan_of):
    split = plan_of(Architecture("resnet20", split="1/2"))
    with pytest.raises(QuantisationError, match="SPConv"):
        quantise(split, Quantisation({}, {}))


def test_what_is_missing_or_does_not_fit_is_refused(plan):
    good = drawn_quantisation(plan)
    with pytest.raises(QuantisationError, match="lacks a scale"):
        quantise(plan, replace(good, scales={name: 1.0 for name in good.scales if name != "stem"}))
    with pytest.raises(QuantisationError, match="no map of the network"):
        quantise(plan, replace(good, scales=good.scales | {"other": 1.0}))
    with pytest.raises(QuantisationError, match=r"stem, blocks.0.conv2.* need one scale"):
        quantise(plan, replace(good, scales=good.scales | {"blocks.0.conv2": 7.0}))
    with pytest.raises(QuantisationError, match=r"no weights of blocks.0.conv1 in the shape \[16, 16, 3, 3\]"):
        quantise(plan, changed(good, weight=np.zeros((16, 16, 1, 1), np.int8)))


@pytest.mark.parametrize("scale", [0.0, -1.0, np.inf, np.nan])
def test_scales_of_maps_are_finite_and_above_0(plan, scale):
    good = drawn_quantisation(plan)
    with pytest.raises(QuantisationError, match=r"blocks.0.conv1.*must be finite and above 0"):
        quantise(plan, replace(good, scales=good.scales | {"blocks.0.conv1": scale}))


def test_results_that_could_leave_float32_are_refused(plan):
    good = drawn_quantisation(plan)
    with pytest.raises(QuantisationError, match="could leave the range of float32"):
        quantise(plan, changed(good, scale=np.full(16, 1e36, np.float32)))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"scale": np.zeros(16, np.float32)}, "scales must lie above 0"),
        ({"scale": np.full(16, -1, np.float32)}, "scales must lie above 0"),
        ({"scale": np.full(16, np.nan, np.float32)}, "scales must be finite"),
        ({"scale": np.ones(15, np.float32)}, r"scales must be float32 \[16\], not float32 \[15\]"),
        ({"scale": np.ones(16)}, r"scales must be float32 \[16\], not float64 \[16\]"),
        ({"correction": np.full(16, np.inf, np.float32)}, "corrections must be finite"),
        ({"weight": np.full((16, 16, 3, 3), -128, np.int8)}, "weights must be int8"),
        ({"weight": np.zeros((16, 16, 3, 3), np.int16)}, "weights must be int8"),
    ],
)
def test_unsound_weights_are_refused(plan, fields, complaint):
    with pytest.raises(QuantisationError, match=f"blocks.0.conv1: its {complaint}"):
        changed(drawn_quantisation(plan), **fields)


def wide_plan(channels, signed):
    """A convolution of one cell that reads so many channels."""
    sizes = {"image": 3, "wide": channels, "out": 1, "features": 1}
    one = np.ones(1, np.float32)
    return steps.Plan(
        tuple(steps.Buffer(name, size, 1, 1) for name, size in sizes.items()),
        (
            steps.Normalise(np.zeros(3, np.float32), np.ones(3, np.float32), "image"),
            steps.Convolve("s", "image", np.ones((channels, 3, 1, 1), np.float32), 1, relu=not signed, raw="wide"),
            steps.Convolve("t", "wide", np.ones((1, channels, 1, 1), np.float32), 1, raw="out"),
            steps.AveragePool("out", "features"),
            steps.Classify("features", one[None], one),
        ),
        (),
        1,
    )


@pytest.mark.parametrize("signed", [False, True])
def test_sums_that_could_overflow_are_refused(signed):
    fits = ((1 << 31) - 1) // (127 * (255 + 128 * signed))
    assert drawn(wide_plan(fits, signed)).buffer("wide").quantum.zero == 128 * signed
    with pytest.raises(QuantisationError, match="could overflow int32"):
        drawn(wide_plan(fits + 1, signed))


def test_maps_with_different_zeros_do_not_share_memory():
    random, sizes = np.random.default_rng(0), ("image", "a", "b", "features")
    weight = random.normal(0, 1, (3, 3, 1, 1)).astype(np.float32)
    plan = steps.Plan(
        tuple(steps.Buffer(name, 3, *(1, 1) if name == "features" else (2, 2)) for name in sizes),
        (
            steps.Normalise(np.zeros(3, np.float32), np.ones(3, np.float32), "image"),
            steps.Convolve("a", "image", weight, 1, relu=True, raw="a"),
            steps.Convolve("b", "image", weight, 1, residual=steps.Residual("a"), raw="b"),
            steps.AveragePool("b", "features"),
            steps.Classify("features", weight[:, :, 0, 0], np.zeros(3, np.float32)),
        ),
        (),
        3,
    )
    assert assign_memory(plan).in_place == {2}
    scales = {"a": 0.5, "b": 0.25}
    weights = {name: QuantisedWeight(rounded(one, weight_scales(one)), weight_scales(one), np.zeros(3, np.float32))
               for name, one in float_weights(plan).items()}  # fmt: skip
    quantised = quantise(plan, Quantisation(scales, weights))
    assert (quantised.buffer("a").quantum, quantised.buffer("b").quantum) == (Quantum(0.5, 0), Quantum(0.25, 128))
    assert assign_memory(quantised).in_place == frozenset()
    assert quantised.steps[2].residual.scale == 2

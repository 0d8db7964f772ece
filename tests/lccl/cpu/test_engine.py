"""Whole networks agree with the reference, and counts, masks and executed MACs add up."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from lccl.engines.cpu.engine import CpuEngine
from lccl.engines.reference import ReferenceEngine
from tests.lccl.comparison import without_border
from tests.lccl.convolutions import reads
from tests.lccl.cpu.networks import FLOATING, GATED, NETWORKS, POST, PRE, crossed, named
from tests.lccl.networks import called, layers_of

SINGLE = [one for one in FLOATING if one[1] == "fp32"]
LANES = {"avx512": 16, "avx512_narrow": 16, "avx2": 8, "neon": 8, "portable": 8}


@pytest.fixture(scope="session")
def answers(small, rows):
    """``answers(Architecture(...))``: the reference's output with masks, and how far float32 logits may be from it.

    Gates multiply, so rounding grows, by up to ten thousand in some images: ten times what it becomes in the
    reference's own float32 run is allowed, and 1e-5.
    """
    made = {}

    def run(architecture):
        key = called(architecture)
        if key not in made:
            reference, pixels, thresholds = small(architecture)
            fine = reference.run(pixels, rows(thresholds, want_masks=True))
            single = ReferenceEngine(reference.plan, torch.device("cpu"), "fp32")
            coarse = single.run(pixels, rows(thresholds, forced_masks=fine.masks))
            made[key] = fine, 1e-5 + 10 * np.abs(coarse.logits - fine.logits).max(1, keepdims=True)
        return made[key]

    return run


# against the reference


@pytest.mark.parametrize(("architecture", "arithmetic"), crossed(NETWORKS, SINGLE), ids=named)
def test_float32_agrees_with_the_reference(architecture, arithmetic, small, answers, make_cpu, rows):
    reference, pixels, thresholds = small(architecture)
    expected, tolerance = answers(architecture)
    assert expected.logits.std() > 0.05
    assert np.median(tolerance) < 1e-4
    engine = make_cpu(reference.plan, arithmetic, threads=2)
    free = engine.run(pixels, rows(thresholds, want_masks=True))
    assert (np.abs(free.logits - expected.logits) <= tolerance)[:2].all()  # nothing, or only zeros, left out
    assert (np.abs(free.kept - expected.kept) <= 0.002 * reference.shape.cells).all()
    forced = engine.run(pixels, rows(thresholds, want_masks=True, forced_masks=expected.masks))
    assert (np.abs(forced.logits - expected.logits) <= tolerance).all()
    assert np.array_equal(forced.kept, expected.kept)


@pytest.mark.parametrize("architecture", GATED, ids=called)
def test_skipping_zeros_changes_nothing(architecture, small, make_cpu, rows):
    reference, pixels, _ = small(architecture)
    engine = make_cpu(reference.plan, SINGLE[0], threads=2)
    thresholds = np.repeat([[-np.inf], [0]], layers_of(architecture), 1)
    out = engine.run(np.repeat(pixels[3:4], 2, 0), rows(thresholds))
    assert np.array_equal(out.logits[0], out.logits[1])
    assert (out.kept[0] == reference.shape.cells).all()
    assert out.kept[1].sum() < out.kept[0].sum()


@pytest.mark.parametrize(("architecture", "arithmetic"), crossed(NETWORKS, FLOATING), ids=named)
def test_a_run_is_its_steps_one_after_the_other(architecture, arithmetic, small, make_cpu, rows):
    """Bitwise: whatever shares memory, is done in place or is run in groups."""
    reference, pixels, thresholds = small(architecture)
    plan = reference.plan
    engine = make_cpu(plan, arithmetic, threads=2)
    options = rows(thresholds, want_masks=True)
    whole = engine.run(images := rounded(normalised(plan, pixels)), options)
    values, kept = {plan.image.name: images.transpose(0, 3, 1, 2)}, np.zeros_like(whole.kept)
    executed = np.zeros_like(whole.executed_macs)
    for number, step in enumerate(plan.steps[1:-1], start=1):
        written, out = engine.run_step(number, {name: values[name] for name in reads(step)}, options)
        values |= {name: without_border(value, plan.buffer(name)) for name, value in written.items()}
        kept, executed = kept + out.kept, executed + out.executed_macs
        if getattr(step, "gate", None) is not None:
            assert np.array_equal(out.masks[step.gate.layer], whole.masks[step.gate.layer])
    assert np.array_equal(whole.kept, kept)
    last = plan.steps[-1]
    logits = values[last.input][:, :, 0, 0] @ last.weight.T + last.bias
    np.testing.assert_allclose(whole.logits, logits, rtol=0, atol=1e-5 * np.abs(logits).max())
    assert (whole.executed_macs >= executed + last.weight.size).all()


def normalised(plan, pixels):
    step = plan.steps[0]
    mean, std = step.mean.astype(np.float32), step.std.astype(np.float32)
    return (pixels.astype(np.float32) / np.float32(255) - mean) / std


def rounded(array):
    """To values that bfloat16 holds: the upper half of a float32."""
    return (np.ascontiguousarray(array, np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)


# images, masks and counts


def test_pixels_give_what_their_normalised_values_give(arithmetic, small, make_cpu, rows):
    reference, pixels, thresholds = small(POST, 13)
    engine, options = make_cpu(reference.plan, arithmetic, threads=2), rows(thresholds)
    expected = engine.run(pixels, options).logits
    assert expected.dtype == np.float32
    values = normalised(reference.plan, pixels)
    for images in (values, values.astype(np.float64), np.repeat(pixels, 2, 0)[::2], np.asfortranarray(values)):
        assert np.array_equal(engine.run(images, options).logits, expected)
    pixels = pixels.copy()
    pixels.flags.writeable = False
    assert np.array_equal(engine.run(pixels, options).logits, expected)


def test_masks_come_only_when_asked_for_and_add_up(arithmetic, small, make_cpu, rows):
    reference, pixels, thresholds = small(PRE, 13)
    engine = make_cpu(reference.plan, arithmetic, threads=2)
    without, with_masks = (engine.run(pixels, rows(thresholds, want_masks=wanted)) for wanted in (False, True))
    assert without.masks is None
    assert np.array_equal(without.logits, with_masks.logits)
    assert np.array_equal(without.kept, with_masks.kept)
    for layer, (mask, shape) in enumerate(zip(with_masks.masks, engine.shape.layers, strict=True)):
        assert mask.shape == (5, shape.gate_groups, shape.convolution.height, shape.convolution.width)
        assert set(np.unique(mask)) <= {0, 1}
        share = shape.convolution.out_channels // shape.gate_groups
        assert np.array_equal(with_masks.kept[:, layer], mask.sum((1, 2, 3), dtype=np.int64) * share)
    assert np.array_equal(with_masks.kept[[0, 2]], [engine.shape.cells, 0 * engine.shape.cells])
    assert with_masks.exit_index.tolist() == [0] * 5


@pytest.mark.parametrize("architecture", [POST, PRE], ids=called)
def test_forced_masks_are_obeyed_whatever_the_thresholds(architecture, arithmetic, small, make_cpu, rows):
    reference, pixels, thresholds = small(architecture, 13)
    engine, random = make_cpu(reference.plan, arithmetic, threads=2), np.random.default_rng(0)
    forced = tuple(
        random.integers(0, 2, (5, one.gate_groups, one.convolution.height, one.convolution.width), np.uint8)
        for one in engine.shape.layers
    )
    runs = [
        engine.run(pixels, rows(np.full((5, 18), threshold), forced_masks=forced, want_masks=True))
        for threshold in (-np.inf, 0.2, np.inf)
    ]
    for out in runs:
        assert all(np.array_equal(mask, wanted) for mask, wanted in zip(out.masks, forced, strict=True))
        assert np.array_equal(out.logits, runs[0].logits)
        assert np.array_equal(out.kept, runs[0].kept)
    own = engine.run(pixels, rows(thresholds, want_masks=True))
    assert np.array_equal(engine.run(pixels, rows(thresholds, forced_masks=own.masks)).logits, own.logits)


# executed MACs


@pytest.mark.parametrize("arithmetic", SINGLE, ids="-".join)
def test_executed_macs_are_the_gated_ones_and_the_ends_of_vectors(arithmetic, small, make_cpu, rows):
    """Convolutions of 16, 32 and 64 channels fill vectors; gates' positions and the classifier's classes need not."""
    reference, pixels, thresholds = small(POST)
    engine, lanes = make_cpu(reference.plan, arithmetic, threads=2), LANES[arithmetic[0]]
    out = engine.run(pixels, rows(thresholds))
    padding = (-(-10 // lanes) * lanes - 10) * 64
    for layer in engine.shape.layers:
        positions = layer.convolution.height * layer.convolution.width
        padding += (-positions % lanes) * (layer.gate_macs // positions)
    assert padding > 0
    assert np.array_equal(out.executed_macs, engine.shape.gated(out.kept) + padding)


@pytest.mark.parametrize(("architecture", "arithmetic"), crossed(GATED, FLOATING), ids=named)
def test_executed_macs_lie_between_the_gated_ones_and_all(architecture, arithmetic, small, make_cpu, rows):
    reference, pixels, _ = small(architecture)
    engine, layers = make_cpu(reference.plan, arithmetic, threads=2), layers_of(architecture)
    levels = [-np.inf, 0, 0.2, 0.4, np.inf]
    runs = [engine.run(pixels[:1], rows(np.full((1, layers), level))) for level in levels]
    executed = [int(out.executed_macs[0]) for out in runs]
    assert all(one >= engine.shape.gated(out.kept)[0] for one, out in zip(executed, runs, strict=True))
    assert executed[0] <= 2 * (engine.shape.dense + engine.shape.gates)  # maps of 2 × 2 in tiles of 16 rows
    if architecture.gate_norm:  # a bare gate follows its input's scale, which skipping in earlier layers changes
        assert all(later <= before for before, later in pairwise(executed))
    else:
        assert executed[-1] < min(executed[:-1]) <= max(executed[1:]) < executed[0]
    if architecture.gate == "shared":  # nothing gated is left to run
        assert executed[0] - executed[-1] >= engine.shape.dense - engine.shape.ungated_macs


def test_an_engine_says_what_it_runs_on_and_where_its_time_goes(small, rows):
    reference, pixels, thresholds = small(POST, 13)
    engine = CpuEngine(reference.plan, threads=3)
    assert (engine.name, engine.precision, engine.threads) == ("cpu", "fp32", 3)
    assert engine.instruction_set == SINGLE[0][0]
    assert engine.batch_limit % 3 == 0
    seconds = engine.profile(pixels, rows(thresholds), repeats=3)
    assert seconds.shape == (len(reference.plan.steps),)
    assert (seconds >= 0).all()
    assert 0 < seconds.sum() < 5

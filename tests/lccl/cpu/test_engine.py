"""Whole networks agree with the reference, and an image's result depends on nothing but the image and its controls."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from lccl import plan as steps
from lccl.controls import Controls
from lccl.engines.cpu.engine import CpuEngine, instruction_sets
from lccl.engines.reference import ReferenceEngine
from lccl.errors import EngineError, InputError
from lccl.networks import Architecture

GATES = ("shared", "pointwise", "grouped:4", "grouped:4:1x1")
GATED = [Architecture("resnet20", form, gate) for form in ("post", "pre") for gate in GATES] + [
    Architecture("resnet18")
]
NETWORKS = [*GATED, *(Architecture("resnet20", form, "none") for form in ("post", "pre"))]
LAYERS = {"resnet20": 18, "resnet18": 16}
SIZES = {"resnet20": 20, "resnet18": 64}  # 20, 10 and 5: maps whose positions fill no whole number of vectors
SINGLE = [name for name, precision in instruction_sets() if precision == "fp32"]
LANES = {"avx512": 16, "avx512_narrow": 16, "avx2": 8, "portable": 8}
HUGE = 1 << 40


def called(architecture):
    return "-".join((architecture.name, architecture.form, architecture.gate))


def mixed(images, layers, seed=0):
    """Rows −∞, 0 and +∞, then rows whose layers have thresholds of their own."""
    levels = np.array([-np.inf, 0, 0.1, 0.2, 0.3, 0.4, np.inf])
    chosen = np.random.default_rng(seed).choice(levels, (images, layers), p=[0.05, 0.15, 0.2, 0.2, 0.2, 0.15, 0.05])
    chosen[:3] = np.array([-np.inf, 0, np.inf])[: min(3, images), None]
    return chosen.astype(np.float32)


def layers_of(architecture):
    return 0 if architecture.gate == "none" else LAYERS[architecture.name]


@pytest.fixture(scope="session")
def small(gated_network, make_reference, pictures):
    """``small(Architecture(...), size)``: its reference engine in float64, made once, 5 pictures and thresholds."""
    made = {}

    def make(architecture, size=None):
        size = size or SIZES[architecture.name]
        key = called(architecture), size
        if key not in made:
            pixels, thresholds = pictures(5, size), mixed(5, layers_of(architecture))
            network = gated_network(architecture, pixels, thresholds)
            made[key] = make_reference(network, size=size), pixels, thresholds
        return made[key]

    return make


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
            single = ReferenceEngine(reference.plan, reference.shape, torch.device("cpu"), "fp32")
            coarse = single.run(pixels, rows(thresholds, forced_masks=fine.masks))
            made[key] = fine, 1e-5 + 10 * np.abs(coarse.logits - fine.logits).max(1, keepdims=True)
        return made[key]

    return run


# against the reference


@pytest.mark.parametrize("architecture", NETWORKS, ids=called)
@pytest.mark.parametrize("instruction_set", SINGLE)
def test_float32_agrees_with_the_reference(instruction_set, architecture, small, answers, make_cpu, rows):
    reference, pixels, thresholds = small(architecture)
    expected, tolerance = answers(architecture)
    assert expected.logits.std() > 0.05
    assert np.median(tolerance) < 1e-4
    engine = make_cpu(reference.plan, (instruction_set, "fp32"), threads=2)
    free = engine.run(pixels, rows(thresholds, want_masks=True))
    assert (np.abs(free.logits - expected.logits) <= tolerance)[:2].all()  # nothing, or only zeros, left out
    assert (np.abs(free.kept - expected.kept) <= 0.002 * reference.shape.cells).all()
    forced = engine.run(pixels, rows(thresholds, want_masks=True, forced_masks=expected.masks))
    assert (np.abs(forced.logits - expected.logits) <= tolerance).all()
    assert np.array_equal(forced.kept, expected.kept)


@pytest.mark.parametrize("architecture", NETWORKS, ids=called)
def test_a_run_is_its_steps_one_after_the_other(architecture, arithmetic, small, make_cpu, rows):
    """Bitwise: whatever shares memory, is done in place or is run in groups."""
    reference, pixels, thresholds = small(architecture)
    plan = reference.plan
    engine = make_cpu(plan, arithmetic, threads=2)
    controls = rows(thresholds, want_masks=True)
    whole = engine.run(images := rounded(normalised(plan, pixels)), controls)
    values, kept = {plan.image.name: images.transpose(0, 3, 1, 2)}, np.zeros_like(whole.kept)
    executed = np.zeros_like(whole.executed_macs)
    for number, step in enumerate(plan.steps[1:-1], start=1):
        written, out = engine.run_step(number, {name: values[name] for name in reads(step)}, controls)
        values |= {name: inside(value, plan.buffer(name)) for name, value in written.items()}
        kept, executed = kept + out.kept, executed + out.executed_macs
        if getattr(step, "gate", None) is not None:
            assert np.array_equal(out.masks[step.gate.layer], whole.masks[step.gate.layer])
    assert np.array_equal(whole.kept, kept)
    last = plan.steps[-1]
    logits = values[last.input][:, :, 0, 0] @ last.weight.T + last.bias
    np.testing.assert_allclose(whole.logits, logits, rtol=0, atol=1e-5 * np.abs(logits).max())
    assert (whole.executed_macs >= executed + last.weight.size).all()


def reads(step):
    gate, residual = getattr(step, "gate", None), getattr(step, "residual", None)
    return {step.input, *((gate.input,) if gate else ()), *((residual.buffer,) if residual else ())}


def inside(value, buffer):
    pad = (value.shape[2] - buffer.height) // 2
    return value[:, :, pad : pad + buffer.height, pad : pad + buffer.width]


def normalised(plan, pixels):
    step = plan.steps[0]
    mean, std = step.mean.astype(np.float32), step.std.astype(np.float32)
    return (pixels.astype(np.float32) / np.float32(255) - mean) / std


def rounded(array):
    """To values that bfloat16 holds: the upper half of a float32."""
    return (np.ascontiguousarray(array, np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)


# images, masks and counts

POST, PRE = Architecture("resnet20"), Architecture("resnet20", "pre", "grouped:4:1x1")


def test_pixels_give_what_their_normalised_values_give(arithmetic, small, make_cpu, rows):
    reference, pixels, thresholds = small(POST, 13)
    engine, controls = make_cpu(reference.plan, arithmetic, threads=2), rows(thresholds)
    expected = engine.run(pixels, controls).logits
    assert expected.dtype == np.float32
    values = normalised(reference.plan, pixels)
    for images in (values, values.astype(np.float64), np.repeat(pixels, 2, 0)[::2], np.asfortranarray(values)):
        assert np.array_equal(engine.run(images, controls).logits, expected)
    pixels = pixels.copy()
    pixels.flags.writeable = False
    assert np.array_equal(engine.run(pixels, controls).logits, expected)


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
    assert with_masks.exit.tolist() == [0] * 5


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


def with_sets(part, *factors):
    """A plan whose normalisations carry a set per factor, which scales and shifts are multiplied by."""
    if isinstance(part, steps.Affine):
        return steps.Affine(
            *(np.concatenate([f * one for f in factors]).astype(np.float32) for one in (part.scale, part.shift))
        )
    if isinstance(part, tuple):
        return tuple(with_sets(one, *factors) for one in part)
    if is_dataclass(part):
        changed = {one.name: with_sets(getattr(part, one.name), *factors) for one in fields(part)}
        return replace(part, **changed | ({"norm_sets": len(factors)} if isinstance(part, steps.Plan) else {}))
    return part


@pytest.mark.parametrize("architecture", [POST, PRE], ids=called)
def test_each_image_is_normalised_with_its_own_set(architecture, arithmetic, small, make_cpu, rows):
    reference, pixels, thresholds = small(architecture, 13)
    sets = np.array([1, 0, 1, 1, 0])
    both = make_cpu(with_sets(reference.plan, 1, 0.75), arithmetic, 2).run(pixels, rows(thresholds, norm_set=sets))
    alone = [make_cpu(with_sets(reference.plan, one), arithmetic).run(pixels, rows(thresholds)) for one in (1, 0.75)]
    for image, norm_set in enumerate(sets):
        assert np.array_equal(both.logits[image], alone[norm_set].logits[image])
        assert np.array_equal(both.kept[image], alone[norm_set].kept[image])
        assert not np.array_equal(both.logits[image], alone[1 - norm_set].logits[image])


# executed MACs


@pytest.mark.parametrize("instruction_set", SINGLE)
def test_executed_macs_are_the_gated_ones_and_the_ends_of_vectors(instruction_set, small, make_cpu, rows):
    """Convolutions of 16, 32 and 64 channels fill vectors; gates' positions and the classifier's classes need not."""
    reference, pixels, thresholds = small(POST)
    engine, lanes = make_cpu(reference.plan, (instruction_set, "fp32"), threads=2), LANES[instruction_set]
    out = engine.run(pixels, rows(thresholds))
    padding = (-(-10 // lanes) * lanes - 10) * 64
    for layer in engine.shape.layers:
        positions = layer.convolution.height * layer.convolution.width
        padding += (-positions % lanes) * (layer.gate_macs // positions)
    assert padding > 0
    assert np.array_equal(out.executed_macs, engine.shape.gated(out.kept) + padding)


@pytest.mark.parametrize("architecture", GATED, ids=called)
def test_executed_macs_lie_between_the_gated_ones_and_all(architecture, arithmetic, small, make_cpu, rows):
    reference, pixels, _ = small(architecture)
    engine, layers = make_cpu(reference.plan, arithmetic, threads=2), layers_of(architecture)
    levels = [-np.inf, 0, 0.2, 0.4, np.inf]
    runs = [engine.run(pixels[:1], rows(np.full((1, layers), level))) for level in levels]
    executed = [int(out.executed_macs[0]) for out in runs]
    assert all(one >= engine.shape.gated(out.kept)[0] for one, out in zip(executed, runs, strict=True))
    assert executed[0] <= 2 * (engine.shape.dense + engine.shape.gates)  # maps of 2 × 2 in tiles of 16 rows
    assert all(later <= before for before, later in pairwise(executed))
    if architecture.gate == "shared":
        assert executed[-1] < 0.3 * executed[0]


# bitwise


@pytest.mark.parametrize("architecture", [POST, PRE], ids=called)
def test_an_image_gives_the_same_bits_in_any_company(architecture, arithmetic, small, make_cpu, rows, pictures):
    """Alone, at any place of any batch, on any number of threads, with small weights and with large."""
    reference, _, _ = small(architecture, 9)
    pixels, thresholds = pictures(17, 9, seed=1), mixed(17, 18, seed=1)
    first = make_cpu(reference.plan, arithmetic)
    alone = [first.run(pixels[i : i + 1], rows(thresholds[i : i + 1], want_masks=True)) for i in range(17)]
    random = np.random.default_rng(0)
    for threads, cache_bytes in ((1, 0), (1, HUGE), (2, None), (2, 0), (3, 0), (3, HUGE), (5, 0), (5, None)):
        engine = make_cpu(reference.plan, arithmetic, threads, cache_bytes)
        for count in (1, 2, 3, 5, 9, 17, 17):
            chosen = random.permutation(17)[:count]
            out = engine.run(pixels[chosen], rows(thresholds[chosen], want_masks=True))
            for place, image in enumerate(chosen):
                assert np.array_equal(out.logits[place], alone[image].logits[0])
                assert np.array_equal(out.kept[place], alone[image].kept[0])
                masks = zip(out.masks, alone[image].masks, strict=True)
                assert all(np.array_equal(mask[place], wanted[0]) for mask, wanted in masks)


def test_large_networks_give_the_same_bits_too(arithmetic, small, make_cpu, rows):
    reference, pixels, thresholds = small(Architecture("resnet18"))
    one, other = make_cpu(reference.plan, arithmetic), make_cpu(reference.plan, arithmetic, 3, 0)
    together = other.run(np.concatenate([pixels[::-1], pixels]), rows(np.concatenate([thresholds[::-1], thresholds])))
    alone = one.run(pixels[1:4], rows(thresholds[1:4]))
    for part in (together.logits[3:0:-1], together.logits[6:9]):
        assert np.array_equal(part, alone.logits)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_map_made_and_pooled_in_bands_gives_the_same_bits(arithmetic, small, make_cpu, rows, threads):
    reference, pixels, thresholds = small(Architecture("resnet18"))
    pool = next(number for number, step in enumerate(reference.plan.steps) if isinstance(step, steps.MaxPool))
    expected = make_cpu(reference.plan, arithmetic, 1, HUGE).run(pixels[:3], rows(thresholds[:3]))
    engine = make_cpu(reference.plan, arithmetic, threads, 100_000)
    assert engine.profile(pixels[:1], rows(thresholds[:1]), 1)[pool] == 0  # it ran with the convolution before it
    found = engine.run(pixels[:3], rows(thresholds[:3]))
    assert np.array_equal(found.logits, expected.logits)
    assert np.array_equal(found.kept, expected.kept)


# what is refused


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"precision": "fp64"}, "no precision 'fp64'"),
        ({"precision": ""}, "no precision"),
        ({"instruction_set": "sse2"}, "no instruction set 'sse2'"),
        ({"instruction_set": "avx2", "precision": "bf16"}, "no instruction set 'avx2' for bf16"),
        ({"instruction_set": ""}, "no instruction set"),
        ({"threads": -1}, "cannot run"),
        ({"threads": 1025}, "threads"),
        ({"threads": 1 << 40}, "cannot run"),
        ({"cache_bytes": -1}, "cannot run"),
    ],
)
def test_engines_that_cannot_be_are_refused(options, match, small):
    reference, _, _ = small(POST, 13)
    with pytest.raises(EngineError, match=match):
        CpuEngine(reference.plan, reference.shape, **{"precision": "fp32"} | options)


def test_a_plan_that_does_not_fit_is_refused(small):
    plan = small(POST, 13)[0].plan
    narrower = replace(plan, buffers=tuple(replace(one, channels=max(1, one.channels // 2)) for one in plan.buffers))
    for wrong in (narrower, replace(plan, steps=plan.steps[1:]), replace(plan, steps=plan.steps[:-1])):
        with pytest.raises(EngineError, match="cannot run"):
            CpuEngine(wrong, small(POST, 13)[0].shape)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda pixels: pixels[:, :12], "images must be"),
        (lambda pixels: pixels[:0], "images must be"),
        (lambda pixels: pixels.astype(np.int64), "uint8 or floating"),
        (lambda pixels: np.full(pixels.shape, np.nan), "finite"),
    ],
)
def test_images_that_do_not_fit_are_refused(change, match, small, make_cpu, rows):
    reference, pixels, _ = small(POST, 13)
    engine, images = make_cpu(reference.plan, ("portable", "fp32")), change(pixels[:2])
    with pytest.raises(InputError, match=match):
        engine.run(images, rows(np.zeros((len(images), 18))))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"thresholds": np.zeros((3, 18), np.float32)}, "thresholds must be"),
        ({"thresholds": np.zeros((2, 17), np.float32)}, "thresholds must be"),
        ({"thresholds": np.full((2, 18), np.nan, np.float32)}, "NaN"),
        ({"norm_set": np.array([0, 1])}, "norm_set"),
        ({"norm_set": np.array([0, -1])}, "norm_set"),
        ({"norm_set": np.array([0])}, "norm_set"),
        ({"exit_confidence": np.zeros((2, 1), np.float32)}, "exit_confidence"),
        ({"forced_masks": (np.ones((2, 1, 13, 13), np.uint8),) * 17}, "18 masks"),
        ({"forced_masks": (np.ones((2, 1, 13, 13), np.uint8),) * 18}, "a forced mask must be"),
    ],
)
def test_controls_that_do_not_fit_are_refused(changes, match, small, make_cpu):
    reference, pixels, _ = small(POST, 13)
    engine = make_cpu(reference.plan, ("portable", "fp32"))
    with pytest.raises(InputError, match=match):
        engine.run(pixels[:2], replace(Controls.uniform(2, [0.0] * 18), **changes))


def test_an_engine_says_what_it_runs_on_and_where_its_time_goes(small, rows):
    reference, pixels, thresholds = small(POST, 13)
    engine = CpuEngine(reference.plan, reference.shape, threads=3)
    assert (engine.name, engine.precision, engine.threads) == ("cpu", "fp32", 3)
    assert engine.instruction_set == SINGLE[0]
    assert engine.batch_limit % 3 == 0
    seconds = engine.profile(pixels, rows(thresholds), repeats=3)
    assert seconds.shape == (len(reference.plan.steps),)
    assert (seconds >= 0).all()
    assert 0 < seconds.sum() < 5

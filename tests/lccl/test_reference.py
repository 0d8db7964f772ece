"""The reference engine computes what the modules compute, image by image, and refuses what does not fit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lccl.engines.reference import ReferenceEngine
from lccl.errors import EngineError, InputError
from lccl.networks import PLACEMENTS, Architecture, build
from lccl.plan import steps
from tests.lccl.networks import EVERY_KIND, called, layers_of
from tests.lccl.reference_runs import exact, mixed_thresholds, normalised, size_for
from tests.lccl.settings import uniform

CPU = torch.device("cpu")
KINDS = [
    *(
        Architecture("resnet20", form, gate)
        for form in ("post", "pre")
        for gate in ("pointwise", "grouped:4", "grouped:4:1x1")
    ),
    *(Architecture("resnet164", gate=gate) for gate in ("pointwise", "grouped:4", "grouped:4:1x1")),
    *(
        Architecture(name, "pre", placement=placement)
        for name in ("resnet20", "resnet164")
        for placement in PLACEMENTS
        if placement != "aft-aft"
    ),
    *(Architecture("wrn-16-4", placement=placement) for placement in ("bef-bef", "aft-bef")),
    *(Architecture("resnet20", form, gate_norm=False) for form in ("post", "pre")),
    Architecture("resnet20", "pre", "grouped:4", placement="bef-bef", gate_norm=False),
    *(
        Architecture("resnet20", form, gate, split="1/2")
        for form in ("post", "pre")
        for gate in ("shared", "pointwise")
    ),
    *(Architecture(name, split="1/4") for name in ("resnet50", "resnet164")),
]


# against the modules


@pytest.mark.parametrize("architecture", EVERY_KIND + KINDS, ids=called)
def test_it_agrees_with_the_modules(architecture, gated_network, make_reference, draw_images, rows):
    size = size_for(architecture)
    images = 6 if architecture.name == "resnet20" else 4
    pixels, thresholds = draw_images(images, size), mixed_thresholds(images, layers_of(architecture))
    network = gated_network(architecture, pixels, thresholds)
    engine = make_reference(network, size=size)
    out = engine.run(pixels, rows(thresholds, want_masks=True))
    column = torch.from_numpy(thresholds).double()
    with torch.no_grad():
        expected = network(normalised(engine, pixels), column)
    np.testing.assert_allclose(out.logits, expected.logits.numpy(), rtol=1e-7, atol=1e-7)
    assert out.logits.std() > 1e-3
    for layer, (mask, gate, step) in enumerate(zip(out.masks, expected.gates, engine.plan.gated, strict=True)):
        kept = (gate > column[:, layer, None, None, None]).numpy()
        assert mask.dtype == np.uint8
        assert np.array_equal(mask, kept)
        assert np.array_equal(out.kept[:, layer], kept.sum((1, 2, 3)) * (len(step.weight) // kept.shape[1]))
    middle = engine.shape.skip_ratio(out.kept[3:])
    assert ((middle > 0.1) & (middle < 0.95)).all()


@pytest.mark.parametrize(
    "architecture",
    [
        *(one.plain_twin for one in EVERY_KIND),
        *(Architecture("resnet20", form, "none", split="1/4") for form in ("post", "pre")),
    ],
    ids=called,
)
def test_it_agrees_with_the_plain_twins_modules(architecture, random_network, make_reference, draw_images):
    size = size_for(architecture)
    network = random_network(architecture).double()
    engine = make_reference(network, size=size)
    pixels = draw_images(2, size)
    out = engine.run(pixels, exact(2, 0))
    np.testing.assert_allclose(out.logits, network(normalised(engine, pixels)).logits.numpy(), rtol=1e-9, atol=1e-9)
    assert out.kept.shape == (2, 0)
    assert engine.shape.skip_ratio(out.kept).tolist() == [0, 0]


@pytest.fixture(scope="module", params=["post", "pre"])
def network(request, gated_network, draw_images):
    return gated_network(Architecture("resnet20", request.param), draw_images(16), mixed_thresholds(16, 18))


@pytest.fixture
def engine(network, make_reference):
    return make_reference(network)


@pytest.mark.parametrize("form", ["post", "pre"])
def test_a_float32_run_is_close_to_a_float64_run(form, gated_network, make_reference, draw_images):
    pixels, options = draw_images(4), exact(4, 18)
    network = gated_network(Architecture("resnet20", form), pixels, options.thresholds)
    fine = make_reference(network).run(pixels, options).logits
    coarse = make_reference(network.float(), "fp32").run(pixels, options).logits
    assert (coarse.dtype, fine.dtype) == (np.float32, np.float64)
    assert 0 < np.abs(coarse - fine).max() < 1e-3  # gates multiply: rounding (6e-8) grows by about a thousand


def test_only_float32_float64_and_int8_are_offered(network, make_reference):
    for precision in ("fp16", "bf16", "float32", ""):
        with pytest.raises(EngineError, match="no precision"):
            make_reference(network, precision)


# thresholds and masks


def test_skipping_nothing_equals_skipping_zeros(engine, draw_images, rows):
    out = engine.run(np.repeat(draw_images(2), 2, 0), rows([[-np.inf] * 18, [0] * 18] * 2))
    cells = engine.shape.cells
    np.testing.assert_array_equal(out.logits[0::2], out.logits[1::2])
    assert (out.kept[0::2] == cells).all()
    assert (out.kept[1::2] <= cells).all()
    assert out.kept[1::2].sum() < 2 * cells.sum()


@pytest.mark.parametrize(
    "architecture",
    [
        Architecture("resnet164", placement="bef-aft"),
        Architecture("wrn-16-4", placement="bef-bef", gate_norm=False),
        Architecture("resnet50", gate="pointwise"),
        Architecture("resnet20", gate_norm=False),
    ],
    ids=called,
)
def test_skipping_zeros_is_exact_in_every_kind_of_block(architecture, gated_network, make_reference, draw_images, rows):
    size, layers = size_for(architecture), layers_of(architecture)
    pixels, thresholds = np.repeat(draw_images(1, size), 2, 0), np.repeat([[-np.inf], [0]], layers, 1)
    engine = make_reference(gated_network(architecture, pixels, thresholds), size=size)
    out = engine.run(pixels, rows(thresholds))
    np.testing.assert_array_equal(out.logits[0], out.logits[1])
    assert (out.kept[0] == engine.shape.cells).all()
    assert 0 < out.kept[1].sum() < engine.shape.cells.sum()


def test_an_infinite_threshold_keeps_nothing(engine, draw_images, rows):
    out = engine.run(draw_images(2), rows([[np.inf] * 18] * 2, want_masks=True))
    assert not out.kept.any()
    assert not any(mask.any() for mask in out.masks)
    assert np.isfinite(out.logits).all()


def test_a_gate_at_its_threshold_is_skipped(engine, draw_images):
    first = engine.plan.gated[0]
    quarter = steps.Affine(np.zeros((1, 1)), np.full((1, 1), 0.25))
    plan = with_steps(engine.plan, {first.name: replace(first, gate=replace(first.gate, affine=quarter))})
    changed = ReferenceEngine(plan, CPU, "fp64")
    for threshold, kept in ((0.25, 0), (np.nextafter(np.float32(0.25), np.float32(0)), 16 * 32 * 32)):
        assert changed.run(draw_images(1), uniform(1, [threshold] + [0] * 17)).kept[0, 0] == kept


def test_masks_come_only_when_asked_for(engine, draw_images):
    assert engine.run(draw_images(1), exact(1, 18)).masks is None
    assert [mask.shape for mask in engine.run(draw_images(1), exact(1, 18, want_masks=True)).masks] == (
        [(1, 1, 32, 32)] * 6 + [(1, 1, 16, 16)] * 6 + [(1, 1, 8, 8)] * 6
    )


def test_forced_masks_are_obeyed_whatever_the_thresholds(engine, draw_images, rows):
    random = np.random.default_rng(1)
    forced = tuple(
        random.integers(0, 2, (2, 1, layer.convolution.height, layer.convolution.width), dtype=np.uint8)
        for layer in engine.shape.layers
    )
    pixels = draw_images(2)
    runs = [
        engine.run(pixels, rows([[threshold] * 18] * 2, forced_masks=forced, want_masks=True))
        for threshold in (-np.inf, 0.0, np.inf)
    ]
    for out in runs:
        assert all(np.array_equal(mask, wanted) for mask, wanted in zip(out.masks, forced, strict=True))
        assert np.array_equal(out.logits, runs[0].logits)
        assert np.array_equal(
            out.kept[:, 7], forced[7].sum((1, 2, 3)) * engine.shape.layers[7].convolution.out_channels
        )


def test_forcing_the_masks_of_a_run_repeats_it(engine, draw_images, rows):
    pixels, thresholds = draw_images(5), mixed_thresholds(5, 18)
    first = engine.run(pixels, rows(thresholds, want_masks=True))
    again = engine.run(pixels, exact(5, 18, forced_masks=first.masks))
    np.testing.assert_array_equal(first.logits, again.logits)


# what a skipped cell's convolution would have given does not matter


def with_steps(plan, changed):
    """The plan with some convolutions replaced, by name."""
    return replace(plan, steps=tuple(changed.get(getattr(step, "name", ""), step) for step in plan.steps))


@pytest.mark.parametrize(
    ("layer", "poison"), [(0, np.nan), (1, np.nan), (1, np.inf), (1, 1e200), (6, np.nan), (17, np.nan)]
)
def test_a_skipped_layers_weights_do_not_matter(engine, layer, poison, draw_images):
    forced = tuple(
        np.full((2, 1, one.convolution.height, one.convolution.width), number != layer, np.uint8)
        for number, one in enumerate(engine.shape.layers)
    )
    step = engine.plan.gated[layer]
    plan = with_steps(engine.plan, {step.name: replace(step, weight=np.full_like(step.weight, poison))})
    options = exact(2, 18, forced_masks=forced)
    poisoned = ReferenceEngine(plan, CPU, "fp64")
    np.testing.assert_array_equal(
        poisoned.run(draw_images(2), options).logits, engine.run(draw_images(2), options).logits
    )
    assert not np.array_equal(
        poisoned.run(draw_images(2), exact(2, 18)).logits, engine.run(draw_images(2), exact(2, 18)).logits
    )


@pytest.mark.parametrize("form", ["post", "pre"])
def test_a_skipped_channels_weights_do_not_matter(form, gated_network, make_reference, draw_images):
    architecture = Architecture("resnet20", form, "grouped:4")
    engine = make_reference(gated_network(architecture, draw_images(4), mixed_thresholds(4, 18)))
    forced = [
        np.ones((1, 4, layer.convolution.height, layer.convolution.width), np.uint8) for layer in engine.shape.layers
    ]
    forced[4][:, 2] = 0
    step = engine.plan.gated[4]
    weight = step.weight.copy()
    weight[8:12] = np.nan  # the third of four groups of 16 channels
    plan = with_steps(engine.plan, {step.name: replace(step, weight=weight)})
    options = exact(1, 18, forced_masks=tuple(forced))
    poisoned = ReferenceEngine(plan, CPU, "fp64")
    np.testing.assert_array_equal(
        poisoned.run(draw_images(1), options).logits, engine.run(draw_images(1), options).logits
    )


# batches


def test_an_images_result_does_not_depend_on_its_batch_mates(engine, draw_images, rows):
    pixels, thresholds = draw_images(4), mixed_thresholds(4, 18)
    first = engine.run(pixels, rows(thresholds, want_masks=True))
    others, other_thresholds = draw_images(4, seed=9), mixed_thresholds(4, 18, seed=9)[::-1].copy()
    for image in range(4):
        others[image], other_thresholds[image] = pixels[image], thresholds[image]
        second = engine.run(others, rows(other_thresholds, want_masks=True))
        assert np.array_equal(first.logits[image], second.logits[image])
        assert np.array_equal(first.kept[image], second.kept[image])
        assert all(np.array_equal(one[image], two[image]) for one, two in zip(first.masks, second.masks, strict=True))
        others, other_thresholds = draw_images(4, seed=9), mixed_thresholds(4, 18, seed=9)[::-1].copy()


def test_batch_sizes_differ_by_rounding_only(engine, draw_images):
    pixels = draw_images(5)
    together = engine.run(pixels, exact(5, 18)).logits
    alone = np.concatenate([engine.run(pixels[i : i + 1], exact(1, 18)).logits for i in range(5)])
    np.testing.assert_allclose(together, alone, rtol=1e-10, atol=1e-10)


def test_every_cell_and_gate_is_executed(engine, draw_images, rows):
    out = engine.run(draw_images(3), rows(mixed_thresholds(3, 18)))
    gates = sum(layer.gate_macs for layer in engine.shape.layers)
    assert out.executed_macs.tolist() == [40_551_040 + gates] * 3
    assert out.executed_macs.dtype == out.kept.dtype == np.int64
    assert out.exit_index.tolist() == [0, 0, 0]


# inputs


def test_normalised_images_give_what_their_pixels_give(engine, draw_images):
    pixels = draw_images(2)
    floats = normalised(engine, pixels).permute(0, 2, 3, 1).numpy()
    expected = engine.run(pixels, exact(2, 18)).logits
    np.testing.assert_allclose(engine.run(floats, exact(2, 18)).logits, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(engine.run(floats.astype(np.float32), exact(2, 18)).logits, expected, atol=1e-4)


def test_read_only_and_strided_images_are_taken_as_they_are(engine, draw_images):
    pixels = draw_images(3)
    expected = engine.run(np.ascontiguousarray(pixels[::-1, :, ::-1]), exact(3, 18)).logits
    pixels.flags.writeable = False
    assert np.array_equal(engine.run(pixels[::-1, :, ::-1], exact(3, 18)).logits, expected)
    assert np.isfinite(engine.run(pixels, exact(3, 18)).logits).all()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda pixels: pixels[:, :31], "images must be"),
        (lambda pixels: pixels[..., :1], "images must be"),
        (lambda pixels: pixels[0], "images must be"),
        (lambda pixels: pixels.transpose(0, 3, 1, 2), "images must be"),
        (lambda pixels: pixels[:0], "images must be"),
        (lambda pixels: pixels.astype(np.int64), "uint8 or floating"),
        (lambda pixels: pixels > 9, "uint8 or floating"),
        (lambda pixels: np.where(np.arange(32)[:, None, None] == 7, np.nan, pixels), "finite"),
        (lambda pixels: np.where(np.arange(32)[:, None, None] == 7, -np.inf, pixels), "finite"),
    ],
)
def test_images_that_do_not_fit_are_refused(engine, change, match, draw_images):
    images = change(draw_images(2))
    with pytest.raises(InputError, match=match):
        engine.run(images, exact(len(images), 18))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"thresholds": np.zeros((3, 18), np.float32)}, "thresholds must be"),
        ({"thresholds": np.zeros((2, 17), np.float32)}, "thresholds must be"),
        ({"thresholds": np.zeros(18, np.float32)}, "thresholds must be"),
        ({"thresholds": np.where(np.arange(36).reshape(2, 18) == 20, np.nan, 0).astype(np.float32)}, "NaN"),
        ({"exit_confidence": np.zeros((2, 1), np.float32)}, "exit_confidence must be"),
        ({"forced_masks": (np.ones((2, 1, 32, 32), np.uint8),) * 17}, "needs 18 masks"),
        ({"forced_masks": (np.ones((2, 1, 32, 32), np.uint8),) * 18}, "a forced mask must be"),
    ],
)
def test_options_that_do_not_fit_are_refused(engine, changes, match, draw_images):
    with pytest.raises(InputError, match=match):
        engine.run(draw_images(2), exact(2, 18, **changes))


def test_a_network_of_another_size_says_so(make_reference, draw_images):
    engine = make_reference(build(Architecture("resnet18")).eval(), size=64)
    with pytest.raises(InputError, match=r"images must be \[N, 64, 64, 3\], not \(1, 32, 32, 3\)"):
        engine.run(draw_images(1), exact(1, 16))


def test_images_must_be_finite_in_the_engines_own_precision(engine, draw_images):
    images = np.where(np.arange(32)[:, None, None] == 7, 1e300, normalised(engine, draw_images(2)).numpy()[0, 0, 0, 0])
    images = np.broadcast_to(images, (2, 32, 32, 3))
    assert engine.run(images, exact(2, 18)).kept.shape == (2, 18)
    with pytest.raises(InputError, match="finite as float32"):
        ReferenceEngine(engine.plan, CPU, "fp32").run(images, exact(2, 18))

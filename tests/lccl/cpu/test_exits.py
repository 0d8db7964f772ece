"""Images that leave early: by which exit, with which result, and without effect on other images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from lccl.engines.cpu.engine import CpuEngine, instruction_sets
from lccl.engines.reference import ReferenceEngine
from lccl.plan.geometry import shape_of
from lccl.plan.run import RunOptions
from tests.lccl.cpu.networks import HUGE, POST, PRE, mixed
from tests.lccl.exits import (
    SIDENETS,
    Sided,
    add_sidenets,
    confidences,
    leaving_by,
    of_images,
    sending,
    without_exits,
)
from tests.lccl.networks import called

SINGLE = [name for name, precision in instruction_sets() if precision == "fp32"]
LANES = {"avx512": 16, "avx512_narrow": 16, "avx2": 8, "neon": 8, "portable": 8}
NETWORKS = pytest.mark.parametrize("architecture", [POST, PRE], ids=called)
IMAGES = 17


@pytest.fixture(scope="session")
def sided(gated_network, make_reference, draw_images):
    """``sided(Architecture(...))``: it with exits, 17 images and mixed thresholds."""
    made = {}

    def make(architecture, size=9):
        key = called(architecture), size
        if key not in made:
            pixels, thresholds = draw_images(IMAGES, size, seed=1), mixed(IMAGES, 18, seed=1)
            network = gated_network(architecture, pixels, thresholds)
            add_sidenets(network)
            plan = make_reference(network, size=size).plan
            nowhere = np.ones((IMAGES, len(SIDENETS)), np.float32)
            made[key] = Sided(plan, pixels, RunOptions(thresholds, nowhere, want_masks=True))
        return made[key]

    return make


@pytest.fixture(scope="session")
def alone(sided, make_cpu):
    """Outputs of a plan's images, each run by itself, where all leave by the first exit, the second …, the end."""
    made = {}

    def run(architecture, arithmetic):
        key = called(architecture), arithmetic
        if key not in made:
            one = sided(architecture)
            engine, ends = make_cpu(one.plan, arithmetic), []
            for end in one.ends:
                options = leaving_by(one.options, end, one.plan.exits)
                outs = [engine.run(one.pixels[[i]], of_images(options, [i])) for i in range(IMAGES)]
                ends.append(together(outs))
            made[key] = ends
        return made[key]

    return run


def together(outs):
    names = ("logits", "kept", "executed_macs", "exit_index")
    masks = tuple(np.concatenate(layer) for layer in zip(*(out.masks for out in outs), strict=True))
    values = {name: np.concatenate([getattr(out, name) for out in outs]) for name in names}
    return replace(outs[0], masks=masks, **values)


@pytest.fixture(autouse=True)
def _filled_before(monkeypatch):
    """Masks that an engine leaves as they are do not hold zeros by chance."""
    made = CpuEngine._masks

    def dirty(self, count):
        masks = made(self, count)
        for mask in masks:
            mask.fill(77)
        return masks

    monkeypatch.setattr(CpuEngine, "_masks", dirty)


def check(out, ends, images, expected, executed=True):
    """Each image of a batch left by its end, with what it gets there alone, to the bit."""
    assert out.exit_index.tolist() == list(ends)
    for place, (image, end) in enumerate(zip(images, ends, strict=True)):
        wanted = expected[end]
        assert np.array_equal(out.logits[place], wanted.logits[image])
        assert np.array_equal(out.kept[place], wanted.kept[image])
        assert out.executed_macs[place] == wanted.executed_macs[image] or not executed
        if out.masks is not None:
            pairs = zip(out.masks, wanted.masks, strict=True)
            assert all(np.array_equal(mask[place], by_itself[image]) for mask, by_itself in pairs)


# one image


@NETWORKS
def test_what_lies_behind_an_exit_is_not_run(architecture, arithmetic, sided, alone):
    one, outs = sided(architecture), alone(architecture, arithmetic)
    shape = shape_of(one.plan)
    for end in one.ends:
        out, reached = outs[end], shape.reached(np.array([end]))[0]
        assert out.exit_index.tolist() == [end] * IMAGES
        assert np.array_equal(out.kept, outs[-1].kept * reached)
        for layer, (mask, whole) in enumerate(zip(out.masks, outs[-1].masks, strict=True)):
            assert np.array_equal(mask, whole * np.uint8(reached[layer]))
        assert (out.executed_macs >= shape.gated(out.kept, out.exit_index)).all()
        assert end == 0 or (out.executed_macs > outs[end - 1].executed_macs).all()
    assert sum(shape.reached(np.array([end])).sum() for end in one.ends) == 4 + 10 + 18 + 18


@NETWORKS
@pytest.mark.parametrize("instruction_set", SINGLE)
def test_float32_leaves_where_the_reference_does(instruction_set, architecture, sided, make_cpu):
    one = sided(architecture)
    fine, coarse = (ReferenceEngine(one.plan, torch.device("cpu"), kind) for kind in ("fp64", "fp32"))
    masks = fine.run(one.pixels, one.options).masks
    options = replace(one.options, forced_masks=masks)
    by_end = [leaving_by(options, end, one.plan.exits) for end in one.ends]
    exact = [fine.run(one.pixels, each) for each in by_end]
    tolerance = [
        1e-5 + 10 * np.abs(coarse.run(one.pixels, each).logits - out.logits).max(1)
        for each, out in zip(by_end, exact, strict=True)
    ]
    confidence, engine = confidences(exact[:-1]), make_cpu(one.plan, (instruction_set, "fp32"), threads=2)
    assert (confidence.std(0) > 0.01).all()
    ends = np.random.default_rng(0).permutation(np.arange(IMAGES) % len(one.ends))
    medians = np.tile(np.median(confidence, 0).astype(np.float32), (IMAGES, 1)) + np.float32(1e-4)
    for table in (sending(confidence, ends, margin=0.01), medians):
        by_confidence = replace(options, exit_confidence=table)
        expected, out = fine.run(one.pixels, by_confidence), engine.run(one.pixels, by_confidence)
        assert np.array_equal(out.exit_index, expected.exit_index)
        assert set(out.exit_index) > {0, len(SIDENETS)}
        error = np.abs(out.logits - expected.logits).max(1)
        assert (error <= np.stack(tolerance)[out.exit_index, np.arange(IMAGES)]).all()
        assert np.array_equal(out.kept, expected.kept)
        assert all(np.array_equal(mask, wanted) for mask, wanted in zip(out.masks, expected.masks, strict=True))


@pytest.mark.parametrize("instruction_set", SINGLE)
def test_executed_macs_are_those_of_the_way_and_the_ends_of_vectors(instruction_set, sided, alone):
    """As without exits; a head's hidden units and classes need not fill vectors either."""
    one, lanes = sided(POST), LANES[instruction_set]
    shape, classes = shape_of(one.plan), -(-10 // lanes) * lanes
    heads = []
    for spec, channels in zip(SIDENETS, (16, 32, 64), strict=True):
        units = -(-spec.hidden // lanes) * lanes
        heads.append((units - spec.hidden) * channels * spec.grid**2 + (classes - 10) * spec.hidden)
    for end, out in enumerate(alone(POST, (instruction_set, "fp32"))):
        padding = sum(heads[: end + 1]) + (classes - 10) * 64 * (end == len(heads))
        for layer in np.flatnonzero(shape.reached(np.array([end]))[0]):
            positions = shape.layers[layer].convolution.height * shape.layers[layer].convolution.width
            padding += (-positions % lanes) * (shape.layers[layer].gate_macs // positions)
        assert np.array_equal(out.executed_macs, shape.gated(out.kept, out.exit_index) + padding)


@NETWORKS
@pytest.mark.parametrize("cache_bytes", [0, HUGE])
def test_exits_that_no_image_takes_change_nothing(cache_bytes, architecture, arithmetic, sided, make_cpu):
    one = sided(architecture)
    engine, plain = (make_cpu(plan, arithmetic, 2, cache_bytes) for plan in (one.plan, without_exits(one.plan)))
    expected = plain.run(one.pixels, replace(one.options, exit_confidence=one.options.exit_confidence[:, :0]))
    for table in (one.options.exit_confidence, one.options.exit_confidence[:, :0]):
        out = engine.run(one.pixels, replace(one.options, exit_confidence=table))
        assert out.exit_index.tolist() == [len(SIDENETS)] * IMAGES
        assert np.array_equal(out.logits, expected.logits)
        assert np.array_equal(out.kept, expected.kept)
        assert all(np.array_equal(mask, wanted) for mask, wanted in zip(out.masks, expected.masks, strict=True))
        assert len(set(out.executed_macs - expected.executed_macs)) == 1
        assert (out.executed_macs > expected.executed_macs).all()


# several


@NETWORKS
@pytest.mark.parametrize(("threads", "weights_in_cache"), [(1, 0), (1, HUGE), (2, 3000), (3, 10_000), (3, HUGE)])
def test_an_image_leaves_by_its_exit_in_any_batch(
    threads, weights_in_cache, architecture, arithmetic, sided, alone, make_cpu
):
    """To the bit: with large weights from the first layer, from the second stage or the third, and with small ones."""
    one, expected = sided(architecture), alone(architecture, arithmetic)
    cache_bytes = weights_in_cache * (4 if arithmetic[1] == "fp32" else 2)
    engine = make_cpu(one.plan, arithmetic, threads, cache_bytes)
    random, confidence, last = np.random.default_rng(threads), confidences(expected[:-1]), len(SIDENETS)
    for turn, count in enumerate((1, 2, 3, 7, 17, 17)):
        images = random.permutation(IMAGES)[:count]
        for ends in (
            random.integers(0, last + 1, count),
            np.zeros(count, int),
            np.arange(count) % 2 * last,
            (np.arange(count) % 3 > 0) * (1 + turn % last),
        ):
            table = sending(confidence[images], ends, seed=turn)
            options = replace(of_images(one.options, images), exit_confidence=table, want_masks=turn % 2 == 0)
            out = engine.run(one.pixels[images], options)
            check(out, ends, images, expected, executed=not arithmetic[0].startswith("amx"))


@pytest.mark.parametrize("weights_in_cache", [3000, HUGE])
def test_streams_send_images_the_same_way(weights_in_cache, arithmetic, sided, alone, make_cpu):
    one, expected = sided(POST), alone(POST, arithmetic)
    engine = make_cpu(one.plan, arithmetic, 3, weights_in_cache * 4, streams=2)
    ends = np.arange(IMAGES) % len(one.ends)
    options = replace(one.options, exit_confidence=sending(confidences(expected[:-1]), ends))
    for sharing in (True, False, True):
        out = engine.run(one.pixels, options, sharing=sharing)
        check(out, ends, range(IMAGES), expected, executed=not arithmetic[0].startswith("amx"))


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("cache_bytes", [0, HUGE])
def test_forced_masks_are_obeyed_as_far_as_an_image_comes(cache_bytes, threads, arithmetic, sided, make_cpu):
    one = sided(POST)
    engine, random = make_cpu(one.plan, arithmetic, threads, cache_bytes), np.random.default_rng(0)
    plain = engine.run(one.pixels, one.options).masks
    forced = tuple(random.integers(0, 2, mask.shape, np.uint8) for mask in plain)
    options = replace(one.options, forced_masks=forced)
    by_end = [engine.run(one.pixels, leaving_by(options, end, one.plan.exits)) for end in one.ends]
    ends = random.integers(0, len(one.ends), IMAGES)
    table = sending(confidences(by_end[:-1]), ends)
    out = engine.run(one.pixels, replace(options, exit_confidence=table))
    check(out, ends, range(IMAGES), by_end, executed=not arithmetic[0].startswith("amx"))
    reached = shape_of(one.plan).reached(out.exit_index)
    for layer, (mask, wanted) in enumerate(zip(out.masks, forced, strict=True)):
        assert np.array_equal(mask, wanted * reached[:, layer, None, None, None])


@pytest.mark.parametrize("cache_bytes", [0, HUGE])
def test_an_image_without_an_answer_does_not_leave(cache_bytes, arithmetic, sided, make_cpu):
    """Its values are finite, but too large for sums of them."""
    one = sided(POST, 13)
    engine = make_cpu(one.plan, arithmetic, 2, cache_bytes)
    values = np.random.default_rng(0).normal(0, 1, (5, 13, 13, 3)).astype(np.float32)
    options = replace(of_images(one.options, range(5)), exit_confidence=np.zeros((5, 3), np.float32))
    expected = engine.run(values, options)
    assert expected.exit_index.tolist() == [0] * 5
    values[2] = 3e38
    values[2, ::2] = -3e38
    out = engine.run(values, options)
    assert out.exit_index.tolist() == [0, 0, 3, 0, 0]
    assert np.isnan(out.logits[2]).any()
    others = [0, 1, 3, 4]
    assert np.array_equal(out.logits[others], expected.logits[others])


@pytest.mark.parametrize("cache_bytes", [0, 12_000, HUGE])
def test_steps_that_no_image_reaches_take_no_time(cache_bytes, sided, make_cpu):
    one = sided(POST)
    engine = make_cpu(one.plan, (SINGLE[0], "fp32"), 2, cache_bytes)
    for end, spec in enumerate(SIDENETS):
        seconds = engine.profile(one.pixels, leaving_by(one.options, end, one.plan.exits), 3)
        number = next(n for n, step in enumerate(one.plan.steps) if getattr(step, "exit", None) == end)
        assert (seconds[: number + 1] > 0).all(), spec
        assert not seconds[number + 1 :].any(), spec
